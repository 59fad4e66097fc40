//! What is asked about a whole shop: pages of baskets, and their summary.
//!
//! The indexes of `migrations/0003_looking.json` and `0008_open.json` answer all of it: those for lists begin
//! with shop and status, and a question about any status is a merge of one range for each. A question reads no
//! more of an index than its answer has, and sorts nothing. The one exception is the list of baskets whose
//! totals agree: it passes over those whose totals do not, which are few.

use std::fmt;

use futures::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{DateTime, Decimal128, Document, doc};
use mongodb::options::Hint;
use serde::Deserialize;
use time::OffsetDateTime;

use super::document::{self, date, long, money, unsigned};
use super::ended::ended_at;
use super::{BasketView, OpenBaskets, ViewError, Views, within};
use crate::core::basket::Status;
use crate::core::event::rfc3339;
use crate::core::id::{BasketId, SessionId, ShopId};
use crate::core::money::Money;
use crate::core::query::{Query, QueryError, whole_number};

/// All baskets of a shop.
pub(super) const BY_CHANGE: &str = "by_status_and_change";
/// Those whose totals differ.
const DIVERGED_BY_CHANGE: &str = "diverged_by_status_and_change";
/// Those of shoppers who are shopping. Also few, and an event of a session that goes on does not touch it.
const OPEN_BY_SESSION: &str = "open_by_session";
/// The index of the few baskets of which an event is parked.
const WITH_PARKED_EVENTS: &str = "with_parked_events";
/// Baskets on a page, where the request does not say.
const LIMIT: u16 = 50;
/// Most baskets on a page.
const LIMIT_MAX: u16 = 200;
/// The form of a [`Cursor`].
const CURSOR_VERSION: u8 = 1;
/// The time in the cursor of a basket that has none.
const NEVER: i64 = i64::MIN;

/// Which baskets of a shop are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Filter {
    /// Only those of this status.
    pub status: Option<Status>,
    /// Only those whose claimed and computed totals differ, or do not.
    pub diverged: Option<bool>,
    /// Only those of which an event waits for a decision.
    pub parked: bool,
    /// Only those that had an event at this time or later, by the journal's clock.
    pub since: Option<OffsetDateTime>,
    /// Only those whose last event was before this time, by the journal's clock.
    pub until: Option<OffsetDateTime>,
}

/// Which page of a shop's baskets is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listing {
    /// Which baskets.
    pub filter: Filter,
    /// Behind which one; nothing for the first page.
    pub after: Option<Cursor>,
    /// How many at most.
    pub limit: u16,
}

impl Listing {
    /// Reads the parameters `status`, `verdict`, `parked`, `since`, `until`, `limit` and `cursor`.
    ///
    /// # Errors
    /// [`QueryError`] for any other parameter, and for a value that breaks its rule.
    pub fn read(query: Option<&str>) -> Result<Self, QueryError> {
        let query = Query::read(
            query,
            &["status", "verdict", "parked", "since", "until", "limit", "cursor"],
        )?;
        let words: Vec<_> = Status::ALL.iter().map(|status| status.word()).collect();
        let filter = Filter {
            status: query.value("status", &format!("one of {}", words.join(", ")), Status::of)?,
            diverged: query.value("verdict", "ok or diverged", |word| match word {
                "ok" => Some(false),
                "diverged" => Some(true),
                _ => None,
            })?,
            parked: query
                .value("parked", "true", |word| (word == "true").then_some(()))?
                .is_some(),
            since: query.time("since")?,
            until: query.time("until")?,
        };
        let limit = query.value("limit", &format!("a whole number from 1 to {LIMIT_MAX}"), |text| {
            let limit = u16::try_from(whole_number(text)?).ok()?;
            (1..=LIMIT_MAX).contains(&limit).then_some(limit)
        })?;
        Ok(Self {
            filter,
            after: query.value("cursor", "the next of an earlier page", Cursor::parse)?,
            limit: limit.unwrap_or(LIMIT),
        })
    }

