//! Detection of keys with more failures or rate limiting than before.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Totals;
use crate::id::KeyId;
use crate::usage::Outcome;

/// A key whose share of failed or rate-limited requests has risen sharply; see [`spikes`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Spike {
    /// The key; `None` stands for anonymous requests.
    pub key: Option<KeyId>,
    /// The outcome with the spike: [`Outcome::Failed`] or [`Outcome::RateLimited`].
    pub outcome: Outcome,
    /// The key's totals in the current range.
    pub current: Totals,
    /// The key's totals in the previous range.
    pub previous: Totals,
}

impl Spike {
    /// The minimum number of requests with the outcome, 20. Fewer may be chance.
    pub const MIN_REQUESTS: u64 = 20;
    /// The minimum number of requests in the previous range, 5. Without them, there is nothing to compare with, as for
    /// new keys.
    pub const MIN_PREVIOUS_REQUESTS: u64 = 5;
    /// The minimum factor by which the share must have risen, 2.
    pub const MIN_FACTOR: u64 = 2;
    /// The minimum number of percentage points by which the share must have risen, 5.
    pub const MIN_PERCENTAGE_POINTS: u64 = 5;

    /// The number of requests with the outcome in the current range.
    pub fn count(&self) -> u64 {
        count(&self.current, self.outcome)
    }

    /// The number of requests with the outcome in the previous range.
    pub fn previous_count(&self) -> u64 {
        count(&self.previous, self.outcome)
    }

    /// Applies the thresholds. Percentage points are imprecise for totals above 2⁵⁶.
    fn is_spike(&self) -> bool {
        let [now, all, before, all_before] = [
            self.count(),
            self.current.total(),
            self.previous_count(),
            self.previous.total(),
        ]
        .map(u128::from);
        let more_often = now * all_before >= u128::from(Self::MIN_FACTOR) * before * all;
        // now / all ≥ before / all_before + POINTS / 100
        let points = u128::from(Self::MIN_PERCENTAGE_POINTS);
        let risen = now.saturating_mul(100 * all_before)
            >= before
                .saturating_mul(100)
                .saturating_add(points * all_before)
                .saturating_mul(all);
        let is_comparable = self.previous.total() >= Self::MIN_PREVIOUS_REQUESTS;
        self.count() >= Self::MIN_REQUESTS && is_comparable && more_often && risen
    }
}

fn count(totals: &Totals, outcome: Outcome) -> u64 {
    match outcome {
        Outcome::Completed => totals.completed(),
        Outcome::Failed => totals.failed(),
        Outcome::RateLimited => totals.rate_limited(),
    }
}

/// Finds keys whose failures or rate-limited requests spiked between two ranges of the same length. Takes the
/// totals by key ([`Summary::by_key`](super::Summary::by_key)) of the current and the previous range, and returns
/// the spikes by descending number of requests.
///
/// An outcome has spiked if at least [`Spike::MIN_REQUESTS`] requests have it, and its share of the key's requests is at
/// least [`Spike::MIN_FACTOR`] times the previous share and at least [`Spike::MIN_PERCENTAGE_POINTS`] percentage points
/// above it. Keys with fewer than [`Spike::MIN_PREVIOUS_REQUESTS`] previous requests, such as new ones, are left out. A
/// key can be returned twice, once for each outcome.
///
/// ```
/// use keytally::usage::summary::{by_key, spikes};
/// use keytally::usage::{Outcome, UsageEvent};
///
/// let event = UsageEvent::new("2026-11-01T10:00:00Z".parse().unwrap());
/// let mut failed = event.clone();
/// failed.outcome = Outcome::Failed;
/// let before = by_key(&vec![event; 30]);
/// let now = by_key(&vec![failed; 30]);
/// let spikes = spikes(&now, &before);
/// assert_eq!((spikes[0].count(), spikes[0].previous_count()), (30, 0));
/// ```
pub fn spikes(
    now: &BTreeMap<Option<KeyId>, Totals>,
    before: &BTreeMap<Option<KeyId>, Totals>,
) -> Vec<Spike> {
    let outcomes = [Outcome::Failed, Outcome::RateLimited];
    let all = now.iter().flat_map(|(key, totals)| {
        let has_enough = |outcome: &Outcome| count(totals, *outcome) >= Spike::MIN_REQUESTS;
        let outcomes = outcomes.into_iter().filter(has_enough);
        outcomes.filter_map(|outcome| {
            let spike = Spike {
                key: *key,
                outcome,
                current: totals.clone(),
                previous: before.get(key)?.clone(),
            };
            spike.is_spike().then_some(spike)
        })
    });
    let mut spikes: Vec<_> = all.collect();
    // The stable sort keeps ties in key order.
    spikes.sort_by_key(|spike| Reverse(spike.count()));
    spikes
}

