//! Reading the body of a refused request, so that the client can use its connection again.
//!
//! A server closes an HTTP/1 connection on which a part of a request's body is unread (hyper does so unless the rest has
//! arrived already). Small bodies are therefore read and dropped before a refusal is answered. Of larger ones and of those
//! that do not arrive in time nothing more is read, and the refusal says `Connection: close`. HTTP/2 ends the request's
//! stream alone, and a client that expects `100 Continue` has not sent its body.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Buf;
use http::header::{CONNECTION, EXPECT};
use http::{HeaderValue, Request, Response, Version};
use http_body::Body;
use tokio::time::{Sleep, sleep};

/// How much of a refused request's body is read.
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

/// Tells the client of an HTTP/1 connection that it will be closed.
fn close<R>(response: &mut Response<R>) {
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
}

/// A body that is being read to its end. The future's output tells whether that was reached.
pub(crate) struct Drain<B> {
    body: Pin<Box<B>>,
    limits: DrainLimits,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<B: Body> Drain<B> {
    /// Begins to read what is left of a refused request's body, if that has to be done and can be.
    pub(crate) fn of<R>(
        request: Request<B>,
        response: &mut Response<R>,
        limits: DrainLimits,
    ) -> Option<Self> {
        if request.body().is_end_stream() || request.version() > Version::HTTP_11 {
            return None;
        }
        let awaits_permission = request.headers().contains_key(EXPECT);
        let is_too_large = request.body().size_hint().lower() > limits.bytes || limits.bytes == 0;
        if awaits_permission || is_too_large {
            close(response);
            return None;
        }
        Some(Self {
            body: Box::pin(request.into_body()),
            limits,
            sleep: None,
        })
    }

    /// The response, once the body of its request has been read.
    #[cfg(feature = "dashboard")]
    pub(crate) async fn before<R>(request: Request<B>, mut response: Response<R>) -> Response<R> {
        if let Some(mut drain) = Self::of(request, &mut response, DrainLimits::default()) {
            std::future::poll_fn(|cx| drain.poll_before(cx, &mut response)).await;
        }
        response
    }

    /// Reads on; marks the response if the end cannot be reached.
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
        // Without a runtime there is nobody who would wake it.
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
