//! Keeping the keys fresh: one task fetches them ahead of their age, and once when a token names one that is not known.
//!
//! Requests never fetch. They may ask the task to, and wait for it; all that wait have the same flight.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fetch::{Address, Client, Document, FetchError};
use super::set::{KeySet, SetError};
use super::{Algorithm, Inner};
use crate::core::error_chain;
use crate::core::retry::Backoff;

/// Shortest time between two flights that tokens with unknown keys cause.
const DEMAND_PAUSE: Duration = Duration::from_secs(30);
/// Tokens that may wait for a flight at once; one more is answered as if it had landed.
const WAITING_MAX: usize = 1_024;
/// The part of their age after which keys are fetched again, with as much jitter.
const AHEAD: f64 = 0.75;
const AHEAD_JITTER: f64 = 0.15;
/// Pauses after a failure, while there are no keys that serve, and while there are.
const URGENT: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));
const PATIENT: Backoff = Backoff::new(Duration::from_mins(1), Duration::from_mins(5));

/// Where the keys are.
#[derive(Debug, Clone)]
pub(super) struct Source {
    place: Place,
    algorithms: Vec<Algorithm>,
}

#[derive(Debug, Clone)]
enum Place {
    Keys(Address),
    Discovery { document: Address, issuer: String },
}

impl Source {
    /// At an address.
    pub(super) fn keys(address: Address, algorithms: &[Algorithm]) -> Self {
        Self {
            place: Place::Keys(address),
            algorithms: algorithms.to_vec(),
        }
    }

    /// Where the discovery document of an issuer says.
    pub(super) fn discovery(document: Address, issuer: &str, algorithms: &[Algorithm]) -> Self {
        Self {
            place: Place::Discovery {
                document,
                issuer: issuer.to_owned(),
            },
            algorithms: algorithms.to_vec(),
        }
    }
}

/// Why there are no newer keys.
#[derive(Debug, thiserror::Error)]
enum RefreshError {
    #[error("{0}")]
    Fetch(String, #[source] FetchError),
    #[error("what {0} answered has no keys")]
    Set(String, #[source] SetError),
    #[error("the discovery document of {0} is none")]
    Discovery(String),
    #[error(
        "the discovery document of {0} is of another issuer than EZOUT_AUTH_ISSUER; write it exactly as it stands there"
    )]
    Issuer(String),
    #[error("the address of the keys that {0} tells {1}")]
    KeysAddress(String, &'static str),
}

impl RefreshError {
    const fn word(&self) -> &'static str {
        match self {
            Self::Fetch(_, FetchError::Unreachable(_)) => "unreachable",
            Self::Fetch(_, FetchError::TimedOut) => "timed_out",
            Self::Fetch(_, FetchError::Status(_)) => "status",
            Self::Fetch(_, FetchError::TooLarge) => "too_large",
            Self::Set(..) | Self::Discovery(_) | Self::KeysAddress(..) => "unreadable",
            Self::Issuer(_) => "issuer",
        }
    }
}

/// What requests and the task tell each other.
#[derive(Debug)]
pub(super) struct Flights {
    state: Mutex<State>,
    wanted: Notify,
    landed: watch::Sender<()>,
    places: Semaphore,
}

#[derive(Debug)]
struct State {
    /// Whether a flight is under way, or will be at once.
    flying: bool,
    /// When a token last caused one.
    demanded_at: Option<Instant>,
    /// Whether there is nobody to fly.
    closed: bool,
}

impl Flights {
    /// Nothing has flown. Where keys are fetched, the first flight counts as begun.
    pub(super) fn new(fetches: bool) -> Self {
        Self {
            state: Mutex::new(State {
                flying: fetches,
                demanded_at: None,
                closed: !fetches,
            }),
            wanted: Notify::new(),
            landed: watch::Sender::new(()),
            places: Semaphore::new(WAITING_MAX),
        }
    }

    /// Waits for the flight that is under way, or for a new one if it is time for one; else does not wait.
    pub(super) async fn landed(&self, patience: Duration) {
        let Ok(_place) = self.places.try_acquire() else {
            return;
        };
        let Some(mut landed) = self.board(Instant::now()) else {
            return;
        };
        let _ = tokio::time::timeout(patience, landed.changed()).await;
    }

    fn board(&self, now: Instant) -> Option<watch::Receiver<()>> {
        let mut state = self.state();
        if state.closed {
            return None;
        }
        // Made under the lock, so the landing of the flight that is under way cannot be missed.
        let landed = self.landed.subscribe();
        if !state.flying {
            let early = |at: Instant| now.duration_since(at) < DEMAND_PAUSE;
            if state.demanded_at.is_some_and(early) {
                return None;
            }
            state.flying = true;
            state.demanded_at = Some(now);
            self.wanted.notify_one();
        }
        Some(landed)
    }

    /// Begins a flight that is due. A token that caused the same one a moment ago has it, and causes no second.
    async fn begin(&self) {
        let caused = std::mem::replace(&mut self.state().flying, true);
        if caused {
            self.wanted.notified().await;
        }
    }

