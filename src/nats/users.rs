//! The users of `nats/users.conf`, what each may do, and whether the server keeps each to it.
//!
//! The file is what the server goes by; the table here is what it must come to. A test tries every row as every user,
//! and a process tries at its start what its own user must not do: a server that was started with other settings, or
//! with none, would let every part do everything and nobody would notice.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use async_nats::{Event, HeaderMap, ServerError};
use tokio::sync::{mpsc, watch};

use super::{Address, LinkError, Status};
use crate::core::retry::Backoff;

/// How long the server may be silent until what it has not refused counts as allowed.
const SILENCE: Duration = Duration::from_secs(2);
/// What is tried at a time: the client forgets complaints that it cannot give out at once.
const AT_A_TIME: usize = 32;
/// What is sent where sending must be refused. No part of the system, and no request of `JetStream`, understands it.
const NOTHING: &str = "probe";

/// The users as this version ships them, with the line that names their version.
const USERS_CONF: &str = include_str!("../../nats/users.conf");
const TAG_BEGINS: &str = "server_tags: [\"";

/// A user of NATS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum User {
    /// `ezout api`.
    Api,
    /// `ezout project`.
    Project,
    /// `ezout correct`.
    Correct,
    /// `ezout serve`, which is the three above.
    Serve,
    /// Resgate.
    Resgate,
    /// The commands.
    Operator,
    /// Lets watchers in, and ends their connections.
    Door,
}

use User::{Api, Correct, Door, Operator, Project, Resgate, Serve};

impl User {
    /// Every user.
    pub const ALL: [Self; 7] = [Api, Project, Correct, Serve, Resgate, Operator, Door];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Api => "api",
            Project => "project",
            Correct => "correct",
            Serve => "serve",
            Resgate => "resgate",
            Operator => "operator",
            Door => "door",
        }
    }

    /// The user of a name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|user| user.name() == name)
    }

    /// Whether it is that of a part of the service.
    pub fn is_part(self) -> bool {
        PARTS.contains(&self)
    }

    /// What this user may not do of what the other one may, but for the places where each has its answers.
    pub fn lacks(self, other: Self) -> Vec<Right> {
        let own_place = format!("_INBOX_{}.>", other.name());
        let is_lacking = |right: &&Right| {
            let is_own_place = right.act == Act::Subscribe && right.subject == own_place;
            right.may.contains(&other) && !right.may.contains(&self) && !is_own_place
        };
        RIGHTS.iter().filter(is_lacking).copied().collect()
    }

    /// The variable in which nats-server finds its password.
    pub fn variable(self) -> String {
        format!("EZOUT_NATS_PASSWORD_{}", self.name().to_ascii_uppercase())
    }
}

/// What is done with a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    /// Send to it.
    Publish,
    /// Listen at it.
    Subscribe,
}

/// A subject, what is done with it, and who may.
#[derive(Debug, Clone, Copy)]
pub struct Right {
    /// What that is.
    pub what: &'static str,
    /// What is done.
    pub act: Act,
    /// With which subject.
    pub subject: &'static str,
    /// By whom; by nobody else.
    pub may: &'static [User],
}

const fn publish(what: &'static str, subject: &'static str, may: &'static [User]) -> Right {
    Right {
        what,
        act: Act::Publish,
        subject,
        may,
    }
}

const fn subscribe(what: &'static str, subject: &'static str, may: &'static [User]) -> Right {
    Right {
        what,
        act: Act::Subscribe,
        subject,
        may,
    }
}

const PARTS: &[User] = &[Api, Project, Correct, Serve];
const READERS: &[User] = &[Api, Project, Correct, Serve, Operator];
const UPDATES_READERS: &[User] = &[Api, Project, Serve, Operator];
const FOLLOWERS: &[User] = &[Api, Serve];
const OWNERS: &[User] = &[Project, Serve];

