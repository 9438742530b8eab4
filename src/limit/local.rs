//! The in-process limiter.

mod account;
mod slot;

use std::collections::HashMap;
use std::sync::Arc;

pub(super) use account::AccountHandle;
#[cfg(feature = "redis")]
pub(super) use account::decision_of;
use account::{Account, is_shared, lock};

use super::limiter::{LimitError, LimitHandle, Limiter};
use super::rate_limit::RateLimit;
use crate::clock::Now;
use crate::id::KeyId;
use crate::sync::Mutex;

/// A [`Limiter`] with its state in this process.
///
/// It has an account for each key with usage or in use. When the capacity is reached, idle accounts without usage
/// are removed, which changes no decision. If none can be removed, further keys are rejected instead of being
/// admitted without limits.
///
/// An account tracks usage by limit name, for up to 32 different limits of a key while they are in use or have
/// usage. Beyond that, a limit that is not in use is replaced if another limit of the same name has its usage;
/// otherwise, new limits are rejected.
#[derive(Debug)]
pub struct LocalLimiter {
    shards: Box<[Mutex<Shard>]>,
    room_per_shard: usize,
}

#[derive(Debug, Default)]
struct Shard {
    accounts: HashMap<KeyId, Arc<Account>, foldhash::fast::RandomState>,
    /// The number of accounts at which idle ones are removed next, which keeps the amortized cost low.
    sweep_at: usize,
}

const SHARDS: usize = 64;
const FIRST_SWEEP: usize = 64;

impl LocalLimiter {
    /// A limiter with capacity for 1,000,000 keys with usage.
    pub fn new() -> Self {
        Self::with_capacity(1_000_000)
    }

    /// A limiter with capacity for about this many keys that have usage but are not in use. An account takes some
    /// 200 bytes.
    ///
    /// Accounts in use are not counted. A layer uses the accounts of the keys in its cache, up to
    /// [`CacheConfig::capacity`](crate::key::CacheConfig::capacity).
    pub fn with_capacity(keys: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            room_per_shard: keys.div_ceil(SHARDS).max(1),
        }
    }

    /// The current number of accounts.
    pub fn tracked_keys(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| lock(shard).accounts.len())
            .sum()
    }

    fn shard(&self, subject: KeyId) -> &Mutex<Shard> {
        // Key ids are random; their last two digits distribute evenly enough.
        let digits = subject.as_str().as_bytes();
        let hash = usize::from(digits[KeyId::LEN - 1]) + 7 * usize::from(digits[KeyId::LEN - 2]);
        &self.shards[hash % self.shards.len()]
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
        subject: KeyId,
        limits: &[RateLimit],
        now: Now,
    ) -> Result<Arc<dyn LimitHandle>, LimitError> {
        Ok(Arc::new(self.attach_account(subject, limits, now)?))
    }
}

impl LocalLimiter {
    /// Attaches limits to a subject.
    pub(super) fn attach_account(
        &self,
        subject: KeyId,
        limits: &[RateLimit],
        now: Now,
    ) -> Result<AccountHandle, LimitError> {
        RateLimit::validate_all(limits)?;
        let mut shard = lock(self.shard(subject));
        if let Some(account) = shard.accounts.get(&subject) {
            return account.clone().attach(limits, now);
        }
        if shard.accounts.len() >= shard.sweep_at {
            let spent = shard.sweep(self.room_per_shard, now);
            if spent >= self.room_per_shard {
                return Err(LimitError::AtCapacity);
            }
        }
        let account = Arc::new(Account::default());
        let held = account.clone().attach(limits, now)?;
        shard.accounts.insert(subject, account);
        Ok(held)
    }
}

impl Shard {
    /// Removes accounts that are neither in use nor have usage. Returns the number of accounts kept only because
    /// of their usage. The next sweep is due when the number of accounts has doubled, or when the capacity may be
    /// reached, but then only after as many new accounts as are currently in use.
    fn sweep(&mut self, room: usize, now: Now) -> usize {
        let mut in_use = 0;
        self.accounts.retain(|_, account| {
            let used = is_shared(account);
            in_use += usize::from(used);
            used || !account.is_whole(now)
        });
        let all = self.accounts.len();
        self.sweep_at = (2 * all).max(FIRST_SWEEP).min(room + 2 * in_use);
        all - in_use
    }
}

/// Nothing panics while it holds a lock, so that poisoned locks hold consistent data.
#[cfg(all(test, keytally_shuttle))]
mod models;
#[cfg(test)]
mod tests;
