//! The RES protocol (version 1.2.3), which Resgate speaks on NATS with those who have resources.
//!
//! A [`Gateway`] is one connection. Everything that concerns a resource has to leave through one of
//! them, from one task, in order: a gateway throws away what reaches it before the answer to its `get`,
//! and takes what comes after as a change of it. Nothing here knows which resources there are.

mod answer;
mod request;

use std::time::Duration;

use async_nats::{HeaderMap, Message, Subject};
use bytes::Bytes;
use futures::stream::{SelectAll, Stream, StreamExt as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::nats::{self, Connection, LinkError, Status};

pub use answer::{Answer, Failure, Value, properties_json};
pub use request::{Body, Kind, Request};

/// Under which name processes share the requests, so that one of them takes each.
const QUEUE: &str = "ezout";
/// Header of a request that was passed on: the subject that it came by.
const PASSED_SUBJECT: &str = "Ezout-Subject";
/// And where it is to be answered.
const PASSED_REPLY: &str = "Ezout-Reply";
/// How long one to whom a request is passed on may take to say that it has it.
const PASS_TIMEOUT: Duration = Duration::from_millis(500);

/// Why something could not be sent. Everybody is told the state anew when the connection is back.
#[derive(Debug, thiserror::Error)]
#[error("NATS did not take {what}: {reason}")]
pub struct GatewayError {
    what: &'static str,
    reason: String,
}

impl GatewayError {
    fn of(what: &'static str, error: impl std::fmt::Display) -> Self {
        let reason = error.to_string();
        Self { what, reason }
    }
}

/// Why a request could not be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untaken {
    /// Nobody is there who would take it.
    Nobody,
    /// Whether it was taken is not known.
    Unknown,
}

/// An event of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResourceEvent {
    /// Properties of a model that have other values now, as a JSON object.
    Change(String),
    /// An entry came into a collection.
    Add {
        /// At this place.
        idx: usize,
        /// This one.
        value: Value,
    },
    /// An entry left a collection.
    Remove {
        /// From this place.
        idx: usize,
    },
    /// The resource is no longer.
    Delete,
    /// A query resource may have changed: gateways ask at this subject.
    Query(Subject),
    /// Whatever else happened, with its JSON. The name is one token and none of the protocol's own.
    Custom(&'static str, Bytes),
}

impl ResourceEvent {
    /// Its name in subjects, and in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Change(_) => "change",
            Self::Add { .. } => "add",
            Self::Remove { .. } => "remove",
            Self::Delete => "delete",
            Self::Query(_) => "query",
            Self::Custom(name, _) => name,
        }
    }

    fn payload(self) -> Bytes {
        match self {
            // Nothing else may stand beside the values, or a gateway takes it for another version of the protocol.
            Self::Change(values) => format!("{{\"values\":{values}}}").into(),
            Self::Add { idx, value } => format!("{{\"idx\":{idx},\"value\":{value}}}").into(),
            Self::Remove { idx } => format!("{{\"idx\":{idx}}}").into(),
            Self::Delete => Bytes::new(),
            Self::Query(subject) => format!("{{\"subject\":\"{subject}\"}}").into(),
            Self::Custom(_, payload) => payload,
        }
    }
}

/// The connection to gateways. Clones share it.
#[derive(Debug, Clone)]
pub struct Gateway {
    connection: Connection,
}

impl Gateway {
    /// Begins to connect and returns at once.
    ///
    /// # Errors
    /// [`LinkError`] if `urls` is no list of addresses.
    pub async fn start(urls: &str) -> Result<Self, LinkError> {
        Ok(Self {
            connection: Connection::start(urls, "ezout resources").await?,
        })
    }

