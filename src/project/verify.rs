//! Whether the journal is still the one that a partition was folded from.

use crate::journal::{Journal, ReadError};
use crate::views::Checkpoint;

/// Why a partition cannot be folded on from its checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The journal is another one, or has lost events. A person decides what to do.
    #[error("{0}")]
    Broken(String),
    /// The journal cannot be asked now.
    #[error(transparent)]
    Unavailable(#[from] ReadError),
}

/// Compares the journal with a checkpoint: another journal, or one that ends or begins elsewhere, must
/// never look like one that has nothing new.
///
/// # Errors
/// [`VerifyError`]
pub async fn verify(journal: &Journal, checkpoint: &Checkpoint) -> Result<(), VerifyError> {
    let tail = journal.tail(checkpoint.partition).await?;
    let at = u64::try_from(checkpoint.sequence).unwrap_or(0);
    let broken = |what: String| Err(VerifyError::Broken(what));
    if tail.epoch.to_string() != checkpoint.epoch {
        return broken(format!(
            "the journal is another one (epoch {}) than the views were folded from (epoch {})",
            tail.epoch, checkpoint.epoch
        ));
    }
    if tail.last_sequence < at {
        return broken(format!(
            "events are lost: the journal ends at {} and the views are folded up to {at}",
            tail.last_sequence
        ));
    }
    if tail.first_sequence > at + tail.step {
        return broken(format!(
            "events are lost: the journal begins at {} and the views are folded up to {at}",
            tail.first_sequence
        ));
    }
    if at == 0 || checkpoint.recorded_ns == 0 {
        return Ok(());
    }
    // A journal that was restored from a copy may have grown beyond the checkpoint again, with other events.
    let last = journal.get(at).await?;
    if last.is_none_or(|last| last.recorded_ns() != checkpoint.recorded_ns) {
        return broken(format!(
            "events are lost: the journal has another event at {at} than the views were folded from"
        ));
    }
    Ok(())
}
