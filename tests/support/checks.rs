//! Tests that every database backend runs.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of it"
)]

use std::collections::BTreeSet;
use std::error::Error;

use jiff::{SignedDuration, Timestamp};
use keytally::key::{
    Actor, AuditAction, AuditLog, AuditQuery, EncryptedSecret, Issuer, KeyAdmin, KeyQuery,
    KeyStatus, NewKey, StoreError,
};
use keytally::usage::{
    Batch, Cause, Count, LogCursor, LogFilter, LogQuery, Method, Outcome, ReadError, RecordedQuery,
    RejectionReason, Status, SummaryQuery, SummarySpec, UsageEvent, UsageRange, UsageReader,
    UsageSink,
};
use keytally::{KeyId, PageToken};

/// Creates a recoverable key with this encrypted secret.
pub async fn recoverable<B: KeyAdmin>(backend: &B, encrypted_secret: &[u8]) -> KeyId {
    let (_, mut record) = Issuer::new("test")
        .unwrap()
        .prepare(NewKey::new("Recoverable"))
        .unwrap();
    record.key.recoverable = true;
    record.encrypted_secret = Some(EncryptedSecret::from_bytes(encrypted_secret));
    let id = record.key.id;
    backend.create(record, Actor::SYSTEM).await.unwrap();
    id
}

/// The number of audit entries for reveals of a key's secret.
pub async fn readings<B: AuditLog>(backend: &B, id: KeyId) -> usize {
    let query = AuditQuery::new().key(id).action(AuditAction::Revealed);
    backend.audit_entries(&query).await.unwrap().items.len()
}

/// Everything a backend implements, as one object-safe trait.
pub trait Backend: KeyAdmin + AuditLog + UsageSink + UsageReader {}

impl<T: KeyAdmin + AuditLog + UsageSink + UsageReader> Backend for T {}

/// 2026-11-01T12:00:00Z.
pub const NOON: i64 = 1_793_534_400;

/// The `n`th of a deterministic series of events of these keys; only ids are random.
pub fn event(keys: &[KeyId], n: usize) -> UsageEvent {
    let second = i64::try_from(n * 7_919 % 7_200).unwrap();
    let mut event = UsageEvent::new(Timestamp::from_second(NOON + second).unwrap());
    event.key = Some(keys[n % keys.len()]);
    event.owner = Some("customer-17".into());
    event.endpoint = format!("/v1/{}", n / 7 % 5).into();
    event.method = Method::ALL[n / 3 % 2];
    event.status = Status::Http([200, 201, 404, 500][n / 2 % 4]);
    (event.outcome, event.cause) = Outcome::of(event.status);
    event.latency_us = (n * 31 % 1_000_000) as u64;
    event.response_bytes = (n % 1_000) as u64;
    event
}

/// Issues keys owned by `customer-17`.
pub async fn keys<B: Backend>(backend: &B, count: usize) -> Vec<KeyId> {
    let issuer = Issuer::new("test").unwrap();
    let mut keys = Vec::new();
    for n in 0..count {
        let new = NewKey::new(format!("Key {n}")).owner("customer-17");
        keys.push(
            issuer
                .issue(backend, new, Actor::SYSTEM)
                .await
                .unwrap()
                .key
                .id,
        );
    }
    keys
}

/// Batches that two backends write at the same time count once.
pub async fn a_batch_from_two_at_once_counts_once<B: Backend + Clone>(one: &B, two: &B) {
    let keys = keys(one, 2).await;
    let rounds = 40;
    for round in 0..rounds {
        let events = (0..30).map(|n| event(&keys, round * 30 + n)).collect();
        let batch = Batch::new(events);
        let writes = [one, two].map(|backend| {
            let (backend, batch) = (backend.clone(), batch.clone());
            tokio::spawn(async move { backend.write(&batch).await })
        });
        for write in writes {
            write.await.unwrap().unwrap();
        }
    }
    let total = rounds as u64 * 30;
    let summary = one.summary(&SummaryQuery::default()).await.unwrap();
    assert_eq!(summary.totals.total(), total);
    let count = one.count(&LogFilter::new()).await.unwrap();
    assert_eq!(count, Count::Exactly(total));
}

