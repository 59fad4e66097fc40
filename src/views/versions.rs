//! Versions of the baskets: each is a collection of its own with checkpoints of its own, and one pointer says which is read.
//!
//! The first version is the collection `baskets`; later ones are `baskets_2` and so on. The pointer
//! is one document in the collection `projections`; without it the first version is the active one.
//! A process hears of a pointer that moved within a second; what is read until the new version has
//! caught up is in `handover.rs`. Everything else is pinned: who writes holds a [`Views::at`] of one
//! version and goes on with it until the end of its step.

use std::fmt;

use futures::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{Bson, Document, doc};
use tokio::sync::watch;

use super::{Pointer, ViewError, Views, durable, migrate, within, write_command};
use crate::core::error_chain;
use crate::core::failpoint;

/// Name of the first version's collection, and of the pointer.
pub(super) const BASKETS: &str = "baskets";
/// Where the pointer is.
pub(super) const PROJECTIONS: &str = "projections";

/// One version of the baskets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u32);

impl Version {
    /// The one that is there before any rebuild.
    pub const FIRST: Self = Self(1);

    pub(super) fn parse(collection: &str) -> Option<Self> {
        match collection.strip_prefix(BASKETS)? {
            "" => Some(Self::FIRST),
            rest => {
                let number = rest.strip_prefix('_')?.parse().ok()?;
                (number > 1).then_some(Self(number))
            }
        }
    }

    /// The `_id` of a partition's checkpoint; that of the first version is the bare number.
    pub(super) fn checkpoint_id(self, partition: u16) -> Bson {
        if self == Self::FIRST {
            Bson::Int32(i32::from(partition))
        } else {
            Bson::String(format!("{}:{partition}", self.0))
        }
    }

    /// Finds all checkpoints of this version.
    pub(super) fn checkpoints(self) -> Document {
        if self == Self::FIRST {
            doc! { "_id": { "$type": "int" } }
        } else {
            doc! { "_id": { "$regex": format!("^{}:", self.0) } }
        }
    }
}

/// The name of the collection.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::FIRST {
            f.write_str(BASKETS)
        } else {
            write!(f, "{BASKETS}_{}", self.0)
        }
    }
}

/// Which versions there are, and what each is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projections {
    /// The one that is read, and that the projector writes.
    pub active: Version,
    /// The one that was active before; it is as it was left.
    pub previous: Option<Version>,
    /// The one that a rebuild fills.
    pub building: Option<Building>,
    /// The highest number that any version has had; none is used twice, so a late writer of a dropped one meets nobody.
    newest: u32,
    /// How often the pointer was moved.
    pub moves: i64,
    /// How long ago it was moved, in seconds.
    pub moved_seconds_ago: Option<i64>,
}

/// A version that a rebuild fills.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Building {
    /// Which.
    pub version: Version,
    /// Epoch of the journal that it is folded from.
    pub epoch: String,
    /// What `action_id` is taken to mean.
    pub action_id: String,
}

pub(super) fn projections(stored: Option<&Document>) -> Result<Projections, ViewError> {
    let unreadable = |field: &str| ViewError::Unreadable {
        id: format!("{PROJECTIONS}/{BASKETS}"),
        reason: format!("its {field} names no version of the baskets"),
    };
    let version = |field: &str| match stored.and_then(|stored| stored.get(field)) {
        None | Some(Bson::Null) => Ok(None),
        Some(name) => name
            .as_str()
            .and_then(Version::parse)
            .map(Some)
            .ok_or_else(|| unreadable(field)),
    };
    let building = version("building")?.map(|version| {
        let text = |field: &str| stored.and_then(|stored| stored.get_str(field).ok()).unwrap_or_default();
        Building {
            version,
            epoch: text("building_epoch").to_owned(),
            action_id: text("building_action_id").to_owned(),
        }
    });
    Ok(Projections {
        active: version("active")?.unwrap_or(Version::FIRST),
        previous: version("previous")?,
        building,
        moves: stored.and_then(|stored| stored.get_i64("moves").ok()).unwrap_or(0),
        newest: stored
            .and_then(|stored| stored.get_i64("newest").ok())
            .map_or(1, |newest| u32::try_from(newest).unwrap_or(u32::MAX)),
        moved_seconds_ago: stored.and_then(|stored| stored.get_i64("moved_seconds_ago").ok()),
    })
}

impl Views {
    /// These views with another version of the baskets, whatever the pointer says from now on.
    #[must_use]
    pub fn at(&self, version: Version) -> Self {
        Self {
            pinned: Some(version),
            ..self.clone()
        }
    }

    /// The version that is meant: the pinned one, or the active one as far as is known here.
    pub fn version(&self) -> Version {
        self.pinned.unwrap_or_else(|| self.pointer.borrow().active)
    }

