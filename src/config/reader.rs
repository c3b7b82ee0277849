//! Takes one value after the other from environment, file or defaults, checks it, and notes where it came from.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::environment::Environment;
use super::file::{Entry, File, Section, Value};
use super::origin::{Origin, Setting};
use super::value;
use crate::error::{Error, Result};

/// The longest time that any limit may be set to.
const LONGEST: Duration = Duration::from_secs(3600);

/// A value and where it came from.
pub struct Given<T> {
    /// The value.
    pub value: T,
    /// Where it came from.
    pub origin: Origin,
}

/// What is known while the configuration is put together.
pub struct Reader {
    /// The configuration file, its entries taken out one by one.
    pub file: Option<File>,
    /// The environment variables.
    pub environment: Environment,
    /// What `config show` prints.
    pub settings: Vec<Setting>,
    /// Whether the file holds a password.
    pub file_holds_secret: bool,
}

impl Reader {
    /// Takes `section.key` out of the file.
    pub fn entry(&mut self, section: &str, key: &str) -> Option<(Entry, Origin)> {
        let file = self.file.as_mut()?;
        let entry = file.sections.get_mut(section)?.remove(key)?;
        let origin = file.origin(entry.line);
        Some((entry, origin))
    }

    /// Notes an effective value.
    pub fn note(&mut self, key: impl Into<String>, value: impl Into<String>, origin: &Origin) {
        self.settings.push(Setting { key: key.into(), value: value.into(), origin: origin.clone() });
    }

    /// A text from the environment variable `name`, or from the file. Not noted: it may hold a password.
    pub fn given_text(
        &mut self,
        section: &str,
        key: &str,
        name: Option<&'static str>,
    ) -> Result<Option<Given<String>>> {
        let from_file = match self.entry(section, key) {
            Some((entry, origin)) => {
                let value = text(&place(section, key), &origin, entry.value)?;
                Some(Given { value, origin })
            }
            None => None,
        };
        if let Some(name) = name
            && let Some(value) = self.environment.text(name)?
        {
            return Ok(Some(Given { value, origin: Origin::Environment(name) }));
        }
        Ok(from_file)
    }

    /// The same, where the file may also have a list of texts; they are joined by commas.
    pub fn given_list(
        &mut self,
        section: &str,
        key: &str,
        name: Option<&'static str>,
    ) -> Result<Option<Given<String>>> {
        if let Some(Entry { value, .. }) =
            self.file.as_mut().and_then(|file| file.sections.get_mut(section)?.get_mut(key))
            && let Value::List(texts) = value
        {
            *value = Value::Text(texts.join(","));
        }
        self.given_text(section, key, name)
    }

    /// A path from the file; a relative one is meant from the file's directory.
    pub fn path(&mut self, section: &str, key: &str) -> Result<Option<Given<PathBuf>>> {
        let place = place(section, key);
        let Some(given) = self.given_text(section, key, None)? else {
            self.note(place, "", &Origin::Default);
            return Ok(None);
        };
        if given.value.is_empty() {
            return Err(refuse(&place, &given.origin, "it is empty", "name a file, or leave the key out"));
        }
        let path = given.origin.directory().join(&given.value);
        self.note(place, path.display().to_string(), &given.origin);
        Ok(Some(Given { value: path, origin: given.origin }))
    }

