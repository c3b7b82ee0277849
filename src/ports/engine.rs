//! A table's engine, read from `system.tables`: its name, arguments, clauses and settings.

use super::layout::{Layout, Outside, split_arguments};

/// How many INSERTs a table remembers by their tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// At most this many; 0 is none.
    Tokens(u64),
    /// None, ever: the engine has no such setting.
    Never,
    /// The table no longer exists.
    Dropped,
    /// The table cannot be seen.
    Unknown,
}

/// An engine with all that stands behind its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Engine {
    /// The bare name.
    pub name: String,
    /// Its arguments, without the path and the replica of replicated engines.
    pub arguments: Vec<String>,
    /// The clauses after the arguments, settings left out.
    pub clauses: String,
    /// The table's own settings.
    pub settings: Vec<(String, String)>,
}

impl Engine {
    /// Reads `engine` and `engine_full`.
    #[must_use]
    pub fn parse(name: &str, engine_full: &str) -> Self {
        let rest = skip_name(engine_full);
        let (mut arguments, rest) = match rest.strip_prefix('(') {
            Some(inside) => split_arguments(inside),
            None => (Vec::new(), rest),
        };
        if Layout::of(name) == Layout::Replicated {
            let literals = arguments.iter().take(2).take_while(|argument| argument.starts_with('\'')).count();
            arguments.drain(..literals);
        }
        let (clauses, settings) = match find_outside(rest, " SETTINGS ") {
            Some(at) => (&rest[..at], &rest[at + " SETTINGS ".len()..]),
            None => (rest, ""),
        };
        let pair = |setting: String| {
            let (name, value) = setting.split_once('=')?;
            Some((name.trim().to_owned(), value.trim().trim_matches('\'').to_owned()))
        };
        let settings = split_arguments(settings).0.into_iter().filter_map(pair).collect();
        Self { name: name.to_owned(), arguments, clauses: clauses.trim().to_owned(), settings }
    }

    /// The name without `Replicated` or `Shared` in front.
    #[must_use]
    pub fn family(&self) -> &str {
        let name = &self.name;
        name.strip_prefix("Replicated").or_else(|| name.strip_prefix("Shared")).unwrap_or(name)
    }

    /// Where its data lie.
    #[must_use]
    pub fn layout(&self) -> Layout {
        Layout::of(&self.name)
    }

    /// Whether it is one of the MergeTree family.
    #[must_use]
    pub fn is_merge_tree(&self) -> bool {
        self.name.ends_with("MergeTree")
    }

    /// An argument as the name that it is, unquoted.
    #[must_use]
    pub fn argument(&self, at: usize) -> Option<String> {
        self.arguments.get(at).map(|argument| unquoted(argument))
    }

    /// A setting of the table's own.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// How many INSERTs the table remembers by their tokens; replicated tables that do not say have the server's default,
    /// which is not 0.
    #[must_use]
    pub fn window(&self) -> Window {
        if !self.is_merge_tree() {
            return Window::Never;
        }
        let layout = self.layout();
        let default = if layout == Layout::Replicated { DEFAULT_REPLICATED_WINDOW } else { 0 };
        Window::Tokens(
            self.setting(layout.window_setting()).map_or(Some(default), |text| text.parse().ok()).unwrap_or(0),
        )
    }

    /// Whether rows vanish by themselves: the table's TTL deletes them, already at an INSERT, or folds them.
    #[must_use]
    pub fn deletes_by_ttl(&self) -> bool {
        !self.ttl_deletes().is_empty()
    }

    /// Whether the table's TTL folds rows that have expired into one, with other values (`GROUP BY … SET`).
    #[must_use]
    pub fn folds_by_ttl(&self) -> bool {
        let ttl = find_outside(&self.clauses, "TTL ").map_or("", |at| &self.clauses[at..]);
        find_outside(ttl, " GROUP BY ").is_some()
    }

    /// The rules of the table's TTL by which rows vanish.
    #[must_use]
    pub fn ttl_deletes(&self) -> Vec<String> {
        let Some(at) = find_outside(&self.clauses, "TTL ") else { return Vec::new() };
        let mut rules = split_arguments(&self.clauses[at + "TTL ".len()..]).0;
        let moves = [" TO DISK ", " TO VOLUME ", " RECOMPRESS "];
        rules.retain(|each| !moves.iter().any(|kept| find_outside(&format!("{each} "), kept).is_some()));
        rules
    }
}

/// What servers before 2025 have, or more.
const DEFAULT_REPLICATED_WINDOW: u64 = 100;

