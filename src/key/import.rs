//! Import of keys that another system issued.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::poll_fn;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::pin;

use futures_core::Stream;
use jiff::Timestamp;
use zeroize::Zeroizing;

use super::audit::Actor;
use super::digest::{Digest, Peppers};
use super::error::StoreError;
#[cfg(feature = "password-hashes")]
use super::imported_format::id_of_prefix;
use super::issuer::{IssueError, Issuer};
use super::new_key::NewKey;
use super::query::KeyQuery;
use super::record::{Key, KeyRecord};
use super::store::KeyAdmin;
use crate::id::KeyId;
use crate::page::{PageRequest, whole_micros};
use crate::parse_error::ParseError;

/// A key that another system issued, to be [imported](Issuer::import_all).
///
/// ```
/// use keytally::key::{Digest, ImportedKey, NewKey};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
/// let key = ImportedKey::from_digest(NewKey::new("Nightly export"), Digest::from_sha256(hash))
///     .created_at("2024-03-01T09:30:00Z".parse()?)
///     .last_accepted_at(Some("2026-10-31T22:15:00Z".parse()?))
///     .hint("sk-…9xQ2");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "does nothing until passed to `Issuer::import` or `Issuer::import_all`"]
pub struct ImportedKey {
    new: NewKey,
    source: Source,
    created_at: Option<Timestamp>,
    last_accepted_at: Option<Timestamp>,
    disabled: bool,
    hint: Option<String>,
}

#[derive(Clone)]
enum Source {
    Secret(Zeroizing<String>),
    Digest(Result<Digest, ParseError>),
    #[cfg(feature = "password-hashes")]
    PasswordHash {
        prefix: String,
        hash: String,
    },
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(_) => f.write_str("Secret"),
            Self::Digest(digest) => digest.fmt(f),
            #[cfg(feature = "password-hashes")]
            Self::PasswordHash { .. } => f.write_str("PasswordHash"),
        }
    }
}

impl ImportedKey {
    /// A key with this plain secret: 16 to 512 printable ASCII characters without spaces.
    ///
    /// A pepper protects the digest, but not the id: for a secret in another format, the id is 95 bits of its plain
    /// SHA-256, which is enough to brute-force a guessable secret. [Rotate](Issuer::rotate) such keys.
    pub fn from_secret(new: NewKey, secret: &str) -> Self {
        Self::new(new, Source::Secret(Zeroizing::new(secret.to_owned())))
    }

    /// A key whose secret has this digest. If it is an error, the import rejects the key.
    ///
    /// Not for secrets in the format of this crate: lookups use the id in the secret, which cannot be derived from the
    /// digest. If the ids are known, [create](KeyAdmin::create) the records instead.
    pub fn from_digest(new: NewKey, digest: Result<Digest, ParseError>) -> Self {
        Self::new(new, Source::Digest(digest))
    }

    /// A key whose secret has this bcrypt or Argon2 hash, and is found by this [prefix](super::SecretPrefix), without the
    /// separator. On the
    /// first use of the key, [`ApiKeyLayer::password_hashes`](crate::ApiKeyLayer::password_hashes) replaces the hash by a
    /// fast digest.
    ///
    /// The import rejects empty prefixes, malformed hashes, bcrypt with a cost above 15, and Argon2 with more than 256 MiB or 64 passes.
    /// Bcrypt covers only the first 72 bytes of a secret.
    #[cfg(feature = "password-hashes")]
    pub fn from_password_hash(
        new: NewKey,
        prefix: impl Into<String>,
        hash: impl Into<String>,
    ) -> Self {
        let (prefix, hash) = (prefix.into(), hash.into());
        Self::new(new, Source::PasswordHash { prefix, hash })
    }

    fn new(new: NewKey, source: Source) -> Self {
        Self {
            new,
            source,
            created_at: None,
            last_accepted_at: None,
            disabled: false,
            hint: None,
        }
    }

    /// Sets when the key was created. The time of the import by default.
    pub fn created_at(mut self, time: Timestamp) -> Self {
        self.created_at = Some(time);
        self
    }

