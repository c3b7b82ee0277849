//! Keeps a client's token new while nothing is asked of the client: librdkafka asks for the next one when it is polled.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::tokens::{PAUSE, Tokens};
use crate::sync;

/// How often an idle client is polled.
const EVERY: Duration = Duration::from_millis(500);

/// A client that may be polled while it is idle.
pub(super) trait Idle: Send + Sync + 'static {
    /// Polls it once, without waiting, unless that would take something from the one who uses it.
    fn poll_idle(&self);
}

/// Polls `client` now and then until nobody has it any more.
pub(super) fn keep<T: Idle>(client: &Arc<T>, tokens: &Arc<Tokens>) {
    let (client, tokens) = (Arc::downgrade(client), tokens.clone());
    // Where no thread can be had, the client gets its token when it is used next.
    let _ = sync::spawn("token", move || while_held(&client, &tokens));
}

fn while_held<T: Idle>(client: &Weak<T>, tokens: &Tokens) {
    let mut pause = EVERY;
    loop {
        std::thread::sleep(pause);
        if client.strong_count() == 0 {
            return;
        }
        // Asked for first, so that the poll finds it: nobody who uses the client waits for the source.
        pause = if tokens.take().is_ok() { EVERY } else { PAUSE };
        let Some(client) = client.upgrade() else { return };
        client.poll_idle();
    }
}
