//! When to leave the NATS server that there is a connection to, because it cannot serve a stream, for another one.
//!
//! One of several servers that is cut off from the others goes on to serve its clients. If it led the stream it tells of it
//! as its leader for up to twenty seconds, and of a stream without a leader after that; nothing that is published to it is
//! stored, and nothing new is read from it, for as long as it is cut off.

use std::time::{Duration, Instant};

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{ContextBuilder, GetStreamError, GetStreamErrorKind};
use async_nats::jetstream::stream::{ClusterInfo, Info, Stream};
use tokio_util::sync::CancellationToken;

use super::link::Connection;

/// How long a server may be of no use: longer than several take to elect a leader.
const AFTER: Duration = Duration::from_secs(8);
/// How long it has to be seen to be of no use: one that was asleep has not heard of the others either, for a moment.
const SEEN_FOR: Duration = Duration::from_secs(2);
/// Longest time between two departures, where no other server is any better.
const PAUSE_MAX: Duration = Duration::from_mins(2);

/// Time between two looks of a connection that has no others, and the longest that one may take.
const LOOK: Duration = Duration::from_secs(4);
/// Longest time to tell a connection to leave its server.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Has a connection leave its server, until `stop`, wherever that cannot serve this stream, which several servers keep. It is
/// for one that carries messages by which it would not notice; one that is only slow is left as well.
pub async fn stay_useful(connection: &Connection, stream: &str, stop: &CancellationToken) {
    let context = ContextBuilder::new().timeout(LOOK).build(connection.client());
    let mut elsewhere = Elsewhere::default();
    let looking = async {
        loop {
            tokio::time::sleep(LOOK).await;
            let status = *connection.status().borrow();
            if status.up {
                let (asked, found) = (Instant::now(), context.get_stream(stream).await);
                match useless_since(found.as_ref().map(Stream::cached_info), asked) {
                    Some(since) => elsewhere.leave_useless(connection, status.generation, since).await,
                    None => elsewhere.useful(),
                }
            }
        }
    };
    stop.run_until_cancelled(looking).await;
}

/// Since when a server that was asked then has not been able to serve a stream; nothing if it is.
fn useless_since(found: Result<&Info, &GetStreamError>, asked: Instant) -> Option<Instant> {
    match found {
        Ok(info) => without_leader_since(info.cluster.as_ref()?, asked),
        Err(error) => match error.kind() {
            // It knows that, so it can tell of streams.
            GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => None,
            _ => Some(asked),
        },
    }
}

/// What the looks at the stream have found, on the connection that there is.
#[derive(Debug)]
pub struct Elsewhere {
    /// Number of the connection.
    generation: u64,
    /// Since when the server is of no use, and when that was seen first.
    useless: Option<(Instant, Instant)>,
    left_at: Option<Instant>,
    /// Time that has to pass until the next departure.
    pause: Duration,
}

impl Default for Elsewhere {
    fn default() -> Self {
        Self {
            generation: 0,
            useless: None,
            left_at: None,
            pause: AFTER,
        }
    }
}

impl Elsewhere {
    /// Notes that nobody can tell whether the server is of use, as where it is only slow.
    pub fn unknown(&mut self) {
        self.useless = None;
    }

    /// Notes that the server is of use.
    pub fn useful(&mut self) {
        self.useless = None;
        self.pause = AFTER;
    }

    /// Notes that a look by the connection of that number has found the server of no use, since then at least, and leaves it for
    /// another one if it is time to.
    pub async fn leave_useless(&mut self, connection: &Connection, generation: u64, since: Instant) {
        // There may be another connection by now.
        let is_it = connection.status().borrow().generation == generation;
        if is_it && self.useless(Instant::now(), generation, since) {
            tracing::warn!("this NATS server has not been able to serve the journal, so another one is tried");
            // A connection that hangs does not even take that; its pings will end it.
            let _ = tokio::time::timeout(LEAVE_TIMEOUT, connection.leave()).await;
        }
    }

