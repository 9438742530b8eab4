//! Keys that fare worse than before.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Totals;
use crate::id::KeyId;
use crate::usage::Outcome;

/// A key of which many more requests failed, or reached a limit, than before; see [`spikes`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Spike {
    /// The key; `None` stands for anonymous requests.
    pub key: Option<KeyId>,
    /// What came of the requests: [`Outcome::Failed`] or [`Outcome::RateLimited`].
    pub outcome: Outcome,
    /// Its requests now.
    pub now: Totals,
    /// Its requests before.
    pub before: Totals,
}

impl Spike {
    /// How many requests must have had the outcome: fewer may be chance.
    pub const LEAST: u64 = 20;
    /// How many times the share before the share now must be.
    pub const FACTOR: u64 = 2;
    /// By how many percentage points the share must have risen.
    pub const POINTS: u64 = 5;

    /// How many requests had the outcome now.
    pub fn count(&self) -> u64 {
        count(&self.now, self.outcome)
    }

    /// How many requests had the outcome before.
    pub fn count_before(&self) -> u64 {
        count(&self.before, self.outcome)
    }

    /// The rule. Where sums are beyond 2⁵⁶, the points are not told apart any more.
    fn is_spike(&self) -> bool {
        let [now, all, before, all_before] = [
            self.count(),
            self.now.total(),
            self.count_before(),
            // Of no requests at all, none failed.
            self.before.total().max(1),
        ]
        .map(u128::from);
        let more_often = now * all_before >= u128::from(Self::FACTOR) * before * all;
        // now / all ≥ before / all_before + POINTS / 100
        let points = u128::from(Self::POINTS);
        let risen = now.saturating_mul(100 * all_before)
            >= before
                .saturating_mul(100)
                .saturating_add(points * all_before)
                .saturating_mul(all);
        self.count() >= Self::LEAST && more_often && risen
    }
}

fn count(totals: &Totals, outcome: Outcome) -> u64 {
    match outcome {
        Outcome::Completed => totals.completed(),
        Outcome::Failed => totals.failed(),
        Outcome::RateLimited => totals.rate_limited(),
    }
}

/// Keys whose failures or refusals by a limit spiked between two ranges of the same length, as
/// [`Summary::by_key`](super::Summary::by_key) has them: most of them first.
///
/// The share of a key's requests that failed (or that a limit refused) has spiked when at least
/// [`Spike::LEAST`] did, and the share is at least [`Spike::FACTOR`] times what it was and at least
/// [`Spike::POINTS`] percentage points above that. A key without requests before had a share of nothing.
/// One key may be there twice, once for each outcome.
///
/// ```
/// use keytally::usage::summary::{by_key, spikes};
/// use keytally::usage::{Outcome, UsageEvent};
///
/// let event = UsageEvent::at("2026-11-01T10:00:00Z".parse().unwrap());
/// let mut failed = event.clone();
/// failed.outcome = Outcome::Failed;
/// let before = by_key(&vec![event; 30]);
/// let now = by_key(&vec![failed; 30]);
/// let spikes = spikes(&now, &before);
/// assert_eq!((spikes[0].count(), spikes[0].count_before()), (30, 0));
/// ```
pub fn spikes(
    now: &BTreeMap<Option<KeyId>, Totals>,
    before: &BTreeMap<Option<KeyId>, Totals>,
) -> Vec<Spike> {
    let outcomes = [Outcome::Failed, Outcome::RateLimited];
    let all = now.iter().flat_map(|(key, totals)| {
        let earlier = before.get(key);
        outcomes.map(|outcome| Spike {
            key: *key,
            outcome,
            now: totals.clone(),
            before: earlier.cloned().unwrap_or_default(),
        })
    });
    let mut spikes: Vec<_> = all.filter(Spike::is_spike).collect();
    // A stable sort keeps the order of the keys in ties.
    spikes.sort_by_key(|spike| Reverse(spike.count()));
    spikes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MOST: u64 = i64::MAX.cast_unsigned();

    fn totals([completed, failed, rate_limited]: [u64; 3]) -> Totals {
        let totals = json!({
            "completed": completed, "rate_limited": rate_limited, "failures": { "other": failed },
            "cost": 0, "request_bytes": 0, "response_bytes": 0,
        });
        serde_json::from_value(totals).unwrap()
    }

    fn found(now: [u64; 3], before: [u64; 3]) -> Vec<Outcome> {
        let of = |counts| BTreeMap::from([(None, totals(counts))]);
        let spikes = spikes(&of(now), &of(before));
        spikes.iter().map(|spike| spike.outcome).collect()
    }

    #[test]
    fn a_spike_is_often_enough_twice_as_much_and_five_points_more() {
        let failed = vec![Outcome::Failed];
        // Twenty at least.
        assert_eq!(found([80, 20, 0], [100, 0, 0]), failed);
        assert_eq!(found([76, 19, 0], [100, 0, 0]), []);
        // Twice the share at least.
        assert_eq!(found([60, 40, 0], [80, 20, 0]), failed);
        assert_eq!(found([61, 39, 0], [80, 20, 0]), []);
        // Five points at least.
        assert_eq!(found([930, 70, 0], [980, 20, 0]), failed);
        assert_eq!(found([931, 69, 0], [980, 20, 0]), []);
        // More failures among more requests are no larger share.
        assert_eq!(found([9_000, 1_000, 0], [90, 10, 0]), []);
        assert_eq!(found([100, 0, 25], [100, 25, 0]), [Outcome::RateLimited]);
        assert_eq!(
            found([0, 30, 30], [90, 0, 0]),
            [Outcome::Failed, Outcome::RateLimited]
        );
    }

    #[test]
    fn a_key_without_requests_before_can_spike() {
        let now = BTreeMap::from([
            (None, totals([10, 30, 0])),
            (
                Some("3fK9aB0000zzZZ19".parse().unwrap()),
                totals([0, 50, 0]),
            ),
            (
                Some("3fK9aB0000zzZZ20".parse().unwrap()),
                totals([500, 0, 0]),
            ),
        ]);
        let spikes = spikes(&now, &BTreeMap::new());
        let counts: Vec<_> = spikes
            .iter()
            .map(|spike| (spike.key, spike.count()))
            .collect();
        let first = now.keys().nth(1).copied().unwrap();
        assert_eq!(counts, [(first, 50), (None, 30)]);
    }

    #[test]
    fn the_largest_sums_are_compared() {
        assert_eq!(found([0, MOST, 0], [MOST, 0, 0]), [Outcome::Failed]);
        assert_eq!(found([0, MOST, 0], [0, MOST, 0]), []);
        assert_eq!(found([MOST, 0, 0], [0, MOST, 0]), []);
    }
}
