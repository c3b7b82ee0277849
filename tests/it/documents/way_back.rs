//! docs/scale.md's way back: another program has copied the topic, and has left the position columns at 0.

use std::process::Command;

use pg2ch::clickhouse::Answer;

use crate::common::Ended;
use crate::common::servers::OwnServers;

const PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/scale.md"));

struct Machine(OwnServers);

impl Machine {
    fn pg2ch(&self, arguments: &str) -> Ended {
        let servers = &self.0.servers;
        let output = Command::new(env!("CARGO_BIN_EXE_pg2ch"))
            .args(arguments.split(' '))
            .env_clear()
            .env("PG2CH_POSTGRES_URL", &servers.postgres_url)
            .env("PG2CH_KAFKA_BROKERS", &servers.brokers)
            .env("PG2CH_CLICKHOUSE_URL", &servers.clickhouse_url)
            .current_dir(self.0.dir())
            .output()
            .unwrap();
        Ended::of(&output)
    }

    fn clickhouse(&self, sql: &str) {
        let answer = self.0.servers.clickhouse().send(sql, &[], &[]).unwrap();
        assert!(matches!(answer, Answer::Ok(_)), "{sql}: {answer:?}");
    }
}

#[test]
fn what_another_program_has_copied_without_positions_compares_as_usual_after_the_way_back() {
    let machine = Machine(OwnServers::start("way-back"));
    machine.pg2ch("produce").expect(0);
    let columns = "(id, user_id, event_type, event_time)";
    let copied = "SELECT number + 1, 1, 'login', now64(6) FROM numbers(3)";
    machine.clickhouse(&format!("INSERT INTO analytics.user_logins {columns} {copied}"));
    let told = machine.pg2ch("verify").expect(65).stdout;
    assert!(told.contains("doubled"), "{told}");

    let statement = PAGE.split("```sql\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    machine.clickhouse(statement);
    machine.pg2ch("init --start-at-end").expect(0);
    let newer = "UPDATE user_logins SET event_type = 'logout', sent_to_kafka = FALSE WHERE id = 2";
    machine.0.servers.superuser().batch_execute(newer).unwrap();
    let ended = machine.pg2ch("--once --json").expect(0);

    assert_eq!((ended.number("produce", "records_sent"), ended.number("consume", "records_copied")), (1, 1));
    machine.pg2ch("verify").expect(0);
    let newest = "SELECT throwIf(any(event_type) != 'logout') FROM analytics.user_logins FINAL WHERE id = 2";
    machine.clickhouse(newest);
}
