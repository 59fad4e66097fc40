//! Who a token speaks for: Firebase ID tokens, those of any OIDC issuer, and tokens of a key pair of this machine.
//!
//! [`Keys`] holds the public keys of one issuer and says of a token whether it is right and what it claims; what its
//! bearer may do is the policy's business. Keys are fetched ahead of their age by one task, never by a request,
//! and known ones go on serving through an outage for [`OUTAGE_MAX`]. A token that was checked is remembered until it
//! ends, so a hot one costs a hash and a look-up. The algorithm is the configured one, never what the token says.

mod claims;
mod config;
pub mod dev;
mod fetch;
mod json;
mod refresh;
mod refused;
mod remembered;
mod set;
mod token;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use prometheus::IntCounter;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::fetch::Client;
use self::refresh::{Flights, Refresher};
use self::remembered::Remembered;
use self::set::KeySet;
use self::token::Token;
use crate::metrics::Metrics;

pub use self::claims::Claims;
pub use self::config::{Algorithm, Config, ConfigError, DEV_KEYS, Mode};
pub use self::refused::Refused;

/// Longest token in bytes. It is measured before anything of it is read.
pub const TOKEN_BYTES_MAX: usize = 4 * 1024;
/// How far the clock of an issuer may be ahead of ours.
pub const SKEW_MAX: time::Duration = time::Duration::seconds(60);
/// Longest that a token may last. So whoever revokes one knows when that can be forgotten.
pub const LIFE_MAX: time::Duration = time::Duration::days(366);
/// How long keys serve beyond their age while no newer ones can be had.
pub const OUTAGE_MAX: time::Duration = time::Duration::hours(24);
/// Longest that a token waits for the keys that are being fetched. A little more than a fetch may take.
const FETCH_PATIENCE: Duration = Duration::from_secs(12);

/// What a token must say, whoever signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rules {
    mode: Mode,
    issuer: String,
    audience: String,
    algorithms: Vec<Algorithm>,
    /// The claim that holds the rights, where they are no claims of their own.
    claim: Option<String>,
    /// The tenant of Firebase whose users may come; those of none, where there is none.
    tenant: Option<String>,
}

/// The keys of one issuer, and what was checked with them. Clones share both.
#[derive(Debug, Clone)]
pub struct Keys(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rules: Rules,
    set: RwLock<Arc<KeySet>>,
    /// Where the issuer gives tokens, as its discovery document said when it was last read.
    token_origin: RwLock<Option<String>>,
    flights: Flights,
    remembered: Remembered,
    metrics: Arc<Metrics>,
    // Looked up once: these two are counted for every request.
    accepted: IntCounter,
    recalled: IntCounter,
}

impl Keys {
    /// Reads the options, and starts fetching keys where they come from elsewhere; never waits for the network.
    ///
    /// # Errors
    /// Where an option is missing, contradicts another or breaks its rule, and where the key pair of `dev` can be neither
    /// read nor made.
    pub fn start(
        config: &Config,
        metrics: &Arc<Metrics>,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, ConfigError> {
        let (rules, source) = config.read()?;
        let set = match config.mode() {
            Mode::Dev => KeySet::fixed(dev::KeyPair::open(config.dev_keys())?.public()),
            _ => KeySet::default(),
        };
        let keys = Self::of(rules, set, metrics, source.is_some());
        if let Some(source) = source {
            let refresher = Refresher::new(Arc::clone(&keys.0), source, Client::new());
            tasks.spawn(refresher.run(stop));
        }
        Ok(keys)
    }

    fn of(rules: Rules, set: KeySet, metrics: &Arc<Metrics>, fetches: bool) -> Self {
        metrics.keys.set(i64::try_from(set.len()).unwrap_or(i64::MAX));
        Self(Arc::new(Inner {
            rules,
            set: RwLock::new(Arc::new(set)),
            token_origin: RwLock::default(),
            flights: Flights::new(fetches),
            remembered: Remembered::default(),
            metrics: Arc::clone(metrics),
            accepted: metrics.token_checks.with_label_values(&["accepted"]),
            recalled: metrics.token_checks.with_label_values(&["remembered"]),
        }))
    }

    /// Who says who a caller is. With [`Mode::Off`] nobody is asked, and no token is right.
    pub fn mode(&self) -> Mode {
        self.0.rules.mode
    }

    /// The origin at which the issuer gives tokens, by its discovery document; nothing where that was not read.
    pub fn token_origin(&self) -> Option<String> {
        let origin = self.0.token_origin.read().unwrap_or_else(PoisonError::into_inner);
        origin.clone()
    }

    /// Checks a token, as it was sent, at the time `now`.
    ///
    /// It waits only where the token names a key that is not known and may be fetched, at most once in 30 s for all
    /// tokens together. Cancel safe.
    ///
    /// # Errors
    /// [`Refused`], which is counted by its word. Of these [`Refused::KeysUnavailable`] says nothing about the token.
    pub async fn verify(&self, token: &str, now: OffsetDateTime) -> Result<Claims, Refused> {
        match self.check(token, now).await {
            Ok((claims, recalled)) => {
                let counter = if recalled { &self.0.recalled } else { &self.0.accepted };
                counter.inc();
                Ok(claims)
            }
            Err(refused) => {
                self.0.metrics.token_checks.with_label_values(&[refused.word()]).inc();
                Err(refused)
            }
        }
    }

    async fn check(&self, text: &str, now: OffsetDateTime) -> Result<(Claims, bool), Refused> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(Refused::TooLarge);
        }
        let inner = &*self.0;
        let set = inner.set();
        let name = sha256(text.as_bytes());
        if set.serves(now)
            && let Some(claims) = inner.remembered.get(&name, set.epoch(), now)
        {
            return Ok((claims, true));
        }
        let token = Token::read(text)?;
        let Some(algorithm) = inner.rules.algorithm(&token) else {
            return Err(inner.instead(&token, Refused::Algorithm));
        };
        let Some(kid) = token.kid() else {
            return Err(inner.instead(&token, Refused::UnknownKey));
        };
        let set = inner.set_with(set, kid, &token, now).await?;
        let Some(key) = set.find(kid, algorithm) else {
            return Err(Refused::Algorithm);
        };
        if !key.has_signed(token.signed(), &token.signature()?) {
            return Err(Refused::Signature);
        }
        let claims = Claims::read(&token.payload()?, token.signed(), &inner.rules, now)?;
        inner.remembered.put(name, set.epoch(), claims.clone());
        Ok((claims, false))
    }
}

