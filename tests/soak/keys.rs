//! The keys of a run: created, changed, rotated, disabled, revoked and deleted continuously, by the process under test
//! and by this one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::StatusCode;
use keytally::KeyId;
use keytally::key::{Actor, IssueError, Issuer, KeyAdmin, KeyUpdate, NewKey, StoreError};
use keytally::limit::RateLimit;

use crate::wire::Control;

/// A key as the clients know it.
pub(crate) struct Subject {
    pub(crate) id: KeyId,
    pub(crate) secret: String,
    pub(crate) kind: Kind,
    /// Set before any change after which the key may be rejected.
    pub(crate) may_end: AtomicBool,
    /// When the key is known to have been invalidated.
    closed: Mutex<Option<Closed>>,
}

/// The purpose of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Always valid.
    Steady,
    /// Always valid, with the rate limit [`LIMIT`].
    Limited,
    /// Expires in less than an hour.
    Timed,
    /// May be changed or invalidated at any time.
    Mortal,
}

/// Requests per second and burst of the limited key.
pub(crate) const LIMIT: (u32, u32) = (10, 20);

/// When a key was invalidated, and whether the process under test did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed {
    pub(crate) at: Instant,
    pub(crate) here: bool,
}

impl Subject {
    pub(crate) fn closed(&self) -> Option<Closed> {
        *self.closed.lock().unwrap()
    }

    fn close(&self, here: bool) {
        let at = Instant::now();
        *self.closed.lock().unwrap() = Some(Closed { at, here });
    }

    fn open(&self) {
        *self.closed.lock().unwrap() = None;
    }
}

/// All keys of the run, and those that clients use.
pub(crate) struct Keys<B> {
    backend: B,
    issuer: Issuer,
    control: Control,
    all: Mutex<Vec<Arc<Subject>>>,
    in_use: Mutex<InUse>,
    pub(crate) done: Done,
}

#[derive(Default)]
struct InUse {
    lasting: Vec<u32>,
    mortal: Vec<u32>,
    /// Recently invalidated keys, oldest first.
    ended: Vec<u32>,
}

/// The number of changes by kind.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) issued: AtomicU64,
    pub(crate) updated: AtomicU64,
    pub(crate) rotated: AtomicU64,
    pub(crate) switched: AtomicU64,
    pub(crate) revoked: AtomicU64,
    pub(crate) deleted: AtomicU64,
    /// Retries because the database was unavailable.
    pub(crate) repeated: AtomicU64,
}

/// The number of keys in use that may be changed or invalidated.
const MORTAL: usize = 48;
/// The number of invalidated keys that clients still use.
const ENDED: usize = 64;
/// The keys that are never changed.
const LASTING: [Kind; 8] = [
    Kind::Limited,
    Kind::Timed,
    Kind::Steady,
    Kind::Steady,
    Kind::Steady,
    Kind::Steady,
    Kind::Steady,
    Kind::Steady,
];

impl<B: KeyAdmin> Keys<B> {
    pub(crate) async fn new(backend: B, control: Control) -> Self {
        let keys = Self {
            backend,
            issuer: Issuer::new("soak").unwrap(),
            control,
            all: Mutex::default(),
            in_use: Mutex::default(),
            done: Done::default(),
        };
        for kind in LASTING {
            let number = keys.issue(kind).await;
            keys.in_use.lock().unwrap().lasting.push(number);
        }
        for _ in 0..MORTAL {
            let number = keys.issue(Kind::Mortal).await;
            keys.in_use.lock().unwrap().mortal.push(number);
        }
        keys
    }

    pub(crate) fn get(&self, number: u32) -> Arc<Subject> {
        self.all.lock().unwrap()[number as usize].clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.all.lock().unwrap().len()
    }

    /// A random key: half of the time one that stays valid, occasionally an invalidated one.
    pub(crate) fn some(&self, random: &mut fastrand::Rng) -> u32 {
        let in_use = self.in_use.lock().unwrap();
        let candidates = match random.u8(0..10) {
            0 if !in_use.ended.is_empty() => &in_use.ended,
            0..5 => &in_use.mortal,
            _ => &in_use.lasting,
        };
        candidates[random.usize(..candidates.len())]
    }

    /// A key that is always valid.
    pub(crate) fn steady(&self) -> u32 {
        self.in_use.lock().unwrap().lasting[2]
    }

    /// Changes random keys until `stop` is set.
    pub(crate) async fn live(
        &self,
        every: Duration,
        stop: &AtomicBool,
        random: &mut fastrand::Rng,
    ) {
        let mut pace = tokio::time::interval(every);
        while !stop.load(Ordering::Relaxed) {
            pace.tick().await;
            let slot = random.usize(..MORTAL);
            let number = self.in_use.lock().unwrap().mortal[slot];
            let subject = self.get(number);
            match random.u8(0..10) {
                0..3 => self.update(&subject, random).await,
                3..5 => self.rotate(&subject, slot, number).await,
                5..7 => self.end("revoke", number, slot, random.bool()).await,
                7..9 => self.end("delete", number, slot, random.bool()).await,
                _ => self.disable_temporarily(&subject, random.bool()).await,
            }
        }
    }

