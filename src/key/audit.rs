//! Who did what to which key, and when: entries, and what can be asked about them.

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

/// What somebody did to a key, and what the key was before and after.
///
/// A [`Key`] holds neither its secret, encrypted or not, nor a digest, and so no entry does. What else the
/// application puts into keys, metadata included, is in their entries too, and stays there when a key is
/// deleted.
///
/// Stores make an entry in one step with the change that it tells of: it is there exactly when the
/// change took place. A change that leaves a key as it was, such as switching off what is off, has an
/// entry too: somebody did something.
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
    /// The entry's own id, a UUID of version 7. Of entries that one process makes for the same time,
    /// the later one has the higher id.
    pub id: Uuid,
    /// When it was done, in whole microseconds.
    pub time: Timestamp,
    /// Who did it, in the application's own terms, as
    /// [`KeyAdmin::acting_as`](super::KeyAdmin::acting_as) was told; `None` if it was not.
    pub actor: Option<String>,
    /// What was done.
    pub action: AuditAction,
    /// To which key.
    pub key: KeyId,
    /// The key before; `None` where it was created.
    pub before: Option<Key>,
    /// The key after; `None` where it was deleted.
    pub after: Option<Key>,
}

impl AuditEntry {
    /// An entry that does not tell by whom, nor what the key was: where a store that keeps entries in
    /// columns of its own begins to build them again, to set the other fields, the id among them.
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

    /// A key was created; as the store has it now.
    pub fn created(actor: Option<&str>, key: Key, time: Timestamp) -> Self {
        Self {
            actor: actor.and_then(Self::actor_of),
            after: Some(key.clone()),
            ..Self::new(AuditAction::Created, key.id, time)
        }
    }

    /// A key was changed.
    pub fn changed(
        actor: Option<&str>,
        change: &KeyChange,
        before: Key,
        after: Key,
        time: Timestamp,
    ) -> Self {
        Self::between(actor, AuditAction::of(change), before, after, time)
    }

    /// A key was rotated: the entry of the old key, whose end has changed, and that of the new one,
    /// which was created.
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

    /// A key's secret was read; the key stays what it is.
    pub fn revealed(actor: Option<&str>, key: Key, time: Timestamp) -> Self {
        Self::between(actor, AuditAction::Revealed, key.clone(), key, time)
    }

    /// A key was deleted; as the store had it last.
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

    /// An actor as entries have it, for it may come from a request: its first 200 characters, with
    /// U+FFFD for control characters. `None` if it is empty.
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

/// An id above all that this process has made for the same time: a counter stands before the random
/// bits, which begins anywhere in its lower half (RFC 9562, §6.2).
fn next_id(time: Timestamp) -> Uuid {
    static MADE: LazyLock<AtomicU64> =
        LazyLock::new(|| AtomicU64::new(first_count(uuid_at(0).as_u64_pair().1)));
    counted(
        uuid_at(time.as_microsecond()),
        MADE.fetch_add(1, Ordering::Relaxed),
    )
}

/// Where the counter begins: far from its end, or it would soon start again from nothing.
fn first_count(random: u64) -> u64 {
    random & ((1 << 41) - 1)
}

/// The id with a counter in the 12 bits behind its version and in the first 30 behind its variant.
fn counted(id: Uuid, count: u64) -> Uuid {
    let (high, low) = (0xfff, 0x3fff_ffff);
    let counter = u128::from((count >> 30) & high) << 64 | u128::from(count & low) << 32;
    let mask = u128::from(high) << 64 | u128::from(low) << 32;
    Uuid::from_u128(id.as_u128() & !mask | counter)
}

/// What can be done to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AuditAction {
    /// It was added: issued, imported or put in another's place.
    Created,
    /// Its fields were given other values.
    Updated,
    /// It was switched off.
    Disabled,
    /// It was switched on.
    Enabled,
    /// It was ended for good.
    Revoked,
    /// Another was put in its place. The new key has an entry of its own, [`AuditAction::Created`].
    Rotated,
    /// Its secret was [read again](super::KeyAdmin::reveal).
    Revealed,
    /// Its record was removed.
    Deleted,
}

impl AuditAction {
    /// Every action there is, in the order of the enum.
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

    /// The name in `snake_case`.
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

    /// What a change does.
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

/// A text that is not the name of an [`AuditAction`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the name of an audit action")]
pub struct InvalidAuditAction;

impl FromStr for AuditAction {
    type Err = InvalidAuditAction;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|action| action.as_str() == text)
            .ok_or(InvalidAuditAction)
    }
}

