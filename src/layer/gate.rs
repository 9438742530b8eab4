//! The decision: who asks, whether they may, and what is noted about it.
//!
//! Everything that is known without asking a store is decided here without waiting, allocating
//! little and holding no lock. What has to be asked comes back as a [`Step::Wait`] and goes on in
//! [`Gate::resume`].

use std::borrow::Borrow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::header::ACCESS_CONTROL_REQUEST_METHOD;
use http::{Method, Request, Response};
use zeroize::Zeroizing;

use super::address::ClientAddress;
use super::answer::{Additions, HeaderStyle};
use super::caller::{Caller, Unverified};
use super::credential::{self, Places, Presented, Source};
use super::endpoint::Endpoints;
use super::head::RequestHead;
use super::meter::{Call, Meter};
use super::reject::{Rejection, Rejections};
use super::terms::Terms;
use super::visit::{Note, Visit};
use crate::clock::{Clock, Now};
use crate::id::KeyId;
use crate::key::{
    CachedKey, Digest, KeyCache, KeyStatus, Peek, Peppers, StoreError, id_of, is_importable,
};
use crate::limit::{Answer, Decision, LimitError, Limiter, RateLimit};
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
    /// Tells what this gate derived from a cached key from what another did.
    pub(crate) id: u64,
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

pub(crate) fn next_gate_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What to do with a request next.
pub(crate) enum Step {
    Call(Ticket),
    Answer(Response<Bytes>),
    Wait(Wait),
}

/// What goes along with an admitted request.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) meter: Meter,
    pub(crate) additions: Additions,
    /// What the additions are stretches of.
    pub(crate) text: Bytes,
}

impl Ticket {
    /// For a request that is only let through.
    pub(crate) fn nothing() -> Self {
        Self {
            meter: Meter::off(),
            additions: Additions::nothing(),
            text: Bytes::new(),
        }
    }
}

/// An answer that has to be waited for.
pub(crate) type Wait = Pin<Box<dyn Future<Output = Waited> + Send>>;

pub(crate) struct Waited {
    began: Now,
    what: What,
}

enum What {
    Found {
        found: Result<Option<Arc<CachedKey>>, StoreError>,
        secret: Zeroizing<Vec<u8>>,
    },
    Decided {
        entry: Arc<CachedKey>,
        decision: Result<Decision, LimitError>,
        cost: u32,
        begun: Begun<Recorder>,
    },
}

/// A request that the recorder has been told of; taken back when nothing comes of it.
struct Begun<R: Borrow<Recorder>>(Option<R>);

impl<R: Borrow<Recorder>> Begun<R> {
    /// The event takes over.
    fn used(mut self) {
        self.0 = None;
    }
}

impl<R: Borrow<Recorder>> Drop for Begun<R> {
    fn drop(&mut self) {
        if let Some(recorder) = self.0.take() {
            recorder.borrow().unbegin();
        }
    }
}

/// Marks an anonymous request with the recorder that accounts for it, for layers further in.
#[derive(Clone, Copy)]
struct RecordedBy(usize);

/// What became of a key that was found.
// Short-lived: boxing would cost every request an allocation.
#[expect(clippy::large_enum_variant)]
enum Judged {
    /// It may pass, at this price.
    Grant(Arc<CachedKey>, Decision, u32),
    Step(Step),
}

