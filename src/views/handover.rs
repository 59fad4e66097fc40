//! Handing the partitions over to the version that the pointer was moved to.
//!
//! That version may lag behind the one before by what was projected since it was filled. So a partition
//! is read from the version before until its projector has brought the new one as far, and has written
//! so into the checkpoint of the version before. From then on nothing is written there any more, and who
//! reads that checkpoint is sent on to the new version, also where it has not heard of the move yet.

use std::time::Duration;

use mongodb::bson::{Document, doc};
use serde::Deserialize;

use super::versions::{Projections, Version};
use super::{Checkpoint, ViewError, Views, durable, within, write_command};

/// How long after a move of the pointer a partition may be read from the version before.
const HANDOVER_SECONDS_MAX: i64 = 30;

/// How often it is looked whether it is done.
const HANDOVER_PAUSE: Duration = Duration::from_millis(50);

/// Where the pointer is, as far as this process has heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pointer {
    /// The version that the projector writes.
    pub active: Version,
    /// The one that was active before.
    pub previous: Option<Version>,
    /// How often the pointer was moved.
    pub moves: i64,
    /// Whether there may be partitions that are still to be read from the previous version.
    handing_over: bool,
}

impl Pointer {
    /// The pointer before any move.
    pub(super) const FIRST: Self = Self {
        active: Version::FIRST,
        previous: None,
        moves: 0,
        handing_over: false,
    };
}

/// A partition that is still to be handed over to the active version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handover {
    from: Version,
    to: Version,
    moves: i64,
    /// How far the version before is folded; the active one must be as far first.
    pub through: u64,
    /// The fence in the checkpoint of the version before.
    pub fence: i64,
}

/// To which version a partition was handed over, written into the checkpoint of the one before.
#[derive(Debug, Deserialize)]
struct HandedOver {
    to: String,
    moves: i64,
}

impl Views {
    /// Looks where the pointer is now.
    pub async fn refresh_active(&self) -> Result<Version, ViewError> {
        let known = self.projections().await?;
        let now = Pointer {
            active: known.active,
            previous: known.previous,
            moves: known.moves,
            handing_over: self.is_handing_over(&known).await?,
        };
        let mut before = now;
        self.pointer.send_if_modified(|pointer| {
            before = std::mem::replace(pointer, now);
            (before.active, before.moves) != (now.active, now.moves)
        });
        if before.moves != now.moves {
            let when = if now.handing_over {
                " as soon as it has caught up"
            } else {
                ""
            };
            tracing::info!("the pointer was moved: baskets are read from {}{when}", now.active);
        } else if before.handing_over && !now.handing_over {
            self.tell_unfinished(before).await?;
        }
        Ok(now.active)
    }

    /// These views as a partition is to be read now, with the checkpoint of the partition there.
    pub async fn reading(&self, partition: u16) -> Result<(Self, Option<Checkpoint>), ViewError> {
        let pointer = *self.pointer.borrow();
        let (mut version, mut moves) = match (self.pinned, pointer.previous) {
            (Some(pinned), _) => (pinned, i64::MAX),
            (None, Some(previous)) if pointer.handing_over => (previous, pointer.moves - 1),
            _ => (pointer.active, pointer.moves),
        };
        loop {
            let views = self.at(version);
            let found = views.checkpoint_document(partition).await?;
            let sent_on = found.as_ref().and_then(handed_over);
            match (found, sent_on) {
                (_, Some((to, at))) if at > moves => (version, moves) = (to, at),
                // Nothing of the partition is in the version before, or no longer.
                (None, _) if moves < pointer.moves => (version, moves) = (pointer.active, pointer.moves),
                (found, _) => return Ok((views, found.map(|found| Checkpoint::of(partition, found)).transpose()?)),
            }
        }
    }

    /// What is to be done before a partition goes on in the active version; nothing where it is done.
    pub async fn handover(&self, pointer: Pointer, partition: u16, epoch: &str) -> Result<Option<Handover>, ViewError> {
        let Some(from) = pointer.previous else {
            return Ok(None);
        };
        let found = self.at(from).checkpoint_document(partition).await?;
        if found
            .as_ref()
            .and_then(handed_over)
            .is_some_and(|(_, at)| at >= pointer.moves)
        {
            return Ok(None);
        }
        let before = found.map(|found| Checkpoint::of(partition, found)).transpose()?;
        let through = before.as_ref().filter(|before| before.epoch == epoch);
        Ok(Some(Handover {
            from,
            to: pointer.active,
            moves: pointer.moves,
            through: through.map_or(0, |before| u64::try_from(before.sequence).unwrap_or(0)),
            fence: before.map_or(0, |before| before.fence),
        }))
    }

