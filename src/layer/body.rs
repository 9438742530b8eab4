//! The response body, tracked to completion.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::revocation::Watch;
use super::tracker::{End, PanicGuard, RequestTracker};

pin_project! {
    /// The response body of [`ApiKeyService`](super::ApiKeyService) and
    /// [`RequireScopeService`](super::RequireScopeService): the inner service's body, tracked to completion, or
    /// the body of a rejection.
    pub struct ResponseBody<B> {
        #[pin]
        kind: Kind<B>,
        // Declared after the body, so that it is dropped after it.
        tracker: RequestTracker,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<B> {
        Inner { #[pin] body: B, watch: Option<Box<Watch>> },
        RejectionReason { body: Option<Bytes> },
    }
}

impl<B> ResponseBody<B> {
    pub(crate) fn inner(body: B, mut tracker: RequestTracker) -> Self {
        let watch = tracker.stream_watch();
        Self {
            kind: Kind::Inner { body, watch },
            tracker,
        }
    }

    pub(crate) fn rejection(body: Bytes) -> Self {
        Self {
            kind: Kind::RejectionReason {
                body: Some(body).filter(|body| !body.is_empty()),
            },
            tracker: RequestTracker::disabled(),
        }
    }
}

/// The error of a [`ResponseBody`].
///
/// If the inner body's error converts into a boxed error, as servers require, this one converts too: into the
/// inner error itself, or [`KeyRejected`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BodyError<E> {
    /// The inner service's body failed.
    Inner(E),
    /// The key was revoked, disabled, deleted or has expired, and the layer
    /// [ends its streams](super::ApiKeyLayer::end_streams_on_revocation).
    KeyRejected,
}

impl<E: fmt::Display> fmt::Display for BodyError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inner(error) => error.fmt(f),
            Self::KeyRejected => KeyRejected.fmt(f),
        }
    }
}

/// [`BodyError::KeyRejected`] as a boxed error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the API key is no longer valid")]
#[non_exhaustive]
pub struct KeyRejected;

impl<E: Into<Self>> From<BodyError<E>> for BoxError {
    fn from(error: BodyError<E>) -> Self {
        match error {
            BodyError::Inner(error) => error.into(),
            BodyError::KeyRejected => KeyRejected.into(),
        }
    }
}

impl<E: Into<BoxError>> From<BodyError<E>> for Box<dyn std::error::Error> {
    fn from(error: BodyError<E>) -> Self {
        BoxError::from(error)
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = BodyError<B::Error>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut this = self.project();
        let (mut body, watch) = match this.kind.as_mut().project() {
            KindProjection::RejectionReason { body } => {
                return Poll::Ready(body.take().map(|body| Ok(Frame::data(body))));
            }
            KindProjection::Inner { body, watch } => (body, watch),
        };
        if let Some(watch) = watch
            && let Poll::Ready(reason) = watch.poll_rejected(cx)
        {
            let trailers = this.tracker.reject(reason);
            // Drop the inner body: it is not polled again.
            this.kind.set(Kind::RejectionReason { body: None });
            let end = trailers.map(Frame::trailers).ok_or(BodyError::KeyRejected);
            return Poll::Ready(Some(end));
        }
        let guarded = PanicGuard::new(Some(&mut *this.tracker));
        let polled = body.as_mut().poll_frame(cx);
        guarded.disarm();
        let tracker = this.tracker;
        match polled {
            Poll::Pending => {
                tracker.pending();
                Poll::Pending
            }
            Poll::Ready(None) => {
                tracker.finish(End::Completed);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                tracker.finish(End::Failed);
                Poll::Ready(Some(Err(BodyError::Inner(error))))
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    tracker.on_data(data.len());
                } else if let Some(trailers) = frame.trailers_ref() {
                    tracker.on_trailers(trailers);
                }
                // Servers do not poll a body again after its end.
                if body.is_end_stream() {
                    tracker.finish(End::Completed);
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { body, .. } => body.is_end_stream(),
            Kind::RejectionReason { body } => body.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { body, .. } => body.size_hint(),
            Kind::RejectionReason { body } => {
                SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64))
            }
        }
    }
}

/// An empty body, as required by tower-http's `CorsLayer`.
impl<B: Default> Default for ResponseBody<B> {
    fn default() -> Self {
        Self::inner(B::default(), RequestTracker::disabled())
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseBody")
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Empty, Full};

    use super::*;

    #[tokio::test]
    async fn size_hint_and_end_are_those_of_the_inner_body() {
        let full = ResponseBody::inner(
            Full::new(Bytes::from_static(b"ok")),
            RequestTracker::disabled(),
        );
        assert_eq!(
            (full.size_hint().exact(), full.is_end_stream()),
            (Some(2), false)
        );
        assert_eq!(full.collect().await.unwrap().to_bytes(), "ok");
        let empty = ResponseBody::inner(Empty::<Bytes>::new(), RequestTracker::disabled());
        assert_eq!(
            (empty.size_hint().exact(), empty.is_end_stream()),
            (Some(0), true)
        );
    }

    #[tokio::test]
    async fn rejection_body_has_at_most_one_frame() {
        let mut body = ResponseBody::<Empty<Bytes>>::rejection(Bytes::from_static(b"no"));
        assert_eq!(
            (body.size_hint().exact(), body.is_end_stream()),
            (Some(2), false)
        );
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "no");
        assert_eq!(
            (body.size_hint().exact(), body.is_end_stream()),
            (Some(0), true)
        );
        assert!(body.frame().await.is_none());
        let mut empty = ResponseBody::<Empty<Bytes>>::rejection(Bytes::new());
        assert_eq!(
            (empty.size_hint().exact(), empty.is_end_stream()),
            (Some(0), true)
        );
        assert!(empty.frame().await.is_none());
    }
}
