//! What a person sees who watches a run on a terminal, through a pseudo terminal of util-linux' `script`; and that nobody
//! else sees any of it.

use std::process::Command;

use crate::common::World;

/// A run that takes some seconds: small batches, small inserts.
fn slow_world(name: &str) -> World {
    let mut world = World::new(name);
    world.settings.insert("batch", "rows = 50\ninsert_rows = 100".into());
    world.insert_rows(6_000);
    world
}

/// Everything that the program writes to its terminal.
fn on_a_terminal(world: &World, term: &str, args: &[&str]) -> String {
    on_a_terminal_after(world, "", term, args)
}

/// The same, with something of the shell's in front.
fn on_a_terminal_after(world: &World, before: &str, term: &str, args: &[&str]) -> String {
    let command = world.command(args);
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().unwrap().replace('\'', "'\\''"));
    let line: Vec<String> = [command.get_program()].into_iter().chain(command.get_args()).map(quoted).collect();
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &format!("{before}{}", line.join(" ")), "/dev/null"])
        .env_clear()
        .envs([("TERM", term), ("SHELL", "/bin/sh"), ("PATH", "/usr/bin:/bin")])
        .output()
        .expect("script, of Debian's bsdutils");
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{told}");
    told
}

/// What stands on the screen in the end, line by line, on a terminal that does what xterm does.
fn screen(told: &str) -> Vec<String> {
    let (mut lines, mut row, mut column) = (vec![Vec::new()], 0_usize, 0_usize);
    let mut characters = told.chars();
    while let Some(character) = characters.next() {
        match character {
            '\r' => column = 0,
            '\n' => {
                row += 1;
                if lines.len() == row {
                    lines.push(Vec::new());
                }
            }
            '\x1b' => {
                assert_eq!(characters.next(), Some('['), "{told:?}");
                let mut sequence = String::new();
                while !sequence.ends_with(|last: char| last.is_ascii_alphabetic()) {
                    sequence.push(characters.next().unwrap());
                }
                match sequence.as_str() {
                    "J" => {
                        lines.truncate(row + 1);
                        lines[row].truncate(column);
                    }
                    "A" => row -= 1,
                    "?7l" | "?7h" => {}
                    colour if colour.ends_with('m') => {}
                    other => panic!("{other:?} in {told:?}"),
                }
            }
            printed => {
                let line: &mut Vec<char> = &mut lines[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = printed;
                column += 1;
            }
        }
    }
    lines.into_iter().filter(|line| !line.is_empty()).map(|line| line.into_iter().collect()).collect()
}

/// The shares that were shown of a leg's work, in order.
fn shares(told: &str, noun: &str) -> Vec<u64> {
    told.split(&format!(" of 6,000 {noun} ("))
        .skip(1)
        .map(|rest| rest.split(' ').next().unwrap().parse().unwrap())
        .collect()
}

#[test]
fn on_a_terminal_a_run_tells_how_far_each_leg_is_and_leaves_only_its_summary() {
    let mut world = slow_world("progress");

    let told = on_a_terminal(&world, "xterm", &["--once"]);

    let rows = shares(&told, "rows");
    assert!(!rows.is_empty() && rows.is_sorted() && rows[0] < 6_000, "{rows:?}: {told:?}");
    assert!(told.contains("/s, ") && told.contains(" s left"), "{told:?}");
    // Of the records there are more or less as many as rows: markers of transactions count among them.
    assert!(told.contains(" records ("), "{told:?}");
    let screen = screen(&told);
    assert_eq!(screen.len(), 1, "{screen:?}");
    assert!(screen[0].contains(": 6,000 rows sent, 6,000 flagged, 6,000 records copied in "), "{screen:?}");
    world.assert_exactly_once();
}

#[test]
fn log_lines_and_progress_do_not_tear_each_other() {
    let mut world = slow_world("progress_log");

    let told = on_a_terminal(&world, "xterm", &["--once", "-vv"]);

    assert!(!shares(&told, "rows").is_empty(), "{told:?}");
    let screen = screen(&told);
    let (summary, lines) = screen.split_last().unwrap();
    assert!(summary.contains(": 6,000 rows sent, "), "{summary}");
    assert!(lines.len() > 10, "{lines:?}");
    // The time stands where a line begins, and progress in none.
    let time = &lines[0][..11];
    let torn: Vec<_> = lines.iter().filter(|line| line.contains(" %)") || line[1..].contains(time)).collect();
    assert!(torn.is_empty(), "{torn:?}");
    world.assert_exactly_once();
}

#[test]
fn nothing_is_drawn_for_a_machine_for_quiet_or_where_a_terminal_cannot_do_it() {
    let world = slow_world("progress_none");
    let json = on_a_terminal(&world, "xterm", &["produce", "--json", "--max-rows", "1000"]);
    assert!(json.starts_with('{') && !json.contains('\x1b'), "{json:?}");
    let quiet = on_a_terminal(&world, "xterm", &["produce", "--quiet", "--max-rows", "1000"]);
    assert_eq!(quiet, "");
    let dumb = on_a_terminal(&world, "dumb", &["--once"]);
    assert!(dumb.contains(" rows sent, ") && !dumb.contains('\x1b') && !dumb.contains(" % "), "{dumb:?}");
    // Without a terminal a run says nothing at all: cron sends no mail.
    let ended = world.run(&["--once"]).expect(0);
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("", ""));
}

/// What is drawn between two changes of the progress line, without log lines.
fn drawn(told: &str) -> Vec<&str> {
    told.split("\x1b[?7l").skip(1).map(|rest| rest.split("\x1b[?7h").next().unwrap()).collect()
}

#[test]
fn on_a_narrow_terminal_the_line_is_shorter_and_follows_a_resize() {
    let world = slow_world("progress_narrow");
    let resized = "stty cols 40; (sleep 0.7; stty cols 20 < /dev/tty) & ";

    let told = on_a_terminal_after(&world, resized, "xterm", &["--once"]);

    let lines = drawn(&told);
    let narrow = lines.iter().position(|line| line.chars().count() < 20 && line.contains(" %"));
    let first = lines.first().unwrap();
    assert!(lines.iter().all(|line| line.chars().count() < 40), "{lines:?}");
    assert!(first.contains(" %") && lines.iter().any(|line| line.ends_with(" s left")), "{lines:?}");
    assert!(narrow.is_some(), "the terminal became narrower: {lines:?}");
}

#[test]
fn the_first_signal_is_answered_on_a_terminal_and_the_run_ends_in_order() {
    let mut world = slow_world("progress_signal");

    let told = on_a_terminal_after(&world, "timeout --foreground --preserve-status -s INT 1 ", "xterm", &["--once"]);

    assert!(told.contains("finishing the batches in progress; again to stop at once"), "{told:?}");
    assert!(told.contains("; remaining: "), "{told:?}");
    assert!(world.unsent() > 0, "it was ended before the end");
}
