//! Imported secrets with password hashes, which are verified once and replaced by a fast digest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use http::{Request, StatusCode};
use keytally::backend::MemoryBackend;
use keytally::key::{
    Actor, AuditAction, AuditLog, AuditQuery, CacheConfig, ImportedFormat, ImportedKey, Issuer,
    Key, KeyAdmin, KeyChange, KeyQuery, KeyRecord, KeyStore, NewKey, Rotation, SecretPrefix,
    StoreError,
};
use keytally::limit::RateLimit;
use keytally::{ApiKeyLayer, KeyId, Page, PasswordHashes, PeerAddress};
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt};

const SECRET: &str = "Q2mZ8yT0.vXw5LrJ9cNf3Kp7DhS1uB6eA";
const BCRYPT: &str = "$2b$04$GzD1Xp3M0iJhooUEiCP30.WZMyKZxoC6qECYjsf.IXo4SIxpYRRWm";
const ARGON2: &str = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$\
    YO+q0rHmE+7oTn7RgQbUyML89eccvDr1I3CCXc2pElc";

fn before_dot() -> ImportedFormat {
    ImportedFormat::password_hash(SecretPrefix::Before('.'))
}

async fn import(store: &MemoryBackend, prefix: &str, hash: &str) -> Key {
    let key = ImportedKey::from_password_hash(NewKey::new("imported"), prefix, hash);
    let issuer = Issuer::new("acme").unwrap();
    issuer.import(store, key, Actor::SYSTEM).await.unwrap()
}

fn layer(store: &MemoryBackend) -> ApiKeyLayer {
    ApiKeyLayer::new(store.clone())
        .accept_imported_formats([before_dot()])
        .password_hashes(PasswordHashes::new(store.clone()))
}

async fn status(layer: &ApiKeyLayer, secret: &str) -> StatusCode {
    let mut request = Request::get("/")
        .header("x-api-key", secret)
        .body(String::new())
        .unwrap();
    let peer = PeerAddress("203.0.113.7".parse().unwrap());
    request.extensions_mut().insert(peer);
    let service = tower::service_fn(async |_| {
        Ok::<_, std::convert::Infallible>(http::Response::new(
            http_body_util::Full::<bytes::Bytes>::default(),
        ))
    });
    layer
        .layer(service)
        .oneshot(request)
        .await
        .unwrap()
        .status()
}

/// The statuses of concurrent requests.
async fn statuses(layer: &ApiKeyLayer, secret: &str, count: usize) -> Vec<StatusCode> {
    let mut requests = JoinSet::new();
    for _ in 0..count {
        let (layer, secret) = (layer.clone(), secret.to_owned());
        requests.spawn(async move { status(&layer, &secret).await });
    }
    requests.join_all().await
}

async fn digest(store: &MemoryBackend, id: KeyId) -> String {
    store.find(id).await.unwrap().unwrap().digest.to_string()
}

async fn rehashes(store: &MemoryBackend, id: KeyId) -> usize {
    let query = AuditQuery::new().key(id).action(AuditAction::Rehashed);
    store.audit_entries(&query).await.unwrap().items.len()
}

#[tokio::test]
async fn password_hash_is_replaced_on_first_use() {
    for hash in [BCRYPT, ARGON2] {
        let store = MemoryBackend::new();
        let key = import(&store, "Q2mZ8yT0", hash).await;
        assert!(key.imported);
        let layer = layer(&store);
        let wrong = SECRET.replace("vXw", "vXx");
        for _ in 0..2 {
            assert_eq!(status(&layer, &wrong).await, 401);
        }
        assert_eq!(
            digest(&store, key.id).await,
            format!("password-hash:{hash}")
        );
        for _ in 0..3 {
            assert_eq!(status(&layer, SECRET).await, 200);
            assert!(digest(&store, key.id).await.starts_with("sha256:"));
        }
        assert_eq!(rehashes(&store, key.id).await, 1);
        assert_eq!(status(&layer, &wrong).await, 401);
        assert_eq!(
            status(&layer, "Q2mZ8yT1.vXw5LrJ9cNf3Kp7DhS1uB6eA").await,
            401
        );
        // Importing it again changes nothing.
        let again = ImportedKey::from_password_hash(NewKey::new("imported"), "Q2mZ8yT0", hash)
            .created_at(key.created_at);
        let issuer = Issuer::new("acme").unwrap();
        let keys = tokio_stream::iter([again]);
        let report = issuer
            .import_all(&store, keys, Actor::SYSTEM)
            .await
            .unwrap();
        assert_eq!((report.existing, report.different.len()), (1, 0));
        assert_eq!(status(&layer, SECRET).await, 200);
        store.revoke(key.id, Actor::SYSTEM).await.unwrap();
        assert_eq!(status(&layer, SECRET).await, 401);
    }
}

#[tokio::test]
async fn concurrent_first_uses_are_all_admitted() {
    let store = MemoryBackend::new();
    let key = import(&store, "Q2mZ8yT0", BCRYPT).await;
    let layer = layer(&store).password_hashes(PasswordHashes::new(store.clone()).workers(1));
    let statuses = statuses(&layer, SECRET, 100).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    // One worker: those that waited for it found the digest.
    assert!((1..10).contains(&rehashes(&store, key.id).await));
}

