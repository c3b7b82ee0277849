//! Reads the keys of a section one after the other: takes each out of the file, checks it, and notes where it came from.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::environment::Environment;
use super::file::{File, Value};
use super::origin::{Given, Origin, Setting};
use super::{Secret, value};
use crate::error::{Error, Result};

/// The longest time that any limit may be set to.
const LONGEST: Duration = Duration::from_secs(3600);

/// What to write for `true` or `false`.
pub const TRUTH_HINT: &str = "write `true` or `false`, without quotes";

/// What is known while the configuration is put together.
#[derive(Default)]
pub struct Reader {
    /// The configuration file, its entries taken out one by one. Empty if there is none.
    pub file: File,
    /// The environment variables.
    pub environment: Environment,
    /// What `config show` prints.
    pub settings: Vec<Setting>,
    /// Whether the file holds a password.
    pub file_holds_secret: bool,
}

impl Reader {
    /// The section of this name.
    pub fn section(&mut self, name: &str) -> Section<'_> {
        Section { reader: self, name: name.to_owned(), origin: Origin::Default }
    }

    /// The `[[table]]` of this number, whose header is at `origin`.
    pub fn table(&mut self, at: usize, origin: Origin) -> Section<'_> {
        Section { reader: self, name: format!("table[{at}]"), origin }
    }

    /// Notes an effective value.
    pub fn note(&mut self, place: &str, value: impl Into<String>, origin: &Origin) {
        self.settings.push(Setting { key: place.to_owned(), value: value.into(), origin: origin.clone() });
    }
}

/// The keys of one section while they are read.
///
/// Each method that reads a key takes it out of the file, checks it and notes it. If the file lacks the key, its default counts.
/// A key without a default is refused as missing; [`optional`](Self::optional) is for keys that may be left out.
pub struct Section<'r> {
    /// What the section is read from.
    pub reader: &'r mut Reader,
    name: String,
    /// Where its header stands.
    origin: Origin,
}

