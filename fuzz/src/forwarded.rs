//! Forwarded headers: the client IP is the one reported by the nearest trusted proxies, whatever the client sends.
//!
//! The input consists of lines: the header, the way it is built, and the peer; then its contents.

use std::cell::LazyCell;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::Empty;
use keytally::backend::MemoryBackend;
use keytally::key::AddressList;
use keytally::{ApiKeyLayer, ApiKeyService, Clock, ForwardedHeader, PeerAddress};
use tower_layer::Layer;
use tower_service::Service;

use crate::now::now;
use crate::record::Recorded;

const TRUSTED: [&str; 3] = ["10.0.0.0/8", "2001:db8:7::/48", "::1"];
const PEERS: [&str; 4] = ["10.0.0.1", "::1", "::ffff:10.9.8.7", "203.0.113.9"];
/// The maximum number of trusted hops that the layer follows.
const MAX_HOPS: usize = 32;

pub fn check(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let [kind, peer] = *lines.next().unwrap_or_default() else {
        return;
    };
    let peer: IpAddr = PEERS[usize::from(peer) % PEERS.len()].parse().unwrap();
    let lines: Vec<&[u8]> = lines.collect();
    SERVICES.with(|services| match kind {
        b'x' => check_list(services, peer, &lines),
        b'f' => check_elements(services, peer, &lines),
        b'X' => check_proxies(services, peer, &lines, ForwardedHeader::XForwardedFor),
        b'F' => check_proxies(services, peer, &lines, ForwardedHeader::Forwarded),
        _ => {}
    });
}

struct Services {
    recorded: Recorded,
    list: ApiKeyService<Inner>,
    elements: ApiKeyService<Inner>,
}

thread_local! {
    static SERVICES: LazyCell<Services> = const { LazyCell::new(Services::new) };
}

#[derive(Clone)]
struct Inner;

impl Service<Request<String>> for Inner {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<String>) -> Self::Future {
        ready(Ok(Response::new(Empty::new())))
    }
}

impl Services {
    fn new() -> Self {
        let recorded = Recorded::new();
        let trusting = |header| {
            ApiKeyLayer::new(MemoryBackend::new())
                .clock(Clock::manual("2026-11-01T10:00:00Z".parse().unwrap()))
                .recorder(recorded.recorder.clone())
                .allow_anonymous()
                .trust_forwarded(header, AddressList::parse(TRUSTED).unwrap())
                .layer(Inner)
        };
        Self {
            list: trusting(ForwardedHeader::XForwardedFor),
            elements: trusting(ForwardedHeader::Forwarded),
            recorded,
        }
    }

    /// The client IP that the layer records for a request with these headers. `None` if they are not valid header
    /// values.
    fn client_ip(
        &self,
        header: ForwardedHeader,
        peer: IpAddr,
        lines: &[&[u8]],
    ) -> Option<Option<IpAddr>> {
        let (service, name) = match header {
            ForwardedHeader::XForwardedFor => (&self.list, "x-forwarded-for"),
            _ => (&self.elements, "forwarded"),
        };
        let name = HeaderName::from_static(name);
        let mut request = Request::new(String::new());
        for line in lines {
            let line = HeaderValue::from_bytes(line).ok()?;
            request.headers_mut().append(&name, line);
        }
        request.extensions_mut().insert(PeerAddress(peer));
        let response = now(service.clone().call(request)).unwrap();
        assert_eq!(response.status(), 200);
        drop(response);
        Some(self.recorded.event().client_ip)
    }
}

fn is_trusted(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[0] == 10,
        IpAddr::V6(v6) => v6.is_loopback() || v6.segments()[..3] == [0x2001, 0xdb8, 7],
    }
}

/// Follows the hops, nearest first, while the reporting proxy is trusted. `None` if a hop cannot be parsed, or
/// if there are too many.
fn resolve<'a>(peer: IpAddr, hops: impl Iterator<Item = Option<&'a str>>) -> Option<IpAddr> {
    let mut reporter = peer.to_canonical();
    if !is_trusted(reporter) {
        return Some(reporter);
    }
    let mut named = false;
    for (count, hop) in hops.enumerate() {
        if named && !is_trusted(reporter) {
            break;
        }
        reporter = hop.filter(|_| count < MAX_HOPS).and_then(address)?;
        named = true;
    }
    named.then_some(reporter)
}

fn address(text: &str) -> Option<IpAddr> {
    // Addresses contain no `_`, so that an obfuscated port follows.
    let text = match text.split_once(":_") {
        Some((address, port)) => {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            let has_brackets = address.starts_with('[') && address.ends_with(']');
            let fits = !port.is_empty() && port.chars().all(fits);
            if !fits || (address.contains(':') && !has_brackets) {
                return None;
            }
            address
        }
        None => text,
    };
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let address = match (text.parse(), text.parse::<SocketAddr>(), bare) {
        (Ok(address), _, _) => address,
        (_, Ok(socket), _) => socket.ip(),
        (_, _, Some(bare)) => bare.parse().ok()?,
        _ => return None,
    };
    Some(address.to_canonical())
}

/// `X-Forwarded-For` is a single list, even if spread over several headers.
fn check_list(services: &Services, peer: IpAddr, lines: &[&[u8]]) {
    let Some(actual) = services.client_ip(ForwardedHeader::XForwardedFor, peer, lines) else {
        return;
    };
    let whole = lines.join(&b',');
    let mut hops: Vec<_> = match lines.is_empty() {
        true => Vec::new(),
        false => whole.split(|byte| *byte == b',').collect(),
    };
    hops.retain(|hop| !hop.trim_ascii().is_empty());
    hops.reverse();
    let texts = hops
        .iter()
        .map(|hop| std::str::from_utf8(hop).ok().map(str::trim));
    assert_eq!(actual, resolve(peer, texts));
}

