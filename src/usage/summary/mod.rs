//! Summaries of usage, as pure functions over events or rollups.
//!
//! All functions accept both events and rollups and return the same result for either. [`SummarySpec::summarize`]
//! computes a whole [`Summary`] in one pass; the functions in this module each compute one of its parts.
//!
//! ```
//! use keytally::usage::{SummarySpec, UsageEvent, Granularity};
//!
//! let events: Vec<_> = ["2026-11-01T09:59:59Z", "2026-11-01T10:00:00Z"]
//!     .map(|time| UsageEvent::new(time.parse().unwrap()))
//!     .into();
//! let zone = jiff::tz::TimeZone::get("Asia/Kathmandu").unwrap();
//! let spec = SummarySpec::new().over_time(Granularity::Hour, zone);
//! let summary = spec.summarize(&events);
//! assert_eq!(summary.totals.completed(), 2);
//! // In Kathmandu (UTC+05:45), hours start at a quarter past the hour in UTC.
//! assert_eq!(summary.over_time.unwrap().buckets.len(), 1);
//! ```
//!
//! # Guarantees
//!
//! - Summaries merge: merging the summaries of two sets, in any order, gives the summary of their union.
//! - A rollup counts the same as its events. Over time, it counts in the bucket that contains its start. This is
//!   exact if each bucket consists of whole rollup buckets: rollups of a minute fit all zones since 1972, those of
//!   a quarter of an hour fit hours and days of all current zones, those of an hour fit zones with an offset of
//!   whole hours, and those of a day fit UTC only.
//! - The number of methods, statuses and status classes is bounded. All endpoints are kept, so that merging is
//!   exact; the source of the events must bound their number. The layer tracks 1,024 endpoints by name and counts
//!   the others as [`OTHER_ENDPOINTS`](super::OTHER_ENDPOINTS).

mod accumulator;
mod aggregate;
mod groups;
mod over_time;
mod spec;
mod spikes;
mod totals;

use std::borrow::Borrow;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use aggregate::Aggregate;
pub use over_time::{OverTime, TimeBucket, TooManyBuckets};
pub use spec::SummarySpec;
#[cfg(feature = "dashboard")]
pub(crate) use spikes::candidates;
pub use spikes::{Spike, spikes};
#[cfg(feature = "_sql")]
pub(crate) use totals::Amounts;
pub use totals::Totals;

use super::{LatencyHistogram, Method, RejectionReason, Status, StatusClass};
use crate::id::KeyId;
use groups::{Groups, Methods, group};

/// A summary of requests, computed by [`SummarySpec::summarize`] or
/// [`UsageReader::summary`](super::UsageReader::summary).
///
/// The maps only have entries with at least one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Summary {
    /// The totals of all requests.
    pub totals: Totals,
    /// The totals by method.
    pub by_method: BTreeMap<Method, Totals>,
    /// The totals by status. See also [`Summary::by_status_class`].
    pub by_status: BTreeMap<Status, Totals>,
    /// The totals by rejection reason, of the requests that the layer rejected.
    pub by_rejection_reason: BTreeMap<RejectionReason, Totals>,
    /// The totals by endpoint. See also [`Summary::top_endpoints`].
    pub by_endpoint: BTreeMap<Arc<str>, Totals>,
    /// The totals by key, if [requested](SummarySpec::by_key). The key `None` stands for anonymous requests.
    #[serde(default, with = "by_key_as_list")]
    pub by_key: Option<BTreeMap<Option<KeyId>, Totals>>,
    /// The totals by owner of the keys, if [requested](SummarySpec::by_owner). Without requests of keys that have no
    /// owner.
    #[serde(default)]
    pub by_owner: Option<BTreeMap<Arc<str>, Totals>>,
    /// The totals over time, if [requested](SummarySpec::over_time).
    #[serde(default)]
    pub over_time: Option<OverTime>,
    /// The latencies, if [requested](SummarySpec::latency).
    #[serde(default)]
    pub latency: Option<LatencyHistogram>,
    /// The latencies by endpoint, if [requested](SummarySpec::latency_by_endpoint).
    #[serde(default)]
    pub latency_by_endpoint: Option<BTreeMap<Arc<str>, LatencyHistogram>>,
    /// Whether the summary, and each of its time buckets, counts exactly the requests of its range that the
    /// backend has not pruned. `false` if a range or bucket boundary falls within a rollup, which then counts
    /// where it starts.
    #[serde(default = "exact")]
    pub exact: bool,
}

