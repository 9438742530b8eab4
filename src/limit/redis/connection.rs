//! Connections to Redis: to a server, the primary server of Sentinel, or a cluster.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster::{ClusterClient, ClusterConfig};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::SingleNodeRoutingInfo;
use redis::sentinel::SentinelClient;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult,
    ServerErrorKind, Value,
};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::script::{self, Operation, Outcome};
use crate::telemetry;

/// The pause before a call is repeated while a cluster changes.
const PAUSE: Duration = Duration::from_millis(5);

/// How to find the server.
#[derive(Clone)]
pub(super) enum Server {
    Single(Client),
    /// The sentinels are asked each time.
    Sentinel(Arc<Mutex<SentinelClient>>),
    Cluster(Arc<ClusterClient>),
}

/// A connection with the script loaded.
#[derive(Clone)]
pub(super) struct Connection {
    redis: Redis,
    hash: Arc<str>,
}

#[derive(Clone)]
enum Redis {
    Node(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Server {
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    async fn connect(&self, wait: Duration) -> RedisResult<Redis> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(wait))
            .set_response_timeout(Some(wait));
        Ok(match self {
            Self::Single(client) => {
                let connection = client.get_multiplexed_async_connection_with_config(&config);
                Redis::Node(connection.await?)
            }
            Self::Sentinel(client) => {
                let mut client = client.lock().await;
                Redis::Node(client.get_async_connection_with_config(&config).await?)
            }
            Self::Cluster(client) => {
                let config = ClusterConfig::new()
                    .set_connection_timeout(wait)
                    .set_response_timeout(wait);
                Redis::Cluster(client.get_async_connection_with_config(config).await?)
            }
        })
    }
}

impl Redis {
    async fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        match self {
            Self::Node(connection) => command.query_async(connection).await,
            Self::Cluster(connection) => command.query_async(connection).await,
        }
    }
}

impl Connection {
    pub(super) async fn open(server: &Server, wait: Duration) -> RedisResult<Self> {
        let mut redis = server.connect(wait).await?;
        if server.is_cluster() {
            require_available(&mut redis).await?;
        }
        let mut load = redis::cmd("SCRIPT");
        let load = load.arg("LOAD").arg(script::SOURCE);
        let hash: String = redis.query(load).await?;
        warn_of_eviction(&mut redis).await;
        let hash = hash.into();
        Ok(Self { redis, hash })
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.redis, Redis::Cluster(_))
    }

    /// Checks the connection: in a cluster, those to all primary servers.
    pub(super) async fn ping(&mut self) -> RedisResult<()> {
        self.redis.query(&redis::cmd("PING")).await
    }

    /// Runs operations. `None` for those that were not run because a value is damaged. In a cluster, their keys have the same hash tag, and calls are repeated until the deadline while
    /// keys are moved.
    pub(super) async fn call(
        &mut self,
        now: Option<u64>,
        operations: &[&Operation],
        deadline: Instant,
    ) -> RedisResult<Vec<Option<Outcome>>> {
        let command = |name: &str, script: &str| {
            let mut command = redis::cmd(name);
            command.arg(script);
            script::push_arguments(&mut command, now, operations);
            command
        };
        let by_hash = command("EVALSHA", &self.hash);
        let value = match self.run(&by_hash, deadline).await {
            // The script has not run. Other errors are not retried, since it may have.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.run(&command("EVAL", script::SOURCE), deadline).await?
            }
            result => result?,
        };
        script::decode(&value, operations)
            .map_err(|_| (ErrorKind::UnexpectedReturnType, "unexpected response").into())
    }

    /// Runs a script, in a cluster on the server that has its keys.
    async fn run(&mut self, command: &Cmd, deadline: Instant) -> RedisResult<Value> {
        let Redis::Cluster(cluster) = &mut self.redis else {
            return self.redis.query(command).await;
        };
        let mut result = command.query_async(cluster).await;
        loop {
            // After these errors, the script has not run.
            let error = match result {
                Err(error) if is_transient(&error) && Instant::now() < deadline => error,
                result => return result,
            };
            result = match (error.kind(), error.redirect_node()) {
                (ErrorKind::Server(ServerErrorKind::Ask), Some((node, _))) => {
                    ask(cluster, node, command).await
                }
                // The connection also reads again which server has which keys.
                _ => {
                    tokio::time::sleep(PAUSE).await;
                    command.query_async(cluster).await
                }
            };
        }
    }
}

/// Whether an error of a call says nothing about others, as when its keys are being moved.
pub(super) fn concerns_call(error: &RedisError) -> bool {
    let ErrorKind::Server(kind) = error.kind() else {
        return false;
    };
    !matches!(
        kind,
        ServerErrorKind::ReadOnly
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::BusyLoading
            | ServerErrorKind::NoPerm
    )
}

/// Whether a cluster did not run a script because keys are moved, or a server is replaced.
fn is_transient(error: &RedisError) -> bool {
    let ErrorKind::Server(kind) = error.kind() else {
        return false;
    };
    matches!(
        kind,
        ServerErrorKind::Moved
            | ServerErrorKind::Ask
            | ServerErrorKind::TryAgain
            | ServerErrorKind::ClusterDown
    )
}

/// A cluster rejects scripts while a server is missing.
async fn require_available(redis: &mut Redis) -> RedisResult<()> {
    let mut info = redis::cmd("CLUSTER");
    let info: String = redis.query(info.arg("INFO")).await?;
    match info.contains("cluster_state:ok") {
        true => Ok(()),
        false => Err((ErrorKind::Client, "the cluster is down").into()),
    }
}

/// Runs a command on the server to which its keys are being moved.
async fn ask(cluster: &mut ClusterConnection, node: &str, command: &Cmd) -> RedisResult<Value> {
    let address = node.rsplit_once(':');
    let address = address.and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
    let invalid = (ErrorKind::UnexpectedReturnType, "unexpected redirect");
    let (host, port) = address.ok_or(invalid)?;
    let mut pipeline = redis::pipe();
    pipeline.cmd("ASKING").ignore();
    pipeline.add_command(command.clone());
    let node = SingleNodeRoutingInfo::ByAddress { host, port };
    let values = cluster.route_pipeline(pipeline, 1, 1, node).await?;
    let value = values.into_iter().next().ok_or(invalid)?;
    value.extract_error()
}

/// Evicted keys lose the usage of their limits. Managed services may not permit the check.
async fn warn_of_eviction(redis: &mut Redis) {
    let mut get = redis::cmd("CONFIG");
    let get = get.arg("GET").arg("maxmemory*");
    let settings: Result<HashMap<String, String>, _> = redis.query(get).await;
    let Ok(settings) = settings else {
        return;
    };
    let setting = |name: &str| settings.get(name).map(String::as_str);
    let evicts = setting("maxmemory-policy").is_some_and(|policy| policy != "noeviction");
    if evicts && setting("maxmemory").is_some_and(|most| most != "0") {
        telemetry::warn!(
            "Redis may evict the usage of rate limits: set `maxmemory-policy noeviction`"
        );
    }
}
