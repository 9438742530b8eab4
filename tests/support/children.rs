//! Child processes: those of `tests/processes`, examples, and other programs.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of it"
)]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::Value;

/// A child process that is killed on drop.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
}

/// How long to wait for an expected line of output.
const PATIENCE: Duration = Duration::from_secs(60);

impl Process {
    /// Starts one of `tests/processes` with additional environment variables.
    pub fn start(name: &str, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program());
        command.arg(name).envs(variables.iter().copied());
        Self::spawn(&mut command)
    }

    /// Starts a program.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let reader = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    /// Waits for a line with this prefix and returns the rest of it.
    pub fn wait_for(&self, prefix: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    if let Some(rest) = line.strip_prefix(prefix) {
                        return rest.into();
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("timed out waiting for {prefix:?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("the process ended before it printed {prefix:?}")
                }
            }
        }
    }

    /// Writes a line to its standard input.
    pub fn write_line(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
        stdin.flush().unwrap();
    }

    /// Stops the process for this time.
    pub fn pause(&self, time: Duration) {
        signal(&self.child, "STOP");
        std::thread::sleep(time);
        signal(&self.child, "CONT");
    }

    /// Kills the process and returns the remaining lines of its output.
    pub fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        // The process has closed its end of the pipe, so that this terminates.
        self.lines.iter().collect()
    }

    /// Waits for a successful exit and returns the remaining lines of its output.
    pub fn finish(mut self) -> Vec<String> {
        let lines = self.lines.iter().collect();
        assert!(self.child.wait().unwrap().success());
        lines
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal such as `STOP`.
fn signal(process: &Child, signal: &str) {
    let id = process.id().to_string();
    let status = Command::new("kill")
        .args([&format!("-{signal}"), &id])
        .status();
    assert!(status.unwrap().success());
}

/// The program `tests/processes`, which Cargo builds first if it is out of date.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| build("--test=processes"))
}

/// Builds a program, such as `--example=cloud_events`, with the features, profile and target directory of this test.
pub fn build(target: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile_dir = test.parent().and_then(Path::parent).unwrap();
    let profile = match profile_dir.file_name().and_then(OsStr::to_str) {
        Some("debug") => "dev",
        profile => profile.unwrap(),
    };
    let features = [
        ("full", cfg!(feature = "full")),
        ("axum", cfg!(feature = "axum")),
        ("conformance", cfg!(feature = "conformance")),
        ("dashboard", cfg!(feature = "dashboard")),
        ("postgres", cfg!(feature = "postgres")),
        ("recoverable", cfg!(feature = "recoverable")),
        ("redis", cfg!(feature = "redis")),
        ("sqlite", cfg!(feature = "sqlite")),
        ("sqlite-unbundled", cfg!(feature = "sqlite-unbundled")),
        ("testing", cfg!(feature = "testing")),
        ("tracing", cfg!(feature = "tracing")),
    ];
    let features = features.iter().filter(|(_, enabled)| *enabled);
    let features: Vec<_> = features.map(|(feature, _)| *feature).collect();
    let output = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args([
            "build",
            "--quiet",
            "--locked",
            "--message-format=json",
            target,
        ])
        .args(["--features", &features.join(","), "--profile", profile])
        .arg("--target-dir")
        .arg(profile_dir.parent().unwrap())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{target} cannot be built");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find_map(|message| Some(message["executable"].as_str()?.into()))
        .expect("an executable")
}

/// A random pause of at most `max`.
pub fn some(max: Duration) -> Duration {
    max.mul_f64(fastrand::f64())
}
