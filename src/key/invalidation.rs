//! How a store tells the caches in its process that a key was changed.

use std::fmt;
use std::sync::{Arc, PoisonError, Weak};

use crate::id::KeyId;
use crate::sync::Mutex;

/// Whoever keeps answers of a store and has to drop them.
pub(crate) trait Invalidate: Send + Sync {
    fn remove(&self, id: KeyId);
    fn clear(&self);
}

/// The bell that a store rings after a change was committed and before it answers.
///
/// Clones ring the same bell. A store of one's own holds one, gives it out by
/// [`KeyStore::invalidations`](super::KeyStore::invalidations) and rings it after every write.
#[derive(Clone, Default)]
pub struct InvalidationFeed(Arc<Mutex<Vec<Weak<dyn Invalidate>>>>);

impl InvalidationFeed {
    /// A feed that nobody listens to yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A key was added, changed or removed.
    pub fn publish(&self, id: KeyId) {
        self.each(|holder| holder.remove(id));
    }

    /// Any key may have been changed: drop everything.
    pub fn publish_all(&self) {
        self.each(|holder| holder.clear());
    }

    pub(crate) fn subscribe(&self, holder: Weak<dyn Invalidate>) {
        let mut holders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        holders.retain(|holder| holder.strong_count() > 0);
        holders.push(holder);
    }

    fn each(&self, act: impl Fn(&dyn Invalidate)) {
        // Called without the lock held: a holder may be dropped by it.
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
    struct Heard {
        ids: AtomicUsize,
        all: AtomicUsize,
    }

    impl Invalidate for Heard {
        fn remove(&self, _: KeyId) {
            self.ids.fetch_add(1, Ordering::Relaxed);
        }

        fn clear(&self) {
            self.all.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn whoever_is_still_there_hears_of_changes() {
        let feed = InvalidationFeed::new();
        let holders: [Arc<Heard>; 2] = Default::default();
        for holder in &holders {
            for _ in 0..10 {
                let gone: Arc<dyn Invalidate> = Arc::new(Heard::default());
                feed.subscribe(Arc::downgrade(&gone));
            }
            let holder: Arc<dyn Invalidate> = holder.clone();
            feed.subscribe(Arc::downgrade(&holder));
        }
        // Those who went leave nothing behind.
        assert_eq!(feed.0.lock().unwrap().len(), 2);
        feed.publish("3fK9aB0000zzZZ19".parse().unwrap());
        feed.clone().publish_all();
        feed.publish_all();
        for holder in holders {
            let heard = [&holder.ids, &holder.all].map(|heard| heard.load(Ordering::Relaxed));
            assert_eq!(heard, [1, 2]);
        }
    }
}
