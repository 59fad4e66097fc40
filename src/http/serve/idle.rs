//! Which requests of a connection are under way, so that one that is of no use any more can be ended.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::Response;
use hyper::body::{Body, Frame, SizeHint};

/// What was asked on a connection.
#[derive(Debug, Default)]
pub(super) struct Asked {
    under_way: AtomicUsize,
    /// Grows with each beginning and with each end.
    changes: AtomicU64,
}

/// A request that is under way until it is dropped.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Asked>);

impl Asked {
    /// Counts a request.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
    }

    /// Waits, and answers whether nothing was asked until then.
    pub(super) async fn nothing(&self, patience: Duration) -> bool {
        tokio::time::sleep(patience).await;
        self.changes.load(Ordering::Relaxed) == 0
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
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
        self.0.changes.fetch_add(1, Ordering::Relaxed);
    }
}

impl UnderWay {
    /// Has the request be under way for as long as its answer is.
    pub(super) fn until_the_end_of<B>(self, answer: Response<B>) -> Response<Counted<B>> {
        answer.map(|body| Counted { body, _under_way: self })
    }
}

/// The body of an answer, which counts until it is dropped.
#[derive(Debug)]
pub(super) struct Counted<B> {
    body: B,
    _under_way: UnderWay,
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
