//! Limits the events of rejected keys, so that the holder of a revoked, disabled or expired key, or of one that
//! is bound to other addresses, cannot fill the log.

use std::net::IpAddr;

use super::client_limit::network;
use crate::clock::Now;
use crate::id::KeyId;
use crate::limit::{RateLimit, RateSketch};

/// Few keys are rejected at one time: 64 KiB for both limits together.
const CELLS: usize = 2_048;

/// Events of rejected keys: a burst of 10 and then 12 an hour per key and client address; a burst of 100 and then
/// 60 an hour per key. Further refusals are counted only.
#[derive(Debug)]
pub(super) struct RejectedEvents {
    by_address: RateSketch,
    by_key: RateSketch,
}

impl RejectedEvents {
    pub(super) fn new() -> Self {
        let sketch = |limit| RateSketch::new(&limit, CELLS);
        Self {
            by_address: sketch(RateLimit::per_hour(12).with_burst(10)),
            by_key: sketch(RateLimit::per_hour(60).with_burst(100)),
        }
    }

    /// Whether the next refusal of this key to this address is an event. All clients without a known address
    /// count as one.
    pub(super) fn admit(&self, key: KeyId, address: Option<IpAddr>, now: Now) -> bool {
        let network = address.map(network);
        let Ok(charge) = self.by_address.charge((key, network), now) else {
            return false;
        };
        let admitted = self.by_key.charge(key, now).is_ok();
        if !admitted {
            self.by_address.refund(charge, now);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::clock::Clock;

    #[test]
    fn events_are_limited_per_address_and_per_key() {
        let (events, clock) = (RejectedEvents::new(), Clock::manual(Timestamp::UNIX_EPOCH));
        let (key, other) = (KeyId::from_number(1), KeyId::from_number(2));
        let address = |n: u32| Some(IpAddr::V4(n.into()));
        let admitted = |key, address: Option<IpAddr>| {
            let now = clock.now();
            (0..1_000)
                .filter(|_| events.admit(key, address, now))
                .count()
        };
        assert_eq!(admitted(key, None), 10);
        for n in 0..9 {
            assert_eq!(admitted(key, address(n)), 10, "{n}");
        }
        assert_eq!(admitted(key, address(9)), 0);
        assert_eq!(admitted(other, address(9)), 10);
        clock.advance(Duration::from_secs(3_600));
        // An address is not charged when the key's own limit refuses.
        assert_eq!(admitted(key, address(9)), 10);
        assert_eq!(admitted(key, address(1)), 10);
        assert_eq!(
            (2..99).map(|n| admitted(key, address(n))).sum::<usize>(),
            40
        );
    }
}
