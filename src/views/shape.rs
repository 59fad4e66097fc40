//! What the migrations give the collections, compared with what is there.
//!
//! A migration is applied once; what was dropped by hand after that is told here, and brought back when a person asks for it.

use std::fmt;

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};

use super::{ViewError, Views, migrate, within};
use crate::core::error_chain;

/// The commands without those that a later one replaces: of the validators of a collection the last one stands.
fn standing(commands: Vec<Document>) -> Vec<Document> {
    let target = |command: &Document| command.get_str("collMod").ok().map(str::to_owned);
    let mut standing: Vec<Document> = Vec::new();
    for command in commands {
        if let Some(collection) = target(&command) {
            standing.retain(|earlier| target(earlier).as_deref() != Some(&collection));
        }
        standing.push(command);
    }
    standing
}

/// What a collection lacks.
#[derive(Debug, Clone, PartialEq)]
pub struct Lack {
    collection: String,
    what: What,
    /// What brings it back.
    commands: Vec<Document>,
}

#[derive(Debug, Clone, PartialEq)]
enum What {
    Itself,
    Index(String),
    /// There is one of that name, which is another one.
    OtherIndex(String),
    Validator,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let collection = &self.collection;
        match &self.what {
            What::Itself => write!(f, "there is no collection {collection}"),
            What::Index(name) => write!(f, "{collection} has no index {name}"),
            What::OtherIndex(name) => write!(f, "the index {name} of {collection} is not the one of the migrations"),
            What::Validator => write!(f, "the validator of {collection} is not the one of the migrations"),
        }
    }
}

/// What is there of a collection.
struct Found {
    options: Document,
    indexes: Vec<Document>,
}

impl Views {
    /// Everything that the migrations give the collections and the baskets of the version that is meant, and that is not there.
    pub async fn lacks(&self) -> Result<Vec<Lack>, ViewError> {
        let commands = migrate::commands(&[self.version()]).map_err(|error| ViewError::Refused {
            operation: "read the migrations",
            reason: error_chain(&error),
        })?;
        let mut lacks: Vec<Lack> = Vec::new();
        for command in standing(commands) {
            let Some(collection) = command.values().next().and_then(Bson::as_str).map(str::to_owned) else {
                continue;
            };
            let absent = lacks
                .iter_mut()
                .find(|lack| lack.collection == collection && lack.what == What::Itself);
            if let Some(lack) = absent {
                lack.commands.push(command);
                continue;
            }
            match self.found(&collection).await? {
                None => lacks.push(Lack {
                    collection,
                    what: What::Itself,
                    commands: vec![command],
                }),
                Some(found) => lacks.extend(missing(&collection, command, &found)),
            }
        }
        Ok(lacks)
    }

    /// Brings back what is lacking. Takes as long as an index takes.
    pub async fn supply(&self, lacks: &[Lack]) -> Result<(), ViewError> {
        for command in lacks.iter().flat_map(|lack| &lack.commands) {
            migrate::apply(&self.database, command.clone())
                .await
                .map_err(|source| ViewError::of("bring back what the migrations gave", source))?;
        }
        Ok(())
    }

    async fn found(&self, collection: &str) -> Result<Option<Found>, ViewError> {
        let list = self.database.list_collections().filter(doc! { "name": collection });
        let found = within("list collections", async { list.await?.try_next().await }).await?;
        let Some(found) = found else { return Ok(None) };
        let options = mongodb::bson::serialize_to_document(&found.options).unwrap_or_default();
        let list = doc! { "listIndexes": collection, "cursor": { "batchSize": 1_000 } };
        let indexes = within("list indexes", async {
            self.database.run_cursor_command(list).await?.try_collect().await
        })
        .await?;
        Ok(Some(Found { options, indexes }))
    }
}

