//! Single flight: one pending lookup per key, however many requests wait for it.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use foldhash::fast::RandomState;

use super::entry::LookupResult;
use crate::id::KeyId;
use crate::sync::atomic::AtomicBool;
use crate::sync::{Mutex, MutexGuard, OnceCell};

/// The pending lookups. A cache is modified only while this lock is held.
#[derive(Default)]
pub(super) struct SingleFlight(Mutex<HashMap<KeyId, Registered, RandomState>>);

/// The lookups of a key since its last change.
#[derive(Default)]
struct Registered {
    /// Whether the key has changed; shared with all waiters.
    invalidated: Arc<AtomicBool>,
    /// The pending lookup.
    flight: Option<Arc<Flight>>,
    /// The owners that were changed since the pending lookup started, whose keys it must not find.
    changed_owners: Vec<Arc<str>>,
    /// The owners of the keys that completed lookups found.
    found_owners: Vec<Arc<str>>,
    /// The number of waiters, including those that have not yet observed a completed lookup.
    waiters: usize,
}

/// A lookup, run by its first waiter. If that is cancelled, the next waiter starts it again.
type Flight = OnceCell<LookupResult>;

impl SingleFlight {
    fn lock(&self) -> MutexGuard<'_, HashMap<KeyId, Registered, RandomState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the pending lookup of a key, or registers a new one.
    pub(super) fn join(&self, id: KeyId) -> Waiter<'_> {
        let mut flights = self.lock();
        let registered = flights.entry(id).or_default();
        registered.waiters += 1;
        Waiter {
            flights: self,
            id,
            invalidated: registered.invalidated.clone(),
            flight: registered.flight.get_or_insert_default().clone(),
        }
    }

    /// Discards the lookups of a key that may have changed, including completed ones whose waiters have not
    /// resumed, and evicts the key.
    pub(super) fn invalidate(&self, id: KeyId, evict: impl FnOnce()) {
        let mut flights = self.lock();
        if let Some(registered) = flights.remove(&id) {
            registered.invalidated.store(true, Ordering::Release);
        }
        evict();
    }

    /// Discards the lookups that find a key of an owner that may have changed, and evicts its keys. Other lookups go on:
    /// a slow store must not fail them because owners keep changing.
    pub(super) fn invalidate_owner(&self, owner: &str, evict: impl FnOnce()) {
        let mut flights = self.lock();
        let changed: Arc<str> = owner.into();
        flights.retain(|_, registered| {
            let is_of_owner = registered.found_owners.contains(&changed);
            if is_of_owner {
                registered.invalidated.store(true, Ordering::Release);
            } else if registered.flight.is_some() && !registered.changed_owners.contains(&changed) {
                registered.changed_owners.push(changed.clone());
            }
            !is_of_owner
        });
        evict();
    }

    /// Discards all lookups and evicts everything.
    pub(super) fn invalidate_all(&self, evict: impl FnOnce()) {
        let mut flights = self.lock();
        for (_, registered) in flights.drain() {
            registered.invalidated.store(true, Ordering::Release);
        }
        evict();
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}

/// A waiter of a lookup. The last waiter of a key removes it from the register.
pub(super) struct Waiter<'a> {
    flights: &'a SingleFlight,
    id: KeyId,
    invalidated: Arc<AtomicBool>,
    flight: Arc<Flight>,
}

