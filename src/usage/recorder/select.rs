//! Polling two futures concurrently in one task.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

pub(super) enum First<A, B> {
    Work(A),
    Other(B),
}

/// Returns the output of the future that completes first. `other` is dropped if `work` completes first; `work` can
/// be polled again otherwise.
pub(super) async fn first_of<A, B>(
    mut work: Pin<&mut impl Future<Output = A>>,
    other: impl Future<Output = B>,
) -> First<A, B> {
    let mut other = pin!(other);
    poll_fn(|context| {
        if let Poll::Ready(output) = work.as_mut().poll(context) {
            return Poll::Ready(First::Work(output));
        }
        other.as_mut().poll(context).map(First::Other)
    })
    .await
}

/// Polls `work` until `other` completes. Returns the output of `work` if it has completed.
pub(super) async fn meanwhile<A>(
    mut work: Pin<&mut impl Future<Output = A>>,
    other: impl Future<Output = ()>,
) -> Option<A> {
    let mut other = pin!(other);
    let mut output = None;
    poll_fn(|context| {
        if output.is_none()
            && let Poll::Ready(ready) = work.as_mut().poll(context)
        {
            output = Some(ready);
        }
        other.as_mut().poll(context)
    })
    .await;
    output
}
