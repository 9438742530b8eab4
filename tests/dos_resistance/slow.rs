//! Requests that stay open: bodies sent or read byte by byte, and idle streams.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keytally::usage::{Cause, SummaryQuery, UsageReader};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::many;
use super::measure::Flood;
use super::support::{Service, until};

/// Bytes per open request, client and server together: mostly buffers of hyper and of the client.
const OPEN: i64 = 48 << 10;
/// Bytes per idle stream, client and server together.
const IDLE: i64 = 6 << 10;
static KIB_64: [u8; 64 << 10] = [b'x'; 64 << 10];

fn routes() -> Router {
    let endless = || async {
        let chunks =
            std::iter::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&KIB_64)));
        Body::from_stream(tokio_stream::iter(chunks))
    };
    let idle = || async {
        let first = tokio_stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"first"))]);
        Body::from_stream(tokio_stream::StreamExt::chain(
            first,
            tokio_stream::pending(),
        ))
    };
    Router::new()
        .route(
            "/upload",
            post(|body: Bytes| async move { body.len().to_string() }),
        )
        .route("/endless", get(endless))
        .route("/idle", get(idle))
        .route("/", get(|| async { "ok" }))
}

async fn open(address: SocketAddr, head: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn slow_bodies_use_bounded_memory_and_are_all_recorded() {
    const ROUNDS: usize = 20;
    let each = many(100, 2_000);
    let bound = 2 * each as i64 * OPEN;
    let mut flood = Flood::begin("slow uploads and downloads", bound).await;
    let service = Service::plain(routes()).await;
    let valid = service.key().await;
    let key = format!("host: x\r\nx-api-key: {}\r\n", valid.secret.expose());
    let (mut uploads, mut downloads) = (Vec::new(), Vec::new());
    for _ in 0..each {
        let upload = format!("POST /upload HTTP/1.1\r\n{key}content-length: {ROUNDS}\r\n\r\n");
        uploads.push(open(service.address, &upload).await);
        let download = format!("GET /endless HTTP/1.1\r\n{key}\r\n");
        downloads.push(open(service.address, &download).await);
    }
    service.until_open(2 * each).await;
    for round in 1..=ROUNDS {
        for stream in &mut downloads {
            stream.read_u8().await.unwrap();
        }
        // Other requests are served meanwhile.
        assert_eq!(service.get("/", valid.secret.expose()).await.status, 200);
        flood.check();
        for stream in &mut uploads {
            stream.write_all(b"x").await.unwrap();
        }
        assert!(round == ROUNDS || service.recorder.stats().in_flight == 2 * each);
    }
    for stream in &mut uploads {
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
    }
    service.until_open(each).await;
    drop(downloads);
    service.until_open(0).await;
    let summary = service.summary().await;
    let served = ROUNDS as u64;
    assert_eq!(summary.totals.completed(), each + served);
    assert_eq!(summary.totals.failed_by(Cause::Cancelled), each);
    assert_eq!(service.recorder.stats().lost, 0);
    flood.end(2 * each + served);
}

#[tokio::test]
async fn idle_http2_streams_use_bounded_memory_and_are_all_recorded() {
    const STREAMS: u64 = 100;
    let connections = many(20, 100);
    let all = connections * STREAMS;
    let bound = all as i64 * IDLE;
    let mut flood = Flood::begin("idle HTTP/2 streams", bound).await;
    let service = Service::plain(routes()).await;
    let valid = service.key().await;
    let mut held = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(service.address).await.unwrap();
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let mut bodies = Vec::new();
        for _ in 0..STREAMS {
            let request = Request::get(format!("http://{}/idle", service.address))
                .header("x-api-key", valid.secret.expose())
                .body(Empty::<Bytes>::new())
                .unwrap();
            sender.ready().await.unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            let mut body = response.into_body();
            assert_eq!(
                body.frame().await.unwrap().unwrap().into_data().unwrap(),
                "first"
            );
            bodies.push(body);
        }
        held.push((sender, bodies, connection));
        flood.check();
    }
    assert_eq!(service.recorder.stats().in_flight, all);
    // Other requests are served meanwhile.
    assert_eq!(service.get("/", valid.secret.expose()).await.status, 200);
    flood.check();
    for (_, _, connection) in held {
        connection.abort();
    }
    until(|| service.recorder.stats().in_flight == 0).await;
    service.recorder.flush().await;
    let totals = service
        .backend
        .summary(&SummaryQuery::default())
        .await
        .unwrap()
        .totals;
    assert_eq!(totals.failed_by(Cause::Cancelled), all);
    assert_eq!(totals.completed(), 1);
    flood.end(all + 1);
}
