//! Child processes of a test.

use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How long to wait for a line of output.
const PATIENCE: Duration = Duration::from_secs(60);

/// A child process, killed when dropped.
pub(crate) struct Program {
    child: Child,
    lines: Receiver<String>,
}

impl Program {
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let reader = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Ok(Self { child, lines })
    }

    /// Waits for a line with this prefix, and returns the rest of it.
    pub(crate) fn wait_for(&mut self, prefix: &str) -> String {
        let mut output = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    if let Some(rest) = line.strip_prefix(prefix) {
                        return rest.trim().into();
                    }
                    output.push(line);
                }
                Err(error) => panic!(
                    "no line with {prefix:?} ({error}) in {output:#?}; {}",
                    self.state()
                ),
            }
        }
    }

    /// The state of the process, for messages.
    pub(crate) fn state(&mut self) -> String {
        match self.child.try_wait() {
            Ok(None) => "still running".into(),
            Ok(Some(status)) => format!("exited: {status}"),
            Err(error) => error.to_string(),
        }
    }

    /// Sends SIGINT, waits for a successful exit, and returns the last line of output.
    pub(crate) fn interrupt(mut self) -> String {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-INT", &id]).status().unwrap();
        assert!(sent.success(), "kill");
        let mut last = String::new();
        // The pipe is closed when the process exits.
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => last = line,
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(error) => panic!("the process did not exit: {error}"),
            }
        }
        assert!(self.child.wait().unwrap().success(), "the process failed");
        last
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
