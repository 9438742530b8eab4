//! Starts a browser for every test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use crate::program::Program;

/// No sandbox, since tests run as root in containers, and no background activity.
const ARGUMENTS: [&str; 12] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--lang=en-US",
    // Chromium exits with chromedriver, even if that is killed.
    "--remote-debugging-pipe",
    // No network access.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
];

/// Whether pages may run scripts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scripts {
    On,
    Off,
}

/// Chromium, driven by a chromedriver that is killed when dropped.
pub(crate) struct Browser {
    pub(crate) client: Client,
    pub(crate) downloads: PathBuf,
    _driver: Program,
}

impl Browser {
    /// Starts a browser with a fresh profile in this directory.
    pub(crate) async fn start(folder: &Path, scripts: Scripts) -> Self {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").stderr(Stdio::null());
        let mut driver = Program::start(&mut command).unwrap_or_else(|error| {
            panic!(
                "chromedriver does not start ({error}): apt-get install chromium chromium-driver"
            )
        });
        let port = driver.wait_for("ChromeDriver was started successfully on port ");
        let address = format!("http://127.0.0.1:{}/", port.trim_end_matches('.'));
        let downloads = folder.join("downloads");
        let profile = format!("--user-data-dir={}", folder.join("profile").display());
        let arguments: Vec<_> = ARGUMENTS.into_iter().chain([&*profile]).collect();
        // The values of the content setting: allowed or blocked.
        let javascript = if scripts == Scripts::On { 1 } else { 2 };
        let capabilities = json!({
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
            "goog:chromeOptions": {
                "args": arguments,
                "prefs": {
                    "download.default_directory": downloads,
                    "download.prompt_for_download": false,
                    "profile.default_content_setting_values.javascript": javascript,
                },
            },
        });
        let capabilities: Capabilities = serde_json::from_value(capabilities).unwrap();
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let client = builder.capabilities(capabilities).connect(&address).await;
        Self {
            client: client.expect("Chromium starts"),
            downloads,
            _driver: driver,
        }
    }

    /// Sends a command of the DevTools protocol.
    pub(crate) async fn devtools(&self, cmd: &str, params: Value) -> Value {
        let body = json!({ "cmd": cmd, "params": params });
        self.extra("goog/cdp/execute", body).await
    }

    /// Warnings and errors in the console, except for error statuses, which tests provoke.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let logged = self.extra("se/log", json!({ "type": "browser" })).await;
        let logged = logged.as_array().into_iter().flatten();
        logged
            .filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING")
            .filter_map(|entry| entry["message"].as_str())
            .filter(|message| !message.contains("the server responded with a status of"))
            .map(String::from)
            .collect()
    }

    /// The requests sent since the last call, as `Network.requestWillBeSent` events of the DevTools protocol. A redirect
    /// is in the event of the request that follows it.
    pub(crate) async fn requests(&self) -> Vec<Value> {
        let logged = self.extra("se/log", json!({ "type": "performance" })).await;
        let logged = logged.as_array().into_iter().flatten();
        logged
            .filter_map(|entry| serde_json::from_str(entry["message"].as_str()?).ok())
            .filter(|event: &Value| event["message"]["method"] == "Network.requestWillBeSent")
            .map(|mut event| event["message"]["params"].take())
            .collect()
    }

    /// The URLs in the history of the tab.
    pub(crate) async fn history(&self) -> Vec<String> {
        let history = self.devtools("Page.getNavigationHistory", json!({})).await;
        let entries = history["entries"].as_array().unwrap().iter();
        entries
            .map(|entry| entry["url"].as_str().unwrap().into())
            .collect()
    }

    /// Runs a script and returns its result, which may be a promise.
    pub(crate) async fn ask(&self, script: &str, arguments: Vec<Value>) -> Value {
        let response = self.client.execute(script, arguments).await;
        response.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Prints where a test failed, and takes a screenshot.
    pub(crate) async fn tell_what_is_seen(&self, picture: &Path) {
        if let Ok(url) = self.client.current_url().await {
            eprintln!("failed at {url}; see {}", picture.display());
        }
        if let Ok(png) = self.client.screenshot().await {
            let _ = std::fs::write(picture, png);
        }
        eprintln!("console messages: {:?}", self.complaints().await);
    }

    /// Closes the browser.
    pub(crate) async fn close(self) {
        let closed = self.client.close().await;
        closed.expect("Chromium exits");
    }

    async fn extra(&self, path: &'static str, body: Value) -> Value {
        let command = Extra { path, body };
        let response = self.client.issue_cmd(command).await;
        response.unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

/// A vendor command of chromedriver.
#[derive(Debug)]
struct Extra {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Extra {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        let session = session.expect("a session");
        base.join(&format!("session/{session}/{}", self.path))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.body.to_string()))
    }
}
