//! Rejections without events, over time and by sender.
//!
//! They are kept in memory and bounded, so that clients without a key cannot fill a database.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::granularity::Granularity;
use super::outcome::RejectionReason;
use crate::clock::Now;
use crate::id::KeyId;
use crate::sync::atomic::{AtomicI64, AtomicU64};
use crate::sync::{Mutex, MutexGuard};

/// Rejections that are not recorded as events, in this process ([`Recorder::rejections`](super::Recorder::rejections)).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Rejections {
    /// The rejections by time, oldest first: by minute for the last 1,440 minutes with rejections, and by hour for the
    /// 720 hours with rejections before those.
    pub over_time: Vec<RejectionBucket>,
    /// The client IPs with the most rejections, in descending order. An IPv6 /64 network counts as one. `None` unless
    /// the recorder [keeps them](super::RecorderBuilder::rejected_senders).
    pub client_ips: Option<Vec<RejectedSender<IpAddr>>>,
    /// The key ids in the credentials with the most rejections, in descending order, whether or not the
    /// secret was correct. `None` unless the recorder [keeps them](super::RecorderBuilder::rejected_senders).
    pub keys: Option<Vec<RejectedSender<KeyId>>>,
}

/// The rejections of a minute or an hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RejectionBucket {
    /// The start of the bucket.
    pub start: Timestamp,
    /// The width of the bucket.
    pub granularity: Granularity,
    /// The number of rejections by reason.
    pub by_reason: BTreeMap<RejectionReason, u64>,
}

/// The sender of rejected requests: a client IP or the id of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RejectedSender<T> {
    /// The sender.
    pub sender: T,
    /// The number of rejections. Fewer than there were if more senders were active than the recorder keeps.
    pub count: u64,
    /// The reason of the last one.
    pub last_reason: RejectionReason,
    /// The time of the last one.
    pub last_at: Timestamp,
}

const REASONS: usize = RejectionReason::ALL.len();
const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;

/// The maximum number of minutes and of hours with rejections, 260 KB together.
const MINUTES: usize = 1_440;
const HOURS: usize = 720;

/// The number of hours of which senders are kept.
const HOURS_OF_SENDERS: usize = 24;

/// The counters of a recorder.
#[derive(Debug)]
pub(super) struct RejectionCounters {
    totals: [AtomicU64; REASONS],
    /// The minute that rejections currently count in, in microseconds.
    minute: AtomicI64,
    history: Mutex<History>,
    /// `None` if senders are not kept.
    senders: Option<Mutex<Senders>>,
}

/// The rejections before the current minute.
#[derive(Debug, Default)]
struct History {
    /// The totals at the end of the last minute.
    counted: [u64; REASONS],
    minutes: BTreeMap<i64, [u64; REASONS]>,
    hours: BTreeMap<i64, [u64; REASONS]>,
}

impl RejectionCounters {
    /// Keeps up to this many client IPs and key ids of each hour.
    pub(super) fn new(senders: usize) -> Self {
        Self {
            totals: Default::default(),
            minute: AtomicI64::new(i64::MIN),
            history: Mutex::new(History::default()),
            senders: (senders > 0).then(|| Mutex::new(Senders::new(senders))),
        }
    }

    /// `sender` is called only if senders are kept.
    pub(super) fn count(
        &self,
        reason: RejectionReason,
        now: Now,
        sender: impl FnOnce() -> (Option<IpAddr>, Option<KeyId>),
    ) {
        let minute = floor(now.micros(), MINUTE);
        if self.minute.load(Relaxed) != minute {
            lock(&self.history).turn(self, minute);
        }
        self.totals[reason as usize].fetch_add(1, Relaxed);
        if let Some(senders) = &self.senders {
            let (address, key) = sender();
            lock(senders).add(address, key, reason, now);
        }
    }

    /// The totals by reason; only reasons that occurred.
    pub(super) fn totals(&self) -> Vec<(RejectionReason, u64)> {
        by_reason(&self.load()).collect()
    }

