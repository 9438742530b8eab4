//! Performance of the SQL backends: write throughput compared with plain inserts of the same rows, and query
//! latency with one and ten million events stored.
//!
//! ```text
//! cargo bench --features full --bench backends -- write 60
//! cargo bench --features full --bench backends -- write 60 2048 10000
//! cargo bench --features full --bench backends -- read 1000000 10000000
//! cargo bench --features full --bench backends -- read 1000000 keys=10000 writing=20000
//! cargo bench --features full --bench backends -- sparse keys=10000
//! cargo bench --features full --bench backends -- import keys=50000
//! ```
//!
//! `write` takes the duration per variant in seconds and, optionally, the batch size and the number of keys. It also
//! prints the CPU time of client and server and the bytes on disk. For PostgreSQL, it compares the throughput of four
//! backends with that of one, and without a log with that with one. `read` takes the numbers of events, and `keys=` with
//! their number of keys, 20 by default, and `writing=` the number of events per second that are written meanwhile.
//! `sparse` writes a hundred events per second for five minutes. `import` imports keys, twice. `sqlite` or `postgres` selects one backend. PostgreSQL must be installed; the
//! benchmark starts a server of its own. Without arguments, everything runs in a short form.

use std::path::Path;
use std::time::{Duration, Instant};

use jiff::{Timestamp, ToSpan};
use keytally::backend::{PostgresBackend, SqliteBackend};
use keytally::key::{Actor, ImportedKey, Issuer, KeyQuery, NewKey};
use keytally::usage::{
    Batch, LogFilter, LogQuery, LogSampling, Method, Status, StatusClass, SummaryQuery,
    SummarySpec, UsageRange, UsageSink,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};

#[path = "../tests/support/postgres.rs"]
mod support;

mod traffic;

use traffic::{BATCH, Backend, Traffic, fill, timed};

/// A backend with rollups to merge.
trait SqlBackend: Backend + Clone + 'static {
    fn merge(&self) -> impl Future<Output = ()> + Send;
}

impl SqlBackend for SqliteBackend {
    async fn merge(&self) {
        self.merge_rollups().await.expect("merge");
    }
}

impl SqlBackend for PostgresBackend {
    async fn merge(&self) {
        self.merge_rollups().await.expect("merge");
    }
}

// --- Baseline: the same rows inserted into one table with one index -----------------------------------

const PLAIN: &str = "CREATE TABLE plain (time bigint NOT NULL, id BYTES NOT NULL, request_id text,
    key_id text, owner text, method text NOT NULL, endpoint text NOT NULL, path text NOT NULL,
    resource_id text, http_status bigint, outcome text NOT NULL, cause text, cost bigint NOT NULL,
    latency_us bigint NOT NULL, request_bytes bigint NOT NULL, response_bytes bigint NOT NULL,
    client_address text);
    CREATE INDEX plain_by_time ON plain (time)";

fn code(status: Status) -> Option<i64> {
    match status {
        Status::Http(code) => Some(code.into()),
        _ => None,
    }
}

async fn plain_sqlite(connection: &mut SqliteConnection, batch: &Batch) {
    let mut transaction = connection
        .begin_with("BEGIN IMMEDIATE")
        .await
        .expect("begin");
    for events in batch.events().chunks(128) {
        let row = format!("({})", vec!["?"; 17].join(","));
        let rows = vec![&*row; events.len()].join(",");
        let insert = format!("INSERT INTO plain VALUES {rows}");
        let mut query = sqlx::query(AssertSqlSafe(insert));
        for event in events {
            query = query
                .bind(event.time.as_microsecond())
                .bind(event.id.as_bytes().to_vec())
                .bind(event.request_id.as_deref())
                .bind(event.key.map(|key| key.to_string()))
                .bind(event.owner.as_deref())
                .bind(event.method.as_str())
                .bind(&*event.endpoint)
                .bind(&*event.path)
                .bind(event.resource_id.as_deref())
                .bind(code(event.status))
                .bind(event.outcome.as_str())
                .bind(event.cause.map(|cause| cause.as_str()))
                .bind(i64::from(event.cost))
                .bind(event.latency_us.cast_signed())
                .bind(event.request_bytes.cast_signed())
                .bind(event.response_bytes.cast_signed())
                .bind(event.client_ip.map(|address| address.to_string()));
        }
        query.execute(&mut *transaction).await.expect("insert");
    }
    transaction.commit().await.expect("commit");
}

