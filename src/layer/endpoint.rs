//! The endpoint of a request: the route template, never an arbitrary path.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use foldhash::fast::RandomState;

use super::request_parts::RequestParts;
use crate::key::redact_secrets;
use crate::text::floor_char_boundary;
use crate::usage::OTHER_ENDPOINTS;

type Name = dyn for<'a> Fn(RequestParts<'a>) -> Option<Cow<'a, str>> + Send + Sync;

/// Interned endpoint names, shared by events.
pub(crate) struct Endpoints {
    /// Distinguishes these names from those of other layers.
    id: u64,
    name: Option<Arc<Name>>,
    names: RwLock<HashSet<Arc<str>, RandomState>>,
    other: Arc<str>,
}

/// The maximum number of distinct names. All others are grouped.
const MAX_NAMES: usize = 1_024;
/// The maximum length of a name in bytes. Longer names are truncated.
const MAX_LEN: usize = 256;

/// The number of names that each thread remembers, so that it neither locks nor hashes for them.
const RECENT_NAMES: usize = 32;

/// A name, and the id of the [`Endpoints`] that it belongs to.
type Recent = Option<(u64, Arc<str>)>;

thread_local! {
    static RECENT: RefCell<[Recent; RECENT_NAMES]> = const { RefCell::new([const { None }; RECENT_NAMES]) };
}

/// The endpoint of a request before its response.
pub(crate) struct Endpoint {
    pub(crate) name: Option<Arc<str>>,
    /// No route matched, or only a catch-all, as in tonic's router. The path then becomes the endpoint if the
    /// response is gRPC and proves that the service has the method, so that clients cannot exhaust the names.
    pub(crate) may_be_grpc: bool,
}

impl Endpoints {
    pub(crate) fn new(name: Option<Arc<Name>>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            name,
            names: RwLock::default(),
            other: OTHER_ENDPOINTS.into(),
        }
    }

    #[inline]
    pub(crate) fn of(&self, parts: RequestParts<'_>) -> Endpoint {
        if let Some(name) = &self.name {
            return Endpoint {
                name: name(parts).map(|name| self.intern(&name)),
                may_be_grpc: false,
            };
        }
        #[cfg(feature = "axum")]
        if let Some(route) = parts.extensions().get::<axum::extract::MatchedPath>() {
            let route = route.as_str();
            return Endpoint {
                name: Some(self.intern(route)),
                may_be_grpc: route.contains("/{*"),
            };
        }
        Endpoint {
            name: None,
            may_be_grpc: true,
        }
    }

    /// Interns a name.
    #[inline]
    pub(crate) fn intern(&self, name: &str) -> Arc<str> {
        let slot = name.bytes().rev().take(4).map(usize::from).sum::<usize>();
        let slot = (slot + name.len()) % RECENT_NAMES;
        let recent = RECENT.try_with(|recent| {
            let recent = recent.borrow();
            let (id, known) = recent[slot].as_ref()?;
            (*id == self.id && **known == *name).then(|| known.clone())
        });
        if let Ok(Some(known)) = recent {
            return known;
        }
        let known = self.intern_shared(name);
        let _ = RECENT.try_with(|recent| {
            recent.borrow_mut()[slot] = Some((self.id, known.clone()));
        });
        known
    }

    fn intern_shared(&self, name: &str) -> Arc<str> {
        if let Some(known) = self.known(name) {
            return known;
        }
        let name = &*redact_secrets(name, MAX_LEN);
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.get(name) {
            return known.clone();
        }
        if names.len() >= MAX_NAMES {
            return self.other.clone();
        }
        let name: Arc<str> = name.into();
        names.insert(name.clone());
        name
    }

    /// Returns the interned name, if there is one.
    #[inline]
    pub(crate) fn known(&self, name: &str) -> Option<Arc<str>> {
        let name = &name[..floor_char_boundary(name, MAX_LEN)];
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.get(name).cloned()
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Endpoints")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    mod bounded_cardinality {
        use super::*;

        #[test]
        fn endpoint_names_are_bounded() {
            let endpoints = Endpoints::new(None);
            for n in 0..5_000 {
                let name = endpoints.intern(&format!("/{n}"));
                assert_eq!(&*name == OTHER_ENDPOINTS, n >= MAX_NAMES);
            }
            assert_eq!(&*endpoints.intern("/7"), "/7");
            let long = "é".repeat(10_000);
            let endpoints = Endpoints::new(None);
            for _ in 0..2 {
                assert_eq!(*endpoints.intern(&long), long[..MAX_LEN]);
            }
            assert_eq!(endpoints.names.read().unwrap().len(), 1);
            assert_eq!(*endpoints.known(&long).unwrap(), long[..MAX_LEN]);
        }
    }

    #[test]
    fn layers_do_not_share_the_names_that_a_thread_remembers() {
        let (first, second) = (Endpoints::new(None), Endpoints::new(None));
        for _ in 0..2 {
            for endpoints in [&first, &second] {
                assert!(Arc::ptr_eq(
                    &endpoints.intern("/v1"),
                    &endpoints.known("/v1").unwrap()
                ));
            }
        }
    }

    mod secret_confidentiality {
        use super::*;

        #[test]
        fn endpoint_names_contain_no_secrets() {
            let digits = "0".repeat(54);
            let name = Endpoints::new(None).intern(&format!("/hooks/acme_{digits}/x"));
            assert_eq!(&*name, "/hooks/acme_0000…/x");
        }
    }
}
