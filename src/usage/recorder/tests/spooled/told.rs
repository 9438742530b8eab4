//! What operators are told.

use super::*;
use crate::test_tracing::CapturedEvents;

#[tokio::test(start_paused = true)]
async fn operators_are_told_what_becomes_of_usage() {
    let told = CapturedEvents::default();
    let _listening = told.capture();
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

    let mut messages = told.values_of("message");
    messages.dedup();
    let seen = |text: &str| messages.iter().filter(|message| *message == text).count();
    let [failed, spooling] = [
        "usage write failed, trying again",
        "usage events go to the spool",
    ];
    let [unreadable, empty] = [
        "usage events lost: the spool cannot read them back",
        "the usage spool is empty again",
    ];
    assert_eq!(messages[..2], [failed, spooling]);
    // Once, and not when it was found empty at the beginning.
    assert_eq!([spooling, unreadable, empty].map(seen), [1, 1, 1]);
    assert!(seen("usage spool failed, trying again later") > 0);
    assert_eq!(
        messages.last().map(String::as_str),
        Some("usage events lost")
    );
    let events = told.values_of("events");
    assert!(events.contains(&"20".to_owned()), "{events:?}");
    assert_eq!(events.last().map(String::as_str), Some("10"));
    let errors = told.values_of("error");
    for cause in ["down", "broken", "nonsense"] {
        assert!(errors.iter().any(|error| error == cause), "{errors:?}");
    }
}
