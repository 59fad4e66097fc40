//! What MongoDB says about itself: how full it is, and how long changes can be followed back.

use mongodb::bson::{Bson, Document, doc};

use super::{ViewError, Views, within};

/// How MongoDB's primary stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Connections that are open.
    pub connections: i64,
    /// Connections that there is room for, with those that are open.
    pub connections_limit: i64,
    /// Bytes in its cache.
    pub cache: i64,
    /// Bytes that its cache may have.
    pub cache_limit: i64,
    /// Operations that wait for a lock.
    pub queue: i64,
    /// Bytes of the database on disk, with its indexes.
    pub storage: i64,
    /// Bytes that are used of its disk.
    pub disk: i64,
    /// Bytes that its disk has.
    pub disk_limit: i64,
    /// Seconds from the oldest to the newest change that can be followed.
    pub oplog: i64,
}

impl Views {
    /// How MongoDB's primary stands.
    ///
    /// # Errors
    /// [`ViewError`], also where the user of this process may not ask.
    pub async fn figures(&self) -> Result<Figures, ViewError> {
        let (server, database) = within("tell about itself", async {
            let sections = doc! { "repl": 0, "metrics": 0, "locks": 0, "oplog": { "earliestOptime": true } };
            let mut command = doc! { "serverStatus": 1 };
            command.extend(sections);
            let admin = self.database.client().database("admin");
            let server = admin.run_command(command).await?;
            Ok((server, self.database.run_command(doc! { "dbStats": 1 }).await?))
        })
        .await?;
        let connections = number(&server, &["connections", "current"]);
        let oplog = |end| second(&server, &["oplog", end]);
        Ok(Figures {
            connections,
            connections_limit: connections + number(&server, &["connections", "available"]),
            cache: number(&server, &["wiredTiger", "cache", "bytes currently in the cache"]),
            cache_limit: number(&server, &["wiredTiger", "cache", "maximum bytes configured"]),
            queue: number(&server, &["globalLock", "currentQueue", "total"]),
            storage: number(&database, &["totalSize"]),
            disk: number(&database, &["fsUsedSize"]),
            disk_limit: number(&database, &["fsTotalSize"]),
            oplog: oplog("latestOptime") - oplog("earliestOptime"),
        })
    }
}

fn field<'a>(document: &'a Document, path: &[&str]) -> Option<&'a Bson> {
    let (last, folders) = path.split_last()?;
    let inner = folders
        .iter()
        .try_fold(document, |inner, name| inner.get_document(name).ok())?;
    inner.get(last)
}

/// A number, of whatever kind the server wrote it; 0 where there is none.
fn number(document: &Document, path: &[&str]) -> i64 {
    match field(document, path) {
        Some(Bson::Int32(number)) => i64::from(*number),
        Some(Bson::Int64(number)) => *number,
        #[expect(clippy::cast_possible_truncation, reason = "no disk has so many bytes")]
        Some(Bson::Double(number)) => *number as i64,
        _ => 0,
    }
}

/// The second of a place in the oplog.
fn second(document: &Document, path: &[&str]) -> i64 {
    field(document, path)
        .and_then(Bson::as_timestamp)
        .map_or(0, |place| i64::from(place.time))
}
