//! An issuer on loopback, which behaves as a test wants it to.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What becomes of a request for keys.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// This document, good for so many seconds if it says so.
    Answer(String, Option<u32>),
    /// No document.
    Status(u16),
    /// A document elsewhere.
    Redirect(String),
    /// A head, and never a document.
    Stalls,
    /// A document without end.
    Endless,
    /// A document that ends in the middle.
    Broken,
}

impl Behaviour {
    pub fn answer(document: &str) -> Self {
        Self::Answer(document.to_owned(), None)
    }

    /// The same document, for so long.
    pub fn for_seconds(self, seconds: u32) -> Self {
        match self {
            Self::Answer(document, _) => Self::Answer(document, Some(seconds)),
            other => other,
        }
    }

    fn response(self) -> Response {
        match self {
            Self::Answer(document, None) => document.into_response(),
            Self::Answer(document, Some(seconds)) => {
                let cache_control = format!("public, max-age={seconds}, must-revalidate");
                ([("cache-control", cache_control)], document).into_response()
            }
            Self::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
            Self::Redirect(to) => (StatusCode::FOUND, [("location", to)]).into_response(),
            Self::Stalls => Body::from_stream(stream::pending::<Result<Bytes, Infallible>>()).into_response(),
            Self::Endless => {
                let part = Bytes::from(vec![b' '; 16 * 1024]);
                Body::from_stream(stream::repeat_with(move || Ok::<_, Infallible>(part.clone()))).into_response()
            }
            Self::Broken => {
                let parts = [Ok(Bytes::from("{\"keys\":[")), Err("the issuer breaks off")];
                Body::from_stream(stream::iter(parts)).into_response()
            }
        }
    }
}

/// Whoever signs for an issuer, with a key of this name.
pub struct Signer {
    pair: Ed25519KeyPair,
    name: &'static str,
}

impl Signer {
    pub fn new(name: &'static str) -> Self {
        Self {
            pair: Ed25519KeyPair::generate().unwrap(),
            name,
        }
    }

    /// Its key, as the issuer publishes it.
    pub fn published(&self) -> Behaviour {
        let public = URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref());
        let key =
            json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.name, "x": public });
        Behaviour::answer(&json!({ "keys": [key] }).to_string())
    }

    pub fn sign(&self, claims: &Value) -> String {
        let part = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.name });
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self.pair.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

#[derive(Debug)]
struct Shared {
    behaviour: Mutex<Behaviour>,
    discovery: Mutex<Value>,
    fetches: AtomicUsize,
}

/// The issuer, until dropped.
pub struct Issuer {
    port: u16,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

impl Issuer {
    pub async fn start(behaviour: Behaviour) -> Self {
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(behaviour),
            discovery: Mutex::new(Value::Null),
            fetches: AtomicUsize::new(0),
        });
        let router = Router::new()
            .route("/keys", get(keys))
            .route("/.well-known/openid-configuration", get(discovery))
            .with_state(Arc::clone(&shared));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { port, shared, serving }
    }

    /// Its name, as it stands in its tokens.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What has a service believe the tokens that this issuer has for `ezout`.
    pub fn options(&self) -> Vec<(&'static str, String)> {
        vec![
            ("EZOUT_AUTH", "oidc".to_owned()),
            ("EZOUT_AUTH_ISSUER", self.url()),
            ("EZOUT_AUTH_AUDIENCE", "ezout".to_owned()),
            ("EZOUT_AUTH_ALGORITHMS", "EdDSA".to_owned()),
            ("EZOUT_AUTH_KEYS_URL", self.keys_url()),
        ]
    }

    pub fn keys_url(&self) -> String {
        format!("{}/keys", self.url())
    }

    /// How it behaves from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock().unwrap() = behaviour;
    }

    /// What its discovery document says from now on.
    pub fn discover(&self, document: Value) {
        *self.shared.discovery.lock().unwrap() = document;
    }

    /// How often its keys were asked for.
    pub fn fetches(&self) -> usize {
        self.shared.fetches.load(Ordering::SeqCst)
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn keys(State(shared): State<Arc<Shared>>) -> Response {
    shared.fetches.fetch_add(1, Ordering::SeqCst);
    let behaviour = shared.behaviour.lock().unwrap().clone();
    behaviour.response()
}

async fn discovery(State(shared): State<Arc<Shared>>) -> String {
    shared.discovery.lock().unwrap().to_string()
}
