//! `columns` and `exclude` in `[[table]]`: what a record's value has, and what is compared.

use crate::common::servers::Servers;
use crate::common::{USER_LOGINS, World};

/// A table like `user_logins` with this line in its `[[table]]`, made before `pg2ch init`.
fn choosing(name: &str, line: &str) -> World {
    let mut world = World::unmade(Servers::shared(), name, USER_LOGINS, 1);
    world.settings.insert("[table]", line.into());
    world.run(&["init"]).expect(0);
    world.stop_merges();
    world
}

fn target_columns(world: &World) -> String {
    world.ch(&format!(
        "SELECT arrayStringConcat(groupArray(name), ' ') FROM system.columns \
         WHERE database = 'analytics' AND table = '{}' AND name NOT LIKE '\\\\_%'",
        world.name
    ))
}

#[test]
fn a_record_has_the_chosen_columns_and_the_key() {
    for (name, line) in
        [("chosen", "columns = [\"event_type\", \"user_id\"]"), ("excluded", "exclude = [\"payload\", \"event_time\"]")]
    {
        let mut world = choosing(name, line);
        world.insert_rows(2);
        world.once().expect(0);
        assert_eq!(world.topic()[0].value, r#"{"id":1,"user_id":1,"event_type":"login"}"#);
        assert_eq!(target_columns(&world), "id user_id event_type");
        world.run(&["verify", "--deep"]).expect(0);
        world.run(&["check"]).expect(0);
    }
}

#[test]
fn a_change_of_a_column_that_is_left_out_is_no_change_to_what_was_delivered() {
    // Given rows that were delivered by a run that died before it flagged them
    let mut world = choosing("left_out", "exclude = \"payload\"");
    world.insert_rows(4);
    world.kill_at("kafka.commit.after", &["produce"]);

    // When an application changes what is not sent of one, and what is sent of another
    world.sql("UPDATE {t} SET payload = '{}' WHERE id = 1");
    world.sql("UPDATE {t} SET event_type = 'logout' WHERE id = 2");
    let ended = world.once().expect(0);

    // Then only the second goes out again
    assert_eq!((ended.number("produce", "rows_recovered"), ended.number("produce", "records_sent")), (3, 1));
    assert_eq!(world.unsent(), 0);
    world.sql("UPDATE {t} SET payload = '[]'");
    world.run(&["verify", "--deep"]).expect(0);
}

#[test]
fn a_row_moved_between_reading_and_flagging_is_known_by_the_chosen_columns() {
    let mut world = choosing("moved", "columns = \"event_type\"");
    world.insert_rows(4);
    let mut run = world.start_stopped_at("kafka.commit.after");
    // A new version, with nothing changed of what was sent.
    world.sql("UPDATE {t} SET payload = '[]' WHERE id < 3");
    run.go_on();
    let ended = run.end().expect(0);
    assert_eq!(ended.number("produce", "rows_flagged"), 4);
    assert_eq!((world.unsent(), world.records()), (0, 4));
}

#[test]
fn another_choice_of_columns_after_a_crash_sends_what_was_delivered_in_its_new_form() {
    let mut world = World::new("choice");
    world.insert_rows(3);
    world.kill_at("kafka.commit.after", &["produce"]);
    world.settings.insert("[table]", "exclude = \"payload\"".into());

    let ended = world.run(&["produce", "--json"]).expect(0);

    // No record says twice the same: the second one has other columns.
    assert_eq!((ended.number("produce", "rows_recovered"), ended.number("produce", "records_sent")), (0, 3));
    assert_eq!((world.unsent(), world.records()), (0, 6));
}

#[test]
fn a_column_that_is_not_there_is_refused() {
    let mut world = World::new("no_column");
    world.insert_rows(1);
    for line in ["columns = [\"user_id\", \"usr\"]", "exclude = \"usr\""] {
        world.settings.insert("[table]", line.into());
        let ended = world.once().expect(78);
        assert!(ended.stderr.contains("has no column usr"), "{}", ended.stderr);
    }
    assert_eq!(world.records(), 0);
}
