//! A world's configuration file.

use std::fmt::Write as _;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::World;

impl World {
    /// Batches of so many rows.
    pub fn batch_rows(&mut self, rows: u32) {
        self.settings.insert("batch", format!("rows = {rows}"));
    }

    /// The section of a table whose topic, target and group bear its name.
    pub fn table_section(name: &str) -> String {
        format!(
            "source = \"public.{name}\"\nkey = \"id\"\nflag = \"sent_to_kafka\"\ntopic = \"{name}\"\n\
             target = \"analytics.{name}\"\ngroup = \"{name}\""
        )
    }

    /// Adds another world's table to the configuration, behind the others.
    pub fn add_table(&mut self, other: &Self) {
        let section = format!("[[table]]\n{}\n", Self::table_section(&other.name));
        self.settings.entry("more tables").or_default().push_str(&section);
    }

    /// The configuration file, written anew.
    pub fn config(&self) -> PathBuf {
        let mut text = String::new();
        let name = &self.name;
        let sections = [
            ("postgres", format!("url = \"{}\"", self.servers.postgres_url)),
            ("kafka", format!("brokers = \"{}\"", self.servers.brokers)),
            ("clickhouse", format!("url = \"{}\"", self.servers.clickhouse_url)),
            ("batch", String::new()),
            ("timeouts", String::new()),
            ("retry", String::new()),
            ("metrics", String::new()),
            ("notify", String::new()),
            ("run", String::new()),
            ("[table]", Self::table_section(name)),
        ];
        for (section, lines) in sections {
            // A line that the test sets replaces the default one.
            let more = self.settings.get(section).map_or("", String::as_str);
            let key_of = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
            let set: Vec<String> = more.lines().map(key_of).collect();
            writeln!(text, "[{section}]").unwrap();
            lines
                .lines()
                .filter(|line| !set.contains(&key_of(line)))
                .for_each(|line| writeln!(text, "{line}").unwrap());
            writeln!(text, "{more}").unwrap();
        }
        text += self.settings.get("more tables").map_or("", String::as_str);
        // A run that was started a moment ago may be reading the one before.
        let (path, draft) = (self.dir.join("pg2ch.toml"), self.dir.join("pg2ch.toml.draft"));
        std::fs::write(&draft, text).unwrap();
        // It holds a password: readable by others it would be warned about.
        std::fs::set_permissions(&draft, Permissions::from_mode(0o600)).unwrap();
        std::fs::rename(draft, &path).unwrap();
        path
    }
}
