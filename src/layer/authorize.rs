//! The decision about a request, made before the request is modified.

use std::borrow::{Borrow, Cow};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Response;

use super::admission::{Admission, Admitted, Decided};
use super::caller::AnonymousMark;
use super::candidate::Candidate;
use super::client_limit::ClientLimit;
use super::config::Config;
use super::credential::{Credential, Presented};
use super::exempt::matches;
use super::recorder_permit::RecorderPermit;
use super::rejection::Rejection;
use super::request_context::RequestContext;
use super::request_parts::RequestParts;
use super::tracker::RequestTracker;
use crate::clock::Now;
use crate::key::{
    CacheLookup, CachedKey, KeyStatus, Recalled, Tag, forget, id_of, recall, remember,
};
use crate::limit::{AttachedLimits, Decision, LimitResponse};
use crate::usage::{Recorder, RejectionReason};

/// Where a key was read from.
#[derive(Clone, Copy)]
pub(super) enum KnownFrom {
    Cache,
    Store,
}

impl Config {
    /// Decides about a request whose only credential is a bearer token in the format of a secret, as most requests have.
    /// Returns `None` for all other requests. [`decide`](Self::decide) reads all sources, and decides the same.
    #[inline]
    pub(super) fn decide_plain(
        self: &Arc<Self>,
        parts: RequestParts<'_>,
        began: Now,
    ) -> Option<Decided> {
        let plain = self.sources.plain.as_ref()?;
        let headers = plain.read(parts.headers())?;
        let tag = Tag::of(headers.token)?;
        if self.is_exempt(parts) {
            return None;
        }
        let context = RequestContext::of(parts, began, headers.request_id, headers.content_length);
        if context.outer.is_some() {
            // It may have removed other credentials.
            return None;
        }
        let admission = match self.recall_usable(tag, &context) {
            Some(entry) => self.authorize_usable(entry, &context),
            None => {
                if self.sources.foreign_authorization || !is_word(headers.token) {
                    // Foreign tokens are ignored, and others may be lists.
                    return None;
                }
                self.decide_secret(headers.token.into(), Some(tag), &context)
            }
        };
        Some(Decided::new(admission, plain.bearer, &context))
    }

