//! The views in MongoDB: baskets, and what the projector keeps beside them.
//!
//! Every write states what it expects to find and is one atomic step on one document, so any of
//! them may be repeated after a crash. Writes of baskets are acknowledged by a majority and are in
//! its journals. Nothing here decides anything about a basket; that is `core`'s.

mod audit;
mod checkpoints;
mod compare;
mod corrections;
mod day;
mod document;
mod documents;
mod edit;
mod edits;
mod ended;
mod figures;
mod handled;
mod handling;
mod handover;
pub mod json;
mod leases;
mod migrate;
mod parked;
mod queries;
mod refolds;
mod reports;
mod rights;
mod save;
mod seal;
mod shape;
mod shops;
mod versions;
mod watched;

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use mongodb::bson::{Document, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ChangeStreamEvent;
use mongodb::error::ErrorKind;
use mongodb::options::{Acknowledgment, ClientOptions, ReadPreference, WriteConcern};
use mongodb::{Client, Collection, Database};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::core::error_chain;
use crate::core::event::ActionIdMeaning;
use crate::core::id::BasketId;

pub use audit::{Deed, DeedsAfter, KeptDeed};
pub use checkpoints::Checkpoint;
pub use compare::{Keys, Ordered, Whole};
pub use corrections::{Filed, Malformed, NotSame, Noted, Outcome, Source, Standing};
pub use day::{Day, DayPoint};
pub use document::{BasketView, CorrectionView, FoundView, Loaded};
pub use documents::{IRREPLACEABLE, Irreplaceable};
pub use edit::{Refusal, difference};
pub use edits::{Cover, Edit, Edits, EditsError, EditsPlace, Image, ImageError, Moment, Scan, Told, right_before};
pub use figures::Figures;
pub use handled::HandledBaskets;
pub use handling::{HANDLE_MINUTES, HANDLE_MINUTES_DEFAULT, HANDLER_MAX, Handling};
pub use handover::{Handover, Pointer};
pub use leases::{Lease, LeaseId, LeaseState, Leases, Scrubbed};
pub use migrate::{MigrateError, migrate, outstanding};
pub use parked::{Decision, ParkedAfter, ParkedEvent, ParkedState, Which};
pub use queries::{Cursor, Filter, Idle, Listing, Places, Summary, Totals};
pub use refolds::{AskedRefold, Refold, WaitingRefold};
pub use reports::{RebuildReport, ReportReason};
pub use rights::{KeptRevocation, Member, Revocation, Revoked, RevokedUntil, Rights, RightsChanges, parse_shops};
pub use save::{Saved, Stored, Write};
pub use seal::{is_sealed, is_void};
pub use shape::Lack;
pub use versions::{Building, Projections, Version};
pub use watched::{Changed, Watching};

/// How long a command may take before it counts as failed.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the server waits for a change before it answers that there is none.
const CHANGES_WAIT: Duration = Duration::from_secs(5);
/// MongoDB's code for a document that exists already.
const DUPLICATE_KEY: i32 = 11_000;
/// MongoDB's code for what a user has no right to, or nobody without a name.
const UNAUTHORIZED: i32 = 13;
/// How often the server is asked whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// Where the views are.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Config {
    /// MongoDB connection string; a replica set (one member is enough). Without the server the process stays up and says so.
    #[arg(
        long = "mongodb-uri",
        env = "EZOUT_MONGODB_URI",
        default_value = "mongodb://127.0.0.1:27017/?replicaSet=rs0",
        hide_env_values = true
    )]
    pub uri: String,
    /// Name of the database; created when absent.
    #[arg(long = "mongodb-database", env = "EZOUT_MONGODB_DATABASE", default_value = "ezout")]
    pub database: String,
}

/// Whether the views can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not now, and why.
    Unavailable {
        /// The reason, for a person.
        reason: String,
    },
    /// The server answers and its migrations are applied.
    Open,
}

