//! The text of Server-Sent Events.
//!
//! | event | data | when |
//! |---|---|---|
//! | `hello` | `recovered`, and if not: `reason`, `oldest`; `place`, `newest`, `stale_since`, `heartbeat_ms` | once, first |
//! | `snapshot` | `baskets`, `more` | if not recovered; the last one has `more: false` and the id to come back with |
//! | `update` | the message of `updates.store.{shop}` | each event |
//! | `coalesced` | `left_out`, `newest` | before updates of which only the newest of each basket are sent |
//! | `handlings` | `handlings` | once, when the snapshot is there if one is sent: who handles which basket |
//! | `handling` | `session_id`, `handled_by`, `handled_until` | each change of that, whoever made it |
//! | `heartbeat` | `place`, `sequence`, `stale_since` | when nothing happened for a while |
//! | `bye`, `lagging`, `lost` | `reason` | last: come back with the last id |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;

use super::join::Verdict;
use crate::core::event::rfc3339;
use crate::core::id::SessionId;
use crate::updates::Place;
use crate::views::{Handling, json};

/// Shortest pause before a client comes back, in milliseconds; up to as much again is added, so that not all come at once.
const RETRY_MS: u64 = 500;

/// Why a viewer is sent away. It may come back at once with the last id that it had, if need be with another token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goodbye {
    /// The process stops.
    Stopping,
    /// The time of the viewer's token is over; it may come back with a new one.
    Expired,
    /// The viewer's token, or whoever it is of, was revoked.
    Revoked,
    /// The viewer may no longer see the shop.
    Denied,
    /// More baskets changed than can be given at once to one that is so far behind.
    Lagging,
    /// Updates may have been lost between the stream and us; coming back will tell.
    Lost,
}

impl Goodbye {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::Stopping,
        Self::Expired,
        Self::Revoked,
        Self::Denied,
        Self::Lagging,
        Self::Lost,
    ];

    /// The word in metrics and in the data.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Stopping => "stopping",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Denied => "denied",
            Self::Lagging => "lagging",
            Self::Lost => "lost",
        }
    }

    const fn event(self) -> &'static str {
        match self {
            Self::Stopping | Self::Expired | Self::Revoked | Self::Denied => "bye",
            Self::Lagging => "lagging",
            Self::Lost => "lost",
        }
    }
}

/// A comment, which clients pass over: it only keeps the connection in use.
pub(super) fn comment(text: &'static str) -> Bytes {
    Bytes::from(format!(": {text}\n\n"))
}

/// The first message: from where updates follow and what the shop's newest is, so that a client knows whether it is behind, and after
/// how long a silence it need not take for live what it has.
pub(super) fn hello(
    verdict: Verdict,
    (from, newest): (Place, Place),
    oldest: Option<Place>,
    stale_since: Option<OffsetDateTime>,
    heartbeat: Duration,
) -> String {
    let retry_ms = RETRY_MS + fastrand::u64(..RETRY_MS);
    let mut text = format!("retry: {retry_ms}\nevent: hello\ndata: {{");
    let _ = match verdict {
        Verdict::Recovered => write!(text, "\"recovered\":true"),
        other => {
            let oldest = oldest.map_or_else(|| "null".to_owned(), |oldest| format!("\"{oldest}\""));
            write!(
                text,
                "\"recovered\":false,\"reason\":\"{}\",\"oldest\":{oldest}",
                other.word()
            )
        }
    };
    let stale_since = time_or_null(stale_since);
    let _ = write!(
        text,
        ",\"place\":\"{from}\",\"newest\":\"{newest}\",\"stale_since\":{stale_since},\"heartbeat_ms\":{}}}\n\n",
        heartbeat.as_millis()
    );
    text
}

/// A page of the snapshot; the last one has the place to come back with.
pub(super) fn snapshot(baskets: &[String], last: Option<Place>) -> String {
    let id = last.map(|place| format!("id: {place}\n")).unwrap_or_default();
    format!(
        "{id}event: snapshot\ndata: {{\"baskets\":[{}],\"more\":{}}}\n\n",
        baskets.join(","),
        last.is_none()
    )
}

pub(super) fn update(at: Place, json: &str) -> Bytes {
    Bytes::from(format!("id: {at}\nevent: update\ndata: {json}\n\n"))
}

/// Moves the client's last id past an update that it has already, and is no event.
pub(super) fn passed(at: Place) -> String {
    format!("id: {at}\n\n")
}

/// Says that only some of the updates up to `newest` follow.
pub(super) fn coalesced(left_out: u64, newest: Place) -> String {
    format!("event: coalesced\ndata: {{\"left_out\":{left_out},\"newest\":\"{newest}\"}}\n\n")
}

pub(super) fn heartbeat(newest: Place, stale_since: Option<OffsetDateTime>) -> Bytes {
    let stale_since = time_or_null(stale_since);
    Bytes::from(format!(
        "event: heartbeat\ndata: {{\"place\":\"{newest}\",\"sequence\":{},\"stale_since\":{stale_since}}}\n\n",
        newest.sequence
    ))
}

fn time_or_null(time: Option<OffsetDateTime>) -> String {
    time.map_or_else(|| "null".to_owned(), |time| format!("\"{}\"", rfc3339(time)))
}

/// Who handles which baskets; a client's last id stays what it is.
pub(super) fn handlings(all: &BTreeMap<SessionId, Handling>) -> Bytes {
    let all = json::handlings(all.iter().map(|(session, handling)| (*session, handling)));
    Bytes::from(format!("event: handlings\ndata: {all}\n\n"))
}

