//! The merchants' page: its files, which are part of the program, and what it has to know of the service.
//!
//! The files are packed once, when the process starts, and sent as they are from then on. A browser asks
//! each time whether it still has the newest, which is answered without a body if it has.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HOST, ORIGIN, VARY,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use rust_embed::RustEmbed;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Api;
use super::body;
use super::problem::{Code, Problem};
use super::read::matches_tag;
use crate::core::event::rfc3339;
use crate::core::id::ShopId;
use crate::core::policy::Role;
use crate::keys::dev::{self, Grant};
use crate::keys::{self, Mode};

/// How hard a file is packed: a little less than can be, which takes a tenth of the time.
const BROTLI_QUALITY: u32 = 9;
/// 4 MiB of what came before are looked at, as every browser can.
const BROTLI_WINDOW: u32 = 22;
/// How long a token counts that the page asked for, where anybody may be anybody.
const DEV_TOKEN_LASTS: Duration = Duration::from_hours(1);
/// Longest name of somebody who tries it, in characters.
const DEV_NAME_MAX: usize = 100;
/// Says which page a request comes from.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
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

    /// Where Firebase shows its own page for signing in. Without it: `PROJECT.firebaseapp.com`.
    #[arg(
        long = "web-firebase-auth-domain",
        env = "EZOUT_WEB_FIREBASE_AUTH_DOMAIN",
        value_name = "NAME"
    )]
    pub firebase_auth_domain: Option<String>,

    /// Name that the issuer of `oidc` knows the page by; it signs people in with a code and PKCE. Without it: they paste a token.
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
pub(super) struct Web {
    config: String,
    policy: HeaderValue,
    /// The folder of the key pair, where anybody on this machine may be anybody.
    dev_keys: Option<PathBuf>,
}

impl Web {
    /// The page of a service that asks nobody who they are.
    pub(super) fn plain() -> Self {
        Self::of(json!({ "kind": "off" }), None, None, &Allowed::default())
    }

    /// The page as the options say.
    pub(super) fn new(config: &Config, keys: &keys::Config, http: SocketAddr) -> Result<Self, ConfigError> {
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
            Mode::Firebase => firebase(config, keys, &mut allowed)?,
            Mode::Oidc => oidc(config, keys, &mut allowed)?,
            Mode::Dev => json!({ "kind": "token" }),
        };
        Ok(Self::of(auth, resgate, dev_keys, &allowed))
    }

    #[expect(clippy::needless_pass_by_value, reason = "it becomes part of what is told")]
    fn of(auth: Value, resgate: Option<&str>, dev_keys: Option<PathBuf>, allowed: &Allowed) -> Self {
        let resgate = resgate.map(|url| json!({ "url": url }));
        let config = json!({ "version": env!("CARGO_PKG_VERSION"), "auth": auth, "resgate": resgate });
        Self {
            config: config.to_string(),
            policy: allowed.policy(),
            dev_keys,
        }
    }
}

fn firebase(config: &Config, keys: &keys::Config, allowed: &mut Allowed) -> Result<Value, ConfigError> {
    let (Some(key), Some(project)) = (said(config.firebase_api_key.as_deref()), said(keys.project.as_deref())) else {
        return Ok(json!({ "kind": "token" }));
    };
    let domain = match said(config.firebase_auth_domain.as_deref()) {
        Some(domain) => domain.to_owned(),
        None => format!("{project}.firebaseapp.com"),
    };
    if origin_of(&format!("https://{domain}"), &["https"]).is_none_or(|origin| origin != format!("https://{domain}")) {
        return Err(ConfigError {
            option: "EZOUT_WEB_FIREBASE_AUTH_DOMAIN",
            rule: "must be the name of a host, such as my-shop-1a2b.firebaseapp.com",
        });
    }
    let google = [
        "https://identitytoolkit.googleapis.com",
        "https://securetoken.googleapis.com",
    ];
    allowed.0.extend(google.map(str::to_owned));
    Ok(json!({ "kind": "firebase", "project": project, "api_key": key, "auth_domain": domain }))
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
    fn policy(&self) -> HeaderValue {
        let origins: Vec<&str> = ["'self'"]
            .into_iter()
            .chain(self.0.iter().map(String::as_str))
            .collect();
        let policy = format!(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
             connect-src {}; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            origins.join(" ")
        );
        HeaderValue::try_from(policy).expect("origins have plain characters")
    }
}