    /// The parameters in one order, with what was left out: the same text for all that ask for the same page.
    pub fn normalised(&self) -> String {
        let mut parameters = Vec::new();
        if let Some(cursor) = self.after {
            parameters.push(format!("cursor={cursor}"));
        }
        parameters.push(format!("limit={}", self.limit));
        if self.filter.parked {
            parameters.push("parked=true".to_owned());
        }
        if let Some(since) = self.filter.since {
            parameters.push(format!("since={}", rfc3339(since)));
        }
        if let Some(status) = self.filter.status {
            parameters.push(format!("status={}", status.word()));
        }
        if let Some(until) = self.filter.until {
            parameters.push(format!("until={}", rfc3339(until)));
        }
        if let Some(diverged) = self.filter.diverged {
            parameters.push(format!("verdict={}", if diverged { "diverged" } else { "ok" }));
        }
        parameters.join("&")
    }
}

/// Where a page of baskets ended; as text it is opaque to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    changed_at_ms: i64,
    sequence: i64,
}

impl Cursor {
    /// The place of this basket's document.
    fn behind(document: &Document) -> Self {
        let changed_at = document.get_datetime("updated_at").ok();
        Self {
            changed_at_ms: changed_at.map_or(NEVER, |time| time.timestamp_millis()),
            sequence: document.get_i64("sequence").unwrap_or(0),
        }
    }

    fn time(self) -> Option<DateTime> {
        (self.changed_at_ms != NEVER).then(|| DateTime::from_millis(self.changed_at_ms))
    }

    /// Reads what [`Display`](fmt::Display) wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if text.len() != 34 || !digits {
            return None;
        }
        let version = u8::from_str_radix(&text[..2], 16).ok()?;
        let number = |range: &str| u64::from_str_radix(range, 16).ok().map(u64::cast_signed);
        (version == CURSOR_VERSION).then_some(Self {
            changed_at_ms: number(&text[2..18])?,
            sequence: number(&text[18..])?,
        })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{CURSOR_VERSION:02x}{:016x}{:016x}",
            self.changed_at_ms, self.sequence
        )
    }
}

/// A page of a shop's baskets.
#[derive(Debug)]
pub struct BasketPage {
    /// The baskets, without their lines, findings and missing ids. Those that cannot be read are left out, and in the log.
    pub baskets: Vec<(BasketId, BasketView)>,
    /// After which the next page begins; nothing on the last one.
    pub next: Option<Cursor>,
}

/// The baskets of a shop in a few numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// Baskets of shoppers who are shopping.
    pub open: Totals,
    /// Baskets that were abandoned today.
    pub abandoned_today: Totals,
    /// Baskets that were paid today.
    pub paid_today: Totals,
    /// Baskets that were cancelled today.
    pub cancelled_today: Totals,
    /// Baskets of any status that had their last event today and whose totals differ.
    pub diverged_today: u64,
    /// The open basket that has had no event for the longest time.
    pub oldest_untouched: Option<(SessionId, OffsetDateTime)>,
}

/// Some baskets together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Their number.
    pub baskets: u64,
    /// Pieces in them.
    pub items: u64,
    /// What these cost.
    pub amount: Money,
    /// How many of them have totals that differ.
    pub diverged: u64,
}

/// An open basket to which nothing happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idle {
    /// Which basket.
    pub basket: BasketId,
    /// Place in the journal of its last event.
    pub sequence: u64,
    /// When the journal took that event.
    pub since: OffsetDateTime,
}

/// Which events of the journal a basket was folded from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Epoch of that journal.
    pub epoch: String,
    /// Their places in it, in order.
    pub sequences: Vec<u64>,
    /// The basket's sequence.
    pub sequence: u64,
}

#[derive(Debug, Deserialize)]
struct StoredGroup {
    #[serde(rename = "_id")]
    status: String,
    baskets: i64,
    items: i64,
    amount: Decimal128,
    diverged: i64,
}

#[derive(Debug, Deserialize)]
struct StoredUntouched {
    session_id: String,
    updated_at: DateTime,
}

#[derive(Debug, Deserialize)]
struct StoredPlace {
    sequence: i64,
}

