//! The way of one request through the layer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::ResponseBody;
use super::gate::Gate;
use super::meter::{End, Unwinding};
use super::step::{Step, Ticket, Wait};

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
        Answered { answer: Option<Response<Bytes>> },
        Waiting { wait: Wait, held: Option<Box<Held<S, B>>> },
        Readying { held: Option<Box<Held<S, B>>>, ticket: Option<Ticket> },
        Calling { #[pin] call: S::Future, ticket: Option<Ticket> },
    }
}

/// A request that waits for a decision, and the service that it is for, which is not ready.
pub(super) struct Held<S, B> {
    pub(super) gate: Arc<Gate>,
    pub(super) service: S,
    pub(super) request: Request<B>,
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    pub(super) fn calling(call: S::Future, ticket: Ticket) -> Self {
        let ticket = Some(ticket);
        Self {
            state: State::Calling { call, ticket },
        }
    }

    pub(super) fn answered(answer: Response<Bytes>) -> Self {
        let answer = Some(answer);
        Self {
            state: State::Answered { answer },
        }
    }

    pub(super) fn waiting(wait: Wait, held: Held<S, B>) -> Self {
        let held = Some(Box::new(held));
        Self {
            state: State::Waiting { wait, held },
        }
    }
}

impl<S, B, R> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>, Response = Response<R>>,
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
                        return Poll::Ready(leave(Err(error), ticket));
                    }
                    let held = held.take().expect("polled after its end");
                    let Held {
                        mut service,
                        request,
                        ..
                    } = *held;
                    this.state.set(State::Calling {
                        call: service.call(request),
                        ticket: Some(ticket),
                    });
                }
                StateProjection::Answered { answer } => {
                    let answer = answer.take().expect("polled after its end");
                    return Poll::Ready(Ok(answer.map(ResponseBody::refusal)));
                }
                StateProjection::Waiting { wait, held } => {
                    let waited = ready!(wait.as_mut().poll(cx));
                    let mut held = held.take().expect("polled after its end");
                    let step = held.gate.resume(waited, &mut held.request);
                    this.state.set(match step {
                        Step::Call(ticket) => State::Readying {
                            held: Some(held),
                            ticket: Some(ticket),
                        },
                        Step::Answer(answer) => {
                            let answer = Some(answer);
                            State::Answered { answer }
                        }
                        Step::Wait(wait) => {
                            let held = Some(held);
                            State::Waiting { wait, held }
                        }
                    });
                }
            }
        }
    }
}

/// Polls the service for an admitted request, and gives its ticket back once there is a result. A panic ends
/// its event, and while the service is pending, the recorder knows of the request.
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

/// Gives the answer its headers and lets its body be watched.
#[inline]
fn leave<R: Body<Data = Bytes>, E>(
    answer: Result<Response<R>, E>,
    ticket: Ticket,
) -> Result<Response<ResponseBody<R>>, E> {
    let mut response = match answer {
        Ok(response) => response,
        Err(error) => {
            if let Ticket::Followed(mut meter) = ticket {
                meter.end(End::Failed);
            }
            return Err(error);
        }
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
