//! What a single value has to look like: durations, sizes, names. Each check answers with the reason for a refusal.

use std::time::Duration;

use super::TargetName;

/// The longest name that PostgreSQL keeps; it cuts longer ones in silence.
const POSTGRES_NAME: usize = 63;

/// The longest topic name that Kafka allows.
const KAFKA_NAME: usize = 249;

/// A duration with its unit: `30s`, `5m`, `500ms`, `1m 30s`.
///
/// # Errors
/// The reason, if it is not one.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim())
        .map_err(|_| "is not a duration such as \"30s\", \"5m\" or \"500ms\"".to_owned())
}

/// A number of bytes: `65536`, `512 KiB`, `4MiB`, `1 GB`.
///
/// # Errors
/// The reason, if it is not one.
pub fn byte_size(text: &str) -> Result<u64, String> {
    let why = || "is not a number of bytes such as 65536, \"512 KiB\" or \"4 MiB\"".to_owned();
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(why()),
    };
    let number: u64 = number.parse().map_err(|_| why())?;
    number.checked_mul(factor).ok_or_else(why)
}

/// A number of bytes in the largest unit that needs no fraction, as [`byte_size`] reads it.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// A topic name: 1 to 249 letters, digits, dots, underscores and hyphens, and neither `.` nor `..`.
///
/// # Errors
/// The reason, if Kafka would refuse it.
pub fn topic(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a topic needs a name".to_owned());
    }
    if name.len() > KAFKA_NAME {
        return Err(format!("a topic's name has at most {KAFKA_NAME} characters, this one {}", name.len()));
    }
    if name == "." || name == ".." {
        return Err("Kafka keeps `.` and `..` for itself".to_owned());
    }
    match name.chars().find(|c| !is_kafka_character(*c)) {
        Some(c) => Err(format!("Kafka allows letters, digits, `.`, `_` and `-` in a topic's name, not {c:?}")),
        None => Ok(()),
    }
}

/// A consumer group's name, or any other that Kafka takes as it is: 1 to 249 printable characters.
///
/// # Errors
/// The reason, if it is not one.
pub fn group(name: &str) -> Result<(), String> {
    if name.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    if name.len() > KAFKA_NAME {
        return Err(format!("it has at most {KAFKA_NAME} bytes, this one {}", name.len()));
    }
    if name.chars().any(char::is_control) {
        return Err("it has a control character".to_owned());
    }
    Ok(())
}

/// What stands in front of a `transactional.id`: 1 to 100 letters, digits, dots, underscores and hyphens.
///
/// # Errors
/// The reason, if it is not one.
pub fn transactional_prefix(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > 100 || !name.chars().all(is_kafka_character) {
        return Err("it takes 1 to 100 letters, digits, `.`, `_` and `-`".to_owned());
    }
    Ok(())
}

fn is_kafka_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// A column of PostgreSQL as the catalogue names it: 1 to 63 bytes, no NUL.
///
/// # Errors
/// The reason, if it is not one.
pub fn column(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a column's name is empty".to_owned());
    }
    if name.contains('\0') {
        return Err("a column's name has a NUL".to_owned());
    }
    if name.len() > POSTGRES_NAME {
        return Err(format!("PostgreSQL keeps {POSTGRES_NAME} bytes of a name, this one has {}", name.len()));
    }
    Ok(())
}

/// A table of PostgreSQL, `schema.table` as SQL names it, in the one form that stands for it from here on.
///
/// Names without quotes are folded to lower case as PostgreSQL does, and quotes are left only where SQL needs them, so
/// that one table has one name, and nothing but names can come through.
///
/// # Errors
/// The reason, if it is not one.
pub fn source_table(text: &str) -> Result<String, String> {
    let parts = split_names(text, &['"'])?;
    let [schema, table] = parts.as_slice() else {
        return Err(match parts.len() {
            1 => "the schema is missing: name the table as schema.table".to_owned(),
            n => format!("it has {n} parts instead of the two of schema.table"),
        });
    };
    let mut names = Vec::with_capacity(2);
    for name in [schema, table] {
        if !name.quoted && !is_plain(&name.text.to_lowercase()) {
            return Err(format!("`{}` needs double quotes in SQL", name.text));
        }
        let exact = if name.quoted { name.text.clone() } else { name.text.to_lowercase() };
        column(&exact).map_err(|why| why.replace("a column's", "a table's"))?;
        names.push(exact);
    }
    // After a dot SQL takes any word; in front of it a reserved one needs quotes.
    let schema = if is_one_of(RESERVED, &names[0]) { quote(&names[0]) } else { quote_if_needed(&names[0]) };
    Ok(format!("{schema}.{}", quote_if_needed(&names[1])))
}

/// A table of ClickHouse, `database.table`; a part that holds a dot stands in double quotes or backquotes.
///
/// # Errors
/// The reason, if it is not one.
pub fn target_table(text: &str) -> Result<TargetName, String> {
    let mut parts = split_names(text, &['"', '`'])?;
    let (Some(table), Some(database), true) = (parts.pop(), parts.pop(), parts.is_empty()) else {
        return Err("it is named as database.table".to_owned());
    };
    for name in [&database, &table] {
        if name.text.chars().any(char::is_control) {
            return Err("it has a control character".to_owned());
        }
    }
    Ok(TargetName { database: database.text, table: table.text })
}

struct Name {
    text: String,
    quoted: bool,
}