    /// The rejections in buckets that start in a range.
    pub(super) fn within(&self, range: &Range<Timestamp>) -> Rejections {
        let range = range.start.as_microsecond()..range.end.as_microsecond();
        let history = lock(&self.history);
        let current = history.since(&self.load());
        let minute = self.minute.load(Relaxed);
        let mut over_time: Vec<_> = history.buckets().collect();
        drop(history);
        over_time.push((minute, Granularity::Minute, current));
        let over_time = over_time
            .into_iter()
            .filter_map(|(start, granularity, counts)| {
                let by_reason: BTreeMap<_, _> = by_reason(&counts).collect();
                let is_wanted = range.contains(&start) && !by_reason.is_empty();
                let start = Timestamp::from_microsecond(start).ok()?;
                is_wanted.then_some(RejectionBucket {
                    start,
                    granularity,
                    by_reason,
                })
            });
        let senders = self.senders.as_ref();
        let senders = senders.map(|senders| lock(senders).within(&range));
        let (client_ips, keys) = senders.unzip();
        Rejections {
            over_time: over_time.collect(),
            client_ips,
            keys,
        }
    }

    fn load(&self) -> [u64; REASONS] {
        std::array::from_fn(|reason| self.totals[reason].load(Relaxed))
    }
}

impl History {
    /// Ends the current minute. A rejection that is counted at the same time may count in the next one.
    fn turn(&mut self, counters: &RejectionCounters, minute: i64) {
        let last = counters.minute.load(Relaxed);
        counters.minute.store(minute, Relaxed);
        if last == minute || last == i64::MIN {
            return;
        }
        let totals = counters.load();
        let counts = self.since(&totals);
        self.counted = totals;
        add(&mut self.minutes, last, &counts);
        while self.minutes.len() > MINUTES {
            if let Some((minute, counts)) = self.minutes.pop_first() {
                add(&mut self.hours, floor(minute, HOUR), &counts);
            }
        }
        while self.hours.len() > HOURS {
            self.hours.pop_first();
        }
    }

    /// The rejections since the last minute ended.
    fn since(&self, totals: &[u64; REASONS]) -> [u64; REASONS] {
        std::array::from_fn(|reason| totals[reason] - self.counted[reason])
    }

    fn buckets(&self) -> impl Iterator<Item = (i64, Granularity, [u64; REASONS])> {
        let hours = self.hours.iter();
        let hours = hours.map(|(start, counts)| (*start, Granularity::Hour, *counts));
        let minutes = self.minutes.iter();
        hours.chain(minutes.map(|(start, counts)| (*start, Granularity::Minute, *counts)))
    }
}

fn add(buckets: &mut BTreeMap<i64, [u64; REASONS]>, start: i64, counts: &[u64; REASONS]) {
    if counts.iter().any(|count| *count > 0) {
        let sums = buckets.entry(start).or_default();
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum += count;
        }
    }
}

fn by_reason(counts: &[u64; REASONS]) -> impl Iterator<Item = (RejectionReason, u64)> {
    let counts = RejectionReason::ALL.into_iter().zip(*counts);
    counts.filter(|(_, count)| *count > 0)
}

/// The senders of the last hours with rejections.
#[derive(Debug)]
struct Senders {
    most: usize,
    hours: VecDeque<SendersOfHour>,
}

#[derive(Debug)]
struct SendersOfHour {
    hour: i64,
    addresses: Top<IpAddr>,
    keys: Top<KeyId>,
}

impl Senders {
    fn new(most: usize) -> Self {
        let hours = VecDeque::new();
        Self { most, hours }
    }

    fn add(
        &mut self,
        address: Option<IpAddr>,
        key: Option<KeyId>,
        reason: RejectionReason,
        now: Now,
    ) {
        let (hour, most) = (floor(now.micros(), HOUR), self.most);
        if self.hours.back().is_none_or(|last| last.hour != hour) {
            if self.hours.len() == HOURS_OF_SENDERS {
                self.hours.pop_front();
            }
            self.hours.push_back(SendersOfHour {
                hour,
                addresses: Top::new(),
                keys: Top::new(),
            });
        }
        if let Some(last) = self.hours.back_mut() {
            if let Some(address) = address {
                last.addresses.add(network(address), reason, now, most);
            }
            if let Some(key) = key {
                last.keys.add(key, reason, now, most);
            }
        }
    }

