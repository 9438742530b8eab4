//! Pending and failed lookups in the key store.

use std::net::IpAddr;
use std::sync::Arc;

use super::admission::{Admission, Resumed};
use super::authorize::{KnownFrom, is_active};
use super::candidate::Candidate;
use super::client_limit::ClientLimit;
use super::config::{Config, StoreFailure};
use super::request_context::RequestContext;
use crate::clock::Now;
use crate::key::{CachedKey, Digest, StoreError};
use crate::limit::Charge;
use crate::telemetry;
use crate::usage::RejectionReason;

impl Config {
    /// Looks keys up in the store, until the secret matches one. The request that starts a lookup is charged, not those
    /// that join it. `payer` is `None` to refresh an active key: the lookup limit was not checked, and nothing is
    /// charged.
    #[cold]
    pub(super) fn look_up(
        self: &Arc<Self>,
        candidates: Vec<Candidate>,
        payer: Option<Option<(IpAddr, &Arc<ClientLimit>)>>,
        began: Now,
    ) -> Admission {
        let limit_checked = payer.is_some();
        let payer = payer
            .flatten()
            .map(|(address, limit)| (address, limit.clone()));
        let config = self.clone();
        Admission::Pending(Box::pin(async move {
            let mut charge = None;
            let mut candidates = candidates.into_iter().peekable();
            loop {
                let candidate = candidates.next().expect("there is a candidate");
                let mut pay = || {
                    if let (Some((address, limit)), None) = (&payer, &charge) {
                        charge = Some(limit.charge(Some(*address), began)?);
                    }
                    Ok(())
                };
                let found = match config.cache.lookup_charged(candidate.id, &mut pay).await {
                    Ok(found) => found,
                    Err(wait) => return Resumed::LookupLimited { wait },
                };
                #[cfg(feature = "password-hashes")]
                let found = match found {
                    Ok(Some(entry)) if entry.digest.password_hash().is_some() => {
                        // Charged even if the lookup was free.
                        if let Err(wait) = pay() {
                            return Resumed::LookupLimited { wait };
                        }
                        config.verify_by_password_hash(entry, &candidate).await
                    }
                    found => found,
                };
                let is_over = candidates.peek().is_none()
                    || match &found {
                        Ok(Some(entry)) => config.verify_candidate(&candidate, entry),
                        Ok(None) => false,
                        Err(_) => true,
                    };
                if is_over {
                    return Resumed::LookedUp {
                        found,
                        candidate,
                        charge,
                        limit_checked,
                    };
                }
            }
        }))
    }

    /// Continues after a store lookup. The charge is refunded if the lookup found an active key or the store
    /// failed. If the future is dropped before, it is not refunded.
    #[cold]
    pub(super) fn key_looked_up(
        self: &Arc<Self>,
        found: Result<Option<Arc<CachedKey>>, StoreError>,
        candidate: &Candidate,
        charge: Option<Charge>,
        limit_checked: bool,
        context: &RequestContext<'_>,
    ) -> Admission {
        if candidate.digest.is_none() {
            context.claimed.set(Some(candidate.id));
        }
        let reject = |reason| {
            if limit_checked {
                self.reject_unauthenticated(reason, context)
            } else {
                self.reject_unverified(reason, context)
            }
        };
        match found {
            Ok(Some(entry)) if self.verify_candidate(candidate, &entry) => {
                if is_active(&entry, context.now) {
                    self.refund(charge);
                }
                let known = if limit_checked {
                    KnownFrom::Store
                } else {
                    KnownFrom::Cache
                };
                self.authorize(entry, known, None, context)
            }
            Ok(Some(_)) => reject(RejectionReason::WrongSecret),
            Ok(None) => {
                self.verify_dummy(&candidate.secret);
                reject(RejectionReason::Unknown)
            }
            Err(error) => {
                self.refund(charge);
                self.store_failed(&error, context)
            }
        }
    }

    /// Verifies against a dummy digest, so that unknown key ids take the same time as known ones.
    #[inline(never)]
    fn verify_dummy(&self, secret: &[u8]) {
        let dummy = Digest::dummy();
        std::hint::black_box(self.peppers.verify(secret, &dummy, false));
    }

    #[cold]
    pub(super) fn store_failed(
        self: &Arc<Self>,
        error: &StoreError,
        context: &RequestContext<'_>,
    ) -> Admission {
        telemetry::error!(error = error as &dyn std::error::Error, "key lookup failed");
        // Overloading the store must not admit anyone.
        if self.store_failure == StoreFailure::Reject || matches!(error, StoreError::Busy) {
            return self.reject_unauthenticated(RejectionReason::StoreUnavailable, context);
        }
        let (admitted, mark) = match self.pass_without_key(None, context) {
            Admission::Anonymous(admitted, mark) => (admitted, Some(mark)),
            Admission::Unchanged(admitted) => (admitted, None),
            rejected => return rejected,
        };
        self.recorder.count_unverified();
        Admission::Unverified(admitted, mark)
    }
}
