//! The demo, built and run as people run it.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::program::Program;
use crate::support::Answer;

/// What the demo has asked for before it prints its addresses.
const SEEDED: u64 = 400;

/// A key of the demo's that has been used, and one that has not.
pub(crate) const USED: &str = "PowerAutomate";
pub(crate) const UNUSED: &str = "Nightly export";

/// A demo that is killed with this.
pub(crate) struct Demo {
    program: Program,
    /// Where it serves, without a slash at the end.
    pub(crate) origin: String,
    /// What lets people in.
    pub(crate) token: String,
    client: Client<HttpConnector, Full<Bytes>>,
    served: Cell<u64>,
}

impl Demo {
    /// Starts one with a database of its own in this folder.
    pub(crate) fn start(folder: &Path) -> Self {
        let mut command = Command::new(built());
        command
            .arg("--fresh")
            .env("PORT", "0")
            .env("FILE", folder.join("demo.db"))
            .env_remove("ADMIN_TOKEN");
        let mut program = Program::start(&mut command).expect("the demo does not start");
        let pages = program.says("pages:");
        let origin = pages.strip_suffix("/admin").expect("where the pages are");
        Self {
            origin: origin.into(),
            token: program.says("token:"),
            program,
            client: Client::builder(TokioExecutor::new()).build_http(),
            served: Cell::new(SEEDED),
        }
    }

    /// An address of the pages.
    pub(crate) fn page(&self, path: &str) -> String {
        format!("{}/admin{path}", self.origin)
    }

    /// Calls the API with a key.
    pub(crate) async fn call(&self, method: Method, path: &str, secret: &str) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.origin))
            .header("authorization", format!("Bearer {secret}"));
        let answer = self.send(request).await;
        // Keys that are not known are refused without a trace.
        if answer.status != StatusCode::UNAUTHORIZED {
            self.served.set(self.served.get() + 1);
        }
        answer
    }

    pub(crate) async fn get(&self, path: &str, secret: &str) -> StatusCode {
        self.call(Method::GET, path, secret).await.status
    }

    async fn send(&self, request: http::request::Builder) -> Answer {
        let request = request.body(Full::default()).unwrap();
        Answer::of(self.client.request(request).await.unwrap()).await
    }

    /// Tells whether it still runs.
    pub(crate) fn tell(mut self) {
        eprintln!("the demo: {}", self.program.state());
    }

    /// Stops it as Ctrl-C does: all that was asked for is written.
    pub(crate) fn stop(self) {
        let last = self.program.interrupt();
        let numbers = last
            .strip_prefix("written: ")
            .and_then(|numbers| numbers.split_once(", lost: "))
            .unwrap_or_else(|| panic!("the demo's last words were {last:?}"));
        assert_eq!(numbers.1, "0", "the demo has lost usage");
        let written: u64 = numbers.0.parse().unwrap();
        assert!(written >= self.served.get(), "the demo has written {last}");
    }
}

/// Where the demo is; it is built first.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let output = Command::new(env!("CARGO"))
            .args(["build", "--example", "demo", "--features", "full"])
            .arg("--message-format=json-render-diagnostics")
            .arg("--target-dir")
            .arg(target())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stderr(std::process::Stdio::inherit())
            .output()
            .expect("cargo does not start");
        assert!(output.status.success(), "the demo cannot be built");
        let messages = String::from_utf8(output.stdout).unwrap();
        messages
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|message| message["target"]["name"] == "demo")
            .find_map(|message| message["executable"].as_str().map(PathBuf::from))
            .expect("cargo does not tell where the demo is")
    })
}

/// The folder of what is built.
pub(crate) fn target() -> &'static Path {
    let within = Path::new(env!("CARGO_TARGET_TMPDIR"));
    within.parent().expect("a folder in the target folder")
}