    fn end(&self, closed: bool) {
        let mut state = self.state();
        state.flying = false;
        state.closed = closed;
        self.landed.send_replace(());
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task.
#[derive(Debug)]
pub(super) struct Refresher {
    keys: Arc<Inner>,
    source: Source,
    client: Client,
    /// Where the discovery document said that the keys are, until that fails or is a day old.
    found: Option<(Address, Instant)>,
}

/// How long the address from a discovery document is believed.
const FOUND_MAX: Duration = Duration::from_hours(24);

impl Refresher {
    pub(super) fn new(keys: Arc<Inner>, source: Source, client: Client) -> Self {
        Self {
            keys,
            source,
            client,
            found: None,
        }
    }

    /// Fetches until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let keys = Arc::clone(&self.keys);
        stop.run_until_cancelled(self.fly()).await;
        keys.flights.end(true);
    }

    async fn fly(&mut self) {
        let (mut urgent, mut patient) = (URGENT, PATIENT);
        loop {
            let pause = match self.refresh().await {
                Ok(lasts) => {
                    (urgent, patient) = (URGENT, PATIENT);
                    lasts.mul_f64(AHEAD + AHEAD_JITTER * fastrand::f64())
                }
                Err(error) => {
                    let pause = if self.keys.set().serves(OffsetDateTime::now_utc()) {
                        patient.next_pause()
                    } else {
                        urgent.next_pause()
                    };
                    let metrics = &self.keys.metrics;
                    metrics.key_fetches.with_label_values(&[error.word()]).inc();
                    tracing::warn!(
                        "the keys of tokens were not fetched: {}; trying again in {:.0} s",
                        error_chain(&error),
                        pause.as_secs_f64()
                    );
                    self.found = None;
                    pause
                }
            };
            self.keys.flights.end(false);
            tokio::select! {
                () = tokio::time::sleep(pause) => self.keys.flights.begin().await,
                () = self.keys.flights.wanted.notified() => {}
            }
        }
    }

    /// One flight: the newest keys, and how long they last.
    async fn refresh(&mut self) -> Result<Duration, RefreshError> {
        let address = self.address().await?;
        let document = self.get(&address).await?;
        let set = KeySet::read(&document.bytes, &self.source.algorithms)
            .map_err(|error| RefreshError::Set(address.server().to_owned(), error))?;
        let now = OffsetDateTime::now_utc();
        let lasts = time::Duration::try_from(document.lasts).unwrap_or(time::Duration::MINUTE);
        let before = self.keys.set();
        self.keys.put(set.after(&before, now, lasts));
        let metrics = &self.keys.metrics;
        metrics.key_fetches.with_label_values(&["fetched"]).inc();
        metrics.keys_fetched.set(now.unix_timestamp());
        Ok(document.lasts)
    }

    async fn address(&mut self) -> Result<Address, RefreshError> {
        let (document, issuer) = match &self.source.place {
            Place::Keys(address) => return Ok(address.clone()),
            Place::Discovery { document, issuer } => (document.clone(), issuer.clone()),
        };
        if let Some((address, _)) = self.found.as_ref().filter(|(_, at)| at.elapsed() < FOUND_MAX) {
            return Ok(address.clone());
        }
        let server = || document.server().to_owned();
        let answer = self.get(&document).await?;
        let answer: Value = serde_json::from_slice(&answer.bytes).map_err(|_| RefreshError::Discovery(server()))?;
        let text = |name: &str| answer.get(name).and_then(Value::as_str);
        let said = text("issuer").ok_or_else(|| RefreshError::Discovery(server()))?;
        if said != issuer {
            return Err(RefreshError::Issuer(server()));
        }
        // The page asks for tokens there. An address that cannot be one is none, and no reason to be without keys.
        let token_endpoint = text("token_endpoint").and_then(|text| Address::parse(text).ok());
        self.keys
            .put_token_origin(token_endpoint.map(|address| address.origin()));
        let keys = text("jwks_uri").ok_or_else(|| RefreshError::Discovery(server()))?;
        let address = Address::parse(keys).map_err(|rule| RefreshError::KeysAddress(server(), rule))?;
        self.found = Some((address.clone(), Instant::now()));
        Ok(address)
    }

    async fn get(&self, address: &Address) -> Result<Document, RefreshError> {
        let got = self.client.get(address).await;
        got.map_err(|error| RefreshError::Fetch(address.server().to_owned(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_cause_one_flight_in_thirty_seconds_and_share_one_that_is_under_way() {
        let flights = Flights::new(true);
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        // The first one, which no token has caused, is shared and does not count.
        let mut first = flights.board(begin).unwrap();
        assert!(!first.has_changed().unwrap());
        flights.end(false);
        assert!(first.has_changed().unwrap());
        first.mark_unchanged();
        let second = flights.board(after(1)).unwrap();
        assert!(flights.board(after(2)).is_some(), "it is under way");
        flights.end(false);
        assert!(second.has_changed().unwrap());
        assert!(flights.board(after(2)).is_none());
        assert!(flights.board(after(30)).is_none());
        assert!(flights.board(after(31)).is_some());
        flights.end(true);
        assert!(flights.board(after(99)).is_none(), "nobody flies any more");
    }
}
