//! The topic: who else writes to it, what retention deletes, what it refuses.

use super::{last_of, recovered_and_sent};
use crate::common::findings::{assert_cured, assert_found};
use crate::common::foreign::Foreign;
use crate::common::proxy::{Fault, Proxy, has};
use crate::common::{Ended, KILLED, USER_LOGINS, World};

#[test]
fn foreign_records_of_every_kind_cause_no_copies() {
    let mut world = World::new("foreign");
    let foreign = Foreign::new(&world);
    for round in 0..3 {
        world.insert_rows(20);
        foreign.send(&[
            (Some(b"garbage"), Some(b"no json")),
            (Some(b"\xff\xfe\x00"), Some(b"\xff\x00\xff")),
            (Some(b"99999999999999999999999"), Some(b"{}")),
            (Some(b""), Some(b"")),
            (None, Some(b"{\"id\": 1}")),
            (Some(b"777777"), None),
            (Some(b"888888"), Some(b"{\"id\": 888888}")),
        ]);
        world.kill_at("kafka.commit.after", &["produce"]);
        foreign.send(&[(Some(b"more garbage"), Some(b"\0")), (Some(b"[1"), Some(b"[")), (None, None)]);
        let ended = world.run(&["produce", "--json"]).expect(0);
        assert_eq!(ended.number("produce", "rows_recovered"), 20, "round {round}");
        assert_eq!(ended.number("produce", "records_sent"), 0, "round {round}");
        assert_eq!(world.unsent(), 0);
    }
    assert_eq!(world.records(), 60 + 30);
}

#[test]
fn a_row_that_another_producer_wrote_over_in_the_topic_is_sent_again_so_that_it_stands_last() {
    let mut world = World::new("overwritten");
    world.insert_rows(5);
    world.kill_at("kafka.commit.after", &["produce"]);
    let foreign = Foreign::new(&world);
    // A value with a zero byte cannot even be compared in PostgreSQL: it counts all the same.
    foreign.send(&[(Some(b"2"), None), (Some(b"3"), Some(b"{\"id\": 3}")), (Some(b"4"), Some(b"\0"))]);
    assert_eq!(recovered_and_sent(&world), (2, 3));
    for key in ["2", "3", "4"] {
        assert!(last_of(&world, key).contains("login"), "row {key} stands last");
    }
    world.run(&["produce"]).expect(0);
    assert_eq!(world.records(), 5 + 3 + 3);
}

#[test]
fn a_foreign_transaction_left_open_ends_the_run_with_69_and_doubles_nothing() {
    let mut world = World::with("left_open", USER_LOGINS, 1);
    world.settings.insert("timeouts", "stable = \"500ms\"".into());
    world.settings.insert("retry", "attempts = 1".into());
    world.insert_rows(5);
    let open = Foreign::with_open_transaction(&world);
    let ended = world.run(&["produce"]).expect(69);
    assert!(ended.stderr.contains("transaction of another producer"), "{}", ended.stderr);
    // It may also be begun while our records are under way: they are committed, and hidden.
    open.abort();
    let mut run = world.start_stopped_at("kafka.begin.after");
    let open = Foreign::with_open_transaction(&world);
    run.go_on();
    let first = run.end();
    assert!([0, 69].contains(&first.code), "{first:?}");
    world.insert_rows(1);
    world.run(&["produce"]).expect(69);
    open.abort();
    world.run(&["produce"]).expect(0);
    assert_eq!(world.records(), 6);
    world.assert_sent_exactly_once();
}

#[test]
fn a_topic_deleted_and_made_again_is_reported_and_started_over() {
    let mut world = World::new("remade");
    world.insert_rows(30);
    world.run(&["produce"]).expect(0);
    let topic = world.name.clone();
    // Fewer partitions, and nothing to send: only the checkpoint shows what went down.
    world.delete_topic(&topic);
    world.create_topic(&topic, 1, &[]);
    let ended = world.run(&["--once", "--json"]).expect(65);
    assert_eq!(ended.report()["produce"]["topic_recreated"], true);
    world.run(&["--once"]).expect(0);
    world.insert_rows(30);
    world.run(&["produce"]).expect(0);
    world.delete_topic(&topic);
    world.create_topic(&topic, 3, &[]);
    world.insert_rows(3);
    let ended = world.run(&["produce", "--json"]).expect(65);
    assert_eq!(ended.report()["produce"]["topic_recreated"], true);
    assert_eq!((world.unsent(), world.records()), (0, 3));
    world.insert_rows(2);
    world.run(&["produce"]).expect(0);
    assert_eq!((world.unsent(), world.records()), (0, 5));
}

