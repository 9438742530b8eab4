//! HTTP/2 requests, built from individual frames.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::Ping;
use h2::ext::Protocol;
use http::{HeaderMap, HeaderName, Method, Request, StatusCode, Uri};
use tokio::net::TcpStream;

use super::{Case, GOOD, Secrets};

const NONE: &str = "";
const ANONYMOUS: &str = "a";
const EXEMPT: &str = "ea";
const PREFLIGHT: &str = "ap";
const FAILING: &str = "f";
/// Read as a key by the `SOURCES` setting; no key at all for the others.
const SOURCES: &str = "as";

const ORIGIN: (&str, &str) = ("origin", "https://a");
const REQUEST_METHOD: (&str, &str) = ("access-control-request-method", "POST");
const GRPC: (&str, &str) = ("content-type", "application/grpc");
const TRAILERS: (&str, &str) = ("te", "trailers");

/// What follows the headers.
#[derive(Clone, Copy)]
enum Rest {
    /// The headers end the stream.
    Nothing,
    /// An empty DATA frame ends the stream after a delay.
    Late,
    /// A gRPC message, which ends the stream.
    Message,
    /// A gRPC message followed by a trailer.
    Trailers(&'static str, &'static str),
    /// A gRPC message; the stream ends after a delay.
    Open,
}

#[derive(Clone, Copy)]
pub(crate) struct Frames {
    method: &'static str,
    target: &'static str,
    protocol: Option<&'static str>,
    headers: &'static [(&'static str, &'static str)],
    rest: Rest,
}

const fn frames(
    method: &'static str,
    target: &'static str,
    headers: &'static [(&'static str, &'static str)],
    rest: Rest,
) -> Frames {
    Frames {
        method,
        target,
        protocol: None,
        headers,
        rest,
    }
}

const PATH: &str = "http://x{path}";

