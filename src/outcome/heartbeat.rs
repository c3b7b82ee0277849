//! What `--every` logs without a terminal: a line for each run that moved something, and one an hour, so that a container's log
//! shows that it lives.

use std::time::{Duration, Instant};

use crate::numbers::counted;
use crate::report::RunReport;

/// How long it is silent at most.
const SILENCE: Duration = Duration::from_secs(3600);

/// The runs since the last line.
#[derive(Debug, Default)]
pub struct Heartbeat {
    runs: u64,
    spoken: Option<Instant>,
}

impl Heartbeat {
    /// What is to be said after a run that succeeded, if anything is.
    pub fn line(&mut self, report: &RunReport, now: Instant) -> Option<String> {
        self.runs += 1;
        let is_silent = self.spoken.is_some_and(|spoken| now.saturating_duration_since(spoken) < SILENCE);
        let line = match (report.moved_something(), is_silent) {
            (true, _) => report.summary(),
            (false, true) => return None,
            (false, false) => {
                format!("{} since the last line, nothing to move", counted(self.runs, "run"))
            }
        };
        *self = Self { runs: 0, spoken: Some(now) };
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{ProduceReport, TableReport};

    fn report(records_sent: u64) -> RunReport {
        let produce = Some(ProduceReport { records_sent, ..ProduceReport::default() });
        let table = TableReport {
            source: "public.t".into(),
            topic: "t".into(),
            target: "a.t".into(),
            produce,
            consume: None,
            pruned: 0,
            error: None,
            left: crate::report::Left::default(),
            seconds: 0.1,
        };
        RunReport { tables: vec![table], not_begun: Vec::new(), seconds: 0.1 }
    }

    #[test]
    fn it_speaks_at_first_when_something_moved_and_once_an_hour() {
        let (mut heartbeat, start) = (Heartbeat::default(), Instant::now());
        let mut said = |minutes: u64, sent| heartbeat.line(&report(sent), start + Duration::from_secs(60 * minutes));
        assert_eq!(said(0, 0).unwrap(), "1 run since the last line, nothing to move");
        assert_eq!(said(1, 0), None);
        assert!(said(2, 5).unwrap().contains("5 rows sent"));
        assert_eq!(said(61, 0), None);
        assert_eq!(said(62, 0).unwrap(), "2 runs since the last line, nothing to move");
    }
}
