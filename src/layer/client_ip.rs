//! The client IP of a request: the peer, or the client named by trusted proxies.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use http::header::{FORWARDED, HeaderName};

use super::request_parts::RequestParts;
use crate::key::AddressList;
use crate::telemetry;

/// The IP address of the connection's peer.
///
/// Insert it into the extensions of requests if the server is not axum's, for address lists, the lookup limit and
/// the request log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddress(pub IpAddr);

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        Self(address.ip())
    }
}

/// The header in which proxies send the client IP.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardedHeader {
    /// A list to which each proxy appends: `X-Forwarded-For: 203.0.113.7, 10.0.0.1`.
    XForwardedFor,
    /// The standard header of [RFC 7239](https://www.rfc-editor.org/rfc/rfc7239):
    /// `Forwarded: for=203.0.113.7, for="[2001:db8::1]:80"`.
    Forwarded,
    /// A header with a single address, set by the nearest proxy, such as `X-Real-IP`, `CF-Connecting-IP` or
    /// `Fly-Client-IP`. The proxy must overwrite the header if the client sends it.
    Single(HeaderName),
}

type Peer = dyn Fn(RequestParts<'_>) -> Option<IpAddr> + Send + Sync;

/// The configuration to determine the client IP.
#[derive(Clone, Default)]
pub(crate) struct ClientIpExtractor {
    pub(crate) peer: Option<Arc<Peer>>,
    pub(crate) trusted: Option<(AddressList, ForwardedHeader)>,
    /// Whether a peer without an address, as on a Unix socket, is a trusted proxy.
    pub(crate) trust_unix_peer: bool,
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The maximum number of trusted hops. With more of them, the client IP is unknown.
const MAX_HOPS: usize = 32;

/// The result of determining the client IP.
enum ClientIp {
    /// The peer, or the client named by trusted proxies.
    Known(IpAddr),
    /// A trusted proxy named no client or sent an unreadable hop. Contains the address of the last readable hop.
    Unreadable(Option<IpAddr>),
    /// The address of the peer is unknown.
    NoPeer,
}

impl ClientIpExtractor {
    /// The client IP, if known.
    pub(crate) fn of(&self, parts: RequestParts<'_>) -> Option<IpAddr> {
        match self.client_ip(parts) {
            ClientIp::Known(address) => Some(address),
            ClientIp::Unreadable(_) | ClientIp::NoPeer => None,
        }
    }

    /// The address for rate limits: the last readable hop if the client IP is unknown, so that an unreadable hop
    /// does not evade them.
    pub(crate) fn rate_limit_address(&self, parts: RequestParts<'_>) -> Option<IpAddr> {
        match self.client_ip(parts) {
            ClientIp::Known(address) => Some(address),
            ClientIp::Unreadable(nearest) => nearest,
            ClientIp::NoPeer => None,
        }
    }

    #[inline]
    fn client_ip(&self, parts: RequestParts<'_>) -> ClientIp {
        let peer = match &self.peer {
            Some(peer) => peer(parts),
            None => peer_address(parts),
        };
        let peer = peer.map(|peer| peer.to_canonical());
        match (peer, &self.trusted) {
            (Some(peer), Some((trusted, header))) if trusted.contains(peer) => {
                behind(Some(peer), trusted, header, parts)
            }
            (None, Some((trusted, header))) if self.trust_unix_peer => {
                behind(None, trusted, header, parts)
            }
            (Some(peer), _) => ClientIp::Known(peer),
            (None, _) => ClientIp::NoPeer,
        }
    }
}

/// Follows the hops from the peer outwards while they are trusted proxies.
///
/// An unreadable hop leaves the client IP unknown: the hops behind it may be forged, and the one before it is a
/// proxy. So does a header without hops, which a client can cause at proxies that remove headers named in
/// `Connection`.
fn behind(
    peer: Option<IpAddr>,
    trusted: &AddressList,
    header: &ForwardedHeader,
    parts: RequestParts<'_>,
) -> ClientIp {
    let name = match header {
        ForwardedHeader::XForwardedFor => &X_FORWARDED_FOR,
        ForwardedHeader::Forwarded => &FORWARDED,
        ForwardedHeader::Single(name) => return single(peer, name, parts),
    };
    let quotes = *header == ForwardedHeader::Forwarded;
    let lines = parts.headers().get_all(name).iter().rev();
    let hops = lines
        .flat_map(|line| rsplit_unquoted(line.as_bytes(), b',', quotes))
        // Empty elements of a list are ignored (RFC 9110 §5.6.1.2).
        .filter(|hop| !hop.trim_ascii().is_empty());
    let (mut nearest, mut found) = (peer, false);
    for (count, hop) in hops.enumerate() {
        let address = match header {
            _ if count >= MAX_HOPS => None,
            ForwardedHeader::Forwarded => forwarded_for(hop),
            _ => std::str::from_utf8(hop).ok().and_then(hop_address),
        };
        let Some(address) = address else {
            return ClientIp::Unreadable(nearest);
        };
        (nearest, found) = (Some(address), true);
        if !trusted.contains(address) {
            break;
        }
    }
    match nearest {
        Some(address) if found => ClientIp::Known(address),
        nearest => ClientIp::Unreadable(nearest),
    }
}

/// The client IP from a header with a single address.
fn single(peer: Option<IpAddr>, name: &HeaderName, parts: RequestParts<'_>) -> ClientIp {
    let mut values = parts.headers().get_all(name).iter();
    let (first, second) = (values.next(), values.next());
    match (first, second) {
        (Some(value), None) => {
            let address = value.to_str().ok().and_then(hop_address);
            address.map_or(ClientIp::Unreadable(peer), ClientIp::Known)
        }
        _ => ClientIp::Unreadable(peer),
    }
}

/// Splits at separators, last part first, optionally ignoring separators within quotes. Proxies forward values
/// chosen by the client in quotes, such as the `host` of `Forwarded`. Quotes are paired from the end, which the
/// nearest proxy wrote, so that an unclosed quote of the client does not extend into it.
fn rsplit_unquoted(text: &[u8], separator: u8, quotes: bool) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut quoted = false;
        let place = text.iter().enumerate().rposition(|(place, &byte)| {
            // An escaped quote does not end a quoted string; an escaped backslash escapes nothing.
            let escapes = || text[..place].iter().rev().take_while(|&&b| b == b'\\');
            if quotes && byte == b'"' && !(quoted && escapes().count() % 2 == 1) {
                quoted = !quoted;
            }
            byte == separator && !quoted
        });
        let part = place.map_or(text, |place| &text[place + 1..]);
        rest = place.map(|place| &text[..place]);
        Some(part)
    })
}

