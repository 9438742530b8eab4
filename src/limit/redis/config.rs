//! The configuration of the limiter.

use std::sync::Arc;
use std::time::Duration;

use redis::cluster::ClusterClient;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType};
use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError, TlsMode};

use super::connection::Server;
use super::lease_config::LeaseConfig;
use crate::invalid_config::InvalidConfig;

/// Configures a [`RedisLimiter`](super::RedisLimiter).
#[derive(Clone)]
#[must_use = "does nothing until passed to `RedisLimiter::new`"]
pub struct RedisConfig {
    pub(super) server: Server,
    pub(super) prefix: Arc<str>,
    pub(super) timeout: Duration,
    pub(super) fallback: RedisFallback,
    pub(super) leases: Option<LeaseConfig>,
    pub(super) own_time: bool,
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

    /// The cluster of these nodes, such as `redis://user:password@10.0.0.1:6379`. One that responds suffices to discover
    /// the others.
    ///
    /// The limits of an owner and all its keys are in the same hash slot, so on the same server. When the owner of a key
    /// changes, the usage of the key starts again. While a primary server is unavailable, all requests are decided without Redis.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] if a URL is malformed, or there are none. Whether the nodes can be reached is not checked.
    pub fn cluster<'a>(nodes: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidConfig> {
        let nodes = nodes.into_iter().map(connection_info);
        let client = ClusterClient::builder(nodes.collect::<Result<Vec<_>, _>>()?)
            .tcp_settings(TcpSettings::default().set_nodelay(true))
            // A call that is retried may be charged twice.
            .retries(0);
        let client = client.build().map_err(invalid_url)?;
        Ok(Self::of(Server::Cluster(Arc::new(client))))
    }

    fn of(server: Server) -> Self {
        Self {
            server,
            prefix: "keytally".into(),
            timeout: Duration::from_millis(100),
            fallback: RedisFallback::Local { share: 1.0 },
            leases: None,
            own_time: false,
        }
    }

    /// The prefix of the names of Redis keys, `keytally` by default: `keytally:limits:{3fK9aB0000zzZZ19}`,
    /// `keytally:limits:{owner:customer-17}`, and in a cluster `keytally:limits:{owner:customer-17}:3fK9aB0000zzZZ19` for a
    /// key with an owner.
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

    /// Leases capacity, so that most requests are decided without Redis; see [`LeaseConfig`]. Off by default: limits are
    /// exact.
    pub fn leases(mut self, leases: LeaseConfig) -> Self {
        self.leases = Some(leases);
        self
    }

    /// Uses the system time of each process instead of that of Redis, for services that do not permit `TIME` in
    /// scripts.
    ///
    /// The limits are then as exact as the clocks: a process whose clock is ahead by a second restores a second's worth
    /// of each limit. [Leases](Self::leases) require clocks that differ by less than their time to live.
    pub fn own_time(mut self) -> Self {
        self.own_time = true;
        self
    }
}

/// How requests are limited while Redis is unavailable.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum RedisFallback {
    /// Each process applies this share of the limits by itself, beginning with the usage that it has last seen. The
    /// default, with a share of 1. With three instances, a share of 1/3 keeps the limits.
    Local {
        /// More than 0, and at most 1.
        share: f64,
    },
    /// Reject requests of keys with limits with 503.
    Reject,
    /// Admit all requests.
    Admit,
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
            .field("leases", &self.leases)
            .field("own_time", &self.own_time)
            .finish_non_exhaustive()
    }
}
