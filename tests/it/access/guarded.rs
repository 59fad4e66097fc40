//! A system that asks its callers who they are, and tokens for it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use ezout::core::policy::{Role, Shops};
use ezout::keys::dev::{self, Grant};
use ezout::views::{Member, Revoked, RevokedUntil, Views};
use futures::StreamExt as _;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::OnceCell;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::support::{Service, Stack, event, session, subject_of, wait_for};

const HOUR: Duration = Duration::from_hours(1);

/// Servers, and a service with the tokens of a key pair of this machine.
pub struct Guarded {
    pub stack: Stack,
    pub service: Service,
}

/// The folder of the key pair of a stack's services.
pub fn keys_of(stack: &Stack) -> PathBuf {
    stack.folder().join("keys")
}

/// What has a service ask for tokens of this key pair.
pub fn dev_mode(keys: &Path) -> [(&'static str, &str); 3] {
    [
        ("EZOUT_AUTH", "dev"),
        ("EZOUT_AUTH_DEV_KEYS", keys.to_str().unwrap()),
        ("EZOUT_HEARTBEAT", "200ms"),
    ]
}

impl Guarded {
    /// The system that the tests of this part share; each has its own shops and its own people.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Guarded> = OnceCell::const_new();
        SHARED
            .get_or_init(|| async {
                // The processes die with the thread that started them, and their handles need its runtime.
                let (started, ready) = tokio::sync::oneshot::channel();
                std::thread::spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .expect("a runtime");
                    runtime.block_on(async {
                        assert!(started.send(Self::start().await).is_ok(), "the first test waits");
                        std::future::pending::<()>().await;
                    });
                });
                ready.await.expect("the shared system starts")
            })
            .await
    }

    /// A system of a test's own.
    pub async fn start() -> Self {
        let stack = Stack::start().await;
        let keys = keys_of(&stack);
        let service = stack.service_with("serve", &dev_mode(&keys)).await;
        Self { stack, service }
    }

    /// A token of somebody in these shops, for an hour.
    pub fn token(&self, role: Role, shops: &[&str]) -> String {
        self.token_of(&session(), role, shops)
    }

    /// The same, of this person.
    pub fn token_of(&self, subject: &str, role: Role, shops: &[&str]) -> String {
        self.sign(&grant(subject, Some(role), shops))
    }

    pub fn sign(&self, grant: &Grant) -> String {
        dev::sign(&keys_of(&self.stack), grant, OffsetDateTime::now_utc()).unwrap()
    }

    /// A token as of another moment.
    pub fn sign_at(&self, grant: &Grant, now: OffsetDateTime) -> String {
        dev::sign(&keys_of(&self.stack), grant, now).unwrap()
    }

    /// The views, to change members and revocations by.
    pub async fn rights(&self) -> RightsOf {
        RightsOf::of(&self.stack).await
    }

    pub fn caller(&self, token: Option<String>) -> Asker {
        Asker::new(&self.service, token)
    }

    /// Somebody who may do everything.
    pub fn admin(&self) -> Asker {
        self.caller(Some(self.token(Role::Admin, &["*"])))
    }

    /// Puts something of this name into a basket of a fresh session, and waits until it is there.
    pub async fn shop_with(&self, shop: &str, product: &str) -> Stocked {
        let stocked = Stocked {
            shop: shop.to_owned(),
            session: session(),
            shopper: session(),
            product: product.to_owned(),
            correction: session(),
        };
        let admin = self.admin();
        let mut added = event(shop, &stocked.session, 1, "ADD", 1, 1.5, 1.5);
        added["product_name"] = json!(product);
        added["shopper_id"] = json!(stocked.shopper);
        let sequence = admin.publish(shop, &added).await.sequence();
        let basket = format!("/v1/shops/{shop}/sessions/{}/basket", stocked.session);
        admin.get_until(&format!("{basket}?min_sequence={sequence}")).await;
        let path = format!("/v1/shops/{shop}/sessions/{}/corrections", stocked.session);
        let correction =
            json!({ "id": stocked.correction, "author": "Ada", "reason": product, "adjustment": { "by": 1 } });
        let filed = admin.post(&path, &correction).await;
        assert_eq!(filed.status, 202, "{filed:?}");
        wait_for("the correction", async || {
            let seen = admin.get(&basket).await;
            (seen.status == 200 && seen.text.contains(&stocked.correction)).then_some(())
        })
        .await;
        stocked
    }

    /// The events of a shop, as the journal has them.
    pub async fn journal_of(&self, shop: &str) -> Vec<String> {
        let context = self.stack.jetstream().await;
        let stream = context.get_stream(self.stack.lane_of(shop).name()).await.unwrap();
        let config = pull::Config {
            filter_subject: subject_of(shop),
            ack_policy: AckPolicy::None,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await.unwrap();
        let count = consumer.cached_info().num_pending;
        let mut messages = consumer.messages().await.unwrap();
        let mut events = Vec::new();
        for _ in 0..count {
            let message = messages.next().await.unwrap().unwrap();
            events.push(String::from_utf8(message.payload.to_vec()).unwrap());
        }
        events
    }
}

