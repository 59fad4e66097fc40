//! The protocol by which nats-server asks who somebody is that it does not know (auth callout).
//!
//! It asks the account of `door`, and takes an answer that is signed by the issuer that its settings name. Question and
//! answer are JSON Web Tokens of NATS's own kind, signed with Ed25519. Who may come in is not decided here.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::{RequestErrorKind, Subject};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::stream::{Stream, StreamExt as _};
use nkeys::{KeyPair, KeyPairType};
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::watch;
use uuid::Uuid;

use super::{Connection, LinkError, Status};

/// Where nats-server asks.
const ASKED: &str = "$SYS.REQ.USER.AUTH";
/// Where it tells that a watcher has come in.
const CAME: &str = "$SYS.ACCOUNT.EDGE.CONNECT";
/// Where it tells that a watcher has left.
const LEFT: &str = "$SYS.ACCOUNT.EDGE.DISCONNECT";
/// Under which name processes share the questions.
const QUEUE: &str = "ezout";
/// For whom a question is.
const QUESTION_AUDIENCE: &str = "nats-authorization-request";
/// The account that watchers are in.
const WATCHERS: &str = "EDGE";
/// What the header of a token of NATS says.
const ALGORITHM: &str = "ed25519-nkey";
/// Longest question that is read. A token has 4 KiB at most.
const QUESTION_BYTES_MAX: usize = 64 * 1024;
/// How long a server may take to end a connection.
const END_TIMEOUT: Duration = Duration::from_millis(500);
/// Bytes of what a watcher may send, which is nothing.
const SENT_BYTES_MAX: i64 = 1024;

/// A connection of a watcher: the server that has it, and its number there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seat {
    server: String,
    number: u64,
}

impl Seat {
    /// The server that has it, which has another name each time that it starts.
    pub fn server(&self) -> &str {
        &self.server
    }
}

/// Somebody who wants to come in.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Their connection.
    pub seat: Seat,
    /// What they have given: as a token, or as the password of whatever user.
    pub token: Option<String>,
    /// The key that the server has given them.
    key: String,
    reply: Subject,
}

/// What a watcher may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Who it is, as the server's lists show it.
    pub name: String,
    /// What to listen to, and to nothing else.
    pub subjects: BTreeSet<String>,
    /// Until then.
    pub until: OffsetDateTime,
}

/// Who signs that somebody may come in.
pub struct Issuer(KeyPair);

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Issuer").field(&self.public_key()).finish()
    }
}

/// Why there is no issuer.
#[derive(Debug, thiserror::Error)]
#[error("EZOUT_NATS_ISSUER_SEED is no secret of an account of NATS, which begins with SA")]
pub struct NoIssuer;

impl Issuer {
    /// A new one, by chance.
    #[expect(clippy::new_without_default, reason = "no two of them are equal")]
    pub fn new() -> Self {
        Self(KeyPair::new_account())
    }

    /// The one of this secret.
    ///
    /// # Errors
    /// [`NoIssuer`].
    pub fn read(seed: &str) -> Result<Self, NoIssuer> {
        let pair = KeyPair::from_seed(seed.trim()).map_err(|_| NoIssuer)?;
        if pair.key_pair_type() != KeyPairType::Account {
            return Err(NoIssuer);
        }
        Ok(Self(pair))
    }

    /// What the settings of nats-server name.
    pub fn public_key(&self) -> String {
        self.0.public_key()
    }

    /// Its secret.
    pub fn seed(&self) -> String {
        self.0.seed().unwrap_or_default()
    }

    fn sign(&self, claims: &Value) -> String {
        let part = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", part(&json!({"typ": "JWT", "alg": ALGORITHM})), part(claims));
        let signature = self.0.sign(signed.as_bytes()).expect("a pair with its secret signs");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The user that somebody becomes.
    fn user(&self, caller: &Caller, admission: &Admission, now: OffsetDateTime) -> String {
        let subjects: Vec<&String> = admission.subjects.iter().collect();
        // Each once more while a client changes its mind.
        let subscriptions = 2 * subjects.len() + 8;
        self.sign(&json!({
            "jti": Uuid::new_v4().simple().to_string(),
            "iat": now.unix_timestamp(),
            "exp": admission.until.unix_timestamp(),
            "iss": self.public_key(),
            "sub": caller.key,
            "aud": WATCHERS,
            "name": admission.name,
            "nats": {
                "type": "user",
                "version": 2,
                "pub": {"deny": [">"]},
                "sub": {"allow": subjects},
                "subs": subscriptions,
                "data": -1,
                "payload": SENT_BYTES_MAX,
                "allowed_connection_types": ["STANDARD", "WEBSOCKET"],
            },
        }))
    }

    fn answer(&self, caller: &Caller, now: OffsetDateTime, outcome: Result<String, &str>) -> String {
        let mut said = json!({"type": "authorization_response", "version": 2});
        match outcome {
            Ok(user) => said["jwt"] = user.into(),
            Err(reason) => said["error"] = reason.into(),
        }
        self.sign(&json!({
            "jti": Uuid::new_v4().simple().to_string(),
            "iat": now.unix_timestamp(),
            "iss": self.public_key(),
            "sub": caller.key,
            "aud": caller.seat.server,
            "nats": said,
        }))
    }
}

/// The door: questions come by it, and watchers come and leave by it.
#[derive(Debug, Clone)]
pub struct Callout {
    connection: Connection,
    issuer: std::sync::Arc<Issuer>,
}

impl Callout {
    /// Begins to connect and returns at once; `urls` has to name the user `door`.
    ///
    /// # Errors
    /// [`LinkError`] if `urls` is no list of addresses.
    pub async fn start(urls: &str, issuer: Issuer) -> Result<Self, LinkError> {
        Ok(Self {
            connection: Connection::start(urls, "ezout door").await?,
            issuer: std::sync::Arc::new(issuer),
        })
    }

