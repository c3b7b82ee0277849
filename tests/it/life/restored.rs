//! PostgreSQL is restored from a backup, and `docs/runbook.md` is followed.

use std::path::Path;

use crate::common::World;

/// The statements of the runbook that begin like this, for the world's table.
fn type_statements(world: &mut World, beginning: &str) {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbook.md")).unwrap();
    let typed: Vec<_> = page.lines().filter(|line| line.starts_with(beginning)).collect();
    assert_eq!(typed.len(), 2, "{typed:?}");
    for statement in typed {
        world.sql(&statement.replace("user_logins", "{t}"));
    }
}

#[test]
fn a_source_table_restored_alone_is_sent_once_after_the_statements_of_the_runbook() {
    let mut world = World::new("restored_alone");
    world.insert_rows(10);
    world.run(&["--once", "--max-rows", "5"]).expect(0);
    world.sql("UPDATE {t} SET event_type = 'sent twice', sent_to_kafka = FALSE WHERE id = 1");
    world.sql("CREATE TABLE {t}_backup AS TABLE {t}");
    world.once().expect(0);
    // One that is flagged in the backup, and changes after it.
    world.sql("UPDATE {t} SET event_type = 'newer', sent_to_kafka = FALSE WHERE id = 2");
    world.once().expect(0);
    let sent = world.records();
    world.sql("DELETE FROM {t}");
    world.sql("INSERT INTO {t} OVERRIDING SYSTEM VALUE SELECT * FROM {t}_backup");

    type_statements(&mut world, "DELETE FROM pg2ch_");
    world.once().expect(0);

    assert_eq!((world.unsent(), world.records()), (0, sent), "all were delivered");
    assert_eq!(world.ch_number("SELECT count() FROM {t}"), i64::try_from(sent).unwrap());
    world.run(&["verify"]).expect(0);
    world.run(&["verify", "--deep"]).expect(65);
    world.run(&["verify", "--deep", "--repair", "--confirm"]).expect(65);
    world.once().expect(0);
    world.run(&["verify", "--deep"]).expect(0);
}
