//! Audit log entries and queries.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::record::{Key, KeyChange};
use crate::id::{KeyId, uuid_at};
use crate::page::{PageToken, whole_micros};
use crate::unknown_name::UnknownName;

/// An entry of the audit log: an action on a key, by whom and when, and the key before and after.
///
/// Entries contain neither secrets, encrypted or not, nor digests, because a [`Key`] does not. They do contain
/// everything else that the application stores in keys, including metadata, and stay when the key is deleted.
///
/// A store writes an entry in the same transaction as the change: the entry exists if and only if the change took
/// place. A change without effect, such as disabling a disabled key, has an entry as well.
///
/// ```
/// use keytally::key::{AuditAction, AuditEntry, Key};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let now = "2026-11-01T10:00:00Z".parse()?;
/// let key = Key::new("3fK9aB0000zzZZ19".parse()?, "Zapier integration", now);
/// let entry = AuditEntry::created(Some("anna@example.com"), key, now);
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
    /// The actor, as passed to [`KeyAdmin::acting_as`](super::KeyAdmin::acting_as); `None` if the change was not
    /// made through it.
    pub actor: Option<String>,
    /// The action.
    pub action: AuditAction,
    /// The key that the action applies to.
    pub key: KeyId,
    /// The key before the action; `None` if it was created.
    pub before: Option<Key>,
    /// The key after the action; `None` if it was deleted.
    pub after: Option<Key>,
}

impl AuditEntry {
    /// An entry without actor and keys, with a new id. Stores with a schema of their own reconstruct entries from
    /// it and set the remaining fields, including the id.
    pub fn new(action: AuditAction, key: KeyId, time: Timestamp) -> Self {
        let time = whole_micros(time);
        Self {
            id: next_id(time),
            time,
            actor: None,
            action,
            key,
            before: None,
            after: None,
        }
    }

    /// An entry for a key that was created.
    pub fn created(actor: Option<&str>, key: Key, time: Timestamp) -> Self {
        Self {
            actor: actor.and_then(Self::actor_of),
            after: Some(key.clone()),
            ..Self::new(AuditAction::Created, key.id, time)
        }
    }

    /// An entry for a key that was changed.
    pub fn changed(
        actor: Option<&str>,
        change: &KeyChange,
        before: Key,
        after: Key,
        time: Timestamp,
    ) -> Self {
        Self::between(actor, AuditAction::of(change), before, after, time)
    }

    /// The two entries of a rotation: [`AuditAction::Rotated`] for the old key, whose expiry changed, and
    /// [`AuditAction::Created`] for the new one.
    pub fn rotated(
        actor: Option<&str>,
        before: Key,
        after: Key,
        new: Key,
        time: Timestamp,
    ) -> [Self; 2] {
        let old = Self::between(actor, AuditAction::Rotated, before, after, time);
        [old, Self::created(actor, new, time)]
    }

    /// An entry for a secret that was revealed, which leaves the key unchanged.
    pub fn revealed(actor: Option<&str>, key: Key, time: Timestamp) -> Self {
        Self::between(actor, AuditAction::Revealed, key.clone(), key, time)
    }

    /// An entry for a key that was deleted.
    pub fn deleted(actor: Option<&str>, key: Key, time: Timestamp) -> Self {
        Self {
            actor: actor.and_then(Self::actor_of),
            before: Some(key.clone()),
            ..Self::new(AuditAction::Deleted, key.id, time)
        }
    }

    fn between(
        actor: Option<&str>,
        action: AuditAction,
        before: Key,
        after: Key,
        time: Timestamp,
    ) -> Self {
        Self {
            actor: actor.and_then(Self::actor_of),
            before: Some(before),
            after: Some(after.clone()),
            ..Self::new(action, after.id, time)
        }
    }

