//! A TCP proxy between pg2ch and one server, which does what networks do: cut, stall, swallow an answer, deliver late.
//!
//! Bytes pass until a fault is asked for: for everything from [now](Proxy::now) on, or once, for the connection on which a
//! [pattern](Proxy::on) or a [number of bytes](Proxy::after) comes by. [`pass`](Proxy::pass) ends every fault.

mod relay;

use std::collections::HashMap;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Ended, World};

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToServer,
    ToClient,
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is closed on both sides; what triggered it does not pass.
    Cut,
    /// What the client sends reaches the server; the answer is swallowed, and the connection closed when it has come.
    DropReply,
    /// What the client sends is kept back, and reaches the server at [`Proxy::pass`], even if the client is gone by then.
    Hold,
    /// Nothing passes, either way, until [`Proxy::pass`].
    Stall,
}

/// A proxy; it ends with its value.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    upstream: String,
    state: Mutex<State>,
    changed: Condvar,
    ended: AtomicBool,
}

#[derive(Default)]
struct State {
    all: Option<Fault>,
    /// The faults of single connections.
    faults: HashMap<u64, Fault>,
    rules: Vec<Rule>,
    open: HashMap<u64, (TcpStream, TcpStream)>,
    hits: usize,
    /// Requests that were delivered after their client had gone, and answered by the server.
    late: usize,
    connections: u64,
    /// How many bytes a second a direction of a connection takes.
    rate: Option<u64>,
    bytes: HashMap<u64, [u64; 2]>,
    total: [u64; 2],
}

type Matcher = Box<dyn Fn(&[u8]) -> bool + Send>;

struct Rule {
    way: Way,
    when: When,
    fault: Fault,
}

enum When {
    Matches { matcher: Matcher, passings: usize },
    Bytes(u64),
}

/// Whether a chunk makes something of the ledger durable: it ends a transaction, or writes under an epoch by itself.
pub fn commits(chunk: &[u8]) -> bool {
    let holds = |pattern| has(pattern)(chunk);
    let only_reads = holds("START TRANSACTION");
    holds("COMMIT") && !only_reads || holds("pg2ch_checkpoint SET") || holds("INTO pg2ch_checkpoint")
}

/// Whether a chunk contains `pattern`.
pub fn has(pattern: &'static str) -> impl Fn(&[u8]) -> bool + Send {
    move |chunk| chunk.windows(pattern.len()).any(|window| window == pattern.as_bytes())
}

/// Whether a chunk holds a Kafka request of this kind: 0 Produce, 1 Fetch, 22 `InitProducerId`, 24 `AddPartitionsToTxn`,
/// 26 `EndTxn`, 28 `TxnOffsetCommit`. pg2ch's requests bear its name, which makes them easy to find in a stream.
pub fn kafka_request(api: u8) -> impl Fn(&[u8]) -> bool + Send {
    // Behind kind, version and number stands the client's name, its length first: a producer's has the run's name at its end.
    move |chunk| chunk.windows(15).any(|w| w[0] == 0 && w[1] == api && w[2] == 0 && w[8] == 0 && &w[10..] == b"pg2ch")
}

