//! Makes keys: the one place where secrets come from.

use std::time::Duration;

use super::digest::{Digest, InvalidDigest, Peppers};
use super::encrypted_secret::EncryptedSecret;
#[cfg(feature = "recoverable")]
use super::encryption::Vault;
use super::error::InvalidKey;
use super::error::StoreError;
use super::new_key::{NewKey, after};
use super::record::{Key, KeyRecord, Rotation};
use super::secret::{InvalidPrefix, Prefix, Secret, id_of};
use super::store::KeyAdmin;
use crate::clock::Clock;
use crate::id::KeyId;

/// A key that was just made, with its secret: show the secret to its owner and forget it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Issued {
    /// The plain text; there is no second chance to read it, unless the key is
    /// [recoverable](Key::recoverable).
    pub secret: Secret,
    /// The key.
    pub key: Key,
}

/// Makes keys in a store, under one prefix and the application's peppers.
///
/// ```
/// use keytally::backend::MemoryBackend;
/// use keytally::key::{Issuer, NewKey};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryBackend::new();
/// let issued = Issuer::new("acme_live")?
///     .issue(&store, NewKey::new("Zapier integration"))
///     .await?;
/// println!("your key, shown once: {}", issued.secret.expose());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Issuer {
    prefix: Prefix,
    pub(super) peppers: Peppers,
    clock: Clock,
    /// The id of what it makes; any unless set.
    id: Option<KeyId>,
    #[cfg(feature = "recoverable")]
    pub(super) vault: Option<Vault>,
}