async fn plain_postgres(connection: &mut PgConnection, batch: &Batch) {
    let mut rows = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for event in batch.events().iter() {
        fn field(rows: &mut Vec<u8>, bytes: Option<&[u8]>) {
            let length = bytes.map_or(-1, |bytes| bytes.len() as i32);
            rows.extend_from_slice(&length.to_be_bytes());
            rows.extend_from_slice(bytes.unwrap_or_default());
        }
        let rows = &mut rows;
        rows.extend_from_slice(&17_i16.to_be_bytes());
        let number = |rows: &mut Vec<u8>, n: i64| field(rows, Some(&n.to_be_bytes()));
        let text = |rows: &mut Vec<u8>, text: Option<&str>| field(rows, text.map(str::as_bytes));
        number(rows, event.time.as_microsecond());
        field(rows, Some(event.id.as_bytes()));
        text(rows, event.request_id.as_deref());
        text(rows, event.key.as_ref().map(|key| key.as_str()));
        text(rows, event.owner.as_deref());
        text(rows, Some(event.method.as_str()));
        text(rows, Some(&event.endpoint));
        text(rows, Some(&event.path));
        text(rows, event.resource_id.as_deref());
        field(
            rows,
            code(event.status)
                .map(i64::to_be_bytes)
                .as_ref()
                .map(|b| &b[..]),
        );
        text(rows, Some(event.outcome.as_str()));
        text(rows, event.cause.map(|cause| cause.as_str()));
        number(rows, event.cost.into());
        number(rows, event.latency_us.cast_signed());
        number(rows, event.request_bytes.cast_signed());
        number(rows, event.response_bytes.cast_signed());
        text(
            rows,
            event
                .client_ip
                .map(|address| address.to_string())
                .as_deref(),
        );
    }
    rows.extend_from_slice(&(-1_i16).to_be_bytes());
    let mut copy = connection
        .copy_in_raw("COPY plain FROM STDIN (FORMAT binary)")
        .await
        .expect("copy");
    copy.send(rows).await.expect("copy rows");
    copy.finish().await.expect("finish copy");
}

// --- Writing -------------------------------------------------------------------------------------------

/// How often the two variants alternate.
const TURNS: usize = 6;

/// The duration per variant, the batch size and the number of keys.
#[derive(Clone, Copy)]
struct Load {
    seconds: f64,
    batch: usize,
    keys: usize,
}

/// Events, and the seconds and CPU seconds that their writes took.
type Turn = [f64; 3];

impl Load {
    /// Writes current events for one turn, some batches at a time, not counting the time of their generation.
    async fn measure(
        self,
        traffic: &mut Traffic,
        at_once: usize,
        mut write: impl AsyncFnMut(&[Batch]),
    ) -> Turn {
        let (mut spent, mut used, mut written) = (Duration::ZERO, 0.0, 0);
        while spent.as_secs_f64() < self.seconds / TURNS as f64 {
            let batch = |_| traffic.batch(self.batch, |_| Timestamp::now());
            let batches: Vec<_> = (0..at_once).map(batch).collect();
            written += self.batch * at_once;
            let (cpu, start) = (cpu_seconds(), Instant::now());
            write(&batches).await;
            spent += start.elapsed();
            used += cpu_seconds() - cpu;
        }
        [written as f64, spent.as_secs_f64(), used]
    }

    /// Alternates between two variants and prints the medians, and the ratios of all turns together. Returns the
    /// numbers of events that the variants have written.
    async fn compare(
        self,
        [name, other]: [&str; 2],
        [at_once, other_at_once]: [usize; 2],
        mut one: impl AsyncFnMut(&[Batch]),
        mut two: impl AsyncFnMut(&[Batch]),
    ) -> [f64; 2] {
        let mut traffic = Traffic::new(self.keys);
        let mut rates = [Vec::new(), Vec::new(), Vec::new()];
        let mut all = [[0.0; 3]; 2];
        for _ in 0..TURNS {
            let turns = [
                self.measure(&mut traffic, at_once, &mut one).await,
                self.measure(&mut traffic, other_at_once, &mut two).await,
            ];
            for (all, turn) in all.iter_mut().flatten().zip(turns.iter().flatten()) {
                *all += turn;
            }
            let [a, b] = turns.map(|[events, seconds, _]| events / seconds);
            for (rates, rate) in rates.iter_mut().zip([a, b, a / b]) {
                rates.push(rate);
            }
        }
        for rates in &mut rates {
            rates.sort_by(f64::total_cmp);
        }
        let [ours, plain, ratio] = &rates;
        let [a, b] = all.map(|[events, seconds, _]| events / seconds);
        println!(
            "{name}: {:.0} events/s, {other} {:.0}, ratio {:.2} ({:.2} to {:.2}), in total {:.2}",
            ours[TURNS / 2],
            plain[TURNS / 2],
            ratio[TURNS / 2],
            ratio[0],
            ratio[TURNS - 1],
            a / b
        );
        let [a, b] = all.map(|[events, _, cpu]| cpu * 1e6 / events);
        println!(
            " CPU: {a:.2} µs an event, {other} {b:.2}, ratio {:.2}",
            a / b
        );
        all.map(|[events, ..]| events)
    }
}