impl Proxy {
    /// A proxy before `upstream` (`host:port`), on a port of its own.
    pub fn to(upstream: &str) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), upstream)
    }

    /// A proxy before PostgreSQL, which this world's program uses from now on.
    pub fn before_postgres(world: &mut World) -> Self {
        let url = world.servers.postgres_url.clone();
        let proxy = Self::to(host_of(&url));
        let line = format!("url = \"{}?sslmode=disable\"", url.replace(host_of(&url), &proxy.address()));
        world.settings.entry("postgres").or_default().push_str(&(line + "\n"));
        proxy
    }

    /// A proxy before ClickHouse, which this world's program uses from now on.
    pub fn before_clickhouse(world: &mut World) -> Self {
        let url = world.servers.clickhouse_url.clone();
        let proxy = Self::to(host_of(&url));
        let line = format!("url = \"{}\"", url.replace(host_of(&url), &proxy.address()));
        world.settings.entry("clickhouse").or_default().push_str(&(line + "\n"));
        proxy
    }

    /// A proxy before the broker, which this world's program uses from now on. The broker tells clients where to find it,
    /// so there is a listener for each of a few proxies; a test waits here until one of them is free.
    pub fn before_kafka(world: &mut World) -> Self {
        let pairs = world.servers.kafka_proxies.clone();
        assert!(
            !pairs.is_empty(),
            "the servers were started without --free-ports, so Kafka has no listener for a proxy"
        );
        let until = Instant::now() + Duration::from_secs(120);
        loop {
            for (advertised, listening) in &pairs {
                if let Ok(listener) = TcpListener::bind(("127.0.0.1", *advertised)) {
                    let proxy = Self::on(listener, &format!("127.0.0.1:{listening}"));
                    let line = format!("brokers = \"{}\"\n", proxy.address());
                    world.settings.entry("kafka").or_default().push_str(&line);
                    return proxy;
                }
            }
            assert!(Instant::now() < until, "no proxy's port became free in two minutes");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn on(listener: TcpListener, upstream: &str) -> Self {
        let shared = Arc::new(Shared {
            upstream: upstream.replace("localhost:", "127.0.0.1:"),
            state: Mutex::default(),
            changed: Condvar::new(),
            ended: AtomicBool::new(false),
        });
        let port = listener.local_addr().unwrap().port();
        let accepting = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || relay::accept(&listener, &shared))
        };
        Self { port, shared, accepting: Some(accepting) }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Everything gets this fault from now on, open connections and new ones.
    pub fn now(&self, fault: Fault) {
        let mut state = self.shared.lock();
        state.all = Some(fault);
        if fault == Fault::Cut {
            state.open.values().for_each(|pair| close(&pair.0, &pair.1));
        }
    }

    /// From now on each direction of a connection takes this many bytes a second.
    pub fn slow(&self, rate: u64) {
        self.shared.lock().rate = Some(rate);
    }

    /// Cuts the connections that are open; new ones pass.
    pub fn cut_open(&self) {
        self.shared.lock().open.values().for_each(|pair| close(&pair.0, &pair.1));
    }

    /// Once: the connection on which the `nth` chunk comes by that `matcher` accepts gets the fault, from this chunk on.
    pub fn on_nth(&self, nth: usize, way: Way, matcher: impl Fn(&[u8]) -> bool + Send + 'static, fault: Fault) {
        let when = When::Matches { matcher: Box::new(matcher), passings: nth };
        self.shared.lock().rules.push(Rule { way, when, fault });
    }

    /// Calls `run`, in which the `nth` request that `matcher` accepts gets the fault, and fails unless that came about. What
    /// comes afterwards passes, on new connections.
    #[track_caller]
    pub fn hit(
        &self,
        nth: usize,
        matcher: impl Fn(&[u8]) -> bool + Send + 'static,
        fault: Fault,
        run: impl FnOnce() -> Ended,
    ) -> Ended {
        let hits = self.hits();
        self.on_nth(nth, Way::ToServer, matcher, fault);
        let ended = run();
        assert_eq!(self.hits(), hits + 1, "{fault:?} of request {nth} did not come about: {ended:?}");
        self.pass();
        self.cut_open();
        ended
    }

    /// Starts a run, holds back the `nth` request that `matcher` accepts, and kills the run: it arrives at [`pass`](Self::pass).
    pub fn kill_with_held(
        &self,
        world: &World,
        leg: &str,
        nth: usize,
        matcher: impl Fn(&[u8]) -> bool + Send + 'static,
    ) {
        self.on_nth(nth, Way::ToServer, matcher, Fault::Hold);
        let mut run = world.start(&[leg]);
        self.wait_for_hit();
        run.kill().unwrap();
        run.wait().unwrap();
    }

    /// Once: after so many more bytes that way, over all connections, the fault begins on the connection of the last one.
    pub fn after(&self, bytes: u64, way: Way, fault: Fault) {
        let mut state = self.shared.lock();
        let at = state.total[way as usize] + bytes;
        state.rules.push(Rule { way, when: When::Bytes(at), fault });
    }

    /// Ends every fault, and lets through what is held back.
    pub fn pass(&self) {
        let mut state = self.shared.lock();
        state.all = None;
        state.faults.clear();
        state.rules.clear();
        self.shared.changed.notify_all();
    }

    /// How often a rule has applied.
    pub fn hits(&self) -> usize {
        self.shared.lock().hits
    }

    /// Waits until a rule has applied, twenty seconds at most.
    pub fn wait_for_hit(&self) {
        let until = Instant::now() + Duration::from_secs(20);
        while self.hits() == 0 {
            assert!(Instant::now() < until, "waited twenty seconds for what the proxy should hit");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// How many requests were delivered after their client had gone, and answered.
    pub fn late_deliveries(&self) -> usize {
        self.shared.lock().late
    }

    /// Waits until so many requests were delivered after their client had gone, and answered, ten seconds at most.
    pub fn wait_for_late_deliveries(&self, number: usize) {
        let until = Instant::now() + Duration::from_secs(10);
        while self.shared.lock().late < number {
            assert!(Instant::now() < until, "waited ten seconds for an answer to what was delivered late");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn connections(&self) -> u64 {
        self.shared.lock().connections
    }

    /// The bytes that have come by that way.
    pub fn bytes(&self, way: Way) -> u64 {
        self.shared.lock().total[way as usize]
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.cut_open();
        self.pass();
        // Wakes the thread that accepts, so that the port is free when this returns.
        let _ = TcpStream::connect(self.address());
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        self.cut_open();
    }
}

/// What is to be done with a chunk.
enum Verdict {
    Pass,
    /// So many bytes of it pass, then the connection is closed.
    Cut(usize),
    Swallow,
    Wait,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn judge(&self, id: u64, way: Way, chunk: &[u8]) -> Verdict {
        let mut state = self.lock();
        let before = state.total[way as usize];
        state.total[way as usize] += chunk.len() as u64;
        state.bytes.entry(id).or_default()[way as usize] += chunk.len() as u64;
        let total = state.total[way as usize];
        let hit = state.rules.iter_mut().position(|rule| {
            rule.way == way
                && match &mut rule.when {
                    When::Bytes(at) => total >= *at,
                    When::Matches { matcher, passings } => {
                        matcher(chunk) && {
                            *passings = passings.saturating_sub(1);
                            *passings == 0
                        }
                    }
                }
        });
        if let Some(rule) = hit.map(|index| state.rules.remove(index)) {
            state.hits += 1;
            state.faults.insert(id, rule.fault);
            if let (When::Bytes(at), Fault::Cut) = (rule.when, rule.fault) {
                return Verdict::Cut(usize::try_from(at.saturating_sub(before)).unwrap());
            }
        }
        match (state.faults.get(&id).copied().or(state.all), way) {
            (None, _) | (Some(Fault::DropReply), Way::ToServer) | (Some(Fault::Hold), Way::ToClient) => Verdict::Pass,
            (Some(Fault::Cut), _) => Verdict::Cut(0),
            (Some(Fault::DropReply), Way::ToClient) => Verdict::Swallow,
            (Some(Fault::Hold), Way::ToServer) | (Some(Fault::Stall), _) => Verdict::Wait,
        }
    }

    /// Takes the time that these bytes take.
    fn take_time(&self, bytes: usize) {
        let rate = self.lock().rate;
        if let Some(rate) = rate {
            std::thread::sleep(Duration::from_micros(bytes as u64 * 1_000_000 / rate));
        }
    }

    fn is_held(&self, id: u64) -> bool {
        let state = self.lock();
        matches!(state.faults.get(&id).copied().or(state.all), Some(Fault::Hold | Fault::Stall))
    }

    fn server_bytes(&self, id: u64) -> u64 {
        self.lock().bytes.get(&id).map_or(0, |bytes| bytes[1])
    }
}

fn host_of(url: &str) -> &str {
    url.rsplit_once('@').unwrap().1.split('/').next().unwrap()
}

fn close(client: &TcpStream, server: &TcpStream) {
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}
