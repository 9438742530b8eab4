//! The decision: who asks, whether they may, and what is noted about it.
//!
//! Everything that is known without asking a store is decided here without waiting, allocating
//! little and holding no lock. What has to be asked comes back as a [`Step::Wait`] and goes on in
//! [`Gate::resume`].

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, CONTENT_LENGTH};
use http::{HeaderMap, Method, Request, Response};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::address::ClientAddress;
use super::answer::{self, Additions, HeaderStyle, LimitHeaders, Text};
use super::caller::{Caller, Unverified};
use super::credential::{self, Presented, Source};
use super::endpoint::{Endpoint, Endpoints};
use super::head::RequestHead;
use super::meter::{Call, Meter, Running, call_of};
use super::reject::{Rejection, Rejections};
use crate::clock::{Clock, Now};
use crate::id::KeyId;
use crate::key::{
    CachedKey, Digest, KeyCache, KeyStatus, Peek, Peppers, StoreError, id_of, is_importable,
};
use crate::limit::{Allowance, Answer, Decision, LimitError, Limiter, RateLimit};
use crate::usage::{
    Attribution, Draft, Method as UsageMethod, Outcome, Recorder, Refusal, Status, event_id,
};

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
        secret: Zeroizing<String>,
    },
    Decided {
        entry: Arc<CachedKey>,
        decision: Result<Decision, LimitError>,
        cost: u32,
        open: Opened,
    },
}

/// What a gate made of a cached key: kept with it until it is read again.
struct Derived {
    gate: u64,
    allowance: Result<Option<Arc<dyn Allowance>>, LimitError>,
    headers: Option<LimitHeaders>,
    names: Vec<Arc<str>>,
}

/// A request that the recorder has room for; says so when it is not used.
struct Opened(Option<Recorder>);

impl Attribution for CachedKey {
    fn key(&self) -> KeyId {
        self.key.id
    }

    fn owner(&self) -> Option<Arc<str>> {
        self.key.owner.clone()
    }
}

