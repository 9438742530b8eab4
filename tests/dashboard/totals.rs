//! End-to-end accounting: the pages show exactly what the clients counted, for 10,000 requests over TCP through the
//! layer and the recorder into a SQLite file.

use crate::support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use keytally::ApiKeyLayer;
use keytally::backend::SqliteBackend;
use keytally::dashboard::{BearerToken, Dashboard};
use keytally::key::{Actor, AddressList, Issuer, KeyAdmin, NewKey};
use keytally::limit::RateLimit;
use keytally::usage::{Recorder, RejectionReason};
use support::{Answer, serve};

const TOKEN: &str = "a token of sixteen or more";

const CLIENTS: usize = 8;
const EACH: usize = 1_250;

/// The requests that clients send in turn. Their number is coprime to the number of keys, so that every key sends each.
const REQUESTS: [(&str, &str, &str); 11] = [
    ("GET", "/v1/postings", "/v1/postings"),
    ("GET", "/v1/postings/7", "/v1/postings/{id}"),
    ("POST", "/v1/postings", "/v1/postings"),
    ("GET", "/v1/postings/missing", "/v1/postings/{id}"),
    ("PUT", "/v1/postings/8", "/v1/postings/{id}"),
    ("HEAD", "/v1/postings", "/v1/postings"),
    ("PATCH", "/v1/postings/8", "/v1/postings/{id}"),
    ("GET", "/v1/reports", "/v1/reports"),
    ("DELETE", "/v1/postings/9", "/v1/postings/{id}"),
    ("OPTIONS", "/v1/reports", "/v1/reports"),
    ("GET", "/v1/postings?page=2", "/v1/postings"),
];

/// The number of requests by method, endpoint and status.
type Tally = BTreeMap<(String, String, u16), u64>;

fn routes() -> Router {
    let posting = async |Path(id): Path<String>| match id.parse::<u32>() {
        Ok(id) => Ok(format!("posting {id}")),
        Err(_) => Err(StatusCode::NOT_FOUND),
    };
    let gone = || async { StatusCode::NO_CONTENT };
    let postings = get(|| async { "postings" }).post(|| async { (StatusCode::CREATED, "thanks") });
    let of_posting = get(posting).put(posting).patch(posting).delete(gone);
    let reports = get(|| async { StatusCode::INTERNAL_SERVER_ERROR }).options(gone);
    Router::new()
        .route("/v1/postings", postings)
        .route("/v1/postings/{id}", of_posting)
        .route("/v1/reports", reports)
}

