//! A Redis server for tests and benchmarks.

#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server on a port of its own, without persistence.
pub(crate) struct Server {
    port: u16,
    process: Option<Child>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let mut server = Self {
            port,
            process: None,
        };
        server.restart();
        server
    }

    /// Starts the server again, empty, after it was killed.
    pub(crate) fn restart(&mut self) {
        let program = std::env::var("KEYTALLY_REDIS").unwrap_or_else(|_| "redis-server".into());
        let process = Command::new(&program)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error} (Debian: redis-server)"));
        self.process = Some(process);
        let end = Instant::now() + Duration::from_secs(30);
        while self.try_command("PING").is_none_or(|it| it != "+PONG") {
            assert!(Instant::now() < end, "Redis does not respond");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Kills the server, which loses its data.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Sends a signal such as `STOP`.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.process.as_ref().unwrap().id().to_string();
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &id])
            .status();
        assert!(status.unwrap().success());
    }

    /// The first line of the response to a command.
    pub(crate) fn command(&self, command: &str) -> String {
        self.try_command(command).unwrap()
    }

    /// The whole response to a command.
    pub(crate) fn response(&self, command: &str) -> String {
        self.try_response(command).unwrap()
    }

    fn try_command(&self, command: &str) -> Option<String> {
        let response = self.try_response(command)?;
        response.lines().next().map(str::to_owned)
    }

    fn try_response(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        write!(stream, "{command}\r\nQUIT\r\n").ok()?;
        let mut response = String::new();
        stream.read_to_string(&mut response).ok()?;
        Some(response)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