/// What somebody of this role is given in these shops, for an hour.
pub fn grant(subject: &str, role: Option<Role>, shops: &[&str]) -> Grant {
    Grant {
        subject: subject.to_owned(),
        role: role.map(|role| role.word().to_owned()),
        shops: shops.iter().map(|shop| (*shop).to_owned()).collect(),
        lasts: HOUR,
        ..Grant::default()
    }
}

/// A shop with one basket, and what is in it that nobody else has.
#[derive(Debug, Clone)]
pub struct Stocked {
    pub shop: String,
    pub session: String,
    pub shopper: String,
    pub product: String,
    pub correction: String,
}

impl Stocked {
    /// What nobody sees who may not.
    pub fn secrets(&self) -> [&str; 2] {
        [&self.product, &self.shopper]
    }
}

/// Members and revocations, to be changed.
pub struct RightsOf {
    pub views: Views,
    _stop: DropGuard,
}

impl RightsOf {
    pub async fn of(stack: &Stack) -> Self {
        let (config, tasks, stop) = (stack.views_config(), TaskTracker::new(), CancellationToken::new());
        Self {
            views: Views::start(&config, &tasks, stop.clone()).await.unwrap(),
            _stop: stop.drop_guard(),
        }
    }

    /// Revokes until somebody lifts it.
    pub async fn revoke(&self, revoked: &Revoked) {
        assert!(
            self.views
                .revoke(revoked, RevokedUntil::Lifted, "a test")
                .await
                .unwrap()
        );
    }

    pub async fn set_member(&self, subject: &str, role: Role, shops: &[&str]) {
        let shops: Shops = ezout::views::parse_shops(shops).unwrap();
        self.views.set_member(subject, &Member { role, shops }).await.unwrap();
    }
}

/// Somebody who asks over HTTP.
pub struct Asker {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Got {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Asker {
    pub fn new(service: &Service, token: Option<String>) -> Self {
        Self {
            http: reqwest::Client::new(),
            base: service.http_url(),
            token,
        }
    }

    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    pub async fn get(&self, path: &str) -> Got {
        Got::of(self.request(reqwest::Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Got {
        Got::of(self.request(reqwest::Method::POST, path).json(body)).await
    }

    pub async fn post_lines(&self, path: &str, lines: &[Value]) -> Got {
        let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
        let body = lines.join("\n");
        let request = self.request(reqwest::Method::POST, path);
        Got::of(request.header("content-type", "application/x-ndjson").body(body)).await
    }

    pub async fn publish(&self, shop: &str, event: &Value) -> Got {
        self.post(&format!("/publish/{shop}"), event).await
    }

    /// Asks until there is an answer of 200.
    pub async fn get_until(&self, path: &str) -> Got {
        self.get_until_status(path, 200).await
    }

    pub async fn get_until_status(&self, path: &str, status: u16) -> Got {
        wait_for(&format!("{status} from {path}"), async || {
            let got = self.get(path).await;
            (got.status == status).then_some(got)
        })
        .await
    }
}

impl Got {
    /// Sends a request, and reads the answer; of a stream that goes on, up to the end of its snapshot.
    pub async fn of(request: reqwest::RequestBuilder) -> Self {
        let mut response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.unwrap() {
            body.extend_from_slice(&chunk);
            let is_stream = headers
                .get("content-type")
                .is_some_and(|kind| kind == "text/event-stream");
            if is_stream && String::from_utf8_lossy(&body).contains("\"more\":false}\n\n") {
                break;
            }
        }
        let text = String::from_utf8(body).expect("answers are text");
        Self { status, headers, text }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of a problem.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    pub fn sequence(&self) -> u64 {
        let header = self.headers.get("ezout-sequence");
        let header = header.unwrap_or_else(|| panic!("no receipt: {self:?}"));
        header.to_str().unwrap().parse().unwrap()
    }

    /// Everything but the time.
    pub fn whole(&self) -> (u16, Vec<(String, Vec<u8>)>, String) {
        let mut headers: Vec<_> = self
            .headers
            .iter()
            .filter(|(name, _)| *name != "date" && *name != "ezout-request-id")
            .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
            .collect();
        headers.sort();
        // The name of the request is another one each time, and of one length. What Resgate answers itself has none.
        let name = self.headers.get("ezout-request-id").and_then(|name| name.to_str().ok());
        let text = name.map_or_else(|| self.text.clone(), |name| self.text.replace(name, "THE REQUEST"));
        (self.status, headers, text)
    }

    /// Panics if any of these is anywhere in it.
    pub fn has_none_of(&self, secrets: &[&str], what: &str) {
        let everything = format!("{:?} {}", self.headers, self.text);
        for secret in secrets {
            assert!(!everything.contains(secret), "{what} shows {secret}: {everything}");
        }
    }
}
