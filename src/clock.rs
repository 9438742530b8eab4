//! Wall-clock and monotonic time in a single reading.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// A source of time: the system clock or, in tests, a manual clock that moves only when advanced.
///
/// Clones share the same time, and all system clocks share one origin. The monotonic reading drives rate limits,
/// cache ages and latencies. The wall-clock reading drives expiry and event times, and follows adjustments of the
/// system time within a second.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System(&'static Anchor),
    Manual(Arc<ManualTime>),
}

/// Ties the wall clock to the monotonic clock, so that one reading serves both. Renewed every second.
struct Anchor {
    origin: Instant,
    /// Nanoseconds since the origin at which the wall clock is read again.
    renew_at: AtomicU64,
    /// Microseconds since the Unix epoch minus monotonic microseconds since the origin.
    wall_offset: AtomicI64,
}

#[derive(Debug)]
struct ManualTime {
    elapsed: AtomicU64,
    wall: AtomicI64,
}

const RENEW: u64 = 1_000_000_000;

/// A reading of a [`Clock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    elapsed: u64,
    wall: i64,
}

impl Now {
    /// The origin of a clock, at the Unix epoch.
    pub(crate) const ORIGIN: Self = Self {
        elapsed: 0,
        wall: 0,
    };

    /// Monotonic nanoseconds since the clock's origin: the creation of a manual clock, or the first use of
    /// the system clock in the process.
    pub fn elapsed_nanos(self) -> u64 {
        self.elapsed
    }

    /// The wall-clock time in whole microseconds, a precision that every backend can store.
    pub fn timestamp(self) -> Timestamp {
        Timestamp::from_microsecond(self.wall).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    pub(crate) fn micros(self) -> i64 {
        self.wall
    }

    /// Microseconds elapsed since an earlier reading.
    pub(crate) fn micros_since(self, earlier: Self) -> u64 {
        self.elapsed.saturating_sub(earlier.elapsed) / 1_000
    }

    /// The time elapsed since an earlier reading of the same clock. Zero if `earlier` is the later one.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.elapsed.saturating_sub(earlier.elapsed))
    }
}

impl Clock {
    /// The system clock. Its origin is shared within the process, so readings of different instances can be
    /// compared.
    pub fn system() -> Self {
        static ANCHOR: LazyLock<Anchor> = LazyLock::new(|| Anchor {
            origin: Instant::now(),
            renew_at: AtomicU64::new(0),
            wall_offset: AtomicI64::new(0),
        });
        Self(Source::System(&ANCHOR))
    }

    /// A clock for tests that stays at `start` until [advanced](Self::advance).
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(ManualTime {
            elapsed: AtomicU64::new(0),
            wall: AtomicI64::new(start.as_microsecond()),
        })))
    }

    /// Advances a manual clock. Both its wall-clock and its monotonic time move forward.
    ///
    /// # Panics
    ///
    /// If this is the system clock.
    pub fn advance(&self, by: Duration) {
        let Source::Manual(time) = &self.0 else {
            panic!("only a manual clock can be advanced");
        };
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        let before = time.elapsed.fetch_add(nanos, Ordering::SeqCst);
        // Derived from the total, so that steps below a microsecond add up.
        let micros = (before + nanos) / 1_000 - before / 1_000;
        time.wall
            .fetch_add(i64::try_from(micros).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Reads the clock.
    pub fn now(&self) -> Now {
        match &self.0 {
            Source::System(anchor) => anchor.now(),
            Source::Manual(time) => Now {
                elapsed: time.elapsed.load(Ordering::SeqCst),
                wall: time.wall.load(Ordering::SeqCst),
            },
        }
    }
}

impl Anchor {
    #[inline]
    fn now(&self) -> Now {
        let elapsed = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let passed = (elapsed / 1_000) as i64;
        if elapsed >= self.renew_at.load(Ordering::Acquire) {
            let wall = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(0));
            self.wall_offset.store(wall - passed, Ordering::Release);
            self.renew_at.store(elapsed + RENEW, Ordering::Release);
        }
        Now {
            elapsed,
            wall: self.wall_offset.load(Ordering::Acquire) + passed,
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::System(_) => f.write_str("Clock::system"),
            Source::Manual(_) => write!(f, "Clock::manual({})", self.now().timestamp()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_clock_follows_wall_time() {
        let now = Clock::system().now();
        let wall = Timestamp::now();
        assert!(wall.duration_since(now.timestamp()).abs() < jiff::SignedDuration::from_secs(5));
    }

    #[test]
    fn system_clocks_share_one_origin() {
        let early = Clock::system();
        std::thread::sleep(Duration::from_millis(2));
        let before = early.now();
        let late = Clock::system().now();
        assert!(late.elapsed_nanos() >= before.elapsed_nanos());
    }

    #[test]
    fn manual_clock_moves_only_when_advanced() {
        let clock = Clock::manual(Timestamp::UNIX_EPOCH);
        let first = clock.now();
        assert_eq!(clock.now(), first);
        for _ in 0..4 {
            clock.advance(Duration::from_nanos(500));
        }
        assert_eq!(clock.now().since(first), Duration::from_micros(2));
        assert_eq!(clock.now().timestamp().as_microsecond(), 2);
    }
}
