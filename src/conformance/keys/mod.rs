//! Suites for stores of keys.

mod audit;
mod change;
mod create;
mod delete;
mod feed;
mod find;
mod list;
mod reveal;
mod rotate;
mod steps;

use self::steps::{create, expect};
use super::fixture::Fixture;
use crate::key::KeyAdmin;

pub use find::key_store;

/// Checks a store that keys can be administered in.
///
/// # Panics
///
/// When the store breaks one of these rules:
///
/// - Creating keeps every field as it is, texts of any script and times to the microsecond, and never
///   overwrites a key.
/// - Finding and listing tell the same. Lists are ordered by creation and then by id, newest first;
///   their pages neither skip nor repeat while keys come and go; filters agree with
///   [`KeyQuery::matches`](crate::key::KeyQuery::matches).
/// - Changing agrees with [`KeyRecord::apply`](crate::key::KeyRecord::apply), in one step: what is out of bounds changes nothing, and
///   changes at the same time do not undo each other. The first revocation counts.
/// - Rotating agrees with [`KeyRecord::rotate`](crate::key::KeyRecord::rotate), in one step: both keys or neither.
/// - Deleting removes the record. Unknown ids are [`StoreError::NotFound`](crate::key::StoreError)
///   wherever something is changed, and `None` where something is looked up.
/// - An [audit](KeyAdmin::audit), if there is one, tells of every change by whom it was made and what the
///   key was before and after, of no other, and also when the key is gone. It is ordered by time and
///   then by id, newest first, a key's entries as it was changed; filters agree with
///   [`AuditQuery::matches`](crate::key::AuditQuery::matches).
/// - A sealed secret is kept byte for byte and given back by [`reveal`](KeyAdmin::reveal) alone, each time
///   with an entry in the audit; it goes when its key is revoked or deleted, and its successor has one only
///   where it was there. Or none is kept: then a key that has one is
///   [refused](crate::key::StoreError::KeepsNoSecrets).
/// - Other keys stay what they are, and a [feed](crate::key::KeyStore::invalidations), if there is one, is rung for every
///   change.
pub async fn key_admin<S: KeyAdmin + ?Sized>(store: &S) {
    let fresh = Fixture::new();
    let bystander = create(store, fresh.record("Bystander")).await;
    create::suite(store).await;
    list::suite(store).await;
    change::suite(store).await;
    rotate::suite(store).await;
    delete::suite(store).await;
    feed::suite(store).await;
    audit::suite(store).await;
    reveal::suite(store).await;
    expect(
        store,
        &bystander,
        "a key stays what it is while others change",
    )
    .await;
}
