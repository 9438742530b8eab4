//! The keys of a run: made, changed, rotated, switched off, revoked and deleted all the while, in the
//! process under test and in this one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::StatusCode;
use keytally::KeyId;
use keytally::key::{IssueError, Issuer, KeyAdmin, KeyUpdate, NewKey, StoreError};
use keytally::limit::RateLimit;

use crate::wire::Control;

/// A key as the clients know it.
pub(crate) struct Subject {
    pub(crate) id: KeyId,
    pub(crate) secret: String,
    pub(crate) kind: Kind,
    /// It may be refused from some time on: set before anything is done to it.
    pub(crate) may_end: AtomicBool,
    /// Since when it is known to have ended.
    closed: Mutex<Option<Closed>>,
}

/// What a key is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It works all the time.
    Steady,
    /// It works all the time, within [`LIMIT`].
    Limited,
    /// It works until a time that is less than an hour away.
    Timed,
    /// Anything may happen to it.
    Mortal,
}

/// What the limited key may do each second, and at once.
pub(crate) const LIMIT: (u32, u32) = (10, 20);

/// When a key ended, and whether the process under test did it.
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

/// All keys there ever were, and which of them clients ask with.
pub(crate) struct Keys<B> {
    backend: B,
    issuer: Issuer,
    control: Control,
    all: Mutex<Vec<Arc<Subject>>>,
    asked: Mutex<Asked>,
    pub(crate) done: Done,
}

#[derive(Default)]
struct Asked {
    lasting: Vec<u32>,
    mortal: Vec<u32>,
    /// Those that have ended lately, oldest first.
    ended: Vec<u32>,
}

/// How often what was done.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) issued: AtomicU64,
    pub(crate) updated: AtomicU64,
    pub(crate) rotated: AtomicU64,
    pub(crate) switched: AtomicU64,
    pub(crate) revoked: AtomicU64,
    pub(crate) deleted: AtomicU64,
    /// What was tried again because the database did not answer.
    pub(crate) repeated: AtomicU64,
}

