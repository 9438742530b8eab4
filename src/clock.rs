//! Wall-clock and monotonic time in a single reading.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering, fence};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// A source of time: the system clock or, in tests, a manual clock that moves only when advanced.
///
/// Clones share the same time, and all system clocks share one origin. The monotonic reading drives rate limits, cache
/// ages and latencies. The wall-clock reading drives expiry and event times, and follows adjustments of the system
/// time within a second.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System(&'static Anchor),
    Manual(Arc<ManualTime>),
}

/// Ties the time stamp counter of the CPU to the clocks of the operating system, which are three times as expensive to
/// read. The counter only measures the time since the last reading of those clocks, at most a second ago, so the error
/// of an imprecise counter, or of one that jumps when a virtual machine migrates, lasts at most a second.
struct Anchor {
    origin: Instant,
    counter: quanta::Clock,
    /// Odd while the other fields are written.
    version: AtomicU64,
    /// The counter at the last reading.
    counted: AtomicU64,
    /// Nanoseconds since the origin at the last reading.
    elapsed: AtomicU64,
    /// Microseconds since the Unix epoch minus monotonic microseconds since the origin.
    wall_offset: AtomicI64,
}

#[derive(Debug)]
struct ManualTime {
    elapsed: AtomicU64,
    wall: AtomicI64,
}

/// The time after which the clocks of the operating system are read again, in nanoseconds.
const RENEW: u64 = 1_000_000_000;
/// The time by which a counter may be behind the last reading, in nanoseconds.
const TOLERANCE: u64 = 1_000_000;

/// A reading of a [`Clock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    elapsed: u64,
    wall: i64,
}

impl Now {
    fn new(elapsed: u64, wall_offset: i64) -> Self {
        let wall = wall_offset + (elapsed / 1_000) as i64;
        Self { elapsed, wall }
    }

    /// The origin of a clock, at the Unix epoch.
    pub(crate) const ORIGIN: Self = Self {
        elapsed: 0,
        wall: 0,
    };

    /// Monotonic nanoseconds since the clock's origin: the creation of a manual clock, or the first use of
    /// the system clock in the process.
    ///
    /// The system clock is read every second and interpolated by the time stamp counter in between. When it is read,
    /// the time can step back by the drift of the counter, some microseconds.
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
    ///
    /// The first call in a process calibrates the time stamp counter of the CPU. This usually takes less than a
    /// millisecond, and at most 200 ms.
    pub fn system() -> Self {
        static ANCHOR: LazyLock<Anchor> = LazyLock::new(Anchor::new);
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
    #[inline]
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
    fn new() -> Self {
        let anchor = Self {
            origin: Instant::now(),
            // Miri does not emulate the counter.
            counter: if cfg!(miri) {
                quanta::Clock::mock().0
            } else {
                quanta::Clock::new()
            },
            version: AtomicU64::new(0),
            // Not recent until the first reading.
            counted: AtomicU64::new(u64::MAX),
            elapsed: AtomicU64::new(0),
            wall_offset: AtomicI64::new(0),
        };
        anchor.renew();
        anchor
    }

    #[inline]
    fn now(&self) -> Now {
        let version = self.version.load(Ordering::Acquire);
        let counted = self.counted.load(Ordering::Relaxed);
        let base = self.elapsed.load(Ordering::Relaxed);
        let wall_offset = self.wall_offset.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let is_consistent =
            version.is_multiple_of(2) && version == self.version.load(Ordering::Relaxed);
        let count = self.counter.raw();
        // A thread may read the counter just before another one renews the anchor.
        let since = self.counter.delta_as_nanos(counted, count);
        let is_recent = since < RENEW && self.counter.delta_as_nanos(count, counted) < TOLERANCE;
        if is_consistent && is_recent && !cfg!(miri) {
            Now::new(base + since, wall_offset)
        } else {
            self.renew()
        }
    }

    /// Reads the clocks of the operating system.
    #[cold]
    fn renew(&self) -> Now {
        let before = self.counter.raw();
        let elapsed = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let count = self.counter.raw();
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(0));
        let after = self.counter.raw();
        let wall_offset = wall - (elapsed / 1_000) as i64;
        let version = self.version.load(Ordering::Acquire);
        // One thread writes at a time; the others use what they have read.
        let claim = |version| {
            let (success, failure) = (Ordering::Acquire, Ordering::Relaxed);
            self.version
                .compare_exchange(version, version + 1, success, failure)
        };
        // If the thread was interrupted between the readings, they do not belong together.
        let is_exact = self.counter.delta_as_nanos(before, after) < 20_000;
        if is_exact && version.is_multiple_of(2) && claim(version).is_ok() {
            fence(Ordering::Release);
            self.counted.store(count, Ordering::Relaxed);
            self.elapsed.store(elapsed, Ordering::Relaxed);
            self.wall_offset.store(wall_offset, Ordering::Relaxed);
            self.version.store(version + 2, Ordering::Release);
        }
        Now::new(elapsed, wall_offset)
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
    fn system_clock_agrees_with_the_clock_of_the_operating_system() {
        let (clock, error) = (Clock::system(), Duration::from_millis(1));
        // A thread may be interrupted between any two readings.
        let (before_first, first, after_first) = (Instant::now(), clock.now(), Instant::now());
        for _ in 0..if cfg!(miri) { 2 } else { 30 } {
            std::thread::sleep(Duration::from_millis(50));
            let least = after_first.elapsed();
            let since = clock.now().since(first);
            let most = before_first.elapsed();
            assert!(
                least <= since + error && since <= most + error,
                "{least:?} {since:?} {most:?}"
            );
        }
    }

    /// Readings of the system clocks between which a thread was interrupted are not used together.
    #[test]
    fn interrupted_readings_do_not_shift_the_wall_clock() {
        let (anchor, error) = (Anchor::new(), 1_000);
        let wall = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap()
                .as_micros() as i64
        };
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| {
                    for _ in 0..if cfg!(miri) { 2 } else { 200_000 } {
                        anchor.renew();
                        let before = wall();
                        let now = anchor.now().micros();
                        let after = wall();
                        assert!(
                            before <= now + error && now <= after + error,
                            "{before} {now} {after}"
                        );
                    }
                });
            }
        });
    }

    /// A counter that jumps, for instance because a virtual machine was moved.
    #[test]
    fn a_counter_that_jumps_is_not_followed() {
        let anchor = Anchor::new();
        let hour = Duration::from_secs(3_600).as_nanos() as u64;
        for jump in [0, 1 << 62] {
            anchor.counted.store(jump, Ordering::Relaxed);
            let elapsed = anchor.now().elapsed_nanos();
            assert!(elapsed < hour, "{elapsed}");
            #[cfg(not(miri))]
            assert_ne!(anchor.counted.load(Ordering::Relaxed), jump);
        }
    }

    #[test]
    fn concurrent_readings_are_consistent() {
        let clock = Clock::system();
        let Source::System(anchor) = &clock.0 else {
            unreachable!()
        };
        let start = clock.now();
        std::thread::scope(|threads| {
            for _ in 0..3 {
                threads.spawn(|| {
                    for n in 0..if cfg!(miri) { 20 } else { 20_000 } {
                        if n % 10 == 0 {
                            anchor.renew();
                        }
                        let now = clock.now();
                        let wall = Duration::from_micros((now.wall - start.wall).unsigned_abs());
                        assert!(now.since(start).abs_diff(wall) < Duration::from_secs(1));
                        assert!(wall < Duration::from_secs(60));
                    }
                });
            }
        });
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
