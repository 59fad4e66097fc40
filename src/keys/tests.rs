//! The rules one by one, on tokens that the library signs itself; that nothing panics; and options.

use jsonwebtoken::{EncodingKey, Header};
use proptest::prelude::*;
use serde_json::{Value, json};
use time::macros::datetime;

use super::*;

const NOW: OffsetDateTime = datetime!(2026-03-02 09:00 UTC);
const SHOP: &str = "123e4567-e89b-42d3-a456-426614174000";

/// A key pair on P-256, its key set, and what it signs.
struct Issuer {
    key: EncodingKey,
    document: Value,
}

impl Issuer {
    fn new() -> Self {
        use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
        use base64::Engine as _;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let private =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &aws_lc_rs::rand::SystemRandom::new())
                .unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, private.as_ref()).unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
        Self {
            key: EncodingKey::from_ec_der(private.as_ref()),
            document: json!({ "keys": [{ "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": "one" }] }),
        }
    }

    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(jsonwebtoken::Algorithm::ES256);
        header.kid = Some("one".to_owned());
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }

    /// Keys that hold this issuer to the rules of a mode.
    fn keys(&self, mode: Mode, claim: Option<&str>) -> Keys {
        let set = KeySet::read(self.document.to_string().as_bytes(), &[Algorithm::Es256]).unwrap();
        let rules = Rules {
            mode,
            issuer: "https://issuer.example".to_owned(),
            audience: "ezout".to_owned(),
            algorithms: vec![Algorithm::Es256],
            claim: claim.map(str::to_owned),
            tenant: None,
        };
        Keys::of(rules, set, &Arc::new(Metrics::new()), false)
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(future)
}

fn claims() -> Value {
    json!({
        "iss": "https://issuer.example", "aud": "ezout", "sub": "ada", "exp": NOW.unix_timestamp() + 3600,
        "iat": NOW.unix_timestamp() - 10, "auth_time": NOW.unix_timestamp() - 20,
        "role": "merchant", "shops": [SHOP], "firebase": { "sign_in_provider": "anonymous" },
    })
}

/// The claims with one of them changed, or taken out.
fn with(name: &str, value: Option<Value>) -> Value {
    let mut claims = claims();
    let object = claims.as_object_mut().unwrap();
    match value {
        Some(value) => {
            object.insert(name.to_owned(), value);
        }
        None => {
            object.shift_remove(name);
        }
    }
    claims
}

#[test]
fn each_claim_is_held_to_its_rule() {
    let issuer = Issuer::new();
    let keys = issuer.keys(Mode::Firebase, None);
    let seconds = |after: i64| Some(json!(NOW.unix_timestamp() + after));
    for (name, value, word) in [
        ("iss", Some(json!("https://issuer.example/")), "issuer"),
        ("iss", None, "issuer"),
        ("aud", Some(json!(["ezout"])), "audience"),
        ("aud", Some(json!("EZOUT")), "audience"),
        ("aud", None, "audience"),
        ("firebase", Some(json!({ "tenant": "another-1a2b" })), "tenant"),
        ("firebase", Some(json!({ "tenant": ["another-1a2b"] })), "tenant"),
        ("firebase", Some(json!({ "tenant": "" })), "tenant"),
        ("firebase", Some(json!({ "tenant": null })), "accepted"),
        ("sub", Some(json!("")), "subject"),
        ("sub", Some(json!("ä".repeat(129))), "subject"),
        ("sub", Some(json!("ä".repeat(128))), "accepted"),
        ("sub", Some(json!("a\nb")), "subject"),
        ("sub", None, "subject"),
        ("exp", seconds(0), "expired"),
        ("exp", seconds(1), "accepted"),
        ("exp", seconds(366 * 86_400 - 10), "accepted"),
        ("exp", seconds(366 * 86_400 - 9), "malformed"),
        ("exp", Some(json!(1e11)), "malformed"),
        ("exp", Some(json!("4102444800")), "malformed"),
        ("exp", None, "malformed"),
        ("iat", seconds(60), "accepted"),
        ("iat", seconds(61), "not_yet_valid"),
        ("iat", None, "malformed"),
        ("auth_time", seconds(61), "not_yet_valid"),
        ("auth_time", Some(Value::Null), "malformed"),
        ("auth_time", None, "malformed"),
        ("nbf", seconds(61), "not_yet_valid"),
        ("nbf", Some(json!("soon")), "malformed"),
        ("role", Some(json!(["admin"])), "malformed"),
        ("role", Some(Value::Null), "accepted"),
        ("shops", Some(json!({ SHOP: true })), "malformed"),
        ("shops", Some(json!([[SHOP]])), "malformed"),
        ("shop", Some(json!(7)), "malformed"),
        ("shopper_id", Some(json!(true)), "malformed"),
    ] {
        let token = issuer.sign(&with(name, value.clone()));
        let verified = run(keys.verify(&token, NOW));
        let found = verified.as_ref().map_or_else(|refused| refused.word(), |_| "accepted");
        assert_eq!(found, word, "{name} = {value:?}");
    }
}

