//! What the target refuses waits in the dead-letter topic, and is inserted once when the cause is gone.

use crate::common::World;
use crate::common::http_proxy::{Act, HttpProxy};
use serde_json::Value;

/// A world whose target refuses the rows of users 3 and 7, which lie in the dead letters.
fn refused(name: &str) -> World {
    let mut world = World::new(name);
    world.stop_merges();
    world.ch("ALTER TABLE {t} ADD CONSTRAINT picky CHECK user_id != 3 AND user_id != 7");
    world.insert_rows(10);
    let ended = world.once().expect(65);
    assert_eq!(ended.number("consume", "rows_inserted"), 8, "the neighbours go in");
    world
}

fn mend(world: &World) {
    world.ch("ALTER TABLE {t} DROP CONSTRAINT picky");
}

/// The first table of a `--json` result.
fn letters(world: &World, args: &[&str], code: i32) -> Value {
    let ended = world.run(&[args, &["--json"]].concat()).expect(code);
    let result: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(result["exit_code"], code);
    result["tables"][0].clone()
}

fn list(world: &World, code: i32) -> Value {
    letters(world, &["dead-letters"], code)
}

fn replay(world: &World, code: i32) -> Value {
    letters(world, &["dead-letters", "replay"], code)
}

#[test]
fn a_refused_record_is_listed_with_its_reason_until_it_is_replayed() {
    let mut world = refused("listed");

    let listed = list(&world, 65);
    assert_eq!((&listed["pending"], &listed["replayed"], &listed["complete"]), (&2.into(), &0.into(), &true.into()));
    let records = world.topic();
    for letter in listed["letters"].as_array().unwrap() {
        let record = records.iter().find(|r| (r.partition, r.offset) == place(letter)).unwrap();
        assert_eq!(letter["key"], record.key.as_str());
        assert_eq!(letter["state"], "pending");
        assert!(letter["reason"].as_str().unwrap().contains("picky"), "{letter}");
        let time = humantime::parse_rfc3339(letter["time"].as_str().unwrap()).unwrap();
        let millis = time.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
        assert_eq!(i64::try_from(millis).unwrap(), record.timestamp_ms);
    }
    let text = world.run(&["dead-letters"]).expect(65).stdout;
    assert!(text.contains("picky") && text.ends_with("2 pending, 0 replayed\n"), "{text}");

    let tried = replay(&world, 65);
    assert_eq!((&tried["pending"], &tried["inserted"]), (&2.into(), &0.into()), "the cause is still there");
    assert!(tried["letters"][0]["reason"].as_str().unwrap().contains("picky"));

    mend(&world);
    assert_eq!(replay(&world, 0)["inserted"], 2);
    assert_eq!(list(&world, 0)["replayed"], 2);
    assert_eq!(replay(&world, 0)["inserted"], 0, "nothing is left");
    world.assert_exactly_once();
    world.once().expect(0);
    world.assert_exactly_once();
}

fn place(letter: &Value) -> (i32, i64) {
    (i32::try_from(letter["partition"].as_i64().unwrap()).unwrap(), letter["offset"].as_i64().unwrap())
}

#[test]
fn a_replayed_record_never_wins_over_a_newer_version() {
    let mut world = refused("newer");
    world.sql("UPDATE {t} SET user_id = 77, sent_to_kafka = FALSE WHERE user_id = 7");
    world.once().expect(0);
    mend(&world);

    assert_eq!(replay(&world, 0)["inserted"], 2);

    let id = world.sql_number("SELECT id FROM {t} WHERE user_id = 77");
    assert_eq!(world.ch(&format!("SELECT user_id FROM {{t}} FINAL WHERE id = {id}")), "77");
    assert_eq!(world.ch_number(&format!("SELECT count() FROM {{t}} WHERE id = {id}")), 2, "both versions are there");
    world.assert_exactly_once();
}

