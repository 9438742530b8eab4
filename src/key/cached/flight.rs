//! Look-ups under way: one for each key that is asked for, however many wait for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use tokio::sync::OnceCell;

use super::cache::Found;
use crate::id::KeyId;

/// The register of look-ups. What a cache holds changes only under its lock.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<KeyId, Registered, RandomState>>);

#[derive(Default)]
struct Registered {
    flight: Arc<Flight>,
    waiters: usize,
}

/// A look-up. Whoever comes first carries it out; when that request is dropped, the next in line
/// begins again.
#[derive(Default)]
struct Flight {
    found: OnceCell<Found>,
    overtaken: AtomicBool,
}

impl Flights {
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
            flight: registered.flight.clone(),
        }
    }

    /// A key may have changed: what is found by its look-up must not be used any more.
    pub(super) fn overtake(&self, id: KeyId, forget: impl FnOnce()) {
        let mut flights = self.lock();
        if let Some(registered) = flights.remove(&id) {
            registered.flight.overtaken.store(true, Ordering::Release);
        }
        forget();
    }

    /// Any key may have changed.
    pub(super) fn overtake_all(&self, forget: impl FnOnce()) {
        let mut flights = self.lock();
        for (_, registered) in flights.drain() {
            registered.flight.overtaken.store(true, Ordering::Release);
        }
        forget();
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}

/// One of those who wait for a look-up. When the last is gone, it is taken off the register.
pub(super) struct Waiter<'a> {
    flights: &'a Flights,
    id: KeyId,
    flight: Arc<Flight>,
}

impl Waiter<'_> {
    pub(super) fn id(&self) -> KeyId {
        self.id
    }

    /// What is found by whoever comes first; `None` if a change overtook it.
    pub(super) async fn found<F: Future<Output = Found>>(
        &self,
        fetch: impl FnOnce() -> F,
    ) -> Option<Found> {
        let found = self.flight.found.get_or_init(fetch).await.clone();
        (!self.flight.overtaken.load(Ordering::Acquire)).then_some(found)
    }

    /// Ends the look-up and keeps what was found; `None` if a change overtook it.
    pub(super) fn land(&self, keep: impl FnOnce() -> Found) -> Option<Found> {
        let mut flights = self.flights.lock();
        if self.flight.overtaken.load(Ordering::Acquire) {
            return None;
        }
        flights.remove(&self.id);
        Some(keep())
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        // Another look-up may have taken the place of one that ended.
        if let Some(registered) = flights.get_mut(&self.id)
            && Arc::ptr_eq(&registered.flight, &self.flight)
        {
            registered.waiters -= 1;
            if registered.waiters == 0 {
                flights.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_6_the_last_waiter_takes_its_look_up_along() {
        let flights = Flights::default();
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
}