impl Waiter<'_> {
    pub(super) fn id(&self) -> KeyId {
        self.id
    }

    /// Runs the lookup or waits for it. `None` if the key changed meanwhile.
    ///
    /// # Errors
    ///
    /// The error of `fetch`, if this waiter runs it; the next waiter then takes over.
    pub(super) async fn found<E, F: Future<Output = Result<LookupResult, E>>>(
        &self,
        fetch: impl FnOnce() -> F,
    ) -> Result<Option<LookupResult>, E> {
        let found = self.flight.get_or_try_init(fetch).await?.clone();
        Ok((!self.is_invalidated()).then_some(found))
    }

    /// Completes the lookup and caches the result, a key of this owner; `None` if the key or the owner changed meanwhile.
    /// Later requests start a new lookup.
    pub(super) fn complete(
        &self,
        owner: Option<Arc<str>>,
        insert: impl FnOnce() -> LookupResult,
    ) -> Option<LookupResult> {
        let mut flights = self.flights.lock();
        if self.is_invalidated() {
            return None;
        }
        if let Some(registered) = flights.get_mut(&self.id) {
            if let Some(owner) = owner {
                if registered.changed_owners.contains(&owner) {
                    registered.invalidated.store(true, Ordering::Release);
                    flights.remove(&self.id);
                    return None;
                }
                if !registered.found_owners.contains(&owner) {
                    registered.found_owners.push(owner);
                }
            }
            registered.flight = None;
            registered.changed_owners.clear();
        }
        Some(insert())
    }

    fn is_invalidated(&self) -> bool {
        self.invalidated.load(Ordering::Acquire)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        // After an invalidation, the register may have a newer entry for the key.
        if let Some(registered) = flights.get_mut(&self.id)
            && Arc::ptr_eq(&registered.invalidated, &self.invalidated)
        {
            registered.waiters -= 1;
            if registered.waiters == 0 {
                flights.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
impl Waiter<'_> {
    /// Like [`found`](Self::found), for a `fetch` that cannot fail.
    pub(super) async fn run(
        &self,
        fetch: impl AsyncFnOnce() -> LookupResult,
    ) -> Option<LookupResult> {
        let fetch = async || Ok::<_, std::convert::Infallible>(fetch().await);
        let Ok(found) = self.found(fetch).await;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    mod bounded_unauthenticated_state {
        use super::*;

        #[test]
        fn last_waiter_removes_its_lookup() {
            let flights = SingleFlight::default();
            let (first, second) = (
                flights.join(KeyId::from_number(1)),
                flights.join(KeyId::from_number(1)),
            );
            // Held longer than the waiters, as if both were dropped concurrently.
            let _flights = (first.flight.clone(), second.flight.clone());
            drop(first);
            assert!(!flights.is_empty());
            drop(second);
            assert!(flights.is_empty());
        }

        #[tokio::test]
        async fn completed_lookups_are_removed_with_their_last_waiter() {
            let (flights, id) = (SingleFlight::default(), KeyId::from_number(1));
            let mut waiters = Vec::new();
            for _ in 0..10 {
                let waiter = flights.join(id);
                let completed = waiter
                    .run(async || waiter.complete(None, || Ok(None)).unwrap())
                    .await;
                assert!(completed.is_some());
                waiters.push(waiter);
            }
            assert_eq!(flights.lock().len(), 1);
            drop(waiters);
            assert!(flights.is_empty());
        }
    }

    mod prompt_revocation {
        use super::*;

        #[tokio::test]
        async fn invalidation_discards_results_of_late_waiters() {
            let (flights, id) = (SingleFlight::default(), KeyId::from_number(1));
            let (first, late) = (flights.join(id), flights.join(id));
            let completed = first
                .run(async || first.complete(None, || Ok(None)).unwrap())
                .await;
            assert!(completed.is_some());
            drop(first);
            // The lookup is complete: new requests start another, and the invalidation discards both.
            let next = flights.join(id);
            assert!(!Arc::ptr_eq(&next.flight, &late.flight));
            flights.invalidate(id, || ());
            let after = flights.join(id);
            for waiter in [&late, &next] {
                let fetch = async || {
                    waiter
                        .complete(None, || panic!("the lookup was invalidated"))
                        .unwrap_or(Ok(None))
                };
                assert!(waiter.run(fetch).await.is_none());
            }
            drop((late, next));
            // The dropped waiters belonged to lookups before the invalidation.
            assert!(!flights.is_empty());
            assert!(after.run(async || Ok(None)).await.is_some());
            drop(after);
            assert!(flights.is_empty());
        }

        #[tokio::test]
        async fn changes_of_owners_discard_only_lookups_that_find_their_keys() {
            let (flights, id) = (SingleFlight::default(), KeyId::from_number(1));
            let owner = |name: &str| Some(Arc::<str>::from(name));
            let complete = async |waiter: &Waiter<'_>, found: Option<Arc<str>>| {
                let fetch = async || waiter.complete(found, || Ok(None)).unwrap_or(Ok(None));
                waiter.run(fetch).await.is_some()
            };
            // Changed during the lookup.
            for (found, is_kept) in [(owner("acme"), false), (owner("other"), true), (None, true)] {
                let [waiter, late] = [flights.join(id), flights.join(id)];
                flights.invalidate_owner("acme", || ());
                assert_eq!(complete(&waiter, found).await, is_kept);
                assert_eq!(complete(&late, None).await, is_kept);
                drop((waiter, late));
                assert!(flights.is_empty());
            }
            // Changed after the lookup, before a late waiter has resumed.
            for (changed, is_kept) in [("acme", false), ("other", true)] {
                let [waiter, late] = [flights.join(id), flights.join(id)];
                assert!(complete(&waiter, owner("acme")).await);
                flights.invalidate_owner(changed, || ());
                assert_eq!(complete(&late, None).await, is_kept);
            }
            // Changed before the lookup.
            flights.invalidate_owner("acme", || ());
            let waiter = flights.join(id);
            assert!(complete(&waiter, owner("acme")).await);
        }
    }
}
