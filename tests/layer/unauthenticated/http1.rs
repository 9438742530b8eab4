//! Requests over HTTP/1.1, byte by byte.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Case, GOOD, Secrets};

/// The request's lines, and its body behind an empty one.
type Text = &'static str;

const NONE: &str = "";
const ANONYMOUS: &str = "a";
const EXEMPT: &str = "ea";
const PREFLIGHT: &str = "ap";
const FAILING: &str = "f";
/// Looked for by one of the settings, and none by the others.
const SOURCES: &str = "as";

pub(crate) fn cases() -> Vec<Case<Text>> {
    let case = |(name, letters, request)| Case {
        name,
        letters,
        request,
    };
    let lists = [METHODS, PREFLIGHTS, TARGETS, PATHS, CREDENTIALS, MESSAGES];
    lists.into_iter().flatten().copied().map(case).collect()
}

type List = &'static [(&'static str, &'static str, Text)];

const METHODS: List = &[
    ("GET", ANONYMOUS, "GET {path} HTTP/1.1\nhost: x"),
    ("HEAD", ANONYMOUS, "HEAD {path} HTTP/1.1\nhost: x"),
    (
        "POST",
        ANONYMOUS,
        "POST {path} HTTP/1.1\nhost: x\ncontent-length: 2\n\n{}",
    ),
    (
        "PUT",
        ANONYMOUS,
        "PUT {path} HTTP/1.1\nhost: x\ncontent-length: 2\n\n{}",
    ),
    (
        "PATCH",
        ANONYMOUS,
        "PATCH {path} HTTP/1.1\nhost: x\ncontent-length: 2\n\n{}",
    ),
    ("DELETE", ANONYMOUS, "DELETE {path} HTTP/1.1\nhost: x"),
    ("TRACE", ANONYMOUS, "TRACE {path} HTTP/1.1\nhost: x"),
    ("OPTIONS", ANONYMOUS, "OPTIONS {path} HTTP/1.1\nhost: x"),
    (
        "an unknown method",
        ANONYMOUS,
        "BREW {path} HTTP/1.1\nhost: x",
    ),
    (
        "a method in lower case",
        ANONYMOUS,
        "get {path} HTTP/1.1\nhost: x",
    ),
    (
        "a method override",
        ANONYMOUS,
        "POST {path} HTTP/1.1\nhost: x\nx-http-method-override: OPTIONS\norigin: https://a\naccess-control-request-method: POST\ncontent-length: 0",
    ),
    ("HTTP/1.0", ANONYMOUS, "GET {path} HTTP/1.0"),
];

const PREFLIGHTS: List = &[
    (
        "a preflight",
        PREFLIGHT,
        "OPTIONS {path} HTTP/1.1\nhost: x\norigin: https://a\naccess-control-request-method: POST\naccess-control-request-headers: x-api-key",
    ),
    (
        "a preflight of length zero",
        PREFLIGHT,
        "OPTIONS {path} HTTP/1.1\nhost: x\norigin: https://a\naccess-control-request-method: POST\ncontent-length: 0",
    ),
    (
        "a preflight without origin",
        ANONYMOUS,
        "OPTIONS {path} HTTP/1.1\nhost: x\naccess-control-request-method: POST",
    ),
    (
        "a preflight of an empty origin",
        ANONYMOUS,
        "OPTIONS {path} HTTP/1.1\nhost: x\norigin:\naccess-control-request-method: POST",
    ),
    (
        "a preflight of two origins",
        ANONYMOUS,
        "OPTIONS {path} HTTP/1.1\nhost: x\norigin: https://a\norigin: https://b\naccess-control-request-method: POST",
    ),
    (
        "a preflight for no method",
        ANONYMOUS,
        "OPTIONS {path} HTTP/1.1\nhost: x\norigin: https://a",
    ),
    (
        "a preflight for two methods",
        ANONYMOUS,
        "OPTIONS {path} HTTP/1.1\nhost: x\norigin: https://a\naccess-control-request-method: POST\naccess-control-request-method: PUT",
    ),
    (
        "a preflight with a body",
        ANONYMOUS,
        "OPTIONS {path} HTTP/1.1\nhost: x\norigin: https://a\naccess-control-request-method: POST\ncontent-length: 2\n\n{}",
    ),
    (
        "a preflight with a chunked body",
        ANONYMOUS,
        "OPTIONS {path} HTTP/1.1\nhost: x\norigin: https://a\naccess-control-request-method: POST\ntransfer-encoding: chunked\n\n2\r\n{}\r\n0\r\n\r\n",
    ),
    (
        "a preflight with gRPC's content type",
        ANONYMOUS,
        "OPTIONS {path} HTTP/1.1\nhost: x\norigin: https://a\naccess-control-request-method: POST\ncontent-type: application/grpc",
    ),
    (
        "a preflight that takes trailers",
        ANONYMOUS,
        "OPTIONS {path} HTTP/1.1\nhost: x\norigin: https://a\naccess-control-request-method: POST\nte: trailers",
    ),
    (
        "a preflight that upgrades",
        ANONYMOUS,
        "OPTIONS {path} HTTP/1.1\nhost: x\norigin: https://a\naccess-control-request-method: POST\nconnection: upgrade\nupgrade: websocket",
    ),
    (
        "a preflight by POST",
        ANONYMOUS,
        "POST {path} HTTP/1.1\nhost: x\norigin: https://a\naccess-control-request-method: POST\ncontent-length: 0",
    ),
    (
        "a preflight for the server",
        ANONYMOUS,
        "OPTIONS * HTTP/1.1\nhost: x\norigin: https://a\naccess-control-request-method: POST",
    ),
    (
        "a preflight with other credentials",
        ANONYMOUS,
        "OPTIONS {path} HTTP/1.1\nhost: x\norigin: https://a\naccess-control-request-method: POST\nauthorization: Basic eDp5",
    ),
    (
        "a preflight with a cookie",
        ANONYMOUS,
        "OPTIONS {path} HTTP/1.1\nhost: x\norigin: https://a\naccess-control-request-method: POST\ncookie: a=b",
    ),
    (
        "a preflight with a malformed key",
        NONE,
        "OPTIONS {path} HTTP/1.1\nhost: x\norigin: https://a\naccess-control-request-method: POST\nx-api-key: nonsense",
    ),
    (
        "a preflight with an unknown key",
        FAILING,
        "OPTIONS {path} HTTP/1.1\nhost: x\norigin: https://a\naccess-control-request-method: POST\nx-api-key: {unknown}",
    ),
];