/// The CPU time of this process and of all PostgreSQL servers, in steps of 10 ms.
fn cpu_seconds() -> f64 {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let stats =
        processes.filter_map(|process| std::fs::read_to_string(process.path().join("stat")).ok());
    let own = std::process::id().to_string();
    let ticks = stats.filter_map(|stat| {
        let (start, fields) = stat.rsplit_once(')')?;
        let (id, name) = start.split_once(" (")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = |n: usize| fields.get(n)?.parse::<f64>().ok();
        (id == own || name == "postgres").then_some(ticks(11)? + ticks(12)?)
    });
    ticks.sum::<f64>() / 100.0
}

/// Prints the bytes on disk for each event.
fn print_bytes(bytes: [f64; 2], events: [f64; 2]) {
    let [ours, plain] = [bytes[0] / events[0], bytes[1] / events[1]];
    println!(" disk: {ours:.0} bytes an event, plain {plain:.0}");
}

/// When the rollups of the last minute can be merged: within the measured time, not by the background task.
struct Due(i64);

impl Due {
    /// The number of the minute whose rollups can be merged.
    fn minute() -> i64 {
        (Timestamp::now().as_second() - 6) / 60
    }

    fn new() -> Self {
        Self(Self::minute())
    }

    fn is_reached(&mut self) -> bool {
        let before = std::mem::replace(&mut self.0, Self::minute());
        self.0 > before
    }
}

async fn write_sqlite(load: Load, folder: &Path) {
    let backend = SqliteBackend::open(folder.join("write.db"))
        .await
        .expect("open");
    backend.migrate().await.expect("migrate");
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(folder.join("plain.db"))
        .create_if_missing(true)
        .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
        .synchronous(sqlx::sqlite::SqliteSynchronous::Full)
        .pragma("cache_size", "-65536")
        .pragma("wal_autocheckpoint", "8192");
    let mut plain = SqliteConnection::connect_with(&options)
        .await
        .expect("open");
    sqlx::raw_sql(AssertSqlSafe(PLAIN.replace("BYTES", "blob")))
        .execute(&mut plain)
        .await
        .expect("tables");
    Traffic::new(load.keys).create_keys(&backend).await;
    let mut due = Due::new();
    let ours = async |batches: &[Batch]| {
        backend.write(&batches[0]).await.expect("write");
        if due.is_reached() {
            backend.merge().await;
        }
    };
    let baseline = async |batches: &[Batch]| plain_sqlite(&mut plain, &batches[0]).await;
    let written = load
        .compare(["SQLite", "plain"], [1, 1], ours, baseline)
        .await;
    let size = async |file| sqlite_size(&folder.join(file)).await;
    print_bytes([size("write.db").await, size("plain.db").await], written);
}

/// The bytes of a database.
async fn sqlite_size(file: &Path) -> f64 {
    let url = format!("sqlite://{}", file.display());
    let mut connection = SqliteConnection::connect(&url).await.expect("open");
    let size = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
    let size = sqlx::query_scalar::<_, i64>(size);
    size.fetch_one(&mut connection).await.expect("a size") as f64
}

async fn write_postgres(load: Load, cluster: &support::Cluster) {
    let url = cluster.database().await;
    let backend = PostgresBackend::connect(&url).await.expect("connect");
    backend.migrate().await.expect("migrate");
    let mut plain = PgConnection::connect(&url).await.expect("connect");
    sqlx::raw_sql(AssertSqlSafe(PLAIN.replace("BYTES", "uuid")))
        .execute(&mut plain)
        .await
        .expect("tables");
    Traffic::new(load.keys).create_keys(&backend).await;
    let mut due = Due::new();
    let ours = async |batches: &[Batch]| {
        backend.write(&batches[0]).await.expect("write");
        if due.is_reached() {
            backend.merge().await;
        }
    };
    let baseline = async |batches: &[Batch]| plain_postgres(&mut plain, &batches[0]).await;
    let written = load
        .compare(["PostgreSQL", "plain"], [1, 1], ours, baseline)
        .await;
    let size = async |tables| postgres_size(&url, tables).await;
    print_bytes([size("keytally%").await, size("plain").await], written);
}

