//! A shop's day in intervals: events, visits, and what was paid.
//!
//! The baskets that had an event since the day began are found by the index for lists; of each only the
//! times of its events and of its payment are read, which the server takes out of the document, and counted here.

use std::time::Duration;

use futures::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{DateTime, Decimal128, Document, doc};
use mongodb::options::Hint;
use serde::Deserialize;
use time::OffsetDateTime;

use super::document::{date, money};
use super::ended::ended_at;
use super::queries::BY_CHANGE;
use super::{ViewError, Views, within};
use crate::core::basket::Status;
use crate::core::id::ShopId;
use crate::core::money::Money;

/// The intervals of which a day is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Day {
    /// When the first begins.
    pub start: OffsetDateTime,
    /// How long each is.
    pub interval: Duration,
}

/// What happened in an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DayPoint {
    /// Events that the journal took.
    pub events: u64,
    /// Visits of which it took the first event.
    pub visits: u64,
    /// Baskets that are paid, by the time of the payment.
    pub paid_count: u64,
    /// What they cost.
    pub paid_total: Money,
}

#[derive(Deserialize)]
struct StoredTimes {
    status: String,
    total: Decimal128,
    ended_at: DateTime,
    times: Vec<DateTime>,
}

impl Day {
    /// Which interval a moment is in; nothing before the first.
    fn interval_of(self, at: DateTime) -> Option<usize> {
        let since = at.timestamp_millis().checked_sub(date(self.start).timestamp_millis())?;
        let length = i64::try_from(self.interval.as_millis())
            .ok()
            .filter(|length| *length > 0)?;
        usize::try_from(since.div_euclid(length)).ok()
    }

    /// How many intervals have begun by now.
    fn begun(self, now: OffsetDateTime) -> usize {
        self.interval_of(date(now)).map_or(0, |last| last + 1)
    }

    /// When an interval begins.
    pub fn at(self, number: usize) -> OffsetDateTime {
        self.start + self.interval * u32::try_from(number).unwrap_or(u32::MAX)
    }
}

fn count(points: &mut [DayPoint], day: Day, basket: &StoredTimes) -> Result<(), String> {
    for at in &basket.times {
        if let Some(point) = day.interval_of(*at).and_then(|number| points.get_mut(number)) {
            point.events += 1;
        }
    }
    let first = basket.times.iter().min().and_then(|first| day.interval_of(*first));
    if let Some(point) = first.and_then(|number| points.get_mut(number)) {
        point.visits += 1;
    }
    let ended = day.interval_of(basket.ended_at);
    if basket.status == Status::Paid.word()
        && let Some(point) = ended.and_then(|number| points.get_mut(number))
    {
        point.paid_count += 1;
        point.paid_total += money(basket.total)?;
    }
    Ok(())
}

impl Views {
    /// The intervals of a shop's day that have begun by `now`, those included in which nothing happened.
    pub async fn day(&self, shop: ShopId, day: Day, now: OffsetDateTime) -> Result<Vec<DayPoint>, ViewError> {
        let baskets: Collection<Document> = self.stored();
        let mut points = vec![DayPoint::default(); day.begun(now)];
        within("read a shop's day", async {
            let mut found = baskets
                .aggregate(times_since(shop, day.start))
                .hint(Hint::Name(BY_CHANGE.to_owned()))
                .batch_size(2_000)
                .with_type::<StoredTimes>()
                .await?;
            let mut unread = None;
            while let Some(basket) = found.try_next().await? {
                if let Err(reason) = count(&mut points, day, &basket) {
                    unread = Some(reason);
                }
            }
            Ok(unread)
        })
        .await?
        .map_or(Ok(points), |reason| {
            Err(ViewError::Unreadable {
                id: shop.to_string(),
                reason,
            })
        })
    }
}

/// The times of the events of baskets that had one since then.
fn times_since(shop: ShopId, start: OffsetDateTime) -> Vec<Document> {
    let all: Vec<&str> = Status::ALL.iter().map(|status| status.word()).collect();
    let times = |name: &str| doc! { "$ifNull": [format!("${name}.recorded_at"), []] };
    let kinds = ["actions", "conflicts", "abandonments", "corrections"].map(times);
    vec![
        doc! { "$match": { "shop_id": shop.to_string(), "status": { "$in": all }, "updated_at": { "$gte": date(start) } } },
        doc! { "$project": { "_id": 0, "status": 1, "total": 1, "ended_at": ended_at(), "times": { "$concatArrays": kinds.to_vec() } } },
    ]
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use super::*;

    fn at(minute: i64) -> DateTime {
        DateTime::from_millis(1_702_895_400_000 + minute * 60_000)
    }

    #[test]
    fn each_event_is_counted_in_its_interval_and_what_was_before_in_none() {
        let day = Day {
            start: OffsetDateTime::from_unix_timestamp(1_702_895_400).unwrap(),
            interval: Duration::from_mins(15),
        };
        let now = day.start + Duration::from_mins(31);
        assert_eq!(day.begun(now), 3);
        assert_eq!(
            (day.begun(day.start), day.begun(day.start - Duration::from_secs(1))),
            (1, 0)
        );
        let mut points = vec![DayPoint::default(); day.begun(now)];
        let basket = |status: Status, times: &[i64]| StoredTimes {
            status: status.word().to_owned(),
            total: Decimal128::from_str("2.5").unwrap(),
            ended_at: at(*times.last().unwrap()),
            times: times.iter().map(|minute| at(*minute)).collect(),
        };
        for basket in [
            basket(Status::Paid, &[-1, 0, 14, 15]),
            basket(Status::Open, &[0, 30]),
            // After the answer was begun.
            basket(Status::Paid, &[16, 60]),
        ] {
            count(&mut points, day, &basket).unwrap();
        }
        let told: Vec<_> = points
            .iter()
            .map(|point| (point.events, point.visits, point.paid_count))
            .collect();
        assert_eq!(told, [(3, 1, 0), (2, 1, 1), (1, 0, 0)]);
        assert_eq!(points[1].paid_total, Money::parse("2.5").unwrap());
        assert_eq!(day.at(2), day.start + Duration::from_mins(30));
    }
}
