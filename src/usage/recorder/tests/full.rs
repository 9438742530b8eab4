//! A recorder at or near its capacity.

use super::*;

mod complete_accounting {
    use super::*;

    #[tokio::test]
    async fn events_beyond_the_capacity_count_as_lost() {
        let sink = Scripted::with(&[Step::Hang]);
        let recorder = Recorder::builder(sink.clone()).capacity(10).start();
        // Without an `await` in between, the task cannot drain the queue.
        record(&recorder, 25);
        let stats = recorder.stats();
        assert_eq!((stats.accepted, stats.lost, stats.queued), (25, 15, 10));
        let report = recorder.shutdown(Duration::from_millis(50)).await;
        assert_eq!(
            report,
            ShutdownReport {
                written: 0,
                lost: 25,
                spooled: 0
            }
        );
        assert_conserved(&recorder, 0, 25);
    }
}

#[tokio::test]
async fn long_strings_use_capacity_until_written() {
    let sink = Scripted::with(&[Step::Hang]);
    let recorder = Recorder::builder(sink.clone())
        .capacity_bytes(4 * 1_256 + 255)
        .write_timeout(Duration::from_millis(10))
        .start();
    record_long(&recorder, 5, 1_000);
    let stats = recorder.stats();
    assert_eq!((stats.queued, stats.lost), (4, 1));
    assert_eq!(stats.queued_bytes, 4 * 1_256);
    tokio::task::yield_now().await;
    // They still count while in flight.
    record(&recorder, 1);
    assert_eq!(recorder.stats().lost, 2);
    recorder.flush().await;
    assert_conserved(&recorder, 4, 2);
    // The capacity holds 20 typical events.
    record(&recorder, 21);
    assert_eq!(recorder.stats().queued, 20);
    recorder.flush().await;
    assert_conserved(&recorder, 24, 3);
}

