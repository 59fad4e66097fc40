//! The options of access, and what they ask for.

use std::path::{Path, PathBuf};

use super::fetch::Address;
use super::refresh::Source;
use super::{Rules, dev};

/// Where Google publishes the keys of Firebase, as a JWK set.
const FIREBASE_KEYS: &str = "https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com";

/// Where the key pair of this machine is, unless something else is said.
pub const DEV_KEYS: &str = ".ezout/keys";

/// Who says who a caller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Firebase Authentication.
    Firebase,
    /// Any issuer of OIDC.
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
    /// Who says who a caller is: `firebase`, an issuer of `oidc`, the key pair of this machine (`dev`, with `ezout token`), or nobody (`off`): everybody may do everything, and only from this machine. Without it: `off`, and `dev` with `ezout dev`
    #[arg(long = "auth", env = "EZOUT_AUTH", value_enum)]
    pub mode: Option<Mode>,

    /// The project of Firebase whose users may come. Needed by `firebase`
    #[arg(long = "auth-project", env = "EZOUT_AUTH_PROJECT", value_name = "ID")]
    pub project: Option<String>,

    /// The tenant of the project whose users may come, where it has tenants (Identity Platform). Without it: users of no tenant, and those of every tenant are refused
    #[arg(long = "auth-tenant", env = "EZOUT_AUTH_TENANT", value_name = "ID")]
    pub tenant: Option<String>,

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

    /// Folder of the key pair of `dev`, which is made at its first use. Without it: `.ezout/keys`, and `keys` in the data folder with `ezout dev`
    #[arg(long = "auth-dev-keys", env = "EZOUT_AUTH_DEV_KEYS", value_name = "FOLDER")]
    pub dev_keys: Option<PathBuf>,
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

impl Config {
    /// Who says who a caller is; nobody, where nothing is said about it.
    pub fn mode(&self) -> Mode {
        self.mode.unwrap_or(Mode::Off)
    }

    /// The folder of the key pair of this machine.
    pub fn dev_keys(&self) -> &Path {
        self.dev_keys.as_deref().unwrap_or(Path::new(DEV_KEYS))
    }

    /// What the options ask for, and where the keys come from if not from this machine.
    pub(super) fn read(&self) -> Result<(Rules, Option<Source>), ConfigError> {
        self.refuse_contradictions()?;
        match self.mode() {
            Mode::Firebase => self.firebase(),
            Mode::Oidc => self.oidc(),
            Mode::Dev | Mode::Off => {
                let rules = Rules {
                    mode: self.mode(),
                    issuer: dev::ISSUER.to_owned(),
                    audience: dev::AUDIENCE.to_owned(),
                    algorithms: vec![Algorithm::EdDsa],
                    claim: None,
                    tenant: None,
                };
                Ok((rules, None))
            }
        }
    }

    fn refuse_contradictions(&self) -> Result<(), ConfigError> {
        let (firebase, oidc) = (self.mode() == Mode::Firebase, self.mode() == Mode::Oidc);
        let signs = self.algorithms != [Algorithm::Rs256];
        let given = |option: &Option<String>| said(option.as_ref()).is_some();
        let either = "firebase or oidc";
        for (option, is_given, fits, is_fit) in [
            ("EZOUT_AUTH_PROJECT", given(&self.project), "firebase", firebase),
            ("EZOUT_AUTH_TENANT", given(&self.tenant), "firebase", firebase),
            ("EZOUT_AUTH_ISSUER", given(&self.issuer), "oidc", oidc),
            ("EZOUT_AUTH_AUDIENCE", given(&self.audience), "oidc", oidc),
            ("EZOUT_AUTH_CLAIM", given(&self.claim), "oidc", oidc),
            ("EZOUT_AUTH_ALGORITHMS", signs, "oidc", oidc),
            ("EZOUT_AUTH_KEYS_URL", given(&self.keys_url), either, firebase || oidc),
        ] {
            if is_given && !is_fit {
                let mode = self.mode().word();
                return Err(ConfigError::Contradicting { mode, option, fits });
            }
        }
        Ok(())
    }

    fn firebase(&self) -> Result<(Rules, Option<Source>), ConfigError> {
        let project = self.needed(
            "EZOUT_AUTH_PROJECT",
            self.project.as_ref(),
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
            mode: self.mode(),
            issuer: format!("https://securetoken.google.com/{project}"),
            audience: project.to_owned(),
            algorithms: vec![Algorithm::Rs256],
            claim: None,
            tenant: said(self.tenant.as_ref()).map(str::to_owned),
        };
        let keys = address(
            "EZOUT_AUTH_KEYS_URL",
            said(self.keys_url.as_ref()).unwrap_or(FIREBASE_KEYS),
        )?;
        Ok((rules, Some(Source::keys(keys, &[Algorithm::Rs256]))))
    }

    fn oidc(&self) -> Result<(Rules, Option<Source>), ConfigError> {
        let issuer = self.needed(
            "EZOUT_AUTH_ISSUER",
            self.issuer.as_ref(),
            "the issuer's address as it stands in the claim iss",
        )?;
        let audience = self.needed(
            "EZOUT_AUTH_AUDIENCE",
            self.audience.as_ref(),
            "what stands in the claim aud of tokens for this service",
        )?;
        if self.algorithms.is_empty() {
            return Err(ConfigError::Invalid {
                option: "EZOUT_AUTH_ALGORITHMS",
                rule: "must name at least one of RS256, ES256, EdDSA",
            });
        }
        let source = if let Some(url) = said(self.keys_url.as_ref()) {
            Source::keys(address("EZOUT_AUTH_KEYS_URL", url)?, &self.algorithms)
        } else {
            let document = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
            Source::discovery(address("EZOUT_AUTH_ISSUER", &document)?, issuer, &self.algorithms)
        };
        let rules = Rules {
            mode: self.mode(),
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
            algorithms: self.algorithms.clone(),
            claim: said(self.claim.as_ref()).map(str::to_owned),
            tenant: None,
        };
        Ok((rules, Some(source)))
    }

    fn needed<'a>(
        &self,
        option: &'static str,
        value: Option<&'a String>,
        what: &'static str,
    ) -> Result<&'a str, ConfigError> {
        let mode = self.mode().word();
        said(value).ok_or(ConfigError::Missing { mode, option, what })
    }
}

/// What an option says. A variable that is set to nothing says nothing.
fn said(option: Option<&String>) -> Option<&str> {
    option.map(|text| text.trim()).filter(|text| !text.is_empty())
}

impl Algorithm {
    /// Its name in the header of a token and in a key.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    pub(super) const fn jsonwebtoken(self) -> jsonwebtoken::Algorithm {
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
