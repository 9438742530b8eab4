//! Soak test: a service in its own process under steady load, while keys are created, changed, rotated, revoked and
//! deleted, its database restarts and its clock steps back and forth by an hour. No event is lost or duplicated, and
//! memory, file descriptors and tasks return to their initial level.
//!
//! A short version runs with all other tests; `scripts/soak` runs the long one. Needs PostgreSQL and libfaketime.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use keytally::backend::{PostgresBackend, SqliteBackend};
use keytally::key::KeyAdmin;
use keytally::usage::UsageReader;
use sqlx::{Connection, SqliteConnection};

#[path = "../support/children.rs"]
mod children;
mod clients;
mod clock;
mod keys;
#[path = "../support/postgres.rs"]
mod postgres;
mod status;
mod truth;
#[path = "../support/wall_clock.rs"]
mod wall_clock;
mod wire;

use children::Process;
use clients::{Client, Crowd};
use clock::SteppedClock;
use keys::Keys;
use postgres::Cluster;
use status::{FinalReport, ServerStatus};
use truth::Memory;
use wire::Control;

/// The parameters of a run.
struct Plan {
    warm_up: Duration,
    load: Duration,
    /// Requests per second.
    rate: u32,
    /// The intervals of key changes, clock steps and database outages.
    key_every: Duration,
    step_every: Duration,
    outage_every: Duration,
    outage: Duration,
}

/// The number of concurrent clients.
const CLIENTS: u32 = 32;
/// How much the process may grow between the end of the warm-up and the end of the run.
const GROWTH_KIB: u64 = 12 << 10;

impl Plan {
    /// The run within the normal test suite.
    fn short(seconds: u64) -> Self {
        Self {
            warm_up: Duration::from_secs(10),
            load: Duration::from_secs(seconds),
            rate: 400,
            key_every: Duration::from_millis(100),
            step_every: Duration::from_secs(5),
            outage_every: Duration::from_secs(8),
            outage: Duration::from_secs(2),
        }
    }

