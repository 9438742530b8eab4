//! Refusals: of strangers, which are counted, and of keys, which are events.

use std::borrow::Borrow;
use std::sync::Arc;

use super::answer::{HeaderStyle, LimitHeaders};
use super::gate::Gate;
use super::grpc;
use super::meter::Call;
use super::reject::Rejection;
use super::report;
use super::step::{Begun, Verdict};
use super::visit::Visit;
use crate::key::CachedKey;
use crate::limit::Decision;
use crate::usage::{Outcome, Recorder, Refusal, Status};

impl Gate {
    /// No key has this id: the same work as for one that does.
    #[inline(never)]
    pub(super) fn refuse_unknown(&self, secret: &[u8], visit: &Visit<'_>) -> Verdict {
        let matched = self.peppers.verify(secret, &self.dummy);
        std::hint::black_box(matched);
        self.refuse_stranger(Refusal::Unknown, visit)
    }

    /// Refuses a request that no key answers for: a counter and no event.
    #[inline(never)]
    pub(super) fn refuse_stranger(&self, reason: Refusal, visit: &Visit<'_>) -> Verdict {
        self.recorder.count_refusal(reason);
        report::refusal(reason, None);
        let unavailable = matches!(reason, Refusal::StoreUnavailable | Refusal::RecorderFull);
        let rejection = Rejection {
            retry_after_secs: unavailable.then_some(1),
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
