//! An nginx in front of ClickHouse that closes kept connections, refuses large bodies, does not wait for answers, or dies.

use std::time::Duration;

use super::common::Ended;
use super::common::nginx::Nginx;
use super::common::pooler::port_of;
use super::common::proxy::{Fault, Proxy, Way, has};
use super::plan::GatewayAct;
use super::subject::Subject;

/// How many faults lie between two comparisons.
const BETWEEN: u64 = 5;
const TIMEOUTS: &str = "connect = \"2s\"\nclickhouse = \"5s\"";

pub fn trouble(subject: &mut Subject<'_>, act: GatewayAct, times: u64) {
    let url = subject.world.servers.clickhouse_url.clone();
    let slow = Proxy::to(&format!("127.0.0.1:{}", port_of(&url)));
    let lines = match act {
        GatewayAct::Close => "keepalive_requests 3; location / { proxy_pass {upstream}; }",
        GatewayAct::TooLarge => "client_max_body_size 4k; location / { proxy_pass {upstream}; }",
        GatewayAct::Late => "location / { proxy_pass {upstream}; proxy_read_timeout 1s; }",
        GatewayAct::Kill => "location / { proxy_pass {upstream}; }",
    };
    let mut nginx = Nginx::before(&subject.world, port_of(&slow.address()), lines);
    subject.world.settings.insert("clickhouse", nginx.url(""));
    subject.start_application();
    // Some 4 kB hold 60 rows, but not always 180.
    let rows = if act == GatewayAct::TooLarge { 60..180 } else { 20..60 };
    for number in 1..=times {
        let rows = subject.rng.i64(rows.clone());
        subject.world.insert_rows(rows);
        subject.expect_trouble(TIMEOUTS);
        if act == GatewayAct::Late {
            let fault = if subject.rng.bool() { Fault::Stall } else { Fault::DropReply };
            slow.on_nth(subject.rng.usize(1..4), Way::ToServer, has("INSERT"), fault);
        }
        let run = subject.start(&["--once", "--wait-lock", "20s"]);
        if act == GatewayAct::Kill {
            let at = subject.rng.u64(..700);
            std::thread::sleep(Duration::from_millis(at));
            nginx.restart();
        }
        let ended = Ended::after(run);
        subject.ended(ended, &[0, 69]);
        subject.tally.faults += 1;
        slow.pass();
        slow.cut_open();
        if number % BETWEEN == 0 {
            subject.check();
        }
    }
    subject.world.settings.remove("clickhouse");
}
