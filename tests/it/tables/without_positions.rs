//! A target without pg2ch's columns: the weaker promise, and where it ends. No schedule loses a record; only where the target has
//! forgotten a token, or was altered, is a row there twice.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::common::http_proxy::{Act, HttpProxy};
use crate::common::{USER_LOGINS, World};
use pg2ch::crash;

/// A plain table that remembers `window` tokens; batches of four records.
fn world(name: &str, window: u32) -> World {
    let mut world = World::unmade(crate::common::servers::Servers::shared(), name, USER_LOGINS, 3);
    world.settings.insert("[table]", "metadata_columns = false".into());
    world.settings.insert("batch", "insert_rows = 4\n".into());
    world.settings.insert("retry", "attempts = 3\npause = \"20ms\"\n".into());
    world.settings.insert("timeouts", "kafka = \"5s\"\nclickhouse = \"2s\"\n".into());
    world.ch(&format!(
        "CREATE TABLE {{t}} (id Int64, user_id Int64, event_type String, event_time DateTime64(6, 'UTC'), payload Nullable(String))
         ENGINE = MergeTree ORDER BY id
         SETTINGS non_replicated_deduplication_window = {window}, fsync_after_insert = 1, fsync_part_directory = 1"
    ));
    world.run(&["init"]).expect(0);
    world.stop_merges();
    world
}

/// How often each record is in the target, by its id; a record that is missing is there 0 times.
fn copies(world: &World) -> BTreeMap<i64, usize> {
    let mut copies: BTreeMap<i64, usize> =
        world.topic().iter().map(|record| (record.key.parse().unwrap(), 0)).collect();
    for id in world.ch("SELECT id FROM {t}").lines().filter(|line| !line.is_empty()) {
        *copies.entry(id.parse().unwrap()).or_default() += 1;
    }
    copies
}

#[track_caller]
fn assert_once(world: &World, when: &str) {
    let wrong: Vec<_> = copies(world).into_iter().filter(|(_, count)| *count != 1).collect();
    assert!(wrong.is_empty(), "{when}: lost (0) or doubled: {wrong:?}");
}

#[track_caller]
fn assert_none_lost(world: &World, when: &str) {
    let lost: Vec<_> = copies(world).into_iter().filter(|(_, count)| *count == 0).collect();
    assert!(lost.is_empty(), "{when}: lost: {lost:?}");
}

fn killed_at_each(name: &str, points: &[&str], passing: usize) {
    let world = world(name, 1000);
    for point in points {
        world.send_logins(13);
        let point = format!("{point}:{passing}");
        world.kill_at(&point, &["consume"]);
        world.run(&["consume"]).expect(0);
        assert_once(&world, &point);
    }
}

#[test]
fn killed_at_the_first_half_of_the_points_no_row_is_lost_or_doubled() {
    let points: Vec<&str> = crash::CONSUME.iter().copied().step_by(2).collect();
    killed_at_each("plain_a", &points, 1);
}

#[test]
fn killed_at_the_second_half_of_the_points_no_row_is_lost_or_doubled() {
    let points: Vec<&str> = crash::CONSUME.iter().copied().skip(1).step_by(2).collect();
    killed_at_each("plain_b", &points, 1);
}

#[test]
fn killed_in_a_later_batch_no_row_is_lost_or_doubled() {
    killed_at_each(
        "plain_c",
        &["intend.after", "clickhouse.insert.before", "clickhouse.insert.after", "kafka.commit.after"],
        3,
    );
}

#[test]
fn killed_at_random_no_row_is_lost_or_doubled() {
    let world = world("plain_random", 1000);
    for _ in 0..8 {
        world.send_logins(40);
        let mut run = world.start(&["consume"]);
        std::thread::sleep(Duration::from_millis(fastrand::u64(50..900)));
        let _ = run.kill();
        run.wait().unwrap();
    }
    world.run(&["consume"]).expect(0);
    assert_once(&world, "at random");
}

#[test]
fn killed_while_bad_records_are_told_from_good_ones() {
    let world = world("plain_bad", 1000);
    world.ch("ALTER TABLE {t} ADD CONSTRAINT picky CHECK event_type != 'bad'");
    for point in ["clickhouse.insert.after:2", "intend.after:3", "kafka.commit.after:3", crash::CONSUME_DEAD_LETTER] {
        world.send_logins(9);
        let bad = 1_000_000 + fastrand::i64(0..1_000_000);
        world.send(&[(1, &bad.to_string(), Some(&World::login(bad, "bad")))]);
        world.kill_at(point, &["consume"]);
        assert!([0, 65].contains(&world.run(&["consume"]).code), "{point}");
        let wrong: Vec<_> = copies(&world).into_iter().filter(|(id, n)| *n != usize::from(*id < 1_000_000)).collect();
        assert!(wrong.is_empty(), "{point}: {wrong:?}");
    }
    assert_eq!(world.topic_named(&format!("{}.dead", world.name)).len(), 4, "each bad record is one dead letter");
}

#[test]
fn lost_answers_and_late_inserts_double_nothing_while_their_token_is_remembered() {
    let mut world = world("plain_answers", 1000);
    let plans: [&[Act]; 4] =
        [&[Act::CutAfter], &[Act::CutBefore, Act::CutAfter], &[Act::Pass, Act::BadGateway], &[Act::Hold]];
    for plan in plans {
        world.send_logins(14);
        let proxy = HttpProxy::before(&world.servers.clickhouse_url, plan);
        world.settings.insert("clickhouse", proxy.setting());
        world.run(&["consume"]).expect(0);
        proxy.release();
        world.settings.remove("clickhouse");
        assert_once(&world, &format!("{plan:?}"));
    }
}

