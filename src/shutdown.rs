//! SIGTERM and SIGINT: the first lets the batches in progress finish, the second ends the process at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};

use crate::sync;

/// Signals that come within this time are one request: `timeout` sends its own twice, to the process and to its group
/// (<https://github.com/coreutils/coreutils/blob/master/src/timeout.c>).
const ONE_REQUEST: Duration = Duration::from_millis(500);

/// Has a write beyond `ulimit -f` fail like one on a full disk: by default its signal ends the process.
///
/// # Errors
/// If the operating system refuses the handler.
pub fn survive_file_limits() -> io::Result<()> {
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map(drop)
}

/// Tells the stages whether to take on more work. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    asked: Arc<AtomicBool>,
    progress_asked: Arc<AtomicBool>,
}

impl Shutdown {
    /// Listens to SIGTERM and SIGINT from now on, and to SIGUSR1, which asks how far the run is. On the first, `answer` is
    /// called, on a thread of its own. A second signal ends the process with 128 plus its number, which is as safe as a kill.
    ///
    /// # Errors
    /// If the operating system refuses the handlers, or has no thread left.
    pub fn on_signals(answer: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let shutdown = Self::default();
        let ends_at_once = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&ends_at_once))?;
            signal_hook::flag::register(signal, Arc::clone(&shutdown.asked))?;
        }
        signal_hook::flag::register(SIGUSR1, Arc::clone(&shutdown.progress_asked))?;
        let asked = shutdown.clone();
        sync::spawn("signals", move || {
            while !asked.wait(Duration::from_secs(3600)) {}
            answer();
            std::thread::sleep(ONE_REQUEST);
            ends_at_once.store(true, Ordering::Relaxed);
        })?;
        Ok(shutdown)
    }

    /// Whether the run was asked to finish.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Whether SIGUSR1 has asked how far the run is, since this was last called.
    #[must_use]
    pub fn takes_progress_request(&self) -> bool {
        self.progress_asked.swap(false, Ordering::Relaxed)
    }

    /// Asks the run to finish, as a signal does.
    pub fn request(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Waits for `duration`, or until the run is asked to finish; says whether it was.
    #[must_use]
    pub fn wait(&self, duration: Duration) -> bool {
        let until = Instant::now() + duration;
        while !self.is_requested() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            // Short naps: a signal handler can set a flag, not wake a condition variable.
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
        true
    }
}
