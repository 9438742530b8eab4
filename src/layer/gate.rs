//! What a configured layer's services share, and how a request passes.
//!
//! Everything that is known without asking a store is decided without waiting and allocating little, and
//! no good key meets a lock that all share. What has to be asked comes back as a [`Step::Wait`] and goes
//! on in [`Gate::resume`]. A request is first judged (a [`Verdict`], in `judge` and `refuse`) and only then
//! changed ([`Gate::carry_out`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderValue, Request};
use http_body::Body;
use uuid::Uuid;

use super::address::ClientAddress;
use super::answer::HeaderStyle;
use super::caller::{Caller, OuterCaller, Unverified};
use super::client_limit::ClientLimit;
use super::credential::{self, AllTaken, Found, Places, Sources};
use super::endpoint::Endpoints;
use super::exempt::is_preflight;
use super::head::RequestHead;
use super::reject::Rejections;
use super::rejected_events::RejectedEvents;
use super::report::Addressless;
use super::step::{Step, Verdict, Waited, What};
use super::visit::Visit;
use crate::clock::Clock;
use crate::drain::DrainLimits;
use crate::key::{Key, KeyCache, Peppers};
use crate::limit::{Limiter, RateLimit};
use crate::usage::Recorder;

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
    /// accounted for without a key. Only for services that had rather be open than down. Those are
    /// refused all the same for which the store was not asked
    /// [in time](crate::key::CacheConfig::lookup_timeout): nobody gets in by asking for too much at once.
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
    pub(crate) limiter: Arc<dyn Limiter>,
    pub(crate) limiter_timeout: Duration,
    pub(crate) drain_limits: DrainLimits,
    /// How often the keys of response bodies are checked.
    pub(crate) stream_checks: Option<Duration>,
    pub(crate) default_limits: Vec<RateLimit>,
    pub(crate) cost: Option<Arc<Cost>>,
    pub(crate) recorder: Recorder,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) resource_id: Option<Arc<ResourceId>>,
    pub(crate) client_address: ClientAddress,
    pub(crate) lookup_budget: Option<Arc<ClientLimit>>,
    pub(crate) anonymous_limit: Option<Arc<ClientLimit>>,
    pub(crate) rejected_events: Arc<RejectedEvents>,
    pub(crate) addressless: Arc<Addressless>,
    pub(crate) sources: Sources,
    /// The headers among them, for caches (RFC 9110 §12.5.5).
    pub(crate) vary: Option<HeaderValue>,
    /// Whether responses without a `Cache-Control` are for private caches alone.
    pub(crate) private: bool,
    pub(crate) header_style: HeaderStyle,
    pub(crate) rejections: Rejections,
    pub(crate) exempt: Vec<Box<str>>,
    pub(crate) anonymous: bool,
    /// Whether CORS preflights pass.
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
    pub(super) fn admit<B: Body>(self: &Arc<Self>, request: &mut Request<B>) -> Step {
        let began = self.clock.now();
        let is_preflight = self.preflight && is_preflight(request);
        let mut found = Found::default();
        let visit = Visit::new(RequestHead::of(request), began, &self.sources, &mut found);
        let verdict = self.decide(&visit, &mut found, is_preflight);
        let places = found.places;
        let id = visit.id;
        self.carry_out(verdict, places, id, request)
    }

    /// Goes on with a request for which something had to be waited for.
    pub(super) fn resume<B>(self: &Arc<Self>, waited: Waited, request: &mut Request<B>) -> Step {
        if let What::Rechecked {
            found,
            entry,
            ticket,
        } = waited.what
        {
            return self.rechecked(found, &entry, ticket, request);
        }
        let head = RequestHead::of(request);
        let visit = Visit::again(head, waited.began);
        let verdict = match waited.what {
            What::Found {
                found,
                secret,
                charge,
                had_budget,
            } => self.found(found, &secret, charge, had_budget, &visit),
            What::WithoutBudget { wait } => self.refuse_without_budget(wait, &visit),
            What::Decided {
                entry,
                decision,
                cost,
                meter,
            } => self.decided(entry, decision, cost, meter.withdraw(), &visit),
            What::Rechecked { .. } => unreachable!("it was checked again above"),
        };
        let id = visit.id;
        self.carry_out(verdict, Places::all(), id, request)
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
                let mut taken = if self.keep_credential {
                    AllTaken::new()
                } else {
                    credential::remove(&self.sources, places, request)
                };
                let mut event_id = id;
                if let Some(outer) = request.extensions().get::<Caller>() {
                    // Layers further in may look in any of the places.
                    taken.extend(outer.taken.iter().cloned());
                    if outer.is_recorded_by(&self.recorder) {
                        event_id = outer.event_id;
                    }
                }
                let caller = Caller {
                    entry,
                    event_id,
                    taken,
                    recorder: self.recorder.id(),
                    admitted_by: self.limits_id,
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
                let extensions = request.extensions_mut();
                extensions.insert(Unverified);
                // Whoever an outer layer let in, the key that was sent here is not verified.
                if let Some(caller) = extensions.remove::<Caller>() {
                    extensions.insert(OuterCaller(caller));
                }
                if let Some(mark) = mark {
                    request.extensions_mut().insert(mark);
                }
                Step::Call(ticket)
            }
            Verdict::Refused(answer) => Step::Answer(answer),
            Verdict::Pending(wait) => Step::Wait(wait),
        }
    }
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
