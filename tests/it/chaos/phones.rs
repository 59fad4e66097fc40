//! Phones: seeded visits over HTTP, every event repeated until it is answered for good.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ezout::core::event::Event;
use ezout::core::money::Money;
use ezout::tools::simulate::visit::{Visit, shop_of};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::history::{Identity, Phones, PutOff, Receipt};

/// Longest that a phone waits for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(8);
/// Most events that a phone sends in one body.
const LINES_MAX: usize = 6;

/// One of so many unanswered tries is the last one, where phones give up.
const GIVES_UP: u8 = 12;
/// How many visits nobody ends.
const FORSAKEN: f64 = 0.15;
/// How likely a shopper is to be away for a while after an action.
const ABSENT: f64 = 0.005;
/// How long then: about as long as makes a basket count as abandoned.
const ABSENT_MS: std::ops::Range<u64> = 2_800..4_500;

/// What all phones of a run share.
#[derive(Clone)]
pub struct Network {
    pub phones: Arc<Mutex<Phones>>,
    /// Where the API is now; it moves when it is started again.
    pub api: Arc<Mutex<String>>,
    /// Where it is as well; each try goes to any of them.
    pub others: Vec<String>,
    /// Whether phones are wrong about the time, by up to a day, and set it back while somebody shops.
    pub clocks_are_wrong: bool,
    /// Whether phones send some events again a while after they were answered.
    pub insists: bool,
    /// Whether some phones are put away when they are not answered, so that nobody knows what became of the event.
    pub gives_up: bool,
    http: reqwest::Client,
}

/// What an answer means to the phone.
enum Answer {
    Recorded { sequence: u64, duplicate: bool },
    Refused(u16),
    Later,
}

