//! Putting a stream in place as it was: each message with its sequence and its time, which no publisher can set.
//!
//! nats-server takes a stream back in the form of its own snapshots, a packed archive of its files, or not at all: where
//! the transfer breaks off, there is no stream. The files are made here from the messages. Their form is what every
//! server writes to its disk and has to read again after an upgrade, so it is older than any of the servers that can be
//! used here, and newer servers take it as well.

use std::io::Write as _;
use std::time::Duration;

use async_nats::jetstream::stream::Config;
use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use highway::{HighwayHash as _, HighwayHasher, Key};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use snap::write::FrameEncoder;
use time::OffsetDateTime;

use crate::core::event::rfc3339;

/// Bytes of one message of the transfer.
const CHUNK_BYTES: usize = 128 * 1024;
/// Messages of the transfer that the server has not taken yet.
const CHUNKS_AHEAD: usize = 16;
/// Bytes of one file of messages; the server begins another one at about this size.
const BLOCK_BYTES: usize = 8 * 1024 * 1024;
/// Longest wait until the server takes a piece.
const PIECE_TIMEOUT: Duration = Duration::from_mins(1);
/// Longest wait until it has read everything that it took.
const END_TIMEOUT: Duration = Duration::from_mins(30);
/// In the length of a record: it has headers.
const WITH_HEADERS: u32 = 1 << 31;
/// In the sequence of a record: there is no message any more.
const ERASED: u64 = 1 << 63;
/// Before the headers of a message.
const HEADERS_BEGIN: &str = "NATS/1.0\r\n";
/// The server's code for a stream that is there.
const EXISTS: u64 = 10_130;

/// Why a stream could not be put in place.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is one of this name.
    #[error("there is a stream of this name")]
    Exists,
    /// The server did not take it.
    #[error("nats-server does not take it: {0}")]
    Refused(String),
    /// The server did not answer.
    #[error("nats-server did not answer: {0}")]
    Silent(String),
}

/// A message to put in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    /// Its place in the stream.
    pub sequence: u64,
    /// When it was stored, in nanoseconds since 1970.
    pub stored_ns: i64,
    /// Its subject.
    pub subject: String,
    /// Its headers, each `Name: value` with a line break of the protocol after it.
    pub headers: String,
    /// Its body.
    pub body: Bytes,
}

/// What the server is told beforehand of the stream that comes.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Its messages.
    pub messages: u64,
    /// The sequence of its first one.
    pub first_sequence: u64,
    /// Its last sequence.
    pub last_sequence: u64,
}

/// A stream on its way to the server. Dropped before its end it leaves nothing behind.
pub struct Restoring {
    client: Client,
    answers: Subscriber,
    inbox: String,
    /// Where the server takes the pieces.
    deliver: String,
    /// Pieces that it has not taken yet.
    flying: usize,
    archive: tar::Builder<FrameEncoder<Vec<u8>>>,
    name: String,
    block: Block,
    last: u64,
}

impl std::fmt::Debug for Restoring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Restoring")
            .field("name", &self.name)
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Answer {
    error: Option<ApiError>,
    deliver_subject: Option<String>,
}

#[derive(Deserialize)]
struct ApiError {
    err_code: Option<u64>,
    description: Option<String>,
}

impl Restoring {
    /// Begins with a stream of which there is none yet.
    ///
    /// # Errors
    /// [`RestoreError`]
    pub async fn begin(
        client: Client,
        config: &Config,
        created: OffsetDateTime,
        extent: Extent,
    ) -> Result<Self, RestoreError> {
        let inbox = client.new_inbox();
        let answers = client.subscribe(inbox.clone()).await;
        let mut answers = answers.map_err(|error| RestoreError::Silent(error.to_string()))?;
        let request = serde_json::json!({
            "config": config,
            "state": {
                "messages": extent.messages,
                "first_seq": extent.first_sequence,
                "last_seq": extent.last_sequence,
            },
        });
        let subject = format!("$JS.API.STREAM.RESTORE.{}", config.name);
        let sent = client
            .publish_with_reply(subject, inbox.clone(), request.to_string().into())
            .await;
        sent.map_err(|error| RestoreError::Silent(error.to_string()))?;
        let answer = read(&next(&mut answers, PIECE_TIMEOUT).await?)?;
        let deliver = answer
            .deliver_subject
            .ok_or_else(|| RestoreError::Refused("it does not say where to".to_owned()))?;
        let mut restoring = Self {
            client,
            answers,
            inbox,
            deliver,
            flying: 0,
            archive: tar::Builder::new(FrameEncoder::new(Vec::new())),
            name: config.name.clone(),
            block: Block::new(&config.name, 1),
            last: extent.first_sequence.saturating_sub(1),
        };
        restoring.describe(config, created)?;
        Ok(restoring)
    }

