//! Rate limits of any number of subjects in fixed memory.
//!
//! A count-min sketch (Cormode, Muthukrishnan: "An improved data stream summary", 2005) whose counters run
//! empty as a rate limit gives back. A subject has a cell in each of two halves and has room as long as one of
//! its cells has. Cells are shared, so that others can use up one of a subject's: both, only by spending the
//! whole limits of a good part of all cells at one time. A full sketch refuses: it never lets more through than
//! the limit.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::rate_limit::RateLimit;
use crate::clock::Now;

/// The same limit for every subject.
#[derive(Debug)]
pub(crate) struct RateSketch {
    /// Nanoseconds in which one unit comes back.
    interval: u64,
    /// Nanoseconds in which all come back.
    window: u64,
    /// Cells in each half.
    half: usize,
    /// Random, so that nobody can choose whose cells to share.
    spread: RandomState,
    /// When each cell will be empty, in the clock's nanoseconds; one half after the other.
    cells: Mutex<Box<[u64]>>,
}

/// A unit that was charged to a subject: what it added to each of its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Charge([Added; 2]);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Added {
    place: usize,
    nanos: u64,
    /// When it will have run out.
    until: u64,
}

impl RateSketch {
    /// With so many cells in each half, of eight bytes each. The limit must be [valid](RateLimit::validate).
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