    /// Sets when a request of the key was last accepted. `None` by default.
    pub fn last_accepted_at(mut self, time: Option<Timestamp>) -> Self {
        self.last_accepted_at = time;
        self
    }

    /// Sets whether the key is disabled. `false` by default.
    pub fn disabled(mut self, disabled: bool) -> Self {
        self.disabled = disabled;
        self
    }

    /// Sets the hint that the other system displays. `imported` and the beginning of the id by default, which reveals
    /// nothing of the secret.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The record of the key, as created at this time unless another one is set.
    fn record(&self, peppers: &Peppers, now: Timestamp) -> Result<KeyRecord, IssueError> {
        if self.new.recoverable {
            return Err(IssueError::ImportedRecoverable);
        }
        let (id, digest) = match &self.source {
            Source::Secret(secret) => {
                let id = KeyId::of_secret(secret).ok_or(IssueError::InvalidSecret)?;
                (id, peppers.digest(secret.as_bytes()))
            }
            Source::Digest(digest) => {
                let digest = digest.clone().map_err(IssueError::Digest)?;
                if digest.pepper().is_some_and(|pepper| !peppers.has(pepper)) {
                    return Err(IssueError::UnknownPepper);
                }
                (digest.imported_id(), digest)
            }
            #[cfg(feature = "password-hashes")]
            Source::PasswordHash { prefix, hash } => {
                super::password_hash::check(hash).map_err(IssueError::Digest)?;
                if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_graphic()) {
                    return Err(IssueError::InvalidSecret);
                }
                (id_of_prefix(prefix), Digest::of_password_hash(hash))
            }
        };
        let hint = || format!("imported {}…", &id.as_str()[..4]);
        let hint = self.hint.clone().unwrap_or_else(hint);
        let new = self.new.clone();
        let mut key = new.into_key(id, hint, self.created_at.unwrap_or(now))?;
        key.last_accepted_at = self.last_accepted_at.map(whole_micros);
        key.disabled = self.disabled;
        key.imported = true;
        key.validate()?;
        Ok(KeyRecord::new(key, digest))
    }
}

/// What an import did, or would do.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ImportReport {
    /// The number of keys that were created.
    pub imported: u64,
    /// The number of keys that existed with the same values.
    pub existing: u64,
    /// Keys that already existed with other values, because the key or the import has changed, or that were deleted
    /// meanwhile. They were left unchanged. A key that was disabled in the other system after an earlier import is one of
    /// these; the time of the last accepted request is not compared.
    pub different: Vec<KeyId>,
    /// Keys that cannot be imported.
    pub rejected: Vec<RejectedImport>,
}

/// A key that cannot be imported.
#[derive(Debug)]
#[non_exhaustive]
pub struct RejectedImport {
    /// The position of the key, counted from 0.
    pub position: u64,
    /// The name of the key.
    pub name: String,
    /// Why it cannot be imported.
    pub error: IssueError,
}

/// The number of keys per transaction.
const BATCH: usize = 500;
const _: () = assert!(BATCH <= PageRequest::MAX_LIMIT);

impl Issuer {
    /// Imports a key under the id that [`KeyId::of_secret`] or [`Digest::imported_id`] returns. If its secret does not
    /// have the format of this crate, the layer accepts it only with
    /// [`accept_imported`](crate::ApiKeyLayer::accept_imported).
    ///
    /// # Errors
    ///
    /// As [`issue`](Self::issue). Also if the secret or the digest is malformed, the issuer lacks the pepper of the
    /// digest, or the key is to be recoverable.
    /// [`StoreError::Conflict`] if the key exists; nothing is changed then.
    pub async fn import<S>(
        &self,
        store: &S,
        key: ImportedKey,
        actor: Actor<'_>,
    ) -> Result<Key, IssueError>
    where
        S: KeyAdmin + ?Sized,
    {
        let record = key.record(&self.peppers, self.clock.now().timestamp())?;
        let key = record.key.clone();
        store.create(record, actor).await?;
        Ok(key)
    }

