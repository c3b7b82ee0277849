//! Makes consumers, for which partitions and offsets are named by hand.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;

use super::client::{Context, Detached, base, has_token, make};
use super::idle::{self, Idle};
use crate::config::Config;
use crate::error::Result;

/// How much is fetched at a time: bytes of a partition, of all together, and KiB that librdkafka may hold ready (its own
/// default, 64 MiB, is pg2ch's whole budget). A fetch is unpacked whole, to many times its size: a compressed topic must not
/// cost more memory than a plain one. A larger record comes all the same (KIP-74).
#[derive(Clone, Copy)]
pub(super) struct FetchSize([&'static str; 3]);

/// Where a fetch takes no time to come.
pub(super) const NEAR: FetchSize = FetchSize(["65536", "1048576", "3072"]);

/// Where the trip takes longer than what it brings: one fetch of a broker is under way at a time. It has to bring what producers send
/// in one piece, 1 MB by default, of every partition: of all but the first it brings whole pieces only if they fit.
pub(super) const FAR: FetchSize = FetchSize(["1100000", "4194304", "3072"]);

/// Where the INSERTs would wait for fetches of that size.
pub(super) const DISTANT: FetchSize = FetchSize(["2200000", "8388608", "3072"]);

/// A consumer, which is idle unless it reads.
pub(super) struct Consumer {
    client: Detached<BaseConsumer<Context>>,
    /// Whether partitions are assigned: what is polled then are their records.
    reads: Mutex<bool>,
}

impl Deref for Consumer {
    type Target = BaseConsumer<Context>;

    fn deref(&self) -> &Self::Target {
        &self.client
    }
}

impl Consumer {
    /// Reads these partitions from now on, and no others; none at all makes it idle.
    pub(super) fn assign(&self, list: &TopicPartitionList) -> KafkaResult<()> {
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        *reads = true;
        self.client.assign(list)?;
        *reads = list.count() > 0;
        Ok(())
    }
}

impl Idle for Consumer {
    fn poll_idle(&self) {
        match self.reads.try_lock() {
            Ok(reads) if !*reads => drop(self.client.poll(Duration::ZERO)),
            Ok(_) | Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => {}
        }
    }
}

/// Makes a consumer of `group` that reads as far as `isolation` says.
///
/// # Errors
/// 78 if librdkafka refuses a property.
pub(super) fn consumer(
    config: &Config,
    group: &str,
    isolation: &str,
    FetchSize([of_partition, of_all, ahead]): FetchSize,
) -> Result<Arc<Consumer>> {
    let mut client = base(config);
    client
        .set("group.id", group)
        .set("isolation.level", isolation)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        // The end of a partition is reported when a fetch comes back empty: that must not take half a second.
        .set("fetch.wait.max.ms", "10")
        // When the queue is full fetching pauses this long; the default of a second costs more than all the rest.
        .set("fetch.queue.backoff.ms", "5")
        .set("queued.max.messages.kbytes", ahead)
        .set("fetch.message.max.bytes", of_partition)
        .set("fetch.max.bytes", of_all)
        // A record of any size that brokers may have: the default of 100 MB would be the end of its partition.
        .set("receive.message.max.bytes", "2147483647")
        .set("check.crcs", "true");
    let client: Detached<BaseConsumer<Context>> = Detached::new(make(&mut client, config, Context::of(config))?);
    has_token(client.context(), |wait| drop(client.poll(wait)));
    let consumer = Arc::new(Consumer { client, reads: Mutex::new(false) });
    if let Some(tokens) = consumer.context().login.tokens() {
        idle::keep(&consumer, tokens);
    }
    Ok(consumer)
}

/// Makes one that reads from far away, and connects it to a broker, then to those of the partitions whose ends are asked for: what is
/// wrong shows when it reads.
pub(super) fn connected_far(
    config: &Config,
    group: &str,
    topic: &str,
    size: FetchSize,
    ends: TopicPartitionList,
    limit: Duration,
) -> Option<Arc<Consumer>> {
    let reader = consumer(config, group, "read_committed", size).ok()?;
    let _ = reader.fetch_metadata(Some(topic), limit / 2);
    let _ = reader.offsets_for_times(ends, limit / 2);
    Some(reader)
}
