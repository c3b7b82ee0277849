//! `pg2ch dead-letters`: lists what the target has refused, and sends it again.

use crate::config::Config;
use crate::error::Result;
use crate::exit_code::ExitCode;
use crate::limits::Limits;
use crate::shutdown::Shutdown;

pub fn list(_: &Config, _: bool, _: &Limits, _: &Shutdown) -> Result<(String, ExitCode)> {
    unimplemented!()
}
pub fn replay(_: &Config, _: bool, _: &Limits, _: &Shutdown) -> Result<(String, ExitCode)> {
    unimplemented!()
}