/// The columns and expressions of a key, as `system.tables` prints it.
#[must_use]
pub fn key_parts(key: &str) -> Vec<String> {
    let key = key.trim();
    // Some versions print the expression with its brackets.
    let within = key.strip_prefix('(').map(split_arguments).filter(|(_, rest)| rest.is_empty());
    let (parts, _) = within.unwrap_or_else(|| split_arguments(key));
    parts.iter().filter(|part| !part.is_empty()).map(|part| unquoted(part)).collect()
}

/// Whether a table with this partition key has more than one partition.
#[must_use]
pub fn is_partitioned(partition_key: &str) -> bool {
    !matches!(partition_key, "" | "tuple()")
}

/// What of a table rests on one of its columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rests {
    /// Nothing: it may be altered, and dropped.
    Nothing,
    /// Indexes that take almost every type: it cannot be dropped, and may be altered and renamed.
    Indexes,
    /// Expressions, as of a DEFAULT, another index or the TTL: it cannot be dropped, and not every type suits them.
    Expressions,
    /// A key, the engine or a projection that groups: it cannot be altered either.
    Key,
}

/// What rests on `column`, by the table's engine and the statement that creates it.
#[must_use]
pub fn rests_on(column: &str, engine: &Engine, definition: &str) -> Rests {
    let (keys, ttl) = engine.clauses.split_at(find_outside(&engine.clauses, "TTL ").unwrap_or(engine.clauses.len()));
    let mut others = entries(definition);
    others.retain(|entry| entry_name(entry).as_deref() != Some(column));
    let groups = |entry: &&String| entry.starts_with("PROJECTION ") && entry.contains(" GROUP BY ");
    let of_key = others.iter().filter(groups).chain(&engine.arguments).map(String::as_str).chain([keys]);
    if of_key.into_iter().any(|text| names(text, column)) {
        return Rests::Key;
    }
    others.retain(|entry| names(&without_texts(expressions_of(entry)), column));
    if names(ttl, column) || !others.iter().all(|entry| is_plain_index(entry, column)) {
        return Rests::Expressions;
    }
    if others.is_empty() { Rests::Nothing } else { Rests::Indexes }
}

/// Whether an entry is an index over the column itself that almost every type can have.
fn is_plain_index(entry: &str, column: &str) -> bool {
    let parts = || {
        let index = entry.strip_prefix("INDEX ")?;
        let (_, rest) = index.split_at(find_outside(index, " ")?);
        let (expression, kind) = rest.split_at(find_outside(rest, " TYPE ")?);
        Some((unquoted(expression.trim()), kind.trim_start_matches(" TYPE ")))
    };
    parts().is_some_and(|(expression, kind)| {
        expression == column && ["minmax", "set", "bloom_filter"].iter().any(|plain| kind.starts_with(plain))
    })
}

/// What may name other columns: of a column everything but its name and type, whose elements may have names, too.
fn expressions_of(entry: &str) -> &str {
    if !entry.starts_with('`') {
        return entry;
    }
    let words = [" DEFAULT ", " MATERIALIZED ", " ALIAS ", " EPHEMERAL ", " TTL "];
    words.iter().filter_map(|word| find_outside(entry, word)).min().map_or("", |at| &entry[at..])
}

/// An expression without its texts, such as a comment.
fn without_texts(expression: &str) -> String {
    let mut outside = Outside::default();
    expression
        .chars()
        .filter(|character| {
            let was_within = outside.is_within_text();
            outside.pass(*character);
            !was_within && !outside.is_within_text()
        })
        .collect()
}

/// What the definition of `column` says besides its type, as the server prints it: the word, and what stands in brackets after it.
#[must_use]
pub fn column_options(column: &str, definition: &str) -> Vec<(&'static str, Vec<String>)> {
    let Some(entry) = entries(definition).into_iter().find(|entry| entry_name(entry).as_deref() == Some(column)) else {
        return Vec::new();
    };
    let option = |word: &'static str| {
        let rest = entry[find_outside(&entry, &format!(" {word}"))? + 1 + word.len()..].trim_start();
        Some((word, rest.strip_prefix('(').map_or_else(Vec::new, |inside| split_arguments(inside).0)))
    };
    ["DEFAULT", "COMMENT", "CODEC", "STATISTICS", "TTL"].into_iter().filter_map(option).collect()
}

/// Whether the definition of `column` names the `other` one, or is its own.
#[must_use]
pub fn is_made_of(column: &str, other: &str, definition: &str) -> bool {
    entries(definition).iter().any(|entry| entry_name(entry).as_deref() == Some(column) && names(entry, other))
}

