//! A gateway that forgives nothing: it asks a service on NATS as Resgate does, and keeps each rule that the service breaks.
//!
//! It works against any service and needs no Resgate. Where Resgate drops an event, waits in vain or goes on with a
//! wrong copy, this one has a violation, and a violation that the test did not expect fails it.
//!
//! What arrives is taken in the order in which it came over one connection: an event before the answer to a get
//! belongs into the answer and is discarded, one after it is applied. Nothing that was subscribed to leaves the cache
//! until `forget`, and then it leaves at once, so that a race can be tried again without waiting.

pub mod read;
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::res::{Resource, check_rid, split_query, tree};
use super::wait_for;
use super::wire::{Arrival, Arrived, Wire};
use read::Reply;

/// How long a service may take where it does not ask for more. Resgate waits for 5 s; a slow machine fails no test.
const PATIENCE: Duration = Duration::from_mins(1);
/// Inboxes that stay open behind their answer, to see whether another one comes.
const OPEN_INBOXES: usize = 1000;
/// Names that an event of a service's own may not have.
const RESERVED: [&str; 3] = ["patch", "reset", "unsubscribe"];

/// What came of a request: its result, or the error.
type Answer = Result<Value, Value>;

/// What the clients of a real gateway would be told.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// The resource, with its query in normal form.
    pub rid: String,
    /// `change`, `add`, `remove`, `delete`, `unsubscribe`, or an event of the service's own.
    pub event: String,
    pub data: Value,
}

/// A gateway with one client.
pub struct Gateway {
    commands: mpsc::Sender<Command>,
    seen: Arc<Mutex<Seen>>,
    runs: JoinHandle<()>,
}

/// What the test looks at.
#[derive(Default)]
struct Seen {
    /// By id, with the query in normal form.
    resources: BTreeMap<String, Resource>,
    /// The ids as they were asked for, with those that they turned out to mean.
    meant: BTreeMap<String, String>,
    told: Vec<Told>,
    asked: Vec<String>,
    violations: Vec<String>,
    discarded: usize,
    token: Value,
    tid: Value,
}

enum Command {
    Subscribe(String, oneshot::Sender<Answer>),
    Forget(String, oneshot::Sender<Answer>),
    Call(Call),
    Auth(Call),
}

struct Call {
    rid: String,
    method: String,
    params: Value,
    answer: oneshot::Sender<Answer>,
}

impl Gateway {
    /// Connects to NATS.
    pub async fn connect(url: &str) -> Self {
        Self::connect_with(url, PATIENCE).await
    }

    /// Connects to NATS, to wait so long for a service that does not ask for more.
    pub async fn connect_with(url: &str, patience: Duration) -> Self {
        let mut wire = Wire::connect(url).await;
        let cid: String = std::iter::repeat_with(|| fastrand::char('a'..='v')).take(20).collect();
        let system = wire.subscribe("system.*").await;
        let connection = wire.subscribe(&format!("conn.{cid}.*")).await;
        wire.settle().await;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (commands, inbox) = mpsc::channel(1);
        let core = Core {
            wire,
            seen: seen.clone(),
            patience,
            cid,
            system,
            connection,
            inboxes: 0,
            pending: BTreeMap::new(),
            answered: VecDeque::new(),
            events: HashMap::new(),
            loading: BTreeSet::new(),
            resetting: BTreeSet::new(),
            held: BTreeMap::new(),
            has_queries: BTreeMap::new(),
            joining: Vec::new(),
            direct: BTreeSet::new(),
        };
        let runs = tokio::spawn(core.run(inbox));
        Self { commands, seen, runs }
    }

    /// Subscribes to a resource, and answers its tree when all that it references is there.
    ///
    /// # Errors
    /// The error that the service answered to the get or to the access request.
    pub async fn subscribe(&self, rid: &str) -> Answer {
        check_rid(rid).expect("the test asks for a resource");
        self.command(|answer| Command::Subscribe(rid.to_owned(), answer))
            .await?;
        Ok(self.tree(rid).unwrap_or_default())
    }

    /// Ends the subscription, and has nothing that only it needed any more.
    pub async fn forget(&self, rid: &str) {
        let done = self.command(|answer| Command::Forget(rid.to_owned(), answer)).await;
        done.expect("forgetting is no request");
    }

    /// Calls a method, once the access request says that one may; answers the result, or the id of a resource.
    ///
    /// # Errors
    /// The error that was answered.
    pub async fn call(&self, rid: &str, method: &str, params: Value) -> Answer {
        let (rid, method) = (rid.to_owned(), method.to_owned());
        self.command(|answer| {
            Command::Call(Call {
                rid,
                method,
                params,
                answer,
            })
        })
        .await
    }

