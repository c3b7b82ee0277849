//! Whether a server's clock and this machine's agree.
//!
//! Kafka's cannot be queried: a broker shows its time only in records that it stamps, and a check writes none.

use std::ops::RangeInclusive;
use std::time::SystemTime;

use super::finding::Findings;

/// Clocks that are further apart are worth a word.
const SKEW_SECONDS: f64 = 5.0;

/// This machine's time, in seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Compares a server's time with this machine's before the question and after the answer.
pub fn compare(server: f64, here: RangeInclusive<f64>, why: &str, findings: &mut Findings) {
    // Whatever the answer took lies between the two readings: only what lies outside is skew.
    let skew = if server < *here.start() { server - here.start() } else { (server - here.end()).max(0.0) };
    if skew.abs() > SKEW_SECONDS {
        findings.warning(
            "clock-skew",
            format!("the server's clock is {skew:+.0} s away from this machine's"),
            why,
            "timedatectl set-ntp true    # there and here",
        );
    }
}
