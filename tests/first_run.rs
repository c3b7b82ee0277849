//! The ordinary life of the job, on the real servers.

mod common;

use common::World;

#[test]
fn a_first_run_brings_every_row_and_a_second_one_does_nothing() {
    let mut world = World::new("first");
    world.insert_rows(25);
    let ended = world.once().expect(0);
    assert_eq!(ended.number("produce", "rows_flagged"), 25);
    assert_eq!(ended.number("consume", "rows_inserted"), 25);
    world.assert_exactly_once();

    let ended = world.once().expect(0);
    assert_eq!(ended.number("produce", "records_sent"), 0);
    assert_eq!(ended.number("consume", "records_copied"), 0);
    assert_eq!(ended.stderr, "", "cron sends what is printed");
    world.assert_exactly_once();
}
