//! Throttles log messages about repeated events to one per second.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Counts occurrences of an event. The first is logged at once, later ones as a count at most once a second.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle {
    unlogged: AtomicU64,
    logged_at: Mutex<Option<Instant>>,
}

impl LogThrottle {
    pub(crate) const fn new() -> Self {
        Self {
            unlogged: AtomicU64::new(0),
            logged_at: Mutex::new(None),
        }
    }

    /// Records an occurrence. Returns the number of occurrences to log now, or `None` while throttled.
    pub(crate) fn record(&self) -> Option<u64> {
        self.unlogged.fetch_add(1, Relaxed);
        // Never blocks: the holder of the lock reports this occurrence too, or a later call will.
        let mut logged_at = self.logged_at.try_lock().ok()?;
        if logged_at.is_some_and(|at| at.elapsed() < Duration::from_secs(1)) {
            return None;
        }
        *logged_at = Some(Instant::now());
        drop(logged_at);
        Some(self.unlogged.swap(0, Relaxed))
    }
}
