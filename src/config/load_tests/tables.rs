//! Tables: their defaults, what they must not share, their rules and choices.

use std::slice;

use super::{Directory, explain_in, refused, with_file};
use crate::config::environment::Environment;
use crate::config::{ColumnChoice, Flags, OnBadRow};
use crate::error::{Error, ExitCode};

const TABLE: &str = "[[table]]\nsource = \"public.a\"\nkey = [\"tenant\", \"id\"]\ntopic = \"a\"\ntarget = \"x.a\"\n";

#[test]
fn a_table_is_read_with_its_defaults() {
    let config = with_file(&format!("{TABLE}on_bad_row = \"stop\"\nmax_dead_letters = 0\n"), &[]).unwrap().config;
    let [table] = config.tables.as_slice() else { panic!("one table") };
    assert_eq!(table.key, ["tenant", "id"]);
    assert_eq!((table.flag.as_str(), table.group.as_str()), ("sent_to_kafka", "pg2ch"));
    assert_eq!((table.on_bad_row, table.max_dead_letters), (OnBadRow::Stop, 0));
}

#[test]
fn tables_that_get_in_each_others_way_are_refused() {
    for (other, place) in [
        ("source = \"PUBLIC.A\"\nkey = \"id\"\ntopic = \"b\"\ntarget = \"x.b\"\n", "table[1].source"),
        ("source = \"public.b\"\nkey = \"id\"\ntopic = \"a\"\ntarget = \"x.b\"\n", "table[1].topic"),
        ("source = \"public.b\"\nkey = \"id\"\ntopic = \"a.dead\"\ntarget = \"x.b\"\n", "table[1].topic"),
        ("source = \"public.b\"\nkey = \"id\"\ntopic = \"b\"\ntarget = \"x.a\"\n", "table[1].target"),
        ("source = \"b\"\nkey = \"id\"\ntopic = \"b\"\ntarget = \"x.b\"\n", "table[1].source"),
        ("source = \"public.b\"\ntopic = \"b\"\ntarget = \"x.b\"\n", "table[1].key"),
        ("source = \"public.b\"\nkey = []\ntopic = \"b\"\ntarget = \"x.b\"\n", "table[1].key"),
        ("source = \"public.b\"\nkey = [\"i\", \"i\"]\ntopic = \"b\"\ntarget = \"x.b\"\n", "table[1].key"),
        ("source = \"public.b\"\nkey = \"f\"\nflag = \"f\"\ntopic = \"b\"\ntarget = \"x.b\"\n", "table[1].flag"),
        ("source = \"public.b\"\nkey = \"id\"\ntopic = \"b c\"\ntarget = \"x.b\"\n", "table[1].topic"),
        ("source = \"public.b\"\nkey = \"id\"\ntopic = \"b\"\ntarget = \"b\"\n", "table[1].target"),
        ("source = \"public.b\"\nkey = \"id\"\ntopic = \"b\"\ntarget = \"x.b\"\ngroup = \"\"\n", "table[1].group"),
        (
            "source = \"public.b\"\nkey = \"id\"\ntopic = \"b\"\ntarget = \"x.b\"\non_bad_row = \"skip\"\n",
            "table[1].on_bad_row",
        ),
    ] {
        let error = refused(&format!("{TABLE}[[table]]\n{other}"));
        assert!(error.what().contains(&format!("`{place}`")), "{other}: {error}");
    }
}

