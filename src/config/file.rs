//! The configuration file: found, read, and taken apart into entries that know their line. Only keys are checked here.
//!
//! Nothing of the file but its keys ever reaches a message: a line that cannot be parsed may well hold a password.

use std::collections::BTreeMap;
use std::fs::File as OsFile;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::environment::{self, Environment};
use super::origin::{Given, Origin};
use super::value;
use crate::error::{Error, Result};

/// Where a configuration file is looked for when none is named.
pub const SEARCHED: &[&str] = &["pg2ch.toml", "/etc/pg2ch/pg2ch.toml"];

/// The keys of each section.
const SECTIONS: &[(&str, &str)] = &[
    ("postgres", "url password_file password_command pause_percent max_replication_lag"),
    (
        "kafka",
        "brokers sasl_password_file sasl_password_command oauth_token_url oauth_client_id oauth_client_secret_file \
         oauth_client_secret_command oauth_scope transactional transactional_prefix properties",
    ),
    ("clickhouse", "url password_file password_command ca_cert"),
    ("batch", "rows bytes insert_rows insert_bytes"),
    ("timeouts", "connect postgres row_lock kafka stable clickhouse give_up"),
    ("retry", "attempts pause max_pause"),
    ("metrics", "textfile"),
    ("notify", "url url_file timeout"),
    ("run", "jobs log_format"),
];

/// The keys of a `[[table]]`.
const TABLE_KEYS: &str = "\
    source key flag where columns exclude topic target group on_bad_row max_dead_letters max_rows_per_second rename \
    ignore allow_lossy allow_engine deleted keep headers message_key order_by metadata_columns";

/// The largest file that is read: a configuration is a page of text, and a device has no end.
const LARGEST: u64 = 1 << 20;

/// One value as it stands in the file.
pub enum Value {
    /// A string.
    Text(String),
    /// A whole number.
    Whole(i64),
    /// `true` or `false`.
    Truth(bool),
    /// An array of strings.
    List(Vec<String>),
    /// A table of strings, in the order of the file.
    Pairs(Vec<(String, String)>),
    /// Something that no key takes; the word for it.
    Other(&'static str),
}

impl Value {
    /// What it is, in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Whole(_) => "a number",
            Self::Truth(_) => "true or false",
            Self::List(_) => "a list",
            Self::Pairs(_) => "a section",
            Self::Other(word) => word,
        }
    }

    /// `"a"`.
    ///
    /// # Errors
    /// What it is instead, as from those below.
    pub fn text(self) -> Result<String, String> {
        match self {
            Self::Text(text) => Ok(text),
            other => Err(format!("it is {}, not a string", other.kind())),
        }
    }

    /// `true` or `false`.
    pub fn truth(self) -> Result<bool, String> {
        match self {
            Self::Truth(truth) => Ok(truth),
            other => Err(format!("it is {}", other.kind())),
        }
    }

    /// `"a"`, or `["a", "b"]`: names of columns.
    pub fn columns(self) -> Result<Vec<String>, String> {
        let columns = match self {
            Self::Text(column) => vec![column],
            Self::List(columns) => columns,
            other => return Err(format!("it is {}", other.kind())),
        };
        columns.iter().try_for_each(|column| value::column(column))?;
        Ok(columns)
    }

    /// `{ a = "b" }`.
    pub fn pairs(self) -> Result<Vec<(String, String)>, String> {
        match self {
            Self::Pairs(pairs) => Ok(pairs),
            other => Err(format!("it is {}", other.kind())),
        }
    }
}

/// A configuration file.
#[derive(Default)]
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// What it says, by place: `batch.rows`, `table[0].topic`. Taken out one by one.
    pub entries: BTreeMap<String, Given<Value>>,
    /// `[kafka.properties]` by name, the names of nested tables joined by dots.
    pub properties: BTreeMap<String, Given<Value>>,
    /// The headers of the `[[table]]` sections, in order.
    pub tables: Vec<Origin>,
    /// Whether users other than its owner and group may read it.
    pub is_world_readable: bool,
}