/// A `Forwarded` header that conforms to RFC 7239 is read accordingly. The result for other headers is
/// unspecified, unless the peer is untrusted.
fn check_elements(services: &Services, peer: IpAddr, lines: &[&[u8]]) {
    let Some(actual) = services.client_ip(ForwardedHeader::Forwarded, peer, lines) else {
        return;
    };
    if !is_trusted(peer.to_canonical()) {
        assert_eq!(actual, Some(peer.to_canonical()));
    }
    let mut hops = Vec::new();
    for line in lines {
        let Some(elements) = Grammar(line).elements() else {
            return;
        };
        hops.extend(elements);
    }
    let hops = hops.iter().rev();
    let texts = hops.map(|node| std::str::from_utf8(node.as_deref()?).ok());
    assert_eq!(actual, resolve(peer, texts));
}

/// A parser for `Forwarded` as specified in RFC 7239 §4.
struct Grammar<'a>(&'a [u8]);

impl<'a> Grammar<'a> {
    /// The `for` parameter of each element, if present.
    fn elements(mut self) -> Option<Vec<Option<Vec<u8>>>> {
        let mut elements = Vec::new();
        loop {
            self.blanks();
            let (mut node, before) = (None, self.0);
            loop {
                if !self.0.is_empty() && !matches!(self.0[0], b';' | b',' | b' ' | b'\t') {
                    let name = self.token()?;
                    self.expect(b'=')?;
                    let value = self.value()?;
                    if name.eq_ignore_ascii_case(b"for") && node.replace(value).is_some() {
                        return None;
                    }
                }
                if self.expect(b';').is_none() {
                    break;
                }
            }
            // Empty elements of a list are ignored.
            if self.0.len() < before.len() {
                elements.push(node);
            }
            self.blanks();
            if self.0.is_empty() {
                return Some(elements);
            }
            self.expect(b',')?;
        }
    }

    fn blanks(&mut self) {
        while let [b' ' | b'\t', rest @ ..] = self.0 {
            self.0 = rest;
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.0 = self.0.strip_prefix(&[byte])?;
        Some(())
    }

    fn token(&mut self) -> Option<&'a [u8]> {
        let char = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
        let end = self.0.iter().position(|b| !char(b)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        (!token.is_empty()).then_some(token)
    }

    /// A token or the contents of a quoted string.
    fn value(&mut self) -> Option<Vec<u8>> {
        if self.expect(b'"').is_none() {
            return self.token().map(Vec::from);
        }
        let mut value = Vec::new();
        loop {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            match byte {
                b'"' => return Some(value),
                b'\\' => {
                    let (&escaped, rest) = self.0.split_first()?;
                    self.0 = rest;
                    value.push(escaped);
                }
                _ => value.push(byte),
            }
        }
    }
}

/// The client forges the start of the header and the `Host`. The proxies append the address that each of them
/// received the request from, and only these count.
fn check_proxies(services: &Services, peer: IpAddr, lines: &[&[u8]], header: ForwardedHeader) {
    const CLIENTS: [(&str, &str); 4] = [
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.7:4711", "203.0.113.7"),
        ("[2001:db8::9]:4711", "2001:db8::9"),
        ("[2001:db8::9]", "2001:db8::9"),
    ];
    const PROXIES: [&str; 2] = ["10.1.1.1", "[2001:db8:7::1]:80"];
    let [forged, host, form, ..] = *lines else {
        return;
    };
    let [client, proxies, order, own_lines, ..] = *form else {
        return;
    };
    let (client, expected) = CLIENTS[usize::from(client) % CLIENTS.len()];
    let mut parts = vec![forged.to_vec()];
    parts.extend(
        [client]
            .into_iter()
            .chain(PROXIES.into_iter().take(usize::from(proxies) % 3))
            .map(|node| match &header {
                ForwardedHeader::XForwardedFor => node.as_bytes().to_vec(),
                _ => element(node, host, order),
            }),
    );
    // Appended to the existing header, or as separate headers.
    let joined = parts.join(&b", "[..]);
    let apart = parts.iter().map(Vec::as_slice).collect::<Vec<_>>();
    let joined = [joined.as_slice()];
    let lines: &[&[u8]] = if own_lines & 1 == 0 { &joined } else { &apart };
    let Some(actual) = services.client_ip(header, peer, lines) else {
        return;
    };
    let expected = match is_trusted(peer.to_canonical()) {
        true => expected.parse().unwrap(),
        false => peer,
    };
    assert_eq!(actual, Some(expected));
}

/// The element that a proxy adds, with the host in quotes.
fn element(node: &str, host: &[u8], order: u8) -> Vec<u8> {
    let mut quoted = Vec::new();
    for &byte in host {
        if matches!(byte, b'"' | b'\\') {
            quoted.push(b'\\');
        }
        quoted.push(byte);
    }
    let node = [b"for=\"", node.as_bytes(), b"\""].concat();
    let host = [b"host=\"", &quoted[..], b"\""].concat();
    match order % 3 {
        0 => node,
        1 => [&node[..], b";proto=https;", &host].concat(),
        _ => [&host[..], b";", &node].concat(),
    }
}
