//! Log messages about the spool.

use super::*;
use crate::test_tracing::CapturedEvents;

#[tokio::test(start_paused = true)]
async fn failures_and_lost_events_are_logged() {
    let log = CapturedEvents::default();
    let _guard = log.capture();
    let (database, shelf) = (Database::new(Fails), Shelf::new());
    let recorder = builder(&database, &shelf).start();
    record(&recorder, 0..20);
    recorder.flush().await;
    shelf.spoil(1);
    database.switch.set(Works);
    until(|| shelf.events() == 0).await;
    shelf.push.set(Fails);
    database.switch.set(Fails);
    record(&recorder, 20..30);
    tokio::time::sleep(SOON).await;
    database.switch.set(Rejects);
    recorder.flush().await;
    assert_conserved(&recorder, 10, 20, 0);

    let mut messages = log.values_of("message");
    messages.dedup();
    let seen = |text: &str| messages.iter().filter(|message| *message == text).count();
    let [failed, spooling] = [
        "usage write failed, retrying",
        "started spooling usage events",
    ];
    let [unreadable, empty] = [
        "usage events lost: the spool cannot read a batch",
        "usage spool drained",
    ];
    assert_eq!(messages[..2], [failed, spooling]);
    // Once each. The spool that is empty at the start is not logged.
    assert_eq!([spooling, unreadable, empty].map(seen), [1, 1, 1]);
    assert!(seen("usage spool failed, retrying later") > 0);
    assert_eq!(
        messages.last().map(String::as_str),
        Some("usage events lost: the sink rejected a batch")
    );
    let events = log.values_of("events");
    assert!(events.contains(&"20".to_owned()), "{events:?}");
    assert_eq!(events.last().map(String::as_str), Some("10"));
    let errors = log.values_of("error");
    for cause in ["down", "broken", "invalid batch"] {
        assert!(errors.iter().any(|error| error == cause), "{errors:?}");
    }
}
