//! Limits kept in the process, on governor's arithmetic.

mod account;
mod gcra;

use std::collections::HashMap;
use std::sync::Arc;

use account::{Account, lock};

use super::limiter::{LimitError, LimitHandle, Limiter};
use super::rate_limit::RateLimit;
use crate::clock::Now;
use crate::id::KeyId;
use crate::sync::Mutex;

/// A [`Limiter`] whose state lives in this process.
///
/// It holds an account for each key that has something spent or is in use. When room is needed,
/// those with nothing spent that nobody uses are dropped, which changes no decision. When that gives
/// no room, further keys are refused rather than let through unlimited.
///
/// An account remembers what is spent by the limits' names, and up to 32 different limits of a key
/// for as long as they are in use or have something spent. Then limits that are not in use make room
/// where another of their name knows what is spent; without any such, more are refused.
#[derive(Debug)]
pub struct LocalLimiter {
    shards: Box<[Mutex<Shard>]>,
    room_per_shard: usize,
}

#[derive(Debug, Default)]
struct Shard {
    accounts: HashMap<KeyId, Arc<Account>, foldhash::fast::RandomState>,
    /// Accounts at which idle ones are looked for, so that the search costs little per account.
    sweep_at: usize,
}

const SHARDS: usize = 64;
const FIRST_SWEEP: usize = 64;

impl LocalLimiter {
    /// A limiter with room for a million keys that have something spent.
    pub fn new() -> Self {
        Self::with_capacity(1_000_000)
    }

    /// A limiter with room for about this many keys that have something spent and are not in use;
    /// an account takes some 200 bytes.
    ///
    /// Those in use come on top. A layer uses the accounts of the keys in its cache: up to
    /// [`CacheConfig::capacity`](crate::key::CacheConfig::capacity).
    pub fn with_capacity(keys: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            room_per_shard: keys.div_ceil(SHARDS).max(1),
        }
    }

    /// Accounts held right now.
    pub fn accounts(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| lock(shard).accounts.len())
            .sum()
    }

    fn shard(&self, subject: KeyId) -> &Mutex<Shard> {
        // Ids are random digits; the last two spread evenly enough.
        let digits = subject.as_str().as_bytes();
        let spread = usize::from(digits[KeyId::LEN - 1]) + 7 * usize::from(digits[KeyId::LEN - 2]);
        &self.shards[spread % self.shards.len()]
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
        RateLimit::validate_all(limits)?;
        let mut shard = lock(self.shard(subject));
        if let Some(account) = shard.accounts.get(&subject) {
            return Ok(Arc::new(account.clone().hold(limits, now)?));
        }
        if shard.accounts.len() >= shard.sweep_at {
            let spent = shard.sweep(self.room_per_shard, now);
            if spent >= self.room_per_shard {
                return Err(LimitError::Full);
            }
        }
        let account = Arc::new(Account::default());
        let held = account.clone().hold(limits, now)?;
        shard.accounts.insert(subject, account);
        Ok(Arc::new(held))
    }
}

impl Shard {
    /// Drops what nobody uses and has nothing spent; the number of those that stay only because
    /// they have. The next sweep comes when there are twice as many, or when the room may be used
    /// up; then too only after as many have come as are in use now.
    fn sweep(&mut self, room: usize, now: Now) -> usize {
        let mut in_use = 0;
        self.accounts.retain(|_, account| {
            let used = Arc::strong_count(account) > 1;
            in_use += usize::from(used);
            used || !account.is_whole(now)
        });
        let all = self.accounts.len();
        self.sweep_at = (2 * all).max(FIRST_SWEEP).min(room + 2 * in_use);
        all - in_use
    }
}

/// Nothing in here panics while it holds a lock, so a poisoned one is whole.
#[cfg(all(test, keytally_shuttle))]
mod models;
#[cfg(test)]
mod tests;