/// Which entries of the audit: all that match every filter that is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct AuditQuery {
    /// Of this key.
    pub key: Option<KeyId>,
    /// Of what this actor did.
    pub actor: Option<String>,
    /// Of this action.
    pub action: Option<AuditAction>,
    /// From this time on.
    pub from: Option<Timestamp>,
    /// Before this time.
    pub to: Option<Timestamp>,
    /// At most this many; `0` and more than [`AuditQuery::MAX_LIMIT`] are brought into bounds.
    pub limit: usize,
    /// After this place.
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
    /// Entries on one page at most.
    pub const MAX_LIMIT: usize = 1_000;

    /// All entries, fifty a page.
    pub fn new() -> Self {
        Self::default()
    }

    /// Entries of this key.
    #[must_use]
    pub fn key(mut self, key: KeyId) -> Self {
        self.key = Some(key);
        self
    }

    /// Entries of what this actor did, who is [brought into bounds](AuditEntry::actor_of) as in the
    /// entries. An empty actor has none.
    #[must_use]
    pub fn actor(mut self, actor: impl AsRef<str>) -> Self {
        self.actor = Some(AuditEntry::actor_of(actor.as_ref()).unwrap_or_default());
        self
    }

    /// Entries of this action.
    #[must_use]
    pub fn action(mut self, action: AuditAction) -> Self {
        self.action = Some(action);
        self
    }

    /// Entries from this time on.
    #[must_use]
    pub fn from(mut self, time: Timestamp) -> Self {
        self.from = Some(time);
        self
    }

    /// Entries before this time.
    #[must_use]
    pub fn to(mut self, time: Timestamp) -> Self {
        self.to = Some(time);
        self
    }

    /// So many entries a page.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// The page behind this place.
    #[must_use]
    pub fn after(mut self, token: PageToken) -> Self {
        self.after = Some(token);
        self
    }

    /// The number of entries to put on a page.
    pub fn page_size(&self) -> usize {
        self.limit.clamp(1, Self::MAX_LIMIT)
    }

    /// Whether an entry passes every filter.
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

    /// An entry's place in the audit: newest first, then by id from high to low.
    pub fn place(entry: &AuditEntry) -> PageToken {
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
    fn names_agree_with_serde() {
        for (index, action) in AuditAction::ALL.into_iter().enumerate() {
            assert_eq!(serde_json::to_value(action).unwrap(), action.as_str());
            assert_eq!(action.to_string().parse(), Ok(action));
            assert_eq!(action as usize, index);
        }
        for text in ["", "Created", "created "] {
            assert_eq!(text.parse::<AuditAction>(), Err(InvalidAuditAction));
        }
    }

    #[test]
    fn entries_tell_what_was_before_and_after() {
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
    #[cfg_attr(miri, ignore = "ten thousand ids take too long")]
    fn ids_of_one_time_are_in_the_order_in_which_they_were_made() {
        let now = at("2026-11-01T10:00:00.123Z");
        let ids: Vec<_> = (0..10_000).map(|_| next_id(now)).collect();
        assert!(ids.is_sorted_by(|earlier, later| earlier < later));
        for id in &ids {
            assert_eq!(id.get_version_num(), 7);
            assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
            let (seconds, nanos) = id.get_timestamp().unwrap().to_unix();
            assert_eq!((seconds, nanos), (now.as_second() as u64, 123_000_000));
        }
        // What a process cannot know of another is left to chance.
        let last = |id: &Uuid| id.as_u128() as u32;
        assert_ne!(last(&ids[0]), last(&ids[1]));
    }

    #[test]
    fn a_counter_begins_anywhere_in_its_lower_half() {
        let half = 1 << 41;
        assert_eq!(first_count(u64::MAX), half - 1);
        assert_eq!(first_count(half), 0);
        for count in [0, 1, 0x155_5555_5555, half - 1] {
            assert_eq!(first_count(count), count);
        }
    }

    #[test]
    fn a_counter_takes_its_own_bits_alone() {
        let all: Uuid = "ffffffff-ffff-7fff-bfff-ffffffffffff".parse().unwrap();
        let none: Uuid = "00000000-0000-7000-8000-000000000000".parse().unwrap();
        for (count, ones, zeros) in [
            (0, "ffffffff-ffff-7000-8000-0000ffffffff", none.to_string()),
            (
                0x2_4000_0005,
                "ffffffff-ffff-7009-8000-0005ffffffff",
                "00000000-0000-7009-8000-000500000000".into(),
            ),
            // The upper 22 of 64 bits have no place.
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
    fn actors_are_brought_into_bounds() {
        let long = "ä".repeat(300);
        assert_eq!(AuditEntry::actor_of(&long), Some("ä".repeat(200)));
        let odd = AuditEntry::actor_of("a\0b\r\n\u{85} c");
        assert_eq!(odd.as_deref(), Some("a\u{fffd}b\u{fffd}\u{fffd}\u{fffd} c"));
        let entry = AuditEntry::created(Some(&long), key("a"), Timestamp::UNIX_EPOCH);
        assert!(AuditQuery::new().actor(&long).matches(&entry));
        assert!(!AuditQuery::new().actor("").matches(&entry));
    }

    #[test]
    fn every_filter_has_to_match() {
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
