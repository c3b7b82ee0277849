//! What the program relies on in its channels: small schedules, to be run on crossbeam's channels and on their stand-ins.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use super::TrySendError;
use super::sync::{Receiver, Sender, bounded, scope, spawn_scoped};

/// Runs both sides at the same time.
fn together<A: Send, B: Send>(one: impl FnOnce() -> A + Send, other: impl FnOnce() -> B + Send) -> (A, B) {
    scope(|scope| {
        let one = spawn_scoped(scope, "one", one).unwrap();
        let other = spawn_scoped(scope, "other", other).unwrap();
        (one.join().unwrap(), other.join().unwrap())
    })
}

pub const RULES: [(&str, fn()); 9] = [
    ("a hand-over waits for somebody who takes", || {
        let (sender, receiver) = bounded(0);
        let arrived = AtomicBool::new(false);
        let (waited, taken) = together(
            || {
                sender.send(1).unwrap();
                arrived.load(SeqCst)
            },
            || {
                arrived.store(true, SeqCst);
                receiver.recv()
            },
        );
        assert_eq!((waited, taken), (true, Ok(1)));
    }),
    ("pieces keep their order", || {
        for capacity in [0, 1] {
            let (sender, receiver) = bounded(capacity);
            let ((), taken) = together(
                move || (1..=3).for_each(|piece| sender.send(piece).unwrap()),
                || std::iter::from_fn(|| receiver.recv().ok()).collect::<Vec<_>>(),
            );
            assert_eq!(taken, [1, 2, 3]);
        }
    }),
    ("a piece in hand-over is either taken or given back", || {
        let (sender, receiver) = bounded(0);
        let (sent, taken) = together(|| sender.send(1).map_err(|error| error.0), move || receiver.try_recv().ok());
        assert_eq!((sent, taken), if taken.is_some() { (Ok(()), Some(1)) } else { (Err(1), None) });
    }),
    ("who waits to hand over gets the piece back when the receiver goes", || {
        let (sender, receiver) = bounded(0);
        let (sent, taken) = together(
            || (sender.send(1).is_ok(), sender.send(2).map_err(|error| error.0)),
            move || {
                let receiver: Receiver<i32> = receiver;
                receiver.recv()
            },
        );
        assert_eq!((sent, taken), ((true, Err(2)), Ok(1)));
    }),
    ("who waits for a piece is told when the last sender goes", || {
        let (sender, receiver) = bounded::<i32>(0);
        let other: Sender<i32> = sender.clone();
        let ((), taken) = together(
            move || {
                drop(sender);
                other.send(1).unwrap();
            },
            || [receiver.recv().ok(), receiver.recv().ok()],
        );
        assert_eq!(taken, [Some(1), None]);
    }),
    ("a piece that waits is still taken when its sender is gone", || {
        let (sender, receiver) = bounded(1);
        let ((), taken) = together(move || sender.send(1).unwrap(), || [receiver.recv().ok(), receiver.recv().ok()]);
        assert_eq!(taken, [Some(1), None]);
    }),
    ("who does not wait gets the piece back from a full queue, and nothing from an empty one", || {
        let (sender, receiver) = bounded(1);
        assert!(receiver.try_recv().is_err());
        assert!(sender.try_send(1).is_ok());
        assert!(matches!(sender.try_send(2), Err(TrySendError::Full(2))));
        assert_eq!(receiver.try_recv().ok(), Some(1));
        drop(receiver);
        assert!(matches!(sender.try_send(3), Err(TrySendError::Disconnected(3))));
    }),
    ("who waits for a time gets what comes, whenever it comes, and once", || {
        let (sender, receiver) = bounded(0);
        let (sent, taken) = together(
            || sender.send(1).is_ok(),
            || {
                let first = std::iter::repeat_with(|| receiver.recv_timeout(Duration::from_micros(10)).ok());
                (first.flatten().next(), receiver.recv_timeout(Duration::ZERO).ok())
            },
        );
        assert_eq!((sent, taken), (true, (Some(1), None)));
    }),
    ("threads that a panic ends let go of their channels", || {
        let (sender, receiver) = bounded::<i32>(0);
        let (panicked, taken) = together(
            move || {
                let work = std::panic::AssertUnwindSafe(move || {
                    let _sender = sender;
                    std::panic::resume_unwind(Box::new("planned"));
                });
                std::panic::catch_unwind(work).is_err()
            },
            move || receiver.recv().is_err(),
        );
        assert!(panicked && taken);
    }),
];
