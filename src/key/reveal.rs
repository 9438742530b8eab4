//! Reads secrets again that were kept for that.

use super::encryption::Vault;
use super::error::StoreError;
use super::issuer::Issuer;
use super::secret::Secret;
use super::store::KeyAdmin;
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
    /// // Yours comes from the environment or a secret manager.
    /// let mut key = [0; 32];
    /// getrandom::fill(&mut key)?;
    /// let issuer = Issuer::new("acme_live")?.vault(Vault::new(key));
    /// let new = NewKey::new("Zapier integration").recoverable();
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
        let Some(sealed) = &record.encrypted_secret else {
            return Ok(None);
        };
        let text = vault.open(sealed, id).ok_or(RevealError::Closed(id))?;
        // Who can write to the database must not be able to have another secret copied in its place.
        let secret = Secret::parse(&text).map_err(|_| RevealError::Mismatch(id))?;
        let its_own =
            secret.id() == id && self.peppers.verify(text.as_bytes(), &record.digest, true);
        its_own
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
        AuditAction, AuditQuery, Digest, EncryptedSecret, IssueError, Issued, KeyRecord, NewKey,
        Peppers, Prefix,
    };

    fn issuer() -> Issuer {
        Issuer::new("acme").unwrap().vault(Vault::new([1; 32]))
    }

    fn new() -> NewKey {
        NewKey::new("test").recoverable()
    }

    async fn issue(store: &MemoryBackend, issuer: &Issuer) -> Issued {
        issuer.issue(store, new()).await.unwrap()
    }

    /// Changes a record as somebody would who can write to the database.
    async fn tamper(store: &MemoryBackend, id: KeyId, change: impl FnOnce(&mut KeyRecord)) {
        let mut record = store.reveal(id).await.unwrap().unwrap();
        store.delete(id).await.unwrap();
        change(&mut record);
        store.create(record).await.unwrap();
    }

    async fn mismatches(store: &MemoryBackend, issuer: &Issuer, id: KeyId) {
        let error = issuer.reveal(store, id).await.unwrap_err();
        assert!(
            matches!(error, RevealError::Mismatch(of) if of == id),
            "{error:?}"
        );
    }

    async fn stays_closed(store: &MemoryBackend, issuer: &Issuer, id: KeyId) {
        let error = issuer.reveal(store, id).await.unwrap_err();
        assert!(
            matches!(error, RevealError::Closed(of) if of == id),
            "{error:?}"
        );
    }

    async fn readings(store: &MemoryBackend, id: KeyId) -> usize {
        let query = AuditQuery::new().key(id).action(AuditAction::Revealed);
        store.audit(&query).await.unwrap().unwrap().items.len()
    }

    #[tokio::test]
    async fn only_keys_that_are_to_be_recoverable_are_so() {
        let (store, issuer) = (MemoryBackend::new(), issuer());
        let plain = issuer.issue(&store, NewKey::new("plain")).await.unwrap();
        assert!(!plain.key.recoverable);
        assert_eq!(issuer.reveal(&store, plain.key.id).await.unwrap(), None);
        let issued = issue(&store, &issuer).await;
        assert!(issued.key.recoverable);
        let secret = issuer.reveal(&store, issued.key.id).await.unwrap();
        assert_eq!(secret, Some(issued.secret));
        assert_eq!(readings(&store, issued.key.id).await, 1);
        store.revoke(issued.key.id).await.unwrap();
        assert_eq!(issuer.reveal(&store, issued.key.id).await.unwrap(), None);
    }

    #[tokio::test]
    async fn without_a_vault_no_key_is_made_recoverable_and_none_is_asked_for() {
        let store = MemoryBackend::new();
        let id = issue(&store, &issuer()).await.key.id;
        let without = Issuer::new("acme").unwrap();
        assert!(!without.has_vault() && issuer().has_vault());
        let error = without.issue(&store, new()).await.unwrap_err();
        assert!(matches!(error, IssueError::NoVault));
        let error = without.reveal(&store, id).await.unwrap_err();
        assert!(matches!(error, RevealError::NoVault));
        assert_eq!(readings(&store, id).await, 0);
    }

    #[tokio::test]
    async fn imported_keys_are_not_recoverable() {
        let (store, issuer) = (MemoryBackend::new(), issuer());
        let secret = "sk-from-another-system";
        let error = issuer.import_secret(&store, new(), secret).await;
        assert!(matches!(error, Err(IssueError::Imported)));
        let error = issuer.import_sha256(&store, new(), &"0".repeat(64)).await;
        assert!(matches!(error, Err(IssueError::Imported)));
    }

    #[tokio::test]
    async fn rotations_stay_recoverable_while_there_is_a_vault() {
        let (store, issuer) = (MemoryBackend::new(), issuer());
        let hour = Duration::from_secs(3_600);
        let first = issue(&store, &issuer).await;
        let second = issuer.rotate(&store, first.key.id, hour).await.unwrap();
        for issued in [&first, &second] {
            let secret = issuer.reveal(&store, issued.key.id).await.unwrap();
            assert_eq!(secret.as_ref(), Some(&issued.secret));
        }
        let without = Issuer::new("acme").unwrap();
        let third = without.rotate(&store, second.key.id, hour).await.unwrap();
        assert!(!third.key.recoverable);
        assert_eq!(issuer.reveal(&store, third.key.id).await.unwrap(), None);
        let fourth = issuer.rotate(&store, third.key.id, hour).await.unwrap();
        assert!(!fourth.key.recoverable);
    }

    #[tokio::test]
    async fn another_keys_sealed_secret_does_not_open() {
        let (store, issuer) = (MemoryBackend::new(), issuer());
        let [mine, yours] = [issue(&store, &issuer).await, issue(&store, &issuer).await];
        let theirs = store.reveal(yours.key.id).await.unwrap().unwrap();
        // The digest may even be copied with it.
        tamper(&store, mine.key.id, |record| {
            record.encrypted_secret = theirs.encrypted_secret;
            record.digest = theirs.digest;
        })
        .await;
        stays_closed(&store, &issuer, mine.key.id).await;
    }

    #[tokio::test]
    async fn a_changed_sealed_secret_and_a_foreign_encryption_key_do_not_open() {
        let (store, issuer) = (MemoryBackend::new(), issuer());
        let id = issue(&store, &issuer).await.key.id;
        let other = Issuer::new("acme").unwrap().vault(Vault::new([2; 32]));
        stays_closed(&store, &other, id).await;
        let both = Vault::new([2; 32]).with_previous_key(Vault::new([1; 32]));
        let other = other.vault(both);
        assert!(other.reveal(&store, id).await.unwrap().is_some());
        tamper(&store, id, |record| {
            let mut bytes = record.encrypted_secret.take().unwrap().as_bytes().to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            record.encrypted_secret = Some(EncryptedSecret::from_bytes(bytes));
        })
        .await;
        stays_closed(&store, &issuer, id).await;
    }

    #[tokio::test]
    async fn what_is_sealed_has_to_be_the_secret_that_the_digest_is_of() {
        let (store, issuer) = (MemoryBackend::new(), issuer());
        let issued = issue(&store, &issuer).await;
        tamper(&store, issued.key.id, |record| {
            record.digest = Digest::sha256(b"another secret");
        })
        .await;
        mismatches(&store, &issuer, issued.key.id).await;

        // Rightly sealed, but not a secret of this id.
        let other = Secret::generate(&Prefix::new("acme").unwrap()).unwrap();
        for text in [other.expose(), "hello"] {
            let id = issue(&store, &issuer).await.key.id;
            tamper(&store, id, |record| {
                record.encrypted_secret = Some(Vault::new([1; 32]).seal_with([0; 24], id, text));
                record.digest = Digest::sha256(text.as_bytes());
            })
            .await;
            mismatches(&store, &issuer, id).await;
        }
    }

    #[tokio::test]
    async fn peppers_are_needed_to_know_a_secret_again() {
        let store = MemoryBackend::new();
        let peppers = || Peppers::new([("2026", &[9; 16][..])]).unwrap();
        let issued = issue(&store, &issuer().peppers(peppers())).await;
        mismatches(&store, &issuer(), issued.key.id).await;
        let after = Peppers::new([("2027", &[8; 16][..]), ("2026", &[9; 16])]).unwrap();
        let issuer = issuer().peppers(after);
        let secret = issuer.reveal(&store, issued.key.id).await.unwrap();
        assert_eq!(secret, Some(issued.secret));
    }

    #[tokio::test]
    async fn rule_1_neither_debug_nor_json_nor_errors_show_the_secret() {
        let (store, issuer) = (MemoryBackend::new(), issuer());
        let issued = issue(&store, &issuer).await;
        let id = issued.key.id;
        let record = store.reveal(id).await.unwrap().unwrap();
        let audit = store.audit(&AuditQuery::new()).await.unwrap().unwrap();
        let other = Issuer::new("acme").unwrap().vault(Vault::new([2; 32]));
        let error = other.reveal(&store, id).await.unwrap_err();
        let private = &issued.secret.expose()["acme_".len() + KeyId::LEN..];
        let sealed = serde_json::to_string(&record.encrypted_secret).unwrap();
        let sealed = sealed.trim_matches('"');
        for (shown, with_sealed) in [
            (format!("{record:?} {issued:?} {issuer:?}"), false),
            (format!("{audit:?} {error:?} {error}"), false),
            (serde_json::to_string(&record.key).unwrap(), false),
            (serde_json::to_string(&audit).unwrap(), false),
            (serde_json::to_string(&record).unwrap(), true),
        ] {
            assert!(!shown.contains(private), "{shown}");
            assert_eq!(shown.contains(sealed), with_sealed, "{shown}");
        }
    }
}
