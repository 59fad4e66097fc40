//! Who may do what beyond what their token says, and which tokens count no more.
//!
//! Both are small and read as a whole: a process keeps them in memory, and the server tells when they changed.

use std::collections::{BTreeSet, HashMap};

use futures::TryStreamExt;
use mongodb::bson::{Bson, DateTime, Document, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::{Collection, change_stream::event::ChangeStreamEvent};
use serde::Deserialize;
use time::OffsetDateTime;

use super::document::{date, time};
use super::{CHANGES_WAIT, ViewError, Views, durable, next_change, within, write_command};
use crate::core::id::ShopId;
use crate::core::policy::{Role, Shops};

const MEMBERS: &str = "members";
const REVOCATIONS: &str = "revocations";
/// Stands for every shop.
const EVERY_SHOP: &str = "*";

/// What a member may do, in addition to what their token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What they are; it replaces the role of the token.
    pub role: Role,
    /// Where; it is added to the shops of the token.
    pub shops: Shops,
}

/// What counts no more.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Revoked {
    /// Every token of a subject who signed in before, or of whom it is not known when.
    Subject(String),
    /// One token.
    Token(String),
}

impl Revoked {
    fn id(&self) -> String {
        match self {
            Self::Subject(subject) => format!("subject:{subject}"),
            Self::Token(id) => format!("token:{id}"),
        }
    }

    fn parse(id: &str) -> Option<Self> {
        let (kind, name) = id.split_once(':')?;
        match kind {
            "subject" => Some(Self::Subject(name.to_owned())),
            "token" => Some(Self::Token(name.to_owned())),
            _ => None,
        }
    }
}

/// For how long something counts no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revocation {
    /// Since when.
    pub at: OffsetDateTime,
    /// Until when; nothing where until somebody lifts it.
    pub ends_at: Option<OffsetDateTime>,
}

/// When a revocation is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevokedUntil {
    /// When somebody lifts it.
    Lifted,
    /// Then.
    At(OffsetDateTime),
}

/// All members and all revocations, as of a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    /// By their subject.
    pub members: HashMap<String, Member>,
    /// And for how long. One that has ended may still be there for a while.
    pub revoked: HashMap<Revoked, Revocation>,
}

/// Tells that rights have changed.
#[derive(Debug)]
pub struct RightsChanges(ChangeStream<ChangeStreamEvent<Document>>);

impl RightsChanges {
    /// Returns whether anything changed within some seconds.
    ///
    /// # Errors
    /// [`ViewError`]; then follow anew, and read everything again.
    pub async fn next(&mut self) -> Result<bool, ViewError> {
        Ok(next_change("follow rights", &mut self.0).await?.is_some())
    }
}

/// A revocation, with who made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRevocation {
    /// What counts no more.
    pub revoked: Revoked,
    /// And for how long.
    pub revocation: Revocation,
    /// By whom; nothing where that was not noted.
    pub by: Option<String>,
}

#[derive(Deserialize)]
struct StoredMember {
    #[serde(rename = "_id")]
    subject: String,
    role: String,
    shops: Vec<String>,
}

impl StoredMember {
    fn member(self) -> Option<(String, Member)> {
        let member = Member {
            role: Role::parse(&self.role)?,
            shops: parse_shops(&self.shops)?,
        };
        Some((self.subject, member))
    }
}

#[derive(Deserialize)]
struct StoredRevocation {
    #[serde(rename = "_id")]
    id: String,
    at: DateTime,
    ends_at: Option<DateTime>,
    /// A text; anything else is somebody's edit, which must not let the revocation count no more.
    by: Option<Bson>,
}

impl StoredRevocation {
    fn revocation(self) -> Option<(Revoked, Revocation)> {
        let revocation = Revocation {
            at: time(self.at)?,
            // One whose end cannot be told has none: it must not go before its time.
            ends_at: self.ends_at.and_then(time),
        };
        Some((Revoked::parse(&self.id)?, revocation))
    }

