//! `GET /v1/shops/{shop}/day`: a shop's day in intervals.
//!
//! All screens of a shop ask for the same day, so an answer serves everybody who asks within a few seconds,
//! and those who ask at once wait for one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use time::{OffsetDateTime, Time};
use tokio::time::Instant;

use super::Api;
use super::append::{SEQUENCE, shop_of};
use super::problem::Problem;
use super::read::{reading, unread};
use crate::core::duration::parse_duration;
use crate::core::event::rfc3339;
use crate::core::id::ShopId;
use crate::core::query::{Query, refused};
use crate::views::json::Exact;
use crate::views::{Day, DayPoint};

/// How long an answer serves those who ask later.
const FRESH: Duration = Duration::from_secs(3);
/// Answers that are kept; beyond it all go that nobody waits for. Each has up to some 100 KiB.
const KEPT_MAX: usize = 200;
/// How far back a day may begin.
const START_MAX: Duration = Duration::from_hours(48);
/// An interval, where the request does not say, and what it may be.
const INTERVAL: Duration = Duration::from_mins(15);
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_mins(1)..=Duration::from_hours(24);

type Key = (ShopId, Day);
type Kept = (Instant, u64, Arc<[DayPoint]>);
type Slot = Arc<tokio::sync::Mutex<Option<Kept>>>;

/// The answers of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Days(Mutex<HashMap<Key, Slot>>);

impl Days {
    fn slot(&self, key: Key) -> Slot {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !slots.contains_key(&key) {
            let is_full = slots.len() >= KEPT_MAX;
            slots.retain(|_, slot| {
                // Whoever is being answered has their own hold on it.
                let is_asked = Arc::strong_count(slot) > 1;
                is_asked || !is_full && slot.try_lock().is_ok_and(|kept| kept.as_ref().is_some_and(is_fresh))
            });
        }
        Arc::clone(slots.entry(key).or_default())
    }
}

fn is_fresh((at, ..): &Kept) -> bool {
    at.elapsed() < FRESH
}

#[derive(Serialize)]
struct DayJson {
    sequence: u64,
    day_start: String,
    interval_seconds: u64,
    points: Vec<PointJson>,
}

#[derive(Serialize)]
struct PointJson {
    at: String,
    events: u64,
    visits: u64,
    paid_count: u64,
    paid_total: Exact,
}

/// `GET /v1/shops/{shop}/day`
pub(super) async fn day(
    State(api): State<Api>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Response {
    let _timer = api.timer("day");
    let answer = async {
        let shop = shop_of(path)?;
        let now = OffsetDateTime::now_utc();
        let day = asked(query.as_deref(), now)?;
        let slot = api.days().slot((shop, day));
        let mut slot = slot.lock().await;
        let fresh = slot.as_ref().filter(|kept| is_fresh(kept));
        let (sequence, points) = if let Some((_, sequence, points)) = fresh {
            (*sequence, Arc::clone(points))
        } else {
            let at = Instant::now();
            let (views, sequence) = reading(&api, shop).await?;
            let points = views.day(shop, day, now).await.map_err(|error| unread(&error))?;
            let points: Arc<[DayPoint]> = points.into();
            *slot = Some((at, sequence, Arc::clone(&points)));
            (sequence, points)
        };
        drop(slot);
        let json = DayJson {
            sequence,
            day_start: rfc3339(day.start),
            interval_seconds: day.interval.as_secs(),
            points: points
                .iter()
                .enumerate()
                .map(|(number, point)| PointJson {
                    at: rfc3339(day.at(number)),
                    events: point.events,
                    visits: point.visits,
                    paid_count: point.paid_count,
                    paid_total: Exact(point.paid_total),
                })
                .collect(),
        };
        Ok(([(SEQUENCE, sequence.to_string())], Json(json)).into_response())
    };
    answer.await.unwrap_or_else(Problem::into_response)
}

fn asked(query: Option<&str>, now: OffsetDateTime) -> Result<Day, Problem> {
    let query = Query::read(query, &["day_start", "interval"])?;
    let start = query.time("day_start")?;
    let start = start.unwrap_or_else(|| now.replace_time(Time::MIDNIGHT));
    if start > now || now - start > START_MAX {
        return Err(refused("day_start must be a time within the last 48 hours").into());
    }
    let rule = "whole seconds from 1m to 24h, such as 15m";
    let interval = query.value("interval", rule, |text| {
        let interval = parse_duration(text).ok()?;
        (INTERVALS.contains(&interval) && interval.subsec_nanos() == 0).then_some(interval)
    })?;
    Ok(Day {
        start,
        interval: interval.unwrap_or(INTERVAL),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_of_the_last_two_and_its_intervals_are_no_flood() {
        let now = OffsetDateTime::from_unix_timestamp(1_702_895_400).unwrap();
        let day = asked(None, now).unwrap();
        assert_eq!(
            (rfc3339(day.start).as_str(), day.interval),
            ("2023-12-18T00:00:00Z", INTERVAL)
        );
        let day = asked(Some("day_start=2023-12-16T10:30:00Z&interval=1h"), now).unwrap();
        assert_eq!(now - day.start, START_MAX);
        for query in [
            "day_start=2023-12-16T10:29:59Z",
            "day_start=2023-12-18T10:30:01Z",
            "interval=59s",
            "interval=25h",
            "interval=60001ms",
            "interval=15",
            "until=now",
        ] {
            assert!(asked(Some(query), now).is_err(), "{query}");
        }
    }
}
