//! A world under test, an application that works in it, and what is asked of both every few faults.

use std::collections::HashSet;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use fastrand::Rng;
use postgres::{Client, NoTls};

use super::common::servers::Servers;
use super::common::{Differences, Ended, World};
use super::journal::Tally;
use super::plan::Chunk;

pub const KILLED: i32 = -9;

/// How many runs may be told that a server is not itself again yet.
const RUNS: usize = 5;

/// How many clean runs may be needed until everything has arrived.
const CLEAN_RUNS: usize = 3;

pub struct Subject<'a> {
    pub world: World,
    pub rng: Rng,
    pub tally: &'a mut Tally,
    application: Option<Application>,
    /// The troubled runs' batches.
    batches: String,
}

impl<'a> Subject<'a> {
    pub fn new(chunk: &Chunk, tally: &'a mut Tally) -> Self {
        Self::on(Servers::shared(), chunk, tally)
    }

    /// The same on other servers.
    pub fn on(servers: Servers, chunk: &Chunk, tally: &'a mut Tally) -> Self {
        let mut rng = Rng::with_seed(chunk.seed);
        let mut world = World::on(servers, "soak", super::common::USER_LOGINS, rng.i32(1..=4));
        // At the end of everything it is compared once more.
        world.stays = true;
        tally.table.clone_from(&world.name);
        never_merge(&world);
        let batches = format!("rows = {}\ninsert_rows = {}", rng.u32(5..=12), rng.u32(10..=40));
        let mut subject = Self { world, rng, tally, application: None, batches };
        subject.world.insert_rows(20);
        subject.settle();
        subject
    }

    /// Lets an application work beside the runs from now on.
    pub fn start_application(&mut self) {
        self.application = Some(Application::start(&self.world, self.rng.u64(..)));
    }

    /// Runs that are to meet trouble try again at once, and give a server up early; their batches are small.
    pub fn expect_trouble(&mut self, timeouts: &str) {
        self.world.settings.insert("batch", self.batches.clone());
        self.world.settings.insert("retry", "attempts = 3\npause = \"20ms\"\nmax_pause = \"200ms\"".into());
        self.world.settings.insert("timeouts", timeouts.into());
    }

    fn expect_no_trouble(&mut self) {
        for section in ["batch", "retry", "timeouts"] {
            self.world.settings.remove(section);
        }
    }