pub(crate) fn cases() -> Vec<Case<Frames>> {
    use Rest::{Late, Message, Nothing, Open, Trailers};
    let preflight: &[_] = &[ORIGIN, REQUEST_METHOD];
    let connect = |protocol| Frames {
        protocol: Some(protocol),
        ..frames("CONNECT", PATH, &[], Open)
    };
    [
        ("GET", ANONYMOUS, frames("GET", PATH, &[], Nothing)),
        ("HEAD", ANONYMOUS, frames("HEAD", PATH, &[], Nothing)),
        ("DELETE", ANONYMOUS, frames("DELETE", PATH, &[], Nothing)),
        ("TRACE", ANONYMOUS, frames("TRACE", PATH, &[], Nothing)),
        (
            "an unknown method",
            ANONYMOUS,
            frames("BREW", PATH, &[], Nothing),
        ),
        (
            "a gRPC call",
            ANONYMOUS,
            frames("POST", PATH, &[GRPC, TRAILERS], Message),
        ),
        (
            "a gRPC call with PUT",
            ANONYMOUS,
            frames("PUT", PATH, &[GRPC, TRAILERS], Message),
        ),
        (
            "a gRPC call with GET",
            ANONYMOUS,
            frames("GET", PATH, &[GRPC, TRAILERS], Message),
        ),
        (
            "a gRPC call as JSON",
            ANONYMOUS,
            frames(
                "POST",
                PATH,
                &[("content-type", "application/json")],
                Message,
            ),
        ),
        (
            "a gRPC call without a content type",
            ANONYMOUS,
            frames("POST", PATH, &[], Message),
        ),
        (
            "a gRPC call without an end",
            ANONYMOUS,
            frames("POST", PATH, &[GRPC], Open),
        ),
        ("OPTIONS", ANONYMOUS, frames("OPTIONS", PATH, &[], Nothing)),
        (
            "a preflight",
            PREFLIGHT,
            frames("OPTIONS", PATH, preflight, Nothing),
        ),
        (
            "a preflight that ends late",
            ANONYMOUS,
            frames("OPTIONS", PATH, preflight, Late),
        ),
        (
            "a preflight with a message",
            ANONYMOUS,
            frames("OPTIONS", PATH, preflight, Message),
        ),
        (
            "a preflight without an end",
            ANONYMOUS,
            frames("OPTIONS", PATH, preflight, Open),
        ),
        (
            "a preflight with trailers",
            ANONYMOUS,
            frames("OPTIONS", PATH, preflight, Trailers("x-trailer", "x")),
        ),
        (
            "a gRPC call as a preflight",
            ANONYMOUS,
            frames(
                "OPTIONS",
                PATH,
                &[ORIGIN, REQUEST_METHOD, GRPC, TRAILERS],
                Message,
            ),
        ),
        (
            "a gRPC call as a preflight without origin",
            ANONYMOUS,
            frames("OPTIONS", PATH, &[REQUEST_METHOD, GRPC, TRAILERS], Message),
        ),
        (
            "a preflight with gRPC's content type",
            ANONYMOUS,
            frames("OPTIONS", PATH, &[ORIGIN, REQUEST_METHOD, GRPC], Nothing),
        ),
        (
            "a preflight with TE: trailers",
            ANONYMOUS,
            frames(
                "OPTIONS",
                PATH,
                &[ORIGIN, REQUEST_METHOD, TRAILERS],
                Nothing,
            ),
        ),
        (
            "a preflight with two origins",
            ANONYMOUS,
            frames(
                "OPTIONS",
                PATH,
                &[ORIGIN, ("origin", "https://b"), REQUEST_METHOD],
                Nothing,
            ),
        ),
        ("OPTIONS *", ANONYMOUS, frames("OPTIONS", "*", &[], Nothing)),
        (
            "a preflight for *",
            ANONYMOUS,
            frames("OPTIONS", "*", preflight, Nothing),
        ),
        (
            "CONNECT",
            ANONYMOUS,
            frames("CONNECT", "example.com:443", &[], Open),
        ),
        ("CONNECT for a WebSocket", ANONYMOUS, connect("websocket")),
        ("CONNECT for UDP", ANONYMOUS, connect("connect-udp")),
        (
            "an exempt path",
            EXEMPT,
            frames("GET", "http://x/health", &[], Nothing),
        ),
        (
            "an exempt call",
            EXEMPT,
            frames("POST", "http://x/health", &[GRPC], Message),
        ),
        (
            "below an exempt prefix",
            EXEMPT,
            frames("GET", "http://x/public/a", &[], Nothing),
        ),
        (
            "an exempt host",
            ANONYMOUS,
            frames("GET", "http://health{path}", &[], Nothing),
        ),
        (
            "traversal with dots",
            ANONYMOUS,
            frames("GET", "http://x/public/../a", &[], Nothing),
        ),
        (
            "traversal with a path parameter",
            ANONYMOUS,
            frames("GET", "http://x/public/..;/a", &[], Nothing),
        ),
        (
            "traversal with double-encoded dots",
            ANONYMOUS,
            frames("GET", "http://x/public/%252e%252e/a", &[], Nothing),
        ),
        (
            "traversal with a NUL",
            ANONYMOUS,
            frames("GET", "http://x/public/..%00/a", &[], Nothing),
        ),
        (
            "a key in the query",
            SOURCES,
            frames("GET", "http://x{path}?x-api-key={good}", &[], Nothing),
        ),
        (
            "a key in the trailers",
            ANONYMOUS,
            frames("POST", PATH, &[GRPC], Trailers("x-api-key", "{good}")),
        ),
        (
            "a key in a cookie",
            ANONYMOUS,
            frames("GET", PATH, &[("cookie", "x-api-key={good}")], Nothing),
        ),
        (
            "a key for the proxy",
            ANONYMOUS,
            frames(
                "GET",
                PATH,
                &[("proxy-authorization", "Bearer {good}")],
                Nothing,
            ),
        ),
        (
            "a key in binary metadata",
            ANONYMOUS,
            frames("POST", PATH, &[GRPC, ("x-api-key-bin", "{good}")], Message),
        ),
        (
            "a valid key",
            GOOD,
            frames("POST", PATH, &[GRPC, ("x-api-key", "{good}")], Message),
        ),
        (
            "a valid bearer token with OPTIONS",
            GOOD,
            frames(
                "OPTIONS",
                PATH,
                &[("authorization", "Bearer {good}")],
                Nothing,
            ),
        ),
        (
            "a malformed key",
            NONE,
            frames("POST", PATH, &[GRPC, ("x-api-key", "nonsense")], Message),
        ),
        (
            "an empty key",
            ANONYMOUS,
            frames("POST", PATH, &[GRPC, ("x-api-key", "")], Message),
        ),
        (
            "an unknown key",
            FAILING,
            frames("POST", PATH, &[GRPC, ("x-api-key", "{unknown}")], Message),
        ),
        (
            "a revoked key",
            FAILING,
            frames("POST", PATH, &[GRPC, ("x-api-key", "{revoked}")], Message),
        ),
        (
            "a wrong secret for a valid key id",
            FAILING,
            frames("POST", PATH, &[GRPC, ("x-api-key", "{wrong}")], Message),
        ),
        (
            "a valid and an unknown key",
            NONE,
            frames(
                "POST",
                PATH,
                &[
                    GRPC,
                    ("x-api-key", "{good}"),
                    ("authorization", "Bearer {unknown}"),
                ],
                Message,
            ),
        ),
    ]
    .map(|(name, letters, request)| Case {
        name,
        letters,
        request,
    })
    .into()
}

