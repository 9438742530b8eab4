//! The SQLite spool, between a recorder and a database with outages.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use keytally::backend::SqliteSpool;
use keytally::usage::{Batch, RecorderStats, Spool, Spooled, UsageEvent, UsageSink};
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

use crate::children::Process;
use crate::outages::{Database, Service, builder, until};

/// A temporary directory that is removed on drop.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, SeqCst);
        let name = format!("keytally-spool-{}-{n}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn spool(&self) -> PathBuf {
        self.0.join("spool.db")
    }

    fn database(&self) -> PathBuf {
        self.0.join("usage.db")
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn until_drained(spool: &Path) {
    let spool = SqliteSpool::open(spool).await.unwrap();
    until(async || spool.event_count().await.unwrap() == 0).await;
}

fn assert_conserved(stats: &RecorderStats) {
    assert_eq!(
        (stats.accepted, stats.queued, stats.in_flight),
        (stats.written + stats.lost + stats.spooled, 0, 0),
        "{stats:?}"
    );
}

fn numbers_below(end: u64) -> Vec<u64> {
    (0..end).collect()
}

fn batch(events: usize) -> Batch {
    let event = || {
        let mut event = UsageEvent::new("2026-11-01T10:00:00.5Z".parse().unwrap());
        event.path = "/7".into();
        event
    };
    Batch::new((0..events).map(|_| event()).collect())
}

async fn first(spool: &SqliteSpool) -> Option<Batch> {
    match spool.next(None).await.unwrap()? {
        Spooled::Batch(batch) => Some(batch),
        other => panic!("{other:?}"),
    }
}

/// A separate pool for the same file.
async fn pool(path: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new().filename(path);
    SqlitePoolOptions::new()
        .connect_with(options)
        .await
        .unwrap()
}

#[tokio::test]
async fn batches_are_returned_in_order_and_survive_reopening() {
    let dir = TempDir::new();
    let batches = [batch(3), batch(0), batch(5)];
    let spool = SqliteSpool::open(dir.spool()).await.unwrap();
    assert!(first(&spool).await.is_none());
    for batch in [&batches[0], &batches[1], &batches[0], &batches[2]] {
        spool.push(batch).await.unwrap();
    }
    drop(spool);

    let spool = SqliteSpool::open(dir.spool()).await.unwrap();
    assert_eq!(spool.event_count().await.unwrap(), 8);
    for batch in &batches {
        assert_eq!(first(&spool).await.as_ref(), Some(batch));
        for _ in 0..2 {
            spool.remove(batch.id).await.unwrap();
            spool.set_aside(batch.id).await.unwrap();
        }
    }
    assert!(first(&spool).await.is_none());
    assert_eq!(spool.event_count().await.unwrap(), 0);
    // A batch that was removed and pushed again goes to the end of the queue.
    for batch in [&batches[2], &batches[0]] {
        spool.push(batch).await.unwrap();
    }
    assert_eq!(first(&spool).await.as_ref(), Some(&batches[2]));
}

#[tokio::test]
async fn spool_can_share_a_backend_file_and_shrinks_its_own_file() {
    let dir = TempDir::new();
    let database = Database::open(&dir.database()).await;
    let spool = SqliteSpool::open(dir.database()).await.unwrap();
    let one = batch(10);
    spool.push(&one).await.unwrap();
    database.write(&one).await.unwrap();
    database.backend.migrate().await.unwrap();
    assert_eq!(first(&spool).await, Some(one));

    let spool = SqliteSpool::open(dir.spool()).await.unwrap();
    let batches: Vec<_> = (0..20).map(|_| batch(500)).collect();
    for batch in &batches {
        spool.push(batch).await.unwrap();
    }
    for batch in &batches {
        spool.remove(batch.id).await.unwrap();
    }
    let size = std::fs::metadata(dir.spool()).unwrap().len();
    assert!(size < 100_000, "{size}");
}

#[tokio::test]
async fn outage_loses_no_events_and_keeps_their_order() {
    let dir = TempDir::new();
    let database = Database::open(&dir.database()).await;
    let recorder = builder(&database, &dir.spool()).await.start();
    let service = Service::start(recorder).await;
    service.send(0..50).await;
    service.recorder.flush().await;
    database.switch(false);
    // Thirty times the in-memory capacity, as fast as the spool accepts it.
    for round in 0..120 {
        service.send(50 + round * 50..100 + round * 50).await;
        until(async || service.recorder.stats().queued < 100).await;
    }
    let stats = service.recorder.stats();
    assert_eq!((stats.accepted, stats.lost), (6_050, 0), "{stats:?}");
    assert!(stats.spooled > 5_800, "{stats:?}");
    // Slow at first, like a database on which all clients reconnect at once.
    database.slow.store(20, SeqCst);
    database.switch(true);
    service.send(6_050..6_100).await;
    until(async || service.recorder.stats().written > 1_000).await;
    database.slow.store(0, SeqCst);
    until(async || service.recorder.stats().written == 6_100).await;
    until_drained(&dir.spool()).await;
    let report = service.recorder.shutdown(Duration::from_secs(60)).await;
    assert_eq!((report.written, report.lost, report.spooled), (6_100, 0, 0));
    assert_eq!(database.order(), numbers_below(6_100));
    assert_eq!(database.numbers().await, numbers_below(6_100));
}

#[tokio::test]
async fn shutdown_during_an_outage_leaves_events_to_the_next_process() {
    tokio::join!(
        shutdown_leaves_events_to_the_next_process(0),
        shutdown_leaves_events_to_the_next_process(3_600_000),
    );
}

/// During the outage, each write takes `slow` milliseconds and fails.
async fn shutdown_leaves_events_to_the_next_process(slow: u64) {
    let dir = TempDir::new();
    let database = Database::open(&dir.database()).await;
    database.slow.store(slow, SeqCst);
    database.switch(false);
    let recorder = builder(&database, &dir.spool()).await.start();
    let service = Service::start(recorder).await;
    service.send(0..150).await;
    let report = service.recorder.shutdown(Duration::from_secs(3)).await;
    assert_eq!((report.written, report.lost, report.spooled), (0, 0, 150));
    assert_conserved(&service.recorder.stats());

    database.slow.store(0, SeqCst);
    database.switch(true);
    let recorder = builder(&database, &dir.spool()).await.start();
    let service = Service::start(recorder).await;
    service.send(150..160).await;
    until(async || service.recorder.stats().written == 10).await;
    until_drained(&dir.spool()).await;
    let report = service.recorder.shutdown(Duration::from_secs(60)).await;
    assert_eq!((report.written, report.lost, report.spooled), (10, 0, 0));
    assert_eq!(service.recorder.stats().recovered, 150);
    assert_eq!(database.order(), numbers_below(160));
    assert_eq!(database.numbers().await, numbers_below(160));
}

#[tokio::test]
async fn unreadable_batches_are_skipped_and_set_aside() {
    let dir = TempDir::new();
    let spool = SqliteSpool::open(dir.spool()).await.unwrap();
    let batches: Vec<_> = (0..6).map(|_| batch(10)).collect();
    for batch in &batches {
        spool.push(batch).await.unwrap();
    }
    let db = pool(&dir.spool()).await;
    for corrupt in [
        "UPDATE keytally_spool_batches SET batch = 'nonsense' WHERE place = 1",
        // Parses, but differs from what was written.
        "UPDATE keytally_spool_batches SET batch = replace(batch, '/7', '/8') WHERE place = 3",
        "UPDATE keytally_spool_batches SET batch = CAST(x'ff00fe' AS TEXT) WHERE place = 4",
        "UPDATE keytally_spool_batches SET batch = '', events = -1 WHERE place = 6",
    ] {
        sqlx::query(corrupt).execute(&db).await.unwrap();
    }
    let database = Database::open(&dir.database()).await;
    let recorder = builder(&database, &dir.spool()).await.start();
    until(async || recorder.stats().recovered == 20).await;
    until_drained(&dir.spool()).await;
    let report = recorder.shutdown(Duration::from_secs(60)).await;
    assert_eq!((report.written, report.lost, report.spooled), (0, 0, 0));
    assert_eq!(recorder.stats().unrecovered, 30);
    assert_eq!(database.numbers().await, [7; 20]);
    let kept = "SELECT count(*) FROM keytally_spool_unreadable WHERE batch IN ('nonsense', '')";
    let kept: (i64,) = sqlx::query_as(kept).fetch_one(&db).await.unwrap();
    assert_eq!(kept.0, 2);
}

#[tokio::test]
async fn two_processes_can_share_a_spool() {
    let dir = TempDir::new();
    let database = Database::open(&dir.database()).await;
    database.switch(false);
    let mut services = Vec::new();
    for _ in 0..2 {
        let recorder = builder(&database, &dir.spool()).await.start();
        services.push(Service::start(recorder).await);
    }
    for round in 0..20 {
        for (service, start) in services.iter().zip([0, 1_000]) {
            service
                .send(start + round * 50..start + round * 50 + 50)
                .await;
            until(async || service.recorder.stats().queued < 100).await;
        }
    }
    database.switch(true);
    for service in &services {
        until(async || service.recorder.stats().written == 1_000).await;
    }
    until_drained(&dir.spool()).await;
    for service in &services {
        let report = service.recorder.shutdown(Duration::from_secs(60)).await;
        assert_eq!((report.written, report.lost, report.spooled), (1_000, 0, 0));
    }
    assert_eq!(database.numbers().await, numbers_below(2_000));
}

/// A tmpfs of limited size, where mounting is permitted.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(path: &'a Path, kilobytes: u32) -> Option<Self> {
        std::fs::create_dir_all(path).ok()?;
        let size = format!("size={kilobytes}k");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "keytally"])
            .arg(path)
            .stderr(Stdio::null())
            .status();
        mount.ok()?.success().then_some(Self(path))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[tokio::test]