    /// Calls an auth method.
    ///
    /// # Errors
    /// The error that was answered.
    pub async fn auth(&self, rid: &str, method: &str, params: Value) -> Answer {
        let (rid, method) = (rid.to_owned(), method.to_owned());
        self.command(|answer| {
            Command::Auth(Call {
                rid,
                method,
                params,
                answer,
            })
        })
        .await
    }

    /// What a client sees from a resource on, with references followed and data unwrapped; None where it is not there.
    pub fn tree(&self, rid: &str) -> Option<Value> {
        let seen = lock(&self.seen);
        let mut resources = seen.resources.clone();
        for (asked, meant) in &seen.meant {
            if let Some(resource) = seen.resources.get(meant) {
                resources.insert(asked.clone(), resource.clone());
            }
        }
        tree(&resources, rid)
    }

    /// Waits until a client sees exactly this.
    pub async fn sees(&self, rid: &str, expected: &Value) {
        wait_for(&format!("{rid} as {expected}"), async || {
            (self.tree(rid).as_ref() == Some(expected)).then_some(())
        })
        .await;
    }

    /// What clients were told so far, in order.
    pub fn told(&self) -> Vec<Told> {
        lock(&self.seen).told.clone()
    }

    /// Waits until clients were told this event of a resource, and answers the data of the first.
    pub async fn tells(&self, rid: &str, event: &str) -> Value {
        wait_for(&format!("the event {rid}.{event}"), async || {
            let mut told = self.told().into_iter();
            told.find(|told| told.rid == rid && told.event == event)
                .map(|told| told.data)
        })
        .await
    }

