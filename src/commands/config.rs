//! `pg2ch config show`: every effective value and where it came from.

use serde_json::json;

use crate::config::Explained;

/// The effective values as a table for a person, or as JSON. Secrets are masked.
#[must_use]
pub fn show(explained: &Explained, json: bool) -> String {
    if json { as_json(explained) } else { as_table(explained) }
}

fn as_json(explained: &Explained) -> String {
    let settings: Vec<_> = explained
        .settings
        .iter()
        .map(|setting| json!({ "key": setting.key, "value": setting.value, "origin": setting.origin.to_string() }))
        .collect();
    let file = explained
        .file
        .as_ref()
        .map(|(path, origin)| json!({ "path": path.to_string_lossy(), "origin": origin.to_string() }));
    format!("{:#}", json!({ "file": file, "settings": settings, "exit_code": 0 }))
}

fn as_table(explained: &Explained) -> String {
    let width =
        |length: fn(&(String, String)) -> usize, rows: &[(String, String)]| rows.iter().map(length).max().unwrap_or(0);
    let shown = |value: &str| if value.is_empty() { "-".to_owned() } else { value.to_owned() };
    let rows: Vec<_> = explained.settings.iter().map(|s| (s.key.clone(), shown(&s.value))).collect();
    let keys = width(|(key, _)| key.chars().count(), &rows);
    // One long URL must not push every origin off the screen.
    let values = width(|(_, value)| value.chars().count(), &rows).min(56);
    let mut table = match &explained.file {
        Some((path, origin)) => format!("configuration file: {} ({origin})\n\n", path.display()),
        None => "configuration file: none\n\n".to_owned(),
    };
    for ((key, value), setting) in rows.iter().zip(&explained.settings) {
        table.push_str(&format!("{key:keys$}  {value:values$}  {}\n", setting.origin));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, Origin, Setting, explain};

    fn explained() -> Explained {
        let flags = Flags { config: Some("/dev/null".into()), ..Flags::default() };
        let mut explained = explain(&flags).unwrap();
        explained.settings = vec![
            Setting {
                key: "batch.rows".to_owned(),
                value: "5".to_owned(),
                origin: Origin::File { path: "c.toml".into(), line: 3 },
            },
            Setting { key: "metrics.textfile".to_owned(), value: String::new(), origin: Origin::Default },
        ];
        explained
    }

    #[test]
    fn the_table_has_keys_values_and_origins_under_each_other() {
        let table = show(&explained(), false);
        assert!(table.ends_with("\n\nbatch.rows        5  c.toml:3\nmetrics.textfile  -  default\n"), "{table}");
    }

    #[test]
    fn the_json_says_the_same() {
        let value: serde_json::Value = serde_json::from_str(&show(&explained(), true)).unwrap();
        assert_eq!(value["file"]["origin"], "--config");
        assert_eq!(value["settings"][0]["origin"], "c.toml:3");
    }
}
