//! ClickHouse's URL, of one server or several.

use std::fmt;

use super::{Parts, check_host, strip_scheme};
use crate::config::Secret;

/// Where ClickHouse answers. It prints as one URL, with all its hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClickHouseUrl {
    /// `http` or `https`.
    scheme: &'static str,
    /// Each with its port, as URLs write them; at least one.
    pub hosts: Vec<String>,
    /// Without a slash at the end.
    path: String,
}

impl ClickHouseUrl {
    /// Takes `text` apart; also gives the user and the password in it.
    ///
    /// # Errors
    /// The reason, without any part of the URL.
    pub fn parse(text: &str) -> Result<(Self, String, Option<Secret>), String> {
        let (scheme, rest) =
            strip_scheme(text, &["http", "https"]).ok_or("it does not begin with http:// or https://")?;
        let parts = Parts::split(rest)?;
        if let Some(query) = parts.query {
            return Err(if query.split('&').any(|p| p.starts_with("database=")) {
                "it names a database, which belongs in the table's `target = \"database.table\"`".to_owned()
            } else {
                "it has parameters after a `?`, and pg2ch sets every one itself".to_owned()
            });
        }
        if parts.path.chars().any(|c| !c.is_ascii_graphic()) {
            return Err("its path has a character that needs percent-encoding".to_owned());
        }
        let controls = |text: &Option<String>| text.iter().any(|t| t.chars().any(char::is_control));
        if controls(&parts.user) || controls(&parts.password) {
            return Err("the user or the password has a control character".to_owned());
        }
        let hosts = parts.hosts.into_iter().map(shown_host).collect::<Result<_, _>>()?;
        let user = parts.user.filter(|u| !u.is_empty()).unwrap_or_else(|| "default".to_owned());
        let path = parts.path.trim_end_matches('/').to_owned();
        Ok((Self { scheme, hosts, path }, user, parts.password.map(Secret::new)))
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.scheme == "https"
    }

    /// A URL for each host, in their order.
    pub fn each(&self) -> impl Iterator<Item = String> {
        self.hosts.iter().map(|host| format!("{}://{host}{}", self.scheme, self.path))
    }
}

impl fmt::Display for ClickHouseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.hosts.join(","), self.path)
    }
}

/// A host as a URL of ClickHouse writes it.
fn shown_host((name, port): (String, Option<u16>)) -> Result<String, String> {
    if name.is_empty() {
        return Err("it names no host".to_owned());
    }
    check_host(&name, false)?;
    let port = port.map(|p| format!(":{p}")).unwrap_or_default();
    Ok(if name.contains(':') { format!("[{name}]{port}") } else { format!("{name}{port}") })
}
