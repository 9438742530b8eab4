//! The example `cloud_events`, which posts the request log to a billing system.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use jiff::{Timestamp, ToSpan, Unit};
use keytally::ApiKeyLayer;
use keytally::backend::{Retention, SqliteBackend};
use keytally::key::{Actor, Issuer, NewKey};
use keytally::limit::RateLimit;
use keytally::usage::{RecordedQuery, Recorder, UsageEvent, UsageReader};
use serde::Deserialize;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::children::{self, Process, some};

/// How often to kill the example: `KEYTALLY_TEST_KILLS`, 15 by default.
fn kills() -> usize {
    let kills = std::env::var("KEYTALLY_TEST_KILLS");
    kills.map_or(15, |kills| kills.parse().unwrap())
}

fn example() -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    Command::new(PROGRAM.get_or_init(|| children::build("--example=cloud_events")))
}

/// An API that records its requests in a SQLite file.
struct Api {
    dir: PathBuf,
    backend: SqliteBackend,
    recorder: Recorder,
    router: Router,
    secrets: Vec<String>,
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Api {
    async fn start() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("keytally-cloud-events-{}-{n}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        let backend = SqliteBackend::open(dir.join("usage.db")).await.unwrap();
        backend.migrate().await.unwrap();
        let recorder = Recorder::new(backend.clone());
        let layer = ApiKeyLayer::new(backend.clone())
            .recorder(recorder.clone())
            .allow_anonymous()
            .cost(|parts| u32::try_from(parts.uri().path().len()).unwrap());
        let router = Router::new()
            .route("/v1/postings/{id}", get(|| async { "a baker, a joiner" }))
            .layer(layer);
        let issuer = Issuer::new("acme_test").unwrap();
        let mut secrets = Vec::new();
        for new in [
            NewKey::new("a").owner("customer-17"),
            NewKey::new("b").owner("customer-17"),
            NewKey::new("c").owner("Kundin \"Größe\" 東"),
            NewKey::new("limited")
                .owner("customer-18")
                .limit(RateLimit::per_hour(9)),
            NewKey::new("without owner"),
        ] {
            let issued = issuer.issue(&backend, new, Actor::SYSTEM).await.unwrap();
            secrets.push(issued.secret.expose().to_owned());
        }
        Self {
            dir,
            backend,
            recorder,
            router,
            secrets,
        }
    }

    /// Serves and records this many requests of random keys, one of them anonymous.
    async fn serve(&self, count: usize) {
        for n in 0..count {
            let id = fastrand::u32(..) >> fastrand::u32(..32);
            let path = fastrand::choice([format!("/v1/postings/{id}"), format!("/unknown/{id}")]);
            let mut request = Request::get(path.unwrap());
            if n > 0 {
                let secret = fastrand::choice(&self.secrets).unwrap();
                request = request.header("authorization", format!("Bearer {secret}"));
            }
            let request = request.body(axum::body::Body::empty()).unwrap();
            let response = self.router.clone().oneshot(request).await.unwrap();
            response.into_body().collect().await.unwrap();
        }
        self.recorder.flush().await;
    }

    /// The events of the log that have a customer, in recording order.
    async fn billable(&self) -> Vec<UsageEvent> {
        let mut events = Vec::new();
        let mut query = RecordedQuery::default();
        loop {
            let page = self.backend.recorded(&query).await.unwrap();
            events.extend(page.items.into_iter().map(|item| item.event));
            query.after = page.cursor;
            if !page.more {
                events.retain(|event| event.key.is_some());
                return events;
            }
        }
    }

    fn file(&self) -> PathBuf {
        self.dir.join("usage.db")
    }

    fn cursor_file(&self) -> PathBuf {
        self.dir.join("usage.db.cursor")
    }

    fn follow(&self, endpoint: &str) -> Process {
        Process::spawn(example().arg("--follow").arg(self.file()).arg(endpoint))
    }

    /// Posts until the end of the log.
    async fn post(&self, endpoint: &str, options: &[&str]) -> Output {
        let mut command = example();
        command.args(options).arg(self.file()).arg(endpoint);
        let output = tokio::task::spawn_blocking(move || command.output());
        output.await.unwrap().unwrap()
    }
}

#[track_caller]
fn assert_success(output: &Output) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}

/// An event by `source` and `id`.
type Events = BTreeMap<(String, String), Value>;

fn by_identity(events: impl IntoIterator<Item = Value>) -> Events {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let events = events
        .into_iter()
        .map(|event| ((text(&event["source"]), text(&event["id"])), event));
    events.collect()
}