#[derive(Debug, Deserialize)]
struct StoredPlaces {
    epoch: String,
    sequence: i64,
    actions: Vec<StoredPlace>,
    conflicts: Vec<StoredPlace>,
    abandonments: Vec<StoredPlace>,
    corrections: Vec<StoredPlace>,
}

impl Views {
    /// A page of a shop's baskets, the last changed first, without their lines, findings and missing ids.
    ///
    /// A basket that does not change while pages are read is on exactly one of them.
    pub async fn baskets(
        &self,
        shop: ShopId,
        Listing { filter, after, limit }: Listing,
    ) -> Result<BasketPage, ViewError> {
        let mut found = Vec::new();
        // One more than asked for, which says whether there is a next page.
        let wanted = i64::from(limit) + 1;
        // A cursor of another question may lie outside of the times of this one.
        for part in Part::after(after).into_iter().filter(|part| part.may_be_in(filter)) {
            let left = wanted - long(found.len());
            if left > 0 {
                found.extend(self.baskets_of(shop, filter, part, left).await?);
            }
        }
        let more = long(found.len()) == wanted;
        found.truncate(usize::from(limit));
        // Of the documents, and not of the baskets: one that cannot be read ends no list.
        let next = found.last().filter(|_| more).map(Cursor::behind);
        Ok(BasketPage {
            baskets: found.into_iter().filter_map(document::identified).collect(),
            next,
        })
    }

    async fn baskets_of(
        &self,
        shop: ShopId,
        filter: Filter,
        part: Part,
        limit: i64,
    ) -> Result<Vec<Document>, ViewError> {
        let baskets: Collection<Document> = self.stored();
        let index = if filter.parked {
            WITH_PARKED_EVENTS
        } else if filter.diverged == Some(true) {
            DIVERGED_BY_CHANGE
        } else {
            BY_CHANGE
        };
        within("read a page of baskets", async {
            baskets
                .find(matching(shop, filter, part))
                .sort(part.order())
                .limit(limit)
                .projection(
                    doc! { "actions": 0, "conflicts": 0, "abandonments": 0, "corrections": 0, "lines": 0, "findings": 0, "missing": 0 },
                )
                .hint(Hint::Name(index.to_owned()))
                .await?
                .try_collect()
                .await
        })
        .await
    }

    /// The shop in a few numbers; today began at `day_start`.
    pub async fn summary(&self, shop: ShopId, day_start: OffsetDateTime) -> Result<Summary, ViewError> {
        let baskets: Collection<StoredUntouched> = self.stored();
        let hint = || Hint::Name(BY_CHANGE.to_owned());
        let diverged_today = within("count the baskets of a shop that differ", async {
            baskets
                .count_documents(diverged_since(shop, day_start))
                .hint(Hint::Name(DIVERGED_BY_CHANGE.to_owned()))
                .await
        });
        let groups = within("sum up a shop", async {
            baskets
                .aggregate(by_status(shop, day_start))
                .hint(hint())
                .with_type::<StoredGroup>()
                .await?
                .try_collect::<Vec<StoredGroup>>()
                .await
        });
        // A basket whose first event is parked has no time, and none of its actions can be untouched.
        let open = doc! {
            "shop_id": shop.to_string(),
            "status": Status::Open.word(),
            "updated_at": { "$gte": DateTime::from_millis(0) },
        };
        let oldest = within("find the oldest basket of a shop", async {
            baskets
                .find_one(open)
                .sort(doc! { "updated_at": 1, "sequence": 1 })
                .projection(doc! { "session_id": 1, "updated_at": 1 })
                .hint(hint())
                .await
        });
        let (groups, diverged_today, oldest) = futures::try_join!(groups, diverged_today, oldest)?;
        let mut summary = Summary {
            diverged_today,
            ..Summary::default()
        };
        for group in groups {
            let unreadable = |reason| ViewError::Unreadable {
                id: shop.to_string(),
                reason,
            };
            let totals = Totals {
                baskets: unsigned(group.baskets),
                items: unsigned(group.items),
                amount: money(group.amount).map_err(unreadable)?,
                diverged: unsigned(group.diverged),
            };
            match Status::of(&group.status) {
                Some(Status::Open) => summary.open = totals,
                Some(Status::Abandoned) => summary.abandoned_today = totals,
                Some(Status::Paid) => summary.paid_today = totals,
                Some(Status::Cancelled) => summary.cancelled_today = totals,
                None => {}
            }
        }
        summary.oldest_untouched = oldest.and_then(|oldest| {
            let session = SessionId::parse(&oldest.session_id).ok()?;
            Some((session, document::time(oldest.updated_at)?))
        });
        Ok(summary)
    }

