//! Reports each run's start and end to a check, as healthchecks.io and its kind have them.
//!
//! `URL/start` when it starts; at its end `URL/EXIT-CODE`, with the end of what the run had to say. Nothing of it makes a run fail, or
//! wait longer than the time limit of `[notify]` for each of the two reports.

use std::thread::JoinHandle;

use ureq::Agent;

use crate::certificates;
use crate::config::{NotifyConfig, Secret};
use crate::error::{Error, ExitCode, Result};
use crate::report::RunReport;
use crate::sync;
use crate::threads::beside;

/// The most of a run's words that is sent: healthchecks.io keeps no more.
const LARGEST: usize = 10_000;

/// A run that is reported.
pub struct Reported<'a> {
    config: &'a NotifyConfig,
    /// The report of the start, which the run did not wait for.
    start: Option<JoinHandle<()>>,
}

impl<'a> Reported<'a> {
    /// Reports that a run starts. The run goes on meanwhile.
    #[must_use]
    pub fn start(config: &'a NotifyConfig) -> Self {
        let start = config.url.is_some().then(|| {
            let config = config.clone();
            sync::spawn("notify", move || warn(send(&config, "start", "")))
        });
        Self { config, start: start.and_then(std::io::Result::ok) }
    }

    /// Reports how it ended. A run that found another one at work has nothing to report: the other one does.
    pub fn end(self, report: &RunReport) {
        if self.config.url.is_none() {
            return;
        }
        let code = report.exit_code();
        let how = if code == ExitCode::Locked { "log".to_owned() } else { code.code().to_string() };
        let text = said(report);
        let (config, start) = (self.config.clone(), self.start);
        // What the name's look-up or a handshake might take is not all limited by the client: the wait here is.
        let late = || Some(unreported("no answer in time"));
        warn(beside("notify", config.timeout * 2, late, move || {
            // The end must not overtake the start.
            if let Some(start) = start {
                let _ = start.join();
            }
            send(&config, &how, &text)
        }));
    }
}

fn warn(sent: Result<()>) {
    if let Err(error) = sent {
        log::warn!("{}: {}", error.what(), error.why());
    }
}

fn unreported(why: impl std::fmt::Display) -> Error {
    Error::unavailable(
        "cannot report the run to the URL of [notify]",
        why,
        "check the URL of [notify] and the way to its server",
    )
}

/// The end of what a run has to say, for a person.
fn said(report: &RunReport) -> String {
    let errors = report.errors().into_iter().map(|error| format!("error: {error}"));
    let text = errors.chain([report.summary()]).collect::<Vec<_>>().join("\n");
    let mut from = text.len().saturating_sub(LARGEST);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].to_owned()
}

fn send(config: &NotifyConfig, how: &str, text: &str) -> Result<()> {
    let Some(url) = &config.url else { return Ok(()) };
    let url: Secret = url.take()?;
    let agent: Agent = Agent::config_builder()
        .max_redirects(0)
        .timeout_global(Some(config.timeout))
        .tls_config(certificates::system_tls())
        .user_agent(concat!("pg2ch/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent();
    let sent = agent.post(format!("{}/{how}", url.reveal().trim_end_matches('/'))).send(text);
    match sent {
        Ok(answer) if answer.status().is_success() => Ok(()),
        // A redirect has not reported anything.
        Ok(answer) => Err(unreported(format!("http status: {}", answer.status().as_u16()))),
        // The client's own words may repeat the URL.
        Err(ureq::Error::BadUri(_) | ureq::Error::InvalidProxyUrl) => Err(unreported("the URL cannot be used")),
        Err(other) => Err(unreported(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_text_is_sent() {
        let mut report = RunReport { tables: Vec::new(), not_begun: Vec::new(), seconds: 0.0 };
        report.not_begun = (0..2000).map(|number| format!("public.té{number}")).collect();
        let text = said(&report);
        assert!(text.len() <= LARGEST && text.contains("té1999"), "{}", text.len());
    }
}