/// Whether an expression names a column. What a text in it says counts as well, which does no harm.
#[must_use]
pub fn names(expression: &str, column: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    expression.match_indices(column).any(|(at, _)| {
        let after = &expression[at + column.len()..];
        !expression[..at].ends_with(is_word) && !after.starts_with(|c| is_word(c) || c == '(')
    })
}

/// The columns, indexes, constraints and projections of a statement that creates a table.
fn entries(definition: &str) -> Vec<String> {
    find_outside(definition, "(").map_or_else(Vec::new, |at| split_arguments(&definition[at + 1..]).0)
}

/// The column that an entry defines.
fn entry_name(entry: &str) -> Option<String> {
    Some(unquoted(&entry[..find_outside(entry, " ")?]))
}

/// The columns that have a TTL, by the statement that creates the table: a merge sets their expired values to defaults.
#[must_use]
pub fn columns_with_ttl(definition: &str) -> Vec<String> {
    let columns = entries(definition);
    columns
        .iter()
        .filter(|column| find_outside(column, " TTL ").is_some())
        .filter_map(|each| entry_name(each))
        .collect()
}

/// A quoted identifier or literal without its quotes; anything else as it is.
fn unquoted(text: &str) -> String {
    let quote = text.chars().next().filter(|first| matches!(first, '`' | '\''));
    let Some(inner) = quote.and_then(|quote| text.strip_prefix(quote)?.strip_suffix(quote)) else {
        return text.to_owned();
    };
    let mut name = String::new();
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        let next = if character == '\\' { characters.next() } else { None };
        name.push(next.map_or(character, unescaped));
    }
    name
}

/// What a letter behind a backslash stands for, as ClickHouse prints quoted names.
#[must_use]
pub const fn unescaped(letter: char) -> char {
    match letter {
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        '0' => '\0',
        other => other,
    }
}

fn skip_name(engine_full: &str) -> &str {
    if let Some(quoted) = engine_full.strip_prefix('`') {
        return quoted.split_once('`').map_or("", |(_, rest)| rest);
    }
    let end = engine_full.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(engine_full.len());
    &engine_full[end..]
}

