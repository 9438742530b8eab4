//! Reads secrets again that were kept for that.

use super::issuer::Issuer;
use super::store::{KeyAdmin, StoreError};
use super::token::Secret;
use super::vault::Vault;
use crate::id::KeyId;

/// A secret that could not be read again.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RevealError {
    /// The issuer has no vault to open it with.
    #[error("secrets can be read again only where an encryption key is configured")]
    NoVault,
    /// It was sealed under an encryption key that the vault does not have, or for another key, or it was
    /// changed since.
    #[error("the secret of key {0} cannot be decrypted with the configured encryption keys")]
    Closed(KeyId),
    /// What was sealed is not the secret that the key's digest is of: the record was changed, or the pepper
    /// of the digest is gone.
    #[error("what is kept as the secret of key {0} is not its secret")]
    Mismatch(KeyId),
    /// The store could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Issuer {
    /// Keeps secrets sealed in this vault where a key is [to be recoverable](super::NewKey::recoverable).
    #[must_use]
    pub fn vault(mut self, vault: Vault) -> Self {
        self.vault = Some(vault);
        self
    }

    /// Whether there is a vault, so that keys can be made recoverable.
    pub fn has_vault(&self) -> bool {
        self.vault.is_some()
    }

    /// The secret of a key that is [recoverable](super::Key::recoverable); `None` where it is not.
    ///
    /// The store notes in its [audit](KeyAdmin::audit) that it was read, before it can be; to have it
    /// noted by whom, give a store that is [acting as](KeyAdmin::acting_as) them. That it is noted does not
    /// tell that the secret could be opened.
    ///
    /// ```
    /// use keytally::backend::MemoryBackend;
    /// use keytally::key::{Issuer, KeyAdmin, NewKey, Vault};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = MemoryBackend::new();
    /// let vault: Vault = "hOMcXDiPX0sR3aGV8yEMjYc2Hh1Qb3m4V9zv7o7yq1E=".parse()?;
    /// let issuer = Issuer::new("acme_live")?.vault(vault);
    /// let new = NewKey::named("Zapier integration").recoverable();
    /// let issued = issuer.issue(&store, new).await?;
    ///
    /// let anna = store.acting_as("anna@example.com").ok_or("no audit")?;
    /// let secret = issuer.reveal(&anna, issued.key.id).await?;
    /// assert_eq!(secret, Some(issued.secret));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`RevealError::NoVault`] without asking the store; the others of [`RevealError`] when it cannot be
    /// opened, is not the key's, or there is no such key.
    pub async fn reveal<S>(&self, store: &S, id: KeyId) -> Result<Option<Secret>, RevealError>
    where
        S: KeyAdmin + ?Sized,
    {
        let vault = self.vault.as_ref().ok_or(RevealError::NoVault)?;
        let Some(record) = store.reveal(id).await? else {
            return Ok(None);
        };
        let Some(sealed) = &record.sealed else {
            return Ok(None);
        };
        let text = vault.open(sealed, id).ok_or(RevealError::Closed(id))?;
        // Who can write to the database must not be able to have another secret copied in its place.
        let secret = Secret::parse(&text).map_err(|_| RevealError::Mismatch(id))?;
        let its_own = record.key.id == id
            && secret.id() == id
            && self.peppers.verify(text.as_bytes(), &record.digest);
        its_own
            .then_some(Some(secret))
            .ok_or(RevealError::Mismatch(id))
    }
}