#[tokio::test(start_paused = true)]
async fn the_event_that_fills_a_batch_wakes_the_task() {
    for when_full in [WhenFull::Drop, WhenFull::Reject] {
        let sink = Scripted::default();
        let recorder = Recorder::builder(sink.clone())
            .when_full(when_full)
            .batch_size(5)
            .batch_age(SOON * 100)
            .start();
        for _ in 0..5 {
            assert_eq!(sink.events(), 0);
            record(&recorder, 1);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_conserved(&recorder, 5, 0);
    }
}

/// Events of rejected keys have room of their own, and their requests reserve none.
#[tokio::test]
async fn rejected_keys_release_no_room_of_others() {
    let recorder = Recorder::builder(Scripted::default())
        .capacity(10)
        .when_full(WhenFull::Reject)
        .start();
    for _ in 0..50 {
        assert!(recorder.reserve_rejected());
        recorder.release_rejected();
        assert!(recorder.reserve_rejected());
        let mut event = pending();
        event.fields.is_rejected = true;
        recorder.record(&mut event);
        recorder.flush().await;
    }
    for _ in 0..3 {
        for _ in 0..10 {
            assert!(recorder.reserve());
        }
        assert!(!recorder.reserve());
        for _ in 0..10 {
            recorder.record(&mut pending());
        }
        recorder.flush().await;
    }
    assert!(recorder.reserve_rejected());
    recorder.count_lost_rejected();
    assert_conserved(&recorder, 80, 1);
}

#[tokio::test]
async fn room_released_on_another_thread_is_available_to_all() {
    let recorder = Recorder::builder(Scripted::default())
        .when_full(WhenFull::Reject)
        .start();
    for _ in 0..3 {
        let reserved = (0..65_536).take_while(|_| recorder.reserve()).count();
        // The lane of the other thread may keep a few places.
        assert!(reserved > 65_536 - 64, "{reserved}");
        let other = recorder.clone();
        let release = move || (0..reserved).for_each(|_| other.release());
        std::thread::spawn(release).join().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn open_requests_do_not_make_batches_smaller() {
    let sink = Scripted::default();
    let recorder = Recorder::builder(sink.clone())
        .capacity_bytes(10_000)
        .when_full(WhenFull::Reject)
        .batch_age(SOON)
        .start();
    for _ in 0..30 {
        assert!(recorder.reserve());
    }
    for _ in 0..3 {
        recorder.record(&mut pending());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(sink.events(), 0);
    tokio::time::sleep(SOON).await;
    assert_eq!(sink.batches(), [3]);
}

/// Even if other threads have reserved places.
#[tokio::test(start_paused = true)]
async fn a_batch_of_the_whole_capacity_is_written() {
    let sink = Scripted::default();
    let recorder = Recorder::builder(sink.clone())
        .capacity(8_192)
        .batch_size(8_192)
        .batch_age(SOON * 100)
        .start();
    for _ in 0..8 {
        let other = recorder.clone();
        let thread = std::thread::spawn(move || record(&other, 1));
        thread.join().unwrap();
    }
    record(&recorder, 8_184);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(sink.events() > 8_000, "{}", sink.events());
}

#[tokio::test]
async fn debug_output_has_no_events() {
    let recorder = Recorder::new(Scripted::default());
    record_long(&recorder, 50, 1_000);
    let text = format!("{recorder:?}");
    assert!(text.len() < 4_000 && !text.contains("xx"), "{text}");
}

#[tokio::test]
async fn the_whole_byte_capacity_can_be_used() {
    let recorder = Recorder::builder(Scripted::default())
        .capacity_bytes(2 * 256)
        .start();
    record(&recorder, 3);
    let stats = recorder.stats();
    assert_eq!((stats.queued, stats.lost), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_written_at_half_of_the_byte_capacity() {
    for when_full in [WhenFull::Drop, WhenFull::Reject] {
        let sink = Scripted::default();
        let recorder = Recorder::builder(sink.clone())
            .capacity_bytes(10_000)
            .when_full(when_full)
            .batch_age(SOON * 100)
            .start();
        record_long(&recorder, 3, 1_400);
        tokio::time::sleep(SOON).await;
        assert_eq!(sink.events(), 0);
        record_long(&recorder, 1, 1_400);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_conserved(&recorder, 4, 0);
    }
}

#[tokio::test]
async fn lost_events_release_their_bytes() {
    let recorder = Recorder::builder(Scripted::with(&[Step::Reject, Step::Hang]))
        .batch_size(2)
        .start();
    record_long(&recorder, 2, 500);
    recorder.flush().await;
    assert_conserved(&recorder, 0, 2);
    record_long(&recorder, 5, 500);
    let report = recorder.shutdown(Duration::from_millis(20)).await;
    assert_eq!(report.lost, 7);
    assert_conserved(&recorder, 0, 7);
}

#[tokio::test]
async fn when_full_reject_checks_the_byte_capacity() {
    let recorder = Recorder::builder(Scripted::default())
        .capacity_bytes(1_000)
        .when_full(WhenFull::Reject)
        .start();
    for _ in 0..3 {
        assert!(recorder.reserve());
    }
    assert!(!recorder.reserve());
    // Admitted requests are recorded, even with long strings.
    for _ in 0..3 {
        recorder.record(&mut long_pending(8_000));
    }
    assert_eq!(recorder.stats().queued_bytes, 3 * 8_256);
    assert!(!recorder.reserve());
    recorder.flush().await;
    record_long(&recorder, 1, 8_000);
    assert!(!recorder.reserve());
    recorder.flush().await;
    assert_conserved(&recorder, 4, 0);
}

#[tokio::test]
async fn when_full_reject_loses_nothing() {
    let sink = Scripted::default();
    let recorder = Recorder::builder(sink.clone())
        .capacity(10)
        .when_full(WhenFull::Reject)
        .start();
    for _ in 0..10 {
        assert!(recorder.reserve());
    }
    // There are as many open requests as there is room for events.
    assert!(!recorder.reserve());
    for _ in 0..10 {
        recorder.record(&mut pending());
    }
    assert!(!recorder.reserve());
    recorder.flush().await;
    record(&recorder, 1);
    recorder.flush().await;
    assert_conserved(&recorder, 11, 0);
}

#[tokio::test]
async fn lost_events_release_their_reservation() {
    let recorder = Recorder::builder(Scripted::default())
        .capacity(2)
        .when_full(WhenFull::Reject)
        .start();
    for _ in 0..5 {
        assert!(recorder.reserve());
        recorder.count_lost();
    }
    assert_conserved(&recorder, 0, 5);
}

#[tokio::test]
async fn when_full_reject_rejects_requests_after_shutdown() {
    for when_full in [WhenFull::Reject, WhenFull::Drop] {
        let recorder = Recorder::builder(Scripted::default())
            .when_full(when_full)
            .start();
        record(&recorder, 1);
        let report = recorder.shutdown(SOON).await;
        assert_eq!((report.written, report.lost), (1, 0));
        assert_eq!(recorder.reserve(), when_full == WhenFull::Drop);
    }
}

#[test]
fn when_full_reject_rejects_requests_without_a_runtime() {
    let gone = runtime();
    let recorder = gone.block_on(async {
        let builder = Recorder::builder(Scripted::default());
        builder.when_full(WhenFull::Reject).start()
    });
    assert!(recorder.reserve());
    drop(gone);
    assert!(!recorder.reserve());
    assert_eq!(recorder.stats().in_flight, 1);
}
