//! Applying `migrations/`, with a record of what was applied.

use mongodb::Database;
use mongodb::bson::{DateTime, Document, doc};
use uuid::Uuid;

/// The migrations in their order: name and text.
const MIGRATIONS: &[(&str, &str)] = &[
    ("0001_baskets", include_str!("../../migrations/0001_baskets.json")),
    ("0002_projector", include_str!("../../migrations/0002_projector.json")),
    ("0003_looking", include_str!("../../migrations/0003_looking.json")),
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
        for command in migration.commands {
            if let Err(error) = database.run_command(command).await {
                let done = matches!(&*error.kind, mongodb::error::ErrorKind::Command(command) if command.code == NAMESPACE_EXISTS);
                if !done {
                    return Err(failed(name)(error));
                }
            }
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
