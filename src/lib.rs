//! API keys, rate limits and usage accounting for [tower](https://docs.rs/tower) services.
//!
//! [`ApiKeyLayer`] wraps an axum router, a tonic server or a bare hyper service. It authenticates every request by
//! an API key, of which only a digest is stored, applies per-key rate limits and reports them in standard headers,
//! and accounts for each request exactly once.
//!
//! # Example
//!
//! Issue a key, protect a service, call it, and read its usage:
//!
//! ```
//! use std::convert::Infallible;
//!
//! use http::{Request, Response};
//! use http_body_util::BodyExt;
//! use keytally::backend::MemoryBackend;
//! use keytally::key::{Actor, Issuer, NewKey};
//! use keytally::limit::RateLimit;
//! use keytally::usage::{Recorder, SummaryQuery, UsageReader};
//! use keytally::{ApiKeyLayer, Caller};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let backend = MemoryBackend::new();
//! let new = NewKey::new("Zapier integration").limit(RateLimit::per_minute(600).with_burst(100));
//! let issued = Issuer::new("acme_live")?.issue(&backend, new, Actor::SYSTEM).await?;
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
//! With axum, add the layer to a router: `Router::new().route(..).layer(ApiKeyLayer::new(store))`. The [`guide`] has
//! complete programs for [axum, tonic and hyper](guide::request_lifecycle), and chapters on
//! [rate limits](guide::rate_limits), [backends](guide::backends), [security](guide::security) and
//! [operations](guide::operations).
//!
//! # Modules
//!
//! | module | contents |
//! |---|---|
//! | crate root | The middleware: [`ApiKeyLayer`] with its [request lifecycle](ApiKeyLayer#request-lifecycle) and [layer order](ApiKeyLayer#layer-order); [`RequireScope`] and [`RouteCost`] for routes; [`Caller`] for handlers; [`Rejection`] for outer layers |
//! | [`guide`] | The user guide |
//! | [`key`] | Keys: [`Key`](key::Key), [`Secret`](key::Secret), [`Issuer`](key::Issuer); stores: [`KeyStore`](key::KeyStore), [`KeyAdmin`](key::KeyAdmin), [`CachedStore`](key::CachedStore); owners and plans: [`OwnerAdmin`](key::OwnerAdmin); the audit log: [`AuditEntry`](key::AuditEntry) |
//! | [`limit`] | Rate limits: [`RateLimit`](limit::RateLimit), [`Limiter`](limit::Limiter) |
//! | [`usage`] | Usage accounting: [`UsageEvent`](usage::UsageEvent), [`Recorder`](usage::Recorder), [`UsageSink`](usage::UsageSink), [`UsageReader`](usage::UsageReader), [`summary`](usage::summary), [`Export`](usage::Export), [`Spool`](usage::Spool) |
//! | [`backend`] | Storage for keys and usage: [`MemoryBackend`](backend::MemoryBackend), `SqliteBackend`, `PostgresBackend`; their tables: `backend::schema` |
//! | `dashboard` | The web dashboard and its JSON API: `Dashboard`, and `Guard`, which authenticates its users. `SelfServiceApi` in the crate root is a JSON API for callers to inspect their own key |
//! | `conformance` | Test suites for custom stores, backends and limiters |
//! | `testing` | Test helpers for services that use the layer |
//!
//! # Features
//!
//! No feature is enabled by default. All features are additive.
//!
//! | feature | adds |
//! |---|---|
//! | `axum` | [`Caller`] as an extractor, endpoints from `MatchedPath`, client IPs from `ConnectInfo` |
//! | `tracing` | `tracing` events for rejections, failed sign-ins, store failures and lost usage events |
//! | `sqlite` | `SqliteBackend`, which stores keys, the request log and rollups in SQLite, and `SqliteSpool`. SQLite is compiled from source |
//! | `sqlite-unbundled` | The same with the system's SQLite library. Building needs its headers and libclang |
//! | `postgres` | `PostgresBackend`, which stores keys, the request log and rollups in PostgreSQL |
//! | `redis` | `limit::RedisLimiter`: rate limits that hold across processes, in Redis or Valkey |
//! | `password-hashes` | `PasswordHashes`: import of keys with bcrypt or Argon2 hashes, which are replaced on first use |
//! | `recoverable` | `key::Vault`, which encrypts secrets under the application's encryption key so that they can be revealed again |
//! | `dashboard` | Pages and a JSON API to create, monitor, rotate and delete keys, behind a `Guard` |
//! | `conformance` | Test suites for custom stores, backends and limiters |
//! | `testing` | A manual clock, ready-made keys and a recorder to inspect, for tests of services that use the layer |
//! | `full` | All of the above except `sqlite-unbundled` |
//!
//! # Dependencies in the public API
//!
//! The API uses types of [`jiff`] and [`http`], which are re-exported as `keytally::jiff` and `keytally::http`.
//! With the SQL features, `from_pool` of the SQL backends takes a connection pool of sqlx 0.9.
//!
//! # Minimum supported Rust version
//!
//! Rust 1.89. The features `sqlite`, `sqlite-unbundled` and `postgres` need Rust 1.94, because sqlx does.

#![cfg_attr(docsrs, feature(doc_cfg))]
// Variables that only `tracing` events use.
#![cfg_attr(not(feature = "tracing"), allow(unused_variables))]

pub mod backend;
mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "dashboard")]
pub mod dashboard;
mod drain;
pub mod guide;
mod id;
mod invalid_config;
#[cfg(any(feature = "_sql", feature = "dashboard"))]
mod join;
pub mod key;
mod layer;
pub mod limit;
mod log_throttle;
mod page;
mod parse_error;
#[cfg(feature = "dashboard")]
mod self_service;
mod sync;
mod telemetry;
#[cfg(all(test, feature = "tracing"))]
mod test_tracing;
#[cfg(feature = "testing")]
pub mod testing;
mod text;
pub mod usage;
#[cfg(feature = "dashboard")]
mod web;

pub use async_trait::async_trait;
pub use clock::{Clock, Now};
pub use id::KeyId;
pub use invalid_config::InvalidConfig;
#[cfg(feature = "axum")]
pub use layer::NoCaller;
#[cfg(feature = "password-hashes")]
pub use layer::PasswordHashes;
pub use layer::{
    ApiKeyLayer, ApiKeyService, BodyError, Caller, Cost, CredentialSource, ForwardedHeader,
    HeaderStyle, KeyRejected, PeerAddress, RESPONSE_HEADERS, Rejection, RequestParts, RequireScope,
    RequireScopeService, ResponseBody, ResponseFuture, RouteCost, RouteCostService, StoreFailure,
    Unverified,
};
pub use page::{InvalidPageToken, Page, PageRequest, PageToken};
pub use parse_error::ParseError;
#[cfg(feature = "dashboard")]
pub use self_service::SelfServiceApi;
pub use {http, jiff};

/// Compiles the examples of the README.
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
