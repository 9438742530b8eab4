//! Holds for any set of features; the test script runs it with no features and with all of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use keytally::key::{Actor, Rotation, StoreError};
use keytally::key::{Issuer, Key, KeyAdmin, KeyChange, KeyQuery, KeyRecord, KeyStore, NewKey};
use keytally::limit::{
    Decision, LimitError, LimitHandle, LimitResponse, Limiter, RateLimit, SubjectLimits,
};
use keytally::usage::{Batch, Recorder, SinkError, UsageSink};
use keytally::{ApiKeyLayer, KeyId, Now, Page};
use tower::{Layer, ServiceExt};

/// A store, a sink and a limiter that implement only the required methods.
#[derive(Clone, Default)]
struct Minimal {
    records: Arc<Mutex<HashMap<KeyId, KeyRecord>>>,
    written: Arc<Mutex<Vec<Batch>>>,
}

#[keytally::async_trait]
impl KeyStore for Minimal {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        Ok(self.records.lock().unwrap().get(&id).cloned())
    }
}

#[keytally::async_trait]
impl KeyAdmin for Minimal {
    async fn create(&self, record: KeyRecord, _: Actor<'_>) -> Result<(), StoreError> {
        self.records.lock().unwrap().insert(record.key.id, record);
        Ok(())
    }

    async fn list(&self, _: &KeyQuery) -> Result<Page<Key>, StoreError> {
        Err(StoreError::unavailable("not implemented"))
    }

    async fn change(&self, _: KeyId, _: KeyChange, _: Actor<'_>) -> Result<Key, StoreError> {
        Err(StoreError::unavailable("not implemented"))
    }

    async fn rotate(&self, _: KeyId, _: Rotation, _: Actor<'_>) -> Result<Key, StoreError> {
        Err(StoreError::unavailable("not implemented"))
    }

    async fn delete(&self, _: KeyId, _: Actor<'_>) -> Result<(), StoreError> {
        Err(StoreError::unavailable("not implemented"))
    }
}

#[keytally::async_trait]
impl UsageSink for Minimal {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        self.written.lock().unwrap().push(batch.clone());
        Ok(())
    }
}

impl Limiter for Minimal {
    fn attach(&self, _: &[SubjectLimits<'_>], _: Now) -> Result<Arc<dyn LimitHandle>, LimitError> {
        Ok(Arc::new(AlwaysAllow))
    }
}

#[derive(Debug)]
struct AlwaysAllow;

impl LimitHandle for AlwaysAllow {
    fn acquire(&self, _: u32, _: Now) -> LimitResponse {
        LimitResponse::Ready(Decision::default())
    }
}

mod additive_features {
    use super::*;

    #[tokio::test]
    async fn minimal_trait_implementations_work_with_any_features() {
        let minimal = Minimal::default();
        let new = NewKey::new("x").limit(RateLimit::per_second(1));
        let issued = Issuer::new("acme")
            .unwrap()
            .issue(&minimal, new, Actor::SYSTEM)
            .await
            .unwrap();
        let recorder = Recorder::new(minimal.clone());
        let service = ApiKeyLayer::new(minimal.clone())
            .limiter(minimal.clone())
            .recorder(recorder.clone())
            .layer(tower::service_fn(|_: Request<String>| async {
                Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::default()))
            }));
        let request = Request::get("/").header("x-api-key", issued.secret.expose());
        let response = service
            .oneshot(request.body(String::new()).unwrap())
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        drop(response);
        recorder.flush().await;
        assert_eq!(
            minimal.written.lock().unwrap()[0].events()[0].key,
            Some(issued.key.id)
        );
    }
}
