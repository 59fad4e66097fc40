//! What the page is told, and what it may load and ask.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use axum::http::HeaderValue;
use serde_json::{Value, json};

use crate::core::id::ShopId;
use crate::core::policy::Role;
use crate::keys::{self, Mode};

/// Who may be chosen where anybody may be anybody.
const PEOPLE: [(&str, Role); 3] = [("Mia", Role::Merchant), ("Sam", Role::Support), ("Ada", Role::Admin)];

/// What the page is told.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Where browsers reach Resgate, such as `wss://live.example/`; the page can then take its live updates from there. Without it: it takes Server-Sent Events, which need nothing, and with `ezout dev` the Resgate that it has started.
    #[arg(long = "web-resgate-url", env = "EZOUT_WEB_RESGATE_URL", value_name = "URL")]
    pub resgate_url: Option<String>,

    /// Key of the web app of your Firebase project, with which the page signs people in. Without it: they paste a token.
    #[arg(
        long = "web-firebase-api-key",
        env = "EZOUT_WEB_FIREBASE_API_KEY",
        value_name = "KEY"
    )]
    pub firebase_api_key: Option<String>,

    /// Name that the issuer of `oidc` knows the page by; it signs people in with a code and PKCE. Where `EZOUT_AUTH_KEYS_URL` is set, which leaves the discovery document unread, the issuer has to give tokens at its own origin. Without it: they paste a token.
    #[arg(long = "web-oidc-client", env = "EZOUT_WEB_OIDC_CLIENT", value_name = "ID")]
    pub oidc_client: Option<String>,

    /// The shop that somebody sees first who tries it.
    #[arg(skip)]
    pub shop: Option<ShopId>,
}

/// Why the page cannot be told what the options say.
#[derive(Debug, thiserror::Error)]
#[error("{option} {rule}")]
pub struct ConfigError {
    option: &'static str,
    rule: &'static str,
}

/// What the page is told, and what it may load and ask.
#[derive(Debug)]
pub(in crate::http) struct Web {
    pub(super) config: String,
    allowed: Allowed,
    /// Whether the page signs people in at the issuer of `oidc`.
    asks_issuer: bool,
    /// The folder of the key pair, where anybody on this machine may be anybody.
    pub(super) dev_keys: Option<PathBuf>,
}

impl Web {
    /// The page of a service that asks nobody who they are.
    pub(in crate::http) fn plain() -> Self {
        Self::of(json!({ "kind": "off" }), None, None, Allowed::default())
    }

    /// The page as the options say.
    pub(in crate::http) fn new(config: &Config, keys: &keys::Config, http: SocketAddr) -> Result<Self, ConfigError> {
        let mut allowed = Allowed::default();
        let resgate = said(config.resgate_url.as_deref());
        if let Some(url) = resgate {
            let origin = origin_of(url, &["ws", "wss"]).ok_or(ConfigError {
                option: "EZOUT_WEB_RESGATE_URL",
                rule: "must be where browsers reach Resgate, such as wss://live.example/",
            })?;
            allowed.0.insert(origin);
        }
        let dev_keys = (keys.mode() == Mode::Dev && http.ip().is_loopback()).then(|| keys.dev_keys().to_owned());
        let auth = match keys.mode() {
            Mode::Off => json!({ "kind": "off" }),
            Mode::Dev if dev_keys.is_some() => {
                let people = PEOPLE.map(|(name, role)| json!({ "name": name, "role": role.word() }));
                json!({ "kind": "dev", "people": people, "shop": config.shop.map(|shop| shop.to_string()) })
            }
            Mode::Firebase => firebase(config, keys, &mut allowed),
            Mode::Oidc => oidc(config, keys, &mut allowed)?,
            Mode::Dev => json!({ "kind": "token" }),
        };
        Ok(Self::of(auth, resgate, dev_keys, allowed))
    }

    #[expect(clippy::needless_pass_by_value, reason = "it becomes part of what is told")]
    fn of(auth: Value, resgate: Option<&str>, dev_keys: Option<PathBuf>, allowed: Allowed) -> Self {
        let asks_issuer = auth["kind"] == "oidc";
        let resgate = resgate.map(|url| json!({ "url": url }));
        let config = json!({ "version": env!("CARGO_PKG_VERSION"), "auth": auth, "resgate": resgate });
        Self {
            config: config.to_string(),
            allowed,
            asks_issuer,
            dev_keys,
        }
    }

    /// The policy of the page, where the issuer gives tokens at `token_origin`.
    pub(super) fn policy(&self, token_origin: Option<&str>) -> HeaderValue {
        let token_origin = token_origin.filter(|_| self.asks_issuer);
        // What an issuer says of itself is not to say anything else in a policy.
        let token_origin = token_origin.and_then(|origin| origin_of(origin, &["https", "http"]));
        self.allowed.policy(token_origin.as_deref())
    }
}

fn firebase(config: &Config, keys: &keys::Config, allowed: &mut Allowed) -> Value {
    let (Some(key), Some(project)) = (said(config.firebase_api_key.as_deref()), said(keys.project.as_deref())) else {
        return json!({ "kind": "token" });
    };
    let google = [
        "https://identitytoolkit.googleapis.com",
        "https://securetoken.googleapis.com",
    ];
    allowed.0.extend(google.map(str::to_owned));
    json!({ "kind": "firebase", "project": project, "api_key": key })
}

