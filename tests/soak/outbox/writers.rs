//! The application: many sessions, each taking an aggregate's lock first, then the numbers of its events.

use std::collections::HashMap;
use std::sync::{Mutex, RwLock};
use std::time::Duration;

use fastrand::Rng;
use postgres::Client;

use super::super::common::World;

/// An event: its aggregate's number and its own among those of the aggregate, counted from 1 in the order of the commits.
pub type Event = u64;

pub const fn event(aggregate: u64, number: u64) -> Event {
    aggregate << 32 | number
}

/// How old the writer says that an event is.
#[derive(Clone, Copy, Debug)]
pub struct Age {
    minutes: i64,
}

/// Seven days.
const LIMIT: i64 = 7 * 24 * 60;

impl Age {
    /// Some lie close to the limit; none of them comes to it while this runs.
    fn any(rng: &mut Rng) -> Self {
        let minutes = match rng.u8(..8) {
            0 => LIMIT + 1,
            1 | 2 => LIMIT + rng.i64(2..100_000),
            3 => LIMIT - rng.i64(240..300),
            _ => rng.i64(0..5_000),
        };
        Self { minutes }
    }

    pub const fn is_old(self) -> bool {
        self.minutes > LIMIT
    }
}

/// What the writers share.
pub struct Shop {
    pub events: u64,
    pub aggregates: u64,
    orders: String,
    till: Mutex<Till>,
    /// Whoever writes holds it together with others.
    floor: RwLock<()>,
}

struct Till {
    /// How many events may be written so far, and how many are, or are about to be.
    allowed: u64,
    taken: u64,
    is_closed: bool,
    written: HashMap<Event, Age>,
}

/// Sends the writers home if the test fails.
pub struct Guard<'a>(&'a Shop);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.till.lock().unwrap().is_closed = true;
        }
    }
}

impl Shop {
    /// Makes the aggregates' table, a hundredth as many as events; writes the first event.
    pub fn open(world: &mut World, events: u64) -> Self {
        let (aggregates, orders) = (events.div_ceil(100).max(20), format!("{}_orders", world.name));
        let made = format!(
            "CREATE TABLE {orders} (id text PRIMARY KEY, events bigint NOT NULL DEFAULT 0) WITH (fillfactor = 50);
             INSERT INTO {orders} SELECT 'order-' || n FROM generate_series(0, {aggregates} - 1) n"
        );
        world.pg.batch_execute(&made).unwrap();
        let till = Till { allowed: 1, taken: 0, is_closed: false, written: HashMap::new() };
        let shop = Self { events, aggregates, orders, till: Mutex::new(till), floor: RwLock::new(()) };
        let mut rng = Rng::with_seed(0);
        let taken = shop.take(1).unwrap();
        shop.transact(
            &mut world.another_session(),
            &world.name,
            &[(0, vec![Age::any(&mut rng); taken])],
            true,
            Duration::ZERO,
        );
        shop
    }