/// Everything that may be done, and what nobody may. `probe` stands for a name that is none.
pub const RIGHTS: &[Right] = &[
    publish("append events", "checkout.0.probe", PARTS),
    subscribe("listen to events past the journal", "checkout.>", &[]),
    publish("store updates", "upd.0.probe", OWNERS),
    subscribe("listen to updates before they are stored", "upd.>", &[]),
    publish("tell updates that are not stored", "updates.store.probe", &[]),
    subscribe(
        "hear the updates of a shop",
        "updates.store.probe",
        &[Project, Serve, Operator],
    ),
    subscribe(
        "hear the updates of all shops",
        "updates.store.*",
        &[Project, Serve, Operator],
    ),
    publish("ask how large the journal is", "$JS.API.STREAM.INFO.CHECKOUT", READERS),
    publish("get an event", "$JS.API.STREAM.MSG.GET.CHECKOUT", READERS),
    publish("get events", "$JS.API.DIRECT.GET.CHECKOUT", READERS),
    publish(
        "read a part of the journal",
        "$JS.API.CONSUMER.CREATE.CHECKOUT.probe.checkout.0.*",
        READERS,
    ),
    publish(
        "take what a reading has",
        "$JS.API.CONSUMER.MSG.NEXT.CHECKOUT.probe",
        READERS,
    ),
    publish(
        "ask how many updates there are",
        "$JS.API.STREAM.INFO.UPDATES",
        UPDATES_READERS,
    ),
    publish("get an update", "$JS.API.STREAM.MSG.GET.UPDATES", UPDATES_READERS),
    publish("get updates", "$JS.API.DIRECT.GET.UPDATES", UPDATES_READERS),
    publish(
        "read the updates of a shop",
        "$JS.API.CONSUMER.CREATE.UPDATES.probe.upd.*.probe",
        FOLLOWERS,
    ),
    publish(
        "take what a reading of updates has",
        "$JS.API.CONSUMER.MSG.NEXT.UPDATES.probe",
        FOLLOWERS,
    ),
    publish(
        "make a new journal where there is none",
        "$JS.API.STREAM.CREATE.CHECKOUT",
        OWNERS,
    ),
    publish(
        "make the stream of updates",
        "$JS.API.STREAM.CREATE.UPDATES",
        &[Project, Serve, Operator],
    ),
    publish(
        "change the settings of the journal",
        "$JS.API.STREAM.UPDATE.CHECKOUT",
        &[Operator],
    ),
    publish(
        "change the settings of the updates",
        "$JS.API.STREAM.UPDATE.UPDATES",
        &[Operator],
    ),
    publish(
        "remove the stream of updates",
        "$JS.API.STREAM.DELETE.UPDATES",
        &[Operator],
    ),
    publish("ask how much is stored", "$JS.API.INFO", &[Operator]),
    publish("remove the journal", "$JS.API.STREAM.DELETE.CHECKOUT", &[]),
    publish("empty the journal", "$JS.API.STREAM.PURGE.CHECKOUT", &[]),
    publish(
        "remove a stream of the journal",
        "$JS.API.STREAM.DELETE.CHECKOUT_0",
        &[],
    ),
    publish("empty a stream of the journal", "$JS.API.STREAM.PURGE.CHECKOUT_0", &[]),
    publish("empty the updates", "$JS.API.STREAM.PURGE.UPDATES", &[]),
    publish("remove an event", "$JS.API.STREAM.MSG.DELETE.CHECKOUT", &[]),
    publish("remove an update", "$JS.API.STREAM.MSG.DELETE.UPDATES", &[]),
    publish("make another stream", "$JS.API.STREAM.CREATE.PROBE", &[]),
    publish("list the streams", "$JS.API.STREAM.NAMES", &[]),
    publish("copy the journal away", "$JS.API.STREAM.SNAPSHOT.CHECKOUT", &[]),
    publish(
        "put a journal in place where there is none",
        "$JS.API.STREAM.RESTORE.CHECKOUT",
        &[Operator],
    ),
    publish(
        "send what is put in place",
        "$JS.SNAPSHOT.RESTORE.CHECKOUT.probe",
        &[Operator],
    ),
    publish("read by a consumer of no name", "$JS.API.CONSUMER.CREATE.CHECKOUT", &[]),
    publish(
        "read by a consumer without a filter",
        "$JS.API.CONSUMER.CREATE.CHECKOUT.probe",
        &[],
    ),
    publish(
        "read by a lasting consumer",
        "$JS.API.CONSUMER.DURABLE.CREATE.CHECKOUT.probe",
        &[],
    ),
    publish("list the readings of others", "$JS.API.CONSUMER.NAMES.CHECKOUT", &[]),
    publish(
        "end a reading of another",
        "$JS.API.CONSUMER.DELETE.CHECKOUT.probe",
        &[],
    ),
    subscribe("answer who may see a resource", "access.ezout.>", PARTS),
    subscribe("answer what a resource is", "get.ezout.>", PARTS),
    subscribe("answer calls", "call.ezout.>", PARTS),
    subscribe("take tokens of browsers", "auth.ezout.>", PARTS),
    subscribe("answer for a service that is not ours", "get.>", &[]),
    publish("ask who may see a resource", "access.ezout.probe", &[Resgate]),
    publish("ask what a resource is", "get.ezout.probe", &[Resgate]),
    publish("call", "call.ezout.probe.probe", &[Resgate]),
    publish(
        "give a browser's token to be checked",
        "auth.ezout.auth.probe",
        &[Resgate],
    ),
    publish("ask for a resource that is not ours", "get.probe", &[]),
    publish("tell what happened to a resource", "event.ezout.probe.change", OWNERS),
    subscribe("hear what happened to resources", "event.ezout.>", &[Resgate]),
    publish("say who a browser is", "conn.probe.token", PARTS),
    subscribe("hear who browsers are", "conn.*.token", &[Resgate]),
    publish("have everybody ask again", "system.reset", PARTS),
    publish("have tokens asked for again", "system.tokenReset", PARTS),
    subscribe("be asked to ask again", "system.reset", &[Resgate]),
    publish("pass a request on to a shop's owner", "ezout.owner.0", PARTS),
    subscribe("take requests for owners", "ezout.owner.0", OWNERS),
    publish("answer Resgate", "_INBOX.probe", PARTS),
    publish("answer `api`", "_INBOX_api.probe", OWNERS),
    publish("answer `correct`", "_INBOX_correct.probe", OWNERS),
    publish(
        "answer `project`, and ask it about a query",
        "_INBOX_project.probe",
        &[Project, Serve, Resgate],
    ),
    publish(
        "answer `serve`, and ask it about a query",
        "_INBOX_serve.probe",
        &[Project, Serve, Resgate],
    ),
    publish("answer an operator", "_INBOX_operator.probe", &[]),
    publish("answer `door`", "_INBOX_door.probe", &[]),
    subscribe("hear answers to Resgate", "_INBOX.>", &[Resgate]),
    subscribe("hear answers to `api`", "_INBOX_api.>", &[Api]),
    subscribe("hear answers to `project`", "_INBOX_project.>", &[Project]),
    subscribe("hear answers to `correct`", "_INBOX_correct.>", &[Correct]),
    subscribe("hear answers to `serve`", "_INBOX_serve.>", &[Serve]),
    subscribe("hear answers to an operator", "_INBOX_operator.>", &[Operator]),
    subscribe("hear answers to `door`", "_INBOX_door.>", &[Door]),
    publish("give out a replay", "replay.probe", &[Operator]),
    STRANGE,
    subscribe("listen to everything", ">", &[]),
    subscribe("be asked who may come in", "$SYS.REQ.USER.AUTH", &[Door]),
    publish("answer who may come in", "$SYS._INBOX.probe", &[Door]),
    publish("pretend that somebody asks to come in", "$SYS.REQ.USER.AUTH", &[]),
    subscribe("hear which watcher has come in", "$SYS.ACCOUNT.EDGE.CONNECT", &[Door]),
    subscribe("hear which watcher has left", "$SYS.ACCOUNT.EDGE.DISCONNECT", &[Door]),
    publish("end a connection", "$SYS.REQ.SERVER.PROBE.KICK", &[Door]),
    publish(
        "have a server read its settings again",
        "$SYS.REQ.SERVER.PROBE.RELOAD",
        &[],
    ),
    publish("list the servers", "$SYS.REQ.SERVER.PING", &[]),
    publish("list the connections", "$SYS.REQ.SERVER.PING.CONNZ", &[]),
    subscribe("listen to the servers", "$SYS.>", &[]),
];

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let act = match self.act {
            Act::Publish => "publish to",
            Act::Subscribe => "subscribe to",
        };
        write!(f, "{} ({act} {})", self.what, self.subject)
    }
}

