//! Usage recording when processes are killed, databases stop and disks fill up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use jiff::Timestamp;
use keytally::ApiKeyLayer;
use keytally::backend::{PostgresBackend, SqliteBackend};
use keytally::key::{Actor, CacheConfig, KeyAdmin, StoreError};
use keytally::usage::{
    Batch, Recorder, SinkError, SummaryQuery, UsageEvent, UsageReader, UsageSink,
};
use uuid::Uuid;

use crate::children;
use crate::full_disk;
use crate::postgres_server as postgres;
use crate::service;
use crate::support;

use children::{Process, some};
use postgres::{Cluster, number};
use service::{Service, issue, logged_once};
use support::until;

fn micros() -> i64 {
    Timestamp::now().as_microsecond()
}

/// The maximum time that an event waits for its batch to be written.
const BATCH_AGE: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread")]
async fn killed_process_loses_at_most_one_batch_age_of_events() {
    const PROCESSES: u32 = 6;
    // An event waits for its batch, plus the time that the write takes.
    const LIMIT: Duration = BATCH_AGE.saturating_add(Duration::from_secs(1));
    // The oldest processes live longer than the limit, so that it can be exceeded.
    const LIFETIME: Duration = Duration::from_secs(2);

    let (backend, url) = postgres::backend().await;
    let own = postgres::pool(&url).await;
    let issued = issue(&backend, "Busy").await;
    let (mut before, mut total) = (BTreeSet::new(), 0);
    for _ in 0..2 {
        let start = |n| {
            // Every other process flushes regularly; the others, among them the oldest, never do.
            let flushes = if n % 2 == 0 { "yes" } else { "no" };
            let variables = [
                ("KEYTALLY_TEST_URL", &*url),
                ("KEYTALLY_TEST_SECRET", issued.secret.expose()),
                ("KEYTALLY_TEST_FLUSHES", flushes),
                (
                    "KEYTALLY_TEST_BATCH_AGE",
                    &*BATCH_AGE.as_millis().to_string(),
                ),
            ];
            Process::start("serve_until_killed", &variables)
        };
        let processes: Vec<_> = (0..PROCESSES).map(start).collect();
        for process in &processes {
            process.wait_for("answered ");
        }
        // Kill them at various moments.
        let step = LIFETIME / PROCESSES;
        let started = tokio::time::Instant::now();
        let mut outputs = Vec::new();
        for (n, process) in (0..PROCESSES).zip(processes) {
            tokio::time::sleep_until(started + step * n + some(step)).await;
            let killed = micros();
            outputs.push((killed, process.kill()));
        }
        // Their last batches may still be being written.
        let active_sessions =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND state <> 'idle' AND pid <> pg_backend_pid()";
        while number(&own, active_sessions).await > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let logged = logged_once(&backend).await;
        assert!(
            logged.is_superset(&before),
            "events of earlier processes are missing"
        );
        for (killed, lines) in outputs {
            let flushed = lines.iter().rposition(|line| line == "flushed");
            let mut answered = Vec::new();
            for (place, line) in lines.iter().enumerate() {
                if let ["answered", id, time] = line.split(' ').collect::<Vec<_>>()[..] {
                    let (id, time): (Uuid, i64) = (id.parse().unwrap(), time.parse().unwrap());
                    answered.push((id, time));
                    assert!(
                        flushed.is_none_or(|it| place > it) || logged.contains(&id),
                        "a flushed event is missing"
                    );
                }
            }
            let written = answered
                .iter()
                .filter(|(id, _)| logged.contains(id))
                .count();
            let lost = &answered[written..];
            assert!(
                lost.iter().all(|(id, _)| !logged.contains(id)),
                "an event is missing although a later one was written"
            );
            if let Some(&(_, first)) = lost.first() {
                let age = Duration::from_micros(u64::try_from(killed - first).unwrap_or(0));
                assert!(age < LIMIT, "an event of age {age:?} was lost");
            }
            total += answered.len();
        }
        before = logged;
    }
    assert!(total > 1_000, "only {total} requests");
}

/// The minimum length of the database outage: `KEYTALLY_TEST_OUTAGE_SECONDS`, 2 s by default.
fn outage() -> Duration {
    let seconds = std::env::var("KEYTALLY_TEST_OUTAGE_SECONDS");
    Duration::from_secs(seconds.map_or(2, |seconds| seconds.parse().unwrap()))
}

mod fail_closed {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn database_outage_loses_no_events_and_admits_no_uncached_keys() {
        let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
        let url = cluster.database().await;
        let backend = PostgresBackend::connect(&url).await.unwrap();
        backend.migrate().await.unwrap();
        let known = issue(&backend, "Known").await;
        let new = issue(&backend, "New").await;
        let recorder = Recorder::builder(backend.clone())
            .capacity(1 << 17)
            // A write waits for a connection until this timeout.
            .write_timeout(Duration::from_secs(1))
            .batch_size(512)
            .batch_age(Duration::from_millis(50))
            .backoff(Duration::from_millis(50), Duration::from_millis(500))
            .start();
        let config = CacheConfig::new()
            .ttl(outage() + Duration::from_secs(120))
            .lookup_timeout(Duration::from_millis(500));
        let layer = ApiKeyLayer::new(backend.clone())
            .cache(config)
            .recorder(recorder.clone());
        let service = Service::behind(layer);

