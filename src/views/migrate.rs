//! Applying `migrations/`, with a record of what was applied.

use mongodb::bson::{DateTime, Document, doc};
use mongodb::{Collection, Database};
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
    (
        "0007_corrections",
        include_str!("../../migrations/0007_corrections.json"),
    ),
    ("0008_open", include_str!("../../migrations/0008_open.json")),
    ("0009_handlings", include_str!("../../migrations/0009_handlings.json")),
    ("0010_access", include_str!("../../migrations/0010_access.json")),
    ("0011_page", include_str!("../../migrations/0011_page.json")),
    (
        "0012_revocations",
        include_str!("../../migrations/0012_revocations.json"),
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
    /// MongoDB lets this user not do it.
    #[error(
        "mongodb does not let this user do it ({name}): run `ezout migrate` with a user in EZOUT_MONGODB_URI that has the role \
         ezout_operator of mongodb/roles.json"
    )]
    NotAllowed {
        /// The file, or what was being done.
        name: String,
    },
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
    let record = record(database);
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
        if is_applied(database, name, text).await? {
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
        let digest = digest(text);
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

/// The migrations that are not applied yet.
///
/// # Errors
/// [`MigrateError`]
pub async fn outstanding(database: &Database) -> Result<Vec<&'static str>, MigrateError> {
    let mut outstanding = Vec::new();
    for (name, text) in MIGRATIONS {
        if !is_applied(database, name, text).await? {
            outstanding.push(*name);
        }
    }
    Ok(outstanding)
}

fn record(database: &Database) -> Collection<Document> {
    database.collection("migrations")
}

async fn is_applied(database: &Database, name: &str, text: &str) -> Result<bool, MigrateError> {
    let known = record(database).find_one(doc! { "_id": name }).await;
    match known.map_err(failed(name))? {
        None => Ok(false),
        Some(known) if known.get_str("digest").ok() == Some(&digest(text)) => Ok(true),
        Some(_) => Err(MigrateError::Changed(name.to_owned())),
    }
}

fn digest(text: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).to_string()
}

fn failed(name: &str) -> impl FnOnce(mongodb::error::Error) -> MigrateError {
    let name = name.to_owned();
    move |source| {
        if super::is_unauthorized(&source) {
            MigrateError::NotAllowed { name }
        } else {
            MigrateError::Failed { name, source }
        }
    }
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

/// The commands of all migrations, what is said of the baskets said of each of these versions.
pub(super) fn commands(versions: &[Version]) -> Result<Vec<Document>, MigrateError> {
    let mut commands = Vec::new();
    for (name, text) in MIGRATIONS {
        let migration: Migration =
            serde_json::from_str(text).map_err(|source| MigrateError::Malformed { name, source })?;
        let of_each = |command| for_each_version(command, versions);
        commands.extend(migration.commands.into_iter().flat_map(of_each));
    }
    Ok(commands)
}

/// The commands of all migrations that are about the baskets, said of this version.
pub(super) fn of_version(version: Version) -> Result<Vec<Document>, MigrateError> {
    let mut commands = commands(&[version])?;
    commands.retain(|command| target(command) == Some(version.to_string().as_str()));
    Ok(commands)
}

fn target(command: &Document) -> Option<&str> {
    command.values().next()?.as_str()
}

fn is_of_baskets(command: &Document) -> bool {
    target(command) == Some("baskets")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_applied_and_in_the_order_of_the_names() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let files = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        let mut files: Vec<String> = files
            .filter_map(|name| Some(name.to_str()?.strip_suffix(".json")?.to_owned()))
            .collect();
        files.sort();
        let applied: Vec<&str> = MIGRATIONS.iter().map(|(name, _)| *name).collect();
        assert_eq!(applied, files);
    }
}