    /// Open baskets of a shop without their actions, from the one after `after`, at most `limit`. One that cannot
    /// be read, as after an edit by hand, is left out.
    pub async fn open_baskets(&self, shop: ShopId, after: Option<&str>, limit: u16) -> Result<OpenBaskets, ViewError> {
        let baskets: Collection<Document> = self.stored();
        let first = format!("{shop}.");
        // The slash is the character after the dot, so this is the shop's range of `_id`s.
        let ids = doc! { "$gt": after.unwrap_or(&first), "$lt": format!("{shop}/") };
        let find = baskets
            .find(doc! { "shop_id": shop.to_string(), "status": "open", "_id": ids })
            .hint(Hint::Name(OPEN_BY_SESSION.to_owned()))
            .projection(doc! { "actions": 0, "conflicts": 0, "abandonments": 0 })
            .sort(doc! { "_id": 1 })
            .limit(i64::from(limit));
        let found: Vec<Document> = within("list open baskets", async { find.await?.try_collect().await }).await?;
        let last = found.last().filter(|_| found.len() == usize::from(limit));
        Ok(OpenBaskets {
            next: last.and_then(|last| last.get_str("_id").ok()).map(str::to_owned),
            baskets: found.into_iter().filter_map(document::identified).collect(),
        })
    }

    /// Shops that have a basket.
    pub async fn shops(&self) -> Result<Vec<ShopId>, ViewError> {
        self.shops_with_baskets(None).await
    }

    /// Shops that have a basket, at most so many.
    pub(super) async fn shops_with_baskets(&self, limit: Option<i64>) -> Result<Vec<ShopId>, ViewError> {
        #[derive(Deserialize)]
        struct StoredShop {
            #[serde(rename = "_id")]
            shop: String,
        }
        let baskets: Collection<Document> = self.stored();
        // One step in the index for each shop.
        let mut pipeline = vec![
            doc! { "$sort": { "shop_id": 1 } },
            doc! { "$group": { "_id": "$shop_id" } },
        ];
        pipeline.extend(limit.map(|limit| doc! { "$limit": limit }));
        let shops = within("list the shops", async {
            baskets
                .aggregate(pipeline)
                .hint(Hint::Name(BY_CHANGE.to_owned()))
                .with_type::<StoredShop>()
                .await?
                .try_collect::<Vec<StoredShop>>()
                .await
        })
        .await?;
        Ok(shops
            .iter()
            .filter_map(|stored| ShopId::parse(&stored.shop).ok())
            .collect())
    }

    /// Open baskets of these shops, at most `limit`, that have had no event since a time and none that is parked.
    pub async fn idle(&self, shops: &[ShopId], before: OffsetDateTime, limit: u16) -> Result<Vec<Idle>, ViewError> {
        #[derive(Deserialize)]
        struct StoredIdle {
            #[serde(rename = "_id")]
            id: String,
            sequence: i64,
            updated_at: DateTime,
        }
        let baskets: Collection<StoredIdle> = self.stored();
        let shops: Vec<String> = shops.iter().map(ShopId::to_string).collect();
        let query = doc! {
            "shop_id": { "$in": shops },
            "status": Status::Open.word(),
            // A basket whose first event is parked has no time.
            "updated_at": { "$gte": DateTime::from_millis(0), "$lt": date(before) },
            "parked_since": null,
        };
        let found: Vec<StoredIdle> = within("find idle baskets", async {
            baskets
                .find(query)
                .limit(limit.into())
                .projection(doc! { "sequence": 1, "updated_at": 1 })
                .hint(Hint::Name(BY_CHANGE.to_owned()))
                .await?
                .try_collect()
                .await
        })
        .await?;
        let idle = |stored: StoredIdle| {
            Some(Idle {
                basket: BasketId::parse(&stored.id).ok()?,
                sequence: unsigned(stored.sequence),
                since: document::time(stored.updated_at)?,
            })
        };
        Ok(found.into_iter().filter_map(idle).collect())
    }

