//! docs/scale.md's way back: another program has copied the topic, and has left the position columns at 0.

use pg2ch::clickhouse::Answer;

use crate::common::servers::OwnServers;

const PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/scale.md"));

fn clickhouse(servers: &OwnServers, sql: &str) {
    let answer = servers.servers.clickhouse().send(sql, &[], &[]).unwrap();
    assert!(matches!(answer, Answer::Ok(_)), "{sql}: {answer:?}");
}

#[test]
fn what_another_program_has_copied_without_positions_compares_as_usual_after_the_way_back() {
    let servers = OwnServers::start("way-back");
    servers.pg2ch(&["produce"]).expect(0);
    let columns = "(id, user_id, event_type, event_time)";
    let copied = "SELECT number + 1, 1, 'login', now64(6) FROM numbers(3)";
    clickhouse(&servers, &format!("INSERT INTO analytics.user_logins {columns} {copied}"));
    let told = servers.pg2ch(&["verify"]).expect(65).stdout;
    assert!(told.contains("doubled"), "{told}");

    let statement = PAGE.split("```sql\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    clickhouse(&servers, statement);
    servers.pg2ch(&["init", "--start-at-end"]).expect(0);
    let newer = "UPDATE user_logins SET event_type = 'logout', sent_to_kafka = FALSE WHERE id = 2";
    servers.servers.superuser().batch_execute(newer).unwrap();
    let ended = servers.pg2ch(&["--once", "--json"]).expect(0);

    assert_eq!((ended.number("produce", "records_sent"), ended.number("consume", "records_copied")), (1, 1));
    servers.pg2ch(&["verify"]).expect(0);
    let newest = "SELECT throwIf(any(event_type) != 'logout') FROM analytics.user_logins FINAL WHERE id = 2";
    clickhouse(&servers, newest);
}

#[test]
fn a_version_that_only_the_other_program_has_copied_is_shown_after_the_repair() {
    let servers = OwnServers::start("way-back-repair");
    servers.pg2ch(&["--once"]).expect(0);
    let newer = "UPDATE user_logins SET event_type = 'logout', sent_to_kafka = FALSE WHERE id = 2";
    servers.servers.superuser().batch_execute(newer).unwrap();
    servers.pg2ch(&["produce"]).expect(0);
    let columns = "id, user_id, event_type, event_time, payload";
    let copied = columns.replace("event_type", "'logout'");
    let rows = "FROM analytics.user_logins WHERE id = 2";
    clickhouse(&servers, &format!("INSERT INTO analytics.user_logins ({columns}) SELECT {copied} {rows}"));

    let statement = PAGE.split("```sql\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    clickhouse(&servers, statement);
    let commands = PAGE.split("\n### The way back\n").nth(1).unwrap().split("\n## ").next().unwrap().lines();
    let commands: Vec<&str> = commands.filter_map(|line| line.strip_prefix("    pg2ch ")).collect();
    assert_eq!(commands.len(), 4, "{commands:?}");
    for command in commands {
        let code = if command.contains("--repair") { 65 } else { 0 };
        servers.pg2ch(&command.split(' ').collect::<Vec<_>>()).expect(code);
    }

    servers.pg2ch(&["verify", "--deep"]).expect(0);
    clickhouse(&servers, "SELECT throwIf(any(event_type) != 'logout') FROM analytics.user_logins FINAL WHERE id = 2");
}
