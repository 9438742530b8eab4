//! Refusals: of strangers, which are counted, and of keys, which are events; of rejected keys within a limit.

use std::borrow::Borrow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};

use super::admission::Admission;
use super::client_limit::ClientLimit;
use super::config::Config;
use super::grpc::Protocol;
use super::recorder_permit::RecorderPermit;
use super::rejection::{Rejection, log_rejection};
use super::request_context::RequestContext;
use super::response_headers::HeaderStyle;
use crate::key::CachedKey;
use crate::limit::{Charge, Decision, LimitHeaders, whole_secs};
use crate::usage::{Outcome, Recorder, RejectionReason};

impl Config {
    /// Who pays for a look-up and of what, where there is a budget and the client's address is known.
    ///
    /// # Errors
    ///
    /// When the budget is used up: how long to wait.
    #[inline(never)]
    pub(super) fn lookup_payer(
        &self,
        context: &RequestContext<'_>,
    ) -> Result<Option<(IpAddr, &Arc<ClientLimit>)>, Duration> {
        let Some(budget) = &self.lookup_limit else {
            return Ok(None);
        };
        let Some(address) = self.client_address.rate_limit_address(context.head) else {
            self.missing_client_ip.record();
            return Ok(None);
        };
        budget.peek(Some(address), context.began)?;
        Ok(Some((address, budget)))
    }

    pub(super) fn refund(&self, charge: Option<Charge>) {
        if let Some((budget, charge)) = self.lookup_limit.as_ref().zip(charge) {
            budget.refund(charge, self.clock.now());
        }
    }

    /// Refuses what is not the secret of a key. An address without a budget gets one answer, whether
    /// the store would have to be asked or not: it does not learn what is cached.
    #[inline(never)]
    pub(super) fn reject_unverified(
        &self,
        reason: RejectionReason,
        context: &RequestContext<'_>,
    ) -> Admission {
        match self.lookup_payer(context) {
            Ok(_) => self.reject_unauthenticated(reason, context),
            Err(wait) => self.reject_lookup_limited(wait, context),
        }
    }

    /// Why a key's own secret does not let in. An address without a budget does not learn that it is
    /// one either, as far as unknown keys get the same answer.
    pub(super) fn rejection_for(
        &self,
        reason: RejectionReason,
        context: &RequestContext<'_>,
    ) -> Rejection {
        let rejection = Rejection::new(reason);
        if rejection.status() != StatusCode::UNAUTHORIZED {
            return rejection;
        }
        self.lookup_payer(context)
            .map_or_else(lookup_limited, |_| rejection)
    }

    #[inline(never)]
    pub(super) fn reject_lookup_limited(
        &self,
        wait: Duration,
        context: &RequestContext<'_>,
    ) -> Admission {
        self.reject_unrecorded(lookup_limited(wait), context)
    }

    /// Refuses an anonymous request beyond its client's limit.
    #[cold]
    pub(super) fn reject_anonymous(
        &self,
        wait: Duration,
        context: &RequestContext<'_>,
    ) -> Admission {
        let rejection = Rejection {
            retry_after_secs: Some(whole_secs(wait)),
            ..Rejection::new(RejectionReason::RateLimited)
        };
        self.reject_unrecorded(rejection, context)
    }

    /// Refuses a request that no key answers for.
    pub(super) fn reject_unauthenticated(
        &self,
        reason: RejectionReason,
        context: &RequestContext<'_>,
    ) -> Admission {
        self.reject_unrecorded(Rejection::new(reason), context)
    }

    /// A refusal that is counted and leaves no event.
    #[inline(never)]
    pub(super) fn reject_unrecorded(
        &self,
        rejection: Rejection,
        context: &RequestContext<'_>,
    ) -> Admission {
        self.recorder.count_refusal(rejection.reason);
        log_rejection(rejection.reason, rejection.key);
        let mut response = self.rejections.answer(rejection, context.head);
        let mut additions = context.response_headers(HeaderStyle::None, None);
        additions.apply(response.headers_mut());
        Admission::Rejected(response)
    }

    /// Refuses a request with a rejected key. It is recorded while its [limit](super::rejected_events) and the
    /// recorder have room; the response is the same either way.
    #[cold]
    pub(super) fn reject_unusable_key(
        &self,
        entry: &Arc<CachedKey>,
        mut rejection: Rejection,
        context: &RequestContext<'_>,
    ) -> Admission {
        let id = entry.key.id;
        let permit = if self.is_recorded_by_outer(context) {
            RecorderPermit::none()
        } else {
            let address = self.client_address.rate_limit_address(context.head);
            // In this order: a full recorder uses up no limit.
            let permit = self.recorder.reserve_rejected();
            let permit = permit.then(|| RecorderPermit::rejected(&self.recorder));
            let permit = permit.filter(|_| self.rejected_events.admit(id, address, context.began));
            let Some(permit) = permit else {
                rejection.key = Some(id);
                return self.reject_unrecorded(rejection, context);
            };
            permit
        };
        Admission::Rejected(self.reject_key(entry, rejection, None, permit, context))
    }

    /// Refuses a request of a key whose secret matched: an event under that key.
    #[inline(never)]
    pub(super) fn reject_key<R: Borrow<Recorder>>(
        &self,
        entry: &Arc<CachedKey>,
        mut rejection: Rejection,
        limited: Option<(&LimitHeaders, &Decision)>,
        permit: RecorderPermit<R>,
        context: &RequestContext<'_>,
    ) -> Response<Bytes> {
        let id = entry.key.id;
        log_rejection(rejection.reason, Some(id));
        rejection.key = Some(id);
        let (mut draft, is_open) = context.pending_event(self, Some(entry));
        if is_open && let Some(method) = self.endpoints.known(draft.path()) {
            draft.endpoint = Some(method);
        }
        draft.rejection_reason = Some(rejection.reason);
        draft.is_rejected = permit.is_rejected();
        (draft.outcome, draft.cause) = Outcome::of_rejection(rejection.reason);
        let mut response = self.rejections.answer(rejection, context.head);
        draft.status = Protocol::of_response(response.headers()).status_of(&response);
        draft.response_bytes = response.body().len() as u64;
        draft.latency_us = self.clock.now().micros_since(context.began);
        let mut additions = context.response_headers(self.header_style, limited);
        additions.apply(response.headers_mut());
        if !permit.is_none() {
            self.supersede_anonymous(context);
            permit.consume();
            self.recorder.record(draft);
        }
        response
    }
}

/// The client's address has used up its budget of look-ups.
fn lookup_limited(wait: Duration) -> Rejection {
    Rejection {
        retry_after_secs: Some(whole_secs(wait)),
        ..Rejection::new(RejectionReason::LookupLimit)
    }
}
