//! How the secrets of other systems are hashed.

use super::digest::{Digest, Peppers};
use super::issuer::is_importable;

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

    /// Hashes only the part after the first separator. That part must have at least 16 characters.
    pub fn after(mut self, separator: char) -> Self {
        self.separator = Some(separator);
        self
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
        };
        Some(ImportCandidate { hashed, digest })
    }
}

/// A secret of another system, as hashed by it.
pub(crate) struct ImportCandidate<'a> {
    pub(crate) hashed: &'a [u8],
    pub(crate) digest: Digest,
}
