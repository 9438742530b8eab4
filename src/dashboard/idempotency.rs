//! Making keys: what is asked for twice is made once.
//!
//! The id of the key to be made follows from what the caller calls the request, so that a repetition
//! after a restart, or to another instance, meets the key that is there. For some minutes the process
//! itself knows the answer, secret and all, and gives it again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::id::KeyId;
use crate::key::{AuditAction, AuditQuery, IssueError, Issued, Issuer, Key, KeyAdmin, StoreError};

/// How long an answer is known.
const KNOWN_FOR: Duration = Duration::from_secs(600);

/// How many answers are known at once; then the oldest makes room.
const MOST: usize = 1_024;

/// How long a repetition waits for what is under way.
const PATIENCE: Duration = Duration::from_secs(5);

/// The header of a request that may be repeated.
pub(super) const HEADER: &str = "Idempotency-Key";

/// The SHA-256 of what was sent.
pub(super) type Fingerprint = [u8; 32];

/// What is asked for: by whom, what, and with which details.
pub(super) struct RequestKey {
    /// Absent where the caller will not ask again.
    id: Option<KeyId>,
    details: Fingerprint,
}

impl RequestKey {
    /// At this path, under what the caller calls the request, if they do.
    pub(super) fn at(path: &str, admin: &str, name: Option<&str>, details: Fingerprint) -> Self {
        let id = name.map(|name| {
            let mut hash = Sha256::new();
            for part in ["keytally idempotency", admin, path, name] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
            KeyId::from_sha256(&hash.finalize().into())
        });
        Self { id, details }
    }
}

/// Why no key was made.
#[derive(Debug, thiserror::Error)]
pub(super) enum IdempotencyError {
    #[error("This service has not told the dashboard how keys are made.")]
    NoIssuer,
    #[error("It was sent with other details.")]
    OtherDetails,
    #[error("The same is being done; ask again in a moment.")]
    UnderWay,
    #[error("Too much is being made at once. Try again.")]
    NoRoom,
    #[error(
        "It was done before: key {id} ({hint}) was made. Its secret was in the answer to that; \
        rotate the key if it was lost."
    )]
    Before { id: KeyId, hint: String },
    #[error("It was done before, and the key that was made was deleted since.")]
    BeforeAndDeleted,
    #[error("It could not be done.")]
    Broken,
    #[error(transparent)]
    Failed(#[from] IssueError),
}

/// Keys that are being made, and those of the last minutes.
#[derive(Clone, Default)]
pub(super) struct IdempotentRequests(Arc<Mutex<All>>);

type All = HashMap<KeyId, Known>;

struct Known {
    details: Fingerprint,
    /// Absent until it is there.
    answer: Option<Answer>,
}

struct Answer {
    issued: Arc<Issued>,
    since: Instant,
}

impl IdempotentRequests {
    /// Makes the key, unless it was made.
    pub(super) async fn once<F>(
        &self,
        asked: RequestKey,
        issuer: Option<Issuer>,
        store: Arc<dyn KeyAdmin>,
        issue: impl FnOnce(Issuer) -> F,
    ) -> Result<Arc<Issued>, IdempotencyError>
    where
        F: Future<Output = Result<Issued, IssueError>> + Send + 'static,
    {
        let issuer = issuer.ok_or(IdempotencyError::NoIssuer)?;
        let Some(id) = asked.id else {
            return Ok(Arc::new(issue(issuer).await?));
        };
        let under_way = match self.begin_patiently(id, asked.details).await? {
            Claim::Again(answer) => return Ok(answer),
            Claim::First(under_way) => under_way,
        };
        let issuing = issue(issuer.under(id));
        // Of its own: a caller that leaves and asks again is to find the answer.
        let task = tokio::spawn(async move {
            if was_deleted(&*store, id).await? {
                return Err(IdempotencyError::BeforeAndDeleted);
            }
            match issuing.await {
                Ok(issued) => {
                    let issued = Arc::new(issued);
                    under_way.keep(issued.clone());
                    Ok(issued)
                }
                Err(error) => match store.get(id).await {
                    Ok(Some(Key { hint, .. })) => Err(IdempotencyError::Before { id, hint }),
                    _ => Err(error.into()),
                },
            }
        });
        task.await.unwrap_or(Err(IdempotencyError::Broken))
    }

    async fn begin_patiently(
        &self,
        id: KeyId,
        details: Fingerprint,
    ) -> Result<Claim, IdempotencyError> {
        let since = Instant::now();
        loop {
            match self.begin(id, details) {
                Err(IdempotencyError::UnderWay) if since.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                begun => return begun,
            }
        }
    }

    fn begin(&self, id: KeyId, details: Fingerprint) -> Result<Claim, IdempotencyError> {
        let mut known = self.known();
        match known.get(&id) {
            Some(other) if other.details != details => Err(IdempotencyError::OtherDetails),
            Some(Known { answer: None, .. }) => Err(IdempotencyError::UnderWay),
            Some(Known {
                answer: Some(answer),
                ..
            }) => Ok(Claim::Again(answer.issued.clone())),
            None => {
                make_room(&mut known)?;
                let answer = None;
                known.insert(id, Known { details, answer });
                let making = self.clone();
                Ok(Claim::First(UnderWay { making, id }))
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets the oldest answer where there is no room for another. What is asked for again after that is
/// not done again: the key is there.
fn make_room(known: &mut All) -> Result<(), IdempotencyError> {
    if known.len() < MOST {
        return Ok(());
    }
    let answered = known
        .iter()
        .filter_map(|(id, known)| Some((known.answer.as_ref()?.since, *id)));
    let (_, oldest) = answered.min().ok_or(IdempotencyError::NoRoom)?;
    known.remove(&oldest);
    Ok(())
}

/// Whether the audit knows of a key that is there no more: another one must not take over its usage.
async fn was_deleted(store: &dyn KeyAdmin, id: KeyId) -> Result<bool, StoreError> {
    let deleted = AuditQuery::new().key(id).action(AuditAction::Deleted);
    let entries = store.audit(&deleted.limit(1)).await?;
    Ok(entries.is_some_and(|page| !page.items.is_empty()))
}

impl From<StoreError> for IdempotencyError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

enum Claim {
    First(UnderWay),
    Again(Arc<Issued>),
}

/// What is being done; forgotten when it failed, or some minutes after it was done.
struct UnderWay {
    making: IdempotentRequests,
    id: KeyId,
}

impl UnderWay {
    fn keep(self, issued: Arc<Issued>) {
        if let Some(known) = self.making.known().get_mut(&self.id) {
            let since = Instant::now();
            known.answer = Some(Answer { issued, since });
        }
        tokio::spawn(async move {
            tokio::time::sleep(KNOWN_FOR).await;
            drop(self);
        });
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.making.known().remove(&self.id);
    }
}