/// What became otherwise in who handles baskets; nothing if nothing did.
pub(super) fn handled_since(
    before: &BTreeMap<SessionId, Handling>,
    now: &BTreeMap<SessionId, Handling>,
) -> Option<Bytes> {
    let sessions: BTreeSet<SessionId> = before.keys().chain(now.keys()).copied().collect();
    let mut text = String::new();
    for session in sessions {
        let handling = now.get(&session);
        if before.get(&session) != handling {
            let _ = write!(text, "event: handling\ndata: {}\n\n", json::handling(session, handling));
        }
    }
    (!text.is_empty()).then(|| Bytes::from(text))
}

pub(super) fn goodbye(goodbye: Goodbye) -> Bytes {
    let (event, word) = (goodbye.event(), goodbye.word());
    Bytes::from(format!("event: {event}\ndata: {{\"reason\":\"{word}\"}}\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { place: 12, sequence: 7 };

    #[test]
    fn the_first_message_says_whether_everything_is_there() {
        let data = |verdict, oldest| {
            let newest = Place { place: 15, sequence: 9 };
            let text = hello(verdict, (PLACE, newest), oldest, None, Duration::from_secs(5));
            let (retry, rest) = text.split_once('\n').unwrap();
            assert!(retry.starts_with("retry: "), "{retry}");
            rest.to_owned()
        };
        assert_eq!(
            data(Verdict::Recovered, None),
            "event: hello\ndata: {\"recovered\":true,\"place\":\"12-7\",\"newest\":\"15-9\",\"stale_since\":null,\"heartbeat_ms\":5000}\n\n"
        );
        assert_eq!(
            data(Verdict::AgedOut, Some(Place { place: 9, sequence: 4 })),
            "event: hello\ndata: {\"recovered\":false,\"reason\":\"aged_out\",\"oldest\":\"9-4\",\"place\":\"12-7\",\"newest\":\"15-9\",\"stale_since\":null,\"heartbeat_ms\":5000}\n\n"
        );
        assert_eq!(
            data(Verdict::New, None),
            "event: hello\ndata: {\"recovered\":false,\"reason\":\"new\",\"oldest\":null,\"place\":\"12-7\",\"newest\":\"15-9\",\"stale_since\":null,\"heartbeat_ms\":5000}\n\n"
        );
    }

    #[test]
    fn whoever_is_spared_updates_is_told_how_far_the_others_go() {
        assert_eq!(
            coalesced(812, PLACE),
            "event: coalesced\ndata: {\"left_out\":812,\"newest\":\"12-7\"}\n\n"
        );
    }

    #[test]
    fn only_the_last_page_of_a_snapshot_has_an_id() {
        let baskets = ["{\"a\":1}".to_owned(), "{\"b\":2}".to_owned()];
        assert_eq!(
            snapshot(&baskets, None),
            "event: snapshot\ndata: {\"baskets\":[{\"a\":1},{\"b\":2}],\"more\":true}\n\n"
        );
        assert_eq!(
            snapshot(&[], Some(PLACE)),
            "id: 12-7\nevent: snapshot\ndata: {\"baskets\":[],\"more\":false}\n\n"
        );
    }

    #[test]
    fn who_handles_baskets_is_told_as_a_whole_and_then_as_what_changed() {
        let session = |number| SessionId::from(uuid::Uuid::from_u128(number));
        let until = OffsetDateTime::from_unix_timestamp(1_702_895_400).unwrap();
        let handling = |by: &str| Handling {
            by: by.to_owned(),
            until,
        };
        let before = BTreeMap::from([(session(1), handling("Ada")), (session(2), handling("Bob"))]);
        let now = BTreeMap::from([(session(2), handling("B\nob")), (session(3), handling("Eve"))]);
        let of = |number: u8, by: &str, until: &str| {
            let session = format!("00000000-0000-0000-0000-00000000000{number}");
            format!("{{\"session_id\":\"{session}\",\"handled_by\":{by},\"handled_until\":{until}}}")
        };
        let until = "\"2023-12-18T10:30:00Z\"";
        assert_eq!(
            handlings(&before),
            format!(
                "event: handlings\ndata: {{\"handlings\":[{},{}]}}\n\n",
                of(1, "\"Ada\"", until),
                of(2, "\"Bob\"", until)
            )
        );
        let changes = [
            of(1, "null", "null"),
            of(2, "\"B\\nob\"", until),
            of(3, "\"Eve\"", until),
        ];
        let changes = changes.map(|change| format!("event: handling\ndata: {change}\n\n"));
        assert_eq!(handled_since(&before, &now).unwrap(), changes.concat());
        assert_eq!(handled_since(&now, &now), None);
    }

    #[test]
    fn a_heartbeat_says_how_far_it_goes_and_since_when_nothing_is_known() {
        assert_eq!(
            heartbeat(PLACE, None),
            "event: heartbeat\ndata: {\"place\":\"12-7\",\"sequence\":7,\"stale_since\":null}\n\n"
        );
        let time = OffsetDateTime::from_unix_timestamp(1_702_895_400).unwrap();
        assert_eq!(
            heartbeat(PLACE, Some(time)),
            "event: heartbeat\ndata: {\"place\":\"12-7\",\"sequence\":7,\"stale_since\":\"2023-12-18T10:30:00Z\"}\n\n"
        );
    }
}
