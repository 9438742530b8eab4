//! Entries of the audit log.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::action::AuditAction;
use super::actor::Actor;
use super::subject::{AuditState, AuditSubject};
use crate::id::uuid_at;
use crate::key::{Key, KeyChange, Owner, OwnerChange, Plan};
use crate::page::whole_micros;

/// An entry of the audit log: an action on a key, an owner or a plan, by whom and when, and its state before and after.
///
/// Entries contain neither secrets, encrypted or not, nor digests, because a [`Key`] does not. They do contain
/// everything else that the application stores in keys, owners and plans, including metadata, and stay when the key is
/// deleted.
///
/// A store writes an entry in the same transaction as the change: the entry exists if and only if the change took
/// place. A change without effect, such as disabling a disabled key, has an entry as well.
///
/// ```
/// use keytally::key::{Actor, AuditAction, AuditEntry, Key};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let now = "2026-11-01T10:00:00Z".parse()?;
/// let key = Key::new("3fK9aB0000zzZZ19".parse()?, "Zapier integration", now);
/// let entry = AuditEntry::created(Actor::new("anna@example.com"), key, now);
/// assert_eq!(entry.action, AuditAction::Created);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AuditEntry {
    /// The id of the entry, a UUIDv7. For entries of one process with the same time, ids increase in the order of
    /// creation.
    pub id: Uuid,
    /// The time of the action, in whole microseconds.
    pub time: Timestamp,
    /// The [name](Actor::to_name) of the actor; `None` for [`Actor::SYSTEM`].
    pub actor: Option<String>,
    /// The action.
    pub action: AuditAction,
    /// The subject. In JSON, a field `key`, `owner` or `plan`.
    #[serde(flatten)]
    pub subject: AuditSubject,
    /// The subject before the action; `None` if it was created.
    pub before: Option<AuditState>,
    /// The subject after the action; `None` if it was deleted.
    pub after: Option<AuditState>,
}

impl AuditEntry {
    /// An entry without actor and states, with a new id. Stores with a schema of their own reconstruct entries from
    /// it and set the remaining fields, including the id.
    pub fn new(action: AuditAction, subject: impl Into<AuditSubject>, time: Timestamp) -> Self {
        let time = whole_micros(time);
        Self {
            id: next_id(time),
            time,
            actor: None,
            action,
            subject: subject.into(),
            before: None,
            after: None,
        }
    }

    /// An entry for a key that was created.
    pub fn created(actor: Actor<'_>, key: Key, time: Timestamp) -> Self {
        let id = key.id;
        Self::between(actor, AuditAction::Created, id, (None, Some(key)), time)
    }

    /// An entry for a key that was changed.
    pub fn changed(
        actor: Actor<'_>,
        change: &KeyChange,
        before: Key,
        after: Key,
        time: Timestamp,
    ) -> Self {
        let (action, id) = (AuditAction::of(change), after.id);
        Self::between(actor, action, id, (Some(before), Some(after)), time)
    }

    /// The two entries of a rotation: [`AuditAction::Rotated`] for the old key, whose expiry changed, and
    /// [`AuditAction::Created`] for the new one.
    pub fn rotated(
        actor: Actor<'_>,
        before: Key,
        after: Key,
        new: Key,
        time: Timestamp,
    ) -> [Self; 2] {
        let (action, id) = (AuditAction::Rotated, after.id);
        let old = Self::between(actor, action, id, (Some(before), Some(after)), time);
        [old, Self::created(actor, new, time)]
    }

    /// An entry for a secret that was revealed, which leaves the key unchanged.
    pub fn revealed(actor: Actor<'_>, key: Key, time: Timestamp) -> Self {
        let (action, id) = (AuditAction::Revealed, key.id);
        Self::between(actor, action, id, (Some(key.clone()), Some(key)), time)
    }

    /// An entry for a key that was deleted.
    pub fn deleted(actor: Actor<'_>, key: Key, time: Timestamp) -> Self {
        let id = key.id;
        Self::between(actor, AuditAction::Deleted, id, (Some(key), None), time)
    }

