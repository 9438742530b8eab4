//! Posts the request log to a billing system as CloudEvents, so that it counts each event exactly once.
//!
//! ```text
//! cargo run --example sqlite --features axum,sqlite -- usage.db
//! cargo run --example cloud_events --features sqlite -- usage.db http://127.0.0.1:8888/api/v1/events
//! ```
//!
//! The first command serves an API that records its requests in `usage.db`; run the `curl` command that it prints.
//! The second, in another terminal, posts the events in batches, here to [OpenMeter](https://openmeter.io), whose
//! sample meter `api_requests_total` counts them. It exits at the end of the log; with `--follow`, it keeps polling.
//! To try it without a billing system, start the receiver of the tests first:
//!
//! ```text
//! pip install 'cloudevents>=2'
//! python3 tests/support/cloudevents_receiver.py 8888
//! ```
//!
//! # Exactly once
//!
//! Each event is posted at least once: the cursor is saved in `usage.db.cursor` only after the endpoint has accepted
//! a batch. After a crash or a lost response, the batch is posted again, and the receiver ignores the events that it
//! already has, by `source` and `id`, as CloudEvents specifies. OpenMeter does so for 32 days if `dedupe` is
//! enabled. The source is the third argument; events posted with another source count again.
//!
//! - Failed posts are retried with backoff, or after `Retry-After`. A status that a retry cannot change, such as
//!   400, ends the program without skipping the batch.
//! - If the log was pruned before it was read, the program ends too: compare the billing system with the summaries,
//!   then continue with `--accept-gap`.
//! - To bill by cost, sum up `$.billable_cost`, which is 0 for requests that are not billable. Anonymous requests have
//!   no customer and are not posted.
//! - This example supports `http` only. For `https`, use a connector with TLS, such as hyper-rustls.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use keytally::backend::SqliteBackend;
use keytally::usage::{LogCursor, RecordedQuery, UsageEvent, UsageReader};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

const USAGE: &str =
    "usage: cloud_events [--follow] [--accept-gap] <database file> <endpoint> [source]";

/// The maximum number of events per post.
const BATCH_SIZE: usize = 100;
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const POST_TIMEOUT: Duration = Duration::from_secs(30);
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (options, arguments): (Vec<_>, Vec<_>) = std::env::args()
        .skip(1)
        .partition(|argument| argument.starts_with("--"));
    let (mut follow, mut accept_gap) = (false, false);
    for option in &options {
        match &**option {
            "--follow" => follow = true,
            "--accept-gap" => accept_gap = true,
            _ => return Err(USAGE.into()),
        }
    }
    let (database, endpoint, source) = match &arguments[..] {
        [database, endpoint] => (database, endpoint, "keytally"),
        [database, endpoint, source] => (database, endpoint, &**source),
        _ => return Err(USAGE.into()),
    };
    let endpoint: Uri = endpoint.parse()?;
    if endpoint.scheme_str() != Some("http") {
        return Err("the endpoint must be an http:// URL".into());
    }
    // Opening a file that does not exist would create it.
    if !fs::exists(database)? {
        return Err(format!("there is no file {database}: start the API first").into());
    }
    // For PostgreSQL, use `PostgresBackend::connect`.
    let backend = SqliteBackend::open(database).await?;
    let client = Client::builder(TokioExecutor::new()).build_http();

    let cursor_file = PathBuf::from(format!("{database}.cursor"));
    let mut cursor = load(&cursor_file)?;
    loop {
        let query = RecordedQuery::after(cursor).limit(BATCH_SIZE);
        let page = backend.recorded(&query).await?;
        if page.has_gap && !accept_gap {
            return Err(format!(
                "events after cursor {cursor} were pruned before they were posted: compare the billing system with \
                 the summaries, then continue with --accept-gap"
            )
            .into());
        }
        let items = page.items.iter();
        let events: Vec<_> = items
            .filter_map(|item| cloud_event(&item.event, source))
            .collect();
        if !events.is_empty() {
            post(&client, &endpoint, serde_json::to_vec(&events)?.into()).await?;
            println!("posted {} events", events.len());
        }
        if page.cursor != cursor {
            // After the post: a crash in between repeats the batch, while the opposite order would lose it.
            cursor = page.cursor;
            save(&cursor_file, cursor)?;
        }
        if !page.more {
            if !follow {
                return Ok(());
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}

/// The event in the JSON format of CloudEvents 1.0; `None` for an anonymous request.
fn cloud_event(event: &UsageEvent, source: &str) -> Option<Value> {
    let key = event.key?;
    let subject = match &event.owner {
        Some(owner) => owner.to_string(),
        None => key.to_string(),
    };
    Some(json!({
        "specversion": "1.0",
        "id": event.id,
        "source": source,
        "type": "request",
        "subject": subject,
        "time": event.time,
        "datacontenttype": "application/json",
        "data": {
            "key": key,
            "method": event.method,
            "route": event.endpoint,
            "status": event.status,
            "outcome": event.outcome,
            "cost": event.cost,
            "billable_cost": event.billable_cost(),
            "latency_us": event.latency_us,
            "request_bytes": event.request_bytes,
            "response_bytes": event.response_bytes,
        },
    }))
}

type HttpClient = Client<HttpConnector, Full<Bytes>>;

/// Posts a batch until the endpoint accepts it. Fails if the endpoint rejects it.
async fn post(client: &HttpClient, endpoint: &Uri, batch: Bytes) -> Result<(), Box<dyn Error>> {
    let mut backoff = MIN_BACKOFF;
    loop {
        let request = Request::post(endpoint)
            .header(CONTENT_TYPE, "application/cloudevents-batch+json")
            .body(Full::new(batch.clone()))?;
        let (failure, retry_after) = match send(client, request).await {
            Ok(response) if response.status().is_success() => return Ok(()),
            Ok(response) => {
                let status = response.status();
                let failure = format!("{status}: {}", String::from_utf8_lossy(response.body()));
                if !is_temporary(status) {
                    return Err(format!("the endpoint rejected a batch with {failure}").into());
                }
                (failure, retry_after(response.headers()))
            }
            Err(error) => (format!("{error:?}"), None),
        };
        let jittered = backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
        let wait = jittered.max(retry_after.unwrap_or_default());
        eprintln!("retrying in {wait:.1?} after {failure}");
        sleep(wait).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

async fn send(
    client: &HttpClient,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, Box<dyn Error>> {
    timeout(POST_TIMEOUT, async {
        let (head, body) = client.request(request).await?.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    })
    .await?
}

/// Whether a retry can succeed.
fn is_temporary(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
    ) || status.is_server_error()
}

/// The time to wait according to `Retry-After`: seconds or a date (RFC 9110 §10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    date.duration_since(Timestamp::now()).try_into().ok()
}

/// The cursor after the last batch that was accepted, or the start of the log.
fn load(file: &Path) -> Result<LogCursor, Box<dyn Error>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(text.trim().parse()?),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(LogCursor::START),
        Err(error) => Err(error.into()),
    }
}

/// Replaces the file atomically: a crash leaves either the previous cursor or the new one.
fn save(file: &Path, cursor: LogCursor) -> io::Result<()> {
    let temporary = file.with_extension("cursor.tmp");
    let mut new = File::create(&temporary)?;
    writeln!(new, "{cursor}")?;
    new.sync_all()?;
    fs::rename(temporary, file)
}
