//! What must hold whatever features are on; the test script runs it without any and with all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use keytally::key::{Issuer, Key, KeyAdmin, KeyChange, KeyQuery, KeyRecord, KeyStore, NewKey};
use keytally::key::{Rotation, StoreError};
use keytally::limit::{Decision, LimitError, LimitHandle, LimitResponse, Limiter, RateLimit};
use keytally::usage::{Batch, Recorder, SinkError, UsageSink};
use keytally::{ApiKeyLayer, KeyId, Now, Page};
use tower::{Layer, ServiceExt};

/// A store, a sink and a limiter with the required methods and no others.
#[derive(Clone, Default)]
struct Least {
    records: Arc<Mutex<HashMap<KeyId, KeyRecord>>>,
    written: Arc<Mutex<Vec<Batch>>>,
}

#[keytally::async_trait]
impl KeyStore for Least {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        Ok(self.records.lock().unwrap().get(&id).cloned())
    }
}

#[keytally::async_trait]
impl KeyAdmin for Least {
    async fn create(&self, record: KeyRecord) -> Result<(), StoreError> {
        self.records.lock().unwrap().insert(record.key.id, record);
        Ok(())
    }

    async fn list(&self, _: &KeyQuery) -> Result<Page<Key>, StoreError> {
        Err(StoreError::unavailable("not asked for"))
    }

    async fn change(&self, _: KeyId, _: KeyChange) -> Result<Key, StoreError> {
        Err(StoreError::unavailable("not asked for"))
    }

    async fn rotate(&self, _: KeyId, _: Rotation) -> Result<Key, StoreError> {
        Err(StoreError::unavailable("not asked for"))
    }

    async fn delete(&self, _: KeyId) -> Result<(), StoreError> {
        Err(StoreError::unavailable("not asked for"))
    }
}

#[keytally::async_trait]
impl UsageSink for Least {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        self.written.lock().unwrap().push(batch.clone());
        Ok(())
    }
}

impl Limiter for Least {
    fn attach(
        &self,
        _: KeyId,
        _: &[RateLimit],
        _: Now,
    ) -> Result<Arc<dyn LimitHandle>, LimitError> {
        Ok(Arc::new(Always))
    }
}

#[derive(Debug)]
struct Always;

impl LimitHandle for Always {
    fn acquire(&self, _: u32, _: Now) -> LimitResponse {
        LimitResponse::Ready(Decision::default())
    }
}

#[tokio::test]
async fn rule_13_what_implements_the_traits_works_with_any_features() {
    let least = Least::default();
    let new = NewKey::new("x").limit(RateLimit::per_second(1));
    let issued = Issuer::new("acme")
        .unwrap()
        .issue(&least, new)
        .await
        .unwrap();
    let recorder = Recorder::new(least.clone());
    let service = ApiKeyLayer::new(least.clone())
        .limiter(least.clone())
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
        least.written.lock().unwrap()[0].events[0].key,
        Some(issued.key.id)
    );
}
