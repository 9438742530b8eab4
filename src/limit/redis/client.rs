//! The task that connects to Redis and groups operations into calls.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use redis::{ErrorKind, RedisError, RedisResult};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, sleep, timeout};

use super::connection::{self, Connection, Server};
use super::script::{Operation, Outcome};
use crate::limit::LimitError;
use crate::log_throttle::LogThrottle;
use crate::telemetry;

/// The maximum number of operations per call.
pub(super) const MAX_GROUP: usize = 64;
/// The maximum number of concurrent calls. Operations that arrive meanwhile form the next groups.
const MAX_CALLS: usize = 4;
/// The maximum number of operations that wait for a call.
const MAX_QUEUED: usize = 16_384;
/// The interval at which the connection is checked.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// The pause between attempts to connect, without jitter: first and longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];

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
        let _ended = Ended(weak.clone());
        let mut requests = requests;
        let mut pause = PAUSES[0];
        loop {
            let patience = wait.max(Duration::from_secs(1));
            // Sentinels that do not respond have timeouts of their own.
            let connected = timeout(
                patience.saturating_mul(5),
                connect(&server, patience, wait, &weak),
            );
            let connected = connected.await.unwrap_or_else(|_| Err(late()));
            let Some(shared) = weak.upgrade() else {
                return;
            };
            match connected {
                Ok(connection) => {
                    shared.close();
                    drop(shared);
                    let began = Instant::now();
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
                    if began.elapsed() > PAUSES[1] {
                        pause = PAUSES[0];
                    }
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

/// Opens the circuit when the task ends early, with its runtime.
struct Ended(Weak<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.open(&"the runtime has ended");
        }
    }
}

/// Connects. Meanwhile, requests do not wait for longer than the timeout altogether.
async fn connect(
    server: &Server,
    patience: Duration,
    wait: Duration,
    shared: &Weak<Shared>,
) -> RedisResult<Connection> {
    let mut connecting = pin!(Connection::open(server, patience));
    match timeout(wait, &mut connecting).await {
        Ok(connected) => connected,
        Err(_) => {
            if let Some(shared) = shared.upgrade() {
                shared.open(&late());
            }
            connecting.await
        }
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
            match timeout(wait, connection.ping()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failed.fail(error),
                Err(_) => failed.fail(late()),
            }
        });
    }

    fn call(&self, (group, permit): (Vec<Request>, tokio::sync::OwnedSemaphorePermit)) {
        if !self.connection.is_cluster() {
            return self.call_node(group, Arc::new(permit));
        }
        // The keys of a script must have the same hash tag.
        let mut parts: HashMap<Arc<str>, Vec<Request>> = HashMap::new();
        for request in group {
            let tag = request.operation.tag();
            parts.entry(tag).or_default().push(request);
        }
        let permit = Arc::new(permit);
        for part in parts.into_values() {
            self.call_node(part, permit.clone());
        }
    }

    /// Runs requests in one call. Those with a time of their own have the same.
    fn call_node(&self, group: Vec<Request>, permit: Arc<tokio::sync::OwnedSemaphorePermit>) {
        let (mut connection, failed, wait) =
            (self.connection.clone(), self.failed.clone(), self.wait);
        tokio::spawn(async move {
            let _permit = permit;
            let operations: Vec<_> = group.iter().map(|request| &request.operation).collect();
            let now = group.iter().filter_map(|request| request.now).max();
            // Before the timeout, so that keys that are being moved do not end the connection.
            let deadline = Instant::now() + wait / 2;
            match timeout(wait, connection.call(now, &operations, deadline)).await {
                Ok(Ok(outcomes)) => {
                    for (request, outcome) in group.into_iter().zip(outcomes) {
                        match outcome {
                            // The request may have been cancelled.
                            Some(outcome) => drop(request.reply.send(outcome)),
                            None => log_rejected(&"a value is damaged"),
                        }
                    }
                }
                Ok(Err(error)) if connection::concerns_call(&error) => {
                    log_rejected(&error);
                }
                Ok(Err(error)) => failed.fail(error),
                Err(_) => failed.fail(late()),
            }
        });
    }
}

/// Logs that requests are decided without Redis, which is available. Not for each of them.
fn log_rejected(error: &dyn std::fmt::Display) {
    static THROTTLE: LogThrottle = LogThrottle::new();
    if let Some(count) = THROTTLE.record() {
        telemetry::warn!(%error, count, "Redis rejected calls: rate limits are not shared");
    }
}

fn late() -> RedisError {
    (ErrorKind::Io, "no response in time").into()
}
