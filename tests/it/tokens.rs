//! Tokens, right ones and hostile ones, made by a library that is not ours, and an issuer that rotates, stalls, lies and floods.
//!
//! `servers/install --with-pyjwt` brings the library; `tests/tokens/tokens.py` makes the tokens.

pub mod issuer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ezout::keys::{Algorithm, Claims, Config, Keys, Mode, OUTAGE_MAX, Refused};
use ezout::metrics::Metrics;
use futures::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::issuer::{Behaviour, Issuer};
use crate::support::{printed, refused, skip, wait_for};

/// Where `servers/install --with-pyjwt` puts what starts Python with it.
const PYTHON: &str = ".servers/bin/pyjwt";
pub const PROJECT: &str = "shop-1a2b";
pub const SHOP: &str = "123e4567-e89b-42d3-a456-426614174000";
const RIGHTS: &str = "https://ezout.example/rights";

/// What the library made.
#[derive(Deserialize)]
pub struct Made {
    sets: BTreeMap<String, Value>,
    pub tokens: BTreeMap<String, String>,
    server: Server,
    #[serde(skip, default = "OffsetDateTime::now_utc")]
    now: OffsetDateTime,
}

/// What a server of TLS needs, in base64.
#[derive(Deserialize)]
struct Server {
    certificate: String,
    key: String,
}

impl Made {
    /// Makes everything; `None` where the library is not there.
    pub async fn make(issuer: Option<&str>) -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        if !root.join(PYTHON).exists() {
            let why = format!("{PYTHON} is not there; `servers/install --with-pyjwt` brings it");
            skip("pyjwt", &why);
            return None;
        }
        let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap();
        let made = Command::new(root.join(PYTHON))
            .arg(root.join("tests/tokens/tokens.py"))
            .arg(now.unix_timestamp().to_string())
            .args(issuer)
            .stdin(Stdio::null())
            .output();
        let made = printed(&made.await.unwrap());
        Some(Self {
            now,
            ..serde_json::from_str(&made).unwrap()
        })
    }

    pub fn set(&self, name: &str) -> Behaviour {
        Behaviour::answer(&self.sets[name].to_string())
    }

    pub fn token(&self, name: &str) -> &str {
        &self.tokens[name]
    }
}

/// Keys as a process has them, until dropped.
struct Process {
    keys: Keys,
    metrics: Arc<Metrics>,
    _stop: DropGuard,
}

impl Process {
    fn start(config: &Config) -> Self {
        let (metrics, stop) = (Arc::new(Metrics::new()), CancellationToken::new());
        let keys = Keys::start(config, &metrics, &TaskTracker::new(), stop.clone()).unwrap();
        Self {
            keys,
            metrics,
            _stop: stop.drop_guard(),
        }
    }

    /// Keys of Firebase that come from the issuer of a test.
    fn firebase(issuer: &Issuer) -> Self {
        Self::start(&Config {
            project: Some(PROJECT.to_owned()),
            keys_url: Some(issuer.keys_url()),
            ..config(Mode::Firebase)
        })
    }

    async fn verify(&self, token: &str, now: OffsetDateTime) -> Result<Claims, Refused> {
        self.keys.verify(token, now).await
    }

    /// Why a token is refused, in a word.
    async fn word(&self, token: &str, now: OffsetDateTime) -> &'static str {
        self.verify(token, now).await.map_or_else(Refused::word, |_| "accepted")
    }

    fn fetches(&self, outcome: &str) -> u64 {
        self.metrics.key_fetches.with_label_values(&[outcome]).get()
    }
}

fn config(mode: Mode) -> Config {
    Config {
        mode: Some(mode),
        project: None,
        issuer: None,
        audience: None,
        algorithms: vec![Algorithm::Rs256],
        claim: None,
        tenant: None,
        keys_url: None,
        dev_keys: Some(PathBuf::from("no such folder")),
    }
}

