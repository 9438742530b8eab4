//! One reading of time per step: what the wall says and what has passed.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Where time comes from: the machine, or in tests a clock that only moves when it is turned.
///
/// A clone shows the same time, and so do all that show the machine's. The monotonic reading drives limits, cache ages and latencies; the
/// wall's drives expiry and the time of an event, and follows the machine's when that is set.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System(&'static Anchor),
    Manual(Arc<Hands>),
}

/// Ties the wall to the monotonic clock, so that one reading serves both; renewed every second.
struct Anchor {
    origin: Instant,
    /// Nanoseconds since the origin at which the wall is read again.
    renew_at: AtomicU64,
    /// Microseconds since the Unix epoch, less the monotonic microseconds since the origin.
    wall_offset: AtomicI64,
}

#[derive(Debug)]
struct Hands {
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
    /// Nanoseconds that have passed since the clock's origin; never goes back. A manual clock's is
    /// when it was made, and the machine's when the process first asked for it.
    pub fn elapsed_nanos(self) -> u64 {
        self.elapsed
    }

    /// The wall's time in whole microseconds, which every backend can store as it is.
    pub fn timestamp(self) -> Timestamp {
        Timestamp::from_microsecond(self.wall).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    pub(crate) fn micros(self) -> i64 {
        self.wall
    }

    /// Microseconds that have passed since an earlier reading.
    pub(crate) fn micros_since(self, earlier: Self) -> u64 {
        self.elapsed.saturating_sub(earlier.elapsed) / 1_000
    }

    /// What has passed between an earlier reading of the same clock and this one.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.elapsed.saturating_sub(earlier.elapsed))
    }
}

impl Clock {
    /// The machine's clock: one for the process, so that readings can be compared wherever they
    /// were taken.
    pub fn system() -> Self {
        static MACHINE: LazyLock<Anchor> = LazyLock::new(|| Anchor {
            origin: Instant::now(),
            renew_at: AtomicU64::new(0),
            wall_offset: AtomicI64::new(0),
        });
        Self(Source::System(&MACHINE))
    }

    /// A clock that shows `start` until it is turned: for tests.
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(Hands {
            elapsed: AtomicU64::new(0),
            wall: AtomicI64::new(start.as_microsecond()),
        })))
    }

    /// Turns a manual clock forward, as time passing does.
    ///
    /// # Panics
    ///
    /// On the machine's clock, which cannot be turned.
    pub fn advance(&self, by: Duration) {
        let Source::Manual(hands) = &self.0 else {
            panic!("only a manual clock can be turned");
        };
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        let before = hands.elapsed.fetch_add(nanos, Ordering::SeqCst);
        // Whole microseconds of the total, so that many small turns add up.
        let micros = (before + nanos) / 1_000 - before / 1_000;
        hands
            .wall
            .fetch_add(i64::try_from(micros).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Reads the clock.
    pub fn now(&self) -> Now {
        match &self.0 {
            Source::System(anchor) => anchor.now(),
            Source::Manual(hands) => Now {
                elapsed: hands.elapsed.load(Ordering::SeqCst),
                wall: hands.wall.load(Ordering::SeqCst),
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
    fn the_systems_clock_follows_the_wall() {
        let now = Clock::system().now();
        let wall = Timestamp::now();
        assert!(wall.duration_since(now.timestamp()).abs() < jiff::SignedDuration::from_secs(5));
    }

    #[test]
    fn system_clocks_share_their_origin() {
        let early = Clock::system();
        std::thread::sleep(Duration::from_millis(2));
        let before = early.now();
        let late = Clock::system().now();
        assert!(late.elapsed_nanos() >= before.elapsed_nanos());
    }

    #[test]
    fn a_manual_clock_moves_only_when_turned() {
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
