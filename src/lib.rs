//! API keys, rate limits and usage accounting for any tower service, in one layer.
//!
//! [`ApiKeyLayer`] goes in front of an axum router, a tonic server or a bare hyper service. It checks
//! every request against hashed keys, limits it by its key's own limits, tells the client where it
//! stands in the standard headers, and accounts for it exactly once.
//!
//! # Quick start
//!
//! Issue a key, protect a service, ask it, and read what was used:
//!
//! ```
//! use std::convert::Infallible;
//!
//! use http::{Request, Response};
//! use http_body_util::BodyExt;
//! use keytally::backend::MemoryBackend;
//! use keytally::key::{Issuer, NewKey};
//! use keytally::limit::RateLimit;
//! use keytally::usage::{Recorder, SummaryQuery, UsageReader};
//! use keytally::{ApiKeyLayer, Caller};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let backend = MemoryBackend::new();
//! let new = NewKey::new("Zapier integration").limit(RateLimit::per_minute(600).with_burst(100));
//! let issued = Issuer::new("acme_live")?.issue(&backend, new).await?;
//!
//! let recorder = Recorder::new(backend.clone());
//! let service = ServiceBuilder::new()
//!     .layer(ApiKeyLayer::new(backend.clone()).recorder(recorder.clone()))
//!     .service(service_fn(|request: Request<String>| async move {
//!         let name = request.extensions().get::<Caller>().map(|caller| caller.name.clone());
//!         Ok::<_, Infallible>(Response::new(name.unwrap_or_default()))
//!     }));
//!
//! let bearer = format!("Bearer {}", issued.secret.expose());
//! let request = Request::get("/").header("authorization", bearer).body(String::new())?;
//! let response = service.clone().oneshot(request).await?;
//! assert_eq!(response.into_body().collect().await?.to_bytes(), "Zapier integration");
//! assert_eq!(service.oneshot(Request::new(String::new())).await?.status(), 401);
//!
//! recorder.flush().await;
//! let summary = backend.summary(&SummaryQuery::default()).await?;
//! assert_eq!(summary.totals.completed(), 1);
//! # Ok(()) }
//! ```
//!
//! With axum it is one line: `Router::new().route(..).layer(ApiKeyLayer::new(store))`. The README has
//! whole programs for axum, tonic and hyper, and notes on security.
//!
//! # Where things are
//!
//! | | |
//! |---|---|
//! | [`ApiKeyLayer`] | the layer and its configuration: what happens to a request, step by step |
//! | [`Caller`], [`RequireScope`], [`Rejection`] | what handlers and outer layers see of it |
//! | [`key`] | what a key is: [`Issuer`](key::Issuer), [`Secret`](key::Secret), [`Key`](key::Key), and where it is kept: [`KeyStore`](key::KeyStore), [`KeyAdmin`](key::KeyAdmin), [`CachedStore`](key::CachedStore); and who did what to it: [`AuditEntry`](key::AuditEntry) |
//! | [`limit`] | how fast it may be used: [`RateLimit`](limit::RateLimit), [`Limiter`](limit::Limiter) |
//! | [`usage`] | what was used: [`UsageEvent`](usage::UsageEvent), [`Recorder`](usage::Recorder), [`UsageSink`](usage::UsageSink), [`UsageReader`](usage::UsageReader), [`summary`](usage::summary), [`Export`](usage::Export), [`Spool`](usage::Spool) |
//! | [`backend`] | where keys and usage are kept: [`MemoryBackend`](backend::MemoryBackend), `SqliteBackend`, `PostgresBackend`, and what their tables hold (`backend::schema`) |
//! | `dashboard` | the pages and their JSON API: `Dashboard`, and the `Guard` that decides who may see them |
//! | `conformance` | public test suites for anyone's own store or backend |
//! | `testing` | helpers for people who test their own services |
//!
//! # Features
//!
//! None is on by default, and a feature only adds items.
//!
//! | feature | adds |
//! |---|---|
//! | `axum` | [`Caller`] as an extractor, endpoints from `MatchedPath`, client addresses from `ConnectInfo` |
//! | `tracing` | refusals, store failures and lost events as `tracing` events |
//! | `sqlite` | `SqliteBackend`: keys, request log and sums in a SQLite database, whose library is built in; `SqliteSpool` |
//! | `sqlite-unbundled` | the same with the machine's own SQLite library; building needs its headers and libclang |
//! | `postgres` | `PostgresBackend`: keys, request log and sums in a PostgreSQL database |
//! | `recoverable` | `key::Vault`: secrets that can be read again, encrypted under a key of the application's |
//! | `dashboard` | pages and a JSON API by which keys are watched, generated, rotated and deleted, behind a guard |
//! | `conformance` | public test suites for stores and backends of your own |
//! | `testing` | a clock to turn, ready keys and a recorder to ask, for tests of protected services |
//! | `full` | all of these but `sqlite-unbundled` |

#![cfg_attr(docsrs, feature(doc_cfg))]
// What only `tracing` events read.
#![cfg_attr(not(feature = "tracing"), allow(unused_variables))]

pub mod backend;
mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "dashboard")]
pub mod dashboard;
mod drain;
mod id;
pub mod key;
mod layer;
pub mod limit;
mod log_throttle;
mod page;
#[cfg(feature = "dashboard")]
mod self_service;
mod sync;
mod telemetry;
#[cfg(all(test, feature = "tracing"))]
mod test_tracing;
#[cfg(feature = "testing")]
pub mod testing;
pub mod usage;
#[cfg(feature = "dashboard")]
mod web;

pub use async_trait::async_trait;
pub use clock::{Clock, Now};
pub use id::{InvalidKeyId, KeyId};
#[cfg(feature = "axum")]
pub use layer::NoCaller;
pub use layer::{
    ApiKeyLayer, ApiKeyService, BodyError, Caller, ForwardedHeader, HeaderStyle, InvalidRealm,
    KeyRejected, PeerIp, RESPONSE_HEADERS, Rejection, RequestParts, RequireScope,
    RequireScopeService, ResponseBody, ResponseFuture, StoreFailure, Unverified,
};
pub use page::{InvalidPageToken, Page, PageToken};
#[cfg(feature = "dashboard")]
pub use self_service::SelfServiceApi;

/// Compiles what the README shows.
#[cfg(all(
    doctest,
    feature = "axum",
    feature = "sqlite",
    feature = "postgres",
    feature = "dashboard",
    feature = "testing",
    feature = "conformance"
))]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
