//! The decision: who asks, whether they may, and what is noted about it.
//!
//! Everything that is known without asking a store is decided here without waiting, allocating
//! little and holding no lock. What has to be asked comes back as a [`Step::Wait`] and goes on in
//! [`Gate::resume`]. A request is first judged ([`Verdict`]) and only then changed
//! ([`Gate::carry_out`]).

use std::borrow::Borrow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http::header::ACCESS_CONTROL_REQUEST_METHOD;
use http::{Method, Request};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::address::ClientAddress;
use super::answer::{HeaderStyle, LimitHeaders};
use super::caller::{Caller, Unverified};
use super::credential::{self, Found, Places, Presented, Source};
use super::endpoint::Endpoints;
use super::grpc;
use super::head::RequestHead;
use super::meter::{Call, Meter};
use super::reject::{Rejection, Rejections};
use super::report;
use super::step::{Anonymous, Begun, Step, Ticket, Verdict, Waited, What};
use super::terms::Terms;
use super::visit::Visit;
use crate::clock::{Clock, Now};
use crate::id::KeyId;
use crate::key::{
    CachedKey, Digest, Key, KeyCache, KeyStatus, Peek, Peppers, StoreError, id_of, is_importable,
};
use crate::limit::{Answer, Decision, LaterDecision, LimitError, Limiter, RateLimit};
use crate::usage::{Outcome, Recorder, Refusal, Status};

type Cost = dyn Fn(RequestHead<'_>) -> u32 + Send + Sync;
type ResourceId = dyn Fn(RequestHead<'_>) -> Option<String> + Send + Sync;

/// What happens to requests whose key cannot be looked up because the store fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StoreFailure {
    /// They are refused with 503.
    #[default]
    Refuse,
    /// They pass without a [`Caller`], marked by [`Unverified`] in their extensions, unlimited and
    /// accounted for without a key. Only for services that had rather be open than down.
    Pass,
}

/// A configured layer's shared part.
#[derive(Clone)]
pub(crate) struct Gate {
    /// Tells what gates with these limits and this limiter derive from a cached key from what others
    /// do.
    pub(crate) limits_id: u64,
    pub(crate) cache: KeyCache,
    pub(crate) clock: Clock,
    pub(crate) peppers: Peppers,
    pub(crate) dummy: Digest,
    pub(crate) limiter: Arc<dyn Limiter>,
    pub(crate) default_limits: Vec<RateLimit>,
    pub(crate) cost: Option<Arc<Cost>>,
    pub(crate) recorder: Recorder,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) resource_id: Option<Arc<ResourceId>>,
    pub(crate) client_address: ClientAddress,
    pub(crate) sources: Vec<Source>,
    pub(crate) header_style: HeaderStyle,
    pub(crate) rejections: Rejections,
    pub(crate) exempt: Vec<Box<str>>,
    pub(crate) anonymous: bool,
    pub(crate) preflight: bool,
    pub(crate) keep_credential: bool,
    pub(crate) accept_imported: bool,
    pub(crate) store_failure: StoreFailure,
}

