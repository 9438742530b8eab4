//! How the secrets of other systems are hashed.

#[cfg(feature = "password-hashes")]
use sha2::{Digest as _, Sha256};

use super::digest::{Digest, Peppers};
use super::issuer::is_importable;
use crate::id::KeyId;

/// How another system hashes its secrets, which determines under which id an
/// [imported](super::ImportedKey::from_digest) key is found.
///
/// ```
/// use keytally::ApiKeyLayer;
/// use keytally::key::ImportedFormat;
/// # use keytally::backend::MemoryBackend;
///
/// # let store = MemoryBackend::new();
/// let layer = ApiKeyLayer::new(store).accept_imported_formats([
///     ImportedFormat::sha512(),
///     // For `17|token`, the SHA-256 of `token` is stored.
///     ImportedFormat::sha256().after('|'),
/// ]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct ImportedFormat {
    algorithm: Algorithm,
    separator: Option<char>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Algorithm {
    Sha256,
    Sha512,
    /// The name of the pepper.
    HmacSha256(String),
    #[cfg(feature = "password-hashes")]
    PasswordHash(SecretPrefix),
}

/// The part of a secret by which another system finds its password hash.
#[cfg(feature = "password-hashes")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SecretPrefix {
    /// The part before the first separator, without it.
    Before(char),
    /// This number of characters.
    First(usize),
}

#[cfg(feature = "password-hashes")]
impl SecretPrefix {
    fn of(self, secret: &str) -> Option<&str> {
        match self {
            Self::Before(separator) => Some(secret.split_once(separator)?.0),
            Self::First(length) => secret.get(..length),
        }
    }

    fn is_valid(self) -> bool {
        match self {
            Self::Before(separator) => separator.is_ascii_graphic(),
            Self::First(length) => length > 0,
        }
    }
}

/// The id of a key that is found by a prefix of its secret.
#[cfg(feature = "password-hashes")]
pub(super) fn id_of_prefix(prefix: &str) -> KeyId {
    let hash = Sha256::new().chain_update("secret prefix: ");
    KeyId::from_sha256(&hash.chain_update(prefix).finalize().into())
}

impl ImportedFormat {
    const fn new(algorithm: Algorithm) -> Self {
        Self {
            algorithm,
            separator: None,
        }
    }

    /// The SHA-256 of the secret.
    pub const fn sha256() -> Self {
        Self::new(Algorithm::Sha256)
    }

    /// The SHA-512 of the secret.
    pub const fn sha512() -> Self {
        Self::new(Algorithm::Sha512)
    }

    /// The HMAC-SHA-256 of the secret under the pepper with this name.
    pub fn hmac_sha256(pepper: impl Into<String>) -> Self {
        Self::new(Algorithm::HmacSha256(pepper.into()))
    }

    /// A password hash of the secret, which is found by a prefix of the secret. Requires
    /// [`ApiKeyLayer::password_hashes`](crate::ApiKeyLayer::password_hashes).
    #[cfg(feature = "password-hashes")]
    pub const fn password_hash(prefix: SecretPrefix) -> Self {
        Self::new(Algorithm::PasswordHash(prefix))
    }

    /// Whether the secret has a password hash.
    #[cfg(feature = "password-hashes")]
    pub(crate) fn is_password_hash(&self) -> bool {
        matches!(self.algorithm, Algorithm::PasswordHash(_))
    }

    /// Hashes only the part after the first separator. That part must have at least 16 characters.
    pub fn after(mut self, separator: char) -> Self {
        self.separator = Some(separator);
        self
    }

    /// The id of the key that is imported with this secret. `None` if the secret does not have this format, or there is
    /// no such pepper.
    ///
    /// ```
    /// use keytally::key::{Digest, ImportedFormat, Peppers};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let id = ImportedFormat::sha256().after('|').key_id("17|a-leaked-legacy-secret", &Peppers::none());
    /// let hash = "b261f7691c101747696106850d9c3b5d9c4ddef56b56cf8a8ac1183562c19318";
    /// assert_eq!(id, Some(Digest::from_sha256(hash)?.imported_id()));
    /// # Ok(()) }
    /// ```
    pub fn key_id(&self, secret: &str, peppers: &Peppers) -> Option<KeyId> {
        let candidate = self.candidate(secret.as_bytes(), peppers)?;
        Some(candidate.id)
    }

    /// Whether a secret can have this format, and its digest be computed with these peppers.
    pub(crate) fn is_valid(&self, peppers: &Peppers) -> bool {
        let is_possible = |separator: char| separator.is_ascii_graphic();
        if !self.separator.is_none_or(is_possible) {
            return false;
        }
        match &self.algorithm {
            Algorithm::Sha256 | Algorithm::Sha512 => true,
            Algorithm::HmacSha256(pepper) => peppers.has(pepper),
            #[cfg(feature = "password-hashes")]
            Algorithm::PasswordHash(prefix) => prefix.is_valid(),
        }
    }

    /// The lookup of a secret, unless it does not have this format.
    pub(crate) fn candidate<'a>(
        &self,
        secret: &'a [u8],
        peppers: &Peppers,
    ) -> Option<ImportCandidate<'a>> {
        let hashed = match self.separator {
            None => secret,
            Some(separator) => {
                let text = std::str::from_utf8(secret).ok()?;
                text.split_once(separator)?.1.as_bytes()
            }
        };
        if !is_importable(secret) || !is_importable(hashed) {
            return None;
        }
        let digest = match &self.algorithm {
            Algorithm::Sha256 => Digest::sha256(hashed),
            Algorithm::Sha512 => Digest::sha512(hashed),
            Algorithm::HmacSha256(pepper) => peppers.digest_with(pepper, hashed)?,
            #[cfg(feature = "password-hashes")]
            Algorithm::PasswordHash(prefix) => {
                let id = id_of_prefix(prefix.of(std::str::from_utf8(hashed).ok()?)?);
                let digest = None;
                return Some(ImportCandidate { id, hashed, digest });
            }
        };
        let (id, digest) = (digest.imported_id(), Some(digest));
        Some(ImportCandidate { id, hashed, digest })
    }
}

/// A secret of another system, as hashed by it.
pub(crate) struct ImportCandidate<'a> {
    pub(crate) id: KeyId,
    pub(crate) hashed: &'a [u8],
    /// `None` if it can only be verified by a password hash, or by a digest that has replaced it.
    pub(crate) digest: Option<Digest>,
}
