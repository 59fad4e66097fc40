//! What a browser does: a `WebSocket` client of Resgate that keeps a replica of what it has subscribed to.
//!
//! Frames are applied in the order in which they come, answers and events alike. What breaks a rule of the protocol
//! is kept as a fault, and fails the test when the client is dropped; so does an end of something that exists.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use futures::{SinkExt as _, StreamExt as _, stream::SplitSink};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::{self, Message};

use super::res::{Resource, tree};
use super::wait_for;

const PROTOCOL: &str = "1.2.3";

/// An event as it came: `{rid}.{name}` with its data.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub rid: String,
    pub name: String,
    pub data: Value,
}

/// A connected client.
pub struct ResClient {
    socket: tokio::sync::Mutex<SplitSink<WebSocketStream<TcpStream>, Message>>,
    next_id: AtomicU64,
    expects_ends: AtomicBool,
    state: Arc<Mutex<State>>,
    reader: JoinHandle<()>,
}

/// What came of a request: the members of `result`, or the error.
type Answer = Result<Value, Value>;

#[derive(Default)]
struct State {
    replica: Replica,
    frames: Vec<Value>,
    waiting: BTreeMap<u64, Waiting>,
    closed: bool,
}

struct Waiting {
    kind: Kind,
    answer: oneshot::Sender<Answer>,
}

/// What an answer means for the replica.
enum Kind {
    Subscribe(String),
    Unsubscribe(String, u64),
    Get,
    Other,
}

impl ResClient {
    /// Connects, and agrees on the version of the protocol.
    pub async fn connect(url: &str) -> Self {
        Self::connect_with(url, &[]).await.expect("Resgate takes the client")
    }

    /// Connects with headers in the upgrade, such as `Cookie` and `Origin`.
    ///
    /// # Errors
    /// When the upgrade is refused.
    pub async fn connect_with(url: &str, headers: &[(&str, &str)]) -> Result<Self, tungstenite::Error> {
        let mut request = url.into_client_request()?;
        for (name, value) in headers {
            let name: HeaderName = name.parse().expect("the name of a header");
            let value: HeaderValue = value.parse().expect("the value of a header");
            request.headers_mut().insert(name, value);
        }
        let authority = request.uri().authority().expect("a host").as_str();
        let address: SocketAddr = authority.parse().expect("an address and a port");
        let stream = TcpStream::connect(address).await?;
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await?;
        let (write, mut read) = socket.split();
        let state = Arc::new(Mutex::new(State::default()));
        let inbox = state.clone();
        let reader = tokio::spawn(async move {
            while let Some(Ok(message)) = read.next().await {
                let Message::Text(text) = message else { continue };
                let frame = serde_json::from_str(&text).expect("a frame is JSON");
                lock(&inbox).take(frame);
            }
            let mut state = lock(&inbox);
            state.closed = true;
            state.waiting.clear();
        });
        let client = Self {
            socket: tokio::sync::Mutex::new(write),
            next_id: AtomicU64::new(1),
            expects_ends: AtomicBool::new(false),
            state,
            reader,
        };
        let agreed = client
            .ask("version", Some(json!({ "protocol": PROTOCOL })), Kind::Other)
            .await;
        assert_eq!(agreed, Ok(json!({ "protocol": PROTOCOL })));
        Ok(client)
    }

    /// Subscribes, and answers the tree of the resource as it came.
    ///
    /// # Errors
    /// The error that was answered.
    pub async fn subscribe(&self, rid: &str) -> Answer {
        let kind = Kind::Subscribe(rid.to_owned());
        self.ask(&format!("subscribe.{rid}"), None, kind).await?;
        Ok(self.tree(rid).unwrap_or_default())
    }

    /// Reads a resource without subscribing to it, and answers its tree.
    ///
    /// # Errors
    /// The error that was answered.
    pub async fn get(&self, rid: &str) -> Answer {
        let result = self.ask(&format!("get.{rid}"), None, Kind::Get).await?;
        // What the client has already is not sent again.
        let mut replica = lock(&self.state).replica.clone();
        replica.take_resources(&result).expect("the result was checked");
        Ok(replica.tree(rid).unwrap_or_default())
    }

    /// Calls a method, and answers its payload, or the `rid` of the resource that it answers with, which is then subscribed.
    ///
    /// # Errors
    /// The error that was answered.
    pub async fn call(&self, rid: &str, method: &str, params: Value) -> Answer {
        let result = self
            .ask(&format!("call.{rid}.{method}"), Some(params), Kind::Other)
            .await?;
        Ok(result.get("payload").unwrap_or(&result["rid"]).clone())
    }

