//! Model tests of the cache: invalidation and single flight in concurrent interleavings.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Waker};

use async_trait::async_trait;

use super::entry::LookupResult;
use super::single_flight::{SingleFlight, Waiter};
use super::tests::{config, record};
use super::*;
use crate::clock::Clock;
use crate::id::KeyId;
use crate::key::{KeyRecord, KeyStore, StoreError};
use crate::sync::Notify;
use crate::sync::atomic::AtomicBool;
use crate::sync::model::{block_on, check, thread};

/// A store whose key is revoked during lookups.
struct Revoked {
    record: KeyRecord,
    is_revoked: AtomicBool,
    /// Opened once, for all lookups.
    gate: Notify,
    in_flight: AtomicUsize,
    max_concurrent: AtomicUsize,
}

impl Revoked {
    fn of(record: &KeyRecord) -> Arc<Self> {
        Arc::new(Self {
            record: record.clone(),
            is_revoked: AtomicBool::new(false),
            gate: Notify::default(),
            in_flight: AtomicUsize::new(0),
            max_concurrent: AtomicUsize::new(0),
        })
    }

    fn open(&self) {
        self.gate.notify_one();
    }
}

#[async_trait]
impl KeyStore for Arc<Revoked> {
    async fn find(&self, _id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        /// Also decrements if the lookup is cancelled.
        struct InFlight<'a>(&'a AtomicUsize);
        impl Drop for InFlight<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, SeqCst);
            }
        }
        let in_flight = self.in_flight.fetch_add(1, SeqCst) + 1;
        let _guard = InFlight(&self.in_flight);
        self.max_concurrent.fetch_max(in_flight, SeqCst);
        // Reads before it waits, like a slow store.
        let mut record = self.record.clone();
        if self.is_revoked.load(SeqCst) {
            record.key.revoked_at = Some(jiff::Timestamp::UNIX_EPOCH);
        }
        self.gate.notified().await;
        self.gate.notify_one();
        Ok(Some(record))
    }
}

struct Setup {
    store: Arc<Revoked>,
    cache: KeyCache,
}

impl Setup {
    fn new(record: &KeyRecord) -> Arc<Self> {
        let store = Revoked::of(record);
        let clock = Clock::manual(jiff::Timestamp::UNIX_EPOCH);
        let cache = KeyCache::new(store.clone(), config(), clock);
        Arc::new(Self { store, cache })
    }

    fn id(&self) -> KeyId {
        self.store.record.key.id
    }

    fn cached(&self) -> CacheLookup {
        self.cache.get(self.id(), self.cache.clock().now())
    }

    /// Whether the key is found and not revoked.
    async fn is_usable(&self) -> bool {
        let found = match self.cached() {
            CacheLookup::Hit(entry) => Some(entry).filter(|entry| entry.exists),
            CacheLookup::Stale(_) | CacheLookup::Miss => {
                self.cache.lookup(self.id()).await.unwrap()
            }
        };
        found.is_some_and(|entry| entry.key.revoked_at.is_none())
    }

    fn revoke(&self) {
        self.store.is_revoked.store(true, SeqCst);
        self.cache.invalidate(self.id());
    }
}

mod prompt_revocation {
    use super::*;

    #[test]
    fn no_lookup_restores_a_revoked_key() {
        let record = record();
        check(move || {
            let setup = Setup::new(&record);
            setup.store.open();
            let revoked = Arc::new(AtomicBool::new(false));
            let readers = [(); 2].map(|()| {
                let (setup, revoked) = (setup.clone(), revoked.clone());
                thread(move || {
                    let late = revoked.load(SeqCst);
                    let usable = block_on(setup.is_usable());
                    assert!(!(late && usable), "the key was revoked before the lookup");
                })
            });
            setup.revoke();
            revoked.store(true, SeqCst);
            assert!(!block_on(setup.is_usable()));
            for reader in readers {
                reader.join().unwrap();
            }
            assert!(!block_on(setup.is_usable()));
            assert!(setup.cache.is_idle());
        });
    }

    /// A waiter may observe the result only after the key is revoked.
    #[test]
    fn no_waiter_gets_a_result_from_before_the_revocation() {
        check(|| {
            let id = KeyId::from_number(1);
            let flights = Arc::new(SingleFlight::default());
            let [is_revoked, revoked] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
            let readers = [(); 2].map(|()| {
                let flights = flights.clone();
                let (is_revoked, revoked) = (is_revoked.clone(), revoked.clone());
                thread(move || {
                    let waiter = flights.join(id);
                    let late = revoked.load(SeqCst);
                    let found = block_on(waiter.run(async || fetch(&waiter, &is_revoked).await));
                    assert!(!(late && found.as_ref().is_some_and(is_usable)));
                })
            });
            is_revoked.store(true, SeqCst);
            flights.invalidate(id, || ());
            revoked.store(true, SeqCst);
            for reader in readers {
                reader.join().unwrap();
            }
            assert!(flights.is_empty());
        });
    }
}

/// Here, a usable key is represented by an error and a revoked one by `None`.
fn is_usable(found: &LookupResult) -> bool {
    matches!(found, Err(StoreError::Timeout))
}

async fn fetch(waiter: &Waiter<'_>, is_revoked: &AtomicBool) -> LookupResult {
    let found = if is_revoked.load(SeqCst) {
        Ok(None)
    } else {
        Err(StoreError::Timeout)
    };
    waiter.complete(None, || found).unwrap_or(Ok(None))
}

mod bounded_unauthenticated_state {
    use super::*;

    #[test]
    fn a_key_has_one_store_lookup_at_a_time() {
        let record = record();
        check(move || {
            let setup = Setup::new(&record);
            let readers = [(); 2].map(|()| {
                let setup = setup.clone();
                thread(move || assert!(block_on(setup.is_usable())))
            });
            setup.store.open();
            assert!(block_on(setup.is_usable()));
            for reader in readers {
                reader.join().unwrap();
            }
            assert_eq!(setup.store.max_concurrent.load(SeqCst), 1);
            assert!(setup.cache.is_idle());
        });
    }

    #[test]
    fn cancelled_lookup_is_taken_over_and_leaves_no_state() {
        let record = record();
        check(move || {
            let setup = Setup::new(&record);
            let dropped = setup.clone();
            let dropped = thread(move || {
                let mut in_flight = pin!(dropped.is_usable());
                let _ = in_flight
                    .as_mut()
                    .poll(&mut Context::from_waker(Waker::noop()));
            });
            let other = setup.clone();
            let other = thread(move || assert!(block_on(other.is_usable())));
            setup.store.open();
            dropped.join().unwrap();
            other.join().unwrap();
            assert_eq!(setup.store.max_concurrent.load(SeqCst), 1);
            assert!(setup.cache.is_idle());
        });
    }
}