impl Section<'_> {
    /// The place of a key.
    pub fn place(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    /// Whether the file has the key.
    pub fn has(&self, key: &str) -> bool {
        self.reader.file.entries.contains_key(&self.place(key))
    }

    /// Takes a key out of the file. It is not noted.
    pub fn take(&mut self, key: &str) -> Option<Given<Value>> {
        self.reader.file.entries.remove(&self.place(key))
    }

    /// Takes a text out of the file. It is not noted: it may hold a password.
    pub fn text(&mut self, key: &str) -> Result<Option<Given<String>>> {
        self.take(key).map(|given| given.read(Value::text, "put its value in quotes")).transpose()
    }

    /// The text of an environment variable that says what `key` does. It is not noted.
    pub fn variable(&self, key: &str, name: &'static str) -> Result<Option<Given<String>>> {
        let value = self.reader.environment.text(name)?;
        Ok(value.map(|value| Given { value, place: self.place(key), origin: Origin::Environment(name) }))
    }

    /// The text of an environment variable, or the key's, or `default`. It is not noted.
    pub fn text_or(&mut self, key: &str, variable: &'static str, default: &str) -> Result<Given<String>> {
        let in_file = self.text(key)?;
        let given = self.variable(key, variable)?.or(in_file);
        Ok(given.unwrap_or_else(|| self.default(key, default.to_owned())))
    }

    /// Lets a key be a list of texts as well; they are joined by commas.
    pub fn join_list(&mut self, key: &str) {
        let place = self.place(key);
        if let Some(Given { value, .. }) = self.reader.file.entries.get_mut(&place)
            && let Value::List(texts) = value
        {
            *value = Value::Text(texts.join(","));
        }
    }

    fn default<T>(&self, key: &str, value: T) -> Given<T> {
        Given { value, place: self.place(key), origin: Origin::Default }
    }

    /// Notes an effective value.
    pub fn note(&mut self, key: &str, value: impl Into<String>, origin: &Origin) {
        let place = self.place(key);
        self.reader.note(&place, value, origin);
    }

    /// Notes that a key is not set.
    pub fn note_unset(&mut self, key: &str) {
        self.note(key, "", &Origin::Default);
    }

    /// Notes a secret, masked.
    pub fn note_secret<T>(&mut self, key: &str, secret: Option<&Given<T>>) {
        match secret {
            Some(given) => self.note(key, Secret::default().to_string(), &given.origin),
            None => self.note_unset(key),
        }
    }

    /// Notes another value of a key instead of the one that is noted.
    pub fn note_instead(&mut self, key: &str, value: String, origin: Origin) {
        let place = self.place(key);
        if let Some(setting) = self.reader.settings.iter_mut().find(|setting| setting.key == place) {
            *setting = Setting { key: place, value, origin };
        }
    }

    /// The refusal of a key for what the section lacks or says elsewhere.
    pub fn refuse(&self, key: &str, why: &str, hint: &str) -> Error {
        self.origin.refuse(&self.place(key), why, hint)
    }

    /// What `read` makes of a key; `None` where the file does not have it.
    pub fn optional<T>(&mut self, key: &str, read: impl FnOnce(&mut Self, &str) -> Result<T>) -> Result<Option<T>> {
        if self.has(key) {
            return read(self, key).map(Some);
        }
        self.note_unset(key);
        Ok(None)
    }

    /// Notes what a key gives, or its default, as `show` has it.
    fn noted<T>(
        &mut self,
        key: &str,
        given: Option<Given<T>>,
        default: Option<T>,
        hint: &str,
        show: impl FnOnce(&T) -> String,
    ) -> Result<Given<T>> {
        let given = given.or_else(|| default.map(|value| self.default(key, value)));
        let given = given.ok_or_else(|| self.refuse(key, "it is missing and has no default", hint))?;
        self.reader.note(&given.place, show(&given.value), &given.origin);
        Ok(given)
    }

    /// What `read` makes of a key, noted as `show` has it.
    pub fn read<T>(
        &mut self,
        key: &str,
        default: Option<T>,
        hint: &str,
        read: impl FnOnce(Value) -> Result<T, String>,
        show: impl FnOnce(&T) -> String,
    ) -> Result<Given<T>> {
        let given = self.take(key).map(|given| given.read(read, hint)).transpose()?;
        self.noted(key, given, default, hint, show)
    }

    /// What `parse` makes of a text.
    pub fn parsed<T: ToString>(
        &mut self,
        key: &str,
        default: Option<T>,
        hint: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Given<T>> {
        let given = self.text(key)?.map(|given| given.read(|text| parse(&text), hint)).transpose()?;
        self.noted(key, given, default, hint, T::to_string)
    }

    /// A text that `check` accepts.
    pub fn checked(
        &mut self,
        key: &str,
        default: Option<&str>,
        hint: &str,
        check: impl FnOnce(&str) -> Result<(), String>,
    ) -> Result<String> {
        let parse = |text: &str| check(text).map(|()| text.to_owned());
        Ok(self.parsed(key, default.map(str::to_owned), hint, parse)?.value)
    }

    /// The path of a file, if there is one; a relative one begins at the configuration file's directory.
    pub fn path(&mut self, key: &str) -> Result<Option<Given<PathBuf>>> {
        let Some(given) = self.text(key)? else {
            self.note_unset(key);
            return Ok(None);
        };
        let base = given.origin.directory();
        let given = given.path(&base)?;
        self.note(key, given.value.display().to_string(), &given.origin);
        Ok(Some(given))
    }

    /// A duration of at least `shortest` and at most an hour.
    pub fn duration(&mut self, key: &str, shortest: Duration, default: Duration) -> Result<Given<Duration>> {
        let (least, example) = (show_duration(shortest), show_duration(default));
        let hint = format!("write it with its unit, from {least} to 1h: `{key} = \"{example}\"`");
        let read = |given| {
            let duration = match given {
                Value::Text(text) => value::duration(&text).map_err(|why| format!("{text:?} {why}"))?,
                other => return Err(format!("it is {}, not a duration in quotes", other.kind())),
            };
            if duration >= shortest && duration <= LONGEST && duration.subsec_nanos() % 1_000_000 == 0 {
                return Ok(duration);
            }
            Err(format!("{} is not from {least} to 1h in whole milliseconds", show_duration(duration)))
        };
        self.read(key, Some(default), &hint, read, |duration| show_duration(*duration))
    }

    /// A whole number within `range`.
    pub fn whole(&mut self, key: &str, range: RangeInclusive<u64>, default: u64) -> Result<u64> {
        let (least, most) = (range.start(), range.end());
        let hint = format!("give a whole number from {least} to {most}, without quotes; the default is {default}");
        let read = |given| match given {
            Value::Whole(number) => {
                let fits = u64::try_from(number).ok().filter(|number| range.contains(number));
                fits.ok_or_else(|| format!("{number} is out of range"))
            }
            other => Err(format!("it is {}, not a whole number", other.kind())),
        };
        Ok(self.read(key, Some(default), &hint, read, u64::to_string)?.value)
    }

    /// A number of bytes within `range`.
    pub fn bytes(&mut self, key: &str, range: RangeInclusive<u64>, default: u64) -> Result<u64> {
        let show = |bytes: &u64| value::show_bytes(*bytes);
        let (least, most, example) = (show(range.start()), show(range.end()), show(&default));
        let hint = format!("give a number from {least} to {most}, such as `{key} = \"{example}\"`");
        let read = |given| {
            let bytes = match given {
                Value::Whole(number) => u64::try_from(number).map_err(|_| "it is negative".to_owned())?,
                Value::Text(text) => value::byte_size(&text).map_err(|why| format!("{text:?} {why}"))?,
                other => return Err(format!("it is {}, not a number of bytes", other.kind())),
            };
            if range.contains(&bytes) { Ok(bytes) } else { Err(format!("{} is out of range", show(&bytes))) }
        };
        Ok(self.read(key, Some(default), &hint, read, show)?.value)
    }

    /// `true` or `false`.
    pub fn truth(&mut self, key: &str, default: bool) -> Result<bool> {
        Ok(self.read(key, Some(default), TRUTH_HINT, Value::truth, bool::to_string)?.value)
    }

    /// Names of columns, one or a list, each once.
    pub fn names(&mut self, key: &str, hint: &str) -> Result<Given<Vec<String>>> {
        let read = |given: Value| {
            let columns = given.columns()?;
            let twice = columns.iter().enumerate().find(|(at, column)| columns[..*at].contains(*column));
            match twice {
                _ if columns.is_empty() => Err("it names no column".to_owned()),
                Some((_, column)) => Err(format!("it names the column `{column}` twice")),
                None => Ok(columns),
            }
        };
        self.read(key, None, hint, read, |columns| columns.join(", "))
    }
}

impl Given<String> {
    /// The path that it is, from `base` if it is relative.
    pub fn path(self, base: &Path) -> Result<Given<PathBuf>> {
        let read = |path: String| if path.is_empty() { Err("it is empty") } else { Ok(base.join(path)) };
        self.read(read, "name a file, or leave the key out")
    }
}

/// A duration as the file takes it.
pub fn show_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}