    /// Notes that a look at this moment has found the server of no use, since then at least; returns whether to leave it now.
    /// Where that helps nobody, the next time is farther and farther off.
    fn useless(&mut self, now: Instant, generation: u64, since: Instant) -> bool {
        if generation != self.generation {
            (self.generation, self.useless) = (generation, None);
        }
        let (since, seen) = *self.useless.get_or_insert((since, now));
        let may = self.left_at.is_none_or(|left| now - left >= self.pause);
        if !may || now - since < AFTER || now - seen < SEEN_FOR {
            return false;
        }
        self.useless = None;
        self.left_at = Some(now);
        // So that all processes do not come and go at the same moments.
        self.pause = PAUSE_MAX.min(self.pause * 2) + Duration::from_millis(fastrand::u64(..2_000));
        true
    }
}

/// Since when the stream has no leader that most of its servers follow, as far as this server knows; nothing if it has one.
pub fn without_leader_since(cluster: &ClusterInfo, now: Instant) -> Option<Instant> {
    if cluster.leader.as_ref().is_none_or(String::is_empty) {
        return Some(now);
    }
    let silences = cluster.replicas.iter().map(|other| other.active);
    let silence = silence_of_most(silences.collect());
    (silence >= AFTER).then(|| now.checked_sub(silence).unwrap_or(now))
}

/// How long a leader has not heard of as many others as make a majority with itself.
fn silence_of_most(mut silences: Vec<Duration>) -> Duration {
    silences.sort_unstable();
    let needed = silences.len().div_ceil(2);
    needed.checked_sub(1).map_or(Duration::ZERO, |last| silences[last])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn cluster(leader: Option<&str>, silences: &[u32]) -> ClusterInfo {
        let replicas: Vec<_> = silences
            .iter()
            .map(|seconds| {
                let active = u64::from(*seconds) * 1_000_000_000;
                serde_json::json!({ "name": "n", "current": true, "active": active })
            })
            .collect();
        let cluster = serde_json::json!({ "leader": leader, "replicas": replicas });
        serde_json::from_value(cluster).unwrap()
    }

    #[test]
    fn a_leader_is_one_that_most_servers_follow() {
        let begin = Instant::now();
        let now = begin + 600 * SECOND;
        let since = |leader, silences: &[u32]| without_leader_since(&cluster(leader, silences), now);
        for followed in [&[][..], &[0, 1], &[0, 600], &[0, 0, 600, 600]] {
            assert_eq!(since(Some("n1"), followed), None, "{followed:?}");
        }
        assert_eq!(since(Some("n1"), &[9, 600]), Some(begin + 591 * SECOND));
        assert_eq!(since(Some("n1"), &[12]), Some(begin + 588 * SECOND));
        assert_eq!(since(Some("n1"), &[0, 600, 20, 600]), Some(begin + 580 * SECOND));
        // One that was the leader knows nothing of the others any more.
        assert_eq!(since(None, &[0, 0]), Some(now));
    }

    #[test]
    fn a_server_is_left_once_it_is_of_no_use_for_long_and_each_time_later() {
        let begin = Instant::now();
        let mut elsewhere = Elsewhere::default();
        let mut left = Vec::new();
        for second in 0..600 {
            let now = begin + second * SECOND;
            // Each departure leads to another connection.
            if elsewhere.useless(now, left.len() as u64, now) {
                left.push(second);
            }
        }
        let pauses: Vec<u32> = left.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(left[0], 8);
        assert!(
            (16..=19).contains(&pauses[0]) && (32..=38).contains(&pauses[1]),
            "{pauses:?}"
        );
        assert!(
            pauses[3..].iter().all(|pause| (120..=123).contains(pause)),
            "{pauses:?}"
        );
    }

    #[test]
    fn a_server_that_was_asleep_or_is_another_one_is_not_left_at_once() {
        let long_ago = Instant::now();
        let begin = long_ago + 100 * SECOND;
        let mut elsewhere = Elsewhere::default();
        assert!(!elsewhere.useless(begin, 1, long_ago));
        assert!(!elsewhere.useless(begin + SECOND, 1, long_ago));
        assert!(
            !elsewhere.useless(begin + 2 * SECOND, 2, long_ago),
            "another connection"
        );
        assert!(!elsewhere.useless(begin + 3 * SECOND, 2, long_ago));
        elsewhere.useful();
        assert!(!elsewhere.useless(begin + 4 * SECOND, 2, long_ago));
        assert!(!elsewhere.useless(begin + 5 * SECOND, 2, long_ago));
        assert!(elsewhere.useless(begin + 6 * SECOND, 2, long_ago));
    }
}
