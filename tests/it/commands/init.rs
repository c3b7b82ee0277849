//! `pg2ch init`: creates what is missing, as often as it is called, or only says what.

use std::process::Stdio;
use std::time::Duration;

use crate::common::servers::Servers;
use crate::common::{Ended, USER_LOGINS, World};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

/// A world whose configuration names a topic and a target that are not there.
fn without_topic_and_target(name: &str) -> (World, String) {
    let mut world = World::new(name);
    let other = format!("{}_other", world.name);
    world.settings.insert("[table]", format!("topic = \"{other}\"\ntarget = \"analytics.{other}\""));
    (world, other)
}

fn exists(world: &World, target: &str) -> bool {
    world.ch_number(&format!("SELECT count() FROM system.tables WHERE database = 'analytics' AND name = '{target}'"))
        == 1
}

#[test]
fn a_second_init_finds_nothing_to_do() {
    let world = World::new("twice");
    let again = world.run(&["init"]).expect(0);
    assert_eq!(again.stdout, "nothing to do: everything that a run needs exists\n");
    assert_eq!(again.stderr, "");
    assert_eq!(world.run(&["init", "--quiet"]).expect(0).stdout, "");
}

#[test]
fn several_inits_at_once_in_a_fresh_database_all_succeed_and_make_each_thing_once() {
    let mut world = World::unmade(Servers::in_new_database("init_at_once"), "at_once", USER_LOGINS, 1);

    // Each command writes the configuration anew: all of them are made before the first one starts.
    let mut inits: Vec<_> = (0..6).map(|_| world.command(&["init"])).collect();
    let inits: Vec<_> =
        inits.iter_mut().map(|init| init.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()).collect();
    for init in inits {
        Ended::after(init).expect(0);
    }

    assert_eq!(
        world.sql_number("SELECT count(*) FROM pg_index WHERE indrelid = '{t}'::regclass AND indpred IS NOT NULL"),
        1
    );
    world.insert_rows(2);
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn print_shows_what_init_would_do_and_does_nothing() {
    let (world, other) = without_topic_and_target("print");

    let shown = world.run(&["init", "--print"]).expect(0).stdout;

    assert!(shown.contains(&format!("`analytics`.`{other}`")) && shown.contains("ReplacingMergeTree"), "{shown}");
    let kafka = ["", ".dead --config retention.ms=-1 --config retention.bytes=-1"].map(|end| {
        format!(
            "kafka-topics.sh --bootstrap-server {} --create --if-not-exists --topic {other}{end}\n",
            world.servers.brokers
        )
    });
    assert!(shown.contains(&kafka.concat()), "{shown}");
    assert!(!exists(&world, &other));
    // A real init still has all of it to do.
    assert_eq!(world.run(&["init"]).expect(0).stdout, shown);
    assert!(exists(&world, &other));
}

#[test]
fn each_piece_of_what_print_shows_runs_where_its_heading_says() {
    let mut world = World::unmade(Servers::in_new_database("init_pieces"), "pieces", USER_LOGINS, 1);
    world.settings.insert("[table]", format!("topic = \"{0}_other\"\ntarget = \"analytics.{0}\"", world.name));
    world.sql("INSERT INTO {t} (user_id, event_type, event_time) VALUES (1, 'login', now())");

    let shown = world.run(&["init", "--print"]).expect(0).stdout;

    // A blank line and a comment begin a piece.
    let mut places = Vec::new();
    for piece in format!("\n{shown}").split("\n-- PostgreSQL").flat_map(|piece| piece.split("\n# Kafka")) {
        for piece in piece.split("\n-- ClickHouse").filter(|piece| !piece.trim().is_empty()) {
            let (heading, lines) = piece.split_once('\n').unwrap();
            places.push(heading.rsplit('(').next().unwrap().trim_end_matches(')').to_owned());
            match places.last().unwrap().as_str() {
                "psql" => {
                    world.type_into(&["psql", "-qX", "-v", "ON_ERROR_STOP=1", &world.servers.postgres_url], lines);
                }
                "shell" => {
                    world.type_into(&["bash", "-e"], lines);
                }
                "clickhouse-client" => {
                    lines
                        .split_inclusive(";\n")
                        .filter(|sql| !sql.trim().is_empty())
                        .for_each(|sql| drop(world.ch(sql)));
                }
                other => panic!("{other}: {shown}"),
            }
        }
    }
    assert_eq!(places, ["psql", "shell", "clickhouse-client"], "{shown}");
    assert!(world.run(&["init"]).expect(0).stdout.starts_with("nothing to do"));
    world.once().expect(0);
    assert_eq!(world.ch_number("SELECT count() FROM {t}"), 1);
}

#[test]
fn a_table_without_a_flag_is_shown_the_statement_that_adds_one_without_a_rewrite() {
    let columns = USER_LOGINS.replace(", sent_to_kafka boolean NOT NULL DEFAULT FALSE", "");
    let mut world = World::unmade(Servers::shared(), "flagless", &columns, 1);
    let insert = "INSERT INTO {t} (user_id, event_type, event_time) VALUES (1, 'login', now())";
    world.sql(insert);
    let file = "SELECT relfilenode::bigint FROM pg_class WHERE oid = '{t}'::regclass";
    let before = world.sql_number(file);
    let refused = world.run(&["init"]).expect(78);
    assert!(refused.stderr.contains("pg2ch init --print"), "{}", refused.stderr);

    let shown = world.run(&["init", "--print"]).expect(0).stdout;
    let statement = shown.lines().find(|line| line.starts_with("ALTER TABLE ")).unwrap();
    world.sql(statement);
    world.sql(insert);
    world.run(&["init"]).expect(0);
    let ended = world.once().expect(0);

    assert_eq!(world.sql_number(file), before, "PostgreSQL has rewritten the table");
    assert_eq!(ended.number("produce", "records_sent"), 1, "the row that was there does not go out again");
    assert_eq!(world.ch("SELECT id FROM {t}"), "2");
}

#[test]
fn what_init_makes_is_what_a_run_needs() {
    let (mut world, other) = without_topic_and_target("made");
    world.insert_rows(3);
    world.once().expect(78);
    world.run(&["init"]).expect(0);

    world.once().expect(0);

    assert_eq!(world.topic_named(&other).len(), 3);
    assert_eq!(world.ch_number(&format!("SELECT count() FROM analytics.{other}")), 3);
    assert_eq!(world.unsent(), 0);
}

#[test]
fn a_missing_target_is_not_said_to_be_in_a_file_that_creates_another_table() {
    let mut world = World::new("lacking");
    world.settings.insert("[table]", format!("target = \"analytics.{}_other\"", world.name));
    let refused = world.run(&["consume"]).expect(78).stderr;
    assert!(refused.contains("hint: run `pg2ch init`, which creates it"), "{refused}");
    assert!(!refused.contains(".sql"), "{refused}");
}

#[test]
fn the_index_of_unsent_rows_is_made_and_used() {
    let mut world = World::new("index");
    world.insert_rows(2_000);
    world.sql("UPDATE {t} SET sent_to_kafka = TRUE WHERE id <> 1000");
    world.pg.batch_execute(&format!("ANALYZE {}", world.name)).unwrap();
    let plan = format!("EXPLAIN SELECT id FROM {} WHERE NOT sent_to_kafka ORDER BY id LIMIT 10", world.name);
    let plan: Vec<String> = world.pg.query(&plan, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert!(plan.iter().any(|line| line.contains("Index")), "{plan:?}");
}

#[test]
fn an_index_takes_longer_than_a_statement_may_and_what_an_interrupted_build_left_is_dropped() {
    let mut world = World::new("slow_index");
    world.insert_rows(2);
    world.sql("DROP INDEX {t}_id_idx");
    // A build that fails leaves its index. That of somebody else is let alone.
    for (name, unique, columns) in [("left_over", "", "id"), ("of_others", "UNIQUE", "user_id")] {
        let building =
            format!("CREATE {unique} INDEX CONCURRENTLY {name} ON {} ({columns}) WHERE NOT sent_to_kafka", world.name);
        let mut writer = world.another_session();
        writer.batch_execute(&format!("BEGIN; UPDATE {} SET user_id = 5", world.name)).unwrap();
        world.pg.batch_execute("SET statement_timeout = '300ms'").unwrap();
        world.pg.batch_execute(&building).unwrap_err();
        world.pg.batch_execute("RESET statement_timeout").unwrap();
        writer.batch_execute("ROLLBACK").unwrap();
    }
    world.settings.insert("timeouts", "postgres = \"1s\"".into());
    let printed = world.run(&["init", "--print"]).expect(0).stdout;
    assert!(printed.contains("DROP INDEX CONCURRENTLY public.left_over;"), "{printed}");
    assert!(!printed.contains("of_others"), "{printed}");
    let mut other = world.another_session();
    let mut writer = other.transaction().unwrap();
    writer.batch_execute(&format!("UPDATE {} SET user_id = 7 WHERE id = 1", world.name)).unwrap();
    let init = world.start(&["init"]);
    std::thread::sleep(Duration::from_secs(3));
    writer.commit().unwrap();
    Ended::after(init).expect(0);
    let indexes =
        "SELECT count(*) FROM pg_index WHERE indrelid = '{t}'::regclass AND indpred IS NOT NULL AND NOT indisunique";
    assert_eq!(world.sql_number(&format!("{indexes} AND indisvalid")), 1);
    assert_eq!(world.sql_number(indexes), 1);
}

#[test]
fn start_at_end_counts_what_is_there_as_done() {
    // Given a topic that another pipeline has filled and copied from
    let mut world = World::new("takeover");
    let producer: BaseProducer = world.client().create().unwrap();
    for key in ["1", "2", "3"] {
        producer.send(BaseRecord::to(&world.name).key(key).payload("not even JSON")).unwrap();
    }
    producer.flush(Duration::from_secs(10)).unwrap();
    world.insert_rows(3);
    world.sql("UPDATE {t} SET sent_to_kafka = TRUE");

    // When pg2ch takes over
    world.run(&["init", "--start-at-end"]).expect(0);

    // Then it moves only what comes now
    world.insert_rows(2);
    let ended = world.once().expect(0);
    assert_eq!(ended.number("produce", "rows_flagged"), 2);
    assert_eq!(ended.number("consume", "rows_inserted"), 2);
    assert_eq!(ended.number("consume", "dead_letters"), 0);
    assert_eq!(world.ch("SELECT id FROM {t} ORDER BY id"), "4\n5");

    // The group's offsets have expired: docs/runbook.md says to count what is there as done once more.
    world.delete_group();
    world.run(&["init", "--start-at-end"]).expect(0);
    world.insert_rows(1);
    let ended = world.once().expect(0);
    assert_eq!((ended.number("consume", "rows_inserted"), ended.number("consume", "dead_letters")), (1, 0));
    assert_eq!(world.ch_number("SELECT count() FROM {t}"), 3);
}

#[test]
fn start_at_end_counts_a_mirrored_topic_as_copied() {
    let mut world = World::with("takeover_mirrored", USER_LOGINS, 1);
    for _ in 0..2 {
        world.insert_rows(3);
        world.once().expect(0);
    }
    // The mirror has no markers of transactions: the same records lie at lower offsets.
    let (topic, records) = (world.name.clone(), world.topic());
    world.delete_topic(&topic);
    world.create_topic(&topic, 1, &[]);
    let mirror: BaseProducer = world.client().create().unwrap();
    for record in &records {
        let mirrored = BaseRecord::to(&topic).key(&record.key).payload(&record.value).timestamp(record.timestamp_ms);
        mirror.send(mirrored).unwrap();
    }
    mirror.flush(Duration::from_secs(10)).unwrap();

    // As docs/runbook.md says.
    world.run(&["init", "--start-at-end"]).expect(0);

    assert_eq!(world.once().expect(0).number("consume", "records_copied"), 0);
    world.insert_rows(2);
    world.once().expect(0);
    assert_eq!(world.ch_number("SELECT count() FROM {t}"), 8);
    world.run(&["verify"]).expect(0);
}

#[test]
fn a_restored_target_gets_what_it_lacks_and_nothing_twice_after_start_at_beginning() {
    for is_dropped in [true, false] {
        let mut world = World::new("restored");
        world.insert_rows(30);
        world.once().expect(0);
        let backup = "CREATE TABLE {t}_backup ENGINE = MergeTree ORDER BY tuple() AS SELECT * FROM {t} WHERE id <= 12";
        world.ch(backup);
        let definition = world.ch("SHOW CREATE TABLE {t} FORMAT TabSeparatedRaw");

        // docs/deletes.md: restore the target, then these two.
        if is_dropped {
            world.ch("DROP TABLE {t}");
            world.ch(&definition);
        } else {
            world.ch("TRUNCATE TABLE {t}");
        }
        world.stop_merges();
        world.ch("INSERT INTO {t} SELECT * FROM {t}_backup");
        world.run(&["init", "--start-at-beginning"]).expect(0);
        world.insert_rows(1);
        let ended = world.once().expect(0);

        assert_eq!(ended.number("consume", "rows_inserted"), 30 - 12 + 1, "dropped: {is_dropped}");
        assert_eq!(world.ch("SELECT count(), uniqExact(id) FROM {t}"), "31\t31", "dropped: {is_dropped}");
        world.run(&["verify"]).expect(0);
        world.assert_exactly_once();
        world.ch("DROP TABLE {t}_backup");
    }
}