/// Why a view could not be read or written; the caller tries again or says so.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// MongoDB did not do it; whether a write took place is not known.
    #[error("mongodb did not answer to {operation}")]
    Unavailable {
        /// What was asked.
        operation: &'static str,
        /// Its error.
        #[source]
        source: mongodb::error::Error,
    },
    /// MongoDB lets this user not do that.
    #[error(
        "mongodb does not let this user {operation}: in EZOUT_MONGODB_URI a process takes a user with the role ezout_service of \
         mongodb/roles.json, and a command one with ezout_operator"
    )]
    NotAllowed {
        /// What was asked.
        operation: &'static str,
    },
    /// MongoDB took longer than allowed; whether a write took place is not known.
    #[error("mongodb took more than {} s to {operation}", COMMAND_TIMEOUT.as_secs())]
    TimedOut {
        /// What was asked.
        operation: &'static str,
    },
    /// MongoDB refused a write.
    #[error("mongodb refused to {operation}: {reason}")]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// The server's words.
        reason: String,
    },
    /// A document is not as it was written.
    #[error("the document {id} cannot be read: {reason}")]
    Unreadable {
        /// Its `_id`.
        id: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl ViewError {
    fn of(operation: &'static str, source: mongodb::error::Error) -> Self {
        if is_unauthorized(&source) {
            Self::NotAllowed { operation }
        } else {
            Self::Unavailable { operation, source }
        }
    }
}

fn is_unauthorized(error: &mongodb::error::Error) -> bool {
    matches!(&*error.kind, ErrorKind::Command(error) if error.code == UNAUTHORIZED)
}

/// Some open baskets of a shop.
#[derive(Debug)]
pub struct OpenBaskets {
    /// The baskets.
    pub baskets: Vec<(BasketId, BasketView)>,
    /// After which to ask for more; nothing if these are the last.
    pub next: Option<String>,
}

/// The views; cheap to clone.
#[derive(Debug, Clone)]
pub struct Views {
    database: Database,
    state: watch::Receiver<State>,
    pointer: Arc<watch::Sender<Pointer>>,
    pinned: Option<Version>,
    /// Wakes whoever takes corrections in this process.
    proposed: Arc<Notify>,
    watched: Arc<watched::Watched>,
    handled: Arc<handled::Handled>,
}

impl Views {
    /// Starts watching over the server and answers at once, whether or not it is there.
    ///
    /// # Errors
    /// Where the connection string is malformed.
    pub async fn start(
        config: &Config,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, mongodb::error::Error> {
        let database = connect(config).await?;
        let (sender, state) = watch::channel(State::Unavailable {
            reason: "not connected yet".to_owned(),
        });
        let views = Self {
            database,
            state,
            pointer: Arc::new(watch::Sender::new(Pointer::FIRST)),
            pinned: None,
            proposed: Arc::default(),
            watched: Arc::default(),
            handled: Arc::default(),
        };
        let watched = views.clone();
        tasks.spawn(async move {
            let watching = keep_watch(&watched, &sender);
            stop.run_until_cancelled(watching).await;
        });
        Ok(views)
    }

    /// The views as they are now, to be looked at: nothing is migrated, and nobody watches over the server.
    ///
    /// # Errors
    /// Where the connection string is malformed.
    pub async fn to_look_at(config: &Config) -> Result<Self, mongodb::error::Error> {
        let reason = "nobody watches over it".to_owned();
        let (_, state) = watch::channel(State::Unavailable { reason });
        Ok(Self {
            database: connect(config).await?,
            state,
            pointer: Arc::new(watch::Sender::new(Pointer::FIRST)),
            pinned: None,
            proposed: Arc::default(),
            watched: Arc::default(),
            handled: Arc::default(),
        })
    }

    /// Whether the views can be had now; changes are told within seconds.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// The database, for tools that look at it.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The basket's view without its actions.
    pub async fn view(&self, id: BasketId) -> Result<Option<BasketView>, ViewError> {
        let baskets: Collection<document::StoredView> = self.stored();
        let find = baskets
            .find_one(doc! { "_id": id.to_string() })
            .projection(doc! { "actions": 0, "conflicts": 0, "abandonments": 0 });
        within("read a basket", async { find.await })
            .await?
            .map(BasketView::try_from)
            .transpose()
    }

    /// Loads baskets with their actions. Those that do not exist are not in the answer; one that cannot be
    /// read, as after an edit by hand, is there with the reason.
    pub async fn load(&self, ids: &[BasketId], meaning: ActionIdMeaning) -> Result<Vec<Loaded>, ViewError> {
        let baskets: Collection<Document> = self.stored();
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let projection = doc! { "actions": 1, "conflicts": 1, "abandonments": 1, "corrections": 1, "parked_since": 1, "sequence": 1, "version": 1, "epoch": 1 };
        let found: Vec<Document> = within("load baskets", async {
            let find = baskets.find(doc! { "_id": { "$in": ids } });
            find.projection(projection).await?.try_collect().await
        })
        .await?;
        Ok(found
            .into_iter()
            .filter_map(|stored| document::restore(stored, meaning))
            .collect())
    }
}

/// Connects to the database of the configuration; the driver dials when it is first used.
pub async fn connect(config: &Config) -> Result<Database, mongodb::error::Error> {
    let mut options = ClientOptions::parse(&config.uri).await?;
    options.app_name = Some("ezout".to_owned());
    options.server_selection_timeout = Some(Duration::from_secs(3));
    options.connect_timeout = Some(Duration::from_secs(2));
    let durable = WriteConcern::builder()
        .w(Acknowledgment::Majority)
        .journal(true)
        .w_timeout(COMMAND_TIMEOUT)
        .build();
    options.write_concern = Some(durable);
    // Whatever the connection string says: a secondary may not know yet who was revoked, or who owns a partition.
    options.selection_criteria = Some(ReadPreference::Primary.into());
    Ok(Client::with_options(options)?.database(&config.database))
}

async fn keep_watch(views: &Views, state: &watch::Sender<State>) {
    let database = views.database();
    let mut migrated = false;
    loop {
        // Which version is active is known before anything is read from it.
        let now = match views.refresh_active().await {
            Err(error) => State::Unavailable {
                reason: error_chain(&error),
            },
            Ok(_) if migrated => State::Open,
            Ok(_) => match migrate(database).await {
                Ok(_) => {
                    migrated = true;
                    State::Open
                }
                Err(error) => State::Unavailable {
                    reason: error_chain(&error),
                },
            },
        };
        state.send_if_modified(|before| {
            let changed = *before != now;
            match &now {
                State::Open if changed => tracing::info!("mongodb is there and migrated"),
                State::Unavailable { reason } if changed => tracing::warn!("mongodb is not available: {reason}"),
                _ => {}
            }
            *before = now;
            changed
        });
        tokio::time::sleep(PING_INTERVAL).await;
    }
}

impl Views {
    /// Has a majority acknowledge a write that changes nothing: it waits until all writes before it are as safe as those of baskets.
    pub async fn try_write(&self) -> Result<(), ViewError> {
        let nothing = doc! { "q": { "_id": "no such lease" }, "u": { "$set": { "owner": null } } };
        let command = doc! { "update": "leases", "updates": [nothing], "writeConcern": durable() };
        write_command(&self.database, "acknowledge a write by a majority", command).await?;
        Ok(())
    }
}

/// Runs an operation within [`COMMAND_TIMEOUT`].
async fn within<T>(
    operation: &'static str,
    work: impl Future<Output = mongodb::error::Result<T>>,
) -> Result<T, ViewError> {
    match tokio::time::timeout(COMMAND_TIMEOUT, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(source)) => Err(ViewError::of(operation, source)),
        Err(_) => Err(ViewError::TimedOut { operation }),
    }
}

/// The next change of a stream; nothing if none came within some seconds.
///
/// # Errors
/// [`ViewError`]; then follow anew, and read everything again.
async fn next_change(
    operation: &'static str,
    changes: &mut ChangeStream<ChangeStreamEvent<Document>>,
) -> Result<Option<ChangeStreamEvent<Document>>, ViewError> {
    match tokio::time::timeout(COMMAND_TIMEOUT + CHANGES_WAIT, changes.next_if_any()).await {
        Ok(Ok(None)) if !changes.is_alive() => Err(ViewError::Refused {
            operation,
            reason: "the stream of changes has ended".to_owned(),
        }),
        Ok(Ok(next)) => Ok(next),
        Ok(Err(source)) => Err(ViewError::of(operation, source)),
        Err(_) => Err(ViewError::TimedOut { operation }),
    }
}

/// Sends a write command and looks into its answer, which reports failed writes beside `ok: 1`.
///
/// # Errors
/// [`ViewError::Refused`] where a write failed for another reason than that the document exists already.
async fn write_command(database: &Database, operation: &'static str, command: Document) -> Result<Document, ViewError> {
    let answer = within(operation, async { database.run_command(command).await }).await?;
    let errors = answer.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
    let real = errors
        .iter()
        .filter_map(|error| error.as_document())
        .find(|error| error.get_i32("code").ok() != Some(DUPLICATE_KEY));
    if let Some(error) = real {
        let reason = error.get_str("errmsg").unwrap_or("no reason given").to_owned();
        return Err(ViewError::Refused { operation, reason });
    }
    if let Ok(error) = answer.get_document("writeConcernError") {
        let reason = error
            .get_str("errmsg")
            .unwrap_or("the write concern was not met")
            .to_owned();
        return Err(ViewError::Refused { operation, reason });
    }
    Ok(answer)
}

/// What a write of baskets or parked events waits for.
fn durable() -> Document {
    let timeout = i64::try_from(COMMAND_TIMEOUT.as_millis()).expect("seconds fit");
    doc! { "w": "majority", "j": true, "wtimeout": timeout }
}

#[cfg(test)]
mod tests {
    use mongodb::options::SelectionCriteria;

    use super::*;

    #[tokio::test]
    async fn everything_is_read_from_the_primary_whatever_the_connection_string_says() {
        for preference in ["", "&readPreference=secondaryPreferred", "&readPreference=nearest"] {
            let config = Config {
                uri: format!("mongodb://127.0.0.1:1/?replicaSet=rs0{preference}"),
                database: "ezout".to_owned(),
            };
            let database = connect(&config).await.unwrap();
            let criteria = database.selection_criteria();
            assert!(
                matches!(
                    criteria,
                    Some(SelectionCriteria::ReadPreference(ReadPreference::Primary))
                ),
                "{preference}: {criteria:?}"
            );
        }
    }
}
