//! What is decided about a request, before anything is done to it.

use std::borrow::Borrow;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::Response;
use zeroize::Zeroizing;

use super::answer::{HeaderStyle, LimitHeaders};
use super::client_limit::ClientLimit;
use super::credential::{Found, Presented};
use super::exempt::matches;
use super::gate::{Gate, StoreFailure};
use super::head::RequestHead;
use super::meter::Meter;
use super::reject::Rejection;
use super::report;
use super::step::{Anonymous, Begun, Ticket, Verdict, Waited, What};
use super::terms::Terms;
use super::visit::Visit;
use crate::clock::Now;
use crate::id::KeyId;
use crate::key::{CacheLookup, CachedKey, Digest, KeyStatus, StoreError, id_of, is_importable};
use crate::limit::{Charge, Decision, LimitResponse};
use crate::usage::{Recorder, RejectionReason};

/// From where a key is known.
#[derive(Clone, Copy)]
enum KnownFrom {
    Cache,
    Store,
}

impl Gate {
    #[inline]
    pub(super) fn decide<'a>(
        self: &Arc<Self>,
        visit: &Visit<'a>,
        found: &mut Found<'a>,
        is_preflight: bool,
    ) -> Verdict {
        if self.is_exempt(visit.head) {
            return self.pass_unseen(visit);
        }
        found.look_elsewhere(&self.sources, visit.head);
        if let Some(outer) = visit.outer {
            found.add_taken(&self.sources, &outer.taken);
        }
        if found.has_unread() {
            return self.refuse_stranger(RejectionReason::Malformed, visit);
        }
        let secret = match std::mem::take(&mut found.presented) {
            Presented::Nothing if is_preflight => return self.pass_unseen(visit),
            Presented::Nothing if self.anonymous => {
                let limit = self.anonymous_limit.as_deref();
                return self.pass_without_key(limit, visit);
            }
            Presented::Nothing => return self.refuse_stranger(RejectionReason::Missing, visit),
            Presented::Garbled => return self.refuse_stranger(RejectionReason::Malformed, visit),
            Presented::Ambiguous => return self.refuse_stranger(RejectionReason::Ambiguous, visit),
            Presented::Secret(secret) => secret,
        };
        let Some(id) = self.id_of(&secret) else {
            return self.refuse_stranger(RejectionReason::Malformed, visit);
        };
        match self.cache.get(id, visit.began) {
            CacheLookup::Held(entry) if self.is_its_own(&secret, &entry) => {
                self.judge(entry, KnownFrom::Cache, visit)
            }
            CacheLookup::Held(entry) => {
                // Taken from a list, since the time of a branch would tell one from the other.
                let reasons = [RejectionReason::Unknown, RejectionReason::WrongSecret];
                self.refuse_guess(reasons[usize::from(entry.exists)], visit)
            }
            // Whoever has the secret of a key that let in pays for no look-up.
            CacheLookup::Stale(entry)
                if self.is_its_own(&secret, &entry) && lets_in(&entry, visit.began) =>
            {
                self.ask(id, secret.into_owned(), None, visit.began)
            }
            CacheLookup::Stale(_) | CacheLookup::Ask => match self.payer(visit) {
                Ok(payer) => self.ask(id, secret.into_owned(), Some(payer), visit.began),
                Err(wait) => self.refuse_without_budget(wait, visit),
            },
        }
    }

    /// The store has to be asked. Whoever does pays, and nobody for waiting with others, nor for a key that has
    /// worked: without a payer, the budget was not looked at either.
    #[cold]
    fn ask(
        &self,
        id: KeyId,
        secret: Vec<u8>,
        payer: Option<Option<(IpAddr, &Arc<ClientLimit>)>>,
        began: Now,
    ) -> Verdict {
        let had_budget = payer.is_some();
        let payer = payer
            .flatten()
            .map(|(address, budget)| (address, budget.clone()));
        let secret = Zeroizing::new(secret);
        let cache = self.cache.clone();
        Verdict::Pending(Box::pin(async move {
            let mut charge = None;
            let pay = || {
                if let (Some((address, budget)), None) = (&payer, &charge) {
                    charge = Some(budget.charge(Some(*address), began)?);
                }
                Ok(())
            };
            let what = match cache.lookup_paid(id, pay).await {
                Ok(found) => What::Found {
                    found,
                    secret,
                    charge,
                    had_budget,
                },
                Err(wait) => What::WithoutBudget { wait },
            };
            Waited { began, what }
        }))
    }

    /// The store has answered, or has not. Whoever caused a look-up that came to nothing has paid for
    /// it, those included who did not wait for the answer; a key that does not let in comes to nothing.
    #[cold]
    pub(super) fn found(
        self: &Arc<Self>,
        found: Result<Option<Arc<CachedKey>>, StoreError>,
        secret: &[u8],
        charge: Option<Charge>,
        had_budget: bool,
        visit: &Visit<'_>,
    ) -> Verdict {
        let refuse = |reason| {
            if had_budget {
                self.refuse_stranger(reason, visit)
            } else {
                self.refuse_guess(reason, visit)
            }
        };
        match found {
            Ok(Some(entry)) if self.is_its_own(secret, &entry) => {
                if lets_in(&entry, visit.began) {
                    self.give_back(charge);
                }
                let known = if had_budget {
                    KnownFrom::Store
                } else {
                    KnownFrom::Cache
                };
                self.judge(entry, known, visit)
            }
            Ok(Some(_)) => refuse(RejectionReason::WrongSecret),
            Ok(None) => {
                self.compare_in_vain(secret);
                refuse(RejectionReason::Unknown)
            }
            Err(error) => {
                self.give_back(charge);
                self.store_failed(&error, visit)
            }
        }
    }

    #[inline]
    fn is_exempt(&self, head: RequestHead<'_>) -> bool {
        let path = head.uri().path();
        self.exempt.iter().any(|pattern| matches(pattern, path))
    }

    /// The application lets the request pass without a key and without an event.
    #[inline(never)]
    fn pass_unseen(&self, visit: &Visit<'_>) -> Verdict {
        Verdict::Through(Ticket::unfollowed(visit.additions(HeaderStyle::None, None)))
    }

    #[inline]
    fn id_of(&self, secret: &[u8]) -> Option<KeyId> {
        match id_of(secret) {
            Ok(id) => Some(id),
            Err(_) if self.accept_imported && is_importable(secret) => {
                Some(Digest::sha256(secret).imported_id())
            }
            Err(_) => None,
        }
    }

    /// Whether there is such a key and the secret is its own: the same work if there is none.
    #[inline(never)]
    fn is_its_own(&self, secret: &[u8], entry: &CachedKey) -> bool {
        self.peppers.verify(secret, &entry.digest, entry.exists)
    }

    /// No key has the id that was sent: the same work as for one that does.
    #[inline(never)]
    fn compare_in_vain(&self, secret: &[u8]) {
        let nobodys = Digest::dummy();
        std::hint::black_box(self.peppers.verify(secret, &nobodys, false));
    }

    /// The secret is a key's own: does it work, from here, within its limits?
    #[inline]
    fn judge(
        self: &Arc<Self>,
        entry: Arc<CachedKey>,
        known: KnownFrom,
        visit: &Visit<'_>,
    ) -> Verdict {
        let rejection = self.unusable(&entry, visit).map(|reason| match known {
            KnownFrom::Cache => self.rejection_of(reason, visit),
            // Its address had the budget, as it has for what is found unknown or wrong.
            KnownFrom::Store => Rejection::new(reason),
        });
        if let Some(rejection) = rejection {
            return self.refuse_rejected(&entry, rejection, visit);
        }
        let begun = if self.is_told_already(visit) {
            Begun::nothing()
        } else if self.recorder.reserve() {
            Begun::with(&self.recorder)
        } else {
            return self.refuse_stranger(RejectionReason::RecorderFull, visit);
        };
        let cost = self.cost.as_ref().map_or(1, |cost| cost(visit.head));
        let terms = match Terms::of(self, &entry, visit.began) {
            Ok(terms) => terms,
            Err(error) => {
                return Verdict::Refused(self.limiter_failed(&error, &entry, begun, visit));
            }
        };
        let answer = match &terms.allowance {
            None => LimitResponse::Ready(Decision::default()),
            Some(allowance) => allowance.acquire(cost, visit.began),
        };
        match answer {
            LimitResponse::Ready(decision) => {
                let ticket = self.within_limits(&entry, terms, &decision, cost, begun, visit);
                ticket.map_or_else(Verdict::Refused, |ticket| Verdict::Known(ticket, entry))
            }
            LimitResponse::Pending(decision) => self.wait(entry, decision, cost, begun, visit),
        }
    }

    /// Why a key cannot be used now or from here, whatever its limits.
    #[inline]
    fn unusable(&self, entry: &CachedKey, visit: &Visit<'_>) -> Option<RejectionReason> {
        match entry.key.status(visit.began.timestamp()) {
            KeyStatus::Active => {}
            KeyStatus::Disabled => return Some(RejectionReason::Disabled),
            KeyStatus::Revoked => return Some(RejectionReason::Revoked),
            KeyStatus::Expired => return Some(RejectionReason::Expired),
        }
        let allowed = &entry.key.addresses;
        let here = || self.client_address.of(visit.head);
        let misplaced = !allowed.is_empty() && !here().is_some_and(|here| allowed.contains(here));
        misplaced.then_some(RejectionReason::Address)
    }

    /// The limiter has decided: the ticket of a request that is within its key's limits.
    ///
    /// # Errors
    ///
    /// The answer to one that is not.
    #[expect(clippy::result_large_err, reason = "no larger than what may pass")]
    #[inline]
    pub(super) fn within_limits<R: Borrow<Recorder>>(
        self: &Arc<Self>,
        entry: &Arc<CachedKey>,
        terms: &Terms,
        decision: &Decision,
        cost: u32,
        begun: Begun<R>,
        visit: &Visit<'_>,
    ) -> Result<Ticket, Response<Bytes>> {
        let limited = terms.limited(decision);
        if !decision.is_allowed() {
            let rejection = terms.rejection(decision);
            return Err(self.refuse_key(entry, rejection, limited, begun, visit));
        }
        Ok(self.ticket(entry, limited, cost, begun, visit))
    }

    /// For a key's request that may pass.
    #[inline]
    fn ticket<R: Borrow<Recorder>>(
        self: &Arc<Self>,
        entry: &Arc<CachedKey>,
        limited: Option<(&LimitHeaders, &Decision)>,
        cost: u32,
        begun: Begun<R>,
        visit: &Visit<'_>,
    ) -> Ticket {
        if begun.is_nothing() {
            Ticket::unfollowed(visit.admitted(self, limited))
        } else {
            Ticket::Followed(self.follow(visit, entry, cost, limited, begun))
        }
    }

    /// Follows a key's request from here.
    #[inline]
    pub(super) fn follow<R: Borrow<Recorder>>(
        self: &Arc<Self>,
        visit: &Visit<'_>,
        entry: &Arc<CachedKey>,
        cost: u32,
        limited: Option<(&LimitHeaders, &Decision)>,
        begun: Begun<R>,
    ) -> Meter {
        // Nothing is given up before the hooks that are asked here have answered: one may panic.
        let meter = Meter::of(self, visit, Some(entry), cost, limited);
        self.supersede_anonymous(visit);
        begun.used();
        meter
    }

    /// A request without a key that may pass all the same: an event without a key.
    #[cold]
    fn pass_without_key(
        self: &Arc<Self>,
        limit: Option<&ClientLimit>,
        visit: &Visit<'_>,
    ) -> Verdict {
        if self.is_told_already(visit) || self.anonymous_of(visit).is_some() {
            return Verdict::Through(Ticket::unfollowed(visit.admitted(self, None)));
        }
        if !self.recorder.reserve() {
            return self.refuse_stranger(RejectionReason::RecorderFull, visit);
        }
        let begun = Begun::with(&self.recorder);
        if let Some(limit) = limit {
            let client = self.client_address.payer(visit.head);
            if let Err(wait) = limit.charge(client, visit.began) {
                return self.refuse_anonymous(wait, visit);
            }
        }
        let mut meter = Meter::of(self, visit, None, 0, None);
        begun.used();
        let superseded = Arc::new(AtomicBool::new(false));
        meter.give_way_to(superseded.clone());
        let mark = Anonymous {
            id: visit.id,
            recorder: self.recorder.id(),
            superseded,
        };
        Verdict::Anonymous(Ticket::Followed(meter), mark)
    }

    #[cold]
    pub(super) fn store_failed(self: &Arc<Self>, error: &StoreError, visit: &Visit<'_>) -> Verdict {
        report::store_failure(error);
        // Nobody gets in by asking for more than is asked of the store.
        if self.store_failure == StoreFailure::Refuse || matches!(error, StoreError::Busy) {
            return self.refuse_stranger(RejectionReason::StoreUnavailable, visit);
        }
        let (ticket, mark) = match self.pass_without_key(None, visit) {
            Verdict::Anonymous(ticket, mark) => (ticket, Some(mark)),
            Verdict::Through(ticket) => (ticket, None),
            refused => return refused,
        };
        self.recorder.count_unverified();
        Verdict::Unverified(ticket, mark)
    }

    /// Whether an outer layer's event of a key tells of this request in the same recorder: it is
    /// not told twice.
    #[inline]
    pub(super) fn is_told_already(&self, visit: &Visit<'_>) -> bool {
        visit
            .outer
            .is_some_and(|outer| outer.is_recorded_by(&self.recorder))
    }

    /// The mark of an outer layer that let the request pass without a key, in the same recorder.
    #[inline]
    fn anonymous_of<'a>(&self, visit: &Visit<'a>) -> Option<&'a Anonymous> {
        visit
            .anonymous
            .filter(|mark| mark.recorder == self.recorder.id())
    }

    /// The request turned out to have a key: its event takes the place of the anonymous one.
    #[inline]
    pub(super) fn supersede_anonymous(&self, visit: &Visit<'_>) {
        if let Some(outer) = self.anonymous_of(visit) {
            outer.superseded.store(true, Ordering::Relaxed);
        }
    }
}

