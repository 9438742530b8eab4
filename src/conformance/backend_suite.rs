//! The suite for backends of both keys and usage.

use std::time::Duration;

use super::assert::{equal, succeeds};
use super::fixture::Fixture;
use super::{key_admin, usage};
use crate::key::{Actor, KeyAdmin, KeyUpdate};
use crate::usage::{
    Batch, SummaryQuery, SummarySpec, UsageEvent, UsageRange, UsageReader, UsageSink,
};

/// Checks a complete backend: [`key_admin`], [`usage`](fn@usage) and the rules that connect the two.
///
/// # Panics
///
/// If the backend breaks a rule of these suites, or one of the following:
///
/// - A key's last use is the time of its newest event, or up to a minute before it, whatever order the events are
///   written in. Neither a batch that is written again nor a change to the key sets it back.
/// - Usage of a key that does not exist is accepted, and usage is kept when its key is deleted.
pub async fn backend<B: KeyAdmin + UsageSink + UsageReader + ?Sized>(backend: &B) {
    key_admin(backend).await;
    usage(backend).await;
    last_use_follows_usage(backend).await;
}

async fn last_use_follows_usage<B>(backend: &B)
where
    B: KeyAdmin + UsageSink + UsageReader + ?Sized,
{
    let fixture = Fixture::new();
    let mut used = fixture.record("Used");
    let mut unused = fixture.record("Not used");
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
    // More than a minute apart.
    let rule = "a key's last use is the time of its newest event";
    let newest = Batch::new(vec![
        event(id, 200),
        event(id, 100),
        event(unknown, 1),
        event(id, 300),
    ]);
    for (batch, last_used) in [
        (Batch::new(vec![event(id, 400), event(unknown, 2)]), 400),
        (newest.clone(), 100),
        (Batch::new(vec![event(id, 150)]), 100),
        (newest, 100),
    ] {
        succeeds(
            backend.write(&batch).await,
            "usage of an unknown key is accepted",
        );
        used.key.last_used_at = Some(fixture.before(Duration::from_secs(last_used)));
        let found = succeeds(backend.find(id).await, "a key lookup succeeds");
        equal(&found, &Some(used.clone()), rule);
    }
    used.key.name = "Renamed".into();
    let renamed = backend
        .update(id, KeyUpdate::new().name("Renamed"), Actor::SYSTEM)
        .await;
    equal(
        &succeeds(renamed, "updating a key succeeds"),
        &used.key,
        "changing a key does not change its last use",
    );

    unused.key.last_used_at = None;
    let found = succeeds(backend.find(unused.key.id).await, "a key lookup succeeds");
    equal(&found, &Some(unused), "an unused key has no last use");

    succeeds(
        backend.delete(id, Actor::SYSTEM).await,
        "deleting a key succeeds",
    );
    for (key, count) in [(id, 5), (unknown, 2)] {
        let query = SummaryQuery::new(UsageRange::new().key(key), SummarySpec::new());
        let summary = succeeds(backend.summary(&query).await, "a summary query succeeds");
        let rule = "usage is kept whether or not its key exists";
        equal(&summary.totals.total(), &count, rule);
    }
}
