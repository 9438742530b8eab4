//! The secrets that a thread has verified, so that it does not hash them again.
//!
//! Each thread remembers up to [`SLOTS`] secrets, each by its [`Tag`], with the cache entry that it was verified
//! against. Once the entry is evicted, replaced or invalidated, no thread accepts the secret without verifying it
//! again. Unverified secrets are never remembered, so they are processed as if the table did not exist.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, OnceLock, Weak};

use siphasher::sip128::SipHasher13;
use subtle::ConstantTimeEq;

use super::cache::CachedKey;
use super::secret::has_secret_shape;

/// The number of secrets that a thread remembers. The table takes 40 KiB per thread, and keeps the allocations of up to
/// as many evicted entries.
const SLOTS: usize = 1 << 10;

/// A secret as remembered: 96 bits of its SipHash-1-3, under a random key of the process.
///
/// To anyone without that key, a different secret collides with probability 2⁻⁹⁶. With it, as in a memory dump, the tag
/// leaves 94 of the 190 random bits of the secret undetermined.
#[derive(Clone, Copy)]
pub(crate) struct Tag(u64, u32);

impl Tag {
    /// The tag of a secret in the format of [`Secret`](super::Secret). `None` for other secrets, and if the operating
    /// system provides no randomness: they are not remembered.
    #[inline]
    pub(crate) fn of(secret: &[u8]) -> Option<Self> {
        static KEYED: OnceLock<Option<SipHasher13>> = OnceLock::new();
        if !has_secret_shape(secret) {
            return None;
        }
        let keyed = KEYED.get_or_init(|| {
            let mut key = [0; 16];
            getrandom::fill(&mut key).ok()?;
            Some(SipHasher13::new_with_key(&key))
        });
        let hash = keyed.as_ref()?.hash(secret);
        Some(Self(hash.h1, hash.h2 as u32))
    }

    /// The slot for these settings: nested layers verify the same secret.
    fn slot(self, verifier: u64) -> usize {
        (self.0 ^ verifier) as usize % SLOTS
    }

    fn is(self, other: Self) -> bool {
        (self.0.ct_eq(&other.0) & self.1.ct_eq(&other.1)).into()
    }
}

struct Verified {
    tag: Tag,
    /// The id of the settings that verified it.
    verifier: u64,
    /// Weak, so that only the allocation of the entry outlives its eviction, not the key or its limits.
    entry: Weak<CachedKey>,
    /// The number of uses, wrapping.
    uses: Cell<u8>,
}

thread_local! {
    /// Empty until the thread verifies a secret.
    static VERIFIED: RefCell<Vec<Option<Verified>>> = const { RefCell::new(Vec::new()) };
}

/// A remembered secret.
pub(crate) struct Recalled {
    /// The entry that the secret was verified against. It is still in the cache.
    pub(crate) entry: Arc<CachedKey>,
    /// Whether to read the entry from the cache, so that the cache counts it as used.
    pub(crate) touch: bool,
}

/// The uses of a remembered secret that the cache counts as one.
const USES_PER_TOUCH: u8 = 16;

/// The secret with this tag, if this thread has verified it with these settings.
#[inline]
pub(crate) fn recall(verifier: u64, tag: Tag) -> Option<Recalled> {
    let recalled = VERIFIED.try_with(|verified| {
        let verified = verified.borrow();
        let found = verified.get(tag.slot(verifier))?.as_ref()?;
        if !found.tag.is(tag) || found.verifier != verifier {
            return None;
        }
        found.uses.set(found.uses.get().wrapping_add(1));
        Some(Recalled {
            entry: found.entry.upgrade()?,
            touch: found.uses.get().is_multiple_of(USES_PER_TOUCH),
        })
    });
    // Outside of the borrow, because dropping the last reference drops the handle of the limiter.
    recalled
        .ok()?
        .filter(|recalled| !recalled.entry.is_evicted())
}

/// Remembers that the secret with this tag was verified against an entry that was read from the cache.
pub(crate) fn remember(verifier: u64, tag: Tag, entry: &Arc<CachedKey>) {
    let verified = Verified {
        tag,
        verifier,
        entry: Arc::downgrade(entry),
        uses: Cell::new(0),
    };
    replace(tag.slot(verifier), Some(verified));
}

/// Forgets the secret with this tag.
#[cold]
pub(crate) fn forget(verifier: u64, tag: Tag) {
    replace(tag.slot(verifier), None);
}