/// The bytes of tables whose names match the pattern, with their indexes and without dead rows.
async fn postgres_size(url: &str, tables: &str) -> f64 {
    let mut connection = PgConnection::connect(url).await.expect("connect");
    let vacuum = sqlx::raw_sql("VACUUM").execute(&mut connection);
    vacuum.await.expect("vacuum");
    let size = format!(
        "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class
        WHERE relkind = 'r' AND relname LIKE '{tables}'"
    );
    let size = sqlx::query_scalar::<_, i64>(AssertSqlSafe(size));
    size.fetch_one(&mut connection).await.expect("a size") as f64
}

/// Compares four backends that write into one database with one, and writes without a log with those with one.
async fn compare_postgres(load: Load, cluster: &support::Cluster) {
    let backends = async |count: usize, log| {
        let url = cluster.database().await;
        let mut backends = Vec::new();
        for _ in 0..count {
            let backend = PostgresBackend::connect(&url).await.expect("connect");
            backends.push(backend.with_log_sampling(log));
        }
        backends[0].migrate().await.expect("migrate");
        Traffic::new(load.keys).create_keys(&backends[0]).await;
        backends
    };
    let write = |backends: Vec<PostgresBackend>| {
        let mut due = Due::new();
        async move |batches: &[Batch]| {
            let writes = backends.iter().zip(batches).map(|(backend, batch)| {
                let (backend, batch) = (backend.clone(), batch.clone());
                tokio::spawn(async move { backend.write(&batch).await.expect("write") })
            });
            for write in writes.collect::<Vec<_>>() {
                write.await.expect("written");
            }
            if due.is_reached() {
                backends[0].merge().await;
            }
        }
    };
    let one = write(backends(1, LogSampling::All).await);
    let four = write(backends(4, LogSampling::All).await);
    load.compare(["four instances", "one"], [4, 1], four, one)
        .await;
    let with = write(backends(1, LogSampling::All).await);
    let without = write(backends(1, LogSampling::None).await);
    load.compare(["without a log", "with one"], [1, 1], without, with)
        .await;
}

// --- Sparse traffic --------------------------------------------------------------------------------------

const SPARSE_RATE: usize = 100;
const SPARSE_SECONDS: usize = 300;

/// Writes a batch each second for five minutes, and merges every five seconds. Returns the CPU time of one event in
/// microseconds.
async fn write_sparse(backend: &impl SqlBackend, keys: usize) -> f64 {
    let mut traffic = Traffic::new(keys);
    traffic.create_keys(backend).await;
    let mut timer = tokio::time::interval(Duration::from_secs(1));
    let cpu = cpu_seconds();
    for second in 0..SPARSE_SECONDS {
        timer.tick().await;
        let batch = traffic.batch(SPARSE_RATE, |_| Timestamp::now());
        backend.write(&batch).await.expect("write");
        if second % 5 == 0 {
            backend.merge().await;
        }
    }
    (cpu_seconds() - cpu) * 1e6 / (SPARSE_RATE * SPARSE_SECONDS) as f64
}

fn print_sparse(name: &str, cpu: f64, bytes: f64) {
    let bytes = bytes / (SPARSE_RATE * SPARSE_SECONDS) as f64;
    println!("{name}, sparse: {cpu:.1} µs of CPU and {bytes:.0} bytes an event");
}

// --- Import ------------------------------------------------------------------------------------------

/// Imports keys, and then the same keys again.
async fn import(name: &str, backend: &impl SqlBackend, keys: usize) {
    let issuer = Issuer::new("bench").expect("a prefix");
    let stream = || {
        let keys = (0..keys).map(|n| {
            let new = NewKey::new(format!("Key {n}")).owner(format!("customer-{}", n % 1_000));
            ImportedKey::from_secret(new.scope("read"), &format!("sk-of-another-system-{n}"))
                .created_at(Timestamp::UNIX_EPOCH)
        });
        tokio_stream::iter(keys)
    };
    for _ in 0..2 {
        let start = Instant::now();
        let report = issuer.import_all(backend, stream(), Actor::SYSTEM).await;
        let report = report.expect("imported");
        println!(
            "{name}: {} keys imported and {} unchanged in {:.1} s",
            report.imported,
            report.existing,
            start.elapsed().as_secs_f64()
        );
    }
}

