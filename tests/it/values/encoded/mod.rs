//! What the encoder makes of a value is what the server shows: its whole table of cases, and random values, over HTTP.

mod cases;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::common::servers::Servers;
use cases::{Case, Expected, edges, generated};
use pg2ch::clickhouse::{Answer, CalendarRange, Column, FORMAT, Http, RowEncoder};
use pg2ch::data::RecordId;

/// A server, and which years it can show.
struct Server {
    http: Http,
    range: CalendarRange,
}

impl Server {
    fn new() -> Self {
        let mut server = Self { http: Servers::shared().clickhouse(), range: CalendarRange::Narrow };
        let probe = server.ask(&format!("{} FORMAT TabSeparated", CalendarRange::PROBE), &[], &[]);
        if probe.trim() == "1" {
            server.range = CalendarRange::Wide;
        }
        server
    }

    #[track_caller]
    fn ask(&self, sql: &str, settings: &[(&str, &str)], data: &[u8]) -> String {
        match self.http.send(sql, settings, data).unwrap() {
            Answer::Ok(body) => String::from_utf8(body).unwrap(),
            Answer::Exception(exception) => panic!("{sql}: {exception}"),
        }
    }

    /// Sends the cases of one type, which are all to be shown, and adds those that the server shows otherwise.
    fn compare(&self, table: &str, column_type: &str, cases: &[&Case], wrong: &mut String) {
        self.ask(&format!("CREATE TABLE {table} (v {column_type}, _offset Int64) ENGINE = Memory"), &SETTINGS, &[]);
        let mut encoder = RowEncoder::new(&[Column::new("v", column_type), Column::new("_offset", "Int64")])
            .unwrap()
            .with_calendar_range(self.range);
        let mut body = Vec::new();
        for (case, offset) in cases.iter().zip(0..) {
            let position = RecordId { partition: 0, offset, timestamp_ms: 0 };
            encoder.encode(position, case.record().as_bytes(), &mut body).unwrap_or_else(|refusal| {
                panic!("{column_type} refuses {}: {refusal}", case.json);
            });
        }
        let settings = [
            ("input_format_binary_read_json_as_string", "1"),
            ("input_format_try_infer_dates", "0"),
            ("input_format_try_infer_datetimes", "0"),
        ];
        let body = [encoder.headers().swap_remove(0), body].concat();
        self.ask(&format!("INSERT INTO {table} FORMAT {FORMAT}"), &settings, &body);
        for (case, offset) in cases.iter().zip(0..) {
            let show = case.show;
            let Expected::Shown(expected) = &case.expected else { continue };
            let shown =
                self.ask(&format!("SELECT {show} FROM {table} WHERE _offset = {offset} FORMAT TSVRaw"), &[], &[]);
            if shown.strip_suffix('\n') != Some(expected) {
                writeln!(wrong, "{column_type}, {show}: {} is shown as {shown:?}, not {expected:?}", case.json)
                    .unwrap();
            }
        }
        self.ask(&format!("DROP TABLE {table}"), &[], &[]);
    }

    fn compare_all(&self, name: &str, cases: &[Case]) {
        let mut by_type: BTreeMap<&str, Vec<&Case>> = BTreeMap::new();
        for case in cases {
            let is_shown = matches!(case.expected, Expected::Shown(_));
            if is_shown && (case.range == CalendarRange::Narrow || self.range == CalendarRange::Wide) {
                by_type.entry(&case.column_type).or_default().push(case);
            }
        }
        let mut wrong = String::new();
        for (number, (column_type, cases)) in by_type.iter().enumerate() {
            let table = format!("analytics.{name}_{}_{number}", std::process::id());
            self.compare(&table, column_type, cases, &mut wrong);
        }
        assert!(wrong.is_empty(), "{wrong}");
    }
}

/// Types that a server may keep behind a setting.
const SETTINGS: [(&str, &str); 2] =
    [("allow_suspicious_low_cardinality_types", "1"), ("allow_suspicious_types_in_group_by", "1")];

#[test]
fn the_edges_of_every_type_are_shown_as_they_were_meant() {
    Server::new().compare_all("edges", &edges());
}

#[test]
fn random_values_are_shown_as_they_were_meant() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    Server::new().compare_all("random", &generated(seed, 600));
}

#[test]
fn what_is_refused_never_reaches_the_server() {
    let refused: Vec<Case> = edges().into_iter().filter(|case| matches!(case.expected, Expected::Refused(_))).collect();
    assert!(refused.len() > 50);
    for case in refused {
        let mut encoder =
            RowEncoder::new(&[Column::new("v", &case.column_type)]).unwrap().with_calendar_range(case.range);
        let mut body = Vec::new();
        let position = RecordId { partition: 0, offset: 0, timestamp_ms: 0 };
        assert!(encoder.encode(position, case.record().as_bytes(), &mut body).is_err(), "{case:?}");
        assert!(body.is_empty(), "{case:?}");
    }
}