/// A key that could not be made.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// A field is out of bounds.
    #[error(transparent)]
    Invalid(#[from] InvalidKey),
    /// What is to be imported is not a SHA-256 in hexadecimal digits.
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
    /// A secret to be imported is shorter than 16 or longer than 512 bytes, or not printable ASCII.
    #[error("a secret to be imported is 16 to 512 printable ASCII characters")]
    Secret,
    /// The key is to be recoverable, and there is no vault to seal its secret in.
    #[error("a key can be recoverable only where an encryption key is configured")]
    NoVault,
    /// A key to be imported is to be recoverable.
    #[error("an imported key cannot be recoverable")]
    Imported,
    /// The operating system has no randomness to give.
    #[error("no randomness: {0}")]
    Random(#[from] getrandom::Error),
    /// The store could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Issuer {
    /// An issuer of secrets that begin with `prefix`.
    ///
    /// # Errors
    ///
    /// [`InvalidPrefix`] if it does not have the form of one; see [`Prefix`].
    pub fn new(prefix: &str) -> Result<Self, InvalidPrefix> {
        Ok(Self {
            prefix: Prefix::new(prefix)?,
            peppers: Peppers::none(),
            clock: Clock::system(),
            id: None,
            #[cfg(feature = "recoverable")]
            vault: None,
        })
    }

    /// Makes digests under these peppers; give the same ones to the layer.
    #[must_use]
    pub fn peppers(mut self, peppers: Peppers) -> Self {
        self.peppers = peppers;
        self
    }

    /// Reads the time from this clock.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The same for one key, under an id that is given instead of made.
    #[cfg(feature = "dashboard")]
    pub(crate) fn under(self, id: KeyId) -> Self {
        Self {
            id: Some(id),
            ..self
        }
    }

    fn secret(&self) -> Result<Secret, getrandom::Error> {
        match self.id {
            Some(id) => Secret::generate_for(&self.prefix, id),
            None => Secret::generate(&self.prefix),
        }
    }

    /// Makes a key and its secret.
    ///
    /// # Errors
    ///
    /// When a field is out of bounds or the store fails; there is no key then.
    pub async fn issue<S>(&self, store: &S, new: NewKey) -> Result<Issued, IssueError>
    where
        S: KeyAdmin + ?Sized,
    {
        let (secret, record) = self.prepare(new)?;
        let key = record.key.clone();
        store.create(record).await?;
        Ok(Issued { secret, key })
    }

    /// Makes a secret and the record that belongs to it, and leaves storing to the caller.
    ///
    /// # Errors
    ///
    /// When a field is out of bounds.
    pub fn prepare(&self, new: NewKey) -> Result<(Secret, KeyRecord), IssueError> {
        let secret = self.secret()?;
        let now = self.clock.now().timestamp();
        let sealed = match new.recoverable {
            true => Some(self.seal(&secret)?.ok_or(IssueError::NoVault)?),
            false => None,
        };
        let key = new.into_key(secret.id(), secret.hint(), now)?;
        let digest = self.peppers.digest(secret.expose().as_bytes());
        let record = KeyRecord {
            key,
            digest,
            encrypted_secret: sealed,
        };
        Ok((secret, record))
    }

    /// The secret for a store to keep, where there is a vault.
    #[cfg(feature = "recoverable")]
    fn seal(&self, secret: &Secret) -> Result<Option<EncryptedSecret>, getrandom::Error> {
        let vault = self.vault.as_ref();
        vault.map(|vault| vault.seal(secret)).transpose()
    }

    #[cfg(not(feature = "recoverable"))]
    fn seal(&self, _: &Secret) -> Result<Option<EncryptedSecret>, getrandom::Error> {
        Ok(None)
    }

    /// Makes a new secret for a key, in a new record of the same line; the old one goes on working
    /// for `grace`. Scopes, limits, owner and what is spent of the limits carry over. Where the old key is
    /// recoverable and there is a vault, so is the new one.
    ///
    /// # Errors
    ///
    /// When the key does not exist or does not work any more, or the store fails; nothing is
    /// changed then.
    pub async fn rotate<S>(
        &self,
        store: &S,
        id: KeyId,
        grace: Duration,
    ) -> Result<Issued, IssueError>
    where
        S: KeyAdmin + ?Sized,
    {
        let secret = self.secret()?;
        let now = self.clock.now().timestamp();
        let rotation = Rotation {
            id: secret.id(),
            digest: self.peppers.digest(secret.expose().as_bytes()),
            hint: secret.hint(),
            sealed: self.seal(&secret)?,
            rotated_at: now,
            old_expires_at: after(now, grace),
        };
        let key = store.rotate(id, rotation).await?;
        Ok(Issued { secret, key })
    }

    /// Takes over a key that another system issued, from its plain secret, under the id that
    /// [`KeyId::of_secret`] tells. Where the secret has another form than this crate's, the layer
    /// finds it only when it is told to
    /// [accept imported keys](crate::ApiKeyLayer::accept_imported).
    ///
    /// A pepper protects the digest, but not the id: where the secret has another form than this
    /// crate's, its id is 95 bits of the plain SHA-256, by which a secret that people could guess can
    /// be searched for. [Rotate](Self::rotate) such a key.
    ///
    /// # Errors
    ///
    /// As [`issue`](Self::issue), and when the secret is too short, too long or not printable, or the key is
    /// to be recoverable.
    pub async fn import_secret<S>(
        &self,
        store: &S,
        new: NewKey,
        secret: &str,
    ) -> Result<Key, IssueError>
    where
        S: KeyAdmin + ?Sized,
    {
        let id = KeyId::of_secret(secret).ok_or(IssueError::Secret)?;
        let digest = self.peppers.digest(secret.as_bytes());
        self.import(store, new, id, digest).await
    }

    /// Takes over a key that another system issued, from the SHA-256 of its secret in hexadecimal
    /// digits. Peppers cannot be applied to it: a secret that people could guess can be searched for.
    ///
    /// Not for secrets of this crate's own form: those are looked up by the id within them, which no
    /// hash tells. Who has their ids [creates](KeyAdmin::create) their records instead.
    ///
    /// # Errors
    ///
    /// As [`issue`](Self::issue), and when `hex` is not 64 hexadecimal digits, or the key is to be recoverable.
    pub async fn import_sha256<S>(
        &self,
        store: &S,
        new: NewKey,
        hex: &str,
    ) -> Result<Key, IssueError>
    where
        S: KeyAdmin + ?Sized,
    {
        let digest = Digest::from_sha256_hex(hex)?;
        self.import(store, new, digest.imported_id(), digest).await
    }

    async fn import<S>(
        &self,
        store: &S,
        new: NewKey,
        id: KeyId,
        digest: Digest,
    ) -> Result<Key, IssueError>
    where
        S: KeyAdmin + ?Sized,
    {
        if new.recoverable {
            return Err(IssueError::Imported);
        }
        // Of the id, not of the secret: no part of that may be stored.
        let hint = format!("imported {}…", &id.as_str()[..4]);
        let key = new.into_key(id, hint, self.clock.now().timestamp())?;
        let answer = key.clone();
        let record = KeyRecord {
            key,
            digest,
            encrypted_secret: None,
        };
        store.create(record).await?;
        Ok(answer)
    }
}

impl KeyId {
    /// The id of the key that a secret belongs to, be it of this crate's form or imported: tells
    /// which key has leaked. `None` for a text that cannot be a secret.
    ///
    /// No store is asked. An id without a record may come of a damaged copy, whose checksum no longer
    /// fits and which is then taken for an imported secret.
    ///
    /// ```
    /// use keytally::KeyId;
    /// use keytally::key::{Prefix, Secret};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let secret = Secret::generate(&Prefix::new("acme_live")?)?;
    /// assert_eq!(KeyId::of_secret(secret.expose()), Some(secret.id()));
    /// assert!(KeyId::of_secret("sk-from-another-system").is_some());
    /// assert_eq!(KeyId::of_secret("too short"), None);
    /// # Ok(()) }
    /// ```
    pub fn of_secret(text: &str) -> Option<Self> {
        let text = text.as_bytes();
        let imported = || is_importable(text).then(|| Digest::sha256(text).imported_id());
        id_of(text).ok().or_else(imported)
    }
}

/// Whether a text can be the secret of an imported key.
pub(crate) fn is_importable(secret: &[u8]) -> bool {
    (16..=512).contains(&secret.len()) && secret.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::AddressList;
    use crate::limit::RateLimit;

    fn issuer() -> Issuer {
        let now = "2026-11-01T10:00:00Z".parse().unwrap();
        Issuer::new("acme_test").unwrap().clock(Clock::manual(now))
    }

    #[test]
    fn a_key_has_what_was_asked_for() {
        let limits = [RateLimit::per_second(5)];
        let addresses = AddressList::parse(["10.0.0.0/8"]).unwrap();
        let new = NewKey::new("Zapier")
            .owner("acme")
            .environment("live")
            .scopes(["read", "write"])
            .limit(limits[0].clone())
            .addresses(addresses.clone())
            .metadata("tier", 1)
            .expires_in(Duration::from_secs(60));
        let (secret, record) = issuer().prepare(new).unwrap();
        let key = record.key;
        assert_eq!((key.id, &*key.name), (secret.id(), "Zapier"));
        assert_eq!(key.hint, secret.hint());
        assert_eq!(key.owner.as_deref(), Some("acme"));
        assert_eq!(key.environment.as_deref(), Some("live"));
        assert_eq!(key.scopes, ["read", "write"]);
        assert_eq!(key.limits, limits);
        assert_eq!(key.addresses, addresses);
        assert_eq!(key.metadata["tier"], 1);
        assert_eq!(key.created_at.to_string(), "2026-11-01T10:00:00Z");
        assert_eq!(key.expires_at.unwrap().to_string(), "2026-11-01T10:01:00Z");
        assert!(!key.recoverable && record.encrypted_secret.is_none());
        assert_eq!(record.digest, Digest::sha256(secret.expose().as_bytes()));
    }

    #[test]
    fn secrets_to_import_are_16_to_512_visible_characters() {
        for length in [16, 512] {
            assert!(is_importable(&vec![b'~'; length]));
        }
        for secret in [
            vec![b'~'; 15],
            vec![b'~'; 513],
            b"with a blank inside".to_vec(),
            "sixteen bytes, é".into(),
        ] {
            assert!(!is_importable(&secret), "{}", secret.escape_ascii());
        }
    }
}