#[test]
fn a_letter_whose_row_was_corrected_and_sent_again_is_settled() {
    let mut world = refused("settled");
    world.sql("UPDATE {t} SET user_id = user_id + 100, sent_to_kafka = FALSE WHERE user_id IN (3, 7)");
    world.once().expect(0);
    let listed = list(&world, 0);
    assert_eq!((&listed["pending"], &listed["settled"]), (&0.into(), &2.into()), "{listed}");
}

#[test]
fn a_replay_killed_around_its_inserts_goes_on_where_it_was() {
    for point in ["clickhouse.insert.before", "clickhouse.insert.after", "replay.note.before", "dead-letter.sent.after"]
    {
        let mut world = refused("replay_killed");
        mend(&world);
        world.kill_at(point, &["dead-letters", "replay"]);
        assert_eq!(replay(&world, 0)["replayed"], 2, "{point}");
        world.assert_exactly_once();
    }
}

#[test]
fn a_replayed_insert_that_lands_late_is_dropped() {
    let mut world = refused("replay_late");
    mend(&world);
    let proxy = HttpProxy::before(&world.servers.clickhouse_url, &[Act::Hold]);
    world.settings.insert("clickhouse", proxy.setting());
    let mut dead = world.start(&["dead-letters", "replay"]);
    proxy.wait_for_held();

    let busy = world.once().expect(75);
    assert!(busy.stderr.contains("another run holds it"), "a run keeps out while a replay works: {}", busy.stderr);
    dead.kill().unwrap();
    dead.wait().unwrap();
    world.wait_for("the lock of the dead replay to be freed", || world.run(&["dead-letters", "replay"]).code != 75);
    proxy.release();

    world.assert_exactly_once();
    assert_eq!(list(&world, 0)["replayed"], 2);
}

#[test]
fn lost_answers_do_not_double_a_replayed_row() {
    let mut world = refused("replay_answers");
    mend(&world);
    let proxy = HttpProxy::before(&world.servers.clickhouse_url, &[Act::BadGateway, Act::CutAfter, Act::CutBefore]);
    world.settings.insert("clickhouse", proxy.setting());

    assert_eq!(replay(&world, 0)["inserted"], 2);

    assert_eq!(proxy.inserts(), 4, "both go together");
    world.assert_exactly_once();
}

#[test]
fn a_record_refused_twice_is_replayed_once() {
    let mut world = refused("twice");
    world.delete_group();
    // Nothing new is refused.
    world.once().expect(0);
    assert_eq!(list(&world, 65)["pending"], 2, "a record that is refused again has its letter already");
    mend(&world);

    let replayed = replay(&world, 0);

    assert_eq!((&replayed["inserted"], &replayed["replayed"]), (&2.into(), &2.into()));
    world.assert_exactly_once();
}

#[test]
fn a_replayed_record_that_a_restored_target_refuses_again_waits_again() {
    let mut world = refused("restored");
    // A copy of the target, as of before the replay.
    world.ch("CREATE TABLE {t}_copy AS {t}");
    world.ch("INSERT INTO {t}_copy SELECT * FROM {t}");
    mend(&world);
    assert_eq!(replay(&world, 0)["inserted"], 2);
    world.ch("EXCHANGE TABLES {t} AND {t}_copy");
    world.ch("DROP TABLE {t}_copy");
    world.stop_merges();

    let ended = world.once().expect(65);

    assert_eq!((ended.number("consume", "dead_letters"), ended.number("consume", "rows_held")), (2, 8));
    let listed = list(&world, 65);
    assert_eq!((&listed["pending"], &listed["replayed"]), (&2.into(), &2.into()), "{listed}");
    world.delete_group();
    world.once().expect(0);
    assert_eq!(list(&world, 65)["pending"], 2, "no third letter");
    mend(&world);
    assert_eq!(replay(&world, 0)["inserted"], 2);
    assert_eq!(list(&world, 0)["replayed"], 4);
    world.assert_exactly_once();
}