#[test]
fn a_topic_deleted_and_made_again_under_a_run_is_reported_with_what_went_down_with_it() {
    let mut world = World::with("remade_meanwhile", USER_LOGINS, 1);
    world.batch_rows(10);
    world.insert_rows(5);
    world.once().expect(0);
    // From here on records have a text. Those of the new topic at the old offsets do, too.
    world.sql("ALTER TABLE {t} ALTER payload TYPE text");
    world.insert_rows(100);
    let mut run = world.start_command_stopped_at(&["--once", "--json"], "flag.commit.after:3");
    let topic = world.name.clone();
    world.delete_topic(&topic);
    world.create_topic(&topic, 1, &[]);
    run.go_on();

    let ended = run.end();

    // Which code ends a run whose producer the new topic does not know depends on the broker; never 0.
    assert!([65, 69].contains(&ended.code), "{ended:?}");
    if ended.code == 65 {
        let produce = ended.report()["produce"].clone();
        assert_eq!(produce["topic_recreated"], true, "{produce}");
        assert!(produce["sent_lost"][0]["to"].as_i64().unwrap() > 30, "{produce}");
        assert!(ended.stderr.contains("verify --repair --confirm"), "{}", ended.stderr);
    }
    world.run(&["--once"]);
    world.run(&["verify", "--repair", "--confirm"]).expect(65);
    world.run(&["--once"]).expect(0);
    assert!(world.run(&["verify", "--deep"]).expect(0).stdout.contains("equal"));
}

#[test]
fn a_window_that_retention_has_eaten_into_is_reported() {
    let mut world = World::with("eaten", USER_LOGINS, 1);
    world.insert_rows(10);
    world.kill_at("kafka.commit.after", &["produce"]);
    world.delete_records(0, 4);
    let ended = world.run(&["produce", "--json"]).expect(65);
    assert_eq!(ended.report()["produce"]["window_lost"], serde_json::json!([{"partition": 0, "from": 0, "to": 4}]));
    assert_eq!((ended.number("produce", "rows_recovered"), ended.number("produce", "records_sent")), (6, 4));
    world.insert_rows(1);
    world.run(&["produce"]).expect(0);
    world.assert_sent_exactly_once();
}

#[test]
fn a_record_too_large_for_the_topic_is_named_and_its_neighbours_go() {
    let mut world = World::new("too_large");
    let topic = world.name.clone();
    world.delete_topic(&topic);
    world.create_topic(&topic, 2, &[("max.message.bytes", "1500")]);
    world.insert_rows(40);
    world.sql("UPDATE {t} SET payload = to_jsonb((SELECT string_agg(md5(n::text), '') FROM generate_series(1, 60) n)) WHERE id IN (7, 23)");
    for _ in 0..2 {
        let ended = world.run(&["produce", "--json"]).expect(65);
        let large = ended.report()["produce"]["too_large"].clone();
        let keys: Vec<_> =
            large.as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap().to_owned()).collect();
        assert_eq!(keys, ["7", "23"]);
        assert_eq!((world.unsent(), world.records()), (2, 38));
    }
    world.sql("UPDATE {t} SET payload = NULL WHERE NOT sent_to_kafka");
    world.run(&["produce"]).expect(0);
    world.assert_sent_exactly_once();
}

#[test]
fn a_record_larger_than_brokers_take_stays_unsent_whatever_the_topic_takes() {
    let mut world = World::with("larger", &format!("{USER_LOGINS}, more text"), 1);
    world.alter_topic("max.message.bytes", "250000000");
    world.insert_rows(2);
    world.sql("UPDATE {t} SET more = repeat('x', 105000000) WHERE id = 1");
    let large = world.once().expect(65).stderr;
    assert!(large.contains("hint: shorten the row; a record has at most 100 MB"), "{large}");
    assert_eq!((world.unsent(), world.records()), (1, 1));
}