    /// Imports keys in batches, each in one transaction if the [store](KeyAdmin::create_all) supports it. Existing keys
    /// are left unchanged, so an interrupted import can be run again.
    ///
    /// ```
    /// use keytally::backend::MemoryBackend;
    /// use keytally::key::{Actor, Digest, ImportedKey, Issuer, NewKey};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let rows = [("Nightly export", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")];
    /// let keys = rows.map(|(name, hash)| {
    ///     ImportedKey::from_digest(NewKey::new(name), Digest::from_sha256(hash))
    /// });
    /// let store = MemoryBackend::new();
    /// let report = Issuer::new("acme_live")?
    ///     .import_all(&store, tokio_stream::iter(keys), Actor::SYSTEM)
    ///     .await?;
    /// for rejected in &report.rejected {
    ///     eprintln!("{}: {}", rejected.name, rejected.error);
    /// }
    /// # assert_eq!(report.imported, 1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the store fails. Keys of earlier batches are imported then. A key that cannot be imported is
    /// not an error, but part of the report.
    pub async fn import_all<S>(
        &self,
        store: &S,
        keys: impl Stream<Item = ImportedKey>,
        actor: Actor<'_>,
    ) -> Result<ImportReport, StoreError>
    where
        S: KeyAdmin + ?Sized,
    {
        self.import_batches(store, keys, Some(actor)).await
    }

    /// Returns the report that [`import_all`](Self::import_all) would return, without importing the keys.
    ///
    /// # Errors
    ///
    /// Returns an error if the store fails.
    pub async fn check_import<S>(
        &self,
        store: &S,
        keys: impl Stream<Item = ImportedKey>,
    ) -> Result<ImportReport, StoreError>
    where
        S: KeyAdmin + ?Sized,
    {
        self.import_batches(store, keys, None).await
    }

    /// Without an actor, nothing is imported.
    async fn import_batches<S>(
        &self,
        store: &S,
        keys: impl Stream<Item = ImportedKey>,
        actor: Option<Actor<'_>>,
    ) -> Result<ImportReport, StoreError>
    where
        S: KeyAdmin + ?Sized,
    {
        let mut keys = pin!(keys);
        let mut import = Import {
            issuer: self,
            now: self.clock.now().timestamp(),
            report: ImportReport::default(),
            checked: HashMap::new(),
        };
        let mut batch = Vec::with_capacity(BATCH);
        let mut ids = HashSet::with_capacity(BATCH);
        let mut position = 0;
        while let Some(key) = poll_fn(|cx| keys.as_mut().poll_next(cx)).await {
            if let Some((key, record)) = import.prepare(key, position) {
                // A repeated key is compared with the first one.
                if batch.len() == BATCH || ids.contains(&record.key.id) {
                    import
                        .write(store, std::mem::take(&mut batch), actor)
                        .await?;
                    ids.clear();
                }
                ids.insert(record.key.id);
                batch.push((key, record));
            }
            position += 1;
        }
        import.write(store, batch, actor).await?;
        Ok(import.report)
    }
}

struct Import<'a> {
    issuer: &'a Issuer,
    /// When keys were created unless they say otherwise.
    now: Timestamp,
    report: ImportReport,
    /// When the keys that a dry run would have created were created, their fingerprints, and whether they are enabled.
    checked: HashMap<KeyId, (Timestamp, u64, bool)>,
}