/// Sends requests with all secrets in turn, and returns a tally for each.
async fn client(address: SocketAddr, number: usize, secrets: Vec<String>) -> Vec<Tally> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut tallies = vec![Tally::new(); secrets.len()];
    for n in 0..EACH {
        let n = n + number;
        let (method, path, endpoint) = REQUESTS[n % REQUESTS.len()];
        let secret = n % secrets.len();
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{address}{path}"))
            .header("x-api-key", &secrets[secret])
            .body(Full::default())
            .unwrap();
        let response = Answer::of(client.request(request).await.unwrap()).await;
        let row = (method.into(), endpoint.into(), response.status.as_u16());
        *tallies[secret].entry(row).or_default() += 1;
    }
    tallies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn totals_on_the_pages_match_the_clients_counts() {
    let file = File::new("numbers");
    let backend = SqliteBackend::open(&file.0).await.unwrap();
    backend.migrate().await.unwrap();
    let recorder = Recorder::new(backend.clone());
    let issuer = Issuer::new("acme_live").unwrap();
    let guard = BearerToken::new(TOKEN).unwrap();
    let dashboard = Dashboard::new(backend.clone(), guard);
    let layer = ApiKeyLayer::new(backend.clone()).recorder(recorder.clone());
    let pages = dashboard.issuer(issuer.clone()).recorder(recorder.clone());
    let app = routes().layer(layer).nest("/admin", pages.into_router());
    let address = serve(app).await;

    // An unlimited key, a rate-limited one, one with another client IP, a disabled one and a deleted one.
    let day = Duration::from_secs(24 * 3_600);
    let other_network = AddressList::parse(["203.0.113.0/24"]).unwrap();
    let mut keys = Vec::new();
    for new in [
        NewKey::new("Unlimited"),
        NewKey::new("Rate-limited").limit(RateLimit::per(1_000, day)),
        NewKey::new("Other network").addresses(other_network),
        NewKey::new("Disabled"),
        NewKey::new("Deleted"),
    ] {
        keys.push(issuer.issue(&backend, new, Actor::SYSTEM).await.unwrap());
    }
    backend
        .disable(keys[3].key.id, Actor::SYSTEM)
        .await
        .unwrap();
    backend.delete(keys[4].key.id, Actor::SYSTEM).await.unwrap();
    let secrets: Vec<String> = keys.iter().map(|key| key.secret.expose().into()).collect();

    let clients = (0..CLIENTS).map(|n| tokio::spawn(client(address, n, secrets.clone())));
    let mut counted = vec![Tally::new(); keys.len()];
    for client in clients.collect::<Vec<_>>() {
        for (sum, tally) in counted.iter_mut().zip(client.await.unwrap()) {
            for (row, count) in tally {
                *sum.entry(row).or_default() += count;
            }
        }
    }
    recorder.flush().await;

    let all: u64 = counted.iter().flat_map(BTreeMap::values).sum();
    assert_eq!(all, (CLIENTS * EACH) as u64);
    for (key, counted) in keys.iter().zip(&counted) {
        let statuses: Vec<u16> = counted.keys().map(|(.., status)| *status).collect();
        let expected: &[u16] = match &*key.key.name {
            "Unlimited" => &[200, 201, 204, 404, 500],
            "Rate-limited" => &[200, 201, 204, 404, 429, 500],
            "Other network" => &[403],
            _ => &[401],
        };
        for status in expected {
            assert!(
                statuses.contains(status),
                "{} had no {status}",
                key.key.name
            );
        }
    }
    // A limited number of rejections per key are events; the others are only counted.
    let stats = recorder.stats();
    for (key, counted) in keys.iter().zip(&mut counted).take(4).skip(2) {
        let events = exported(address, key.key.id.as_str()).await;
        let reason = match &*key.key.name {
            "Other network" => RejectionReason::ClientIp,
            _ => RejectionReason::Disabled,
        };
        let all = sum(counted, |_, _, _| true);
        let recorded = sum(&events, |_, _, _| true);
        assert_eq!(recorded, 10, "{}", key.key.name);
        assert_eq!(stats.rejected_for(reason), all - recorded, "{reason}");
        assert!(events.iter().all(|(row, count)| counted[row] >= *count));
        *counted = events;
    }
    for (key, counted) in keys.iter().zip(&counted).take(4) {
        let name = &key.key.name;
        let id = key.key.id;
        let page = Page::get(address, &format!("/admin/keys/{id}")).await;
        page.shows(name, counted);
        let classes = format!("/admin/keys/{id}?statuses=classes");
        Page::get(address, &classes)
            .await
            .shows_classes(name, counted);
        assert_eq!(page.logged(), sum(counted, |_, _, _| true), "{name}");
        let exported = exported(address, id.as_str()).await;
        assert_eq!(&exported, counted, "{name}");
        filtered(address, id.as_str(), counted).await;
    }
    let mut sums = Tally::new();
    for (row, count) in counted.iter().take(4).flatten() {
        *sums.entry(row.clone()).or_default() += count;
    }
    let overview = Page::get(address, "/admin").await;
    overview.shows("the overview", &sums);
    let classes = Page::get(address, "/admin?statuses=classes").await;
    classes.shows_classes("the overview", &sums);
    let by_key = keys.iter().zip(&counted).take(4);
    let by_key = by_key.map(|(key, counted)| (key.key.name.clone(), sum(counted, |_, _, _| true)));
    assert_eq!(overview.chart("Top keys"), by_key.collect());
    let log = Page::get(address, "/admin/log").await;
    assert_eq!(log.logged(), sum(&sums, |_, _, _| true));
    // Requests with an unknown key are not recorded for the key.
    let deleted = keys[4].key.id;
    let page = Page::get(address, &format!("/admin/log/csv?key={deleted}")).await;
    assert_eq!(page.0.lines().count(), 1, "{}", page.0);
}

/// Compares the counts of filtered logs.
async fn filtered(address: SocketAddr, key: &str, counted: &Tally) {
    type Matches = fn(&str, &str, u16) -> bool;
    let filters: [(&str, Matches); 7] = [
        ("method=POST", |method, _, _| method == "POST"),
        ("outcome=completed", |_, _, status| status < 400),
        ("outcome=rate_limited", |_, _, status| status == 429),
        ("code=404", |_, _, status| status == 404),
        ("code=4xx", |_, _, status| status / 100 == 4),
        ("endpoint=/v1/reports", |_, endpoint, _| {
            endpoint == "/v1/reports"
        }),
        ("method=GET&code=5xx", |method, _, status| {
            method == "GET" && status >= 500
        }),
    ];
    for (filter, matches) in filters {
        let page = Page::get(address, &format!("/admin/keys/{key}?{filter}")).await;
        let expected = sum(counted, matches);
        assert_eq!(page.logged(), expected, "{filter}");
    }
}

/// The tally of a key's exported log.
async fn exported(address: SocketAddr, key: &str) -> Tally {
    let csv = Page::get(address, &format!("/admin/log/csv?key={key}"))
        .await
        .0;
    let mut tally = Tally::new();
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    for row in reader.deserialize() {
        let row: BTreeMap<String, String> = row.unwrap();
        let status = row["status"].parse().unwrap();
        let key = (row["method"].clone(), row["endpoint"].clone(), status);
        *tally.entry(key).or_default() += 1;
    }
    tally
}

