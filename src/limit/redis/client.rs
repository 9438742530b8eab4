//! The connection to Redis, and the task that groups operations into calls.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::sentinel::SentinelClient;
use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, ServerErrorKind};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify, Semaphore, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, sleep, timeout};

use super::script::{self, Operation, Outcome};
use crate::limit::LimitError;
use crate::telemetry;

/// The maximum number of operations per call.
const MAX_GROUP: usize = 64;
/// The maximum number of concurrent calls. Operations that arrive meanwhile form the next groups.
const MAX_CALLS: usize = 4;
/// The maximum number of operations that wait for a call.
const MAX_QUEUED: usize = 16_384;
/// The interval at which the connection is checked.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// The pause between attempts to connect, without jitter: first and longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];

/// How to find the server.
#[derive(Clone)]
pub(super) enum Server {
    Single(Client),
    /// The sentinels are asked each time.
    Sentinel(Arc<Mutex<SentinelClient>>),
}

impl Server {
    async fn connect(
        &self,
        config: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, RedisError> {
        match self {
            Self::Single(client) => {
                client
                    .get_multiplexed_async_connection_with_config(config)
                    .await
            }
            Self::Sentinel(client) => {
                let mut client = client.lock().await;
                client.get_async_connection_with_config(config).await
            }
        }
    }
}

/// The state shared by the task and the handles.
#[derive(Debug)]
pub(super) struct Shared {
    /// Whether Redis is unavailable: operations are decided without it.
    is_open: AtomicBool,
    /// The number of times that Redis became unavailable.
    pub(super) failures: AtomicU64,
    queue: mpsc::Sender<Request>,
    runtime: Handle,
    /// Wakes the task once Redis is available again.
    pub(super) closed: Notify,
    timeout: Duration,
}

/// An operation on its way.
#[derive(Debug)]
struct Request {
    now: Option<u64>,
    operation: Operation,
    reply: oneshot::Sender<Outcome>,
}

impl Shared {
    /// Whether the circuit is open.
    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// The time after which no response is accepted, in nanoseconds.
    pub(super) fn timeout_nanos(&self) -> u64 {
        u64::try_from(self.timeout.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Runs an operation.
    ///
    /// # Errors
    ///
    /// [`LimitError::Unavailable`] and [`LimitError::Timeout`]. The operation may have taken effect.
    pub(super) async fn run(
        self: &Arc<Self>,
        now: Option<u64>,
        operation: Operation,
    ) -> Result<Outcome, LimitError> {
        let (reply, answer) = oneshot::channel();
        let request = Request {
            now,
            operation,
            reply,
        };
        let unavailable = || LimitError::Unavailable("Redis is unavailable".into());
        self.queue.try_send(request).map_err(|_| unavailable())?;
        match timeout(self.timeout, answer).await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(_)) => Err(unavailable()),
            // If Redis hangs, its call fails as well, which opens the circuit.
            Err(_) => Err(LimitError::Timeout),
        }
    }

    /// Runs a task in the background.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    fn open(&self, cause: &dyn std::fmt::Display) {
        if !self.is_open.swap(true, Ordering::AcqRel) {
            self.failures.fetch_add(1, Ordering::Relaxed);
            telemetry::error!(%cause, "Redis is unavailable: rate limits are not shared");
        }
    }

    fn close(&self) {
        if self.is_open.swap(false, Ordering::AcqRel) {
            telemetry::info!("Redis is available again: rate limits are shared");
        }
        self.closed.notify_waiters();
    }
}

/// Starts the task, which ends with the last handle.
pub(super) fn start(server: Server, wait: Duration) -> Arc<Shared> {
    let (queue, requests) = mpsc::channel(MAX_QUEUED);
    let shared = Arc::new(Shared {
        is_open: AtomicBool::new(false),
        failures: AtomicU64::new(0),
        queue,
        runtime: Handle::current(),
        closed: Notify::new(),
        timeout: wait,
    });
    let weak = Arc::downgrade(&shared);
    tokio::spawn(async move {
        let mut requests = requests;
        let mut pause = PAUSES[0];
        loop {
            let patience = wait.max(Duration::from_secs(1));
            // Sentinels that do not respond have timeouts of their own.
            let connected = timeout(5 * patience, connect(&server, patience)).await;
            let connected = connected.unwrap_or_else(|_| Err(late()));
            let Some(shared) = weak.upgrade() else {
                return;
            };
            match connected {
                Ok(connection) => {
                    shared.close();
                    drop(shared);
                    let calls = Calls {
                        connection,
                        wait,
                        failed: Arc::new(Failed::default()),
                        free: Arc::new(Semaphore::new(MAX_CALLS)),
                    };
                    let Err(error) = calls.serve(&mut requests).await else {
                        return;
                    };
                    let Some(shared) = weak.upgrade() else {
                        return;
                    };
                    shared.open(&error);
                    pause = PAUSES[0];
                }
                Err(error) => shared.open(&error),
            }
            // Those that wait are decided without Redis.
            while requests.try_recv().is_ok() {}
            sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            pause = (pause * 2).min(PAUSES[1]);
        }
    });
    shared
}