const TARGETS: List = &[
    (
        "OPTIONS for the server",
        ANONYMOUS,
        "OPTIONS * HTTP/1.1\nhost: x",
    ),
    ("GET for the server", ANONYMOUS, "GET * HTTP/1.1\nhost: x"),
    (
        "CONNECT",
        ANONYMOUS,
        "CONNECT example.com:443 HTTP/1.1\nhost: x",
    ),
    (
        "the absolute form",
        ANONYMOUS,
        "GET http://example.com{path} HTTP/1.1\nhost: x",
    ),
    (
        "the absolute form of a host named like an exempt path",
        ANONYMOUS,
        "GET http://health HTTP/1.1\nhost: x",
    ),
    (
        "the absolute form of an exempt path",
        EXEMPT,
        "GET http://example.com/health HTTP/1.1\nhost: x",
    ),
    (
        "an exempt path as the host",
        ANONYMOUS,
        "GET {path} HTTP/1.1\nhost: /health",
    ),
    (
        "an exempt path in headers of proxies",
        ANONYMOUS,
        "GET {path} HTTP/1.1\nhost: x\nx-original-url: /health\nx-rewrite-url: /health\nx-forwarded-uri: /health\nx-forwarded-prefix: /health",
    ),
    (
        "an exempt path in the query",
        ANONYMOUS,
        "GET {path}?/health HTTP/1.1\nhost: x",
    ),
];