fn sum(counted: &Tally, matches: impl Fn(&str, &str, u16) -> bool) -> u64 {
    let counted = counted.iter();
    let matching =
        counted.filter(|((method, endpoint, status), _)| matches(method, endpoint, *status));
    matching.map(|(_, count)| count).sum()
}

/// The body of a page.
struct Page(String);

impl Page {
    async fn get(address: SocketAddr, path: &str) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let request = Request::builder()
            .method(Method::GET)
            .uri(format!("http://{address}{path}"))
            .header("authorization", format!("Bearer {TOKEN}"))
            .body(Full::default())
            .unwrap();
        let response = Answer::of(client.request(request).await.unwrap()).await;
        assert_eq!(response.status, StatusCode::OK, "{path}");
        Self(String::from_utf8(response.body.into()).unwrap())
    }

    /// Compares all cards and charts.
    fn shows(&self, name: &str, counted: &Tally) {
        let all = sum(counted, |_, _, _| true);
        let completed = sum(counted, |_, _, status| status < 400);
        let limited = sum(counted, |_, _, status| status == 429);
        for (card, count) in [
            ("Total requests", all),
            ("Completed", completed),
            ("Failed", all - completed - limited),
            ("Rate limited", limited),
        ] {
            assert_eq!(self.card(card), count, "{name}: {card}");
        }
        let by = |name: fn(&str, &str, u16) -> String| {
            let mut sums = BTreeMap::new();
            for ((method, endpoint, status), count) in counted {
                *sums.entry(name(method, endpoint, *status)).or_default() += count;
            }
            sums
        };
        for (chart, expected) in [
            ("By HTTP method", by(|method, _, _| method.into())),
            ("By response status", by(|_, _, status| status_name(status))),
            ("Top endpoints", by(|_, endpoint, _| endpoint.into())),
        ] {
            assert_eq!(self.chart(chart), expected, "{name}: {chart}");
        }
        let mut causes = by(|_, _, status| cause(status).into());
        causes.remove("");
        if causes.is_empty() {
            assert!(self.0.contains("No failed requests in this period."));
        } else {
            assert_eq!(self.chart("Why requests failed"), causes, "{name}");
        }
    }

    /// Compares the chart of status classes.
    fn shows_classes(&self, name: &str, counted: &Tally) {
        let mut classes = BTreeMap::new();
        for ((.., status), count) in counted {
            *classes.entry(format!("{}xx", status / 100)).or_default() += count;
        }
        assert_eq!(self.chart("By response status"), classes, "{name}");
    }

    /// The number of a card.
    fn card(&self, title: &str) -> u64 {
        let texts = texts(&self.0);
        let found = texts.windows(2).find_map(|pair| match pair {
            [text, next] if text == title => number(next),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("no number under {title:?}"))
    }

    /// The number of requests that the log shows.
    fn logged(&self) -> u64 {
        let (_, log) = self.0.split_once(">Request log<").expect("a log");
        let count = texts(log).into_iter().find_map(|text| {
            let count = text.strip_suffix(" requests");
            number(count.or(text.strip_suffix(" request"))?)
        });
        count.expect("the number of requests")
    }

    /// The rows of the table with this title, without the total.
    fn chart(&self, title: &str) -> BTreeMap<String, u64> {
        let (_, after) = self.0.split_once(&format!(">{title}<")).expect(title);
        let (_, body) = after.split_once("<tbody>").expect(title);
        let (body, _) = body.split_once("</tbody>").expect(title);
        let rows = body.split("</tr>").map(texts);
        let rows = rows.filter(|cells| !cells.is_empty() && cells[0] != "Total");
        rows.map(|cells| (cells[0].clone(), number(&cells[1]).expect(title)))
            .collect()
    }
}

fn status_name(status: u16) -> String {
    let name = match status {
        200 => "OK",
        201 => "Created",
        204 => "No content",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not found",
        429 => "Too many requests",
        500 => "Internal server error",
        other => panic!("{other}"),
    };
    format!("{status} {name}")
}

/// Why a request failed. Empty unless it did.
fn cause(status: u16) -> &'static str {
    match status {
        401 => "Disabled",
        403 => "Address not allowed",
        404 => "Not found (404)",
        500 => "Server error (500)",
        _ => "",
    }
}

/// The text nodes.
fn texts(html: &str) -> Vec<String> {
    let pieces = html.split('<').map(|piece| match piece.split_once('>') {
        Some((_, text)) => text.trim(),
        None => "",
    });
    let texts = pieces.filter(|text| !text.is_empty());
    texts.map(String::from).collect()
}

fn number(text: &str) -> Option<u64> {
    text.replace(',', "").parse().ok()
}

/// A database file, removed when dropped.
pub(crate) struct File(pub(crate) PathBuf);

impl File {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("keytally-{name}-{}.db", std::process::id());
        let file = Self(std::env::temp_dir().join(name));
        file.remove();
        file
    }

    fn remove(&self) {
        for beside in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{beside}", self.0.display()));
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.remove();
    }
}
