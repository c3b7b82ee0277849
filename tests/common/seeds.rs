//! Many numbered cases, several at a time; which ones, the environment may say.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Does it for each number, so many at a time; the first failure ends it.
pub fn side_by_side(threads: usize, numbers: Range<u64>, each: impl Fn(u64) -> Result<(), String> + Sync) {
    let next = AtomicU64::new(numbers.start);
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= numbers.end {
                        break;
                    }
                    if let Err(why) = each(number) {
                        next.store(numbers.end, Ordering::Relaxed);
                        failed.lock().unwrap().get_or_insert(why);
                    }
                }
            });
        }
    });
    if let Some(why) = failed.into_inner().unwrap() {
        panic!("{why}");
    }
}

/// One number from the environment.
pub fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Two numbers from the environment, with a separator between them.
pub fn numbers(variable: &str, separator: &str) -> Option<(u64, u64)> {
    let text = std::env::var(variable).ok()?;
    let (one, other) = text.split_once(separator).unwrap_or_else(|| panic!("{variable}: no {separator} in {text}"));
    Some((one.parse().expect("a number"), other.parse().expect("a number")))
}