/// Reads the file that is named by the flag or by the environment, or else the first one that exists in `searched`.
///
/// # Errors
/// 78 if it cannot be read or parsed, or holds a key that pg2ch does not know.
pub fn find(flag: Option<&Path>, environment: &Environment, searched: &[PathBuf]) -> Result<Option<(File, Origin)>> {
    if let Some(path) = flag {
        return Ok(Some((read(path)?, Origin::Flag("--config"))));
    }
    if let Some(path) = environment.path(environment::CONFIG) {
        return Ok(Some((read(&path)?, Origin::Environment(environment::CONFIG))));
    }
    for path in searched {
        match OsFile::open(path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            // One that exists and cannot be read is not passed over: the defaults would run against other servers.
            _ => return Ok(Some((read(path)?, Origin::Found))),
        }
    }
    Ok(None)
}

fn read(path: &Path) -> Result<File> {
    let fail = |why: &dyn std::fmt::Display| {
        Error::config(
            format!("cannot read the configuration file {}", path.display()),
            why,
            "check its path and permissions; `pg2ch config generate` prints one to start from",
        )
    };
    let opened = OsFile::open(path).map_err(|e| fail(&e))?;
    let metadata = opened.metadata().map_err(|e| fail(&e))?;
    if metadata.is_dir() {
        return Err(fail(&"it is a directory"));
    }
    let mut bytes = Vec::new();
    opened.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|e| fail(&e))?;
    if bytes.len() as u64 > LARGEST {
        return Err(fail(&"it is larger than 1 MiB"));
    }
    let text = String::from_utf8(bytes).map_err(|_| fail(&"it is not UTF-8"))?;
    let mut file = parse(path, &text)?;
    file.is_world_readable = is_world_readable(&metadata);
    Ok(file)
}

/// Whether any user of this machine may read the file.
pub fn is_world_readable(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.is_file() && metadata.permissions().mode() & 0o004 != 0
}

/// Takes `text` apart; `path` is for messages.
///
/// # Errors
/// 78 if it is no TOML, or holds a key that pg2ch does not know.
fn parse(path: &Path, text: &str) -> Result<File> {
    let root = DeTable::parse(text).map_err(|error| {
        // Never the error itself: it shows the line.
        let line = error.span().map(|span| format!(", line {}", line_of(text, span.start))).unwrap_or_default();
        Error::config(
            format!("cannot parse the configuration file {}{line}", path.display()),
            error.message(),
            "fix that line; strings need quotes (`rows = 10000`, `topic = \"user_logins\"`, `connect = \"5s\"`)",
        )
    })?;
    let mut parser = Parser { text, file: File { path: path.to_owned(), ..File::default() } };
    parser.sections(root.into_inner())?;
    Ok(parser.file)
}

fn line_of(text: &str, position: usize) -> usize {
    text.bytes().take(position).filter(|byte| *byte == b'\n').count() + 1
}

struct Parser<'t> {
    text: &'t str,
    file: File,
}

impl Parser<'_> {
    fn sections(&mut self, root: DeTable<'_>) -> Result<()> {
        for (name, value) in root {
            let origin = self.origin(name.span().start);
            let name = name.get_ref().as_ref();
            if name == "table" {
                self.tables(&origin, value.into_inner())?;
                continue;
            }
            let Some((_, keys)) = SECTIONS.iter().find(|(known, _)| *known == name) else {
                return Err(unknown_section(name, &origin));
            };
            let DeValue::Table(section) = value.into_inner() else {
                let why = "it is a section of keys, not a value";
                return Err(origin.refuse(name, why, &format!("write it as [{name}]")));
            };
            self.section(&format!("[{name}]"), name, section, keys)?;
        }
        Ok(())
    }

    fn tables(&mut self, header: &Origin, value: DeValue<'_>) -> Result<()> {
        let wrong = || {
            let why = "a table to move is written in double brackets";
            header.refuse("table", why, "write its header as [[table]]")
        };
        let DeValue::Array(array) = value else { return Err(wrong()) };
        for (at, item) in array.into_iter().enumerate() {
            let origin = self.origin(item.span().start);
            let DeValue::Table(table) = item.into_inner() else { return Err(wrong()) };
            self.section("[[table]]", &format!("table[{at}]"), table, TABLE_KEYS)?;
            self.file.tables.push(origin);
        }
        Ok(())
    }

    fn section(&mut self, header: &str, place: &str, table: DeTable<'_>, keys: &str) -> Result<()> {
        for (key, value) in table {
            let origin = self.origin(key.span().start);
            let key = key.get_ref().as_ref();
            if !value::is_one_of(keys, key) {
                return Err(unknown_key(header, key, &origin, keys));
            }
            if key == "properties" {
                self.flatten("", &origin, value)?;
            } else {
                let place = format!("{place}.{key}");
                let given = Given { value: simplify(value.into_inner()), place: place.clone(), origin };
                self.file.entries.insert(place, given);
            }
        }
        Ok(())
    }

    /// Without quotes, `security.protocol = "SSL"` is a table in a table to TOML, and one property to everybody else.
    fn flatten(&mut self, name: &str, origin: &Origin, value: Spanned<DeValue<'_>>) -> Result<()> {
        let DeValue::Table(table) = value.into_inner() else {
            let why = "it is a section of keys, not a value";
            return Err(origin.refuse("kafka.properties", why, "write it as [kafka.properties]"));
        };
        for (key, value) in table {
            let origin = self.origin(key.span().start);
            let key = if name.is_empty() { key.get_ref().to_string() } else { format!("{name}.{}", key.get_ref()) };
            if matches!(value.get_ref(), DeValue::Table(_)) {
                self.flatten(&key, &origin, value)?;
                continue;
            }
            let place = format!("kafka.properties.{key}");
            if self.file.properties.contains_key(&key) {
                return Err(origin.refuse(shown(&place), "it is set twice", "keep one of the two"));
            }
            self.file.properties.insert(key, Given { value: simplify(value.into_inner()), place, origin });
        }
        Ok(())
    }

    fn origin(&self, position: usize) -> Origin {
        Origin::File { path: self.file.path.clone(), line: line_of(self.text, position) }
    }
}

