//! Telling, at most once a second, of what may happen time and again.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Counts what happens: the first is to be told at once, then their number at most once a second.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle {
    unlogged: AtomicU64,
    logged_at: Mutex<Option<Instant>>,
}

impl LogThrottle {
    /// One more has happened: of how many to tell now, if of any.
    pub(crate) fn record(&self) -> Option<u64> {
        self.unlogged.fetch_add(1, Relaxed);
        // Nobody waits here: whoever holds it tells of this one too, or the next one will.
        let mut told = self.logged_at.try_lock().ok()?;
        if told.is_some_and(|at| at.elapsed() < Duration::from_secs(1)) {
            return None;
        }
        *told = Some(Instant::now());
        drop(told);
        Some(self.unlogged.swap(0, Relaxed))
    }
}