#[derive(RustEmbed)]
#[folder = "web/dist"]
struct Dist;

/// A file of the page, ready to be sent.
struct File {
    kind: &'static str,
    tag: String,
    plain: Bytes,
    brotli: Option<Bytes>,
    gzip: Option<Bytes>,
}

static FILES: LazyLock<HashMap<String, File>> = LazyLock::new(|| {
    let file = |name: Cow<'static, str>| Some((name.to_string(), File::of(&name, Dist::get(&name)?.data)));
    Dist::iter().filter_map(file).collect()
});

/// Packs the files, beside everything else that a process does at its start.
pub(super) fn prepare() {
    std::thread::spawn(|| LazyLock::force(&FILES));
}

impl File {
    fn of(name: &str, data: Cow<'static, [u8]>) -> Self {
        let plain = match data {
            Cow::Borrowed(data) => Bytes::from_static(data),
            Cow::Owned(data) => Bytes::from(data),
        };
        // What does not get smaller is sent as it is.
        let smaller = |packed: Vec<u8>| (packed.len() < plain.len()).then(|| Bytes::from(packed));
        Self {
            kind: kind_of(name),
            tag: format!("W/\"{}\"", Uuid::new_v5(&Uuid::NAMESPACE_OID, &plain).simple()),
            brotli: smaller(brotli(&plain)),
            gzip: smaller(gzip(&plain)),
            plain,
        }
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        let (encoding, body) = match accepted(headers) {
            Packed::Brotli if self.brotli.is_some() => (Some("br"), self.brotli.as_ref()),
            Packed::Brotli | Packed::Gzip if self.gzip.is_some() => (Some("gzip"), self.gzip.as_ref()),
            _ => (None, None),
        };
        let mut response = if matches_tag(headers, &self.tag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            let mut response = body.unwrap_or(&self.plain).clone().into_response();
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
            if let Some(encoding) = encoding {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
            }
            response
        };
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(ETAG, HeaderValue::try_from(&self.tag).expect("digits and quotes"));
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        response
    }
}

fn kind_of(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("woff2") => "font/woff2",
        Some("json" | "webmanifest") => "application/json",
        Some("txt" | "md") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

fn brotli(plain: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut writer = brotli::CompressorWriter::new(&mut packed, 64 * 1024, BROTLI_QUALITY, BROTLI_WINDOW);
    writer.write_all(plain).expect("memory takes everything");
    drop(writer);
    packed
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    writer.write_all(plain).expect("memory takes everything");
    writer.finish().expect("memory takes everything")
}

/// How a client takes an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packed {
    Brotli,
    Gzip,
    Not,
}

fn accepted(headers: &HeaderMap) -> Packed {
    let values = headers.get_all(ACCEPT_ENCODING).iter();
    let names: Vec<&str> = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter(|coding| !is_refused(coding))
        .map(|coding| coding.split(';').next().unwrap_or_default().trim())
        .collect();
    let has = |name: &str| names.iter().any(|known| known.eq_ignore_ascii_case(name));
    if has("br") {
        Packed::Brotli
    } else if has("gzip") {
        Packed::Gzip
    } else {
        Packed::Not
    }
}

/// Whether a coding has the weight 0, which says that it is not taken.
fn is_refused(coding: &str) -> bool {
    let weight = coding
        .split(';')
        .skip(1)
        .find_map(|part| part.trim().strip_prefix("q="));
    weight.is_some_and(|weight| weight.trim().parse() == Ok(0.0_f32))
}