    /// Starts a run whose end somebody else brings.
    pub fn start(&mut self, args: &[&str]) -> Child {
        let mut command: Command = self.world.command(args);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Notes how a run ended, which has to be in one of these ways.
    #[track_caller]
    pub fn ended(&mut self, ended: Ended, allowed: &[i32]) -> Ended {
        *self.tally.codes.entry(ended.code).or_default() += 1;
        if !allowed.contains(&ended.code) {
            self.tally.wrong_codes += 1;
            panic!("a run ended with {}, not with one of {allowed:?}: {}{}", ended.code, ended.stdout, ended.stderr);
        }
        ended
    }

    #[track_caller]
    pub fn run(&mut self, args: &[&str], allowed: &[i32]) -> Ended {
        let ended = self.world.run(args);
        self.ended(ended, allowed)
    }

    /// A run that dies at a crash point.
    #[track_caller]
    pub fn crash_at(&mut self, point: &str, args: &[&str], allowed: &[i32]) -> bool {
        let ended = self.world.crash_at(point, args);
        let ended = self.ended(ended, allowed);
        self.tally.faults += u64::from(ended.code == KILLED);
        ended.code == KILLED
    }

    /// Some rows change for good, some there and back, as an application does while no run is alive.
    pub fn change_some(&mut self) {
        let _still = self.application.as_ref().map(|application| application.gate.lock().unwrap());
        let (change, back) = (self.rng.i64(3..12), self.rng.i64(2..7));
        let version = self.rng.i64(1 << 40..1 << 50);
        self.world.sql(&format!(
            "UPDATE {{t}} SET user_id = {version} + id, sent_to_kafka = FALSE WHERE id % {change} = 0 AND id % 4 = 1"
        ));
        for (from, to) in [("event_type", "'there'"), ("'there'", "'login'")] {
            let which = if from == "event_type" { "event_type = 'login'" } else { "event_type = 'there'" };
            self.world.sql(&format!(
                "UPDATE {{t}} SET event_type = {to} WHERE id % {back} = 0 AND NOT sent_to_kafka AND {which}"
            ));
        }
    }

    /// Clean runs until nothing is unsent; the application stands still. Their exit code is 0, nothing else.
    pub fn settle(&mut self) {
        self.expect_no_trouble();
        for _ in 0..CLEAN_RUNS {
            self.run(&["--once", "--wait-lock", "20s"], &[0]);
            if self.world.unsent() == 0 {
                break;
            }
        }
    }

    /// Runs until one ends well; the others may say that a server is out of reach, or that a dead run's session holds the lock.
    pub fn run_until_well(&mut self) {
        for _ in 0..RUNS {
            if self.run(&["--once", "--wait-lock", "20s"], &[0, 69, 75]).code == 0 {
                return;
            }
        }
        panic!("{RUNS} runs, and none ended well though all servers are there");
    }

    /// Compares everything but the rows with these keys, whose last versions PostgreSQL has lost.
    pub fn compare_but_for(&mut self, keys: &HashSet<String>) {
        let records = self.world.topic();
        let in_topic = self.world.compare_with_topic(&records).but_for(keys);
        let in_target = self.world.compare_with_target(&records);
        self.count(records.len(), [in_topic, in_target]);
    }

    /// Lets everything arrive, and compares all there is.
    pub fn check(&mut self) {
        let gate = self.application.as_ref().map(|application| Arc::clone(&application.gate));
        let _still = gate.as_ref().map(|gate| gate.lock().unwrap());
        self.settle();
        self.compare();
    }

    fn compare(&mut self) {
        let records = self.world.topic();
        let in_topic = self.world.compare_with_topic(&records);
        let in_target = self.world.compare_with_target(&records);
        self.count(records.len(), [in_topic, in_target]);
    }

    fn count(&mut self, records: usize, differences: [Differences; 2]) {
        self.tally.checks += 1;
        self.tally.records = records as u64;
        for found in differences {
            self.tally.lost += found.lost.len() as u64;
            self.tally.doubled += found.doubled.len() as u64;
            found.assert_none();
        }
    }

    /// The application's last words, a last comparison, and the program's own.
    pub fn finish(mut self) {
        if let Some(application) = self.application.take() {
            application.end();
        }
        self.check();
        self.run(&["verify", "--deep"], &[0]);
    }
}

/// No merge may hide a row that is there twice, not even after the server has come back.
pub fn never_merge(world: &World) {
    world.ch("ALTER TABLE {t} MODIFY SETTING max_bytes_to_merge_at_max_space_in_pool = 1, \
         max_bytes_to_merge_at_min_space_in_pool = 1, parts_to_delay_insert = 100000, parts_to_throw_insert = 100000");
}

/// What an application is told when the servers are to be left in peace, or for good.
#[derive(Default)]
pub struct Gate {
    is_over: bool,
}

/// An application that changes and adds rows all the time, each version unlike every other.
struct Application {
    gate: Arc<Mutex<Gate>>,
    thread: JoinHandle<()>,
}

impl Application {
    fn start(world: &World, seed: u64) -> Self {
        let gate = Arc::new(Mutex::new(Gate::default()));
        let (url, name, mine) = (world.servers.postgres_url.clone(), world.name.clone(), Arc::clone(&gate));
        let thread = std::thread::spawn(move || {
            let (mut rng, mut version, mut session) = (Rng::with_seed(seed), 1_000_000, None);
            loop {
                let gate = mine.lock().unwrap();
                if gate.is_over {
                    return;
                }
                // A server that dies takes the session along; a deadlock, the statement.
                let client: Option<Client> = session.take().or_else(|| Client::connect(&url, NoTls).ok());
                version += 1;
                session =
                    client.and_then(|mut client| work(&mut client, &name, version, &mut rng).is_ok().then_some(client));
                drop(gate);
                // Runs bring more than that, on a slow machine, too.
                std::thread::sleep(Duration::from_millis(rng.u64(5..40)));
            }
        });
        Self { gate, thread }
    }

    fn end(self) {
        self.gate.lock().unwrap().is_over = true;
        self.thread.join().unwrap();
    }
}

fn work(client: &mut Client, name: &str, version: i64, rng: &mut Rng) -> Result<(), postgres::Error> {
    let mut transaction = client.transaction()?;
    if rng.u8(..8) == 0 {
        transaction.execute(
            &format!("INSERT INTO {name} (user_id, event_type, event_time) VALUES ($1, 'login', now())"),
            &[&version],
        )?;
    } else {
        let sql = format!(
            "UPDATE {name} SET user_id = $1, sent_to_kafka = FALSE
             WHERE id IN (SELECT id FROM {name} ORDER BY random() LIMIT 2)"
        );
        transaction.execute(&sql, &[&version])?;
    }
    if rng.u8(..10) == 0 {
        std::thread::sleep(Duration::from_millis(rng.u64(1..40)));
    }
    transaction.commit()
}
