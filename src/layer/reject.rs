//! Rejections: counted for unknown keys, recorded as events for known keys, within limits for rejected keys.

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
use super::response_headers::ResponseHeaders;
use super::tracker::with_event;
use crate::key::CachedKey;
use crate::limit::{Charge, Decision, LimitHeaders, whole_secs};
use crate::usage::{Outcome, Recorder, RejectionReason};

impl Config {
    /// The client IP to charge for a lookup, and its limit. `None` without a lookup limit or a known client IP.
    ///
    /// # Errors
    ///
    /// The time to wait, if the limit is exceeded.
    #[inline(never)]
    pub(super) fn lookup_client(
        &self,
        context: &RequestContext<'_>,
    ) -> Result<Option<(IpAddr, &Arc<ClientLimit>)>, Duration> {
        let Some(limit) = &self.lookup_limit else {
            return Ok(None);
        };
        let Some(address) = self.client_ip.rate_limit_address(context.parts) else {
            self.missing_client_ip.on_lookup();
            return Ok(None);
        };
        limit.peek(Some(address), context.now)?;
        Ok(Some((address, limit)))
    }

    pub(super) fn refund(&self, charge: Option<Charge>) {
        if let Some((limit, charge)) = self.lookup_limit.as_ref().zip(charge) {
            limit.refund(charge, self.clock.now());
        }
    }

    /// Rejects a credential that is not the secret of a key. A client IP above the lookup limit always gets 429,
    /// so that it does not learn which keys are cached.
    #[inline(never)]
    pub(super) fn reject_unverified(
        &self,
        reason: RejectionReason,
        context: &RequestContext<'_>,
    ) -> Admission {
        match self.lookup_client(context) {
            Ok(_) => self.reject_unauthenticated(reason, context),
            Err(wait) => self.reject_lookup_limited(wait, context),
        }
    }

    /// The rejection of a key whose secret matched. If unknown keys get the same response, a client IP above the
    /// lookup limit gets 429 here too, so that it does not learn that the secret is correct.
    pub(super) fn rejection_for(
        &self,
        reason: RejectionReason,
        context: &RequestContext<'_>,
    ) -> Rejection {
        let rejection = Rejection::new(reason);
        if rejection.status() != StatusCode::UNAUTHORIZED {
            return rejection;
        }
        self.lookup_client(context)
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

    /// Rejects an anonymous request above the limit of its client IP.
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

    /// Rejects a request without a verified key.
    pub(super) fn reject_unauthenticated(
        &self,
        reason: RejectionReason,
        context: &RequestContext<'_>,
    ) -> Admission {
        self.reject_unrecorded(Rejection::new(reason), context)
    }

    /// Rejects a request that is counted but not recorded as an event.
    #[inline(never)]
    pub(super) fn reject_unrecorded(
        &self,
        rejection: Rejection,
        context: &RequestContext<'_>,
    ) -> Admission {
        self.recorder
            .count_rejection(rejection.reason, context.now, || {
                let address = self.client_ip.rate_limit_address(context.parts);
                (address, context.claimed.get())
            });
        log_rejection(rejection.reason, rejection.key);
        let mut response = self.rejections.response(rejection, context.parts);
        let headers = context.request_id_header();
        headers.apply(response.headers_mut());
        Admission::Rejected(response)
    }

    /// Rejects a request with a rejected key. It is recorded while its [limit](super::rejected_events) and the
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
            let address = self.client_ip.rate_limit_address(context.parts);
            // Reserve first: a full recorder must not use up the limits.
            let permit = self.recorder.reserve_rejected();
            let permit = permit.then(|| RecorderPermit::rejected(&self.recorder));
            let permit = permit.filter(|_| self.rejected_events.admit(id, address, context.now));
            let Some(permit) = permit else {
                rejection.key = Some(id);
                return self.reject_unrecorded(rejection, context);
            };
            permit
        };
        Admission::Rejected(self.reject_key(entry, rejection, None, permit, context))
    }

    /// Rejects a request whose secret matched, recorded as an event of its key.
    #[inline(never)]
    pub(super) fn reject_key<R: Borrow<Recorder>>(
        &self,
        entry: &Arc<CachedKey>,
        mut rejection: Rejection,
        limited: Option<(&LimitHeaders, &Decision)>,
        permit: RecorderPermit<R>,
        context: &RequestContext<'_>,
    ) -> Box<Response<Bytes>> {
        let id = entry.key.id;
        log_rejection(rejection.reason, Some(id));
        rejection.key = Some(id);
        with_event(|event| {
            let is_open = context.begin_event(self, event);
            if is_open && let Some(method) = self.endpoints.known(&context.path()) {
                event.endpoint = Some(method);
            }
            let fields = &mut event.fields;
            fields.rejection_reason = Some(rejection.reason);
            fields.is_rejected = permit.is_rejected();
            (fields.outcome, fields.cause) = Outcome::of_rejection(rejection.reason);
            let mut response = self.rejections.response(rejection, context.parts);
            let protocol = Protocol::of_response(response.headers());
            fields.status = protocol.status_of(response.status(), response.headers());
            fields.response_bytes = response.body().len() as u64;
            fields.latency_us = self.clock.now().micros_since(context.began);
            let headers = ResponseHeaders {
                style: self.header_style,
                limited,
                ..context.request_id_header()
            };
            headers.apply(response.headers_mut());
            if !permit.is_none() {
                self.supersede_anonymous(context);
                permit.consume();
                event.attribution = Some(entry.clone());
                self.recorder.record(event);
            }
            response
        })
    }
}

/// The rejection of a client IP above the lookup limit.
fn lookup_limited(wait: Duration) -> Rejection {
    Rejection {
        retry_after_secs: Some(whole_secs(wait)),
        ..Rejection::new(RejectionReason::LookupLimit)
    }
}