pub(crate) fn next_limits_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Gate {
    /// A key's own limits, or those of keys that have none.
    pub(super) fn limits_of<'a>(&'a self, key: &'a Key) -> &'a [RateLimit] {
        if key.limits.is_empty() {
            &self.default_limits
        } else {
            &key.limits
        }
    }

    /// Decides about a request as far as is possible without waiting.
    #[inline]
    pub(super) fn admit<B>(self: &Arc<Self>, request: &mut Request<B>) -> Step {
        let began = self.clock.now();
        let mut found = Found::default();
        let visit = Visit::new(RequestHead::of(request), began, &self.sources, &mut found);
        let verdict = self.decide(&visit, &mut found);
        let places = found.places;
        let id = visit.id;
        self.carry_out(verdict, places, id, request)
    }

    /// Goes on with a request for which something had to be waited for.
    pub(super) fn resume<B>(self: &Arc<Self>, waited: Waited, request: &mut Request<B>) -> Step {
        let head = RequestHead::of(request);
        let visit = Visit::new(head, waited.began, &[], &mut Found::default());
        let verdict = match waited.what {
            What::Found { found, secret } => match found {
                Ok(Some(entry)) => self.judge(entry, &secret, &visit),
                Ok(None) => self.refuse_unknown(&secret, &visit),
                Err(error) => self.store_failed(&error, &visit),
            },
            What::Decided {
                entry,
                decision,
                cost,
                meter,
            } => self.decided(entry, decision, cost, meter.withdraw(), &visit),
        };
        let id = visit.id;
        self.carry_out(verdict, Places::all(), id, request)
    }

    #[inline]
    fn decide<'a>(self: &Arc<Self>, visit: &Visit<'a>, found: &mut Found<'a>) -> Verdict {
        if self.passes_unseen(visit.head) {
            return Verdict::Through(Ticket::unfollowed(visit.additions(HeaderStyle::None, None)));
        }
        found.look_elsewhere(&self.sources, visit.head);
        if let Some(taken) = visit.outer.and_then(|outer| outer.taken.as_ref()) {
            found.add_taken(&self.sources, taken);
        }
        let secret = match std::mem::take(&mut found.presented) {
            Presented::Nothing if self.anonymous => return self.pass_without_key(visit),
            Presented::Nothing => return self.refuse_stranger(Refusal::Missing, visit),
            Presented::Garbled => return self.refuse_stranger(Refusal::Malformed, visit),
            Presented::Ambiguous => return self.refuse_stranger(Refusal::Ambiguous, visit),
            Presented::Secret(secret) => secret,
        };
        let Some(id) = self.id_of(&secret) else {
            return self.refuse_stranger(Refusal::Malformed, visit);
        };
        match self.cache.peek(id, visit.began) {
            Peek::Known(entry) => self.judge(entry, &secret, visit),
            Peek::Unknown => self.refuse_unknown(&secret, visit),
            Peek::Ask => self.ask(id, secret.into_owned(), visit.began),
        }
    }

    /// The store has to be asked.
    #[cold]
    fn ask(&self, id: KeyId, secret: Vec<u8>, began: Now) -> Verdict {
        let secret = Zeroizing::new(secret);
        let cache = self.cache.clone();
        Verdict::Pending(Box::pin(async move {
            let found = cache.lookup(id).await;
            let what = What::Found { found, secret };
            Waited { began, what }
        }))
    }

    /// Does to the request what was decided.
    #[inline]
    fn carry_out<B>(
        &self,
        verdict: Verdict,
        places: Places,
        id: Uuid,
        request: &mut Request<B>,
    ) -> Step {
        match verdict {
            Verdict::Through(ticket) => Step::Call(ticket),
            Verdict::Known(ticket, entry) => {
                let taken = if self.keep_credential {
                    None
                } else {
                    credential::remove(&self.sources, places, request)
                };
                // What an outer layer took is kept too, for layers further in.
                let outer = request.extensions().get::<Caller>();
                let told = outer.filter(|outer| outer.is_recorded_by(&self.recorder));
                let caller = Caller {
                    event_id: told.map_or(id, Caller::event_id),
                    taken: taken.or_else(|| outer?.taken.clone()),
                    entry,
                    recorder: self.recorder.id(),
                };
                request.extensions_mut().insert(caller);
                Step::Call(ticket)
            }
            Verdict::Anonymous(ticket, mark) => {
                request.extensions_mut().insert(mark);
                Step::Call(ticket)
            }
            Verdict::Unverified(ticket, mark) => {
                if !self.keep_credential {
                    credential::remove(&self.sources, places, request);
                }
                request.extensions_mut().insert(Unverified);
                if let Some(mark) = mark {
                    request.extensions_mut().insert(mark);
                }
                Step::Call(ticket)
            }
            Verdict::Refused(answer) => Step::Answer(answer),
            Verdict::Pending(wait) => Step::Wait(wait),
        }
    }

    #[inline]
    fn passes_unseen(&self, head: RequestHead<'_>) -> bool {
        let preflight = self.preflight
            && head.method() == Method::OPTIONS
            && head.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        preflight
            || self
                .exempt
                .iter()
                .any(|pattern| matches(pattern, head.uri().path()))
    }

    #[inline]
    fn id_of(&self, secret: &[u8]) -> Option<KeyId> {
        match id_of(secret) {
            Ok(id) => Some(id),
            Err(_) if self.accept_imported && is_importable(secret) => {
                Some(Digest::sha256(secret).imported_id())
            }
            Err(_) => None,
        }
    }

    /// A key was found: is the secret its own, does it work, from here, within its limits?
    #[inline]
    fn judge(self: &Arc<Self>, entry: Arc<CachedKey>, secret: &[u8], visit: &Visit<'_>) -> Verdict {
        if !self.peppers.verify(secret, &entry.digest) {
            return self.refuse_stranger(Refusal::WrongSecret, visit);
        }
        if !self.recorder.begin() {
            return self.refuse_stranger(Refusal::RecorderFull, visit);
        }
        let begun = Begun::with(&self.recorder);
        if let Some(reason) = self.unusable(&entry, visit) {
            return self.refuse_key(&entry, Rejection::new(reason), None, begun, visit);
        }
        let cost = self.cost.as_ref().map_or(1, |cost| cost(visit.head));
        let terms = Terms::of(self, &entry, visit.began);
        let answer = match &terms.allowance {
            Ok(None) => Answer::Now(Decision::default()),
            Ok(Some(allowance)) => allowance.take(cost, visit.began),
            Err(error) => return self.limiter_failed(error, &entry, begun, visit),
        };
        match answer {
            Answer::Now(decision) => {
                let limited = terms.limited(&decision);
                if !decision.is_allowed() {
                    let rejection = terms.rejection(&decision);
                    return self.refuse_key(&entry, rejection, limited, begun, visit);
                }
                let ticket = self.ticket(&entry, limited, cost, begun, visit);
                Verdict::Known(ticket, entry)
            }
            Answer::Later(decision) => self.wait(entry, decision, cost, begun, visit),
        }
    }

    /// The limiter has to be waited for: should nobody do so any more, the request is accounted for
    /// as cancelled.
    #[cold]
    fn wait<R: Borrow<Recorder>>(
        self: &Arc<Self>,
        entry: Arc<CachedKey>,
        decision: LaterDecision,
        cost: u32,
        begun: Begun<R>,
        visit: &Visit<'_>,
    ) -> Verdict {
        let meter = if self.is_told_already(visit) {
            Meter::off()
        } else {
            self.follow(visit, &entry, 0, None, begun)
        };
        let began = visit.began;
        Verdict::Pending(Box::pin(async move {
            let decision = decision.await;
            let what = What::Decided {
                entry,
                decision,
                cost,
                meter,
            };
            Waited { began, what }
        }))
    }

    /// Why a key cannot be used now or from here, whatever its limits.
    #[inline]
    fn unusable(&self, entry: &CachedKey, visit: &Visit<'_>) -> Option<Refusal> {
        match entry.key.status(visit.began.timestamp()) {
            KeyStatus::Active => {}
            KeyStatus::Disabled => return Some(Refusal::Disabled),
            KeyStatus::Revoked => return Some(Refusal::Revoked),
            KeyStatus::Expired => return Some(Refusal::Expired),
        }
        let allowed = &entry.key.addresses;
        let here = || self.client_address.of(visit.head);
        let misplaced = !allowed.is_empty() && !here().is_some_and(|here| allowed.contains(here));
        misplaced.then_some(Refusal::Address)
    }

    /// The limiter has answered at last, or not at all.
    #[cold]
    fn decided<R: Borrow<Recorder>>(
        self: &Arc<Self>,
        entry: Arc<CachedKey>,
        decision: Result<Decision, LimitError>,
        cost: u32,
        begun: Begun<R>,
        visit: &Visit<'_>,
    ) -> Verdict {
        let decision = match decision {
            Ok(decision) => decision,
            Err(error) => return self.limiter_failed(&error, &entry, begun, visit),
        };
        let terms = Terms::of(self, &entry, visit.began);
        let limited = terms.limited(&decision);
        if !decision.is_allowed() {
            let rejection = terms.rejection(&decision);
            return self.refuse_key(&entry, rejection, limited, begun, visit);
        }
        let ticket = self.ticket(&entry, limited, cost, begun, visit);
        Verdict::Known(ticket, entry)
    }

    /// For a key's request that may pass.
    #[inline]
    fn ticket<R: Borrow<Recorder>>(
        self: &Arc<Self>,
        entry: &Arc<CachedKey>,
        limited: Option<(&LimitHeaders, &Decision)>,
        cost: u32,
        begun: Begun<R>,
        visit: &Visit<'_>,
    ) -> Ticket {
        if self.is_told_already(visit) {
            Ticket::unfollowed(visit.additions(self.header_style, limited))
        } else {
            Ticket::Followed(self.follow(visit, entry, cost, limited, begun))
        }
    }

    #[cold]
    fn limiter_failed<R: Borrow<Recorder>>(
        &self,
        error: &LimitError,
        entry: &Arc<CachedKey>,
        begun: Begun<R>,
        visit: &Visit<'_>,
    ) -> Verdict {
        report::limiter_failure(error);
        let rejection = Rejection {
            retry_after_secs: Some(1),
            ..Rejection::new(Refusal::LimiterUnavailable)
        };
        self.refuse_key(entry, rejection, None, begun, visit)
    }

    /// Follows a key's request from here.
    #[inline]
    fn follow<R: Borrow<Recorder>>(
        self: &Arc<Self>,
        visit: &Visit<'_>,
        entry: &Arc<CachedKey>,
        cost: u32,
        limited: Option<(&LimitHeaders, &Decision)>,
        begun: Begun<R>,
    ) -> Meter {
        self.supersede_anonymous(visit);
        // Not used up before the hooks that are asked here have answered: one may panic.
        let meter = Meter::of(self, visit, Some(entry), cost, limited);
        begun.used();
        meter
    }

    /// A request without a key that may pass all the same: an event without a key.
    #[cold]
    fn pass_without_key(self: &Arc<Self>, visit: &Visit<'_>) -> Verdict {
        if self.is_told_already(visit) || self.anonymous_of(visit).is_some() {
            let additions = visit.additions(HeaderStyle::None, None);
            return Verdict::Through(Ticket::unfollowed(additions));
        }
        if !self.recorder.begin() {
            return self.refuse_stranger(Refusal::RecorderFull, visit);
        }
        let begun = Begun::with(&self.recorder);
        let mut meter = Meter::of(self, visit, None, 0, None);
        begun.used();
        let superseded = Arc::new(AtomicBool::new(false));
        meter.give_way_to(superseded.clone());
        let mark = Anonymous {
            recorder: self.recorder.id(),
            superseded,
        };
        Verdict::Anonymous(Ticket::Followed(meter), mark)
    }

    #[cold]
    fn store_failed(self: &Arc<Self>, error: &StoreError, visit: &Visit<'_>) -> Verdict {
        report::store_failure(error);
        if self.store_failure == StoreFailure::Refuse {
            return self.refuse_stranger(Refusal::StoreUnavailable, visit);
        }
        self.recorder.count_unverified();
        match self.pass_without_key(visit) {
            Verdict::Anonymous(ticket, mark) => Verdict::Unverified(ticket, Some(mark)),
            Verdict::Through(ticket) => Verdict::Unverified(ticket, None),
            refused => refused,
        }
    }

    /// Whether an outer layer's event of a key tells of this request in the same recorder: it is
    /// not told twice.
    #[inline]
    fn is_told_already(&self, visit: &Visit<'_>) -> bool {
        visit
            .outer
            .is_some_and(|outer| outer.is_recorded_by(&self.recorder))
    }

    /// The mark of an outer layer that let the request pass without a key, in the same recorder.
    #[inline]
    fn anonymous_of<'a>(&self, visit: &Visit<'a>) -> Option<&'a Anonymous> {
        let mark = visit.head.extensions().get::<Anonymous>()?;
        (mark.recorder == self.recorder.id()).then_some(mark)
    }

    /// The request turned out to have a key: its event takes the place of the anonymous one.
    #[inline]
    fn supersede_anonymous(&self, visit: &Visit<'_>) {
        if let Some(outer) = self.anonymous_of(visit) {
            outer.superseded.store(true, Ordering::Relaxed);
        }
    }

    /// No key has this id: the same work as for one that does.
    #[inline(never)]
    fn refuse_unknown(&self, secret: &[u8], visit: &Visit<'_>) -> Verdict {
        let matched = self.peppers.verify(secret, &self.dummy);
        std::hint::black_box(matched);
        self.refuse_stranger(Refusal::Unknown, visit)
    }

    /// Refuses a request that no key answers for: a counter and no event.
    #[inline(never)]
    fn refuse_stranger(&self, reason: Refusal, visit: &Visit<'_>) -> Verdict {
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
    fn refuse_key<R: Borrow<Recorder>>(
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
        if !self.is_told_already(visit) {
            self.supersede_anonymous(visit);
            begun.used();
            self.recorder.record(draft);
        }
        Verdict::Refused(response)
    }
}

/// `/health` matches itself, `/public/*` all below it.
fn matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix) && stays_below(path),
        None => path == pattern,
    }
}

/// Whether a path means the same to whatever is behind the layer: a proxy or a file server may
/// take `..` and its encodings for a way out of a directory.
fn stays_below(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    let steps = |segment: &str| segment == "." || segment == "..";
    let hidden = ["%2e", "%2f", "%5c", "\\"];
    !path.split('/').any(steps) && !hidden.iter().any(|hidden| path.contains(hidden))
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate")
            .field("cache", &self.cache)
            .field("sources", &self.sources)
            .field("default_limits", &self.default_limits)
            .field("header_style", &self.header_style)
            .field("rejections", &self.rejections)
            .field("exempt", &self.exempt)
            .field("anonymous", &self.anonymous)
            .field("store_failure", &self.store_failure)
            .finish_non_exhaustive()
    }
}