async fn events_lost_to_a_full_disk_are_counted() {
    let dir = TempDir::new();
    let path = dir.0.join("small");
    let Some(_disk) = SmallDisk::mount(&path, 512) else {
        println!("skipped: mounting a small file system is not permitted here");
        return;
    };
    let database = Database::open(&dir.database()).await;
    database.switch(false);
    let recorder = builder(&database, &path.join("spool.db")).await.start();
    let service = Service::start(recorder).await;
    let mut sent = 0;
    while service.recorder.stats().lost < 100 {
        service.send(sent..sent + 20).await;
        sent += 20;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let stats = service.recorder.stats();
    assert!(stats.spooled > 0, "{stats:?}");
    assert_eq!(
        stats.written + stats.lost + stats.spooled + stats.queued,
        sent
    );
    // Everything in the spool and in memory is written.
    database.switch(true);
    until(async || service.recorder.stats().queued + service.recorder.stats().spooled == 0).await;
    let report = service.recorder.shutdown(Duration::from_secs(60)).await;
    assert_conserved(&service.recorder.stats());
    assert_eq!((report.written + report.lost, report.spooled), (sent, 0));
    let numbers = database.numbers().await;
    assert_eq!(numbers.len() as u64, report.written);
    let distinct: HashSet<_> = numbers.iter().collect();
    assert_eq!(distinct.len(), numbers.len());
}

#[tokio::test]
async fn killed_process_loses_only_its_latest_events() {
    let dir = TempDir::new();
    let database = Database::open(&dir.database()).await;
    let (mut start, mut missing) = (0, HashSet::new());
    for round in 0..10_u64 {
        let process = Process::start(
            "record_until_killed",
            &[
                ("KEYTALLY_TEST_FOLDER", dir.0.to_str().unwrap()),
                ("KEYTALLY_TEST_START", &start.to_string()),
            ],
        );
        // Kill it at various moments, but not before it serves requests.
        let before = process.wait_for("safe ");
        std::thread::sleep(Duration::from_millis(round * 37 % 150));
        let lines = process.kill();
        let mut safe = lines.iter().filter_map(|line| line.strip_prefix("safe "));
        let confirmed: u64 = safe.next_back().unwrap_or(&before).parse().unwrap();

        // The next process drains what it left.
        let recorder = builder(&database, &dir.spool()).await.start();
        until_drained(&dir.spool()).await;
        let report = recorder.shutdown(Duration::from_secs(60)).await;
        assert_eq!((report.written, report.lost, report.spooled), (0, 0, 0));
        assert_eq!(recorder.stats().unrecovered, 0);

        let numbers = database.numbers().await;
        let distinct: HashSet<u64> = numbers.iter().copied().collect();
        assert_eq!(distinct.len(), numbers.len(), "an event was written twice");
        // Only the latest requests may be missing: there is no gap from the first one on.
        let kept = (start..)
            .take_while(|number| distinct.contains(number))
            .count() as u64;
        assert!(kept >= confirmed, "{kept} kept, {confirmed} confirmed");
        let all = (0..start + kept).filter(|number| !missing.contains(number));
        assert_eq!(numbers, all.collect::<Vec<_>>());
        // The numbers of missing requests are not used again.
        let next = start + kept + 1_000 + round % 2;
        missing.extend(start + kept..next);
        start = next;
    }
}
