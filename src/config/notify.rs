//! `[notify]`: the check that gets a report of each run.

use std::time::Duration;

use super::origin::Origin;
use super::reader::{Reader, refuse};
use super::url::http_authority;
use super::{Credential, NotifyConfig, Secret, password};
use crate::error::Result;

/// Reads `[notify]`.
///
/// # Errors
/// 78 if a value is refused, or the file that it names cannot be read.
pub fn read(reader: &mut Reader) -> Result<NotifyConfig> {
    let hint = "write the check's own URL, such as \"https://hc-ping.com/your-uuid\", without ? or #";
    let in_file = password::from_file(reader, "notify", "url_file")?;
    let written = reader.given_text("notify", "url", None)?;
    if let (Some(given), Some(_)) = (&written, &in_file) {
        return Err(refuse(
            "notify.url",
            &given.origin,
            "`notify.url_file` is set as well",
            "keep one of the two, best the file",
        ));
    }
    let url = match written {
        Some(given) => {
            reader.file_holds_secret = true;
            check(&given.value).map_err(|why| refuse("notify.url", &given.origin, why, hint))?;
            reader.note("notify.url", Secret::default().to_string(), &given.origin);
            Some(Credential::from(Secret::new(given.value)))
        }
        None => {
            if let Some(given) = &in_file {
                check(given.value.take()?.reveal())
                    .map_err(|why| refuse("notify.url_file", &given.origin, why, hint))?;
            }
            let origin = in_file.as_ref().map_or(Origin::Default, |given| given.origin.clone());
            let shown = if in_file.is_some() { Secret::default().to_string() } else { String::new() };
            reader.note("notify.url", shown, &origin);
            in_file.map(|given| given.value)
        }
    };
    let timeout = reader.duration("notify", "timeout", Duration::from_millis(1), Duration::from_secs(5))?.value;
    Ok(NotifyConfig { url, timeout })
}

/// Whether a run can be reported to this URL. The URL itself is in no message.
fn check(url: &str) -> Result<(), &'static str> {
    http_authority(url)?;
    if url.contains(['?', '#']) {
        return Err("what a run reports is appended to it, so it cannot have a query");
    }
    Ok(())
}