impl Gate {
    /// Decides about a request as far as is possible without waiting.
    #[inline]
    pub(crate) fn admit<B>(self: &Arc<Self>, request: &mut Request<B>) -> Step {
        let began = self.clock.now();
        let head = RequestHead::of(request);
        if self.passes_unseen(head) {
            return Step::Call(self.unaccounted(head, began));
        }
        let outer = head.extensions().get::<Caller>().map(Caller::credential);
        let presented = match outer {
            // An outer layer took the key away; what it found counts here too.
            Some(Some(credential)) => Presented::Secret(credential.into()),
            _ => credential::find(&self.sources, head),
        };
        let secret = match presented {
            Presented::Nothing if self.anonymous => return self.pass_without_key(request, began),
            Presented::Nothing => return self.refuse_stranger(Refusal::Missing, head, began),
            Presented::Garbled => return self.refuse_stranger(Refusal::Malformed, head, began),
            Presented::Ambiguous => return self.refuse_stranger(Refusal::Ambiguous, head, began),
            Presented::Secret(secret) => secret,
        };
        let Some(id) = self.id_of(&secret) else {
            return self.refuse_stranger(Refusal::Malformed, head, began);
        };
        match self.cache.peek(id, began) {
            Peek::Known(entry) => match self.judge(entry, &secret, head, began) {
                Judged::Grant(grant) => self.grant(grant, request, began),
                Judged::Step(step) => step,
            },
            Peek::Unknown => self.refuse_unknown(&secret, head, began),
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
        let head = RequestHead::of(request);
        let judged = match waited.what {
            What::Found {
                found: Ok(Some(entry)),
                secret,
            } => self.judge(entry, &secret, head, began),
            What::Found {
                found: Ok(None),
                secret,
            } => {
                return self.refuse_unknown(&secret, head, began);
            }
            What::Found {
                found: Err(error), ..
            } => {
                report_store_failure(&error);
                if self.store_failure == StoreFailure::Pass {
                    self.recorder.count_unverified();
                    request.extensions_mut().insert(Unverified);
                    credential::remove(&self.sources, request);
                    return self.pass_without_key(request, began);
                }
                return self.refuse_stranger(Refusal::StoreUnavailable, head, began);
            }
            What::Decided {
                entry,
                decision,
                cost,
                open,
            } => match decision {
                Ok(decision) => self.decided(entry, decision, cost, open, head, began),
                Err(error) => self.limiter_failed(entry, &error, open, head, began),
            },
        };
        match judged {
            Judged::Grant(grant) => self.grant(grant, request, began),
            Judged::Step(step) => step,
        }
    }

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
    fn id_of(&self, secret: &str) -> Option<KeyId> {
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
    fn judge(
        self: &Arc<Self>,
        entry: Arc<CachedKey>,
        secret: &str,
        head: RequestHead<'_>,
        began: Now,
    ) -> Judged {
        if !self.peppers.verify(secret, &entry.record.digest) {
            return Judged::Step(self.refuse_stranger(Refusal::WrongSecret, head, began));
        }
        if !self.recorder.begin() {
            return Judged::Step(self.refuse_stranger(Refusal::RecorderFull, head, began));
        }
        let open = Opened(Some(self.recorder.clone()));
        let refusal = match entry.key.status(began.timestamp()) {
            KeyStatus::Active => None,
            KeyStatus::Disabled => Some(Refusal::Disabled),
            KeyStatus::Revoked => Some(Refusal::Revoked),
            KeyStatus::Expired => Some(Refusal::Expired),
        };
        if let Some(reason) = refusal {
            return self.refuse_key(entry, Rejection::new(reason), None, open, head, began);
        }
        if !entry.key.addresses.is_empty() {
            let address = self.client_address.of(head);
            if !address.is_some_and(|address| entry.key.addresses.contains(address)) {
                let rejection = Rejection::new(Refusal::Address);
                return self.refuse_key(entry, rejection, None, open, head, began);
            }
        }
        let cost = self.cost.as_ref().map_or(1, |cost| cost(head));
        let answer = match &self.derived(&entry, began).allowance {
            Ok(None) => Answer::Now(Decision::default()),
            Ok(Some(allowance)) => allowance.take(cost, began),
            Err(error) => return self.limiter_failed(entry.clone(), error, open, head, began),
        };
        match answer {
            Answer::Now(decision) => self.decided(entry, decision, cost, open, head, began),
            Answer::Later(decision) => Judged::Step(Step::Wait(Box::pin(async move {
                let decision = decision.await;
                let what = What::Decided {
                    entry,
                    decision,
                    cost,
                    open,
                };
                Waited { began, what }
            }))),
        }
    }

    fn decided(
        self: &Arc<Self>,
        entry: Arc<CachedKey>,
        decision: Decision,
        cost: u32,
        open: Opened,
        head: RequestHead<'_>,
        began: Now,
    ) -> Judged {
        if decision.is_allowed() {
            return Judged::Grant(Grant {
                entry,
                decision,
                cost,
                open,
            });
        }
        let derived = self.derived(&entry, began);
        let violated = derived.names.iter().enumerate();
        let rejection = Rejection {
            retry_after_secs: decision.retry_after_secs(),
            violated: violated
                .filter(|(index, _)| decision.is_violated(*index))
                .map(|(_, name)| name.clone())
                .collect(),
            ..Rejection::new(Refusal::RateLimited)
        };
        self.refuse_key(entry, rejection, Some(&decision), open, head, began)
    }

    fn limiter_failed(
        self: &Arc<Self>,
        entry: Arc<CachedKey>,
        error: &LimitError,
        open: Opened,
        head: RequestHead<'_>,
        began: Now,
    ) -> Judged {
        report_limiter_failure(error);
        let rejection = Rejection {
            retry_after_secs: Some(1),
            ..Rejection::new(Refusal::LimiterUnavailable)
        };
        self.refuse_key(entry, rejection, None, open, head, began)
    }

    /// The request may pass: notes it, makes the caller known and takes the secret away.
    #[inline]
    fn grant<B>(self: &Arc<Self>, grant: Grant, request: &mut Request<B>, began: Now) -> Step {
        let Grant {
            entry,
            decision,
            cost,
            open,
        } = grant;
        let head = RequestHead::of(request);
        let limited = Some((&entry, &decision));
        let (mut draft, additions, unproven, call) =
            self.draft(Some(entry.clone()), limited, head, began);
        draft.cost = cost;
        let event_id = draft.id;
        let text = draft.text.clone();
        let meter = if self.is_recorded_outside(head) {
            drop(open);
            Meter::off()
        } else {
            open.used();
            Meter::of(self.running(draft, began, unproven, call))
        };
        let outer_credential = head
            .extensions()
            .get::<Caller>()
            .and_then(Caller::raw_credential);
        let taken = if self.keep_credential {
            None
        } else {
            credential::remove(&self.sources, request).or(outer_credential)
        };
        let caller = Caller::new(entry.key.clone(), event_id, taken, self.recorder.id());
        request.extensions_mut().insert(caller);
        Step::Call(Ticket {
            meter,
            additions,
            text,
        })
    }

    /// A request that an outer layer accounts for with the same recorder counts once.
    fn is_recorded_outside(&self, head: RequestHead<'_>) -> bool {
        let outer = head.extensions().get::<Caller>();
        outer.is_some_and(|outer| outer.is_recorded_by(&self.recorder))
    }

    fn running(self: &Arc<Self>, draft: Draft, began: Now, unproven: bool, call: Call) -> Running {
        Running {
            gate: self.clone(),
            draft,
            began,
            call,
            unproven,
            bodyless: false,
            expected: None,
        }
    }

    /// A request without a key that may pass all the same: an event without a key.
    fn pass_without_key<B>(self: &Arc<Self>, request: &mut Request<B>, began: Now) -> Step {
        let head = RequestHead::of(request);
        if !self.recorder.begin() {
            return self.refuse_stranger(Refusal::RecorderFull, head, began);
        }
        let (draft, additions, unproven, call) = self.draft(None, None, head, began);
        let text = draft.text.clone();
        let meter = Meter::of(self.running(draft, began, unproven, call));
        Step::Call(Ticket {
            meter,
            additions,
            text,
        })
    }

    /// A request that is none of the layer's business: it only gets its id.
    fn unaccounted(&self, head: RequestHead<'_>, began: Now) -> Ticket {
        let mut text = Text::new();
        let additions = wire_id(head, event_id(began.micros()), &mut text);
        Ticket {
            meter: Meter::off(),
            additions,
            text: text.into_bytes(),
        }
    }

    /// The event of a request and what its answer will be given.
    #[inline]
    fn draft(
        &self,
        entry: Option<Arc<CachedKey>>,
        limited: Option<(&Arc<CachedKey>, &Decision)>,
        head: RequestHead<'_>,
        began: Now,
    ) -> (Draft, Additions, bool, Call) {
        let call = call_of(head.headers(), head.method());
        let id = event_id(began.micros());
        let mut text = Text::new();
        let path = text.push(clipped(head.uri().path()).as_bytes());
        let mut request_id_len = 0;
        let mut additions = match sent_id(head) {
            Some(SentId::Header(sent)) => {
                request_id_len = text.push(sent.as_bytes()).len();
                Additions::sent(sent.clone())
            }
            Some(SentId::Outer(id)) => {
                let sent = text.push_id(id);
                request_id_len = sent.len();
                Additions::minted(sent)
            }
            None => Additions::minted(text.push_id(id)),
        };
        if let Some((entry, decision)) = limited
            && let Some(headers) = &self.derived(entry, began).headers
        {
            additions = additions.with_limits(self.header_style, headers, decision, &mut text);
        }
        let (endpoint, unproven) = match self.endpoints.of(head, call != Call::Http) {
            Endpoint::Named(name) => (Some(name), false),
            Endpoint::Unproven => (None, true),
            Endpoint::Unmatched => (None, false),
        };
        let draft = Draft {
            id,
            attribution: entry.map(|entry| entry as Arc<dyn Attribution>),
            text: text.into_bytes(),
            path_len: path.len(),
            request_id_len,
            endpoint,
            resource_id: self.resource_id(head),
            client_address: self.address_of(head),
            time: began.micros(),
            latency_us: 0,
            request_bytes: announced_length(head.headers()),
            response_bytes: 0,
            cost: 0,
            status: Status::None,
            method: UsageMethod::from(head.method()),
            outcome: Outcome::Failed,
            cause: None,
            refusal: None,
        };
        (draft, additions, unproven, call)
    }

    fn address_of(&self, head: RequestHead<'_>) -> Option<IpAddr> {
        self.client_address.of(head)
    }

    fn resource_id(&self, head: RequestHead<'_>) -> Option<Box<str>> {
        let id = self.resource_id.as_ref()?(head)?;
        Some(clipped(&id).into())
    }

    /// What this gate made of the key: from the cache's entry where it is kept there.
    #[inline]
    fn derived<'a>(&self, entry: &'a CachedKey, now: Now) -> DerivedRef<'a> {
        let kept = entry
            .derived
            .get_or_init(|| Arc::new(self.derive(entry, now)))
            .downcast_ref::<Derived>();
        match kept {
            Some(derived) if derived.gate == self.id => DerivedRef::Kept(derived),
            _ => DerivedRef::Own(Box::new(self.derive(entry, now))),
        }
    }

