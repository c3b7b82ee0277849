//! Servers that are killed, hang or are restarted under a run.

use std::path::Path;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};

use super::common::Ended;
use super::common::servers::act_in;
use super::plan::Act;
use super::subject::Subject;

const SERVERS: [&str; 3] = ["postgres", "kafka", "clickhouse"];
const TIMEOUTS: &str = "connect = \"1s\"\npostgres = \"1s\"\nkafka = \"2s\"\nstable = \"2s\"\nclickhouse = \"1s\"";

pub fn break_them(subject: &mut Subject<'_>, act: Act, servers: &Path, times: u64) {
    let first = subject.rng.usize(..SERVERS.len());
    let mut course = 0.3;
    subject.start_application();
    for number in 0..times {
        let server = SERVERS[(first + usize::try_from(number).unwrap()) % SERVERS.len()];
        subject.world.insert_rows(20);
        subject.expect_trouble(TIMEOUTS);
        let begun = Instant::now();
        let run = subject.start(&["--once", "--wait-lock", "20s"]);
        std::thread::sleep(Duration::from_secs_f64(subject.rng.f64() * course));
        let (from, to) = match act {
            Act::Kill => ("kill", "start"),
            Act::Pause => ("pause", "resume"),
            Act::Restart => ("stop", "start"),
        };
        act_in(servers, from, server);
        subject.tally.faults += 1;
        // Back again at once, so that the run may get over it, or only when the run has given up.
        let at_once = subject.rng.u8(..3) > 0;
        if at_once {
            std::thread::sleep(Duration::from_millis(subject.rng.u64(..800)));
            act_in(servers, to, server);
        }
        let ended = Ended::after(run);
        if subject.ended(ended, &[0, 69, 75]).code == 0 {
            course = f64::midpoint(begun.elapsed().as_secs_f64(), course);
            course = course.min(1.0);
        }
        if !at_once {
            subject.run(&["--once"], &[0, 69, 75]);
            act_in(servers, to, server);
        }
        if server == "postgres" && act != Act::Pause {
            subject.world.pg = Client::connect(&subject.world.servers.postgres_url, NoTls).unwrap();
        }
        subject.run_until_well();
        subject.check();
    }
}