    /// Every loss and return of the connection.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.connection.status()
    }

    /// Everybody who asks to come in, each at one of the processes that listen here. What is no question of a server is
    /// left out, and nobody answers it.
    ///
    /// # Errors
    /// [`LinkError`] after the connection was closed for good.
    pub async fn callers(&self) -> Result<impl Stream<Item = Caller> + Unpin + Send + use<>, LinkError> {
        let client = self.connection.client();
        let asked = client.queue_subscribe(ASKED, QUEUE.to_owned()).await;
        let asked = asked.map_err(|error| LinkError(error.into()))?;
        Ok(asked.filter_map(|message| {
            let caller = message.reply.and_then(|reply| read_question(&message.payload, reply));
            if caller.is_none() {
                tracing::warn!("somebody who is no server asked who may come in; nobody answers");
            }
            std::future::ready(caller)
        }))
    }

    /// Every watcher that comes in, whichever process let it in.
    ///
    /// # Errors
    /// [`LinkError`] after the connection was closed for good.
    pub async fn coming(&self) -> Result<impl Stream<Item = Seat> + Unpin + Send + use<>, LinkError> {
        self.told(CAME).await
    }

    /// Every watcher that leaves, whichever process let it in.
    ///
    /// # Errors
    /// [`LinkError`] after the connection was closed for good.
    pub async fn leaving(&self) -> Result<impl Stream<Item = Seat> + Unpin + Send + use<>, LinkError> {
        self.told(LEFT).await
    }

    async fn told(&self, subject: &'static str) -> Result<impl Stream<Item = Seat> + Unpin + Send + use<>, LinkError> {
        let told = self.connection.client().subscribe(subject).await;
        let told = told.map_err(|error| LinkError(error.into()))?;
        Ok(told.filter_map(|message| std::future::ready(read_seat(&message.payload))))
    }

    /// Lets somebody in. Where the answer gets lost the server lets nobody in.
    pub async fn admit(&self, caller: &Caller, admission: &Admission, now: OffsetDateTime) {
        let user = self.issuer.user(caller, admission, now);
        self.answer(caller, self.issuer.answer(caller, now, Ok(user))).await;
    }

    /// Lets somebody not in. The server notes the reason, and tells the caller no more than that it is so.
    pub async fn refuse(&self, caller: &Caller, reason: &str, now: OffsetDateTime) {
        self.answer(caller, self.issuer.answer(caller, now, Err(reason))).await;
    }

    async fn answer(&self, caller: &Caller, answer: String) {
        let client = self.connection.client();
        if let Err(error) = client.publish(caller.reply.clone(), answer.into()).await {
            tracing::debug!("an answer about who may come in was not sent: {error}");
        }
    }

    /// Whether a server is not there, as far as can be told from here: it has ended, or is cut off from the one of the door.
    pub async fn is_gone(&self, server: &str) -> bool {
        // No connection has this number, so nobody is ended by it.
        let request = async_nats::Request::new()
            .payload(json!({"cid": 0}).to_string().into())
            .timeout(Some(END_TIMEOUT));
        let answer = self.connection.client().send_request(kick(server), request).await;
        answer.is_err_and(|error| error.kind() == RequestErrorKind::NoResponders)
    }

    /// Ends a watcher's connection, and answers whether its server has said that it is over.
    pub async fn end(&self, seat: &Seat) -> bool {
        let request = async_nats::Request::new()
            .payload(json!({"cid": seat.number}).to_string().into())
            .timeout(Some(END_TIMEOUT));
        // One that is gone already is an error that says so, and it is over as well.
        self.connection
            .client()
            .send_request(kick(&seat.server), request)
            .await
            .is_ok()
    }
}

/// Where a server ends connections.
fn kick(server: &str) -> String {
    format!("$SYS.REQ.SERVER.{server}.KICK")
}

#[derive(Deserialize)]
struct Question {
    iss: String,
    aud: String,
    nats: Asked,
}

#[derive(Deserialize)]
struct Asked {
    #[serde(rename = "type")]
    kind: String,
    server_id: ServerId,
    user_nkey: String,
    client_info: ClientId,
    #[serde(default)]
    connect_opts: ConnectOpts,
}

