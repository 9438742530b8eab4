//! Request bodies of rejected requests: they are drained so that clients keep their connection.
use crate::support;

use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;
use keytally::key::NewKey;
use keytally::limit::RateLimit;
use keytally::{ApiKeyLayer, RequireScope};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn routes() -> Router {
    let read = || post(async |body: String| body.len().to_string());
    Router::new().route("/", read()).route(
        "/scoped",
        read().route_layer(RequireScope::new("postings:write")),
    )
}

/// A client that sends the head and the body of a request separately, as Python's `http.client` does.
struct Client {
    connection: TcpStream,
    received: Vec<u8>,
}

struct Response {
    status: u16,
    head: String,
}

impl Client {
    async fn connect(service: &support::Service) -> Self {
        let connection = TcpStream::connect(service.address).await.unwrap();
        connection.set_nodelay(true).unwrap();
        let received = Vec::new();
        Self {
            connection,
            received,
        }
    }

    async fn head(&mut self, path: &str, headers: &str) {
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        self.connection.write_all(head.as_bytes()).await.unwrap();
    }

    async fn send(&mut self, path: &str, headers: &str, body: &[u8]) -> Option<Response> {
        let length = format!("content-length: {}\r\n", body.len());
        self.head(path, &format!("{headers}{length}")).await;
        // The server receives the head before the body is sent.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let _ = self.connection.write_all(body).await;
        self.response().await
    }

    /// The next response; `None` if the connection ends first.
    async fn response(&mut self) -> Option<Response> {
        loop {
            let text = String::from_utf8_lossy(&self.received).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let mut lines = head.lines();
                let length = lines.find_map(|line| line.strip_prefix("content-length: "));
                let length: usize = length.map_or(0, |length| length.parse().unwrap());
                if body.len() >= length {
                    self.received.drain(..head.len() + 4 + length);
                    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                    let head = head.to_owned();
                    return Some(Response { status, head });
                }
            }
            match self.connection.read_buf(&mut self.received).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    async fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        let read = self.connection.read(&mut byte);
        let read = tokio::time::timeout(Duration::from_millis(500), read).await;
        matches!(read, Ok(Ok(0) | Err(_)))
    }
}

fn with(secret: &str) -> String {
    format!("x-api-key: {secret}\r\n")
}

#[tokio::test]
async fn small_rejected_bodies_keep_the_connection_open() {
    let service = support::Service::plain(routes()).await;
    let limited = NewKey::new("limited").limit(RateLimit::per_hour(1));
    let limited = service.issue(limited).await.secret.expose().to_owned();
    let unscoped = service.key().await.secret.expose().to_owned();
    let mut client = Client::connect(&service).await;
    assert_eq!(
        client.send("/", &with(&limited), b"").await.unwrap().status,
        200
    );
    for length in [1, 100, 20_000, 64 << 10] {
        let body = vec![b'x'; length];
        for (path, headers, status) in [
            ("/", String::new(), 401),
            ("/", with("wrong"), 401),
            ("/", with(&limited), 429),
            ("/scoped", with(&unscoped), 403),
            ("/", with(&unscoped), 200),
        ] {
            for _ in 0..5 {
                let response = client.send(path, &headers, &body).await;
                let response = response.unwrap_or_else(|| panic!("{length}: {status}"));
                assert_eq!(response.status, status);
                assert!(!response.head.contains("connection: close"));
            }
        }
    }
    // Chunked bodies.
    for _ in 0..5 {
        client.head("/", "transfer-encoding: chunked\r\n").await;
        for chunk in [&b"5\r\nhello\r\n"[..], b"0\r\n\r\n"] {
            client.connection.write_all(chunk).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(client.response().await.unwrap().status, 401);
    }
    // Pipelined requests.
    let pipelined = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc".repeat(2);
    client
        .connection
        .write_all(pipelined.as_bytes())
        .await
        .unwrap();
    for _ in 0..2 {
        assert_eq!(client.response().await.unwrap().status, 401);
    }
}

#[tokio::test]
async fn large_or_slow_rejected_bodies_close_the_connection() {
    let service = support::Service::start(routes(), |layer| {
        layer.rejected_body_timeout(Duration::from_millis(200))
    });
    let service = service.await;
    for (headers, sent) in [
        ("content-length: 65537\r\n", &b""[..]),
        ("content-length: 10000000000\r\n", b""),
        ("content-length: 5\r\nexpect: 100-continue\r\n", b""),
        // Incomplete when the timeout expires.
        ("content-length: 5\r\n", b"hell"),
        ("transfer-encoding: chunked\r\n", b"5\r\nhello\r\n"),
        // An unfinished chunk and an invalid one.
        ("transfer-encoding: chunked\r\n", b"fffff\r\n"),
        ("transfer-encoding: chunked\r\n", b"x\r\n"),
    ] {
        let mut client = Client::connect(&service).await;
        client.head("/", headers).await;
        client.connection.write_all(sent).await.unwrap();
        let start = Instant::now();
        let response = client.response().await.unwrap();
        assert_eq!(response.status, 401, "{headers}");
        assert!(
            response.head.contains("connection: close"),
            "{headers}: {}",
            response.head
        );
        assert!(client.is_closed().await, "{headers}");
        assert!(start.elapsed() < Duration::from_secs(20), "{headers}");
    }
    let oversized = async {
        let mut client = Client::connect(&service).await;
        client.head("/", "transfer-encoding: chunked\r\n").await;
        let chunk = [b"1000\r\n", &[b'x'; 0x1000][..], b"\r\n"].concat();
        for _ in 0..17 {
            let _ = client.connection.write_all(&chunk).await;
        }
        client.response().await.unwrap()
    };
    let response = oversized.await;
    assert!(response.head.contains("connection: close"));
}

#[tokio::test]
async fn rejected_body_limit_is_configurable() {
    let configure = |layer: ApiKeyLayer| layer.rejected_body_limit(0);
    let none = support::Service::start(routes(), configure).await;
    let mut client = Client::connect(&none).await;
    let response = client.send("/", "", b"x").await.unwrap();
    assert!(response.head.contains("connection: close"));
    let large = support::Service::start(routes(), |layer| layer.rejected_body_limit(1 << 20)).await;
    let mut client = Client::connect(&large).await;
    for _ in 0..3 {
        let response = client.send("/", "", &vec![b'x'; 1 << 20]).await.unwrap();
        assert_eq!(response.status, 401);
        assert!(!response.head.contains("connection: close"));
    }
    let response = client.send("/", "", b"").await.unwrap();
    assert_eq!(response.status, 401);
}