        // Meanwhile, a cached key is used continuously.
        let stop = Arc::new(AtomicBool::new(false));
        let load = tokio::spawn({
            let (service, stop) = (service.clone(), stop.clone());
            async move {
                let (mut answered, mut rejected) = (BTreeSet::new(), Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..4 {
                        let (status, id) = service.ask(known.secret.expose()).await;
                        match status {
                            StatusCode::OK => drop(answered.insert(id)),
                            _ => rejected.push(status),
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                (answered, rejected)
            }
        });
        until(|| recorder.stats().written > 100).await;

        let start = Instant::now();
        cluster.stop("immediate");
        let retries = recorder.stats().retries;
        while start.elapsed() < outage() || recorder.stats().retries < retries + 2 {
            let (status, _) = service.ask(new.secret.expose()).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(
                start.elapsed() < outage() + Duration::from_secs(30),
                "writes are not retried"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let during = recorder.stats();
        assert!(during.queued > 0, "{during:?}");
        cluster.go_on();
        let first = loop {
            match service.ask(new.secret.expose()).await {
                (StatusCode::OK, id) => break id,
                (status, _) => assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE),
            }
        };
        recorder.flush().await;
        let after = recorder.stats();
        until(|| recorder.stats().written > after.written + 100).await;
        stop.store(true, Ordering::Relaxed);
        let (mut answered, rejected) = load.await.unwrap();
        assert!(
            rejected.is_empty(),
            "a cached key was rejected: {rejected:?}"
        );
        answered.insert(first);
        let report = recorder.shutdown(Duration::from_secs(60)).await;
        assert_eq!((report.written, report.lost), (answered.len() as u64, 0));
        assert_eq!(logged_once(&backend).await, answered);
    }
}

// --- A full disk --------------------------------------------------------------------------------

mod complete_accounting {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn full_disk_loses_only_events_counted_as_lost() {
        let file = std::env::temp_dir().join(format!("keytally-full-{}.db", std::process::id()));
        let (own, max_pages) = full_disk::pool(&file, 1).await;
        let backend = SqliteBackend::from_pool(own.clone());
        backend.migrate().await.unwrap();
        let issued = issue(&backend, "Busy").await;
        max_pages.set(150);
        let recorder = Recorder::builder(backend.clone())
            .capacity(2_000)
            .batch_size(200)
            .batch_age(Duration::from_millis(5))
            .backoff(Duration::from_millis(5), Duration::from_millis(50))
            .start();
        let layer = ApiKeyLayer::new(backend.clone()).recorder(recorder.clone());
        let service = Service::behind(layer);
        let mut answered = BTreeSet::new();
        let mut send = async |requests: usize| {
            for n in 0..requests {
                // Requests do not wait for the disk.
                let (status, id) = service.ask(issued.secret.expose()).await;
                assert_eq!(status, StatusCode::OK);
                answered.insert(id);
                if n % 50 == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        };
        while recorder.stats().retries < 3 {
            assert!(recorder.stats().accepted < 100_000, "the disk is not full");
            send(200).await;
        }
        // More than the recorder can hold in memory.
        send(3_000).await;
        let full = recorder.stats();
        assert!(full.written > 0 && full.lost > 0, "{full:?}");
        assert_eq!(full.accepted, full.written + full.lost + full.queued);
        let batch = Batch::new(
            (0..2_000)
                .map(|_| UsageEvent::new(Timestamp::now()))
                .collect(),
        );
        let error = backend.write(&batch).await.unwrap_err();
        assert!(matches!(error, SinkError::Unavailable(_)));
        assert_eq!(error.to_string(), "the usage sink is unavailable");
        let error = loop {
            // Free space in existing pages is used first.
            let issuer = keytally::key::Issuer::new("test").unwrap();
            let (_, record) = issuer
                .prepare(keytally::key::NewKey::new("x".repeat(100)))
                .unwrap();
            if let Err(error) = backend.create(record, Actor::SYSTEM).await {
                break error;
            }
        };
        assert!(matches!(error, StoreError::Unavailable(_)));
        assert_eq!(error.to_string(), "the key store is unavailable");
        // Existing events can still be read.
        let summary = backend.summary(&SummaryQuery::default()).await.unwrap();
        assert_eq!(summary.totals.total(), full.written);

        max_pages.remove();
        recorder.flush().await;
        send(500).await;
        let report = recorder.shutdown(Duration::from_secs(60)).await;
        let stats = recorder.stats();
        assert_eq!(stats.accepted, answered.len() as u64);
        assert_eq!(stats.accepted, stats.written + stats.lost);
        assert_eq!((report.written, report.lost), (stats.written, stats.lost));
        assert_eq!(
            stats.lost, full.lost,
            "events were lost after space was available again"
        );
        let logged = logged_once(&backend).await;
        assert_eq!(logged.len() as u64, stats.written);
        assert!(logged.is_subset(&answered));
        let check: String = sqlx::query_scalar("PRAGMA integrity_check")
            .fetch_one(&own)
            .await
            .unwrap();
        assert_eq!(check, "ok");
        own.close().await;
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", file.display()));
        }
    }
}
