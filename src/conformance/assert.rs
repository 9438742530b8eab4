//! How a suite says what is broken.

use std::error::Error;
use std::fmt::{Debug, Display};
use std::future::poll_fn;
use std::task::Poll;

/// The condition is what the rule says.
#[track_caller]
pub(super) fn holds(condition: bool, rule: impl Display) {
    assert!(condition, "broken rule: {rule}");
}

/// What came is what the rule says.
#[track_caller]
pub(super) fn same<T: PartialEq + Debug + ?Sized>(actual: &T, expected: &T, rule: impl Display) {
    assert!(
        actual == expected,
        "broken rule: {rule}\n  expected: {expected:?}\n       got: {actual:?}"
    );
}

/// What was asked for is done, as the rule says.
#[track_caller]
pub(super) fn done<T, E: Error>(result: Result<T, E>, rule: impl Display) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("broken rule: {rule}\n  expected: Ok\n       got: {error:?}"),
    }
}

/// What was asked for is refused with this error, as the rule says.
#[track_caller]
pub(super) fn refused<T: Debug, E: Error>(
    result: Result<T, E>,
    expected: &str,
    is_expected: impl FnOnce(&E) -> bool,
    rule: impl Display,
) {
    match result {
        Err(error) if is_expected(&error) => {}
        other => panic!("broken rule: {rule}\n  expected: Err({expected})\n       got: {other:?}"),
    }
}

/// Carries futures out at once, so that a store that waits half way through one meets the others.
pub(super) async fn together<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures
        .into_iter()
        .map(|future| (Box::pin(future), None))
        .collect();
    poll_fn(|context| {
        for (future, output) in &mut running {
            if output.is_none()
                && let Poll::Ready(value) = future.as_mut().poll(context)
            {
                *output = Some(value);
            }
        }
        match running.iter().all(|(_, output)| output.is_some()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    running
        .into_iter()
        .filter_map(|(_, output)| output)
        .collect()
}
