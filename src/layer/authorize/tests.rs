use std::convert::Infallible;

use http::{Request, Response};
use tower::ServiceExt;
use tower_layer::Layer;

use crate::backend::{MemoryBackend, MemoryConfig};
use crate::key::{
    Actor, AddressList, COMPUTED, Computed, Issuer, KeyAdmin, NewKey, Peppers, Prefix, Secret,
};
use crate::{ApiKeyLayer, Clock, PeerAddress};

/// The hashes that the layer computes for a request with this secret, and the status of its response.
async fn hashes(layer: &ApiKeyLayer, secret: &Secret, client: [u8; 4]) -> (usize, u16) {
    let service = layer.layer(tower::service_fn(async |_: Request<String>| {
        Ok::<_, Infallible>(Response::new(String::new()))
    }));
    let request = Request::get("/").header("x-api-key", secret.expose());
    let request = request.extension(PeerAddress(client.into()));
    COMPUTED.take();
    let response = service.oneshot(request.body(String::new()).unwrap());
    let status = response.await.unwrap().status().as_u16();
    (COMPUTED.take().sha256, status)
}

#[tokio::test]
async fn verified_secrets_are_hashed_again_only_for_expired_entries_and_rejections() {
    const HERE: [u8; 4] = [203, 0, 113, 7];
    let clock = Clock::manual("2026-11-01T10:00:00Z".parse().unwrap());
    let backend = MemoryBackend::with_clock(MemoryConfig::new(), clock.clone());
    let new = NewKey::new("x").addresses(AddressList::parse(["203.0.113.0/24"]).unwrap());
    let issuer = Issuer::new("acme").unwrap().clock(clock.clone());
    let issued = issuer.issue(&backend, new, Actor::SYSTEM).await.unwrap();
    let layer = ApiKeyLayer::new(backend.clone()).clock(clock.clone());
    let ask = async |client| hashes(&layer, &issued.secret, client).await;
    // From the store, from the cache, and from the table of the thread.
    assert_eq!([ask(HERE).await, ask(HERE).await], [(1, 200); 2]);
    assert_eq!(ask(HERE).await, (0, 200));
    // From another client IP, and then verified anew.
    let elsewhere = [198, 51, 100, 7];
    assert_eq!([ask(elsewhere).await, ask(elsewhere).await], [(1, 403); 2]);
    assert_eq!([ask(HERE).await, ask(HERE).await], [(1, 200), (0, 200)]);
    // After the time to live of the entry.
    clock.advance(std::time::Duration::from_secs(3_600));
    assert!(ask(HERE).await.0 >= 1);
    assert_eq!([ask(HERE).await, ask(HERE).await], [(1, 200), (0, 200)]);
    backend.revoke(issued.key.id, Actor::SYSTEM).await.unwrap();
    assert_eq!([ask(HERE).await, ask(HERE).await], [(1, 401); 2]);
}

mod constant_time_verification {
    use super::*;

    #[tokio::test]
    async fn rejections_take_the_same_work_for_known_and_unknown_keys() {
        let peppers = Peppers::new([("p", &b"0123456789abcdef"[..])]).unwrap();
        let keys = MemoryBackend::new();
        let issuer = Issuer::new("acme").unwrap().peppers(peppers.clone());
        let layer = ApiKeyLayer::new(keys.clone()).peppers(peppers);
        let unknown = Secret::generate(&Prefix::new("acme").unwrap()).unwrap();
        let wrong = {
            let (secret, mut record) = issuer.prepare(NewKey::new("wrong")).unwrap();
            record.digest = issuer.prepare(NewKey::new("other")).unwrap().1.digest;
            keys.create(record, Actor::SYSTEM).await.unwrap();
            secret
        };
        // First from the store, then from the cache.
        for _ in 0..2 {
            for secret in [&unknown, &wrong] {
                let service = layer.layer(tower::service_fn(async |_: Request<String>| {
                    Ok::<_, Infallible>(Response::new(String::new()))
                }));
                let request = Request::get("/").header("x-api-key", secret.expose());
                COMPUTED.take();
                let response = service
                    .oneshot(request.body(String::new()).unwrap())
                    .await
                    .unwrap();
                assert_eq!(response.status(), 401);
                assert_eq!(COMPUTED.take(), Computed { sha256: 1, hmac: 1 });
            }
        }
    }
}