fn oidc(config: &Config, keys: &keys::Config, allowed: &mut Allowed) -> Result<Value, ConfigError> {
    let (Some(client), Some(issuer)) = (said(config.oidc_client.as_deref()), said(keys.issuer.as_deref())) else {
        return Ok(json!({ "kind": "token" }));
    };
    let origin = origin_of(issuer, &["https", "http"]).ok_or(ConfigError {
        option: "EZOUT_AUTH_ISSUER",
        rule: "must be an address such as https://issuer.example/, so that the page can ask it",
    })?;
    allowed.0.insert(origin);
    Ok(json!({ "kind": "oidc", "issuer": issuer, "client_id": client }))
}

/// What an option says, if anything.
fn said(option: Option<&str>) -> Option<&str> {
    option.map(str::trim).filter(|text| !text.is_empty())
}

/// The origin of an address, which may stand in a policy as it is; nothing if it is no such address.
fn origin_of(url: &str, schemes: &[&str]) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next()?;
    let is_host = !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte));
    (schemes.contains(&scheme) && is_host).then(|| format!("{scheme}://{host}"))
}

/// The origins that the page may ask beyond this service. It loads from nowhere else.
#[derive(Debug, Default)]
struct Allowed(BTreeSet<String>);

impl Allowed {
    fn policy(&self, more: Option<&str>) -> HeaderValue {
        let origins: BTreeSet<&str> = self.0.iter().map(String::as_str).chain(more).collect();
        let origins: Vec<&str> = ["'self'"].into_iter().chain(origins).collect();
        let policy = format!(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; \
             connect-src {}; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            origins.join(" ")
        );
        HeaderValue::try_from(policy).expect("origins have plain characters")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_may_ask_what_the_options_name_and_nothing_else() {
        let keys = |mode: Mode| keys::Config {
            mode: Some(mode),
            project: Some("my-shop".to_owned()),
            issuer: Some("https://issuer.example/tenant/".to_owned()),
            audience: None,
            algorithms: Vec::new(),
            claim: None,
            tenant: None,
            keys_url: None,
            dev_keys: None,
        };
        let here: SocketAddr = "127.0.0.1:8000".parse().unwrap();
        let web = |config: &Config, mode, at| Web::new(config, &keys(mode), at);
        let told = |web: &Web| serde_json::from_str::<Value>(&web.config).unwrap();
        let policy = |web: &Web| web.policy(None).to_str().unwrap().to_owned();

        let off = Web::plain();
        assert_eq!(told(&off)["auth"], json!({ "kind": "off" }));
        assert!(policy(&off).contains("connect-src 'self';"));
        assert!(policy(&off).contains("img-src 'self';"));

        let firebase = Config {
            firebase_api_key: Some("AIza".to_owned()),
            resgate_url: Some("wss://live.example/resgate".to_owned()),
            ..Config::default()
        };
        let page = web(&firebase, Mode::Firebase, here).unwrap();
        let auth = json!({ "kind": "firebase", "project": "my-shop", "api_key": "AIza" });
        assert_eq!(told(&page)["auth"], auth);
        assert_eq!(told(&page)["resgate"], json!({ "url": "wss://live.example/resgate" }));
        let part = "connect-src 'self' https://identitytoolkit.googleapis.com https://securetoken.googleapis.com wss://live.example;";
        assert!(policy(&page).contains(part), "{part} is not in {}", policy(&page));
        let oidc = Config {
            oidc_client: Some("page".to_owned()),
            ..Config::default()
        };
        let page = web(&oidc, Mode::Oidc, here).unwrap();
        assert!(policy(&page).contains("connect-src 'self' https://issuer.example;"));
        for (token_origin, part) in [
            ("https://issuer.example", "connect-src 'self' https://issuer.example;"),
            (
                "https://tokens.example:8443",
                "connect-src 'self' https://issuer.example https://tokens.example:8443;",
            ),
            ("https://x;script-src", "connect-src 'self' https://issuer.example;"),
        ] {
            let policy = page.policy(Some(token_origin));
            assert!(policy.to_str().unwrap().contains(part), "{policy:?}");
        }
        for mode in [Mode::Firebase, Mode::Oidc] {
            let page = web(&Config::default(), mode, here).unwrap();
            assert_eq!(told(&page)["auth"], json!({ "kind": "token" }));
            let policy = page.policy(Some("https://tokens.example"));
            assert!(!policy.to_str().unwrap().contains("https://"));
        }
        // Whoever reaches the machine must not be anybody.
        let away = web(&Config::default(), Mode::Dev, "10.0.0.7:8000".parse().unwrap()).unwrap();
        assert!(away.dev_keys.is_none() && told(&away)["auth"] == json!({ "kind": "token" }));
        assert_eq!(
            told(&web(&Config::default(), Mode::Dev, here).unwrap())["auth"]["kind"],
            "dev"
        );

        for url in [
            "live.example",
            "http://live.example",
            "wss://a b",
            "wss://x;script-src *",
            "wss://",
        ] {
            let config = Config {
                resgate_url: Some(url.to_owned()),
                ..Config::default()
            };
            assert!(web(&config, Mode::Off, here).is_err(), "{url}");
        }
    }
}
