//! What `pg2ch prune` refuses or warns of, and that `pg2ch check` says the same of `keep`.

use super::prune::{AGE, confirmed, ids, kept, prune, refused, world};
use crate::common::World;
use crate::common::findings::{assert_cured, assert_found, assert_gone, check, finding};
use crate::common::http_proxy::HttpProxy;

const KEEP: &str = "keep = { age = \"7d\", by = \"event_time\", held_for = \"0s\" }";

#[test]
fn what_prune_refuses_it_refuses_in_a_dry_run_too() {
    let mut world = world("prune_refused");
    let name = world.name.clone();
    world
        .pg
        .batch_execute(&format!("CREATE TABLE {name}_child (of bigint REFERENCES {name} ON DELETE CASCADE)"))
        .unwrap();
    refused(&world, &format!("of {name}_child refers to it"));
    world.pg.batch_execute(&format!("DROP TABLE {name}_child")).unwrap();
    for (settings, why) in [
        ("exclude = [\"event_time\"]", "the records have no column event_time"),
        ("ignore = [\"event_time\"]", "does not have event_time as a date or time"),
        ("ignore = [\"payload\"]", "payload of its records cannot be compared"),
    ] {
        world.settings.insert("[table]", settings.into());
        refused(&world, why);
    }
    world.settings.remove("[table]");
    for setting in ["fsync_after_insert", "fsync_part_directory", "min_rows_to_fsync_after_merge"] {
        world.ch(&format!("ALTER TABLE {{t}} MODIFY SETTING {setting} = 0"));
        let ended = world.run(AGE).expect(78);
        let hint = ended.stderr.lines().find_map(|line| line.strip_prefix("hint: ")).unwrap().to_owned();
        world.ch(&hint);
        prune(&world, &[], 0);
    }
    let by_number = world.run(&["prune", "--older-than", "7d", "--by", "user_id"]).expect(78);
    assert!(by_number.stderr.contains("user_id is of type bigint"), "{}", by_number.stderr);
    world.run(&["prune", "--older-than", "7d"]).expect(64);
    world.run(&["prune", "--by", "event_time", "--older-than", "soon"]).expect(64);
    assert_eq!(ids(&mut world), "1 2 3 4 5 6 7 8");
}

#[test]
fn a_column_that_the_target_has_as_text_is_replaced_as_the_hint_says() {
    let mut world = world("prune_text");
    world.ch("SYSTEM START MERGES {t}");
    world.ch("ALTER TABLE {t} MODIFY COLUMN event_time String");
    let hint_of = |world: &World, why: &str| {
        let refusal = world.run(AGE).expect(78).stderr;
        assert!(refusal.contains(why), "{refusal}");
        refusal.lines().find_map(|line| line.strip_prefix("hint: ")).unwrap().to_owned()
    };
    let hint = hint_of(&world, "does not have event_time as a date or time");
    let found = refused_in_check(&mut world, "");
    assert!(found.contains("does not have event_time"), "{found}");
    let statements = hint.split("replace this one: ").nth(1).unwrap();
    statements.split("; ").take(2).for_each(|statement| drop(world.ch(statement)));
    world.run(&["verify", "--deep", "--repair", "--confirm"]);
    world.once().expect(0);
    world.run(&["verify", "--deep"]).expect(0);
    prune(&world, &[], 0);

    world.ch("ALTER TABLE {t} MODIFY COLUMN event_time TTL _timestamp + INTERVAL 90 DAY");
    let hint = hint_of(&world, "does not have event_time as a date or time");
    world.ch(hint.split(", or: ").nth(1).unwrap());
    prune(&world, &[], 0);
    world.ch("ALTER TABLE {t} DROP COLUMN event_time");
    assert!(hint_of(&world, "does not have event_time").starts_with("run `pg2ch init`, which adds"));
}

/// The finding on `keep` has the words of prune's refusal.
fn refused_in_check(world: &mut World, settings: &str) -> String {
    world.settings.insert("[table]", settings.into());
    let refusal = world.run(AGE).expect(78).stderr;
    world.settings.insert("[table]", format!("{settings}\n{KEEP}"));
    let found = assert_found(world, "keep-refused", 78);
    let (what, fix) = (found["what"].as_str().unwrap(), found["fix"].as_str().unwrap());
    assert!(refusal.contains(what.strip_prefix("`keep`: ").unwrap()) && refusal.contains(fix), "{found}: {refusal}");
    world.settings.remove("[table]");
    what.to_owned()
}

