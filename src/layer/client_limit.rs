//! A rate limit of each client IP, in fixed memory: of failed lookups, and of anonymous requests.

use std::net::IpAddr;
use std::time::Duration;

use crate::clock::Now;
use crate::limit::{Charge, RateLimit, RateSketch};

/// Clients that spend their whole limit at once, in each half of the sketch, before they use up those of others.
const CELLS: usize = 32_768;

/// The same rate limit for every client IP. All clients without a known address are one.
#[derive(Debug)]
pub(crate) struct ClientLimit(RateSketch);

impl ClientLimit {
    /// The limit must be [valid](RateLimit::validate).
    pub(crate) fn new(limit: &RateLimit) -> Self {
        Self(RateSketch::new(limit, CELLS))
    }

    /// Charges a unit to a client.
    ///
    /// # Errors
    ///
    /// When its limit is exceeded: how long to wait.
    pub(super) fn charge(&self, client: Option<IpAddr>, now: Now) -> Result<Charge, Duration> {
        self.0.charge(client.map(network), now)
    }

    /// Gives a unit back.
    pub(super) fn refund(&self, charge: Charge, now: Now) {
        self.0.refund(charge, now);
    }

    /// Whether a client is within its limit, without charging it.
    ///
    /// # Errors
    ///
    /// When its limit is exceeded: how long to wait.
    pub(super) fn peek(&self, client: Option<IpAddr>, now: Now) -> Result<(), Duration> {
        self.0.peek(client.map(network), now)
    }
}

/// What any client can choose from: an IPv4 address, or an IPv6 network of 64 bits, within which it makes
/// its own addresses (RFC 4862). Many have more than one such network (RFC 6177).
pub(super) fn network(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits() | u128::from(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_what_one_client_has() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:ffff:ffff:ffff"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
