//! The current status of rate limits, for pages and APIs.

use std::sync::Arc;

use super::layer::ApiKeyLayer;
use crate::id::KeyId;
use crate::key::{CacheLookup, CachedKey, Key};
use crate::limit::{
    LimitError, LimitResponse, LimitStatus, LimiterHealth, RateLimit, SubjectLimits,
};
use crate::telemetry;

impl ApiKeyLayer {
    /// Returns the rate limits of a key, with their current status: its own, or else those of its plan, or else those of
    /// its owner's plan, or else the [default](Self::default_limits) ones; and those of its owner, whose names begin with
    /// `owner-`, as in the headers of responses. Nothing is charged. The store is only queried if the
    /// key is not cached.
    ///
    /// A service can call this on a clone of the layer in front of it: clones share the limiter.
    ///
    /// ```
    /// use keytally::limit::LimitError;
    /// use keytally::{ApiKeyLayer, Caller};
    ///
    /// async fn remaining(layer: ApiKeyLayer, caller: Caller) -> Result<String, LimitError> {
    ///     let statuses = layer.limit_statuses(&caller).await?;
    ///     let lines = statuses.iter().map(|(limit, status)| {
    ///         let (name, burst) = (limit.name(), limit.burst());
    ///         format!("{name}: {} of {burst} left\n", status.remaining)
    ///     });
    ///     Ok(lines.collect())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// If the limiter cannot track another key, is unavailable, or times out, or if the store fails.
    pub async fn limit_statuses(
        &self,
        key: &Key,
    ) -> Result<Vec<(RateLimit, LimitStatus)>, LimitError> {
        let entry = match key.limits.is_empty() || key.owner.is_some() {
            true => self.cached(key.id).await?,
            false => None,
        };
        let policy = entry.as_ref().and_then(|entry| entry.policy.as_deref());
        let subjects: Vec<_> = self.config.limits_of(key, policy).collect();
        self.subject_statuses(&subjects).await
    }

    /// Returns limits of subjects, such as those of an owner, with their current status. As
    /// [`limit_statuses`](Self::limit_statuses), it charges nothing. Pass a key together with its owner, even if the owner
    /// has no limits: [`RedisLimiter`](crate::guide::several_instances#rate-limits) stores them together in a cluster.
    ///
    /// # Errors
    ///
    /// If a limit is invalid, or the limiter cannot track another subject, is unavailable, or times out.
    pub async fn subject_statuses(
        &self,
        subjects: &[SubjectLimits<'_>],
    ) -> Result<Vec<(RateLimit, LimitStatus)>, LimitError> {
        if subjects.iter().all(|one| one.limits.is_empty()) {
            return Ok(Vec::new());
        }
        let now = self.config.clock.now();
        let handle = self.config.limiter.attach(subjects, now)?;
        let decision = match handle.peek(now) {
            LimitResponse::Ready(decision) => decision,
            LimitResponse::Pending(decision) => self.config.with_timeout(decision).await?,
        };
        let statuses = decision.statuses().iter().copied();
        let limits = SubjectLimits::reported(subjects);
        Ok(limits.into_iter().zip(statuses).collect())
    }

    /// Returns the state of a limiter whose limits are shared between processes. `None` for other limiters.
    pub fn limiter_health(&self) -> Option<LimiterHealth> {
        self.config.limiter.health()
    }

    async fn cached(&self, id: KeyId) -> Result<Option<Arc<CachedKey>>, LimitError> {
        let cache = &self.config.cache;
        match cache.get(id, self.config.clock.now()) {
            CacheLookup::Hit(entry) => Ok(Some(entry)),
            CacheLookup::Stale(_) | CacheLookup::Miss => cache.lookup(id).await.map_err(|error| {
                telemetry::error!(
                    error = &error as &dyn std::error::Error,
                    "key lookup failed"
                );
                LimitError::Unavailable(error.to_string().into())
            }),
        }
    }
}
