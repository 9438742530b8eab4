//! Components with injected faults: the store selects them by key, the limiter by the cost of a request, the sink at
//! random.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex};

use keytally::backend::MemoryBackend;
use keytally::key::{KeyRecord, KeyStore, StoreError};
use keytally::limit::{
    Decision, LimitError, LimitHandle, LimitResponse, LimitStatus, Limiter, Subject, SubjectLimits,
};
use keytally::usage::{Batch, SinkError, UsageEvent, UsageSink};
use keytally::{KeyId, Now};
use uuid::Uuid;

use super::Fault;

#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) backend: MemoryBackend,
    pub(crate) faults: Arc<Mutex<BTreeMap<KeyId, Fault>>>,
}

#[keytally::async_trait]
impl KeyStore for Store {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let fault = self.faults.lock().unwrap().get(&id).copied();
        match fault {
            Some(Fault::StoreHangs) => pending().await,
            Some(Fault::StorePanics) => panic!("simulated store panic"),
            Some(Fault::AnothersRecord) => {
                let mut faults = self.faults.lock().unwrap().clone().into_keys();
                let another = faults.find(|other| *other != id).unwrap();
                self.backend.find(another).await
            }
            _ => self.backend.find(id).await,
        }
    }
}

/// The cost that selects this fault in the limiter.
pub(crate) fn cost_of(fault: Fault) -> u32 {
    1 + Fault::ALL.iter().position(|it| *it == fault).unwrap() as u32
}

pub(crate) struct Moody {
    /// `attach` panics for this key.
    pub(crate) cursed: KeyId,
}

impl Limiter for Moody {
    fn attach(
        &self,
        subjects: &[SubjectLimits<'_>],
        _: Now,
    ) -> Result<Arc<dyn LimitHandle>, LimitError> {
        let is_cursed = |one: &SubjectLimits<'_>| one.subject == Subject::Key(self.cursed);
        assert!(!subjects.iter().any(is_cursed), "simulated limiter panic");
        Ok(Arc::new(Mood))
    }
}

#[derive(Debug)]
pub(crate) struct Mood;

impl LimitHandle for Mood {
    fn acquire(&self, cost: u32, _: Now) -> LimitResponse {
        let allowed = Decision::new([LimitStatus::default()]);
        match Fault::ALL[cost as usize - 1] {
            Fault::Take => panic!("simulated acquire panic"),
            Fault::Later => LimitResponse::Pending(Box::pin(async {
                tokio::task::yield_now().await;
                panic!("simulated decision panic")
            })),
            Fault::Late => LimitResponse::Pending(Box::pin(async move {
                tokio::task::yield_now().await;
                Ok(allowed)
            })),
            Fault::LimiterHangs => LimitResponse::Pending(Box::pin(pending())),
            Fault::LimiterFails => LimitResponse::Pending(Box::pin(async {
                Err(LimitError::Unavailable("simulated outage".into()))
            })),
            _ => LimitResponse::Ready(allowed),
        }
    }
}

/// The outcome of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    Well,
    Fails,
    Panics,
    Hangs,
    /// The batch is written, but the write returns an error.
    DoneAndFails,
    /// The write hangs; the batch is stored later, even if a retry has been written meanwhile.
    DoneLate,
    Rejects,
}

#[derive(Clone, Default)]
pub(crate) struct Sink(pub(crate) Arc<Mutex<Kept>>);

#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) random: Option<fastrand::Rng>,
    pub(crate) batches: BTreeMap<Uuid, Vec<UsageEvent>>,
    /// Batches whose write succeeded, in that order.
    pub(crate) answered: Vec<Uuid>,
    /// Events of batches that were rejected.
    pub(crate) rejected: u64,
    pub(crate) late: Vec<Batch>,
}

impl Kept {
    pub(crate) fn keep(&mut self, batch: &Batch) {
        let kept = self.batches.insert(batch.id, batch.events().to_vec());
        assert!(
            kept.is_none_or(|kept| kept == *batch.events()),
            "the batch differs from an earlier one with the same id"
        );
    }

    pub(crate) fn events(&self) -> Vec<&UsageEvent> {
        self.batches.values().flatten().collect()
    }

    pub(crate) fn events_of(&self, batches: &[Uuid]) -> u64 {
        let events = batches.iter().map(|id| self.batches[id].len() as u64);
        events.sum()
    }
}

#[keytally::async_trait]
impl UsageSink for Sink {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        use Write::*;
        let outcome = {
            let mut kept = self.0.lock().unwrap();
            let modes = [
                Well,
                Well,
                Well,
                Fails,
                Panics,
                Hangs,
                DoneAndFails,
                DoneLate,
                Rejects,
            ];
            let rng = kept.random.as_mut();
            rng.map_or(Well, |rng| modes[rng.usize(..modes.len())])
        };
        {
            let mut kept = self.0.lock().unwrap();
            match outcome {
                Well | DoneAndFails => kept.keep(batch),
                DoneLate => kept.late.push(batch.clone()),
                _ => {}
            }
            // Delayed writes complete now, after later batches.
            if outcome == Well {
                for late in std::mem::take(&mut kept.late) {
                    kept.keep(&late);
                }
                if !kept.answered.contains(&batch.id) {
                    kept.answered.push(batch.id);
                }
            }
            if outcome == Rejects && !kept.batches.contains_key(&batch.id) {
                kept.late.retain(|late| late.id != batch.id);
                kept.rejected += batch.len() as u64;
                return Err(SinkError::rejected("simulated rejection"));
            }
        }
        match outcome {
            Well => Ok(()),
            Panics => panic!("simulated sink panic"),
            Hangs | DoneLate => pending().await,
            Fails | DoneAndFails | Rejects => Err(SinkError::unavailable("simulated outage")),
        }
    }
}
