//! Who a token speaks for: Firebase ID tokens, those of any OIDC issuer, and tokens of a key pair of this machine.
//!
//! [`Keys`] holds the public keys of one issuer and says of a token whether it is right and what it claims; what its
//! bearer may do is the policy's business. Keys are fetched ahead of their age by one task, never by a request,
//! and known ones go on serving through an outage for [`OUTAGE_MAX`]. A token that was checked is remembered until it
//! ends, so a hot one costs a hash and a look-up. The algorithm is the configured one, never what the token says.

mod claims;
pub mod dev;
mod fetch;
mod json;
mod refresh;
mod refused;
mod remembered;
mod set;
mod token;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use prometheus::IntCounter;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::fetch::{Address, Client};
use self::refresh::{Flights, Refresher, Source};
use self::remembered::Remembered;
use self::set::KeySet;
use self::token::Token;
use crate::metrics::Metrics;

pub use self::claims::Claims;
pub use self::refused::Refused;

/// Longest token in bytes. It is measured before anything of it is read.
pub const TOKEN_BYTES_MAX: usize = 4 * 1024;
/// How far the clock of an issuer may be ahead of ours.
pub const SKEW_MAX: time::Duration = time::Duration::seconds(60);
/// How long keys serve beyond their age while no newer ones can be had.
pub const OUTAGE_MAX: time::Duration = time::Duration::hours(24);
/// Where Google publishes the keys of Firebase, as a JWK set.
const FIREBASE_KEYS: &str = "https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com";
/// Longest that a token waits for the keys that are being fetched. A little more than a fetch may take.
const FETCH_PATIENCE: Duration = Duration::from_secs(12);

/// Who says who a caller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Firebase Authentication.
    Firebase,
    /// An issuer that speaks OpenID Connect.
    Oidc,
    /// A key pair of this machine.
    Dev,
    /// Nobody.
    Off,
}

impl Mode {
    const fn word(self) -> &'static str {
        match self {
            Self::Firebase => "firebase",
            Self::Oidc => "oidc",
            Self::Dev => "dev",
            Self::Off => "off",
        }
    }
}

/// How a token may be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Algorithm {
    /// RSA with SHA-256.
    #[value(name = "RS256")]
    Rs256,
    /// The curve P-256 with SHA-256.
    #[value(name = "ES256")]
    Es256,
    /// The curve Ed25519.
    #[value(name = "EdDSA")]
    EdDsa,
}

/// Who is believed about who a caller is.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Who says who a caller is: `firebase`, an issuer of `oidc`, the key pair of this machine (`dev`, with `ezout token`), or nobody (`off`): everybody may do everything
    #[arg(long = "auth", env = "EZOUT_AUTH", value_enum, default_value_t = Mode::Off)]
    pub mode: Mode,

    /// The project of Firebase whose users may come. Needed by `firebase`
    #[arg(long = "auth-project", env = "EZOUT_AUTH_PROJECT", value_name = "ID")]
    pub project: Option<String>,

    /// The issuer, exactly as it stands in its tokens; its keys are found by its discovery document. Needed by `oidc`
    #[arg(long = "auth-issuer", env = "EZOUT_AUTH_ISSUER", value_name = "URL")]
    pub issuer: Option<String>,

    /// For whom the issuer's tokens must be, as one text. Needed by `oidc`
    #[arg(long = "auth-audience", env = "EZOUT_AUTH_AUDIENCE", value_name = "TEXT")]
    pub audience: Option<String>,

    /// How the issuer of `oidc` signs, separated by commas. What a token says of itself is only compared with it
    #[arg(
        long = "auth-algorithms",
        env = "EZOUT_AUTH_ALGORITHMS",
        value_enum,
        value_delimiter = ',',
        default_value = "RS256"
    )]
    pub algorithms: Vec<Algorithm>,

    /// The claim of `oidc` that holds role, shops and `shopper_id` in one object. Without it: they are claims of their own
    #[arg(long = "auth-claim", env = "EZOUT_AUTH_CLAIM", value_name = "NAME")]
    pub claim: Option<String>,

    /// Where the public keys are, as a JWK set or a map of certificates; https, or http on this machine. Without it: at Google for `firebase`, where the discovery document says for `oidc`
    #[arg(long = "auth-keys-url", env = "EZOUT_AUTH_KEYS_URL", value_name = "URL")]
    pub keys_url: Option<String>,

    /// Folder of the key pair of `dev`, which is made at its first use
    #[arg(
        long = "auth-dev-keys",
        env = "EZOUT_AUTH_DEV_KEYS",
        value_name = "FOLDER",
        default_value = ".ezout/keys"
    )]
    pub dev_keys: PathBuf,
}

/// Why tokens cannot be checked as the options ask. Each says what to set.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// An option that the mode needs is not there.
    #[error("EZOUT_AUTH={mode} needs {option}; set it to {what}")]
    Missing {
        /// The value of `EZOUT_AUTH`.
        mode: &'static str,
        /// The variable to set.
        option: &'static str,
        /// What belongs there.
        what: &'static str,
    },
    /// An option means nothing in this mode, so somebody expects what would not happen.
    #[error("{option} has no meaning with EZOUT_AUTH={mode}; take it away, or set EZOUT_AUTH to {fits}")]
    Contradicting {
        /// The value of `EZOUT_AUTH`.
        mode: &'static str,
        /// The variable that is too much.
        option: &'static str,
        /// The modes in which it means something.
        fits: &'static str,
    },
    /// An option's value breaks its rule.
    #[error("{option} {rule}")]
    Invalid {
        /// The variable.
        option: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// The key pair of this machine cannot be had.
    #[error("EZOUT_AUTH_DEV_KEYS")]
    Dev(#[from] dev::DevError),
}

/// What a token must say, whoever signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rules {
    mode: Mode,
    issuer: String,
    audience: String,
    algorithms: Vec<Algorithm>,
    /// The claim that holds the rights, where they are no claims of their own.
    claim: Option<String>,
}

