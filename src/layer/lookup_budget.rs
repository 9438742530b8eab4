//! How many look-ups that come to nothing one address may cause: that find no key that lets in with the
//! secret that was sent.
//!
//! Memory is fixed, whatever addresses come: a count-min sketch (Cormode, Muthukrishnan: "An improved
//! data stream summary", 2005) whose counters run empty as a rate limit gives back. An address has a
//! cell in each of two halves and has room as long as one of its cells has. Cells are shared, so that
//! others can use up one of an address's: both, only by spending the whole budgets of some thousands
//! of addresses at one time.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Now;
use crate::limit::RateLimit;

/// The budget of each address: `limit` look-ups that come to nothing.
#[derive(Debug)]
pub(crate) struct LookupBudget {
    /// Nanoseconds in which one look-up comes back.
    interval: u64,
    /// Nanoseconds in which all come back.
    window: u64,
    /// Random, so that nobody can choose whose cells to share.
    spread: RandomState,
    /// When each cell will be empty, in the clock's nanoseconds; one half after the other.
    cells: Mutex<Box<[u64]>>,
}

/// A look-up that was charged to an address: what it added to each of its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Charge([Added; 2]);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Added {
    place: usize,
    nanos: u64,
    /// When it will have run out.
    until: u64,
}

const HALF: usize = 32_768;

impl LookupBudget {
    /// The limit must be [valid](RateLimit::validate).
    pub(crate) fn new(limit: &RateLimit) -> Self {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let interval = nanos(limit.period()) / u64::from(limit.requests());
        Self {
            interval,
            window: interval.saturating_mul(limit.capacity().into()),
            spread: RandomState::new(),
            cells: Mutex::new(vec![0; 2 * HALF].into()),
        }
    }

    /// Charges a look-up to an address before it is made, so that many at one time are no more than
    /// many in turn.
    ///
    /// # Errors
    ///
    /// When the budget is used up: how long to wait.
    pub(super) fn charge(&self, address: IpAddr, now: Now) -> Result<Charge, Duration> {
        let (now, places) = (now.elapsed_nanos(), self.places(address));
        self.with_cells(|cells| {
            self.room(cells, places, now)?;
            Ok(Charge(places.map(|place| {
                let spent = cells[place].saturating_sub(now);
                // One that others have filled takes no more.
                let nanos = self.interval.min(self.window.saturating_sub(spent));
                let until = now + spent + nanos;
                cells[place] = until;
                Added {
                    place,
                    nanos,
                    until,
                }
            })))
        })
    }

    /// Gives back what a look-up was charged that did not come to nothing, but for what time has given
    /// back by now, as near as that can be told where others were charged in between.
    pub(super) fn give_back(&self, charge: Charge, now: Now) {
        self.with_cells(|cells| {
            for added in charge.0 {
                let left = added.until.saturating_sub(now.elapsed_nanos());
                let cell = &mut cells[added.place];
                *cell = cell.saturating_sub(left.min(added.nanos));
            }
        });
    }

    /// # Errors
    ///
    /// When the budget of an address is used up: how long to wait.
    pub(super) fn look(&self, address: IpAddr, now: Now) -> Result<(), Duration> {
        let places = self.places(address);
        self.with_cells(|cells| self.room(cells, places, now.elapsed_nanos()))
    }

    fn room(&self, cells: &[u64], places: [usize; 2], now: u64) -> Result<(), Duration> {
        let spent = places.map(|place| cells[place].saturating_sub(now));
        let then = spent[0].min(spent[1]) + self.interval;
        match then.saturating_sub(self.window) {
            0 => Ok(()),
            wait => Err(Duration::from_nanos(wait)),
        }
    }

    fn places(&self, address: IpAddr) -> [usize; 2] {
        let hash = self.spread.hash_one(network(address));
        let [low, high] = [hash, hash >> 32].map(|bits| bits as usize % HALF);
        [low, HALF + high]
    }

