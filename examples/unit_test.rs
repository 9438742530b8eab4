//! Testing a protected service without a network and without waiting.
//!
//! ```text
//! cargo run --example unit_test --features testing
//! cargo test --example unit_test --features testing
//! ```

use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Extension;
use axum::http::header::AUTHORIZATION;
use axum::http::{Request, StatusCode};
use axum::routing::get;
use keytally::Caller;
use keytally::key::{Actor, KeyAdmin, NewKey};
use keytally::limit::RateLimit;
use keytally::testing::{Fixture, TestKey};
use keytally::usage::{Outcome, RejectionReason};
use tower::ServiceExt;

/// The service under test. The layer provides the caller.
fn service() -> Router {
    let hello =
        |Extension(caller): Extension<Caller>| async move { format!("hello {}", caller.name) };
    Router::new().route("/hello", get(hello))
}

/// A test needs a fixture, a key, and the service wrapped in the fixture's layer.
#[cfg_attr(test, tokio::test)]
async fn rate_limit_applies_per_key() -> Result<(), Box<dyn Error>> {
    let test = Fixture::new();
    let key = test
        .issue(NewKey::new("Zapier").limit(RateLimit::per_minute(1)))
        .await;
    let app = service().layer(test.layer());

    assert_eq!(send(&app, &key).await?, StatusCode::OK);
    assert_eq!(send(&app, &key).await?, StatusCode::TOO_MANY_REQUESTS);
    test.advance(Duration::from_secs(60));
    assert_eq!(send(&app, &key).await?, StatusCode::OK);

    let events = test.events().await;
    assert!(events.iter().all(|event| event.key == Some(key.id)));
    assert_eq!(events[0].outcome, Outcome::Completed);
    assert_eq!(events[1].outcome, Outcome::RateLimited);
    assert_eq!(events[2].outcome, Outcome::Completed);
    Ok(())
}

#[cfg_attr(test, tokio::test)]
async fn revoked_key_is_rejected_immediately() -> Result<(), Box<dyn Error>> {
    let test = Fixture::new();
    let key = test.issue(NewKey::new("Leaked")).await;
    let app = service().layer(test.layer());

    assert_eq!(send(&app, &key).await?, StatusCode::OK);
    test.backend().revoke(key.id, Actor::SYSTEM).await?;
    assert_eq!(send(&app, &key).await?, StatusCode::UNAUTHORIZED);
    assert_eq!(
        test.events().await[1].rejection_reason,
        Some(RejectionReason::Revoked)
    );
    Ok(())
}

#[cfg_attr(test, tokio::test)]
async fn store_outage_fails_closed() -> Result<(), Box<dyn Error>> {
    let test = Fixture::new();
    let key = test.issue(NewKey::new("New here")).await;
    let app = service().layer(test.layer());

    test.store().fail();
    assert_eq!(send(&app, &key).await?, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        test.stats()
            .await
            .rejected_for(RejectionReason::StoreUnavailable),
        1
    );
    test.store().recover();
    assert_eq!(send(&app, &key).await?, StatusCode::OK);
    Ok(())
}

async fn send(app: &Router, key: &TestKey) -> Result<StatusCode, Box<dyn Error>> {
    let request = Request::get("/hello").header(AUTHORIZATION, key.bearer());
    let response = app.clone().oneshot(request.body(Body::empty())?).await?;
    let status = response.status();
    // If the body is not read to its end, the request is recorded as cancelled.
    axum::body::to_bytes(response.into_body(), 1_024).await?;
    Ok(status)
}

#[cfg(not(test))]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    rate_limit_applies_per_key().await?;
    revoked_key_is_rejected_immediately().await?;
    store_outage_fails_closed().await?;
    println!("all tests passed");
    Ok(())
}
