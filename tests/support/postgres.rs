//! A PostgreSQL server for tests, on a Unix socket in a temporary directory.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of it"
)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use keytally::backend::PostgresBackend;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, Row};

/// A server that is stopped and deleted on drop, and also if this process crashes.
pub struct Cluster {
    dir: PathBuf,
    bin: PathBuf,
    settings: &'static str,
    /// A library that replaces functions of the server.
    preload: Option<PathBuf>,
    /// A shell that cleans up as soon as this process closes its end of a pipe.
    janitor: Child,
}

/// The settings of every server.
const SETTINGS: &str = "-c listen_addresses='' -c max_connections=200 -c logging_collector=off";

/// Additional settings for tests that need no durability.
const FOR_TESTS: &str = "-c fsync=off -c full_page_writes=off -c deadlock_timeout=100ms";

/// A file whose existence makes the disk full.
const DISK_IS_FULL: &str = "disk-is-full";

impl Cluster {
    /// Creates and starts a server that does not sync to disk.
    pub fn start() -> Self {
        Self::with(FOR_TESTS, |_| None)
    }

    /// Creates and starts a server whose disk can be made full by `set_disk_full`.
    pub fn with_full_disk() -> Self {
        Self::with(FOR_TESTS, |dir| {
            let library = dir.join("full_disk.so");
            let mut compile = Command::new("cc");
            compile
                .args(["-shared", "-fPIC", "-O1", "-o"])
                .arg(&library)
                .arg(format!("-DFLAG=\"{}\"", dir.join(DISK_IS_FULL).display()))
                .arg(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/tests/support/full_disk.c"
                ))
                .arg("-ldl");
            assert_success("cc", compile.output().unwrap());
            Some(library)
        })
    }

    /// Whether writes that extend the files of tables and indexes fail from now on.
    pub fn set_disk_full(&self, is_full: bool) {
        let flag = self.dir.join(DISK_IS_FULL);
        match is_full {
            true => std::fs::write(flag, "").unwrap(),
            false => std::fs::remove_file(flag).unwrap(),
        }
    }

    /// Creates and starts a server with full durability.
    pub fn durable() -> Self {
        Self::with("", |_| None)
    }

    fn with(settings: &'static str, preload: impl FnOnce(&Path) -> Option<PathBuf>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("keytally-pg-{}-{n}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let bin = bin();
        if as_other_user() {
            let done = Command::new("chown").arg("postgres").arg(&dir).status();
            assert!(done.unwrap().success(), "chown");
        }
        let janitor = Command::new("sh")
            .arg("-c")
            .arg(format!(
                "read _; {} stop -D {}/data -m immediate >/dev/null 2>&1; rm -rf {}",
                pg_ctl(&bin).join(" "),
                dir.display(),
                dir.display()
            ))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let cluster = Self {
            preload: preload(&dir),
            dir,
            bin,
            settings,
            janitor,
        };
        let initdb = cluster.bin.join("initdb");
        let data = cluster.dir.join("data");
        let output = as_server(&initdb)
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"])
            .args(["--locale=C.UTF-8", "-D"])
            .arg(data)
            .output();
        assert_success("initdb", output.unwrap());
        cluster.go_on();
        cluster
    }

    /// Starts the server again.
    pub fn go_on(&self) {
        let settings = format!("-k {} {SETTINGS} {}", self.dir.display(), self.settings);
        let started = self.pg_ctl(&["start", "-w", "-t", "60", "-o", &settings]);
        assert_success("pg_ctl start", started);
    }

    /// Stops the server: `fast` terminates its sessions, `immediate` skips the shutdown checkpoint.
    pub fn stop(&self, mode: &str) {
        assert_success("pg_ctl stop", self.pg_ctl(&["stop", "-w", "-m", mode]));
    }

    fn pg_ctl(&self, arguments: &[&str]) -> Output {
        let log = self.dir.join("log");
        let pg_ctl = pg_ctl(&self.bin);
        let (program, first) = pg_ctl.split_first().unwrap();
        Command::new(program)
            .args(first)
            .envs(self.preload.iter().map(|library| ("LD_PRELOAD", library)))
            .arg("-D")
            .arg(self.dir.join("data"))
            .arg("-l")
            .arg(log)
            .args(arguments)
            .stdin(Stdio::null())
            // The server would inherit a pipe and keep it open.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .unwrap()
    }

    /// Requires a password from this role, once the configuration is reloaded.
    pub fn ask_for_password(&self, role: &str) {
        self.add_rule(&format!("local all {role} scram-sha-256"));
    }

    /// Rejects logins of this role, once the configuration is reloaded.
    pub fn shut_out(&self, role: &str) {
        self.add_rule(&format!("local all {role} reject"));
    }

    fn add_rule(&self, rule: &str) {
        let file = self.dir.join("data/pg_hba.conf");
        let rules = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{rule}\n{rules}")).unwrap();
    }

    pub fn url(&self, database: &str) -> String {
        let dir = self.dir.display();
        format!("postgres:///{database}?host={dir}&user=postgres")
    }

    /// Creates an empty database and returns its URL.
    pub async fn database(&self) -> String {
        let name = fresh_name();
        let mut admin = PgConnection::connect(&self.url("postgres")).await.unwrap();
        let sql = format!("CREATE DATABASE {name}");
        let result = sqlx::query(AssertSqlSafe(sql)).execute(&mut admin).await;
        result.unwrap();
        self.url(&name)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.janitor.stdin.take() {
            let _ = pipe.write_all(b"\n");
        }
        let _ = self.janitor.wait();
    }
}