/// The expected CloudEvents attributes and data, as the receiver reports them.
fn expected(event: &UsageEvent) -> Value {
    let key = event.key.unwrap().to_string();
    json!({
        "source": "keytally",
        "id": event.id.to_string(),
        "type": "request",
        "subject": event.owner.as_deref().unwrap_or(&key),
        "time": event.time.to_string(),
        "datacontenttype": "application/json",
        "data": {
            "key": key,
            "method": "GET",
            "route": &*event.endpoint,
            "status": event.status.to_string(),
            "outcome": event.outcome.to_string(),
            "cost": event.cost,
            "billable_cost": event.billable_cost(),
            "latency_us": event.latency_us,
            "request_bytes": event.request_bytes,
            "response_bytes": event.response_bytes,
        },
    })
}

/// What `tests/support/cloudevents_receiver.py` reports.
#[derive(Deserialize)]
struct Report {
    events: Vec<Value>,
    costs: BTreeMap<String, u64>,
    errors: Vec<String>,
    posts: usize,
    unavailable: usize,
    dropped: usize,
    held: usize,
    duplicates: usize,
}

fn report(receiver: &mut Process) -> Report {
    receiver.write_line("report");
    serde_json::from_str(&receiver.wait_for("report ")).unwrap()
}

/// Posts while requests are recorded, with a receiver that fails at times, and with kills: after the receiver has
/// accepted a batch and not responded, after it has responded with 503, and at random moments.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KEYTALLY_PYTHON, a Python with cloudevents; scripts/test installs one"]
async fn failures_and_kills_neither_lose_nor_repeat_events() {
    let python = std::env::var("KEYTALLY_PYTHON").unwrap();
    let seed = fastrand::u32(..).to_string();
    println!("seed of the receiver: {seed}");
    let mut receiver = Process::spawn(Command::new(python).args([
        "tests/support/cloudevents_receiver.py",
        "0",
        &seed,
    ]));
    let endpoint = receiver.wait_for("listening on ");

    let api = Arc::new(Api::start().await);
    // A backlog of several batches.
    api.serve(500).await;
    let stop = Arc::new(AtomicBool::new(false));
    let traffic = tokio::spawn({
        let (api, stop) = (Arc::clone(&api), Arc::clone(&stop));
        async move {
            while !stop.load(Ordering::Relaxed) {
                api.serve(10).await;
                tokio::time::sleep(some(Duration::from_millis(50))).await;
            }
        }
    });
    for kill in 0..kills() {
        let example = api.follow(&endpoint);
        match kill % 3 {
            0 => {
                receiver.write_line("hold");
                receiver.wait_for("held");
            }
            1 => {
                receiver.write_line("unavailable");
                receiver.wait_for("unavailable");
            }
            _ => tokio::time::sleep(some(Duration::from_millis(500))).await,
        }
        example.kill();
    }
    stop.store(true, Ordering::Relaxed);
    traffic.await.unwrap();
    api.serve(10).await;
    assert_eq!(api.recorder.stats().lost, 0);
    assert_success(&api.post(&endpoint, &[]).await);

    let end = report(&mut receiver);
    assert_eq!(end.errors, [""; 0]);
    let logged = api.billable().await;
    let accepted = end.events.into_iter().map(|mut event| {
        let time: Timestamp = event["time"].as_str().unwrap().parse().unwrap();
        event["time"] = time.to_string().into();
        event
    });
    let (accepted, wanted) = (
        by_identity(accepted),
        by_identity(logged.iter().map(expected)),
    );
    let missing = wanted.keys().filter(|id| !accepted.contains_key(id));
    let unknown = accepted.keys().filter(|id| !wanted.contains_key(id));
    assert_eq!(
        (missing.count(), unknown.count()),
        (0, 0),
        "missing and unknown events of {}",
        wanted.len()
    );
    assert_eq!(accepted, wanted);
    let mut costs = BTreeMap::<String, u64>::new();
    for event in &logged {
        let key = event.key.unwrap().to_string();
        let subject = event.owner.as_deref().unwrap_or(&key);
        *costs.entry(subject.into()).or_default() += u64::from(event.billable_cost());
    }
    assert_eq!(costs.len(), 4);
    assert_eq!(end.costs, costs);
    // The receiver has seen each kind of failure, and repeated batches.
    assert!(end.unavailable > 0 && end.dropped > 0 && end.held > 0 && end.duplicates > 0);

    receiver.write_line("recover");
    assert_success(&api.post(&endpoint, &[]).await);
    assert_eq!(
        report(&mut receiver).posts,
        end.posts,
        "the cursor was not saved"
    );
    println!(
        "{} events, {} posts: {} unavailable, {} dropped, {} held; {} duplicates",
        logged.len(),
        end.posts,
        end.unavailable,
        end.dropped,
        end.held,
        end.duplicates
    );
}

