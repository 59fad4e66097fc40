//! What the server says to a message, and what that means for the event.
//!
//! An error that is not [`AppendError::Unknown`] is certain: the event was not recorded by this attempt.

use serde::Deserialize;

/// The server refused a batch since it holds an event that is recorded already.
pub(super) const BATCH_HAS_DUPLICATE: u64 = 10_201;
/// The message is larger than the stream accepts.
const MESSAGE_TOO_LARGE: u64 = 10_054;
/// Memory, disk, account or stream is full. Checked before anything is stored.
const FULL: [u64; 3] = [10_002, 10_023, 10_047];
/// Storing failed, for want of room mostly. Of a batch, a part may be stored.
pub(super) const STORE_FAILED: u64 = 10_077;
/// The same event is being stored by somebody else at this moment.
const DUPLICATE_IN_PROCESS: u64 = 10_158;
/// More requests than the server puts up with.
const TOO_MANY_REQUESTS: u64 = 10_167;

/// Why an event was not appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The journal has another event of this identity.
    #[error("event {sequence} of the journal has the same identity and another content")]
    Conflict {
        /// That event.
        sequence: u64,
    },
    /// Too many events wait; nothing was sent. Try again later.
    #[error("too many events are waiting to be appended")]
    Overloaded,
    /// The journal cannot be reached or is not what it should be; the event is not recorded. Try again later.
    #[error("the journal is unavailable: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// No answer came: the event may be recorded, now or in a moment. Repeating it is safe and settles it.
    #[error("the journal did not answer in time")]
    Unknown,
    /// The journal has no room; the event is not recorded.
    #[error("the journal has no room: {reason}")]
    Full {
        /// In the server's words.
        reason: String,
    },
    /// The event is larger than the journal accepts.
    #[error("the event is too large for the journal")]
    TooLarge,
}

impl AppendError {
    /// The writer has ended or is about to.
    pub(super) fn stopping() -> Self {
        Self::Unavailable {
            reason: "this process is stopping".to_owned(),
        }
    }

    /// One word for metrics.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => "conflict",
            Self::Overloaded => "overloaded",
            Self::Unavailable { .. } => "unavailable",
            Self::Unknown => "unknown",
            Self::Full { .. } => "full",
            Self::TooLarge => "too_large",
        }
    }
}

/// What the server says to a message.
#[derive(Debug, Deserialize)]
pub(super) struct Ack {
    #[serde(default)]
    pub(super) seq: u64,
    #[serde(default)]
    pub(super) duplicate: bool,
    pub(super) batch: Option<String>,
    #[serde(default)]
    pub(super) count: u64,
    pub(super) error: Option<Refusal>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Refusal {
    pub(super) err_code: u64,
    #[serde(default)]
    pub(super) description: String,
}

impl Refusal {
    /// What the refusal of a single event means.
    pub(super) fn single(&self) -> AppendError {
        let reason = self.description.clone();
        match self.err_code {
            MESSAGE_TOO_LARGE => AppendError::TooLarge,
            STORE_FAILED => AppendError::Full { reason },
            DUPLICATE_IN_PROCESS => AppendError::Unknown,
            TOO_MANY_REQUESTS => AppendError::Overloaded,
            code if FULL.contains(&code) => AppendError::Full { reason },
            _ => AppendError::Unavailable { reason },
        }
    }

    /// Whether there is no room, and nothing was stored.
    pub(super) fn is_full(&self) -> bool {
        FULL.contains(&self.err_code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> Refusal {
        serde_json::from_str::<Ack>(text).unwrap().error.unwrap()
    }

    #[test]
    fn a_refusal_says_whether_trying_again_makes_sense() {
        let full = refused(
            r#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"CHECKOUT","seq":0}"#,
        );
        assert_eq!(
            full.single(),
            AppendError::Full {
                reason: "maximum bytes exceeded".to_owned()
            }
        );
        let busy = refused(
            r#"{"error":{"code":409,"err_code":10158,"description":"duplicate message id is in process"},"stream":"CHECKOUT","seq":0}"#,
        );
        assert_eq!(busy.single(), AppendError::Unknown);
    }

    #[test]
    fn an_acknowledgement_of_a_batch_names_it() {
        let ack: Ack = serde_json::from_str(r#"{"stream":"CHECKOUT","seq":40,"batch":"b20","count":2}"#).unwrap();
        assert_eq!(
            (ack.seq, ack.batch.as_deref(), ack.count, ack.duplicate),
            (40, Some("b20"), 2, false)
        );
    }
}