fn fresh_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("keytally_test_{}_{n}", std::process::id())
}

fn assert_success(command: &str, output: Output) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command}: {text}");
}

/// The directory of the server's executables.
fn bin() -> PathBuf {
    let mut candidates: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| {
            let versions = versions.flatten();
            versions.map(|version| version.path().join("bin")).collect()
        })
        .unwrap_or_default();
    candidates.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    candidates.extend(std::env::split_paths(&path));
    let bin = candidates
        .into_iter()
        .find(|candidate| candidate.join("initdb").exists());
    bin.expect("PostgreSQL not found: install it (Debian: postgresql) or add its binaries to PATH")
}

/// The path of one of the server's executables.
pub fn program(name: &str) -> PathBuf {
    bin().join(name)
}

/// Whether to run as another user, since PostgreSQL refuses to run as root.
fn as_other_user() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout == b"0\n"
}

fn as_server(program: &Path) -> Command {
    if as_other_user() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

fn pg_ctl(bin: &Path) -> Vec<String> {
    let command = as_server(&bin.join("pg_ctl"));
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect()
}

/// Creates an empty database and returns its URL. It is on the server that `KEYTALLY_TEST_POSTGRES_URL`
/// names, or otherwise on one for this process.
pub async fn database() -> String {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    match std::env::var("KEYTALLY_TEST_POSTGRES_URL") {
        Ok(url) => {
            let name = fresh_name();
            let mut admin = PgConnection::connect(&url).await.unwrap();
            for sql in [
                format!("DROP DATABASE IF EXISTS {name}"),
                format!("CREATE DATABASE {name}"),
            ] {
                let done = sqlx::query(AssertSqlSafe(sql)).execute(&mut admin).await;
                done.unwrap();
            }
            let (server, query) = url.split_once('?').unwrap_or((&url, ""));
            let slash = server.rfind('/').unwrap();
            format!("{}/{name}?{query}", &server[..slash])
        }
        Err(_) => {
            let start = || CLUSTER.get_or_init(Cluster::start);
            let cluster = tokio::task::spawn_blocking(start).await.unwrap();
            cluster.database().await
        }
    }
}

/// A migrated backend in an empty database, and the URL of that database.
pub async fn backend() -> (PostgresBackend, String) {
    let url = database().await;
    let backend = PostgresBackend::connect(&url).await.unwrap();
    backend.migrate().await.unwrap();
    (backend, url)
}

/// A separate pool for the same database.
pub async fn pool(url: &str) -> PgPool {
    PgPool::connect(url).await.unwrap()
}

/// The number that a query returns.
pub async fn number(pool: &PgPool, sql: &str) -> i64 {
    let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(pool).await;
    row.unwrap().get(0)
}
