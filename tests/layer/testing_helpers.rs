//! `keytally::testing`: the helpers for testing services that use the layer.

use std::convert::Infallible;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Request, Response, StatusCode};
use keytally::backend::MemoryBackend;
use keytally::key::{Actor, KeyAdmin, NewKey};
use keytally::testing::{FailingStore, Fixture};
use keytally::usage::{Outcome, RejectionReason, SummaryQuery, UsageReader};
use tower::{Layer, Service, ServiceExt, service_fn};

/// Responds with the status code given in the path.
async fn handle(request: Request<String>) -> Result<Response<String>, Infallible> {
    let status = request.uri().path().trim_start_matches('/').parse();
    let mut response = Response::new(String::new());
    *response.status_mut() = status.unwrap_or(StatusCode::OK);
    Ok(response)
}

async fn status_of<S, B>(app: &S, path: &str, bearer: Option<http::HeaderValue>) -> StatusCode
where
    S: Service<Request<String>, Response = Response<B>, Error = Infallible> + Clone,
{
    let mut request = Request::new(String::new());
    *request.uri_mut() = path.parse().unwrap();
    request
        .headers_mut()
        .extend(bearer.map(|value| (AUTHORIZATION, value)));
    app.clone().oneshot(request).await.unwrap().status()
}

#[tokio::test]
async fn events_keep_their_order_while_the_manual_clock_stands_still() {
    let test = Fixture::new();
    let key = test.issue(NewKey::new("t").owner("o")).await;
    let app = test.layer().layer(service_fn(handle));
    let statuses: Vec<u16> = (0..50).map(|n| 200 + n).collect();
    for status in &statuses {
        assert_eq!(
            status_of(&app, &format!("/{status}"), Some(key.bearer())).await,
            *status
        );
    }
    let events = test.events().await;
    let recorded: Vec<_> = events
        .iter()
        .map(|event| event.status.to_string())
        .collect();
    let expected: Vec<_> = statuses.iter().map(ToString::to_string).collect();
    assert_eq!(recorded, expected);
    assert!(
        events
            .iter()
            .all(|event| event.time == test.clock().now().timestamp())
    );
    assert!(
        events
            .iter()
            .all(|event| event.outcome == Outcome::Completed)
    );
    let summary = test
        .backend()
        .summary(&SummaryQuery::default())
        .await
        .unwrap();
    assert_eq!(summary.totals.total(), 50);
}

#[tokio::test]
async fn requests_without_a_key_are_counted_as_missing() {
    let test = Fixture::new();
    let app = test.layer().layer(service_fn(handle));
    assert_eq!(status_of(&app, "/", None).await, StatusCode::UNAUTHORIZED);
    assert!(test.events().await.is_empty());
    assert_eq!(test.stats().await.rejected_for(RejectionReason::Missing), 1);
}

#[tokio::test]
async fn key_expiry_and_cache_ttl_follow_the_manual_clock() {
    let test = Fixture::new();
    let minute = Duration::from_secs(60);
    let key = test.issue(NewKey::new("t").expires_in(2 * minute)).await;
    let app = test.layer().layer(service_fn(handle));
    assert_eq!(
        status_of(&app, "/", Some(key.bearer())).await,
        StatusCode::OK
    );

    test.store().fail();
    assert_eq!(
        status_of(&app, "/", Some(key.bearer())).await,
        StatusCode::OK
    );
    test.advance(minute);
    let during_outage = status_of(&app, "/", Some(key.bearer())).await;
    assert_eq!(during_outage, StatusCode::SERVICE_UNAVAILABLE);

    test.store().recover();
    assert_eq!(
        status_of(&app, "/", Some(key.bearer())).await,
        StatusCode::OK
    );
    test.advance(minute);
    assert_eq!(
        status_of(&app, "/", Some(key.bearer())).await,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn revoked_at_follows_the_manual_clock() {
    let test = Fixture::new();
    let key = test.issue(NewKey::new("t")).await;
    let hour = Duration::from_secs(3_600);
    test.advance(hour);
    for revoked in [
        test.backend().revoke(key.id, Actor::SYSTEM).await,
        test.store().revoke(key.id, Actor::SYSTEM).await,
    ] {
        let revoked = revoked.unwrap().revoked_at.unwrap();
        assert_eq!(revoked, key.created_at + hour);
    }
}

#[tokio::test]
async fn layers_of_one_fixture_share_rate_limit_state() {
    let test = Fixture::new();
    let limit = keytally::limit::RateLimit::per_minute(1);
    let key = test.issue(NewKey::new("t").limit(limit)).await;
    let first = test.layer().layer(service_fn(handle));
    let second = test.layer().exempt("/health").layer(service_fn(handle));
    assert_eq!(
        status_of(&first, "/", Some(key.bearer())).await,
        StatusCode::OK
    );
    let second_status = status_of(&second, "/", Some(key.bearer())).await;
    assert_eq!(second_status, StatusCode::TOO_MANY_REQUESTS);
}

mod secret_confidentiality {
    use super::*;

    #[tokio::test]
    async fn debug_output_does_not_contain_the_secret() {
        let key = Fixture::new().issue(NewKey::new("t")).await;
        let secret = key.secret.expose();
        for text in [format!("{key:?}"), format!("{:?}", key.bearer())] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[cfg(feature = "conformance")]
#[tokio::test]
async fn failing_store_passes_conformance_while_healthy() {
    keytally::conformance::key_admin(&FailingStore::new(MemoryBackend::new())).await;
}

#[tokio::test]
async fn failing_store_fails_every_operation_until_it_recovers() {
    use keytally::key::{AuditLog, AuditQuery, Issuer, KeyAdmin, KeyQuery, KeyStore, StoreError};

    let store = FailingStore::new(MemoryBackend::new());
    let issuer = Issuer::new("t").unwrap();
    let id = issuer
        .issue(&store, NewKey::new("t"), Actor::SYSTEM)
        .await
        .unwrap()
        .key
        .id;
    store.clone().fail();
    let results = [
        store.find(id).await.map(drop),
        store.get(id).await.map(drop),
        store.list(&KeyQuery::new()).await.map(drop),
        store.disable(id, Actor::SYSTEM).await.map(drop),
        store.delete(id, Actor::SYSTEM).await,
        store.audit_entries(&AuditQuery::new()).await.map(drop),
        store
            .audit_log()
            .unwrap()
            .audit_entries(&AuditQuery::new())
            .await
            .map(drop),
    ];
    for result in results {
        assert!(
            matches!(result, Err(StoreError::Unavailable(_))),
            "{result:?}"
        );
    }
    store.recover();
    assert!(store.find(id).await.unwrap().is_some());
}
