//! A registry of requests that are still open after their first poll, so that shutdown can end them.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{PoisonError, Weak};

use foldhash::fast::RandomState;

use crate::sync::atomic::AtomicU64;
use crate::sync::{Mutex, MutexGuard};

/// A request that can be ended early by recording it as cancelled.
pub(crate) trait Abandon: Send + Sync {
    fn abandon(&self);
}

/// The position of a request in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RegistrationId(u64);

type Shard = HashMap<u64, Weak<dyn Abandon>, RandomState>;

#[derive(Default)]
pub(crate) struct InFlight {
    next: AtomicU64,
    shards: [Mutex<Shard>; 16],
}

impl InFlight {
    pub(crate) fn enter(&self, request: Weak<dyn Abandon>) -> RegistrationId {
        let place = self.next.fetch_add(1, Ordering::Relaxed);
        self.shard(place).insert(place, request);
        RegistrationId(place)
    }

    pub(crate) fn leave(&self, RegistrationId(place): RegistrationId) {
        self.shard(place).remove(&place);
    }

    /// Ends all registered requests.
    pub(crate) fn abandon_all(&self) {
        for shard in &self.shards {
            // Take them out first: a request that ends calls `leave`, which takes the same lock.
            let requests = std::mem::take(&mut *lock(shard));
            for request in requests.values().filter_map(Weak::upgrade) {
                request.abandon();
            }
        }
    }

    fn shard(&self, place: u64) -> MutexGuard<'_, Shard> {
        lock(&self.shards[(place % 16) as usize])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InFlight")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[derive(Default)]
    struct Request(AtomicU32);

    impl Abandon for Request {
        fn abandon(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn requests_that_left_are_neither_held_nor_ended() {
        let open = InFlight::default();
        let (left, present) = (Arc::new(Request::default()), Arc::new(Request::default()));
        let enter = |request: &Arc<Request>| {
            let request: Weak<Request> = Arc::downgrade(request);
            open.enter(request)
        };
        let places: Vec<_> = (0..300).map(|_| enter(&left)).collect();
        enter(&present);
        for place in places {
            open.leave(place);
        }
        assert_eq!(Arc::weak_count(&left), 0);
        open.abandon_all();
        let ended = |request: &Request| request.0.load(Ordering::Relaxed);
        assert_eq!((ended(&left), ended(&present)), (0, 1));
        open.abandon_all();
        assert_eq!(ended(&present), 1);
    }
}
