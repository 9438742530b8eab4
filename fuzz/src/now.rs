//! Polls futures that never wait, without a runtime, which would dominate the time per input.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// The output of a future that is ready immediately.
///
/// # Panics
///
/// If the future is pending.
pub(crate) fn now<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the future is not ready"),
    }
}