const PATHS: List = &[
    ("an exempt path", EXEMPT, "GET /health HTTP/1.1\nhost: x"),
    (
        "an exempt path by POST",
        EXEMPT,
        "POST /health HTTP/1.1\nhost: x\ncontent-length: 0",
    ),
    (
        "an exempt path with a query",
        EXEMPT,
        "GET /health?a=/../b HTTP/1.1\nhost: x",
    ),
    (
        "an exempt path with a malformed key",
        "e",
        "GET /health HTTP/1.1\nhost: x\nx-api-key: x",
    ),
    (
        "an exempt path and a slash",
        ANONYMOUS,
        "GET /health/ HTTP/1.1\nhost: x",
    ),
    (
        "an exempt path and an encoded slash",
        ANONYMOUS,
        "GET /health%2f HTTP/1.1\nhost: x",
    ),
    (
        "an exempt path and a parameter",
        ANONYMOUS,
        "GET /health;a HTTP/1.1\nhost: x",
    ),
    (
        "an exempt path in upper case",
        ANONYMOUS,
        "GET /HEALTH HTTP/1.1\nhost: x",
    ),
    (
        "an exempt path behind two slashes",
        ANONYMOUS,
        "GET //health HTTP/1.1\nhost: x",
    ),
    (
        "an exempt path, encoded",
        ANONYMOUS,
        "GET /%68ealth HTTP/1.1\nhost: x",
    ),
    (
        "below an exempt prefix",
        EXEMPT,
        "GET /public/logo.svg HTTP/1.1\nhost: x",
    ),
    (
        "an exempt prefix alone",
        EXEMPT,
        "GET /public/ HTTP/1.1\nhost: x",
    ),
    (
        "an exempt prefix without its slash",
        ANONYMOUS,
        "GET /public HTTP/1.1\nhost: x",
    ),
    (
        "beside an exempt prefix",
        ANONYMOUS,
        "GET /publicity HTTP/1.1\nhost: x",
    ),
    (
        "out by dots",
        ANONYMOUS,
        "GET /public/..{path} HTTP/1.1\nhost: x",
    ),
    (
        "out by encoded dots",
        ANONYMOUS,
        "GET /public/%2e%2E{path} HTTP/1.1\nhost: x",
    ),
    (
        "out by dots that are encoded twice",
        ANONYMOUS,
        "GET /public/%252e%252e{path} HTTP/1.1\nhost: x",
    ),
    (
        "out by overlong dots",
        ANONYMOUS,
        "GET /public/%c0%ae%c0%ae{path} HTTP/1.1\nhost: x",
    ),
    (
        "out by an encoded slash",
        ANONYMOUS,
        "GET /public/..%2f..{path} HTTP/1.1\nhost: x",
    ),
    (
        "out by a backslash",
        ANONYMOUS,
        "GET /public/..\\..{path} HTTP/1.1\nhost: x",
    ),
    (
        "out by an encoded backslash",
        ANONYMOUS,
        "GET /public/..%5c{path} HTTP/1.1\nhost: x",
    ),
    (
        "out by a path parameter",
        ANONYMOUS,
        "GET /public/..;{path} HTTP/1.1\nhost: x",
    ),
    (
        "out by an encoded path parameter",
        ANONYMOUS,
        "GET /public/..%3b{path} HTTP/1.1\nhost: x",
    ),
    (
        "out by NUL",
        ANONYMOUS,
        "GET /public/..%00{path} HTTP/1.1\nhost: x",
    ),
    (
        "out by an empty segment",
        ANONYMOUS,
        "GET /public/{path} HTTP/1.1\nhost: x",
    ),
];

const CREDENTIALS: List = &[
    (
        "a good key",
        GOOD,
        "GET {path} HTTP/1.1\nhost: x\nx-api-key: {good}",
    ),
    (
        "a good bearer",
        GOOD,
        "GET {path} HTTP/1.1\nhost: x\nauthorization: bearer  {good} ",
    ),
    (
        "a good bearer beside another scheme",
        GOOD,
        "GET {path} HTTP/1.1\nhost: x\nauthorization: Basic eDp5\nauthorization: Bearer {good}",
    ),
    (
        "a good key twice",
        GOOD,
        "GET {path} HTTP/1.1\nhost: x\nx-api-key: {good}\nauthorization: Bearer {good}",
    ),
    (
        "a malformed key",
        NONE,
        "GET {path} HTTP/1.1\nhost: x\nx-api-key: nonsense",
    ),
    (
        "a long malformed key",
        NONE,
        "GET {path} HTTP/1.1\nhost: x\nx-api-key: <nonsense, and much>",
    ),
    (
        "an empty key",
        ANONYMOUS,
        "GET {path} HTTP/1.1\nhost: x\nx-api-key:",
    ),
    (
        "a key of other bytes",
        NONE,
        "GET {path} HTTP/1.1\nhost: x\nx-api-key: \u{e9}\u{e9}",
    ),
    (
        "a key twice in one header",
        GOOD,
        "GET {path} HTTP/1.1\nhost: x\nx-api-key: {good}, {good}",
    ),
    (
        "a list of keys",
        NONE,
        "GET {path} HTTP/1.1\nhost: x\nx-api-key: {good}, {unknown}",
    ),
    (
        "a key in quotes",
        NONE,
        "GET {path} HTTP/1.1\nhost: x\nx-api-key: \"{good}\"",
    ),
    (
        "an unknown key",
        FAILING,
        "GET {path} HTTP/1.1\nhost: x\nx-api-key: {unknown}",
    ),
    (
        "another secret of a good key",
        FAILING,
        "GET {path} HTTP/1.1\nhost: x\nx-api-key: {wrong}",
    ),
    (
        "a revoked key",
        FAILING,
        "GET {path} HTTP/1.1\nhost: x\nauthorization: Bearer {revoked}",
    ),
    (
        "a good and an unknown key",
        NONE,
        "GET {path} HTTP/1.1\nhost: x\nx-api-key: {unknown}\nauthorization: Bearer {good}",
    ),
    (
        "a good and a malformed key",
        NONE,
        "GET {path} HTTP/1.1\nhost: x\nx-api-key: {good}\nx-api-key: nonsense",
    ),
    (
        "an empty bearer",
        ANONYMOUS,
        "GET {path} HTTP/1.1\nhost: x\nauthorization: Bearer",
    ),
    (
        "another scheme",
        ANONYMOUS,
        "GET {path} HTTP/1.1\nhost: x\nauthorization: Basic eDp5",
    ),
    (
        "a good key in another scheme",
        NONE,
        "GET {path} HTTP/1.1\nhost: x\nauthorization: Token {good}",
    ),
    (
        "a good key and another in another scheme",
        NONE,
        "GET {path} HTTP/1.1\nhost: x\nx-api-key: {good}\nauthorization: Token {good}",
    ),
    (
        "a good key with a tab",
        NONE,
        "GET {path} HTTP/1.1\nhost: x\nauthorization: Bearer\t{good}",
    ),
    (
        "no scheme",
        NONE,
        "GET {path} HTTP/1.1\nhost: x\nauthorization: {good}",
    ),
    (
        "a key for the proxy",
        ANONYMOUS,
        "GET {path} HTTP/1.1\nhost: x\nproxy-authorization: Bearer {good}",
    ),
    (
        "a key in a cookie",
        ANONYMOUS,
        "GET {path} HTTP/1.1\nhost: x\ncookie: x-api-key={good}",
    ),
    (
        "a key in the query",
        SOURCES,
        "GET {path}?x-api-key={good} HTTP/1.1\nhost: x",
    ),
    (
        "a header with an underscore",
        ANONYMOUS,
        "GET {path} HTTP/1.1\nhost: x\nx_api_key: {good}",
    ),
];