    fn within(
        &self,
        range: &Range<i64>,
    ) -> (Vec<RejectedSender<IpAddr>>, Vec<RejectedSender<KeyId>>) {
        let hours = self.hours.iter();
        let hours = hours.filter(|it| it.hour < range.end && it.hour + HOUR > range.start);
        (
            merged(hours.clone().map(|it| &it.addresses), self.most),
            merged(hours.map(|it| &it.keys), self.most),
        )
    }
}

/// The most frequent senders, by the algorithm Space-Saving (Metwally et al., ICDT 2005): a new sender replaces the least
/// frequent one, and takes over its count as a possible error.
#[derive(Debug)]
struct Top<T>(Vec<Entry<T>>);

#[derive(Debug)]
struct Entry<T> {
    sender: T,
    count: u64,
    error: u64,
    reason: RejectionReason,
    at: Now,
}

impl<T: PartialEq> Top<T> {
    const fn new() -> Self {
        Self(Vec::new())
    }

    fn add(&mut self, sender: T, reason: RejectionReason, at: Now, most: usize) {
        if let Some(entry) = self.0.iter_mut().find(|entry| entry.sender == sender) {
            entry.count += 1;
            (entry.reason, entry.at) = (reason, at);
            return;
        }
        let replaced = match self.0.len() < most {
            true => None,
            false => self.0.iter_mut().min_by_key(|entry| entry.count),
        };
        let error = replaced.as_ref().map_or(0, |entry| entry.count);
        let entry = Entry {
            sender,
            count: error + 1,
            error,
            reason,
            at,
        };
        match replaced {
            Some(replaced) => *replaced = entry,
            None => self.0.push(entry),
        }
    }
}

/// The most frequent senders of several hours, oldest first.
fn merged<'a, T: Copy + Eq + Hash + Ord + 'a>(
    hours: impl Iterator<Item = &'a Top<T>>,
    most: usize,
) -> Vec<RejectedSender<T>> {
    let mut senders: HashMap<T, RejectedSender<T>> = HashMap::new();
    for entry in hours.flat_map(|top| &top.0) {
        let sender = senders.entry(entry.sender).or_insert(RejectedSender {
            sender: entry.sender,
            count: 0,
            last_reason: entry.reason,
            last_at: entry.at.timestamp(),
        });
        sender.count += entry.count - entry.error;
        (sender.last_reason, sender.last_at) = (entry.reason, entry.at.timestamp());
    }
    let mut senders: Vec<_> = senders.into_values().collect();
    senders.sort_by(|a, b| (b.count, a.sender).cmp(&(a.count, b.sender)));
    senders.truncate(most);
    senders
}

/// A client chooses its own addresses within an IPv6 /64 network (RFC 4862).
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

