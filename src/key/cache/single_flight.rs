//! Look-ups under way: one for each key that is asked for, however many wait for it.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use foldhash::fast::RandomState;

use super::entry::Found;
use crate::id::KeyId;
use crate::sync::atomic::AtomicBool;
use crate::sync::{Mutex, MutexGuard, OnceCell};

/// The register of look-ups. What a cache holds changes only under its lock.
#[derive(Default)]
pub(super) struct SingleFlight(Mutex<HashMap<KeyId, Registered, RandomState>>);

/// A key's look-ups since it last changed.
#[derive(Default)]
struct Registered {
    /// Whether the key changed since: all who wait for any of them share it.
    overtaken: Arc<AtomicBool>,
    /// The one under way.
    flight: Option<Arc<Flight>>,
    /// Those who wait for the one under way, or have not yet seen that theirs has landed.
    waiters: usize,
}

/// A look-up. Whoever comes first carries it out; when that request is dropped, the next in line
/// begins again.
type Flight = OnceCell<Found>;

impl SingleFlight {
    fn lock(&self) -> MutexGuard<'_, HashMap<KeyId, Registered, RandomState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a key's look-up with all others who do.
    pub(super) fn join(&self, id: KeyId) -> Waiter<'_> {
        let mut flights = self.lock();
        let registered = flights.entry(id).or_default();
        registered.waiters += 1;
        Waiter {
            flights: self,
            id,
            overtaken: registered.overtaken.clone(),
            flight: registered.flight.get_or_insert_default().clone(),
        }
    }

    /// A key may have changed: what its look-ups found must not be used any more, those included that
    /// landed and that somebody has still to wake up for.
    pub(super) fn invalidate(&self, id: KeyId, forget: impl FnOnce()) {
        let mut flights = self.lock();
        if let Some(registered) = flights.remove(&id) {
            registered.overtaken.store(true, Ordering::Release);
        }
        forget();
    }

    /// Any key may have changed.
    pub(super) fn invalidate_all(&self, forget: impl FnOnce()) {
        let mut flights = self.lock();
        for (_, registered) in flights.drain() {
            registered.overtaken.store(true, Ordering::Release);
        }
        forget();
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}

/// One of those who wait for a look-up. The last of a key's takes its look-ups off the register.
pub(super) struct Waiter<'a> {
    flights: &'a SingleFlight,
    id: KeyId,
    overtaken: Arc<AtomicBool>,
    flight: Arc<Flight>,
}

impl Waiter<'_> {
    pub(super) fn id(&self) -> KeyId {
        self.id
    }

    /// What is found by whoever comes first; `None` if a change overtook it.
    ///
    /// # Errors
    ///
    /// What keeps this one from carrying it out: then the next in line does.
    pub(super) async fn found<E, F: Future<Output = Result<Found, E>>>(
        &self,
        fetch: impl FnOnce() -> F,
    ) -> Result<Option<Found>, E> {
        let found = self.flight.get_or_try_init(fetch).await?.clone();
        Ok((!self.is_invalidated()).then_some(found))
    }

    /// Ends the look-up and keeps what was found; `None` if a change overtook it. Whoever comes from
    /// here on begins another.
    pub(super) fn complete(&self, keep: impl FnOnce() -> Found) -> Option<Found> {
        let mut flights = self.flights.lock();
        if self.is_invalidated() {
            return None;
        }
        if let Some(registered) = flights.get_mut(&self.id) {
            registered.flight = None;
        }
        Some(keep())
    }

    fn is_invalidated(&self) -> bool {
        self.overtaken.load(Ordering::Acquire)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        // Others may have taken the place of look-ups that a change overtook.
        if let Some(registered) = flights.get_mut(&self.id)
            && Arc::ptr_eq(&registered.overtaken, &self.overtaken)
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
    /// The same for one whom nothing keeps from it.
    pub(super) async fn find(&self, fetch: impl AsyncFnOnce() -> Found) -> Option<Found> {
        let fetch = async || Ok::<_, std::convert::Infallible>(fetch().await);
        let Ok(found) = self.found(fetch).await;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_6_the_last_waiter_takes_its_look_up_along() {
        let flights = SingleFlight::default();
        let (first, second) = (
            flights.join(KeyId::from_number(1)),
            flights.join(KeyId::from_number(1)),
        );
        // Held a moment longer than the waiters, as when both are dropped at once.
        let _held = (first.flight.clone(), second.flight.clone());
        drop(first);
        assert!(!flights.is_empty());
        drop(second);
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn rule_4_a_change_overtakes_those_who_wake_up_late() {
        let (flights, id) = (SingleFlight::default(), KeyId::from_number(1));
        let (first, late) = (flights.join(id), flights.join(id));
        let landed = first
            .find(async || first.complete(|| Ok(None)).unwrap())
            .await;
        assert!(landed.is_some());
        drop(first);
        // It has landed: whoever comes now looks anew, and the change overtakes both.
        let next = flights.join(id);
        assert!(!Arc::ptr_eq(&next.flight, &late.flight));
        flights.invalidate(id, || ());
        let after = flights.join(id);
        for waiter in [&late, &next] {
            let fetch = async || {
                waiter
                    .complete(|| panic!("it was overtaken"))
                    .unwrap_or(Ok(None))
            };
            assert!(waiter.find(fetch).await.is_none());
        }
        drop((late, next));
        // Those who left belonged to look-ups before the change.
        assert!(!flights.is_empty());
        assert!(after.find(async || Ok(None)).await.is_some());
        drop(after);
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn rule_6_look_ups_that_landed_leave_with_their_last_waiter() {
        let (flights, id) = (SingleFlight::default(), KeyId::from_number(1));
        let mut waiters = Vec::new();
        for _ in 0..10 {
            let waiter = flights.join(id);
            let landed = waiter
                .find(async || waiter.complete(|| Ok(None)).unwrap())
                .await;
            assert!(landed.is_some());
            waiters.push(waiter);
        }
        assert_eq!(flights.lock().len(), 1);
        drop(waiters);
        assert!(flights.is_empty());
    }
}
