//! Runs killed at each named crash point.

use pg2ch::crash;

use super::plan::Group;
use super::subject::{KILLED, Subject};

/// How many crashes lie between two comparisons.
const BETWEEN: u64 = 7;

pub fn crash(subject: &mut Subject<'_>, group: Group, rounds: u64) {
    match group {
        Group::TooLarge => subject.world.alter_topic("max.message.bytes", "2000"),
        Group::DeadLetter => {
            subject.world.ch("ALTER TABLE {t} ADD CONSTRAINT picky CHECK event_type != 'refused'");
        }
        _ => {}
    }
    let mut crashes = 0;
    for round in 0..rounds {
        for point in points(group) {
            subject.expect_trouble("");
            subject.world.insert_rows(25);
            crash_once(subject, group, point, round);
            crashes += 1;
            if crashes % BETWEEN == 0 && group != Group::DeadLetter {
                subject.check();
            } else if subject.rng.bool() {
                subject.settle();
            }
        }
    }
    if group == Group::DeadLetter {
        subject.world.ch("ALTER TABLE {t} DROP CONSTRAINT picky");
        subject.settle();
        subject.run(&["dead-letters", "replay"], &[0]);
    }
}

fn points(group: Group) -> Vec<&'static str> {
    match group {
        Group::Produce => crash::PRODUCE.to_vec(),
        Group::Recovery => crash::PRODUCE_RECOVERY.to_vec(),
        Group::TooLarge => crash::PRODUCE_TOO_LARGE.to_vec(),
        Group::Consume => crash::CONSUME.to_vec(),
        Group::DeadLetter => vec![crash::CONSUME_DEAD_LETTER],
        Group::Verify => crash::VERIFY.to_vec(),
    }
}

fn crash_once(subject: &mut Subject<'_>, group: Group, point: &str, round: u64) {
    match group {
        Group::Produce => {
            passing(subject, point, round, &["--once", "--wait-lock", "20s"]);
            subject.change_some();
        }
        Group::Recovery => {
            let before = subject.world.crash_at("kafka.commit.after:2", &["produce", "--wait-lock", "20s"]);
            assert_eq!(before.code, KILLED, "{before:?}");
            subject.crash_at(point, &["produce", "--wait-lock", "20s"], &[KILLED]);
            subject.change_some();
        }
        Group::TooLarge => {
            subject.world.sql(
                "UPDATE {t} SET payload = to_jsonb(repeat(md5(id::text), 100)) WHERE id = (SELECT max(id) - 3 FROM {t})",
            );
            subject.crash_at(point, &["produce", "--wait-lock", "20s"], &[KILLED]);
            subject.run(&["--once", "--wait-lock", "20s"], &[65]);
            subject.world.sql("UPDATE {t} SET payload = NULL WHERE NOT sent_to_kafka");
        }
        Group::Consume => {
            subject.run(&["produce", "--wait-lock", "20s"], &[0]);
            passing(subject, point, round, &["consume"]);
        }
        Group::DeadLetter => {
            subject.world.sql("UPDATE {t} SET event_type = 'refused' WHERE id = (SELECT max(id) - 3 FROM {t})");
            subject.run(&["produce", "--wait-lock", "20s"], &[0]);
            subject.crash_at(point, &["consume"], &[KILLED]);
            // The letter was not committed; whether the run that writes it again is the next one is not asked here.
            subject.run(&["consume"], &[65]);
        }
        Group::Verify => {
            subject.run(&["produce", "--wait-lock", "20s"], &[0]);
            subject.crash_at(point, &["verify", "--deep", "--repair", "--confirm", "--wait-lock", "20s"], &[KILLED]);
        }
    }
}

/// In the first round at the first passing, later at one of the first three, as far as the run comes so far.
fn passing(subject: &mut Subject<'_>, point: &str, round: u64, args: &[&str]) {
    let passing = if round == 0 { 1 } else { subject.rng.u64(1..=3) };
    if passing == 1 || !subject.crash_at(&format!("{point}:{passing}"), args, &[0, KILLED]) {
        subject.world.insert_rows(25);
        if args[0] == "consume" {
            subject.run(&["produce", "--wait-lock", "20s"], &[0]);
        }
        subject.crash_at(point, args, &[KILLED]);
    }
}