fn named(name: &str, headers: &HeaderMap) -> Response {
    match FILES.get(name) {
        Some(file) => file.answer(headers),
        None => Problem::new(Code::NotFound, "the page has no such file").into_response(),
    }
}

/// Every address that the page shows something at.
pub(super) async fn page(State(api): State<Api>, headers: HeaderMap) -> Response {
    let _timer = api.timer("page");
    let mut response = named("index.html", &headers);
    let policy = api.web().policy.clone();
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    response
}

/// `GET /app.js`, `/app.css` and `/icon.svg`
pub(super) async fn file(State(api): State<Api>, request: Request) -> Response {
    let _timer = api.timer("page");
    named(request.uri().path().trim_start_matches('/'), request.headers())
}

/// `GET /assets/{file}`
pub(super) async fn asset(
    State(api): State<Api>,
    file: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Response {
    let _timer = api.timer("page");
    let file = file.map(|Path(file)| file).unwrap_or_default();
    named(&format!("assets/{file}"), &headers)
}

/// `GET /config.json`
pub(super) async fn config(State(api): State<Api>) -> Response {
    let _timer = api.timer("page");
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-cache")];
    (headers, api.web().config.clone()).into_response()
}

/// Whom somebody wants to be who tries it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    role: String,
    shop: String,
    name: String,
}

/// `POST /dev/token`
pub(super) async fn dev_token(State(api): State<Api>, request: Request) -> Response {
    let _timer = api.timer("page");
    let answer = async {
        let keys = api.web().dev_keys.as_deref();
        let keys = keys.filter(|_| is_own_page(request.headers())).ok_or_else(|| {
            let detail =
                "tokens are made with EZOUT_AUTH=dev only, for pages and programs of this machine; `ezout token` makes one as well";
            Problem::new(Code::NotFound, detail)
        })?;
        let wanted: Wanted = body::fields(request, api.bodies()).await?;
        let now = OffsetDateTime::now_utc();
        let token = dev::sign(keys, &wanted.grant()?, now).map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "no token could be made");
            Problem::plain(Code::Internal)
        })?;
        let expires_at = rfc3339((now + DEV_TOKEN_LASTS).truncate_to_second());
        let json = Json(json!({ "token": token, "expires_at": expires_at }));
        Ok(([(CACHE_CONTROL, "no-store")], json).into_response())
    };
    answer.await.unwrap_or_else(Problem::into_response)
}

impl Wanted {
    fn grant(self) -> Result<Grant, Problem> {
        let role = Role::parse(&self.role).ok_or_else(|| body::broken("/role", "word", "must be a role"))?;
        let is_shop = self.shop == "*" || ShopId::parse(&self.shop).is_ok();
        if !is_shop {
            return Err(body::broken(
                "/shop",
                "uuid",
                "must be the UUID of a shop, or * for all",
            ));
        }
        let name = self.name.trim();
        if !(1..=DEV_NAME_MAX).contains(&name.chars().count()) {
            return Err(body::broken("/name", "text", "must have 1 to 100 characters"));
        }
        Ok(Grant {
            subject: name.to_owned(),
            role: Some(role.word().to_owned()),
            shops: vec![self.shop],
            shopper_id: None,
            lasts: DEV_TOKEN_LASTS,
        })
    }
}

/// What proxies add.
const PASSED_ON: [&str; 6] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

/// Whether a request comes from our own page, or from a program of this machine: no page of another origin has
/// sent it, nobody has given our address another name, and no proxy says that it comes from elsewhere.
fn is_own_page(headers: &HeaderMap) -> bool {
    let is_passed_on = PASSED_ON.iter().any(|name| headers.contains_key(*name));
    let Some(host) = one(headers, HOST).filter(|_| !is_passed_on) else {
        return false;
    };
    let is_ours = one(headers, ORIGIN).is_none_or(|origin| origin == format!("http://{host}"));
    let is_here = one(headers, SEC_FETCH_SITE).is_none_or(|site| matches!(site, "same-origin" | "none"));
    is_of_this_machine(host) && is_ours && is_here
}