#[test]
fn an_issuer_of_oidc_need_not_say_when_somebody_signed_in() {
    let issuer = Issuer::new();
    let keys = issuer.keys(Mode::Oidc, None);
    let read = run(keys.verify(&issuer.sign(&with("auth_time", None)), NOW)).unwrap();
    assert_eq!(read.authenticated_at, None);
    assert!(!read.anonymous, "only Firebase says so");
    let wrong = issuer.sign(&with("auth_time", Some(json!("yesterday"))));
    assert_eq!(run(keys.verify(&wrong, NOW)).unwrap_err().word(), "malformed");
}

#[test]
fn rights_below_a_claim_are_the_only_ones() {
    let issuer = Issuer::new();
    let keys = issuer.keys(Mode::Oidc, Some("rights"));
    let token = issuer.sign(&with(
        "rights",
        Some(json!({ "role": "support", "shop": "a", "shops": ["b"] })),
    ));
    let read = run(keys.verify(&token, NOW)).unwrap();
    assert_eq!(
        (read.role.as_deref(), read.shops),
        (Some("support"), vec!["b".to_owned(), "a".to_owned()])
    );
    let read = run(keys.verify(&issuer.sign(&claims()), NOW)).unwrap();
    assert_eq!((read.role, read.shops), (None, Vec::new()));
}

#[test]
fn a_token_has_one_name_however_often_it_is_signed() {
    let issuer = Issuer::new();
    let keys = issuer.keys(Mode::Oidc, None);
    let name = |claims: &Value| run(keys.verify(&issuer.sign(claims), NOW)).unwrap().token_id;
    // Signatures on P-256 differ each time.
    assert_ne!(issuer.sign(&claims()), issuer.sign(&claims()));
    assert_eq!(name(&claims()), name(&claims()));
    assert_ne!(name(&claims()), name(&with("sub", Some(json!("bob")))));
    assert_eq!(name(&with("jti", Some(json!("seven")))), "seven");
    assert_eq!(name(&with("jti", Some(json!("x".repeat(129))))).len(), 32);
}

#[test]
fn what_is_remembered_ends_with_the_token() {
    let issuer = Issuer::new();
    let keys = issuer.keys(Mode::Oidc, None);
    let token = issuer.sign(&claims());
    let first = run(keys.verify(&token, NOW)).unwrap();
    assert_eq!(run(keys.verify(&token, NOW)).unwrap(), first);
    assert_eq!((keys.0.accepted.get(), keys.0.recalled.get()), (1, 1));
    assert_eq!(run(keys.verify(&token, first.expires_at)), Err(Refused::Expired));
    let mut other = token.into_bytes();
    let last = other.len() - 2;
    other[last] = if other[last] == b'A' { b'B' } else { b'A' };
    let other = String::from_utf8(other).unwrap();
    assert_eq!(run(keys.verify(&other, NOW)), Err(Refused::Signature));
}

