//! Requests of gateways, as they come by NATS.

use std::collections::HashMap;

use async_nats::{Message, Subject};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Whether a client may get a resource and call its methods.
    Access,
    /// What a resource is.
    Get,
    /// To do something with it.
    Call,
    /// Who a client is.
    Auth,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Access, Self::Get, Self::Call, Self::Auth];

    /// Its word in subjects, and in metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Get => "get",
            Self::Call => "call",
            Self::Auth => "auth",
        }
    }
}

/// A request. It has to be answered once.
#[derive(Debug, Clone)]
pub struct Request {
    kind: Kind,
    /// Without the kind and, of a call, with the method.
    path: String,
    reply: Subject,
    payload: Bytes,
}

/// What may be in a request; each kind has some of it.
#[derive(Debug, Default, Deserialize)]
pub struct Body<'a> {
    /// Of a resource that depends on one.
    pub query: Option<String>,
    /// Of a call, or of an auth request.
    #[serde(borrow)]
    pub params: Option<&'a RawValue>,
    /// Names the client's connection.
    pub cid: Option<String>,
    /// What the client's connection was given.
    #[serde(borrow)]
    pub token: Option<&'a RawValue>,
    /// Of the HTTP request, or of the one that the connection began with.
    #[serde(default)]
    pub header: HashMap<String, Vec<String>>,
    /// Which host that request was sent to.
    pub host: Option<String>,
    /// Whether the connection is for one HTTP request only.
    #[serde(default, rename = "isHttp")]
    pub is_http: bool,
}

impl Request {
    pub(super) fn of(message: &Message) -> Option<Self> {
        Self::read(&message.subject, message.reply.clone()?, message.payload.clone())
    }

    pub(super) fn read(subject: &str, reply: Subject, payload: Bytes) -> Option<Self> {
        let (kind, path) = subject.split_once('.')?;
        Some(Self {
            kind: Kind::ALL.into_iter().find(|known| known.word() == kind)?,
            path: path.to_owned(),
            reply,
            payload,
        })
    }

    /// A request for what a query resource is now, at the inbox that an event named.
    pub(super) fn at_inbox(message: Message) -> Option<Self> {
        Some(Self {
            kind: Kind::Get,
            path: String::new(),
            reply: message.reply?,
            payload: message.payload,
        })
    }

    /// What is asked.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The name of the resource.
    pub fn name(&self) -> &str {
        match self.kind {
            Kind::Access | Kind::Get => &self.path,
            Kind::Call | Kind::Auth => self.path.rsplit_once('.').map_or(&self.path, |(name, _)| name),
        }
    }

    /// The method of a call or of an auth request; empty otherwise.
    pub fn method(&self) -> &str {
        match self.kind {
            Kind::Access | Kind::Get => "",
            Kind::Call | Kind::Auth => self.path.rsplit_once('.').map_or("", |(_, method)| method),
        }
    }

    /// Its body; what is no JSON is as if there was none, since nothing of ours asks so.
    pub fn body(&self) -> Body<'_> {
        serde_json::from_slice(&self.payload).unwrap_or_default()
    }

    /// An id that this request has however often it is passed on, and no other one has.
    pub fn id(&self) -> Uuid {
        Uuid::new_v5(&Uuid::NAMESPACE_OID, self.reply.as_bytes())
    }

    pub(super) fn subject(&self) -> String {
        format!("{}.{}", self.kind.word(), self.path)
    }

    pub(super) fn reply(&self) -> &Subject {
        &self.reply
    }

    pub(super) fn payload(&self) -> &Bytes {
        &self.payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_its_subject_and_its_body() {
        let read = |subject: &str, payload: &'static str| Request::read(subject, "_INBOX.a".into(), payload.into());
        let get = read("get.ezout.shop.a.sessions", r#"{"query":"a=1\u0026b=2"}"#).unwrap();
        assert_eq!(
            (get.kind(), get.name(), get.method()),
            (Kind::Get, "ezout.shop.a.sessions", "")
        );
        assert_eq!(get.body().query.as_deref(), Some("a=1&b=2"));

        let call = read(
            "call.ezout.shop.a.basket.b.correct",
            r#"{"params":{"total":1.50},"token":null,"cid":"c"}"#,
        )
        .unwrap();
        assert_eq!((call.name(), call.method()), ("ezout.shop.a.basket.b", "correct"));
        assert_eq!(call.body().params.unwrap().get(), r#"{"total":1.50}"#);
        assert_eq!(call.subject(), "call.ezout.shop.a.basket.b.correct");

        assert!(
            read("call.ezout.x.m", r#"{"params":null}"#)
                .unwrap()
                .body()
                .params
                .is_none()
        );
        assert!(read("get.ezout.x", "no JSON").unwrap().body().query.is_none());
        assert!(read("event.ezout.x.change", "{}").is_none());
        assert!(read("get", "{}").is_none());
    }
}