    /// Issues a key, retrying until the store is available.
    async fn issue(&self, kind: Kind) -> u32 {
        let new = match kind {
            Kind::Limited => {
                NewKey::new("Limited").limit(RateLimit::per_second(LIMIT.0).with_burst(LIMIT.1))
            }
            Kind::Timed => NewKey::new("Timed").expires_in(Duration::from_secs(50 * 60)),
            Kind::Steady => NewKey::new("Steady").owner("customer-17"),
            // Longer than the clock is ever ahead.
            Kind::Mortal => NewKey::new("Mortal").expires_in(Duration::from_secs(4 * 3_600)),
        };
        let (secret, record) = self.issuer.prepare(new).unwrap();
        let id = record.key.id;
        self.retry(
            async || match self.backend.create(record.clone(), Actor::SYSTEM).await {
                // Created by an earlier attempt whose response was lost.
                Err(StoreError::Conflict(_)) => Ok(()),
                other => other,
            },
        )
        .await;
        self.done.issued.fetch_add(1, Ordering::Relaxed);
        self.add(id, secret.expose(), kind)
    }

    fn add(&self, id: KeyId, secret: &str, kind: Kind) -> u32 {
        let mut all = self.all.lock().unwrap();
        all.push(Arc::new(Subject {
            id,
            secret: secret.into(),
            kind,
            may_end: AtomicBool::new(false),
            closed: Mutex::new(None),
        }));
        (all.len() - 1) as u32
    }

    async fn update(&self, subject: &Subject, random: &mut fastrand::Rng) {
        let limit = RateLimit::per_second(random.u32(200..1_000)).with_burst(1_000);
        let update = KeyUpdate::new().limits([limit]);
        self.retry(async || {
            self.backend
                .update(subject.id, update.clone(), Actor::SYSTEM)
                .await
        })
        .await;
        self.done.updated.fetch_add(1, Ordering::Relaxed);
    }

    /// Rotates a key with a grace period of five seconds.
    async fn rotate(&self, subject: &Subject, slot: usize, number: u32) {
        subject.may_end.store(true, Ordering::SeqCst);
        let grace = Duration::from_secs(5);
        let mut new = None;
        self.retry(async || {
            match self
                .issuer
                .rotate(&self.backend, subject.id, grace, Actor::SYSTEM)
                .await
            {
                Ok(issued) => new = Some(issued),
                // Rotated by an earlier attempt whose response was lost, and perhaps expired since.
                Err(IssueError::Store(
                    StoreError::NotActive { .. } | StoreError::Replaced { .. },
                )) => {}
                Err(IssueError::Store(error)) => return Err(error),
                Err(error) => panic!("{error}"),
            }
            Ok(())
        })
        .await;
        let new = match new {
            Some(issued) => {
                self.done.rotated.fetch_add(1, Ordering::Relaxed);
                self.add(issued.key.id, issued.secret.expose(), Kind::Mortal)
            }
            None => self.issue(Kind::Mortal).await,
        };
        self.replace(slot, number, new);
    }

    /// Revokes or deletes a key, in this process or in the one under test, and replaces it with a new one.
    async fn end(&self, how: &str, number: u32, slot: usize, here: bool) {
        let new = self.issue(Kind::Mortal).await;
        let subject = self.get(number);
        subject.may_end.store(true, Ordering::SeqCst);
        self.replace(slot, number, new);
        match (here, how) {
            (true, _) => self.change_remotely(how, subject.id).await,
            (false, "revoke") => {
                self.retry(async || self.backend.revoke(subject.id, Actor::SYSTEM).await)
                    .await;
            }
            (false, _) => {
                self.retry(
                    async || match self.backend.delete(subject.id, Actor::SYSTEM).await {
                        Err(StoreError::NotFound(_)) => Ok(()),
                        other => other,
                    },
                )
                .await;
            }
        }
        subject.close(here);
        let count = match how {
            "revoke" => &self.done.revoked,
            _ => &self.done.deleted,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Disables a key for 200 ms.
    async fn disable_temporarily(&self, subject: &Subject, here: bool) {
        subject.may_end.store(true, Ordering::SeqCst);
        if here {
            self.change_remotely("disable", subject.id).await;
        } else {
            self.retry(async || self.backend.disable(subject.id, Actor::SYSTEM).await)
                .await;
        }
        subject.close(here);
        tokio::time::sleep(Duration::from_millis(200)).await;
        subject.open();
        self.retry(async || self.backend.enable(subject.id, Actor::SYSTEM).await)
            .await;
        self.done.switched.fetch_add(1, Ordering::Relaxed);
    }

    fn replace(&self, slot: usize, old: u32, new: u32) {
        let mut in_use = self.in_use.lock().unwrap();
        in_use.mortal[slot] = new;
        in_use.ended.push(old);
        if in_use.ended.len() > ENDED {
            in_use.ended.remove(0);
        }
    }

    /// Changes a key through the process under test.
    async fn change_remotely(&self, what: &str, id: KeyId) {
        let path = format!("/keys/{what}/{id}");
        while self.control.post(&path).await != StatusCode::NO_CONTENT {
            self.pause().await;
        }
    }

    /// Retries an operation until the store is available.
    async fn retry<T>(&self, mut what: impl AsyncFnMut() -> Result<T, StoreError>) -> T {
        loop {
            match what().await {
                Ok(done) => return done,
                Err(StoreError::Unavailable(_) | StoreError::Timeout) => self.pause().await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn pause(&self) {
        self.done.repeated.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