type Failure = (StatusCode, HeaderMap, &'static str);

/// Records posts, and responds with the given failures first.
#[derive(Clone, Default)]
struct Endpoint {
    failures: Arc<Mutex<VecDeque<Failure>>>,
    posts: Arc<Mutex<Vec<(Timestamp, Bytes)>>>,
}

impl Endpoint {
    fn fail(&self, status: u16, headers: &[(&'static str, &str)], text: &'static str) {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let status = StatusCode::from_u16(status).unwrap();
        let failure = (status, headers.collect(), text);
        self.failures.lock().unwrap().push_back(failure);
    }

    /// Serves until the test ends. Returns the URL.
    async fn serve(&self) -> String {
        let receive = async |State(endpoint): State<Self>, headers: HeaderMap, body: Bytes| {
            assert_eq!(
                headers["content-type"],
                "application/cloudevents-batch+json"
            );
            endpoint
                .posts
                .lock()
                .unwrap()
                .push((Timestamp::now(), body));
            let failure = endpoint.failures.lock().unwrap().pop_front();
            failure.unwrap_or((StatusCode::NO_CONTENT, HeaderMap::new(), ""))
        };
        let router = Router::new()
            .route("/api/v1/events", post(receive))
            .with_state(self.clone());
        let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener = listener.await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}/api/v1/events")
    }

    fn posts(&self) -> Vec<(Timestamp, Bytes)> {
        self.posts.lock().unwrap().clone()
    }

    /// All events posted so far.
    fn events(&self) -> Vec<Value> {
        let batches = self.posts();
        let batches = batches
            .iter()
            .map(|(_, body)| serde_json::from_slice::<Vec<Value>>(body).unwrap());
        batches.flatten().collect()
    }
}

fn ids<'a>(events: impl IntoIterator<Item = &'a Value>) -> Vec<String> {
    let ids = events
        .into_iter()
        .map(|event| event["id"].as_str().unwrap());
    ids.map(str::to_owned).collect()
}

fn cursor(file: &Path) -> Option<String> {
    std::fs::read_to_string(file).ok()
}

#[tokio::test]
async fn rejected_batch_ends_the_example_and_is_posted_again_by_the_next_run() {
    let api = Api::start().await;
    api.serve(250).await;
    let endpoint = Endpoint::default();
    endpoint.fail(400, &[], "there is no such meter");
    let url = endpoint.serve().await;
    let output = api.post(&url, &[]).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        errors.contains("400 Bad Request: there is no such meter"),
        "{errors}"
    );
    assert_eq!(cursor(&api.cursor_file()), None);
    let (_, rejected) = endpoint.posts().remove(0);

    assert_success(&api.post(&url, &[]).await);
    let posts = endpoint.posts();
    assert_eq!((posts.len(), &posts[1].1), (4, &rejected));
    endpoint.posts.lock().unwrap().remove(0);
    let logged = api.billable().await;
    let logged: Vec<_> = logged.iter().map(|event| event.id.to_string()).collect();
    assert_eq!(ids(&endpoint.events()), logged);
}

#[tokio::test]
async fn retry_after_is_awaited_and_the_same_batch_posted_again() {
    let api = Api::start().await;
    api.serve(20).await;
    // Builds the example, so that the date below is in the future when it arrives.
    example();
    let endpoint = Endpoint::default();
    endpoint.fail(503, &[("retry-after", "1")], "");
    let date = (Timestamp::now() + 4.seconds())
        .round(Unit::Second)
        .unwrap();
    let date_text = date.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    endpoint.fail(429, &[("retry-after", &date_text)], "");
    endpoint.fail(408, &[], "");
    let url = endpoint.serve().await;
    assert_success(&api.post(&url, &[]).await);
    let posts = endpoint.posts();
    assert_eq!(posts.len(), 4);
    assert!(posts.iter().all(|(_, body)| *body == posts[0].1));
    let [first, second, third, _] = [0, 1, 2, 3].map(|n| posts[n].0);
    assert!(second >= first + 1.second(), "{first} {second}");
    assert!(third >= date, "{third} {date}");
}

#[tokio::test]
async fn pruned_events_end_the_example_until_the_gap_is_accepted() {
    let api = Api::start().await;
    api.serve(20).await;
    let endpoint = Endpoint::default();
    let url = endpoint.serve().await;
    assert_success(&api.post(&url, &[]).await);
    let before = cursor(&api.cursor_file());
    assert!(before.is_some());

    api.serve(20).await;
    let later = Timestamp::now() + (60 * 24).hours();
    api.backend.prune(&Retention::new(), later).await.unwrap();
    api.serve(20).await;
    let posts = endpoint.posts().len();
    let output = api.post(&url, &[]).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(errors.contains("--accept-gap"), "{errors}");
    assert_eq!(endpoint.posts().len(), posts);
    assert_eq!(cursor(&api.cursor_file()), before);

    assert_success(&api.post(&url, &["--accept-gap"]).await);
    let logged = api.billable().await;
    let logged: Vec<_> = logged.iter().map(|event| event.id.to_string()).collect();
    let (_, last) = endpoint.posts().pop().unwrap();
    let last: Vec<Value> = serde_json::from_slice(&last).unwrap();
    assert_eq!(ids(&last), logged);
    // The gap is reported once.
    assert_success(&api.post(&url, &[]).await);
    assert_eq!(endpoint.posts().len(), posts + 1);
}
