//! A limiter whose limits hold across processes, in Redis or Valkey.

mod client;
mod config;
mod connection;
mod handle;
mod lease;
mod lease_config;
mod script;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::task::JoinSet;

use self::client::{MAX_GROUP, Shared};
pub use self::config::{RedisConfig, RedisFallback};
use self::handle::{Limit, RedisHandle, RedisLimits};
use self::lease::{Lease, most_units};
pub use self::lease_config::LeaseConfig;
use super::limiter::{LimitError, LimitHandle, Limiter, LimiterHealth};
use super::local::{LocalHandle, LocalLimiter};
use super::rate::Rate;
use super::subject::{Subject, SubjectLimits};
use crate::clock::Now;

/// A [`Limiter`] with its state in Redis or Valkey, so that limits hold across all processes that use it.
///
/// A request takes one round trip, in which all limits of its key and owner are checked, and charged together or not at
/// all. Concurrent requests share a call. The arithmetic is that of [`LocalLimiter`], with the clock of the server.
/// Each process remembers the latest usage of a key for a second, and rejects what exceeds it without asking Redis, so
/// that a client that sends too many requests costs little.
///
/// # When Redis is unavailable
///
/// If Redis does not respond within the [timeout](RedisConfig::timeout), or the connection is lost, requests are decided
/// without it, and do not wait for it until it responds again: by default, each process applies its
/// [share](RedisFallback::Local) of the limits. Costs admitted meanwhile are charged once Redis is back, for keys that
/// are still cached. If Redis loses data, as in a restart or a failover to a replica that is behind, the next request of
/// each key restores what its process has last seen.
///
/// Use Redis 7 or Valkey without eviction (`maxmemory-policy noeviction`), as a single server, with
/// [Sentinel](RedisConfig::sentinel), or as a [cluster](RedisConfig::cluster). A key takes some 140 bytes there while it
/// has usage.
///
/// With [leases](RedisConfig::leases), most requests are decided without a call, and a limit can be exceeded by up
/// to a tenth of its burst.
///
/// ```no_run
/// use keytally::ApiKeyLayer;
/// use keytally::limit::{RateLimit, RedisConfig, RedisLimiter};
/// # use keytally::backend::MemoryBackend;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), keytally::InvalidConfig> {
/// # let store = MemoryBackend::new();
/// let limiter = RedisLimiter::new(RedisConfig::new("redis://127.0.0.1/")?);
/// let layer = ApiKeyLayer::new(store)
///     .limiter(limiter)
///     .default_limits([RateLimit::per_minute(600)]);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct RedisLimiter {
    config: RedisConfig,
    shared: Arc<Shared>,
    local: LocalLimiter,
    attached: Arc<Mutex<Vec<Weak<RedisLimits>>>>,
}

