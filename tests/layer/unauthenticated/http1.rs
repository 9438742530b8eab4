//! Raw HTTP/1.1 requests.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Case, GOOD, Secrets};

/// The request's header lines; a blank line separates the body.
type Text = &'static str;

const NONE: &str = "";
const ANONYMOUS: &str = "a";
const EXEMPT: &str = "ea";
const PREFLIGHT: &str = "ap";
const FAILING: &str = "f";
/// Read as a key by the `SOURCES` setting; no key at all for the others.
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
        "a preflight with Content-Length: 0",
        PREFLIGHT,
        "OPTIONS {path} HTTP/1.1\nhost: x\norigin: https://a\naccess-control-request-method: POST\ncontent-length: 0",
    ),
    (
        "a preflight without origin",
        ANONYMOUS,
        "OPTIONS {path} HTTP/1.1\nhost: x\naccess-control-request-method: POST",
    ),
    (
        "a preflight with an empty origin",
        ANONYMOUS,
        "OPTIONS {path} HTTP/1.1\nhost: x\norigin:\naccess-control-request-method: POST",
    ),
    (
        "a preflight with two origins",
        ANONYMOUS,
        "OPTIONS {path} HTTP/1.1\nhost: x\norigin: https://a\norigin: https://b\naccess-control-request-method: POST",
    ),
    (
        "a preflight without a requested method",
        ANONYMOUS,
        "OPTIONS {path} HTTP/1.1\nhost: x\norigin: https://a",
    ),
    (
        "a preflight with two requested methods",
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
        "a preflight with TE: trailers",
        ANONYMOUS,
        "OPTIONS {path} HTTP/1.1\nhost: x\norigin: https://a\naccess-control-request-method: POST\nte: trailers",
    ),
    (
        "a preflight with an upgrade",
        ANONYMOUS,
        "OPTIONS {path} HTTP/1.1\nhost: x\norigin: https://a\naccess-control-request-method: POST\nconnection: upgrade\nupgrade: websocket",
    ),
    (
        "a preflight with POST",
        ANONYMOUS,
        "POST {path} HTTP/1.1\nhost: x\norigin: https://a\naccess-control-request-method: POST\ncontent-length: 0",
    ),
    (
        "a preflight for *",
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
    ("OPTIONS *", ANONYMOUS, "OPTIONS * HTTP/1.1\nhost: x"),
    ("GET *", ANONYMOUS, "GET * HTTP/1.1\nhost: x"),
    (
        "CONNECT",
        ANONYMOUS,
        "CONNECT example.com:443 HTTP/1.1\nhost: x",
    ),
    (
        "absolute form",
        ANONYMOUS,
        "GET http://example.com{path} HTTP/1.1\nhost: x",
    ),
    (
        "absolute form with a host named like an exempt path",
        ANONYMOUS,
        "GET http://health HTTP/1.1\nhost: x",
    ),
    (
        "absolute form of an exempt path",
        EXEMPT,
        "GET http://example.com/health HTTP/1.1\nhost: x",
    ),
    (
        "an exempt path as the host",
        ANONYMOUS,
        "GET {path} HTTP/1.1\nhost: /health",
    ),
    (
        "an exempt path in proxy headers",
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
        "an exempt path with POST",
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
        "an exempt path with a trailing slash",
        ANONYMOUS,
        "GET /health/ HTTP/1.1\nhost: x",
    ),
    (
        "an exempt path with an encoded trailing slash",
        ANONYMOUS,
        "GET /health%2f HTTP/1.1\nhost: x",
    ),
    (
        "an exempt path with a path parameter",
        ANONYMOUS,
        "GET /health;a HTTP/1.1\nhost: x",
    ),
    (
        "an exempt path in upper case",
        ANONYMOUS,
        "GET /HEALTH HTTP/1.1\nhost: x",
    ),
    (
        "an exempt path after two slashes",
        ANONYMOUS,
        "GET //health HTTP/1.1\nhost: x",
    ),
    (
        "a percent-encoded exempt path",
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
        "a path that only starts like an exempt prefix",
        ANONYMOUS,
        "GET /publicity HTTP/1.1\nhost: x",
    ),
    (
        "traversal with dots",
        ANONYMOUS,
        "GET /public/..{path} HTTP/1.1\nhost: x",
    ),
    (
        "traversal with encoded dots",
        ANONYMOUS,
        "GET /public/%2e%2E{path} HTTP/1.1\nhost: x",
    ),
    (
        "traversal with double-encoded dots",
        ANONYMOUS,
        "GET /public/%252e%252e{path} HTTP/1.1\nhost: x",
    ),
    (
        "traversal with overlong UTF-8 dots",
        ANONYMOUS,
        "GET /public/%c0%ae%c0%ae{path} HTTP/1.1\nhost: x",
    ),
    (
        "traversal with an encoded slash",
        ANONYMOUS,
        "GET /public/..%2f..{path} HTTP/1.1\nhost: x",
    ),
    (
        "traversal with a backslash",
        ANONYMOUS,
        "GET /public/..\\..{path} HTTP/1.1\nhost: x",
    ),
    (
        "traversal with an encoded backslash",
        ANONYMOUS,
        "GET /public/..%5c{path} HTTP/1.1\nhost: x",
    ),
    (
        "traversal with a path parameter",
        ANONYMOUS,
        "GET /public/..;{path} HTTP/1.1\nhost: x",
    ),
    (
        "traversal with an encoded path parameter",
        ANONYMOUS,
        "GET /public/..%3b{path} HTTP/1.1\nhost: x",
    ),
    (
        "traversal with a NUL",
        ANONYMOUS,
        "GET /public/..%00{path} HTTP/1.1\nhost: x",
    ),
    (
        "an empty segment below an exempt prefix",
        ANONYMOUS,
        "GET /public/{path} HTTP/1.1\nhost: x",
    ),
];