/// What becomes of each token of `tokens.py` that is not right. Every one of them is listed.
pub const HOSTILE: &[(&str, &[&str])] = &[
    ("expired", &["expired", "expires now"]),
    (
        "not_yet_valid",
        &["iat in the future", "auth_time in the future", "nbf in the future"],
    ),
    (
        "audience",
        &[
            "other audience",
            "audience as a list",
            "audience missing",
            "audience with a space",
        ],
    ),
    (
        "issuer",
        &[
            "other issuer",
            "issuer with a slash",
            "issuer missing",
            "issuer as a list",
        ],
    ),
    ("tenant", &["of a tenant", "tenant empty", "tenant a list"]),
    (
        "subject",
        &[
            "subject missing",
            "subject empty",
            "subject of 129",
            "subject a number",
            "subject with a zero",
        ],
    ),
    (
        "malformed",
        &[
            "exp missing",
            "exp as a text",
            "exp as a fraction",
            "exp null",
            "exp beyond calendars",
            "exp beyond numbers",
            "exp negative",
            "iat missing",
            "auth_time missing",
            "auth_time as a text",
            "a claim twice",
            "a claim twice by an escape",
            "a claim twice within",
            "role a list",
            "shops a text",
            "shops with a number",
            "claims no object",
            "claims no JSON",
            "claims too deep",
            "alg twice",
            "crit",
            "signature with padding",
            "two parts",
            "four parts",
            "five parts",
            "empty",
            "dots",
            "with Bearer",
            "with a newline",
        ],
    ),
    ("custom_token", &["custom", "custom with a key", "custom of old"]),
    (
        "unknown_key",
        &[
            "unknown key",
            "no key",
            "key empty",
            "key a number",
            "key too long",
            "weak key",
            "key for encryption",
        ],
    ),
    (
        "algorithm",
        &[
            "alg none",
            "alg None",
            "alg empty",
            "alg missing",
            "alg a list",
            "alg HS256 with the public key",
            "alg HS256 with the modulus",
            "alg ES256",
            "alg ES256 with the name of ours",
            "alg RS512",
            "alg PS256",
        ],
    ),
    (
        "signature",
        &[
            "key of somebody else under our name",
            "bent",
            "signature of another token",
            "signature missing",
            "signature cut",
        ],
    ),
    ("too_large", &["huge"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_token_is_refused_for_its_own_reason() {
    let Some(made) = Made::make(None).await else { return };
    let issuer = Issuer::start(made.set("old")).await;
    let process = Process::firebase(&issuer);
    process.verify(made.token("good"), made.now).await.unwrap();
    let mut wrong = Vec::new();
    for (expected, names) in HOSTILE {
        for name in *names {
            let word = process.word(made.token(name), made.now).await;
            if word != *expected {
                wrong.push(format!("{name}: {word} instead of {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let listed: usize = HOSTILE.iter().map(|(_, names)| names.len()).sum();
    let good = made.tokens.keys().filter(|name| name.starts_with("good")).count();
    assert_eq!(listed + good, made.tokens.len(), "a token is not listed");
    // The first fetch, and one for all of the tokens whose keys are not known.
    assert_eq!(issuer.fetches(), 2);
    // A right one is still right, and was not looked at again.
    let recalled = process.metrics.token_checks.with_label_values(&["remembered"]);
    let before = recalled.get();
    process.verify(made.token("good"), made.now).await.unwrap();
    assert_eq!(recalled.get(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_token_says_who_its_bearer_is() {
    let Some(made) = Made::make(None).await else { return };
    // Google's keys in both forms, each also while the other key of a rotation is there.
    for set in ["both", "certificates"] {
        let issuer = Issuer::start(made.set(set)).await;
        let process = Process::firebase(&issuer);
        let verify = async |name: &str| process.verify(made.token(name), made.now).await.unwrap();
        let good = verify("good").await;
        assert_eq!(good.subject, "JKo4S3fQ2hXr9vYpWzT1aBcDeF12");
        assert_eq!(
            (good.role.as_deref(), &*good.shops),
            (Some("merchant"), &[SHOP.to_owned()][..])
        );
        assert_eq!(good.expires_at, made.now + time::Duration::seconds(3540));
        assert_eq!(good.authenticated_at, Some(made.now - time::Duration::minutes(1)));
        assert_eq!(good.token_id.len(), 32);
        assert!(!good.anonymous);
        assert_eq!(verify("good").await, good, "what is remembered is the same");
        assert_ne!(verify("good of the new key").await.token_id, good.token_id);
        assert_eq!(verify("good of one shop").await.shops, [SHOP]);
        assert!(verify("good of a role alone").await.shops.is_empty());
        let shopper = verify("good of a shopper").await;
        assert_eq!(
            shopper.shopper_id.as_deref(),
            Some("ab29b2d3-7c8a-446e-a4e1-d8e2a51c0e94")
        );
        assert!(verify("good and anonymous").await.anonymous);
        verify("good with a slow clock").await;
        assert_eq!(verify("good with a subject of 128").await.subject.chars().count(), 128);
        assert_eq!(process.word(made.token("weak key"), made.now).await, "unknown_key");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_tenant_only_its_users_come() {
    let Some(made) = Made::make(None).await else { return };
    let issuer = Issuer::start(made.set("old")).await;
    let process = Process::start(&Config {
        project: Some(PROJECT.to_owned()),
        tenant: Some("staff-1a2b".to_owned()),
        keys_url: Some(issuer.keys_url()),
        ..config(Mode::Firebase)
    });
    process.verify(made.token("of a tenant"), made.now).await.unwrap();
    for other in ["good", "tenant empty", "tenant a list"] {
        assert_eq!(process.word(made.token(other), made.now).await, "tenant", "{other}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_names_of_keys_causes_one_fetch() {
    let Some(made) = Made::make(None).await else { return };
    let issuer = Issuer::start(made.set("old")).await;
    let process = Process::firebase(&issuer);
    process.verify(made.token("good"), made.now).await.unwrap();
    let (_, rest) = made.token("good").split_once('.').unwrap();
    let begun = std::time::Instant::now();
    let flood = (0..10_000).map(async |number| {
        let header = json!({ "alg": "RS256", "kid": format!("{number:040}") }).to_string();
        let token = format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header));
        assert_eq!(process.word(&token, made.now).await, "unknown_key");
    });
    join_all(flood).await;
    assert_eq!(process.word(made.token("good"), made.now).await, "accepted");
    let pauses = begun.elapsed().as_secs() / 30;
    assert!(
        issuer.fetches() as u64 <= 2 + pauses,
        "{} fetches in {:?}",
        issuer.fetches(),
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_known_at_its_first_token_and_an_old_one_forgotten_with_its_tokens() {
    let Some(made) = Made::make(None).await else { return };
    let issuer = Issuer::start(made.set("old")).await;
    let process = Process::firebase(&issuer);
    assert_eq!(process.word(made.token("good"), made.now).await, "accepted");
    issuer.behave(made.set("new"));
    // Many at once, all by one fetch.
    let all = (0..100).map(async |_| process.word(made.token("good of the new key"), made.now).await);
    assert_eq!(join_all(all).await, ["accepted"; 100]);
    assert_eq!(issuer.fetches(), 2);
    assert_eq!(
        process.word(made.token("good"), made.now).await,
        "unknown_key",
        "it was remembered"
    );
    assert_eq!(process.metrics.keys.get(), 1);

    // A key that joins takes nothing away.
    let issuer = Issuer::start(made.set("old")).await;
    let process = Process::firebase(&issuer);
    assert_eq!(process.word(made.token("good"), made.now).await, "accepted");
    issuer.behave(made.set("both"));
    assert_eq!(
        process.word(made.token("good of the new key"), made.now).await,
        "accepted"
    );
    assert_eq!(process.word(made.token("good"), made.now).await, "accepted");
    let recalled = process.metrics.token_checks.with_label_values(&["remembered"]);
    assert_eq!(recalled.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn known_keys_serve_through_an_outage_until_they_are_too_old() {
    let Some(made) = Made::make(None).await else { return };
    let hour = time::Duration::HOUR;
    let issuer = Issuer::start(made.set("old").for_seconds(3_600)).await;
    let process = Process::firebase(&issuer);
    let token = made.token("good for ten days");
    process.verify(token, made.now).await.unwrap();
    issuer.behave(Behaviour::Status(500));
    let unknown = made.token("good of the new key");
    // The keys are as their issuer said they would be, so a name that is not among them is made up.
    assert_eq!(process.word(unknown, made.now).await, "unknown_key");
    assert_eq!(process.fetches("status"), 1);
    // Beyond their age nobody can tell whether it is.
    assert_eq!(
        process.word(unknown, made.now + hour * 2 - hour / 2).await,
        "keys_unavailable"
    );
    assert_eq!(process.word(token, made.now + hour * 24).await, "accepted");
    // Beyond the limit nothing is believed, not even what is remembered. The second is that of the fetch.
    let limit = hour + OUTAGE_MAX;
    assert_eq!(process.word(token, made.now + limit - hour / 60).await, "accepted");
    assert_eq!(
        process.word(token, made.now + limit + hour / 60).await,
        "keys_unavailable"
    );
    assert_eq!(process.word(token, made.now).await, "accepted");
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_lies_at_the_start_is_asked_again_and_never_believed() {
    let Some(made) = Made::make(None).await else { return };
    let elsewhere = Issuer::start(made.set("old")).await;
    let lies = [
        ("status", Behaviour::Status(500)),
        ("status", Behaviour::Status(404)),
        ("status", Behaviour::Status(204)),
        ("status", Behaviour::Redirect(elsewhere.keys_url())),
        ("unreadable", Behaviour::answer("")),
        ("unreadable", Behaviour::answer("<html>Sign in to the network</html>")),
        ("unreadable", Behaviour::answer("{\"keys\":")),
        ("unreadable", Behaviour::answer("{}")),
        ("unreadable", Behaviour::answer("[]")),
        ("unreadable", Behaviour::answer("{\"keys\":[]}")),
        ("unreadable", Behaviour::answer("{\"keys\":{\"old\":1}}")),
        (
            "unreadable",
            Behaviour::answer("{\"old\":\"-----BEGIN CERTIFICATE-----\\nMIIB\\n-----END CERTIFICATE-----\\n\"}"),
        ),
        ("unreadable", made.set("unusable")),
        ("unreadable", made.set("many")),
        ("too_large", Behaviour::answer(&" ".repeat(300 * 1024))),
        ("too_large", Behaviour::Endless),
        ("unreachable", Behaviour::Broken),
    ];
    let all = lies.into_iter().enumerate().map(async |(number, (outcome, lie))| {
        let issuer = Issuer::start(lie).await;
        let process = Process::firebase(&issuer);
        // It waits for the first fetch, and that gave nothing.
        let word = process.word(made.token("good"), made.now).await;
        assert_eq!(word, "keys_unavailable", "lie {number}");
        assert!(process.fetches(outcome) > 0, "lie {number} is no {outcome}");
        assert_eq!(process.fetches("fetched"), 0, "lie {number}");
        issuer.behave(made.set("old"));
        wait_for("the keys", async || (process.fetches("fetched") > 0).then_some(())).await;
        assert_eq!(process.word(made.token("good"), made.now).await, "accepted");
    });
    join_all(all).await;
    assert_eq!(elsewhere.fetches(), 0, "a redirect was followed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_lies_later_takes_no_key_away() {
    let Some(made) = Made::make(None).await else { return };
    let lies = [
        Behaviour::Status(500),
        Behaviour::answer("{\"keys\":[]}"),
        Behaviour::answer("garbage"),
        made.set("many"),
        Behaviour::Endless,
        Behaviour::Broken,
        // The longest: until the fetch is given up.
        Behaviour::Stalls,
    ];
    let all = lies.into_iter().enumerate().map(async |(number, lie)| {
        let issuer = Issuer::start(made.set("old")).await;
        let process = Process::firebase(&issuer);
        process.verify(made.token("good"), made.now).await.unwrap();
        issuer.behave(lie);
        let word = process.word(made.token("unknown key"), made.now).await;
        assert_eq!(word, "unknown_key", "lie {number}");
        let another = made.token("good of one shop");
        assert_eq!(process.word(another, made.now).await, "accepted", "lie {number}");
        assert_eq!((issuer.fetches(), process.fetches("fetched")), (2, 1), "lie {number}");
    });
    join_all(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_of_oidc_is_found_by_its_discovery_document() {
    let issuer = Issuer::start(Behaviour::Status(500)).await;
    let Some(made) = Made::make(Some(&issuer.url())).await else {
        return;
    };
    issuer.behave(made.set("every kind"));
    let oidc = Config {
        issuer: Some(issuer.url()),
        audience: Some("ezout-api".to_owned()),
        algorithms: vec![Algorithm::Rs256, Algorithm::Es256],
        claim: Some(RIGHTS.to_owned()),
        ..config(Mode::Oidc)
    };

    // Of another issuer, and keys that would come without protection from elsewhere: not believed, and asked again.
    let keys_url = issuer.keys_url();
    issuer.discover(json!({ "issuer": "https://other.example", "jwks_uri": keys_url }));
    let process = Process::start(&oidc);
    assert_eq!(
        process.word(made.token("oidc RS256"), made.now).await,
        "keys_unavailable"
    );
    assert!(process.fetches("issuer") > 0);
    issuer.discover(json!({ "issuer": issuer.url(), "jwks_uri": "http://issuer.example/keys" }));
    wait_for("the other document", async || {
        (process.fetches("unreadable") > 0).then_some(())
    })
    .await;
    assert_eq!(issuer.fetches(), 0);
    issuer.discover(
        json!({ "issuer": issuer.url(), "jwks_uri": keys_url, "id_token_signing_alg_values_supported": ["HS256"], "token_endpoint": "https://tokens.example:8443/give?it" }),
    );
    wait_for("the right document", async || {
        (process.fetches("fetched") > 0).then_some(())
    })
    .await;
    assert_eq!(
        process.keys.token_origin().as_deref(),
        Some("https://tokens.example:8443")
    );

    for name in ["oidc RS256", "oidc ES256"] {
        let claims = process.verify(made.token(name), made.now).await.unwrap();
        assert_eq!((&*claims.subject, &*claims.token_id), ("auth0|1", "token-7"));
        // Those below the claim that is configured, and not those beside it.
        assert_eq!(
            (claims.role.as_deref(), &*claims.shops),
            (Some("support"), &[SHOP.to_owned()][..])
        );
        assert_eq!(claims.authenticated_at, None);
    }
    assert_eq!(
        process
            .verify(made.token("oidc without rights"), made.now)
            .await
            .unwrap()
            .role,
        None
    );
    for (name, word) in [
        ("oidc EdDSA", "algorithm"),
        ("oidc ES384", "algorithm"),
        ("oidc ES256 under the name of RSA", "algorithm"),
        ("oidc rights a list", "malformed"),
        ("oidc audience as a list", "audience"),
        ("oidc other issuer", "issuer"),
        ("good", "issuer"),
    ] {
        assert_eq!(process.word(made.token(name), made.now).await, word, "{name}");
    }

    // Another way to sign, at an address that is configured; without the name, the rights are claims of their own.
    let process = Process::start(&Config {
        algorithms: vec![Algorithm::EdDsa],
        claim: None,
        keys_url: Some(keys_url),
        ..oidc
    });
    let claims = process.verify(made.token("oidc EdDSA"), made.now).await.unwrap();
    assert_eq!(claims.role.as_deref(), Some("admin"));
    assert_eq!(process.word(made.token("oidc RS256"), made.now).await, "algorithm");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_no_authority_vouches_for_gives_no_keys() {
    let Some(made) = Made::make(None).await else { return };
    let [certificate, key] = [&made.server.certificate, &made.server.key].map(|text| STANDARD.decode(text).unwrap());
    let tls = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(certificate)],
            PrivatePkcs8KeyDer::from(key).into(),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let keys_url = format!("https://{}/keys", listener.local_addr().unwrap());
    let process = Process::start(&Config {
        project: Some(PROJECT.to_owned()),
        keys_url: Some(keys_url),
        ..config(Mode::Firebase)
    });
    let (stream, _) = listener.accept().await.unwrap();
    let error = TlsAcceptor::from(Arc::new(tls)).accept(stream).await.unwrap_err();
    // What the client says when it has read the certificate and knows nobody who signed it.
    assert!(error.to_string().contains("UnknownCA"), "{error}");
    wait_for("the failure", async || {
        (process.fetches("unreachable") > 0).then_some(())
    })
    .await;
    drop(listener);
    assert_eq!(process.word(made.token("good"), made.now).await, "keys_unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_makes_tokens_that_a_process_of_the_same_machine_accepts() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("deep/keys");
    let token = async |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ezout"));
        command.arg("token").args(arguments).env("EZOUT_AUTH_DEV_KEYS", &keys);
        command.envs(environment.iter().copied()).output().await.unwrap()
    };
    // Several at once find no key pair, and each makes one.
    let merchant = &["--role", "merchant", "--shop", SHOP, "--subject", "ada", "--for", "10m"][..];
    let made = join_all((0..4).map(|_| token(merchant, &[]))).await;
    let process = Process::start(&Config {
        dev_keys: Some(keys.clone()),
        ..config(Mode::Dev)
    });
    let now = OffsetDateTime::now_utc();
    for output in &made {
        let text = printed(output);
        assert!(output.stderr.is_empty(), "stdout is no terminal");
        let claims = process.verify(text.trim_end(), now).await.unwrap();
        assert_eq!((&*claims.subject, claims.role.as_deref()), ("ada", Some("merchant")));
        assert_eq!(claims.shops, [SHOP]);
        let lasts = claims.expires_at - claims.issued_at;
        assert_eq!(lasts, Duration::from_mins(10));
        assert_eq!(process.word(text.trim_end(), claims.expires_at).await, "expired");
    }
    let left: Vec<_> = std::fs::read_dir(&keys)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["private.pem"]);

    // Another machine's.
    let other = Process::start(&Config {
        dev_keys: Some(folder.path().join("other")),
        ..config(Mode::Dev)
    });
    let text = printed(&made[0]);
    assert_eq!(other.word(text.trim_end(), now).await, "unknown_key");

    for (arguments, environment, why) in [
        (&["--role", "king"][..], &[][..], "merchant"),
        (
            &["--role", "merchant", "--shop", "7"],
            &[],
            "--shop \"7\": must be a UUID",
        ),
        (
            &["--role", "shopper", "--shopper-id", "x"],
            &[],
            "--shopper-id \"x\": must be a UUID",
        ),
        (&["--role", "admin", "--for", "1"], &[], "with its unit"),
        (&["--role", "admin", "--subject", ""], &[], "--subject"),
        (
            &["--role", "admin"],
            &[("EZOUT_AUTH", "firebase")],
            "set EZOUT_AUTH=dev",
        ),
        (
            &["--role", "admin"],
            &[("EZOUT_AUTH_DEV_KEYS", "/dev/null/keys")],
            "/dev/null/keys/private.pem",
        ),
    ] {
        let said = refused(&token(arguments, environment).await);
        assert!(said.contains(why), "{arguments:?} says {said}");
    }
}