    /// An entry for an owner that was changed. If there was none before and its fields were set, it was created.
    pub fn owner_changed(
        actor: Actor<'_>,
        change: &OwnerChange,
        before: Option<Owner>,
        after: Owner,
        time: Timestamp,
    ) -> Self {
        let action = match (AuditAction::of_owner(change), &before) {
            (AuditAction::Updated, None) => AuditAction::Created,
            (action, _) => action,
        };
        let subject = AuditSubject::Owner(after.id.clone());
        Self::between(actor, action, subject, (before, Some(after)), time)
    }

    /// An entry for a plan that was created or replaced.
    pub fn plan_set(actor: Actor<'_>, before: Option<Plan>, after: Plan, time: Timestamp) -> Self {
        let action = match before {
            Some(_) => AuditAction::Updated,
            None => AuditAction::Created,
        };
        let subject = AuditSubject::Plan(after.name.clone());
        Self::between(actor, action, subject, (before, Some(after)), time)
    }

    /// An entry for a plan that was deleted.
    pub fn plan_deleted(actor: Actor<'_>, plan: Plan, time: Timestamp) -> Self {
        let subject = AuditSubject::Plan(plan.name.clone());
        let states = (Some(plan), None);
        Self::between(actor, AuditAction::Deleted, subject, states, time)
    }

    fn between<T: Into<AuditState>>(
        actor: Actor<'_>,
        action: AuditAction,
        subject: impl Into<AuditSubject>,
        (before, after): (Option<T>, Option<T>),
        time: Timestamp,
    ) -> Self {
        Self {
            actor: actor.to_name(),
            before: before.map(Into::into),
            after: after.map(Into::into),
            ..Self::new(action, subject, time)
        }
    }
}

/// A UUIDv7 greater than all others of this process with the same time: a counter with a random start in its lower
/// half precedes the random bits (RFC 9562, §6.2).
fn next_id(time: Timestamp) -> Uuid {
    static COUNTER: LazyLock<AtomicU64> =
        LazyLock::new(|| AtomicU64::new(first_count(uuid_at(0).as_u64_pair().1)));
    counted(
        uuid_at(time.as_microsecond()),
        COUNTER.fetch_add(1, Ordering::Relaxed),
    )
}

/// The start of the counter: in its lower half, far from overflow.
fn first_count(random: u64) -> u64 {
    random & ((1 << 41) - 1)
}

