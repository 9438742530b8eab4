//! Child processes of the test binary, each running one of its ignored tests.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of it"
)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// A child process that is killed on drop.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
}

/// How long to wait for an expected line of output.
const PATIENCE: Duration = Duration::from_secs(60);

impl Process {
    /// Runs an ignored test of this module with additional environment variables.
    pub fn start(module: &str, test: &str, variables: &[(&str, &str)]) -> Self {
        // The test harness expects a path without the crate name.
        let path = format!("{module}::{test}");
        let test = path.split_once("::").map_or(test, |(_, test)| test);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--ignored", "--nocapture"])
            .envs(variables.iter().copied())
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
    pub fn says(&self, prefix: &str) -> String {
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
    pub fn tell(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
        stdin.flush().unwrap();
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

/// An environment variable that the parent process has set.
pub fn given(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: another test runs this one"))
}

/// A random pause of at most `max`.
pub fn some(max: Duration) -> Duration {
    max.mul_f64(fastrand::f64())
}