impl Network {
    pub fn new(api: String) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(ANSWER_MAX).build();
        Self {
            phones: Arc::default(),
            api: Arc::new(Mutex::new(api)),
            others: Vec::new(),
            clocks_are_wrong: false,
            insists: false,
            gives_up: false,
            http: http.unwrap(),
        }
    }

    fn one_api(&self) -> String {
        let place = fastrand::usize(0..=self.others.len());
        let other = self.others.get(place);
        other.cloned().unwrap_or_else(|| self.api.lock().unwrap().clone())
    }

    /// Shops with one phone after the other until `until`; ends when the last visit is answered for good.
    pub async fn shop(&self, seed: u64, shops: u32, until: Instant) {
        let mut rng = fastrand::Rng::with_seed(seed);
        while Instant::now() < until {
            let shop = shop_of(rng.u32(0..shops));
            let mut events = visit(&mut rng, shop);
            if self.insists {
                // What contradicts an event that is forgotten is a finding of the basket, and here no copy is to show.
                let mut sent = BTreeSet::new();
                events.retain(|event| sent.insert(identity_of(event).0));
            }
            if self.clocks_are_wrong {
                mistime(&mut rng, &mut events);
            }
            // Some shoppers put the phone away and never say so.
            if rng.f64() < FORSAKEN {
                events.truncate(rng.usize(1..=events.len()));
            }
            self.walk(&mut rng, &events, 5..90, ABSENT).await;
            if self.insists && rng.bool() {
                tokio::time::sleep(Duration::from_millis(rng.u64(1_500..3_000))).await;
                self.again(&mut rng, &events).await;
            }
        }
    }

    /// Sends some of these again, of those that were sent with one body.
    async fn again(&self, rng: &mut fastrand::Rng, events: &[Event]) {
        for event in events {
            let (identity, _) = identity_of(event);
            let clear = self.phones.lock().unwrap().events[&identity].bodies.len() == 1;
            if clear && rng.u8(..3) == 0 {
                self.send_one(rng, event).await;
            }
        }
    }

    /// One shopper does one thing, and is answered for good; answers what it was, and its place in the journal.
    pub async fn one(&self, rng: &mut fastrand::Rng, shop: ezout::core::id::ShopId) -> (Identity, u64) {
        let event = &visit(rng, shop)[0];
        let (identity, _) = identity_of(event);
        loop {
            self.send_one(rng, event).await;
            let phones = self.phones.lock().unwrap();
            if let Some(receipt) = phones.events[&identity].receipts.first() {
                return (identity, receipt.sequence);
            }
        }
    }

    /// One visit, with a pause of so many milliseconds between two sends.
    pub async fn visit(&self, rng: &mut fastrand::Rng, shop: ezout::core::id::ShopId, pause_ms: std::ops::Range<u64>) {
        let events = visit(rng, shop);
        self.walk(rng, &events, pause_ms, 0.0).await;
    }

    /// Sends the events of a visit; `absent` is how likely the shopper is away for seconds before one of them.
    async fn walk(&self, rng: &mut fastrand::Rng, events: &[Event], pause_ms: std::ops::Range<u64>, absent: f64) {
        let mut rest = events;
        while !rest.is_empty() {
            let lines = if rng.f64() < 0.1 {
                rng.usize(1..=LINES_MAX).min(rest.len())
            } else {
                1
            };
            let (now, later) = rest.split_at(lines);
            if lines > 1 {
                self.send_lines(rng, now).await;
            } else {
                self.send_one(rng, &now[0]).await;
            }
            rest = later;
            let pause = if rng.f64() < absent {
                ABSENT_MS
            } else {
                pause_ms.clone()
            };
            tokio::time::sleep(Duration::from_millis(rng.u64(pause))).await;
        }
    }

    fn sending(&self, event: &Event) -> (Identity, usize) {
        let (identity, body) = identity_of(event);
        let place = self.phones.lock().unwrap().sending(&identity, &body);
        (identity, place)
    }

    /// Repeats one event until it is answered for good.
    async fn send_one(&self, rng: &mut fastrand::Rng, event: &Event) {
        let original = rng.bool();
        loop {
            let (identity, body) = self.sending(event);
            match self.post_one(event, original).await {
                Answer::Later => {
                    self.phones.lock().unwrap().unanswered += 1;
                    if self.gives_up && rng.u8(..GIVES_UP) == 0 {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(rng.u64(20..300))).await;
                }
                Answer::Refused(status) => return self.refused(&identity, status),
                Answer::Recorded { sequence, duplicate } => {
                    let mut phones = self.phones.lock().unwrap();
                    let first = phones.events[&identity].receipts.is_empty();
                    phones.acknowledged(
                        &identity,
                        Receipt {
                            sequence,
                            duplicate,
                            body,
                        },
                    );
                    if first {
                        phones.order.entry(identity.session).or_default().push(sequence);
                    }
                    return;
                }
            }
        }
    }

    fn refused(&self, identity: &Identity, status: u16) {
        let mut phones = self.phones.lock().unwrap();
        let contradicted = phones.events[identity].bodies.len() > 1;
        phones.conflicts += 1;
        if status != 409 || !contradicted {
            phones.surprises.push(format!("{identity:?} was refused with {status}"));
        }
    }

    async fn post_one(&self, event: &Event, original: bool) -> Answer {
        let api = self.one_api();
        let url = if original {
            format!("{api}/publish/{}", event.shop)
        } else {
            format!("{api}/v1/shops/{}/events", event.shop)
        };
        let request = self.http.post(url).header("content-type", "application/json");
        let answer = request.body(event.canonical_json()).send().await;
        let status = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
        *self.phones.lock().unwrap().answers.entry(status).or_default() += 1;
        let Ok(answer) = answer else {
            return Answer::Later;
        };
        let status = answer.status();
        if status.is_client_error() {
            return Answer::Refused(status.as_u16());
        }
        let header = |name: &str| Some(answer.headers().get(name)?.to_str().ok()?.to_owned());
        if !status.is_success() {
            let retry_after = header("retry-after").and_then(|seconds| seconds.parse().ok());
            let problem = answer.json::<Value>().await.unwrap_or_default();
            let text = |field: &str| problem[field].as_str().unwrap_or_default().to_owned();
            self.phones.lock().unwrap().put_off.push(PutOff {
                status: status.as_u16(),
                code: text("code"),
                detail: text("detail"),
                retry_after,
            });
            return Answer::Later;
        }
        let by_header = header("ezout-sequence").zip(header("ezout-duplicate"));
        let receipt = match by_header {
            Some((sequence, duplicate)) => sequence.parse().ok().map(|sequence| (sequence, duplicate == "true")),
            None => answer.json::<Value>().await.ok().and_then(|json| {
                let sequence = json.get("sequence")?.as_u64()?;
                Some((sequence, json.get("duplicate")?.as_bool()?))
            }),
        };
        receipt.map_or(Answer::Later, |(sequence, duplicate)| Answer::Recorded {
            sequence,
            duplicate,
        })
    }

    /// Sends several events in one body; those that get no verdict for good are sent one by one after it.
    async fn send_lines(&self, rng: &mut fastrand::Rng, events: &[Event]) {
        let sent: Vec<_> = events.iter().map(|event| self.sending(event)).collect();
        let verdicts = self.post_lines(events).await;
        for (place, event) in events.iter().enumerate() {
            let verdict = verdicts.as_ref().and_then(|verdicts| verdicts.get(place));
            let word = verdict.and_then(|verdict| verdict["status"].as_str());
            let (identity, body) = &sent[place];
            match (word, verdict.and_then(|verdict| verdict["sequence"].as_u64())) {
                (Some(word @ ("recorded" | "duplicate")), Some(sequence)) => {
                    let receipt = Receipt {
                        sequence,
                        duplicate: word == "duplicate",
                        body: *body,
                    };
                    self.phones.lock().unwrap().acknowledged(identity, receipt);
                }
                (Some("conflict"), _) => self.refused(identity, 409),
                (Some("refused"), _) => self.refused(identity, 400),
                _ => self.send_one(rng, event).await,
            }
        }
    }

    async fn post_lines(&self, events: &[Event]) -> Option<Vec<Value>> {
        let api = self.one_api();
        let body: Vec<String> = events.iter().map(Event::canonical_json).collect();
        let request = self.http.post(format!("{api}/v1/shops/{}/events", events[0].shop));
        let request = request
            .header("content-type", "application/x-ndjson")
            .body(body.join("\n"));
        let text = request.send().await.ok()?.text().await.ok()?;
        text.lines().map(|line| serde_json::from_str(line).ok()).collect()
    }
}

