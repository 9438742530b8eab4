//! Rate limits for any number of subjects in fixed memory.
//!
//! A count-min style sketch (Cormode, Muthukrishnan: "An improved data stream summary", 2005) of GCRA arrival
//! times. Each subject has one cell in each of two halves and is allowed if either cell allows it. Cells are shared,
//! so that other subjects can exhaust a cell of a subject; exhausting both takes subjects that use up their whole
//! limits in a large part of all cells at once. A full sketch rejects: it never admits more than the limit.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::rate_limit::RateLimit;
use crate::clock::Now;

/// A sketch that applies the same limit to every subject.
#[derive(Debug)]
pub(crate) struct RateSketch {
    /// Nanoseconds in which one unit is restored.
    interval: u64,
    /// Nanoseconds in which the whole burst is restored.
    window: u64,
    /// The number of cells in each half.
    half: usize,
    /// Randomly seeded, so that clients cannot choose the cells they share.
    spread: RandomState,
    /// The arrival time of each cell: when it is fully restored, in nanoseconds of the clock. One half after the
    /// other.
    cells: Mutex<Box<[u64]>>,
}

/// A charged unit: what it added to each cell of its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Charge([Added; 2]);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Added {
    place: usize,
    nanos: u64,
    /// When it is restored.
    until: u64,
}

impl RateSketch {
    /// A sketch with `half` cells of 8 bytes in each half. The limit must be [valid](RateLimit::validate).
    pub(crate) fn new(limit: &RateLimit, half: usize) -> Self {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let interval = nanos(limit.period()) / u64::from(limit.requests());
        Self {
            interval,
            window: interval.saturating_mul(limit.burst().into()),
            half: half.max(1),
            spread: RandomState::new(),
            cells: Mutex::new(vec![0; 2 * half.max(1)].into()),
        }
    }

    /// Charges one unit to a subject.
    ///
    /// # Errors
    ///
    /// The time to wait, if the limit is exhausted.
    pub(crate) fn charge(&self, subject: impl Hash, now: Now) -> Result<Charge, Duration> {
        let (now, places) = (now.elapsed_nanos(), self.cell_indices(subject));
        self.with_cells(|cells| {
            self.check(cells, places, now)?;
            Ok(Charge(places.map(|place| {
                let spent = cells[place].saturating_sub(now);
                // A cell exhausted by other subjects takes no more.
                let nanos = self.interval.min(self.window.saturating_sub(spent));
                let until = now.saturating_add(spent).saturating_add(nanos);
                cells[place] = until;
                Added {
                    place,
                    nanos,
                    until,
                }
            })))
        })
    }

    /// Refunds the part of a charge that time has not restored yet. Approximate if other charges were made in
    /// between.
    pub(crate) fn refund(&self, charge: Charge, now: Now) {
        self.with_cells(|cells| {
            for added in charge.0 {
                let left = added.until.saturating_sub(now.elapsed_nanos());
                let cell = &mut cells[added.place];
                *cell = cell.saturating_sub(left.min(added.nanos));
            }
        });
    }

    /// Whether a charge would be allowed, without making it.
    ///
    /// # Errors
    ///
    /// The time to wait, if the limit is exhausted.
    pub(crate) fn peek(&self, subject: impl Hash, now: Now) -> Result<(), Duration> {
        let places = self.cell_indices(subject);
        self.with_cells(|cells| self.check(cells, places, now.elapsed_nanos()))
    }

    fn check(&self, cells: &[u64], places: [usize; 2], now: u64) -> Result<(), Duration> {
        let spent = places.map(|place| cells[place].saturating_sub(now));
        let then = spent[0].min(spent[1]).saturating_add(self.interval);
        match then.saturating_sub(self.window) {
            0 => Ok(()),
            wait => Err(Duration::from_nanos(wait)),
        }
    }

    fn cell_indices(&self, subject: impl Hash) -> [usize; 2] {
        let hash = self.spread.hash_one(subject);
        let [low, high] = [hash, hash >> 32].map(|bits| bits as u32 as usize % self.half);
        [low, self.half + high]
    }

