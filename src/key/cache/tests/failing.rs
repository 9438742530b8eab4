//! A store that hangs, panics, fails or answers nonsense.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_given_up() {
    let setup = Setup::new(config().lookup_timeout(Duration::from_millis(100)));
    setup.hold();
    assert!(matches!(setup.ask().await, Err(StoreError::Timeout)));
    assert_eq!(setup.cache.stats().failures, 1);
}

#[tokio::test(start_paused = true)]
async fn a_look_up_takes_no_longer_than_its_answer_could_be_used() {
    for (ttl, patience) in [(1, 1), (60, 5), (0, 5)] {
        let setup = Setup::new(config().ttl(Duration::from_secs(ttl)));
        setup.hold();
        let began = tokio::time::Instant::now();
        assert!(matches!(setup.ask().await, Err(StoreError::Timeout)));
        assert_eq!(began.elapsed(), Duration::from_secs(patience));
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_up_ends_in_its_time_however_often_the_key_changes() {
    let setup = Setup::new(config().lookup_timeout(Duration::from_millis(100)));
    setup.hold();
    let (began, cache, id) = (tokio::time::Instant::now(), setup.cache.clone(), setup.id);
    let asking = tokio::spawn(async move { cache.lookup(id).await });
    for calls in 1..=3 {
        setup.store.entered.notified().await;
        assert_eq!(setup.calls(), calls);
        tokio::time::sleep(Duration::from_millis(30)).await;
        setup.cache.invalidate(setup.id);
        setup.store.gate.add_permits(1);
    }
    // The last time, there was too little left for the store to be late.
    assert!(matches!(asking.await.unwrap(), Err(StoreError::Busy)));
    assert_eq!(began.elapsed(), Duration::from_millis(100));
    assert!(setup.cache.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_asked_too_late_is_not_late() {
    for (left, late) in [(49, false), (50, false), (51, true)] {
        let setup = Setup::new(config().lookup_timeout(Duration::from_millis(100)));
        setup.hold();
        let asks: Vec<_> = (0..2)
            .map(|_| {
                let (cache, id) = (setup.cache.clone(), setup.id);
                tokio::spawn(async move { cache.lookup(id).await })
            })
            .collect();
        setup.store.entered.notified().await;
        tokio::time::sleep(Duration::from_millis(100 - left)).await;
        // The other goes on with what is left of its time.
        asks[0].abort();
        let [_, other] = <[_; 2]>::try_from(asks).unwrap();
        match other.await.unwrap() {
            Err(StoreError::Timeout) => assert!(late),
            Err(StoreError::Busy) => assert!(!late),
            found => panic!("{found:?}"),
        }
    }
}

/// What changes all the while is not a store that fails: nobody passes for that.
#[tokio::test]
async fn a_look_up_that_is_overtaken_time_and_again_gives_up() {
    let setup = Setup::new(config());
    setup.hold();
    let (cache, id) = (setup.cache.clone(), setup.id);
    let asking = tokio::spawn(async move { cache.lookup(id).await });
    for _ in 0..8 {
        setup.store.entered.notified().await;
        setup.cache.invalidate(setup.id);
        setup.store.gate.add_permits(1);
    }
    assert!(matches!(asking.await.unwrap(), Err(StoreError::Busy)));
    assert_eq!(setup.cache.stats().lookups, 8);
    assert!(setup.cache.is_idle());
    // It can be looked up when that is over.
    setup.store.gate.add_permits(1);
    assert!(setup.ask().await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn strangers_take_turns_and_keys_that_are_held_do_not_wait_for_them() {
    let setup = Setup::new(
        config()
            .uncached_lookups(2)
            .lookup_timeout(Duration::from_secs(1)),
    );
    assert!(setup.ask().await.unwrap().is_some());
    setup.clock.advance(Duration::from_secs(31));
    setup.hold();
    let mut strangers = tokio::task::JoinSet::new();
    for n in 0..10 {
        let cache = setup.cache.clone();
        strangers.spawn(async move { cache.lookup(KeyId::from_number(n)).await });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(setup.calls(), 1 + 2);
    // Two look-ups hang, and the key whose time is over is asked for all the same.
    let (cache, id) = (setup.cache.clone(), setup.id);
    let known = tokio::spawn(async move { cache.lookup(id).await });
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(setup.calls(), 1 + 2 + 1);
    known.abort();
    // Those who had no turn were not asked for; the others hung.
    let errors: Vec<_> = strangers.join_all().await;
    let busy = |found: &&Found| matches!(found, Err(StoreError::Busy));
    assert_eq!(errors.iter().filter(busy).count(), 8);
    assert_eq!(setup.calls(), 1 + 2 + 1);
    assert_eq!(setup.cache.stats().lookups, 1 + 2 + 1);
    // Their turns are free again.
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

#[tokio::test]
async fn rule_5_a_store_that_panics_is_one_that_fails() {
    struct Panics(bool);

    #[async_trait]
    impl KeyStore for Panics {
        async fn find(&self, _: KeyId) -> Result<Option<KeyRecord>, StoreError> {
            if self.0 {
                tokio::task::yield_now().await;
            }
            panic!("the store's own fault");
        }
    }

    for late in [false, true] {
        let clock = Clock::manual(jiff::Timestamp::UNIX_EPOCH);
        let cache = KeyCache::new(Panics(late), config(), clock);
        let mut asks = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let cache = cache.clone();
            asks.spawn(async move { cache.lookup(KeyId::from_number(1)).await });
        }
        let answers = asks.join_all().await;
        let failed = |found: &Found| matches!(found, Err(StoreError::Unavailable(_)));
        assert!(answers.len() == 10 && answers.iter().all(failed));
        assert!(cache.is_idle());
    }
}

#[tokio::test]
async fn rule_5_an_outage_is_an_error() {
    let setup = Setup::new(config());
    assert!(setup.ask().await.is_ok());
    setup.store.fails.store(true, Ordering::SeqCst);
    assert!(setup.ask().await.is_ok());
    setup.clock.advance(Duration::from_secs(30));
    assert!(matches!(setup.ask().await, Err(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn rule_5_serving_through_an_outage_has_a_bound() {
    let setup = Setup::new(config().serve_stale(Duration::from_secs(60)));
    assert!(setup.ask().await.is_ok());
    setup.store.fails.store(true, Ordering::SeqCst);
    setup.clock.advance(Duration::from_secs(31));
    for _ in 0..3 {
        assert!(setup.ask().await.unwrap().is_some());
    }
    // The failing store is asked once a second, not on each request.
    assert_eq!(setup.calls(), 2);
    assert_eq!(setup.cache.stats().served_stale, 3);
    setup.clock.advance(Duration::from_secs(59));
    assert!(setup.ask().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn rule_5_a_store_that_failed_is_left_alone_for_a_second() {
    let setup = Setup::new(config().serve_stale(Duration::from_secs(60)));
    assert!(setup.ask().await.is_ok());
    setup.store.fails.store(true, Ordering::SeqCst);
    setup.clock.advance(Duration::from_secs(31));
    assert!(setup.ask().await.unwrap().is_some());
    for (pause, calls) in [(0, 2), (999, 2), (1, 3), (0, 3)] {
        setup.clock.advance(Duration::from_millis(pause));
        // Those too who do not look first at what is held.
        for _ in 0..3 {
            assert!(setup.cache.lookup(setup.id).await.unwrap().is_some());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(setup.calls(), calls);
    }
    assert_eq!(setup.cache.stats().served_stale, 13);
}

#[tokio::test(start_paused = true)]
async fn rule_5_through_an_outage_one_request_waits_and_no_other() {
    let setup = Setup::new(config().serve_stale(Duration::from_secs(60)));
    assert!(setup.ask().await.is_ok());
    setup.hold();
    setup.clock.advance(Duration::from_secs(31));
    let patience = setup.cache.config().lookup_timeout;
    let asked = tokio::time::Instant::now();
    assert!(setup.ask().await.unwrap().is_some());
    assert_eq!(asked.elapsed(), patience);
    for retries in 1..4 {
        setup.clock.advance(Duration::from_secs(2));
        let asked = tokio::time::Instant::now();
        for _ in 0..10 {
            assert!(setup.ask().await.unwrap().is_some());
        }
        assert_eq!(asked.elapsed(), Duration::ZERO);
        // One look-up goes on behind, and fails in its time.
        tokio::time::sleep(patience * 2).await;
        assert_eq!(setup.calls(), 2 + retries);
    }
    assert_eq!(setup.cache.stats().served_stale, 31);
    assert!(setup.cache.is_idle());
    // The store is back: the next look-up makes the entry fresh.
    setup.store.gate.add_permits(1_000);
    setup.clock.advance(Duration::from_secs(2));
    assert!(setup.ask().await.unwrap().is_some());
    tokio::time::sleep(patience).await;
    let calls = setup.calls();
    setup.clock.advance(Duration::from_secs(25));
    assert!(setup.ask().await.unwrap().is_some());
    assert_eq!(
        (setup.calls(), setup.cache.stats().served_stale),
        (calls, 32)
    );
}

#[tokio::test(start_paused = true)]
async fn rule_4_a_retry_behind_a_request_cannot_bring_a_dropped_key_back() {
    let setup = Setup::new(config().serve_stale(Duration::from_secs(60)));
    assert!(setup.ask().await.is_ok());
    setup.store.fails.store(true, Ordering::SeqCst);
    setup.clock.advance(Duration::from_secs(31));
    assert!(setup.ask().await.is_ok());
    setup.store.fails.store(false, Ordering::SeqCst);
    setup.hold();
    setup.clock.advance(Duration::from_secs(2));
    assert!(setup.ask().await.unwrap().is_some());
    setup.store.entered.notified().await;
    setup.store.record.lock().unwrap().take();
    setup.cache.invalidate(setup.id);
    setup.store.gate.add_permits(10);
    assert!(setup.ask().await.unwrap().is_none());
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(setup.ask().await.unwrap().is_none());
}

#[tokio::test]
async fn rule_5_a_dropped_key_is_not_served_through_an_outage() {
    let setup = Setup::new(config().serve_stale(Duration::from_secs(60)));
    assert!(setup.ask().await.is_ok());
    setup.store.fails.store(true, Ordering::SeqCst);
    setup.cache.invalidate(setup.id);
    assert!(setup.ask().await.is_err());
}

#[tokio::test]
async fn another_keys_record_is_no_answer() {
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
