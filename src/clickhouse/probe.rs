//! Tries rows without storing them: an INSERT into a twin of the target with the engine Null. It evaluates the columns'
//! expressions and constraints, and sees neither partition key nor indexes.

use super::answer::Answer;
use super::encode::FORMAT;
use super::sql::sql_name;
use super::target_table::{ClickHouseTarget, Twin};
use crate::config::TargetName;
use crate::ports::target::{Cause, Inserted};

/// What the twin's name begins with.
const PREFIX: &str = "_pg2ch_probe_";

impl ClickHouseTarget {
    fn twin_name(&self) -> String {
        sql_name(&TargetName { table: format!("{PREFIX}{}", self.name().table), ..self.name().clone() })
    }

    fn does(&self, sql: &str) -> bool {
        matches!(self.http().ask(sql, &[]), Ok(Answer::Ok(_)))
    }

    /// Makes the twin anew, of the columns that the target has now.
    fn make_twin(&mut self) {
        let twin = self.twin_name();
        let made = self.does(&format!("DROP TABLE IF EXISTS {twin}"))
            && self.does(&format!("CREATE TABLE {twin} AS {} ENGINE = Null", self.sql_name()));
        self.twin = if made { Twin::Made } else { Twin::Denied };
        if !made {
            log::debug!("cannot create a twin of {}: refused rows are found by INSERTs alone", self.name());
        }
    }

    pub(super) fn probe_rows(&mut self, body: &[u8]) -> Option<Result<(), String>> {
        if self.twin == Twin::Unmade {
            self.make_twin();
        }
        if self.twin != Twin::Made {
            return None;
        }
        let settings = self.settings().ok()?.insert.clone();
        let sql = format!("INSERT INTO {} FORMAT {FORMAT}", self.twin_name());
        let id = self.query_id("probe");
        let reply = self.http().exchange(&sql, &[settings, vec![("wait_end_of_query", "1")]].concat(), body).ok()?;
        match self.judge("cannot try rows", &reply, &id) {
            Inserted::Stored | Inserted::Unproven => Some(Ok(())),
            Inserted::Refused(refused) if refused.cause == Cause::Rows => {
                let own = self.name().table.clone();
                Some(Err(refused.reason.replace(&format!("{PREFIX}{own}"), &own)))
            }
            _ => None,
        }
    }

    pub(super) fn drop_twin(&mut self) {
        if std::mem::take(&mut self.twin) == Twin::Made
            && !self.does(&format!("DROP TABLE IF EXISTS {}", self.twin_name()))
        {
            log::debug!("cannot drop {}, which is empty and may be dropped by hand", self.twin_name());
        }
    }
}