/// Replaces the 12 bits after the version and the first 30 bits after the variant with the counter.
fn counted(id: Uuid, count: u64) -> Uuid {
    let (high, low) = (0xfff, 0x3fff_ffff);
    let counter = u128::from((count >> 30) & high) << 64 | u128::from(count & low) << 32;
    let mask = u128::from(high) << 64 | u128::from(low) << 32;
    Uuid::from_u128(id.as_u128() & !mask | counter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyUpdate;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn key(name: &str) -> Key {
        let id = "3fK9aB0000zzZZ19".parse().unwrap();
        Key::new(id, name, at("2026-11-01T10:00:00Z"))
    }

    #[test]
    fn entries_have_the_key_before_and_after() {
        let now = at("2026-11-01T10:00:00.123456789Z");
        let created = AuditEntry::created(Actor::new("anna"), key("a"), now);
        assert_eq!(created.time, at("2026-11-01T10:00:00.123456Z"));
        let state = |name| Some(AuditState::from(key(name)));
        assert_eq!((&created.before, &created.after), (&None, &state("a")));
        let change = KeyChange::Update(Box::new(KeyUpdate::new().name("b")));
        let changed = AuditEntry::changed(Actor::SYSTEM, &change, key("a"), key("b"), now);
        assert_eq!(changed.action, AuditAction::Updated);
        assert_eq!(changed.actor, None);
        assert_eq!(changed.before, state("a"));
        assert_eq!(changed.after, state("b"));
        let mut new = key("b");
        let new_id = "3fK9aB0000zzZZ20".parse().unwrap();
        new.id = new_id;
        let [old, new] = AuditEntry::rotated(Actor::new(""), key("b"), key("b"), new, now);
        assert_eq!(old.action, AuditAction::Rotated);
        assert_eq!(
            (old.subject.key(), new.subject),
            (Some(key("b").id), AuditSubject::Key(new_id))
        );
        assert_eq!((new.action, new.actor), (AuditAction::Created, None));
        let revealed = AuditEntry::revealed(Actor::new("anna"), key("b"), now);
        assert_eq!(revealed.actor.as_deref(), Some("anna"));
        assert_eq!(revealed.action, AuditAction::Revealed);
        assert_eq!(revealed.before, state("b"));
        assert_eq!(revealed.after, state("b"));
        let deleted = AuditEntry::deleted(Actor::new("anna"), key("b"), now);
        assert_eq!(deleted.actor.as_deref(), Some("anna"));
        assert_eq!((deleted.before, deleted.after), (state("b"), None));
        let json = serde_json::to_value(&created).unwrap();
        assert_eq!(json["key"], key("a").id.as_str());
        assert_eq!(serde_json::from_value::<AuditEntry>(json).unwrap(), created);
    }

    #[test]
    fn entries_of_owners_and_plans_have_their_state_before_and_after() {
        let now = at("2026-11-01T10:00:00Z");
        let (owner, plan) = (Owner::new("acme", now), Plan::new("pro", now));
        let actor = Actor::new("anna");
        let update = OwnerChange::Update(Box::default());
        for (change, before, action) in [
            (&update, None, AuditAction::Created),
            (&update, Some(owner.clone()), AuditAction::Updated),
            (&OwnerChange::Suspend, None, AuditAction::Suspended),
            (&OwnerChange::Resume, None, AuditAction::Resumed),
        ] {
            let entry = AuditEntry::owner_changed(actor, change, before, owner.clone(), now);
            assert_eq!(entry.action, action);
            let json = serde_json::to_value(&entry).unwrap();
            assert_eq!(json["owner"], "acme");
            assert_eq!(serde_json::from_value::<AuditEntry>(json).unwrap(), entry);
        }
        for (before, action) in [
            (None, AuditAction::Created),
            (Some(plan.clone()), AuditAction::Updated),
        ] {
            let entry = AuditEntry::plan_set(actor, before, plan.clone(), now);
            assert_eq!(entry.action, action);
        }
        let entry = AuditEntry::plan_deleted(actor, plan.clone(), now);
        assert_eq!((&entry.before, &entry.after), (&Some(plan.into()), &None));
        let json = serde_json::to_value(&entry).unwrap();
        assert_eq!(
            (&json["plan"], &json["action"]),
            (&"pro".into(), &"deleted".into())
        );
        assert_eq!(serde_json::from_value::<AuditEntry>(json).unwrap(), entry);
    }

    #[test]
    #[cfg_attr(miri, ignore = "too slow under Miri")]
    fn ids_with_the_same_time_increase() {
        let now = at("2026-11-01T10:00:00.123Z");
        let ids: Vec<_> = (0..10_000).map(|_| next_id(now)).collect();
        assert!(ids.is_sorted_by(|earlier, later| earlier < later));
        for id in &ids {
            assert_eq!(id.get_version_num(), 7);
            assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
            let (seconds, nanos) = id.get_timestamp().unwrap().to_unix();
            assert_eq!((seconds, nanos), (now.as_second() as u64, 123_000_000));
        }
        // The last bits are random, for uniqueness across processes.
        let last = |id: &Uuid| id.as_u128() as u32;
        assert_ne!(last(&ids[0]), last(&ids[1]));
    }

    #[test]
    fn counter_starts_in_its_lower_half() {
        let half = 1 << 41;
        assert_eq!(first_count(u64::MAX), half - 1);
        assert_eq!(first_count(half), 0);
        for count in [0, 1, 0x155_5555_5555, half - 1] {
            assert_eq!(first_count(count), count);
        }
    }

    #[test]
    fn counter_leaves_other_bits_unchanged() {
        let all: Uuid = "ffffffff-ffff-7fff-bfff-ffffffffffff".parse().unwrap();
        let none: Uuid = "00000000-0000-7000-8000-000000000000".parse().unwrap();
        for (count, ones, zeros) in [
            (0, "ffffffff-ffff-7000-8000-0000ffffffff", none.to_string()),
            (
                0x2_4000_0005,
                "ffffffff-ffff-7009-8000-0005ffffffff",
                "00000000-0000-7009-8000-000500000000".into(),
            ),
            // The upper 22 of the 64 bits are not used.
            (
                u64::MAX,
                &*all.to_string(),
                "00000000-0000-7fff-bfff-ffff00000000".into(),
            ),
        ] {
            assert_eq!(counted(all, count).to_string(), ones);
            assert_eq!(counted(none, count).to_string(), zeros);
        }
    }
}