    /// An actor as stored in entries, which may come from a request: the first 200 characters, with control
    /// characters replaced by U+FFFD. `None` if it is empty.
    ///
    /// ```
    /// # use keytally::key::AuditEntry;
    /// assert_eq!(AuditEntry::actor_of("anna\n").as_deref(), Some("anna\u{fffd}"));
    /// assert_eq!(AuditEntry::actor_of(""), None);
    /// ```
    pub fn actor_of(actor: &str) -> Option<String> {
        let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        let actor: String = actor.chars().take(200).map(shown).collect();
        (!actor.is_empty()).then_some(actor)
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

/// An action on a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AuditAction {
    /// The key was created: issued, imported or the successor in a rotation.
    Created,
    /// Fields of the key were updated.
    Updated,
    /// The key was disabled.
    Disabled,
    /// The key was enabled.
    Enabled,
    /// The key was revoked.
    Revoked,
    /// The key was replaced by a new one, which has an entry of its own, [`AuditAction::Created`].
    Rotated,
    /// The secret was [revealed](super::KeyAdmin::reveal).
    Revealed,
    /// The key was deleted.
    Deleted,
}

impl AuditAction {
    /// All actions, in declaration order.
    pub const ALL: [Self; 8] = [
        Self::Created,
        Self::Updated,
        Self::Disabled,
        Self::Enabled,
        Self::Revoked,
        Self::Rotated,
        Self::Revealed,
        Self::Deleted,
    ];

    /// The name in `snake_case`, as serialized.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Disabled => "disabled",
            Self::Enabled => "enabled",
            Self::Revoked => "revoked",
            Self::Rotated => "rotated",
            Self::Revealed => "revealed",
            Self::Deleted => "deleted",
        }
    }

    /// The action of a change.
    pub fn of(change: &KeyChange) -> Self {
        match change {
            KeyChange::Update(_) => Self::Updated,
            KeyChange::Disable => Self::Disabled,
            KeyChange::Enable => Self::Enabled,
            KeyChange::Revoke { .. } => Self::Revoked,
        }
    }
}

impl fmt::Display for AuditAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for AuditAction {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|action| action.as_str() == text)
            .ok_or_else(|| UnknownName::new("audit action", text))
    }
}

/// A query for audit entries. Matches the entries that pass every filter that is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct AuditQuery {
    /// Only entries of this key.
    pub key: Option<KeyId>,
    /// Only entries of this actor.
    pub actor: Option<String>,
    /// Only entries of this action.
    pub action: Option<AuditAction>,
    /// Only entries at or after this time.
    pub from: Option<Timestamp>,
    /// Only entries before this time.
    pub to: Option<Timestamp>,
    /// The page size, clamped to 1 to [`AuditQuery::MAX_LIMIT`]. 50 by default.
    pub limit: usize,
    /// The page token at which to continue.
    pub after: Option<PageToken>,
}

impl Default for AuditQuery {
    fn default() -> Self {
        Self {
            key: None,
            actor: None,
            action: None,
            from: None,
            to: None,
            limit: 50,
            after: None,
        }
    }
}

impl AuditQuery {
    /// The maximum page size.
    pub const MAX_LIMIT: usize = 1_000;

    /// A query for all entries, with 50 entries per page.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lists only entries of this key.
    #[must_use]
    pub fn key(mut self, key: KeyId) -> Self {
        self.key = Some(key);
        self
    }

    /// Lists only entries of this actor, [normalized](AuditEntry::actor_of) as in entries. An empty actor matches
    /// nothing.
    #[must_use]
    pub fn actor(mut self, actor: impl AsRef<str>) -> Self {
        self.actor = Some(AuditEntry::actor_of(actor.as_ref()).unwrap_or_default());
        self
    }

    /// Lists only entries of this action.
    #[must_use]
    pub fn action(mut self, action: AuditAction) -> Self {
        self.action = Some(action);
        self
    }

    /// Lists only entries at or after this time.
    #[must_use]
    pub fn from(mut self, time: Timestamp) -> Self {
        self.from = Some(time);
        self
    }

    /// Lists only entries before this time.
    #[must_use]
    pub fn to(mut self, time: Timestamp) -> Self {
        self.to = Some(time);
        self
    }

    /// Sets the page size.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Continues after this page token.
    #[must_use]
    pub fn after(mut self, token: PageToken) -> Self {
        self.after = Some(token);
        self
    }

    /// The page size, clamped to 1 to [`AuditQuery::MAX_LIMIT`].
    pub fn page_size(&self) -> usize {
        self.limit.clamp(1, Self::MAX_LIMIT)
    }

    /// Whether an entry passes every filter. The page token is not considered.
    pub fn matches(&self, entry: &AuditEntry) -> bool {
        self.key.is_none_or(|key| entry.key == key)
            && self
                .actor
                .as_deref()
                .is_none_or(|actor| entry.actor.as_deref() == Some(actor))
            && self.action.is_none_or(|action| entry.action == action)
            && self.from.is_none_or(|from| entry.time >= from)
            && self.to.is_none_or(|to| entry.time < to)
    }

