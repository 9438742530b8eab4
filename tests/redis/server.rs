//! A Redis server for tests and benchmarks.

#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server on a port of its own, without persistence.
pub(crate) struct Server {
    port: u16,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    process: Option<Child>,
    is_sentinel: bool,
}

fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().port()
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// A server with these environment variables.
    pub(crate) fn start_with(environment: &[(&str, &str)]) -> Self {
        let mut server = Self::new(free_port(), ["--save", "", "--appendonly", "no"]);
        let owned = environment.iter();
        let owned = owned.map(|(name, value)| ((*name).into(), (*value).into()));
        server.environment = owned.collect();
        server.restart();
        server
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

    /// Three primary servers of a cluster, without replicas.
    pub(crate) fn start_cluster() -> [Self; 3] {
        let servers = [(); 3].map(|()| {
            let port = free_port();
            let file = std::env::temp_dir().join(format!("keytally-cluster-{port}.conf"));
            let (bus, file) = (free_port().to_string(), file.to_str().unwrap().to_owned());
            let cluster = ["--cluster-enabled", "yes", "--cluster-config-file", &file];
            let others = [
                "--cluster-port",
                &bus,
                "--cluster-node-timeout",
                "2000",
                "--save",
                "",
            ];
            Self::with::<10>(
                port,
                [&cluster[..], &others[..]].concat().try_into().unwrap(),
            )
        });
        for (index, server) in servers.iter().enumerate() {
            let slots = [0, 5_461, 10_923, 16_384];
            let (first, last) = (slots[index], slots[index + 1] - 1);
            assert_eq!(
                server.command(&format!("CLUSTER ADDSLOTSRANGE {first} {last}")),
                "+OK"
            );
            assert_eq!(
                server.command(&format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1)),
                "+OK"
            );
        }
        for server in &servers[1..] {
            let meet = format!(
                "CLUSTER MEET 127.0.0.1 {} {}",
                server.port, server.arguments[5]
            );
            assert_eq!(servers[0].command(&meet), "+OK");
        }
        let end = Instant::now() + Duration::from_secs(60);
        let is_ready = |server: &Self| {
            let info = server.response("CLUSTER INFO");
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
        };
        while !servers.iter().all(is_ready) {
            assert!(Instant::now() < end, "the cluster does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        servers
    }

    /// The server of a cluster that has keys in a slot.
    pub(crate) fn with_keys(servers: &[Self], slot: u16) -> Option<&Self> {
        let count = format!("CLUSTER COUNTKEYSINSLOT {slot}");
        let mut servers = servers.iter();
        servers.find(|server| server.command(&count) != ":0")
    }

    /// Moves a slot, with its keys, to another server of the cluster. `meanwhile` runs when some keys are on each.
    pub(crate) fn move_slot(servers: &[Self], slot: u16, meanwhile: impl FnOnce()) {
        let from = Self::with_keys(servers, slot).expect("a server with keys in the slot");
        let to = servers
            .iter()
            .find(|server| server.port != from.port)
            .unwrap();
        let id = |server: &Self| {
            let response = server.response("CLUSTER MYID");
            response.lines().nth(1).unwrap().to_owned()
        };
        let set = |server: &Self, what: &str| {
            assert_eq!(
                server.command(&format!("CLUSTER SETSLOT {slot} {what}")),
                "+OK"
            );
        };
        set(to, &format!("IMPORTING {}", id(from)));
        set(from, &format!("MIGRATING {}", id(to)));
        let keys = from.response(&format!("CLUSTER GETKEYSINSLOT {slot} 100"));
        let keys: Vec<_> = keys
            .lines()
            .filter(|line| line.contains("limits"))
            .collect();
        let (first, rest) = keys.split_first().unwrap();
        let migrate = |key: &str| {
            let migrated = from.command(&format!("MIGRATE 127.0.0.1 {} {key} 0 5000", to.port));
            assert!(matches!(&*migrated, "+OK" | "+NOKEY"), "{migrated}");
        };
        migrate(first);
        meanwhile();
        rest.iter().for_each(|key| migrate(key));
        for server in [to, from] {
            set(server, &format!("NODE {}", id(to)));
        }
    }

    fn with<const N: usize>(port: u16, arguments: [&str; N]) -> Self {
        let mut server = Self::new(port, arguments);
        server.restart();
        server
    }

    fn new<const N: usize>(port: u16, arguments: [&str; N]) -> Self {
        Self {
            port,
            arguments: arguments.map(str::to_owned).into(),
            environment: Vec::new(),
            process: None,
            is_sentinel: arguments.contains(&"--sentinel"),
        }
    }

    /// Starts the server again, empty, after it was killed.
    pub(crate) fn restart(&mut self) {
        let program = std::env::var("KEYTALLY_REDIS").unwrap_or_else(|_| "redis-server".into());
        // Replicas write it, and a server reads that of its folder when it starts.
        let data = self.data();
        let _ = std::fs::remove_file(&data);
        let (folder, file) = (data.parent().unwrap(), data.file_name().unwrap());
        let mut command = Command::new(&program);
        command.args(&self.arguments);
        if !self.is_sentinel {
            command.arg("--dir").arg(folder);
            command.arg("--dbfilename").arg(file);
        }
        let process = command
            .envs(self.environment.iter().cloned())
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

    fn data(&self) -> PathBuf {
        std::env::temp_dir().join(format!("keytally-{}.rdb", self.port))
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
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
        let _ = std::fs::remove_file(self.data());
        for file in self.arguments.iter().filter(|it| it.ends_with(".conf")) {
            let _ = std::fs::remove_file(file);
        }
    }
}
