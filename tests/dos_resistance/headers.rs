//! Header floods: many headers, long headers, and many credentials.

use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keytally::backend::MemoryBackend;
use keytally::key::{NewKey, Prefix, Secret};
use keytally::usage::{Recorder, RejectionReason};
use keytally::{ApiKeyLayer, CredentialSource};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::measure::{Flood, MIB};
use super::{many, protected_by, status_of, support};

/// The status of the response to a request with these header lines; `None` if the server closes the connection.
async fn status(address: SocketAddr, lines: impl Iterator<Item = String>) -> Option<u16> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (mut reading, mut writing) = stream.split();
    let head = format!(
        "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{}\r\n",
        lines.collect::<String>()
    );
    let (_, response) = tokio::join!(writing.write_all(head.as_bytes()), async {
        let mut response = Vec::new();
        // The server may reset the connection after its response.
        while reading
            .read_buf(&mut response)
            .await
            .is_ok_and(|read| read > 0)
        {}
        response
    });
    let text = String::from_utf8_lossy(&response);
    text.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

/// Asserts the number of recorded events and of requests rejected as ambiguous, and that no event was lost.
async fn assert_stats(service: &support::Service, passed: u64, ambiguous: u64) {
    service.until_open(0).await;
    let stats = service.recorder.stats();
    assert_eq!(stats.rejected_for(RejectionReason::Ambiguous), ambiguous);
    assert_eq!((stats.accepted, stats.lost), (passed, 0));
}

#[tokio::test]
async fn header_bombs_over_http1_are_rejected_and_leak_no_memory() {
    let rounds = many(20, 2_000);
    let mut flood = Flood::begin("header bombs over HTTP/1.1", 8 * MIB).await;
    let service = support::Service::plain(Router::new().route("/", get(|| async { "ok" }))).await;
    let valid_key = service.key().await;
    let key = format!("x-api-key: {}\r\n", valid_key.secret.expose());
    let (mut passed, mut ambiguous) = (0, 0);
    for n in 0..rounds {
        let many_short = |count: usize| (0..count).map(|n| format!("h{n}: v\r\n"));
        let long = |bytes: usize| std::iter::once(format!("long: {}\r\n", "v".repeat(bytes)));
        let keyed = || std::iter::once(key.clone());
        // At and above hyper's limits on the number and the length of headers.
        let at_most = keyed().chain(many_short(97));
        assert_eq!(status(service.address, at_most).await, Some(200));
        let too_many = keyed().chain(many_short(200));
        assert_eq!(status(service.address, too_many).await, Some(431));
        let is_long = keyed().chain(long(300_000));
        assert_eq!(status(service.address, is_long).await, Some(200));
        let too_long = status(service.address, keyed().chain(long(2_000_000))).await;
        assert!(matches!(too_long, Some(431) | None), "{too_long:?}");
        passed += 2;
        // A valid key with other keys, and a valid key repeated.
        let many_keys = keyed().chain((0..90).map(|n| format!("x-api-key: acme_{n}\r\n")));
        assert_eq!(status(service.address, many_keys).await, Some(401));
        let same = (0..90).flat_map(|_| keyed());
        assert_eq!(status(service.address, same).await, Some(200));
        passed += 1;
        ambiguous += 1;
        if n % 10 == 0 {
            flood.check();
        }
    }
    assert_stats(&service, passed, ambiguous).await;
    flood.end(6 * rounds);
}

/// The status of the response to an HTTP/2 request with these headers, on its own connection; `None` if the server
/// closes it.
async fn status_http2(address: SocketAddr, headers: HeaderMap) -> Option<StatusCode> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let mut request = Request::get(format!("http://{address}/"))
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    *request.headers_mut() = headers;
    let response = sender.send_request(request).await;
    let status = response.ok().map(|response| response.status());
    drop(sender);
    connection.abort();
    status
}

/// An HPACK bomb: the connection preface and the header block of a request, in which a single byte refers to a
/// 3,000-byte header, `times` times (RFC 7541, sections 6.1 and 6.2.1).
fn hpack_bomb(secret: &str, times: usize) -> Vec<u8> {
    // GET http://x/
    let mut block = vec![0x82, 0x86, 0x84, 0x01, 1, b'x'];
    block.extend_from_slice(b"\x00\x09x-api-key");
    block.push(u8::try_from(secret.len()).unwrap());
    block.extend_from_slice(secret.as_bytes());
    // `long`, with a value of 3,000 bytes, becomes entry 62 of the dynamic table.
    block.extend_from_slice(b"\x40\x04long\x7f\xb9\x16");
    block.extend(std::iter::repeat_n(b'v', 3_000));
    block.extend(std::iter::repeat_n(0x80 | 62, times));
    // The preface with empty settings, then a HEADERS frame that ends the headers and the stream.
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    sent.extend_from_slice(&u32::try_from(block.len()).unwrap().to_be_bytes()[1..]);
    sent.extend_from_slice(&[0x01, 0x05, 0, 0, 0, 1]);
    sent.extend(block);
    sent
}

/// Sends raw bytes and reads until the server closes the connection.
async fn send(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut response = Vec::new();
    while stream
        .read_buf(&mut response)
        .await
        .is_ok_and(|read| read > 0)
    {}
    response
}

