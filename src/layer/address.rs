//! Where a request comes from.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::{FORWARDED, HeaderName};

use super::head::RequestHead;
use crate::key::AddressList;

/// The address of the connection's other end: servers other than axum's put it into the request's
/// extensions as this type, for address lists and the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddress(pub IpAddr);

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        Self(address.ip())
    }
}

/// The header in which proxies say whom they forward for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardedHeader {
    /// `X-Forwarded-For: 203.0.113.7, 10.0.0.1`
    XForwardedFor,
    /// `Forwarded: for=203.0.113.7, for="[2001:db8::1]:80"` (RFC 7239)
    Forwarded,
}

type Peer = dyn Fn(RequestHead<'_>) -> Option<IpAddr> + Send + Sync;

/// How the client's address is told.
#[derive(Clone, Default)]
pub(crate) struct ClientAddress {
    pub(crate) peer: Option<Arc<Peer>>,
    pub(crate) trusted: Option<(AddressList, ForwardedHeader)>,
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Trusted hops that are followed; behind more of them, the address is unknown.
const MAX_HOPS: usize = 32;

/// What a request tells of its client's address.
enum Origin {
    /// The connection's other end, or what trusted proxies tell of it.
    Known(IpAddr),
    /// A trusted proxy's word cannot be read. The address is that of the last hop that can.
    Unreadable(IpAddr),
    /// Neither the server nor the application tells the peer's address.
    NoPeer,
}

impl ClientAddress {
    /// The client's address, where it is known for sure.
    pub(crate) fn of(&self, head: RequestHead<'_>) -> Option<IpAddr> {
        match self.origin(head) {
            Origin::Known(address) => Some(address),
            Origin::Unreadable(_) | Origin::NoPeer => None,
        }
    }

    /// The address that pays for failed lookups: the nearest one that is known for sure, so that an unreadable
    /// hop escapes no limit.
    pub(crate) fn payer(&self, head: RequestHead<'_>) -> Option<IpAddr> {
        match self.origin(head) {
            Origin::Known(address) | Origin::Unreadable(address) => Some(address),
            Origin::NoPeer => None,
        }
    }

    fn origin(&self, head: RequestHead<'_>) -> Origin {
        let peer = match &self.peer {
            Some(peer) => peer(head),
            None => peer_address(head),
        };
        let Some(peer) = peer.map(|peer| peer.to_canonical()) else {
            return Origin::NoPeer;
        };
        match &self.trusted {
            Some((trusted, header)) if trusted.contains(peer) => {
                behind(peer, trusted, *header, head)
            }
            _ => Origin::Known(peer),
        }
    }
}

/// Goes from the peer outwards for as long as the hops are trusted proxies. A hop that cannot be read ends
/// the walk without an address: what is behind it may be made up, and what is before it is a proxy. So does
/// an empty list element, which some proxies write for a client without an address.
fn behind(
    peer: IpAddr,
    trusted: &AddressList,
    header: ForwardedHeader,
    head: RequestHead<'_>,
) -> Origin {
    let name = match header {
        ForwardedHeader::XForwardedFor => X_FORWARDED_FOR,
        ForwardedHeader::Forwarded => FORWARDED,
    };
    let mut nearest = peer;
    let lines = head.headers().get_all(name).iter().rev();
    let quotes = header == ForwardedHeader::Forwarded;
    let hops = lines.flat_map(|line| rsplit_unquoted(line.as_bytes(), b',', quotes));
    for (count, hop) in hops.enumerate() {
        let text = match header {
            ForwardedHeader::XForwardedFor => std::str::from_utf8(hop).ok().map(str::trim),
            ForwardedHeader::Forwarded => forwarded_for(hop),
        };
        let address = text.filter(|_| count < MAX_HOPS).and_then(hop_address);
        let Some(address) = address else {
            return Origin::Unreadable(nearest);
        };
        nearest = address;
        if !trusted.contains(address) {
            break;
        }
    }
    Origin::Known(nearest)
}

/// The parts between separators, the last first. With quotes, a separator within them is none: proxies
/// pass on there, as the `host` of `Forwarded`, what a client made up. Quotes are paired from the end,
/// where the nearest proxy wrote, so that what a client began cannot reach into that.
fn rsplit_unquoted(text: &[u8], separator: u8, quotes: bool) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut quoted = false;
        let place = text.iter().enumerate().rposition(|(place, &byte)| {
            // Within a pair, one behind a backslash that is no escaped one itself does not end it.
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

/// The `for` of one element of `Forwarded`. Where there are several, nobody can tell whose they are.
fn forwarded_for(element: &[u8]) -> Option<&str> {
    let mut found = rsplit_unquoted(element, b';', true).filter_map(|pair| {
        let (name, value) = std::str::from_utf8(pair).ok()?.split_once('=')?;
        let value = value.trim();
        let within = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
        let ours = name.trim().eq_ignore_ascii_case("for");
        ours.then_some(within.unwrap_or(value))
    });
    found.next().filter(|_| found.next().is_none())
}

/// An address with or without a port, IPv6 with or without brackets.
fn hop_address(text: &str) -> Option<IpAddr> {
    let address = text
        .parse()
        .ok()
        .or_else(|| text.parse().ok().map(|socket: SocketAddr| socket.ip()))
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some(address.to_canonical())
}

fn peer_address(head: RequestHead<'_>) -> Option<IpAddr> {
    #[cfg(feature = "axum")]
    if let Some(axum::extract::ConnectInfo(address)) = head
        .extensions()
        .get::<axum::extract::ConnectInfo<SocketAddr>>()
    {
        return Some(address.ip());
    }
    head.extensions().get().map(|PeerAddress(address)| *address)
}

impl fmt::Debug for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAddress")
            .field("trusted", &self.trusted)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn client(header: ForwardedHeader, peer: &str, lines: &[&str]) -> Option<String> {
        let name = match header {
            ForwardedHeader::XForwardedFor => X_FORWARDED_FOR,
            ForwardedHeader::Forwarded => FORWARDED,
        };
        let mut request = Request::new(());
        request
            .extensions_mut()
            .insert(PeerAddress(peer.parse().unwrap()));
        for line in lines {
            let line = http::HeaderValue::from_bytes(line.as_bytes()).unwrap();
            request.headers_mut().append(&name, line);
        }
        let trusted = AddressList::parse(["10.0.0.0/8", "::1"]).unwrap();
        let address = ClientAddress {
            peer: None,
            trusted: Some((trusted, header)),
        };
        address.of(RequestHead::of(&request)).map(|a| a.to_string())
    }

    #[test]
    fn forwarded_headers_count_from_trusted_networks_only() {
        let xff =
            |peer, lines: &[&str]| client(ForwardedHeader::XForwardedFor, peer, lines).unwrap();
        assert_eq!(xff("203.0.113.9", &["1.2.3.4"]), "203.0.113.9");
        assert_eq!(xff("10.0.0.1", &["1.2.3.4"]), "1.2.3.4");
        // The client made up the first one: only the hop that our own proxy wrote counts.
        assert_eq!(xff("10.0.0.1", &["6.6.6.6, 1.2.3.4, 10.0.0.2"]), "1.2.3.4");
        assert_eq!(
            xff("10.0.0.1", &["6.6.6.6", "1.2.3.4:80", "[::1]:9"]),
            "1.2.3.4"
        );
        assert_eq!(xff("10.0.0.1", &["::ffff:1.2.3.4"]), "1.2.3.4");
        assert_eq!(xff("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(xff("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
    }

    /// An address list must not take such a client for the proxy.
    #[test]
    fn an_unreadable_hop_leaves_the_address_unknown() {
        let xff = |lines: &[&str]| client(ForwardedHeader::XForwardedFor, "10.0.0.1", lines);
        let many = ["10.0.0.2"; MAX_HOPS];
        assert_eq!(xff(&many).as_deref(), Some("10.0.0.2"));
        let too_many = ["10.0.0.2"; MAX_HOPS + 1];
        for lines in [
            &["unknown"][..],
            &["unix:"],
            &[""],
            &["1.2.3.4,"],
            &["1.2.3.4", " "],
            &["_hidden"],
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
            "",
            "for=1.2.3.4, for=unknown, for=\"[::1]\"",
            // Without quotes around it, nobody can tell who wrote what.
            "for=1.2.3.4;host=a;for=6.6.6.6",
        ] {
            assert_eq!(forwarded(line), None, "{line}");
        }
    }

    #[test]
    fn an_unreadable_hop_escapes_no_lookup_limit() {
        let mut request = Request::new(());
        request
            .extensions_mut()
            .insert(PeerAddress([10, 0, 0, 1].into()));
        let address = ClientAddress {
            peer: None,
            trusted: Some((
                AddressList::parse(["10.0.0.0/8"]).unwrap(),
                ForwardedHeader::XForwardedFor,
            )),
        };
        for (value, payer) in [
            ("unknown", "10.0.0.1"),
            ("6.6.6.6, unknown, 10.0.0.2", "10.0.0.2"),
            ("6.6.6.6, 1.2.3.4, 10.0.0.2", "1.2.3.4"),
        ] {
            request
                .headers_mut()
                .insert(X_FORWARDED_FOR, value.parse().unwrap());
            let head = RequestHead::of(&request);
            assert_eq!(address.payer(head), Some(payer.parse().unwrap()), "{value}");
        }
        assert_eq!(address.payer(RequestHead::of(&Request::new(()))), None);
    }

    #[test]
    fn forwarded_elements_are_read() {
        let forwarded = |lines: &[&str]| client(ForwardedHeader::Forwarded, "::1", lines).unwrap();
        assert_eq!(
            forwarded(&["for=6.6.6.6, proto=http;For=\"[2001:db8::1]:4711\";by=x"]),
            "2001:db8::1"
        );
        assert_eq!(forwarded(&["for=\"[2001:db8::1]\""]), "2001:db8::1");
    }

    #[test]
    fn what_a_client_made_up_does_not_hide_what_a_proxy_wrote() {
        let xff = client(ForwardedHeader::XForwardedFor, "::1", &["é, 1.2.3.4"]);
        assert_eq!(xff.unwrap(), "1.2.3.4");
        let forwarded = |line: &str| client(ForwardedHeader::Forwarded, "::1", &[line]).unwrap();
        for made_up in [
            "é",
            "a, for=6.6.6.6",
            "a;for=6.6.6.6",
            r#"\", for=6.6.6.6;b=\"c"#,
        ] {
            let within = format!("for=1.2.3.4;host=\"{made_up}\"");
            assert_eq!(forwarded(&within), "1.2.3.4", "{within}");
            let within = format!("host=\"{made_up}\";for=1.2.3.4");
            assert_eq!(forwarded(&within), "1.2.3.4", "{within}");
        }
        for before in ["é", "for=\"", "\"a\\", "for=6.6.6.6;b=\"c"] {
            let behind = format!("{before}, for=1.2.3.4;host=\"a\"");
            assert_eq!(forwarded(&behind), "1.2.3.4", "{behind}");
        }
    }
}
