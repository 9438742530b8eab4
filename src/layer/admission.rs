//! What becomes of a request at the config, and what has to be waited for before that is known.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use zeroize::Zeroizing;

use super::caller::AnonymousMark;
use super::response_headers::ResponseHeaders;
use super::tracker::RequestTracker;
use crate::clock::Now;
use crate::key::{CachedKey, StoreError};
use crate::limit::{Charge, Decision, LimitError};
use crate::usage::RejectionReason;

/// What to do with a request next.
pub(super) enum Step {
    Admit(Admitted),
    Reject(Response<Bytes>),
    Wait(Wait),
}

/// What goes along with an admitted request. It is small, for it is handed on often.
#[derive(Debug)]
pub(super) enum Admitted {
    /// For a request that is accounted for here.
    Tracked(RequestTracker),
    /// For one that is not; what its answer is given, if anything.
    Untracked(Option<Box<ResponseHeaders>>),
}

impl Admitted {
    pub(super) fn untracked(additions: ResponseHeaders) -> Self {
        Self::Untracked(Some(Box::new(additions)))
    }

    /// Gives an answer its headers and goes on as the tracker of its body.
    #[inline]
    pub(super) fn into_tracker(self, headers: &mut HeaderMap) -> RequestTracker {
        match self {
            Self::Tracked(mut tracker) => {
                tracker.add_headers(headers);
                tracker
            }
            Self::Untracked(additions) => {
                if let Some(mut additions) = additions {
                    additions.complete(headers);
                }
                RequestTracker::disabled()
            }
        }
    }

    /// The request is refused after all.
    pub(super) fn reject(self, reason: RejectionReason, response: &mut Response<Bytes>) {
        match self {
            Self::Tracked(tracker) => tracker.refuse(reason, response),
            Self::Untracked(additions) => {
                if let Some(mut additions) = additions {
                    additions.complete_rejection(response.headers_mut());
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

/// What was decided about a request, before anything was done to it.
pub(super) enum Admission {
    /// It passes as it is.
    Unchanged(Admitted),
    /// It passes with this key.
    Authenticated(Admitted, Arc<CachedKey>),
    /// It passes without a key.
    Anonymous(Admitted, AnonymousMark),
    /// It passes with a key that could not be verified.
    Unverified(Admitted, Option<AnonymousMark>),
    /// It is refused.
    Rejected(Response<Bytes>),
    /// It has to wait.
    Pending(Wait),
}

/// An answer that has to be waited for.
pub(super) type Wait = Pin<Box<dyn Future<Output = Waited> + Send>>;

pub(super) struct Waited {
    pub(super) began: Now,
    pub(super) what: Resumed,
}

pub(super) enum Resumed {
    Found {
        found: Result<Option<Arc<CachedKey>>, StoreError>,
        secret: Zeroizing<Vec<u8>>,
        /// What is given back unless the look-up comes to nothing.
        charge: Option<Charge>,
        /// Whether the client's address was found to have the budget before.
        had_budget: bool,
    },
    /// The client's address had no budget left when its turn came.
    WithoutBudget { wait: Duration },
    /// The key of an admitted request was looked up again.
    Rechecked {
        found: Result<Option<Arc<CachedKey>>, StoreError>,
        entry: Arc<CachedKey>,
        admitted: Admitted,
    },
    Decided {
        entry: Arc<CachedKey>,
        decision: Result<Decision, LimitError>,
        cost: u32,
        /// Tells of the request should nobody wait for the decision any more.
        tracker: RequestTracker,
    },
}
