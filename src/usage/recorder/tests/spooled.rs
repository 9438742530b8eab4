//! A recorder with a spool.

mod fault_injection;
#[cfg(feature = "tracing")]
mod logging;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use fault_injection::Mode::{DoesAndFails, Fails, Hangs, Rejects, Works};
use fault_injection::{Database, Shelf};

use super::{SOON, pending};
use crate::usage::recorder::{Recorder, RecorderBuilder, RecorderStats};
use crate::usage::{Batch, Spool, UsageEvent};

fn builder(database: &Database, shelf: &Shelf) -> RecorderBuilder {
    Recorder::builder(database.clone())
        .capacity(100)
        .batch_size(10)
        .batch_age(Duration::from_millis(10))
        .spool(shelf.clone())
}

/// Records events with these numbers as their latency.
fn record(recorder: &Recorder, numbers: std::ops::Range<u64>) {
    for number in numbers {
        assert!(recorder.reserve());
        let mut event = pending();
        event.fields.latency_us = number;
        recorder.record(&mut event);
    }
}

/// Waits, in paused time, until the condition holds.
async fn until(condition: impl Fn() -> bool) {
    // Checking the condition is slow under Miri.
    let interval = Duration::from_millis(if cfg!(miri) { 50 } else { 1 });
    for _ in 0..100_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(interval).await;
    }
    panic!("timed out waiting for a condition");
}

/// Asserts invariant 9 when nothing is queued.
fn assert_conserved(recorder: &Recorder, written: u64, lost: u64, spooled: u64) -> RecorderStats {
    let stats = recorder.stats();
    assert_eq!(
        (stats.written, stats.lost, stats.spooled),
        (written, lost, spooled),
        "{stats:?}"
    );
    assert_eq!(
        (stats.accepted, stats.queued, stats.in_flight),
        (written + lost + spooled, 0, 0),
        "{stats:?}"
    );
    assert_eq!(stats.queued_bytes, 0);
    stats
}

fn counted_to(end: u64) -> Vec<u64> {
    (0..end).collect()
}