#[test]
fn a_token_that_was_forgotten_doubles_rows_and_loses_none() {
    let world = world("plain_forgotten", 1);
    world.send_logins(3);
    world.kill_at("clickhouse.insert.after", &["consume"]);
    // Somebody else's insert takes the only place in the window.
    world.ch("INSERT INTO {t} SELECT * FROM {t} LIMIT 0");
    world.ch("INSERT INTO {t} (id) SETTINGS insert_deduplication_token = 'another' VALUES (-1)");
    world.run(&["consume"]).expect(0);
    let copies = copies(&world);
    assert!(copies.iter().all(|(id, count)| *count == if *id == -1 { 1 } else { 2 }), "{copies:?}");
}

#[test]
fn a_set_that_changed_since_the_crash_loses_nothing_under_the_used_token() {
    let world = world("plain_changed", 1000);
    world.send_logins(2);
    let more = World::login(7_000_001, "login").replace('}', r#","extra":"x"}"#);
    world.send(&[(0, "7000001", Some(&more))]);
    // Stored without the third record, which the columns refuse; the dead letter is not committed yet.
    world.kill_at("clickhouse.insert.after", &["consume"]);
    world.ch("ALTER TABLE {t} ADD COLUMN extra Nullable(String)");
    let ended = world.run(&["consume"]).expect(0);
    assert!(ended.stderr.contains("go again under a new token"), "{}", ended.stderr);
    assert_none_lost(&world, "the third record fits now");
    assert_eq!(copies(&world)[&7_000_001], 1);
}

#[test]
fn without_trusted_offsets_a_run_stops_and_a_person_says_where_to_begin() {
    let world = world("plain_offsets", 1000);
    world.send_logins(6);
    world.run(&["consume"]).expect(0);
    assert_once(&world, "an empty target is begun without asking");
    world.delete_group();
    let refused = world.run(&["consume"]).expect(78);
    assert!(
        refused.stderr.contains("--start-at-beginning") && refused.stderr.contains("--start-at-end"),
        "{}",
        refused.stderr
    );
    assert_once(&world, "nothing was copied");

    world.run(&["init", "--start-at-end"]).expect(0);
    world.send_logins(3);
    world.run(&["consume"]).expect(0);
    assert_once(&world, "from the end on");

    // A stranger's offset is not trusted either.
    world.set_offsets(&[(0, 0), (1, 1), (2, 0)]);
    world.run(&["consume"]).expect(78);
    world.run(&["init", "--start-at-beginning"]).expect(0);
    world.run(&["consume"]).expect(0);
    assert_none_lost(&world, "all again");
    assert!(copies(&world).values().all(|count| *count == 2));
}

#[test]
fn a_target_that_was_made_again_is_copied_whole_and_a_topic_when_a_person_says_so() {
    let world = world("plain_again", 1000);
    world.send_logins(6);
    world.run(&["consume"]).expect(0);
    world.ch("CREATE TABLE {t}_new AS {t}");
    world.ch("EXCHANGE TABLES {t} AND {t}_new");
    world.run(&["consume"]).expect(0);
    assert_once(&world, "a new target is empty");

    world.delete_topic(&world.name.clone());
    world.create_topic(&world.name.clone(), 3, &[]);
    world.send_logins(3);
    // The group's offsets went with the topic: nothing tells that from offsets that were lost alone.
    world.run(&["consume"]).expect(78);
    world.run(&["init", "--start-at-beginning"]).expect(0);
    world.run(&["consume"]).expect(0);
    let records = world.topic();
    let copies = copies(&world);
    assert!(records.iter().all(|record| copies[&record.key.parse::<i64>().unwrap()] == 1), "{copies:?}");
}

#[test]
fn the_weaker_promise_is_spelt_out_and_what_rests_on_positions_is_refused() {
    let mut world = world("plain_said", 1000);
    let checked = world.run(&["check"]).expect(0).stdout;
    assert!(
        checked.contains("[no-positions]") && checked.contains("no record is lost, but a row may be there twice"),
        "{checked}"
    );
    world.insert_rows(5);
    let ended = world.run(&["--once", "-v"]).expect(0);
    assert!(ended.stderr.contains("keeps no positions"), "{}", ended.stderr);
    assert_once(&world, "a whole run");
    let told = world.run(&["verify"]).expect(0).stdout;
    assert!(told.contains("equal") && told.contains("doubled rows were not looked for"), "{told}");
    world.run(&["verify", "--deep"]).expect(78);
    let refused = world.run(&["dead-letters", "replay"]).expect(78);
    assert!(refused.stderr.contains("cannot be asked which it holds"), "{}", refused.stderr);
    world.run(&["status"]).expect(0);

    // Without the word for it in the configuration such a target is refused; with the columns it is one like any other.
    world.settings.remove("[table]");
    world.insert_rows(2);
    let refused = world.once().expect(78);
    assert!(refused.stderr.contains("metadata_columns = false"), "{}", refused.stderr);
    world.run(&["init"]).expect(0);
    world.once().expect(0);
    assert_once(&world, "with positions");
    assert_eq!(world.ch_number("SELECT count() FROM {t} WHERE _timestamp > '2020-01-01'"), 2);
}