    /// Every loss and return of the connection. What was sent around a loss may not have arrived.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.connection.status()
    }

    /// Has the connection leave its server wherever that cannot serve this stream, which several keep, until `stop`: at one that is
    /// cut off from the others only gateways there are heard.
    pub async fn stay_useful(&self, stream: &str, stop: &CancellationToken) {
        nats::stay_useful(&self.connection, stream, stop).await;
    }

    /// Whether there is a connection now.
    pub fn is_up(&self) -> bool {
        self.connection.is_up()
    }

    /// The requests of all gateways about resources of a service, each taken by one of the processes that ask for them.
    ///
    /// # Errors
    /// [`GatewayError`] after the connection was closed for good.
    pub async fn requests(
        &self,
        service: &str,
    ) -> Result<impl Stream<Item = Request> + Unpin + Send + use<>, GatewayError> {
        let mut all = SelectAll::new();
        for kind in Kind::ALL {
            let subject = format!("{}.{service}.>", kind.word());
            let subscribed = self
                .connection
                .client()
                .queue_subscribe(subject, QUEUE.to_owned())
                .await;
            all.push(subscribed.map_err(|error| GatewayError::of("a subscription", error))?);
        }
        Ok(all.filter_map(|message: Message| std::future::ready(Request::of(&message))))
    }

    /// The requests that other processes pass on to this one, until it is dropped.
    ///
    /// # Errors
    /// [`GatewayError`] after the connection was closed for good.
    pub async fn passed_on(
        &self,
        subject: String,
    ) -> Result<impl Stream<Item = Request> + Unpin + Send + use<>, GatewayError> {
        let client = self.connection.client();
        let subscribed = client.subscribe(subject).await;
        let subscribed = subscribed.map_err(|error| GatewayError::of("a subscription", error))?;
        let taken = subscribed.filter_map(move |message| {
            let client = client.clone();
            async move {
                if let Some(reply) = message.reply.clone() {
                    // It is asked once more if this does not arrive, and of two answers a gateway takes the first.
                    let _ = client.publish(reply, Bytes::new()).await;
                }
                let headers = message.headers.as_ref()?;
                let header = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
                let (subject, reply) = (header(PASSED_SUBJECT)?, header(PASSED_REPLY)?);
                Request::read(&subject, Subject::from(reply), message.payload)
            }
        });
        Ok(Box::pin(taken))
    }

    /// Passes a request on to whoever takes those of this subject, and returns when that process has it.
    ///
    /// # Errors
    /// [`Untaken`]; to try again is safe.
    pub async fn pass_on(&self, subject: String, request: &Request) -> Result<(), Untaken> {
        let mut headers = HeaderMap::new();
        headers.insert(PASSED_SUBJECT, request.subject());
        headers.insert(PASSED_REPLY, request.reply().as_str());
        let passed = async_nats::Request::new()
            .headers(headers)
            .payload(request.payload().clone())
            .timeout(Some(PASS_TIMEOUT));
        match self.connection.client().send_request(subject, passed).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == async_nats::RequestErrorKind::NoResponders => Err(Untaken::Nobody),
            Err(_) => Err(Untaken::Unknown),
        }
    }

    /// Answers a request. An answer that is larger than NATS takes becomes a failure that says so.
    ///
    /// # Errors
    /// [`GatewayError`]; the gateway's time then runs out.
    pub async fn answer(&self, request: &Request, answer: Answer) -> Result<(), GatewayError> {
        let mut payload = answer.payload();
        if payload.len() > self.payload_max() {
            tracing::error!(
                "the answer about {} has {} bytes, more than NATS takes",
                request.name(),
                payload.len()
            );
            payload = Answer::Failure(Failure::internal("this is larger than can be sent")).payload();
        }
        let sent = self.connection.client().publish(request.reply().clone(), payload).await;
        sent.map_err(|error| GatewayError::of("an answer", error))
    }

    /// Asks for more time to answer a request, from now on.
    ///
    /// # Errors
    /// [`GatewayError`]; the gateway's time may then run out.
    pub async fn ask_for_time(&self, request: &Request, time: Duration) -> Result<(), GatewayError> {
        let payload = format!("timeout:\"{}\"", time.as_millis());
        let sent = self
            .connection
            .client()
            .publish(request.reply().clone(), payload.into())
            .await;
        sent.map_err(|error| GatewayError::of("a pre-response", error))
    }

    /// Tells of an event of a resource.
    ///
    /// # Errors
    /// [`GatewayError`]; then nobody is told, and the resource has to be reset.
    pub async fn tell(&self, name: &str, event: ResourceEvent) -> Result<(), GatewayError> {
        let subject = format!("event.{name}.{}", event.name());
        let sent = self.connection.client().publish(subject, event.payload()).await;
        sent.map_err(|error| GatewayError::of("an event", error))
    }

    /// Has gateways ask again for all resources whose names match, of which those that have not changed are told to nobody.
    /// Only who can answer may ask for that: a resource about which nobody answers is taken for deleted.
    ///
    /// # Errors
    /// [`GatewayError`]; then nobody is told.
    pub async fn reset(&self, pattern: &str) -> Result<(), GatewayError> {
        let payload = format!("{{\"resources\":[\"{pattern}\"]}}");
        let sent = self.connection.client().publish("system.reset", payload.into()).await;
        sent.map_err(|error| GatewayError::of("a reset", error))
    }

    /// Has gateways ask at `subject` about every connection whose token has one of these names, which are JSON.
    ///
    /// # Errors
    /// [`GatewayError`]; then nobody is asked about.
    pub async fn reset_tokens(&self, names: &[String], subject: &str) -> Result<(), GatewayError> {
        let payload = format!("{{\"tids\":[{}],\"subject\":\"{subject}\"}}", names.join(","));
        let client = self.connection.client();
        let sent = client.publish("system.tokenReset", payload.into()).await;
        sent.map_err(|error| GatewayError::of("a reset of tokens", error))
    }

    /// Has gateways ask again which access clients have to what matches.
    ///
    /// # Errors
    /// [`GatewayError`]; then nobody is told.
    pub async fn reset_access(&self, patterns: &[&str]) -> Result<(), GatewayError> {
        let payload = format!("{{\"access\":[\"{}\"]}}", patterns.join("\",\""));
        let sent = self.connection.client().publish("system.reset", payload.into()).await;
        sent.map_err(|error| GatewayError::of("a reset of access", error))
    }

    /// Gives the client's connection a token, or takes the one that it has; to be called before the answer to its request.
    /// By the name, which is JSON, the tokens of many connections can be asked for again.
    ///
    /// # Errors
    /// [`GatewayError`]; then it has the token that it had.
    pub async fn give_token(&self, cid: &str, token: &str, name: Option<&str>) -> Result<(), GatewayError> {
        let name = name.map(|name| format!(",\"tid\":{name}")).unwrap_or_default();
        let payload = format!("{{\"token\":{token}{name}}}");
        let sent = self
            .connection
            .client()
            .publish(format!("conn.{cid}.token"), payload.into())
            .await;
        sent.map_err(|error| GatewayError::of("a token", error))
    }

    /// A subject that nobody else has, and what is asked there.
    ///
    /// # Errors
    /// [`GatewayError`] after the connection was closed for good.
    pub async fn inbox(&self) -> Result<(Subject, impl Stream<Item = Request> + Unpin + Send + use<>), GatewayError> {
        let client = self.connection.client();
        let subject = Subject::from(client.new_inbox());
        let subscribed = client.subscribe(subject.clone()).await;
        let subscribed = subscribed.map_err(|error| GatewayError::of("a subscription", error))?;
        let requests = subscribed.filter_map(|message| std::future::ready(Request::at_inbox(message)));
        Ok((subject, requests))
    }

    /// The messages of a subject from now on.
    ///
    /// # Errors
    /// [`GatewayError`] after the connection was closed for good.
    pub async fn messages(
        &self,
        subject: String,
    ) -> Result<impl Stream<Item = Bytes> + Unpin + Send + use<>, GatewayError> {
        let subscribed = self.connection.client().subscribe(subject).await;
        let subscribed = subscribed.map_err(|error| GatewayError::of("a subscription", error))?;
        Ok(subscribed.map(|message| message.payload))
    }

    /// Bytes of the largest message that NATS takes.
    pub fn payload_max(&self) -> usize {
        match self.connection.client().server_info().max_payload {
            // Not connected yet.
            0 => 1024 * 1024,
            max => max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_the_payloads_of_the_protocol() {
        let value = Value::Reference("ezout.shop.a.basket.b".to_owned());
        for (event, name, payload) in [
            (
                ResourceEvent::Change("{\"a\":1}".to_owned()),
                "change",
                "{\"values\":{\"a\":1}}",
            ),
            (
                ResourceEvent::Add { idx: 0, value },
                "add",
                "{\"idx\":0,\"value\":{\"rid\":\"ezout.shop.a.basket.b\"}}",
            ),
            (ResourceEvent::Remove { idx: 4 }, "remove", "{\"idx\":4}"),
            (ResourceEvent::Delete, "delete", ""),
            (
                ResourceEvent::Query("_INBOX.x".into()),
                "query",
                "{\"subject\":\"_INBOX.x\"}",
            ),
            (ResourceEvent::Custom("update", "{}".into()), "update", "{}"),
        ] {
            assert_eq!(event.name(), name);
            assert_eq!(event.payload(), payload);
        }
    }
}
