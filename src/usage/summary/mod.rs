//! Usage summed up by pure functions: what a page shows.
//!
//! All of them take events or rollups alike and give the same answer for both. A whole [`Summary`]
//! is made in one pass by a [`SummarySpec`]; the functions of this module answer one question each.
//!
//! ```
//! use keytally::usage::{SummarySpec, UsageEvent, Granularity};
//!
//! let events: Vec<_> = ["2026-11-01T09:59:59Z", "2026-11-01T10:00:00Z"]
//!     .map(|time| UsageEvent::at(time.parse().unwrap()))
//!     .into();
//! let zone = jiff::tz::TimeZone::get("Asia/Kathmandu").unwrap();
//! let spec = SummarySpec::new().over_time(Granularity::Hour, zone);
//! let summary = spec.summarize(&events);
//! assert_eq!(summary.totals.completed(), 2);
//! // Hours of Kathmandu start at a quarter past those of UTC.
//! assert_eq!(summary.over_time.unwrap().buckets.len(), 1);
//! ```
//!
//! # What always holds
//!
//! - Summaries merge: the summaries of two sets, merged, are the summary of both sets, in any order.
//! - A rollup counts as its events. Over time it counts in the bucket that its start falls into, which
//!   is theirs whenever the bucket asked for is made of whole buckets of the rollup's width: minutes
//!   fit every bucket of every zone since 1972, quarters of an hour every hour and day of today's zones,
//!   hours only zones of whole hours, and days only UTC.
//! - Methods, statuses and classes are closed sets. Endpoints are kept all, so that merging is exact:
//!   who makes the events bounds their number. The layer knows 1,024 endpoints by name and counts
//!   the rest as [`OTHER_ENDPOINTS`](super::OTHER_ENDPOINTS).

mod accumulator;
mod aggregate;
mod groups;
mod over_time;
mod spec;
mod spikes;
mod totals;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

pub use aggregate::Aggregate;
pub use over_time::{OverTime, TimeBucket, TooManyBuckets};
pub use spec::SummarySpec;
pub use spikes::{Spike, spikes};
pub use totals::Totals;

use super::{Granularity, LatencyHistogram, Method, Status, StatusClass};
use crate::id::KeyId;
use groups::{Groups, Methods, group};
use over_time::Buckets;

/// Requests summed up; made by a [`SummarySpec`].
///
/// Every map has only the names under which something was counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Summary {
    /// All requests.
    pub totals: Totals,
    /// By method.
    pub by_method: BTreeMap<Method, Totals>,
    /// By status; [`Summary::by_status_class`] has the classes.
    pub by_status: BTreeMap<Status, Totals>,
    /// By endpoint; [`Summary::top_endpoints`] has those asked most.
    pub by_endpoint: BTreeMap<Arc<str>, Totals>,
    /// By key, if asked for; `None` as a key stands for anonymous requests.
    #[serde(default, with = "by_key_as_list")]
    pub by_key: Option<BTreeMap<Option<KeyId>, Totals>>,
    /// Over time, if asked for.
    #[serde(default)]
    pub over_time: Option<OverTime>,
    /// Latencies, if asked for.
    #[serde(default)]
    pub latency: Option<LatencyHistogram>,
    /// Whether it has exactly the requests of its range that the backend still keeps, and its part over time those of
    /// each bucket. `false` where a minute or an hour that is kept as one rollup is cut by an edge: it is counted where it
    /// starts.
    #[serde(default = "exact")]
    pub exact: bool,
}

fn exact() -> bool {
    true
}

impl Summary {
    /// Adds the summary of other requests.
    ///
    /// A part that only one of the two has would be half a truth and is left out, and so are parts
    /// over time of different widths or zones. To begin with nothing, take [`SummarySpec::empty`].
    pub fn merge(&mut self, other: Self) {
        self.totals.merge(&other.totals);
        merge_maps(&mut self.by_method, other.by_method);
        merge_maps(&mut self.by_status, other.by_status);
        merge_maps(&mut self.by_endpoint, other.by_endpoint);
        self.by_key = both(self.by_key.take(), other.by_key, |mine, theirs| {
            merge_maps(mine, theirs);
        });
        let alike = |mine: &OverTime, theirs: &OverTime| {
            (mine.width, &mine.zone) == (theirs.width, &theirs.zone)
        };
        self.over_time =
            self.over_time
                .take()
                .zip(other.over_time)
                .and_then(|(mut mine, theirs)| {
                    alike(&mine, &theirs).then(|| {
                        merge_maps(&mut mine.buckets, theirs.buckets);
                        mine
                    })
                });
        self.exact &= other.exact;
        self.latency = both(self.latency.take(), other.latency, |mine, theirs| {
            mine.merge(&theirs);
        });
    }

