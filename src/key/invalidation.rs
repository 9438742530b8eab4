//! Notifies the caches in this process of changed keys.

use std::fmt;
use std::sync::{Arc, PoisonError, Weak};

use crate::id::KeyId;
use crate::sync::Mutex;

/// A holder of cached lookups.
pub(crate) trait Invalidate: Send + Sync {
    fn remove(&self, id: KeyId);
    fn clear(&self);
}

/// The channel on which a store announces changed keys to the caches in this process, after a change is committed
/// and before the call that made it returns.
///
/// Clones share one channel. A custom store holds a feed, returns it from
/// [`KeyStore::invalidations`](super::KeyStore::invalidations) and publishes to it after every write.
#[derive(Clone, Default)]
pub struct InvalidationFeed(Arc<Mutex<Vec<Weak<dyn Invalidate>>>>);

impl InvalidationFeed {
    /// A feed without subscribers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Announces that a key was created, changed or deleted.
    pub fn publish(&self, id: KeyId) {
        self.each(|holder| holder.remove(id));
    }

    /// Announces that any key may have changed: caches evict everything.
    pub fn publish_all(&self) {
        self.each(|holder| holder.clear());
    }

    pub(crate) fn subscribe(&self, holder: Weak<dyn Invalidate>) {
        let mut holders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        holders.retain(|holder| holder.strong_count() > 0);
        holders.push(holder);
    }

    fn each(&self, act: impl Fn(&dyn Invalidate)) {
        // Called without holding the lock: `act` may drop a holder.
        let holders = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for holder in holders.iter().filter_map(Weak::upgrade) {
            act(&*holder);
        }
    }
}

impl fmt::Debug for InvalidationFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InvalidationFeed")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Recorded {
        ids: AtomicUsize,
        all: AtomicUsize,
    }

    impl Invalidate for Recorded {
        fn remove(&self, _: KeyId) {
            self.ids.fetch_add(1, Ordering::Relaxed);
        }

        fn clear(&self) {
            self.all.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn live_subscribers_are_notified() {
        let feed = InvalidationFeed::new();
        let holders: [Arc<Recorded>; 2] = Default::default();
        for holder in &holders {
            for _ in 0..10 {
                let dropped: Arc<dyn Invalidate> = Arc::new(Recorded::default());
                feed.subscribe(Arc::downgrade(&dropped));
            }
            let holder: Arc<dyn Invalidate> = holder.clone();
            feed.subscribe(Arc::downgrade(&holder));
        }
        // Dropped subscribers are removed.
        assert_eq!(feed.0.lock().unwrap().len(), 2);
        feed.publish("3fK9aB0000zzZZ19".parse().unwrap());
        feed.clone().publish_all();
        feed.publish_all();
        for holder in holders {
            let counts = [&holder.ids, &holder.all].map(|count| count.load(Ordering::Relaxed));
            assert_eq!(counts, [1, 2]);
        }
    }
}