#[test]
fn a_replayed_row_that_was_deleted_is_brought_back() {
    let mut world = refused("deleted");
    mend(&world);
    world.kill_at("replay.note.before", &["dead-letters", "replay"]);
    world.delete_from_target("user_id = 3");
    assert_eq!(list(&world, 65)["pending"], 1);

    assert_eq!(replay(&world, 0)["inserted"], 1, "although the server knows the first token");

    world.assert_exactly_once();
}

#[test]
fn a_record_that_the_encoder_refuses_waits_for_its_column() {
    let world = World::new("column");
    let extra = World::login(1, "login").replace('}', r#","extra":5}"#);
    world.send(&[(0, "1", Some(&extra)), (0, "2", Some(&World::login(2, "login"))), (1, "3", None)]);
    world.run(&["consume"]).expect(65);
    assert_eq!(replay(&world, 65)["pending"], 2);

    world.ch("ALTER TABLE {t} ADD COLUMN extra Int64 DEFAULT 0");
    let replayed = replay(&world, 65);

    assert_eq!((&replayed["pending"], &replayed["inserted"]), (&1.into(), &1.into()), "a tombstone never fits");
    assert!(replayed["letters"][0]["reason"].as_str().unwrap().contains("tombstone"));
    assert_eq!(world.ch("SELECT extra FROM {t} WHERE id = 1"), "5");
}

#[test]
fn a_strangers_record_in_the_dead_letter_topic_is_left_alone() {
    let world = refused("stranger");
    world.send_to(&format!("{}.dead", world.name), &[(0, "k", Some("hello"))]);
    let listed = list(&world, 65);
    assert_eq!((&listed["foreign"], &listed["pending"]), (&1.into(), &2.into()));
    mend(&world);
    let replayed = replay(&world, 0);
    assert_eq!((&replayed["foreign"], &replayed["inserted"]), (&1.into(), &2.into()));
}

#[test]
fn a_replayed_letter_whose_row_is_gone_does_not_wait_again() {
    let mut world = refused("replayed_and_gone");
    world.sql("UPDATE {t} SET user_id = 77, sent_to_kafka = FALSE WHERE user_id = 7");
    world.once().expect(0);
    mend(&world);
    assert_eq!(replay(&world, 0)["inserted"], 2);
    // A merge keeps the newer version only; the other row is deleted by hand.
    world.delete_from_target("user_id = 3");
    world.ch("SYSTEM START MERGES {t}");
    world.ch("OPTIMIZE TABLE {t} FINAL");
    assert_eq!(world.ch_number("SELECT count() FROM {t}"), 9);

    let listed = list(&world, 0);

    assert_eq!((&listed["pending"], &listed["replayed"]), (&0.into(), &2.into()), "{listed}");
    assert_eq!(replay(&world, 0)["inserted"], 0, "what was deleted on purpose stays away");
    assert!(world.run(&["verify"]).expect(65).stdout.contains("missing"), "verify tells what is not there");
}

#[test]
fn a_letter_that_is_dropped_waits_no_more_and_is_not_replayed() {
    let world = refused("dropped");
    let (partition, offset) = place(&list(&world, 65)["letters"][0]);
    let record = format!("{partition}:{offset}");

    let shown = letters(&world, &["dead-letters", "drop", &record], 65);
    assert_eq!((&shown["to_drop"], &shown["dropped"], &shown["pending"]), (&1.into(), &0.into(), &2.into()));
    assert_eq!(list(&world, 65)["pending"], 2, "nothing was done without --confirm");
    let unknown = world.run(&["dead-letters", "drop", "0:999", "--confirm"]).expect(65);
    assert!(unknown.stderr.contains("partition 0 offset 999 is not a pending dead letter"), "{}", unknown.stderr);
    world.run(&["dead-letters", "drop", "nonsense"]).expect(64);

    let dropped = letters(&world, &["dead-letters", "drop", &record, "--confirm"], 65);
    assert_eq!((&dropped["dropped"], &dropped["pending"]), (&1.into(), &1.into()), "{dropped}");
    let states = list(&world, 65);
    assert_eq!((&states["dropped"], &states["pending"]), (&1.into(), &1.into()));
    let told = world.run(&["verify", "--json"]).expect(65).report();
    assert_eq!(
        (&told["dropped"], &told["dead_letters"]["count"], &told["missing"]["count"]),
        (&1.into(), &1.into(), &0.into())
    );
    // A reset of the offsets brings neither the letter nor the record back.
    world.delete_group();
    world.once().expect(0);
    assert_eq!(list(&world, 65)["dropped"], 1);
    mend(&world);
    let replayed = replay(&world, 0);
    assert_eq!((&replayed["inserted"], &replayed["dropped"]), (&1.into(), &1.into()));
    assert_eq!(world.ch_number("SELECT count() FROM {t}"), 9);
    let verified = world.run(&["verify", "--repair"]).expect(0).stdout;
    assert!(verified.contains("dropped") && verified.contains("set the flag of 0 rows"), "{verified}");
}

#[test]
fn all_pending_letters_are_dropped_while_no_run_is_under_way() {
    let mut world = refused("dropped_all");
    world.insert_rows(1);
    let mut run = world.start_stopped_at("lock.after");
    let busy = world.run(&["dead-letters", "drop", "--confirm"]).expect(75);
    assert!(busy.stderr.contains("another run holds it"), "{}", busy.stderr);
    run.go_on();
    run.end().expect(0);
    world.kill_at("dead-letter.sent.after", &["dead-letters", "drop", "--confirm"]);
    assert_eq!(list(&world, 65)["pending"], 2, "wholly or not at all");
    let text = world.run(&["dead-letters", "drop", "--confirm"]).expect(0).stdout;
    assert!(text.ends_with("0 pending, 0 replayed, 2 dropped\n"), "{text}");
}

#[test]
fn many_letters_are_replayed_in_few_inserts_and_the_bad_ones_are_found() {
    let mut world = World::new("replayed_in_blocks");
    world.stop_merges();
    world.settings.insert("[table]", "max_dead_letters = 5000".into());
    world.ch("ALTER TABLE {t} ADD CONSTRAINT picky CHECK user_id > 2000");
    world.insert_rows(400);
    assert_eq!(world.once().expect(65).number("consume", "dead_letters"), 400);
    world.ch("ALTER TABLE {t} DROP CONSTRAINT picky");
    world.ch("ALTER TABLE {t} ADD CONSTRAINT picky CHECK user_id != 300");
    let proxy = HttpProxy::before(&world.servers.clickhouse_url, &[Act::CutAfter]);
    world.settings.insert("clickhouse", proxy.setting());

    let replayed = replay(&world, 65);

    assert_eq!((&replayed["inserted"], &replayed["pending"]), (&399.into(), &1.into()));
    assert!(proxy.inserts() < 40, "{} INSERTs for 400 letters", proxy.inserts());
    mend(&world);
    assert_eq!(replay(&world, 0)["inserted"], 1);
    world.assert_exactly_once();
}

#[test]
fn a_target_that_is_altered_under_a_replay_is_described_anew() {
    let mut world = refused("replay_altered");
    mend(&world);
    let mut replaying =
        world.start_command_stopped_at(&["dead-letters", "replay", "--json"], "clickhouse.insert.before");
    world.ch("SYSTEM START MERGES {t}");
    world.ch("ALTER TABLE {t} MODIFY COLUMN user_id Nullable(Int64)");
    replaying.go_on();
    let replayed: Value = serde_json::from_str(&replaying.end().expect(0).stdout).unwrap();
    assert_eq!(replayed["tables"][0]["inserted"], 2);
    world.assert_exactly_once();
}