    fn derive(&self, entry: &CachedKey, now: Now) -> Derived {
        let own = &entry.key.limits;
        let limits = if own.is_empty() {
            &self.default_limits
        } else {
            own
        };
        let allowance = if limits.is_empty() {
            Ok(None)
        } else {
            self.limiter.attach(entry.key.line, limits, now).map(Some)
        };
        Derived {
            gate: self.id,
            allowance,
            headers: if limits.is_empty() {
                None
            } else {
                LimitHeaders::of(limits)
            },
            names: limits.iter().map(|limit| limit.name().into()).collect(),
        }
    }

    /// No key has this id: the same work as for one that does.
    fn refuse_unknown(&self, secret: &str, head: RequestHead<'_>, began: Now) -> Step {
        let matched = self.peppers.verify(secret, &self.dummy);
        std::hint::black_box(matched);
        self.refuse_stranger(Refusal::Unknown, head, began)
    }

    /// Refuses a request that no key answers for: a counter and no event.
    fn refuse_stranger(&self, reason: Refusal, head: RequestHead<'_>, began: Now) -> Step {
        self.recorder.count_refusal(reason);
        report_refusal(reason, None);
        let unavailable = matches!(reason, Refusal::StoreUnavailable | Refusal::RecorderFull);
        let rejection = Rejection {
            retry_after_secs: unavailable.then_some(1),
            ..Rejection::new(reason)
        };
        let mut response = self.rejections.answer(rejection, head);
        let ticket = self.unaccounted(head, began);
        ticket.additions.apply(&ticket.text, response.headers_mut());
        Step::Answer(response)
    }

