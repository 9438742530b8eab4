//! The cost of a request that is known only while or after it is processed.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use crate::limit::Decision;

/// The cost of a request, as an extension of its response. It replaces the cost in the recorded usage, like
/// [`Caller::charge`](super::Caller::charge), and also works for anonymous requests.
///
/// ```
/// use http::Response;
/// use keytally::Cost;
///
/// let mut response = Response::new("three rows");
/// response.extensions_mut().insert(Cost(3));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost(pub u32);

/// The cost that replaces that of the event, shared by the caller and the tracker of a request.
#[derive(Debug, Clone)]
pub(super) struct FinalCost(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The cost, [`IS_SET`] and [`IS_REVISED`].
    cost: AtomicU64,
    revised: Mutex<Option<Box<Revised>>>,
}

/// The decision about the limits of a layer, after another cost was charged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Revised {
    pub(super) limits_id: u64,
    pub(super) decision: Decision,
}

const IS_SET: u64 = 1 << 32;
const IS_REVISED: u64 = 1 << 33;

impl FinalCost {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared {
            cost: AtomicU64::new(0),
            revised: Mutex::new(None),
        }))
    }

    /// Unsets the cost for another request. Allocates only if it is still shared, or has a revised decision.
    #[inline]
    pub(super) fn renew(&mut self) {
        // Unlike `Arc::get_mut`, without an atomic exchange, since there are no weak references.
        let is_own = Arc::strong_count(&self.0) == 1;
        if is_own && self.0.cost.load(Ordering::Relaxed) & IS_REVISED == 0 {
            fence(Ordering::Acquire);
            self.0.cost.store(0, Ordering::Relaxed);
        } else {
            *self = Self::new();
        }
    }

    pub(super) fn set(&self, cost: Cost) {
        let kept = self.0.cost.load(Ordering::Relaxed) & IS_REVISED;
        let cost = u64::from(cost.0) | IS_SET | kept;
        self.0.cost.store(cost, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> Option<Cost> {
        let cost = self.0.cost.load(Ordering::Relaxed);
        // The lower half is the cost.
        (cost & IS_SET != 0).then_some(Cost(cost as u32))
    }

    /// Sets the cost, and the decision to report in the response.
    #[cold]
    pub(super) fn revise(&self, cost: Cost, revised: Revised) {
        *self
            .0
            .revised
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Box::new(revised));
        let cost = u64::from(cost.0) | IS_SET | IS_REVISED;
        self.0.cost.store(cost, Ordering::Release);
    }

    /// The decision about the limits of this layer, if it was revised.
    #[inline]
    pub(super) fn revised(&self, limits_id: u64) -> Option<Decision> {
        if self.0.cost.load(Ordering::Acquire) & IS_REVISED == 0 {
            return None;
        }
        let revised = self
            .0
            .revised
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let revised = revised.as_deref().copied()?;
        (revised.limits_id == limits_id).then_some(revised.decision)
    }
}
