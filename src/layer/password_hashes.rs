//! [`PasswordHashes`]: verification of imported secrets that only have a password hash.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::candidate::Candidate;
use super::config::Config;
use crate::key::{Actor, CachedKey, Digest, KeyAdmin, KeyChange, StoreError, verify_password};
use crate::telemetry;

/// The maximum number of requests that wait for their turn.
const MAX_WAITING: usize = 256;

/// The maximum time for which they wait.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// The timeout for replacing a hash.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Verifies imported secrets by their [password hashes](crate::key::ImportedKey::from_password_hash), and replaces each
/// hash by a fast digest when its key is first used. See [`ApiKeyLayer::password_hashes`].
///
/// Hashes are verified by a few workers on tokio's threads for blocking work. A request waits up to five seconds for a
/// worker, and is rejected with 503 if more than 256 requests wait.
///
/// [`ApiKeyLayer::password_hashes`]: super::ApiKeyLayer::password_hashes
#[derive(Clone)]
#[must_use = "does nothing until passed to `ApiKeyLayer::password_hashes`"]
pub struct PasswordHashes {
    store: Arc<dyn KeyAdmin>,
    workers: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl PasswordHashes {
    /// Replaces password hashes in this store. Half as many workers as CPUs by default, and at least one.
    pub fn new(store: impl KeyAdmin) -> Self {
        let cpus = available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            store: Arc::new(store),
            workers: Arc::new(Semaphore::new((cpus / 2).max(1))),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
        }
    }

    /// Sets the number of workers, which bounds the CPU time and the memory of verification: an Argon2 hash takes up to
    /// 256 MiB. At least 1.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Arc::new(Semaphore::new(workers.clamp(1, Semaphore::MAX_PERMITS)));
        self
    }

    /// Waits for a worker. Returns whether it had to wait.
    ///
    /// # Errors
    ///
    /// [`StoreError::Busy`] if there is no worker in time, or too many requests wait.
    async fn worker(&self) -> Result<(OwnedSemaphorePermit, bool), StoreError> {
        if let Ok(worker) = self.workers.clone().try_acquire_owned() {
            return Ok((worker, false));
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| StoreError::Busy)?;
        let worker = self.workers.clone().acquire_owned();
        match tokio::time::timeout(MAX_WAIT, worker).await {
            Ok(Ok(worker)) => Ok((worker, true)),
            Ok(Err(_)) | Err(_) => Err(StoreError::Busy),
        }
    }

    /// Replaces the digest of a key. A failure is logged: the next use of the key tries again.
    async fn replace(&self, entry: &CachedKey, to: Digest) {
        let from = entry.digest.clone();
        let change = KeyChange::Rehash { from, to };
        let change = self.store.change(entry.key.id, change, Actor::SYSTEM);
        let result = match tokio::time::timeout(WRITE_TIMEOUT, change).await {
            Ok(result) => result.map(drop),
            Err(late) => Err(StoreError::unavailable(late)),
        };
        if let Err(error) = result {
            telemetry::warn!(
                key = entry.key.id.as_str(),
                error = &error as &dyn std::error::Error,
                "password hash of a key was not replaced"
            );
        }
    }
}

impl Config {
    /// Verifies a secret whose key has a password hash. Returns the key with a fast digest if it is the right one, and
    /// otherwise the same key, which no secret matches.
    ///
    /// # Errors
    ///
    /// The error of the store, or [`StoreError::Busy`].
    pub(super) async fn verify_by_password_hash(
        &self,
        entry: Arc<CachedKey>,
        candidate: &Candidate,
    ) -> Result<Option<Arc<CachedKey>>, StoreError> {
        let (Some(hash), Some(hashes)) = (entry.digest.password_hash(), &self.password_hashes)
        else {
            return Ok(Some(entry));
        };
        let id = entry.key.id;
        let (worker, has_waited) = hashes.worker().await?;
        if has_waited {
            // Another request may have replaced the hash.
            let found = self.cache.lookup(id).await?;
            if found
                .as_ref()
                .is_none_or(|found| found.digest != entry.digest)
            {
                return Ok(found);
            }
        }
        let (secret, hash) = (candidate.secret.clone(), hash.clone());
        let verified = tokio::task::spawn_blocking(move || {
            // Even if the request is cancelled meanwhile, the worker is not free before the work is done.
            let _worker = worker;
            verify_password(&secret, &hash)
        });
        // Not an error of the store, which may admit requests.
        if !verified.await.map_err(|_| StoreError::Busy)? {
            return Ok(Some(entry));
        }
        let digest = self.peppers.digest(&candidate.secret);
        hashes.replace(&entry, digest.clone()).await;
        // Again, since the key may have been revoked meanwhile.
        let found = self.cache.lookup(id).await?;
        Ok(found.map(|found| match found.digest == entry.digest {
            true => Arc::new(found.with_digest(digest)),
            false => found,
        }))
    }
}

impl fmt::Debug for PasswordHashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordHashes")
            .field("free_workers", &self.workers.available_permits())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MemoryBackend;

    #[tokio::test(start_paused = true)]
    async fn requests_wait_for_a_worker_up_to_a_time_and_number() {
        let hashes = PasswordHashes::new(MemoryBackend::new()).workers(1);
        let (worker, has_waited) = hashes.worker().await.unwrap();
        assert!(!has_waited);
        let began = tokio::time::Instant::now();
        assert!(matches!(hashes.worker().await, Err(StoreError::Busy)));
        assert_eq!(began.elapsed(), MAX_WAIT);
        let all = hashes
            .waiting
            .acquire_many(MAX_WAITING as u32)
            .await
            .unwrap();
        let began = tokio::time::Instant::now();
        assert!(matches!(hashes.worker().await, Err(StoreError::Busy)));
        assert!(began.elapsed().is_zero());
        drop(all);
        let (_, next) = tokio::join!(async { drop(worker) }, hashes.worker());
        assert!(next.is_ok());
        assert_eq!(hashes.waiting.available_permits(), MAX_WAITING);
    }
}