fn identity_of(event: &Event) -> (Identity, Value) {
    let body: Value = serde_json::from_str(&event.canonical_json()).unwrap();
    (Identity::of(&body).unwrap(), body)
}

/// A visit to a shop.
fn visit(rng: &mut fastrand::Rng, shop: ezout::core::id::ShopId) -> Vec<Event> {
    let start = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
    let visit = Visit::new(rng, shop, start);
    mishaps(rng, visit)
}

/// The visit's events as they leave the phone: some phones number kinds instead of actions, some prices
/// change during a visit, and some phones send an event again with another price.
fn mishaps(rng: &mut fastrand::Rng, visit: Visit) -> Vec<Event> {
    let codes = rng.f64() < 0.2;
    let mut events: Vec<Event> = Vec::new();
    for send in visit.sends {
        let mut event = send.event;
        if codes {
            event.action_id = match event.action.as_str() {
                "ADD" => 101,
                "REMOVE" => 102,
                _ => 103,
            };
        }
        // The same event must look the same each time, so its own number decides.
        if event.create_time.millisecond() % 16 == 3 {
            event.product_price = event.product_price.map(|price| price + Money::from_units(2_500));
        }
        let contradicts = rng.f64() < 0.02;
        events.push(event.clone());
        if contradicts {
            event.basket_total += Money::from_units(100);
            events.push(event);
        }
    }
    events
}

/// The same events by a clock that is wrong by up to a day, or by years, and that somebody sets back by up to an hour in the middle.
fn mistime(rng: &mut fastrand::Rng, events: &mut [Event]) {
    let mut wrong = time::Duration::seconds(rng.i64(-86_400..86_400));
    if rng.bool() {
        wrong += time::Duration::seconds((OffsetDateTime::now_utc() - events[0].create_time).whole_seconds());
    }
    let (set_at, by) = (rng.usize(0..=events.len()), time::Duration::seconds(rng.i64(0..3_600)));
    for (place, event) in events.iter_mut().enumerate() {
        event.create_time += wrong;
        if place >= set_at {
            event.create_time -= by;
        }
    }
}
