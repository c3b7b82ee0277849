//! ARCHITECTURE.md's floors and its list of files, held against `src/`: an import runs down, or stays in its room; no two files
//! import each other, by whatever way round; each file has its line.
//!
//!     PG2CH_ARCHITECTURE=write cargo test --test it house     the list of files anew, from the first sentence of each

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::page;

/// Floors at most.
const FLOORS: usize = 10;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn document() -> PathBuf {
    root().join("ARCHITECTURE.md")
}

/// A file of `src/`: its module's path (`legs::consume::fetch`) and its text.
struct House {
    files: BTreeMap<String, String>,
    /// Items that a module passes on from a file below it: `kafka::KafkaLog` → `kafka::log`.
    passed_on: BTreeMap<String, String>,
}

impl House {
    fn read() -> Self {
        let top = root().join("src");
        let (mut files, mut paths) = (BTreeMap::new(), vec![top.clone()]);
        while let Some(path) = paths.pop() {
            if path.is_dir() {
                paths.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let module = path.strip_prefix(&top).unwrap().with_extension("").to_string_lossy().replace('/', "::");
                let module = module.strip_suffix("::mod").unwrap_or(&module).to_owned();
                files.insert(module, fs::read_to_string(&path).unwrap());
            }
        }
        files.remove("lib");
        let mut house = Self { files, passed_on: BTreeMap::new() };
        for (module, text) in &house.files {
            for path in used(text, "pub use ") {
                let below = house.resolve(module, &path);
                if let Some(below) = below.filter(|below| below.starts_with(&format!("{module}::"))) {
                    let item = path.rsplit("::").next().unwrap();
                    house.passed_on.insert(format!("{module}::{item}"), below);
                }
            }
        }
        house
    }

    /// The file in which `path` ends, as written in `module`; `None` for other crates.
    fn resolve(&self, module: &str, path: &str) -> Option<String> {
        let mut parts: Vec<&str> = path.split("::").filter(|part| *part != "self").collect();
        let mut base: Vec<&str> = module.split("::").collect();
        match parts.first() {
            Some(&"crate") => base.clear(),
            Some(&"super") => {
                while parts.first() == Some(&"super") {
                    parts.remove(0);
                    base.pop();
                }
                parts.insert(0, "crate");
            }
            Some(first) if self.files.contains_key(&format!("{module}::{first}")) => parts.insert(0, "crate"),
            _ => return None,
        }
        base.extend(&parts[1..]);
        let item = base.join("::");
        if let Some(below) = self.passed_on.get(&item) {
            return Some(below.clone());
        }
        (1..=base.len()).rev().map(|length| base[..length].join("::")).find(|module| self.files.contains_key(module))
    }

    /// The files that a file's program, without its tests, imports or names.
    fn imports(&self, module: &str) -> BTreeSet<String> {
        let text = program(&self.files[module]);
        let named = text.split("crate::").skip(1).map(|rest| {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(rest.len());
            format!("crate::{}", rest[..end].trim_end_matches(':'))
        });
        let found = used(&text, "use ").into_iter().chain(named).filter_map(|path| self.resolve(module, &path));
        found.filter(|other| other != module).collect()
    }
}

/// The program in a file: neither comments nor what is compiled for tests alone.
fn program(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).fold(String::new(), |all, line| all + line + "\n")
}

/// The paths of a file's `use` statements of this kind, one by one.
fn used(text: &str, kind: &str) -> Vec<String> {
    let text = program(text);
    let mut paths = Vec::new();
    let mut rest = &*text;
    while let Some(at) = rest.find(kind) {
        let is_statement = rest[..at].rsplit('\n').next().unwrap().trim().is_empty();
        rest = &rest[at + kind.len()..];
        if let Some((tree, after)) = rest.split_once(';').filter(|_| is_statement) {
            spread("", &tree.split_whitespace().collect::<Vec<_>>().join(" "), &mut paths);
            rest = after;
        }
    }
    paths
}

