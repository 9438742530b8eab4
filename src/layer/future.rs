//! The way of one request through the layer.

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

use super::body::ResponseBody;
use super::gate::Gate;
use super::meter::{End, Unwinding};
use super::step::{Step, Ticket, Wait};
use crate::drain::{Drain, DrainLimits};

pin_project! {
    /// The future of an [`ApiKeyService`](super::ApiKeyService).
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
        Answered { answer: Option<Response<Bytes>>, drain: Option<Drain<B>> },
        Waiting { wait: Wait, held: Option<Box<Held<S, B>>> },
        Readying { held: Option<Box<Held<S, B>>>, ticket: Option<Ticket> },
        Calling { #[pin] call: S::Future, ticket: Option<Ticket> },
        Failed { error: Option<S::Error> },
    }
}

/// A request that waits for a decision or for the service to be ready, and the service to call.
pub(super) struct Held<S, B> {
    /// Checks again whether the request may pass once it has waited; none where nothing was decided.
    pub(super) gate: Option<Arc<Gate>>,
    pub(super) service: S,
    pub(super) request: Request<B>,
    /// How often it was checked again by asking the store.
    pub(super) rechecks: u8,
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>> + Clone,
{
    /// Calls the service for a request that is admitted. Only now is it polled ready: requests that are not
    /// admitted neither wait for the service nor hold anything of it.
    #[inline]
    pub(super) fn admitted(
        service: &mut S,
        request: Request<B>,
        ticket: Ticket,
        gate: Option<&Arc<Gate>>,
    ) -> Self {
        // The waker is that of the task that polls the future; the service is polled again there.
        let state = match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => State::Calling {
                call: service.call(request),
                ticket: Some(ticket),
            },
            Poll::Ready(Err(error)) => State::Failed {
                error: Some(fail(error, ticket)),
            },
            Poll::Pending => {
                let fresh = service.clone();
                let held = Held {
                    gate: gate.cloned(),
                    service: std::mem::replace(service, fresh),
                    request,
                    rechecks: 0,
                };
                State::Readying {
                    held: Some(Box::new(held)),
                    ticket: Some(ticket),
                }
            }
        };
        Self { state }
    }
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
    B: Body,
{
    pub(super) fn answered(
        answer: Response<Bytes>,
        request: Request<B>,
        limits: DrainLimits,
    ) -> Self {
        Self {
            state: State::answered(answer, request, limits),
        }
    }

    pub(super) fn waiting(wait: Wait, held: Held<S, B>) -> Self {
        let held = Some(Box::new(held));
        Self {
            state: State::Waiting { wait, held },
        }
    }
}

impl<S, B> State<S, B>
where
    S: Service<Request<B>>,
    B: Body,
{
    fn answered(mut answer: Response<Bytes>, request: Request<B>, limits: DrainLimits) -> Self {
        Self::Answered {
            drain: Drain::of(request, &mut answer, limits),
            answer: Some(answer),
        }
    }

    /// What follows from a decision about a request that has waited.
    fn after(step: Step, held: Box<Held<S, B>>) -> Self {
        match step {
            Step::Call(ticket) => Self::Readying {
                held: Some(held),
                ticket: Some(ticket),
            },
            Step::Answer(answer) => {
                let limits = held.gate.as_ref().map(|gate| gate.drain_limits);
                Self::answered(answer, held.request, limits.unwrap_or_default())
            }
            Step::Wait(wait) => Self::Waiting {
                wait,
                held: Some(held),
            },
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
                StateProjection::Calling { call, ticket } => {
                    let (answer, ticket) = ready!(poll_admitted(ticket, || call.poll(cx)));
                    return Poll::Ready(leave(answer, ticket));
                }
                StateProjection::Readying { held, ticket } => {
                    let waiting = held.as_mut().expect("polled after its end");
                    let poll_ready = || waiting.service.poll_ready(cx);
                    let (is_ready, ticket) = ready!(poll_admitted(ticket, poll_ready));
                    if let Err(error) = is_ready {
                        return Poll::Ready(Err(fail(error, ticket)));
                    }
                    let mut held = held.take().expect("polled after its end");
                    // Its key may have been revoked meanwhile.
                    let step = match held.gate.clone() {
                        Some(gate) => gate.recheck(&held.request, ticket, &mut held.rechecks),
                        None => Step::Call(ticket),
                    };
                    let next = match step {
                        Step::Call(ticket) => State::Calling {
                            call: held.service.call(held.request),
                            ticket: Some(ticket),
                        },
                        step => {
                            // Waiting for the store holds nothing of the service.
                            held.service = held.service.clone();
                            State::after(step, held)
                        }
                    };
                    this.state.set(next);
                }
                StateProjection::Answered { answer, drain } => {
                    if let (Some(answer), Some(drain)) = (answer.as_mut(), drain) {
                        ready!(drain.poll_before(cx, answer));
                    }
                    let answer = answer.take().expect("polled after its end");
                    return Poll::Ready(Ok(answer.map(ResponseBody::refusal)));
                }
                StateProjection::Failed { error } => {
                    let error = error.take().expect("polled after its end");
                    return Poll::Ready(Err(error));
                }
                StateProjection::Waiting { wait, held } => {
                    let waited = ready!(wait.as_mut().poll(cx));
                    let mut held = held.take().expect("polled after its end");
                    let gate = held.gate.clone().expect("a gate has decided to wait");
                    let step = gate.resume(waited, &mut held.request);
                    this.state.set(State::after(step, held));
                }
            }
        }
    }
}

/// Polls the service for an admitted request, and returns the ticket with the result. A panic records the event
/// as failed; a pending request is registered with the recorder.
#[inline]
fn poll_admitted<T>(
    ticket: &mut Option<Ticket>,
    poll: impl FnOnce() -> Poll<T>,
) -> Poll<(T, Ticket)> {
    let at_hand = ticket.as_mut().expect("polled after its end");
    let mut guarded = Unwinding(at_hand.meter());
    let polled = poll();
    if polled.is_pending()
        && let Some(meter) = &mut guarded.0
    {
        meter.pending();
    }
    drop(guarded);
    polled.map(|result| (result, ticket.take().expect("it was at hand")))
}

/// The service has failed.
#[cold]
fn fail<E>(error: E, ticket: Ticket) -> E {
    if let Ticket::Followed(mut meter) = ticket {
        meter.end(End::Failed);
    }
    error
}

/// Gives the answer its headers and lets its body be watched.
#[inline]
fn leave<R: Body<Data = Bytes>, E>(
    answer: Result<Response<R>, E>,
    ticket: Ticket,
) -> Result<Response<ResponseBody<R>>, E> {
    let mut response = match answer {
        Ok(response) => response,
        Err(error) => return Err(fail(error, ticket)),
    };
    let mut meter = ticket.redeem(response.headers_mut());
    if meter.answered(&response) {
        meter.end(End::Whole);
    }
    Ok(response.map(|body| ResponseBody::inner(body, meter)))
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