    /// Calls an auth method, and answers its payload.
    ///
    /// # Errors
    /// The error that was answered.
    pub async fn auth(&self, rid: &str, method: &str, params: Value) -> Answer {
        let result = self
            .ask(&format!("auth.{rid}.{method}"), Some(params), Kind::Other)
            .await?;
        Ok(result["payload"].clone())
    }

    /// Gives back one subscription.
    ///
    /// # Errors
    /// The error that was answered, such as that there is none.
    pub async fn unsubscribe(&self, rid: &str) -> Answer {
        let kind = Kind::Unsubscribe(rid.to_owned(), 1);
        self.ask(&format!("unsubscribe.{rid}"), Some(json!({ "count": 1 })), kind)
            .await
    }

    /// What the client sees from a resource on, with references followed and data unwrapped; None where it does not have it.
    pub fn tree(&self, rid: &str) -> Option<Value> {
        lock(&self.state).replica.tree(rid)
    }

    /// Waits until the client sees exactly this.
    pub async fn sees(&self, rid: &str, expected: &Value) {
        wait_for(&format!("{rid} as {expected}"), async || {
            (self.tree(rid).as_ref() == Some(expected)).then_some(())
        })
        .await;
    }

    /// Every frame that came, in order.
    pub fn frames(&self) -> Vec<Value> {
        lock(&self.state).frames.clone()
    }

    /// Every event of a resource that came, in order.
    pub fn events(&self, rid: &str) -> Vec<Event> {
        let state = lock(&self.state);
        let events = state.frames.iter().filter_map(event);
        events.filter(|event| event.rid == rid).collect()
    }

    /// Waits for an event of a resource by its name, and answers the data of the first.
    pub async fn hears(&self, rid: &str, name: &str) -> Value {
        wait_for(&format!("the event {rid}.{name}"), async || {
            self.events(rid)
                .into_iter()
                .find(|event| event.name == name)
                .map(|event| event.data)
        })
        .await
    }

    /// Why the gateway took a subscription away, if it did: a code such as `system.accessDenied`.
    pub fn lost(&self, rid: &str) -> Option<String> {
        lock(&self.state).replica.lost.get(rid).cloned()
    }

    /// Whether the gateway has closed the connection.
    pub fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }

    /// What was told to be no more, or could not be had any more. A right that ends is none of it.
    pub fn ends(&self) -> Vec<Event> {
        let state = lock(&self.state);
        let events = state.frames.iter().filter_map(event);
        let is_end = |event: &Event| match event.name.as_str() {
            "delete" => true,
            "unsubscribe" => event.data["reason"]["code"] != "system.accessDenied",
            _ => false,
        };
        events.filter(is_end).collect()
    }

    /// Takes ends for no fault: the test brings them about.
    pub fn expect_ends(&self) {
        self.expects_ends.store(true, Ordering::Relaxed);
    }

    /// What broke a rule of the protocol.
    pub fn faults(&self) -> Vec<String> {
        lock(&self.state).replica.faults.clone()
    }

    async fn ask(&self, method: &str, params: Option<Value>, kind: Kind) -> Answer {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut request = json!({ "id": id, "method": method });
        if let Some(params) = params {
            request["params"] = params;
        }
        let (answer, answered) = oneshot::channel();
        lock(&self.state).waiting.insert(id, Waiting { kind, answer });
        let sent = self.socket.lock().await.send(Message::text(request.to_string())).await;
        // A socket that broke is told as the answer that never came.
        let closed = json!({ "code": "test.closed", "message": "the connection has ended" });
        if sent.is_err() || self.is_closed() {
            return Err(closed);
        }
        answered.await.unwrap_or(Err(closed))
    }
}