#[tokio::test(start_paused = true)]
#[cfg_attr(miri, ignore = "too slow with thousands of events")]
async fn a_long_outage_loses_no_events_and_keeps_their_order() {
    for mode in [Fails, Hangs] {
        let (database, shelf) = (Database::new(mode), Shelf::new());
        let recorder = builder(&database, &shelf).start();
        for round in 0..100 {
            record(&recorder, round * 30..(round + 1) * 30);
            // Time for the spool to write.
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        if mode == Fails {
            recorder.flush().await;
            assert_conserved(&recorder, 0, 0, 3_000);
            assert_eq!(shelf.events(), 3_000);
        }
        database.switch.set(Works);
        until(|| recorder.stats().written == 3_000).await;
        assert_conserved(&recorder, 3_000, 0, 0);
        until(|| shelf.events() == 0).await;
        assert_eq!(database.numbers(), counted_to(3_000), "{mode:?}");
        // Later events are not spooled.
        let pushes = shelf.pushes();
        record(&recorder, 3_000..3_010);
        recorder.flush().await;
        assert_conserved(&recorder, 3_010, 0, 0);
        assert_eq!(shelf.pushes(), pushes);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_spooled_while_the_sink_works() {
    let (database, shelf) = (Database::new(Works), Shelf::new());
    let recorder = builder(&database, &shelf).start();
    for round in 0..20 {
        record(&recorder, round * 40..(round + 1) * 40);
        recorder.flush().await;
    }
    assert_conserved(&recorder, 800, 0, 0);
    assert_eq!(database.numbers(), counted_to(800));
    assert_eq!(shelf.pushes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_write_is_spooled_at_half_of_the_capacity() {
    let (database, shelf) = (Database::new(Hangs), Shelf::new());
    let recorder = builder(&database, &shelf).start();
    record(&recorder, 0..49);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((recorder.stats().queued, shelf.events()), (49, 0));
    record(&recorder, 49..50);
    tokio::time::sleep(Duration::from_millis(100)).await;
    // The batch in flight was spooled first.
    assert_conserved(&recorder, 0, 0, 50);
    assert_eq!(shelf.events(), 50);
    database.switch.set(Works);
    until(|| shelf.events() == 0).await;
    assert_conserved(&recorder, 50, 0, 0);
    assert_eq!(database.numbers(), counted_to(50));
    assert!(database.batches.lock().unwrap().values().all(|n| *n == 1));
}

#[tokio::test(start_paused = true)]
async fn a_slow_write_is_spooled_at_half_of_the_byte_capacity() {
    let (database, shelf) = (Database::new(Hangs), Shelf::new());
    let builder = builder(&database, &shelf).capacity(100_000);
    let recorder = builder.batch_size(2).capacity_bytes(40_000).start();
    super::record_long(&recorder, 40, 1_000);
    tokio::time::sleep(Duration::from_millis(100)).await;
    // The capacity holds 31 events.
    assert_conserved(&recorder, 0, 9, 31);
    database.switch.set(Works);
    until(|| shelf.events() == 0).await;
    assert_conserved(&recorder, 31, 9, 0);
}

#[tokio::test(start_paused = true)]
async fn shutdown_during_an_outage_leaves_events_to_the_next_process() {
    for mode in [Fails, DoesAndFails, Hangs] {
        let (database, shelf) = (Database::new(mode), Shelf::new());
        let recorder = builder(&database, &shelf).start();
        record(&recorder, 0..95);
        let report = recorder.shutdown(SOON).await;
        assert_eq!((report.written, report.lost, report.spooled), (0, 0, 95));
        assert_conserved(&recorder, 0, 0, 95);

        database.switch.set(Works);
        let recorder = builder(&database, &shelf).start();
        record(&recorder, 95..100);
        recorder.flush().await;
        until(|| recorder.stats().recovered == 95).await;
        let report = recorder.shutdown(SOON).await;
        assert_eq!((report.written, report.lost, report.spooled), (5, 0, 0));
        assert_eq!(recorder.stats().recovered, 95);
        assert_eq!(database.numbers(), counted_to(100));
        assert_eq!(shelf.events(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_reserves_a_quarter_of_its_timeout_to_spool() {
    let (database, shelf) = (Database::new(Hangs), Shelf::new());
    let time = SOON * 4;
    for (spool, lost, spooled, least) in [(Works, 0, 5, SOON * 3), (Hangs, 5, 0, time)] {
        shelf.push.set(spool);
        let recorder = builder(&database, &shelf).start();
        record(&recorder, 0..5);
        let start = tokio::time::Instant::now();
        let report = recorder.shutdown(time).await;
        assert_eq!((report.lost, report.spooled), (lost, spooled));
        let taken = start.elapsed();
        assert!(taken >= least && taken < least + SOON, "{taken:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_drains_the_spool() {
    let (database, shelf) = (Database::new(Fails), Shelf::new());
    let recorder = builder(&database, &shelf).start();
    record(&recorder, 0..95);
    recorder.flush().await;
    assert_conserved(&recorder, 0, 0, 95);
    database.switch.set(Works);
    let report = recorder.shutdown(SOON).await;
    assert_eq!((report.written, report.lost, report.spooled), (95, 0, 0));
    assert_eq!(shelf.events(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_failing_spool_behaves_like_none() {
    for mode in [Fails, Hangs] {
        let (database, shelf) = (Database::new(Fails), Shelf::new());
        for switch in [&shelf.push, &shelf.next, &shelf.remove] {
            switch.set(mode);
        }
        let recorder = builder(&database, &shelf).start();
        record(&recorder, 0..50);
        tokio::time::sleep(SOON).await;
        record(&recorder, 50..120);
        let stats = recorder.stats();
        assert_eq!((stats.queued, stats.lost, stats.spooled), (100, 20, 0));
        database.switch.set(Works);
        recorder.flush().await;
        assert_conserved(&recorder, 100, 20, 0);
        assert_eq!(database.numbers(), counted_to(100));
        let report = recorder.shutdown(SOON).await;
        assert_eq!((report.written, report.lost), (100, 20));
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_counts_lost_events_if_sink_and_spool_fail() {
    for sink in [Fails, Hangs] {
        for spool in [Fails, Hangs] {
            let (database, shelf) = (Database::new(sink), Shelf::new());
            shelf.push.set(spool);
            let recorder = builder(&database, &shelf).start();
            record(&recorder, 0..30);
            let shutdown = tokio::time::timeout(SOON * 2, recorder.shutdown(SOON));
            let report = shutdown.await.unwrap();
            assert_eq!((report.written, report.lost, report.spooled), (0, 30, 0));
            assert_conserved(&recorder, 0, 30, 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_recovered_spool_takes_the_remaining_events() {
    let (database, shelf) = (Database::new(Fails), Shelf::new());
    shelf.push.set(Fails);
    let recorder = builder(&database, &shelf).start();
    record(&recorder, 0..60);
    tokio::time::sleep(SOON).await;
    assert_eq!(recorder.stats().queued, 60);
    shelf.push.set(Works);
    until(|| recorder.stats().spooled == 60).await;
    database.switch.set(Works);
    until(|| recorder.stats().written == 60).await;
    assert_eq!(database.numbers(), counted_to(60));
}

#[tokio::test(start_paused = true)]
async fn full_memory_is_written_before_the_spool_if_pushes_fail() {
    let (database, shelf) = (Database::new(Fails), Shelf::new());
    let recorder = builder(&database, &shelf).start();
    record(&recorder, 0..40);
    recorder.flush().await;
    assert_conserved(&recorder, 0, 0, 40);
    shelf.push.set(Fails);
    record(&recorder, 40..130);
    until(|| recorder.0.0.queue.as_ref().unwrap().in_flight.load(SeqCst) > 0).await;
    tokio::time::sleep(SOON).await;
    database.switch.set(Works);
    until(|| recorder.stats().written == 130).await;
    assert_conserved(&recorder, 130, 0, 0);
    let mut numbers = database.numbers();
    // The batch in flight comes first, then batches from memory until half of it is free, then the spool. The
    // position varies by a batch if two random backoffs end at the same time.
    let first_spooled = numbers.iter().position(|number| *number == 10);
    assert!(first_spooled.is_some_and(|index| (50..=70).contains(&index)));
    numbers.sort_unstable();
    assert_eq!(numbers, counted_to(130));
}

#[tokio::test(start_paused = true)]
async fn events_that_could_not_be_spooled_are_written_after_the_spool() {
    for push in [Fails, DoesAndFails] {
        let (database, shelf) = (Database::new(Fails), Shelf::new());
        let recorder = builder(&database, &shelf).start();
        record(&recorder, 0..30);
        recorder.flush().await;
        assert_conserved(&recorder, 0, 0, 30);
        shelf.push.set(push);
        record(&recorder, 30..40);
        tokio::time::sleep(SOON).await;
        database.switch.set(Works);
        until(|| recorder.stats().written == 40).await;
        assert_eq!(database.numbers(), counted_to(40));
        assert!(database.batches.lock().unwrap().values().all(|n| *n == 1));
        assert_conserved(&recorder, 40, 0, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn full_memory_waits_for_a_working_spool() {
    let (database, shelf) = (Database::new(Fails), Shelf::new());
    let recorder = builder(&database, &shelf).start();
    record(&recorder, 0..40);
    recorder.flush().await;
    assert_conserved(&recorder, 0, 0, 40);
    database.switch.set(Works);
    record(&recorder, 40..130);
    until(|| recorder.stats().written == 130).await;
    assert_eq!(database.numbers(), counted_to(130));
}

#[tokio::test(start_paused = true)]
async fn a_push_that_failed_but_took_effect_counts_once() {
    // The batch is read back while it is in memory too, or after it was written from memory.
    for next in [Works, Fails] {
        let (database, shelf) = (Database::new(Fails), Shelf::new());
        shelf.push.set(DoesAndFails);
        shelf.next.set(next);
        let recorder = builder(&database, &shelf).start();
        record(&recorder, 0..50);
        tokio::time::sleep(SOON).await;
        assert_eq!(recorder.stats().spooled, 0);
        assert!(shelf.events() > 0);
        database.switch.set(Works);
        until(|| recorder.stats().written == 50).await;
        shelf.next.set(Works);
        shelf.push.set(Works);
        until(|| shelf.events() == 0).await;
        let stats = assert_conserved(&recorder, 50, 0, 0);
        assert_eq!((stats.recovered, stats.unrecovered), (0, 0));
        assert_eq!(database.numbers(), counted_to(50));
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_spool_is_retried_with_backoff() {
    let (database, shelf) = (Database::new(Fails), Shelf::new());
    shelf.push.set(DoesAndFails);
    shelf.next.set(Fails);
    let recorder = builder(&database, &shelf).start();
    record(&recorder, 0..50);
    // From 50 ms at first to five seconds.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let pushes = shelf.pushes();
    assert!((10..60).contains(&pushes), "{pushes}");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_cannot_be_removed_is_written_once() {
    for mode in [Fails, DoesAndFails, Hangs] {
        let (database, shelf) = (Database::new(Fails), Shelf::new());
        let recorder = builder(&database, &shelf).start();
        record(&recorder, 0..50);
        recorder.flush().await;
        assert_conserved(&recorder, 0, 0, 50);
        shelf.remove.set(mode);
        database.switch.set(Works);
        // The batches behind it are written anyway.
        until(|| recorder.stats().written == 50).await;
        record(&recorder, 50..60);
        until(|| recorder.stats().written == 60).await;
        shelf.remove.set(Works);
        until(|| shelf.events() == 0).await;
        let stats = assert_conserved(&recorder, 60, 0, 0);
        assert_eq!((stats.recovered, stats.unrecovered), (0, 0));
        assert_eq!(database.numbers(), counted_to(60));
        assert!(database.batches.lock().unwrap().values().all(|n| *n == 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejected_batch_does_not_block_others() {
    let (database, shelf) = (Database::new(Fails), Shelf::new());
    let first = builder(&database, &shelf).start();
    record(&first, 0..20);
    assert_eq!(first.shutdown(SOON).await.spooled, 20);

    let recorder = builder(&database, &shelf).start();
    record(&recorder, 20..40);
    recorder.flush().await;
    database.switch.set(Rejects);
    until(|| shelf.events() == 0).await;
    let stats = assert_conserved(&recorder, 0, 20, 0);
    assert_eq!((stats.recovered, stats.unrecovered), (0, 20));
    database.switch.set(Works);
    record(&recorder, 40..45);
    recorder.flush().await;
    assert_conserved(&recorder, 5, 20, 0);
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_batch_does_not_block_others() {
    for remove in [Works, DoesAndFails] {
        let (database, shelf) = (Database::new(Fails), Shelf::new());
        let first = builder(&database, &shelf).start();
        record(&first, 0..20);
        assert_eq!(first.shutdown(SOON).await.spooled, 20);
        shelf.spoil(0);
        shelf.remove.set(remove);

        let recorder = builder(&database, &shelf).start();
        record(&recorder, 20..40);
        recorder.flush().await;
        let before = shelf.line.lock().unwrap().len();
        shelf.spoil(before - 1);
        tokio::time::sleep(SOON).await;
        shelf.remove.set(Works);
        database.switch.set(Works);
        until(|| shelf.events() == 0).await;
        let stats = assert_conserved(&recorder, 10, 10, 0);
        assert_eq!((stats.recovered, stats.unrecovered), (10, 10));
        let written: Vec<u64> = (10..30).collect();
        assert_eq!(database.numbers(), written);
    }
}

#[tokio::test(start_paused = true)]
async fn batches_drained_by_another_process_count_as_written() {
    let (database, shelf) = (Database::new(Fails), Shelf::new());
    let working = Database::new(Works);
    let recorder = builder(&database, &shelf).start();
    record(&recorder, 0..30);
    recorder.flush().await;
    let other = builder(&working, &shelf).start();
    until(|| other.stats().recovered == 30).await;
    database.switch.set(Works);
    until(|| recorder.stats().written == 30).await;
    assert_conserved(&recorder, 30, 0, 0);
    assert_eq!(working.numbers(), counted_to(30));
}

#[tokio::test(start_paused = true)]
async fn batches_of_an_earlier_process_are_written_first() {
    let (database, shelf) = (Database::new(Works), Shelf::new());
    let old = (0..3).map(|number| {
        let mut event = UsageEvent::new(jiff::Timestamp::UNIX_EPOCH);
        event.latency_us = number;
        Batch::new(vec![event])
    });
    for batch in old {
        shelf.push(&batch).await.unwrap();
    }
    let recorder = builder(&database, &shelf).start();
    record(&recorder, 3..20);
    recorder.flush().await;
    until(|| recorder.stats().written == 17).await;
    let stats = assert_conserved(&recorder, 17, 0, 0);
    assert_eq!((stats.recovered, stats.unrecovered), (3, 0));
    assert_eq!(database.numbers(), counted_to(20));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_spools_and_writes_queued_events() {
    let (database, shelf) = (Database::new(Fails), Shelf::new());
    let recorder = builder(&database, &shelf).start();
    record(&recorder, 0..30);
    drop(recorder);
    until(|| shelf.events() == 30).await;
    database.switch.set(Works);
    until(|| shelf.events() == 0).await;
    assert_eq!(database.numbers(), counted_to(30));
}

mod complete_accounting {
    use super::*;

    /// Sink and spool switch modes at random while events are recorded, on two threads.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn all_events_are_counted_with_a_spool() {
        // Miri is slow: a write that exceeds every timeout never succeeds.
        let (seeds, events, pace) = if cfg!(miri) {
            (2, 100, 200)
        } else {
            (60, 2_000, 1)
        };
        let micros = move |micros: u64| Duration::from_micros(micros * pace);
        for seed in 0..seeds {
            let mut random = fastrand::Rng::with_seed(seed);
            let (database, shelf) = (Database::new(Works), Shelf::new());
            let reliable = seed % 2 == 0;
            let start = || {
                builder(&database, &shelf)
                    .capacity(100_000)
                    .batch_age(micros(1_000))
                    .write_timeout(micros(2_000))
                    .backoff(micros(100), micros(1_000))
                    .start()
            };
            let recorder = start();
            let done = Arc::new(AtomicBool::new(false));
            let producer = tokio::task::spawn_blocking({
                let (recorder, done) = (recorder.clone(), done.clone());
                move || {
                    for number in 0..events {
                        record(&recorder, number..number + 1);
                        if number % 50 == 0 {
                            std::thread::sleep(micros(300));
                        }
                    }
                    done.store(true, SeqCst);
                }
            });
            while !done.load(SeqCst) {
                let modes = [Works, Fails, DoesAndFails, Hangs];
                database.switch.set(*random.choice(&modes).unwrap());
                if !reliable {
                    for switch in [&shelf.push, &shelf.next, &shelf.remove] {
                        let modes = [Works, Works, Fails, DoesAndFails];
                        switch.set(*random.choice(&modes).unwrap());
                    }
                }
                tokio::time::sleep(micros(random.u64(..1_000))).await;
            }
            producer.await.unwrap();
            for switch in [&shelf.push, &shelf.next, &shelf.remove] {
                switch.set(Works);
            }
            let report = recorder.shutdown(micros(random.u64(1_000..40_000))).await;
            let stats = assert_conserved(&recorder, report.written, report.lost, report.spooled);
            assert_eq!(stats.accepted, events);
            assert_eq!((stats.recovered, stats.unrecovered), (0, 0), "{seed}");

            database.switch.set(Works);
            let next = start();
            let empty = || shelf.events() == 0;
            for _ in 0..10_000 {
                if empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(empty(), "{seed}");
            let _ = next.shutdown(SOON).await;
            assert_eq!(next.stats().unrecovered, 0);
            let numbers = database.numbers();
            let mut sorted = numbers.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), numbers.len(), "{seed}: written twice");
            // Interrupted writes count as lost, although the sink may have the events.
            assert!(
                numbers.len() as u64 + stats.lost >= events,
                "{seed}: {stats:?}"
            );
            if reliable && stats.lost == 0 {
                assert_eq!(numbers, counted_to(events), "{seed}");
            }
        }
    }
}
