//! The lines at the bottom of a terminal that show how far a run has come: redrawn in place, taken away at the end, and
//! never in the way of a log line.
//!
//! Whatever goes to standard error goes through [`print`], so that it is written where the lines are, and they are drawn
//! again below. Each change is one `write`. The lines are drawn with wrapping turned off, in case the terminal has become
//! narrower since its width was asked for.

use std::io::{IsTerminal as _, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";
const CLEAR_DOWN: &str = "\x1b[J";
const UP: &str = "\x1b[A";

static SCREEN: Mutex<Screen> = Mutex::new(Screen::new());

/// What stands at the bottom.
struct Screen {
    watched: bool,
    lines: Vec<(String, String)>,
    /// How many columns each line took that is drawn.
    drawn: Vec<usize>,
}

fn screen() -> MutexGuard<'static, Screen> {
    SCREEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Allows lines to be drawn, if standard error is a terminal that can do it.
pub fn watch() {
    let can_redraw = std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
    screen().watched = can_redraw && std::io::stderr().is_terminal();
}

/// Whether a terminal is watched.
#[must_use]
pub fn is_watched() -> bool {
    screen().watched
}

/// How many columns the terminal has now; many where that cannot be found out.
#[must_use]
pub fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    size.ok().map(|size| usize::from(size.ws_col)).filter(|&columns| columns > 0).unwrap_or(usize::MAX)
}

/// Shows a line under this name, or takes it away. Does nothing without a terminal.
pub fn show(name: &str, line: Option<String>) {
    let mut screen = screen();
    if screen.watched && screen.set(name, line) {
        let change = screen.redrawn(&[], width());
        // There is nowhere to report a failure to.
        let _ = std::io::stderr().lock().write_all(&change);
    }
}

/// Writes whole lines to standard error, above those at the bottom.
pub fn print(text: &[u8]) {
    let change = screen().redrawn(text, width());
    let _ = std::io::stderr().lock().write_all(&change);
}

/// Standard error for a logger, which writes one record at a time.
pub struct Above;

impl Write for Above {
    fn write(&mut self, record: &[u8]) -> std::io::Result<usize> {
        print(record);
        Ok(record.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Screen {
    const fn new() -> Self {
        Self { watched: false, lines: Vec::new(), drawn: Vec::new() }
    }

    /// Says whether anything has changed.
    fn set(&mut self, name: &str, line: Option<String>) -> bool {
        let place = self.lines.iter().position(|(of, _)| of == name);
        match (place, line) {
            (None, None) => false,
            (None, Some(line)) => {
                self.lines.push((name.to_owned(), line));
                true
            }
            (Some(place), None) => {
                self.lines.remove(place);
                true
            }
            (Some(place), Some(line)) => {
                let changed = self.lines[place].1 != line;
                self.lines[place].1 = line;
                changed
            }
        }
    }

    /// What to write so that `text` stands where the lines were, and the lines below it. A terminal that has become narrower
    /// has wrapped the lines that were drawn.
    fn redrawn(&mut self, text: &[u8], width: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let rows: usize = self.drawn.iter().map(|columns| columns.div_ceil(width).max(1)).sum();
        if rows > 0 {
            out.push(b'\r');
            out.extend(UP.repeat(rows - 1).bytes());
            out.extend(CLEAR_DOWN.bytes());
        }
        out.extend(text);
        let lines: Vec<&str> = self.lines.iter().map(|(_, line)| line.as_str()).collect();
        if !lines.is_empty() {
            out.extend(format!("{NO_WRAP}{}{WRAP}", lines.join("\r\n")).bytes());
        }
        self.drawn = lines.iter().map(|line| line.chars().count()).collect();
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_log_line_is_written_where_the_lines_were_and_they_come_again_below() {
        let mut screen = Screen::new();
        assert_eq!(text(screen.redrawn(b"one\n", 80)), "one\n");
        assert!(screen.set("a", Some("1 row".into())));
        assert_eq!(text(screen.redrawn(b"", 80)), format!("{NO_WRAP}1 row{WRAP}"));
        assert_eq!(text(screen.redrawn(b"two\n", 80)), format!("\r{CLEAR_DOWN}two\n{NO_WRAP}1 row{WRAP}"));
        assert!(screen.set("a", None));
        assert_eq!(text(screen.redrawn(b"", 80)), format!("\r{CLEAR_DOWN}"));
        assert_eq!(text(screen.redrawn(b"three\n", 80)), "three\n");
    }

    #[test]
    fn several_tables_have_a_line_each() {
        let mut screen = Screen::new();
        assert!(screen.set("a", Some("1".into())) && screen.set("b", Some("2".into())));
        assert_eq!(text(screen.redrawn(b"", 80)), format!("{NO_WRAP}1\r\n2{WRAP}"));
        assert!(!screen.set("b", Some("2".into())), "nothing has changed");
        assert!(screen.set("a", None));
        assert_eq!(text(screen.redrawn(b"", 80)), format!("\r{UP}{CLEAR_DOWN}{NO_WRAP}2{WRAP}"));
    }

    #[test]
    fn lines_that_a_narrower_terminal_has_wrapped_are_taken_away_whole() {
        let mut screen = Screen::new();
        assert!(screen.set("a", Some("x".repeat(70))) && screen.set("b", Some("y".repeat(20))));
        screen.redrawn(b"", 80);
        assert!(screen.set("a", Some("x".into())) && screen.set("b", Some("y".into())));
        let up = UP.repeat(3);
        assert_eq!(text(screen.redrawn(b"", 30)), format!("\r{up}{CLEAR_DOWN}{NO_WRAP}x\r\ny{WRAP}"));
        assert_eq!(text(screen.redrawn(b"", 30)), format!("\r{UP}{CLEAR_DOWN}{NO_WRAP}x\r\ny{WRAP}"));
    }
}