fn floor(time: i64, width: i64) -> i64 {
    time.div_euclid(width) * width
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;

    const ALL: Range<Timestamp> = Timestamp::MIN..Timestamp::MAX;

    fn start() -> Timestamp {
        "2026-11-01T10:00:00Z".parse().unwrap()
    }

    fn totals(rejections: &Rejections) -> BTreeMap<RejectionReason, u64> {
        let mut totals = BTreeMap::new();
        for (reason, count) in rejections.over_time.iter().flat_map(|it| &it.by_reason) {
            *totals.entry(*reason).or_default() += count;
        }
        totals
    }

    fn address(n: u32) -> Option<IpAddr> {
        Some(IpAddr::V4(n.into()))
    }

    #[test]
    fn rejections_count_in_their_minute() {
        let (counters, clock) = (RejectionCounters::new(0), Clock::manual(start()));
        let count = |reason| {
            counters.count(reason, clock.now(), || panic!("senders are not kept"));
        };
        assert_eq!(counters.within(&ALL), Rejections::default());
        count(RejectionReason::Missing);
        count(RejectionReason::Missing);
        clock.advance(Duration::from_secs(150));
        count(RejectionReason::Unknown);
        let found = counters.within(&ALL);
        let minutes: Vec<_> = found.over_time.iter().map(|it| it.start).collect();
        assert_eq!(minutes, [start(), start() + Duration::from_secs(120)]);
        let expected = [(RejectionReason::Missing, 2), (RejectionReason::Unknown, 1)];
        assert_eq!(totals(&found), expected.into());
        assert_eq!(counters.totals(), expected);
        assert_eq!((&found.client_ips, &found.keys), (&None, &None));
        let later = counters.within(&(start() + Duration::from_secs(1)..Timestamp::MAX));
        assert_eq!(later.over_time, found.over_time[1..]);
        let earlier = counters.within(&(start()..start() + Duration::from_secs(1)));
        assert_eq!(earlier.over_time, found.over_time[..1]);
    }

    #[test]
    fn old_minutes_become_hours_and_nothing_is_counted_twice() {
        let (counters, clock) = (RejectionCounters::new(0), Clock::manual(start()));
        let many = 5_000;
        for _ in 0..many {
            counters.count(RejectionReason::Malformed, clock.now(), || (None, None));
            clock.advance(Duration::from_secs(60));
        }
        let found = counters.within(&ALL);
        assert_eq!(totals(&found), [(RejectionReason::Malformed, many)].into());
        let is_hour = |it: &&RejectionBucket| it.granularity == Granularity::Hour;
        assert_eq!(found.over_time.iter().filter(is_hour).count(), 60);
        assert!(found.over_time.len() <= 60 + MINUTES + 1);
        assert!(found.over_time.is_sorted_by_key(|it| it.start));
    }

    #[test]
    fn memory_is_bounded_whatever_the_times_and_senders() {
        let counters = RejectionCounters::new(8);
        for n in 0..30_000_u32 {
            let clock = Clock::manual(start() + Duration::from_secs(u64::from(n) * 3_600));
            let sender = || (address(n), Some(KeyId::from_number(n.into())));
            counters.count(RejectionReason::Unknown, clock.now(), sender);
        }
        let history = lock(&counters.history);
        assert!(history.minutes.len() <= MINUTES && history.hours.len() <= HOURS);
        let senders = lock(counters.senders.as_ref().unwrap());
        assert_eq!(senders.hours.len(), HOURS_OF_SENDERS);
    }

    #[test]
    fn frequent_senders_are_found_among_many_others() {
        let (counters, clock) = (RejectionCounters::new(10), Clock::manual(start()));
        let key = KeyId::from_number(7);
        for n in 0..10_000_u32 {
            let sender = match n % 4 {
                0 => (address(1), Some(key)),
                _ => (address(n + 2), Some(KeyId::from_number((n + 8).into()))),
            };
            counters.count(RejectionReason::WrongSecret, clock.now(), || sender);
        }
        let found = counters.within(&ALL);
        let (addresses, keys) = (found.client_ips.unwrap(), found.keys.unwrap());
        assert_eq!((addresses.len(), keys.len()), (10, 10));
        assert_eq!(Some(addresses[0].sender), address(1));
        assert_eq!(keys[0].sender, key);
        // Senders that replaced others are not blamed for their requests.
        assert_eq!((addresses[0].count, keys[0].count), (2_500, 2_500));
        assert!(addresses[1].count < 10, "{addresses:?}");
    }

    #[test]
    fn senders_are_those_of_the_range_and_ipv6_networks_count_as_one() {
        let (counters, clock) = (RejectionCounters::new(10), Clock::manual(start()));
        let count = |text: &str| {
            let address = Some(text.parse().unwrap());
            counters.count(RejectionReason::Missing, clock.now(), || (address, None));
        };
        count("2001:db8::1");
        count("2001:db8::2:3");
        clock.advance(Duration::from_secs(3_600));
        count("192.0.2.1");
        let senders = |range: Range<Timestamp>| {
            let senders = counters.within(&range).client_ips.unwrap().into_iter();
            let senders = senders.map(|it| (it.sender.to_string(), it.count));
            senders.collect::<Vec<_>>()
        };
        let (v6, v4) = (("2001:db8::".into(), 2), ("192.0.2.1".into(), 1));
        assert_eq!(senders(ALL), [v6.clone(), v4.clone()]);
        let hour = start() + Duration::from_secs(3_600);
        assert_eq!(senders(start()..hour), [v6]);
        assert_eq!(senders(hour..Timestamp::MAX), [v4]);
    }
}
