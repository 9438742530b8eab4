//! Assertions that name the violated rule.

use std::error::Error;
use std::fmt::{Debug, Display};
use std::future::poll_fn;
use std::task::Poll;

/// Checks that the condition of a rule holds.
#[track_caller]
pub(super) fn holds(condition: bool, rule: impl Display) {
    assert!(condition, "broken rule: {rule}");
}

/// Checks that two values are equal.
#[track_caller]
pub(super) fn equal<T: PartialEq + Debug + ?Sized>(actual: &T, expected: &T, rule: impl Display) {
    assert!(
        actual == expected,
        "broken rule: {rule}\n  expected: {expected:?}\n       got: {actual:?}"
    );
}

/// Checks that an operation succeeded, and returns its value.
#[track_caller]
pub(super) fn succeeds<T, E: Error>(result: Result<T, E>, rule: impl Display) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("broken rule: {rule}\n  expected: Ok\n       got: {error:?}"),
    }
}

/// Checks that an operation failed with the expected error.
#[track_caller]
pub(super) fn fails_with<T: Debug, E: Error>(
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

/// Runs futures concurrently, so that a store that suspends within one operation is entered by the others.
pub(super) async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
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