    fn kept(self) -> Option<KeptRevocation> {
        let by = self.by.as_ref().and_then(Bson::as_str).map(str::to_owned);
        let (revoked, revocation) = self.revocation()?;
        Some(KeptRevocation {
            revoked,
            revocation,
            by,
        })
    }
}

/// The shops that texts name, of which `*` is every shop; nothing if one of them names none.
pub fn parse_shops(texts: &[impl AsRef<str>]) -> Option<Shops> {
    let mut shops = BTreeSet::new();
    for text in texts {
        match text.as_ref() {
            EVERY_SHOP => return Some(Shops::All),
            text => shops.insert(ShopId::parse(text).ok()?),
        };
    }
    Some(Shops::Only(shops))
}

fn unread_in<T>(collection: &'static str) -> impl FnOnce() -> Option<T> {
    move || {
        tracing::error!(
            "a document in {collection} is none that `ezout member` or `ezout revoke` writes, and does not count"
        );
        None
    }
}

fn shop_texts(shops: &Shops) -> Vec<String> {
    match shops {
        Shops::All => vec![EVERY_SHOP.to_owned()],
        Shops::Only(shops) => shops.iter().map(ToString::to_string).collect(),
    }
}

impl Views {
    /// All members and revocations.
    ///
    /// # Errors
    /// [`ViewError`].
    pub async fn rights(&self) -> Result<Rights, ViewError> {
        let members: Collection<Document> = self.database.collection(MEMBERS);
        let members: Vec<Document> = within("read the members", async {
            members.find(doc! {}).await?.try_collect().await
        })
        .await?;
        let revocations = self.stored_revocations().await?;
        // One that somebody spoiled by hand must not keep all others from counting.
        let member = |stored: Document| {
            let read: Option<StoredMember> = bson::deserialize_from_document(stored).ok();
            read.and_then(StoredMember::member).or_else(unread_in(MEMBERS))
        };
        Ok(Rights {
            members: members.into_iter().filter_map(member).collect(),
            revoked: revocations
                .into_iter()
                .filter_map(StoredRevocation::revocation)
                .collect(),
        })
    }

    /// All revocations, the newest first. One that has ended may still be there for a while.
    ///
    /// # Errors
    /// [`ViewError`].
    pub async fn revocations(&self) -> Result<Vec<KeptRevocation>, ViewError> {
        let stored = self.stored_revocations().await?;
        let mut kept: Vec<KeptRevocation> = stored.into_iter().filter_map(StoredRevocation::kept).collect();
        kept.sort_by(|one, other| {
            let newest_first = other.revocation.at.cmp(&one.revocation.at);
            newest_first.then_with(|| one.revoked.cmp(&other.revoked))
        });
        Ok(kept)
    }

    async fn stored_revocations(&self) -> Result<Vec<StoredRevocation>, ViewError> {
        let revocations: Collection<Document> = self.database.collection(REVOCATIONS);
        let stored: Vec<Document> = within("read the revocations", async {
            revocations.find(doc! {}).await?.try_collect().await
        })
        .await?;
        let read = |stored: Document| {
            let read: Option<StoredRevocation> = bson::deserialize_from_document(stored).ok();
            // One without a time, or of which nobody can tell what it is about, counts as none.
            read.filter(|read| time(read.at).is_some() && Revoked::parse(&read.id).is_some())
                .or_else(unread_in(REVOCATIONS))
        };
        Ok(stored.into_iter().filter_map(read).collect())
    }

    /// Follows changes of rights from now on. What [`Views::rights`] answers afterwards has everything before.
    ///
    /// # Errors
    /// [`ViewError`].
    pub async fn rights_changes(&self) -> Result<RightsChanges, ViewError> {
        let of_these = doc! { "$match": { "ns.coll": { "$in": [MEMBERS, REVOCATIONS] } } };
        let watch = self.database.watch().pipeline([of_these]).max_await_time(CHANGES_WAIT);
        let stream = within("follow rights", async { watch.await }).await?;
        Ok(RightsChanges(stream))
    }

