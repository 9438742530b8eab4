//! Idempotent creation and rotation of keys.
//!
//! The key id is derived from the idempotency key, so a retry after a restart or at another instance conflicts with the
//! existing key. For ten minutes, the process keeps the response in memory, including the secret, and returns it again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::id::KeyId;
use crate::key::{AuditAction, AuditQuery, IssueError, Issued, Issuer, Key, KeyAdmin, StoreError};

/// How long a response is kept.
const RESPONSE_TTL: Duration = Duration::from_secs(600);

/// The maximum number of kept responses. Beyond it, the oldest is evicted.
const MAX_RESPONSES: usize = 1_024;

/// How long a retry waits for the first request to complete.
const IN_PROGRESS_TIMEOUT: Duration = Duration::from_secs(5);

/// The header with the idempotency key.
pub(super) const HEADER: &str = "Idempotency-Key";

/// The SHA-256 digest of the request body.
pub(super) type Fingerprint = [u8; 32];

/// Identifies a request by administrator, path and idempotency key.
pub(super) struct RequestKey {
    /// The id of the new key; `None` without an idempotency key.
    id: Option<KeyId>,
    details: Fingerprint,
}

impl RequestKey {
    /// `name` is the idempotency key, if there is one.
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

/// Why no key was created.
#[derive(Debug, thiserror::Error)]
pub(super) enum IdempotencyError {
    #[error("No issuer is configured for this dashboard.")]
    NoIssuer,
    #[error("This request was already submitted with different parameters.")]
    ParametersDiffer,
    #[error("This request is still being processed. Try again in a moment.")]
    InProgress,
    #[error("Too many requests are being processed. Try again in a moment.")]
    TooMany,
    #[error(
        "This request already created key {id} ({hint}). Its secret was in the first response. \
        If you lost it, rotate the key."
    )]
    AlreadyCreated { id: KeyId, hint: String },
    #[error("This request already created a key, which has since been deleted.")]
    AlreadyDeleted,
    #[error("Internal error. Try again later.")]
    Internal,
    #[error(transparent)]
    Failed(#[from] IssueError),
}

/// Requests in progress and recent responses.
#[derive(Clone, Default)]
pub(super) struct IdempotentRequests(Arc<Mutex<Entries>>);

type Entries = HashMap<KeyId, Entry>;

struct Entry {
    details: Fingerprint,
    /// `None` while the request is in progress.
    answer: Option<CachedResponse>,
}

struct CachedResponse {
    issued: Arc<Issued>,
    since: Instant,
}

impl IdempotentRequests {
    /// Issues a key, or returns the response to an earlier request with the same idempotency key.
    pub(super) async fn once<F>(
        &self,
        request_key: RequestKey,
        issuer: Option<Issuer>,
        store: Arc<dyn KeyAdmin>,
        issue: impl FnOnce(Issuer) -> F,
    ) -> Result<Arc<Issued>, IdempotencyError>
    where
        F: Future<Output = Result<Issued, IssueError>> + Send + 'static,
    {
        let issuer = issuer.ok_or(IdempotencyError::NoIssuer)?;
        let Some(id) = request_key.id else {
            return Ok(Arc::new(issue(issuer).await?));
        };
        let in_progress = match self.begin_or_wait(id, request_key.details).await? {
            Claim::Again(issued) => return Ok(issued),
            Claim::First(in_progress) => in_progress,
        };
        let issuing = issue(issuer.with_id(id));
        // In its own task, so that a client that disconnects and retries receives the response.
        let task = tokio::spawn(async move {
            if was_deleted(&*store, id).await? {
                return Err(IdempotencyError::AlreadyDeleted);
            }
            match issuing.await {
                Ok(issued) => {
                    let issued = Arc::new(issued);
                    in_progress.keep(issued.clone());
                    Ok(issued)
                }
                Err(error) => match store.get(id).await {
                    Ok(Some(Key { hint, .. })) => {
                        Err(IdempotencyError::AlreadyCreated { id, hint })
                    }
                    _ => Err(error.into()),
                },
            }
        });
        task.await.unwrap_or(Err(IdempotencyError::Internal))
    }

    async fn begin_or_wait(
        &self,
        id: KeyId,
        details: Fingerprint,
    ) -> Result<Claim, IdempotencyError> {
        let since = Instant::now();
        loop {
            match self.begin(id, details) {
                Err(IdempotencyError::InProgress) if since.elapsed() < IN_PROGRESS_TIMEOUT => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                result => return result,
            }
        }
    }

    fn begin(&self, id: KeyId, details: Fingerprint) -> Result<Claim, IdempotencyError> {
        let mut known = self.known();
        match known.get(&id) {
            Some(other) if other.details != details => Err(IdempotencyError::ParametersDiffer),
            Some(Entry { answer: None, .. }) => Err(IdempotencyError::InProgress),
            Some(Entry {
                answer: Some(answer),
                ..
            }) => Ok(Claim::Again(answer.issued.clone())),
            None => {
                make_room(&mut known)?;
                let answer = None;
                known.insert(id, Entry { details, answer });
                let requests = self.clone();
                Ok(Claim::First(InProgressGuard { requests, id }))
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Evicts the oldest response if the map is full. A later retry creates no second key, since it conflicts with the
/// existing one.
fn make_room(known: &mut Entries) -> Result<(), IdempotencyError> {
    if known.len() < MAX_RESPONSES {
        return Ok(());
    }
    let answered = known
        .iter()
        .filter_map(|(id, known)| Some((known.answer.as_ref()?.since, *id)));
    let (_, oldest) = answered.min().ok_or(IdempotencyError::TooMany)?;
    known.remove(&oldest);
    Ok(())
}

/// Whether the audit log has the deletion of this key. A new key must not take over its usage.
async fn was_deleted(store: &dyn KeyAdmin, id: KeyId) -> Result<bool, StoreError> {
    let deleted = AuditQuery::new().key(id).action(AuditAction::Deleted);
    let Some(log) = store.audit_log() else {
        return Ok(false);
    };
    let entries = log.audit_entries(&deleted.limit(1)).await?;
    Ok(!entries.items.is_empty())
}

impl From<StoreError> for IdempotencyError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

enum Claim {
    First(InProgressGuard),
    Again(Arc<Issued>),
}

/// A request in progress. Dropping it removes the entry: after a failure, or when the response expires.
struct InProgressGuard {
    requests: IdempotentRequests,
    id: KeyId,
}

impl InProgressGuard {
    fn keep(self, issued: Arc<Issued>) {
        if let Some(known) = self.requests.known().get_mut(&self.id) {
            let since = Instant::now();
            known.answer = Some(CachedResponse { issued, since });
        }
        tokio::spawn(async move {
            tokio::time::sleep(RESPONSE_TTL).await;
            drop(self);
        });
    }
}

impl Drop for InProgressGuard {
    fn drop(&mut self) {
        self.requests.known().remove(&self.id);
    }
}
