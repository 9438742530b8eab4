//! Requests that outlived their first poll: to be found at shutdown.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{PoisonError, Weak};

use foldhash::fast::RandomState;

use crate::sync::atomic::AtomicU64;
use crate::sync::{Mutex, MutexGuard};

/// A request that can be ended from outside, by recording it as cancelled.
pub(crate) trait Abandon: Send + Sync {
    fn abandon(&self);
}

/// The place of a request in the register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place(u64);

type Shard = HashMap<u64, Weak<dyn Abandon>, RandomState>;

#[derive(Default)]
pub(crate) struct OpenRequests {
    next: AtomicU64,
    shards: [Mutex<Shard>; 16],
}

impl OpenRequests {
    pub(crate) fn enter(&self, request: Weak<dyn Abandon>) -> Place {
        let place = self.next.fetch_add(1, Ordering::Relaxed);
        self.shard(place).insert(place, request);
        Place(place)
    }

    pub(crate) fn leave(&self, Place(place): Place) {
        self.shard(place).remove(&place);
    }

    /// Ends every request that is there.
    pub(crate) fn abandon_all(&self) {
        for shard in &self.shards {
            // Taken out first: a request leaves the register itself when it ends.
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

impl fmt::Debug for OpenRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenRequests")
    }
}
