//! Applying `migrations/`, with a record of what was applied.

use mongodb::Database;
use mongodb::bson::{DateTime, Document, doc};
use uuid::Uuid;

use super::Version;

/// The migrations in their order: name and text.
const MIGRATIONS: &[(&str, &str)] = &[
    ("0001_baskets", include_str!("../../migrations/0001_baskets.json")),
    ("0002_projector", include_str!("../../migrations/0002_projector.json")),
    ("0003_looking", include_str!("../../migrations/0003_looking.json")),
    ("0004_versions", include_str!("../../migrations/0004_versions.json")),
    (
        "0005_abandonment",
        include_str!("../../migrations/0005_abandonment.json"),
    ),
    (
        "0006_corrections",
        include_str!("../../migrations/0006_corrections.json"),
    ),
];

/// What to do with a command that finds its work done.
const NAMESPACE_EXISTS: i32 = 48;

#[derive(serde::Deserialize)]
struct Migration {
    commands: Vec<Document>,
}

/// Why the migrations could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// A file is not as it was when it was applied.
    #[error(
        "migration {0} was changed after it was applied here: restore the file and write the change as the next number"
    )]
    Changed(String),
    /// A file is not a list of commands.
    #[error("migration {name} is malformed")]
    Malformed {
        /// The file.
        name: &'static str,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Which versions of the baskets there are could not be told.
    #[error("the versions of the baskets cannot be listed: {0}")]
    Versions(String),
    /// MongoDB did not do it.
    #[error("migration {name} failed")]
    Failed {
        /// The file, or what was being done.
        name: String,
        /// Its error.
        #[source]
        source: mongodb::error::Error,
    },
}

/// Applies what is not applied yet and answers its names. Safe to run twice, and from two
/// processes at once: each command states an end that may be there already.
pub async fn migrate(database: &Database) -> Result<Vec<&'static str>, MigrateError> {
    let failed = |name: &str| {
        let name = name.to_owned();
        move |source| MigrateError::Failed { name, source }
    };
    let record = database.collection::<Document>("migrations");
    let newest = record
        .find_one(doc! {})
        .sort(doc! { "_id": -1 })
        .await
        .map_err(failed("reading the record"))?;
    let newest = newest.as_ref().and_then(|newest| newest.get_str("_id").ok());
    if let (Some(newest), Some((last, _))) = (newest, MIGRATIONS.last())
        && newest > *last
    {
        // A change comes in two releases, so that the release before it goes on working.
        tracing::warn!("the database has migration {newest}, which is newer than this program");
    }
    let mut versions = super::versions::versions(database)
        .await
        .map_err(|error| MigrateError::Versions(error.to_string()))?;
    if versions.is_empty() {
        versions.push(Version::FIRST);
    }
    let mut applied = Vec::new();
    for (name, text) in MIGRATIONS {
        let digest = Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).to_string();
        if let Some(known) = record.find_one(doc! { "_id": name }).await.map_err(failed(name))? {
            if known.get_str("digest").ok() != Some(&digest) {
                return Err(MigrateError::Changed((*name).to_owned()));
            }
            continue;
        }
        let migration: Migration =
            serde_json::from_str(text).map_err(|source| MigrateError::Malformed { name, source })?;
        let commands = migration
            .commands
            .into_iter()
            .flat_map(|command| for_each_version(command, &versions));
        for command in commands {
            apply(database, command).await.map_err(failed(name))?;
        }
        let entry = doc! { "$setOnInsert": { "digest": digest, "applied_at": DateTime::now() } };
        record
            .update_one(doc! { "_id": name }, entry)
            .upsert(true)
            .await
            .map_err(failed(name))?;
        applied.push(*name);
    }
    Ok(applied)
}

/// Runs a command that may find its work done.
pub(super) async fn apply(database: &Database, command: Document) -> mongodb::error::Result<()> {
    match database.run_command(command).await {
        Err(error) if matches!(&*error.kind, mongodb::error::ErrorKind::Command(command) if command.code == NAMESPACE_EXISTS) => {
            Ok(())
        }
        done => done.map(|_| ()),
    }
}

/// The commands of all migrations that are about the baskets, said of this version.
pub(super) fn of_version(version: Version) -> Result<Vec<Document>, MigrateError> {
    let mut commands = Vec::new();
    for (name, text) in MIGRATIONS {
        let migration: Migration =
            serde_json::from_str(text).map_err(|source| MigrateError::Malformed { name, source })?;
        let of_baskets = migration.commands.into_iter().filter(is_of_baskets);
        commands.extend(of_baskets.flat_map(|command| for_each_version(command, &[version])));
    }
    Ok(commands)
}

fn is_of_baskets(command: &Document) -> bool {
    let target = command.values().next();
    target.is_some_and(|target| target.as_str() == Some("baskets"))
}

/// What a migration says of the baskets is true of each version of them.
fn for_each_version(command: Document, versions: &[Version]) -> Vec<Document> {
    let name = command.keys().next().filter(|_| is_of_baskets(&command)).cloned();
    let Some(name) = name else { return vec![command] };
    let of = |version: &Version| {
        let mut command = command.clone();
        // An existing field keeps its place, and the name of the command must be the first.
        command.insert(name.clone(), version.to_string());
        command
    };
    versions.iter().map(of).collect()
}