    /// `then` does not panic, so that the cells of a poisoned lock are consistent.
    fn with_cells<T>(&self, then: impl FnOnce(&mut [u64]) -> T) -> T {
        then(&mut self.cells.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::clock::Clock;

    const HALF: usize = 32_768;

    fn sketch(limit: RateLimit) -> RateSketch {
        RateSketch::new(&limit, HALF)
    }

    fn exhaust(sketch: &RateSketch, subject: u32, now: Now) {
        let charged = (0..10_000).take_while(|_| sketch.charge(subject, now).is_ok());
        assert!(charged.count() < 10_000, "the limit is never exhausted");
    }

    fn at(clock: &Clock, secs: u64) -> Now {
        clock.advance(Duration::from_secs(secs));
        clock.now()
    }

    #[test]
    fn subjects_have_a_cell_in_each_half() {
        let sketch = sketch(RateLimit::per_minute(1));
        let mut places: Vec<_> = (0..10_000).map(|n| sketch.cell_indices(n)).collect();
        assert!(
            places
                .iter()
                .all(|&[low, high]| low < HALF && (HALF..2 * HALF).contains(&high))
        );
        // Two subjects may share one cell, but hardly ever both.
        places.sort_unstable();
        places.dedup();
        assert!(places.len() > 9_900, "{}", places.len());
    }

    #[test]
    fn exhausted_limit_is_restored_over_time() {
        let sketch = sketch(RateLimit::per_minute(60).with_burst(10));
        let clock = Clock::manual(Timestamp::UNIX_EPOCH);
        let (subject, mut now) = (1, at(&clock, 0));
        for _ in 0..10 {
            assert_eq!(sketch.peek(subject, now), Ok(()));
            assert!(sketch.charge(subject, now).is_ok());
        }
        let second = Duration::from_secs(1);
        assert_eq!(sketch.peek(subject, now), Err(second));
        assert_eq!(sketch.charge(subject, now), Err(second));
        // A rejected charge does not extend the wait, and waiting suffices.
        now = at(&clock, 1);
        assert!(sketch.charge(subject, now).is_ok());
        assert_eq!(sketch.charge(subject, now), Err(second));
        now = at(&clock, 1_000);
        for _ in 0..10 {
            assert!(sketch.charge(subject, now).is_ok());
        }
        assert_eq!(sketch.charge(subject, now), Err(second));
    }

    #[test]
    fn refunded_charges_do_not_count() {
        let sketch = sketch(RateLimit::per_second(2));
        let now = Clock::manual(Timestamp::UNIX_EPOCH).now();
        for _ in 0..100 {
            let charges = [(); 2].map(|()| sketch.charge(1, now).unwrap());
            assert!(sketch.charge(1, now).is_err());
            charges.into_iter().for_each(|it| sketch.refund(it, now));
        }
        // Repeated refunds restore no more than the charge.
        let charge = sketch.charge(1, now).unwrap();
        for _ in 0..10 {
            sketch.refund(charge, now);
        }
        assert!(sketch.charge(1, now).is_ok());
        assert!(sketch.charge(1, now).is_ok());
        assert!(sketch.charge(1, now).is_err());
    }

    #[test]
    fn restored_charges_are_not_refunded_again() {
        let sketch = sketch(RateLimit::per_second(2));
        let (clock, subject) = (Clock::manual(Timestamp::UNIX_EPOCH), 1);
        let mut now = clock.now();
        let first = sketch.charge(subject, now).unwrap();
        now = at(&clock, 1);
        // Other charges of the subject have used it up since.
        for _ in 0..2 {
            assert!(sketch.charge(subject, now).is_ok());
        }
        sketch.refund(first, now);
        assert!(sketch.charge(subject, now).is_err());
    }

    #[test]
    #[cfg_attr(miri, ignore = "too slow under Miri")]
    fn refund_does_not_restore_cells_exhausted_by_others() {
        let sketch = sketch(RateLimit::per_second(2));
        let now = Clock::manual(Timestamp::UNIX_EPOCH).now();
        // A subject that shares exactly one cell with the first.
        let first = sketch.cell_indices(1);
        let neighbor = (2..)
            .find(|other| {
                let other = sketch.cell_indices(*other);
                other[0] == first[0] && other[1] != first[1]
            })
            .unwrap();
        exhaust(&sketch, 1, now);
        let charge = sketch.charge(neighbor, now).unwrap();
        sketch.refund(charge, now);
        assert!(sketch.charge(1, now).is_err());
    }

    mod bounded_unauthenticated_state {
        use super::*;

        #[test]
        #[cfg_attr(miri, ignore = "too slow under Miri")]
        fn floods_of_subjects_do_not_exhaust_other_limits() {
            let sketch = sketch(RateLimit::per_minute(100));
            let now = Clock::manual(Timestamp::UNIX_EPOCH).now();
            // A thousand subjects that exhaust their limits, and a million that consume a little.
            for n in 0..1_000 {
                exhaust(&sketch, n, now);
            }
            for n in 1_000_000..2_000_000 {
                let _ = sketch.charge(n, now);
            }
            let others = 3_000_000..3_010_000;
            let rejected = others.filter(|n| sketch.peek(*n, now).is_err());
            // One in a thousand is expected: (1000 / 32768)².
            assert!(rejected.count() < 100);
        }
    }
}
