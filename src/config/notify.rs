//! `[notify]`: the check that gets a report of each run.

use std::time::Duration;

use super::reader::Reader;
use super::url::http_authority;
use super::{Credential, NotifyConfig, password};
use crate::error::Result;

/// Reads `[notify]`.
///
/// # Errors
/// 78 if a value is refused, or the file that it names cannot be read.
pub fn read(reader: &mut Reader) -> Result<NotifyConfig> {
    let mut section = reader.section("notify");
    let in_file = password::from_file(&mut section, "url_file")?;
    let written = section.text("url")?;
    if let (Some(given), Some(_)) = (&written, &in_file) {
        return Err(given.refuse("`notify.url_file` is set as well", "keep one of the two, best the file"));
    }
    section.reader.file_holds_secret |= written.is_some();
    let given = written.map(|given| given.map(Credential::known)).or(in_file);
    if let Some(given) = &given {
        let hint = "write the check's own URL, such as \"https://hc-ping.com/your-uuid\", without ? or #";
        check(given.value.take()?.reveal()).map_err(|why| given.refuse(why, hint))?;
    }
    section.note_secret("url", given.as_ref());
    let timeout = section.duration("timeout", Duration::from_millis(1), Duration::from_secs(5))?.value;
    Ok(NotifyConfig { url: given.map(|given| given.value), timeout })
}

/// Whether a run can be reported to this URL. The URL itself is in no message.
fn check(url: &str) -> Result<(), &'static str> {
    http_authority(url)?;
    if url.contains(['?', '#']) {
        return Err("what a run reports is appended to it, so it cannot have a query");
    }
    Ok(())
}
