//! Clusters that forbid transactions: the weaker promise. What dies between its calls is still made good.
use crate::common::{USER_LOGINS, World};

fn plain(name: &str, partitions: i32) -> World {
    let mut world = World::with(name, USER_LOGINS, partitions);
    world.settings.insert("kafka", "transactional = false\n".into());
    world.settings.insert("batch", "rows = 5\ninsert_rows = 5\n".into());
    world
}

#[test]
fn rows_arrive_once_without_transactions_and_the_next_run_has_nothing_to_do() {
    let mut world = plain("plain", 3);
    world.insert_rows(23);

    let ended = world.once().expect(0);

    assert_eq!(ended.number("produce", "rows_flagged"), 23);
    world.assert_exactly_once();
    assert_eq!(world.once().expect(0).number("consume", "records_copied"), 0);
    // A transaction would have left a marker behind its records: offsets would not be dense.
    let first: Vec<i64> =
        world.topic().iter().filter(|record| record.partition == 0).map(|record| record.offset).collect();
    assert_eq!(first, (0..i64::try_from(first.len()).unwrap()).collect::<Vec<_>>());
}

#[test]
fn a_run_that_dies_between_its_calls_is_made_good_without_transactions() {
    for point in ["kafka.commit.after:2", "flag.before:2", "clickhouse.insert.after:2", "offsets.sent.after:2"] {
        let mut world = plain("plain_killed", 1);
        world.insert_rows(23);

        world.kill_at(point, &["--once"]);
        world.once().expect(0);

        world.assert_exactly_once();
    }
}

#[test]
fn a_record_that_is_too_large_holds_nobody_up_without_transactions() {
    let mut world = plain("plain_large", 1);
    world.insert_rows(4);
    let topic = world.name.clone();
    world.delete_topic(&topic);
    world.create_topic(&topic, 1, &[("max.message.bytes", "20000")]);
    world.sql("UPDATE {t} SET payload = to_jsonb(repeat('x', 30000)) WHERE id = 2");

    world.run(&["produce", "--json"]).expect(65);

    assert_eq!(world.unsent(), 1);
    let mut keys: Vec<String> = world.topic().into_iter().map(|record| record.key).collect();
    keys.sort();
    assert_eq!(keys, ["1", "3", "4"]);
}
