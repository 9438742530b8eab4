//! A Redis server for tests and benchmarks.

#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server on a port of its own, without persistence.
pub(crate) struct Server {
    port: u16,
    arguments: Vec<String>,
    process: Option<Child>,
    is_sentinel: bool,
}

fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().port()
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(free_port(), ["--save", "", "--appendonly", "no"])
    }

    /// A replica of this server.
    pub(crate) fn start_replica(&self) -> Self {
        let port = self.port.to_string();
        Self::with(
            free_port(),
            ["--save", "", "--replicaof", "127.0.0.1", &port],
        )
    }

    /// A sentinel that monitors this server as `keytally`, with two others.
    pub(crate) fn start_sentinel(&self) -> Self {
        let (port, of) = (free_port(), self.port);
        let file = std::env::temp_dir().join(format!("keytally-sentinel-{port}.conf"));
        let settings = format!(
            "sentinel monitor keytally 127.0.0.1 {of} 2\n\
             sentinel down-after-milliseconds keytally 500\n\
             sentinel failover-timeout keytally 2000\n"
        );
        std::fs::write(&file, settings).unwrap();
        // The program requires the file to be the first argument.
        Self::with(port, [file.to_str().unwrap(), "--sentinel"])
    }

    fn with<const N: usize>(port: u16, arguments: [&str; N]) -> Self {
        let mut server = Self {
            port,
            arguments: arguments.map(str::to_owned).into(),
            process: None,
            is_sentinel: arguments.contains(&"--sentinel"),
        };
        server.restart();
        server
    }

    /// Starts the server again, empty, after it was killed.
    pub(crate) fn restart(&mut self) {
        let program = std::env::var("KEYTALLY_REDIS").unwrap_or_else(|_| "redis-server".into());
        let process = Command::new(&program)
            .args(&self.arguments)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
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
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .ok()?;
        if self.is_sentinel {
            // Sentinels do not know QUIT.
            write!(stream, "{command}\r\n").ok()?;
            stream.shutdown(Shutdown::Write).ok()?;
        } else {
            write!(stream, "{command}\r\nQUIT\r\n").ok()?;
        }
        let mut response = String::new();
        stream.read_to_string(&mut response).ok()?;
        Some(response)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if self.is_sentinel {
            let _ = std::fs::remove_file(&self.arguments[0]);
        }
    }
}