/// Does nothing while the thread ends.
fn replace(slot: usize, with: Option<Verified>) {
    let _ = VERIFIED.try_with(|verified| {
        let mut verified = verified.borrow_mut();
        if verified.is_empty() {
            verified.resize_with(SLOTS, || None);
        }
        verified[slot] = with;
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MemoryBackend;
    use crate::clock::Clock;
    use crate::key::{
        Actor, CacheConfig, CacheLookup, Issued, Issuer, KeyAdmin, KeyCache, NewKey, Secret,
    };

    /// A small cache, and a secret whose key is in it.
    async fn cached() -> (MemoryBackend, KeyCache, Secret, Arc<CachedKey>) {
        let backend = MemoryBackend::new();
        let cache = KeyCache::new(
            backend.clone(),
            CacheConfig::new().capacity(4),
            Clock::system(),
        );
        let issuer = Issuer::new("acme").unwrap();
        let issued = issuer.issue(&backend, NewKey::new("x"), Actor::SYSTEM);
        let issued = issued.await.unwrap();
        let entry = cache.lookup(issued.key.id).await.unwrap().unwrap();
        (backend, cache, issued.secret, entry)
    }

    fn tag(secret: &str) -> Tag {
        Tag::of(secret.as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn only_the_same_secret_with_the_same_settings_is_recalled() {
        let (_, _, secret, entry) = cached().await;
        assert!(recall(1, tag(secret.expose())).is_none());
        remember(1, tag(secret.expose()), &entry);
        let recalled = recall(1, tag(secret.expose())).unwrap();
        assert!(Arc::ptr_eq(&recalled.entry, &entry));
        assert!(recall(2, tag(secret.expose())).is_none());
        for index in 0..secret.expose().len() {
            let mut other = secret.expose().as_bytes().to_vec();
            other[index] ^= 1;
            assert!(Tag::of(&other).is_none_or(|tag| recall(1, tag).is_none()));
        }
        let here = tag(secret.expose());
        let elsewhere = std::thread::spawn(move || recall(1, here).is_none());
        assert!(elsewhere.join().unwrap());
    }

    #[test]
    fn secrets_of_other_formats_are_not_remembered() {
        let body = "0".repeat(54);
        for other in [
            "",
            "sk-123",
            &body,
            &format!("_{body}"),
            &format!("a-{body}"),
        ] {
            assert!(Tag::of(other.as_bytes()).is_none(), "{other}");
        }
        let longest = "a".repeat(32);
        assert!(Tag::of(format!("{longest}_{body}").as_bytes()).is_some());
        assert!(Tag::of(format!("{longest}a_{body}").as_bytes()).is_none());
    }

    #[tokio::test]
    async fn every_sixteenth_use_is_counted_by_the_cache() {
        let (_, _, secret, entry) = cached().await;
        let tag = tag(secret.expose());
        remember(1, tag, &entry);
        let touched = (0..512).filter(|_| recall(1, tag).unwrap().touch).count();
        assert_eq!(touched, 32);
    }

    mod prompt_revocation {
        use super::*;

        /// In-progress requests may hold the entry.
        #[tokio::test]
        async fn invalidated_entries_are_not_recalled() {
            let (backend, cache, secret, entry) = cached().await;
            let tag = tag(secret.expose());
            let all: [&dyn Fn(); 2] = [&|| cache.invalidate(entry.key.id), &|| {
                cache.invalidate_all();
            }];
            for invalidate in all {
                cache.lookup(entry.key.id).await.unwrap();
                let CacheLookup::Hit(entry) = cache.get(entry.key.id, cache.clock().now()) else {
                    panic!("the key is cached");
                };
                remember(1, tag, &entry);
                assert!(recall(1, tag).is_some());
                invalidate();
                assert!(recall(1, tag).is_none());
            }
            cache.lookup(entry.key.id).await.unwrap();
            backend.revoke(entry.key.id, Actor::SYSTEM).await.unwrap();
            assert!(recall(1, tag).is_none());
        }

        #[tokio::test]
        async fn evicted_and_replaced_entries_are_not_recalled() {
            let (backend, cache, secret, entry) = cached().await;
            remember(1, tag(secret.expose()), &entry);
            // Replaces the entry, as after its TTL.
            cache.lookup(entry.key.id).await.unwrap();
            assert!(recall(1, tag(secret.expose())).is_none());
            let issuer = Issuer::new("acme").unwrap();
            let mut held = Vec::new();
            for _ in 0..50 {
                let issued = issuer.issue(&backend, NewKey::new("x"), Actor::SYSTEM);
                let issued = issued.await.unwrap();
                let entry = cache.lookup(issued.key.id).await.unwrap().unwrap();
                remember(1, tag(issued.secret.expose()), &entry);
                held.push((issued, entry));
            }
            let slots: Vec<_> = held
                .iter()
                .map(|(issued, _)| tag(issued.secret.expose()).slot(1))
                .collect();
            let recalled = |&(index, (issued, entry)): &(usize, &(Issued, Arc<CachedKey>))| {
                let recalled = recall(1, tag(issued.secret.expose())).is_some();
                let cached = cache.get(issued.key.id, cache.clock().now());
                let is_cached = matches!(cached, CacheLookup::Hit(it) if Arc::ptr_eq(&it, entry));
                // A later secret may have taken the slot.
                let is_replaced = slots[index + 1..].contains(&slots[index]);
                assert_eq!(recalled, is_cached && !is_replaced);
                recalled
            };
            let recalled = held.iter().enumerate().filter(recalled).count();
            assert!((1..50).contains(&recalled), "{recalled}");
        }
    }

    #[tokio::test]
    async fn neither_entry_nor_store_is_kept_alive() {
        let (backend, cache, secret, entry) = cached().await;
        remember(1, tag(secret.expose()), &entry);
        let key = Arc::downgrade(&entry.key);
        drop((backend, cache, entry));
        assert!(key.upgrade().is_none());
        assert!(recall(1, tag(secret.expose())).is_none());
    }
}
