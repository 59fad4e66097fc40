//! Updates of all partitions on their way to the disk together.
//!
//! A single publish costs a sync, an atomic batch costs a few whatever its size, and the server does one
//! after the other: few updates go singly, many as one batch, of whichever partitions they are. Who
//! comes while a batch is under way waits for the next one. A batch is stored whole or not at all.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::header::{NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE};
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::oneshot;

/// Updates on their way up to which single publishes are faster than an atomic batch.
const SINGLES_MAX: usize = 16;
/// Updates in one atomic batch; the server accepts no more.
const BATCH_MAX: usize = 1_000;

/// An update as it goes to the stream.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) subject: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// What became of the updates that somebody offered.
#[derive(Debug)]
pub(super) enum Outcome {
    /// All are stored, one after the other, and this is the place of the last.
    Stored(u64),
    /// None was sent: they are few, and go singly for as long as the permit is held.
    Singly(Permit),
    /// They are stored or not; the stream can tell.
    Unknown,
}

/// The right to publish some updates singly.
#[derive(Debug)]
pub(super) struct Permit {
    group: Arc<Group>,
    updates: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.group.singly.fetch_sub(self.updates, Ordering::Relaxed);
    }
}

/// The updates that wait for the next batch; shared by all partitions of the process.
#[derive(Debug, Default)]
pub(super) struct Group {
    waiting: Mutex<Vec<Waiting>>,
    /// Held by whoever commits for all that wait.
    turn: tokio::sync::Mutex<()>,
    /// Updates that are being published singly.
    singly: AtomicUsize,
}

#[derive(Debug)]
struct Waiting {
    messages: Vec<Message>,
    answer: oneshot::Sender<Outcome>,
}

/// Why a batch was not acknowledged.
enum NotStored {
    /// The server refused it whole.
    Refused,
    /// No answer came.
    Unknown,
}

impl Group {
    /// Offers updates of one partition, and answers what became of them.
    ///
    /// Whose turn it is commits for all that wait. If its caller goes away meanwhile, the others are told [`Outcome::Unknown`].
    pub(super) async fn offer(
        self: &Arc<Self>,
        client: &Client,
        messages: Vec<Message>,
        patience: Duration,
    ) -> Outcome {
        let (answer, mut answered) = oneshot::channel();
        self.waiting().push(Waiting { messages, answer });
        let _turn = self.turn.lock().await;
        loop {
            match answered.try_recv() {
                Ok(outcome) => return outcome,
                Err(oneshot::error::TryRecvError::Closed) => return Outcome::Unknown,
                Err(oneshot::error::TryRecvError::Empty) => self.commit_waiting(client, patience).await,
            }
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn commit_waiting(self: &Arc<Self>, client: &Client, patience: Duration) {
        let taken = self.take();
        let updates: usize = taken.iter().map(|waiting| waiting.messages.len()).sum();
        let flying = self.singly.load(Ordering::Relaxed);
        if updates + flying <= SINGLES_MAX || updates > BATCH_MAX {
            return taken.into_iter().for_each(|waiting| self.let_go_singly(waiting));
        }
        let all = || taken.iter().flat_map(|waiting| &waiting.messages);
        match commit(client, all(), updates, patience).await {
            Ok(last) => {
                let mut place = last - updates as u64;
                for waiting in taken {
                    place += waiting.messages.len() as u64;
                    let _ = waiting.answer.send(Outcome::Stored(place));
                }
            }
            // One of them is not what the stream expects, and should not stop the others.
            Err(NotStored::Refused) if taken.len() > 1 => {
                for Waiting { messages, answer } in taken {
                    let committed = commit(client, messages.iter(), messages.len(), patience).await;
                    let _ = answer.send(committed.map_or(Outcome::Unknown, Outcome::Stored));
                }
            }
            Err(_) => {
                for waiting in taken {
                    let _ = waiting.answer.send(Outcome::Unknown);
                }
            }
        }
    }

    /// The first that wait, as many as go into one batch.
    fn take(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting();
        let mut updates = 0;
        let fits = waiting.iter().take_while(|waiting| {
            updates += waiting.messages.len();
            updates <= BATCH_MAX
        });
        let count = fits.count().max(1).min(waiting.len());
        waiting.drain(..count).collect()
    }

    fn let_go_singly(self: &Arc<Self>, Waiting { messages, answer }: Waiting) {
        let updates = messages.len();
        self.singly.fetch_add(updates, Ordering::Relaxed);
        let group = Arc::clone(self);
        let _ = answer.send(Outcome::Singly(Permit { group, updates }));
    }
}

/// Sends messages as one atomic batch, and answers the place of the last.
async fn commit(
    client: &Client,
    messages: impl Iterator<Item = &Message>,
    count: usize,
    patience: Duration,
) -> Result<u64, NotStored> {
    #[derive(Deserialize)]
    struct Ack {
        seq: u64,
        count: usize,
    }
    let id = uuid::Uuid::new_v4().simple().to_string();
    for (n, message) in (1_usize..).zip(messages) {
        let (subject, body) = (message.subject.clone(), message.body.clone());
        let mut headers = message.headers.clone();
        headers.insert(NATS_BATCH_ID, id.as_str());
        headers.insert(NATS_BATCH_SEQUENCE, n.to_string());
        if n < count {
            let sent = client.publish_with_headers(subject, headers, body).await;
            sent.map_err(|_| NotStored::Unknown)?;
            continue;
        }
        headers.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
        let answer = client.request_with_headers(subject, headers, body);
        let Ok(Ok(answer)) = tokio::time::timeout(patience, answer).await else {
            return Err(NotStored::Unknown);
        };
        return match serde_json::from_slice::<Ack>(&answer.payload) {
            Ok(ack) if ack.count == count && ack.seq >= count as u64 => Ok(ack.seq),
            _ => {
                let refusal = String::from_utf8_lossy(&answer.payload);
                tracing::debug!("a batch of updates was refused: {refusal}");
                Err(NotStored::Refused)
            }
        };
    }
    Err(NotStored::Unknown)
}