    /// The subjects of all requests so far, in order.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.seen).asked.clone()
    }

    /// How many events came before the answer that they should have been in, or while a reset was under way.
    pub fn discarded(&self) -> usize {
        lock(&self.seen).discarded
    }

    /// The token that the service has given to this client; null where it has none.
    pub fn token(&self) -> Value {
        lock(&self.seen).token.clone()
    }

    /// The rules that the service has broken.
    pub fn violations(&self) -> Vec<String> {
        lock(&self.seen).violations.clone()
    }

    /// Waits for a violation whose text has this part, and takes it as expected.
    pub async fn catches(&self, part: &str) {
        wait_for(&format!("a violation with {part:?}"), async || {
            let mut seen = lock(&self.seen);
            let at = seen.violations.iter().position(|violation| violation.contains(part))?;
            seen.violations.remove(at);
            Some(())
        })
        .await;
    }

    async fn command(&self, command: impl FnOnce(oneshot::Sender<Answer>) -> Command) -> Answer {
        let (answer, answered) = oneshot::channel();
        let closed = json!({ "code": "test.closed", "message": "the connection to NATS has ended" });
        if self.commands.send(command(answer)).await.is_err() {
            return Err(closed);
        }
        answered.await.unwrap_or(Err(closed))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.runs.abort();
        if !std::thread::panicking() {
            let violations = self.violations();
            assert!(
                violations.is_empty(),
                "the service broke rules:\n{}",
                violations.join("\n")
            );
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().expect("nothing panics while it holds what was seen")
}

/// Everything that happens, one thing after the other.
struct Core {
    wire: Wire,
    seen: Arc<Mutex<Seen>>,
    patience: Duration,
    cid: String,
    system: u64,
    connection: u64,
    inboxes: u64,
    /// Requests without an answer, by the subscription of their inbox.
    pending: BTreeMap<u64, Pending>,
    /// Subscriptions of inboxes that have had their answer, the oldest first.
    answered: VecDeque<u64>,
    /// Subscriptions to the events of a resource name.
    events: HashMap<u64, String>,
    /// Ids, as they were asked for, whose get is under way.
    loading: BTreeSet<String>,
    /// Resources that are read again since a reset said so.
    resetting: BTreeSet<String>,
    /// Resource names with a query event under way.
    held: BTreeMap<String, Held>,
    /// Whether the answers of a name have a query.
    has_queries: BTreeMap<String, bool>,
    joining: Vec<Joining>,
    /// Ids, as they were asked for, that the client is subscribed to.
    direct: BTreeSet<String>,
}

struct Pending {
    purpose: Purpose,
    subject: String,
    deadline: Instant,
}

/// What an answer is for.
enum Purpose {
    Get(String),
    Reset(String),
    Page(String),
    Access(String),
    AccessForCall(Call),
    Client(oneshot::Sender<Answer>),
    Renewal,
}

/// What waits until the pages of a query resource are there.
#[derive(Default)]
struct Held {
    pages: usize,
    events: Vec<(String, Vec<u8>)>,
    gets: Vec<String>,
}

/// A subscription that is being set up.
struct Joining {
    rid: String,
    access: Option<Result<(), Value>>,
    answer: oneshot::Sender<Answer>,
}

impl Core {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            let deadline = self.pending.values().map(|pending| pending.deadline).min();
            let deadline = deadline.unwrap_or_else(|| Instant::now() + self.patience);
            tokio::select! {
                arrival = self.wire.next() => match arrival {
                    Some(Arrival::Message(message)) => self.take(message).await,
                    Some(Arrival::Ping) => self.wire.pong().await,
                    Some(Arrival::Pong) => {}
                    // As with Resgate, this is the end of it.
                    None => return,
                },
                command = commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                () = tokio::time::sleep_until(deadline) => self.give_up().await,
            }
            self.settle().await;
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Subscribe(rid, answer) => {
                self.joining.push(Joining {
                    rid: rid.clone(),
                    access: None,
                    answer,
                });
                // The two go side by side.
                self.load(rid.clone()).await;
                self.ask_access(&rid, Purpose::Access(rid.clone())).await;
            }
            Command::Forget(rid, answer) => {
                self.direct.remove(&rid);
                self.evict().await;
                let _ = answer.send(Ok(Value::Null));
            }
            Command::Call(call) => {
                let rid = call.rid.clone();
                self.ask_access(&rid, Purpose::AccessForCall(call)).await;
            }
            Command::Auth(call) => {
                let mut request = self.as_client(&call.rid);
                request.insert("params".to_owned(), call.params);
                request.extend(upgrade());
                let subject = format!("auth.{}.{}", split_query(&call.rid).0, call.method);
                self.ask(subject, request, Purpose::Client(call.answer)).await;
            }
        }
    }

    /// Loads a resource unless it is there or on its way.
    async fn load(&mut self, rid: String) {
        let (name, query) = split_query(&rid);
        if self.loading.contains(&rid) || self.live(&rid).is_some() {
            return;
        }
        if let Some(held) = self.held.get_mut(name) {
            held.gets.push(rid);
            return;
        }
        if !self.events.values().any(|known| known == name) {
            let number = self.wire.subscribe(&format!("event.{name}.*")).await;
            self.events.insert(number, name.to_owned());
        }
        let mut request = Map::new();
        request.extend(query.map(|query| ("query".to_owned(), query.into())));
        let subject = format!("get.{name}");
        self.loading.insert(rid.clone());
        self.ask(subject, request, Purpose::Get(rid)).await;
    }

    async fn ask_access(&mut self, rid: &str, purpose: Purpose) {
        let request = self.as_client(rid);
        self.ask(format!("access.{}", split_query(rid).0), request, purpose)
            .await;
    }

    /// What every request on behalf of the client says.
    fn as_client(&self, rid: &str) -> Map<String, Value> {
        let mut request = Map::from_iter([
            ("token".to_owned(), lock(&self.seen).token.clone()),
            ("cid".to_owned(), self.cid.as_str().into()),
        ]);
        request.extend(split_query(rid).1.map(|query| ("query".to_owned(), query.into())));
        request
    }

    async fn ask(&mut self, subject: String, request: Map<String, Value>, purpose: Purpose) {
        self.inboxes += 1;
        let inbox = format!("_INBOX.{}.{}", self.cid, self.inboxes);
        let number = self.wire.subscribe(&inbox).await;
        let payload = Value::Object(request).to_string();
        self.wire.publish(&subject, &inbox, payload.as_bytes()).await;
        lock(&self.seen).asked.push(subject.clone());
        self.pending.insert(
            number,
            Pending {
                purpose,
                subject,
                deadline: Instant::now() + self.patience,
            },
        );
    }

    async fn take(&mut self, message: Arrived) {
        let number = message.subscription;
        if self.pending.contains_key(&number) {
            self.take_reply(message).await;
        } else if self.answered.contains(&number) {
            self.violation(format!(
                "a second answer: {}",
                String::from_utf8_lossy(&message.payload)
            ));
        } else if let Some(name) = self.events.get(&number) {
            let name = name.clone();
            let event = message.subject["event.".len() + name.len() + 1..].to_owned();
            self.take_event(&name, &event, &message.payload).await;
        } else if number == self.system {
            self.take_system(&message).await;
        } else if number == self.connection {
            self.take_token(&message).await;
        }
    }

    async fn take_reply(&mut self, message: Arrived) {
        let number = message.subscription;
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        let is_for_client = matches!(pending.purpose, Purpose::Client(_));
        let answer = if message.no_responders {
            let code = match pending.purpose {
                // A gateway goes on with what it has, for good.
                Purpose::Page(_) => "test.nobody",
                _ => "system.notFound",
            };
            Err(json!({ "code": code, "message": "nobody is there to answer" }))
        } else {
            match read::reply(&message.payload) {
                Ok(Reply::Later(milliseconds)) => {
                    pending.deadline = Instant::now() + Duration::from_millis(milliseconds);
                    return;
                }
                Ok(Reply::Result(result)) => Ok(result),
                Ok(Reply::Error(error)) => Err(error),
                Ok(Reply::Resource(rid)) if is_for_client => Ok(rid),
                Ok(Reply::Resource(_)) => Err("an answer to a get or an access request with a resource"
                    .to_owned()
                    .into()),
                Err(fault) => Err(fault.into()),
            }
        };
        let pending = self.pending.remove(&number).expect("it was there");
        self.answered.push_back(number);
        if self.answered.len() > OPEN_INBOXES
            && let Some(oldest) = self.answered.pop_front()
        {
            self.wire.unsubscribe(oldest).await;
        }
        // A fault is text, an error of the service an object.
        let answer = match answer {
            Err(Value::String(fault)) => Err(self.broken(&pending.subject, &fault)),
            answer => answer,
        };
        self.finish(pending, answer).await;
    }

    /// Ends the requests that were waited for long enough.
    async fn give_up(&mut self) {
        let now = Instant::now();
        let late: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.deadline <= now)
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            let pending = self.pending.remove(&number).expect("it was there");
            self.violation(format!("{}: no answer in time", pending.subject));
            let error = json!({ "code": "system.timeout", "message": "Request timeout" });
            self.finish(pending, Err(error)).await;
        }
    }

    async fn finish(&mut self, pending: Pending, answer: Answer) {
        let subject = pending.subject;
        match pending.purpose {
            Purpose::Get(rid) => {
                let resource =
                    answer.and_then(|result| read::get(&result).map_err(|fault| self.broken(&subject, &fault)));
                self.got(rid, resource).await;
            }
            Purpose::Reset(rid) => {
                self.resetting.remove(&rid);
                match answer.map(|result| read::get(&result)) {
                    Ok(Ok((resource, query))) => {
                        if query.as_deref() != split_query(&rid).1 {
                            self.violation(format!("{rid}: the query in normal form is answered with {query:?}"));
                        }
                        self.replace(&rid, resource).await;
                    }
                    Ok(Err(fault)) => self.violation(format!("{subject}: {fault}")),
                    Err(error) if error["code"] == "system.notFound" => self.gone(&rid).await,
                    Err(error) => self.violation(format!("{rid} stays as it was, a reset is answered with {error}")),
                }
            }
            Purpose::Page(rid) => {
                self.take_page(&rid, answer).await;
                self.release(split_query(&rid).0).await;
            }
            Purpose::Access(rid) => {
                let access = self.read_access(&subject, answer).and_then(|(may_get, _)| {
                    let denied = json!({ "code": "system.accessDenied", "message": "Access denied" });
                    if may_get { Ok(()) } else { Err(denied) }
                });
                for joining in self.joining.iter_mut().filter(|joining| joining.rid == rid) {
                    joining.access.get_or_insert_with(|| access.clone());
                }
                if let Err(reason) = access
                    && self.direct.remove(&rid)
                {
                    self.tell(&rid, "unsubscribe", json!({ "reason": reason }));
                }
            }
            Purpose::AccessForCall(call) => {
                let denied = json!({ "code": "system.accessDenied", "message": "Access denied" });
                match self.read_access(&subject, answer) {
                    Ok((_, methods)) if methods == "*" || methods.split(',').any(|method| method == call.method) => {
                        let mut request = self.as_client(&call.rid);
                        request.insert("params".to_owned(), call.params);
                        let subject = format!("call.{}.{}", split_query(&call.rid).0, call.method);
                        self.ask(subject, request, Purpose::Client(call.answer)).await;
                    }
                    Ok(_) => drop(call.answer.send(Err(denied))),
                    Err(error) => drop(call.answer.send(Err(error))),
                }
            }
            Purpose::Client(client) => drop(client.send(answer)),
            // What it did is told by a new token.
            Purpose::Renewal => {}
        }
    }

    fn read_access(&self, subject: &str, answer: Answer) -> Result<(bool, String), Value> {
        answer.and_then(|result| read::access(&result).map_err(|fault| self.broken(subject, &fault)))
    }

    /// Takes the answer to the first get of a resource.
    async fn got(&mut self, rid: String, resource: Result<(Resource, Option<String>), Value>) {
        self.loading.remove(&rid);
        let (name, asked_query) = split_query(&rid);
        let (meant, resource) = match resource {
            Ok((resource, query)) => {
                if asked_query.is_some() && query.is_none() {
                    self.violation(format!("{rid}: asked with a query, answered without one"));
                }
                let before = *self.has_queries.entry(name.to_owned()).or_insert(query.is_some());
                if before != query.is_some() {
                    self.violation(format!(
                        "{name}: answered with a query at one time and without at another"
                    ));
                }
                let meant = query.map_or_else(|| name.to_owned(), |query| format!("{name}?{query}"));
                (meant, resource)
            }
            Err(error) => {
                if self.is_referenced(&rid) {
                    self.violation(format!("{rid}: it is referenced, and a get is answered with {error}"));
                }
                (rid.clone(), Resource::Error(error))
            }
        };
        let references = resource.references();
        {
            let mut seen = lock(&self.seen);
            // One that is there under another query is kept up to date, and stays.
            let there = seen.resources.get(&meant);
            if !there.is_some_and(|there| !matches!(there, Resource::Error(_))) {
                seen.resources.insert(meant.clone(), resource);
            }
            seen.meant.insert(rid, meant);
        }
        self.load_all(references).await;
    }

    async fn load_all(&mut self, references: Vec<String>) {
        for reference in references {
            self.load(reference).await;
        }
    }

    async fn take_event(&mut self, name: &str, event: &str, payload: &[u8]) {
        if let Some(held) = self.held.get_mut(name) {
            held.events.push((event.to_owned(), payload.to_vec()));
            return;
        }
        let (plain, pages) = {
            let seen = lock(&self.seen);
            let live = seen
                .resources
                .iter()
                .filter(|(rid, resource)| split_query(rid).0 == name && !matches!(resource, Resource::Error(_)));
            let (pages, plain): (Vec<_>, Vec<_>) = live.map(|(rid, _)| rid.clone()).partition(|rid| rid.contains('?'));
            (!plain.is_empty(), pages)
        };
        if event == "reaccess" {
            if !payload.is_empty() {
                self.violation(format!("{name}.reaccess has a payload"));
            }
            if !pages.is_empty() {
                self.violation(format!("{name}.reaccess: no client of a query resource is asked about"));
            }
            self.check_access(|rid| split_query(rid).0 == name).await;
        } else if !plain && pages.is_empty() {
            // It is in the answer that is on its way, or lost for ever.
            lock(&self.seen).discarded += 1;
        } else if event == "query" {
            match read::members(payload, ["subject"]) {
                Ok([Value::String(_)]) if pages.is_empty() => {
                    self.violation(format!("{name}.query: the answers of that resource have no query"));
                }
                Ok([Value::String(subject)]) => {
                    self.held.entry(name.to_owned()).or_default().pages = pages.len();
                    for page in pages {
                        let query = split_query(&page).1.unwrap_or_default();
                        let request = Map::from_iter([("query".to_owned(), query.into())]);
                        self.ask(subject.clone(), request, Purpose::Page(page)).await;
                    }
                }
                Ok([other]) => self.violation(format!("{name}.query: the subject is {other}")),
                Err(fault) => self.violation(format!("{name}.query: {fault}")),
            }
        } else if !plain {
            self.violation(format!("{name}.{event}: no client of a query resource hears it"));
        } else if ["change", "add", "remove", "delete"].contains(&event) && self.resetting.contains(name) {
            lock(&self.seen).discarded += 1;
        } else {
            self.apply(name, event, payload).await;
        }
    }

    /// Applies an event to one resource, and tells what came of it.
    async fn apply(&mut self, rid: &str, event: &str, payload: &[u8]) {
        let applied = self.try_apply(rid, event, payload);
        match applied {
            Ok(Some(data)) => {
                self.tell(rid, event, data);
                let references = lock(&self.seen).resources.get(rid).map(Resource::references);
                self.load_all(references.unwrap_or_default()).await;
            }
            Ok(None) if event == "delete" => self.gone(rid).await,
            // A change to what it was already.
            Ok(None) => {}
            Err(fault) => {
                let payload = String::from_utf8_lossy(payload);
                self.violation(format!("{rid}.{event} {payload}: {fault}"));
            }
        }
    }

    /// What a client is told of an event, if anything.
    fn try_apply(&mut self, rid: &str, event: &str, payload: &[u8]) -> Result<Option<Value>, String> {
        let mut seen = lock(&self.seen);
        let resource = seen.resources.get_mut(rid).ok_or("it is not there")?;
        let empty_or_null = payload.is_empty() || payload == b"null";
        match event {
            "change" => {
                let [values] = read::members(payload, ["values"])?;
                let values = values.as_object().ok_or("the values are no object")?;
                let changed = resource.change(values)?;
                Ok((!changed.is_empty()).then(|| json!({ "values": changed })))
            }
            "add" => {
                let [index, value] = read::members(payload, ["idx", "value"])?;
                resource.add(&index, &value)?;
                Ok(Some(json!({ "idx": index, "value": value })))
            }
            "remove" => {
                let [index] = read::members(payload, ["idx"])?;
                resource.remove(&index)?;
                Ok(Some(json!({ "idx": index })))
            }
            "delete" if empty_or_null => Ok(None),
            "delete" => Err("it has a payload".to_owned()),
            reserved if RESERVED.contains(&reserved) => Err("no event may have that name".to_owned()),
            _ if empty_or_null => Ok(Some(Value::Null)),
            _ => serde_json::from_slice(payload)
                .map(Some)
                .map_err(|error| format!("no JSON: {error}")),
        }
    }

    /// Takes what a query event brought for one page.
    async fn take_page(&mut self, rid: &str, answer: Answer) {
        let result = match answer {
            Ok(result) => result,
            Err(error) if error["code"] == "system.notFound" => return self.gone(rid).await,
            Err(error) => return self.violation(format!("{rid} is out of date, a query event brought {error}")),
        };
        let Value::Object(mut members) = result else {
            return self.violation(format!("{rid}: a query event brought {result}"));
        };
        if let Some(events) = members.shift_remove("events") {
            let events = match events {
                Value::Array(events) if members.is_empty() => events,
                other => return self.violation(format!("{rid}: a query event brought {other}")),
            };
            for event in events {
                let name = event["event"].as_str().unwrap_or_default();
                self.apply(rid, name, event["data"].to_string().as_bytes()).await;
            }
        } else if !members.is_empty() {
            match read::content(&members) {
                Some(Ok(resource)) => self.replace(rid, resource).await,
                Some(Err(fault)) => self.violation(format!("{rid}: a query event brought {fault}")),
                None => self.violation(format!("{rid}: a query event brought {members:?}")),
            }
        }
    }

    /// Goes on with a name whose query event is done.
    async fn release(&mut self, name: &str) {
        let Some(held) = self.held.get_mut(name) else { return };
        held.pages -= 1;
        if held.pages > 0 {
            return;
        }
        let held = self.held.remove(name).unwrap_or_default();
        for (event, payload) in held.events {
            self.take_event(name, &event, &payload).await;
        }
        for rid in held.gets {
            self.load(rid).await;
        }
    }

    /// Takes the whole of a resource anew, and tells what is different.
    async fn replace(&mut self, rid: &str, new: Resource) {
        let Some(old) = self.live(rid) else { return };
        let told: Vec<(&str, Value)> = match (&old, &new) {
            (Resource::Model(before), Resource::Model(after)) => {
                let gone = before.keys().filter(|name| !after.contains_key(*name));
                let gone = gone.map(|name| (name.clone(), json!({ "action": "delete" })));
                let mut values = after.clone();
                values.extend(gone);
                let changed = old.clone().change(&values).unwrap_or_default();
                let told = (!changed.is_empty()).then(|| ("change", json!({ "values": changed })));
                told.into_iter().collect()
            }
            (Resource::Collection(before), Resource::Collection(after)) => difference(before, after),
            _ => {
                return self.violation(format!(
                    "{rid} was a model and is a collection now, or the other way round"
                ));
            }
        };
        for (event, data) in told {
            self.tell(rid, event, data);
        }
        let references = new.references();
        lock(&self.seen).resources.insert(rid.to_owned(), new);
        self.load_all(references).await;
    }

    /// The resource is no more, and whoever is subscribed to it is told.
    async fn gone(&mut self, rid: &str) {
        self.tell(rid, "delete", Value::Null);
        let name = split_query(rid).0.to_owned();
        let (askers, has_others) = {
            let mut seen = lock(&self.seen);
            seen.resources.insert(rid.to_owned(), Resource::deleted());
            let askers: Vec<String> = seen
                .meant
                .iter()
                .filter(|(_, meant)| *meant == rid)
                .map(|(asked, _)| asked.clone())
                .collect();
            let has_others = seen
                .resources
                .iter()
                .any(|(other, resource)| split_query(other).0 == name && !matches!(resource, Resource::Error(_)));
            (askers, has_others)
        };
        for asker in askers {
            if self.direct.remove(&asker) {
                let reason = json!({ "code": "system.deleted", "message": "Deleted" });
                self.tell(&asker, "unsubscribe", json!({ "reason": reason }));
            }
        }
        if !has_others {
            self.stop_events(|known| known == name).await;
        }
    }

    async fn take_system(&mut self, message: &Arrived) {
        let taken = match message.subject.as_str() {
            "system.reset" => self.reset(&message.payload).await,
            "system.tokenReset" => self.reset_token(&message.payload).await,
            _ => Err("there is no such subject".to_owned()),
        };
        if let Err(fault) = taken {
            self.violation(format!("{}: {fault}", message.subject));
        }
    }

    async fn reset(&mut self, payload: &[u8]) -> Result<(), String> {
        let mut members = read::object(payload)?;
        let mut patterns = |member: &str| -> Result<Vec<String>, String> {
            let patterns = members.shift_remove(member).unwrap_or(json!([]));
            serde_json::from_value(patterns).map_err(|error| format!("{member}: {error}"))
        };
        let (resources, access) = (patterns("resources")?, patterns("access")?);
        if !members.is_empty() {
            return Err(format!("nobody knows {members:?}"));
        }
        let is_meant = |patterns: &[String], rid: &str| {
            let name = split_query(rid).0;
            patterns.iter().any(|pattern| read::matches(pattern, name))
        };
        let again: Vec<String> = {
            let seen = lock(&self.seen);
            let live = seen
                .resources
                .iter()
                .filter(|(_, resource)| !matches!(resource, Resource::Error(_)));
            live.map(|(rid, _)| rid.clone())
                .filter(|rid| is_meant(&resources, rid))
                .collect()
        };
        for rid in again {
            if self.resetting.insert(rid.clone()) {
                let (name, query) = split_query(&rid);
                let mut request = Map::new();
                request.extend(query.map(|query| ("query".to_owned(), query.into())));
                let subject = format!("get.{name}");
                self.ask(subject, request, Purpose::Reset(rid.clone())).await;
            }
        }
        self.check_access(|rid| is_meant(&access, rid)).await;
        Ok(())
    }

    async fn reset_token(&mut self, payload: &[u8]) -> Result<(), String> {
        let [tids, subject] = read::members(payload, ["tids", "subject"])?;
        let tids = tids.as_array().ok_or("the tids are no list")?;
        let subject = subject.as_str().ok_or("the subject is no text")?;
        let tid = lock(&self.seen).tid.clone();
        if !tid.is_null() && tids.contains(&tid) {
            let mut request = self.as_client("");
            request.extend(upgrade());
            self.ask(subject.to_owned(), request, Purpose::Renewal).await;
        }
        Ok(())
    }

    async fn take_token(&mut self, message: &Arrived) {
        let read = match message.subject.rsplit_once('.') {
            Some((_, "token")) => read::object(&message.payload),
            _ => Err("there is no such subject".to_owned()),
        };
        let mut members = match read {
            Ok(members) => members,
            Err(fault) => return self.violation(format!("{}: {fault}", message.subject)),
        };
        let (token, tid) = (members.shift_remove("token"), members.shift_remove("tid"));
        let Some(token) = token.filter(|_| members.is_empty()) else {
            return self.violation(format!("{}: not a token and perhaps a tid", message.subject));
        };
        let had_one = {
            let mut seen = lock(&self.seen);
            let had_one = !seen.token.is_null();
            seen.token = token;
            seen.tid = tid.unwrap_or_default();
            had_one
        };
        if had_one {
            self.check_access(|_| true).await;
        }
    }

    /// Asks about access again.
    async fn check_access(&mut self, is_meant: impl Fn(&str) -> bool) {
        let meant: Vec<String> = self.direct.iter().filter(|rid| is_meant(rid)).cloned().collect();
        for rid in meant {
            self.ask_access(&rid, Purpose::Access(rid.clone())).await;
        }
    }

    /// Answers the subscriptions that are set up, or that cannot be.
    async fn settle(&mut self) {
        let mut failed = false;
        for joining in std::mem::take(&mut self.joining) {
            let outcome = match (&joining.access, self.resource(&joining.rid)) {
                (Some(Err(error)), _) => Some(Err(error.clone())),
                // One that failed before is asked for again.
                (_, Some(Resource::Error(error))) if !self.loading.contains(&joining.rid) => Some(Err(error)),
                (Some(Ok(())), Some(_)) if self.is_complete(&joining.rid) => Some(Ok(Value::Null)),
                _ => None,
            };
            match outcome {
                None => self.joining.push(joining),
                Some(outcome) => {
                    if outcome.is_ok() {
                        self.direct.insert(joining.rid);
                    } else {
                        failed = true;
                    }
                    let _ = joining.answer.send(outcome);
                }
            }
        }
        if failed {
            self.evict().await;
        }
    }

    /// Whether everything that a resource leads to was answered.
    fn is_complete(&self, rid: &str) -> bool {
        let reachable = self.reachable([rid.to_owned()].into());
        reachable
            .iter()
            .all(|rid| !self.loading.contains(rid) && self.resource(rid).is_some())
    }

    /// The ids, as they are asked for, that these lead to.
    fn reachable(&self, mut rids: VecDeque<String>) -> BTreeSet<String> {
        let mut reachable = BTreeSet::new();
        while let Some(rid) = rids.pop_front() {
            if reachable.insert(rid.clone()) {
                rids.extend(
                    self.resource(&rid)
                        .map(|resource| resource.references())
                        .unwrap_or_default(),
                );
            }
        }
        reachable
    }

    /// Leaves out of the cache what no subscription needs.
    async fn evict(&mut self) {
        let wanted = self
            .direct
            .iter()
            .chain(self.joining.iter().map(|joining| &joining.rid));
        let wanted = self.reachable(wanted.cloned().collect());
        let names = {
            let mut seen = lock(&self.seen);
            seen.meant.retain(|asked, _| wanted.contains(asked));
            let meant: BTreeSet<String> = seen.meant.values().cloned().collect();
            seen.resources.retain(|rid, _| meant.contains(rid));
            let names = seen.resources.keys().chain(&self.loading);
            names
                .map(|rid| split_query(rid).0.to_owned())
                .collect::<BTreeSet<String>>()
        };
        self.stop_events(|name| !names.contains(name)).await;
    }

    async fn stop_events(&mut self, is_meant: impl Fn(&str) -> bool) {
        let ended: Vec<u64> = self
            .events
            .iter()
            .filter(|(_, name)| is_meant(name))
            .map(|(number, _)| *number)
            .collect();
        for number in ended {
            self.events.remove(&number);
            self.wire.unsubscribe(number).await;
        }
    }

    /// What is in the cache for an id as it was asked for, were it an error.
    fn resource(&self, rid: &str) -> Option<Resource> {
        let seen = lock(&self.seen);
        let meant = seen.meant.get(rid).map_or(rid, String::as_str);
        seen.resources.get(meant).cloned()
    }

    /// The same, unless it is an error.
    fn live(&self, rid: &str) -> Option<Resource> {
        self.resource(rid)
            .filter(|resource| !matches!(resource, Resource::Error(_)))
    }

    fn is_referenced(&self, rid: &str) -> bool {
        let seen = lock(&self.seen);
        let references = seen.resources.values().flat_map(Resource::references);
        references.into_iter().any(|reference| reference == rid)
    }

    fn tell(&self, rid: &str, event: &str, data: Value) {
        lock(&self.seen).told.push(Told {
            rid: rid.to_owned(),
            event: event.to_owned(),
            data,
        });
    }

    fn violation(&self, text: String) {
        lock(&self.seen).violations.push(text);
    }

    /// Notes that an answer is none, and gives what a client gets instead.
    fn broken(&self, subject: &str, fault: &str) -> Value {
        self.violation(format!("{subject}: {fault}"));
        json!({ "code": "system.internalError", "message": fault })
    }
}