const CREDENTIALS: List = &[
    (
        "a valid key",
        GOOD,
        "GET {path} HTTP/1.1\nhost: x\nx-api-key: {good}",
    ),
    (
        "a valid bearer token",
        GOOD,
        "GET {path} HTTP/1.1\nhost: x\nauthorization: bearer  {good} ",
    ),
    (
        "a valid bearer token beside another scheme",
        GOOD,
        "GET {path} HTTP/1.1\nhost: x\nauthorization: Basic eDp5\nauthorization: Bearer {good}",
    ),
    (
        "a valid key twice",
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
        "a key with non-ASCII bytes",
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
        "a wrong secret for a valid key id",
        FAILING,
        "GET {path} HTTP/1.1\nhost: x\nx-api-key: {wrong}",
    ),
    (
        "a revoked key",
        FAILING,
        "GET {path} HTTP/1.1\nhost: x\nauthorization: Bearer {revoked}",
    ),
    (
        "a valid and an unknown key",
        NONE,
        "GET {path} HTTP/1.1\nhost: x\nx-api-key: {unknown}\nauthorization: Bearer {good}",
    ),
    (
        "a valid and a malformed key",
        NONE,
        "GET {path} HTTP/1.1\nhost: x\nx-api-key: {good}\nx-api-key: nonsense",
    ),
    (
        "an empty bearer token",
        ANONYMOUS,
        "GET {path} HTTP/1.1\nhost: x\nauthorization: Bearer",
    ),
    (
        "another scheme",
        ANONYMOUS,
        "GET {path} HTTP/1.1\nhost: x\nauthorization: Basic eDp5",
    ),
    (
        "a valid key in another scheme",
        NONE,
        "GET {path} HTTP/1.1\nhost: x\nauthorization: Token {good}",
    ),
    (
        "a valid key, repeated in another scheme",
        NONE,
        "GET {path} HTTP/1.1\nhost: x\nx-api-key: {good}\nauthorization: Token {good}",
    ),
    (
        "a valid key after a tab",
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
        "a body with Expect: 100-continue",
        ANONYMOUS,
        "POST {path} HTTP/1.1\nhost: x\nexpect: 100-continue\ncontent-length: 2\n\n{}",
    ),
    (
        "a key in the trailers",
        ANONYMOUS,
        "POST {path} HTTP/1.1\nhost: x\ntransfer-encoding: chunked\ntrailer: x-api-key\n\n2\r\n{}\r\n0\r\nx-api-key: {good}\r\n\r\n",
    ),
    (
        "a key header named in Connection",
        GOOD,
        "GET {path} HTTP/1.1\nhost: x\nconnection: x-api-key\nx-api-key: {good}",
    ),
    (
        "a request smuggled in the body of an exempt one",
        EXEMPT,
        "POST /health HTTP/1.1\nhost: x\ncontent-length: 54\nconnection: close\n\nGET /postings.v1.Postings/Get HTTP/1.1\r\nhost: xxxx\r\n\r\n",
    ),
];

/// The status line of the response.
pub(crate) async fn send(address: SocketAddr, text: &Text, secrets: &Secrets) -> Option<String> {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let head = secrets.fill(head).replace('\n', "\r\n");
    // Latin-1: characters outside ASCII are sent as a single byte.
    let head = head.chars().map(|c| c as u8);
    let mut bytes: Vec<u8> = head.collect();
    bytes.extend(b"\r\n\r\n");
    bytes.extend(secrets.fill(body).bytes());
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut response = Vec::new();
    let read = async {
        let mut part = [0; 4_096];
        // With `connection: close`, read to the end, so that a smuggled second request would be noticed.
        let closes = text.contains("connection: close");
        while closes || !response.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut part).await {
                Ok(0) | Err(_) => break,
                Ok(len) => response.extend(&part[..len]),
            }
        }
    };
    let read = tokio::time::timeout(Duration::from_secs(10), read).await;
    read.expect("no response in time");
    let response = String::from_utf8_lossy(&response);
    Some(response.lines().next().unwrap_or("nothing").to_owned())
}