    /// Nothing panics in there, so a poisoned lock's cells are whole.
    fn with_cells<T>(&self, then: impl FnOnce(&mut [u64]) -> T) -> T {
        then(&mut self.cells.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What any client can choose from: an IPv4 address, or an IPv6 network of 64 bits, within which it makes
/// its own addresses (RFC 4862). Many have more than one such network (RFC 6177).
fn network(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits() | u128::from(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::clock::Clock;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    fn use_up(budget: &LookupBudget, address: IpAddr, now: Now) {
        let charged = (0..10_000).take_while(|_| budget.charge(address, now).is_ok());
        assert!(charged.count() < 10_000, "it does not end");
    }

    fn at(clock: &Clock, secs: u64) -> Now {
        clock.advance(Duration::from_secs(secs));
        clock.now()
    }

    #[test]
    fn every_address_has_a_place_in_each_half() {
        let budget = LookupBudget::new(&RateLimit::per_minute(1));
        let mut places: Vec<_> = (0..10_000).map(|n| budget.places(address(n))).collect();
        assert!(
            places
                .iter()
                .all(|&[low, high]| low < HALF && (HALF..2 * HALF).contains(&high))
        );
        // Two addresses may share one place, and hardly ever both.
        places.sort_unstable();
        places.dedup();
        assert!(places.len() > 9_900, "{}", places.len());
    }

    #[test]
    fn an_address_spends_its_budget_and_gets_it_back_in_time() {
        let budget = LookupBudget::new(&RateLimit::per_minute(60).burst(10));
        let clock = Clock::manual(Timestamp::UNIX_EPOCH);
        let (here, mut now) = (address(1), at(&clock, 0));
        for _ in 0..10 {
            assert_eq!(budget.look(here, now), Ok(()));
            assert!(budget.charge(here, now).is_ok());
        }
        let second = Duration::from_secs(1);
        assert_eq!(budget.look(here, now), Err(second));
        assert_eq!(budget.charge(here, now), Err(second));
        // Asking in vain has not made the wait longer, and waiting suffices.
        now = at(&clock, 1);
        assert!(budget.charge(here, now).is_ok());
        assert_eq!(budget.charge(here, now), Err(second));
        now = at(&clock, 1_000);
        for _ in 0..10 {
            assert!(budget.charge(here, now).is_ok());
        }
        assert_eq!(budget.charge(here, now), Err(second));
    }

    #[test]
    fn what_is_given_back_was_never_spent() {
        let budget = LookupBudget::new(&RateLimit::per_second(2));
        let now = Clock::manual(Timestamp::UNIX_EPOCH).now();
        for _ in 0..100 {
            let charges = [(); 2].map(|()| budget.charge(address(1), now).unwrap());
            assert!(budget.charge(address(1), now).is_err());
            charges.into_iter().for_each(|it| budget.give_back(it, now));
        }
        // More than was charged is never given.
        let charge = budget.charge(address(1), now).unwrap();
        for _ in 0..10 {
            budget.give_back(charge, now);
        }
        assert!(budget.charge(address(1), now).is_ok());
        assert!(budget.charge(address(1), now).is_ok());
        assert!(budget.charge(address(1), now).is_err());
    }

    #[test]
    fn what_time_has_given_back_is_not_given_twice() {
        let budget = LookupBudget::new(&RateLimit::per_second(2));
        let (clock, here) = (Clock::manual(Timestamp::UNIX_EPOCH), address(1));
        let mut now = clock.now();
        let first = budget.charge(here, now).unwrap();
        now = at(&clock, 1);
        // Others of the same address have spent all of it since.
        for _ in 0..2 {
            assert!(budget.charge(here, now).is_ok());
        }
        budget.give_back(first, now);
        assert!(budget.charge(here, now).is_err());
    }

    #[test]
    #[cfg_attr(miri, ignore = "so many addresses take too long")]
    fn a_cell_that_others_filled_gets_nothing_back() {
        let budget = LookupBudget::new(&RateLimit::per_second(2));
        let now = Clock::manual(Timestamp::UNIX_EPOCH).now();
        // Whoever has one cell with the first address and one of its own.
        let here = budget.places(address(1));
        let beside = (2..)
            .map(address)
            .find(|other| {
                let other = budget.places(*other);
                other[0] == here[0] && other[1] != here[1]
            })
            .unwrap();
        use_up(&budget, address(1), now);
        let charge = budget.charge(beside, now).unwrap();
        budget.give_back(charge, now);
        assert!(budget.charge(address(1), now).is_err());
    }

    #[test]
    fn networks_are_what_one_client_has() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:ffff:ffff:ffff"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    #[cfg_attr(miri, ignore = "a million addresses take too long")]
    fn rule_6_floods_of_addresses_leave_others_their_budgets() {
        let budget = LookupBudget::new(&RateLimit::per_minute(100));
        let now = Clock::manual(Timestamp::UNIX_EPOCH).now();
        // A thousand addresses that spend all they have, and a million that spend a little.
        for n in 0..1_000 {
            use_up(&budget, address(n), now);
        }
        for n in 1_000_000..2_000_000 {
            let _ = budget.charge(address(n), now);
        }
        let others = 3_000_000..3_010_000;
        let without = others.filter(|n| budget.look(address(*n), now).is_err());
        // One in a thousand is expected: (1000 / 32768)².
        assert!(without.count() < 100);
    }
}
