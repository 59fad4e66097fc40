//! The end of a stream of the journal, read to learn which events are recorded already.
//!
//! Read when the server refuses a batch for a duplicate that this process does not know: after a
//! restart, or when other processes append the same events.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use super::Lane;
use super::known::{Known, Recorded};
use super::read::Reader;
use crate::metrics::Metrics;
use crate::nats::{Link, Plan, ReadError, Start};

/// How long it may take.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(5);
/// It begins here, at the first time: the server's own memory of duplicates, and a minute for clocks that differ.
const CATCH_UP_WINDOW: Duration = Duration::from_mins(6);

/// The events of all shops.
pub(super) const ALL: &str = "checkout.*.*";
/// Events read at a time.
const READ_EVENTS: usize = 1_000;

/// The end of a stream, as read to find duplicates. Its places are the stream's own.
#[derive(Debug)]
pub(super) struct JournalEnd {
    pub(super) events: Vec<(Uuid, Recorded)>,
    /// No event up to here is missing.
    pub(super) to: u64,
}

/// Reads which events the stream has beyond what is known, or, if nothing has been read yet, as far back as the server knows duplicates.
///
/// # Errors
/// [`ReadError`] if the journal cannot be reached, or its end is too long to be read in time.
pub(super) fn read_end(
    link: Link,
    metrics: Arc<Metrics>,
    known: &Known,
) -> impl Future<Output = Result<JournalEnd, ReadError>> + use<> {
    let (from, reach) = (known.complete_to(), known.reach());
    async move {
        let reading = tokio::time::timeout(CATCH_UP_TIMEOUT, read(&link, &metrics, from, reach));
        reading
            .await
            .unwrap_or_else(|_| Err(ReadError::unavailable("reading its end takes too long")))
    }
}

async fn read(link: &Link, metrics: &Arc<Metrics>, from: Option<u64>, reach: u64) -> Result<JournalEnd, ReadError> {
    let info = link.stream().get_info().await.map_err(ReadError::unavailable)?;
    let to = info.state.last_sequence;
    let mut events = Vec::new();
    // More than is remembered need not be read.
    let earliest = Start::After(to.saturating_sub(reach));
    let start = match from {
        Some(from) if from >= to => return Ok(JournalEnd { events, to }),
        Some(from) => Start::After(from.max(to.saturating_sub(reach))),
        None => Start::Since(OffsetDateTime::now_utc() - CATCH_UP_WINDOW),
    };
    let mut reader = Reader::open((Lane::ONLY, link), metrics, Plan::headers(ALL.to_owned(), start)).await?;
    if reader.pending_at_open() > reach {
        reader = Reader::open((Lane::ONLY, link), metrics, Plan::headers(ALL.to_owned(), earliest)).await?;
    }
    if reader.pending_at_open() == 0 {
        return Ok(JournalEnd { events, to });
    }
    loop {
        for event in reader.next(READ_EVENTS).await? {
            if let Some(id) = event.id() {
                events.push((
                    id,
                    Recorded {
                        sequence: event.sequence,
                        digest: event.digest(),
                    },
                ));
            }
            if event.sequence >= to || event.pending == 0 {
                return Ok(JournalEnd {
                    events,
                    to: to.max(event.sequence),
                });
            }
        }
    }
}
