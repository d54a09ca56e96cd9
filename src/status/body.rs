//! The body of an answer: whole, or a stream that goes on for as long as somebody reads it. A stream holds a place, is fed by a task
//! of its own through a queue of one message, and ends when its reader takes nothing for ten seconds: it never fills memory.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::Full;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

/// A reader that takes nothing for this long is dropped.
const STALLED: Duration = Duration::from_secs(10);

/// The body of an answer.
pub(super) enum Body {
    Whole(Full<Bytes>),
    Stream(mpsc::Receiver<Bytes>),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(whole) => Pin::new(whole).poll_frame(context),
            Self::Stream(stream) => Poll::Ready(ready!(stream.poll_recv(context)).map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_end_stream(),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// Tells a connection that its answer is a stream, and when that has ended.
#[derive(Clone, Default)]
pub(super) struct Lasting(Arc<Mutex<Option<oneshot::Receiver<()>>>>);

impl Lasting {
    /// A stream, and what feeds it.
    pub fn stream(&self) -> (Feed, Body) {
        let (sender, receiver) = mpsc::channel(1);
        let (alive, ended) = oneshot::channel();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
        (Feed { sender, _alive: alive }, Body::Stream(receiver))
    }

    /// Resolves when the stream has ended. `None`: the answer is no stream.
    pub fn ended(&self) -> Option<oneshot::Receiver<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What feeds a stream. Dropping it ends the stream.
pub(super) struct Feed {
    sender: mpsc::Sender<Bytes>,
    _alive: oneshot::Sender<()>,
}

impl Feed {
    /// Sends more. False: nobody reads any more.
    pub async fn send(&self, bytes: Bytes) -> bool {
        matches!(timeout(STALLED, self.sender.send(bytes)).await, Ok(Ok(())))
    }

    /// Resolves when the reader is gone.
    pub async fn gone(&self) {
        self.sender.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_that_takes_nothing_ends_the_stream() {
        let lasting = Lasting::default();
        assert!(lasting.ended().is_none(), "an answer that is whole");
        let (feed, _unread) = lasting.stream();
        let piece = || Bytes::from_static(b"a frame");
        assert!(feed.send(piece()).await, "one waits");
        assert!(!feed.send(piece()).await);
        drop(feed);
        assert!(lasting.ended().unwrap().await.is_err(), "the connection is told");
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_ends_it_at_once() {
        let (feed, body) = Lasting::default().stream();
        drop(body);
        feed.gone().await;
        assert!(!feed.send(Bytes::from_static(b"a frame")).await);
    }
}
