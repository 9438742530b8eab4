//! The end of a recorder: by shutdown, by dropping the last handle, or with its runtime.

use super::*;

mod complete_accounting {
    use super::*;

    #[tokio::test]
    async fn open_requests_at_shutdown_count_as_lost() {
        let recorder = Recorder::new(Scripted::default());
        record(&recorder, 2);
        assert!(recorder.reserve());
        let report = recorder.shutdown(SOON).await;
        assert_eq!((report.written, report.lost), (2, 1));
        // The report is the same if the request is open or recorded too late.
        assert_eq!(recorder.shutdown(SOON).await, report);
        recorder.record(&mut pending());
        assert_eq!(recorder.shutdown(SOON).await, report);
        assert_conserved(&recorder, 2, 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn events_recorded_during_shutdown_are_counted() {
        for _ in 0..if cfg!(miri) { 1 } else { 200 } {
            let sink = Scripted::default();
            let recorder = Recorder::builder(sink.clone()).batch_size(7).start();
            let producer = tokio::task::spawn_blocking({
                let recorder = recorder.clone();
                move || record(&recorder, 500)
            });
            tokio::task::yield_now().await;
            let report = recorder.shutdown(SOON).await;
            producer.await.unwrap();
            let stats = recorder.stats();
            assert_eq!(report.written, stats.written);
            assert!(report.lost <= stats.lost, "{report:?} {stats:?}");
            let last = recorder.shutdown(SOON).await;
            assert_eq!((last.written, last.lost), (stats.written, stats.lost));
            assert_eq!(
                (stats.accepted, stats.queued, stats.in_flight),
                (500, 0, 0),
                "{stats:?}"
            );
            assert_eq!(stats.written + stats.lost, 500, "{stats:?}");
            assert_eq!(stats.written, sink.events());
        }
    }
}

#[tokio::test]
async fn shutdown_writes_queued_events_and_counts_later_ones_as_lost() {
    let sink = Scripted::with(&[Step::Fail]);
    let recorder = Recorder::builder(sink.clone())
        .batch_age(SOON * 100)
        .start();
    record(&recorder, 100);
    let report = recorder.shutdown(SOON).await;
    assert_eq!(
        report,
        ShutdownReport {
            written: 100,
            lost: 0,
            spooled: 0
        }
    );
    record(&recorder, 3);
    assert_conserved(&recorder, 100, 3);
    assert_eq!(
        recorder.shutdown(SOON).await,
        ShutdownReport {
            written: 100,
            lost: 3,
            spooled: 0
        }
    );
}

#[tokio::test]
async fn shutdown_returns_after_its_timeout() {
    let sink = Scripted::with(&[Step::Hang]);
    let recorder = Recorder::builder(sink.clone()).batch_size(10).start();
    record(&recorder, 25);
    let report = recorder.shutdown(Duration::from_millis(100)).await;
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

#[tokio::test]
async fn every_shutdown_waits_until_all_events_are_settled() {
    let recorder = Recorder::new(Scripted::with(&[Step::Hang]));
    record(&recorder, 5);
    let time = Duration::from_millis(100);
    let (first, second) = tokio::join!(recorder.shutdown(time), recorder.shutdown(SOON * 100));
    assert_eq!((first.written, first.lost), (0, 5));
    assert_eq!(recorder.stats().last_written_at, None);
    assert_eq!(first, second);

    let recorder = Recorder::new(Scripted::with(&[Step::Hang]));
    record(&recorder, 5);
    let dropped = tokio::time::timeout(time, recorder.shutdown(SOON * 100)).await;
    assert!(dropped.is_err());
    assert_eq!(recorder.shutdown(time).await, first);
}

#[test]
fn shutdown_does_not_wait_for_an_idle_runtime() {
    let idle = runtime();
    let recorder = idle.block_on(async {
        let recorder = Recorder::new(Scripted::default());
        tokio::task::yield_now().await;
        recorder
    });
    record(&recorder, 3);
    assert!(recorder.reserve());
    let report = runtime().block_on(async {
        tokio::time::pause();
        let shutdown = recorder.shutdown(SOON);
        tokio::time::timeout(SOON * 2, shutdown).await.unwrap()
    });
    assert_eq!((report.written, report.lost), (0, 4));
    // The task ends when its runtime is driven again.
    idle.block_on(tokio::task::yield_now());
    recorder.release();
    assert_conserved(&recorder, 0, 3);
}

#[test]
fn a_recorder_without_its_runtime_loses_events_and_does_not_wait() {
    for started in [false, true] {
        let gone = runtime();
        let recorder = gone.block_on(async {
            let recorder = Recorder::builder(Scripted::default())
                .batch_age(Duration::MAX)
                .start();
            if started {
                tokio::task::yield_now().await;
            }
            recorder
        });
        record(&recorder, 3);
        drop(gone);
        assert_conserved(&recorder, 0, 3);
        record(&recorder, 2);
        runtime().block_on(async {
            let flushed = tokio::time::timeout(SOON, recorder.flush()).await;
            assert!(flushed.is_ok(), "flush waits for a dropped task");
            assert_eq!(recorder.shutdown(SOON).await.lost, 5);
        });
        assert_conserved(&recorder, 0, 5);
    }
}

#[tokio::test]
async fn dropping_the_last_handle_writes_queued_events() {
    let sink = Scripted::default();
    let recorder = Recorder::builder(sink.clone())
        .batch_age(SOON * 100)
        .start();
    record(&recorder, 3);
    drop(recorder);
    for _ in 0..1_000 {
        if sink.events() == 3 {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("queued events were not written");
}

#[tokio::test]
async fn shutdown_ends_open_requests() {
    struct Open(Recorder, AtomicU32);
    impl Abandon for Open {
        fn abandon(&self) {
            if self.1.fetch_add(1, SeqCst) == 0 {
                self.0.record(&mut pending());
            }
        }
    }
    let sink = Scripted::default();
    let recorder = Recorder::builder(sink.clone()).start();
    assert!(recorder.reserve());
    let open = Arc::new(Open(recorder.clone(), AtomicU32::new(0)));
    let weak = Arc::downgrade(&open);
    let _place = recorder.in_flight().enter(weak);
    assert_eq!(recorder.stats().in_flight, 1);
    let report = recorder.shutdown(SOON).await;
    assert_eq!(
        report,
        ShutdownReport {
            written: 1,
            lost: 0,
            spooled: 0
        }
    );
    assert_eq!(open.1.load(SeqCst), 1);
}
