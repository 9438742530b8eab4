//! The suite for backends of both keys and usage.

use std::time::Duration;

use super::assert::{equal, succeeds};
use super::fixture::Fixture;
use super::{key_admin, usage};
use crate::key::{Actor, KeyAdmin, KeyUpdate};
use crate::usage::{
    Batch, Cause, Outcome, RejectionReason, SummaryQuery, SummarySpec, UsageEvent, UsageRange,
    UsageReader, UsageSink,
};

/// Checks a complete backend: [`key_admin`], [`usage`](fn@usage) and the rules that connect the two.
///
/// # Panics
///
/// If the backend breaks a rule of these suites, or one of the following:
///
/// - A key's first and last accepted request are those of its events without a rejection reason, and the number of
///   requests rejected since is that of its later events with one, whatever order the events are written in. A batch
///   that is written again does not count again, and a change to the key does not reset them.
/// - Usage of a key that does not exist is accepted, and usage is kept when its key is deleted.
pub async fn backend<B: KeyAdmin + UsageSink + UsageReader + ?Sized>(backend: &B) {
    key_admin(backend).await;
    usage(backend).await;
    accepted_and_rejected_requests_follow_usage(backend).await;
}

async fn accepted_and_rejected_requests_follow_usage<B>(backend: &B)
where
    B: KeyAdmin + UsageSink + UsageReader + ?Sized,
{
    let fixture = Fixture::new();
    let mut used = fixture.record("Used");
    let unused = fixture.record("Not used");
    let unknown = fixture.record("Never created").key.id;
    for record in [&used, &unused] {
        succeeds(
            backend.create(record.clone(), Actor::SYSTEM).await,
            "creating a valid key succeeds",
        );
    }
    let id = used.key.id;
    let event = |key, seconds| {
        let mut event = UsageEvent::new(fixture.before(Duration::from_secs(seconds)));
        event.key = Some(key);
        event
    };
    let rejected = |key, seconds| UsageEvent {
        rejection_reason: Some(RejectionReason::Revoked),
        outcome: Outcome::Failed,
        cause: Some(Cause::Rejected),
        ..event(key, seconds)
    };
    let rule = "first_accepted_at, last_accepted_at and rejected_since are those of the events written so far";
    let newest = vec![
        event(id, 200),
        rejected(id, 90),
        event(id, 100),
        rejected(id, 150),
        event(unknown, 1),
        event(id, 300),
    ];
    // The ages of the events, and then those of the first and the last accepted one, and the number rejected since.
    for (batch, [first, last], since) in [
        (vec![rejected(id, 450), rejected(id, 350)], [None; 2], 2),
        (vec![event(id, 400), event(unknown, 2)], [Some(400); 2], 1),
        (vec![event(id, 350)], [Some(400), Some(350)], 0),
        (
            vec![rejected(id, 250), rejected(id, 350)],
            [Some(400), Some(350)],
            1,
        ),
        (newest, [Some(400), Some(100)], 1),
        (
            vec![event(id, 150), rejected(id, 120)],
            [Some(400), Some(100)],
            1,
        ),
        (
            vec![rejected(id, 90), rejected(id, 50)],
            [Some(400), Some(100)],
            3,
        ),
        // Written late.
        (
            vec![event(id, 70), event(id, 500)],
            [Some(500), Some(70)],
            1,
        ),
    ] {
        let batch = Batch::new(batch);
        for _ in 0..2 {
            succeeds(
                backend.write(&batch).await,
                "usage of an unknown key is accepted",
            );
            let time = |age: Option<u64>| age.map(|age| fixture.before(Duration::from_secs(age)));
            used.key.first_accepted_at = time(first);
            used.key.last_accepted_at = time(last);
            used.key.rejected_since = since;
            let found = succeeds(backend.find(id).await, "a key lookup succeeds");
            equal(&found, &Some(used.clone()), rule);
        }
    }
    used.key.name = "Renamed".into();
    let renamed = backend
        .update(id, KeyUpdate::new().name("Renamed"), Actor::SYSTEM)
        .await;
    equal(
        &succeeds(renamed, "updating a key succeeds"),
        &used.key,
        "changing a key does not change when requests were accepted",
    );

    let found = succeeds(backend.find(unused.key.id).await, "a key lookup succeeds");
    equal(
        &found,
        &Some(unused),
        "no request of an unused key was accepted",
    );

    succeeds(
        backend.delete(id, Actor::SYSTEM).await,
        "deleting a key succeeds",
    );
    for (key, count) in [(id, 17), (unknown, 2)] {
        let query = SummaryQuery::new(UsageRange::new().key(key), SummarySpec::new());
        let summary = succeeds(backend.summary(&query).await, "a summary query succeeds");
        let rule = "usage is kept whether or not its key exists";
        equal(&summary.totals.total(), &count, rule);
    }
}
