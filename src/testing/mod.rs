//! Helpers for testing a protected service without a network and without waiting.
//!
//! A [`Fixture`] has an in-memory backend, a clock that moves only when advanced, and a layer wired to both:
//!
//! ```
//! use std::time::Duration;
//!
//! use http::header::AUTHORIZATION;
//! use http::{Request, Response};
//! use keytally::key::NewKey;
//! use keytally::limit::RateLimit;
//! use keytally::testing::Fixture;
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let test = Fixture::new();
//! let key = test.issue(NewKey::new("t").limit(RateLimit::per_minute(1))).await;
//! let app = test.layer().layer(service_fn(|_: Request<String>| async {
//!     Ok::<_, std::convert::Infallible>(Response::new("hello".to_owned()))
//! }));
//! let request = || Request::get("/").header(AUTHORIZATION, key.bearer()).body(String::new());
//!
//! assert_eq!(app.clone().oneshot(request()?).await?.status(), 200);
//! assert_eq!(app.clone().oneshot(request()?).await?.status(), 429);
//! test.advance(Duration::from_secs(60));
//! assert_eq!(app.clone().oneshot(request()?).await?.status(), 200);
//! assert_eq!(test.events().await.len(), 3);
//! # Ok(()) }
//! ```

mod failing;
mod fixture;
mod tape;

pub use crate::clock::Clock;
pub use failing::FailingStore;
pub use fixture::{Fixture, TestKey};
