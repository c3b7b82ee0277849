//! Rows that applications change, delete or move between their reading and their flagging.

use std::time::{Duration, Instant};

use super::{copies, last_of, recovered_and_sent};
use crate::common::World;
use crate::common::servers::Servers;

#[test]
fn a_row_changed_after_it_was_sent_goes_out_again_once() {
    let mut world = World::new("a_to_b");
    world.insert_rows(5);
    world.kill_at("kafka.commit.after", &["produce"]);
    world.sql("UPDATE {t} SET event_type = 'b' WHERE id = 3");
    assert_eq!(recovered_and_sent(&world), (4, 1));
    assert_eq!(copies(&world, "3"), 2);
    world.assert_sent_exactly_once();
}

#[test]
fn a_row_changed_there_and_back_before_the_next_run_is_not_sent_again() {
    let mut world = World::new("a_b_a_unseen");
    world.insert_rows(5);
    world.kill_at("kafka.commit.after", &["produce"]);
    world.sql("UPDATE {t} SET event_type = 'b' WHERE id = 3");
    world.sql("UPDATE {t} SET event_type = 'login' WHERE id = 3");
    let ended = world.run(&["produce", "--json"]).expect(0);
    assert_eq!(ended.number("produce", "rows_recovered"), 5);
    world.assert_sent_exactly_once();
}

#[test]
fn a_row_sent_as_a_then_as_b_then_as_a_ends_as_a() {
    let mut world = World::new("a_b_a_sent");
    world.insert_rows(5);
    world.kill_at("kafka.commit.after", &["produce"]);
    world.sql("UPDATE {t} SET event_type = 'b' WHERE id = 3");
    world.kill_at("kafka.commit.after", &["produce"]);
    world.sql("UPDATE {t} SET event_type = 'login' WHERE id = 3");
    // All three records lie in the window of nobody's checkpoint: an earlier A must not pass for the last one.
    world.sql("DELETE FROM pg2ch_checkpoint WHERE source = 'public.{t}'");
    world.run(&["produce"]).expect(0);
    assert_eq!(copies(&world, "3"), 3);
    assert!(last_of(&world, "3").contains("login"), "{}", last_of(&world, "3"));
    assert_eq!((world.unsent(), world.records()), (0, 7));
    world.run(&["produce"]).expect(0);
    assert_eq!(world.records(), 7);
}

#[test]
fn a_row_changed_between_reading_and_flagging_keeps_its_flag_and_its_neighbours_lose_theirs() {
    let mut world = World::new("changed_meanwhile");
    world.insert_rows(10);
    let mut run = world.start_stopped_at("kafka.commit.after");
    world.sql("UPDATE {t} SET event_type = 'b' WHERE id = 3");
    world.sql("UPDATE {t} SET event_type = 'there' WHERE id = 4");
    world.sql("UPDATE {t} SET event_type = 'login' WHERE id = 4");
    world.sql("DELETE FROM {t} WHERE id = 5");
    run.go_on();
    let ended = run.end().expect(0);
    assert_eq!(ended.number("produce", "rows_flagged"), 8);
    assert_eq!(world.unsent(), 1);
    world.run(&["produce"]).expect(0);
    assert_eq!(world.records(), 11);
    world.assert_sent_exactly_once();
}

#[test]
fn a_table_rewritten_between_reading_and_flagging_flags_each_row_and_no_stranger() {
    for rewrite in ["VACUUM FULL {t}", "CLUSTER {t} USING {t}_by_user"] {
        let mut world = World::new("rewritten");
        world.sql("CREATE INDEX {t}_by_user ON {t} (user_id)");
        // Loaded in one transaction: all rows have one xmin. The dead ones in front make the rewrite move the others, so that
        // rows which are not even read yet come to lie where those of the first batch were.
        world.sql(
            "INSERT INTO {t} (user_id, event_type, event_time) SELECT n, 'login', now() FROM generate_series(1, 160) n",
        );
        world.sql("DELETE FROM {t} WHERE id <= 60");
        world.batch_rows(20);
        let mut run = world.start_stopped_at("kafka.commit.after");
        world.sql(rewrite);
        world.sql("INSERT INTO {t} (user_id, event_type, event_time) VALUES (1000, 'late', now())");
        run.go_on();
        let ended = run.end().expect(0);
        assert_eq!(ended.number("produce", "rows_flagged"), 100, "{rewrite}");
        assert_eq!(ended.number("produce", "rows_changed"), 0, "{rewrite}");
        assert_eq!(world.unsent(), 1, "{rewrite}: the late row");
        world.run(&["produce"]).expect(0);
        world.assert_sent_exactly_once();
    }
}

#[test]
fn a_new_version_in_the_old_ones_place_is_told_apart() {
    let mut world = World::new("same_place");
    // An index on what changes: without it the old place would stay a signpost to the new one.
    world.sql("CREATE INDEX ON {t} (user_id)");
    world.insert_rows(3);
    let place = "SELECT (ctid::text::point)[1]::bigint FROM {t} WHERE id = 2";
    let before = world.sql_number(place);
    let mut run = world.start_stopped_at("kafka.commit.after");
    let mut version = 0;
    // The dead version's place is free when no transaction is left that might see it.
    let until = Instant::now() + Duration::from_secs(20);
    while version == 0 || world.sql_number(place) != before {
        assert!(Instant::now() < until, "the row did not come back to its place");
        version += 1;
        world.sql(&format!("UPDATE {{t}} SET user_id = 500 + {version} WHERE id = 2"));
        world.sql("VACUUM {t}");
    }
    run.go_on();
    run.end().expect(0);
    assert_eq!(world.unsent(), 1);
    world.run(&["produce"]).expect(0);
    assert_eq!(world.records(), 4);
    world.assert_sent_exactly_once();
}

#[test]
fn partitions_whose_rows_have_the_same_place_are_told_apart() {
    let columns = "id bigint NOT NULL, part int NOT NULL, event_type text, event_time timestamptz DEFAULT now(), \
                   sent_to_kafka boolean NOT NULL DEFAULT FALSE, PRIMARY KEY (id, part)) PARTITION BY LIST (part";
    let mut world = World::unmade(Servers::shared(), "partitioned", columns, 2);
    for part in [1, 2] {
        world.sql(&format!("CREATE TABLE {{t}}_{part} PARTITION OF {{t}} FOR VALUES IN ({part})"));
    }
    world.settings.insert("[table]", "key = [\"id\", \"part\"]".into());
    world.run(&["init"]).expect(0);
    // One transaction, so the same xmin; the same places in both partitions.
    world.sql("INSERT INTO {t} (id, part, event_type) SELECT n, p, 'x' FROM generate_series(1, 30) n, generate_series(1, 2) p");
    let mut run = world.start_stopped_at("kafka.commit.after");
    world.sql("UPDATE {t} SET event_type = 'b' WHERE id <= 10 AND part = 1");
    run.go_on();
    let ended = run.end().expect(0);
    assert_eq!(ended.number("produce", "rows_flagged"), 50);
    assert_eq!(world.sql_number("SELECT count(*) FROM {t} WHERE NOT sent_to_kafka AND part = 1"), 10);
    assert_eq!(world.unsent(), 10);
    world.kill_at("kafka.commit.after", &["produce"]);
    assert_eq!(world.run(&["produce", "--json"]).expect(0).number("produce", "rows_recovered"), 10);
    assert_eq!((world.unsent(), world.records()), (0, 70));
}