// --- Reading -------------------------------------------------------------------------------------------

/// What is read, and the events per second that are written meanwhile.
struct Reads<'a> {
    sizes: &'a [usize],
    keys: usize,
    writing: usize,
}

/// Writes current events at this rate.
async fn keep_writing(backend: impl SqlBackend, mut traffic: Traffic, rate: usize) {
    let mut due = Due::new();
    let time = Duration::from_secs_f64(BATCH as f64 / rate as f64);
    let mut timer = tokio::time::interval(time);
    loop {
        timer.tick().await;
        let batch = traffic.batch(BATCH, |_| Timestamp::now());
        backend.write(&batch).await.expect("write");
        if due.is_reached() {
            backend.merge().await;
        }
    }
}

/// Measures queries after all rollups were merged, as the background task does with all but those of the last minute.
async fn read(backend: &impl SqlBackend, reads: &Reads<'_>, analyze: impl AsyncFn()) {
    let &Reads {
        sizes,
        keys,
        writing,
    } = reads;
    let mut traffic = Traffic::new(keys);
    let end = Timestamp::now();
    let mut stored = 0;
    let key = traffic.keys[3].0;
    for &size in sizes {
        let start = Instant::now();
        fill(backend, &mut traffic, stored, size, end).await;
        stored = size;
        backend.merge().await;
        analyze().await;
        let written = Traffic::new(keys);
        let writer =
            (writing > 0).then(|| tokio::spawn(keep_writing(backend.clone(), written, writing)));
        println!(
            " {size} events (written in {:.0} s)",
            start.elapsed().as_secs_f64()
        );
        let from = end - 720.hours();
        let berlin = jiff::tz::TimeZone::get("Europe/Berlin").expect("a zone");
        let month = SummaryQuery::new(
            UsageRange::new().key(key).from(from).to(end),
            SummarySpec::new()
                .latency()
                .over_range(from..end, berlin.clone()),
        );
        timed("summary of 30 days for one key", 15, || {
            backend.summary(&month)
        })
        .await;
        let day = end - 24.hours();
        let of_day = SummaryQuery::new(
            UsageRange::new().key(key).from(day).to(end),
            SummarySpec::new()
                .latency()
                .over_range(day..end, berlin.clone()),
        );
        timed("summary of 24 hours for one key", 15, || {
            backend.summary(&of_day)
        })
        .await;
        let all = SummaryQuery::new(
            UsageRange::new().from(from).to(end),
            SummarySpec::new().latency().over_range(from..end, berlin),
        );
        timed("summary of 30 days for all keys", 5, || {
            backend.summary(&all)
        })
        .await;
        let total = UsageRange::new().from(from).to(end);
        timed("totals of 30 days by key", 5, || {
            backend.totals_by_key(&total)
        })
        .await;
        let three = LogFilter::new()
            .key(key)
            .method(Method::Get)
            .status_class(StatusClass::ServerError);
        let first = LogQuery::new(three.clone());
        let newest = LogQuery::default();
        timed("first page", 15, || backend.requests(&newest)).await;
        timed("first page, three filters", 15, || backend.requests(&first)).await;
        let of_key = LogQuery::new(LogFilter::new().key(key));
        timed("first page of one key", 15, || backend.requests(&of_key)).await;
        let failures = LogQuery::new(LogFilter::new().status_class(StatusClass::ServerError));
        timed("first page of failures of all keys", 15, || {
            backend.requests(&failures)
        })
        .await;
        let resource = LogQuery::new(LogFilter::new().key(key).resource_id("17"));
        timed("first page of one resource", 15, || {
            backend.requests(&resource)
        })
        .await;
        let mut query = LogQuery::new(LogFilter::new().key(key));
        for _ in 1..1_000 {
            match backend.requests(&query).await.expect("a page").next {
                Some(next) => query.page.after = Some(next),
                None => break,
            }
        }
        timed("page 1,000 of one key, or its last", 15, || {
            backend.requests(&query)
        })
        .await;
        timed("count, three filters", 15, || backend.count(&three)).await;
        if let Some(writer) = writer {
            assert!(!writer.is_finished(), "writing failed");
            writer.abort();
        }
    }
    let issuer = Issuer::new("bench").expect("a prefix");
    let issued = issuer
        .issue(backend, NewKey::new("Looked up"), Actor::SYSTEM)
        .await
        .expect("issued");
    timed("cache miss", 200, || backend.find(issued.key.id)).await;
    // The short form uses fewer.
    let keys = (sizes[0] / 10).min(100_000);
    for n in 0..keys {
        let new = NewKey::new(format!("Key {n}")).owner(format!("customer-{}", n % 1_000));
        issuer
            .issue(backend, new, Actor::SYSTEM)
            .await
            .expect("issued");
    }
    let list = KeyQuery::new().limit(50);
    println!(" {keys} keys");
    timed("a page of 50", 15, || backend.list(&list)).await;
    let named = KeyQuery::new().name("Key 5").limit(50);
    timed("a page of 50 by name", 15, || backend.list(&named)).await;
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| words.iter().any(|it| it == word);
    let numbers: Vec<f64> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let option = |name: &str, default: usize| {
        let number = words.iter().find_map(|word| word.strip_prefix(name));
        number.map_or(default, |number| number.parse().expect("a number"))
    };
    let keys = option("keys=", 20);
    let modes = ["write", "sparse", "import", "read"];
    let runs = |mode: &str| has(mode) || !modes.iter().any(|mode| has(mode));
    let (sqlite, postgres) = (!has("postgres"), !has("sqlite"));
    let folder = std::env::temp_dir().join(format!("keytally-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let cluster = support::Cluster::durable();
    runtime.block_on(async {
        if runs("write") {
            let number = |n: usize| numbers.get(n).copied().filter(|_| has("write"));
            let load = Load {
                seconds: number(0).unwrap_or(1.0),
                batch: number(1).map_or(BATCH, |n| n as usize),
                keys: number(2).map_or(20, |n| n as usize),
            };
            if sqlite {
                write_sqlite(load, &folder).await;
            }
            if postgres {
                write_postgres(load, &cluster).await;
                compare_postgres(load, &cluster).await;
            }
        }
        if runs("sparse") {
            if sqlite {
                let file = folder.join("sparse.db");
                let backend = SqliteBackend::open(&file).await.expect("open");
                backend.migrate().await.expect("migrate");
                let cpu = write_sparse(&backend, keys).await;
                print_sparse("SQLite", cpu, sqlite_size(&file).await);
            }
            if postgres {
                let url = cluster.database().await;
                let backend = PostgresBackend::connect(&url).await.expect("connect");
                backend.migrate().await.expect("migrate");
                let cpu = write_sparse(&backend, keys).await;
                print_sparse("PostgreSQL", cpu, postgres_size(&url, "keytally%").await);
            }
        }
        if runs("import") {
            if sqlite {
                let backend = SqliteBackend::open(folder.join("import.db"))
                    .await
                    .expect("open");
                backend.migrate().await.expect("migrate");
                import("SQLite", &backend, option("keys=", 1_000)).await;
            }
            if postgres {
                let url = cluster.database().await;
                let backend = PostgresBackend::connect(&url).await.expect("connect");
                backend.migrate().await.expect("migrate");
                import("PostgreSQL", &backend, option("keys=", 1_000)).await;
            }
        }
        if runs("read") {
            let mut sizes: Vec<usize> = numbers.iter().map(|&n| n as usize).collect();
            if sizes.is_empty() {
                sizes = vec![10_000, 20_000];
            }
            let reads = Reads {
                sizes: &sizes,
                keys,
                writing: option("writing=", 0),
            };
            if sqlite {
                println!("SQLite");
                let file = folder.join("read.db");
                let backend = SqliteBackend::open(file).await.expect("open");
                backend.migrate().await.expect("migrate");
                read(&backend, &reads, async || {}).await;
            }
            if postgres {
                println!("PostgreSQL");
                let url = cluster.database().await;
                let backend = PostgresBackend::connect(&url).await.expect("connect");
                backend.migrate().await.expect("migrate");
                let pool = support::pool(&url).await;
                // As autovacuum does within minutes.
                let analyze = async || {
                    let done = sqlx::raw_sql("ANALYZE").execute(&pool).await;
                    done.expect("analyze");
                };
                read(&backend, &reads, analyze).await;
            }
        }
    });
    let _ = std::fs::remove_dir_all(&folder);
}