impl Right {
    /// What the server says when it refuses this.
    fn complaint(&self) -> String {
        let act = match self.act {
            Act::Publish => "Publish",
            Act::Subscribe => "Subscription",
        };
        format!("Permissions Violation for {act} to \"{}\"", self.subject)
    }
}

/// Complaints of the server that wait to be looked at.
const COMPLAINTS_MAX: usize = 1_024;

/// Those of `rights` that the server does not refuse to whoever connects as this. What is tried does no harm where it is
/// not refused: nothing understands what is sent.
///
/// # Errors
/// [`LinkError`] if there is no connection, or it is lost meanwhile.
pub async fn not_refused(address: &Address, rights: &[Right]) -> Result<Vec<Right>, LinkError> {
    let (complaints, mut heard) = mpsc::channel(COMPLAINTS_MAX);
    let options = address.options().name("ezout rights").event_callback(move |event| {
        if let Event::ServerError(ServerError::Other(complaint)) = event {
            // One that is left out makes a right look as if it were not refused, which is looked at again.
            let _ = complaints.try_send(complaint);
        }
        std::future::ready(())
    });
    let lost = |error: &dyn std::error::Error| LinkError(error.to_string().into());
    let client = options.connect(address.servers()).await.map_err(|error| lost(&error))?;
    let mut allowed = Vec::new();
    let mut subscribed = Vec::new();
    for some in rights.chunks(AT_A_TIME) {
        let mut awaited: BTreeSet<String> = some.iter().map(Right::complaint).collect();
        for right in some {
            match right.act {
                Act::Publish => {
                    let mut headers = HeaderMap::new();
                    // A stream that gets it all the same does not keep it.
                    headers.insert(async_nats::header::NATS_EXPECTED_STREAM, NOTHING);
                    let sent = client
                        .publish_with_headers(right.subject, headers, NOTHING.into())
                        .await;
                    sent.map_err(|error| lost(&error))?;
                }
                Act::Subscribe => {
                    let subscription = client.subscribe(right.subject).await;
                    subscribed.push(subscription.map_err(|error| lost(&error))?);
                }
            }
        }
        client.flush().await.map_err(|error| lost(&error))?;
        // The server says nothing of what it allows.
        while !awaited.is_empty() {
            match tokio::time::timeout(SILENCE, heard.recv()).await {
                Ok(Some(complaint)) => awaited.retain(|awaited| !complaint.starts_with(awaited.as_str())),
                Ok(None) | Err(_) => break,
            }
        }
        if client.connection_state() != async_nats::connection::State::Connected {
            return Err(LinkError("the connection was lost".into()));
        }
        allowed.extend(some.iter().filter(|right| awaited.contains(&right.complaint())));
    }
    Ok(allowed)
}

