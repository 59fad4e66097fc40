//! Leases on partitions: who projects what, and with which fence.
//!
//! All times are the server's (`$$NOW`), so the clocks of the processes play no part.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use futures::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{DateTime, Document, doc};
use mongodb::options::ReturnDocument;

use super::document::{long, unsigned};
use super::{ViewError, Views, durable, within, write_command};

/// Names a process among those that share the partitions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseId(String);

impl LeaseId {
    /// A name that no other process has, not even this one after a restart; its machine and number come first, for people.
    pub fn unique() -> Self {
        let machine = rustix::system::uname();
        let machine = machine.nodename().to_string_lossy();
        let unique = uuid::Uuid::new_v4().simple().to_string();
        Self(format!("{machine}/{}/{unique}", std::process::id()))
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The right to project a partition until it expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The partition.
    pub partition: u16,
    /// Higher than that of every earlier lease on the partition; guards each write.
    pub fence: i64,
}

/// The lease of a partition as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseState {
    /// The partition.
    pub partition: u16,
    /// Whose it is or was last; `None` where it was given back, or never taken.
    pub owner: Option<String>,
    /// Milliseconds until it expires; below 0 since it did. By the server's clock.
    pub left_ms: i64,
    /// Why its owner does not go on; nothing if it does.
    pub halted: Option<String>,
    /// What was found in its baskets; nothing where none are compared.
    pub scrubbed: Option<Scrubbed>,
}

/// Baskets of a partition that were folded anew from the journal and compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scrubbed {
    /// How often one was, by every owner so far.
    pub checked: u64,
    /// How many are not what the journal says, as its owner knows.
    pub different: u64,
}

/// All leases as they stand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leases {
    /// One for each partition that ever had one.
    pub partitions: Vec<LeaseState>,
    /// The processes that live.
    pub living: Vec<String>,
}

/// The lease on corrections.
const CORRECTIONS: &str = "corrections";
/// Prefix of the documents by which processes tell each other that they live.
const MEMBER: &str = "member:";

impl Views {
    fn leases(&self) -> Collection<Document> {
        self.database.collection("leases")
    }

    /// Tells the others that this process lives for another `ttl`, and answers all that live, in one order for all.
    pub async fn join(&self, me: &LeaseId, ttl: Duration) -> Result<Vec<LeaseId>, ViewError> {
        let leases = self.leases();
        let alive = vec![doc! { "$set": { "expires_at": expiry(ttl) } }];
        let update = leases
            .update_one(doc! { "_id": format!("{MEMBER}{me}") }, alive)
            .upsert(true);
        within("join the projectors", async { update.await }).await?;
        let living = doc! { "_id": { "$regex": format!("^{MEMBER}") }, "$expr": { "$gt": ["$expires_at", "$$NOW"] } };
        let found: Vec<Document> = within("list the projectors", async {
            leases.find(living).sort(doc! { "_id": 1 }).await?.try_collect().await
        })
        .await?;
        let name = |member: &Document| Some(LeaseId(member.get_str("_id").ok()?.strip_prefix(MEMBER)?.to_owned()));
        Ok(found.iter().filter_map(name).collect())
    }

    /// Tells the others that this process is gone, and gives its leases back.
    pub async fn leave(&self, me: &LeaseId) -> Result<(), ViewError> {
        let leases = self.leases();
        within("leave the projectors", async {
            leases.update_many(doc! { "owner": me.to_string() }, released()).await?;
            leases.delete_one(doc! { "_id": format!("{MEMBER}{me}") }).await?;
            // Names of processes that died without a word would stay for ever.
            let long_dead = doc! { "$expr": { "$lt": ["$expires_at", { "$dateSubtract": { "startDate": "$$NOW", "unit": "hour", "amount": 1 } }] } };
            leases.delete_many(doc! { "_id": { "$regex": format!("^{MEMBER}") }, "$and": [long_dead] }).await
        })
        .await?;
        Ok(())
    }

    /// Makes sure that each partition has a lease that can be taken.
    pub async fn prepare_leases(&self, partitions: u16) -> Result<(), ViewError> {
        let free = |partition: u16| {
            let fields = doc! { "owner": null, "fence": 0_i64, "expires_at": DateTime::from_millis(0) };
            doc! { "q": { "_id": i32::from(partition) }, "u": { "$setOnInsert": fields }, "upsert": true }
        };
        let updates: Vec<Document> = (0..partitions).map(free).collect();
        let command = doc! { "update": "leases", "updates": updates, "ordered": false, "writeConcern": durable() };
        write_command(&self.database, "prepare leases", command).await?;
        Ok(())
    }