#[test]
fn rows_that_are_too_large_use_up_no_limit_and_are_listed_once_though_the_leg_was_tried_again() {
    let mut world = World::new("too_large_limit");
    world.settings.insert("retry", "attempts = 2\npause = \"20ms\"".into());
    let topic = world.name.clone();
    world.delete_topic(&topic);
    world.create_topic(&topic, 1, &[("max.message.bytes", "1500")]);
    world.insert_rows(10);
    world.sql("UPDATE {t} SET payload = to_jsonb((SELECT string_agg(md5(n::text), '') FROM generate_series(1, 60) n)) WHERE id <= 4");
    let ended = world.run(&["produce", "--json", "--max-rows", "2"]).expect(65);
    assert_eq!((ended.number("produce", "records_sent"), world.unsent()), (2, 8));
    assert_eq!(ended.report()["produce"]["complete"], false);
    // The first attempt loses its connection when it flags; the second one meets the same rows.
    let proxy = Proxy::before_postgres(&mut world);
    let ended =
        proxy.hit(1, has("AS t SET"), Fault::Cut, || world.run(&["produce", "--json", "--wait-lock", "5s"])).expect(65);
    assert_eq!(ended.report()["produce"]["too_large"].as_array().unwrap().len(), 4, "{}", ended.stdout);
    assert_eq!((world.unsent(), world.records()), (4, 6));
}

#[test]
fn partitions_that_are_added_during_a_run_are_waited_for_like_the_others() {
    let mut world = World::with("added_meanwhile", USER_LOGINS, 1);
    world.settings.insert("kafka", "[kafka.properties]\n\"topic.metadata.refresh.interval.ms\" = \"100\"".into());
    world.batch_rows(5);
    world.insert_rows(60);
    let mut run = world.start_command_stopped_at(&["--once", "--json"], "read.after:3");
    world.add_partitions(4);
    std::thread::sleep(std::time::Duration::from_secs(2));
    run.go_on();
    let begun = std::time::Instant::now();
    run.end().expect(0);
    assert!(begun.elapsed() < std::time::Duration::from_secs(15), "{:?}", begun.elapsed());
    assert!(world.topic().iter().any(|record| record.partition > 0), "no record went to a new partition");
    world.run(&["--once"]).expect(0);
    world.assert_exactly_once();
}

#[test]
fn partitions_that_are_added_while_a_run_waits_for_the_lock_belong_to_the_window() {
    let mut world = World::with("added_before_the_lock", USER_LOGINS, 1);
    world.settings.insert("kafka", "[kafka.properties]\n\"topic.metadata.refresh.interval.ms\" = \"100\"".into());
    world.batch_rows(5);
    world.insert_rows(60);
    let mut dying = world.start_command_stopped_and_killed_at(&["produce"], "read.after:3", "kafka.commit.after:8");
    // It looks at the topic while it waits.
    let waiting = world.start(&["--once", "--wait-lock", "60s"]);
    std::thread::sleep(std::time::Duration::from_secs(2));
    world.add_partitions(4);
    std::thread::sleep(std::time::Duration::from_secs(2));
    dying.go_on();
    assert_eq!(dying.end().code, KILLED);
    assert!(world.topic().iter().any(|record| record.partition > 0), "no record went to a new partition");
    Ended::after(waiting).expect(0);
    world.assert_exactly_once();
}

#[test]
fn another_topic_in_the_configuration_is_refused_until_the_one_before_is_given_up() {
    let mut world = World::new("other_topic");
    world.insert_rows(5);
    world.run(&["produce"]).expect(0);
    let other = format!("{}_other", world.name);
    world.settings.insert("[table]", format!("topic = \"{other}\""));
    world.run(&["init"]).expect(0);
    // Five flagged rows are in the topic alone.
    let refused = world.once().expect(78).stderr;
    assert!(
        refused.contains("not yet copied") && refused.contains(&format!("topic = \"{}\"", world.name)),
        "{refused}"
    );
    assert_eq!(world.unsent(), 0);
    // What the hint says, typed.
    world.settings.remove("[table]");
    world.once().expect(0);
    world.settings.insert("[table]", format!("topic = \"{other}\""));
    let fix = assert_found(&world, "topic-changed", 78)["fix"].as_str().unwrap().to_owned();
    assert!(refused.contains(fix.split_once('\n').unwrap().1.replace('\n', " ").as_str()), "{refused}\n{fix}");
    assert_cured(&mut world, "topic-changed", 78);
    world.insert_rows(3);
    assert_eq!(world.once().expect(0).number("consume", "rows_inserted"), 3);
    assert_eq!(world.ch_number("SELECT count() FROM {t}"), 8);
    world.once().expect(0);
}
