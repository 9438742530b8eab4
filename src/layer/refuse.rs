//! Refusals: of strangers, which are counted, and of keys, which are events; of rejected keys within a limit.

use std::borrow::Borrow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};

use super::answer::{HeaderStyle, LimitHeaders};
use super::client_limit::ClientLimit;
use super::gate::Gate;
use super::grpc::Protocol;
use super::reject::Rejection;
use super::report;
use super::step::{Begun, Verdict};
use super::visit::Visit;
use crate::key::CachedKey;
use crate::limit::{Charge, Decision, whole_secs};
use crate::usage::{Outcome, Recorder, RejectionReason};

impl Gate {
    /// Who pays for a look-up and of what, where there is a budget and the client's address is known.
    ///
    /// # Errors
    ///
    /// When the budget is used up: how long to wait.
    #[inline(never)]
    pub(super) fn payer(
        &self,
        visit: &Visit<'_>,
    ) -> Result<Option<(IpAddr, &Arc<ClientLimit>)>, Duration> {
        let Some(budget) = &self.lookup_budget else {
            return Ok(None);
        };
        let Some(address) = self.client_address.payer(visit.head) else {
            self.addressless.one();
            return Ok(None);
        };
        budget.peek(Some(address), visit.began)?;
        Ok(Some((address, budget)))
    }

    pub(super) fn give_back(&self, charge: Option<Charge>) {
        if let Some((budget, charge)) = self.lookup_budget.as_ref().zip(charge) {
            budget.give_back(charge, self.clock.now());
        }
    }

    /// Refuses what is not the secret of a key. An address without a budget gets one answer, whether
    /// the store would have to be asked or not: it does not learn what is cached.
    #[inline(never)]
    pub(super) fn refuse_guess(&self, reason: RejectionReason, visit: &Visit<'_>) -> Verdict {
        match self.payer(visit) {
            Ok(_) => self.refuse_stranger(reason, visit),
            Err(wait) => self.refuse_without_budget(wait, visit),
        }
    }

    /// Why a key's own secret does not let in. An address without a budget does not learn that it is
    /// one either, as far as unknown keys get the same answer.
    pub(super) fn rejection_of(&self, reason: RejectionReason, visit: &Visit<'_>) -> Rejection {
        let rejection = Rejection::new(reason);
        if rejection.status() != StatusCode::UNAUTHORIZED {
            return rejection;
        }
        self.payer(visit).map_or_else(without_budget, |_| rejection)
    }

    #[inline(never)]
    pub(super) fn refuse_without_budget(&self, wait: Duration, visit: &Visit<'_>) -> Verdict {
        self.refuse_without_event(without_budget(wait), visit)
    }

    /// Refuses an anonymous request beyond its client's limit.
    #[cold]
    pub(super) fn refuse_anonymous(&self, wait: Duration, visit: &Visit<'_>) -> Verdict {
        let rejection = Rejection {
            retry_after_secs: Some(whole_secs(wait)),
            ..Rejection::new(RejectionReason::RateLimited)
        };
        self.refuse_without_event(rejection, visit)
    }

    /// Refuses a request that no key answers for.
    pub(super) fn refuse_stranger(&self, reason: RejectionReason, visit: &Visit<'_>) -> Verdict {
        self.refuse_without_event(Rejection::new(reason), visit)
    }

    /// A refusal that is counted and leaves no event.
    #[inline(never)]
    pub(super) fn refuse_without_event(&self, rejection: Rejection, visit: &Visit<'_>) -> Verdict {
        self.recorder.count_refusal(rejection.reason);
        report::refusal(rejection.reason, rejection.key);
        let mut response = self.rejections.answer(rejection, visit.head);
        let mut additions = visit.additions(HeaderStyle::None, None);
        additions.apply(response.headers_mut());
        Verdict::Refused(response)
    }

    /// Refuses a request with a rejected key. It is recorded while its [limit](super::rejected_events) and the
    /// recorder have room; the response is the same either way.
    #[cold]
    pub(super) fn refuse_rejected(
        &self,
        entry: &Arc<CachedKey>,
        mut rejection: Rejection,
        visit: &Visit<'_>,
    ) -> Verdict {
        let id = entry.key.id;
        let begun = if self.is_told_already(visit) {
            Begun::nothing()
        } else {
            let address = self.client_address.payer(visit.head);
            // In this order: a full recorder uses up no limit.
            let begun = self.recorder.reserve_rejected();
            let begun = begun.then(|| Begun::rejected(&self.recorder));
            let begun = begun.filter(|_| self.rejected_events.admit(id, address, visit.began));
            let Some(begun) = begun else {
                rejection.key = Some(id);
                return self.refuse_without_event(rejection, visit);
            };
            begun
        };
        Verdict::Refused(self.refuse_key(entry, rejection, None, begun, visit))
    }

    /// Refuses a request of a key whose secret matched: an event under that key.
    #[inline(never)]
    pub(super) fn refuse_key<R: Borrow<Recorder>>(
        &self,
        entry: &Arc<CachedKey>,
        mut rejection: Rejection,
        limited: Option<(&LimitHeaders, &Decision)>,
        begun: Begun<R>,
        visit: &Visit<'_>,
    ) -> Response<Bytes> {
        let id = entry.key.id;
        report::refusal(rejection.reason, Some(id));
        rejection.key = Some(id);
        let (mut draft, is_open) = visit.draft(self, Some(entry));
        if is_open && let Some(method) = self.endpoints.known(draft.path()) {
            draft.endpoint = Some(method);
        }
        draft.rejection_reason = Some(rejection.reason);
        draft.is_rejected = begun.is_rejected();
        (draft.outcome, draft.cause) = Outcome::of_rejection(rejection.reason);
        let mut response = self.rejections.answer(rejection, visit.head);
        draft.status = Protocol::of_response(response.headers()).status_of(&response);
        draft.response_bytes = response.body().len() as u64;
        draft.latency_us = self.clock.now().micros_since(visit.began);
        let mut additions = visit.additions(self.header_style, limited);
        additions.apply(response.headers_mut());
        if !begun.is_nothing() {
            self.supersede_anonymous(visit);
            begun.used();
            self.recorder.record(draft);
        }
        response
    }
}

/// The client's address has used up its budget of look-ups.
fn without_budget(wait: Duration) -> Rejection {
    Rejection {
        retry_after_secs: Some(whole_secs(wait)),
        ..Rejection::new(RejectionReason::LookupBudget)
    }
}
