//! A viewer of live updates as a browser is one, and events for it to see.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::contracts::check;
use crate::support::{event, session};

/// Longest wait for an event. Heartbeats come far sooner.
const PATIENCE: Duration = Duration::from_secs(30);

/// A Server-Sent Event.
#[derive(Debug, Clone)]
pub struct Message {
    pub event: String,
    pub data: Value,
    /// The last id of the stream when it came.
    pub id: Option<String>,
}

/// A connection of a viewer.
pub struct Viewer {
    response: reqwest::Response,
    buffer: String,
    pub last_id: Option<String>,
}

/// Where the updates of a shop are.
pub fn url(http_url: &str, shop: &str) -> String {
    format!("{http_url}/v1/shops/{shop}/updates")
}

impl Viewer {
    /// Connects, and says where it was if it was anywhere.
    pub async fn connect(http_url: &str, shop: &str, last_id: Option<String>) -> Self {
        let mut request = reqwest::Client::new().get(url(http_url, shop));
        if let Some(id) = &last_id {
            request = request.header("Last-Event-ID", id);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            response,
            buffer: String::new(),
            last_id,
        }
    }

    /// The next event; nothing at the end of the stream.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            while let Some(end) = self.buffer.find("\n\n") {
                let block: String = self.buffer.drain(..end + 2).collect();
                if let Some(message) = self.read(&block) {
                    return Some(message);
                }
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
            let chunk = chunk.expect("no event and no heartbeat came").ok()??;
            self.buffer.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    fn read(&mut self, block: &str) -> Option<Message> {
        let (mut event, mut data) = (None, None);
        for line in block.lines() {
            match line.split_once(": ") {
                Some(("id", value)) => self.last_id = Some(value.to_owned()),
                Some(("event", value)) => event = Some(value.to_owned()),
                Some(("data", value)) => data = Some(serde_json::from_str(value).unwrap()),
                Some(("retry" | "", _)) | None => {}
                Some(other) => panic!("what is {other:?}?"),
            }
        }
        let message = Message {
            event: event?,
            data: data?,
            id: self.last_id.clone(),
        };
        check::message("live", &message.event, &message.data, None);
        Some(message)
    }

    /// The next event of a kind; others are passed over.
    pub async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let message = self.next().await.expect("the stream goes on");
            if message.event == kind {
                return message.data;
            }
        }
    }
}

/// What a viewer knows of a shop, from the snapshot and the updates.
#[derive(Debug, Default)]
pub struct Picture {
    /// Version, items and status of each basket.
    pub baskets: BTreeMap<String, (u64, u64, String)>,
    /// The journal sequences of the updates that came.
    pub seen: Vec<u64>,
    pub snapshot_done: bool,
}

impl Picture {
    /// How many events are in the baskets together.
    pub fn versions(&self) -> u64 {
        self.baskets.values().map(|(version, ..)| version).sum()
    }

    /// Takes an event in, and panics where it does not join with what was there.
    pub fn take(&mut self, message: &Message) {
        let data = &message.data;
        match message.event.as_str() {
            "hello" if data["recovered"] == false => {
                *self = Self::default();
            }
            "snapshot" => {
                for basket in data["baskets"].as_array().unwrap() {
                    let state = state_of(basket);
                    self.baskets.insert(text(&basket["session_id"]), state);
                }
                self.snapshot_done = data["more"] == false;
            }
            "update" => {
                let basket = state_of(&data["basket"]);
                let session = text(&data["session_id"]);
                let before = self.baskets.get(&session).map_or(0, |(version, ..)| *version);
                assert_eq!(basket.0, before + 1, "{session} in {message:?}");
                self.baskets.insert(session, basket);
                self.seen.push(data["sequence"].as_u64().unwrap());
            }
            _ => {}
        }
    }
}

pub fn state_of(basket: &Value) -> (u64, u64, String) {
    let number = |name: &str| basket[name].as_u64().unwrap();
    (number("version"), number("item_count"), text(&basket["status"]))
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Shoppers who put one thing after the other into their baskets.
pub struct Shoppers {
    pub shop: String,
    pub sessions: Vec<String>,
    next: usize,
}

impl Shoppers {
    pub fn new(shop: &str, count: usize) -> Self {
        Self {
            shop: shop.to_owned(),
            sessions: (0..count).map(|_| session()).collect(),
            next: 0,
        }
    }

    /// The next events, one a line.
    pub fn lines(&mut self, count: usize) -> String {
        let mut lines = String::new();
        for _ in 0..count {
            let session = &self.sessions[self.next % self.sessions.len()];
            let id = 1 + i64::try_from(self.next / self.sessions.len()).unwrap();
            #[expect(clippy::cast_precision_loss, reason = "a price of a few units")]
            let claimed = id as f64;
            lines += &event(&self.shop, session, id, "ADD", 7, 1.0, claimed).to_string();
            lines.push('\n');
            self.next += 1;
        }
        lines
    }

    /// Sends the next events and answers their sequences.
    pub async fn shop(&mut self, http_url: &str, count: usize) -> Vec<u64> {
        let url = format!("{http_url}/v1/shops/{}/events", self.shop);
        let body = self.lines(count);
        let request = reqwest::Client::new()
            .post(url)
            .header("content-type", "application/x-ndjson");
        let answer = request.body(body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let verdicts = answer.text().await.unwrap();
        let sequence = |line: &str| {
            let verdict: Value = serde_json::from_str(line).unwrap();
            verdict["sequence"].as_u64().unwrap_or_else(|| panic!("{line}"))
        };
        verdicts.lines().map(sequence).collect()
    }

    /// The first shopper pays.
    pub async fn checkout(&mut self, http_url: &str, action_id: i64) {
        let event = event(&self.shop, &self.sessions[0], action_id, "CHECKOUT", 7, 1.0, 1.0);
        let url = format!("{http_url}/publish/{}", self.shop);
        let answer = reqwest::Client::new().post(url).json(&event).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
}
