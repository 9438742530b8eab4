//! The middleware: from a request to its usage event.

mod admission;
mod admit;
mod async_limit;
mod authorize;
mod body;
mod caller;
mod candidate;
mod client_ip;
mod client_limit;
mod config;
mod cost;
mod credential;
mod endpoint;
mod exempt;
#[cfg(feature = "axum")]
mod extract;
mod future;
mod grpc;
#[expect(clippy::module_inception, reason = "the layer's own file")]
mod layer;
mod limit_statuses;
#[cfg(feature = "password-hashes")]
mod password_hashes;
mod path_rules;
mod recheck;
mod recorder_permit;
mod reject;
mod rejected_events;
mod rejection;
mod request_context;
mod request_parts;
mod require_scope;
mod response_headers;
mod retry;
mod revocation;
mod route_cost;
mod service;
mod store_lookup;
mod tracker;

pub use body::{BodyError, KeyRejected, ResponseBody};
pub use caller::{Caller, Unverified};
pub use client_ip::{ForwardedHeader, PeerAddress};
pub use config::StoreFailure;
pub use cost::Cost;
pub use credential::CredentialSource;
#[cfg(feature = "axum")]
pub use extract::NoCaller;
pub use future::ResponseFuture;
pub use layer::ApiKeyLayer;
#[cfg(feature = "password-hashes")]
pub use password_hashes::PasswordHashes;
pub use rejection::Rejection;
pub use request_parts::RequestParts;
pub use require_scope::{RequireScope, RequireScopeService};
pub use response_headers::{HeaderStyle, RESPONSE_HEADERS};
pub use route_cost::{RouteCost, RouteCostService};
pub use service::ApiKeyService;

#[cfg(all(test, feature = "tracing"))]
mod tests;
