//! Counts the calls that are refused before any message was read, whoever refuses them: gRPC says so in the headers of the
//! answer. What sessions refuse by themselves they tell the audit log themselves, with a better reason.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use tonic::{Code, Status};
use tower::Service;

use super::SERVICE;
use crate::{audit, listen::Peer, metrics::SessionMetrics};

/// Around all services.
#[derive(Clone, Debug)]
pub(super) struct Refusals<S> {
    inner: S,
    metrics: SessionMetrics,
}

impl<S> Refusals<S> {
    pub(super) fn new(inner: S, metrics: SessionMetrics) -> Self {
        Self { inner, metrics }
    }
}

impl<S, B, C> Service<Request<B>> for Refusals<S>
where
    S: Service<Request<B>, Response = Response<C>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let peer = request.extensions().get::<Arc<Peer>>().cloned();
        let path = request.uri().path();
        let is_session = path
            .strip_prefix('/')
            .is_some_and(|path| path.starts_with(SERVICE));
        Answer {
            peer,
            is_session,
            metrics: self.metrics.clone(),
            inner: Box::pin(self.inner.call(request)),
        }
    }
}

/// The answer to one call. Boxed: projecting a pin would be unsafe code, or one more dependency, for a few calls in a day.
pub(super) struct Answer<F> {
    inner: Pin<Box<F>>,
    peer: Option<Arc<Peer>>,
    is_session: bool,
    metrics: SessionMetrics,
}

impl<F, C, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<C>, E>>,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let answer = ready!(self.inner.as_mut().poll(cx));
        if let Ok(response) = &answer
            && let Some(status) = Status::from_header_map(response.headers())
            && status.code() != Code::Ok
        {
            self.metrics.call_refused(status.code());
            let told = self.is_session && status.code() != Code::Unimplemented;
            if let Some(peer) = self.peer.as_ref().filter(|_| !told) {
                let reason = format!("{:?}", status.code());
                audit::refusal(&peer.subject(), &reason, status.message());
            }
        }
        Poll::Ready(answer)
    }
}
