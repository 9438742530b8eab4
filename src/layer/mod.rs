//! The request path: from a request to its event.

mod address;
mod answer;
mod body;
mod caller;
mod client_limit;
mod credential;
mod endpoint;
mod exempt;
#[cfg(feature = "axum")]
mod extract;
mod future;
mod gate;
mod grpc;
mod head;
mod judge;
mod later;
#[expect(clippy::module_inception, reason = "the layer's own file")]
mod layer;
mod meter;
mod recheck;
mod refuse;
mod reject;
mod rejected_events;
mod report;
mod retry;
mod revocation;
mod scope;
mod service;
mod step;
mod terms;
mod visit;

pub use address::{ForwardedHeader, PeerAddress};
pub use answer::{HeaderStyle, RESPONSE_HEADERS};
pub use body::{BodyError, KeyRejected, ResponseBody};
pub use caller::{Caller, Unverified};
#[cfg(feature = "axum")]
pub use extract::NoCaller;
pub use future::ResponseFuture;
pub use gate::StoreFailure;
pub use head::RequestHead;
pub use layer::ApiKeyLayer;
pub use reject::{InvalidRealm, Rejection};
pub use scope::{RequireScope, RequireScopeService};
pub use service::ApiKeyService;