    /// Where the pointer is, and every move of it within a second.
    pub fn pointer(&self) -> watch::Receiver<Pointer> {
        self.pointer.subscribe()
    }

    /// The collection of the version that is meant.
    pub(super) fn stored<T: Send + Sync>(&self) -> Collection<T> {
        self.database.collection(&self.version().to_string())
    }

    /// Which versions there are.
    pub async fn projections(&self) -> Result<Projections, ViewError> {
        let pointer: Collection<Document> = self.database.collection(PROJECTIONS);
        let age = doc! { "$dateDiff": { "startDate": "$moved_at", "endDate": "$$NOW", "unit": "second" } };
        let read = vec![
            doc! { "$match": { "_id": BASKETS } },
            doc! { "$set": { "moved_seconds_ago": age } },
        ];
        let found: Vec<Document> = within("read the pointer to the baskets", async {
            pointer.aggregate(read).await?.try_collect().await
        })
        .await?;
        projections(found.first())
    }

    /// Every version of which there is a collection.
    pub async fn versions(&self) -> Result<Vec<Version>, ViewError> {
        versions(&self.database).await
    }

    /// Makes a new version beside the active one, with its validator, and takes note that it is being filled.
    ///
    /// # Errors
    /// [`ViewError`]; where another rebuild has begun at the same moment, [`ViewError::Refused`].
    pub async fn begin_version(&self, epoch: &str, action_id: &str) -> Result<Building, ViewError> {
        let known = self.projections().await?;
        let active = known.active;
        let newest = self.versions().await?.into_iter().max().unwrap_or(active).max(active);
        let version = Version(newest.0.max(known.newest) + 1);
        let name = active.to_string();
        let set = doc! { "$set": { "active": &name, "building": version.to_string(), "building_epoch": epoch, "building_action_id": action_id, "newest": i64::from(version.0) } };
        let free = doc! { "_id": BASKETS, "building": null, "active": { "$in": [&name, null] } };
        // Noted first, so that there is no collection of which nobody knows what it is for.
        self.move_pointer("begin a version of the baskets", free, set, true)
            .await?;
        failpoint::hit("after_begin");
        self.at(version).begin().await?;
        Ok(Building {
            version,
            epoch: epoch.to_owned(),
            action_id: action_id.to_owned(),
        })
    }

    /// Makes the collection of the version that is meant, with its validator; one that is there stays.
    pub async fn begin(&self) -> Result<(), ViewError> {
        self.shape(self.version(), |command| !is_indexes(command)).await
    }

    /// Gives the version that is meant its indexes; cheapest when it is filled already.
    pub async fn index(&self) -> Result<(), ViewError> {
        // Takes as long as the version is large.
        self.shape(self.version(), is_indexes).await
    }

    /// Gives a version what the migrations give the baskets, as far as it is asked for.
    async fn shape(&self, version: Version, wanted: impl Fn(&Document) -> bool) -> Result<(), ViewError> {
        let operation = "shape a version of the baskets";
        let commands = migrate::of_version(version).map_err(|error| ViewError::Refused {
            operation,
            reason: error_chain(&error),
        })?;
        for command in commands.into_iter().filter(wanted) {
            migrate::apply(&self.database, command)
                .await
                .map_err(|source| ViewError::of(operation, source))?;
        }
        Ok(())
    }

    /// Moves the pointer to the version that was being filled, when the move before is done.
    pub async fn switch(&self, from: Version, building: Version) -> Result<(), ViewError> {
        self.handed_over().await?;
        let query = doc! { "_id": BASKETS, "active": from.to_string(), "building": building.to_string() };
        let set = vec![
            moved(from, building),
            doc! { "$unset": ["building", "building_epoch", "building_action_id"] },
        ];
        self.move_pointer("switch to the new baskets", query, set, false).await
    }

    /// Moves the pointer back to the version before, which is the one before from then on, when the move before is done.
    pub async fn roll_back(&self, from: Version, to: Version) -> Result<(), ViewError> {
        self.handed_over().await?;
        let query = doc! { "_id": BASKETS, "active": from.to_string(), "previous": to.to_string() };
        self.move_pointer("go back to the baskets before", query, vec![moved(from, to)], false)
            .await
    }

    async fn move_pointer(
        &self,
        operation: &'static str,
        query: Document,
        update: impl Into<Bson>,
        upsert: bool,
    ) -> Result<(), ViewError> {
        let command = doc! {
            "update": PROJECTIONS,
            "updates": [ { "q": query, "u": update.into(), "upsert": upsert } ],
            "writeConcern": durable(),
        };
        let answer = write_command(&self.database, operation, command).await?;
        if answer.get_i32("n").is_ok_and(|matched| matched == 1) {
            self.refresh_active().await?;
            return Ok(());
        }
        Err(ViewError::Refused {
            operation,
            reason: "the pointer was moved by somebody else".to_owned(),
        })
    }

