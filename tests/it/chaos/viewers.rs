//! Viewers of live updates that are cut off again and again, come back with the last place that they had, and write down what
//! they are told; and people of one shop who ask for another.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::history::{Asked, Sight, Viewed};

/// Longest silence that a viewer bears; heartbeats come far sooner.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Pause before it connects again.
const PAUSE: Duration = Duration::from_millis(150);

/// Where a viewer connects to, and what it says.
#[derive(Clone)]
pub struct Seat {
    pub api: Arc<Mutex<String>>,
    pub shop: String,
    pub token: String,
    /// How long it takes for each piece that it reads, where it is slow, until it is told to hurry.
    pub slowness: Option<Duration>,
    pub hurry: Arc<AtomicBool>,
}

/// One viewer.
pub struct Viewer {
    viewed: Arc<Mutex<Viewed>>,
    task: JoinHandle<()>,
}

impl Viewer {
    /// Sits down, and looks until it is dropped.
    pub fn start(seat: Seat, seed: u64) -> Self {
        let viewed = Arc::new(Mutex::new(Viewed {
            shop: seat.shop.clone(),
            sights: Vec::new(),
        }));
        let task = tokio::spawn(look(seat, seed, Arc::clone(&viewed)));
        Self { viewed, task }
    }

    /// What it was told so far.
    pub fn viewed(&self) -> Viewed {
        self.viewed.lock().unwrap().clone()
    }

    /// The last event that it was told of, or that its snapshot has.
    pub fn last(&self) -> Option<u64> {
        let viewed = self.viewed.lock().unwrap();
        let last = |sight: &Sight| match sight {
            Sight::Update { sequence, .. } => Some(*sequence),
            Sight::Snapshot { up_to, .. } => *up_to,
            Sight::Hello { .. } | Sight::Coalesced => None,
        };
        viewed.sights.iter().rev().find_map(last)
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn look(seat: Seat, seed: u64, viewed: Arc<Mutex<Viewed>>) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut place = None;
    loop {
        let stays = Duration::from_millis(rng.u64(500..6_000));
        let looking = connection(&http, &seat, &mut place, &viewed);
        let _ = tokio::time::timeout(stays, looking).await;
        tokio::time::sleep(PAUSE).await;
    }
}

/// One connection, until it ends in whatever way.
async fn connection(
    http: &reqwest::Client,
    seat: &Seat,
    place: &mut Option<String>,
    viewed: &Mutex<Viewed>,
) -> Option<()> {
    let api = seat.api.lock().unwrap().clone();
    let mut request = http
        .get(format!("{api}/v1/shops/{}/updates", seat.shop))
        .bearer_auth(&seat.token);
    if let Some(place) = place.as_ref() {
        request = request.header("Last-Event-ID", place);
    }
    let mut answer = request.send().await.ok()?.error_for_status().ok()?;
    let mut text = String::new();
    loop {
        while let Some(end) = text.find("\n\n") {
            let block: String = text.drain(..end + 2).collect();
            read(&block, place, &mut viewed.lock().unwrap());
        }
        if let Some(pause) = seat.slowness.filter(|_| !seat.hurry.load(Ordering::Relaxed)) {
            tokio::time::sleep(pause).await;
        }
        let piece = tokio::time::timeout(SILENCE_MAX, answer.chunk()).await;
        text.push_str(std::str::from_utf8(&piece.ok()?.ok()??).ok()?);
    }
}

/// Takes one event in; the place moves with it, so nothing is told twice.
fn read(block: &str, place: &mut Option<String>, viewed: &mut Viewed) {
    let (mut event, mut data) = ("", Value::Null);
    for line in block.lines() {
        match line.split_once(": ") {
            Some(("id", id)) => *place = Some(id.to_owned()),
            Some(("event", name)) => event = name,
            Some(("data", text)) => data = serde_json::from_str(text).unwrap_or_default(),
            _ => {}
        }
    }
    let version = |basket: &Value| basket["version"].as_u64().unwrap_or(0);
    let session = |of: &Value| of["session_id"].as_str().unwrap_or_default().to_owned();
    let sight = match event {
        "hello" => Sight::Hello {
            recovered: data["recovered"] == true,
        },
        "snapshot" => {
            let baskets = data["baskets"].as_array().map_or(&[][..], Vec::as_slice);
            let last = data["more"] == false;
            let up_to = place.as_ref().and_then(|place| place.rsplit('-').next()?.parse().ok());
            Sight::Snapshot {
                baskets: baskets
                    .iter()
                    .map(|basket| (session(basket), version(basket)))
                    .collect(),
                up_to: up_to.filter(|_| last),
            }
        }
        "update" => Sight::Update {
            sequence: data["sequence"].as_u64().unwrap_or(0),
            session: session(&data),
            version: version(&data["basket"]),
        },
        "coalesced" => Sight::Coalesced,
        _ => return,
    };
    viewed.sights.push(sight);
}

/// Who the one is that may ask for everything; what it files bears this name.
pub const PERMITTED: &str = "whoever may";

/// Somebody of another shop, and how the policy refuses them.
#[derive(Clone)]
pub struct Stranger {
    pub name: &'static str,
    pub token: String,
    /// Whether their role would do everything in a shop of their own, so that the shop alone is the reason.
    pub does_all: bool,
}

/// Strangers who ask for everything of a shop, and beside each of them somebody who may; what they are answered is written down.
#[derive(Clone)]
pub struct Prying {
    pub api: Arc<Mutex<String>>,
    pub shop: String,
    pub session: String,
    pub strangers: Vec<Stranger>,
    pub permitted: String,
    pub answers: Arc<Mutex<Vec<Asked>>>,
    questions: Vec<(&'static str, &'static str, bool)>,
    http: reqwest::Client,
    /// The id of the correction that all of them ask for, so that it is filed once.
    correction: String,
}

/// What is asked for, and whether merchants may in a shop of theirs.
const QUESTIONS: [(&str, &str, bool); 8] = [
    ("GET", "/baskets", true),
    ("GET", "/summary", true),
    ("GET", "/updates", true),
    ("GET", "/sessions/{session}/basket", true),
    ("GET", "/sessions/{session}/explain", true),
    ("GET", "/sessions/{session}/corrections", true),
    ("GET", "/sessions/{session}/events", false),
    ("POST", "/seen", true),
];
/// The same, where nobody takes what is filed: it would be an event that no phone has sent.
const CORRECTING: (&str, &str, bool) = ("POST", "/sessions/{session}/corrections", false);

impl Prying {
    pub fn new(
        (api, shop, session): (Arc<Mutex<String>>, String, String),
        strangers: Vec<Stranger>,
        permitted: String,
        corrections_wait: bool,
    ) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(SILENCE_MAX).build();
        Self {
            api,
            shop,
            session,
            strangers,
            permitted,
            answers: Arc::default(),
            questions: QUESTIONS
                .into_iter()
                .chain(corrections_wait.then_some(CORRECTING))
                .collect(),
            http: http.unwrap(),
            correction: uuid::Uuid::new_v4().to_string(),
        }
    }