impl Gate {
    /// Decides about a request as far as is possible without waiting.
    #[inline]
    pub(crate) fn admit<B>(self: &Arc<Self>, request: &mut Request<B>) -> Step {
        let began = self.clock.now();
        let visit = Visit::new(RequestHead::of(request), began);
        if self.passes_unseen(visit.head) {
            let (additions, text) = visit.unnoted();
            let meter = Meter::off();
            return Step::Call(Ticket {
                meter,
                additions,
                text,
            });
        }
        // Where an outer layer took the key away, what it found counts here too.
        let (presented, places) = match visit.outer.and_then(Caller::secret) {
            Some(secret) => (Presented::Secret(secret.into()), Places::default()),
            None => credential::find(&self.sources, visit.head),
        };
        let secret = match presented {
            Presented::Nothing if self.anonymous => return self.pass_without_key(request, began),
            Presented::Nothing => return self.refuse_stranger(Refusal::Missing, &visit),
            Presented::Garbled => return self.refuse_stranger(Refusal::Malformed, &visit),
            Presented::Ambiguous => return self.refuse_stranger(Refusal::Ambiguous, &visit),
            Presented::Secret(secret) => secret,
        };
        let Some(id) = self.id_of(&secret) else {
            return self.refuse_stranger(Refusal::Malformed, &visit);
        };
        match self.cache.peek(id, began) {
            Peek::Known(entry) => match self.judge(entry, &secret, &visit) {
                Judged::Grant(entry, decision, cost) => {
                    self.grant(entry, &decision, cost, places, request, began)
                }
                Judged::Step(step) => step,
            },
            Peek::Unknown => self.refuse_unknown(&secret, &visit),
            Peek::Ask => {
                let secret = Zeroizing::new(secret.into_owned());
                let cache = self.cache.clone();
                Step::Wait(Box::pin(async move {
                    let found = cache.lookup(id).await;
                    let what = What::Found { found, secret };
                    Waited { began, what }
                }))
            }
        }
    }