/// Concurrent writers of the same series and keys, in different orders, all succeed, and the totals are
/// those of the events.
pub async fn many_writers_add_up<B: Backend + Clone>(writers: Vec<B>) {
    let keys = keys(&writers[0], 6).await;
    let (batches, size) = (50, 40);
    let mut all = Vec::new();
    let mut runs = Vec::new();
    for (w, writer) in writers.iter().enumerate() {
        let mut own_batches = Vec::new();
        for b in 0..batches {
            let mut events: Vec<_> = (0..size)
                .map(|n| {
                    let mut event = event(&keys, (w * batches + b) * size + n);
                    if n % 5 < 2 {
                        event.rejection_reason = Some(RejectionReason::Revoked);
                        let rejected = Outcome::Failed;
                        (event.outcome, event.cause) = (rejected, Some(Cause::Rejected));
                    }
                    event
                })
                .collect();
            if w % 2 == 1 {
                events.reverse();
            }
            all.extend(events.iter().cloned());
            own_batches.push(Batch::new(events));
        }
        let writer = writer.clone();
        runs.push(tokio::spawn(async move {
            for batch in &own_batches {
                writer.write(batch).await.unwrap();
            }
        }));
    }
    for run in runs {
        run.await.unwrap();
    }
    let spec = SummarySpec::new().by_key().latency();
    let query = SummaryQuery::new(UsageRange::new(), spec.clone());
    let reader = &writers[0];
    let summary = reader.summary(&query).await.unwrap();
    assert_eq!(summary, spec.summarize(&all));
    let rollups = reader.rollups(&UsageRange::new()).await.unwrap();
    assert_eq!(spec.summarize(&rollups), summary);
    for &key in &keys {
        let of_key = all.iter().filter(|event| event.key == Some(key));
        let stored = reader.get(key).await.unwrap().unwrap();
        let rejected = |event: &&UsageEvent| event.rejection_reason.is_some();
        let accepted = of_key.clone().filter(|event| !rejected(event));
        let last = accepted.map(|event| event.time).max();
        assert_eq!(stored.last_accepted_at, last);
        let since = of_key.clone().filter(rejected);
        let since = since.filter(|event| Some(event.time) > last).count();
        assert_eq!(stored.rejected_since, since as u64);
        let count = reader.count(&LogFilter::new().key(key)).await.unwrap();
        assert_eq!(count, Count::Exactly(of_key.count() as u64));
    }
}

/// After the database was restored, its numbers may stand for other callers and kinds than those that a process has
/// cached.
pub async fn restored_database_does_not_reuse_cached_numbers<B: Backend>(
    backend: &B,
    execute: impl AsyncFn(&str),
    number: impl AsyncFn(&str) -> i64,
) {
    let write = async |path: &str| {
        let mut event = UsageEvent::new(Timestamp::now());
        event.key = Some("Restored00000000".parse().unwrap());
        event.endpoint = "/v1/restored".into();
        event.path = path.into();
        backend.write(&Batch::new(vec![event])).await.unwrap();
    };
    write("/before").await;
    for (table, change) in [
        ("callers", "key_id = 'OtherKey00000000'"),
        ("kinds", "endpoint = '/other'"),
    ] {
        let other = format!(
            "UPDATE keytally_{table} SET {change}, hash = substr(hash, 2), token = token / 2"
        );
        execute(&other).await;
        write(&format!("/after/{table}")).await;
        let right = format!(
            "SELECT count(*) FROM keytally_request_log WHERE path = '/after/{table}'
            AND key_id = 'Restored00000000' AND endpoint = '/v1/restored'"
        );
        assert_eq!(number(&right).await, 1, "{table}");
        let rows = format!("SELECT count(*) FROM keytally_{table}");
        assert_eq!(number(&rows).await, 2, "{table}");
    }
}