impl Inner {
    fn set(&self) -> Arc<KeySet> {
        Arc::clone(&self.set.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, set: KeySet) {
        self.metrics.keys.set(i64::try_from(set.len()).unwrap_or(i64::MAX));
        *self.set.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(set);
    }

    fn put_token_origin(&self, origin: Option<String>) {
        *self.token_origin.write().unwrap_or_else(PoisonError::into_inner) = origin;
    }

    /// The keys that have this one; those at hand, or those that a fetch brings.
    async fn set_with(
        &self,
        at_hand: Arc<KeySet>,
        kid: &str,
        token: &Token<'_>,
        now: OffsetDateTime,
    ) -> Result<Arc<KeySet>, Refused> {
        if at_hand.serves(now) {
            if at_hand.has(kid) {
                return Ok(at_hand);
            }
            if claims::is_custom_token(self.rules.mode, token) {
                return Err(Refused::CustomToken);
            }
        }
        if self.rules.mode == Mode::Dev || self.rules.mode == Mode::Off {
            return Err(Refused::UnknownKey);
        }
        self.flights.landed(FETCH_PATIENCE).await;
        let set = self.set();
        if !set.serves(now) {
            return Err(Refused::KeysUnavailable);
        }
        if set.has(kid) {
            return Ok(set);
        }
        // Old keys cannot tell a made-up name from that of a new key, and the bearer of a right token is not to be sent away.
        Err(if set.is_fresh(now) {
            Refused::UnknownKey
        } else {
            Refused::KeysUnavailable
        })
    }

    /// The reason that helps, where a token is of the kind that is often sent by mistake.
    fn instead(&self, token: &Token<'_>, refused: Refused) -> Refused {
        if claims::is_custom_token(self.rules.mode, token) {
            Refused::CustomToken
        } else {
            refused
        }
    }
}

impl Rules {
    /// The configured algorithm that the token names.
    fn algorithm(&self, token: &Token<'_>) -> Option<Algorithm> {
        self.algorithms
            .iter()
            .copied()
            .find(|algorithm| algorithm.word() == token.algorithm())
    }
}

/// A token of which nothing was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unchecked {
    /// Its name, as [`Claims::token_id`].
    pub token_id: String,
    /// When it ends; nothing where it does not say.
    pub expires_at: Option<OffsetDateTime>,
}

/// What a token says of itself, to let it count no more.
///
/// # Errors
/// [`Refused::Malformed`] if it is no token.
pub fn unchecked(text: &str) -> Result<Unchecked, Refused> {
    if text.len() > TOKEN_BYTES_MAX {
        return Err(Refused::TooLarge);
    }
    let token = Token::read(text)?;
    let claims = token.payload()?;
    Ok(Unchecked {
        token_id: claims::token_id(&claims, token.signed()),
        expires_at: claims::end(&claims),
    })
}

/// Whether two texts are the same, in a time that does not tell where they differ.
pub fn is_same_secret(one: &str, other: &str) -> bool {
    verify_slices_are_equal(&sha256(one.as_bytes()), &sha256(other.as_bytes())).is_ok()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
    text
}

#[cfg(test)]
mod tests;
