//! A real PostgreSQL server for tests, on a socket in a folder of its own.
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

/// A server that is gone, and its folder with it, as soon as this process is, however it ends.
pub struct Cluster {
    folder: PathBuf,
    bin: PathBuf,
    settings: &'static str,
    /// Reads from a pipe whose other end this process holds.
    janitor: Child,
}

/// The settings that every server has.
const SETTINGS: &str = "-c listen_addresses='' -c max_connections=200 -c logging_collector=off";

/// Those of tests: none waits for a disk, since no test pulls the plug.
const FOR_TESTS: &str = "-c fsync=off -c full_page_writes=off -c deadlock_timeout=100ms";

impl Cluster {
    /// Makes a server and starts it.
    pub fn start() -> Self {
        Self::with(FOR_TESTS)
    }

    /// One that keeps what it has committed, as servers do.
    pub fn durable() -> Self {
        Self::with("")
    }

    fn with(settings: &'static str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("keytally-pg-{}-{n}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let bin = bin();
        if as_other_user() {
            let done = Command::new("chown").arg("postgres").arg(&folder).status();
            assert!(done.unwrap().success(), "chown");
        }
        let janitor = Command::new("sh")
            .arg("-c")
            .arg(format!(
                "read _; {} stop -D {}/data -m immediate >/dev/null 2>&1; rm -rf {}",
                pg_ctl(&bin).join(" "),
                folder.display(),
                folder.display()
            ))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let cluster = Self {
            folder,
            bin,
            settings,
            janitor,
        };
        let initdb = cluster.bin.join("initdb");
        let data = cluster.folder.join("data");
        let made = as_server(&initdb)
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"])
            .args(["--locale=C.UTF-8", "-D"])
            .arg(data)
            .output();
        succeeded("initdb", made.unwrap());
        cluster.go_on();
        cluster
    }

    /// Starts the server again.
    pub fn go_on(&self) {
        let settings = format!("-k {} {SETTINGS} {}", self.folder.display(), self.settings);
        let started = self.pg_ctl(&["start", "-w", "-t", "60", "-o", &settings]);
        succeeded("pg_ctl start", started);
    }

    /// Stops the server: `fast` ends its sessions, `immediate` its processes.
    pub fn stop(&self, mode: &str) {
        succeeded("pg_ctl stop", self.pg_ctl(&["stop", "-w", "-m", mode]));
    }

    fn pg_ctl(&self, arguments: &[&str]) -> Output {
        let log = self.folder.join("log");
        let pg_ctl = pg_ctl(&self.bin);
        let (program, first) = pg_ctl.split_first().unwrap();
        Command::new(program)
            .args(first)
            .arg("-D")
            .arg(self.folder.join("data"))
            .arg("-l")
            .arg(log)
            .args(arguments)
            .stdin(Stdio::null())
            // A pipe would stay open as long as the server has it.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .unwrap()
    }

    /// Lets this role in with its password only, once the server has read its settings again.
    pub fn ask_for_password(&self, role: &str) {
        self.add_rule(&format!("local all {role} scram-sha-256"));
    }

    /// Does not let this role in, once the server has read its settings again.
    pub fn shut_out(&self, role: &str) {
        self.add_rule(&format!("local all {role} reject"));
    }

    fn add_rule(&self, rule: &str) {
        let file = self.folder.join("data/pg_hba.conf");
        let rules = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{rule}\n{rules}")).unwrap();
    }

    pub fn url(&self, database: &str) -> String {
        let folder = self.folder.display();
        format!("postgres:///{database}?host={folder}&user=postgres")
    }

    /// An empty database's URL.
    pub async fn database(&self) -> String {
        let name = fresh_name();
        let mut admin = PgConnection::connect(&self.url("postgres")).await.unwrap();
        let make = format!("CREATE DATABASE {name}");
        let made = sqlx::query(AssertSqlSafe(make)).execute(&mut admin).await;
        made.unwrap();
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

fn succeeded(what: &str, output: Output) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{what}: {text}");
}

/// Where the server's programs are.
fn bin() -> PathBuf {
    let mut places: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| {
            let versions = versions.flatten();
            versions.map(|version| version.path().join("bin")).collect()
        })
        .unwrap_or_default();
    places.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path));
    let found = places
        .into_iter()
        .find(|place| place.join("initdb").exists());
    found
        .expect("PostgreSQL is not installed (Debian: postgresql), or its programs are not in PATH")
}

/// One of the server's programs.
pub fn program(name: &str) -> PathBuf {
    bin().join(name)
}

/// The server does not run as root.
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

/// The URL of an empty database, on the server that `KEYTALLY_TEST_POSTGRES_URL` names or else on one
/// for this run.
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

/// A backend with its tables in an empty database, and that one's URL.
pub async fn backend() -> (PostgresBackend, String) {
    let url = database().await;
    let backend = PostgresBackend::connect(&url).await.unwrap();
    backend.migrate().await.unwrap();
    (backend, url)
}

/// The application's own connections.
pub async fn pool(url: &str) -> PgPool {
    PgPool::connect(url).await.unwrap()
}

/// A number that the database tells.
pub async fn number(pool: &PgPool, sql: &str) -> i64 {
    let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(pool).await;
    row.unwrap().get(0)
}
