//! Which requests of a connection are under way, so that one that is of no use any more can be ended.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::Response;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

/// What was asked on a connection.
#[derive(Debug, Default)]
pub(super) struct Asked {
    under_way: AtomicUsize,
    /// Grows with each beginning and with each end.
    changes: AtomicU64,
    /// Since when answers wait for the other end to take what there is of them.
    untaken: Mutex<Vec<(u64, Instant)>>,
}

/// A request that is under way until it is dropped.
#[derive(Debug)]
pub(super) struct UnderWay {
    asked: Arc<Asked>,
    number: u64,
}

impl Asked {
    /// Counts a request.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay {
            number: self.changes.fetch_add(1, Ordering::Relaxed),
            asked: Arc::clone(self),
        }
    }

    /// Waits, and answers whether nothing was asked until then.
    pub(super) async fn nothing(&self, patience: Duration) -> bool {
        tokio::time::sleep(patience).await;
        self.changes.load(Ordering::Relaxed) == 0
    }

    fn all_untaken(&self) -> std::sync::MutexGuard<'_, Vec<(u64, Instant)>> {
        self.untaken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when a part of an answer has waited for so long to be taken, or a little longer. The socket does not tell of
    /// that where the other end of an HTTP/2 connection opens no window for it (RFC 9113, section 6.9).
    pub(super) async fn untaken(&self, patience: Duration) {
        loop {
            tokio::time::sleep(patience / 4).await;
            if self.all_untaken().iter().any(|(_, since)| since.elapsed() >= patience) {
                return;
            }
        }
    }

    /// Returns when nothing has been under way for a time: for this long at least, and for twice as long at most.
    pub(super) async fn idle(&self, patience: Duration) {
        let mut before = self.changes.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(patience).await;
            let now = self.changes.load(Ordering::Relaxed);
            if now == before && self.under_way.load(Ordering::Relaxed) == 0 {
                return;
            }
            before = now;
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.taken();
        self.asked.under_way.fetch_sub(1, Ordering::Relaxed);
        self.asked.changes.fetch_add(1, Ordering::Relaxed);
    }
}

impl UnderWay {
    /// Has the request be under way for as long as its answer is.
    pub(super) fn until_the_end_of<B>(self, answer: Response<B>) -> Response<Counted<B>> {
        self.waits();
        answer.map(|body| Counted { body, under_way: self })
    }

    /// There is something to take.
    fn waits(&self) {
        self.asked.all_untaken().push((self.number, Instant::now()));
    }

    /// The other end has taken all that there was.
    fn taken(&self) {
        self.asked.all_untaken().retain(|(number, _)| *number != self.number);
    }
}

/// The body of an answer, which counts until it is dropped.
#[derive(Debug)]
pub(super) struct Counted<B> {
    body: B,
    under_way: UnderWay,
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        // Whoever has taken one part asks for the next one.
        self.under_way.taken();
        let next = Pin::new(&mut self.body).poll_frame(context);
        if matches!(next, Poll::Ready(Some(Ok(_)))) {
            self.under_way.waits();
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