#[test]
fn check_tells_what_keep_would_be_refused_for() {
    let mut world = world("prune_check");
    let name = world.name.clone();
    world.settings.insert("[table]", KEEP.into());
    // A table that is fit: only an index is missing, and its statement makes it.
    assert_cured(&mut world, "keep-index", 0);
    assert_gone(&world, "keep-refused");
    world
        .pg
        .batch_execute(&format!("CREATE TABLE {name}_child (of bigint REFERENCES {name} ON DELETE CASCADE)"))
        .unwrap();
    assert!(refused_in_check(&mut world, "").contains(&format!("{name}_child refers to it")));
    world.pg.batch_execute(&format!("DROP TABLE {name}_child")).unwrap();
    world.pg.batch_execute(&format!("CREATE RULE no_deletes AS ON DELETE TO {name} DO INSTEAD NOTHING")).unwrap();
    assert!(refused_in_check(&mut world, "").contains("no_deletes"));
    world.pg.batch_execute(&format!("DROP RULE no_deletes ON {name}")).unwrap();
    assert!(refused_in_check(&mut world, "ignore = [\"payload\"]").contains("payload"));
    world.ch("ALTER TABLE {t} MODIFY SETTING fsync_after_insert = 0");
    assert!(refused_in_check(&mut world, "").contains("power cut"));
    world.settings.insert("[table]", KEEP.into());
    let found = assert_found(&world, "keep-refused", 78);
    assert_eq!(found["server"], "ClickHouse");
    world.ch(found["fix"].as_str().unwrap());
    assert_gone(&world, "keep-refused");
    // Rows pruned by another column before
    confirmed(&world);
    world.sql("UPDATE pg2ch_checkpoint SET pruned_by = 'made' WHERE source = 'public.{t}'");
    assert!(refused_in_check(&mut world, "").contains("pruned by made before"));
}

#[test]
fn check_names_the_privilege_that_keep_needs() {
    let mut world = world("prune_grant");
    let role = world.become_role(
        "GRANT USAGE ON SCHEMA public TO {role}; GRANT SELECT, UPDATE ON {t} TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON pg2ch_checkpoint, pg2ch_held, pg2ch_runs TO {role}",
    );
    let ended = world.run(AGE).expect(77);
    world.settings.insert("[table]", KEEP.into());
    let found = assert_found(&world, "grant-missing", 78);
    assert!(ended.stderr.contains(found["fix"].as_str().unwrap()), "{}", ended.stderr);
    assert!(found["what"].as_str().unwrap().contains("lacks DELETE"), "{found}");
    world.superuser().batch_execute(found["fix"].as_str().unwrap()).unwrap();
    assert_gone(&world, "grant-missing");
    confirmed(&world);
    world.drop_role(&role);
}

#[test]
fn a_publication_that_carries_deletes_is_a_warning() {
    let mut world = world("prune_published");
    let name = world.name.clone();
    world.settings.insert("[table]", KEEP.into());
    let publish = |world: &World, what: &str| {
        world
            .superuser()
            .batch_execute(&format!("CREATE PUBLICATION {name} FOR TABLE {name} WITH (publish = '{what}')"))
    };
    let warns = |world: &World| {
        let told = world.run(AGE).expect(0).stderr.contains("a publication carries the deletes of public.");
        assert_eq!(finding(&check(world, 0), "keep-published").is_some(), told);
        told
    };
    publish(&world, "insert, update").unwrap();
    assert!(!warns(&world));
    world.superuser().batch_execute(&format!("DROP PUBLICATION {name}")).unwrap();
    publish(&world, "delete").unwrap();
    assert!(warns(&world));
    world.superuser().batch_execute(&format!("DROP PUBLICATION {name}")).unwrap();
    assert_eq!(ids(&mut world), "1 2 3 4 5 6 7 8");
}