    /// Hands the partition of this checkpoint over to the version of the checkpoint. Answers whether it did: `false` says
    /// that another projector has done so under a later lease.
    ///
    /// Whoever held an earlier lease can no longer move the checkpoint of the version before.
    pub async fn hand_over(&self, handover: &Handover, to: &Checkpoint) -> Result<bool, ViewError> {
        let query = doc! {
            "_id": handover.from.checkpoint_id(to.partition),
            "fence": { "$lte": to.fence },
        };
        let handed_over = doc! { "to": handover.to.to_string(), "moves": handover.moves };
        // A partition that had no event has no checkpoint yet, and who looks for one is to be sent on as well.
        let empty = doc! { "epoch": &to.epoch, "sequence": 0_i64, "recorded_ns": 0_i64, "action_id": &to.action_id };
        let set = doc! { "$set": { "handed_over": handed_over, "fence": to.fence }, "$setOnInsert": empty };
        let command = doc! {
            "update": "checkpoints",
            "updates": [ { "q": query, "u": set, "upsert": true } ],
            // The projector goes on in the new version at once, so this must not be undone.
            "writeConcern": durable(),
        };
        let answer = write_command(&self.database, "hand a partition over", command).await?;
        Ok(answer.get_i32("n").is_ok_and(|matched| matched == 1))
    }

    /// Waits until every partition is handed over to the active version, or may no longer be read from the one before.
    ///
    /// The pointer is not moved earlier: who has not heard of the move before would take the version that was skipped
    /// for the one that has everything.
    pub(super) async fn handed_over(&self) -> Result<(), ViewError> {
        let mut told = false;
        while self.is_handing_over(&self.projections().await?).await? {
            if !std::mem::replace(&mut told, true) {
                tracing::info!("waiting until every partition has gone over to the baskets of the move before");
            }
            tokio::time::sleep(HANDOVER_PAUSE).await;
        }
        Ok(())
    }

    async fn is_handing_over(&self, known: &Projections) -> Result<bool, ViewError> {
        let is_recent = known
            .moved_seconds_ago
            .is_some_and(|seconds| seconds < HANDOVER_SECONDS_MAX);
        match known.previous {
            Some(previous) if is_recent => Ok(self.count_left(previous, known.moves).await? > 0),
            _ => Ok(false),
        }
    }

    /// Partitions of a version that were not handed over in this move of the pointer or later.
    async fn count_left(&self, version: Version, moves: i64) -> Result<u64, ViewError> {
        let mut query = version.checkpoints();
        query.insert("handed_over.moves", doc! { "$not": { "$gte": moves } });
        let checkpoints = self.database.collection::<Document>("checkpoints");
        within("look which partitions are handed over", async {
            checkpoints.count_documents(query).await
        })
        .await
    }

    /// Says so where partitions are read from the active version, though it was not seen to have caught up.
    async fn tell_unfinished(&self, pointer: Pointer) -> Result<(), ViewError> {
        let (Some(previous), active) = (pointer.previous, pointer.active) else {
            return Ok(());
        };
        let left = self.count_left(previous, pointer.moves).await?;
        if left > 0 {
            tracing::warn!(
                "{left} partitions are read from {active} from now on, though no projector has brought it as far as {previous} within {HANDOVER_SECONDS_MAX} s: they may be older for a while"
            );
        } else if self.count_left(previous, i64::MAX).await? == 0 {
            tracing::warn!(
                "baskets are read from {active} from now on, since the checkpoints of {previous} are gone: they may be older for a while"
            );
        }
        Ok(())
    }
}

/// To which version, and in which move of the pointer, the partition of a checkpoint was handed over.
fn handed_over(checkpoint: &Document) -> Option<(Version, i64)> {
    let stored = checkpoint.get("handed_over")?.clone();
    let stored: HandedOver = mongodb::bson::deserialize_from_bson(stored).ok()?;
    Some((Version::parse(&stored.to)?, stored.moves))
}