/// Whether a request asks for this machine by its own name: a page whose name was made to lead here asks by that one.
/// What names nobody is sent by no browser.
pub(super) fn asks_this_machine(uri: &Uri, headers: &HeaderMap) -> bool {
    let named = uri.authority().map(Authority::as_str);
    let named = [named, one(headers, HOST)].into_iter().flatten();
    named.into_iter().all(is_of_this_machine)
}

/// The value of a header, and no address of anything where it is sent twice: who does that does not mean it well.
fn one(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().map(|value| value.to_str().unwrap_or("?"));
    if values.next().is_some() { Some("?") } else { value }
}

fn is_of_this_machine(host: &str) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|byte| byte.is_ascii_digit()) {
            name
        } else {
            host
        }
    });
    let address = name
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<std::net::IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().cloned();
        pairs
            .map(|(name, value)| (name, HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn what_is_packed_is_what_the_client_takes() {
        for (value, packed) in [
            ("gzip, deflate, br, zstd", Packed::Brotli),
            ("br;q=0, GZIP;q=0.5", Packed::Gzip),
            ("gzip;q=0.0, identity", Packed::Not),
            ("", Packed::Not),
        ] {
            assert_eq!(accepted(&headers(&[(ACCEPT_ENCODING, value)])), packed, "{value}");
        }
        assert_eq!(accepted(&HeaderMap::new()), Packed::Not);
    }

    #[test]
    fn a_file_is_sent_packed_whole_or_not_at_all() {
        let text = "merchant ".repeat(500);
        let file = File::of("a.js", Cow::Owned(text.clone().into_bytes()));
        let mut unpacked = Vec::new();
        let packed = file.brotli.clone().unwrap();
        brotli::BrotliDecompress(&mut packed.as_ref(), &mut unpacked).unwrap();
        assert_eq!(unpacked, text.as_bytes());
        let mut unpacked = String::new();
        let packed = file.gzip.clone().unwrap();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(packed.as_ref()), &mut unpacked).unwrap();
        assert_eq!(unpacked, text);
        // Nothing to be had from packing.
        assert!(File::of("b.png", Cow::Borrowed(b"x")).gzip.is_none());

        let answer = file.answer(&headers(&[(ACCEPT_ENCODING, "br")]));
        assert_eq!(answer.headers()[CONTENT_ENCODING], "br");
        let tag = answer.headers()[ETAG].clone();
        let again = HeaderMap::from_iter([(axum::http::header::IF_NONE_MATCH, tag.clone())]);
        let answer = file.answer(&again);
        assert_eq!(
            (answer.status(), &answer.headers()[ETAG]),
            (StatusCode::NOT_MODIFIED, &tag)
        );
        assert_ne!(File::of("a.js", Cow::Borrowed(b"other")).tag.as_bytes(), tag.as_bytes());
    }

    #[test]
    fn only_our_own_page_and_programs_of_this_machine_are_given_tokens() {
        for (is_own, pairs) in [
            (true, &[(HOST, "127.0.0.1:8000")][..]),
            (true, &[(HOST, "localhost:8000"), (ORIGIN, "http://localhost:8000")]),
            (true, &[(HOST, "[::1]:8000"), (SEC_FETCH_SITE, "same-origin")]),
            (true, &[(HOST, "localhost")]),
            (false, &[]),
            (false, &[(HOST, "evil.example:8000")]),
            (false, &[(HOST, "127.0.0.1.evil.example")]),
            (false, &[(HOST, "localhost.evil.example:8000")]),
            (false, &[(HOST, "10.0.0.7:8000")]),
            (false, &[(HOST, "127.0.0.1:8000"), (ORIGIN, "http://127.0.0.1:9000")]),
            (false, &[(HOST, "127.0.0.1:8000"), (ORIGIN, "null")]),
            (false, &[(HOST, "127.0.0.1:8000"), (SEC_FETCH_SITE, "cross-site")]),
            (false, &[(HOST, "127.0.0.1:8000"), (SEC_FETCH_SITE, "same-site")]),
        ] {
            assert_eq!(is_own_page(&headers(pairs)), is_own, "{pairs:?}");
        }
        for name in PASSED_ON {
            let name = HeaderName::from_static(name);
            let pairs = [(HOST, "127.0.0.1:8000"), (name, "192.0.2.1")];
            assert!(!is_own_page(&headers(&pairs)), "{pairs:?}");
        }
        let twice = HeaderMap::from_iter([
            (HOST, HeaderValue::from_static("127.0.0.1:8000")),
            (ORIGIN, HeaderValue::from_static("http://127.0.0.1:8000")),
        ]);
        let mut twice = twice;
        twice.append(ORIGIN, HeaderValue::from_static("https://evil.example"));
        assert!(!is_own_page(&twice));
    }

    #[test]
    fn who_asks_by_another_name_does_not_ask_this_machine() {
        let asks = |uri: &'static str, pairs: &[(HeaderName, &'static str)]| {
            asks_this_machine(&Uri::from_static(uri), &headers(pairs))
        };
        for host in [
            "127.0.0.1:8000",
            "localhost:8000",
            "LOCALHOST",
            "[::1]:8000",
            "[::1]",
            "127.0.0.2",
        ] {
            assert!(asks("/v1/me", &[(HOST, host)]), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8000",
            "localhost.evil.example",
            "10.0.0.7:8000",
            "",
            "?",
        ] {
            assert!(!asks("/v1/me", &[(HOST, host)]), "{host}");
        }
        assert!(!asks("/v1/me", &[(HOST, "localhost"), (HOST, "localhost")]), "twice");
        assert!(asks("/v1/me", &[]));
        // As HTTP/2 says it.
        assert!(asks("http://127.0.0.1:8000/v1/me", &[]));
        assert!(!asks("http://evil.example:8000/v1/me", &[(HOST, "localhost")]));
    }

    #[test]
    fn the_page_may_ask_what_the_options_name_and_nothing_else() {
        let keys = |mode: Mode| keys::Config {
            mode: Some(mode),
            project: Some("my-shop".to_owned()),
            issuer: Some("https://issuer.example/tenant/".to_owned()),
            audience: None,
            algorithms: Vec::new(),
            claim: None,
            keys_url: None,
            dev_keys: None,
        };
        let here: SocketAddr = "127.0.0.1:8000".parse().unwrap();
        let web = |config: &Config, mode, at| Web::new(config, &keys(mode), at);
        let told = |web: &Web| serde_json::from_str::<Value>(&web.config).unwrap();
        let policy = |web: &Web| web.policy.to_str().unwrap().to_owned();

        let off = Web::plain();
        assert_eq!(told(&off)["auth"], json!({ "kind": "off" }));
        assert!(policy(&off).contains("connect-src 'self';"));

        let firebase = Config {
            firebase_api_key: Some("AIza".to_owned()),
            resgate_url: Some("wss://live.example/resgate".to_owned()),
            ..Config::default()
        };
        let page = web(&firebase, Mode::Firebase, here).unwrap();
        assert_eq!(told(&page)["auth"]["auth_domain"], "my-shop.firebaseapp.com");
        assert_eq!(told(&page)["resgate"], json!({ "url": "wss://live.example/resgate" }));
        let part = "connect-src 'self' https://identitytoolkit.googleapis.com https://securetoken.googleapis.com wss://live.example;";
        assert!(policy(&page).contains(part), "{part} is not in {}", policy(&page));
        let oidc = Config {
            oidc_client: Some("page".to_owned()),
            ..Config::default()
        };
        let page = web(&oidc, Mode::Oidc, here).unwrap();
        assert!(policy(&page).contains("connect-src 'self' https://issuer.example;"));
        for mode in [Mode::Firebase, Mode::Oidc] {
            let page = web(&Config::default(), mode, here).unwrap();
            assert_eq!(told(&page)["auth"], json!({ "kind": "token" }));
            assert!(!policy(&page).contains("https://"));
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