/// A connection with the script loaded.
#[derive(Clone)]
struct Connection {
    redis: MultiplexedConnection,
    hash: Arc<str>,
}

async fn connect(server: &Server, wait: Duration) -> Result<Connection, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(wait))
        .set_response_timeout(Some(wait));
    let mut redis = server.connect(&config).await?;
    let mut load = redis::cmd("SCRIPT");
    let hash: String = load
        .arg("LOAD")
        .arg(script::SOURCE)
        .query_async(&mut redis)
        .await?;
    warn_of_eviction(&mut redis).await;
    let hash = hash.into();
    Ok(Connection { redis, hash })
}

/// Evicted keys lose the usage of their limits. Managed services may not permit the check.
async fn warn_of_eviction(redis: &mut MultiplexedConnection) {
    let mut get = redis::cmd("CONFIG");
    let get = get.arg("GET").arg("maxmemory*");
    let settings: Result<HashMap<String, String>, _> = get.query_async(redis).await;
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

/// The first error of a connection.
#[derive(Debug, Default)]
struct Failed {
    error: std::sync::Mutex<Option<RedisError>>,
    wake: Notify,
}

impl Failed {
    fn fail(&self, error: RedisError) {
        let mut first = self
            .error
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        first.get_or_insert(error);
        self.wake.notify_one();
    }

    fn take(&self) -> Option<RedisError> {
        let mut first = self
            .error
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        first.take()
    }
}

/// The calls over a connection.
struct Calls {
    connection: Connection,
    wait: Duration,
    failed: Arc<Failed>,
    free: Arc<Semaphore>,
}

impl Calls {
    /// Runs requests until there are no more handles.
    ///
    /// # Errors
    ///
    /// The error after which the connection must not be used.
    async fn serve(&self, requests: &mut mpsc::Receiver<Request>) -> Result<(), RedisError> {
        let mut pings = tokio::time::interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let received = tokio::select! {
                biased;
                () = self.failed.wake.notified() => None,
                _ = pings.tick() => {
                    self.ping();
                    None
                }
                received = self.next(requests) => Some(received),
            };
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            match received {
                Some(Some(group)) => self.call(group),
                Some(None) => return Ok(()),
                None => {}
            }
        }
    }

    /// The next group of requests, with the permit to run them. `None` if there are no more handles.
    async fn next(
        &self,
        requests: &mut mpsc::Receiver<Request>,
    ) -> Option<(Vec<Request>, tokio::sync::OwnedSemaphorePermit)> {
        // The permit first: a request that was received is not lost if this future is dropped.
        let permit = self.free.clone().acquire_owned().await.ok()?;
        let mut group = Vec::new();
        let count = requests.recv_many(&mut group, MAX_GROUP).await;
        (count > 0).then_some((group, permit))
    }

    /// Checks the connection, so that its loss is noticed before the next request.
    fn ping(&self) {
        let (mut connection, failed, wait) =
            (self.connection.clone(), self.failed.clone(), self.wait);
        tokio::spawn(async move {
            let ping = redis::cmd("PING");
            let answered = ping.query_async::<()>(&mut connection.redis);
            match timeout(wait, answered).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failed.fail(error),
                Err(_) => failed.fail(late()),
            }
        });
    }

    fn call(&self, (group, permit): (Vec<Request>, tokio::sync::OwnedSemaphorePermit)) {
        let (connection, failed, wait) = (self.connection.clone(), self.failed.clone(), self.wait);
        tokio::spawn(async move {
            let _permit = permit;
            match timeout(wait, call(connection, &group)).await {
                Ok(Ok(outcomes)) => {
                    for (request, outcome) in group.into_iter().zip(outcomes) {
                        // The request may have been cancelled.
                        let _ = request.reply.send(outcome);
                    }
                }
                Ok(Err(error)) => failed.fail(error),
                Err(_) => failed.fail(late()),
            }
        });
    }
}

fn late() -> RedisError {
    (ErrorKind::Io, "no response in time").into()
}

/// Runs the requests of a group. Those with a time of their own have the same.
async fn call(mut connection: Connection, group: &[Request]) -> Result<Vec<Outcome>, RedisError> {
    let operations: Vec<_> = group.iter().map(|request| &request.operation).collect();
    let now = group.iter().filter_map(|request| request.now).max();
    let command = |name: &str, script: &str| {
        let mut command = redis::cmd(name);
        command.arg(script);
        script::push_arguments(&mut command, now, &operations);
        command
    };
    let by_hash = command("EVALSHA", &connection.hash);
    let value = match by_hash.query_async(&mut connection.redis).await {
        // The script has not run. No other error is retried, since it may have.
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            command("EVAL", script::SOURCE)
                .query_async(&mut connection.redis)
                .await?
        }
        result => result?,
    };
    script::decode(&value, &operations)
        .map_err(|_| (ErrorKind::UnexpectedReturnType, "unexpected response").into())
}