    /// Where the events of a basket stand in the journal; nothing without a basket.
    pub async fn places(&self, id: BasketId) -> Result<Option<Places>, ViewError> {
        let baskets: Collection<StoredPlaces> = self.stored();
        let find = baskets.find_one(doc! { "_id": id.to_string() }).projection(doc! {
            "epoch": 1,
            "sequence": 1,
            "actions.sequence": 1,
            "conflicts.sequence": 1,
            "abandonments.sequence": 1,
            "corrections.sequence": 1,
        });
        let found = within("read the places of a basket's events", async { find.await }).await?;
        Ok(found.map(|stored| {
            let places = [
                stored.actions,
                stored.conflicts,
                stored.abandonments,
                stored.corrections,
            ]
            .into_iter()
            .flatten();
            let mut sequences: Vec<u64> = places.map(|place| unsigned(place.sequence)).collect();
            sequences.sort_unstable();
            Places {
                epoch: stored.epoch,
                sequences,
                sequence: unsigned(stored.sequence),
            }
        }))
    }
}

/// A part of the list of baskets. As one question, what comes after a cursor would be an alternative,
/// for which the server reads an index twice.
#[derive(Debug, Clone, Copy)]
enum Part {
    /// All of it.
    Whole,
    /// Behind a cursor, those that changed in the same millisecond.
    SameTime(Cursor),
    /// Those that changed earlier, or never.
    Earlier(DateTime),
}

impl Part {
    /// The order within the part, as the server can read it from an index: after a single time, that is
    /// the order of what is left of the key.
    fn order(self) -> Document {
        match self {
            Self::SameTime(_) => doc! { "sequence": -1 },
            Self::Whole | Self::Earlier(_) => doc! { "updated_at": -1, "sequence": -1 },
        }
    }

    /// Whether a question about these times can find anything in the part.
    fn may_be_in(self, filter: Filter) -> bool {
        let Self::SameTime(cursor) = self else { return true };
        let starts = filter.since.is_none_or(|since| cursor.time() >= Some(date(since)));
        let ends = filter.until.is_none_or(|until| cursor.time() < Some(date(until)));
        starts && ends
    }

    /// The parts after a cursor, in order.
    fn after(cursor: Option<Cursor>) -> Vec<Self> {
        match cursor {
            None => vec![Self::Whole],
            Some(cursor) => match cursor.time() {
                None => vec![Self::SameTime(cursor)],
                Some(time) => vec![Self::SameTime(cursor), Self::Earlier(time)],
            },
        }
    }
}

/// The baskets of a part that a filter lets through.
fn matching(shop: ShopId, filter: Filter, part: Part) -> Document {
    let mut query = doc! { "shop_id": shop.to_string() };
    if let Some(status) = filter.status {
        query.insert("status", status.word());
    } else {
        let all: Vec<&str> = Status::ALL.iter().map(|status| status.word()).collect();
        query.insert("status", doc! { "$in": all });
    }
    if let Some(diverged) = filter.diverged {
        query.insert("verdict", if diverged { "diverged" } else { "ok" });
    }
    if filter.parked {
        query.insert("parked_since", doc! { "$type": "long" });
    }
    let mut changed = Document::new();
    if let Some(since) = filter.since {
        changed.insert("$gte", date(since));
    }
    if let Some(until) = filter.until {
        changed.insert("$lt", date(until));
    }
    match part {
        Part::Whole => {}
        Part::SameTime(cursor) => {
            changed.insert("$eq", cursor.time());
            query.insert("sequence", doc! { "$lt": cursor.sequence });
        }
        // Not `$lt`, which would leave out the baskets without a time, which come last.
        Part::Earlier(time) => {
            changed.insert("$not", doc! { "$gte": time });
        }
    }
    if !changed.is_empty() {
        query.insert("updated_at", changed);
    }
    query
}

