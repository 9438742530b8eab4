//! A limiter whose limits hold across processes, in Redis or Valkey.

mod client;
mod handle;
mod script;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType};
use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError, TlsMode};
use smallvec::SmallVec;

use self::client::{Server, Shared};
pub use self::handle::RedisFallback;
use self::handle::{Limit, RedisHandle, RedisLimits};
use super::limiter::{LimitError, LimitHandle, Limiter};
use super::local::{LocalHandle, LocalLimiter};
use super::rate::Rate;
use super::subject::SubjectLimits;
use crate::clock::Now;
use crate::invalid_config::InvalidConfig;

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
/// Use Redis 7 or Valkey without eviction (`maxmemory-policy noeviction`), as a single server or with
/// [Sentinel](RedisConfig::sentinel); Cluster is not supported yet. A key takes some 150 bytes there while it has usage.
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

/// Configures a [`RedisLimiter`].
#[derive(Clone)]
#[must_use = "does nothing until passed to `RedisLimiter::new`"]
pub struct RedisConfig {
    server: Server,
    prefix: Arc<str>,
    timeout: Duration,
    fallback: RedisFallback,
    own_time: bool,
}

impl RedisConfig {
    /// The server at a URL: `redis://user:password@host:port/database`, or `unix:///path`. `rediss://` for TLS requires
    /// the feature `tokio-rustls-comp` of the crate `redis`, which the application enables.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] if the URL is malformed. Whether the server can be reached is not checked.
    pub fn new(url: &str) -> Result<Self, InvalidConfig> {
        let client = Client::open(connection_info(url)?).map_err(invalid_url)?;
        Ok(Self::of(Server::Single(client)))
    }

    /// The primary server that Sentinel reports for this name, such as `mymaster`. After a failover, the limits are
    /// those of the promoted replica; usage that it has not received is restored by the processes that have seen it.
    ///
    /// `sentinels` are the URLs of the sentinels, such as `redis://10.0.0.1:26379`. `server` is a URL with the user,
    /// password and database of the servers, whose host is ignored: `redis://user:password@redis/0`, or `rediss://` for
    /// TLS.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] if a URL is malformed, `server` is not a TCP URL, or there are no sentinels. Whether the sentinels
    /// can be reached is not checked.
    pub fn sentinel<'a>(
        name: &str,
        sentinels: impl IntoIterator<Item = &'a str>,
        server: &str,
    ) -> Result<Self, InvalidConfig> {
        let sentinels = sentinels.into_iter().map(connection_info);
        let server = connection_info(server)?;
        let mut settings = SentinelNodeConnectionInfo::default()
            .set_redis_connection_info(server.redis_settings().clone())
            .set_tcp_settings(TcpSettings::default().set_nodelay(true));
        match server.addr() {
            ConnectionAddr::Tcp(..) => {}
            ConnectionAddr::TcpTls { insecure: true, .. } => {
                settings = settings.set_tls_mode(TlsMode::Insecure);
            }
            ConnectionAddr::TcpTls { .. } => settings = settings.set_tls_mode(TlsMode::Secure),
            _ => return Err(InvalidConfig::new("redis", "Sentinel requires a TCP URL")),
        }
        let client = SentinelClient::build(
            sentinels.collect::<Result<_, _>>()?,
            name.into(),
            Some(settings),
            SentinelServerType::Master,
        );
        let client = client.map_err(invalid_url)?;
        Ok(Self::of(Server::Sentinel(Arc::new(
            tokio::sync::Mutex::new(client),
        ))))
    }

    fn of(server: Server) -> Self {
        Self {
            server,
            prefix: "keytally".into(),
            timeout: Duration::from_millis(100),
            fallback: RedisFallback::Local { share: 1.0 },
            own_time: false,
        }
    }

    /// The prefix of the names of Redis keys, `keytally` by default: `keytally:limits:{3fK9aB0000zzZZ19}`,
    /// `keytally:limits:{owner:customer-17}`.
    pub fn prefix(mut self, prefix: impl Into<Arc<str>>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The time after which requests are decided without Redis. 100 milliseconds by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How requests are limited while Redis is unavailable.
    ///
    /// # Panics
    ///
    /// If a share is not more than 0 and at most 1.
    pub fn fallback(mut self, fallback: RedisFallback) -> Self {
        if let RedisFallback::Local { share } = fallback {
            assert!(
                share > 0.0 && share <= 1.0,
                "the share must be more than 0 and at most 1"
            );
        }
        self.fallback = fallback;
        self
    }

    /// Uses the system time of each process instead of that of Redis, for services that do not permit `TIME` in scripts.
    ///
    /// The limits are then as exact as the clocks: a process whose clock is ahead by a second restores a second's worth
    /// of each limit.
    pub fn own_time(mut self) -> Self {
        self.own_time = true;
        self
    }
}

fn connection_info(url: &str) -> Result<ConnectionInfo, InvalidConfig> {
    let info = url.into_connection_info().map_err(invalid_url)?;
    Ok(info.set_tcp_settings(TcpSettings::default().set_nodelay(true)))
}

/// The error of the client may contain the password.
fn invalid_url(_: RedisError) -> InvalidConfig {
    InvalidConfig::new("redis", "the URL is malformed, or its scheme not supported")
}

impl std::fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisConfig")
            .field("prefix", &self.prefix)
            .field("timeout", &self.timeout)
            .field("fallback", &self.fallback)
            .field("own_time", &self.own_time)
            .finish_non_exhaustive()
    }
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
            // In a cluster, the braces keep the limits of a subject in one slot.
            let key: Arc<str> = format!("{}:limits:{{{}}}", self.config.prefix, one.subject).into();
            for limit in one.limits {
                limits.push(Limit {
                    key: key.clone(),
                    name: limit.shared_name().clone(),
                    rate: Rate::of(limit)?,
                    arrival: AtomicU64::new(0),
                });
            }
        }
        let attached = Arc::new(RedisLimits {
            shared: self.shared.clone(),
            limits,
            fallback: self.config.fallback,
            local: self.attach_shares(subjects, now)?,
            owed: AtomicU64::new(0),
            outage: AtomicU64::new(0),
            latest: Mutex::new(None),
            decided_at: AtomicU64::new(0),
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
}

impl RedisLimiter {
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
        for limits in all {
            if !limits.report().await {
                // Redis is unavailable again.
                break;
            }
        }
    }
}