    pub const fn guard(&self) -> Guard<'_> {
        Guard(self)
    }

    /// Lets so many parts of all events be written, once the others are; returns how many events those have.
    pub fn allow(&self, parts: u64, of: u64) -> u64 {
        loop {
            let mut till = self.till.lock().unwrap();
            let written = till.written.len() as u64;
            if written >= till.allowed || till.is_closed {
                till.allowed = self.events * parts / of;
                return written;
            }
            drop(till);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// So many of those events that may be written, at least one; 0 if there is none at present, `None` if there will be none.
    fn take(&self, wanted: u64) -> Option<usize> {
        let mut till = self.till.lock().unwrap();
        if till.is_closed || till.taken == self.events {
            return None;
        }
        let taken = wanted.min(till.allowed - till.taken);
        till.taken += taken;
        usize::try_from(taken).ok()
    }

    /// Writes until all events are written.
    pub fn write(&self, mut session: Client, outbox: &str, mut rng: Rng) {
        session.batch_execute("SET synchronous_commit = off").unwrap();
        loop {
            let pause = if rng.u8(..50) == 0 { Duration::from_millis(rng.u64(..30)) } else { Duration::ZERO };
            // Transactions that are taken back leave holes in the numbers of the table.
            let is_kept = rng.u8(..40) > 0;
            let wanted = rng.u64(1..=10);
            let Some(taken) = (if is_kept { self.take(wanted) } else { usize::try_from(wanted).ok() }) else { return };
            if taken == 0 {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            // Half of all work is on few aggregates. In order, so that no two writers wait for each other crosswise.
            let few = if rng.bool() { self.aggregates } else { self.aggregates.div_ceil(20) };
            let mut orders: HashMap<u64, Vec<Age>> = HashMap::new();
            let member = [rng.u64(..few), rng.u64(..few), rng.u64(..few)];
            for _ in 0..taken {
                orders.entry(member[rng.usize(..3)]).or_default().push(Age::any(&mut rng));
            }
            let mut orders: Vec<_> = orders.into_iter().collect();
            orders.sort_unstable_by_key(|(order, _)| *order);
            self.transact(&mut session, outbox, &orders, is_kept, pause);
        }
    }

    /// One transaction: the events of some aggregates, each under its lock.
    fn transact(&self, session: &mut Client, outbox: &str, orders: &[(u64, Vec<Age>)], is_kept: bool, pause: Duration) {
        let _open = self.floor.read().unwrap();
        let lock = format!("UPDATE {} SET events = events + $2 WHERE id = $1 RETURNING events", self.orders);
        let insert = format!(
            "INSERT INTO {outbox} (aggregatetype, aggregateid, type, payload, created_at)
             SELECT 'order', $1, 'Event' || e.n % 5, jsonb_build_object('n', $2::bigint + e.n, 'text', repeat('x', (e.n % 40)::int)),
                    clock_timestamp() - e.minutes * interval '1 minute'
             FROM unnest($3::bigint[]) WITH ORDINALITY AS e (minutes, n) ORDER BY e.n"
        );
        let mut written = Vec::new();
        let mut transaction = session.transaction().unwrap();
        for (order, ages) in orders {
            let (id, count) = (format!("order-{order}"), i64::try_from(ages.len()).unwrap());
            let last: i64 = transaction.query_one(&lock, &[&id, &count]).unwrap().get(0);
            std::thread::sleep(pause);
            let minutes: Vec<i64> = ages.iter().map(|age| age.minutes).collect();
            transaction.execute(&insert, &[&id, &(last - count), &minutes]).unwrap();
            let first = u64::try_from(last - count).unwrap() + 1;
            written.extend((first..).zip(ages).map(|(number, age)| (event(*order, number), *age)));
        }
        if is_kept {
            transaction.commit().unwrap();
            self.till.lock().unwrap().written.extend(written);
        } else {
            transaction.rollback().unwrap();
        }
    }

    /// All that is written, at a moment at which no transaction is open.
    pub fn written(&self) -> HashMap<Event, Age> {
        let _closed = self.floor.write().unwrap();
        self.till.lock().unwrap().written.clone()
    }

    /// That all was written, and the writers have counted as the aggregates' table has.
    pub fn assert_counted(&self, world: &mut World, written: &HashMap<Event, Age>) {
        assert_eq!(written.len() as u64, self.events, "events that the writers have written");
        let sql = format!("SELECT substr(id, 7)::bigint, events FROM {}", self.orders);
        let mut counted = 0;
        for row in world.pg.query(&sql, &[]).unwrap() {
            let (order, events): (i64, i64) = (row.get(0), row.get(1));
            let (order, events) = (u64::try_from(order).unwrap(), u64::try_from(events).unwrap());
            assert!((1..=events).all(|number| written.contains_key(&event(order, number))), "order-{order}: {events}");
            counted += events;
        }
        assert_eq!(counted, self.events, "events that the aggregates have counted");
    }
}
