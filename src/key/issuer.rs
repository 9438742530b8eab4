//! Key issuance: creation, rotation and import.

use std::time::Duration;

use super::audit::Actor;
use super::digest::{Digest, Peppers};
use super::encrypted_secret::EncryptedSecret;
#[cfg(feature = "recoverable")]
use super::encryption::Vault;
use super::error::InvalidKey;
use super::error::StoreError;
use super::new_key::{NewKey, after};
use super::record::{Key, KeyRecord, Rotation};
use super::secret::{Prefix, Secret, id_of};
use super::store::KeyAdmin;
use crate::clock::Clock;
use crate::id::KeyId;
use crate::invalid_config::InvalidConfig;
use crate::parse_error::ParseError;

/// A newly created key and its secret. Show the secret to the owner and discard it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Issued {
    /// The secret in plain text. It cannot be retrieved later unless the key is [recoverable](Key::recoverable).
    pub secret: Secret,
    /// The key.
    pub key: Key,
}

/// Creates, rotates and imports keys in a [`KeyAdmin`] store, with a prefix and optional peppers.
///
/// ```
/// use keytally::backend::MemoryBackend;
/// use keytally::key::{Actor, Issuer, NewKey};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryBackend::new();
/// let issued = Issuer::new("acme_live")?
///     .issue(&store, NewKey::new("Zapier integration"), Actor::SYSTEM)
///     .await?;
/// println!("your key, shown once: {}", issued.secret.expose());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Issuer {
    prefix: Prefix,
    pub(super) peppers: Peppers,
    pub(super) clock: Clock,
    /// A fixed id for the next key; random if `None`.
    id: Option<KeyId>,
    #[cfg(feature = "recoverable")]
    pub(super) vault: Option<Vault>,
}

/// An error from issuing, rotating or importing a key.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// A field of the key is out of bounds.
    #[error(transparent)]
    Invalid(#[from] InvalidKey),
    /// The digest to import is malformed.
    #[error(transparent)]
    Digest(ParseError),
    /// The secret to import is shorter than 16 or longer than 512 bytes, or not printable ASCII.
    #[error("the secret to import must be 16 to 512 printable ASCII characters")]
    InvalidSecret,
    /// The issuer does not have the pepper of the digest to import.
    #[error("the pepper of the digest to import is not one of the issuer's")]
    UnknownPepper,
    /// The key should be recoverable, but the issuer has no vault to encrypt its secret.
    #[error("recoverable keys require an encryption key; configure one on the issuer")]
    NoEncryptionKey,
    /// An imported key cannot be recoverable.
    #[error("imported keys cannot be recoverable")]
    ImportedRecoverable,
    /// The operating system provided no randomness.
    #[error("the operating system provided no randomness: {0}")]
    Random(#[from] getrandom::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Issuer {
    /// An issuer of secrets with this prefix, without peppers or vault.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] if the prefix is malformed; see [`Prefix`].
    pub fn new(prefix: &str) -> Result<Self, InvalidConfig> {
        Ok(Self {
            prefix: Prefix::new(prefix)?,
            peppers: Peppers::none(),
            clock: Clock::system(),
            id: None,
            #[cfg(feature = "recoverable")]
            vault: None,
        })
    }

    /// Sets the peppers that new digests are computed with. The layer needs the same peppers to verify them. None
    /// by default.
    #[must_use]
    pub fn peppers(mut self, peppers: Peppers) -> Self {
        self.peppers = peppers;
        self
    }

    /// Sets the clock. The system clock by default.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The same issuer for a single key with this id instead of a random one.
    #[cfg(feature = "dashboard")]
    pub(crate) fn with_id(self, id: KeyId) -> Self {
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

    /// Generates a secret and creates its key in the store.
    ///
    /// # Errors
    ///
    /// Returns an error if a field is out of bounds, the key should be recoverable and there is no vault, or the
    /// store fails. No key is created then.
    pub async fn issue<S>(
        &self,
        store: &S,
        new: NewKey,
        actor: Actor<'_>,
    ) -> Result<Issued, IssueError>
    where
        S: KeyAdmin + ?Sized,
    {
        let (secret, record) = self.prepare(new)?;
        let key = record.key.clone();
        store.create(record, actor).await?;
        Ok(Issued { secret, key })
    }

    /// Generates a secret and its record without storing the record.
    ///
    /// # Errors
    ///
    /// Returns an error if a field is out of bounds, or the key should be recoverable and there is no vault.
    pub fn prepare(&self, new: NewKey) -> Result<(Secret, KeyRecord), IssueError> {
        let secret = self.secret()?;
        let now = self.clock.now().timestamp();
        let encrypted_secret = match new.recoverable {
            true => Some(self.encrypt(&secret)?.ok_or(IssueError::NoEncryptionKey)?),
            false => None,
        };
        let key = new.into_key(secret.id(), secret.hint(), now)?;
        let digest = self.peppers.digest(secret.expose().as_bytes());
        let record = KeyRecord {
            encrypted_secret,
            ..KeyRecord::new(key, digest)
        };
        Ok((secret, record))
    }

    /// The encrypted secret, if there is a vault.
    #[cfg(feature = "recoverable")]
    fn encrypt(&self, secret: &Secret) -> Result<Option<EncryptedSecret>, getrandom::Error> {
        let vault = self.vault.as_ref();
        vault.map(|vault| vault.encrypt(secret)).transpose()
    }

    #[cfg(not(feature = "recoverable"))]
    fn encrypt(&self, _: &Secret) -> Result<Option<EncryptedSecret>, getrandom::Error> {
        Ok(None)
    }

    /// Replaces a key by a new one with a new secret and id, in the same lineage. The old key expires after
    /// `grace`, or at its own expiry if that is earlier.
    ///
    /// Name, owner, plan, environment, scopes, limits, addresses, metadata and expiry carry over, and so does the rate
    /// limit usage. The new key is recoverable if the old one is and the issuer has a vault.
    ///
    /// # Errors
    ///
    /// Returns an error if the key does not exist, is not active or has been rotated, or the store fails. Nothing is changed
    /// then.
    pub async fn rotate<S>(
        &self,
        store: &S,
        id: KeyId,
        grace: Duration,
        actor: Actor<'_>,
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
            encrypted_secret: self.encrypt(&secret)?,
            rotated_at: now,
            old_expires_at: after(now, grace),
        };
        let key = store.rotate(id, rotation, actor).await?;
        Ok(Issued { secret, key })
    }
}

impl KeyId {
    /// The id of the key that a secret belongs to, whether the secret has the format of this crate or was imported with
    /// its SHA-256. Identifies the key of a leaked secret. `None` if the text cannot be a secret. For other formats of
    /// imported secrets, use [`Digest::imported_id`].
    ///
    /// Computed from the text alone, without a store. If a secret of this crate was damaged in transit, its
    /// checksum does not match and it is treated as an imported secret, whose id has no record.
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
        id_of(text).or_else(imported)
    }
}

/// Whether a text has the length and characters of an importable secret.
pub(super) fn is_importable(secret: &[u8]) -> bool {
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
    fn issued_key_has_all_parameters() {
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
    fn importable_secrets_are_16_to_512_printable_characters() {
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
