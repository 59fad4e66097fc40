//! An issuer on loopback, which behaves as a test wants it to.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures::stream;
use serde_json::Value;
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