/// The `for` parameter of an element of `Forwarded`. Repeated parameters are ambiguous and rejected.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let mut values = rsplit_unquoted(element, b';', true).filter_map(|pair| {
        let (name, value) = std::str::from_utf8(pair).ok()?.split_once('=')?;
        let is_for = name.trim().eq_ignore_ascii_case("for");
        is_for.then(|| unquoted(value.trim()))
    });
    let value = values.next().filter(|_| values.next().is_none())?;
    hop_address(&value?)
}

/// A token, or the unescaped content of a quoted string (RFC 9110 §5.6.4).
fn unquoted(value: &str) -> Option<Cow<'_, str>> {
    let Some(quoted) = value.strip_prefix('"') else {
        return Some(value.into());
    };
    let quoted = quoted.strip_suffix('"')?;
    if !quoted.contains('\\') {
        return Some(quoted.into());
    }
    let mut text = String::new();
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        text.push(if c == '\\' { chars.next()? } else { c });
    }
    Some(text.into())
}

/// An address with or without a port, IPv6 with or without brackets. The port may be obfuscated (RFC 7239 §6).
fn hop_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let text = match text.rsplit_once(":_") {
        // An IPv6 address with a port needs brackets.
        Some((address, port)) if is_obfuscated(port) => {
            Some(address).filter(|address| address.starts_with('[') || !address.contains(':'))?
        }
        _ => text,
    };
    let address = text
        .parse()
        .ok()
        .or_else(|| text.parse().ok().map(|socket: SocketAddr| socket.ip()))
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some(address.to_canonical())
}