#[test]
fn a_certificate_is_read_as_the_key_in_it() {
    // Made by `openssl req -x509 -newkey rsa:2048`; its private key was thrown away.
    const CERTIFICATE: &str = include_str!("certificate.pem");
    let document = json!({ "a": CERTIFICATE, "b": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" });
    let set = KeySet::read(document.to_string().as_bytes(), &[Algorithm::Rs256]).unwrap();
    assert_eq!((set.len(), set.has("a")), (1, true));
    assert!(KeySet::read(document.to_string().as_bytes(), &[Algorithm::Es256]).is_err());
}

#[test]
fn every_reason_to_refuse_is_counted_from_the_start_and_says_nothing_of_the_token() {
    let text = Metrics::new().text();
    for refused in Refused::ALL {
        let series = format!("ezout_token_checks_total{{outcome=\"{}\"}} 0\n", refused.word());
        assert!(text.contains(&series), "{series}");
        assert_eq!(refused.may_pass(), refused == Refused::KeysUnavailable);
    }
    assert_eq!(
        text.matches("ezout_token_checks_total{").count(),
        Refused::ALL.len() + 2
    );
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
        dev_keys: None,
    }
}

#[test]
fn options_that_do_not_fit_are_named_with_what_to_set() {
    let text = |text: &str| Some(text.to_owned());
    let firebase = Config {
        project: text("shop-1a2b"),
        ..config(Mode::Firebase)
    };
    let oidc = Config {
        issuer: text("https://issuer.example/"),
        audience: text("ezout"),
        ..config(Mode::Oidc)
    };
    let blank = Config {
        project: text(""),
        keys_url: text(" "),
        ..config(Mode::Off)
    };
    for fits in [
        blank,
        config(Mode::Off),
        config(Mode::Dev),
        firebase.clone(),
        oidc.clone(),
    ] {
        assert!(fits.read().is_ok(), "{fits:?}");
    }
    #[rustfmt::skip]
    let wrong = [
        (config(Mode::Firebase), "EZOUT_AUTH=firebase needs EZOUT_AUTH_PROJECT; set it to the id of your Firebase project"),
        (Config { project: text(" "), ..config(Mode::Firebase) }, "EZOUT_AUTH=firebase needs EZOUT_AUTH_PROJECT"),
        (Config { project: text("https://x/"), ..config(Mode::Firebase) }, "EZOUT_AUTH_PROJECT must be the id"),
        (Config { issuer: text("https://x"), ..firebase.clone() }, "EZOUT_AUTH_ISSUER has no meaning with EZOUT_AUTH=firebase"),
        (Config { algorithms: vec![Algorithm::Es256], ..firebase.clone() }, "EZOUT_AUTH_ALGORITHMS has no meaning"),
        (Config { keys_url: text("http://issuer.example/"), ..firebase }, "EZOUT_AUTH_KEYS_URL must begin with https://"),
        (Config { issuer: None, ..oidc.clone() }, "EZOUT_AUTH=oidc needs EZOUT_AUTH_ISSUER"),
        (Config { audience: None, ..oidc.clone() }, "EZOUT_AUTH=oidc needs EZOUT_AUTH_AUDIENCE"),
        (Config { issuer: text("http://issuer.example"), ..oidc.clone() }, "EZOUT_AUTH_ISSUER must begin with https://"),
        (Config { algorithms: Vec::new(), ..oidc.clone() }, "EZOUT_AUTH_ALGORITHMS must name at least one"),
        (Config { project: text("x"), ..oidc }, "EZOUT_AUTH_PROJECT has no meaning with EZOUT_AUTH=oidc; take it away, or set EZOUT_AUTH to firebase"),
        (Config { tenant: text("x"), ..config(Mode::Dev) }, "EZOUT_AUTH_TENANT has no meaning with EZOUT_AUTH=dev; take it away, or set EZOUT_AUTH to firebase"),
        (Config { project: text("x"), ..config(Mode::Off) }, "EZOUT_AUTH_PROJECT has no meaning with EZOUT_AUTH=off"),
        (Config { keys_url: text("https://x/"), ..config(Mode::Dev) }, "EZOUT_AUTH_KEYS_URL has no meaning with EZOUT_AUTH=dev; take it away, or set EZOUT_AUTH to firebase or oidc"),
        (Config { algorithms: Vec::new(), ..config(Mode::Off) }, "EZOUT_AUTH_ALGORITHMS has no meaning with EZOUT_AUTH=off"),
    ];
    for (config, said) in wrong {
        let error = config.read().unwrap_err().to_string();
        assert!(error.starts_with(said), "{error}");
    }
}

#[test]
fn without_an_issuer_no_token_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let grant = dev::Grant {
        subject: "ada".to_owned(),
        lasts: Duration::from_mins(1),
        ..dev::Grant::default()
    };
    let token = dev::sign(folder.path(), &grant, NOW).unwrap();
    let (metrics, tasks) = (Arc::new(Metrics::new()), TaskTracker::new());
    let keys = Keys::start(&config(Mode::Off), &metrics, &tasks, CancellationToken::new()).unwrap();
    assert_eq!(keys.mode(), Mode::Off);
    assert_eq!(run(keys.verify(&token, NOW)), Err(Refused::UnknownKey));
}

