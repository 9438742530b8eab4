//! The in-process limiter.

mod account;
mod slot;

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

pub(super) use account::LocalHandle;
#[cfg(feature = "redis")]
pub(super) use account::decision_of;
use account::{Account, AccountLimits, is_shared, lock};
use foldhash::fast::RandomState;

use super::limiter::{LimitError, LimitHandle, Limiter};
use super::rate_limit::RateLimit;
use super::subject::{Subject, SubjectLimits};
use crate::clock::Now;
use crate::id::KeyId;
use crate::sync::Mutex;

/// A [`Limiter`] with its state in this process.
///
/// It has an account for each key and owner with usage or in use. When the capacity is reached, idle accounts without
/// usage are removed, which changes no decision. If none can be removed, further keys are rejected instead of being
/// admitted without limits.
///
/// An account tracks usage by limit name, for up to 32 different limits while they are in use or have usage. Beyond
/// that, a limit that is not in use is replaced if another limit of the same name has its usage; otherwise, new limits
/// are rejected.
#[derive(Debug)]
pub struct LocalLimiter {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    room_per_shard: usize,
}

#[derive(Debug, Default)]
struct Shard {
    keys: HashMap<KeyId, Arc<Account>, RandomState>,
    owners: HashMap<Box<str>, Arc<Account>, RandomState>,
    /// The number of accounts at which idle ones are removed next, which keeps the amortized cost low.
    sweep_at: usize,
}

const SHARDS: usize = 64;
const FIRST_SWEEP: usize = 64;

impl LocalLimiter {
    /// A limiter with capacity for 1,000,000 keys and owners with usage.
    pub fn new() -> Self {
        Self::with_capacity(1_000_000)
    }

    /// A limiter with capacity for about this many keys and owners that have usage but are not in use. An account takes
    /// some 160 bytes.
    ///
    /// Accounts in use are not counted. A layer uses the accounts of the keys in its cache, up to
    /// [`CacheConfig::capacity`](crate::key::CacheConfig::capacity), and of their owners.
    pub fn with_capacity(keys: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            room_per_shard: keys.div_ceil(SHARDS).max(1),
        }
    }

    /// The current number of accounts, of keys and owners.
    pub fn tracked_keys(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn shard(&self, subject: Subject<'_>) -> &Mutex<Shard> {
        let hash = self.hasher.hash_one(subject);
        &self.shards[hash as usize % self.shards.len()]
    }
}

impl Default for LocalLimiter {
    fn default() -> Self {
        Self::new()
    }
}

impl Limiter for LocalLimiter {
    fn attach(
        &self,
        subjects: &[SubjectLimits<'_>],
        now: Now,
    ) -> Result<Arc<dyn LimitHandle>, LimitError> {
        Ok(Arc::new(self.attach_all(subjects, now)?))
    }
}

impl LocalLimiter {
    /// Attaches the limits of subjects.
    pub(super) fn attach_all(
        &self,
        subjects: &[SubjectLimits<'_>],
        now: Now,
    ) -> Result<LocalHandle, LimitError> {
        SubjectLimits::validate_all(subjects)?;
        let accounts = subjects
            .iter()
            .filter(|one| !one.limits.is_empty())
            .map(|one| self.attach_one(one.subject, one.limits, now));
        Ok(LocalHandle::of(accounts.collect::<Result<_, _>>()?))
    }

    fn attach_one(
        &self,
        subject: Subject<'_>,
        limits: &[RateLimit],
        now: Now,
    ) -> Result<AccountLimits, LimitError> {
        let mut shard = lock(self.shard(subject));
        if let Some(account) = shard.get(subject) {
            return account.clone().attach(limits, now);
        }
        if shard.len() >= shard.sweep_at {
            let spent = shard.sweep(self.room_per_shard, now);
            if spent >= self.room_per_shard {
                return Err(LimitError::AtCapacity);
            }
        }
        let account = Arc::new(Account::default());
        let held = account.clone().attach(limits, now)?;
        shard.insert(subject, account);
        Ok(held)
    }
}

impl Shard {
    fn get(&self, subject: Subject<'_>) -> Option<&Arc<Account>> {
        match subject {
            Subject::Key(lineage) => self.keys.get(&lineage),
            Subject::Owner(owner) => self.owners.get(owner),
        }
    }

    fn insert(&mut self, subject: Subject<'_>, account: Arc<Account>) {
        match subject {
            Subject::Key(lineage) => self.keys.insert(lineage, account),
            Subject::Owner(owner) => self.owners.insert(owner.into(), account),
        };
    }

    fn len(&self) -> usize {
        self.keys.len() + self.owners.len()
    }

    /// Removes accounts that are neither in use nor have usage. Returns the number of accounts kept only because
    /// of their usage. The next sweep is due when the number of accounts has doubled, or when the capacity may be
    /// reached, but then only after as many new accounts as are currently in use.
    fn sweep(&mut self, room: usize, now: Now) -> usize {
        let mut in_use = 0;
        let mut is_kept = |account: &Arc<Account>| {
            let used = is_shared(account);
            in_use += usize::from(used);
            used || !account.is_whole(now)
        };
        self.keys.retain(|_, account| is_kept(account));
        self.owners.retain(|_, account| is_kept(account));
        let all = self.len();
        self.sweep_at = (2 * all).max(FIRST_SWEEP).min(room + 2 * in_use);
        all - in_use
    }
}

/// Nothing panics while it holds a lock, so that poisoned locks hold consistent data.
#[cfg(all(test, keytally_shuttle))]
mod models;
#[cfg(test)]
mod tests;
