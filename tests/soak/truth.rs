//! Compares every request that clients remember with what was recorded.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use keytally::KeyId;
use keytally::PageRequest;
use keytally::key::KeyAdmin;
use keytally::usage::{
    Cause, Granularity, LogQuery, Method, Outcome, RejectionReason, Status, SummaryQuery,
    SummarySpec, UsageEvent, UsageRange, UsageReader,
};

use crate::clients::{Client, Crowd, End, METHODS, Sent};
use crate::keys::{Keys, Kind, LIMIT};
use crate::status::FinalReport;

/// The requests that clients remember, and whether each was found in the request log.
pub(crate) struct Memory {
    /// By client number, in the order in which the requests were sent.
    sent: Vec<Vec<(Sent, bool)>>,
}

/// The number of requests by key, method and status.
type Tally = BTreeMap<(KeyId, Method, Status), u64>;

impl Memory {
    pub(crate) fn of<B>(mut clients: Vec<Client<B>>) -> Self {
        clients.sort_by_key(|client| client.number);
        let sent = clients.into_iter().enumerate().map(|(number, client)| {
            assert_eq!(number, client.number);
            client.sent.into_iter().map(|sent| (sent, false)).collect()
        });
        Self {
            sent: sent.collect(),
        }
    }

    fn all(&self) -> impl Iterator<Item = &(Sent, bool)> {
        self.sent.iter().flatten()
    }

    fn count(&self, which: impl Fn(&Sent, bool) -> bool) -> u64 {
        self.all()
            .filter(|(sent, found)| which(sent, *found))
            .count() as u64
    }

    /// Finds the request that an event records, and compares the two.
    fn find<B: KeyAdmin>(&mut self, event: &UsageEvent, keys: &Keys<B>) {
        let id = event
            .request_id
            .as_deref()
            .expect("every request has an id");
        let (client, index) = id.split_once('-').unwrap();
        let (client, index): (usize, usize) = (client.parse().unwrap(), index.parse().unwrap());
        let (sent, found) = &mut self.sent[client][index];
        assert!(!std::mem::replace(found, true), "{id} is in the log twice");
        assert_eq!(event.key, Some(keys.get(sent.key).id), "{id}");
        assert_eq!(
            event.method.as_str(),
            METHODS[usize::from(sent.method)],
            "{id}"
        );
        match sent.end {
            End::Event(status, rejection_reason) => {
                assert_eq!(
                    (event.status, event.rejection_reason),
                    (Status::Http(status), rejection_reason),
                    "{id}"
                );
                let (outcome, _) = match rejection_reason {
                    Some(RejectionReason::RateLimited) => (Outcome::RateLimited, None),
                    Some(_) => (Outcome::Failed, Some(Cause::Rejected)),
                    None => Outcome::of(event.status),
                };
                assert_eq!(event.outcome, outcome, "{id}");
            }
            End::Cut => {
                let cancelled = (Status::Http(200), Some(Cause::Cancelled));
                assert_eq!((event.status, event.cause), cancelled, "{id}");
            }
            End::Unknown => {}
            End::Counted(reason) => panic!("{id} was rejected without a known key: {reason}"),
        }
    }
}

/// The totals of a run.
pub(crate) struct Found {
    pub(crate) events: u64,
    pub(crate) cut: u64,
    /// Requests without a known outcome: those that arrived, and all.
    pub(crate) hung_up: (u64, u64),
    pub(crate) counted: BTreeMap<RejectionReason, u64>,
    pub(crate) first: Timestamp,
    pub(crate) last: Timestamp,
    pub(crate) limited: u64,
}

impl Found {
    pub(crate) fn line(&self) -> String {
        let (arrived, hung_up) = self.hung_up;
        format!(
            "{} events, {} abandoned; {arrived} of {hung_up} requests without a response arrived; only \
            counted: {:?}; times from {:.0} to {:.0}",
            self.events, self.cut, self.counted, self.first, self.last
        )
    }
}

