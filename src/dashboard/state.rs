//! Shared state of the routes.

use std::sync::Arc;

use super::base_path::BasePath;
use super::guard::Guard;
use super::idempotency::{IdempotencyError, IdempotentRequests, RequestKey};
use super::session::Signer;
use crate::key::{IssueError, Issued, Issuer, KeyAdmin};
use crate::layer::ApiKeyLayer;
use crate::log_throttle::LogThrottle;
use crate::usage::{Recorder, UsageReader};

/// The configuration and shared state of a dashboard.
pub(super) struct Shared {
    pub(super) keys: Arc<dyn KeyAdmin>,
    pub(super) usage: Arc<dyn UsageReader>,
    pub(super) guard: Arc<dyn Guard>,
    pub(super) issuer: Option<Issuer>,
    pub(super) recorder: Option<Recorder>,
    pub(super) layer: Option<ApiKeyLayer>,
    pub(super) signer: Signer,
    pub(super) idempotent_requests: IdempotentRequests,
    pub(super) rejected_credentials: LogThrottle,
    pub(super) public_path: Option<BasePath>,
    /// A path or URL.
    pub(super) example_url: String,
}

impl Shared {
    /// Issues a key, or returns the response to an earlier request with the same idempotency key.
    pub(super) async fn issue_once<F>(
        &self,
        request_key: RequestKey,
        issue: impl FnOnce(Issuer) -> F,
    ) -> Result<Arc<Issued>, IdempotencyError>
    where
        F: Future<Output = Result<Issued, IssueError>> + Send + 'static,
    {
        let (issuer, store) = (self.issuer.clone(), self.keys.clone());
        let requests = &self.idempotent_requests;
        requests.once(request_key, issuer, store, issue).await
    }
}