#[test]
fn two_tables_are_recognised_as_sharing_something_however_it_is_spelt() {
    let pair = |source: &str, topic: &str, target: &str| {
        let one = "[[table]]\nsource = \"public.Users\"\nkey = \"id\"\ntopic = \"users\"\ntarget = \"x.users\"\n";
        let other = format!("[[table]]\nsource = '{source}'\nkey = \"id\"\ntopic = \"{topic}\"\ntarget = '{target}'\n");
        with_file(&format!("{one}{other}"), &[])
    };
    for (source, topic, target, place) in [
        (r#""public"."users""#, "other", "x.other", "table[1].source"),
        ("PUBLIC.USERS", "other", "x.other", "table[1].source"),
        ("public.other", "users", "x.other", "table[1].topic"),
        ("public.other", "users.dead", "x.other", "table[1].topic"),
        ("public.other", "other", "`x`.`users`", "table[1].target"),
        ("public.other", "other", r#""x"."users""#, "table[1].target"),
    ] {
        let error = pair(source, topic, target).unwrap_err().to_string();
        assert!(error.contains(&format!("`{place}`")), "{source} {topic} {target}: {error}");
    }
    // Quoted, PostgreSQL's name keeps its capitals; ClickHouse's and Kafka's always do.
    assert!(pair(r#"public."Users""#, "Users", "x.Users").is_ok());
}

#[test]
fn the_table_option_chooses_by_any_spelling() {
    let directory = Directory::new();
    let text = format!("{TABLE}[[table]]\nsource = \"s.b\"\nkey = \"id\"\ntopic = \"b\"\ntarget = \"x.b\"\n");
    let path = directory.write("pg2ch.toml", &text, 0o600);
    let load = |names: &[&str]| {
        let flags = Flags { tables: names.iter().map(|n| (*n).to_owned()).collect(), ..Flags::default() };
        let explained = explain_in(&flags, Environment::default(), slice::from_ref(&path))?;
        Ok::<_, Error>(explained.config.tables.into_iter().map(|t| t.source).collect::<Vec<_>>())
    };
    assert_eq!(load(&["b"]).unwrap(), ["s.b"]);
    assert_eq!(load(&["S.B", "public.a", "a"]).unwrap(), ["public.a", "s.b"]);
    let error = load(&["c"]).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Usage);
    assert!(error.why().contains("s.b"), "{error}");
}

#[test]
fn rules_for_columns_are_read_and_contradictions_refused() {
    let rules =
        "rename = { mail = \"email\", \"Odd Name\" = \"odd\" }\nignore = \"notes\"\nallow_lossy = [\"amount\"]\n";
    let explained = with_file(&format!("{TABLE}{rules}"), &[]).unwrap();
    let rules = &explained.config.tables[0].column_rules;
    assert_eq!((rules.column_of("mail"), rules.column_of("Odd Name")), (Some("email"), Some("odd")));
    assert!(rules.ignore.contains("notes") && rules.allow_lossy.contains("amount"));
    let shown = explained.settings.iter().find(|setting| setting.key == "table[0].rename").unwrap();
    assert_eq!(shown.value, "Odd Name → odd, mail → email");
    for (rules, told) in [
        ("rename = \"mail\"", "it is a string"),
        ("rename = { mail = 1 }", "more than strings"),
        ("rename = { a = \"c\", b = \"c\" }", "would both become `c`"),
        ("rename = { a = \"_offset\" }", "pg2ch's own"),
        ("rename = { a = \"\" }", "not a valid name"),
        ("ignore = [\"id\"]", "belongs to the key"),
        ("ignore = [\"a\"]\nrename = { a = \"b\" }", "another rule"),
        ("ignore = [\"a\"]\nallow_lossy = [\"a\"]", "another rule"),
        ("allow_lossy = true", "it is true or false"),
    ] {
        let error = with_file(&format!("{TABLE}{rules}\n"), &[]).unwrap_err();
        assert!(error.to_string().contains(told), "{rules}: {error}");
    }
}

#[test]
fn where_and_the_choice_of_columns_are_checked_as_far_as_they_can_be_without_a_server() {
    const TABLE: &str = "[[table]]\nsource = \"a.b\"\nkey = [\"k\", \"l\"]\ntopic = \"t\"\ntarget = \"d.t\"\n";
    for (line, why) in [
        ("where = \" \"", "it is empty"),
        ("where = 1", "not a string"),
        ("columns = []", "it names no column"),
        ("columns = [\"a\", \"a\"]", "twice"),
        ("columns = [\"a\", \"sent_to_kafka\"]", "the flag sent_to_kafka is never part of a record"),
        ("exclude = \"sent_to_kafka\"", "the flag sent_to_kafka is never part of a record"),
        ("exclude = [\"a\", \"l\"]", "l is a column of the key"),
        ("columns = \"a\"\nexclude = \"b\"", "`columns` says already"),
    ] {
        let error = refused(&format!("{TABLE}{line}\n"));
        assert!(error.why().contains(why), "{line}: {error}");
    }
    let table = |line: &str| with_file(&format!("{TABLE}{line}\n"), &[]).unwrap().config.tables.remove(0);
    assert_eq!(table("").condition, None);
    assert_eq!(table("where = \" a > 1 \"").condition.as_deref(), Some("a > 1"));
    assert_eq!(table("columns = \"a\"").columns, ColumnChoice::Only(vec!["a".into()]));
    assert_eq!(table("exclude = \"a\"").columns, ColumnChoice::AllBut(vec!["a".into()]));
}

#[test]
fn headers_stand_in_the_order_of_the_file_and_are_refused_where_they_cannot_be() {
    let loaded = with_file(&format!("{TABLE}headers = {{ z = \"a\", \"ce_type\" = \"b\" }}\n"), &[]).unwrap();
    assert_eq!(loaded.config.tables[0].outbox.headers, [("z".into(), "a".into()), ("ce_type".into(), "b".into())]);
    for (line, why) in [
        ("headers = \"trace\"", "a string"),
        ("headers = { pg2ch-x = \"a\" }", "pg2ch-"),
        ("headers = { \"a b\" = \"a\" }", "without spaces"),
        ("headers = { \"\" = \"a\" }", "1 to 249"),
        ("headers = { a = \"x\", A = \"y\" }", "twice"),
        ("headers = { a = \"sent_to_kafka\" }", "never part of a record"),
        ("headers = { a = \"\" }", "empty"),
        ("headers = { a = 1 }", "more than strings"),
    ] {
        let error = refused(&format!("{TABLE}{line}\n"));
        assert!(error.what().contains("`table[0].headers`") && error.why().contains(why), "{line}: {error}");
    }
}