    /// Asks again and again.
    pub async fn go_on(self) {
        loop {
            self.ask_all().await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Asks for everything once: each stranger, and then whoever may.
    pub async fn ask_all(&self) {
        for &(method, below, merchants_may) in &self.questions {
            let below = below.replace("{session}", &self.session);
            let mut refused = Vec::new();
            for stranger in &self.strangers {
                // A role is refused for what it never does, and a shop of somebody else is none at all.
                let refusal = if merchants_may || stranger.does_all { 404 } else { 403 };
                refused.push((stranger, refusal, self.ask(method, &below, &stranger.token).await));
            }
            let permitted = self.ask(method, &below, &self.permitted).await;
            let asked = refused.into_iter().map(|(stranger, refusal, answered)| Asked {
                what: format!("{method} {below} by {} of another shop", stranger.name),
                refusal,
                stranger: answered,
                permitted,
            });
            self.answers.lock().unwrap().extend(asked);
        }
    }

    async fn ask(&self, method: &str, below: &str, token: &str) -> u16 {
        let api = self.api.lock().unwrap().clone();
        let url = format!("{api}/v1/shops/{}{below}", self.shop);
        let body = match (method, below) {
            ("POST", "/seen") => Some(json!({ "sequence": 1 })),
            ("POST", _) => {
                Some(json!({ "id": self.correction, "author": "Eve", "reason": "because", "adjustment": { "by": 1 } }))
            }
            _ => None,
        };
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.http.request(method, url).bearer_auth(token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.map_or(0, |answer| answer.status().as_u16())
    }

    /// Whether each request was answered to whoever may, and refused to all others meanwhile.
    pub fn is_shown(&self) -> bool {
        let answers = self.answers.lock().unwrap();
        let proven = answers
            .iter()
            .filter(|asked| asked.is_proof() && asked.stranger == asked.refusal);
        let proven: BTreeSet<&str> = proven.map(|asked| asked.what.as_str()).collect();
        proven.len() == self.questions.len() * self.strangers.len()
    }
}