    /// The files that say what the stream is.
    fn describe(&mut self, config: &Config, created: OffsetDateTime) -> Result<(), RestoreError> {
        let mut settings = serde_json::to_value(config).expect("settings are JSON");
        settings["created"] = rfc3339(created).into();
        let settings = settings.to_string();
        let mut sum = HighwayHasher::new(key(&self.name));
        sum.append(settings.as_bytes());
        let sum = format!("{:016x}", sum.finalize64().swap_bytes());
        self.file("meta.inf", settings.as_bytes())?;
        self.file("meta.sum", sum.as_bytes())
    }

    /// Puts a file into the archive.
    fn file(&mut self, path: &str, bytes: &[u8]) -> Result<(), RestoreError> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o600);
        header.set_size(bytes.len() as u64);
        self.archive
            .append_data(&mut header, path, bytes)
            .map_err(|error| packed(&error))
    }

    /// Adds a message, whose sequence is beyond that of the one before.
    ///
    /// # Errors
    /// [`RestoreError`]; then there is no stream.
    pub async fn add(&mut self, message: &Original) -> Result<(), RestoreError> {
        if message.sequence <= self.last {
            return Err(RestoreError::Refused(format!(
                "message {} comes after message {}",
                message.sequence, self.last
            )));
        }
        self.last = message.sequence;
        self.block.record(message.sequence, message);
        if self.block.bytes.len() >= BLOCK_BYTES {
            self.close_block()?;
            self.send(CHUNK_BYTES).await?;
        }
        Ok(())
    }

    fn close_block(&mut self) -> Result<(), RestoreError> {
        let next = Block::new(&self.name, self.block.index + 1);
        let block = std::mem::replace(&mut self.block, next);
        if block.bytes.is_empty() {
            return Ok(());
        }
        self.file(&format!("msgs/{}.blk", block.index), &block.bytes)
    }

    /// Sends what is packed, in pieces of at least so many bytes.
    async fn send(&mut self, least: usize) -> Result<(), RestoreError> {
        let mut packed = Bytes::from(std::mem::take(self.archive.get_mut().get_mut()));
        while packed.len() >= least.max(1) {
            let piece = packed.split_to(packed.len().min(CHUNK_BYTES));
            self.piece(piece).await?;
        }
        // What is less goes with the next.
        self.archive.get_mut().get_mut().extend_from_slice(&packed);
        Ok(())
    }

    async fn piece(&mut self, piece: Bytes) -> Result<(), RestoreError> {
        while self.flying >= CHUNKS_AHEAD {
            self.taken().await?;
        }
        let sent = self
            .client
            .publish_with_reply(self.deliver.clone(), self.inbox.clone(), piece)
            .await;
        sent.map_err(|error| RestoreError::Silent(error.to_string()))?;
        self.flying += 1;
        Ok(())
    }

    /// Waits until the server has taken a piece.
    async fn taken(&mut self) -> Result<(), RestoreError> {
        let answer = next(&mut self.answers, PIECE_TIMEOUT).await?;
        self.flying -= 1;
        if !answer.is_empty() {
            read(&answer)?;
        }
        Ok(())
    }

    /// Ends with this last sequence, of which the message may be gone, and answers when the stream is there.
    ///
    /// # Errors
    /// [`RestoreError`]; then there is no stream, unless the server was silent.
    pub async fn end(mut self, last_sequence: u64) -> Result<(), RestoreError> {
        if self.last < last_sequence {
            self.block.erased(last_sequence);
        }
        self.close_block()?;
        self.archive.finish().map_err(|error| packed(&error))?;
        self.archive.get_mut().flush().map_err(|error| packed(&error))?;
        self.send(1).await?;
        while self.flying > 0 {
            self.taken().await?;
        }
        self.piece(Bytes::new()).await?;
        read(&next(&mut self.answers, END_TIMEOUT).await?)?;
        Ok(())
    }
}