    /// Charges a unit to a subject.
    ///
    /// # Errors
    ///
    /// When its limit is used up: how long to wait.
    pub(crate) fn charge(&self, subject: impl Hash, now: Now) -> Result<Charge, Duration> {
        let (now, places) = (now.elapsed_nanos(), self.places(subject));
        self.with_cells(|cells| {
            self.room(cells, places, now)?;
            Ok(Charge(places.map(|place| {
                let spent = cells[place].saturating_sub(now);
                // One that others have filled takes no more.
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

    /// Gives back what was charged, but for what time has given back by now, as near as that can be told where
    /// others were charged in between.
    pub(crate) fn refund(&self, charge: Charge, now: Now) {
        self.with_cells(|cells| {
            for added in charge.0 {
                let left = added.until.saturating_sub(now.elapsed_nanos());
                let cell = &mut cells[added.place];
                *cell = cell.saturating_sub(left.min(added.nanos));
            }
        });
    }

    /// Whether a subject has room, without charging it.
    ///
    /// # Errors
    ///
    /// When its limit is used up: how long to wait.
    pub(crate) fn peek(&self, subject: impl Hash, now: Now) -> Result<(), Duration> {
        let places = self.places(subject);
        self.with_cells(|cells| self.room(cells, places, now.elapsed_nanos()))
    }

    fn room(&self, cells: &[u64], places: [usize; 2], now: u64) -> Result<(), Duration> {
        let spent = places.map(|place| cells[place].saturating_sub(now));
        let then = spent[0].min(spent[1]).saturating_add(self.interval);
        match then.saturating_sub(self.window) {
            0 => Ok(()),
            wait => Err(Duration::from_nanos(wait)),
        }
    }

    fn places(&self, subject: impl Hash) -> [usize; 2] {
        let hash = self.spread.hash_one(subject);
        let [low, high] = [hash, hash >> 32].map(|bits| bits as u32 as usize % self.half);
        [low, self.half + high]
    }

    /// Nothing panics in there, so a poisoned lock's cells are whole.
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

    fn use_up(sketch: &RateSketch, subject: u32, now: Now) {
        let charged = (0..10_000).take_while(|_| sketch.charge(subject, now).is_ok());
        assert!(charged.count() < 10_000, "it does not end");
    }

    fn at(clock: &Clock, secs: u64) -> Now {
        clock.advance(Duration::from_secs(secs));
        clock.now()
    }

    #[test]
    fn every_subject_has_a_cell_in_each_half() {
        let sketch = sketch(RateLimit::per_minute(1));
        let mut places: Vec<_> = (0..10_000).map(|n| sketch.places(n)).collect();
        assert!(
            places
                .iter()
                .all(|&[low, high]| low < HALF && (HALF..2 * HALF).contains(&high))
        );
        // Two subjects may share one cell, and hardly ever both.
        places.sort_unstable();
        places.dedup();
        assert!(places.len() > 9_900, "{}", places.len());
    }

    #[test]
    fn a_subject_spends_its_limit_and_gets_it_back_in_time() {
        let sketch = sketch(RateLimit::per_minute(60).with_burst(10));
        let clock = Clock::manual(Timestamp::UNIX_EPOCH);
        let (here, mut now) = (1, at(&clock, 0));
        for _ in 0..10 {
            assert_eq!(sketch.peek(here, now), Ok(()));
            assert!(sketch.charge(here, now).is_ok());
        }
        let second = Duration::from_secs(1);
        assert_eq!(sketch.peek(here, now), Err(second));
        assert_eq!(sketch.charge(here, now), Err(second));
        // Asking in vain has not made the wait longer, and waiting suffices.
        now = at(&clock, 1);
        assert!(sketch.charge(here, now).is_ok());
        assert_eq!(sketch.charge(here, now), Err(second));
        now = at(&clock, 1_000);
        for _ in 0..10 {
            assert!(sketch.charge(here, now).is_ok());
        }
        assert_eq!(sketch.charge(here, now), Err(second));
    }

    #[test]
    fn what_is_given_back_was_never_spent() {
        let sketch = sketch(RateLimit::per_second(2));
        let now = Clock::manual(Timestamp::UNIX_EPOCH).now();
        for _ in 0..100 {
            let charges = [(); 2].map(|()| sketch.charge(1, now).unwrap());
            assert!(sketch.charge(1, now).is_err());
            charges.into_iter().for_each(|it| sketch.refund(it, now));
        }
        // More than was charged is never given.
        let charge = sketch.charge(1, now).unwrap();
        for _ in 0..10 {
            sketch.refund(charge, now);
        }
        assert!(sketch.charge(1, now).is_ok());
        assert!(sketch.charge(1, now).is_ok());
        assert!(sketch.charge(1, now).is_err());
    }

    #[test]
    fn what_time_has_given_back_is_not_given_twice() {
        let sketch = sketch(RateLimit::per_second(2));
        let (clock, here) = (Clock::manual(Timestamp::UNIX_EPOCH), 1);
        let mut now = clock.now();
        let first = sketch.charge(here, now).unwrap();
        now = at(&clock, 1);
        // Others of the same subject have spent all of it since.
        for _ in 0..2 {
            assert!(sketch.charge(here, now).is_ok());
        }
        sketch.refund(first, now);
        assert!(sketch.charge(here, now).is_err());
    }

    #[test]
    #[cfg_attr(miri, ignore = "so many subjects take too long")]
    fn a_cell_that_others_filled_gets_nothing_back() {
        let sketch = sketch(RateLimit::per_second(2));
        let now = Clock::manual(Timestamp::UNIX_EPOCH).now();
        // One that shares a cell with the first and has one of its own.
        let here = sketch.places(1);
        let beside = (2..)
            .find(|other| {
                let other = sketch.places(*other);
                other[0] == here[0] && other[1] != here[1]
            })
            .unwrap();
        use_up(&sketch, 1, now);
        let charge = sketch.charge(beside, now).unwrap();
        sketch.refund(charge, now);
        assert!(sketch.charge(1, now).is_err());
    }

    #[test]
    #[cfg_attr(miri, ignore = "a million subjects take too long")]
    fn rule_6_floods_of_subjects_leave_others_their_limits() {
        let sketch = sketch(RateLimit::per_minute(100));
        let now = Clock::manual(Timestamp::UNIX_EPOCH).now();
        // A thousand subjects that spend all they have, and a million that spend a little.
        for n in 0..1_000 {
            use_up(&sketch, n, now);
        }
        for n in 1_000_000..2_000_000 {
            let _ = sketch.charge(n, now);
        }
        let others = 3_000_000..3_010_000;
        let without = others.filter(|n| sketch.peek(*n, now).is_err());
        // One in a thousand is expected: (1000 / 32768)².
        assert!(without.count() < 100);
    }
}