#[test]
fn a_publication_or_a_foreign_key_of_a_tables_parent_counts() {
    let mut world = world("prune_parent");
    let name = world.name.clone();
    world
        .pg
        .batch_execute(&format!(
            "CREATE TABLE {name}_parent (LIKE {name} INCLUDING ALL) PARTITION BY RANGE (id);
             ALTER TABLE {name} ALTER id DROP IDENTITY IF EXISTS;
             ALTER TABLE {name}_parent ATTACH PARTITION {name} FOR VALUES FROM (0) TO (1000000)"
        ))
        .unwrap();
    let sql = format!("CREATE PUBLICATION {name} FOR TABLE {name}_parent WITH (publish_via_partition_root)");
    world.superuser().batch_execute(&sql).unwrap();
    let told = world.run(AGE).expect(0).stderr;
    assert!(told.contains("a publication carries the deletes"), "{told}");
    world.superuser().batch_execute(&format!("DROP PUBLICATION {name}")).unwrap();
    world
        .pg
        .batch_execute(&format!("CREATE TABLE {name}_child (of bigint REFERENCES {name}_parent ON DELETE CASCADE)"))
        .unwrap();
    refused(&world, &format!("of {name}_child refers to it"));
}

#[test]
fn rows_that_the_targets_ttl_has_deleted_are_kept_and_the_ttl_is_a_warning() {
    let mut world = world("prune_ttl");
    world.ch("SYSTEM START MERGES {t}");
    world.ch("ALTER TABLE {t} MODIFY TTL toDateTime(event_time) + INTERVAL 1 DAY");
    world.ch("OPTIMIZE TABLE {t} FINAL");
    assert_eq!(world.ch_number("SELECT count() FROM {t}"), 3);
    let ended = world.run(&[AGE, &["--confirm"]].concat()).expect(0);
    assert!(ended.stderr.contains("has a TTL that deletes rows: prune cannot prove"), "{}", ended.stderr);
    assert_eq!((kept(&ended.report(), "absent"), ids(&mut world).as_str()), (5, "1 2 3 4 5 6 7 8"));
}

#[test]
fn a_profile_that_shows_deleted_rows_does_not_prove_them() {
    let mut world = world("prune_profile");
    world.ch("SYSTEM START MERGES {t}");
    world.ch("DELETE FROM {t} WHERE id = 2");
    let proxy = HttpProxy::before(&world.servers.clickhouse_url, &[]);
    proxy.set_profile("apply_deleted_mask=0&final=1&limit=3");
    world.settings.insert("clickhouse", proxy.setting());
    assert_eq!((kept(&confirmed(&world), "absent"), ids(&mut world).as_str()), (1, "2 6 7 8"));
}

#[test]
fn a_target_that_may_not_keep_what_it_shows_is_refused() {
    // Merges that `allow_engine` allows
    let mut world = world("prune_merges");
    let create = format!(
        "SELECT replaceOne(replaceOne(create_table_query, name, concat(name, '_other')), '(_timestamp)', '()')
         FROM system.tables WHERE name = '{}' FORMAT TabSeparatedRaw",
        world.name
    );
    world.ch(&world.ch(&create));
    let name = world.name.clone();
    world
        .settings
        .insert("[table]", format!("target = \"analytics.{name}_other\"\nallow_engine = \"ReplacingMergeTree\""));
    refused(&world, "the one that was inserted last, which `allow_engine` allows");
}

#[test]
fn a_replicated_table_with_one_replica_is_on_one_server_and_behind_a_distributed_one_nobody_looks() {
    let mut world = world("prune_layout");
    world.ch("ALTER TABLE {t} MODIFY SETTING fsync_after_insert = 0");
    let mut seems = |engine: &str, replicas: u32| {
        let proxy = HttpProxy::before(&world.servers.clickhouse_url, &[]);
        world.settings.insert("clickhouse", proxy.setting());
        proxy.retell("\"engine\":\"ReplacingMergeTree\"", &format!("\"engine\":\"{engine}\""));
        let of = |total: u32| format!("{{\"total_replicas\":{total},\"active_replicas\":{total}}}");
        proxy.retell(&of(0), &of(replicas));
        world.run(AGE)
    };
    let alone = seems("ReplicatedReplacingMergeTree", 1).expect(78).stderr;
    assert!(alone.contains("on one server") && alone.contains("fsync_after_insert = 1"), "{alone}");
    // The stand-in garbles the rows that prune then reads.
    let replicated = seems("ReplicatedReplacingMergeTree", 2).stderr;
    assert!(!replicated.contains("on one server"), "{replicated}");
    let distributed = seems("Distributed", 0).expect(78).stderr;
    assert!(distributed.contains("cannot look behind it") && distributed.contains("verify --deep"), "{distributed}");
}