/// A poller reads every event exactly once while several writers record events in any order of time.
pub async fn a_poller_reads_every_event_once<B: Backend + Clone>(writers: Vec<B>) {
    let reader = writers[0].clone();
    let keys = keys(&reader, 3).await;
    let mut all = BTreeSet::new();
    let mut runs = Vec::new();
    for (w, writer) in writers.into_iter().enumerate() {
        let batches = (0..60).map(|b| {
            let events = (0..1 + b % 7).map(|n| {
                let n = w * 1_000 + b * 10 + n;
                let mut event = event(&keys, n);
                // Spread over some days, in no particular order.
                event.time -= SignedDuration::from_secs((n as i64 * 7_919) % 200_000);
                event
            });
            Batch::new(events.collect())
        });
        let batches: Vec<_> = batches.collect();
        all.extend(
            batches
                .iter()
                .flat_map(|it| it.events().iter().map(|event| event.id)),
        );
        runs.push(tokio::spawn(async move {
            for batch in &batches {
                writer.write(batch).await.unwrap();
            }
        }));
    }
    let mut seen = Vec::new();
    let mut cursor = LogCursor::START;
    loop {
        let is_last = runs.iter().all(|run| run.is_finished());
        let query = RecordedQuery::after(cursor).limit(25);
        let page = reader.recorded(&query).await.unwrap();
        cursor = page.cursor;
        seen.extend(page.items.into_iter().map(|item| item.event.id));
        if is_last && !page.more {
            break;
        }
    }
    for run in runs {
        run.await.unwrap();
    }
    assert_eq!(seen.len(), all.len());
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), all);
}

/// All events recorded after a cursor, and the cursor after the last of them.
pub async fn recorded_after<B: UsageReader>(
    backend: &B,
    mut cursor: LogCursor,
) -> (Vec<UsageEvent>, LogCursor) {
    let mut events = Vec::new();
    loop {
        let page = backend.recorded(&RecordedQuery::after(cursor)).await;
        let page = page.unwrap();
        cursor = page.cursor;
        events.extend(page.items.into_iter().map(|item| item.event));
        if !page.more {
            return (events, cursor);
        }
    }
}

/// An event from a clock that is ahead sets `last_accepted_at` to the current time at most, so that later uses are
/// recorded too. The backends are those of separate processes.
pub async fn a_clock_that_is_ahead_is_not_followed<B: Backend>(backends: [B; 3]) {
    let key = keys(&backends[0], 1).await[0];
    let mut last = Timestamp::MIN;
    for (backend, ahead) in backends.iter().zip([3_600, 0, 7_200]) {
        let time = Timestamp::now() + jiff::SignedDuration::from_secs(ahead);
        let mut event = UsageEvent::new(time);
        event.key = Some(key);
        backend.write(&Batch::new(vec![event])).await.unwrap();
        let used = backend
            .get(key)
            .await
            .unwrap()
            .unwrap()
            .last_accepted_at
            .unwrap();
        assert!(last < used && used <= Timestamp::now(), "{used}");
        last = used;
    }
}

/// Random text, which databases cannot compress.
fn random(length: usize) -> String {
    std::iter::repeat_with(fastrand::alphanumeric)
        .take(length)
        .collect()
}