/// The open baskets and those that ended today, summed up by status.
fn by_status(shop: ShopId, day_start: OffsetDateTime) -> Vec<Document> {
    let day_start = date(day_start);
    let ended: Vec<&str> = Status::ALL
        .iter()
        .filter(|status| **status != Status::Open)
        .map(|status| status.word())
        .collect();
    let shop = shop.to_string();
    // One that ended before and was corrected today has changed today, and that is all. Hardly any has an event of another
    // day, and to see that takes a tenth of the time that it takes to see when a basket ended.
    let not_since = doc! { "$elemMatch": { "recorded_at": { "$not": { "$gte": day_start } } } };
    let events = ["actions", "corrections", "abandonments"].map(|kind| doc! { kind: not_since.clone() });
    let ended_before = doc! {
        "status": { "$ne": Status::Open.word() }, "$or": events.to_vec(), "$expr": { "$lt": [ended_at(), day_start] },
    };
    vec![
        doc! { "$match": {
            "$or": [
                { "shop_id": &shop, "status": Status::Open.word() },
                { "shop_id": &shop, "status": { "$in": ended }, "updated_at": { "$gte": day_start } },
            ],
            "$nor": [ended_before],
        } },
        doc! { "$group": {
            "_id": "$status",
            "baskets": { "$sum": 1_i64 },
            "items": { "$sum": "$item_count" },
            "amount": { "$sum": { "$ifNull": ["$total", document::decimal(Money::default())] } },
            "diverged": { "$sum": { "$cond": [{ "$eq": ["$verdict", "diverged"] }, 1_i64, 0_i64] } },
        } },
    ]
}

/// The baskets of a shop whose totals differ and that have changed since then.
fn diverged_since(shop: ShopId, day_start: OffsetDateTime) -> Document {
    let all: Vec<&str> = Status::ALL.iter().map(|status| status.word()).collect();
    doc! {
        "shop_id": shop.to_string(), "status": { "$in": all }, "updated_at": { "$gte": date(day_start) },
        "verdict": "diverged",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_ask_for_the_same_page_ask_in_the_same_words() {
        let normalised = |query: &str| Listing::read(Some(query)).unwrap().normalised();
        assert_eq!(normalised(""), "limit=50");
        let cursor = "0100000000000000010000000000000002";
        let all = format!(
            "cursor={cursor}&limit=7&parked=true&since=2023-12-18T10:30:00Z&status=paid&until=2023-12-19T00:00:00Z&verdict=diverged"
        );
        assert_eq!(normalised(&all), all);
        let otherwise = format!(
            "parked=true&verdict=diverged&until=2023-12-19T01%3A00%3A00%2B01:00&since=2023-12-18T11%3A30%3A00%2B01:00&status=paid&limit=07&cursor={cursor}"
        );
        assert_eq!(normalised(&otherwise), all);
        assert!(matches!(Listing::read(Some("limit=0")), Err(QueryError::Invalid(_))));
        assert!(matches!(Listing::read(Some("limit=201")), Err(QueryError::Invalid(_))));
        assert!(matches!(
            Listing::read(Some("parked=false")),
            Err(QueryError::Invalid(_))
        ));
        assert!(matches!(Listing::read(Some("page=1")), Err(QueryError::Unknown(_))));
    }

    #[test]
    fn a_cursor_is_read_back_or_refused() {
        for (changed_at_ms, sequence) in [(1_702_895_400_000, 7), (-1, i64::MAX), (NEVER, 1)] {
            let cursor = Cursor {
                changed_at_ms,
                sequence,
            };
            assert_eq!(Cursor::parse(&cursor.to_string()), Some(cursor));
        }
        let good = "0100000000000000010000000000000002";
        assert!(Cursor::parse(good).is_some());
        for bad in [
            "",
            "01",
            &good[1..],
            "0200000000000000010000000000000002",
            "010000000000000001000000000000000G",
            "01000000000000000100000000000000é",
            "0100000000000000010000000000000+02",
        ] {
            assert_eq!(Cursor::parse(bad), None, "{bad}");
        }
    }
}
