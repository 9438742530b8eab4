//! The decision about a request, and the operations it may have to wait for.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, Response};
use http_body::Body;
use uuid::Uuid;

use super::caller::AnonymousMark;
use super::candidate::Candidate;
use super::credential::SourceSet;
use super::rejection::Rejections;
use super::request_context::{RequestContext, RequestMetadata};
use super::response_headers::{ResponseHeaders, add_request_id, add_to_nested};
use super::tracker::RequestTracker;
use crate::clock::Now;
use crate::key::{CachedKey, StoreError};
use crate::limit::{Charge, Decision, LimitError};
use crate::usage::RejectionReason;

/// The next step of a request.
pub(super) enum Step {
    Admit(Admitted),
    Reject(Box<Response<Bytes>>),
    /// A pending operation, with what has been read from the request. `None` for a recheck, which needs none of it.
    Wait(Wait, Option<Box<RequestMetadata>>),
}

/// The state of an admitted request. Kept small because it is moved often.
#[derive(Debug)]
pub(super) enum Admitted {
    /// A request recorded by this layer.
    Tracked(RequestTracker),
    /// A request not recorded by this layer, with the headers to add to its response.
    Untracked(Option<Box<HeaderMap>>),
}

impl Admitted {
    #[cold]
    pub(super) fn untracked(headers: ResponseHeaders<'_>) -> Self {
        let mut added = HeaderMap::new();
        headers.apply(&mut added);
        Self::Untracked(Some(Box::new(added)))
    }

    /// Adds the headers to the response and returns the tracker for its body.
    #[inline]
    pub(super) fn on_response(self, response: &mut Parts, body: &impl Body) -> RequestTracker {
        match self {
            Self::Tracked(mut tracker) => {
                tracker.on_response(response, body);
                tracker
            }
            Self::Untracked(added) => {
                if let Some(added) = added {
                    add_to_nested(*added, &mut response.headers);
                }
                RequestTracker::disabled()
            }
        }
    }

    /// Turns the admission into a rejection.
    pub(super) fn reject(self, reason: RejectionReason, response: &mut Response<Bytes>) {
        match self {
            Self::Tracked(tracker) => tracker.reject_admitted(reason, response),
            Self::Untracked(added) => {
                if let Some(added) = added {
                    add_request_id(*added, response.headers_mut());
                }
            }
        }
    }

    #[inline]
    pub(super) fn tracker(&mut self) -> Option<&mut RequestTracker> {
        match self {
            Self::Tracked(tracker) => Some(tracker),
            Self::Untracked(_) => None,
        }
    }
}

/// The decision about a request, before the request is modified.
pub(super) enum Admission {
    /// Admitted without changes.
    Unchanged(Admitted),
    /// Admitted with this key.
    Authenticated(Admitted, Arc<CachedKey>),
    /// Admitted without a key.
    Anonymous(Admitted, Box<AnonymousMark>),
    /// Admitted with a key that could not be verified.
    Unverified(Admitted, Option<Box<AnonymousMark>>),
    /// Rejected with this response.
    Rejected(Box<Response<Bytes>>),
    /// Waiting for the store or the limiter.
    Pending(Wait),
}

/// A decision, with what is needed to apply it.
pub(super) struct Decided {
    pub(super) admission: Admission,
    /// The sources in which the credential was found.
    pub(super) sources: SourceSet,
    /// The id of the event.
    pub(super) id: Uuid,
    /// What has been read from a request that has to wait.
    pub(super) metadata: Option<Box<RequestMetadata>>,
}

impl Decided {
    #[inline]
    pub(super) fn new(
        admission: Admission,
        sources: SourceSet,
        context: &RequestContext<'_>,
    ) -> Self {
        let is_pending = matches!(admission, Admission::Pending(_));
        Self {
            admission,
            sources,
            id: context.id,
            metadata: is_pending.then(|| context.to_metadata(sources)),
        }
    }
}

/// A pending operation of the store or the limiter.
pub(super) type Wait = Pin<Box<dyn Future<Output = Resumed> + Send>>;

/// The decision of the limiter about the cost of a route.
pub(super) struct RouteCharged {
    pub(super) decision: Result<Decision, LimitError>,
    pub(super) cost: u32,
    pub(super) charged_at: Now,
    pub(super) rejections: Arc<Rejections>,
}

/// The result of a pending operation, with which the decision continues.
pub(super) enum Resumed {
    /// The store lookup completed.
    LookedUp {
        found: Result<Option<Arc<CachedKey>>, StoreError>,
        candidate: Candidate,
        /// The charge to the lookup limit, refunded unless the lookup failed.
        charge: Option<Charge>,
        /// Whether the lookup limit was checked before the lookup.
        limit_checked: bool,
    },
    /// The client IP was above the lookup limit when the lookup was due.
    LookupLimited { wait: Duration },
    /// The key of an admitted request was looked up again.
    Rechecked {
        found: Result<Option<Arc<CachedKey>>, StoreError>,
        entry: Arc<CachedKey>,
        admitted: Admitted,
    },
    /// The limiter returned its decision about the cost of a route.
    RouteCharged(RouteCharged),
    /// The limiter returned its decision.
    Decided {
        entry: Arc<CachedKey>,
        decision: Result<Decision, LimitError>,
        cost: u32,
        /// Records the request as cancelled if the future is dropped while waiting.
        tracker: RequestTracker,
    },
}
