//! A rate limit per client IP in fixed memory, for failed lookups and anonymous requests.

use std::net::IpAddr;
use std::time::Duration;

use crate::clock::Now;
use crate::limit::{Charge, RateLimit, RateSketch};

/// The number of cells in each half of the sketch: clients that exhaust their limit before those of others suffer.
const CELLS: usize = 32_768;

/// The same rate limit for every client IP. All clients with an unknown IP share one.
#[derive(Debug)]
pub(crate) struct ClientLimit(RateSketch);

impl ClientLimit {
    /// Creates the limit, which must be [valid](RateLimit::validate).
    pub(crate) fn new(limit: &RateLimit) -> Self {
        Self(RateSketch::new(limit, CELLS))
    }

    /// Charges one unit to a client.
    ///
    /// # Errors
    ///
    /// The time to wait, if the limit is exceeded.
    pub(super) fn charge(&self, client: Option<IpAddr>, now: Now) -> Result<Charge, Duration> {
        self.0.charge(client.map(network), now)
    }

    /// Refunds a charge.
    pub(super) fn refund(&self, charge: Charge, now: Now) {
        self.0.refund(charge, now);
    }

    /// Whether a client is within its limit, without charging it.
    ///
    /// # Errors
    ///
    /// The time to wait, if the limit is exceeded.
    pub(super) fn peek(&self, client: Option<IpAddr>, now: Now) -> Result<(), Duration> {
        self.0.peek(client.map(network), now)
    }
}

/// The network that counts as one client: an IPv4 address, or an IPv6 /64, within which a client chooses its own
/// addresses (RFC 4862). Many clients have more than one /64 (RFC 6177).
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
    fn ipv6_clients_are_grouped_by_64_bit_network() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:ffff:ffff:ffff"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