    /// Adds a member, or replaces what they were.
    ///
    /// # Errors
    /// [`ViewError`]; it may have been done, and to do it again is safe.
    pub async fn set_member(&self, subject: &str, member: &Member) -> Result<(), ViewError> {
        let set = doc! { "role": member.role.word(), "shops": shop_texts(&member.shops), "changed_at": "$$NOW" };
        let command = doc! {
            "update": MEMBERS,
            "updates": [ { "q": { "_id": subject }, "u": [ { "$set": set } ], "upsert": true } ],
            "writeConcern": durable(),
        };
        write_command(&self.database, "note a member", command).await?;
        Ok(())
    }

    /// Removes a member; answers whether there was one.
    ///
    /// # Errors
    /// [`ViewError`]; it may have been done, and to do it again is safe.
    pub async fn remove_member(&self, subject: &str) -> Result<bool, ViewError> {
        let command = doc! {
            "delete": MEMBERS,
            "deletes": [ { "q": { "_id": subject }, "limit": 1 } ],
            "writeConcern": durable(),
        };
        let answer = write_command(&self.database, "remove a member", command).await?;
        Ok(answer.get_i32("n").is_ok_and(|n| n > 0))
    }

    /// Lets tokens count no more: from this moment on, by the server's clock, as this one says. Soon after its end the server forgets it.
    /// One that is there already and would end later, or has no end, is left as it is; answers whether this one counts.
    ///
    /// # Errors
    /// [`ViewError`]; it may have been done, and to do it again is safe.
    pub async fn revoke(&self, revoked: &Revoked, until: RevokedUntil, by: &str) -> Result<bool, ViewError> {
        let mut of_this = doc! { "_id": revoked.id() };
        let ends_at: Bson = match until {
            RevokedUntil::Lifted => "$$REMOVE".into(),
            RevokedUntil::At(time) => {
                // Where that finds none but there is one, the one to be added has its name and is refused.
                of_this.insert("ends_at", doc! { "$lte": date(time) });
                date(time).into()
            }
        };
        let set = doc! { "at": "$$NOW", "ends_at": ends_at, "by": { "$literal": by } };
        let command = doc! {
            "update": REVOCATIONS,
            "updates": [ { "q": of_this, "u": [ { "$set": set } ], "upsert": true } ],
            "writeConcern": durable(),
        };
        let answer = write_command(&self.database, "revoke", command).await?;
        Ok(answer.get_i32("n").is_ok_and(|n| n > 0))
    }

    /// Lets tokens that were revoked count again, as far as they have not ended; answers whether any were.
    ///
    /// # Errors
    /// [`ViewError`]; it may have been done, and to do it again is safe.
    pub async fn lift(&self, revoked: &Revoked) -> Result<bool, ViewError> {
        let command = doc! {
            "delete": REVOCATIONS,
            "deletes": [ { "q": { "_id": revoked.id() }, "limit": 1 } ],
            "writeConcern": durable(),
        };
        let answer = write_command(&self.database, "lift a revocation", command).await?;
        Ok(answer.get_i32("n").is_ok_and(|n| n > 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shops_are_read_whole_or_not_at_all() {
        let one = "123e4567-e89b-42d3-a456-426614174000";
        let shop = ShopId::parse(one).unwrap();
        assert_eq!(parse_shops(&[one]), Some(Shops::Only(BTreeSet::from([shop]))));
        assert_eq!(parse_shops(&[one, "*"]), Some(Shops::All));
        assert_eq!(parse_shops(&[] as &[&str]), Some(Shops::NONE));
        assert_eq!(parse_shops(&[one, "shop"]), None);
    }

    #[test]
    fn what_is_revoked_is_named_so_that_it_can_be_read_again() {
        for revoked in [Revoked::Subject("a:b".to_owned()), Revoked::Token("c".to_owned())] {
            assert_eq!(Revoked::parse(&revoked.id()), Some(revoked));
        }
        assert_eq!(Revoked::parse("else:a"), None);
    }
}