    /// Goes on with a request for which something had to be waited for.
    pub(crate) fn resume<B>(self: &Arc<Self>, waited: Waited, request: &mut Request<B>) -> Step {
        let began = waited.began;
        let visit = Visit::new(RequestHead::of(request), began);
        let judged = match waited.what {
            What::Found { found, secret } => match found {
                Ok(Some(entry)) => self.judge(entry, &secret, &visit),
                Ok(None) => return self.refuse_unknown(&secret, &visit),
                Err(error) => return self.store_failed(&error, request, began),
            },
            What::Decided {
                entry,
                decision,
                cost,
                begun,
            } => self.decided(entry, decision, cost, begun, &visit),
        };
        match judged {
            Judged::Grant(entry, decision, cost) => {
                self.grant(entry, &decision, cost, Places::all(), request, began)
            }
            Judged::Step(step) => step,
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
    fn judge(&self, entry: Arc<CachedKey>, secret: &[u8], visit: &Visit<'_>) -> Judged {
        if !self.peppers.verify(secret, &entry.record.digest) {
            return Judged::Step(self.refuse_stranger(Refusal::WrongSecret, visit));
        }
        if !self.recorder.begin() {
            return Judged::Step(self.refuse_stranger(Refusal::RecorderFull, visit));
        }
        let begun = Begun(Some(&self.recorder));
        let refusal = match entry.key.status(visit.began.timestamp()) {
            KeyStatus::Active => None,
            KeyStatus::Disabled => Some(Refusal::Disabled),
            KeyStatus::Revoked => Some(Refusal::Revoked),
            KeyStatus::Expired => Some(Refusal::Expired),
        };
        let refusal = refusal.or_else(|| {
            let allowed = &entry.key.addresses;
            let here = || self.client_address.of(visit.head);
            let misplaced =
                !allowed.is_empty() && !here().is_some_and(|here| allowed.contains(here));
            misplaced.then_some(Refusal::Address)
        });
        if let Some(reason) = refusal {
            return self.refuse_key(entry, Rejection::new(reason), None, begun, visit);
        }
        let cost = self.cost.as_ref().map_or(1, |cost| cost(visit.head));
        let answer = match &Terms::of(self, &entry, visit.began).allowance {
            Ok(None) => Answer::Now(Decision::default()),
            Ok(Some(allowance)) => allowance.take(cost, visit.began),
            Err(error) => {
                let error = error.clone();
                return self.decided(entry, Err(error), cost, begun, visit);
            }
        };
        match answer {
            Answer::Now(decision) => self.decided(entry, Ok(decision), cost, begun, visit),
            Answer::Later(decision) => {
                begun.used();
                let begun = Begun(Some(self.recorder.clone()));
                let began = visit.began;
                Judged::Step(Step::Wait(Box::pin(async move {
                    let decision = decision.await;
                    let what = What::Decided {
                        entry,
                        decision,
                        cost,
                        begun,
                    };
                    Waited { began, what }
                })))
            }
        }
    }

    #[inline]
    fn decided<R: Borrow<Recorder>>(
        &self,
        entry: Arc<CachedKey>,
        decision: Result<Decision, LimitError>,
        cost: u32,
        begun: Begun<R>,
        visit: &Visit<'_>,
    ) -> Judged {
        match decision {
            Ok(decision) if decision.is_allowed() => {
                begun.used();
                Judged::Grant(entry, decision, cost)
            }
            Ok(decision) => {
                let terms = Terms::of(self, &entry, visit.began);
                let violated = terms.names.iter().enumerate();
                let rejection = Rejection {
                    retry_after_secs: decision.retry_after_secs(),
                    violated: violated
                        .filter(|(index, _)| decision.is_violated(*index))
                        .map(|(_, name)| name.clone())
                        .collect(),
                    ..Rejection::new(Refusal::RateLimited)
                };
                drop(terms);
                self.refuse_key(entry, rejection, Some(&decision), begun, visit)
            }
            Err(error) => {
                report_limiter_failure(&error);
                let rejection = Rejection {
                    retry_after_secs: Some(1),
                    ..Rejection::new(Refusal::LimiterUnavailable)
                };
                self.refuse_key(entry, rejection, None, begun, visit)
            }
        }
    }

    /// The request may pass: notes it, makes the caller known and takes the secret away.
    #[inline]
    fn grant<B>(
        self: &Arc<Self>,
        entry: Arc<CachedKey>,
        decision: &Decision,
        cost: u32,
        places: Places,
        request: &mut Request<B>,
        began: Now,
    ) -> Step {
        let begun = Begun(Some(&self.recorder));
        let visit = Visit::new(RequestHead::of(request), began);
        let key = entry.key.clone();
        let note = {
            let terms = Terms::of(self, &entry, began);
            visit.note(self, Some(entry.clone()), Some((&terms, decision)))
        };
        let unproven = note.unproven;
        let Note {
            mut draft,
            additions,
            ..
        } = note;
        draft.cost = cost;
        let event_id = draft.id;
        let text = draft.text.clone();
        // A request that an outer layer accounts for with the same recorder counts once.
        let meter = match visit.outer {
            Some(outer) if outer.is_recorded_by(&self.recorder) => Meter::off(),
            _ => {
                begun.used();
                visit.meter(self, draft, unproven)
            }
        };
        let inherited = visit.outer.and_then(Caller::credential);
        let taken = if self.keep_credential {
            None
        } else {
            credential::remove(&self.sources, places, request).or(inherited)
        };
        let caller = Caller::new(key, event_id, taken, self.recorder.id());
        request.extensions_mut().insert(caller);
        Step::Call(Ticket {
            meter,
            additions,
            text,
        })
    }

    /// A request without a key that may pass all the same: an event without a key.
    fn pass_without_key<B>(self: &Arc<Self>, request: &mut Request<B>, began: Now) -> Step {
        let visit = Visit::new(RequestHead::of(request), began);
        let outer = visit.head.extensions().get::<RecordedBy>();
        // A request that an outer layer accounts for with the same recorder counts once.
        if outer.is_some_and(|outer| outer.0 == self.recorder.id()) {
            let (additions, text) = visit.unnoted();
            let meter = Meter::off();
            return Step::Call(Ticket {
                meter,
                additions,
                text,
            });
        }
        if !self.recorder.begin() {
            return self.refuse_stranger(Refusal::RecorderFull, &visit);
        }
        let begun = Begun(Some(&self.recorder));
        let note = visit.note(self, None, None);
        let unproven = note.unproven;
        let Note {
            draft, additions, ..
        } = note;
        let text = draft.text.clone();
        begun.used();
        let meter = visit.meter(self, draft, unproven);
        request
            .extensions_mut()
            .insert(RecordedBy(self.recorder.id()));
        Step::Call(Ticket {
            meter,
            additions,
            text,
        })
    }

    fn store_failed<B>(
        self: &Arc<Self>,
        error: &StoreError,
        request: &mut Request<B>,
        began: Now,
    ) -> Step {
        report_store_failure(error);
        if self.store_failure == StoreFailure::Refuse {
            let visit = Visit::new(RequestHead::of(request), began);
            return self.refuse_stranger(Refusal::StoreUnavailable, &visit);
        }
        self.recorder.count_unverified();
        request.extensions_mut().insert(Unverified);
        if !self.keep_credential {
            credential::remove(&self.sources, Places::all(), request);
        }
        self.pass_without_key(request, began)
    }

    /// No key has this id: the same work as for one that does.
    fn refuse_unknown(&self, secret: &[u8], visit: &Visit<'_>) -> Step {
        let matched = self.peppers.verify(secret, &self.dummy);
        std::hint::black_box(matched);
        self.refuse_stranger(Refusal::Unknown, visit)
    }

    /// Refuses a request that no key answers for: a counter and no event.
    fn refuse_stranger(&self, reason: Refusal, visit: &Visit<'_>) -> Step {
        self.recorder.count_refusal(reason);
        report_refusal(reason, None);
        let unavailable = matches!(reason, Refusal::StoreUnavailable | Refusal::RecorderFull);
        let rejection = Rejection {
            retry_after_secs: unavailable.then_some(1),
            ..Rejection::new(reason)
        };
        let mut response = self.rejections.answer(rejection, visit.head);
        let (additions, text) = visit.unnoted();
        additions.apply(text, response.headers_mut());
        Step::Answer(response)
    }

    /// Refuses a request of a key whose secret matched: an event under that key.
    #[inline(never)]
    fn refuse_key<R: Borrow<Recorder>>(
        &self,
        entry: Arc<CachedKey>,
        rejection: Rejection,
        decision: Option<&Decision>,
        begun: Begun<R>,
        visit: &Visit<'_>,
    ) -> Judged {
        let id = entry.key.id;
        report_refusal(rejection.reason, Some(id));
        let rejection = Rejection {
            key: Some(id),
            ..rejection
        };
        let Note {
            mut draft,
            additions,
            ..
        } = {
            let terms = Terms::of(self, &entry, visit.began);
            let limited = decision.map(|decision| (&*terms, decision));
            visit.note(self, Some(entry.clone()), limited)
        };
        draft.refusal = Some(rejection.reason);
        (draft.outcome, draft.cause) = Outcome::of_refusal(rejection.reason);
        draft.status = match visit.call {
            Call::Http => Status::Http(rejection.status().as_u16()),
            Call::Grpc | Call::GrpcWeb => Status::Grpc(rejection.grpc_status()),
        };
        let mut response = self.rejections.answer(rejection, visit.head);
        draft.response_bytes = response.body().len() as u64;
        draft.latency_us = self.clock.now().micros_since(visit.began);
        additions.apply(draft.text.clone(), response.headers_mut());
        // What an outer layer's event tells already is not told twice.
        if !visit
            .outer
            .is_some_and(|outer| outer.is_recorded_by(&self.recorder))
        {
            begun.used();
            self.recorder.record(draft);
        }
        Judged::Step(Step::Answer(response))
    }
}

/// `/health` matches itself, `/public/*` all below it.
fn matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == pattern,
    }
}

#[cfg(feature = "tracing")]
fn report_refusal(reason: Refusal, key: Option<KeyId>) {
    match key {
        Some(key) => tracing::debug!(%reason, %key, "request refused"),
        None => tracing::debug!(%reason, "request refused"),
    }
}

#[cfg(feature = "tracing")]
fn report_store_failure(error: &StoreError) {
    tracing::error!(
        error = error as &dyn std::error::Error,
        "key look-up failed"
    );
}

#[cfg(feature = "tracing")]
fn report_limiter_failure(error: &LimitError) {
    tracing::error!(%error, "rate limits could not be checked");
}

#[cfg(not(feature = "tracing"))]
fn report_refusal(_: Refusal, _: Option<KeyId>) {}

#[cfg(not(feature = "tracing"))]
fn report_store_failure(_: &StoreError) {}

#[cfg(not(feature = "tracing"))]
fn report_limiter_failure(_: &LimitError) {}

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
