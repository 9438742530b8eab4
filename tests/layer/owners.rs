//! Owners and plans on the request path.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use jiff::Timestamp;
use keytally::backend::MemoryBackend;
use keytally::key::{
    Actor, CacheConfig, CachedStore, Issued, Issuer, KeyAdmin, KeyRecord, KeyStore, KeyUpdate,
    NewKey, OwnerAdmin, OwnerUpdate, Plan, StoreError,
};
use keytally::limit::RateLimit;
use keytally::{ApiKeyLayer, Clock, KeyId, Rejection, async_trait};
use tower::{Layer, ServiceExt};

async fn ok_response(_: Request<String>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::default())
}

/// The status of the response to a request with this key, and its policy of rate limits.
async fn send(layer: &ApiKeyLayer, issued: &Issued) -> (StatusCode, Option<String>) {
    let service = layer.layer(tower::service_fn(ok_response));
    let request = Request::get("/").header("x-api-key", issued.secret.expose());
    let response = service
        .oneshot(request.body(String::new()).unwrap())
        .await
        .unwrap();
    let policy = response.headers().get("ratelimit-policy");
    let policy = policy.map(|value| value.to_str().unwrap().to_owned());
    (response.status(), policy)
}

async fn status_of(layer: &ApiKeyLayer, issued: &Issued) -> StatusCode {
    send(layer, issued).await.0
}

async fn issue(store: &impl KeyAdmin, new: NewKey) -> Issued {
    let issuer = Issuer::new("acme").unwrap();
    issuer.issue(store, new, Actor::SYSTEM).await.unwrap()
}

async fn set_plan(store: &impl OwnerAdmin, name: &str, burst: u32) {
    let mut plan = Plan::new(name, "2026-11-01T10:00:00Z".parse().unwrap());
    plan.key_limits = vec![limit(burst)];
    store.set_plan(plan, Actor::SYSTEM).await.unwrap();
}

fn limit(burst: u32) -> RateLimit {
    RateLimit::per_second(1).with_burst(burst)
}

/// Two keys of an owner with a limit share it; a rejected request consumes nothing of either limit.
#[tokio::test]
async fn keys_of_an_owner_share_its_limits() {
    let (store, clock) = (MemoryBackend::new(), Clock::manual(Timestamp::UNIX_EPOCH));
    let layer = ApiKeyLayer::new(store.clone()).clock(clock.clone());
    let mut plan = Plan::new("pro", Timestamp::UNIX_EPOCH);
    plan.key_limits = vec![RateLimit::per_minute(3)];
    plan.owner_limits = vec![RateLimit::per_minute(4)];
    store.set_plan(plan, Actor::SYSTEM).await.unwrap();
    let keys = [
        issue(&store, NewKey::new("a").owner("acme")).await,
        issue(&store, NewKey::new("b").owner("acme")).await,
        issue(&store, NewKey::new("c").owner("other")).await,
    ];
    for owner in ["acme", "other"] {
        let update = OwnerUpdate::new().plan(Some("pro"));
        let updated = store.update_owner(owner, update, Actor::SYSTEM).await;
        updated.unwrap();
    }
    let remaining = async |key: usize| {
        let statuses = layer.limit_statuses(&keys[key].key).await.unwrap();
        let named = statuses.iter();
        let named: Vec<_> = named
            .map(|(limit, status)| format!("{}: {}", limit.name(), status.remaining))
            .collect();
        named.join(", ")
    };
    let (status, policy) = send(&layer, &keys[0]).await;
    let expected = r#""minute";q=3;w=60, "owner-minute";q=4;w=60"#;
    assert_eq!(
        (status, policy.as_deref()),
        (StatusCode::OK, Some(expected))
    );
    assert_eq!(status_of(&layer, &keys[0]).await, 200);
    assert_eq!(status_of(&layer, &keys[1]).await, 200);
    assert_eq!(status_of(&layer, &keys[1]).await, 200);
    let service = layer.layer(tower::service_fn(ok_response));
    let request = Request::get("/").header("x-api-key", keys[0].secret.expose());
    let request = request.body(String::new()).unwrap();
    let rejected = service.oneshot(request).await.unwrap();
    assert_eq!(rejected.status(), 429);
    let headers = rejected.headers();
    let expected = r#""minute";r=1;t=40, "owner-minute";r=0;t=60"#;
    assert_eq!(headers["ratelimit"], expected);
    assert_eq!(headers["retry-after"], "15");
    let reason = rejected.extensions().get::<Rejection>().unwrap();
    assert_eq!(reason.violated_limits(), [Arc::from("owner-minute")]);
    let body = rejected.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        body["violated-policies"],
        serde_json::json!(["owner-minute"])
    );
    assert_eq!(remaining(1).await, "minute: 1, owner-minute: 0");
    assert_eq!(remaining(2).await, "minute: 3, owner-minute: 4");
    // Limits of its own replace those of the plan, with the usage.
    let update = OwnerUpdate::new().limits([RateLimit::per_minute(6)]);
    let updated = store.update_owner("acme", update, Actor::SYSTEM).await;
    updated.unwrap();
    assert_eq!(remaining(0).await, "minute: 1, owner-minute: 2");
    assert_eq!(status_of(&layer, &keys[0]).await, 200);
    assert_eq!(remaining(1).await, "minute: 1, owner-minute: 1");
}