    /// The run selected by `KEYTALLY_SOAK_SECONDS`.
    fn long(seconds: u64) -> Self {
        Self {
            warm_up: Duration::from_secs(130),
            load: Duration::from_secs(seconds),
            rate: variable("KEYTALLY_SOAK_RATE").map_or(2_000, |rate| rate as u32),
            key_every: Duration::from_millis(200),
            step_every: Duration::from_secs(45),
            outage_every: Duration::from_secs(120),
            outage: Duration::from_secs(5),
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number")),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_leaked_while_postgres_restarts_and_the_clock_is_stepped() {
    let plan = match variable("KEYTALLY_SOAK_SECONDS") {
        Some(seconds) => Plan::long(seconds),
        None => Plan::short(30),
    };
    let cluster = tokio::task::spawn_blocking(Cluster::durable).await.unwrap();
    let url = cluster.database().await;
    let backend = PostgresBackend::connect(&url).await.unwrap();
    backend.migrate().await.unwrap();
    let cluster = Arc::new(cluster);
    soak(backend, &url, plan, async |outage: Duration, n: u64| {
        let cluster = cluster.clone();
        let restart = move || {
            cluster.stop(if n.is_multiple_of(2) {
                "fast"
            } else {
                "immediate"
            });
            std::thread::sleep(outage);
            cluster.go_on();
        };
        tokio::task::spawn_blocking(restart).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_leaked_while_sqlite_is_locked_and_the_clock_is_stepped() {
    let folder = Folder::new();
    let file = folder.0.join("keys.db");
    let backend = SqliteBackend::open(&file).await.unwrap();
    backend.migrate().await.unwrap();
    let url = file.to_str().unwrap();
    // Another connection locks the database for longer than the busy timeout.
    soak(backend, url, Plan::short(22), async |_, _| {
        let mut blocker = SqliteConnection::connect(url).await.unwrap();
        sqlx::raw_sql("BEGIN IMMEDIATE")
            .execute(&mut blocker)
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_secs(6)).await;
        blocker.close().await.unwrap();
    })
    .await;
}

/// A temporary folder that is removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("keytally-soak-{}-{n}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs the plan; `outage` makes the database unavailable for the given time.
async fn soak<B>(backend: B, url: &str, plan: Plan, outage: impl AsyncFn(Duration, u64))
where
    B: KeyAdmin + UsageReader + Clone,
{
    let folder = Folder::new();
    let clock = SteppedClock::new(&folder.0);
    let mut process = start(&folder.0, url, &clock);
    let control = Control::new(process.wait_for("serving ").parse().unwrap());
    let crowd = Arc::new(Crowd {
        address: control.address,
        keys: Keys::new(backend.clone(), control.clone()).await,
        clock,
        stop: AtomicBool::new(false),
        sent: AtomicU64::new(0),
        broken: AtomicU64::new(0),
        malformed: AtomicU64::new(0),
        longest_us: AtomicU64::new(0),
    });
    let mut run = Run {
        plan: &plan,
        crowd: &crowd,
        control: &control,
        began: Instant::now(),
        outages: 0,
    };
    let mut clients = run.load(plan.warm_up, 0, &outage).await;
    let before = run.settle(None).await;
    println!("figure: after the warm-up: {}", summary_line(&before));
    clients.extend(run.load(plan.load, clients.len(), &outage).await);
    let after = run.settle(Some(&before)).await;
    println!("figure: at the end: {}", summary_line(&after));
    let (took, outages) = (run.began.elapsed().as_secs_f64(), run.outages);

    process.write_line("stop");
    let final_report = process.wait_for("final_report ");
    let final_report: FinalReport = serde_json::from_str(&final_report).unwrap();
    let tasks = process.wait_for("tasks ");
    process.finish();
    let mut memory = Memory::of(clients);
    let results = truth::compare(&backend, &mut memory, &crowd, &final_report).await;
    let sent = crowd.sent.load(Ordering::Relaxed);
    println!(
        "figure: {sent} requests in {took:.0} s, {:.0} per second; {outages} database outages, {} clock steps, \
        {} retries; longest response {} ms\nfigure: {} keys: {:?}\nfigure: {}",
        sent as f64 / took,
        crowd.clock.steps.load(Ordering::Relaxed),
        final_report.stats.retries,
        crowd.longest_us.load(Ordering::Relaxed) / 1_000,
        crowd.keys.count(),
        crowd.keys.done,
        results.line(),
    );
    assert_eq!(tasks, "0", "tasks are still running");
    assert_eq!((after.tasks, after.handles), (before.tasks, before.handles));
    let grown = after.resident_kib.saturating_sub(before.resident_kib);
    assert!(grown < GROWTH_KIB, "the process has grown by {grown} KiB");
    assert_eq!(crowd.broken.load(Ordering::Relaxed), 0);
    assert!(final_report.stats.retries > 0, "no write was retried");
    // Event times have followed the clock in both directions.
    let span = results.last.duration_since(results.first);
    assert!(span > SignedDuration::from_mins(90), "{span:?}");
    let (most, least) = truth::limited_within(took);
    let limited = results.limited as f64;
    assert!(
        (least..=most).contains(&limited),
        "{limited} admitted, expected {least} to {most}"
    );
}

fn start(folder: &Path, url: &str, clock: &SteppedClock) -> Process {
    let spool = folder.join("spool.db");
    let mut variables = vec![
        ("KEYTALLY_TEST_URL", url),
        ("KEYTALLY_TEST_SPOOL", spool.to_str().unwrap()),
    ];
    variables.extend(clock.environment());
    Process::start("serve_until_stopped", &variables)
}

/// The state of a run, from the warm-up to the end.
struct Run<'a, B> {
    plan: &'a Plan,
    crowd: &'a Arc<Crowd<B>>,
    control: &'a Control,
    began: Instant,
    outages: u64,
}

impl<B: KeyAdmin + Clone> Run<'_, B> {
    /// Runs all load for the given time; returns the clients, numbered from `first`.
    async fn load(
        &mut self,
        length: Duration,
        first: usize,
        outage: &impl AsyncFn(Duration, u64),
    ) -> Vec<Client<B>> {
        let (plan, crowd) = (self.plan, self.crowd);
        crowd.stop.store(false, Ordering::SeqCst);
        let pace = Duration::from_secs(1) * CLIENTS / plan.rate;
        let clients: Vec<_> = (first..first + CLIENTS as usize)
            .map(|number| tokio::spawn(Client::new(number, crowd.clone()).run(pace)))
            .collect();
        let end = Instant::now() + length;
        let stop = &crowd.stop;
        let mut random = fastrand::Rng::with_seed(first as u64);
        let keys = crowd.keys.live(plan.key_every, stop, &mut random);
        let steps = crowd.clock.step(plan.step_every, self.control, stop);
        let samples = sample(self.began, end, crowd, self.control);
        let outages = async {
            let mut due = Instant::now() + plan.outage_every;
            while due + plan.outage < end {
                sleep_until(due).await;
                outage(plan.outage, self.outages).await;
                self.outages += 1;
                due += plan.outage_every;
            }
            sleep_until(end).await;
            stop.store(true, Ordering::SeqCst);
        };
        tokio::join!(keys, steps, samples, outages);
        // Back to the true time.
        crowd.clock.go_to(0, self.control).await;
        let mut finished = Vec::new();
        for client in clients {
            finished.push(client.await.unwrap());
        }
        finished
    }

    /// Waits until the process is idle, and for up to a minute until its tasks and file descriptors are as `before`.
    async fn settle(&self, before: Option<&ServerStatus>) -> ServerStatus {
        let began = Instant::now();
        loop {
            // Long enough to write queued events and to close connections.
            tokio::time::sleep(Duration::from_secs(2)).await;
            let report = self.control.whole_status().await;
            let stats = &report.stats;
            let idle = stats.in_flight + stats.queued + stats.spooled == 0;
            let unchanged =
                before.is_none_or(|it| it.tasks == report.tasks && it.handles == report.handles);
            if idle && unchanged || began.elapsed() > Duration::from_secs(60) {
                assert!(idle, "the process does not become idle: {report:?}");
                return report;
            }
        }
    }
}

/// Prints the progress every ten seconds and asserts that the recorder's counters add up.
async fn sample<B>(began: Instant, end: Instant, crowd: &Crowd<B>, control: &Control) {
    while Instant::now() < end {
        let report = control.status().await;
        let stats = &report.stats;
        let total = stats.written + stats.lost + stats.queued + stats.spooled;
        assert_eq!(stats.accepted, total, "{stats:?}");
        let (now, sent) = (
            began.elapsed().as_secs(),
            crowd.sent.load(Ordering::Relaxed),
        );
        println!("{now} s: {sent} sent, {}", summary_line(&report));
        let next = (Instant::now() + Duration::from_secs(10)).min(end);
        sleep_until(next).await;
    }
}

fn summary_line(report: &ServerStatus) -> String {
    let (stats, wall) = (&report.stats, report.wall);
    format!(
        "{} written, {} lost, {} queued, {} spooled, {} open, {} retries, {} KiB, {} file descriptors, {} tasks, clock at {wall:.0}",
        stats.written,
        stats.lost,
        stats.queued,
        stats.spooled,
        stats.in_flight,
        stats.retries,
        report.resident_kib,
        report.handles,
        report.tasks
    )
}

async fn sleep_until(time: Instant) {
    tokio::time::sleep_until(time.into()).await;
}