/// What came of trying what the user of this process must not do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Tried {
    /// Nothing was tried yet.
    #[default]
    NotYet,
    /// All was refused.
    Refused,
    /// This was not.
    Allowed(Vec<String>),
}

impl Tried {
    /// Why this does not speak for the user of this name; nothing where it does.
    pub fn reasons(&self, name: &str) -> Vec<String> {
        match self {
            Self::Refused => Vec::new(),
            Self::NotYet => vec![format!("what the NATS user {name} must not do was not tried yet")],
            Self::Allowed(found) => found
                .iter()
                .map(|found| format!("the NATS user {name} may {found}; start nats-server with nats/users.conf"))
                .collect(),
        }
    }
}

/// Tries what a user must not do, now and each time that the connection is made anew, for as long as it runs.
pub async fn keep_trying(
    address: Address,
    user: User,
    mut status: watch::Receiver<Status>,
    tried: watch::Sender<Tried>,
) {
    let forbidden: Vec<Right> = RIGHTS
        .iter()
        .filter(|right| !right.may.contains(&user))
        .copied()
        .collect();
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
    loop {
        if status.wait_for(|status| status.up).await.is_err() {
            return;
        }
        let generation = status.borrow_and_update().generation;
        let found = match not_refused(&address, &forbidden).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!("what the user {} may do could not be tried: {error}", user.name());
                tokio::time::sleep(backoff.next_pause()).await;
                continue;
            }
        };
        backoff.reset();
        if found.is_empty() {
            tracing::info!(
                tried = forbidden.len(),
                "NATS refuses all that the user {} must not do",
                user.name()
            );
            tried.send_replace(Tried::Refused);
        } else {
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            tracing::error!("NATS lets the user {} {}", user.name(), found.join("; "));
            tried.send_replace(Tried::Allowed(found));
        }
        if status.wait_for(|status| status.generation != generation).await.is_err() {
            return;
        }
    }
}