/// Splits `a."b.c"` at the dots outside quotes. A quote inside a quoted name is doubled.
fn split_names(text: &str, quotes: &[char]) -> Result<Vec<Name>, String> {
    let mut names = Vec::new();
    let mut rest = text;
    loop {
        let name = match rest.chars().next().filter(|c| quotes.contains(c)) {
            Some(quote) => {
                let (name, after) = quoted_name(&rest[1..], quote)?;
                rest = after;
                Name { text: name, quoted: true }
            }
            None => {
                let end = rest.find('.').unwrap_or(rest.len());
                let (name, after) = rest.split_at(end);
                rest = after;
                if name.chars().any(|c| c.is_whitespace() || matches!(c, '"' | '`' | '\'' | ';')) {
                    return Err(format!("`{name}` needs quotes around it"));
                }
                Name { text: name.to_owned(), quoted: false }
            }
        };
        if name.text.is_empty() {
            return Err("a part of the name is empty".to_owned());
        }
        names.push(name);
        match rest.strip_prefix('.') {
            Some(after) => rest = after,
            None if rest.is_empty() => return Ok(names),
            None => return Err("something other than a dot follows a closing quote".to_owned()),
        }
    }
}

fn quoted_name(text: &str, quote: char) -> Result<(String, &str), String> {
    let mut name = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, c)) = characters.next() {
        if c != quote {
            name.push(c);
        } else if characters.next_if(|(_, next)| *next == quote).is_some() {
            name.push(quote);
        } else {
            return Ok((name, &text[at + quote.len_utf8()..]));
        }
    }
    Err("a quote is not closed".to_owned())
}

fn is_plain(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '$')
}

fn quote_if_needed(name: &str) -> String {
    if is_plain(name) { name.to_owned() } else { quote(name) }
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The words that PostgreSQL does not take as a schema without quotes.
const RESERVED: &str = "\
    all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate collation \
    column concurrently constraint create cross current_catalog current_date current_role current_schema \
    current_time current_timestamp current_user default deferrable desc distinct do else end except false fetch for \
    foreign freeze from full grant group having ilike in initially inner intersect into is isnull join lateral \
    leading left like limit localtime localtimestamp natural not notnull null offset on only or order outer overlaps \
    placing primary references returning right select session_user similar some symmetric system_user table \
    tablesample then to trailing true union unique user using variadic verbose when where window with";

/// Whether `word` is one of those that `words` has between spaces.
pub fn is_one_of(words: &str, word: &str) -> bool {
    words.split(' ').any(|known| known == word)
}

/// The known word closest to `word`, if one is close enough to have been meant, or begins with it.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.len() / 3).max(2);
    known
        .into_iter()
        .map(|candidate| {
            (if word.len() > 2 && candidate.starts_with(word) { 0 } else { distance(word, candidate) }, candidate)
        })
        .filter(|(distance, candidate)| *distance <= limit && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many characters have to be added, dropped or changed to make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_a_unit() {
        for (text, bytes) in [("65536", 65_536), ("512 KiB", 524_288), ("4MiB", 4_194_304), ("1 gb", 1_000_000_000)] {
            assert_eq!(byte_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "4 MiBs", "-1", "1.5 MiB", "99999999999 GiB"] {
            assert!(byte_size(text).is_err(), "{text}");
        }
        assert_eq!(show_bytes(4_194_304), "4 MiB");
        assert_eq!(show_bytes(65_537), "65537");
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(duration("30").is_err());
    }

    #[test]
    fn a_source_table_has_one_name() {
        for (text, name) in [
            ("public.user_logins", "public.user_logins"),
            ("Public.User_Logins", "public.user_logins"),
            ("\"public\".\"user_logins\"", "public.user_logins"),
            ("public.\"Odd \"\"name\"\".x\"", "public.\"Odd \"\"name\"\".x\""),
            ("\"user\".order", "\"user\".order"),
            ("user.order", "\"user\".order"),
        ] {
            assert_eq!(source_table(text).as_deref(), Ok(name), "{text}");
        }
    }

    #[test]
    fn nothing_but_a_name_comes_through_as_a_source_table() {
        for text in [
            "user_logins",
            "a.b.c",
            "a.",
            ".b",
            "",
            "a.b; DROP TABLE c",
            "a.\"b",
            "a.\"b\"c",
            "a.b c",
            "a.1b",
            "a.\"\"",
        ] {
            assert!(source_table(text).is_err(), "{text}");
        }
        assert!(source_table(&format!("a.{}", "x".repeat(64))).is_err());
    }

    #[test]
    fn a_target_is_a_database_and_a_table() {
        let name = target_table("analytics.user_logins").unwrap();
        assert_eq!((name.database.as_str(), name.table.as_str()), ("analytics", "user_logins"));
        let name = target_table("`a.b`.\"c-d\"").unwrap();
        assert_eq!((name.database.as_str(), name.table.as_str()), ("a.b", "c-d"));
        for text in ["user_logins", "a.b.c", "a.", "", "a.b c"] {
            assert!(target_table(text).is_err(), "{text}");
        }
    }

    #[test]
    fn topics_are_named_as_kafka_allows() {
        assert_eq!(topic("user_logins-1.x"), Ok(()));
        for name in ["", ".", "..", "a b", "a/b", "é", &"x".repeat(250)] {
            assert!(topic(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_slip_of_the_keyboard_finds_the_key_that_was_meant() {
        assert_eq!(nearest("rwos", ["rows", "bytes"]), Some("rows"));
        assert_eq!(nearest("insert_row", ["rows", "insert_rows"]), Some("insert_rows"));
        assert_eq!(nearest("password", ["url", "password_file"]), Some("password_file"));
        assert_eq!(nearest("colour", ["rows", "bytes"]), None);
    }
}