    /// Takes up to `count` leases that are free or have expired.
    pub async fn acquire(&self, me: &LeaseId, ttl: Duration, count: usize) -> Result<Vec<Lease>, ViewError> {
        let leases = self.leases();
        let mut acquired = Vec::new();
        while acquired.len() < count {
            let free = doc! { "_id": { "$type": "int" }, "$expr": { "$lte": ["$expires_at", "$$NOW"] } };
            let take = vec![doc! { "$set": {
                "owner": me.to_string(),
                "fence": { "$add": ["$fence", 1_i64] },
                "expires_at": expiry(ttl),
                "halted": null,
            } }];
            let take = leases
                .find_one_and_update(free, take)
                .sort(doc! { "expires_at": 1, "_id": 1 })
                .return_document(ReturnDocument::After);
            let Some(lease) = within("acquire a lease", async { take.await }).await? else {
                break;
            };
            acquired.push(read_lease(&lease)?);
        }
        Ok(acquired)
    }

    /// Extends the leases of this process by `ttl` and answers those that it still has.
    pub async fn renew(&self, me: &LeaseId, ttl: Duration) -> Result<Vec<Lease>, ViewError> {
        let leases = self.leases();
        let mine = doc! { "_id": { "$type": "int" }, "owner": me.to_string() };
        let extend = vec![doc! { "$set": { "expires_at": expiry(ttl) } }];
        within("renew leases", async { leases.update_many(mine.clone(), extend).await }).await?;
        let held: Vec<Document> = within("list leases", async { leases.find(mine).await?.try_collect().await }).await?;
        held.iter().map(read_lease).collect()
    }

    /// Notes why a partition of this process does not go on, or that it does.
    pub async fn note_halted(&self, me: &LeaseId, partition: u16, reason: Option<&str>) -> Result<(), ViewError> {
        let leases = self.leases();
        let mine = doc! { "_id": i32::from(partition), "owner": me.to_string() };
        let set = doc! { "$set": { "halted": reason } };
        within("note that a partition has halted", async {
            leases.update_one(mine, set).await
        })
        .await?;
        Ok(())
    }

    /// Notes what was found in baskets of partitions of this process: how many more were compared, and how many of all are
    /// not what the journal says.
    pub async fn note_scrubbed(&self, me: &LeaseId, found: &BTreeMap<u16, Scrubbed>) -> Result<(), ViewError> {
        let note = |(partition, scrubbed): (&u16, &Scrubbed)| {
            let mine = doc! { "_id": i32::from(*partition), "owner": me.to_string() };
            let update = doc! {
                "$inc": { "scrubbed.checked": long(scrubbed.checked) },
                "$set": { "scrubbed.different": long(scrubbed.different) },
            };
            doc! { "q": mine, "u": update }
        };
        let updates: Vec<Document> = found.iter().map(note).collect();
        let command = doc! { "update": "leases", "updates": updates, "ordered": false };
        write_command(&self.database, "note what was found in baskets", command).await?;
        Ok(())
    }

    /// How all leases stand, and who lives.
    pub async fn leases_now(&self) -> Result<Leases, ViewError> {
        let left = doc! { "$dateDiff": { "startDate": "$$NOW", "endDate": "$expires_at", "unit": "millisecond" } };
        let read = vec![doc! { "$set": { "left_ms": left } }, doc! { "$sort": { "_id": 1 } }];
        let leases = self.leases();
        let found: Vec<Document> = within("list leases", async {
            leases.aggregate(read).await?.try_collect().await
        })
        .await?;
        let mut now = Leases::default();
        for lease in found {
            let left_ms = lease.get_i64("left_ms").unwrap_or(i64::MIN);
            if let Ok(member) = lease.get_str("_id") {
                let name = member.strip_prefix(MEMBER).filter(|_| left_ms > 0);
                now.living.extend(name.map(str::to_owned));
                continue;
            }
            now.partitions.push(LeaseState {
                partition: read_lease(&lease)?.partition,
                owner: lease.get_str("owner").ok().map(str::to_owned),
                left_ms,
                halted: lease.get_str("halted").ok().map(str::to_owned),
                scrubbed: lease.get_document("scrubbed").ok().map(|scrubbed| Scrubbed {
                    checked: scrubbed.get_i64("checked").map_or(0, unsigned),
                    different: scrubbed.get_i64("different").map_or(0, unsigned),
                }),
            });
        }
        Ok(now)
    }