#[test]
fn a_key_pair_that_others_can_read_is_refused_and_so_is_what_is_none() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    dev::KeyPair::open(folder.path()).unwrap();
    let path = folder.path().join("private.pem");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(
        dev::KeyPair::open(folder.path()),
        Err(dev::DevError::Open { .. })
    ));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&path, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
    assert!(matches!(
        dev::KeyPair::open(folder.path()),
        Err(dev::DevError::Unreadable { .. })
    ));
}

proptest! {
    #[test]
    fn no_text_makes_a_check_panic(text in ".*", parts in proptest::collection::vec("[ -~]{0,60}", 0..5)) {
        let issuer = Issuer::new();
        let keys = issuer.keys(Mode::Firebase, None);
        prop_assert!(run(keys.verify(&text, NOW)).is_err());
        prop_assert!(run(keys.verify(&parts.join("."), NOW)).is_err());
    }

    #[test]
    fn no_bytes_in_the_parts_of_a_token_make_a_check_panic(
        header in proptest::collection::vec(any::<u8>(), 0..200),
        payload in proptest::collection::vec(any::<u8>(), 0..200),
        signature in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        use base64::Engine as _;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let issuer = Issuer::new();
        let keys = issuer.keys(Mode::Firebase, None);
        let right = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","kid":"one"}"#);
        for header in [right, URL_SAFE_NO_PAD.encode(header)] {
            let [payload, signature] = [&payload, &signature].map(|part| URL_SAFE_NO_PAD.encode(part));
            let token = format!("{header}.{payload}.{signature}");
            prop_assert!(run(keys.verify(&token, NOW)).is_err());
        }
    }

    #[test]
    fn no_claims_that_were_signed_make_a_check_panic(
        name in "iss|aud|sub|exp|iat|auth_time|nbf|jti|role|shop|shops|shopper_id|firebase",
        text in "\\PC{0,20}",
        number in any::<f64>(),
        whole in any::<i64>(),
    ) {
        let issuer = Issuer::new();
        let keys = issuer.keys(Mode::Firebase, None);
        for value in [json!(text), json!(number), json!(whole), json!([text]), json!({ text.clone(): whole }), json!(null)] {
            let _ = run(keys.verify(&issuer.sign(&with(&name, Some(value))), NOW));
        }
    }

    #[test]
    fn no_document_makes_the_reader_of_keys_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        der in proptest::collection::vec(any::<u8>(), 0..300),
        fields in proptest::collection::vec("[A-Za-z0-9_-]{0,60}", 4),
        kty in "RSA|EC|OKP|oct|x",
        crv in "P-256|P-384|Ed25519|x",
    ) {
        use base64::Engine as _;
        use base64::engine::general_purpose::STANDARD;
        let all = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];
        let _ = KeySet::read(&bytes, &all);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(&der));
        let _ = KeySet::read(json!({ "a": pem }).to_string().as_bytes(), &all);
        let [n, e, x, y] = &fields[..] else { unreachable!() };
        let jwk = json!({ "kty": kty, "crv": crv, "n": n, "e": e, "x": x, "y": y, "kid": "one", "k": x });
        if let Ok(set) = KeySet::read(json!({ "keys": [jwk] }).to_string().as_bytes(), &all) {
            for algorithm in all {
                if let Some(key) = set.find("one", algorithm) {
                    prop_assert!(!key.has_signed("signed", &bytes));
                }
            }
        }
    }
}
