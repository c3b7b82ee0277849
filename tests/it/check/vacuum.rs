//! What `pg2ch check` finds around dead entries of the index of unsent rows: autovacuum that comes too late, and whoever keeps it
//! from removing them.

use std::time::{Duration, Instant};

use postgres::Client;

use crate::common::failover::Pair;
use crate::common::findings::{assert_cured, assert_found, assert_gone, carry_out, check, finding};
use crate::common::{USER_LOGINS, World};

/// As ANALYZE would write it down for a table of that size.
fn has_rows(world: &World, table: &str, rows: u64) {
    let sql = format!("UPDATE pg_class SET reltuples = {rows} WHERE relname = '{table}'");
    world.superuser().batch_execute(&sql).unwrap();
}

#[test]
fn autovacuum_that_comes_late_or_passes_over_indexes_is_tuned_by_the_statement_told() {
    let mut world = World::new("check_vacuum");
    let name = world.name.clone();
    assert!(finding(&check(&world, 0), "autovacuum-scale").is_none(), "a new table is left in peace");
    has_rows(&world, &name, 4_000_000);
    assert!(finding(&check(&world, 0), "autovacuum-scale").is_none(), "a fifth of it is not much");
    has_rows(&world, &name, 10_000_000);
    let found = assert_found(&world, "autovacuum-scale", 0);
    assert!(found["what"].as_str().unwrap().contains(" 2000050 dead tuples"), "{found}");
    assert_cured(&mut world, "autovacuum-scale", 0);
    // VACUUM passes over indexes until a fiftieth of the pages has dead tuples.
    world.sql("ALTER TABLE {t} RESET (vacuum_index_cleanup)");
    assert_gone(&world, "autovacuum-scale");
    has_rows(&world, &name, 100_000_000);
    let found = assert_found(&world, "autovacuum-scale", 0);
    assert!(found["what"].as_str().unwrap().contains(" 2000000 dead tuples"), "{found}");
    assert_cured(&mut world, "autovacuum-scale", 0);
}

#[test]
fn autovacuum_is_tuned_for_each_partition_that_needs_it() {
    let mut world = World::new("check_vacuum_parts");
    let name = world.name.clone();
    let columns = USER_LOGINS.replace("PRIMARY KEY", "");
    world
        .pg
        .batch_execute(&format!(
            "DROP TABLE {name}; CREATE TABLE {name} ({columns}, PRIMARY KEY (id)) PARTITION BY RANGE (id);
             CREATE TABLE {name}_a PARTITION OF {name} FOR VALUES FROM (0) TO (10);
             CREATE TABLE {name}_b PARTITION OF {name} FOR VALUES FROM (10) TO (20);
             CREATE TABLE {name}_c PARTITION OF {name} FOR VALUES FROM (20) TO (30)"
        ))
        .unwrap();
    has_rows(&world, &format!("{name}_a"), 20_000_000);
    has_rows(&world, &format!("{name}_c"), 10_000_000);
    let found = assert_found(&world, "autovacuum-scale", 0);
    assert!(found["what"].as_str().unwrap().contains(&format!("public.{name}_a (and 1 more ")), "{found}");
    let fix = found["fix"].as_str().unwrap();
    assert!(!fix.contains(&format!("{name}_b")) && fix.contains(&format!("{name}_c")), "{fix}");
    assert_cured(&mut world, "autovacuum-scale", 0);
}

fn holding(mut session: Client, name: &str) -> Client {
    session.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
    session.query(&format!("SELECT FROM {name}"), &[]).unwrap();
    session
}

/// The finding whose holder is this one.
#[track_caller]
fn held_by(world: &World, holder: &str) -> serde_json::Value {
    let report = check(world, 0);
    let is_it = |finding: &&serde_json::Value| {
        finding["id"] == "old-snapshot" && finding["what"].as_str().unwrap().starts_with(holder)
    };
    report["findings"].as_array().unwrap().iter().find(is_it).cloned().unwrap_or_else(|| panic!("{report:#}"))
}

#[test]
fn whoever_holds_an_old_snapshot_while_dead_rows_pile_up_is_named() {
    let pair = Pair::start("check_snapshots");
    let mut world = World::on(pair.servers.clone(), "check_snapshots", USER_LOGINS, 1);
    let mut superuser = world.superuser();
    for setting in ["max_prepared_transactions = 2", "autovacuum = off", "autovacuum_vacuum_scale_factor = 0.01"] {
        superuser.batch_execute(&format!("ALTER SYSTEM SET {setting}")).unwrap();
    }
    // A standby must allow as many before its primary does.
    let mut standby = pair.superuser_of_standby();
    for setting in ["max_prepared_transactions = 2", "hot_standby_feedback = on", "primary_slot_name = 'pair'"] {
        standby.batch_execute(&format!("ALTER SYSTEM SET {setting}")).unwrap();
    }
    standby.batch_execute("ALTER SYSTEM SET wal_receiver_status_interval = '1s'").unwrap();
    superuser.query("SELECT pg_create_physical_replication_slot('pair')", &[]).unwrap();
    for server in ["standby", "postgres"] {
        pair.act("stop", server);
    }
    for server in ["postgres", "standby"] {
        pair.act("start", server);
    }
    world.pg = world.another_session();
    let mut superuser = world.superuser();
    // The server's own setting may be fit, too.
    has_rows(&world, &world.name, 10_000_000);
    assert!(finding(&check(&world, 0), "autovacuum-scale").is_none());

    let name = world.name.clone();
    pair.catch_up();
    let mut on_standby = holding(pair.superuser_of_standby(), &name);
    let slot_holds = "SELECT count(*) FROM pg_replication_slots WHERE xmin IS NOT NULL";
    world.wait_until(|world| world.sql_number(slot_holds) == 1, "the standby's feedback");
    let _report = holding(world.superuser(), &name);
    let begun = Instant::now();
    world.pg.batch_execute("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'left'").unwrap();
    superuser
        .batch_execute("DO 'BEGIN FOR i IN 1..110 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END'")
        .unwrap();
    assert!(finding(&check(&world, 0), "old-snapshot").is_none(), "there are no dead rows to keep");
    // What is rolled back is dead.
    let many =
        "INSERT INTO {t} (user_id, event_type, event_time) SELECT n, '', now() FROM generate_series(1, 1000000) n";
    world.pg.batch_execute(&format!("BEGIN; {}; ROLLBACK", many.replace("{t}", &name))).unwrap();

    // The role does not see since when, until it may.
    let hidden = held_by(&world, "session ");
    assert!(hidden["what"].as_str().unwrap().contains(" has held a snapshot for 11"), "{hidden}");
    carry_out(&world, &hidden);
    std::thread::sleep(Duration::from_secs(61).saturating_sub(begun.elapsed()));
    let seen = held_by(&world, "session ");
    assert!(seen["what"].as_str().unwrap().contains(" since 20"), "{seen}");
    let prepared = held_by(&world, "prepared transaction left ");
    for found in [seen, prepared] {
        carry_out(&world, &found);
    }
    let active = held_by(&world, "replication slot pair ");
    assert!(active["fix"].as_str().unwrap().contains("hot_standby_feedback = off"), "{active}");
    pair.act("stop", "standby");
    drop(on_standby.batch_execute("COMMIT"));
    carry_out(&world, &held_by(&world, "replication slot pair "));
    assert_gone(&world, "old-snapshot");
}
