//! Whether an admitted request may still be called once it has waited for the service.

use std::sync::Arc;
use std::time::Duration;

use http::Request;

use super::admission::{Admitted, Resumed, Step, Waited};
use super::caller::Caller;
use super::config::{Config, StoreFailure};
use super::rejection::{Rejection, log_rejection};
use super::request_parts::RequestParts;
use super::revocation::rejected;
use crate::key::{CacheLookup, CachedKey, StoreError};
use crate::telemetry;
use crate::usage::RejectionReason;

/// How long a lookup counts at least: where nothing is cached, a request that waits for a moment is not looked up
/// again.
const GRACE: Duration = Duration::from_secs(1);
/// Lookups at most for one request that waits time and again.
const MAX_LOOKUPS: u8 = 4;

impl Config {
    /// Checks the key of a request again that this layer admitted and that has waited since: a key that was
    /// revoked meanwhile does not pass. The store is asked only if the key was dropped from the cache, or its
    /// time to live is over.
    pub(super) fn recheck<B>(
        self: &Arc<Self>,
        request: &Request<B>,
        admitted: Admitted,
        lookups: &mut u8,
    ) -> Step {
        let caller = request.extensions().get::<Caller>();
        let Some(caller) = caller.filter(|caller| caller.admitted_by == self.limits_id) else {
            return Step::Admit(admitted);
        };
        let (entry, now) = (&caller.entry, self.clock.now());
        let known = match self.cache.get(entry.key.id, now) {
            CacheLookup::Held(known) => Some(known),
            CacheLookup::Stale(known)
                if Arc::ptr_eq(&known, entry) && known.is_fresh(now, GRACE) =>
            {
                Some(known)
            }
            CacheLookup::Stale(_) | CacheLookup::Ask => None,
        };
        if let Some(known) = known {
            return match rejected(&known, entry, now) {
                None => Step::Admit(admitted),
                Some(reason) => self.refuse_admitted(reason, admitted, request),
            };
        }
        if *lookups >= MAX_LOOKUPS {
            return self.refuse_admitted(RejectionReason::StoreUnavailable, admitted, request);
        }
        *lookups += 1;
        let (cache, entry) = (self.cache.clone(), entry.clone());
        Step::Wait(Box::pin(async move {
            let found = cache.lookup(entry.key.id).await;
            let what = Resumed::Rechecked {
                found,
                entry,
                admitted,
            };
            Waited { began: now, what }
        }))
    }

    /// The store has answered, or has not.
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
                let passes = self.store_failure == StoreFailure::Pass;
                let passes = passes && !matches!(error, StoreError::Busy);
                (!passes).then_some(RejectionReason::StoreUnavailable)
            }
        };
        match reason {
            None => Step::Admit(admitted),
            Some(reason) => self.refuse_admitted(reason, admitted, request),
        }
    }

    /// Refuses a request that was admitted: its event tells of the refusal.
    #[cold]
    fn refuse_admitted<B>(
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
        let mut response = self.rejections.answer(rejection, RequestParts::of(request));
        admitted.reject(reason, &mut response);
        Step::Reject(response)
    }
}
