//! A Kafka cluster of three brokers, replication 3, `min.insync.replicas=2`, beside the shared PostgreSQL and ClickHouse.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};

use super::World;
use super::pooler::port_of;
use super::servers::{OwnServers, Servers};

/// The brokers, as `scripts/servers` names them. Their numbers begin with 1.
const BROKERS: [&str; 3] = ["kafka", "kafka2", "kafka3"];

impl Drop for Cluster {
    fn drop(&mut self) {
        // Three that end in order wait for each other.
        BROKERS.iter().for_each(|broker| self.own.kill_if_it_runs(broker));
    }
}

/// Who coordinates what.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Group,
    Transaction,
}

/// The cluster, ended with its value.
pub struct Cluster {
    own: OwnServers,
    pub servers: Servers,
}

impl Cluster {
    pub fn start(name: &str) -> Self {
        let own = OwnServers::start_only(name, &BROKERS.join(","));
        let servers = Servers { brokers: own.servers.brokers.clone(), kafka_proxies: Vec::new(), ..Servers::shared() };
        Self { own, servers }
    }

    /// `start`, `stop`, `kill`, `pause` or `resume` of the broker of this number.
    pub fn act(&self, action: &str, broker: usize) {
        self.own.act(action, BROKERS[broker - 1]);
    }

    /// How many partitions the world's topic has.
    pub fn partitions(&self, world: &World) -> usize {
        let consumer: BaseConsumer = world.client().create().unwrap();
        let metadata = consumer.fetch_metadata(Some(&world.name), Duration::from_secs(10)).unwrap();
        metadata.topics()[0].partitions().len()
    }

    /// Moves each partition of the world's topic to these brokers (`AlterPartitionReassignments`, version 0).
    pub fn reassign(&self, world: &World, replicas: &[[i32; 2]]) {
        let length = |count: usize| u8::try_from(count + 1).unwrap();
        let mut body = 10_000_i32.to_be_bytes().to_vec();
        // One topic, its name, its partitions; no tagged fields, at any level.
        body.extend([2, length(world.name.len())]);
        body.extend(world.name.as_bytes());
        body.push(length(replicas.len()));
        for (partition, brokers) in (0_i32..).zip(replicas) {
            body.extend(partition.to_be_bytes());
            body.push(length(brokers.len()));
            brokers.iter().for_each(|broker| body.extend(broker.to_be_bytes()));
            body.push(0);
        }
        body.extend([0, 0]);
        let answer = self.ask(45, 0, true, &body);
        assert_eq!(number::<2>(&answer, 4), 0, "the partitions do not move");
    }

    /// The broker that leads a partition of the world's topic.
    pub fn leader(&self, world: &World, partition: usize) -> usize {
        let consumer: BaseConsumer = world.client().create().unwrap();
        let metadata = consumer.fetch_metadata(Some(&world.name), Duration::from_secs(10)).unwrap();
        usize::try_from(metadata.topics()[0].partitions()[partition].leader()).unwrap()
    }

    /// The broker that coordinates a group, or a producer's transactions (`FindCoordinator`, version 1).
    pub fn coordinator(&self, kind: Kind, name: &str) -> usize {
        let mut body = text(name);
        body.push(kind as u8);
        let answer = self.ask(10, 1, false, &body);
        assert_eq!(number::<2>(&answer, 4), 0, "no coordinator of {name}");
        let message = usize::try_from(number::<2>(&answer, 6)).unwrap_or(0);
        usize::try_from(number::<4>(&answer, 8 + message)).unwrap()
    }

    /// The broker whose controller is the active one (`DescribeQuorum`, version 0).
    pub fn controller(&self) -> usize {
        let name = b"__cluster_metadata";
        let mut body = vec![2, u8::try_from(name.len()).unwrap() + 1];
        body.extend(name);
        // One partition, number 0; no tagged fields, at any level.
        body.extend([2, 0, 0, 0, 0, 0, 0, 0]);
        let answer = self.ask(55, 0, true, &body);
        // Behind the error: the number of topics, the name, the number of partitions, the partition's number and error.
        let at = 2 + 1 + 1 + name.len() + 1 + 4 + 2;
        usize::try_from(number::<4>(&answer, at)).unwrap()
    }

    /// The answer's body to one request, from the first broker that answers.
    fn ask(&self, api: i16, version: i16, is_flexible: bool, body: &[u8]) -> Vec<u8> {
        let mut request = [api.to_be_bytes(), version.to_be_bytes()].concat();
        request.extend(1_i32.to_be_bytes());
        request.extend(text("test"));
        if is_flexible {
            request.push(0);
        }
        request.extend(body);
        let answers = self.servers.brokers.split(',').map(|broker| exchange(port_of(broker), &request));
        let answer = answers.flatten().next().expect("a broker that answers");
        answer[4 + usize::from(is_flexible)..].to_vec()
    }
}

fn exchange(port: u16, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut connection = TcpStream::connect(("127.0.0.1", port))?;
    connection.set_read_timeout(Some(Duration::from_secs(2)))?;
    connection.write_all(&u32::try_from(request.len()).unwrap().to_be_bytes())?;
    connection.write_all(request)?;
    let mut size = [0; 4];
    connection.read_exact(&mut size)?;
    let mut answer = vec![0; u32::from_be_bytes(size) as usize];
    connection.read_exact(&mut answer)?;
    Ok(answer)
}

fn text(value: &str) -> Vec<u8> {
    let mut bytes = u16::try_from(value.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(value.as_bytes());
    bytes
}

/// A signed number of so many bytes.
fn number<const BYTES: usize>(answer: &[u8], at: usize) -> i64 {
    let bytes = &answer[at..at + BYTES];
    let unsigned = bytes.iter().fold(0_i64, |number, byte| number << 8 | i64::from(*byte));
    let bits = 8 * u32::try_from(BYTES).unwrap();
    unsigned << (64 - bits) >> (64 - bits)
}