fn packed(error: &std::io::Error) -> RestoreError {
    RestoreError::Refused(format!("it cannot be packed: {error}"))
}

async fn next(answers: &mut Subscriber, patience: Duration) -> Result<Bytes, RestoreError> {
    let answer = tokio::time::timeout(patience, answers.next()).await;
    let answer = answer.map_err(|_| RestoreError::Silent(format!("not within {} s", patience.as_secs())))?;
    let answer = answer.ok_or_else(|| RestoreError::Silent("the connection was closed".to_owned()))?;
    match answer.status {
        None => Ok(answer.payload),
        Some(status) => Err(RestoreError::Silent(format!("status {status}"))),
    }
}

fn read(answer: &[u8]) -> Result<Answer, RestoreError> {
    let answer: Answer = serde_json::from_slice(answer).map_err(|error| RestoreError::Refused(error.to_string()))?;
    match answer.error {
        None => Ok(answer),
        Some(error) if error.err_code == Some(EXISTS) => Err(RestoreError::Exists),
        Some(error) => Err(RestoreError::Refused(error.description.unwrap_or_default())),
    }
}

/// A file of messages, as the server keeps them.
struct Block {
    index: u32,
    key: Key,
    bytes: Vec<u8>,
}

impl Block {
    fn new(stream: &str, index: u32) -> Self {
        Self {
            index,
            key: key(&format!("{stream}-{index}")),
            bytes: Vec::new(),
        }
    }

    /// Length, sequence, time, length of the subject, subject, length of the headers, headers, body, sum.
    fn record(&mut self, sequence: u64, message: &Original) {
        let headers = if message.headers.is_empty() {
            String::new()
        } else {
            format!("{HEADERS_BEGIN}{}\r\n", message.headers)
        };
        let mut place = [0; 16];
        place[..8].copy_from_slice(&sequence.to_le_bytes());
        place[8..].copy_from_slice(&message.stored_ns.to_le_bytes());
        let with_headers = if headers.is_empty() { 0 } else { 4 + headers.len() };
        let length = 4 + 16 + 2 + message.subject.len() + with_headers + message.body.len() + 8;
        let marked = if headers.is_empty() { 0 } else { WITH_HEADERS };
        self.bytes.extend_from_slice(&(size(length) | marked).to_le_bytes());
        self.bytes.extend_from_slice(&place);
        let subject = u16::try_from(message.subject.len()).expect("a subject is short");
        self.bytes.extend_from_slice(&subject.to_le_bytes());
        self.bytes.extend_from_slice(message.subject.as_bytes());
        if !headers.is_empty() {
            self.bytes.extend_from_slice(&size(headers.len()).to_le_bytes());
            self.bytes.extend_from_slice(headers.as_bytes());
        }
        self.bytes.extend_from_slice(&message.body);
        let mut sum = HighwayHasher::new(self.key);
        for part in [
            &place[..],
            message.subject.as_bytes(),
            headers.as_bytes(),
            &message.body,
        ] {
            sum.append(part);
        }
        self.bytes.extend_from_slice(&sum.finalize64().to_le_bytes());
    }

    /// That the message of this sequence is gone.
    fn erased(&mut self, sequence: u64) {
        let nothing = Original {
            sequence,
            stored_ns: 0,
            subject: String::new(),
            headers: String::new(),
            body: Bytes::new(),
        };
        self.record(sequence | ERASED, &nothing);
    }
}

fn size(length: usize) -> u32 {
    u32::try_from(length).expect("a message is small")
}

/// The key of the sums under a name.
fn key(name: &str) -> Key {
    let digest = Sha256::digest(name.as_bytes());
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(digest.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    }
    Key(words)
}
