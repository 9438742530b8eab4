//! Two things at once in one task.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

pub(super) enum First<A, B> {
    Work(A),
    Other(B),
}

/// The answer of the one that is ready first; the other is dropped, unless it is the work.
pub(super) async fn first_of<A, B>(
    mut work: Pin<&mut impl Future<Output = A>>,
    other: impl Future<Output = B>,
) -> First<A, B> {
    let mut other = pin!(other);
    poll_fn(|context| {
        if let Poll::Ready(answer) = work.as_mut().poll(context) {
            return Poll::Ready(First::Work(answer));
        }
        other.as_mut().poll(context).map(First::Other)
    })
    .await
}

/// Goes on with the work until the other is done; the work's answer if there was one.
pub(super) async fn meanwhile<A>(
    mut work: Pin<&mut impl Future<Output = A>>,
    other: impl Future<Output = ()>,
) -> Option<A> {
    let mut other = pin!(other);
    let mut answer = None;
    poll_fn(|context| {
        if answer.is_none()
            && let Poll::Ready(ready) = work.as_mut().poll(context)
        {
            answer = Some(ready);
        }
        other.as_mut().poll(context)
    })
    .await;
    answer
}
