//! The limit on events of rejected keys: whoever has a revoked, disabled or expired key, or one that is bound
//! to other addresses, must not fill the log.

use std::net::IpAddr;

use super::lookup_budget::network;
use crate::clock::Now;
use crate::id::KeyId;
use crate::limit::{RateLimit, RateSketch};

/// Few keys are rejected at one time: 64 KiB for both limits together.
const CELLS: usize = 2_048;

/// How many refusals of a rejected key are events: ten at once and then twelve an hour for each client address,
/// a hundred at once and then sixty an hour for each key. The others are counted.
#[derive(Debug)]
pub(super) struct RejectedEvents {
    by_address: RateSketch,
    by_key: RateSketch,
}

impl RejectedEvents {
    pub(super) fn new() -> Self {
        let sketch = |limit| RateSketch::new(&limit, CELLS);
        Self {
            by_address: sketch(RateLimit::per_hour(12).burst(10)),
            by_key: sketch(RateLimit::per_hour(60).burst(100)),
        }
    }

    /// Whether the next refusal of this key to this address is an event. Clients without a known address share
    /// what a key has.
    pub(super) fn admit(&self, key: KeyId, address: Option<IpAddr>, now: Now) -> bool {
        let network = address.map(network);
        let Ok(charge) = self.by_address.charge((key, network), now) else {
            return false;
        };
        let admitted = self.by_key.charge(key, now).is_ok();
        if !admitted {
            self.by_address.give_back(charge, now);
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
    fn a_key_has_so_many_events_for_each_address_and_in_all() {
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
        // An address that found nothing left of the key's was not charged.
        assert_eq!(admitted(key, address(9)), 10);
        assert_eq!(admitted(key, address(1)), 10);
        assert_eq!(
            (2..99).map(|n| admitted(key, address(n))).sum::<usize>(),
            40
        );
    }
}