/// In an empty database, edge-case values are stored unchanged, and as filters they match nothing.
pub async fn odd_values_are_kept_or_find_nothing<B: Backend>(backend: &B) {
    let long = random(10_000);
    let mut event = UsageEvent::new(Timestamp::MIN);
    event.path = format!("/\0/é/%FF/{long}").into();
    event.endpoint = long.as_str().into();
    event.owner = Some("".into());
    event.resource_id = Some("'; DROP TABLE keytally_keys; --".into());
    event.request_id = Some("\0".into());
    (event.latency_us, event.request_bytes, event.response_bytes) = (u64::MAX, u64::MAX, u64::MAX);
    (event.status, event.cost) = (Status::Http(u16::MAX), u32::MAX);
    let mut before_1970 = UsageEvent::new("1969-12-31T23:59:59.999999Z".parse().unwrap());
    before_1970.owner = Some(long.as_str().into());
    before_1970.resource_id = Some(long.as_str().into());
    before_1970.request_id = Some(long.as_str().into());
    before_1970.status = Status::Grpc(u8::MAX);
    let mut last = event.clone();
    last.id = UsageEvent::new(Timestamp::MAX).id;
    last.time = UsageEvent::new(Timestamp::MAX).time;
    let batch = Batch::new(vec![last, before_1970, event]);
    backend.write(&batch).await.unwrap();
    let events = batch.events();
    let page = backend.requests(&LogQuery::default()).await.unwrap();
    assert_eq!(page.items, *events);
    assert!(events[2].path.starts_with("/\u{fffd}/é/%FF"));
    let max = i64::MAX.cast_unsigned();
    assert_eq!(events[2].latency_us, max);
    for (filter, count) in [
        (LogFilter::new().request_id("\u{fffd}"), 2),
        (LogFilter::new().request_id(long.clone()), 1),
        (LogFilter::new().resource_id(long.clone()), 1),
        (LogFilter::new().endpoint(long.clone()), 2),
        (LogFilter::new().owner(long.clone()), 1),
        (LogFilter::new().owner(""), 2),
        (LogFilter::new().status(Status::Http(u16::MAX)), 2),
        (LogFilter::new().status(Status::Grpc(u8::MAX)), 1),
        (LogFilter::new().to(Timestamp::UNIX_EPOCH), 2),
        (LogFilter::new().from(Timestamp::MAX), 0),
        (LogFilter::new().from(Timestamp::MIN).to(Timestamp::MIN), 0),
        (LogFilter::new().from(Timestamp::MAX).to(Timestamp::MIN), 0),
    ] {
        let actual = backend.count(&filter).await.unwrap();
        assert_eq!(actual, Count::Exactly(count), "{filter:?}");
        let page = backend.requests(&LogQuery::new(filter)).await.unwrap();
        assert_eq!(page.items.len() as u64, count);
    }
    let by_day =
        SummarySpec::new().over_time(keytally::usage::Granularity::Day, jiff::tz::TimeZone::UTC);
    let spec = by_day.by_key().latency();
    for (range, of) in [
        (UsageRange::new(), events),
        (UsageRange::new().to(Timestamp::UNIX_EPOCH), &events[1..]),
        (UsageRange::new().from(Timestamp::UNIX_EPOCH), &events[..1]),
        (
            UsageRange::new().from(Timestamp::MAX).to(Timestamp::MIN),
            &[],
        ),
    ] {
        let query = SummaryQuery::new(range.clone(), spec.clone());
        let summary = backend.summary(&query).await.unwrap();
        assert_eq!(summary, spec.summarize(of), "{range:?}");
        let rollups = backend.rollups(&range).await.unwrap();
        assert_eq!(spec.summarize(&rollups), summary, "{range:?}");
    }
    // Write them again, so that totals saturate.
    let again = events.iter().cloned().map(|mut event| {
        event.id = UsageEvent::new(event.time).id;
        event
    });
    backend.write(&Batch::new(again.collect())).await.unwrap();
    let summary = backend.summary(&SummaryQuery::default()).await.unwrap();
    assert_eq!(summary.totals.request_bytes(), max);
    assert_eq!(summary.totals.total(), 6);
    let by_id = LogFilter::new().request_id(events[0].id.to_string().to_uppercase());
    assert_eq!(backend.count(&by_id).await.unwrap(), Count::Exactly(1));

    let longer = "'\"\0%_\\".repeat(2_000);
    for text in [&longer, "\0", "$1", "%", "' OR 1=1 --"] {
        for filter in [
            LogFilter::new().owner(text),
            LogFilter::new().endpoint(text),
            LogFilter::new().resource_id(text),
            LogFilter::new().request_id(text),
        ] {
            assert_eq!(backend.count(&filter).await.unwrap(), Count::Exactly(0));
            let page = backend.requests(&LogQuery::new(filter)).await.unwrap();
            assert!(page.items.is_empty());
        }
        for query in [
            KeyQuery::new().name(text),
            KeyQuery::new().search(text),
            KeyQuery::new().owner(text),
        ] {
            assert!(backend.list(&query).await.unwrap().items.is_empty());
        }
        let entries = backend
            .audit_entries(&AuditQuery::new().actor(text))
            .await
            .unwrap();
        assert!(entries.items.is_empty());
        let query = SummaryQuery::new(UsageRange::new().owner(text), spec.clone());
        assert_eq!(backend.summary(&query).await.unwrap(), spec.empty());
    }
    for at in [Timestamp::MIN, Timestamp::MAX] {
        for status in [
            KeyStatus::Active,
            KeyStatus::Disabled,
            KeyStatus::Revoked,
            KeyStatus::Expired,
        ] {
            let keys = backend.list(&KeyQuery::new().status(status, at)).await;
            assert!(keys.unwrap().items.is_empty());
        }
    }
    assert_foreign_page_tokens_are_errors(backend).await;
}