/// The order: the key's own limits, those of its plan, those of its owner's plan, the defaults of the layer.
#[tokio::test]
async fn limits_come_from_the_key_its_plan_its_owners_plan_or_the_layer() {
    let store = MemoryBackend::new();
    let layer = ApiKeyLayer::new(store.clone()).default_limits([limit(1_001)]);
    let issued = issue(&store, NewKey::new("x").owner("acme")).await;
    let burst = async || {
        let (status, policy) = send(&layer, &issued).await;
        assert_eq!(status, StatusCode::OK);
        let policy = policy.unwrap();
        let statuses = layer.limit_statuses(&issued.key).await.unwrap();
        let burst = policy.split([';', '=']).nth(2).unwrap().parse();
        let burst: u32 = burst.unwrap();
        // The key as issued has no limits and no plan; what applies is looked up.
        assert_eq!(statuses[0].0.burst(), burst);
        burst
    };
    let update = async |update| {
        let id = issued.key.id;
        store.update(id, update, Actor::SYSTEM).await.unwrap()
    };
    assert_eq!(burst().await, 1_001);
    set_plan(&store, "of owner", 1_002).await;
    let with = OwnerUpdate::new().plan(Some("of owner"));
    let changed = store.update_owner("acme", with, Actor::SYSTEM).await;
    changed.unwrap();
    assert_eq!(burst().await, 1_002);
    set_plan(&store, "of owner", 1_003).await;
    assert_eq!(burst().await, 1_003);
    set_plan(&store, "of key", 1_004).await;
    update(KeyUpdate::new().plan(Some("of key"))).await;
    assert_eq!(burst().await, 1_004);
    let key = update(KeyUpdate::new().limits([limit(1_005)])).await;
    let (_, policy) = send(&layer, &issued).await;
    assert!(policy.unwrap().contains("q=1005;"));
    let statuses = layer.limit_statuses(&key).await.unwrap();
    assert_eq!(statuses[0].0.burst(), 1_005);
    update(KeyUpdate::new().limits([]).plan(None::<String>)).await;
    assert_eq!(burst().await, 1_003);
}

/// Counts lookups, and has no invalidation feed.
#[derive(Clone, Default)]
struct Remote {
    inner: MemoryBackend,
    lookups: Arc<AtomicUsize>,
}

#[async_trait]
impl KeyStore for Remote {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        self.inner.find(id).await
    }
}

/// Invariant 4.
mod prompt_revocation {
    use super::*;