#[tokio::test]
async fn prefix_may_have_a_fixed_length_and_needs_its_format() {
    let store = MemoryBackend::new();
    import(&store, "Q2mZ8", ARGON2).await;
    let first = ImportedFormat::password_hash(SecretPrefix::First(5));
    let hashes = PasswordHashes::new(store.clone());
    let layer = |format| {
        ApiKeyLayer::new(store.clone())
            .password_hashes(hashes.clone())
            .accept_imported_formats([ImportedFormat::sha256(), format])
    };
    assert_eq!(status(&layer(before_dot()), SECRET).await, 401);
    assert_eq!(status(&layer(first.clone()), SECRET).await, 200);
    assert_eq!(status(&layer(first), SECRET).await, 200);
    let without = ApiKeyLayer::new(store.clone()).accept_imported_formats([before_dot()]);
    assert_eq!(without.build().unwrap_err().field, "imported formats");
    let invalid = ImportedFormat::password_hash(SecretPrefix::First(0));
    assert_eq!(
        layer(invalid).build().unwrap_err().field,
        "imported formats"
    );
}

#[tokio::test]
async fn inactive_keys_are_rejected_after_verification() {
    let store = MemoryBackend::new();
    let key = import(&store, "Q2mZ8yT0", BCRYPT).await;
    store.disable(key.id, Actor::SYSTEM).await.unwrap();
    let layer = layer(&store);
    assert_eq!(status(&layer, SECRET).await, 401);
    store.enable(key.id, Actor::SYSTEM).await.unwrap();
    assert_eq!(status(&layer, SECRET).await, 200);
}

#[tokio::test]
async fn wrong_secrets_are_charged_to_the_lookup_limit() {
    let store = MemoryBackend::new();
    import(&store, "Q2mZ8yT0", BCRYPT).await;
    let layer = layer(&store).lookup_limit(RateLimit::per_hour(3));
    let wrong = SECRET.replace("vXw", "vXx");
    // Each verification is charged, even if the lookup was free.
    let statuses = statuses(&layer, &wrong, 8).await;
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 3);
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 5);
}

/// A store that cannot be written to, or is revoked from while a hash is replaced.
#[derive(Clone)]
struct OnChange {
    keys: MemoryBackend,
    revokes: bool,
    asked: Arc<AtomicBool>,
}

#[async_trait]
impl KeyStore for OnChange {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.keys.find(id).await
    }
}

#[async_trait]
impl KeyAdmin for OnChange {
    async fn create(&self, record: KeyRecord, actor: Actor<'_>) -> Result<(), StoreError> {
        self.keys.create(record, actor).await
    }

    async fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError> {
        self.keys.list(query).await
    }

    async fn change(&self, id: KeyId, _: KeyChange, actor: Actor<'_>) -> Result<Key, StoreError> {
        self.asked.store(true, Ordering::SeqCst);
        if self.revokes {
            return self.keys.revoke(id, actor).await;
        }
        Err(StoreError::unavailable("read-only"))
    }

    async fn rotate(
        &self,
        id: KeyId,
        rotation: Rotation,
        actor: Actor<'_>,
    ) -> Result<Key, StoreError> {
        self.keys.rotate(id, rotation, actor).await
    }

    async fn delete(&self, id: KeyId, actor: Actor<'_>) -> Result<(), StoreError> {
        self.keys.delete(id, actor).await
    }
}

#[tokio::test]
async fn keys_work_while_their_hash_cannot_be_replaced() {
    let keys = MemoryBackend::new();
    let key = import(&keys, "Q2mZ8yT0", BCRYPT).await;
    let asked = Arc::new(AtomicBool::new(false));
    let store = OnChange {
        keys: keys.clone(),
        revokes: false,
        asked: asked.clone(),
    };
    let layer = layer(&keys).password_hashes(PasswordHashes::new(store));
    for _ in 0..2 {
        assert_eq!(status(&layer, SECRET).await, 200);
        assert!(asked.swap(false, Ordering::SeqCst));
    }
    assert_eq!(
        digest(&keys, key.id).await,
        format!("password-hash:{BCRYPT}")
    );
    assert_eq!(status(&layer, &SECRET.replace("vXw", "vXx")).await, 401);
}

#[tokio::test]
async fn key_revoked_during_verification_is_rejected() {
    let keys = MemoryBackend::new();
    import(&keys, "Q2mZ8yT0", BCRYPT).await;
    let asked = Arc::new(AtomicBool::new(false));
    let store = OnChange {
        keys: keys.clone(),
        revokes: true,
        asked,
    };
    let cache = CacheConfig::new();
    let layer = layer(&keys)
        .cache(cache)
        .password_hashes(PasswordHashes::new(store));
    assert_eq!(status(&layer, SECRET).await, 401);
}

#[tokio::test]
async fn invalid_hashes_are_rejected_by_the_import() {
    let store = MemoryBackend::new();
    let issuer = Issuer::new("acme").unwrap();
    let hashes = [
        "",
        "plain",
        "$2b$31$GzD1Xp3M0iJhooUEiCP30.WZMyKZxoC6qECYjsf.IXo4SIxpYRRWm",
    ];
    let keys = hashes.map(|hash| ImportedKey::from_password_hash(NewKey::new("x"), "p", hash));
    let report = issuer
        .import_all(&store, tokio_stream::iter(keys), Actor::SYSTEM)
        .await
        .unwrap();
    assert_eq!((report.imported, report.rejected.len()), (0, 3));
    let message = report.rejected[0].error.to_string();
    assert!(message.contains("password hash"), "{message}");
}
