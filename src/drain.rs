//! Drains the body of a rejected request, so that the client can reuse its connection.
//!
//! A server closes an HTTP/1 connection on which part of a request body is unread (hyper does so unless the
//! rest has already arrived). Small bodies are therefore read and discarded before a rejection is sent. Bodies
//! that are too large or do not arrive in time are not read any further, and the rejection carries `Connection:
//! close`. HTTP/2 ends only the request's stream, and a client that expects `100 Continue` has not sent its
//! body.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Buf;
use http::header::{CONNECTION, EXPECT};
use http::{HeaderValue, Request, Response, Version};
use http_body::Body;
use tokio::time::{Sleep, sleep};

/// How much of a rejected request's body is read, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DrainLimits {
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
}

impl Default for DrainLimits {
    fn default() -> Self {
        Self {
            bytes: 64 << 10,
            time: Duration::from_secs(1),
        }
    }
}

/// Tells an HTTP/1 client that its connection will be closed.
fn close<R>(response: &mut Response<R>) {
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
}

/// A request body that is being drained. Resolves to whether its end was reached.
pub(crate) struct Drain<B> {
    body: Pin<Box<B>>,
    limits: DrainLimits,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<B: Body> Drain<B> {
    /// Starts to drain a rejected request's body. Returns `None` if there is nothing to drain, or if the body
    /// cannot be drained, in which case the response closes the connection.
    pub(crate) fn new<R>(
        request: Request<B>,
        response: &mut Response<R>,
        limits: DrainLimits,
    ) -> Option<Self> {
        if request.body().is_end_stream() || request.version() > Version::HTTP_11 {
            return None;
        }
        let expects_continue = request.headers().contains_key(EXPECT);
        let is_too_large = request.body().size_hint().lower() > limits.bytes || limits.bytes == 0;
        if expects_continue || is_too_large {
            close(response);
            return None;
        }
        Some(Self {
            body: Box::pin(request.into_body()),
            limits,
            sleep: None,
        })
    }

    /// Returns the response once the request body has been drained.
    #[cfg(feature = "dashboard")]
    pub(crate) async fn before<R>(request: Request<B>, mut response: Response<R>) -> Response<R> {
        if let Some(mut drain) = Self::new(request, &mut response, DrainLimits::default()) {
            std::future::poll_fn(|cx| drain.poll_before(cx, &mut response)).await;
        }
        response
    }

    /// Continues to drain. The response closes the connection if the end cannot be reached.
    pub(crate) fn poll_before<R>(
        &mut self,
        cx: &mut Context<'_>,
        response: &mut Response<R>,
    ) -> Poll<()> {
        let reaches_end = std::task::ready!(Pin::new(self).poll(cx));
        if !reaches_end {
            close(response);
        }
        Poll::Ready(())
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        // Without a runtime, no timer would wake the task.
        if tokio::runtime::Handle::try_current().is_err() {
            return true;
        }
        let time = self.limits.time;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep(time)));
        sleep.as_mut().poll(cx).is_ready()
    }
}

impl<B: Body> Future for Drain<B> {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            match self.body.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let read = frame.data_ref().map_or(0, Buf::remaining) as u64;
                    match self.limits.bytes.checked_sub(read) {
                        Some(left) => self.limits.bytes = left,
                        None => return Poll::Ready(false),
                    }
                    if self.body.is_end_stream() {
                        return Poll::Ready(true);
                    }
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(false),
                Poll::Ready(None) => return Poll::Ready(true),
                Poll::Pending if self.is_late(cx) => return Poll::Ready(false),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