/// The place of `wanted` outside quotes and brackets.
fn find_outside(text: &str, wanted: &str) -> Option<usize> {
    let mut outside = Outside::default();
    text.char_indices().find_map(|(at, character)| {
        let found = outside.is_outside() && text[at..].starts_with(wanted);
        outside.pass(character);
        found.then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_the_server_prints_it() {
        assert_eq!(key_parts("`\\n0`, `a\\`b`, `c\\\\d`, `\\t`, e"), ["\n0", "a`b", "c\\d", "\t", "e"]);
    }

    fn engine(engine_full: &str) -> Engine {
        let name = engine_full.split(['(', ' ']).next().unwrap().trim_matches('`');
        Engine::parse(name, engine_full)
    }

    #[test]
    fn arguments_are_read_whatever_is_quoted_in_them() {
        let odd = engine(
            r"ReplacingMergeTree(`ver sion)`, is_deleted) PARTITION BY f('a\')', b) ORDER BY id SETTINGS a = 1, b = 'x, y'",
        );
        assert_eq!(odd.argument(0).as_deref(), Some("ver sion)"));
        assert_eq!(odd.argument(1).as_deref(), Some("is_deleted"));
        assert_eq!((odd.setting("a"), odd.setting("b")), (Some("1"), Some("x, y")));
        let replicated = engine("ReplicatedReplacingMergeTree('/t/{shard}', '{replica}', _timestamp) ORDER BY id");
        assert_eq!(
            (replicated.family(), replicated.argument(0).as_deref()),
            ("ReplacingMergeTree", Some("_timestamp"))
        );
        let bare = engine("SharedReplacingMergeTree(n) PARTITION BY toYYYYMM(_timestamp) ORDER BY id");
        assert_eq!(bare.argument(0).as_deref(), Some("n"));
        assert_eq!(engine("`Null`").name, "Null");
    }

    #[test]
    fn the_window_is_read_from_the_definition() {
        let window = |text| engine(text).window();
        let made = "ReplacingMergeTree(_timestamp) ORDER BY id SETTINGS non_replicated_deduplication_window = 10000, index_granularity = 8192";
        assert_eq!(window(made), Window::Tokens(10_000));
        assert_eq!(window("MergeTree ORDER BY id"), Window::Tokens(0));
        assert_eq!(window("ReplicatedMergeTree('/t', 'r') ORDER BY id"), Window::Tokens(DEFAULT_REPLICATED_WINDOW));
        let off = "ReplicatedMergeTree('/t', 'r') ORDER BY id SETTINGS replicated_deduplication_window = 0";
        assert_eq!(window(off), Window::Tokens(0));
        assert_eq!(window("Log"), Window::Never);
    }

    #[test]
    fn a_ttl_that_only_moves_parts_deletes_nothing() {
        let deletes = |ttl: &str| engine(&format!("MergeTree ORDER BY id TTL {ttl} SETTINGS a = 1")).deletes_by_ttl();
        assert!(deletes("_timestamp + toIntervalDay(30)"));
        assert!(deletes("d + toIntervalDay(1) TO DISK 'cold', d + toIntervalDay(9) WHERE x = 1"));
        assert!(!deletes("d + toIntervalDay(1) TO DISK 'cold', d + toIntervalDay(2) RECOMPRESS CODEC(ZSTD(9))"));
        assert!(!engine("MergeTree ORDER BY id COMMENT 'TTL '").deletes_by_ttl());
        let folds = |ttl: &str| engine(&format!("MergeTree ORDER BY id TTL {ttl} SETTINGS a = 1")).folds_by_ttl();
        assert!(folds(
            "d + toIntervalDay(1) TO DISK 'cold', d + toIntervalDay(9) GROUP BY id SET a = sum(a), b = max(b)"
        ));
        assert!(!folds("d + toIntervalDay(1) WHERE x = ' GROUP BY '"));
    }

    #[test]
    fn columns_with_a_ttl_are_found_in_the_definition() {
        let definition = r"CREATE TABLE `odd (db`.t UUID 'x' (`id` Int64, `a TTL b` String COMMENT 'no TTL here', `p\`q` String \
                           DEFAULT concat('a', ' TTL ') TTL d + toIntervalDay(1), `e` Array(Date) CODEC(ZSTD(1)) TTL toDate(d), \
                           INDEX i id TYPE minmax) ENGINE = MergeTree ORDER BY id TTL d + toIntervalDay(9)";
        assert_eq!(columns_with_ttl(definition), ["p`q", "e"]);
    }

    #[test]
    fn what_rests_on_a_column_is_found_in_the_definition() {
        let definition = "CREATE TABLE d.t (`id` Int64, `at` DateTime, `day` Date DEFAULT toDate(at), `ver` UInt8, `a` Int8, `b` Int8, \
                          `c` Int8, `e` DateTime, `free` String CODEC(ZSTD(1)), INDEX i a TYPE minmax GRANULARITY 1, \
                          PROJECTION p (SELECT b, count() GROUP BY b), PROJECTION q (SELECT * ORDER BY c)) ENGINE = \
                          ReplacingMergeTree(ver) PARTITION BY toYYYYMM(day) ORDER BY id TTL e + toIntervalDay(1) SETTINGS x = 1";
        let engine = engine(definition.split_once("ENGINE = ").unwrap().1);
        let of = |column: &str| rests_on(column, &engine, definition);
        for column in ["id", "day", "ver", "b"] {
            assert_eq!(of(column), Rests::Key, "{column}");
        }
        for column in ["at", "c", "e"] {
            assert_eq!(of(column), Rests::Expressions, "{column}");
        }
        assert_eq!(of("a"), Rests::Indexes);
        assert_eq!(of("free"), Rests::Nothing);
        assert_eq!(column_options("free", definition), [("CODEC", vec!["ZSTD(1)".to_owned()])]);
    }

    #[test]
    fn an_index_of_another_kind_and_a_comment_are_distinguished() {
        let of = |entry: &str| {
            let definition =
                format!("CREATE TABLE d.t (`id` Int64, `a b` String, {entry}) ENGINE = MergeTree ORDER BY id");
            rests_on("a b", &engine("MergeTree ORDER BY id"), &definition)
        };
        assert_eq!(of("INDEX `i i` `a b` TYPE set(5) GRANULARITY 1"), Rests::Indexes);
        assert_eq!(of("INDEX i lower(`a b`) TYPE set(5) GRANULARITY 1"), Rests::Expressions);
        assert_eq!(of("INDEX i `a b` TYPE tokenbf_v1(256, 2, 0) GRANULARITY 1"), Rests::Expressions);
        assert_eq!(of("`c` Int8 COMMENT 'not a b' CODEC(ZSTD(1))"), Rests::Nothing);
        assert_eq!(of("`c` Tuple(`a b` Int8)"), Rests::Nothing);
        assert_eq!(of("`c` Int8 DEFAULT length(`a b`)"), Rests::Expressions);
    }

    #[test]
    fn a_key_is_split_at_the_commas_outside_brackets() {
        assert_eq!(key_parts("cityHash64(id, 'a,b'), `u v`"), ["cityHash64(id, 'a,b')", "u v"]);
        assert_eq!(key_parts("(id, u)"), ["id", "u"]);
        assert_eq!(key_parts(""), [""; 0]);
    }
}