impl Drop for ResClient {
    fn drop(&mut self) {
        // The socket is dropped with it: after a close in order Resgate would keep it open.
        self.reader.abort();
        if !std::thread::panicking() {
            let faults = self.faults();
            assert!(
                faults.is_empty(),
                "the client was told nonsense:\n{}",
                faults.join("\n")
            );
            let ends = self.ends();
            assert!(
                ends.is_empty() || self.expects_ends.load(Ordering::Relaxed),
                "the client was told the end of what exists: {ends:#?}"
            );
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("nothing panics while it holds the state")
}

/// The event in a frame, if it is one. A query may contain dots, the name of an event does not.
fn event(frame: &Value) -> Option<Event> {
    let (rid, name) = frame["event"].as_str()?.rsplit_once('.')?;
    Some(Event {
        rid: rid.to_owned(),
        name: name.to_owned(),
        data: frame["data"].clone(),
    })
}

impl State {
    fn take(&mut self, frame: Value) {
        if let Some(event) = event(&frame) {
            self.replica.take_event(&event);
        } else {
            let waiting = frame["id"].as_u64().and_then(|id| self.waiting.remove(&id));
            match waiting {
                Some(waiting) => self.answer(waiting, &frame),
                None => self.replica.faults.push(format!("an answer to nothing: {frame}")),
            }
        }
        self.frames.push(frame);
    }

    fn answer(&mut self, waiting: Waiting, frame: &Value) {
        let error = &frame["error"];
        let result = &frame["result"];
        let answer = if error.is_null() {
            let taken = match &waiting.kind {
                Kind::Subscribe(rid) => self.replica.take_subscription(rid, result),
                Kind::Unsubscribe(rid, count) => self.replica.give_back(rid, *count),
                Kind::Get => Replica::default().take_resources(result),
                // A call may answer with a resource, which is subscribed then.
                Kind::Other => match result["rid"].as_str() {
                    Some(rid) => self.replica.take_subscription(rid, result),
                    None => Ok(()),
                },
            };
            self.replica.faults.extend(taken.err());
            Ok(result.clone())
        } else {
            Err(error.clone())
        };
        // Whoever asked may have gone.
        let _ = waiting.answer.send(answer);
    }
}

/// What a client has of the resources that it subscribed to.
#[derive(Debug, Clone, Default)]
pub struct Replica {
    resources: BTreeMap<String, Resource>,
    /// How often each resource is subscribed to, references not counted.
    direct: BTreeMap<String, u64>,
    lost: BTreeMap<String, String>,
    faults: Vec<String>,
}

impl Replica {
    /// What is seen from a resource on.
    pub fn tree(&self, rid: &str) -> Option<Value> {
        tree(&self.resources, rid)
    }

    /// Takes the answer to a subscription.
    pub fn take_subscription(&mut self, rid: &str, result: &Value) -> Result<(), String> {
        self.take_resources(result)?;
        *self.direct.entry(rid.to_owned()).or_default() += 1;
        self.lost.remove(rid);
        self.forget_unreachable();
        if self.resources.contains_key(rid) {
            Ok(())
        } else {
            Err(format!("{rid} was subscribed to and not sent"))
        }
    }

    /// Takes the resources in an answer or in an event.
    pub fn take_resources(&mut self, sent: &Value) -> Result<(), String> {
        for set in ["models", "collections", "errors"] {
            for (rid, content) in sent[set].as_object().into_iter().flatten() {
                let resource = match set {
                    "models" => Resource::model(content),
                    "collections" => Resource::collection(content),
                    _ => Ok(Resource::Error(content.clone())),
                };
                let resource = resource.map_err(|fault| format!("{rid}: {fault}"))?;
                self.resources.insert(rid.clone(), resource);
            }
        }
        Ok(())
    }

    /// Gives subscriptions back.
    pub fn give_back(&mut self, rid: &str, count: u64) -> Result<(), String> {
        let Some(held) = self.direct.get_mut(rid).filter(|held| **held >= count) else {
            return Err(format!("{rid} was given back more often than it was subscribed to"));
        };
        *held -= count;
        if *held == 0 {
            self.direct.remove(rid);
        }
        self.forget_unreachable();
        Ok(())
    }

    /// Applies an event; one that breaks a rule changes nothing and is kept as a fault.
    pub fn take_event(&mut self, event: &Event) {
        if let Err(fault) = self.apply(event) {
            let Event { rid, name, data } = event;
            self.faults.push(format!("{rid}.{name} {data}: {fault}"));
        }
        self.forget_unreachable();
    }

    fn apply(&mut self, event: &Event) -> Result<(), String> {
        let Event { rid, name, data } = event;
        if name == "unsubscribe" {
            let code = data["reason"]["code"].as_str().unwrap_or_default();
            self.lost.insert(rid.clone(), code.to_owned());
            return match self.direct.remove(rid) {
                Some(_) => Ok(()),
                None => Err("it was not subscribed to".to_owned()),
            };
        }
        self.take_resources(data)?;
        let Some(resource) = self.resources.get_mut(rid) else {
            return Err("the client does not have it".to_owned());
        };
        if let Resource::Error(error) = resource {
            return Err(format!("the client was told {error}"));
        }
        match name.as_str() {
            "change" => {
                let values = data["values"].as_object().ok_or("a change without values")?;
                resource.change(values).map(|_| ())
            }
            "add" => resource.add(&data["idx"], &data["value"]),
            "remove" => resource.remove(&data["idx"]).map(|_| ()),
            "delete" => {
                *resource = Resource::deleted();
                Ok(())
            }
            // Custom ones have no effect.
            _ => Ok(()),
        }
    }

    /// The gateway says nothing about what can no longer be reached, and sends it again when it can.
    fn forget_unreachable(&mut self) {
        let mut reachable: Vec<String> = self.direct.keys().cloned().collect();
        let mut at = 0;
        while let Some(rid) = reachable.get(at) {
            let references = self.resources.get(rid).map(Resource::references).unwrap_or_default();
            for reference in references {
                if !reachable.contains(&reference) {
                    reachable.push(reference);
                }
            }
            at += 1;
        }
        self.resources.retain(|rid, _| reachable.contains(rid));
    }
}

mod tests {
    use super::*;

    fn event(rid: &str, name: &str, data: Value) -> Event {
        Event {
            rid: rid.to_owned(),
            name: name.to_owned(),
            data,
        }
    }

    fn list_of_two() -> Replica {
        let mut replica = Replica::default();
        let sent = json!({
            "collections": { "list": [{ "rid": "a" }, { "rid": "b" }] },
            "models": { "a": { "n": 1, "items": { "data": [] } }, "b": { "n": 2 } },
        });
        replica.take_subscription("list", &sent).unwrap();
        replica
    }

    #[test]
    fn events_are_applied_to_what_was_subscribed_to() {
        let mut replica = list_of_two();
        replica.take_event(&event(
            "a",
            "change",
            json!({ "values": { "n": 5, "items": { "data": ["x"] } } }),
        ));
        let added = json!({ "idx": 0, "value": { "rid": "c" }, "models": { "c": { "n": 3 } } });
        replica.take_event(&event("list", "add", added));
        replica.take_event(&event("list", "remove", json!({ "idx": 2 })));
        replica.take_event(&event("list", "hello", json!(null)));
        let expected = json!([{ "n": 3 }, { "n": 5, "items": ["x"] }]);
        assert_eq!(replica.tree("list"), Some(expected));
        // Nothing leads to it any more.
        assert_eq!(replica.tree("b"), None);
        assert_eq!(replica.faults, Vec::<String>::new());
    }

    #[test]
    fn what_is_gone_shows_as_gone() {
        let mut replica = list_of_two();
        replica.take_event(&event("a", "delete", json!(null)));
        let gone = json!({ "error": { "code": "system.deleted", "message": "Deleted" } });
        assert_eq!(replica.tree("list"), Some(json!([gone, { "n": 2 }])));
        replica.take_event(&event("list", "remove", json!({ "idx": 0 })));
        assert_eq!(replica.tree("list"), Some(json!([{ "n": 2 }])));
        let reason = json!({ "reason": { "code": "system.accessDenied", "message": "no" } });
        replica.take_event(&event("list", "unsubscribe", reason));
        assert_eq!(replica.tree("list"), None);
        assert_eq!(replica.tree("b"), None);
        assert_eq!(replica.lost["list"], "system.accessDenied");
        assert_eq!(replica.faults, Vec::<String>::new());
    }

    #[test]
    fn a_subscription_lasts_until_it_was_given_back_as_often() {
        let mut replica = list_of_two();
        replica.take_subscription("list", &json!({})).unwrap();
        replica.take_subscription("a", &json!({})).unwrap();
        replica.give_back("list", 1).unwrap();
        assert!(replica.tree("list").is_some());
        replica.give_back("list", 1).unwrap();
        assert_eq!(replica.tree("list"), None);
        assert!(replica.tree("a").is_some());
        replica.give_back("list", 1).unwrap_err();
    }

    #[test]
    fn an_event_that_breaks_a_rule_is_a_fault_and_changes_nothing() {
        let check = |event: Event, expect: &str| {
            let mut replica = list_of_two();
            let before = replica.tree("list");
            replica.take_event(&event);
            assert_eq!(replica.tree("list"), before, "{event:?}");
            assert!(
                replica.faults.len() == 1 && replica.faults[0].contains(expect),
                "{:?}",
                replica.faults
            );
        };
        check(event("list", "add", json!({ "idx": 3, "value": 1 })), "index 3");
        check(event("list", "add", json!({ "value": 1 })), "index null");
        check(event("list", "remove", json!({ "idx": 2 })), "index 2");
        check(event("a", "remove", json!({ "idx": 0 })), "no collection");
        check(event("list", "change", json!({ "values": {} })), "no model");
        check(event("a", "change", json!({ "n": 2 })), "without values");
        check(event("a", "change", json!({ "values": { "n": [] } })), "not wrapped");
        check(event("other", "change", json!({ "values": {} })), "does not have it");
        check(event("a", "unsubscribe", json!({})), "not subscribed");
    }

    #[test]
    fn what_was_subscribed_to_was_sent() {
        let mut replica = Replica::default();
        replica.take_subscription("list", &json!({})).unwrap_err();
        let wrong = json!({ "models": { "m": { "items": [] } } });
        replica.take_subscription("m", &wrong).unwrap_err();
    }
}
