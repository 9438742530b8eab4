//! Shared state of the routes.

use std::sync::Arc;

use super::base_path::BasePath;
use super::guard::Guard;
use super::idempotency::IdempotentRequests;
use super::session::Signer;
use crate::key::{Issuer, KeyAdmin};
use crate::log_throttle::LogThrottle;
use crate::usage::{Recorder, UsageReader};

/// The configuration and shared state of a dashboard.
pub(super) struct Shared {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) guard: Arc<dyn Guard>,
    pub(super) issuer: Option<Issuer>,
    pub(super) recorder: Option<Recorder>,
    pub(super) signer: Signer,
    pub(super) idempotent_requests: IdempotentRequests,
    pub(super) rejected_credentials: LogThrottle,
    pub(super) public_path: Option<BasePath>,
}

pub(super) trait Backend: KeyAdmin + UsageReader {}

impl<T: KeyAdmin + UsageReader> Backend for T {}
