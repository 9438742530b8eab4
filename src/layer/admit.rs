//! Applies the decision about a request to the request.

use std::sync::Arc;

use http::Request;
use http_body::Body;
use uuid::Uuid;

use super::admission::{Admission, Decided, Resumed, Step};
use super::caller::{Caller, OuterCaller, Unchanged, Unverified};
use super::config::Config;
use super::cost::FinalCost;
use super::credential::{self, Credential, SourceSet, StrippedCredentials};
use super::exempt::is_preflight;
use super::request_context::{RequestContext, RequestMetadata};
use super::request_parts::RequestParts;
use crate::clock::Now;

impl Config {
    /// Decides about a request as far as possible without waiting.
    #[inline]
    pub(super) fn admit<B: Body>(self: &Arc<Self>, request: &mut Request<B>) -> Step {
        let began = self.clock.now();
        let parts = RequestParts::of(request);
        let Decided {
            admission,
            sources,
            id,
            metadata,
        } = self.decide_plain(parts, began).unwrap_or_else(|| {
            let is_preflight = self.preflight && is_preflight(request);
            let mut credential = Credential::default();
            let context = RequestContext::new(parts, began, &self.sources, &mut credential);
            let admission = self.decide(&context, &mut credential, is_preflight);
            Decided::new(admission, credential.sources, &context)
        });
        self.apply(admission, sources, id, began, metadata, request)
    }

    /// Continues with a request after a wait.
    pub(super) fn resume<B>(
        self: &Arc<Self>,
        resumed: Resumed,
        metadata: Option<Box<RequestMetadata>>,
        request: &mut Request<B>,
    ) -> Step {
        if let Resumed::Rechecked {
            found,
            entry,
            admitted,
        } = resumed
        {
            return self.rechecked(found, &entry, admitted, request);
        }
        let metadata = metadata.expect("only a recheck waits without metadata");
        let context =
            RequestContext::resumed(RequestParts::of(request), &metadata, self.clock.now());
        let admission = match resumed {
            Resumed::LookedUp {
                found,
                candidate,
                charge,
                limit_checked,
            } => self.key_looked_up(found, &candidate, charge, limit_checked, &context),
            Resumed::LookupLimited { wait } => self.reject_lookup_limited(wait, &context),
            Resumed::Decided {
                entry,
                decision,
                cost,
                tracker,
            } => self.limiter_decided(entry, decision, cost, tracker.cancel(), &context),
            Resumed::Rechecked { .. } | Resumed::RouteCharged(_) => {
                unreachable!("handled elsewhere")
            }
        };
        let (sources, id, now) = (metadata.sources, metadata.id, context.now);
        self.apply(admission, sources, id, now, Some(metadata), request)
    }

    /// Applies the decision to the request.
    #[inline]
    fn apply<B>(
        &self,
        admission: Admission,
        sources: SourceSet,
        id: Uuid,
        now: Now,
        metadata: Option<Box<RequestMetadata>>,
        request: &mut Request<B>,
    ) -> Step {
        match admission {
            Admission::Unchanged(admitted) => {
                request.extensions_mut().insert(Unchanged);
                Step::Admit(admitted)
            }
            Admission::Authenticated(mut admitted, entry) => {
                let outer = request.extensions().get::<Caller>();
                let outer = outer.filter(|outer| outer.is_recorded_by(&self.recorder));
                let costs = match admitted.tracker() {
                    Some(tracker) => tracker.costs(),
                    None => outer.map(|outer| {
                        let charged = self.cost_of(RequestParts::of(request));
                        (charged, outer.final_cost.clone())
                    }),
                };
                let (charged, final_cost) = costs.unwrap_or_else(|| (0, FinalCost::new()));
                let mut caller = Caller {
                    entry,
                    event_id: outer.map_or(id, |outer| outer.event_id),
                    stripped: StrippedCredentials::new(),
                    recorder: self.recorder.id(),
                    admitted_by: self.limits_id(),
                    charged,
                    charged_at: now,
                    final_cost,
                };
                if !self.keep_credential {
                    credential::remove(&self.sources, sources, request, &mut caller.stripped);
                }
                if let Some(outer) = request.extensions().get::<Caller>() {
                    // Nested layers may read any of the sources.
                    caller.stripped.extend(outer.stripped.iter().cloned());
                }
                request.extensions_mut().insert(caller);
                Step::Admit(admitted)
            }
            Admission::Anonymous(admitted, mark) => {
                request.extensions_mut().insert(*mark);
                Step::Admit(admitted)
            }
            Admission::Unverified(admitted, mark) => {
                if !self.keep_credential {
                    let mut stripped = StrippedCredentials::new();
                    credential::remove(&self.sources, sources, request, &mut stripped);
                }
                let extensions = request.extensions_mut();
                extensions.insert(Unverified);
                // The key of this layer is not verified, so hide the caller of an outer layer.
                if let Some(caller) = extensions.remove::<Caller>() {
                    extensions.insert(OuterCaller(caller));
                }
                if let Some(mark) = mark {
                    request.extensions_mut().insert(*mark);
                }
                Step::Admit(admitted)
            }
            Admission::Rejected(response) => Step::Reject(response),
            Admission::Pending(wait) => Step::Wait(wait, metadata),
        }
    }
}