/// The keys of which [`spikes`] needs the totals of the previous range: those with enough requests.
#[cfg(any(feature = "dashboard", test))]
pub(crate) fn candidates(now: &BTreeMap<Option<KeyId>, Totals>) -> Vec<Option<KeyId>> {
    let has_enough =
        |totals: &Totals| totals.failed().max(totals.rate_limited()) >= Spike::MIN_REQUESTS;
    let keys = now.iter().filter(|(_, totals)| has_enough(totals));
    keys.map(|(key, _)| *key).collect()
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
        let (now, before) = (of(now), of(before));
        let spikes = spikes(&now, &before);
        assert!(spikes.is_empty() || candidates(&now) == [None]);
        spikes.iter().map(|spike| spike.outcome).collect()
    }

    #[test]
    fn a_spike_needs_20_requests_twice_the_share_and_5_points_more() {
        let failed = vec![Outcome::Failed];
        // At least 20 requests.
        assert_eq!(found([80, 20, 0], [100, 0, 0]), failed);
        assert_eq!(found([76, 19, 0], [100, 0, 0]), []);
        // At least twice the share.
        assert_eq!(found([60, 40, 0], [80, 20, 0]), failed);
        assert_eq!(found([61, 39, 0], [80, 20, 0]), []);
        // At least five percentage points more.
        assert_eq!(found([930, 70, 0], [980, 20, 0]), failed);
        assert_eq!(found([931, 69, 0], [980, 20, 0]), []);
        // More failures, but the same share.
        assert_eq!(found([9_000, 1_000, 0], [90, 10, 0]), []);
        assert_eq!(found([100, 0, 25], [100, 25, 0]), [Outcome::RateLimited]);
        assert_eq!(
            found([0, 30, 30], [90, 0, 0]),
            [Outcome::Failed, Outcome::RateLimited]
        );
    }

    #[test]
    fn a_spike_needs_5_requests_before() {
        assert_eq!(found([0, 50, 0], [0, 0, 0]), []);
        assert_eq!(found([0, 50, 0], [4, 0, 0]), []);
        assert_eq!(found([0, 50, 0], [5, 0, 0]), [Outcome::Failed]);
        assert_eq!(found([0, 50, 0], [2, 1, 2]), [Outcome::Failed]);
    }

    #[test]
    fn spikes_are_sorted_by_requests() {
        let ids = ["3fK9aB0000zzZZ19", "3fK9aB0000zzZZ20"].map(|id| Some(id.parse().unwrap()));
        let now = BTreeMap::from([
            (None, totals([10, 30, 0])),
            (ids[0], totals([0, 50, 0])),
            (ids[1], totals([500, 0, 0])),
        ]);
        let before = now.keys().map(|key| (*key, totals([9, 0, 0])));
        let spikes = spikes(&now, &before.collect());
        let counts = spikes.iter().map(|spike| (spike.key, spike.count()));
        assert_eq!(counts.collect::<Vec<_>>(), [(ids[0], 50), (None, 30)]);
    }

    #[test]
    fn the_largest_totals_do_not_overflow() {
        assert_eq!(found([0, MOST, 0], [MOST, 0, 0]), [Outcome::Failed]);
        assert_eq!(found([0, MOST, 0], [0, MOST, 0]), []);
        assert_eq!(found([MOST, 0, 0], [0, MOST, 0]), []);
    }
}
