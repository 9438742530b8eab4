//! A protected service tested without a network and without waiting.
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
use keytally::key::{KeyAdmin, NewKey};
use keytally::limit::RateLimit;
use keytally::testing::{Fixture, TestKey};
use keytally::usage::{Outcome, RejectionReason};
use tower::ServiceExt;

/// The service: its keys come from whatever layer it is given.
fn service() -> Router {
    let hello =
        |Extension(caller): Extension<Caller>| async move { format!("hello {}", caller.name) };
    Router::new().route("/hello", get(hello))
}

/// All that a test takes: a fixture, a key, the service behind the fixture's layer.
#[cfg_attr(test, tokio::test)]
async fn a_key_has_its_own_limit() -> Result<(), Box<dyn Error>> {
    let test = Fixture::new();
    let key = test
        .issue(NewKey::new("Zapier").limit(RateLimit::per_minute(1)))
        .await;
    let app = service().layer(test.layer());

    assert_eq!(ask(&app, &key).await?, StatusCode::OK);
    assert_eq!(ask(&app, &key).await?, StatusCode::TOO_MANY_REQUESTS);
    test.advance(Duration::from_secs(60));
    assert_eq!(ask(&app, &key).await?, StatusCode::OK);

    let events = test.events().await;
    assert!(events.iter().all(|event| event.key == Some(key.id)));
    assert_eq!(events[0].outcome, Outcome::Completed);
    assert_eq!(events[1].outcome, Outcome::RateLimited);
    assert_eq!(events[2].outcome, Outcome::Completed);
    Ok(())
}

#[cfg_attr(test, tokio::test)]
async fn a_revoked_key_is_out_at_once() -> Result<(), Box<dyn Error>> {
    let test = Fixture::new();
    let key = test.issue(NewKey::new("Leaked")).await;
    let app = service().layer(test.layer());

    assert_eq!(ask(&app, &key).await?, StatusCode::OK);
    test.backend().revoke(key.id).await?;
    assert_eq!(ask(&app, &key).await?, StatusCode::UNAUTHORIZED);
    assert_eq!(
        test.events().await[1].rejection_reason,
        Some(RejectionReason::Revoked)
    );
    Ok(())
}

#[cfg_attr(test, tokio::test)]
async fn an_outage_of_the_store_is_no_open_door() -> Result<(), Box<dyn Error>> {
    let test = Fixture::new();
    let key = test.issue(NewKey::new("New here")).await;
    let app = service().layer(test.layer());

    test.store().fail();
    assert_eq!(ask(&app, &key).await?, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        test.stats()
            .await
            .refused_for(RejectionReason::StoreUnavailable),
        1
    );
    test.store().recover();
    assert_eq!(ask(&app, &key).await?, StatusCode::OK);
    Ok(())
}

async fn ask(app: &Router, key: &TestKey) -> Result<StatusCode, Box<dyn Error>> {
    let request = Request::get("/hello").header(AUTHORIZATION, key.bearer());
    let response = app.clone().oneshot(request.body(Body::empty())?).await?;
    let status = response.status();
    // A client that does not read its answer to the end counts as one that left.
    axum::body::to_bytes(response.into_body(), 1_024).await?;
    Ok(status)
}

#[cfg(not(test))]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    a_key_has_its_own_limit().await?;
    a_revoked_key_is_out_at_once().await?;
    an_outage_of_the_store_is_no_open_door().await?;
    println!("all as it should be");
    Ok(())
}
