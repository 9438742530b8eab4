//! Tollgate, set up as in its axum guide: one in-memory store in all three
//! control-plane roles, a running `InstanceRuntime`, bearer credentials.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{ConnectInfo, Request},
    http::{Method, StatusCode},
};
use jiff::SignedDuration;
use tokio::time::sleep;
use tollgate_admission::{ArcSwapSnapshotMap, ExecutionCapacityGate, ExecutionCapacityMode};
use tollgate_auth::{CredentialVerifier, HmacRegistry};
use tollgate_axum::{AdapterConfig, BearerAuth, BufferedResponse, Tollgate, Validated};
use tollgate_client::{
    AccountLeaseConfig, Clock, InstanceRuntime, InstanceRuntimeConfig, RuntimeHandle,
    SnapshotManagerConfig, SystemClock, TrackedPrincipals, UsageWriterConfig,
};
use tollgate_core::{
    AccountId, AccountSnapshot, AccountStatus, CapacityClass, CostTable, CostUnits, Generation,
    LocalSharding, OpIndex, PermissionBits, PublishableSnapshot, RequestId, ResolvedLimits,
};
use tollgate_store::{AccountConfig, GrantPolicy, MemoryStore};

use crate::{ROUTE, TOKEN, Template};

pub use tollgate_auth::SessionCredential;
pub use tollgate_axum::TollgateConnection;

/// The number of credentials in the registry, including `TOKEN`.
pub const CREDENTIALS: usize = 1_000;
/// The number of usage events that the queue holds before requests are rejected.
pub const QUEUE: usize = 4_096;

const CALL: PermissionBits = PermissionBits::bit(0);

#[derive(Clone, Copy)]
struct Op;

impl OpIndex for Op {
    fn index(&self) -> usize {
        0
    }
}

pub fn registry() -> HmacRegistry {
    let others = (1..CREDENTIALS).map(|n| format!("{n:064x}"));
    let credentials: Vec<String> = others.chain([TOKEN.to_owned()]).collect();
    let registry = HmacRegistry::new(b"peers-server-secret");
    registry.install_credentials(credentials.iter().map(String::as_bytes));
    registry
}

/// A ready application. Drop or `shutdown` the runtime last.
pub struct App {
    pub router: Router,
    pub handle: RuntimeHandle,
    pub runtime: InstanceRuntime,
    connection: ConnectInfo<TollgateConnection>,
}

impl App {
    /// A POST request: the adapter supports no other method.
    pub fn request(&self, template: &Template) -> Request {
        template.build(Method::POST, self.connection.clone())
    }

    /// Waits until the usage writer has taken every queued event.
    pub async fn drain(&self) {
        while self.handle.recorder().health().queue_depth > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// `queue` is the usage queue's capacity.
pub async fn app(queue: usize) -> App {
    let store = MemoryStore::new(GrantPolicy::default()).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let account = AccountId(1);
    store.create_account(AccountConfig {
        account_id: account,
        initial_balance: CostUnits(1_000_000_000_000_000),
        status: AccountStatus::Active,
        capacity_class: CapacityClass::Assured,
    });
    let costs = CostTable::builder(CostUnits(5), CostUnits(5))
        .weight(&Op, CostUnits(20))
        .build();
    let snapshot = AccountSnapshot::builder(
        account,
        Generation(1),
        AccountStatus::Active,
        clock.now() + SignedDuration::from_hours(1),
        CALL,
        ResolvedLimits::new(64),
        Arc::new(costs),
    )
    .build();

    let verifier = Arc::new(registry());
    let caller = verifier.verify(TOKEN.as_bytes()).unwrap().principal;
    let snapshot = PublishableSnapshot::try_new(Arc::new(snapshot)).unwrap();
    store.publish_snapshot(caller, snapshot).unwrap();

    let (runtime, handle) = InstanceRuntime::spawn(
        store.clone(),
        store.clone(),
        store,
        Arc::clone(&clock),
        config(caller, queue),
    )
    .unwrap();
    while !handle.readiness(clock.now()).is_ready() {
        sleep(Duration::from_millis(10)).await;
    }

    let mode = ExecutionCapacityMode::Reserved {
        total: NonZeroU32::new(256).unwrap(),
        assured_reserve: NonZeroU32::new(64).unwrap(),
    };
    let capacity = ExecutionCapacityGate::new(mode, LocalSharding::SINGLE).unwrap();
    let tollgate = Tollgate::new(AdapterConfig {
        runtime: handle.clone(),
        authenticator: BearerAuth::new(verifier),
        clock,
        request_ids: || Ok(RequestId(uuid::Uuid::new_v4().as_u128())),
        capacity: capacity.unwrap(),
    });
    let route = tollgate.post(
        Op,
        CALL,
        || Ok(Validated::new((), 1)),
        |(), _charge| async { BufferedResponse::bytes(StatusCode::OK, "ok") },
    );
    App {
        router: Router::new().route(ROUTE, route),
        handle,
        runtime,
        connection: ConnectInfo(TollgateConnection::default()),
    }
}

/// The guide's values, except for larger grants and a shorter flush interval.
fn config(caller: tollgate_core::Principal, queue: usize) -> InstanceRuntimeConfig {
    InstanceRuntimeConfig {
        snapshots: SnapshotManagerConfig {
            principals: TrackedPrincipals::All { seed: vec![caller] },
            refresh_interval: Duration::from_secs(30),
            unknown_ttl: SignedDuration::from_secs(60),
            revoked_ttl: SignedDuration::from_hours(1),
            retry_backoff: Duration::from_millis(200),
            max_concurrent_fetches: 16,
            fetch_timeout: Duration::from_secs(5),
            enumeration_timeout: Duration::from_secs(30),
        },
        leases: AccountLeaseConfig {
            target_grant: CostUnits(10_000_000_000),
            low_water: CostUnits(1_000_000_000),
            lease_ttl: SignedDuration::from_secs(60),
            expiry_safety_margin: SignedDuration::from_secs(2),
            poll_interval: Duration::from_millis(20),
            store_call_timeout: Duration::from_secs(5),
            shutdown_release_deadline: Duration::from_secs(5),
        },
        usage: UsageWriterConfig {
            queue_capacity: queue,
            max_batch: 256,
            flush_interval: Duration::from_millis(1),
            retry_backoff: Duration::from_millis(50),
            shutdown_drain_deadline: Duration::from_secs(5),
            ingest_timeout: Duration::from_secs(5),
        },
        sharding: LocalSharding::SINGLE,
        snapshot_history_capacity: ArcSwapSnapshotMap::DEFAULT_GENERATION_CAPACITY,
        idle_account_linger: Duration::from_secs(1),
        manager_restart_backoff: Duration::from_millis(200),
        shutdown_deadline: Duration::from_secs(15),
    }
}
