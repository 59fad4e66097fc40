//! How far each partition is folded, for each version of the baskets.

use mongodb::Collection;
use mongodb::bson::{Document, doc};
use serde::Deserialize;

use super::{ViewError, Views, durable, within, write_command};

/// How far a partition is folded, from which journal, and how.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Checkpoint {
    /// The partition.
    #[serde(skip)]
    pub partition: u16,
    /// Epoch of the journal.
    pub epoch: String,
    /// When the journal took the event at `sequence`, in nanoseconds since 1970. A journal that has another
    /// event at this place, or none, is not the one that was folded.
    #[serde(default)]
    pub recorded_ns: i64,
    /// Every event of the partition up to this place is in its basket, and its update is published.
    pub sequence: i64,
    /// The fence of the lease under which it was written.
    pub fence: i64,
    /// What `action_id` was taken to mean; baskets folded otherwise would be other baskets.
    pub action_id: String,
}

impl Checkpoint {
    /// Reads the stored form.
    pub(super) fn of(partition: u16, stored: Document) -> Result<Self, ViewError> {
        let id = format!("checkpoints/{:?}", stored.get("_id"));
        let checkpoint = mongodb::bson::deserialize_from_document(stored).map_err(|error| ViewError::Unreadable {
            id,
            reason: error.to_string(),
        });
        checkpoint.map(|checkpoint| Self {
            partition,
            ..checkpoint
        })
    }
}

impl Views {
    /// The place up to which the views of this partition are folded; `None` before its first event.
    pub async fn checkpoint(&self, partition: u16) -> Result<Option<u64>, ViewError> {
        Ok(self
            .load_checkpoint(partition)
            .await?
            .map(|checkpoint| u64::try_from(checkpoint.sequence).unwrap_or(0)))
    }

    /// The partition's whole checkpoint.
    pub async fn load_checkpoint(&self, partition: u16) -> Result<Option<Checkpoint>, ViewError> {
        let found = self.checkpoint_document(partition).await?;
        found.map(|found| Checkpoint::of(partition, found)).transpose()
    }

    /// Epochs of the journals that the version which is meant was folded from: one, or none before its first event.
    pub async fn epochs(&self) -> Result<Vec<String>, ViewError> {
        let checkpoints: Collection<Document> = self.database.collection("checkpoints");
        let of_version = self.version().checkpoints();
        let found = within("list the journals of the baskets", async {
            checkpoints.distinct("epoch", of_version).await
        })
        .await?;
        Ok(found
            .iter()
            .filter_map(|epoch| epoch.as_str())
            .map(str::to_owned)
            .collect())
    }

    pub(super) async fn checkpoint_document(&self, partition: u16) -> Result<Option<Document>, ViewError> {
        let checkpoints: Collection<Document> = self.database.collection("checkpoints");
        let find = checkpoints.find_one(doc! { "_id": self.version().checkpoint_id(partition) });
        within("read a checkpoint", async { find.await }).await
    }

    /// Moves a checkpoint forward; `begins` says that there was none. Answers whether it did: `false` says
    /// that another projector has moved it under a later lease or further, or that it was dropped.
    ///
    /// Not awaited by a majority: a checkpoint that falls back only makes the projector repeat steps
    /// that find themselves done. [`confirm_checkpoint`](Self::confirm_checkpoint) makes it last.
    ///
    /// # Errors
    /// [`ViewError`]; it may have moved.
    pub async fn move_checkpoint(&self, to: &Checkpoint, begins: bool) -> Result<bool, ViewError> {
        self.write_checkpoint("move a checkpoint", to, begins, doc! { "w": 1 })
            .await
    }

    /// Writes once more that a checkpoint has moved to here, and waits until a majority has it on disk. For a
    /// partition that rests: a server that lost the move would else show it as behind until its next event.
    /// Answers as [`move_checkpoint`](Self::move_checkpoint) does.
    ///
    /// # Errors
    /// [`ViewError`]; nothing is lost by it.
    pub async fn confirm_checkpoint(&self, to: &Checkpoint) -> Result<bool, ViewError> {
        self.write_checkpoint("confirm a checkpoint", to, false, durable())
            .await
    }

    async fn write_checkpoint(
        &self,
        operation: &'static str,
        to: &Checkpoint,
        begins: bool,
        concern: Document,
    ) -> Result<bool, ViewError> {
        let guard = doc! {
            "_id": self.version().checkpoint_id(to.partition),
            "epoch": &to.epoch,
            "sequence": { "$lte": to.sequence },
            "fence": { "$lte": to.fence },
        };
        let set = doc! { "$set": {
            "sequence": to.sequence,
            "recorded_ns": to.recorded_ns,
            "fence": to.fence,
            "action_id": &to.action_id,
        } };
        let command = doc! {
            "update": "checkpoints",
            "updates": [ { "q": guard, "u": set, "upsert": begins } ],
            "writeConcern": concern,
        };
        let answer = write_command(&self.database, operation, command).await?;
        Ok(answer.get_i32("n").is_ok_and(|matched| matched == 1))
    }
}
