//! The response's body, watched to its end.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::revocation::Watch;
use super::tracker::{End, PanicGuard, RequestTracker};

pin_project! {
    /// The body of a response that passed a layer of this crate: the inner service's, watched to
    /// its end, or the short one of a refusal.
    pub struct ResponseBody<B> {
        #[pin]
        kind: Kind<B>,
        // Behind the body, so that it is dropped after it.
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

    pub(crate) fn refusal(body: Bytes) -> Self {
        Self {
            kind: Kind::RejectionReason {
                body: Some(body).filter(|body| !body.is_empty()),
            },
            tracker: RequestTracker::disabled(),
        }
    }
}

/// Why the body of a response broke off.
///
/// Converts into a boxed error wherever the inner body's own error does, as servers need it: the inner error itself, or
/// [`KeyRejected`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BodyError<E> {
    /// The inner service's body failed.
    Inner(E),
    /// The key no longer works, and the layer was
    /// [set to end its streams](super::ApiKeyLayer::end_streams_on_revocation).
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
            // Nothing more is asked of the service.
            this.kind.set(Kind::RejectionReason { body: None });
            let end = trailers.map(Frame::trailers).ok_or(BodyError::KeyRejected);
            return Poll::Ready(Some(end));
        }
        let guarded = PanicGuard(Some(&mut *this.tracker));
        let polled = body.as_mut().poll_frame(cx);
        drop(guarded);
        let tracker = this.tracker;
        match &polled {
            Poll::Pending => tracker.pending(),
            Poll::Ready(None) => tracker.finish(End::Completed),
            Poll::Ready(Some(Err(_))) => tracker.finish(End::Failed),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    tracker.on_data(data.len());
                } else if let Some(trailers) = frame.trailers_ref() {
                    tracker.on_trailers(trailers);
                }
                // Nobody has to ask again once the body says it is over.
                if body.is_end_stream() {
                    tracker.finish(End::Completed);
                }
            }
        }
        polled.map(|frame| frame.map(|frame| frame.map_err(BodyError::Inner)))
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

/// An empty one, as tower-http's `CorsLayer` needs it.
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
    async fn a_body_is_as_long_as_the_one_within() {
        let whole = ResponseBody::inner(
            Full::new(Bytes::from_static(b"ok")),
            RequestTracker::disabled(),
        );
        assert_eq!(
            (whole.size_hint().exact(), whole.is_end_stream()),
            (Some(2), false)
        );
        assert_eq!(whole.collect().await.unwrap().to_bytes(), "ok");
        let empty = ResponseBody::inner(Empty::<Bytes>::new(), RequestTracker::disabled());
        assert_eq!(
            (empty.size_hint().exact(), empty.is_end_stream()),
            (Some(0), true)
        );
    }

    #[tokio::test]
    async fn a_refusals_body_is_one_frame_or_none() {
        let mut body = ResponseBody::<Empty<Bytes>>::refusal(Bytes::from_static(b"no"));
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
        let mut none = ResponseBody::<Empty<Bytes>>::refusal(Bytes::new());
        assert_eq!(
            (none.size_hint().exact(), none.is_end_stream()),
            (Some(0), true)
        );
        assert!(none.frame().await.is_none());
    }
}
