//! How many look-ups that come to nothing one address may cause: that find no key that lets in with the
//! secret that was sent.

use std::net::IpAddr;
use std::time::Duration;

use crate::clock::Now;
use crate::limit::{Charge, RateLimit, RateSketch};

/// Addresses that spend all they have at once, in each half of the sketch, before they use up others' budgets.
const CELLS: usize = 32_768;

/// The budget of each address: `limit` look-ups that come to nothing.
#[derive(Debug)]
pub(crate) struct LookupBudget(RateSketch);

impl LookupBudget {
    /// The limit must be [valid](RateLimit::validate).
    pub(crate) fn new(limit: &RateLimit) -> Self {
        Self(RateSketch::new(limit, CELLS))
    }

    /// Charges a look-up to an address before it is made, so that many at one time are no more than
    /// many in turn.
    ///
    /// # Errors
    ///
    /// When the budget is used up: how long to wait.
    pub(super) fn charge(&self, address: IpAddr, now: Now) -> Result<Charge, Duration> {
        self.0.charge(network(address), now)
    }

    /// Gives back what a look-up was charged that did not come to nothing.
    pub(super) fn give_back(&self, charge: Charge, now: Now) {
        self.0.give_back(charge, now);
    }

    /// # Errors
    ///
    /// When the budget of an address is used up: how long to wait.
    pub(super) fn look(&self, address: IpAddr, now: Now) -> Result<(), Duration> {
        self.0.peek(network(address), now)
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