    /// Drops every version that is neither active nor being filled, and that which is being filled where that is asked for.
    /// Answers which were dropped. What is dropped can no longer be gone back to when its collection goes.
    ///
    /// # Errors
    /// [`ViewError`]; where the pointer is moved at the same moment, [`ViewError::Refused`] before anything is dropped.
    pub async fn drop_versions(&self, building_too: bool) -> Result<Vec<Version>, ViewError> {
        let known = self.projections().await?;
        let as_known = doc! {
            "_id": BASKETS,
            "active": known.active.to_string(),
            "previous": known.previous.map(|previous| previous.to_string()),
            "building": known.building.as_ref().map(|building| building.version.to_string()),
        };
        if building_too && known.building.is_some() {
            let unset = doc! { "$unset": { "building": "", "building_epoch": "", "building_action_id": "" } };
            self.move_pointer("give up a version of the baskets", as_known, unset, false)
                .await?;
        } else if !building_too && known.previous.is_some() {
            let unset = doc! { "$unset": { "previous": "" } };
            self.move_pointer("forget the baskets before", as_known, unset, false)
                .await?;
        }
        let building = known
            .building
            .filter(|_| !building_too)
            .map(|building| building.version);
        let mut dropped = Vec::new();
        for version in self.versions().await? {
            if version == known.active || Some(version) == building || version.0 > known.newest.max(known.active.0) {
                continue;
            }
            // Where only the unfinished one is to go, the previous one stays.
            if building_too && Some(version) == known.previous {
                continue;
            }
            let collection = self.database.collection::<Document>(&version.to_string());
            within("drop a version of the baskets", async { collection.drop().await }).await?;
            let checkpoints = self.database.collection::<Document>("checkpoints");
            within("drop checkpoints", async {
                checkpoints.delete_many(version.checkpoints()).await
            })
            .await?;
            self.at(version).forget_refolds().await?;
            dropped.push(version);
        }
        Ok(dropped)
    }
}

/// The stage of an update that moves the pointer.
fn moved(from: Version, to: Version) -> Document {
    let moves = doc! { "$add": [{ "$ifNull": ["$moves", 0_i64] }, 1_i64] };
    doc! { "$set": { "active": to.to_string(), "previous": from.to_string(), "moves": moves, "moved_at": "$$NOW" } }
}

fn is_indexes(command: &Document) -> bool {
    command.contains_key("createIndexes")
}

/// Every version of which there is a collection.
pub(super) async fn versions(database: &mongodb::Database) -> Result<Vec<Version>, ViewError> {
    let names = within("list collections", async { database.list_collection_names().await }).await?;
    let mut versions: Vec<Version> = names.iter().filter_map(|name| Version::parse(name)).collect();
    versions.sort_unstable();
    Ok(versions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_version_tells_which_it_is() {
        for (name, version) in [
            ("baskets", Some(Version::FIRST)),
            ("baskets_2", Some(Version(2))),
            ("baskets_12", Some(Version(12))),
            ("baskets_1", None),
            ("baskets_x", None),
            ("baskets2", None),
            ("other", None),
        ] {
            assert_eq!(Version::parse(name), version, "{name}");
            if let Some(version) = version {
                assert_eq!(version.to_string(), name);
            }
        }
        assert_eq!(Version::FIRST.checkpoint_id(7), Bson::Int32(7));
        assert_eq!(Version(2).checkpoint_id(7), Bson::String("2:7".to_owned()));
    }

    #[test]
    fn a_new_version_is_given_the_validator_and_every_index_of_the_first() {
        let commands = migrate::of_version(Version(2)).unwrap();
        let targets: Vec<_> = commands
            .iter()
            .map(|command| command.values().next().unwrap())
            .collect();
        assert!(
            targets.iter().all(|target| target.as_str() == Some("baskets_2")),
            "{targets:?}"
        );
        assert!(commands.iter().any(|command| command.contains_key("validator")));
        let (indexes, before): (Vec<_>, Vec<_>) = commands.iter().partition(|command| is_indexes(command));
        assert_eq!(before[0].keys().next().unwrap(), "create");
        let names: Vec<&str> = indexes
            .iter()
            .flat_map(|command| command.get_array("indexes").unwrap())
            .map(|index| index.as_document().unwrap().get_str("name").unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "by_status_and_change",
                "diverged_by_status_and_change",
                "with_parked_events",
                "open_by_session"
            ]
        );
    }

    #[test]
    fn without_a_pointer_the_first_version_is_active() {
        let none = projections(None).unwrap();
        assert_eq!(
            (none.active, none.previous, none.building),
            (Version::FIRST, None, None)
        );
        assert!(projections(Some(&doc! { "active": "elsewhere" })).is_err());
    }
}
