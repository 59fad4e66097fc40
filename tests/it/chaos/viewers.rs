//! Viewers of live updates that are cut off again and again, come back with the last place that they had, and write down what
//! they are told; and merchants of one shop who ask for another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;

use super::history::{Sight, Viewed};

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

/// A merchant of one shop who asks for everything of another one, and writes down how that was answered.
pub async fn pry(
    api: Arc<Mutex<String>>,
    of: String,
    session: String,
    token: String,
    answers: Arc<Mutex<Vec<(String, u16)>>>,
) {
    let http = reqwest::Client::builder()
        .no_proxy()
        .timeout(SILENCE_MAX)
        .build()
        .unwrap();
    let shop = format!("/v1/shops/{of}");
    let basket = format!("{shop}/sessions/{session}");
    let paths = [
        format!("{shop}/baskets"),
        format!("{shop}/summary"),
        format!("{shop}/updates"),
        format!("{basket}/basket"),
        format!("{basket}/events"),
        format!("{basket}/explain"),
    ];
    let correction = serde_json::json!({ "author": "Eve", "reason": "because", "adjustment": { "by": 1 } });
    loop {
        let api = api.lock().unwrap().clone();
        let mut requests: Vec<_> = paths
            .iter()
            .map(|path| (path.clone(), http.get(format!("{api}{path}"))))
            .collect();
        let path = format!("{basket}/corrections");
        requests.push((path.clone(), http.post(format!("{api}{path}")).json(&correction)));
        for (path, request) in requests {
            if let Ok(answer) = request.bearer_auth(&token).send().await {
                answers.lock().unwrap().push((path, answer.status().as_u16()));
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