fn lets_in(entry: &CachedKey, now: Now) -> bool {
    entry.key.status(now.timestamp()) == KeyStatus::Active
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use tower::ServiceExt;
    use tower_layer::Layer;

    use crate::ApiKeyLayer;
    use crate::backend::MemoryBackend;
    use crate::key::{COMPUTED, Computed, Issuer, KeyAdmin, NewKey, Peppers, Prefix, Secret};

    #[tokio::test]
    async fn rule_3_a_refusal_takes_the_same_work_whether_or_not_there_is_such_a_key() {
        let peppers = Peppers::none().with("p", b"0123456789abcdef").unwrap();
        let keys = MemoryBackend::new();
        let issuer = Issuer::new("acme").unwrap().peppers(peppers.clone());
        let layer = ApiKeyLayer::new(keys.clone()).peppers(peppers);
        let unknown = Secret::generate(&Prefix::new("acme").unwrap()).unwrap();
        let wrong = {
            let (secret, mut record) = issuer.prepare(NewKey::new("wrong")).unwrap();
            record.digest = issuer.prepare(NewKey::new("other")).unwrap().1.digest;
            keys.create(record).await.unwrap();
            secret
        };
        // First they are looked up, then they are held.
        for _ in 0..2 {
            for secret in [&unknown, &wrong] {
                let service = layer.layer(tower::service_fn(async |_: Request<String>| {
                    Ok::<_, Infallible>(Response::new(String::new()))
                }));
                let request = Request::get("/").header("x-api-key", secret.expose());
                COMPUTED.take();
                let answer = service
                    .oneshot(request.body(String::new()).unwrap())
                    .await
                    .unwrap();
                assert_eq!(answer.status(), 401);
                assert_eq!(COMPUTED.take(), Computed { sha256: 1, hmac: 1 });
            }
        }
    }
}