/// Keys to which anything may happen, at a time.
const MORTAL: usize = 48;
/// Keys that have ended and are asked with still.
const ENDED: usize = 64;
/// Those that nothing happens to.
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
            asked: Mutex::default(),
            done: Done::default(),
        };
        for kind in LASTING {
            let number = keys.issue(kind).await;
            keys.asked.lock().unwrap().lasting.push(number);
        }
        for _ in 0..MORTAL {
            let number = keys.issue(Kind::Mortal).await;
            keys.asked.lock().unwrap().mortal.push(number);
        }
        keys
    }

    pub(crate) fn get(&self, number: u32) -> Arc<Subject> {
        self.all.lock().unwrap()[number as usize].clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.all.lock().unwrap().len()
    }

    /// Some key to ask with: half of the time one that lasts, now and then one that has ended.
    pub(crate) fn some(&self, random: &mut fastrand::Rng) -> u32 {
        let asked = self.asked.lock().unwrap();
        let among = match random.u8(0..10) {
            0 if !asked.ended.is_empty() => &asked.ended,
            0..5 => &asked.mortal,
            _ => &asked.lasting,
        };
        among[random.usize(..among.len())]
    }

    /// One that works all the time.
    pub(crate) fn steady(&self) -> u32 {
        self.asked.lock().unwrap().lasting[2]
    }

    /// Something happens to some key, again and again until this is set.
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
            let number = self.asked.lock().unwrap().mortal[slot];
            let subject = self.get(number);
            match random.u8(0..10) {
                0..3 => self.update(&subject, random).await,
                3..5 => self.rotate(&subject, slot, number).await,
                5..7 => self.end("revoke", number, slot, random.bool()).await,
                7..9 => self.end("delete", number, slot, random.bool()).await,
                _ => self.switch(&subject, random.bool()).await,
            }
        }
    }

    /// Issues a key, however often it takes.
    async fn issue(&self, kind: Kind) -> u32 {
        let new = match kind {
            Kind::Limited => {
                NewKey::new("Limited").limit(RateLimit::per_second(LIMIT.0).with_burst(LIMIT.1))
            }
            Kind::Timed => NewKey::new("Timed").expires_in(Duration::from_secs(50 * 60)),
            Kind::Steady => NewKey::new("Steady").owner("customer-17"),
            // Longer than any clock here is ahead.
            Kind::Mortal => NewKey::new("Mortal").expires_in(Duration::from_secs(4 * 3_600)),
        };
        let (secret, record) = self.issuer.prepare(new).unwrap();
        let id = record.key.id;
        self.insist(async || match self.backend.create(record.clone()).await {
            // It was made, and the answer got lost.
            Err(StoreError::Conflict(_)) => Ok(()),
            other => other,
        })
        .await;
        self.done.issued.fetch_add(1, Ordering::Relaxed);
        self.known(id, secret.expose(), kind)
    }

    fn known(&self, id: KeyId, secret: &str, kind: Kind) -> u32 {
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
        self.insist(async || self.backend.update(subject.id, update.clone()).await)
            .await;
        self.done.updated.fetch_add(1, Ordering::Relaxed);
    }

    /// The old key has some time left, by the clock of whoever looks at it.
    async fn rotate(&self, subject: &Subject, slot: usize, number: u32) {
        subject.may_end.store(true, Ordering::SeqCst);
        let grace = Duration::from_secs(5);
        let mut new = None;
        self.insist(async || {
            match self.issuer.rotate(&self.backend, subject.id, grace).await {
                Ok(issued) => new = Some(issued),
                // It was rotated, the answer got lost, and the time is over.
                Err(IssueError::Store(StoreError::Unusable { .. })) => {}
                Err(IssueError::Store(error)) => return Err(error),
                Err(error) => panic!("{error}"),
            }
            Ok(())
        })
        .await;
        let new = match new {
            Some(issued) => {
                self.done.rotated.fetch_add(1, Ordering::Relaxed);
                self.known(issued.key.id, issued.secret.expose(), Kind::Mortal)
            }
            None => self.issue(Kind::Mortal).await,
        };
        self.replace(slot, number, new);
    }

    /// Ends a key for good, in this process or in the one under test, and puts a new one in its place.
    async fn end(&self, how: &str, number: u32, slot: usize, here: bool) {
        let new = self.issue(Kind::Mortal).await;
        let subject = self.get(number);
        subject.may_end.store(true, Ordering::SeqCst);
        self.replace(slot, number, new);
        match (here, how) {
            (true, _) => self.change_there(how, subject.id).await,
            (false, "revoke") => {
                self.insist(async || self.backend.revoke(subject.id).await)
                    .await;
            }
            (false, _) => {
                self.insist(async || match self.backend.delete(subject.id).await {
                    Err(StoreError::NotFound(_)) => Ok(()),
                    other => other,
                })
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

    /// Switches a key off for a while.
    async fn switch(&self, subject: &Subject, here: bool) {
        subject.may_end.store(true, Ordering::SeqCst);
        if here {
            self.change_there("disable", subject.id).await;
        } else {
            self.insist(async || self.backend.disable(subject.id).await)
                .await;
        }
        subject.close(here);
        tokio::time::sleep(Duration::from_millis(200)).await;
        subject.open();
        self.insist(async || self.backend.enable(subject.id).await)
            .await;
        self.done.switched.fetch_add(1, Ordering::Relaxed);
    }

    fn replace(&self, slot: usize, old: u32, new: u32) {
        let mut asked = self.asked.lock().unwrap();
        asked.mortal[slot] = new;
        asked.ended.push(old);
        if asked.ended.len() > ENDED {
            asked.ended.remove(0);
        }
    }

    /// Has the process under test change a key.
    async fn change_there(&self, what: &str, id: KeyId) {
        let path = format!("/keys/{what}/{id}");
        while self.control.post(&path).await != StatusCode::NO_CONTENT {
            self.pause().await;
        }
    }

    /// Does something until the database has it.
    async fn insist<T>(&self, mut what: impl AsyncFnMut() -> Result<T, StoreError>) -> T {
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
