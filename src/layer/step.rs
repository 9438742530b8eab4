//! What becomes of a request at the gate, and what has to be waited for before that is known.

use std::borrow::Borrow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::answer::Additions;
use super::meter::Meter;
use crate::clock::Now;
use crate::key::{CachedKey, StoreError};
use crate::limit::{Charge, Decision, LimitError};
use crate::usage::{Recorder, RejectionReason};

/// What to do with a request next.
pub(super) enum Step {
    Call(Ticket),
    Answer(Response<Bytes>),
    Wait(Wait),
}

/// What goes along with an admitted request. It is small, for it is handed on often.
#[derive(Debug)]
pub(super) enum Ticket {
    /// For a request that is accounted for here.
    Followed(Meter),
    /// For one that is not; what its answer is given, if anything.
    Unfollowed(Option<Box<Additions>>),
}

impl Ticket {
    pub(super) fn unfollowed(additions: Additions) -> Self {
        Self::Unfollowed(Some(Box::new(additions)))
    }

    /// Gives an answer its headers and goes on as the meter of its body.
    #[inline]
    pub(super) fn redeem(self, headers: &mut HeaderMap) -> Meter {
        match self {
            Self::Followed(mut meter) => {
                meter.add_headers(headers);
                meter
            }
            Self::Unfollowed(additions) => {
                if let Some(mut additions) = additions {
                    additions.complete(headers);
                }
                Meter::off()
            }
        }
    }

    /// The request is refused after all.
    pub(super) fn refuse(self, reason: RejectionReason, response: &mut Response<Bytes>) {
        match self {
            Self::Followed(meter) => meter.refuse(reason, response),
            Self::Unfollowed(additions) => {
                if let Some(mut additions) = additions {
                    additions.complete_refusal(response.headers_mut());
                }
            }
        }
    }

    #[inline]
    pub(super) fn meter(&mut self) -> Option<&mut Meter> {
        match self {
            Self::Followed(meter) => Some(meter),
            Self::Unfollowed(_) => None,
        }
    }
}

/// What was decided about a request, before anything was done to it.
pub(super) enum Verdict {
    /// It passes as it is.
    Through(Ticket),
    /// It passes with this key.
    Known(Ticket, Arc<CachedKey>),
    /// It passes without a key.
    Anonymous(Ticket, Anonymous),
    /// It passes with a key that could not be verified.
    Unverified(Ticket, Option<Anonymous>),
    /// It is refused.
    Refused(Response<Bytes>),
    /// It has to wait.
    Pending(Wait),
}

/// Marks a request that is accounted for without a key, for layers further in: one that finds a key
/// accounts for it instead.
#[derive(Clone)]
pub(super) struct Anonymous {
    /// The id of the event, unless it gives way.
    pub(super) id: Uuid,
    pub(super) recorder: usize,
    pub(super) superseded: Arc<AtomicBool>,
}

/// An answer that has to be waited for.
pub(super) type Wait = Pin<Box<dyn Future<Output = Waited> + Send>>;

pub(super) struct Waited {
    pub(super) began: Now,
    pub(super) what: What,
}

pub(super) enum What {
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
        ticket: Ticket,
    },
    Decided {
        entry: Arc<CachedKey>,
        decision: Result<Decision, LimitError>,
        cost: u32,
        /// Tells of the request should nobody wait for the decision any more.
        meter: Meter,
    },
}

/// A request that the recorder has been told of; taken back when nothing comes of it.
pub(super) struct Begun<R: Borrow<Recorder>> {
    recorder: Option<R>,
    /// Whether it has a place among the events of rejected keys.
    is_rejected: bool,
}

impl<R: Borrow<Recorder>> Begun<R> {
    pub(super) fn with(recorder: R) -> Self {
        Self {
            recorder: Some(recorder),
            is_rejected: false,
        }
    }

    /// For a request of a rejected key.
    pub(super) fn rejected(recorder: R) -> Self {
        Self {
            recorder: Some(recorder),
            is_rejected: true,
        }
    }

    /// For a request that is told of elsewhere, or was ended by a shutdown, which has told of it.
    pub(super) fn nothing() -> Self {
        Self {
            recorder: None,
            is_rejected: false,
        }
    }

    /// Whether nothing is to be told of the request any more.
    pub(super) fn is_nothing(&self) -> bool {
        self.recorder.is_none()
    }

    pub(super) fn is_rejected(&self) -> bool {
        self.is_rejected
    }

    /// The event takes over.
    pub(super) fn used(mut self) {
        self.recorder = None;
    }
}

impl<R: Borrow<Recorder>> Drop for Begun<R> {
    fn drop(&mut self) {
        if let Some(recorder) = self.recorder.take() {
            if self.is_rejected {
                recorder.borrow().release_rejected();
            }
            if std::thread::panicking() {
                // A hook failed before there was an event to tell of it.
                recorder.borrow().lose();
            } else {
                recorder.borrow().release();
            }
        }
    }
}