    /// A file that is read and replaced. A FIFO would keep a run waiting at its end.
    pub fn file_to_replace(&mut self, section: &str, key: &str) -> Result<Option<PathBuf>> {
        let Some(Given { value: path, origin }) = self.path(section, key)? else { return Ok(None) };
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            let why = format!("{} is not a regular file", path.display());
            let hint = "name a file that pg2ch may replace, or one that does not exist yet";
            return Err(refuse(&place(section, key), &origin, why, hint));
        }
        Ok(Some(path))
    }

    /// A duration of at least `shortest` and at most an hour.
    pub fn duration(
        &mut self,
        section: &str,
        key: &str,
        shortest: Duration,
        default: Duration,
    ) -> Result<Given<Duration>> {
        let place = place(section, key);
        let Some((entry, origin)) = self.entry(section, key) else {
            self.note(place, show_duration(default), &Origin::Default);
            return Ok(Given { value: default, origin: Origin::Default });
        };
        let (least, example) = (show_duration(shortest), show_duration(default));
        let value = match entry.value {
            Value::Text(text) => value::duration(&text).map_err(|why| format!("{text:?} {why}")),
            other => Err(format!("it is {}, not a duration in quotes", kind(&other))),
        };
        let value = value.and_then(|value| {
            let fits = value >= shortest && value <= LONGEST && value.subsec_nanos() % 1_000_000 == 0;
            if fits {
                Ok(value)
            } else {
                Err(format!("{} is not from {least} to 1h in whole milliseconds", show_duration(value)))
            }
        });
        let hint = format!("write it with its unit, from {least} to 1h: `{key} = \"{example}\"`");
        let value = value.map_err(|why| refuse(&place, &origin, why, &hint))?;
        self.note(place, show_duration(value), &origin);
        Ok(Given { value, origin })
    }

    /// What `read` makes of a key; `None` where the file does not have it.
    pub fn optional<T>(
        &mut self,
        section: &str,
        key: &str,
        read: impl FnOnce(&mut Self, &str, &str) -> Result<T>,
    ) -> Result<Option<T>> {
        let section_of = |file: &File| file.sections.get(section).is_some_and(|keys| keys.contains_key(key));
        if self.file.as_ref().is_some_and(section_of) {
            return read(self, section, key).map(Some);
        }
        self.note(place(section, key), "", &Origin::Default);
        Ok(None)
    }

    /// A whole number within `range`.
    pub fn whole(&mut self, section: &str, key: &str, range: RangeInclusive<u64>, default: u64) -> Result<u64> {
        let entry = self.entry(section, key);
        let (value, origin) = whole(&place(section, key), entry, range, default)?;
        self.note(place(section, key), value.to_string(), &origin);
        Ok(value)
    }

    /// A number of bytes within `range`.
    pub fn bytes(&mut self, section: &str, key: &str, range: RangeInclusive<u64>, default: u64) -> Result<u64> {
        let place = place(section, key);
        let Some((entry, origin)) = self.entry(section, key) else {
            self.note(place, value::show_bytes(default), &Origin::Default);
            return Ok(default);
        };
        let hint = format!(
            "give a number from {} to {}, such as `{key} = \"{}\"`",
            value::show_bytes(*range.start()),
            value::show_bytes(*range.end()),
            value::show_bytes(default)
        );
        let bytes = match entry.value {
            Value::Whole(number) => u64::try_from(number).map_err(|_| "it is negative".to_owned()),
            Value::Text(text) => value::byte_size(&text).map_err(|why| format!("{text:?} {why}")),
            other => Err(format!("it is {}, not a number of bytes", kind(&other))),
        };
        let bytes = bytes.map_err(|why| refuse(&place, &origin, why, &hint))?;
        if !range.contains(&bytes) {
            return Err(refuse(&place, &origin, format!("{} is out of range", value::show_bytes(bytes)), &hint));
        }
        self.note(place, value::show_bytes(bytes), &origin);
        Ok(bytes)
    }

    /// `true` or `false`.
    pub fn truth(&mut self, section: &str, key: &str, default: bool) -> Result<bool> {
        let entry = self.entry(section, key);
        let (truth, origin) = truth(&place(section, key), entry, default)?;
        self.note(place(section, key), truth.to_string(), &origin);
        Ok(truth)
    }
}

/// The text of an entry.
pub fn text(place: &str, origin: &Origin, value: Value) -> Result<String> {
    match value {
        Value::Text(text) => Ok(text),
        other => Err(refuse(place, origin, format!("it is {}, not a string", kind(&other)), "put its value in quotes")),
    }
}

/// The whole number of an entry, or `default`.
pub fn whole(
    place: &str,
    entry: Option<(Entry, Origin)>,
    range: RangeInclusive<u64>,
    default: u64,
) -> Result<(u64, Origin)> {
    let Some((entry, origin)) = entry else { return Ok((default, Origin::Default)) };
    let hint = format!(
        "give a whole number from {} to {}, without quotes; the default is {default}",
        range.start(),
        range.end()
    );
    match entry.value {
        Value::Whole(number) => match u64::try_from(number) {
            Ok(number) if range.contains(&number) => Ok((number, origin)),
            _ => Err(refuse(place, &origin, format!("{number} is out of range"), &hint)),
        },
        other => Err(refuse(place, &origin, format!("it is {}, not a whole number", kind(&other)), &hint)),
    }
}

/// `["a", "b"]`, or `"a"`: names of columns.
pub fn column_names(place: &str, origin: &Origin, value: Value, hint: &str) -> Result<Vec<String>> {
    let columns = match value {
        Value::Text(column) => vec![column],
        Value::List(columns) => columns,
        other => return Err(refuse(place, origin, format!("it is {}", kind(&other)), hint)),
    };
    match columns.iter().find_map(|column| value::column(column).err()) {
        Some(why) => Err(refuse(place, origin, why, hint)),
        None => Ok(columns),
    }
}

/// `true` or `false`, or `default`.
pub fn truth(place: &str, entry: Option<(Entry, Origin)>, default: bool) -> Result<(bool, Origin)> {
    match entry {
        None => Ok((default, Origin::Default)),
        Some((Entry { value: Value::Truth(truth), .. }, origin)) => Ok((truth, origin)),
        Some((entry, origin)) => {
            let why = format!("it is {}", kind(&entry.value));
            Err(refuse(place, &origin, why, "write `true` or `false`, without quotes"))
        }
    }
}

/// The refusal of one value.
pub fn refuse(place: &str, origin: &Origin, why: impl std::fmt::Display, hint: &str) -> Error {
    Error::config(format!("cannot accept `{place}` ({origin})"), why, hint)
}

/// A section's entry, taken out, with its origin.
pub fn take(file: &File, section: &mut Section, key: &str) -> Option<(Entry, Origin)> {
    let entry = section.remove(key)?;
    let origin = file.origin(entry.line);
    Some((entry, origin))
}

/// What a value is, in words.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Text(_) => "a string",
        Value::Whole(_) => "a number",
        Value::Truth(_) => "true or false",
        Value::List(_) => "a list",
        Value::Pairs(_) => "a section",
        Value::Other(word) => word,
    }
}

/// `section.key`.
pub fn place(section: &str, key: &str) -> String {
    format!("{section}.{key}")
}

/// A duration as the file takes it.
pub fn show_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}
