//! Notifies the caches in this process of changed keys.

use std::fmt;
use std::sync::{Arc, PoisonError, Weak};

use crate::id::KeyId;
use crate::limit::LocalLimiter;
use crate::sync::Mutex;

/// A holder of cached lookups.
pub(crate) trait Invalidate: Send + Sync {
    fn remove(&self, id: KeyId);
    /// Removes all keys of an owner.
    fn remove_owner(&self, owner: &str);
    fn clear(&self);
}

/// The channel on which a store announces changed keys to the caches in this process, after a change is committed
/// and before the call that made it returns.
///
/// Clones share one channel. A custom store holds a feed, returns it from
/// [`KeyStore::invalidations`](super::KeyStore::invalidations) and publishes to it after every write.
#[derive(Clone, Default)]
pub struct InvalidationFeed(Arc<Shared>);

#[derive(Default)]
struct Shared {
    holders: Mutex<Vec<Weak<dyn Invalidate>>>,
    /// The default limiter of a layer over the store, and whether another layer has its own.
    limiter: Mutex<(Weak<LocalLimiter>, bool)>,
}

impl InvalidationFeed {
    /// A feed without subscribers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Announces that a key was created, changed or deleted.
    pub fn publish(&self, id: KeyId) {
        self.each(|holder| holder.remove(id));
    }

    /// Announces that an owner was changed: caches evict its keys.
    pub fn publish_owner(&self, owner: &str) {
        self.each(|holder| holder.remove_owner(owner));
    }

    /// Announces that any key may have changed: caches evict everything.
    pub fn publish_all(&self) {
        self.each(|holder| holder.clear());
    }

    pub(crate) fn subscribe(&self, holder: Weak<dyn Invalidate>) {
        let holders = self.0.holders.lock();
        let mut holders = holders.unwrap_or_else(PoisonError::into_inner);
        holders.retain(|holder| holder.strong_count() > 0);
        holders.push(holder);
    }

    /// Returns `true` the first time that a layer over the store has a different default limiter.
    pub(crate) fn is_second_limiter(&self, limiter: &Weak<LocalLimiter>) -> bool {
        let known = self.0.limiter.lock();
        let (first, is_known) = &mut *known.unwrap_or_else(PoisonError::into_inner);
        if first.strong_count() == 0 {
            first.clone_from(limiter);
        }
        !first.ptr_eq(limiter) && !std::mem::replace(is_known, true)
    }

    fn each(&self, act: impl Fn(&dyn Invalidate)) {
        // Called without holding the lock: `act` may drop a holder.
        let holders = self.0.holders.lock();
        let holders = holders.unwrap_or_else(PoisonError::into_inner).clone();
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
        owners: AtomicUsize,
        all: AtomicUsize,
    }

    impl Invalidate for Recorded {
        fn remove(&self, _: KeyId) {
            self.ids.fetch_add(1, Ordering::Relaxed);
        }

        fn remove_owner(&self, owner: &str) {
            assert_eq!(owner, "acme");
            self.owners.fetch_add(1, Ordering::Relaxed);
        }

        fn clear(&self) {
            self.all.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_second_limiter_is_noticed_once() {
        let feed = InvalidationFeed::new();
        let limiters: [Arc<LocalLimiter>; 3] = Default::default();
        let [first, second, third] = limiters.each_ref().map(Arc::downgrade);
        assert!(!feed.is_second_limiter(&first) && !feed.is_second_limiter(&first));
        assert!(feed.clone().is_second_limiter(&second));
        assert!(!feed.is_second_limiter(&second) && !feed.is_second_limiter(&third));
        // A layer that was dropped has no limiter.
        let feed = InvalidationFeed::new();
        assert!(!feed.is_second_limiter(&Arc::downgrade(&Arc::default())));
        assert!(!feed.is_second_limiter(&first) && feed.is_second_limiter(&second));
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
        assert_eq!(feed.0.holders.lock().unwrap().len(), 2);
        feed.publish("3fK9aB0000zzZZ19".parse().unwrap());
        feed.publish_owner("acme");
        feed.clone().publish_all();
        feed.publish_all();
        for holder in holders {
            let counts = [&holder.ids, &holder.owners, &holder.all];
            let counts = counts.map(|count| count.load(Ordering::Relaxed));
            assert_eq!(counts, [1, 1, 2]);
        }
    }
}
