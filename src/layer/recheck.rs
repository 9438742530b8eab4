//! Rechecks the key of an admitted request that has waited for the service to be ready.

use std::sync::Arc;
use std::time::Duration;

use http::Request;

use super::admission::{Admitted, Resumed, Step};
use super::caller::Caller;
use super::config::{Config, StoreFailure};
use super::rejection::{Rejection, log_rejection};
use super::request_parts::RequestParts;
use super::revocation::rejected;
use crate::key::{CacheLookup, CachedKey, StoreError};
use crate::telemetry;
use crate::usage::RejectionReason;

/// The minimum validity of a lookup: without caching, a short wait does not cause another lookup.
const GRACE: Duration = Duration::from_secs(1);
/// The maximum number of lookups for a request that waits repeatedly.
const MAX_LOOKUPS: u8 = 4;

impl Config {
    /// Rechecks the key of a request admitted by this layer, which may have been revoked while the request waited.
    /// The store is only queried if the cache entry was removed or has expired.
    pub(super) fn recheck<B>(
        self: &Arc<Self>,
        request: &Request<B>,
        admitted: Admitted,
        lookups: &mut u8,
    ) -> Step {
        let caller = request.extensions().get::<Caller>();
        let Some(caller) = caller.filter(|caller| caller.admitted_by == self.limits_id()) else {
            return Step::Admit(admitted);
        };
        let (entry, now) = (&caller.entry, self.clock.now());
        let known = match self.cache.get(entry.key.id, now) {
            CacheLookup::Hit(known) => Some(known),
            CacheLookup::Stale(known)
                if Arc::ptr_eq(&known, entry) && known.is_fresh(now, GRACE) =>
            {
                Some(known)
            }
            CacheLookup::Stale(_) | CacheLookup::Miss => None,
        };
        if let Some(known) = known {
            return match rejected(&known, entry, now) {
                None => Step::Admit(admitted),
                Some(reason) => self.reject_admitted(reason, admitted, request),
            };
        }
        if *lookups >= MAX_LOOKUPS {
            return self.reject_admitted(RejectionReason::StoreUnavailable, admitted, request);
        }
        *lookups += 1;
        let (cache, entry) = (self.cache.clone(), entry.clone());
        let wait = Box::pin(async move {
            let found = cache.lookup(entry.key.id).await;
            Resumed::Rechecked {
                found,
                entry,
                admitted,
            }
        });
        Step::Wait(wait, None)
    }

    /// Continues after the lookup of a recheck.
    pub(super) fn rechecked<B>(
        &self,
        found: Result<Option<Arc<CachedKey>>, StoreError>,
        entry: &CachedKey,
        admitted: Admitted,
        request: &Request<B>,
    ) -> Step {
        let reason = match found {
            Ok(Some(known)) => rejected(&known, entry, self.clock.now()),
            Ok(None) => Some(RejectionReason::Unknown),
            Err(error) => {
                telemetry::error!(
                    error = &error as &dyn std::error::Error,
                    "key lookup failed"
                );
                let is_admitted = self.store_failure == StoreFailure::Admit;
                let is_admitted = is_admitted && !matches!(error, StoreError::Busy);
                (!is_admitted).then_some(RejectionReason::StoreUnavailable)
            }
        };
        match reason {
            None => Step::Admit(admitted),
            Some(reason) => self.reject_admitted(reason, admitted, request),
        }
    }

    /// Rejects a request that was admitted. Its event records the rejection.
    #[cold]
    fn reject_admitted<B>(
        &self,
        reason: RejectionReason,
        admitted: Admitted,
        request: &Request<B>,
    ) -> Step {
        let key = request.extensions().get::<Caller>().map(|caller| caller.id);
        log_rejection(reason, key);
        let rejection = Rejection {
            key,
            ..Rejection::new(reason)
        };
        let mut response = self
            .rejections
            .response(rejection, RequestParts::of(request));
        admitted.reject(reason, &mut response);
        Step::Reject(response)
    }
}