    /// The page token of an entry. The audit log is sorted by time, newest first, then by id in descending order.
    pub fn page_token(entry: &AuditEntry) -> PageToken {
        PageToken::new(entry.time, entry.id)
    }
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
    fn action_names_match_serde() {
        for (index, action) in AuditAction::ALL.into_iter().enumerate() {
            assert_eq!(serde_json::to_value(action).unwrap(), action.as_str());
            assert_eq!(action.to_string().parse(), Ok(action));
            assert_eq!(action as usize, index);
        }
        for text in ["", "Created", "created "] {
            assert!(text.parse::<AuditAction>().is_err());
        }
    }

    #[test]
    fn entries_have_the_key_before_and_after() {
        let now = at("2026-11-01T10:00:00.123456789Z");
        let created = AuditEntry::created(Some("anna"), key("a"), now);
        assert_eq!(created.time, at("2026-11-01T10:00:00.123456Z"));
        assert_eq!((&created.before, &created.after), (&None, &Some(key("a"))));
        let change = KeyChange::Update(Box::new(KeyUpdate::new().name("b")));
        let changed = AuditEntry::changed(None, &change, key("a"), key("b"), now);
        assert_eq!(changed.action, AuditAction::Updated);
        assert_eq!(changed.actor, None);
        assert_eq!(changed.before, Some(key("a")));
        assert_eq!(changed.after, Some(key("b")));
        let mut new = key("b");
        new.id = "3fK9aB0000zzZZ20".parse().unwrap();
        let [old, new] = AuditEntry::rotated(Some(""), key("b"), key("b"), new, now);
        assert_eq!(old.action, AuditAction::Rotated);
        assert_eq!(
            (old.key, new.key.as_str()),
            (key("b").id, "3fK9aB0000zzZZ20")
        );
        assert_eq!((new.action, new.actor), (AuditAction::Created, None));
        let revealed = AuditEntry::revealed(Some("anna"), key("b"), now);
        assert_eq!(revealed.actor.as_deref(), Some("anna"));
        assert_eq!(revealed.action, AuditAction::Revealed);
        assert_eq!(revealed.before, Some(key("b")));
        assert_eq!(revealed.after, Some(key("b")));
        let deleted = AuditEntry::deleted(Some("anna"), key("b"), now);
        assert_eq!(deleted.actor.as_deref(), Some("anna"));
        assert_eq!((deleted.before, deleted.after), (Some(key("b")), None));
        let json = serde_json::to_string(&created).unwrap();
        assert_eq!(serde_json::from_str::<AuditEntry>(&json).unwrap(), created);
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

    #[test]
    fn actors_are_truncated_and_sanitized() {
        let long = "ä".repeat(300);
        assert_eq!(AuditEntry::actor_of(&long), Some("ä".repeat(200)));
        let odd = AuditEntry::actor_of("a\0b\r\n\u{85} c");
        assert_eq!(odd.as_deref(), Some("a\u{fffd}b\u{fffd}\u{fffd}\u{fffd} c"));
        let entry = AuditEntry::created(Some(&long), key("a"), Timestamp::UNIX_EPOCH);
        assert!(AuditQuery::new().actor(&long).matches(&entry));
        assert!(!AuditQuery::new().actor("").matches(&entry));
    }

    #[test]
    fn entry_matches_only_if_every_filter_matches() {
        let time = at("2026-11-01T10:00:00Z");
        let entry = AuditEntry::created(Some("anna"), key("a"), time);
        let all = AuditQuery::new()
            .key(entry.key)
            .actor("anna")
            .action(AuditAction::Created)
            .from(time)
            .to(at("2026-11-01T10:00:00.000001Z"));
        assert!(all.matches(&entry));
        for other in [
            all.clone().key("3fK9aB0000zzZZ20".parse().unwrap()),
            all.clone().actor("Anna"),
            all.clone().action(AuditAction::Updated),
            all.clone().from(at("2026-11-01T10:00:00.000001Z")),
            all.clone().to(time),
        ] {
            assert!(!other.matches(&entry), "{other:?}");
        }
        let json = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<AuditQuery>(&json).unwrap(), all);
        let none: AuditQuery = serde_json::from_str("{}").unwrap();
        assert_eq!(none, AuditQuery::new());
        assert_eq!(none.limit(0).page_size(), 1);
        let place = PageToken::new(time, entry.id);
        assert_eq!(all.clone().after(place.clone()).after, Some(place));
        assert_eq!(all.limit(2_000).page_size(), AuditQuery::MAX_LIMIT);
    }
}
