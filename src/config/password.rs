//! Passwords that stand in files of their own (`password_file`, systemd credentials, libpq's `.pgpass`), or that a command prints.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::PostgresConfig;
use super::credential::{Credential, file_hint, open, read, read_text};
use super::environment::{self, Environment};
use super::file::{Value, is_world_readable};
use super::origin::{Given, Origin};
use super::reader::Section;
use crate::error::{Error, Result};

/// How long a command that prints a password may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// The password that a file holds or a command prints, whichever of the two keys there is.
///
/// # Errors
/// 78 if both are there, or either is refused.
pub fn kept(section: &mut Section<'_>, file: &str, command: &str) -> Result<Option<Given<Credential>>> {
    match (from_file(section, file)?, from_command(section, command)?) {
        (Some(_), Some(given)) => {
            let why = format!("`{}` is set as well", section.place(file));
            Err(given.refuse(why, "keep one of the two"))
        }
        (from_file, from_command) => Ok(from_file.or(from_command)),
    }
}

/// The password in the file named by a key, if there is such a key.
///
/// A relative path is meant from systemd's `$CREDENTIALS_DIRECTORY` where that is set, and otherwise from the
/// configuration file's directory.
///
/// # Errors
/// 78 if the file cannot be read, or does not hold exactly one line.
pub fn from_file(section: &mut Section<'_>, key: &str) -> Result<Option<Given<Credential>>> {
    let Some(given) = section.text(key)? else { return Ok(None) };
    let credentials = section.reader.environment.path(environment::CREDENTIALS_DIRECTORY);
    let base = credentials.unwrap_or_else(|| given.origin.directory());
    let given = given.path(&base)?;
    let path = given.value.as_path();
    read(path).map_err(|why| {
        let secret = match key {
            "url_file" => "the URL",
            "oauth_client_secret_file" => "the client's secret",
            _ => "the password",
        };
        given.refuse(format!("{}: {why}", path.display()), &file_hint(secret))
    })?;
    if path.metadata().is_ok_and(|metadata| is_world_readable(&metadata)) {
        log::warn!(
            "the file {} holds a secret, and every user of this machine may read it: `chmod 600` it",
            path.display()
        );
    }
    let Given { value: path, place, .. } = given;
    Ok(Some(Given { value: Credential::File(path.clone()), place, origin: Origin::PasswordFile(path) }))
}

/// The command in a key, if there is such a key. It is not run yet.
///
/// # Errors
/// 78 if it is no list of words.
fn from_command(section: &mut Section<'_>, key: &str) -> Result<Option<Given<Credential>>> {
    let hint = "write program and arguments as a list: [\"/usr/local/bin/token\", \"--user\", \"pg2ch\"]; it is run without a shell";
    let command = |value| match value {
        Value::List(words) if words.first().is_none_or(String::is_empty) || words.iter().any(|w| w.contains('\0')) => {
            Err("it names no program, or holds a NUL")
        }
        Value::List(words) => Ok(Credential::Command { words, limit: COMMAND_LIMIT }),
        _ => Err("it is not a list of strings"),
    };
    section.take(key).map(|given| given.read(command, hint)).transpose()
}

/// The password that `.pgpass` holds for this connection, as libpq looks it up.
///
/// # Errors
/// 78 if the file exists and cannot be read.
pub fn from_pgpass(section: &Section<'_>, server: &PostgresConfig) -> Result<Option<Given<Credential>>> {
    let Some(path) = pgpass_path(&section.reader.environment) else { return Ok(None) };
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(unreadable(&path, &error.to_string())),
    };
    // A FIFO is not even opened: it may have no writer.
    if !metadata.is_file() {
        return Ok(None);
    }
    if may_be_read_by_others(&metadata) {
        // As libpq: a password that others can read is none.
        log::warn!("{} is ignored because others may read it: `chmod 600` it", path.display());
        return Ok(None);
    }
    let text = open(&path).and_then(read_text).map_err(|why| unreadable(&path, &why))?;
    // As in libpq a password may be listed by host; one is asked for, the first.
    let (host, port) = &server.hosts[0];
    // libpq writes a Unix socket as `localhost` in this file.
    let host = if host.starts_with('/') { "localhost" } else { host };
    let wanted = [host, &port.to_string(), &server.dbname, &server.user];
    let found = text.lines().find_map(|line| password_for(line, wanted)).filter(|password| !password.is_empty());
    let place = section.place("password");
    Ok(found.map(|password| Given { value: Credential::known(password), place, origin: Origin::PasswordFile(path) }))
}

fn pgpass_path(environment: &Environment) -> Option<PathBuf> {
    environment
        .path(environment::PGPASSFILE)
        .or_else(|| environment.path(environment::HOME).map(|home| home.join(".pgpass")))
}

fn unreadable(path: &Path, why: &str) -> Error {
    Error::config(
        format!("cannot read the password file {}", path.display()),
        why,
        "let pg2ch's user read it, or give the password in PGPASSWORD or `password_file`",
    )
}

fn may_be_read_by_others(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.permissions().mode() & 0o077 != 0
}

/// The password of a line `host:port:database:user:password` that fits; `*` fits everything, `\` takes the next
/// character as it is.
fn password_for(line: &str, wanted: [&str; 4]) -> Option<String> {
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.starts_with('#') {
        return None;
    }
    let mut fields = vec![String::new()];
    let mut is_wild = vec![true];
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        let is_escaped = c == '\\';
        let c = if is_escaped { characters.next()? } else { c };
        if c == ':' && !is_escaped && fields.len() < 5 {
            fields.push(String::new());
            is_wild.push(true);
            continue;
        }
        if let (Some(field), Some(wild)) = (fields.last_mut(), is_wild.last_mut()) {
            field.push(c);
            *wild &= !is_escaped && field == "*";
        }
    }
    let fits = |at: usize| fields[at] == wanted[at] || fields[at] == "*" && is_wild[at];
    (fields.len() == 5 && (0..4).all(fits)).then(|| fields.swap_remove(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: [&str; 4] = ["db.example.com", "5432", "app", "writer"];

    #[test]
    fn pgpass_lines_fit_as_in_libpq() {
        for (line, password) in [
            ("db.example.com:5432:app:writer:hunter2", Some("hunter2")),
            ("*:*:*:writer:hunter2", Some("hunter2")),
            ("*:*:*:*:with\\:colon\\\\and backslash", Some("with:colon\\and backslash")),
            ("*:*:*:*:colons:at:the:end", Some("colons:at:the:end")),
            ("\\*:*:*:*:not a wildcard", None),
            ("db.example.com:5433:app:writer:hunter2", None),
            ("#*:*:*:*:comment", None),
            ("*:*:*:hunter2", None),
            ("", None),
        ] {
            assert_eq!(password_for(line, WANTED).as_deref(), password, "{line}");
        }
    }
}
