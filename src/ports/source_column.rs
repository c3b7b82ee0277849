//! One column of the source.

/// One column of the source table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceColumn {
    /// Its name, unquoted.
    pub name: String,
    /// Its type as SQL writes it, with length or precision.
    pub type_name: String,
    /// The same without its domains: what its values are stored and printed as.
    pub base_type: String,
    /// Whether that is an enum.
    pub is_enum: bool,
    /// Whether that is a composite type, or an array of one.
    pub is_composite: bool,
    /// Whether it refuses NULL.
    pub not_null: bool,
    /// Its comment.
    pub comment: Option<String>,
    /// What it needs as a part of a key.
    pub as_key: AsKey,
}

/// What a column needs as a part of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsKey {
    /// The schema, quoted, of the operators that its index sorts by. An extension's type (`citext`, `ltree`) brings its own,
    /// and PostgreSQL would take others, which sort differently, or none, where the search path does not name their schema.
    pub operators: String,
    /// Whether its JSON is no text that can be cast back: an array, a composite type, `jsonb`.
    pub is_text_in_json: bool,
}

impl Default for AsKey {
    fn default() -> Self {
        Self { operators: "pg_catalog".into(), is_text_in_json: false }
    }
}