async fn assert_foreign_page_tokens_are_errors<B: Backend>(backend: &B) {
    let tokens = [
        "5.not-an-id",
        "5.",
        "-62135596800000000.'; --",
        "5.3fK9aB0000zzZZ19",
        "5.018f0000-0000-7000-8000-000000000000",
    ];
    for (n, token) in tokens.into_iter().enumerate() {
        let token: PageToken = token.parse().unwrap();
        if n != 4 {
            let log = LogQuery::default().after(token.clone());
            let log = backend.requests(&log).await;
            assert!(matches!(log, Err(ReadError::Page(_))));
            let audit = AuditQuery::new().after(token.clone());
            let audit = backend.audit_entries(&audit).await;
            assert!(matches!(audit, Err(StoreError::Page(_))));
            // The same for a filter that cannot match anything.
            let nothing = LogQuery::new(LogFilter::new().owner("\0")).after(token.clone());
            let log = backend.requests(&nothing).await;
            assert!(matches!(log, Err(ReadError::Page(_))));
        }
        if n != 3 {
            let keys = backend.list(&KeyQuery::new().after(token)).await;
            assert!(matches!(keys, Err(StoreError::Page(_))));
        }
    }
}

/// Without tables or a connection, every operation fails, and no error mentions tables or statements.
pub async fn errors_say_nothing_of_the_database<B: Backend>(bare: &B) {
    let id: KeyId = "3fK9aB0000zzZZ19".parse().unwrap();
    let issuer = Issuer::new("test").unwrap();
    let (_, record) = issuer.prepare(NewKey::new("Never")).unwrap();
    let store = [
        bare.find(id).await.unwrap_err(),
        bare.list(&KeyQuery::new()).await.unwrap_err(),
        bare.audit_entries(&AuditQuery::new()).await.unwrap_err(),
        bare.create(record, Actor::SYSTEM).await.unwrap_err(),
        bare.revoke(id, Actor::SYSTEM).await.unwrap_err(),
        bare.delete(id, Actor::SYSTEM).await.unwrap_err(),
    ];
    let read = [
        bare.summary(&SummaryQuery::default()).await.unwrap_err(),
        bare.rollups(&UsageRange::new()).await.unwrap_err(),
        bare.requests(&LogQuery::default()).await.unwrap_err(),
        bare.count(&LogFilter::new()).await.unwrap_err(),
    ];
    let batch = Batch::new(vec![UsageEvent::new(Timestamp::now())]);
    let write = bare.write(&batch).await.unwrap_err();
    let mut errors: Vec<&dyn Error> = vec![&write];
    for error in &store {
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        errors.push(error);
    }
    for error in &read {
        assert!(matches!(error, ReadError::Unavailable(_)), "{error:?}");
        errors.push(error);
    }
    for error in errors {
        let text = error.to_string().to_lowercase();
        for word in ["keytally_", "select", "insert", "relation", "table", "sql"] {
            assert!(!text.contains(word), "{text}");
        }
        assert!(error.source().is_some());
    }
}

/// An error and its sources in every format.
pub fn all_texts(error: &dyn Error) -> String {
    let mut texts = format!("{error} {error:?} {error:#?}");
    let mut source = error.source();
    while let Some(error) = source {
        texts.push_str(&format!(" {error} {error:?}"));
        source = error.source();
    }
    texts
}
