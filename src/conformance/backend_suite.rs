//! Keys and usage in one backend.

use std::time::Duration;

use super::assert::{done, same};
use super::fixture::Fixture;
use super::{key_admin, usage};
use crate::key::{KeyAdmin, KeyUpdate};
use crate::usage::{
    Batch, SummaryQuery, SummarySpec, UsageEvent, UsageRange, UsageReader, UsageSink,
};

/// Checks a backend of everything: [`key_admin`], [`usage`](fn@usage) and what links the two.
///
/// # Panics
///
/// When the backend breaks a rule of these suites, or one of these:
///
/// - A key was last used at the newest time of an event written under it, in whatever order they come;
///   neither a batch that comes again nor a change of the key sets it back.
/// - Usage under a key that does not exist is written like any other, and stays when a key is deleted.
pub async fn backend<B: KeyAdmin + UsageSink + UsageReader + ?Sized>(backend: &B) {
    key_admin(backend).await;
    usage(backend).await;
    last_use_follows_usage(backend).await;
}

async fn last_use_follows_usage<B>(backend: &B)
where
    B: KeyAdmin + UsageSink + UsageReader + ?Sized,
{
    let fresh = Fixture::new();
    let mut used = fresh.record("Used");
    let mut unused = fresh.record("Not used");
    let stranger = fresh.record("Never created").key.id;
    for record in [&used, &unused] {
        done(
            backend.create(record.clone()).await,
            "a valid key is created",
        );
    }
    let id = used.key.id;
    let event = |key, seconds| {
        let mut event = UsageEvent::at(fresh.before(Duration::from_secs(seconds)));
        event.key = Some(key);
        event
    };
    let rule = "a key was last used at the newest time of its events";
    let newest = Batch::new(vec![
        event(id, 20),
        event(id, 10),
        event(stranger, 1),
        event(id, 30),
    ]);
    for (batch, last_used) in [
        (Batch::new(vec![event(id, 40), event(stranger, 2)]), 40),
        (newest.clone(), 10),
        (Batch::new(vec![event(id, 15)]), 10),
        (newest, 10),
    ] {
        done(
            backend.write(&batch).await,
            "usage of an unknown key is written like any other",
        );
        used.key.last_used_at = Some(fresh.before(Duration::from_secs(last_used)));
        let found = done(backend.find(id).await, "looking up answers");
        same(&found, &Some(used.clone()), rule);
    }
    used.key.name = "Renamed".into();
    let renamed = backend.update(id, KeyUpdate::new().name("Renamed")).await;
    same(
        &done(renamed, "a key is updated"),
        &used.key,
        "a change does not touch the last use",
    );

    unused.key.last_used_at = None;
    let found = done(backend.find(unused.key.id).await, "looking up answers");
    same(
        &found,
        &Some(unused),
        "a key that was not used has no last use",
    );

    done(backend.delete(id).await, "a key is deleted");
    for (key, count) in [(id, 5), (stranger, 2)] {
        let query = SummaryQuery::new(UsageRange::new().key(key), SummarySpec::new());
        let summary = done(backend.summary(&query).await, "a summary answers");
        let rule = "usage is kept whether its key exists or not";
        same(&summary.totals.total(), &count, rule);
    }
}
