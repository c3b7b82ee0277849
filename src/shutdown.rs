//! SIGTERM and SIGINT: the first lets the batches in progress finish, the second ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};

/// Tells the stages whether to take on more work. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    asked: Arc<AtomicBool>,
    progress_asked: Arc<AtomicBool>,
}

impl Shutdown {
    /// Listens to SIGTERM and SIGINT from now on, and to SIGUSR1, which asks how far the run is. A second signal ends the process with 128 + its number, which is as
    /// safe as a kill.
    ///
    /// # Errors
    /// If the operating system refuses the handlers.
    pub fn on_signals() -> std::io::Result<Self> {
        let shutdown = Self::default();
        for signal in [SIGTERM, SIGINT] {
            // The order matters: the conditional end is checked before the flag that arms it is set.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&shutdown.asked))?;
            signal_hook::flag::register(signal, Arc::clone(&shutdown.asked))?;
        }
        signal_hook::flag::register(SIGUSR1, Arc::clone(&shutdown.progress_asked))?;
        Ok(shutdown)
    }

    /// Whether the run was asked to finish.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Whether SIGUSR1 has asked how far the run is, since this was last called.
    #[must_use]
    pub fn takes_progress_request(&self) -> bool {
        self.progress_asked.swap(false, Ordering::Relaxed)
    }

    /// Asks the run to finish, as a signal does.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Waits for `duration`, or until the run is asked to finish; says whether it was.
    #[must_use]
    pub fn wait(&self, duration: Duration) -> bool {
        let until = Instant::now() + duration;
        while !self.is_asked() {
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
