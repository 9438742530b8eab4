//! Stores that hang, panic, fail or return invalid responses.

use super::*;

#[tokio::test(start_paused = true)]
async fn hanging_store_times_out() {
    let setup = Setup::new(config().lookup_timeout(Duration::from_millis(100)));
    setup.block();
    assert!(matches!(setup.lookup().await, Err(StoreError::Timeout)));
    assert_eq!(setup.cache.stats().failures, 1);
}

#[tokio::test(start_paused = true)]
async fn lookup_timeout_is_at_most_the_ttl() {
    for (ttl, timeout) in [(1, 1), (60, 5), (0, 5)] {
        let setup = Setup::new(config().ttl(Duration::from_secs(ttl)));
        setup.block();
        let started = tokio::time::Instant::now();
        assert!(matches!(setup.lookup().await, Err(StoreError::Timeout)));
        assert_eq!(started.elapsed(), Duration::from_secs(timeout));
    }
}

#[tokio::test(start_paused = true)]
async fn lookup_of_a_changing_key_ends_within_its_timeout() {
    let setup = Setup::new(config().lookup_timeout(Duration::from_millis(100)));
    setup.block();
    let (started, cache, id) = (tokio::time::Instant::now(), setup.cache.clone(), setup.id);
    let lookup = tokio::spawn(async move { cache.lookup(id).await });
    for calls in 1..=3 {
        setup.store.entered.notified().await;
        assert_eq!(setup.calls(), calls);
        tokio::time::sleep(Duration::from_millis(30)).await;
        setup.cache.invalidate(setup.id);
        setup.store.gate.add_permits(1);
    }
    // The last attempt had less than half of the timeout left, so that the store has not timed out.
    assert!(matches!(lookup.await.unwrap(), Err(StoreError::Busy)));
    assert_eq!(started.elapsed(), Duration::from_millis(100));
    assert!(setup.cache.is_idle());
}

#[tokio::test(start_paused = true)]
async fn late_store_call_is_not_a_store_timeout() {
    for (left, late) in [(49, false), (50, false), (51, true)] {
        let setup = Setup::new(config().lookup_timeout(Duration::from_millis(100)));
        setup.block();
        let lookups: Vec<_> = (0..2)
            .map(|_| {
                let (cache, id) = (setup.cache.clone(), setup.id);
                tokio::spawn(async move { cache.lookup(id).await })
            })
            .collect();
        setup.store.entered.notified().await;
        tokio::time::sleep(Duration::from_millis(100 - left)).await;
        // The other lookup continues with what is left of its timeout.
        lookups[0].abort();
        let [_, other] = <[_; 2]>::try_from(lookups).unwrap();
        match other.await.unwrap() {
            Err(StoreError::Timeout) => assert!(late),
            Err(StoreError::Busy) => assert!(!late),
            found => panic!("{found:?}"),
        }
    }
}

