//! Reveals the secrets of recoverable keys.

use super::audit::Actor;
use super::encryption::Vault;
use super::error::StoreError;
use super::issuer::Issuer;
use super::secret::Secret;
use super::store::KeyAdmin;
use crate::id::KeyId;

/// An error from revealing a secret.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RevealError {
    /// The issuer has no vault.
    #[error("revealing secrets requires an encryption key; configure one on the issuer")]
    NoEncryptionKey,
    /// The secret was encrypted with an encryption key that the vault does not have or for another key, or was
    /// modified.
    #[error("the secret of key {0} cannot be decrypted with the configured encryption keys")]
    Undecryptable(KeyId),
    /// The decrypted secret does not match the digest of the key: the record was modified, or the pepper of the
    /// digest is not configured.
    #[error("the decrypted secret of key {0} does not match its digest")]
    Mismatch(KeyId),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Issuer {
    /// Sets the vault that encrypts the secrets of [recoverable](super::NewKey::recoverable) keys. None by
    /// default.
    #[must_use]
    pub fn vault(mut self, vault: Vault) -> Self {
        self.vault = Some(vault);
        self
    }

    /// Whether the issuer has a vault, so that it can issue recoverable keys.
    pub fn has_vault(&self) -> bool {
        self.vault.is_some()
    }

    /// Reveals the secret of a [recoverable](super::Key::recoverable) key; `None` if the key is not recoverable.
    ///
    /// The store writes an [audit](KeyAdmin::audit_log) entry with the actor before it returns the encrypted secret.
    /// An entry does not imply that decryption succeeded.
    ///
    /// ```
    /// use keytally::backend::MemoryBackend;
    /// use keytally::key::{Actor, Issuer, NewKey, Vault};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = MemoryBackend::new();
    /// // In production, load it from the environment or a secret manager.
    /// let mut key = [0; 32];
    /// getrandom::fill(&mut key)?;
    /// let issuer = Issuer::new("acme_live")?.vault(Vault::new(key));
    /// let new = NewKey::new("Zapier integration").recoverable();
    /// let anna = Actor::new("anna@example.com");
    /// let issued = issuer.issue(&store, new, anna).await?;
    ///
    /// let secret = issuer.reveal(&store, issued.key.id, anna).await?;
    /// assert_eq!(secret, Some(issued.secret));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`RevealError::NoEncryptionKey`] if there is no vault, without a store call. Otherwise, an error if the secret
    /// cannot be decrypted or does not match the digest, the key does not exist, or the store fails.
    pub async fn reveal<S>(
        &self,
        store: &S,
        id: KeyId,
        actor: Actor<'_>,
    ) -> Result<Option<Secret>, RevealError>
    where
        S: KeyAdmin + ?Sized,
    {
        let vault = self.vault.as_ref().ok_or(RevealError::NoEncryptionKey)?;
        let Some(record) = store.reveal(id, actor).await? else {
            return Ok(None);
        };
        let Some(encrypted) = &record.encrypted_secret else {
            return Ok(None);
        };
        let text = vault
            .decrypt(encrypted, id)
            .ok_or(RevealError::Undecryptable(id))?;
        // Prevents an attacker with write access to the database from substituting another secret.
        let secret = Secret::parse(&text).map_err(|_| RevealError::Mismatch(id))?;
        let matches =
            secret.id() == id && self.peppers.verify(text.as_bytes(), &record.digest, true);
        matches
            .then_some(Some(secret))
            .ok_or(RevealError::Mismatch(id))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::MemoryBackend;
    use crate::key::{
        AuditAction, AuditLog, AuditQuery, Digest, EncryptedSecret, ImportedKey, IssueError,
        Issued, KeyRecord, NewKey, Peppers, Prefix,
    };

    fn issuer() -> Issuer {
        Issuer::new("acme").unwrap().vault(Vault::new([1; 32]))
    }

    fn recoverable_key() -> NewKey {
        NewKey::new("test").recoverable()
    }

    async fn issue(store: &MemoryBackend, issuer: &Issuer) -> Issued {
        issuer
            .issue(store, recoverable_key(), Actor::SYSTEM)
            .await
            .unwrap()
    }

    /// Modifies a record like an attacker with write access to the database.
    async fn tamper(store: &MemoryBackend, id: KeyId, change: impl FnOnce(&mut KeyRecord)) {
        let mut record = store.reveal(id, Actor::SYSTEM).await.unwrap().unwrap();
        store.delete(id, Actor::SYSTEM).await.unwrap();
        change(&mut record);
        store.create(record, Actor::SYSTEM).await.unwrap();
    }

    async fn assert_mismatch(store: &MemoryBackend, issuer: &Issuer, id: KeyId) {
        let error = issuer.reveal(store, id, Actor::SYSTEM).await.unwrap_err();
        assert!(
            matches!(error, RevealError::Mismatch(of) if of == id),
            "{error:?}"
        );
    }

    async fn assert_not_decrypted(store: &MemoryBackend, issuer: &Issuer, id: KeyId) {
        let error = issuer.reveal(store, id, Actor::SYSTEM).await.unwrap_err();
        assert!(
            matches!(error, RevealError::Undecryptable(of) if of == id),
            "{error:?}"
        );
    }

    async fn reveal_entries(store: &MemoryBackend, id: KeyId) -> usize {
        let query = AuditQuery::new().key(id).action(AuditAction::Revealed);
        store.audit_entries(&query).await.unwrap().items.len()
    }

    #[tokio::test]
    async fn only_keys_issued_as_recoverable_can_be_revealed() {
        let (store, issuer) = (MemoryBackend::new(), issuer());
        let plain = issuer
            .issue(&store, NewKey::new("plain"), Actor::SYSTEM)
            .await
            .unwrap();
        assert!(!plain.key.recoverable);
        assert_eq!(
            issuer
                .reveal(&store, plain.key.id, Actor::SYSTEM)
                .await
                .unwrap(),
            None
        );
        let issued = issue(&store, &issuer).await;
        assert!(issued.key.recoverable);
        let secret = issuer
            .reveal(&store, issued.key.id, Actor::SYSTEM)
            .await
            .unwrap();
        assert_eq!(secret, Some(issued.secret));
        assert_eq!(reveal_entries(&store, issued.key.id).await, 1);
        store.revoke(issued.key.id, Actor::SYSTEM).await.unwrap();
        assert_eq!(
            issuer
                .reveal(&store, issued.key.id, Actor::SYSTEM)
                .await
                .unwrap(),
            None
        );
    }

    #[tokio::test]
    async fn without_a_vault_nothing_is_issued_or_revealed() {
        let store = MemoryBackend::new();
        let id = issue(&store, &issuer()).await.key.id;
        let without = Issuer::new("acme").unwrap();
        assert!(!without.has_vault() && issuer().has_vault());
        let error = without
            .issue(&store, recoverable_key(), Actor::SYSTEM)
            .await
            .unwrap_err();
        assert!(matches!(error, IssueError::NoEncryptionKey));
        let error = without.reveal(&store, id, Actor::SYSTEM).await.unwrap_err();
        assert!(matches!(error, RevealError::NoEncryptionKey));
        assert_eq!(reveal_entries(&store, id).await, 0);
    }

    #[tokio::test]
    async fn imported_keys_are_not_recoverable() {
        let (store, issuer) = (MemoryBackend::new(), issuer());
        let secret = "sk-from-another-system";
        let error = issuer
            .import(
                &store,
                ImportedKey::from_secret(recoverable_key(), secret),
                Actor::SYSTEM,
            )
            .await;
        assert!(matches!(error, Err(IssueError::ImportedRecoverable)));
        let error = issuer
            .import(
                &store,
                ImportedKey::from_digest(recoverable_key(), Digest::from_sha256("0".repeat(64))),
                Actor::SYSTEM,
            )
            .await;
        assert!(matches!(error, Err(IssueError::ImportedRecoverable)));
    }

    #[tokio::test]
    async fn rotated_keys_stay_recoverable_while_there_is_a_vault() {
        let (store, issuer) = (MemoryBackend::new(), issuer());
        let hour = Duration::from_secs(3_600);
        let first = issue(&store, &issuer).await;
        let second = issuer
            .rotate(&store, first.key.id, hour, Actor::SYSTEM)
            .await
            .unwrap();
        for issued in [&first, &second] {
            let secret = issuer
                .reveal(&store, issued.key.id, Actor::SYSTEM)
                .await
                .unwrap();
            assert_eq!(secret.as_ref(), Some(&issued.secret));
        }
        let without = Issuer::new("acme").unwrap();
        let third = without
            .rotate(&store, second.key.id, hour, Actor::SYSTEM)
            .await
            .unwrap();
        assert!(!third.key.recoverable);
        assert_eq!(
            issuer
                .reveal(&store, third.key.id, Actor::SYSTEM)
                .await
                .unwrap(),
            None
        );
        let fourth = issuer
            .rotate(&store, third.key.id, hour, Actor::SYSTEM)
            .await
            .unwrap();
        assert!(!fourth.key.recoverable);
    }

    #[tokio::test]
    async fn copied_encrypted_secret_of_another_key_does_not_decrypt() {
        let (store, issuer) = (MemoryBackend::new(), issuer());
        let [target, source] = [issue(&store, &issuer).await, issue(&store, &issuer).await];
        let copied = store
            .reveal(source.key.id, Actor::SYSTEM)
            .await
            .unwrap()
            .unwrap();
        // The attacker may copy the digest as well.
        tamper(&store, target.key.id, |record| {
            record.encrypted_secret = copied.encrypted_secret;
            record.digest = copied.digest;
        })
        .await;
        assert_not_decrypted(&store, &issuer, target.key.id).await;
    }

    #[tokio::test]
    async fn modified_secret_or_unknown_encryption_key_does_not_decrypt() {
        let (store, issuer) = (MemoryBackend::new(), issuer());
        let id = issue(&store, &issuer).await.key.id;
        let other = Issuer::new("acme").unwrap().vault(Vault::new([2; 32]));
        assert_not_decrypted(&store, &other, id).await;
        let both = Vault::new([2; 32]).with_previous_key(Vault::new([1; 32]));
        let other = other.vault(both);
        assert!(
            other
                .reveal(&store, id, Actor::SYSTEM)
                .await
                .unwrap()
                .is_some()
        );
        tamper(&store, id, |record| {
            let mut bytes = record.encrypted_secret.take().unwrap().as_bytes().to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            record.encrypted_secret = Some(EncryptedSecret::from_bytes(bytes));
        })
        .await;
        assert_not_decrypted(&store, &issuer, id).await;
    }

    #[tokio::test]
    async fn decrypted_secret_must_match_the_digest() {
        let (store, issuer) = (MemoryBackend::new(), issuer());
        let issued = issue(&store, &issuer).await;
        tamper(&store, issued.key.id, |record| {
            record.digest = Digest::sha256(b"another secret");
        })
        .await;
        assert_mismatch(&store, &issuer, issued.key.id).await;

        // Encrypted correctly, but not a secret with this id.
        let other = Secret::generate(&Prefix::new("acme").unwrap()).unwrap();
        for text in [other.expose(), "hello"] {
            let id = issue(&store, &issuer).await.key.id;
            tamper(&store, id, |record| {
                record.encrypted_secret = Some(Vault::new([1; 32]).encrypt_with([0; 24], id, text));
                record.digest = Digest::sha256(text.as_bytes());
            })
            .await;
            assert_mismatch(&store, &issuer, id).await;
        }
    }

    #[tokio::test]
    async fn revealing_requires_the_pepper_of_the_digest() {
        let store = MemoryBackend::new();
        let peppers = || Peppers::new([("2026", &[9; 16][..])]).unwrap();
        let issued = issue(&store, &issuer().peppers(peppers())).await;
        assert_mismatch(&store, &issuer(), issued.key.id).await;
        let after = Peppers::new([("2027", &[8; 16][..]), ("2026", &[9; 16])]).unwrap();
        let issuer = issuer().peppers(after);
        let secret = issuer
            .reveal(&store, issued.key.id, Actor::SYSTEM)
            .await
            .unwrap();
        assert_eq!(secret, Some(issued.secret));
    }

    mod secret_confidentiality {
        use super::*;

        #[tokio::test]
        async fn debug_json_and_errors_have_no_secret() {
            let (store, issuer) = (MemoryBackend::new(), issuer());
            let issued = issue(&store, &issuer).await;
            let id = issued.key.id;
            let record = store.reveal(id, Actor::SYSTEM).await.unwrap().unwrap();
            let audit = store.audit_entries(&AuditQuery::new()).await.unwrap();
            let other = Issuer::new("acme").unwrap().vault(Vault::new([2; 32]));
            let error = other.reveal(&store, id, Actor::SYSTEM).await.unwrap_err();
            let private = &issued.secret.expose()["acme_".len() + KeyId::LEN..];
            let encrypted = serde_json::to_string(&record.encrypted_secret).unwrap();
            let encrypted = encrypted.trim_matches('"');
            for (shown, has_encrypted) in [
                (format!("{record:?} {issued:?} {issuer:?}"), false),
                (format!("{audit:?} {error:?} {error}"), false),
                (serde_json::to_string(&record.key).unwrap(), false),
                (serde_json::to_string(&audit).unwrap(), false),
                (serde_json::to_string(&record).unwrap(), true),
            ] {
                assert!(!shown.contains(private), "{shown}");
                assert_eq!(shown.contains(encrypted), has_encrypted, "{shown}");
            }
        }
    }
}