/// `a::{b, c::d as e}` → `a::b`, `a::c::d`.
fn spread(before: &str, tree: &str, paths: &mut Vec<String>) {
    let Some((start, inner)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap().trim();
        return paths.push(format!("{before}{path}"));
    };
    let inner = inner.trim_end().strip_suffix('}').unwrap();
    let before = format!("{before}{}", start.trim());
    let (mut depth, mut begin) = (0, 0);
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inner[begin..at].trim().is_empty() {
                    spread(&before, inner[begin..at].trim(), paths);
                }
                begin = at + 1;
            }
            _ => {}
        }
    }
}

/// The floors of ARCHITECTURE.md, from the top: each the rooms on it, a room a file or folder of `src/`.
fn floors() -> Vec<Vec<String>> {
    let page = fs::read_to_string(document()).unwrap();
    let (_, rest) = page.split_once("<!-- floors -->\n```text\n").expect("no floors");
    let lines = rest.split("```").next().unwrap().lines();
    let room = |name: &str| name.trim().trim_end_matches('/').replace('/', "::");
    lines.map(|line| line[..line.find("  ").unwrap_or(line.len())].split(" · ").map(room).collect()).collect()
}

/// The floor, counted from the top, and the room of a file.
fn place<'a>(floors: &'a [Vec<String>], module: &str) -> Option<(usize, &'a str)> {
    let rooms = floors.iter().enumerate().flat_map(|(floor, rooms)| rooms.iter().map(move |room| (floor, &**room)));
    let is_in = |room: &str| module == room || module.starts_with(&format!("{room}::"));
    rooms.filter(|(_, room)| is_in(room)).max_by_key(|(_, room)| room.len())
}

#[test]
fn an_import_runs_down_or_stays_in_its_room() {
    let (house, floors) = (House::read(), floors());
    assert!(floors.len() <= FLOORS, "{} floors", floors.len());
    let mut wrong = Vec::new();
    for module in house.files.keys() {
        let Some((floor, room)) = place(&floors, module) else {
            wrong.push(format!("{module} is on no floor of ARCHITECTURE.md"));
            continue;
        };
        for other in house.imports(module) {
            match place(&floors, &other) {
                Some((below, other_room)) if below > floor || other_room == room => {}
                _ => wrong.push(format!("{module} imports {other}")),
            }
        }
    }
    assert!(wrong.is_empty(), "imports that do not run down:\n{}", wrong.join("\n"));
}

#[test]
fn no_files_import_each_other() {
    let house = House::read();
    let mut left: BTreeMap<&String, BTreeSet<String>> =
        house.files.keys().map(|module| (module, house.imports(module))).collect();
    // What imports nothing that is left is in no circle.
    loop {
        let names: BTreeSet<String> = left.keys().map(|name| (*name).clone()).collect();
        let before = left.len();
        left.retain(|_, imports| !imports.is_disjoint(&names));
        if left.len() == before {
            break;
        }
    }
    assert!(left.is_empty(), "these files, or some of them, import each other: {left:#?}");
}

/// The first sentence of a file: what it is for.
fn sentence(module: &str, text: &str) -> String {
    let lines = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    let paragraph = lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    assert!(!paragraph.is_empty(), "{module} does not say what it is for");
    let end = paragraph.find(". ").map_or(paragraph.len(), |end| end + 1);
    paragraph[..end].trim_end_matches([':', '.']).replace('|', "\\|")
}

#[test]
fn each_file_has_its_line_in_the_architecture() {
    let house = House::read();
    let mut table = String::from("\n| file | |\n|---|---|\n");
    for (module, text) in &house.files {
        // Tests in a file of their own belong to the file they test.
        if module.ends_with("tests") || module.contains("tests::") {
            continue;
        }
        let _ = writeln!(table, "| `{}` | {} |", module.replace("::", "/"), sentence(module, text));
    }
    let page = fs::read_to_string(document()).unwrap();
    if std::env::var_os("PG2CH_ARCHITECTURE").is_some() {
        fs::write(document(), page::with_part(&page, "files", &(table + "\n"))).unwrap();
        return;
    }
    let told = page::part(&page, "files");
    for line in table.lines() {
        assert!(
            told.contains(line),
            "ARCHITECTURE.md lacks or differs: {line}\n(PG2CH_ARCHITECTURE=write writes it anew)"
        );
    }
    assert_eq!(told.lines().count(), table.lines().count() + 1, "ARCHITECTURE.md lists files that are gone");
}