fn unknown_section(name: &str, origin: &Origin) -> Error {
    if let Some(section) = section_with(name) {
        return origin.refuse(shown(name), "this key belongs in a section", &format!("move it under [{section}]"));
    }
    let known = SECTIONS.iter().map(|(known, _)| *known).chain(["table"]);
    let hint = match value::nearest(name, known) {
        Some("table") => "did you mean [[table]]?",
        Some(near) => &format!("did you mean [{near}]?"),
        None => {
            "the sections are [postgres], [kafka], [kafka.properties], [clickhouse], [batch], [timeouts], [retry], \
             [metrics], [notify], [run] and [[table]]"
        }
    };
    origin.refuse(shown(name), "unknown section", hint)
}

fn unknown_key(header: &str, key: &str, origin: &Origin, keys: &str) -> Error {
    let hint = match (value::nearest(key, keys.split(' ')), section_with(key)) {
        (Some(near), _) => format!("did you mean `{near}`? `pg2ch config generate` shows every key"),
        (None, Some(other)) => format!("`{key}` is a key of [{other}]"),
        (None, None) => format!("the keys of {header} are {}", keys.replace(' ', ", ")),
    };
    origin.refuse(shown(key), format!("{header} has no such key"), &hint)
}

/// The section that has a key of this name.
fn section_with(key: &str) -> Option<&'static str> {
    SECTIONS.iter().find(|(_, keys)| value::is_one_of(keys, key)).map(|(section, _)| *section)
}

/// A key as a message has it. A quoted one can be anything, and so may be a line that went astray.
fn shown(key: &str) -> &str {
    let is_key = key.len() <= 80 && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if is_key { key } else { "…" }
}

fn simplify(value: DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Whole(number),
            Err(_) => Value::Other("a number beyond 64 bits"),
        },
        DeValue::Boolean(truth) => Value::Truth(truth),
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Datetime(_) => Value::Other("a date or time"),
        DeValue::Table(table) => {
            let mut entries: Vec<_> = table.into_iter().collect();
            entries.sort_by_key(|(key, _)| key.span().start);
            let pairs = entries.into_iter().map(|(key, value)| match value.into_inner() {
                DeValue::String(text) => Some((key.into_inner().into_owned(), text.into_owned())),
                _ => None,
            });
            pairs.collect::<Option<_>>().map_or(Value::Other("a section that holds more than strings"), Value::Pairs)
        }
        DeValue::Array(items) => {
            let texts = items.into_iter().map(|item| match item.into_inner() {
                DeValue::String(text) => Some(text.into_owned()),
                _ => None,
            });
            texts.collect::<Option<_>>().map_or(Value::Other("an array that holds more than strings"), Value::List)
        }
    }
}