/// What of a migration's command is not so.
fn missing(collection: &str, command: Document, found: &Found) -> Vec<Lack> {
    let lack = |what, commands| Lack {
        collection: collection.to_owned(),
        what,
        commands,
    };
    if let Some(wanted) = command.get("validator") {
        // What is not said is strict, and an error.
        let word = |of: &Document, name: &str, default: &str| of.get_str(name).unwrap_or(default).to_owned();
        let as_wanted = found.options.get("validator").map(plain) == Some(plain(wanted))
            && ["validationLevel", "validationAction"]
                .into_iter()
                .zip(["strict", "error"])
                .all(|(name, default)| word(&found.options, name, default) == word(&command, name, default));
        return if as_wanted {
            Vec::new()
        } else {
            vec![lack(What::Validator, vec![command])]
        };
    }
    let wanted = command.get_array("indexes").map(Vec::as_slice).unwrap_or_default();
    let mut lacks = Vec::new();
    for index in wanted.iter().filter_map(Bson::as_document) {
        let name = index.get_str("name").unwrap_or_default();
        let same = found
            .indexes
            .iter()
            .find(|found| found.get_str("name").ok() == Some(name));
        if same.is_some_and(|same| is_as_wanted(same, index)) {
            continue;
        }
        let create = doc! { "createIndexes": collection, "indexes": [index.clone()] };
        lacks.push(if same.is_some() {
            let drop = doc! { "dropIndexes": collection, "index": name };
            lack(What::OtherIndex(name.to_owned()), vec![drop, create])
        } else {
            lack(What::Index(name.to_owned()), vec![create])
        });
    }
    lacks
}

/// Whether an index is the one that a migration makes: the same keys in the same order, of the same documents.
fn is_as_wanted(found: &Document, wanted: &Document) -> bool {
    let keys = |of: &Document| -> Vec<(String, Bson)> {
        let keys = of.get_document("key").into_iter().flatten();
        keys.map(|(name, order)| (name.clone(), plain(order))).collect()
    };
    let without = |of: &Document| {
        let mut rest = of.clone();
        for name in ["key", "v", "name", "ns", "background"] {
            rest.remove(name);
        }
        plain(&Bson::Document(rest))
    };
    keys(found) == keys(wanted) && without(found) == without(wanted)
}

/// The value with all its numbers of one type, since the server keeps them as it likes.
fn plain(value: &Bson) -> Bson {
    match value {
        Bson::Int32(number) => Bson::Double(f64::from(*number)),
        #[expect(clippy::cast_precision_loss, reason = "the numbers of an index are small")]
        Bson::Int64(number) => Bson::Double(*number as f64),
        Bson::Document(document) => {
            let fields = document.iter().map(|(name, value)| (name.clone(), plain(value)));
            Bson::Document(fields.collect())
        }
        Bson::Array(values) => Bson::Array(values.iter().map(plain).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::Version;

    #[test]
    fn every_command_of_the_migrations_is_one_that_can_be_compared() {
        for command in migrate::commands(&[Version::FIRST]).unwrap() {
            let name = command.keys().next().unwrap();
            let known = match name.as_str() {
                "create" => command.len() == 1,
                "createIndexes" => command.get_array("indexes").is_ok(),
                "collMod" => command.get("validator").is_some(),
                // It changes what is there once, and gives nothing that could be lost.
                "update" => true,
                _ => false,
            };
            assert!(known, "views/shape.rs does not know what {command} gives");
        }
    }

    #[test]
    fn an_index_is_known_by_its_keys_their_order_and_its_documents() {
        let wanted = doc! { "key": { "a": 1, "b": -1 }, "name": "i", "partialFilterExpression": { "c": "x" } };
        let same =
            doc! { "v": 2, "key": { "a": 1_i64, "b": -1.0 }, "name": "i", "partialFilterExpression": { "c": "x" } };
        assert!(is_as_wanted(&same, &wanted));
        for other in [
            doc! { "v": 2, "key": { "b": -1, "a": 1 }, "name": "i", "partialFilterExpression": { "c": "x" } },
            doc! { "v": 2, "key": { "a": 1, "b": 1 }, "name": "i", "partialFilterExpression": { "c": "x" } },
            doc! { "v": 2, "key": { "a": 1, "b": -1 }, "name": "i" },
            doc! { "v": 2, "key": { "a": 1, "b": -1 }, "name": "i", "partialFilterExpression": { "c": "x" }, "unique": true },
        ] {
            assert!(!is_as_wanted(&other, &wanted), "{other}");
        }
    }
}
