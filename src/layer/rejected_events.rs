//! Limits the events of rejected keys, so that the holder of a revoked, disabled or expired key, or of a key bound
//! to other addresses, cannot flood the request log.

use std::net::IpAddr;

use super::client_limit::network;
use crate::clock::Now;
use crate::id::KeyId;
use crate::limit::{RateLimit, RateSketch};

/// Cells in each half of a sketch, 64 KiB for both limits. Few keys are rejected at a time.
const CELLS: usize = 2_048;

/// The limits on events of rejected keys: a burst of 10, then 12 an hour, per key and client IP; a burst of 100,
/// then 60 an hour, per key. Further rejections are only counted.
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

    /// Whether the next rejection of this key from this client IP is recorded. All clients with an unknown IP
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
    fn events_are_limited_per_client_ip_and_per_key() {
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
        // A client IP is not charged if the limit of the key is exceeded.
        assert_eq!(admitted(key, address(9)), 10);
        assert_eq!(admitted(key, address(1)), 10);
        assert_eq!(
            (2..99).map(|n| admitted(key, address(n))).sum::<usize>(),
            40
        );
    }
}