fn exact() -> bool {
    true
}

impl Summary {
    /// Merges the summary of other requests into this one.
    ///
    /// Optional parts that only one of the two has are removed, since they would be incomplete; so are totals over
    /// time with different widths or zones. Use [`SummarySpec::empty`] as the initial value.
    pub fn merge(&mut self, other: Self) {
        self.totals.merge(&other.totals);
        merge_maps(&mut self.by_method, other.by_method);
        merge_maps(&mut self.by_status, other.by_status);
        merge_maps(&mut self.by_rejection_reason, other.by_rejection_reason);
        merge_maps(&mut self.by_endpoint, other.by_endpoint);
        self.by_key = both(self.by_key.take(), other.by_key, |mine, theirs| {
            merge_maps(mine, theirs);
        });
        self.by_owner = both(self.by_owner.take(), other.by_owner, |mine, theirs| {
            merge_maps(mine, theirs);
        });
        let is_compatible = |mine: &OverTime, theirs: &OverTime| {
            (mine.granularity, &mine.zone) == (theirs.granularity, &theirs.zone)
        };
        self.over_time =
            self.over_time
                .take()
                .zip(other.over_time)
                .and_then(|(mut mine, theirs)| {
                    is_compatible(&mine, &theirs).then(|| {
                        merge_maps(&mut mine.buckets, theirs.buckets);
                        mine.latency = both(mine.latency.take(), theirs.latency, merge_latencies);
                        mine
                    })
                });
        self.exact &= other.exact;
        self.latency = both(self.latency.take(), other.latency, |mine, theirs| {
            mine.merge(&theirs);
        });
        let by_endpoint = self.latency_by_endpoint.take();
        self.latency_by_endpoint = both(by_endpoint, other.latency_by_endpoint, merge_latencies);
    }

    /// The `n` endpoints with the most requests, in descending order; ties are ordered by name.
    pub fn top_endpoints(&self, n: usize) -> Vec<(&Arc<str>, &Totals)> {
        top(self.by_endpoint.iter(), n)
    }

    /// The `n` keys with the most requests, in descending order. `None` stands for anonymous requests. Empty
    /// unless the summary is [by key](SummarySpec::by_key).
    pub fn top_keys(&self, n: usize) -> Vec<(Option<KeyId>, &Totals)> {
        let keys = self.by_key.iter().flatten();
        top(keys.map(|(key, totals)| (*key, totals)), n)
    }

    /// The `n` owners with the most requests, in descending order; ties are ordered by name. Empty unless the
    /// summary is [by owner](SummarySpec::by_owner).
    pub fn top_owners(&self, n: usize) -> Vec<(&Arc<str>, &Totals)> {
        top(self.by_owner.iter().flatten(), n)
    }

    /// The totals by status class.
    pub fn by_status_class(&self) -> BTreeMap<StatusClass, Totals> {
        classes(&self.by_status)
    }
}

/// The totals of all items.
pub fn totals<'a, T: Aggregate + 'a>(items: impl IntoIterator<Item = &'a T>) -> Totals {
    let mut totals = Totals::default();
    for item in items {
        totals.add(&item.amounts());
    }
    totals
}

/// The totals by method.
pub fn by_method<'a, T: Aggregate + 'a>(
    items: impl IntoIterator<Item = &'a T>,
) -> BTreeMap<Method, Totals> {
    let mut methods = Methods::default();
    for item in items {
        methods.add(item.method(), &item.amounts());
    }
    methods.finish()
}

/// The totals by status.
pub fn by_status<'a, T: Aggregate + 'a>(
    items: impl IntoIterator<Item = &'a T>,
) -> BTreeMap<Status, Totals> {
    group(items, |item| item.status())
}

/// The totals by rejection reason, of the requests that the layer rejected.
pub fn by_rejection_reason<'a, T: Aggregate + 'a>(
    items: impl IntoIterator<Item = &'a T>,
) -> BTreeMap<RejectionReason, Totals> {
    let mut reasons = Groups::new();
    for amounts in items.into_iter().map(|item| item.amounts()) {
        if let Some(reason) = amounts.rejection_reason {
            reasons.add(reason, &amounts);
        }
    }
    reasons.finish()
}

