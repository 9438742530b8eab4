//! Suites for key stores.

mod audit;
mod change;
mod create;
mod delete;
mod feed;
mod find;
mod import;
mod list;
mod owners;
mod reveal;
mod rotate;
mod steps;

use self::steps::{create, expect};
use super::fixture::Fixture;
use crate::key::KeyAdmin;

pub use find::key_store;

/// Checks a store in which keys can be administered.
///
/// # Panics
///
/// If the store breaks one of these rules:
///
/// - Creating a key stores every field unchanged, including strings in any script and times to the microsecond,
///   and never overwrites a key.
/// - Lookups and lists return the same keys. Lists are ordered by creation time and then by id, newest first.
///   Pages neither skip nor repeat keys while others are created or deleted. Filters agree with
///   [`KeyQuery::matches`](crate::key::KeyQuery::matches). [Owners](KeyAdmin::owners) are listed once, sorted by name.
/// - Changes agree with [`KeyRecord::apply`](crate::key::KeyRecord::apply) and are atomic: an invalid change
///   changes nothing, and concurrent changes do not overwrite each other. The first revocation time is kept.
/// - Rotations agree with [`KeyRecord::rotate`](crate::key::KeyRecord::rotate) and are atomic: they write both
///   keys or neither.
/// - Deleting a key removes its record. Operations that change or reveal a key fail with
///   [`StoreError::NotFound`](crate::key::StoreError) for unknown ids; lookups return `None`.
/// - An [audit log](KeyAdmin::audit_log), if there is one, has exactly one entry per change, with the actor and the
///   key before and after. Entries outlive their key. They are ordered by time and then by id, newest first,
///   and those of one key follow the order of its changes. Filters agree with
///   [`AuditQuery::matches`](crate::key::AuditQuery::matches).
/// - An encrypted secret is kept byte for byte and returned by [`reveal`](KeyAdmin::reveal) only, with one
///   audit entry each time. Revoking or deleting its key removes it. After a rotation, the successor has an
///   encrypted secret only if its predecessor has one. A store that keeps no encrypted secrets instead rejects
///   keys that have one with [`StoreError::SecretsNotSupported`](crate::key::StoreError::SecretsNotSupported).
/// - Keys that are created together are all created, except for those whose ids exist.
/// - [Owners and plans](KeyAdmin::owner_admin), if there are any: an owner exists once a key has named it, and changes agree
///   with [`Owner::apply`](crate::key::Owner::apply). Lists agree with
///   [`OwnerQuery::matches`](crate::key::OwnerQuery::matches). Lookups resolve the policy of a key, which agrees with
///   [`Policy::of`](crate::key::Policy::of). Unknown plans are rejected, and plans in use are not deleted.
/// - Other keys stay unchanged, and every change is published to the
///   [invalidation feed](crate::key::KeyStore::invalidations), if there is one.
pub async fn key_admin<S: KeyAdmin + ?Sized>(store: &S) {
    let fixture = Fixture::new();
    let bystander = create(store, fixture.record("Bystander")).await;
    create::suite(store).await;
    list::suite(store).await;
    change::suite(store).await;
    rotate::suite(store).await;
    delete::suite(store).await;
    feed::suite(store).await;
    audit::suite(store).await;
    reveal::suite(store).await;
    import::suite(store).await;
    owners::suite(store).await;
    expect(
        store,
        &bystander,
        "changes to other keys leave a key unchanged",
    )
    .await;
}