    /// The `n` endpoints with the most requests, most first; those with equally many by name.
    pub fn top_endpoints(&self, n: usize) -> Vec<(&Arc<str>, &Totals)> {
        top(self.by_endpoint.iter(), n)
    }

    /// The `n` keys with the most requests, most first; none where the summary is not
    /// [by key](SummarySpec::by_key). `None` stands for anonymous requests.
    pub fn top_keys(&self, n: usize) -> Vec<(Option<KeyId>, &Totals)> {
        let keys = self.by_key.iter().flatten();
        top(keys.map(|(key, totals)| (*key, totals)), n)
    }

    /// By the class of the status.
    pub fn by_status_class(&self) -> BTreeMap<StatusClass, Totals> {
        classes(&self.by_status)
    }
}

/// All items added up.
pub fn totals<'a, T: Aggregate + 'a>(items: impl IntoIterator<Item = &'a T>) -> Totals {
    let mut totals = Totals::default();
    for item in items {
        totals.add(&item.amounts());
    }
    totals
}

/// Totals by method.
pub fn by_method<'a, T: Aggregate + 'a>(
    items: impl IntoIterator<Item = &'a T>,
) -> BTreeMap<Method, Totals> {
    let mut methods = Methods::default();
    for item in items {
        methods.add(item.method(), &item.amounts());
    }
    methods.finish()
}

/// Totals by status.
pub fn by_status<'a, T: Aggregate + 'a>(
    items: impl IntoIterator<Item = &'a T>,
) -> BTreeMap<Status, Totals> {
    group(items, |item| item.status())
}

/// Totals by the class of the status.
pub fn by_status_class<'a, T: Aggregate + 'a>(
    items: impl IntoIterator<Item = &'a T>,
) -> BTreeMap<StatusClass, Totals> {
    classes(&by_status(items))
}

/// The `n` endpoints with the most requests, most first; those with equally many by name.
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

/// Totals by key; `None` stands for anonymous requests.
pub fn by_key<'a, T: Aggregate + 'a>(
    items: impl IntoIterator<Item = &'a T>,
) -> BTreeMap<Option<KeyId>, Totals> {
    group(items, |item| item.key())
}

/// Totals over time, in buckets of this width that follow the zone's clocks.
pub fn over_time<'a, T: Aggregate + 'a>(
    items: impl IntoIterator<Item = &'a T>,
    width: Granularity,
    zone: &TimeZone,
) -> OverTime {
    let mut buckets = Buckets::new(width, zone);
    for item in items {
        buckets.add(item.time(), &item.amounts());
    }
    buckets.finish()
}

/// Latencies, whose quantiles can be asked for.
pub fn latency<'a, T: Aggregate + 'a>(items: impl IntoIterator<Item = &'a T>) -> LatencyHistogram {
    let mut histogram = LatencyHistogram::new();
    for item in items {
        item.add_latency(&mut histogram);
    }
    histogram
}

fn owned(endpoints: Groups<&Arc<str>>) -> BTreeMap<Arc<str>, Totals> {
    let endpoints = endpoints.finish().into_iter();
    endpoints
        .map(|(name, totals)| (name.clone(), totals))
        .collect()
}

fn merge_maps<K: Ord>(mine: &mut BTreeMap<K, Totals>, theirs: BTreeMap<K, Totals>) {
    for (name, totals) in theirs {
        mine.entry(name).or_default().merge(&totals);
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

/// The `n` largest of totals in the order of their names: a stable sort keeps that order in ties.
fn top<K, V: std::borrow::Borrow<Totals>>(
    named: impl IntoIterator<Item = (K, V)>,
    n: usize,
) -> Vec<(K, V)> {
    let mut all: Vec<_> = named.into_iter().collect();
    all.sort_by_key(|(_, totals)| std::cmp::Reverse(totals.borrow().total()));
    all.truncate(n);
    all
}

/// JSON has no object whose names may be absent, as that of anonymous requests is.
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
