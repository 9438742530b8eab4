//! Builds and runs the demo.

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
use keytally::KeyId;
use serde_json::{Value, json};

use crate::program::Program;
use crate::support::Answer;
use crate::until::until;

/// The number of requests in [`Data::Few`].
const FEW: u64 = 400;

/// A used key of [`Data::Few`], and an unused one.
pub(crate) const USED: &str = "PowerAutomate";
pub(crate) const UNUSED: &str = "Nightly export";

/// What a demo starts with.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Data {
    /// Three keys, and 400 requests of the last few seconds. Nothing else calls the API.
    Few,
    /// The demo's sample data and background client.
    Sample,
}

/// A running demo, killed when dropped.
pub(crate) struct Demo {
    program: Program,
    /// The origin, without a trailing slash.
    pub(crate) origin: String,
    /// The admin token.
    pub(crate) token: String,
    /// The secret of the printed key.
    pub(crate) key: String,
    client: Client<HttpConnector, Full<Bytes>>,
    served: Cell<u64>,
}

impl Demo {
    /// Starts a demo with its own database in this directory.
    pub(crate) async fn start(folder: &Path, data: Data) -> Self {
        let mut command = Command::new(built());
        command
            .arg("--fresh")
            .args((data == Data::Few).then_some("--empty"))
            .env("PORT", "0")
            .env("FILE", folder.join("demo.db"))
            .env_remove("ADMIN_TOKEN");
        let mut program = Program::start(&mut command).expect("the demo starts");
        let pages = program.wait_for("pages:");
        let origin = pages.strip_suffix("/admin").expect("the URL of the pages");
        let demo = Self {
            origin: origin.into(),
            token: program.wait_for("token:"),
            key: program.wait_for("key:"),
            program,
            client: Client::builder(TokioExecutor::new()).build_http(),
            served: Cell::new(0),
        };
        if data == Data::Few {
            demo.seed().await;
        }
        demo
    }

    /// Replaces the printed key by three others, and sends requests with two of them.
    async fn seed(&self) {
        let printed = KeyId::of_secret(&self.key).expect("the id of the printed key");
        self.manage(Method::DELETE, &format!("/keys/{printed}"), None)
            .await;
        let mut secrets = Vec::new();
        for key in [
            json!({ "name": USED, "owner": "customer-17", "recoverable": true }),
            json!({
                "name": "Zapier Integration",
                "owner": "customer-17",
                "environment": "live",
                "limits": [{ "requests": 60, "period_seconds": 60, "burst": 20 }],
            }),
            json!({ "name": UNUSED, "owner": "customer-4", "scopes": ["read"] }),
        ] {
            let issued = self.manage(Method::POST, "/keys", Some(key)).await.json();
            secrets.push(issued["secret"].as_str().unwrap().to_owned());
        }
        for n in 0..FEW {
            let (method, path) = match n % 10 {
                0..5 => (Method::GET, "/v1/postings".into()),
                5 => (Method::POST, "/v1/postings".into()),
                6 | 7 => (Method::GET, format!("/v1/postings/{n}")),
                8 => (Method::GET, "/v1/postings/missing".into()),
                _ => (Method::GET, "/v1/reports".into()),
            };
            let secret = &secrets[usize::from(n % 3 == 0)];
            self.call(method, &path, secret).await;
        }
        until(async || {
            let recorder = self.manage(Method::GET, "/recorder", None).await;
            recorder.json()["written"] == FEW
        })
        .await;
    }

    /// Calls the JSON API of the dashboard, and expects success.
    pub(crate) async fn manage(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(self.page(&format!("/api{path}")))
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json");
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let answer = self.send(request, body).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.status);
        answer
    }

    /// The URL of a page.
    pub(crate) fn page(&self, path: &str) -> String {
        format!("{}/admin{path}", self.origin)
    }

    /// Calls the API with a key.
    pub(crate) async fn call(&self, method: Method, path: &str, secret: &str) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.origin))
            .header("authorization", format!("Bearer {secret}"));
        let response = self.send(request, String::new()).await;
        // Requests with unknown keys are not recorded.
        if response.status != StatusCode::UNAUTHORIZED {
            self.served.set(self.served.get() + 1);
        }
        response
    }

    pub(crate) async fn get(&self, path: &str, secret: &str) -> StatusCode {
        self.call(Method::GET, path, secret).await.status
    }

    async fn send(&self, request: http::request::Builder, body: String) -> Answer {
        let request = request.body(Full::from(body)).unwrap();
        Answer::of(self.client.request(request).await.unwrap()).await
    }

    /// Prints whether the demo is still running.
    pub(crate) fn tell(mut self) {
        eprintln!("the demo: {}", self.program.state());
    }

    /// Stops the demo with SIGINT, which writes all pending usage.
    pub(crate) fn stop(self) {
        let last = self.program.interrupt();
        let numbers = last
            .strip_prefix("written: ")
            .and_then(|numbers| numbers.split_once(", lost: "))
            .unwrap_or_else(|| panic!("the last line of the demo was {last:?}"));
        assert_eq!(numbers.1, "0", "the demo lost usage");
        let written: u64 = numbers.0.parse().unwrap();
        assert!(written >= self.served.get(), "the demo wrote {last}");
    }
}

/// Builds the demo once, and returns its path.
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
            .expect("cargo starts");
        assert!(output.status.success(), "the demo does not build");
        let messages = String::from_utf8(output.stdout).unwrap();
        messages
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|message| message["target"]["name"] == "demo")
            .find_map(|message| message["executable"].as_str().map(PathBuf::from))
            .expect("the path of the executable")
    })
}

/// The target directory.
pub(crate) fn target() -> &'static Path {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tmp.parent().expect("the target directory")
}
