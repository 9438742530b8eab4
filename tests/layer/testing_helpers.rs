//! The helpers for testing one's own services do what they promise.

use std::convert::Infallible;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Request, Response, StatusCode};
use keytally::backend::MemoryBackend;
use keytally::key::{KeyAdmin, NewKey};
use keytally::testing::{FailingStore, Fixture};
use keytally::usage::{Outcome, RejectionReason, SummaryQuery, UsageReader};
use tower::{Layer, Service, ServiceExt, service_fn};

/// Answers with the number in the path.
async fn handle(request: Request<String>) -> Result<Response<String>, Infallible> {
    let status = request.uri().path().trim_start_matches('/').parse();
    let mut response = Response::new(String::new());
    *response.status_mut() = status.unwrap_or(StatusCode::OK);
    Ok(response)
}

async fn ask<S, B>(app: &S, path: &str, bearer: Option<http::HeaderValue>) -> StatusCode
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
async fn events_come_in_order_although_the_clock_stands_still() {
    let test = Fixture::new();
    let key = test.issue(NewKey::new("t").owner("o")).await;
    let app = test.layer().layer(service_fn(handle));
    let statuses: Vec<u16> = (0..50).map(|n| 200 + n).collect();
    for status in &statuses {
        assert_eq!(
            ask(&app, &format!("/{status}"), Some(key.bearer())).await,
            *status
        );
    }
    let events = test.events().await;
    let told: Vec<_> = events
        .iter()
        .map(|event| event.status.to_string())
        .collect();
    let asked: Vec<_> = statuses.iter().map(ToString::to_string).collect();
    assert_eq!(told, asked);
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
async fn refusals_without_a_key_are_counted() {
    let test = Fixture::new();
    let app = test.layer().layer(service_fn(handle));
    assert_eq!(ask(&app, "/", None).await, StatusCode::UNAUTHORIZED);
    assert!(test.events().await.is_empty());
    assert_eq!(test.stats().await.refused_for(RejectionReason::Missing), 1);
}

#[tokio::test]
async fn expiry_and_outages_follow_the_clock() {
    let test = Fixture::new();
    let minute = Duration::from_secs(60);
    let key = test.issue(NewKey::new("t").expires_in(2 * minute)).await;
    let app = test.layer().layer(service_fn(handle));
    assert_eq!(ask(&app, "/", Some(key.bearer())).await, StatusCode::OK);

    test.store().fail();
    assert_eq!(ask(&app, "/", Some(key.bearer())).await, StatusCode::OK);
    test.advance(minute);
    let outage = ask(&app, "/", Some(key.bearer())).await;
    assert_eq!(outage, StatusCode::SERVICE_UNAVAILABLE);

    test.store().recover();
    assert_eq!(ask(&app, "/", Some(key.bearer())).await, StatusCode::OK);
    test.advance(minute);
    assert_eq!(
        ask(&app, "/", Some(key.bearer())).await,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn revocation_follows_the_clock() {
    let test = Fixture::new();
    let key = test.issue(NewKey::new("t")).await;
    let hour = Duration::from_secs(3_600);
    test.advance(hour);
    for revoked in [
        test.backend().revoke(key.id).await,
        test.store().revoke(key.id).await,
    ] {
        let revoked = revoked.unwrap().revoked_at.unwrap();
        assert_eq!(revoked, key.created_at + hour);
    }
}

#[tokio::test]
async fn layers_of_one_fixture_share_what_is_spent() {
    let test = Fixture::new();
    let limit = keytally::limit::RateLimit::per_minute(1);
    let key = test.issue(NewKey::new("t").limit(limit)).await;
    let first = test.layer().layer(service_fn(handle));
    let second = test.layer().exempt("/health").layer(service_fn(handle));
    assert_eq!(ask(&first, "/", Some(key.bearer())).await, StatusCode::OK);
    let spent = ask(&second, "/", Some(key.bearer())).await;
    assert_eq!(spent, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn rule_1_a_keys_bearer_is_not_printed() {
    let key = Fixture::new().issue(NewKey::new("t")).await;
    let secret = key.secret.expose();
    for text in [format!("{key:?}"), format!("{:?}", key.bearer())] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[cfg(feature = "conformance")]
#[tokio::test]
async fn a_failing_store_that_works_is_a_store() {
    keytally::conformance::key_admin(&FailingStore::new(MemoryBackend::new())).await;
}

#[tokio::test]
async fn a_store_that_fails_fails_in_everything() {
    use keytally::key::{AuditQuery, Issuer, KeyAdmin, KeyQuery, KeyStore, StoreError};

    let store = FailingStore::new(MemoryBackend::new());
    let issuer = Issuer::new("t").unwrap();
    let id = issuer.issue(&store, NewKey::new("t")).await.unwrap().key.id;
    let acting = store.acting_as("anna").unwrap();
    store.clone().fail();
    let answers = [
        store.find(id).await.map(drop),
        store.get(id).await.map(drop),
        store.list(&KeyQuery::new()).await.map(drop),
        store.disable(id).await.map(drop),
        store.delete(id).await,
        store.audit(&AuditQuery::new()).await.map(drop),
        acting.disable(id).await.map(drop),
    ];
    for answer in answers {
        assert!(
            matches!(answer, Err(StoreError::Unavailable(_))),
            "{answer:?}"
        );
    }
    store.recover();
    assert!(store.find(id).await.unwrap().is_some());
}
