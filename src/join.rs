//! Awaiting two futures at the same time.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

/// Awaits two futures concurrently, in one task.
pub(crate) async fn join<A: Future, B: Future>(one: A, other: B) -> (A::Output, B::Output) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let (mut first, mut second) = (None, None);
    poll_fn(|context| {
        if first.is_none()
            && let Poll::Ready(output) = one.as_mut().poll(context)
        {
            first = Some(output);
        }
        if second.is_none()
            && let Poll::Ready(output) = other.as_mut().poll(context)
        {
            second = Some(output);
        }
        match (first.take(), second.take()) {
            (Some(one), Some(other)) => Poll::Ready((one, other)),
            unfinished => {
                (first, second) = unfinished;
                Poll::Pending
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn both_futures_make_progress_without_each_other() {
        let (to_other, from_one) = oneshot::channel();
        let (to_one, from_other) = oneshot::channel();
        let one = async {
            to_other.send(1).unwrap();
            from_other.await.unwrap()
        };
        let other = async {
            let number = from_one.await.unwrap();
            to_one.send(number + 1).unwrap();
            number
        };
        assert_eq!(join(one, other).await, (2, 1));
    }
}
