//! Processes of this test binary's own, each of which runs one of its ignored tests.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of it"
)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// A process that is killed with this.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
}

/// How long it may be silent when something is expected of it.
const PATIENCE: Duration = Duration::from_secs(60);

impl Process {
    /// Runs an ignored test of this module, with these variables in its environment.
    pub fn start(module: &str, test: &str, variables: &[(&str, &str)]) -> Self {
        // The path of a test lacks the name of its crate.
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

    /// Waits for a line that begins so, and answers the rest of it.
    pub fn says(&self, beginning: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    if let Some(rest) = line.strip_prefix(beginning) {
                        return rest.into();
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("it did not say {beginning:?} in time"),
                Err(RecvTimeoutError::Disconnected) => panic!("it ended without {beginning:?}"),
            }
        }
    }

    pub fn tell(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
        stdin.flush().unwrap();
    }

    /// Kills it without a warning, and answers all it had still said.
    pub fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        // Its end of the pipe is closed, so that this ends too.
        self.lines.iter().collect()
    }

    /// Waits until it ends well, and answers all it had still said.
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

/// A variable that the other process was given.
pub fn given(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: this is run by another test"))
}

/// Some pause up to this one.
pub fn some(longest: Duration) -> Duration {
    longest.mul_f64(fastrand::f64())
}
