//! Model tests of leases: units are spent once, and stay within the record, in concurrent interleavings.

use std::sync::Arc;

use super::*;
use crate::limit::RateLimit;
use crate::sync::model::{check, thread};

const START: u64 = 100_000_000;

/// A lease with units.
fn leased(units: u32) -> Arc<Lease> {
    let rate = Rate::of(&RateLimit::per_second(1_000)).unwrap();
    let lease = Lease::new([rate].into_iter(), LeaseConfig::new()).unwrap();
    assert!(lease.begin_refill(1, 0).is_none());
    let refill = lease.begin_refill(100, START).unwrap();
    refill.complete(units, 0);
    Arc::new(lease)
}

/// Units are spent once while others are added: no more than were granted, and none is lost.
#[test]
fn concurrent_requests_and_refills_spend_each_unit_once() {
    check(|| {
        let lease = leased(3);
        let spend = |units: u32, lease: &Arc<Lease>| {
            let lease = lease.clone();
            thread(move || u32::from(lease.spend(units, START + 1).is_some()) * units)
        };
        let spending = [spend(2, &lease), spend(1, &lease)];
        let refill = lease.begin_refill(10, START + 30_000_000).unwrap();
        let held = refill.held;
        assert!(held <= 3);
        refill.complete(2, 0);
        let spent: u32 = spending.map(|it| it.join().unwrap()).into_iter().sum();
        let left = lease.spend(1, START + 2).map_or(0, |(left, _)| left + 1);
        assert_eq!(spent + left, 5);
        let recorded = lease.terms().recorded.unwrap();
        assert!(recorded.units >= left && recorded.units == held + 2);
    });
}

/// Units that are returned during a refill do not exceed what is on record.
#[test]
fn returned_units_stay_within_the_record() {
    check(|| {
        let lease = leased(4);
        lease.spend(2, START + 1).unwrap();
        let returning = {
            let lease = lease.clone();
            thread(move || lease.unspend(2, START + 1, START + 2).is_some())
        };
        let other = {
            let lease = lease.clone();
            thread(move || drop(lease.begin_refill(10, START + 30_000_000)))
        };
        let refill = lease.begin_refill(10, START + 30_000_000);
        let held = refill.as_ref().map(|refill| refill.held);
        let granted = refill.is_some();
        if let Some(refill) = refill {
            refill.complete(1, 0);
        }
        let returned = returning.join().unwrap();
        other.join().unwrap();
        let left = units(lease.state.load(Acquire));
        assert_eq!(left, 2 + 2 * u32::from(returned) + u32::from(granted));
        if let (Some(held), Some(recorded)) = (held, lease.terms().recorded) {
            assert_eq!(recorded.units, held + 1);
            assert!(left <= recorded.units, "{left} of {recorded:?}");
        }
    });
}