/// A constantly changing key is not a store failure, so that `StoreFailure` does not apply.
#[tokio::test]
async fn repeatedly_invalidated_lookup_gives_up() {
    let setup = Setup::new(config());
    setup.block();
    let (cache, id) = (setup.cache.clone(), setup.id);
    let lookup = tokio::spawn(async move { cache.lookup(id).await });
    for _ in 0..8 {
        setup.store.entered.notified().await;
        setup.cache.invalidate(setup.id);
        setup.store.gate.add_permits(1);
    }
    assert!(matches!(lookup.await.unwrap(), Err(StoreError::Busy)));
    assert_eq!(setup.cache.stats().lookups, 8);
    assert!(setup.cache.is_idle());
    // The key can be looked up once it stops changing.
    setup.store.gate.add_permits(1);
    assert!(setup.lookup().await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn uncached_lookups_are_limited_and_cached_keys_do_not_wait_for_them() {
    let setup = Setup::new(
        config()
            .uncached_lookups(2)
            .lookup_timeout(Duration::from_secs(1)),
    );
    assert!(setup.lookup().await.unwrap().is_some());
    setup.clock.advance(Duration::from_secs(31));
    setup.block();
    let mut uncached = tokio::task::JoinSet::new();
    for n in 0..10 {
        let cache = setup.cache.clone();
        uncached.spawn(async move { cache.lookup(KeyId::from_number(n)).await });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(setup.calls(), 1 + 2);
    // Two lookups hang, but the expired entry is refreshed nevertheless.
    let (cache, id) = (setup.cache.clone(), setup.id);
    let known = tokio::spawn(async move { cache.lookup(id).await });
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(setup.calls(), 1 + 2 + 1);
    known.abort();
    // The other lookups never reached the store; the two timed out.
    let errors: Vec<_> = uncached.join_all().await;
    let busy = |found: &&LookupResult| matches!(found, Err(StoreError::Busy));
    assert_eq!(errors.iter().filter(busy).count(), 8);
    assert_eq!(setup.calls(), 1 + 2 + 1);
    assert_eq!(setup.cache.stats().lookups, 1 + 2 + 1);
    // Their permits are released.
    setup.store.gate.add_permits(1_000);
    assert!(
        setup
            .cache
            .lookup(KeyId::from_number(1))
            .await
            .unwrap()
            .is_none()
    );
}

mod fail_closed {
    use super::*;

    #[tokio::test]
    async fn panicking_store_counts_as_failed() {
        struct Panics(bool);

        #[async_trait]
        impl KeyStore for Panics {
            async fn find(&self, _: KeyId) -> Result<Option<KeyRecord>, StoreError> {
                if self.0 {
                    tokio::task::yield_now().await;
                }
                panic!("store panic");
            }
        }

        for late in [false, true] {
            let clock = Clock::manual(jiff::Timestamp::UNIX_EPOCH);
            let cache = KeyCache::new(Panics(late), config(), clock);
            let mut lookups = tokio::task::JoinSet::new();
            for _ in 0..10 {
                let cache = cache.clone();
                lookups.spawn(async move { cache.lookup(KeyId::from_number(1)).await });
            }
            let results = lookups.join_all().await;
            let failed = |found: &LookupResult| matches!(found, Err(StoreError::Unavailable(_)));
            assert!(results.len() == 10 && results.iter().all(failed));
            assert!(cache.is_idle());
        }
    }

    #[tokio::test]
    async fn store_outage_is_an_error() {
        let setup = Setup::new(config());
        assert!(setup.lookup().await.is_ok());
        setup.store.fails.store(true, Ordering::SeqCst);
        assert!(setup.lookup().await.is_ok());
        setup.clock.advance(Duration::from_secs(30));
        assert!(matches!(
            setup.lookup().await,
            Err(StoreError::Unavailable(_))
        ));
    }

    #[tokio::test]
    async fn stale_keys_are_served_for_a_bounded_time() {
        let setup = Setup::new(config().serve_stale(Duration::from_secs(60)));
        assert!(setup.lookup().await.is_ok());
        setup.store.fails.store(true, Ordering::SeqCst);
        setup.clock.advance(Duration::from_secs(31));
        for _ in 0..3 {
            assert!(setup.lookup().await.unwrap().is_some());
        }
        // The failing store is retried once a second, not on every request.
        assert_eq!(setup.calls(), 2);
        assert_eq!(setup.cache.stats().served_stale, 3);
        setup.clock.advance(Duration::from_secs(59));
        assert!(setup.lookup().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn failed_store_is_retried_once_per_second() {
        let setup = Setup::new(config().serve_stale(Duration::from_secs(60)));
        assert!(setup.lookup().await.is_ok());
        setup.store.fails.store(true, Ordering::SeqCst);
        setup.clock.advance(Duration::from_secs(31));
        assert!(setup.lookup().await.unwrap().is_some());
        for (pause, calls) in [(0, 2), (999, 2), (1, 3), (0, 3)] {
            setup.clock.advance(Duration::from_millis(pause));
            // Also for lookups that skip the cache.
            for _ in 0..3 {
                assert!(setup.cache.lookup(setup.id).await.unwrap().is_some());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(setup.calls(), calls);
        }
        assert_eq!(setup.cache.stats().served_stale, 13);
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_first_request_waits_for_a_failing_store() {
        let setup = Setup::new(config().serve_stale(Duration::from_secs(60)));
        assert!(setup.lookup().await.is_ok());
        setup.block();
        setup.clock.advance(Duration::from_secs(31));
        let timeout = setup.cache.config().lookup_timeout;
        let started = tokio::time::Instant::now();
        assert!(setup.lookup().await.unwrap().is_some());
        assert_eq!(started.elapsed(), timeout);
        for retries in 1..4 {
            setup.clock.advance(Duration::from_secs(2));
            let started = tokio::time::Instant::now();
            for _ in 0..10 {
                assert!(setup.lookup().await.unwrap().is_some());
            }
            assert_eq!(started.elapsed(), Duration::ZERO);
            // One lookup continues in the background and times out.
            tokio::time::sleep(timeout * 2).await;
            assert_eq!(setup.calls(), 2 + retries);
        }
        assert_eq!(setup.cache.stats().served_stale, 31);
        assert!(setup.cache.is_idle());
        // The store has recovered: the next lookup refreshes the entry.
        setup.store.gate.add_permits(1_000);
        setup.clock.advance(Duration::from_secs(2));
        assert!(setup.lookup().await.unwrap().is_some());
        tokio::time::sleep(timeout).await;
        let calls = setup.calls();
        setup.clock.advance(Duration::from_secs(25));
        assert!(setup.lookup().await.unwrap().is_some());
        assert_eq!(
            (setup.calls(), setup.cache.stats().served_stale),
            (calls, 32)
        );
    }

    #[tokio::test]
    async fn invalidated_key_is_not_served_stale() {
        let setup = Setup::new(config().serve_stale(Duration::from_secs(60)));
        assert!(setup.lookup().await.is_ok());
        setup.store.fails.store(true, Ordering::SeqCst);
        setup.cache.invalidate(setup.id);
        assert!(setup.lookup().await.is_err());
    }
}

mod prompt_revocation {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn background_retry_does_not_restore_a_deleted_key() {
        let setup = Setup::new(config().serve_stale(Duration::from_secs(60)));
        assert!(setup.lookup().await.is_ok());
        setup.store.fails.store(true, Ordering::SeqCst);
        setup.clock.advance(Duration::from_secs(31));
        assert!(setup.lookup().await.is_ok());
        setup.store.fails.store(false, Ordering::SeqCst);
        setup.block();
        setup.clock.advance(Duration::from_secs(2));
        assert!(setup.lookup().await.unwrap().is_some());
        setup.store.entered.notified().await;
        setup.store.record.lock().unwrap().take();
        setup.cache.invalidate(setup.id);
        setup.store.gate.add_permits(10);
        assert!(setup.lookup().await.unwrap().is_none());
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(setup.lookup().await.unwrap().is_none());
    }
}

#[tokio::test]
async fn record_of_another_key_is_an_error() {
    struct Wrong(KeyRecord);
    #[async_trait]
    impl KeyStore for Wrong {
        async fn find(&self, _: KeyId) -> Result<Option<KeyRecord>, StoreError> {
            Ok(Some(self.0.clone()))
        }
    }
    let cache = KeyCache::new(Wrong(record()), config(), Clock::system());
    assert!(cache.lookup(KeyId::from_number(1)).await.is_err());
}
