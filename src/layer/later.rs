//! Limiters that have to be waited for, and those that fail.

use std::borrow::Borrow;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;

use super::gate::Gate;
use super::meter::Meter;
use super::reject::Rejection;
use super::report;
use super::step::{Begun, Verdict, Waited, What};
use super::terms::Terms;
use super::visit::Visit;
use crate::key::CachedKey;
use crate::limit::{Decision, LimitError, PendingDecision};
use crate::usage::{Recorder, RejectionReason};

impl Gate {
    /// The limiter has to be waited for: should nobody do so any more, the request is accounted for
    /// as cancelled.
    #[cold]
    pub(super) fn wait<R: Borrow<Recorder>>(
        self: &Arc<Self>,
        entry: Arc<CachedKey>,
        decision: PendingDecision,
        cost: u32,
        begun: Begun<R>,
        visit: &Visit<'_>,
    ) -> Verdict {
        let mut meter = if begun.is_nothing() {
            Meter::off()
        } else {
            self.follow(visit, &entry, 0, None, begun)
        };
        meter.pending();
        let (began, gate) = (visit.began, self.clone());
        Verdict::Pending(Box::pin(async move {
            let decision = gate.in_time(decision).await;
            let what = What::Decided {
                entry,
                decision,
                cost,
                meter,
            };
            Waited { began, what }
        }))
    }

    /// A limiter's decision, unless it comes too late.
    pub(super) async fn in_time(&self, decision: PendingDecision) -> Result<Decision, LimitError> {
        tokio::time::timeout(self.limiter_timeout, decision)
            .await
            .unwrap_or(Err(LimitError::Timeout))
    }

    /// The limiter has answered at last, or not at all.
    #[cold]
    pub(super) fn decided<R: Borrow<Recorder>>(
        self: &Arc<Self>,
        entry: Arc<CachedKey>,
        decision: Result<Decision, LimitError>,
        cost: u32,
        begun: Begun<R>,
        visit: &Visit<'_>,
    ) -> Verdict {
        let terms = Terms::of(self, &entry, visit.began);
        let ticket = match decision.and_then(|decision| Ok((decision, terms?))) {
            Ok((decision, terms)) => {
                self.within_limits(&entry, terms, &decision, cost, begun, visit)
            }
            Err(error) => Err(self.limiter_failed(&error, &entry, begun, visit)),
        };
        ticket.map_or_else(Verdict::Refused, |ticket| Verdict::Known(ticket, entry))
    }

    #[cold]
    pub(super) fn limiter_failed<R: Borrow<Recorder>>(
        &self,
        error: &LimitError,
        entry: &Arc<CachedKey>,
        begun: Begun<R>,
        visit: &Visit<'_>,
    ) -> Response<Bytes> {
        report::limiter_failure(error);
        let rejection = Rejection::new(RejectionReason::LimiterUnavailable);
        self.refuse_key(entry, rejection, None, begun, visit)
    }
}
