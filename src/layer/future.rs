//! [`ResponseFuture`]: a request on its way through the layer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::admission::{Admitted, Resumed, Step, Wait};
use super::body::ResponseBody;
use super::config::Config;
use super::request_context::RequestMetadata;
use super::tracker::{End, PanicGuard};
use crate::drain::{Drain, DrainLimits};

pin_project! {
    /// The response future of [`ApiKeyService`](super::ApiKeyService),
    /// [`RequireScopeService`](super::RequireScopeService) and [`RouteCostService`](super::RouteCostService).
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, B>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, B>
    where
        S: Service<Request<B>>,
    {
        Answered { answer: Option<Box<Response<Bytes>>>, drain: Option<Drain<B>> },
        Waiting { wait: Wait, held: Option<Box<Held<S, B>>> },
        Readying { held: Option<Box<Held<S, B>>>, admitted: Option<Admitted> },
        Calling { #[pin] call: S::Future, admitted: Option<Admitted> },
        Failed { error: Option<S::Error> },
    }
}

/// A request waiting for a decision or for the service to be ready, with the service to call.
struct Held<S, B> {
    /// Rechecks the key after a wait. `None` for `RequireScope` and `RouteCost`.
    config: Option<Arc<Config>>,
    service: S,
    request: Request<B>,
    /// What has been read from the request, while it waits for a decision.
    metadata: Option<Box<RequestMetadata>>,
    /// The number of rechecks that looked the key up in the store.
    rechecks: u8,
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>> + Clone,
{
    /// Calls the service for an admitted request. The service is only polled for readiness here, so requests that
    /// are not admitted neither wait for it nor hold a permit.
    #[inline]
    pub(super) fn admitted(
        service: &mut S,
        request: Request<B>,
        admitted: Admitted,
        config: Option<&Arc<Config>>,
    ) -> Self {
        // If the service is not ready, it is polled again with the waker of the task that polls the future.
        match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Self {
                state: State::Calling {
                    call: service.call(request),
                    admitted: Some(admitted),
                },
            },
            Poll::Ready(Err(error)) => Self {
                state: State::Failed {
                    error: Some(fail(error, admitted)),
                },
            },
            Poll::Pending => {
                let fresh = service.clone();
                let held = Held {
                    config: config.cloned(),
                    service: std::mem::replace(service, fresh),
                    request,
                    metadata: None,
                    rechecks: 0,
                };
                Self {
                    state: State::Readying {
                        held: Some(Box::new(held)),
                        admitted: Some(admitted),
                    },
                }
            }
        }
    }
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>> + Clone,
    B: Body,
{
    /// The future after the first decision about a request. Without a config, the key is not rechecked after a wait.
    #[inline]
    pub(super) fn after(
        step: Step,
        service: &mut S,
        request: Request<B>,
        config: Option<&Arc<Config>>,
    ) -> Self {
        match step {
            Step::Admit(admitted) => Self::admitted(service, request, admitted, config),
            Step::Reject(response) => {
                let limits = config.map(|config| config.drain_limits);
                Self::rejected(response, request, limits.unwrap_or_default())
            }
            Step::Wait(wait, metadata) => {
                let held = Held {
                    config: config.cloned(),
                    service: service.clone(),
                    request,
                    metadata,
                    rechecks: 0,
                };
                Self {
                    state: State::Waiting {
                        wait,
                        held: Some(Box::new(held)),
                    },
                }
            }
        }
    }
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
    B: Body,
{
    pub(super) fn rejected(
        response: Box<Response<Bytes>>,
        request: Request<B>,
        limits: DrainLimits,
    ) -> Self {
        Self {
            state: State::answered(response, request, limits),
        }
    }
}

impl<S, B> State<S, B>
where
    S: Service<Request<B>>,
    B: Body,
{
    fn answered(
        mut response: Box<Response<Bytes>>,
        request: Request<B>,
        limits: DrainLimits,
    ) -> Self {
        Self::Answered {
            drain: Drain::new(request, &mut *response, limits),
            answer: Some(response),
        }
    }

    /// The next state after a decision about a request that has waited.
    fn after(step: Step, mut held: Box<Held<S, B>>) -> Self {
        match step {
            Step::Admit(admitted) => Self::Readying {
                held: Some(held),
                admitted: Some(admitted),
            },
            Step::Reject(response) => {
                let limits = held.config.as_ref().map(|config| config.drain_limits);
                Self::answered(response, held.request, limits.unwrap_or_default())
            }
            Step::Wait(wait, metadata) => {
                held.metadata = metadata;
                Self::Waiting {
                    wait,
                    held: Some(held),
                }
            }
        }
    }
}

impl<S, B, R> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    B: Body,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<ResponseBody<R>>, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let mut this = self.as_mut().project();
            match this.state.as_mut().project() {
                StateProjection::Calling { call, admitted } => {
                    return match poll_admitted(admitted, || call.poll(cx)) {
                        Poll::Pending => Poll::Pending,
                        Poll::Ready(Ok(response)) => {
                            let admitted = admitted.take().expect("polled after completion");
                            let (mut parts, body) = response.into_parts();
                            let tracker = admitted.on_response(&mut parts, &body);
                            let body = ResponseBody::inner(body, tracker);
                            Poll::Ready(Ok(Response::from_parts(parts, body)))
                        }
                        Poll::Ready(Err(error)) => {
                            let admitted = admitted.take().expect("polled after completion");
                            Poll::Ready(Err(fail(error, admitted)))
                        }
                    };
                }
                StateProjection::Readying { held, admitted } => {
                    let waiting = held.as_mut().expect("polled after completion");
                    let poll_ready = || waiting.service.poll_ready(cx);
                    let is_ready = ready!(poll_admitted(admitted, poll_ready));
                    let admitted = admitted.take().expect("polled after completion");
                    if let Err(error) = is_ready {
                        return Poll::Ready(Err(fail(error, admitted)));
                    }
                    let mut held = held.take().expect("polled after completion");
                    // The key may have been revoked in the meantime.
                    let step = match held.config.clone() {
                        Some(config) => config.recheck(&held.request, admitted, &mut held.rechecks),
                        None => Step::Admit(admitted),
                    };
                    let next = match step {
                        Step::Admit(admitted) => State::Calling {
                            call: held.service.call(held.request),
                            admitted: Some(admitted),
                        },
                        step => {
                            // Release the permit of the ready service while waiting for the store.
                            held.service = held.service.clone();
                            State::after(step, held)
                        }
                    };
                    this.state.set(next);
                }
                StateProjection::Answered { answer, drain } => {
                    if let (Some(answer), Some(drain)) = (answer.as_mut(), drain) {
                        ready!(drain.poll_before(cx, &mut **answer));
                    }
                    let answer = answer.take().expect("polled after completion");
                    return Poll::Ready(Ok(answer.map(ResponseBody::rejection)));
                }
                StateProjection::Failed { error } => {
                    let error = error.take().expect("polled after completion");
                    return Poll::Ready(Err(error));
                }
                StateProjection::Waiting { wait, held } => {
                    let resumed = ready!(wait.as_mut().poll(cx));
                    let mut held = held.take().expect("polled after completion");
                    let step = match (resumed, held.config.clone()) {
                        (Resumed::RouteCharged(charged), _) => charged.apply(&mut held.request),
                        (resumed, config) => {
                            let config = config.expect("only a route cost waits without a config");
                            let metadata = held.metadata.take();
                            config.resume(resumed, metadata, &mut held.request)
                        }
                    };
                    this.state.set(State::after(step, held));
                }
            }
        }
    }
}

/// Polls the service for an admitted request. A panic records the event as failed; a pending request is registered with
/// the recorder.
#[inline]
fn poll_admitted<T>(admitted: &mut Option<Admitted>, poll: impl FnOnce() -> Poll<T>) -> Poll<T> {
    let current = admitted.as_mut().expect("polled after completion");
    let guarded = PanicGuard::new(current.tracker());
    let polled = poll();
    let tracker = guarded.disarm();
    if polled.is_pending()
        && let Some(tracker) = tracker
    {
        tracker.pending();
    }
    polled
}

/// Records that the service returned an error.
#[cold]
fn fail<E>(error: E, admitted: Admitted) -> E {
    if let Admitted::Tracked(mut tracker) = admitted {
        tracker.finish(End::Failed);
    }
    error
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
