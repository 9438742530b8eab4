//! Models of the cache: what a change overtakes, and who asks the store.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Waker};

use async_trait::async_trait;

use super::entry::Found;
use super::flight::{Flights, Waiter};
use super::tests::{config, record};
use super::*;
use crate::clock::Clock;
use crate::id::KeyId;
use crate::key::{KeyRecord, KeyStore, StoreError};
use crate::sync::Notify;
use crate::sync::atomic::AtomicBool;
use crate::sync::model::{block_on, check, thread};

/// A key that is revoked while it is looked up.
struct Revoked {
    record: KeyRecord,
    is_revoked: AtomicBool,
    /// Opened once, for all.
    gate: Notify,
    asking: AtomicUsize,
    asked_at_once: AtomicUsize,
}

impl Revoked {
    fn of(record: &KeyRecord) -> Arc<Self> {
        Arc::new(Self {
            record: record.clone(),
            is_revoked: AtomicBool::new(false),
            gate: Notify::default(),
            asking: AtomicUsize::new(0),
            asked_at_once: AtomicUsize::new(0),
        })
    }

    fn open(&self) {
        self.gate.notify_one();
    }
}

#[async_trait]
impl KeyStore for Arc<Revoked> {
    async fn find(&self, _id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        /// Also when it is dropped half way.
        struct Asking<'a>(&'a AtomicUsize);
        impl Drop for Asking<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, SeqCst);
            }
        }
        let asking = self.asking.fetch_add(1, SeqCst) + 1;
        let _asking = Asking(&self.asking);
        self.asked_at_once.fetch_max(asking, SeqCst);
        // Read first, answer later: what a slow store does.
        let mut record = self.record.clone();
        if self.is_revoked.load(SeqCst) {
            record.key.revoked = Some(jiff::Timestamp::UNIX_EPOCH);
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

    fn peek(&self) -> Peek {
        self.cache.peek(self.id(), self.cache.clock().now())
    }

    /// Whether the key is found, and is not revoked.
    async fn is_good(&self) -> bool {
        let found = match self.peek() {
            Peek::Held(entry) => Some(entry).filter(|entry| entry.exists),
            Peek::Stale(_) | Peek::Ask => self.cache.lookup(self.id()).await.unwrap(),
        };
        found.is_some_and(|entry| entry.key.revoked.is_none())
    }

    fn revoke(&self) {
        self.store.is_revoked.store(true, SeqCst);
        self.cache.invalidate(self.id());
    }
}

#[test]
fn rule_4_no_look_up_brings_a_key_back_that_was_revoked() {
    let record = record();
    check(move || {
        let setup = Setup::new(&record);
        setup.store.open();
        let revoked = Arc::new(AtomicBool::new(false));
        let readers = [(); 2].map(|()| {
            let (setup, revoked) = (setup.clone(), revoked.clone());
            thread(move || {
                let late = revoked.load(SeqCst);
                let good = block_on(setup.is_good());
                assert!(!(late && good), "it was revoked before anybody asked");
            })
        });
        setup.revoke();
        revoked.store(true, SeqCst);
        assert!(!block_on(setup.is_good()));
        for reader in readers {
            reader.join().unwrap();
        }
        assert!(!block_on(setup.is_good()));
        assert!(setup.cache.is_idle());
    });
}

/// One that has waited with others, and learns of the answer only after the key was revoked.
#[test]
fn rule_4_nobody_is_handed_what_was_found_before_the_revocation() {
    check(|| {
        let id = KeyId::from_number(1);
        let flights = Arc::new(Flights::default());
        let [is_revoked, revoked] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let readers = [(); 2].map(|()| {
            let flights = flights.clone();
            let (is_revoked, revoked) = (is_revoked.clone(), revoked.clone());
            thread(move || {
                let waiter = flights.join(id);
                let late = revoked.load(SeqCst);
                let found = block_on(waiter.find(async || fetch(&waiter, &is_revoked).await));
                assert!(!(late && found.as_ref().is_some_and(is_good)));
            })
        });
        is_revoked.store(true, SeqCst);
        flights.overtake(id, || ());
        revoked.store(true, SeqCst);
        for reader in readers {
            reader.join().unwrap();
        }
        assert!(flights.is_empty());
    });
}

/// A good key is told from a revoked one by an error here.
fn is_good(found: &Found) -> bool {
    matches!(found, Err(StoreError::Timeout))
}

async fn fetch(waiter: &Waiter<'_>, is_revoked: &AtomicBool) -> Found {
    let found = if is_revoked.load(SeqCst) {
        Ok(None)
    } else {
        Err(StoreError::Timeout)
    };
    waiter.land(|| found).unwrap_or(Ok(None))
}

#[test]
fn rule_6_a_store_is_asked_once_at_a_time_for_a_key() {
    let record = record();
    check(move || {
        let setup = Setup::new(&record);
        let readers = [(); 2].map(|()| {
            let setup = setup.clone();
            thread(move || assert!(block_on(setup.is_good())))
        });
        setup.store.open();
        assert!(block_on(setup.is_good()));
        for reader in readers {
            reader.join().unwrap();
        }
        assert_eq!(setup.store.asked_at_once.load(SeqCst), 1);
        assert!(setup.cache.is_idle());
    });
}

#[test]
fn rule_6_a_look_up_that_is_dropped_is_taken_over_and_leaves_nothing() {
    let record = record();
    check(move || {
        let setup = Setup::new(&record);
        let dropped = setup.clone();
        let dropped = thread(move || {
            let mut asking = pin!(dropped.is_good());
            let _ = asking
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
        });
        let other = setup.clone();
        let other = thread(move || assert!(block_on(other.is_good())));
        setup.store.open();
        dropped.join().unwrap();
        other.join().unwrap();
        assert_eq!(setup.store.asked_at_once.load(SeqCst), 1);
        assert!(setup.cache.is_idle());
    });
}