/// Whether the text is valid after the underscore of an obfuscated port.
fn is_obfuscated(port: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    !port.is_empty() && port.bytes().all(allowed)
}

fn peer_address(parts: RequestParts<'_>) -> Option<IpAddr> {
    #[cfg(feature = "axum")]
    if let Some(axum::extract::ConnectInfo(address)) = parts
        .extensions()
        .get::<axum::extract::ConnectInfo<SocketAddr>>()
    {
        return Some(address.ip());
    }
    parts
        .extensions()
        .get()
        .map(|PeerAddress(address)| *address)
}

impl fmt::Debug for ClientIpExtractor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIpExtractor")
            .field("trusted", &self.trusted)
            .finish_non_exhaustive()
    }
}

/// Logs the consequences of an unknown client IP, each once: it usually affects all requests of a service or none.
#[derive(Debug, Default)]
pub(crate) struct MissingClientIp {
    lookups: OnceLock<()>,
    address_lists: OnceLock<()>,
}

impl MissingClientIp {
    pub(super) fn on_lookup(&self) {
        self.lookups.get_or_init(|| {
            telemetry::warn!(
                "the client IP is unknown, so failed lookups are not limited: see `ApiKeyLayer::lookup_limit`"
            );
        });
    }

    pub(super) fn on_address_list(&self) {
        self.address_lists.get_or_init(|| {
            telemetry::warn!(
                "the client IP is unknown, so keys with an address list are rejected: see `ApiKeyLayer::peer_address`"
            );
        });
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn client(header: ForwardedHeader, peer: &str, lines: &[&str]) -> Option<String> {
        let name = match &header {
            ForwardedHeader::XForwardedFor => X_FORWARDED_FOR,
            ForwardedHeader::Forwarded => FORWARDED,
            ForwardedHeader::Single(name) => name.clone(),
        };
        let mut request = Request::new(());
        if let Ok(peer) = peer.parse() {
            request.extensions_mut().insert(PeerAddress(peer));
        }
        for line in lines {
            let line = http::HeaderValue::from_bytes(line.as_bytes()).unwrap();
            request.headers_mut().append(&name, line);
        }
        let trusted = AddressList::parse(["10.0.0.0/8", "::1"]).unwrap();
        let address = ClientIpExtractor {
            peer: None,
            trusted: Some((trusted, header)),
            trust_unix_peer: peer == "unix",
        };
        address
            .of(RequestParts::of(&request))
            .map(|a| a.to_string())
    }

    #[test]
    fn forwarded_headers_are_read_from_trusted_networks_only() {
        let xff =
            |peer, lines: &[&str]| client(ForwardedHeader::XForwardedFor, peer, lines).unwrap();
        assert_eq!(xff("203.0.113.9", &["1.2.3.4"]), "203.0.113.9");
        assert_eq!(xff("10.0.0.1", &["1.2.3.4"]), "1.2.3.4");
        // The client forged the first address; only the hop written by a trusted proxy counts.
        assert_eq!(xff("10.0.0.1", &["6.6.6.6, 1.2.3.4, 10.0.0.2"]), "1.2.3.4");
        assert_eq!(
            xff("10.0.0.1", &["6.6.6.6", "1.2.3.4:80", "[::1]:9"]),
            "1.2.3.4"
        );
        assert_eq!(xff("10.0.0.1", &["::ffff:1.2.3.4"]), "1.2.3.4");
        assert_eq!(xff("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        assert_eq!(xff("10.0.0.1", &["1.2.3.4:_port"]), "1.2.3.4");
    }

    #[test]
    fn empty_list_elements_are_ignored() {
        for line in ["1.2.3.4,", "1.2.3.4, ,10.0.0.2", ",1.2.3.4,\t,, 10.0.0.2 ,"] {
            let xff = client(ForwardedHeader::XForwardedFor, "::1", &[line, "", " , "]);
            assert_eq!(xff.as_deref(), Some("1.2.3.4"), "{line}");
        }
        for line in [
            "for=1.2.3.4,",
            "for=1.2.3.4, ,for=10.0.0.2",
            ", for=1.2.3.4 ,,",
        ] {
            let forwarded = client(ForwardedHeader::Forwarded, "::1", &[line, ""]);
            assert_eq!(forwarded.as_deref(), Some("1.2.3.4"), "{line}");
        }
    }

    #[test]
    fn single_address_headers_are_read_from_trusted_peers_only() {
        let real_ip = || ForwardedHeader::Single(HeaderName::from_static("x-real-ip"));
        let of = |peer, lines: &[&str]| client(real_ip(), peer, lines);
        assert_eq!(of("10.0.0.1", &["1.2.3.4"]).as_deref(), Some("1.2.3.4"));
        assert_eq!(
            of("10.0.0.1", &["2001:db8::1"]).as_deref(),
            Some("2001:db8::1")
        );
        // The client may be a trusted proxy itself.
        assert_eq!(of("10.0.0.1", &["10.0.0.2"]).as_deref(), Some("10.0.0.2"));
        assert_eq!(
            of("203.0.113.9", &["1.2.3.4"]).as_deref(),
            Some("203.0.113.9")
        );
        for lines in [
            &[][..],
            &["unknown"],
            &[""],
            &["1.2.3.4, 5.6.7.8"],
            &["1.2.3.4", "1.2.3.4"],
        ] {
            assert_eq!(of("10.0.0.1", lines), None, "{lines:?}");
        }
    }

    #[test]
    fn unix_socket_peers_are_trusted_if_configured() {
        let of = |peer, lines: &[&str]| client(ForwardedHeader::XForwardedFor, peer, lines);
        assert_eq!(
            of("unix", &["1.2.3.4, 10.0.0.2"]).as_deref(),
            Some("1.2.3.4")
        );
        assert_eq!(of("unix", &["unix:"]), None);
        assert_eq!(of("unix", &[]), None);
        assert_eq!(of("not known", &["1.2.3.4"]), None);
        // A peer with an address is not affected.
        assert_eq!(
            of("203.0.113.9", &["1.2.3.4"]).as_deref(),
            Some("203.0.113.9")
        );
    }

    /// Otherwise an address list could mistake such a client for the proxy.
    #[test]
    fn an_unreadable_hop_leaves_the_client_ip_unknown() {
        let xff = |lines: &[&str]| client(ForwardedHeader::XForwardedFor, "10.0.0.1", lines);
        let many = ["10.0.0.2"; MAX_HOPS];
        assert_eq!(xff(&many).as_deref(), Some("10.0.0.2"));
        let too_many = ["10.0.0.2"; MAX_HOPS + 1];
        for lines in [
            &[][..],
            &[""],
            &[" ,", ","],
            &["unknown"],
            &["unix:"],
            &["unknown,"],
            &["1.2.3.4, unknown,,"],
            &["_hidden"],
            &["1.2.3.4:_"],
            &["1.2.3.4:_a:_b"],
            &["1.2.3.4:_a b"],
            &["2001:db8::1:_a"],
            &["1.2.3.4:99999"],
            &["1.2.3.4:"],
            &["1.2.3.4:80:80"],
            &["1.2.3"],
            &["01.2.3.4"],
            &["[::1"],
            &["fe80::1%eth0"],
            &["localhost"],
            &["1.2.3.4 10.0.0.2"],
            &["\u{e9}"],
            &["1.2.3.4, unknown, 10.0.0.2"],
            &["1.2.3.4, unknown", "10.0.0.2"],
            &too_many,
        ] {
            assert_eq!(xff(lines), None, "{lines:?}");
        }
        let forwarded = |line: &str| client(ForwardedHeader::Forwarded, "::1", &[line]);
        for line in [
            "for=unknown",
            "for=_hidden",
            "for=\"unix:\"",
            "for=\"1.2.3.4:99999\"",
            "for=1.2.3.4;for=1.2.3.4",
            "For=1.2.3.4;proto=http;FOR=6.6.6.6",
            "proto=http",
            "for",
            "for=",
            "for=\"1.2.3.4",
            "for=1.2.3.4\"",
            r#"for="1.2.3.4\""#,
            "for=1.2.3.4, for=unknown, for=\"[::1]\"",
            // An unquoted `host` chosen by the client makes the element ambiguous.
            "for=1.2.3.4;host=a;for=6.6.6.6",
        ] {
            assert_eq!(forwarded(line), None, "{line}");
        }
    }

    #[test]
    fn an_unreadable_hop_does_not_evade_the_lookup_limit() {
        let mut request = Request::new(());
        request
            .extensions_mut()
            .insert(PeerAddress([10, 0, 0, 1].into()));
        let address = ClientIpExtractor {
            peer: None,
            trusted: Some((
                AddressList::parse(["10.0.0.0/8"]).unwrap(),
                ForwardedHeader::XForwardedFor,
            )),
            trust_unix_peer: false,
        };
        for (value, limited) in [
            ("unknown", "10.0.0.1"),
            ("6.6.6.6, unknown, 10.0.0.2", "10.0.0.2"),
            ("6.6.6.6, 1.2.3.4, 10.0.0.2", "1.2.3.4"),
        ] {
            request
                .headers_mut()
                .insert(X_FORWARDED_FOR, value.parse().unwrap());
            let parts = RequestParts::of(&request);
            assert_eq!(
                address.rate_limit_address(parts),
                Some(limited.parse().unwrap()),
                "{value}"
            );
        }
        assert_eq!(
            address.rate_limit_address(RequestParts::of(&Request::new(()))),
            None
        );
    }

    #[test]
    fn forwarded_elements_are_parsed() {
        let forwarded = |lines: &[&str]| client(ForwardedHeader::Forwarded, "::1", lines).unwrap();
        assert_eq!(
            forwarded(&["for=6.6.6.6, proto=http;For=\"[2001:db8::1]:4711\";by=x"]),
            "2001:db8::1"
        );
        assert_eq!(forwarded(&["for=\"[2001:db8::1]\""]), "2001:db8::1");
        assert_eq!(forwarded(&["for=\"[2001:db8::1]:_p.-_1\""]), "2001:db8::1");
        assert_eq!(forwarded(&["for=\"203.0.113.7:_p\""]), "203.0.113.7");
        assert_eq!(forwarded(&[r#"for="\[2001:db8::1]""#]), "2001:db8::1");
        assert_eq!(forwarded(&[r#"for="\1.2.3\.4:8\0""#]), "1.2.3.4");
    }

    #[test]
    fn forged_values_do_not_hide_the_hop_written_by_a_proxy() {
        let xff = client(ForwardedHeader::XForwardedFor, "::1", &["é, 1.2.3.4"]);
        assert_eq!(xff.unwrap(), "1.2.3.4");
        let forwarded = |line: &str| client(ForwardedHeader::Forwarded, "::1", &[line]).unwrap();
        for forged in [
            "é",
            "a, for=6.6.6.6",
            "a;for=6.6.6.6",
            r#"\", for=6.6.6.6;b=\"c"#,
        ] {
            let element = format!("for=1.2.3.4;host=\"{forged}\"");
            assert_eq!(forwarded(&element), "1.2.3.4", "{element}");
            let element = format!("host=\"{forged}\";for=1.2.3.4");
            assert_eq!(forwarded(&element), "1.2.3.4", "{element}");
        }
        for before in ["é", "for=\"", "\"a\\", "for=6.6.6.6;b=\"c"] {
            let line = format!("{before}, for=1.2.3.4;host=\"a\"");
            assert_eq!(forwarded(&line), "1.2.3.4", "{line}");
        }
    }
}