#[derive(Deserialize)]
struct ServerId {
    id: String,
}

#[derive(Deserialize)]
struct ClientId {
    id: u64,
}

#[derive(Deserialize, Default)]
struct ConnectOpts {
    auth_token: Option<String>,
    pass: Option<String>,
}

/// Reads a question; nothing if it is none, or not signed by the server that it names.
fn read_question(payload: &Bytes, reply: Subject) -> Option<Caller> {
    if payload.len() > QUESTION_BYTES_MAX {
        return None;
    }
    let text = std::str::from_utf8(payload).ok()?;
    let (signed, signature) = text.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
    if header["alg"] != ALGORITHM {
        return None;
    }
    let question: Question = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    let server = KeyPair::from_public_key(&question.iss).ok()?;
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    server.verify(signed.as_bytes(), &signature).ok()?;
    let asked = question.nats;
    let is_ours = server.key_pair_type() == KeyPairType::Server
        && question.iss == asked.server_id.id
        && question.aud == QUESTION_AUDIENCE
        && asked.kind == "authorization_request";
    let token = asked.connect_opts.auth_token.filter(|token| !token.is_empty());
    let token = token.or(asked.connect_opts.pass.filter(|password| !password.is_empty()));
    is_ours.then_some(Caller {
        seat: Seat {
            server: asked.server_id.id,
            number: asked.client_info.id,
        },
        token,
        key: asked.user_nkey,
        reply,
    })
}

fn read_seat(payload: &Bytes) -> Option<Seat> {
    #[derive(Deserialize)]
    struct Told {
        server: ServerId,
        client: ClientId,
    }
    let told: Told = serde_json::from_slice(payload).ok()?;
    Some(Seat {
        server: told.server.id,
        number: told.client.id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(server: &KeyPair, change: impl FnOnce(&mut Value)) -> Bytes {
        let mut claims = json!({
            "iss": server.public_key(), "aud": QUESTION_AUDIENCE, "sub": "AUTH",
            "nats": {
                "type": "authorization_request", "version": 2, "user_nkey": "UKEY",
                "server_id": {"id": server.public_key(), "name": "n1"},
                "client_info": {"id": 7, "host": "127.0.0.1"},
                "connect_opts": {"user": "whoever", "pass": "a.b.c", "protocol": 1},
            },
        });
        change(&mut claims);
        let part = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", part(&json!({"typ": "JWT", "alg": ALGORITHM})), part(&claims));
        let signature = URL_SAFE_NO_PAD.encode(server.sign(signed.as_bytes()).unwrap());
        format!("{signed}.{signature}").into()
    }

    /// What stands for what is no question.
    const NONE: Result<Option<String>, &str> = Err("no question");

    fn token(payload: &Bytes) -> Result<Option<String>, &'static str> {
        let question = read_question(payload, "_INBOX.x".into());
        question.map(|caller| caller.token).ok_or("no question")
    }

    #[test]
    fn a_question_is_one_that_its_server_has_signed() {
        let server = KeyPair::new_server();
        let read = |change: fn(&mut Value)| token(&question(&server, change));
        assert_eq!(read(|_| ()), Ok(Some("a.b.c".to_owned())));
        let with_token: fn(&mut Value) = |claims| claims["nats"]["connect_opts"]["auth_token"] = "t".into();
        assert_eq!(read(with_token), Ok(Some("t".to_owned())));
        assert_eq!(read(|claims| claims["nats"]["connect_opts"] = json!({})), Ok(None));

        let changes: [fn(&mut Value); 5] = [
            |claims| claims["aud"] = "somebody".into(),
            |claims| claims["nats"]["type"] = "user".into(),
            |claims| claims["nats"]["server_id"]["id"] = KeyPair::new_server().public_key().into(),
            |claims| claims["iss"] = KeyPair::new_server().public_key().into(),
            |claims| claims["nats"]["client_info"]["id"] = "7".into(),
        ];
        for change in changes {
            assert_eq!(read(change), NONE);
        }
        assert_eq!(
            token(&question(&KeyPair::new_user(), |_| ())),
            NONE,
            "a user is no server"
        );
        for nothing in ["", ".", "..", "a.b.c", "{}"] {
            assert_eq!(token(&Bytes::from_static(nothing.as_bytes())), NONE, "{nothing:?}");
        }
    }

    #[test]
    fn the_secret_of_an_account_and_nothing_else_is_an_issuer() {
        let issuer = Issuer::new();
        assert!(issuer.seed().starts_with("SA") && issuer.public_key().starts_with('A'));
        assert_eq!(Issuer::read(&issuer.seed()).unwrap().public_key(), issuer.public_key());
        assert!(!format!("{issuer:?}").contains(&issuer.seed()));
        for no_seed in ["", "SA", &issuer.public_key(), &KeyPair::new_user().seed().unwrap()] {
            assert!(Issuer::read(no_seed).is_err());
        }
    }
}
