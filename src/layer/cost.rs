//! The cost of a request that is known only while or after it is processed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

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
pub(super) struct FinalCost(Arc<AtomicU64>);

const UNSET: u64 = u64::MAX;

impl FinalCost {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicU64::new(UNSET)))
    }

    /// Unsets the cost for another request. Allocates only if it is still shared.
    #[inline]
    pub(super) fn renew(&mut self) {
        // Unlike `Arc::get_mut`, without an atomic exchange, since there are no weak references.
        if Arc::strong_count(&self.0) == 1 {
            fence(Ordering::Acquire);
            self.0.store(UNSET, Ordering::Relaxed);
        } else {
            *self = Self::new();
        }
    }

    pub(super) fn set(&self, cost: Cost) {
        self.0.store(cost.0.into(), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> Option<Cost> {
        u32::try_from(self.0.load(Ordering::Relaxed)).ok().map(Cost)
    }
}