impl RedisLimiter {
    /// Creates a limiter and starts to connect in the background.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new(config: RedisConfig) -> Self {
        let shared = client::start(config.server.clone(), config.timeout);
        let attached = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(report(Arc::downgrade(&shared), attached.clone()));
        Self {
            config,
            shared,
            local: LocalLimiter::new(),
            attached,
        }
    }

    /// Whether Redis is available, as far as is known.
    pub fn is_available(&self) -> bool {
        !self.shared.is_open()
    }

    /// The number of times that Redis has become unavailable.
    pub fn failures(&self) -> u64 {
        self.shared
            .failures
            .load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Limiter for RedisLimiter {
    fn attach(
        &self,
        subjects: &[SubjectLimits<'_>],
        now: Now,
    ) -> Result<Arc<dyn LimitHandle>, LimitError> {
        SubjectLimits::validate_all(subjects)?;
        let mut limits = SmallVec::new();
        for one in subjects {
            let key = self.redis_key(one.subject, subjects);
            for limit in one.limits {
                let rate = Rate::of(limit)?;
                limits.push(Limit {
                    key: key.clone(),
                    name: limit.shared_name().clone(),
                    rate,
                    arrival: AtomicU64::new(0),
                    most_units: self
                        .config
                        .leases
                        .map_or(0, |leases| most_units(rate, leases)),
                });
            }
        }
        let rates = limits.iter().map(|limit: &Limit| limit.rate);
        let leases = self.config.leases;
        let lease = leases
            .and_then(|config| Lease::new(rates, config))
            .map(Box::new);
        let attached = Arc::new(RedisLimits {
            shared: self.shared.clone(),
            limits,
            lease,
            fallback: self.config.fallback,
            local: self.attach_shares(subjects, now)?,
            owed: AtomicU64::new(0),
            outage: AtomicU64::new(0),
            latest: Mutex::new(None),
            decided_at: AtomicU64::new(0),
            delay: AtomicU64::new(0),
            own_time: self.config.own_time,
        });
        let mut all = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == all.capacity() {
            // Amortized, since the capacity doubles if few were dropped.
            all.retain(|attached| attached.strong_count() > 0);
        }
        all.push(Arc::downgrade(&attached));
        Ok(Arc::new(RedisHandle(attached)))
    }

    fn health(&self) -> Option<LimiterHealth> {
        Some(LimiterHealth::new(self.is_available(), self.failures()))
    }
}

impl RedisLimiter {
    /// The name of the hash of a subject. In a cluster, the part in braces selects the server, which is the same for all
    /// subjects of a request: that of the owner, if there is one.
    fn redis_key(&self, subject: Subject<'_>, all: &[SubjectLimits<'_>]) -> Arc<str> {
        let prefix = &self.config.prefix;
        let owner = all.iter().map(|one| one.subject);
        let mut owner = owner.filter(|other| matches!(other, Subject::Owner(_)));
        match owner.next() {
            Some(owner) if owner != subject && self.config.server.is_cluster() => {
                format!("{prefix}:limits:{{{owner}}}:{subject}").into()
            }
            _ => format!("{prefix}:limits:{{{subject}}}").into(),
        }
    }

    /// Attaches the share of the limits that this process applies while Redis is unavailable.
    fn attach_shares(
        &self,
        subjects: &[SubjectLimits<'_>],
        now: Now,
    ) -> Result<LocalHandle, LimitError> {
        let share = match self.config.fallback {
            RedisFallback::Local { share } => share,
            RedisFallback::Reject | RedisFallback::Admit => 1.0,
        };
        let shares = subjects.iter().map(|one| {
            let shares = one.limits.iter().map(|limit| limit.share(share));
            (one.subject, shares.collect::<Vec<_>>())
        });
        let shares: Vec<_> = shares.collect();
        let shares = shares.iter();
        let subjects: Vec<_> = shares
            .map(|(subject, limits)| SubjectLimits::new(*subject, limits))
            .collect();
        self.local.attach_all(&subjects, now)
    }
}

/// Charges what was admitted without Redis, each time that it is available again.
async fn report(shared: Weak<Shared>, attached: Arc<Mutex<Vec<Weak<RedisLimits>>>>) {
    loop {
        let Some(alive) = shared.upgrade() else {
            return;
        };
        let closed = alive.closed.notified();
        tokio::select! {
            () = closed => {}
            // So that the task ends with the limiter.
            () = tokio::time::sleep(Duration::from_secs(10)) => {}
        }
        drop(alive);
        let all: Vec<_> = {
            let attached = attached.lock().unwrap_or_else(PoisonError::into_inner);
            attached.iter().filter_map(Weak::upgrade).collect()
        };
        let mut reports = JoinSet::new();
        for limits in all.into_iter().filter(|it| it.is_owing()) {
            reports.spawn(limits.report());
            if reports.len() == MAX_GROUP {
                reports.join_next().await;
            }
            if shared.upgrade().is_none_or(|shared| shared.is_open()) {
                break;
            }
        }
        while reports.join_next().await.is_some() {}
    }
}