impl Import<'_> {
    /// The record of a key, unless it is rejected.
    fn prepare(&mut self, key: ImportedKey, position: u64) -> Option<(ImportedKey, KeyRecord)> {
        match key.record(&self.issuer.peppers, self.now) {
            Ok(record) => Some((key, record)),
            Err(error) => {
                self.report.rejected.push(RejectedImport {
                    position,
                    name: key.new.name,
                    error,
                });
                None
            }
        }
    }

    /// Imports keys with different ids, or only compares them with the existing ones if there is no actor.
    async fn write<S>(
        &mut self,
        store: &S,
        batch: Vec<(ImportedKey, KeyRecord)>,
        actor: Option<Actor<'_>>,
    ) -> Result<(), StoreError>
    where
        S: KeyAdmin + ?Sized,
    {
        if batch.is_empty() {
            return Ok(());
        }
        let existing: HashSet<_> = match actor {
            Some(actor) => {
                let records = batch.iter().map(|(_, record)| record.clone()).collect();
                store
                    .create_all(records, actor)
                    .await?
                    .into_iter()
                    .collect()
            }
            None => batch.iter().map(|(_, record)| record.key.id).collect(),
        };
        let stored = match existing.is_empty() {
            true => Vec::new(),
            false => {
                let query = KeyQuery::new().ids(existing.iter().copied()).limit(BATCH);
                store.list(&query).await?.items
            }
        };
        let stored: HashMap<_, _> = stored.into_iter().map(|key| (key.id, key)).collect();
        for (key, record) in batch {
            let id = record.key.id;
            let as_of = |created_at| key.record(&self.issuer.peppers, created_at);
            let is_same = match stored.get(&id) {
                Some(stored) => {
                    let imported = as_of(stored.created_at);
                    let is_usable = !stored.disabled && stored.revoked_at.is_none();
                    imported.is_ok_and(|it| {
                        comparable(&it.key) == comparable(stored) && !(it.key.disabled && is_usable)
                    })
                }
                None if actor.is_some() && !existing.contains(&id) => {
                    self.report.imported += 1;
                    continue;
                }
                // It existed, and was deleted meanwhile.
                None if actor.is_some() => false,
                None => match self.checked.entry(id) {
                    Entry::Occupied(first) => {
                        let &(created_at, first, is_usable) = first.get();
                        as_of(created_at).is_ok_and(|it| {
                            fingerprint(&it.key) == first && !(it.key.disabled && is_usable)
                        })
                    }
                    Entry::Vacant(place) => {
                        let is_usable = !record.key.disabled;
                        let fingerprint = fingerprint(&record.key);
                        place.insert((record.key.created_at, fingerprint, is_usable));
                        self.report.imported += 1;
                        continue;
                    }
                },
            };
            match is_same {
                true => self.report.existing += 1,
                false => self.report.different.push(id),
            }
        }
        Ok(())
    }
}

/// A key without the values that change with its use and administration.
fn comparable(key: &Key) -> Key {
    Key {
        disabled: false,
        revoked_at: None,
        last_accepted_at: None,
        ..key.clone()
    }
}

/// A hash of these values.
fn fingerprint(key: &Key) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{:?}", comparable(key)).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MemoryBackend;

    #[tokio::test]
    async fn dry_run_of_repeated_keys_equals_the_import() {
        let issuer = Issuer::new("acme").unwrap();
        let key = |name| ImportedKey::from_secret(NewKey::new(name), "sk-from-another-system");
        // The first has a time of creation, the second does not, the third differs, and the fourth has been disabled.
        let keys = [
            key("a").created_at(Timestamp::UNIX_EPOCH),
            key("a"),
            key("b"),
            key("a").disabled(true),
        ];
        let keys = || tokio_stream::iter(keys.clone());
        let store = MemoryBackend::new();
        for report in [
            issuer.check_import(&store, keys()).await,
            issuer.import_all(&store, keys(), Actor::SYSTEM).await,
        ] {
            let report = report.unwrap();
            let different = report.different.len();
            assert_eq!((report.imported, report.existing, different), (1, 1, 2));
        }
    }

    #[tokio::test]
    async fn digests_with_an_unknown_pepper_are_rejected() {
        let (store, issuer) = (MemoryBackend::new(), Issuer::new("acme").unwrap());
        let digest = Digest::from_hmac_sha256("old", "0".repeat(64));
        let key = ImportedKey::from_digest(NewKey::new("a"), digest);
        let rejected = issuer.import(&store, key.clone(), Actor::SYSTEM).await;
        assert!(matches!(rejected, Err(IssueError::UnknownPepper)));
        let peppers = Peppers::new([("old", &[7; 16][..])]).unwrap();
        let issuer = issuer.peppers(peppers);
        assert!(issuer.import(&store, key, Actor::SYSTEM).await.is_ok());
    }
}