/// The status of the response; `None` if the server does not support the extended CONNECT protocol.
pub(crate) async fn send(
    address: SocketAddr,
    frames: &Frames,
    secrets: &Secrets,
) -> Option<String> {
    let response =
        tokio::time::timeout(Duration::from_secs(10), exchange(address, frames, secrets));
    match response.await.expect("no response in time") {
        Ok(status) => status.map(|status| status.to_string()),
        Err(error) => Some(error.to_string()),
    }
}

async fn exchange(
    address: SocketAddr,
    frames: &Frames,
    secrets: &Secrets,
) -> Result<Option<StatusCode>, h2::Error> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut client, mut connection) = h2::client::handshake(stream).await?;
    let mut ping_pong = connection.ping_pong().unwrap();
    let connection = tokio::spawn(connection);
    if frames.protocol.is_some() {
        // The server's settings arrive before the pong.
        ping_pong.ping(Ping::opaque()).await?;
        if !client.is_extended_connect_protocol_enabled() {
            return Ok(None);
        }
    }
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(frames.method.as_bytes()).unwrap();
    *request.uri_mut() = secrets.fill(frames.target).parse::<Uri>().unwrap();
    for (name, value) in frames.headers {
        let name = HeaderName::from_static(name);
        let value = secrets.fill(value).parse().unwrap();
        request.headers_mut().append(name, value);
    }
    if let Some(protocol) = frames.protocol {
        request
            .extensions_mut()
            .insert(Protocol::from_static(protocol));
    }
    let ends = matches!(frames.rest, Rest::Nothing);
    let (mut response, mut body) = client.send_request(request, ends)?;
    let message = Bytes::from_static(&[0, 0, 0, 0, 2, 8, 7]);
    // A server that has rejected the request may reset the stream.
    let _ = match frames.rest {
        Rest::Nothing => Ok(()),
        Rest::Late => {
            // Long enough for the headers alone to reach the inner service.
            let wait = tokio::time::timeout(Duration::from_millis(20), &mut response);
            if let Ok(response) = wait.await {
                return Ok(Some(response?.status()));
            }
            body.send_data(Bytes::new(), true)
        }
        Rest::Message => body.send_data(message, true),
        Rest::Open => body.send_data(message, false),
        Rest::Trailers(name, value) => body.send_data(message, false).and_then(|()| {
            let name = HeaderName::from_static(name);
            let value = secrets.fill(value).parse().unwrap();
            body.send_trailers(HeaderMap::from_iter([(name, value)]))
        }),
    };
    if matches!(frames.rest, Rest::Open) {
        let wait = tokio::time::timeout(Duration::from_millis(20), &mut response);
        if let Ok(response) = wait.await {
            return Ok(Some(response?.status()));
        }
        let _ = body.send_data(Bytes::new(), true);
    }
    let status = response.await?.status();
    drop((body, client));
    connection.abort();
    Ok(Some(status))
}