/// The `n` endpoints with the most requests, in descending order; ties are ordered by name.
pub fn top_endpoints<'a, T: Aggregate + 'a>(
    items: impl IntoIterator<Item = &'a T>,
    n: usize,
) -> Vec<(Arc<str>, Totals)> {
    let mut cells = accumulator::Accumulator::new();
    for item in items {
        cells.add(
            item.method(),
            item.status(),
            item.endpoint(),
            &item.amounts(),
        );
    }
    top(owned(cells.finish().endpoints), n)
}

/// The totals by key. `None` stands for anonymous requests.
pub fn by_key<'a, T: Aggregate + 'a>(
    items: impl IntoIterator<Item = &'a T>,
) -> BTreeMap<Option<KeyId>, Totals> {
    group(items, |item| item.key())
}

/// The totals by owner of the keys. Without requests of keys that have no owner.
pub fn by_owner<'a, T: Aggregate + 'a>(
    items: impl IntoIterator<Item = &'a T>,
) -> BTreeMap<Arc<str>, Totals> {
    let mut owners = Groups::new();
    for item in items {
        if let Some(owner) = item.owner() {
            owners.add(owner, &item.amounts());
        }
    }
    owned(owners)
}

fn owned(texts: Groups<&Arc<str>>) -> BTreeMap<Arc<str>, Totals> {
    let texts = texts.finish().into_iter();
    texts.map(|(name, totals)| (name.clone(), totals)).collect()
}

fn merge_maps<K: Ord>(mine: &mut BTreeMap<K, Totals>, theirs: BTreeMap<K, Totals>) {
    for (name, totals) in theirs {
        mine.entry(name).or_default().merge(&totals);
    }
}

fn merge_latencies<K: Ord>(
    mine: &mut BTreeMap<K, LatencyHistogram>,
    theirs: BTreeMap<K, LatencyHistogram>,
) {
    for (name, latency) in theirs {
        mine.entry(name).or_default().merge(&latency);
    }
}

fn both<T>(mine: Option<T>, theirs: Option<T>, merge: impl FnOnce(&mut T, T)) -> Option<T> {
    let (mut mine, theirs) = mine.zip(theirs)?;
    merge(&mut mine, theirs);
    Some(mine)
}

fn classes(by_status: &BTreeMap<Status, Totals>) -> BTreeMap<StatusClass, Totals> {
    let mut classes = BTreeMap::<_, Totals>::new();
    for (status, totals) in by_status {
        classes.entry(status.class()).or_default().merge(totals);
    }
    classes
}

/// The `n` totals with the most requests. The input is ordered by name, which is the order of ties.
fn top<K, V: Borrow<Totals>>(named: impl IntoIterator<Item = (K, V)>, n: usize) -> Vec<(K, V)> {
    top_by(named, n, Totals::total)
}

/// The `n` totals with the highest counts. The input is ordered by name, which is the order of ties.
pub(crate) fn top_by<K, V: Borrow<Totals>>(
    named: impl IntoIterator<Item = (K, V)>,
    n: usize,
    count: impl Fn(&Totals) -> u64,
) -> Vec<(K, V)> {
    let named = named.into_iter().enumerate();
    let counted = named.map(|(at, one)| ((Reverse(count(one.1.borrow())), at), one));
    let mut all: Vec<_> = counted.collect();
    if n < all.len() {
        all.select_nth_unstable_by_key(n, |(rank, _)| *rank);
        all.truncate(n);
    }
    all.sort_unstable_by_key(|(rank, _)| *rank);
    all.into_iter().map(|(_, one)| one).collect()
}

/// Serializes as a list, since a JSON object cannot have a null key for anonymous requests.
mod by_key_as_list {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{KeyId, Totals};

    type ByKey = Option<BTreeMap<Option<KeyId>, Totals>>;

    #[derive(Serialize, Deserialize)]
    struct Entry<T> {
        key: Option<KeyId>,
        totals: T,
    }

    pub(super) fn serialize<S: Serializer>(
        by_key: &ByKey,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let entries = |map: &BTreeMap<_, _>| -> Vec<Entry<Totals>> {
            let entries = map.iter();
            entries
                .map(|(&key, totals): (&Option<KeyId>, &Totals)| Entry {
                    key,
                    totals: totals.clone(),
                })
                .collect()
        };
        by_key.as_ref().map(entries).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<ByKey, D::Error> {
        let entries = Option::<Vec<Entry<Totals>>>::deserialize(deserializer)?;
        Ok(entries.map(|entries| {
            let entries = entries.into_iter();
            entries.map(|entry| (entry.key, entry.totals)).collect()
        }))
    }
}