/// Reads the request log, rollups and summaries, and compares them with the requests of the clients.
pub(crate) async fn compare<B: KeyAdmin + UsageReader>(
    backend: &B,
    memory: &mut Memory,
    crowd: &Crowd<B>,
    final_report: &FinalReport,
) -> Found {
    let (first, last, log) = read_log(backend, memory, &crowd.keys).await;
    let events: u64 = log.values().sum();

    // Every request with a response is in the log, except rejections beyond the limit on events of rejected keys;
    // every logged request was sent.
    let is_recorded = |end: End| matches!(end, End::Event(..) | End::Cut);
    let is_rejected = |reason| {
        matches!(
            reason,
            RejectionReason::Revoked | RejectionReason::Disabled | RejectionReason::Expired
        )
    };
    let mut counted = BTreeMap::new();
    for (sent, found) in memory.all() {
        match sent.end {
            End::Counted(reason) => *counted.entry(reason).or_default() += 1,
            End::Event(_, Some(reason)) if is_rejected(reason) && !found => {
                *counted.entry(reason).or_default() += 1;
            }
            end => assert!(*found || !is_recorded(end), "{end:?} is not in the log"),
        }
    }
    let unknown = memory.count(|sent, _| sent.end == End::Unknown);
    let arrived = memory.count(|sent, found| sent.end == End::Unknown && found);
    let answered = memory.count(|sent, found| is_recorded(sent.end) && found);
    assert_eq!(answered + arrived, events);

    // The recorder's counters agree.
    let (stats, report) = (&final_report.stats, &final_report.report);
    assert_eq!(
        (report.written, report.lost, report.spooled),
        (events, 0, 0)
    );
    assert_eq!((stats.accepted, stats.written), (events, events));
    assert_eq!(
        (stats.lost, stats.queued, stats.spooled, stats.in_flight),
        (0, 0, 0, 0)
    );
    assert_eq!(
        (stats.recovered, stats.unrecovered, stats.unverified),
        (0, 0, 0)
    );
    let malformed = crowd.malformed.load(std::sync::atomic::Ordering::Relaxed);
    counted.insert(RejectionReason::Malformed, malformed);
    for reason in RejectionReason::ALL {
        let (counted_there, counted_here) = (
            stats.rejected_for(reason),
            counted.get(&reason).copied().unwrap_or(0),
        );
        // Clients that disconnected did not see their rejections.
        let unseen = if reason == RejectionReason::StoreUnavailable || is_rejected(reason) {
            unknown - arrived
        } else {
            0
        };
        assert!(
            (counted_here..=counted_here + unseen).contains(&counted_there),
            "{reason}: {counted_here} seen by clients, {counted_there} counted"
        );
    }

    compare_rollups(backend, &log).await;
    let limited = memory.count(|sent, _| {
        let passed = matches!(sent.end, End::Event(_, None));
        passed && crowd.keys.get(sent.key).kind == Kind::Limited
    });
    Found {
        events,
        cut: memory.count(|sent, _| sent.end == End::Cut),
        hung_up: (arrived, unknown),
        counted,
        first,
        last,
        limited,
    }
}

/// The first and the last time in the request log, and its tally.
async fn read_log<B: KeyAdmin + UsageReader>(
    backend: &B,
    memory: &mut Memory,
    keys: &Keys<B>,
) -> (Timestamp, Timestamp, Tally) {
    let (mut first, mut last) = (Timestamp::MAX, Timestamp::MIN);
    let (mut log, mut after) = (Tally::new(), None);
    loop {
        let mut query = LogQuery::default().limit(PageRequest::MAX_LIMIT);
        query.page.after = after;
        let page = backend.requests(&query).await.unwrap();
        for event in &page.items {
            memory.find(event, keys);
            (first, last) = (first.min(event.time), last.max(event.time));
            let group = (event.key.unwrap(), event.method, event.status);
            *log.entry(group).or_default() += 1;
        }
        after = page.next;
        if after.is_none() {
            return (first, last, log);
        }
    }
}

/// Compares rollups and summaries with the tally of the request log.
async fn compare_rollups<B: UsageReader>(backend: &B, log: &Tally) {
    let mut minutes = Tally::new();
    // Aligned to whole minutes, since a rollup counts in the range in which it starts.
    let start = Granularity::Hour.floor(Timestamp::now()) - SignedDuration::from_hours(3);
    for quarter in 0..32 {
        // In steps of 15 minutes, since there are many.
        let from = start + SignedDuration::from_mins(15) * quarter;
        let range = UsageRange::new()
            .from(from)
            .to(from + SignedDuration::from_mins(15));
        for rollup in backend.rollups(&range).await.unwrap() {
            let group = (rollup.key.unwrap(), rollup.method, rollup.status);
            *minutes.entry(group).or_default() += rollup.count;
        }
    }
    assert_eq!(&minutes, log, "rollups differ from the request log");

    let query = SummaryQuery::new(UsageRange::new(), SummarySpec::new().by_key());
    let summary = backend.summary(&query).await.unwrap();
    assert_eq!(summary.totals.total(), log.values().sum::<u64>());
    let (mut keys, mut methods, mut statuses) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (&(key, method, status), &count) in log {
        *keys.entry(Some(key)).or_insert(0) += count;
        *methods.entry(method).or_insert(0) += count;
        *statuses.entry(status).or_insert(0) += count;
    }
    let by_key = summary.by_key.unwrap();
    assert!(
        by_key
            .iter()
            .map(|(key, totals)| (*key, totals.total()))
            .eq(keys)
    );
    let by_method = summary.by_method.iter();
    assert!(
        by_method
            .map(|(method, totals)| (*method, totals.total()))
            .eq(methods)
    );
    let by_status = summary.by_status.iter();
    assert!(
        by_status
            .map(|(status, totals)| (*status, totals.total()))
            .eq(statuses)
    );
}

/// The maximum and the minimum number of requests that the limit admits in this time under excess load.
pub(crate) fn limited_within(seconds: f64) -> (f64, f64) {
    let (rate, burst) = (f64::from(LIMIT.0), f64::from(LIMIT.1));
    (burst + rate * seconds, rate * seconds / 2.0)
}