    /// Decides about a request whose headers have been read.
    #[inline]
    pub(super) fn decide<'a>(
        self: &Arc<Self>,
        context: &RequestContext<'a>,
        credential: &mut Credential<'a>,
        is_preflight: bool,
    ) -> Admission {
        if self.is_exempt(context.parts) {
            return self.pass_exempt(context);
        }
        credential.scan_uri(&self.sources, context.parts);
        if let Some(outer) = context.outer {
            credential.add_stripped(&self.sources, &outer.stripped);
        }
        if credential.has_unread() {
            return self.reject_unauthenticated(RejectionReason::Malformed, context);
        }
        let secret = match std::mem::take(&mut credential.presented) {
            Presented::Missing if is_preflight => return self.pass_exempt(context),
            Presented::Missing if self.anonymous => {
                let limit = self.anonymous_limit.as_deref();
                return self.pass_without_key(limit, context);
            }
            Presented::Missing => {
                return self.reject_unauthenticated(RejectionReason::Missing, context);
            }
            Presented::Malformed => {
                return self.reject_unauthenticated(RejectionReason::Malformed, context);
            }
            Presented::Ambiguous => {
                return self.reject_unauthenticated(RejectionReason::Ambiguous, context);
            }
            Presented::Secret(secret) => secret,
        };
        let tag = Tag::of(&secret);
        if let Some(tag) = tag
            && let Some(entry) = self.recall_usable(tag, context)
        {
            return self.authorize_usable(entry, context);
        }
        self.decide_secret(secret, tag, context)
    }

    /// The key of a remembered secret, if its status and address list admit the request.
    #[inline]
    fn recall_usable(&self, tag: Tag, context: &RequestContext<'_>) -> Option<Arc<CachedKey>> {
        let Recalled { entry, touch } = recall(self.verifier, tag)?;
        if touch {
            let _ = self.cache.get(entry.key.id, context.now);
        }
        if entry.is_fresh(context.now, Duration::ZERO)
            && self.status_rejection(&entry, context).is_none()
        {
            return Some(entry);
        }
        // So that further requests with this secret are processed like those with any other rejected secret.
        forget(self.verifier, tag);
        None
    }

    /// Decides about a request with a secret that is not remembered.
    #[inline]
    fn decide_secret(
        self: &Arc<Self>,
        secret: Cow<'_, [u8]>,
        tag: Option<Tag>,
        context: &RequestContext<'_>,
    ) -> Admission {
        let Some(id) = id_of(&secret) else {
            return self.decide_imported(&secret, context);
        };
        context.claimed.set(Some(id));
        match self.cache.get(id, context.now) {
            CacheLookup::Hit(entry) if self.verify(&secret, &entry) => {
                self.authorize(entry, KnownFrom::Cache, tag, context)
            }
            CacheLookup::Hit(entry) => self.reject_mismatch(entry.exists, context),
            // Refreshing the entry of an active key is not charged to the lookup limit.
            CacheLookup::Stale(entry)
                if self.verify(&secret, &entry) && is_active(&entry, context.now) =>
            {
                self.look_up(vec![Candidate::of(id, secret)], None, context.now)
            }
            CacheLookup::Stale(_) | CacheLookup::Miss => {
                self.look_up_charged(vec![Candidate::of(id, secret)], context)
            }
        }
    }

    /// Decides about a request whose secret does not have the format of this crate.
    #[cold]
    fn decide_imported(self: &Arc<Self>, secret: &[u8], context: &RequestContext<'_>) -> Admission {
        let (mut exists, mut is_importable) = (false, false);
        let mut unknown = Vec::new();
        for format in &self.imported_formats {
            let Some(candidate) = format.candidate(secret, &self.peppers) else {
                continue;
            };
            is_importable = true;
            let candidate = Candidate::imported(candidate);
            match self.cache.get(candidate.id, context.now) {
                CacheLookup::Hit(entry) if self.verify_candidate(&candidate, &entry) => {
                    return self.authorize(entry, KnownFrom::Cache, None, context);
                }
                CacheLookup::Hit(entry) if entry.digest.password_hash().is_none() => {
                    exists |= entry.exists;
                }
                CacheLookup::Stale(entry)
                    if self.verify_candidate(&candidate, &entry)
                        && is_active(&entry, context.now) =>
                {
                    return self.look_up(vec![candidate], None, context.now);
                }
                // A password hash can only be verified while the request waits.
                CacheLookup::Hit(_) | CacheLookup::Stale(_) | CacheLookup::Miss => {
                    unknown.push(candidate);
                }
            }
        }
        match (is_importable, unknown.is_empty()) {
            (false, _) => self.reject_unauthenticated(RejectionReason::Malformed, context),
            (true, true) => self.reject_mismatch(exists, context),
            (true, false) => self.look_up_charged(unknown, context),
        }
    }

    /// Rejects a secret that matches no cached key.
    fn reject_mismatch(self: &Arc<Self>, exists: bool, context: &RequestContext<'_>) -> Admission {
        // Indexed instead of branched, so that timing does not distinguish the reasons.
        let reasons = [RejectionReason::Unknown, RejectionReason::WrongSecret];
        self.reject_unverified(reasons[usize::from(exists)], context)
    }

    fn look_up_charged(
        self: &Arc<Self>,
        candidates: Vec<Candidate>,
        context: &RequestContext<'_>,
    ) -> Admission {
        match self.lookup_client(context) {
            Ok(payer) => self.look_up(candidates, Some(payer), context.now),
            Err(wait) => self.reject_lookup_limited(wait, context),
        }
    }

    #[inline]
    fn is_exempt(&self, parts: RequestParts<'_>) -> bool {
        let path = parts.uri().path();
        self.exempt.iter().any(|pattern| matches(pattern, path))
    }

    /// Admits the request without a key and without an event.
    #[inline(never)]
    fn pass_exempt(&self, context: &RequestContext<'_>) -> Admission {
        Admission::Unchanged(Admitted::untracked(context.request_id_header()))
    }

    /// Whether the key exists and the secret matches. Takes the same time if the key does not exist.
    #[inline(never)]
    pub(super) fn verify(&self, secret: &[u8], entry: &CachedKey) -> bool {
        self.peppers.verify(secret, &entry.digest, entry.exists)
    }

    /// Whether the key exists and the secret matches in one of the formats of imported secrets.
    pub(super) fn verify_candidate(&self, candidate: &Candidate, entry: &CachedKey) -> bool {
        let is_same = self.verify(&candidate.secret, entry);
        let digest = candidate.digest.as_ref();
        is_same | digest.is_some_and(|digest| digest.matches(&entry.digest, entry.exists))
    }

    /// Checks the status, address list and rate limits of a verified key, and remembers the secret with this tag.
    #[inline]
    pub(super) fn authorize(
        self: &Arc<Self>,
        entry: Arc<CachedKey>,
        known: KnownFrom,
        tag: Option<Tag>,
        context: &RequestContext<'_>,
    ) -> Admission {
        let rejection = self
            .status_rejection(&entry, context)
            .map(|reason| match known {
                KnownFrom::Cache => self.rejection_for(reason, context),
                // The lookup limit was checked before the lookup, as for unknown keys and wrong secrets.
                KnownFrom::Store => Rejection::new(reason),
            });
        if let Some(rejection) = rejection {
            return self.reject_unusable_key(&entry, rejection, context);
        }
        if let Some(tag) = tag
            && entry.is_fresh(context.now, Duration::ZERO)
        {
            remember(self.verifier, tag, &entry);
        }
        self.authorize_usable(entry, context)
    }

    /// Checks the rate limits of a key with a valid status and client IP.
    #[inline]
    fn authorize_usable(
        self: &Arc<Self>,
        entry: Arc<CachedKey>,
        context: &RequestContext<'_>,
    ) -> Admission {
        let permit = if self.is_recorded_by_outer(context) {
            RecorderPermit::none()
        } else if self.recorder.reserve() {
            RecorderPermit::with(&self.recorder)
        } else {
            return self.reject_unauthenticated(RejectionReason::RecorderFull, context);
        };
        let cost = self.cost_of(context.parts);
        let attached = match self.attached(&entry, context.now) {
            Ok(attached) => attached,
            Err(error) => {
                return Admission::Rejected(self.limiter_failed(&error, &entry, permit, context));
            }
        };
        let response = match &attached.handle {
            None => LimitResponse::Ready(Decision::default()),
            Some(handle) => handle.acquire(cost, context.now),
        };
        match response {
            // By reference, so that it is not moved.
            LimitResponse::Ready(ref decision) => {
                let admitted =
                    self.apply_decision(&entry, attached, decision, cost, permit, context);
                admitted.map_or_else(Admission::Rejected, |admitted| {
                    Admission::Authenticated(admitted, entry)
                })
            }
            LimitResponse::Pending(decision) => {
                self.wait_for_limiter(entry, decision, cost, permit, context)
            }
        }
    }

    /// The reason to reject a key because of its status or address list.
    #[inline]
    fn status_rejection(
        &self,
        entry: &CachedKey,
        context: &RequestContext<'_>,
    ) -> Option<RejectionReason> {
        match entry.key.status(context.now.timestamp()) {
            KeyStatus::Active => {}
            KeyStatus::Disabled => return Some(RejectionReason::Disabled),
            KeyStatus::Revoked => return Some(RejectionReason::Revoked),
            KeyStatus::Expired => return Some(RejectionReason::Expired),
        }
        if entry.is_owner_suspended() {
            return Some(RejectionReason::OwnerSuspended);
        }
        let allowed = &entry.key.addresses;
        if allowed.is_empty() {
            return None;
        }
        let client_ip = self.client_ip.of(context.parts);
        if client_ip.is_none() {
            self.missing_client_ip.on_address_list();
        }
        let is_allowed = client_ip.is_some_and(|address| allowed.contains(address));
        (!is_allowed).then_some(RejectionReason::ClientIp)
    }

    /// Applies the decision of the limiter.
    ///
    /// # Errors
    ///
    /// The response to a request that exceeds the rate limits of its key.
    #[inline]
    pub(super) fn apply_decision<R: Borrow<Recorder>>(
        self: &Arc<Self>,
        entry: &Arc<CachedKey>,
        attached: &AttachedLimits,
        decision: &Decision,
        cost: u32,
        permit: RecorderPermit<R>,
        context: &RequestContext<'_>,
    ) -> Result<Admitted, Box<Response<Bytes>>> {
        if !decision.is_allowed() {
            let rejection = Rejection {
                retry_after_secs: decision.retry_after_secs(),
                violated: Some(attached.violated(decision)),
                ..Rejection::new(RejectionReason::RateLimited)
            };
            let limited = attached.reported(decision);
            return Err(self.reject_key(entry, rejection, limited, permit, context));
        }
        Ok(self.admit_key(entry, attached, decision, cost, permit, context))
    }

    /// The `Admitted` of a request within the rate limits of its key.
    #[inline]
    fn admit_key<R: Borrow<Recorder>>(
        self: &Arc<Self>,
        entry: &Arc<CachedKey>,
        attached: &AttachedLimits,
        decision: &Decision,
        cost: u32,
        permit: RecorderPermit<R>,
        context: &RequestContext<'_>,
    ) -> Admitted {
        if permit.is_none() {
            Admitted::untracked(context.admitted_headers(self, attached.reported(decision)))
        } else {
            Admitted::Tracked(self.track(context, entry, cost, decision, permit))
        }
    }

    /// Starts tracking a request with a key.
    #[inline]
    pub(super) fn track<R: Borrow<Recorder>>(
        self: &Arc<Self>,
        context: &RequestContext<'_>,
        entry: &Arc<CachedKey>,
        cost: u32,
        decision: &Decision,
        permit: RecorderPermit<R>,
    ) -> RequestTracker {
        // The hooks called here may panic, so release the permit and the anonymous event only afterwards.
        let tracker = RequestTracker::of(self, context, Some(entry), cost, decision);
        self.supersede_anonymous(context);
        permit.consume();
        tracker
    }

    /// Admits a request without a key, recorded without one.
    #[cold]
    pub(super) fn pass_without_key(
        self: &Arc<Self>,
        limit: Option<&ClientLimit>,
        context: &RequestContext<'_>,
    ) -> Admission {
        if self.is_recorded_by_outer(context) || self.anonymous_of(context).is_some() {
            return Admission::Unchanged(Admitted::untracked(context.admitted_headers(self, None)));
        }
        if !self.recorder.reserve() {
            return self.reject_unauthenticated(RejectionReason::RecorderFull, context);
        }
        let permit = RecorderPermit::with(&self.recorder);
        if let Some(limit) = limit {
            let client = self.client_ip.rate_limit_address(context.parts);
            if let Err(wait) = limit.charge(client, context.now) {
                return self.reject_anonymous(wait, context);
            }
        }
        let mut tracker = RequestTracker::of(self, context, None, 0, &Decision::default());
        permit.consume();
        let superseded = Arc::new(AtomicBool::new(false));
        tracker.supersede_by(superseded.clone());
        let mark = Box::new(AnonymousMark {
            id: context.id,
            recorder: self.recorder.id(),
            superseded,
        });
        Admission::Anonymous(Admitted::Tracked(tracker), mark)
    }

    /// Whether an outer layer already records this request under a key in the same recorder.
    #[inline]
    pub(super) fn is_recorded_by_outer(&self, context: &RequestContext<'_>) -> bool {
        context
            .outer
            .is_some_and(|outer| outer.is_recorded_by(&self.recorder))
    }

    /// The mark of an outer layer that records the request as anonymous in the same recorder.
    #[inline]
    fn anonymous_of<'a>(&self, context: &RequestContext<'a>) -> Option<&'a AnonymousMark> {
        context
            .anonymous
            .filter(|mark| mark.recorder == self.recorder.id())
    }

    /// Replaces the anonymous event of an outer layer, because this layer found a key.
    #[inline]
    pub(super) fn supersede_anonymous(&self, context: &RequestContext<'_>) {
        if let Some(outer) = self.anonymous_of(context) {
            outer.superseded.store(true, Ordering::Relaxed);
        }
    }
}

/// Whether the token cannot be a list of tokens. Does not stop at the first mismatch, which is faster for tokens.
#[inline]
fn is_word(token: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() | (*byte == b'_');
    token.iter().fold(true, |all, byte| all & is_part(byte))
}

pub(super) fn is_active(entry: &CachedKey, now: Now) -> bool {
    entry.key.status(now.timestamp()) == KeyStatus::Active && !entry.is_owner_suspended()
}

#[cfg(test)]
mod tests;