/// What a server says of itself that has the users of this version, in its `server_tags`.
pub fn users_tag() -> &'static str {
    let line = USERS_CONF.lines().find_map(|line| line.strip_prefix(TAG_BEGINS));
    line.and_then(|rest| rest.strip_suffix("\"]")).unwrap_or_default()
}

/// What nobody is refused where there are no users, and everybody where there are.
const STRANGE: Right = publish("use a subject that is none of ours", NOTHING, &[]);

/// Tries whether the server has users, for somebody who comes as none of them, now and each time that the connection is made
/// anew. A server may let them in all the same, as a user of its own choice.
pub async fn keep_trying_as_nobody(
    address: Address,
    mut status: watch::Receiver<Status>,
    has_users: watch::Sender<Option<bool>>,
) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
    loop {
        if status.wait_for(|status| status.up).await.is_err() {
            return;
        }
        let generation = status.borrow_and_update().generation;
        match not_refused(&address, &[STRANGE]).await {
            Ok(allowed) => {
                backoff.reset();
                has_users.send_replace(Some(allowed.is_empty()));
            }
            Err(error) => {
                tracing::debug!("whether NATS has users could not be tried: {error}");
                tokio::time::sleep(backoff.next_pause()).await;
                continue;
            }
        }
        if status.wait_for(|status| status.generation != generation).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_of_the_file_is_in_the_table_and_each_may_do_something() {
        let file = USERS_CONF;
        let callout = include_str!("../../nats/callout.conf");
        let named = file.lines().filter_map(|line| line.trim().strip_prefix("user: "));
        let expected: Vec<&str> = User::ALL.iter().map(|user| user.name()).collect();
        assert_eq!(named.collect::<Vec<_>>(), expected);
        assert!(callout.contains(&format!("auth_users: [{}]", expected.join(", "))));
        for user in User::ALL {
            assert!(file.contains(&format!("password: ${}\n", user.variable())));
            assert!(RIGHTS.iter().any(|right| right.may.contains(&user)));
            assert_eq!(User::of(user.name()), Some(user));
        }
        assert!(users_tag().starts_with("ezout-users:"), "{}", users_tag());
        let complaints: BTreeSet<String> = RIGHTS.iter().map(Right::complaint).collect();
        assert_eq!(complaints.len(), RIGHTS.len(), "no row stands twice");
    }

    #[test]
    fn a_user_of_more_parts_lacks_nothing_of_one_of_them() {
        for part in [Api, Project, Correct] {
            assert!(Serve.lacks(part).is_empty(), "{}", part.name());
            assert!(!part.lacks(Serve).is_empty(), "{}", part.name());
            assert!(part.lacks(part).is_empty());
            assert!(!Operator.lacks(part).is_empty());
        }
        assert!(Api.lacks(Correct).is_empty());
        assert!(Correct.lacks(Api).iter().any(|right| right.what == "get an update"));
    }
}