    /// Takes or extends the lease on corrections, of which there is one, and answers whether this process has it now.
    pub async fn lead_corrections(&self, me: &LeaseId, ttl: Duration) -> Result<bool, ViewError> {
        let leases = self.leases();
        let is_free = doc! { "$or": [
            { "$eq": ["$owner", me.to_string()] },
            { "$lte": [{ "$ifNull": ["$expires_at", DateTime::from_millis(0)] }, "$$NOW"] },
        ] };
        let take = vec![
            doc! { "$set": { "is_free": is_free } },
            doc! { "$set": {
                "owner": { "$cond": ["$is_free", me.to_string(), "$owner"] },
                "expires_at": { "$cond": ["$is_free", expiry(ttl), "$expires_at"] },
            } },
            doc! { "$unset": "is_free" },
        ];
        let update = leases
            .find_one_and_update(doc! { "_id": CORRECTIONS }, take)
            .upsert(true)
            .return_document(ReturnDocument::After);
        let lease = within("take the lease on corrections", async { update.await }).await?;
        let me = me.to_string();
        Ok(lease.is_some_and(|lease| lease.get_str("owner").is_ok_and(|owner| owner == me)))
    }

    /// Gives the lease on corrections back.
    pub async fn leave_corrections(&self, me: &LeaseId) -> Result<(), ViewError> {
        let leases = self.leases();
        let mine = doc! { "_id": CORRECTIONS, "owner": me.to_string() };
        within("give back the lease on corrections", async {
            leases.delete_one(mine).await
        })
        .await?;
        Ok(())
    }

    /// Whether this process has the lease at this moment.
    pub async fn holds(&self, me: &LeaseId, lease: Lease) -> Result<bool, ViewError> {
        let mine = doc! {
            "_id": i32::from(lease.partition),
            "owner": me.to_string(),
            "fence": lease.fence,
            "$expr": { "$gt": ["$expires_at", "$$NOW"] },
        };
        let leases = self.leases();
        let found = within("look at a lease", async { leases.find_one(mine).await }).await?;
        Ok(found.is_some())
    }

    /// The highest fence that was given out for a partition, as far as is known.
    pub async fn highest_fence(&self, partition: u16) -> Result<i64, ViewError> {
        let leases = self.leases();
        let lease = within("look at a lease", async {
            leases.find_one(doc! { "_id": i32::from(partition) }).await
        })
        .await?;
        let given = lease.and_then(|lease| lease.get_i64("fence").ok()).unwrap_or(0);
        let checkpoint = self.load_checkpoint(partition).await?;
        Ok(given.max(checkpoint.map_or(0, |checkpoint| checkpoint.fence)))
    }

    /// Gives a lease back, so that another process may take it at once.
    pub async fn release(&self, me: &LeaseId, partition: u16) -> Result<(), ViewError> {
        let mine = doc! { "_id": i32::from(partition), "owner": me.to_string() };
        let leases = self.leases();
        within("release a lease", async { leases.update_one(mine, released()).await }).await?;
        Ok(())
    }

    /// Raises the fence of a held lease above one that was found in a checkpoint, as after the leases were
    /// dropped. Answers `None` where somebody else has the lease by now.
    pub async fn raise_fence(&self, me: &LeaseId, lease: Lease, above: i64) -> Result<Option<Lease>, ViewError> {
        let mine = doc! { "_id": i32::from(lease.partition), "owner": me.to_string(), "fence": lease.fence };
        let leases = self.leases();
        let fence = above + 1;
        let raise = leases.update_one(mine, doc! { "$set": { "fence": fence } });
        let raised = within("raise a fence", async { raise.await }).await?;
        Ok((raised.matched_count == 1).then_some(Lease { fence, ..lease }))
    }
}

fn expiry(ttl: Duration) -> Document {
    let amount = long(ttl.as_millis());
    doc! { "$dateAdd": { "startDate": "$$NOW", "unit": "millisecond", "amount": amount } }
}

fn released() -> Document {
    doc! { "$set": { "owner": null, "expires_at": DateTime::from_millis(0), "halted": null } }
}

fn read_lease(lease: &Document) -> Result<Lease, ViewError> {
    let fields = || Some((lease.get_i32("_id").ok()?, lease.get_i64("fence").ok()?));
    let (partition, fence) = fields().ok_or_else(|| ViewError::Unreadable {
        id: format!("leases/{:?}", lease.get("_id")),
        reason: "it has no number or no fence".to_owned(),
    })?;
    Ok(Lease {
        partition: u16::try_from(partition).unwrap_or(u16::MAX),
        fence,
    })
}