/// What a request for authentication also says.
fn upgrade() -> Map<String, Value> {
    let upgrade = json!({
        "header": { "Origin": ["http://127.0.0.1"] }, "host": "127.0.0.1", "remoteAddr": "127.0.0.1:1", "uri": "/",
    });
    upgrade.as_object().cloned().unwrap_or_default()
}

/// The fewest removes and adds that lead from one list to another.
fn difference(before: &[Value], after: &[Value]) -> Vec<(&'static str, Value)> {
    let texts = |values: &[Value]| values.iter().map(Value::to_string).collect::<Vec<String>>();
    let (olds, news) = (texts(before), texts(after));
    // How many values may stay of those from one place on and those from another on.
    let mut stay = vec![vec![0; news.len() + 1]; olds.len() + 1];
    for (old, new) in (0..olds.len())
        .rev()
        .flat_map(|old| (0..news.len()).rev().map(move |new| (old, new)))
    {
        stay[old][new] = if olds[old] == news[new] {
            stay[old + 1][new + 1] + 1
        } else {
            stay[old + 1][new].max(stay[old][new + 1])
        };
    }
    let mut told = Vec::new();
    let (mut old, mut new) = (0, 0);
    while old < olds.len() || new < news.len() {
        if olds.get(old) == news.get(new) {
            (old, new) = (old + 1, new + 1);
        } else if old == olds.len() || new < news.len() && stay[old][new + 1] >= stay[old + 1][new] {
            told.push(("add", json!({ "idx": new, "value": after[new] })));
            new += 1;
        } else {
            // As many as were gone through in the new list stand before it by now.
            told.push(("remove", json!({ "idx": new })));
            old += 1;
        }
    }
    told
}
