//! Refusals: of strangers, which are counted, and of keys, which are events.

use std::borrow::Borrow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::answer::{HeaderStyle, LimitHeaders};
use super::gate::Gate;
use super::grpc;
use super::meter::Call;
use super::reject::Rejection;
use super::report;
use super::step::{Begun, Verdict};
use super::strangers::{Charge, LookupBudget};
use super::visit::Visit;
use crate::key::CachedKey;
use crate::limit::{Decision, whole_secs};
use crate::usage::{Outcome, Recorder, Refusal, Status};

impl Gate {
    /// Charges a look-up to the client's address, where that is known and has a budget.
    ///
    /// # Errors
    ///
    /// When it is used up: how long to wait.
    #[inline(never)]
    pub(super) fn charge(&self, visit: &Visit<'_>) -> Result<Option<Charge>, Duration> {
        self.payer(visit)
            .map(|(budget, address)| budget.charge(address, visit.began))
            .transpose()
    }

    /// The budget of look-ups, and who pays, where there is one and its address is known.
    fn payer(&self, visit: &Visit<'_>) -> Option<(&LookupBudget, IpAddr)> {
        let budget = self.lookup_budget.as_deref()?;
        Some((budget, self.client_address.of(visit.head)?))
    }

    pub(super) fn give_back(&self, charge: Option<Charge>) {
        if let Some((budget, charge)) = self.lookup_budget.as_ref().zip(charge) {
            budget.give_back(charge);
        }
    }

    /// Refuses what is not the secret of a key. An address without a budget gets one answer, whether
    /// the store would have to be asked or not: it does not learn what is cached.
    #[inline(never)]
    pub(super) fn refuse_guess(&self, reason: Refusal, visit: &Visit<'_>) -> Verdict {
        let payer = self.payer(visit);
        match payer.map(|(budget, address)| budget.look(address, visit.began)) {
            Some(Err(wait)) => self.refuse_without_budget(wait, visit),
            Some(Ok(())) | None => self.refuse_stranger(reason, visit),
        }
    }

    #[inline(never)]
    pub(super) fn refuse_without_budget(&self, wait: Duration, visit: &Visit<'_>) -> Verdict {
        self.refuse_for_now(Refusal::LookupBudget, Some(whole_secs(wait)), visit)
    }

    /// Refuses a request that no key answers for: a counter and no event.
    #[inline(never)]
    pub(super) fn refuse_stranger(&self, reason: Refusal, visit: &Visit<'_>) -> Verdict {
        let unavailable = matches!(reason, Refusal::StoreUnavailable | Refusal::RecorderFull);
        self.refuse_for_now(reason, unavailable.then_some(1), visit)
    }

    fn refuse_for_now(
        &self,
        reason: Refusal,
        retry_after_secs: Option<u64>,
        visit: &Visit<'_>,
    ) -> Verdict {
        self.recorder.count_refusal(reason);
        report::refusal(reason, None);
        let rejection = Rejection {
            retry_after_secs,
            ..Rejection::new(reason)
        };
        let mut response = self.rejections.answer(rejection, visit.head);
        let mut additions = visit.additions(HeaderStyle::None, None);
        additions.apply(response.headers_mut());
        Verdict::Refused(response)
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
    ) -> Verdict {
        let id = entry.key.id;
        report::refusal(rejection.reason, Some(id));
        rejection.key = Some(id);
        let (mut draft, _) = visit.draft(self, Some(entry));
        draft.refusal = Some(rejection.reason);
        (draft.outcome, draft.cause) = Outcome::of_refusal(rejection.reason);
        let mut response = self.rejections.answer(rejection, visit.head);
        draft.status = match visit.call {
            Call::Http => None,
            Call::Grpc | Call::GrpcWeb => grpc::status(response.headers()).map(Status::Grpc),
        }
        .unwrap_or(Status::Http(response.status().as_u16()));
        draft.response_bytes = response.body().len() as u64;
        draft.latency_us = self.clock.now().micros_since(visit.began);
        let mut additions = visit.additions(self.header_style, limited);
        additions.apply(response.headers_mut());
        if !begun.is_nothing() {
            self.supersede_anonymous(visit);
            begun.used();
            self.recorder.record(draft);
        }
        Verdict::Refused(response)
    }
}