const MESSAGES: List = &[
    (
        "a gRPC call",
        ANONYMOUS,
        "POST {path} HTTP/1.1\nhost: x\ncontent-type: application/grpc\nte: trailers\ncontent-length: 7\n\n\0\0\0\0\u{2}\u{8}\u{7}",
    ),
    (
        "a WebSocket",
        ANONYMOUS,
        "GET {path} HTTP/1.1\nhost: x\nconnection: upgrade\nupgrade: websocket\nsec-websocket-version: 13\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
    ),
    (
        "an upgrade to HTTP/2",
        ANONYMOUS,
        "GET {path} HTTP/1.1\nhost: x\nconnection: upgrade, http2-settings\nupgrade: h2c\nhttp2-settings: AAMAAABkAAQAAP__",
    ),
    (
        "a body that is expected to be asked for",
        ANONYMOUS,
        "POST {path} HTTP/1.1\nhost: x\nexpect: 100-continue\ncontent-length: 2\n\n{}",
    ),
    (
        "a key in the trailers",
        ANONYMOUS,
        "POST {path} HTTP/1.1\nhost: x\ntransfer-encoding: chunked\ntrailer: x-api-key\n\n2\r\n{}\r\n0\r\nx-api-key: {good}\r\n\r\n",
    ),
    (
        "a key that a connection option names",
        GOOD,
        "GET {path} HTTP/1.1\nhost: x\nconnection: x-api-key\nx-api-key: {good}",
    ),
    (
        "a request within the body of an exempt one",
        EXEMPT,
        "POST /health HTTP/1.1\nhost: x\ncontent-length: 54\nconnection: close\n\nGET /postings.v1.Postings/Get HTTP/1.1\r\nhost: xxxx\r\n\r\n",
    ),
];

/// The status that the request is answered with, if it is answered.
pub(crate) async fn send(address: SocketAddr, text: &Text, secrets: &Secrets) -> Option<String> {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let head = secrets.fill(head).replace('\n', "\r\n");
    // What is no ASCII goes as one byte of Latin-1.
    let head = head.chars().map(|c| c as u8);
    let mut bytes: Vec<u8> = head.collect();
    bytes.extend(b"\r\n\r\n");
    bytes.extend(secrets.fill(body).bytes());
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = async {
        let mut part = [0; 4_096];
        // To the end where the connection is closed behind the answer, so that nothing comes after it.
        let closes = text.contains("connection: close");
        while closes || !answer.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut part).await {
                Ok(0) | Err(_) => break,
                Ok(len) => answer.extend(&part[..len]),
            }
        }
    };
    let read = tokio::time::timeout(Duration::from_secs(10), read).await;
    read.expect("it is answered");
    let answer = String::from_utf8_lossy(&answer);
    Some(answer.lines().next().unwrap_or("nothing").to_owned())
}