#[tokio::test]
async fn header_bombs_over_http2_are_rejected_and_leak_no_memory() {
    let rounds = many(5, 1_000);
    let mut flood = Flood::begin("header bombs over HTTP/2", 8 * MIB).await;
    let service = support::Service::plain(Router::new().route("/", get(|| async { "ok" }))).await;
    let valid_key = service.key().await;
    let key = HeaderValue::from_str(valid_key.secret.expose()).unwrap();
    let status_with = async |fields: &mut dyn Iterator<Item = (String, HeaderValue)>| {
        let mut headers = HeaderMap::new();
        headers.insert("x-api-key", key.clone());
        for (name, value) in fields {
            headers.append(HeaderName::try_from(name).unwrap(), value);
        }
        status_http2(service.address, headers).await
    };
    let value = |text: String| HeaderValue::try_from(text).unwrap();
    let short = |count: usize| (0..count).map(|n| (format!("h{n}"), value("v".to_owned())));
    let same = |count, name: &str, value: HeaderValue| {
        std::iter::repeat_n((name.to_owned(), value), count)
    };
    let (mut passed, mut ambiguous) = (0, 0);
    for n in 0..rounds {
        // Below and above hyper's limit of 16 KiB for the header list.
        assert_eq!(status_with(&mut short(300)).await, Some(StatusCode::OK));
        let too_large = Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        assert_eq!(status_with(&mut short(600)).await, too_large);
        // 6 MB compressed to 5 kB: rejected with 431 or by closing the connection.
        let small_bomb = send(service.address, &hpack_bomb(valid_key.secret.expose(), 3)).await;
        let ok = [0x01, 0x04, 0, 0, 0, 1, 0x88];
        assert!(small_bomb.windows(ok.len()).any(|bytes| bytes == ok));
        let large_bomb = send(
            service.address,
            &hpack_bomb(valid_key.secret.expose(), 2_000),
        )
        .await;
        assert!(!large_bomb.is_empty() && !large_bomb.windows(ok.len()).any(|bytes| bytes == ok));
        // More than a megabyte of headers, in many CONTINUATION frames.
        let long = |n| (format!("h{n}"), value(format!("{n}{}", "v".repeat(16_000))));
        let continued = status_with(&mut (0..100).map(long)).await;
        assert!(
            continued.is_none() || continued == too_large,
            "{continued:?}"
        );
        // A valid key with other keys, and a valid key repeated.
        let others = (0..90).map(|n| ("x-api-key".to_owned(), value(format!("acme_{n}"))));
        assert_eq!(
            status_with(&mut { others }).await,
            Some(StatusCode::UNAUTHORIZED)
        );
        let again = status_with(&mut same(90, "x-api-key", key.clone())).await;
        assert_eq!(again, Some(StatusCode::OK));
        passed += 3;
        ambiguous += 1;
        if n % 10 == 0 {
            flood.check();
        }
    }
    assert_stats(&service, passed, ambiguous).await;
    flood.end(7 * rounds);
}

#[tokio::test]
async fn header_bombs_in_process_leak_no_memory() {
    let rounds = many(10, 1_000);
    let mut flood = Flood::begin("header bombs in process", 8 * MIB).await;
    let backend = MemoryBackend::new();
    let recorder = Recorder::new(backend.clone());
    let valid_key = support::issue(&backend, NewKey::new("valid key")).await;
    let layer = ApiKeyLayer::new(backend).recorder(recorder.clone());
    let query = CredentialSource::insecure_query_parameter("key");
    let sources = CredentialSource::DEFAULT.into_iter().chain([query]);
    let mut service = protected_by(layer.credential_sources(sources));
    let key = HeaderValue::from_str(valid_key.secret.expose()).unwrap();
    let prefix = Prefix::new("acme_test").unwrap();
    // A `HeaderMap` holds at most 24,576 entries.
    let numbers = || 0..many(2_000, 20_000);
    for _ in 0..rounds {
        let request = || Request::new(String::new());
        let mut many_names = request();
        let headers = many_names.headers_mut();
        for n in numbers() {
            let name = HeaderName::from_bytes(format!("h{n}").as_bytes()).unwrap();
            headers.insert(name, HeaderValue::from_static("v"));
        }
        headers.insert("x-api-key", key.clone());
        assert_eq!(status_of(&mut service, many_names).await, 200);

        let mut many_keys = request();
        for _ in numbers() {
            let other = Secret::generate(&prefix).unwrap();
            let other = HeaderValue::from_str(&format!("Bearer {}", other.expose())).unwrap();
            many_keys.headers_mut().append("authorization", other);
        }
        assert_eq!(status_of(&mut service, many_keys).await, 401);

        let mut same = request();
        for _ in numbers() {
            same.headers_mut().append("x-api-key", key.clone());
        }
        assert_eq!(status_of(&mut service, same).await, 200);

        let mut long = request();
        let megabyte = HeaderValue::from_bytes(&vec![b'a'; 1 << 20]).unwrap();
        for name in [
            "x-api-key",
            "x-request-id",
            "content-type",
            "content-length",
        ] {
            long.headers_mut().insert(name, megabyte.clone());
        }
        assert_eq!(status_of(&mut service, long).await, 401);

        let query: String = (0..6_000).map(|n| format!("key=acme_{n}&")).collect();
        let query = Request::get(format!("/?{}", &query[..60_000]))
            .body(String::new())
            .unwrap();
        assert_eq!(status_of(&mut service, query).await, 401);
        flood.check();
    }
    recorder.flush().await;
    let stats = recorder.stats();
    assert_eq!(stats.rejected_for(RejectionReason::Ambiguous), 2 * rounds);
    assert_eq!(stats.rejected_for(RejectionReason::Malformed), rounds);
    assert_eq!((stats.written, stats.lost), (2 * rounds, 0));
    flood.end(5 * rounds);
}
