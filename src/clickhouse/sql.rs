//! Names and texts as ClickHouse's SQL has them.

use crate::config::TargetName;

/// An identifier, quoted.
#[must_use]
pub fn quote(identifier: &str) -> String {
    format!("`{}`", identifier.replace('\\', "\\\\").replace('`', "\\`"))
}

/// A string literal.
pub(crate) fn text(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A table's name, quoted.
pub(crate) fn sql_name(name: &TargetName) -> String {
    format!("{}.{}", quote(&name.database), quote(&name.table))
}

/// Which rows of a system table are about a table, whose name stands there in `column`.
pub(crate) fn is_about(name: &TargetName, column: &str) -> String {
    format!("database = {} AND {column} = {}", text(&name.database), text(&name.table))
}

/// Whether a table's UUID is one: in a database of the old engine it is zero.
pub(super) fn is_uuid(uuid: &str) -> bool {
    uuid.bytes().any(|byte| byte.is_ascii_hexdigit() && byte != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_are_quoted() {
        assert_eq!(quote("a`b\\c"), "`a\\`b\\\\c`");
        assert_eq!(text("it's \\"), "'it\\'s \\\\'");
    }
}