    #[tokio::test]
    async fn suspension_is_immediate_for_all_keys_of_the_owner_and_ends_when_resumed() {
        let store = MemoryBackend::new();
        let layer = ApiKeyLayer::new(store.clone());
        let keys = [
            issue(&store, NewKey::new("x").owner("acme")).await,
            issue(&store, NewKey::new("y").owner("acme")).await,
        ];
        let other = issue(&store, NewKey::new("z").owner("other")).await;
        for key in keys.iter().chain([&other]) {
            assert_eq!(status_of(&layer, key).await, StatusCode::OK);
        }
        let lookups = layer.cache_stats().lookups;
        store.suspend_owner("acme", Actor::SYSTEM).await.unwrap();
        for _ in 0..2 {
            for key in &keys {
                assert_eq!(status_of(&layer, key).await, StatusCode::UNAUTHORIZED);
            }
            assert_eq!(status_of(&layer, &other).await, StatusCode::OK);
        }
        // Keys of other owners stay in the cache.
        assert_eq!(layer.cache_stats().lookups, lookups + 2);
        store.resume_owner("acme", Actor::SYSTEM).await.unwrap();
        for key in &keys {
            assert_eq!(status_of(&layer, key).await, StatusCode::OK);
        }
    }

    #[tokio::test]
    async fn suspension_in_another_process_takes_effect_within_the_ttl() {
        let clock = Clock::manual("2026-11-01T10:00:00Z".parse().unwrap());
        let store = Remote::default();
        let ttl = Duration::from_secs(30);
        let layer = ApiKeyLayer::new(store.clone())
            .clock(clock.clone())
            .cache(CacheConfig::new().ttl(ttl));
        let key = issue(&store.inner, NewKey::new("x").owner("acme")).await;
        assert_eq!(status_of(&layer, &key).await, StatusCode::OK);
        let suspended = store.inner.suspend_owner("acme", Actor::SYSTEM);
        suspended.await.unwrap();
        clock.advance(ttl - Duration::from_nanos(1));
        assert_eq!(status_of(&layer, &key).await, StatusCode::OK);
        clock.advance(Duration::from_nanos(1));
        assert_eq!(status_of(&layer, &key).await, StatusCode::UNAUTHORIZED);
        assert_eq!(store.lookups.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn limits_of_a_plan_changed_in_another_process_are_reported_after_the_ttl() {
        let clock = Clock::manual("2026-11-01T10:00:00Z".parse().unwrap());
        let store = Remote::default();
        let ttl = Duration::from_secs(30);
        let layer = ApiKeyLayer::new(store.clone())
            .clock(clock.clone())
            .cache(CacheConfig::new().ttl(ttl));
        set_plan(&store.inner, "pro", 5).await;
        let key = issue(&store.inner, NewKey::new("x").plan("pro")).await;
        let burst = async || {
            let statuses = layer.limit_statuses(&key.key).await.unwrap();
            statuses[0].0.burst()
        };
        assert_eq!(burst().await, 5);
        set_plan(&store.inner, "pro", 6).await;
        assert_eq!(burst().await, 5);
        clock.advance(ttl);
        assert_eq!(burst().await, 6);
    }

    #[tokio::test]
    async fn changes_through_a_cached_store_reach_its_caches() {
        let store = CachedStore::new(MemoryBackend::new());
        let layer = ApiKeyLayer::new(store.clone()).cache(CacheConfig::new());
        let key = issue(&store, NewKey::new("x").owner("acme")).await;
        let owners = store.owner_admin().unwrap();
        assert_eq!(send(&layer, &key).await, (StatusCode::OK, None));
        set_plan(&store, "pro", 5).await;
        let with = OwnerUpdate::new().plan(Some("pro"));
        let updated = owners.update_owner("acme", with, Actor::SYSTEM).await;
        updated.unwrap();
        assert!(send(&layer, &key).await.1.unwrap().contains("q=5;"));
        set_plan(&store, "pro", 6).await;
        assert!(send(&layer, &key).await.1.unwrap().contains("q=6;"));
        owners.suspend_owner("acme", Actor::SYSTEM).await.unwrap();
        assert_eq!(status_of(&layer, &key).await, StatusCode::UNAUTHORIZED);
        owners.resume_owner("acme", Actor::SYSTEM).await.unwrap();
        assert_eq!(status_of(&layer, &key).await, StatusCode::OK);
        let found = store.find(key.key.id).await.unwrap().unwrap();
        assert_eq!(found.policy.key_limits, [limit(6)]);
    }
}
