use super::*;
use crate::limit::RateLimit;

const MILLI: u64 = 1_000_000;

/// A lease of at most 100 units, for a second.
fn lease() -> Lease {
    let rate = Rate::of(&RateLimit::per_second(1_000)).unwrap();
    Lease::new([rate].into_iter(), LeaseConfig::new()).unwrap()
}

/// Requests 100 units in 100 milliseconds, and begins a refill.
fn demand(lease: &Lease, now: u64) -> Refill<'_> {
    assert!(lease.begin_refill(1, now).is_none());
    lease.begin_refill(100, now + 100 * MILLI).unwrap()
}

#[test]
fn small_limits_have_no_leases() {
    let most = |limit: RateLimit, leases| most_units(Rate::of(&limit).unwrap(), leases);
    let leases = LeaseConfig::new();
    assert_eq!(most(RateLimit::per_second(1_000), leases), 100);
    assert_eq!(most(RateLimit::per_minute(6_000), leases), 100);
    assert_eq!(most(RateLimit::per_minute(600), leases), 10);
    assert_eq!(most(RateLimit::per_day(10_000), leases), 0);
    let longer = leases.share(1.0).ttl(Duration::from_secs(10));
    assert_eq!(most(RateLimit::per_minute(600), longer), 100);
    let lease = |limits: &[RateLimit]| {
        let rates = limits.iter().map(|limit| Rate::of(limit).unwrap());
        Lease::new(rates, leases)
    };
    let large = RateLimit::per_second(1_000);
    assert_eq!(lease(std::slice::from_ref(&large)).unwrap().most, 100);
    assert!(lease(&[large, RateLimit::per_second(39)]).is_none());
}

#[test]
fn units_are_leased_by_demand_and_refilled_at_half() {
    let lease = lease();
    let refill = demand(&lease, 0);
    // A thousand a second are 200 in a fifth of it, of which 100 may be leased.
    assert_eq!((refill.held, refill.wanted), (0, 100));
    assert!(
        lease.begin_refill(1, 100 * MILLI).is_none(),
        "one at a time"
    );
    refill.complete(100, 0);
    assert_eq!(lease.spend(49, 101 * MILLI), Some((51, false)));
    assert_eq!(lease.spend(2, 102 * MILLI), Some((49, true)));
    let refill = lease.begin_refill(0, 150 * MILLI).unwrap();
    let expires_at = Recorded {
        units: 100,
        expires_at: 1_125,
    };
    assert_eq!((refill.held, refill.wanted), (49, 51));
    assert_eq!(refill.recorded, Some(expires_at));
    assert_eq!(lease.spend(9, 160 * MILLI), Some((40, false)));
    refill.complete(51, 0);
    assert_eq!(lease.spend(91, 161 * MILLI), Some((0, true)));
    // One of the requests refills.
    assert_eq!(lease.spend(0, 161 * MILLI), Some((0, false)));
    assert_eq!(lease.spend(1, 161 * MILLI), None);
}

#[test]
fn units_expire() {
    let lease = lease();
    demand(&lease, 0).complete(60, 0);
    assert!(lease.spend(1, 1_099 * MILLI).is_some());
    assert_eq!(lease.spend(1, 1_100 * MILLI), None);
    let refill = lease.begin_refill(100, 1_101 * MILLI).unwrap();
    assert_eq!(refill.held, 0);
    refill.complete(7, 0);
    assert_eq!(lease.spend(8, 1_102 * MILLI), None);
    assert!(lease.spend(7, 1_102 * MILLI).is_some());
}

#[test]
fn failed_refill_leaves_the_units_and_an_unknown_record() {
    let lease = lease();
    demand(&lease, 0).complete(60, 0);
    lease.spend(40, 130 * MILLI).unwrap();
    drop(lease.begin_refill(0, 150 * MILLI).unwrap());
    assert!(lease.spend(1, 151 * MILLI).is_some());
    assert_eq!(lease.spend(1, 1_100 * MILLI), None);
    let refill = lease.begin_refill(100, 1_200 * MILLI).unwrap();
    assert_eq!(refill.recorded, None);
}

#[test]
fn units_return_while_they_are_on_record() {
    let lease = lease();
    assert_eq!(lease.unspend(1, 0, 0), None);
    demand(&lease, 0).complete(60, 0);
    lease.spend(10, 110 * MILLI).unwrap();
    assert_eq!(lease.unspend(4, 110 * MILLI, 120 * MILLI), Some(54));
    assert_eq!(lease.unspend(7, 110 * MILLI, 120 * MILLI), None);
    // Before the lease, and after it has expired.
    assert_eq!(lease.unspend(1, 99 * MILLI, 120 * MILLI), None);
    assert_eq!(lease.unspend(1, 110 * MILLI, 1_200 * MILLI), None);
    lease.spend(40, 130 * MILLI).unwrap();
    let refill = lease.begin_refill(0, 200 * MILLI).unwrap();
    assert_eq!(lease.unspend(1, 130 * MILLI, 201 * MILLI), None);
    refill.complete(10, 0);
    assert_eq!(lease.unspend(1, 130 * MILLI, 202 * MILLI), None);
}

#[test]
fn idle_keys_lease_nothing() {
    let lease = lease();
    for second in 0..10 {
        assert!(lease.begin_refill(1, second * 1_000 * MILLI).is_none());
    }
}