/// The keys of one issuer, and what was checked with them. Clones share both.
#[derive(Debug, Clone)]
pub struct Keys(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rules: Rules,
    set: RwLock<Arc<KeySet>>,
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
        let set = match config.mode {
            Mode::Dev => KeySet::fixed(dev::KeyPair::open(&config.dev_keys)?.public()),
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

impl Config {
    /// What the options ask for, and where the keys come from if not from this machine.
    fn read(&self) -> Result<(Rules, Option<Source>), ConfigError> {
        let mode = self.mode;
        let only = |option, given: bool, fits, in_mode: bool| {
            if given && !in_mode {
                let mode = mode.word();
                return Err(ConfigError::Contradicting { mode, option, fits });
            }
            Ok(())
        };
        let (firebase, oidc) = (mode == Mode::Firebase, mode == Mode::Oidc);
        only("EZOUT_AUTH_PROJECT", self.project.is_some(), "firebase", firebase)?;
        only("EZOUT_AUTH_ISSUER", self.issuer.is_some(), "oidc", oidc)?;
        only("EZOUT_AUTH_AUDIENCE", self.audience.is_some(), "oidc", oidc)?;
        only("EZOUT_AUTH_CLAIM", self.claim.is_some(), "oidc", oidc)?;
        only(
            "EZOUT_AUTH_ALGORITHMS",
            self.algorithms != [Algorithm::Rs256],
            "oidc",
            oidc,
        )?;
        only(
            "EZOUT_AUTH_KEYS_URL",
            self.keys_url.is_some(),
            "firebase or oidc",
            firebase || oidc,
        )?;
        let keys_url = self
            .keys_url
            .as_deref()
            .map(|url| address("EZOUT_AUTH_KEYS_URL", url))
            .transpose()?;
        Ok(match mode {
            Mode::Firebase => {
                let project = self.needed(
                    "EZOUT_AUTH_PROJECT",
                    self.project.as_deref(),
                    "the id of your Firebase project",
                )?;
                if !project
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-.:".contains(&byte))
                {
                    return Err(ConfigError::Invalid {
                        option: "EZOUT_AUTH_PROJECT",
                        rule: "must be the id of a project, such as my-shop-1a2b, and no address or name",
                    });
                }
                let rules = Rules {
                    mode,
                    issuer: format!("https://securetoken.google.com/{project}"),
                    audience: project.to_owned(),
                    algorithms: vec![Algorithm::Rs256],
                    claim: None,
                };
                let keys = match keys_url {
                    Some(address) => address,
                    None => address("EZOUT_AUTH_KEYS_URL", FIREBASE_KEYS)?,
                };
                (rules, Some(Source::keys(keys, &[Algorithm::Rs256])))
            }
            Mode::Oidc => {
                let issuer = self.needed(
                    "EZOUT_AUTH_ISSUER",
                    self.issuer.as_deref(),
                    "the issuer's address as it stands in the claim iss",
                )?;
                let audience = self.needed(
                    "EZOUT_AUTH_AUDIENCE",
                    self.audience.as_deref(),
                    "what stands in the claim aud of tokens for this service",
                )?;
                if self.algorithms.is_empty() {
                    return Err(ConfigError::Invalid {
                        option: "EZOUT_AUTH_ALGORITHMS",
                        rule: "must name at least one of RS256, ES256, EdDSA",
                    });
                }
                let source = match keys_url {
                    Some(address) => Source::keys(address, &self.algorithms),
                    None => Source::discovery(
                        address(
                            "EZOUT_AUTH_ISSUER",
                            &format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')),
                        )?,
                        issuer,
                        &self.algorithms,
                    ),
                };
                let rules = Rules {
                    mode,
                    issuer: issuer.to_owned(),
                    audience: audience.to_owned(),
                    algorithms: self.algorithms.clone(),
                    claim: self.claim.clone(),
                };
                (rules, Some(source))
            }
            Mode::Dev | Mode::Off => {
                let rules = Rules {
                    mode,
                    issuer: dev::ISSUER.to_owned(),
                    audience: dev::AUDIENCE.to_owned(),
                    algorithms: vec![Algorithm::EdDsa],
                    claim: None,
                };
                (rules, None)
            }
        })
    }

    fn needed<'a>(
        &self,
        option: &'static str,
        value: Option<&'a str>,
        what: &'static str,
    ) -> Result<&'a str, ConfigError> {
        let mode = self.mode.word();
        value
            .map(str::trim)
            .filter(|value| !value.is_empty())
            .ok_or(ConfigError::Missing { mode, option, what })
    }
}

impl Algorithm {
    /// Its name in the header of a token and in a key.
    const fn word(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    const fn jsonwebtoken(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

fn address(option: &'static str, url: &str) -> Result<Address, ConfigError> {
    Address::parse(url).map_err(|rule| ConfigError::Invalid { option, rule })
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
