//! Programs that run beside a test.

use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How long a program may be silent when something is expected of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that is killed with this.
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

    /// Waits for a line that begins so, and answers the rest of it.
    pub(crate) fn says(&mut self, beginning: &str) -> String {
        let mut said = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    if let Some(rest) = line.strip_prefix(beginning) {
                        return rest.trim().into();
                    }
                    said.push(line);
                }
                Err(error) => panic!(
                    "it did not say {beginning:?} ({error}) but {said:#?}; {}",
                    self.state()
                ),
            }
        }
    }

    /// Whether it runs, for messages.
    pub(crate) fn state(&mut self) -> String {
        match self.child.try_wait() {
            Ok(None) => "it runs".into(),
            Ok(Some(status)) => format!("it has ended: {status}"),
            Err(error) => error.to_string(),
        }
    }

    /// Interrupts it as Ctrl-C does, waits until it has ended well, and answers its last line.
    pub(crate) fn interrupt(mut self) -> String {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-INT", &id]).status().unwrap();
        assert!(sent.success(), "kill");
        let mut last = String::new();
        // Its end of the pipe is closed when it ends.
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => last = line,
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(error) => panic!("it did not end: {error}"),
            }
        }
        assert!(self.child.wait().unwrap().success(), "it ended badly");
        last
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
