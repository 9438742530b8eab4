//! Pending and failing limiters.

use std::borrow::Borrow;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;

use super::admission::{Admission, Resumed};
use super::config::Config;
use super::recorder_permit::RecorderPermit;
use super::rejection::Rejection;
use super::request_context::RequestContext;
use super::tracker::RequestTracker;
use crate::key::CachedKey;
use crate::limit::{Decision, LimitError, PendingDecision};
use crate::telemetry;
use crate::usage::{Recorder, RejectionReason};

impl Config {
    /// Waits for the limiter. If the future is dropped meanwhile, the request is recorded as cancelled.
    #[cold]
    pub(super) fn wait_for_limiter<R: Borrow<Recorder>>(
        self: &Arc<Self>,
        entry: Arc<CachedKey>,
        decision: PendingDecision,
        cost: u32,
        permit: RecorderPermit<R>,
        context: &RequestContext<'_>,
    ) -> Admission {
        let mut tracker = if permit.is_none() {
            RequestTracker::disabled()
        } else {
            self.track(context, &entry, 0, &Decision::default(), permit)
        };
        tracker.pending();
        let config = self.clone();
        Admission::Pending(Box::pin(async move {
            let decision = config.with_timeout(decision).await;
            Resumed::Decided {
                entry,
                decision,
                cost,
                tracker,
            }
        }))
    }

    /// Applies the limiter timeout to a pending decision.
    pub(super) async fn with_timeout(
        &self,
        decision: PendingDecision,
    ) -> Result<Decision, LimitError> {
        tokio::time::timeout(self.limit_settings.timeout, decision)
            .await
            .unwrap_or(Err(LimitError::Timeout))
    }

    /// Continues after the limiter has decided, failed or timed out.
    #[cold]
    pub(super) fn limiter_decided<R: Borrow<Recorder>>(
        self: &Arc<Self>,
        entry: Arc<CachedKey>,
        decision: Result<Decision, LimitError>,
        cost: u32,
        permit: RecorderPermit<R>,
        context: &RequestContext<'_>,
    ) -> Admission {
        let attached = self.attached(&entry, context.now);
        let admitted = match decision.and_then(|decision| Ok((decision, attached?))) {
            Ok((decision, attached)) => {
                self.apply_decision(&entry, attached, &decision, cost, permit, context)
            }
            Err(error) => Err(self.limiter_failed(&error, &entry, permit, context)),
        };
        admitted.map_or_else(Admission::Rejected, |admitted| {
            Admission::Authenticated(admitted, entry)
        })
    }

    #[cold]
    pub(super) fn limiter_failed<R: Borrow<Recorder>>(
        &self,
        error: &LimitError,
        entry: &Arc<CachedKey>,
        permit: RecorderPermit<R>,
        context: &RequestContext<'_>,
    ) -> Box<Response<Bytes>> {
        telemetry::error!(%error, "rate limit check failed");
        let rejection = Rejection::new(RejectionReason::LimiterUnavailable);
        self.reject_key(entry, rejection, None, permit, context)
    }
}
