//! An issuer of OIDC that lets everybody in at once, and gives its tokens at another origin than its own.
//!
//! It is strict about what makes a code safe: it counts once, for the page that asked for it, and with the verifier whose hash
//! it was asked for with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use axum::extract::{Form, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tower_http::cors::CorsLayer;

use crate::support::session;

/// The name that it knows the page by.
pub const CLIENT: &str = "the-page";
/// For whom its tokens are.
pub const AUDIENCE: &str = "ezout";
/// How long its tokens last: so short that the page renews them at once.
const SECONDS: i64 = 30;

type Fields = HashMap<String, String>;

/// The issuer, until dropped.
pub struct Issuer {
    shared: Arc<Shared>,
    serving: [JoinHandle<()>; 2],
}

struct Shared {
    key: RsaKeyPair,
    url: String,
    token_url: String,
    people: Mutex<People>,
}

#[derive(Default)]
struct People {
    /// What the token of whoever signs in says.
    claims: Value,
    /// What a code was asked for with.
    codes: HashMap<String, Fields>,
    /// The refresh tokens that count, and when somebody signed in with each.
    refreshing: HashMap<String, i64>,
    refreshed: u64,
}

impl Issuer {
    pub async fn start() -> Self {
        let listen = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (pages, tokens) = (listen().await, listen().await);
        let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            key: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            url: url(&pages),
            token_url: url(&tokens),
            people: Mutex::default(),
        });
        let page_routes = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(keys))
            .route("/authorize", get(authorize));
        let token_routes = Router::new().route("/token", post(token));
        let serving = [(pages, page_routes), (tokens, token_routes)].map(|(listener, routes)| {
            let routes = routes.layer(CorsLayer::permissive()).with_state(Arc::clone(&shared));
            tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() })
        });
        Self { shared, serving }
    }

    /// Its name, as it stands in its tokens.
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    pub fn keys_url(&self) -> String {
        format!("{}/keys", self.shared.url)
    }

    /// Who signs in from now on.
    pub fn let_in(&self, claims: &Value) {
        self.shared.people.lock().unwrap().claims = claims.clone();
    }

    /// Takes back what tokens could be renewed with.
    pub fn forget(&self) {
        self.shared.people.lock().unwrap().refreshing.clear();
    }

    /// How many codes are left that nobody has had a token for, and how often a token was renewed.
    pub fn seen(&self) -> Value {
        let people = self.shared.people.lock().unwrap();
        json!({ "codes": people.codes.len(), "refreshed": people.refreshed })
    }

    /// A token that says this.
    pub fn sign(&self, claims: &Value) -> String {
        self.shared.sign(claims)
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        for serving in &self.serving {
            serving.abort();
        }
    }
}

impl Shared {
    fn sign(&self, claims: &Value) -> String {
        let part = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", part(&json!({ "alg": "RS256", "kid": "one" })), part(claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                signed.as_bytes(),
                &mut signature,
            )
            .unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The tokens of whoever signed in at that time, and another one to renew them with.
    fn tokens(&self, people: &mut People, now: i64, signed_in: i64) -> Response {
        let mut claims = people.claims.clone();
        for (name, value) in [
            ("iss", json!(self.url)),
            ("aud", json!(AUDIENCE)),
            ("iat", json!(now)),
            ("exp", json!(now + SECONDS)),
            ("auth_time", json!(signed_in)),
        ] {
            claims[name] = value;
        }
        let refresh = session();
        people.refreshing.insert(refresh.clone(), signed_in);
        let token = self.sign(&claims);
        Json(json!({
            "token_type": "Bearer", "access_token": token, "id_token": token, "refresh_token": refresh, "expires_in": SECONDS,
        }))
        .into_response()
    }
}

async fn discovery(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!({
        "issuer": shared.url,
        "authorization_endpoint": format!("{}/authorize", shared.url),
        "token_endpoint": format!("{}/token", shared.token_url),
        "jwks_uri": format!("{}/keys", shared.url),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "code_challenge_methods_supported": ["S256"],
    }))
}

async fn keys(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let public = shared.key.public_key();
    let [n, e] = [public.modulus(), public.exponent()]
        .map(|number| URL_SAFE_NO_PAD.encode(number.big_endian_without_leading_zero()));
    Json(json!({ "keys": [{ "kty": "RSA", "use": "sig", "alg": "RS256", "kid": "one", "n": n, "e": e }] }))
}

async fn authorize(State(shared): State<Arc<Shared>>, Query(asked): Query<Fields>) -> Response {
    let of = |name: &str| asked.get(name).map_or("", String::as_str);
    let fits = (of("response_type"), of("client_id"), of("code_challenge_method")) == ("code", CLIENT, "S256");
    if !fits {
        return (StatusCode::BAD_REQUEST, format!("{asked:?}")).into_response();
    }
    let code = session();
    let to = format!("{}?code={code}&state={}", of("redirect_uri"), of("state"));
    shared.people.lock().unwrap().codes.insert(code, asked);
    (StatusCode::FOUND, [("location", to)]).into_response()
}

async fn token(State(shared): State<Arc<Shared>>, Form(sent): Form<Fields>) -> Response {
    let of = |name: &str| sent.get(name).map_or("", String::as_str);
    let mut people = shared.people.lock().unwrap();
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let signed_in = match of("grant_type") {
        "authorization_code" => people.codes.remove(of("code")).and_then(|asked| {
            let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, of("code_verifier").as_bytes()));
            let is_right = asked["code_challenge"] == challenge && asked["redirect_uri"] == of("redirect_uri");
            is_right.then_some(now)
        }),
        "refresh_token" => {
            let signed_in = people.refreshing.remove(of("refresh_token"));
            people.refreshed += u64::from(signed_in.is_some());
            signed_in
        }
        _ => None,
    };
    match signed_in.filter(|_| of("client_id") == CLIENT) {
        Some(signed_in) => shared.tokens(&mut people, now, signed_in),
        None => (StatusCode::BAD_REQUEST, Json(json!({ "error": "invalid_grant" }))).into_response(),
    }
}