    /// Refuses a request of a key whose secret matched: an event under that key.
    fn refuse_key(
        &self,
        entry: Arc<CachedKey>,
        rejection: Rejection,
        decision: Option<&Decision>,
        open: Opened,
        head: RequestHead<'_>,
        began: Now,
    ) -> Judged {
        let id = entry.key.id;
        report_refusal(rejection.reason, Some(id));
        let rejection = Rejection {
            key: Some(id),
            ..rejection
        };
        let limited = decision.map(|decision| (&entry, decision));
        let (mut draft, additions, ..) = self.draft(Some(entry.clone()), limited, head, began);
        draft.refusal = Some(rejection.reason);
        (draft.outcome, draft.cause) = match rejection.reason {
            Refusal::RateLimited => (Outcome::RateLimited, None),
            _ => (Outcome::Failed, Some(crate::usage::Cause::Refused)),
        };
        draft.status = match call_of(head.headers(), head.method()) {
            Call::Http => Status::Http(rejection.status().as_u16()),
            Call::Grpc | Call::GrpcWeb => Status::Grpc(rejection.grpc_status()),
        };
        let mut response = self.rejections.answer(rejection, head);
        draft.response_bytes = response.body().len() as u64;
        let passed = self.clock.now().since(began);
        draft.latency_us = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX);
        additions.apply(&draft.text, response.headers_mut());
        // Where an outer layer accounts for the request, it reads the refusal from the answer.
        if !self.is_recorded_outside(head) {
            open.used();
            self.recorder.record(draft);
        }
        Judged::Step(Step::Answer(response))
    }
}

enum Judged {
    Grant(Grant),
    Step(Step),
}

struct Grant {
    entry: Arc<CachedKey>,
    decision: Decision,
    cost: u32,
    open: Opened,
}

enum DerivedRef<'a> {
    Kept(&'a Derived),
    Own(Box<Derived>),
}

impl std::ops::Deref for DerivedRef<'_> {
    type Target = Derived;

    fn deref(&self) -> &Derived {
        match self {
            Self::Kept(derived) => derived,
            Self::Own(derived) => derived,
        }
    }
}

impl Opened {
    fn used(mut self) {
        self.0 = None;
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(recorder) = self.0.take() {
            recorder.unbegin();
        }
    }
}

enum SentId<'a> {
    Header(&'a http::HeaderValue),
    Outer(Uuid),
}

/// The id that the request has on the wire already.
fn sent_id(head: RequestHead<'_>) -> Option<SentId<'_>> {
    answer::sane_request_id(head.headers())
        .map(SentId::Header)
        .or_else(|| Some(SentId::Outer(head.extensions().get::<Caller>()?.event_id())))
}

fn wire_id(head: RequestHead<'_>, own: Uuid, text: &mut Text) -> Additions {
    match sent_id(head) {
        Some(SentId::Header(sent)) => Additions::sent(sent.clone()),
        Some(SentId::Outer(id)) => Additions::minted(text.push_id(id)),
        None => Additions::minted(text.push_id(own)),
    }
}

/// `/health` matches itself, `/public/*` all below it.
fn matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == pattern,
    }
}

/// At most a kilobyte of what a client sent.
fn clipped(text: &str) -> &str {
    const MOST: usize = 1_024;
    &text[..text.floor_char_boundary(MOST)]
}

fn announced_length(headers: &HeaderMap) -> u64 {
    headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .unwrap_or(0)
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
