//! Live updates end with their reason when the viewer may not see them any more, and go on with another token.

use std::time::{Duration, Instant};

use ezout::core::policy::Role;
use ezout::keys::SKEW_MAX;
use ezout::keys::dev::Grant;
use ezout::views::Revoked;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::guarded::{Asker, Guarded, dev_mode, grant, keys_of};
use super::resources::id_of;
use crate::live::viewer::{Message, Picture};
use crate::support::{event, session, wait_for};

/// Longest wait for anything. Heartbeats come far sooner.
const PATIENCE: Duration = Duration::from_mins(1);

/// A stream as it comes.
struct Stream {
    response: reqwest::Response,
    buffer: String,
    last_id: Option<String>,
}

impl Stream {
    async fn open(caller: &Asker, shop: &str, last_id: Option<&str>) -> Self {
        let path = format!("/v1/shops/{shop}/updates");
        let mut request = caller.request(reqwest::Method::GET, &path);
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let stream = Self::of(request).await;
        Self {
            last_id: last_id.map(str::to_owned),
            ..stream
        }
    }

    async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        Self {
            response,
            buffer: String::new(),
            last_id: None,
        }
    }

    /// The next message; nothing at the end.
    async fn next(&mut self) -> Option<Message> {
        loop {
            while let Some(end) = self.buffer.find("\n\n") {
                let block: String = self.buffer.drain(..end + 2).collect();
                let field = |name: &str| {
                    block
                        .lines()
                        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                };
                if let Some(id) = field("id") {
                    self.last_id = Some(id.to_owned());
                }
                if let (Some(event), Some(data)) = (field("event"), field("data")) {
                    return Some(Message {
                        event: event.to_owned(),
                        data: serde_json::from_str(data).unwrap(),
                        id: self.last_id.clone(),
                    });
                }
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
            let chunk = chunk.expect("no message and no heartbeat came").unwrap()?;
            self.buffer.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// Reads until the snapshot is whole.
    async fn begun(&mut self) {
        loop {
            let message = self.next().await.expect("the stream goes on");
            if message.event == "snapshot" && message.data["more"] == false {
                return;
            }
        }
    }

    /// Reads to the end; answers the last message's data, which has to be `bye`, and when it came.
    async fn ends(&mut self) -> (Value, Instant) {
        let mut last = None;
        while let Some(message) = self.next().await {
            last = Some((message, Instant::now()));
        }
        let (last, at) = last.expect("a message before the end");
        assert_eq!(last.event, "bye", "{last:?}");
        (last.data, at)
    }
}

const LIMITED: &str = "ezout_limited_places_total{place=\"viewer\"}";
const ENDS: &str = "ezout_access_ends_total{door=\"updates\"}";

fn soon(guarded: &Guarded, subject: &str, shop: &str, lasts: Duration) -> Asker {
    let token = guarded.sign(&Grant {
        lasts,
        ..grant(subject, Some(Role::Merchant), &[shop])
    });
    guarded.caller(Some(token))
}

#[tokio::test]
async fn a_viewer_whose_time_is_over_goes_on_with_a_new_token_without_a_gap_or_a_repeat() {
    const EVENTS: usize = 200;
    let guarded = Guarded::shared().await;
    let shop = session();
    let before = guarded.service.metric(ENDS).await.unwrap();
    // The first stream is there before the first event, so that all of them are told.
    let viewer = || soon(guarded, "ada", &shop, Duration::from_secs(2));
    let mut picture = Picture::default();
    let mut stream = Stream::open(&viewer(), &shop, None).await;
    while !picture.snapshot_done {
        match stream.next().await {
            Some(message) => picture.take(&message),
            // On a slow machine its time may be over by then.
            None => stream = Stream::open(&viewer(), &shop, None).await,
        }
    }
    let sending = {
        let (shop, phone) = (
            shop.clone(),
            guarded.caller(Some(guarded.token(Role::Service, &[&shop]))),
        );
        async move {
            let (visit, mut sent) = (session(), Vec::new());
            for action_id in 1..=i64::try_from(EVENTS).unwrap() {
                let added = event(&shop, &visit, action_id, "ADD", 1, 1.5, 1.5);
                sent.push(phone.publish(&shop, &added).await.sequence());
                // Spread over the ends of some tokens.
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            sent
        }
    };
    let mut ends = 0;
    let viewing = async {
        // All of them, and one end at least.
        while picture.seen.len() < EVENTS || ends == 0 {
            if let Some(message) = stream.next().await {
                if message.event == "bye" {
                    assert_eq!(message.data, json!({ "reason": "expired" }));
                    ends += 1;
                } else {
                    picture.take(&message);
                }
                continue;
            }
            let id = stream.last_id.clone();
            stream = Stream::open(&viewer(), &shop, id.as_deref()).await;
            let hello = stream.next().await.unwrap();
            if hello.event == "hello" {
                assert_eq!(hello.data["recovered"], true, "{hello:?}");
            }
        }
    };
    let viewing = async {
        let viewed = tokio::time::timeout(5 * PATIENCE, viewing).await;
        viewed.expect("every event is told");
    };
    let (sent, ()) = tokio::join!(sending, viewing);
    assert_eq!(picture.seen, sent);
    let counted = guarded.service.metric(ENDS).await.unwrap() - before;
    assert!(counted >= f64::from(ends), "{counted} of {ends}");
    // What has ended is no way back in.
    let past = OffsetDateTime::now_utc() - Duration::from_hours(2);
    let ended = guarded.sign_at(&grant("ada", Some(Role::Merchant), &[&shop]), past);
    let got = guarded
        .caller(Some(ended))
        .get(&format!("/v1/shops/{shop}/updates"))
        .await;
    assert_eq!((got.status, got.code().as_str()), (401, "token_expired"));
}

/// Opens streams of somebody, takes the right away, and answers how long the slowest had to wait for its last message.
async fn end_all(guarded: &Guarded, shop: &str, token: &str, reason: &str, take: impl AsyncFnOnce()) -> Duration {
    let caller = guarded.caller(Some(token.to_owned()));
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = Stream::open(&caller, shop, None).await;
        stream.begun().await;
        streams.push(stream);
    }
    let before = guarded.service.metric(ENDS).await.unwrap();
    let begun = Instant::now();
    take().await;
    let mut longest = Duration::ZERO;
    for mut stream in streams {
        let (bye, at) = stream.ends().await;
        assert_eq!(bye, json!({ "reason": reason }));
        longest = longest.max(at - begun);
    }
    assert!(guarded.service.metric(ENDS).await.unwrap() >= before + 20.0);
    longest
}

#[tokio::test]
async fn whoever_loses_a_right_loses_the_streams_that_it_had_opened() {
    let guarded = Guarded::shared().await;
    let shop = session();
    let rights = guarded.rights().await;
    let updates = format!("/v1/shops/{shop}/updates");
    let (ada, bob) = (session(), session());

    // Somebody who keeps what they have.
    let other = guarded.caller(Some(guarded.token(Role::Support, &[&shop])));
    let mut staying = Stream::open(&other, &shop, None).await;
    staying.begun().await;

    let token = guarded.token_of(&ada, Role::Merchant, &[&shop]);
    let revoked = Revoked::Subject(ada.clone());
    let took = end_all(guarded, &shop, &token, "revoked", async || {
        rights.revoke(&revoked).await;
    })
    .await;
    eprintln!("a revoked subject: {took:?} to the last of 20");
    let got = guarded.caller(Some(token)).get(&updates).await;
    assert_eq!((got.status, got.code().as_str()), (401, "token_revoked"));
    // Signed in again, by a clock that cannot be that of before, they are in again.
    wait_for("the new sign-in to count", async || {
        let merchant = grant(&ada, Some(Role::Merchant), &[&shop]);
        let later = guarded.sign_at(&merchant, OffsetDateTime::now_utc() + SKEW_MAX);
        (guarded.caller(Some(later)).get(&updates).await.status == 200).then_some(())
    })
    .await;

    let [token, another] = [(), ()].map(|()| guarded.token_of(&bob, Role::Merchant, &[&shop]));
    let revoked = Revoked::Token(id_of(&token));
    let took = end_all(guarded, &shop, &token, "revoked", async || {
        rights.revoke(&revoked).await;
    })
    .await;
    eprintln!("a revoked token: {took:?} to the last of 20");
    assert_eq!(guarded.caller(Some(another)).get(&updates).await.status, 200);

    let carol = session();
    rights.set_member(&carol, Role::Merchant, &[&shop]).await;
    let token = guarded.sign(&grant(&carol, None, &[]));
    guarded.caller(Some(token.clone())).get_until(&updates).await;
    let took = end_all(guarded, &shop, &token, "denied", async || {
        assert!(rights.views.remove_member(&carol).await.unwrap());
    })
    .await;
    eprintln!("a removed member: {took:?} to the last of 20");
    let got = guarded.caller(Some(token)).get(&updates).await;
    assert_eq!((got.status, got.code().as_str()), (403, "forbidden"));

    // A member who is moved to another shop sees this one no more.
    let elsewhere = session();
    rights.set_member(&carol, Role::Merchant, &[&shop]).await;
    let token = guarded.sign(&grant(&carol, None, &[]));
    guarded.caller(Some(token.clone())).get_until(&updates).await;
    end_all(guarded, &shop, &token, "denied", async || {
        rights.set_member(&carol, Role::Merchant, &[&elsewhere]).await;
    })
    .await;
    let got = guarded.caller(Some(token)).get(&updates).await;
    assert_eq!((got.status, got.code().as_str()), (404, "not_found"));

    // All that while, whoever kept a right was told of everything.
    let visit = session();
    let added = event(&shop, &visit, 1, "ADD", 1, 1.5, 1.5);
    guarded.admin().publish(&shop, &added).await;
    wait_for("the update", async || {
        let message = staying.next().await.expect("the stream goes on");
        (message.data["session_id"] == visit).then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_caller_takes_no_more_streams_than_it_may_and_the_others_notice_nothing() {
    let guarded = Guarded::shared().await;
    let keys = keys_of(&guarded.stack);
    let mut environment = dev_mode(&keys).to_vec();
    environment.push(("EZOUT_VIEWERS_PER_CALLER", "3"));
    let service = guarded.stack.service_with("api", &environment).await;
    let (shop, ada) = (session(), session());
    let caller = |subject: &str| Asker::new(&service, Some(guarded.token_of(subject, Role::Merchant, &[&shop])));
    let updates = format!("/v1/shops/{shop}/updates");
    // Members and revocations may be known a moment after the process is ready.
    caller(&session()).get_until(&updates).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        // Each with a token of its own.
        streams.push(Stream::open(&caller(&ada), &shop, None).await);
    }
    let before = service.metric(LIMITED).await.unwrap();
    let got = caller(&ada).get(&updates).await;
    assert_eq!((got.status, got.code().as_str()), (429, "too_many_requests"));
    assert!(got.headers.contains_key("retry-after"));
    assert_eq!(service.metric(LIMITED).await, Some(before + 1.0));
    // Everything else is as it was, for her and for others.
    assert_eq!(caller(&ada).get(&format!("/v1/shops/{shop}/summary")).await.status, 200);
    assert_eq!(caller(&session()).get(&updates).await.status, 200);
    streams.pop();
    caller(&ada).get_until(&updates).await;
}

/// A replay that would go on for minutes: some events, and the longest pause before each.
fn replay(caller: &Asker, shop: &str, visit: &str) -> reqwest::RequestBuilder {
    let path = format!("/v1/shops/{shop}/sessions/{visit}/events?speed=0.001");
    let request = caller.request(reqwest::Method::GET, &path);
    request.header("accept", "text/event-stream")
}

async fn visit_in(admin: &Asker, shop: &str) -> String {
    let visit = session();
    let mut sequence = 0;
    for action_id in 1..=40 {
        let added = event(shop, &visit, action_id, "ADD", 1, 1.5, 1.5);
        sequence = admin.publish(shop, &added).await.sequence();
    }
    let basket = format!("/v1/shops/{shop}/sessions/{visit}/basket?min_sequence={sequence}");
    admin.get_until(&basket).await;
    visit
}

#[tokio::test]
async fn a_replay_ends_with_the_right_to_it() {
    let guarded = Guarded::shared().await;
    let (shop, rights) = (session(), guarded.rights().await);
    let visit = visit_in(&guarded.admin(), &shop).await;
    let series = "ezout_access_ends_total{door=\"replay\"}";
    let before = guarded.service.metric(series).await.unwrap();

    let ada = session();
    let ada_replays = guarded.caller(Some(guarded.token_of(&ada, Role::Support, &[&shop])));
    let mut revoked = Stream::of(replay(&ada_replays, &shop, &visit)).await;
    rights.revoke(&Revoked::Subject(ada)).await;
    assert_eq!(revoked.ends().await.0, json!({ "reason": "revoked" }));

    let carol = session();
    rights.set_member(&carol, Role::Support, &[&shop]).await;
    let carol_replays = guarded.caller(Some(guarded.sign(&grant(&carol, None, &[]))));
    let basket = format!("/v1/shops/{shop}/sessions/{visit}/basket");
    carol_replays.get_until(&basket).await;
    let mut denied = Stream::of(replay(&carol_replays, &shop, &visit)).await;
    // She still looks, and replays no more.
    rights.set_member(&carol, Role::Merchant, &[&shop]).await;
    assert_eq!(denied.ends().await.0, json!({ "reason": "denied" }));

    let token = guarded.sign(&Grant {
        lasts: Duration::from_secs(3),
        ..grant(&session(), Some(Role::Support), &[&shop])
    });
    let mut expired = Stream::of(replay(&guarded.caller(Some(token)), &shop, &visit)).await;
    assert_eq!(expired.ends().await.0, json!({ "reason": "expired" }));
    assert!(guarded.service.metric(series).await.unwrap() >= before + 3.0);
}

#[tokio::test]
async fn a_replay_takes_the_place_of_a_live_stream_and_ends_when_the_process_stops() {
    let guarded = Guarded::shared().await;
    let keys = keys_of(&guarded.stack);
    let mut environment = dev_mode(&keys).to_vec();
    environment.push(("EZOUT_VIEWERS_PER_CALLER", "1"));
    let mut service = guarded.stack.service_with("api", &environment).await;
    let (shop, ada) = (session(), session());
    let visit = visit_in(&guarded.admin(), &shop).await;
    let caller = Asker::new(&service, Some(guarded.token_of(&ada, Role::Support, &[&shop])));
    caller
        .get_until(&format!("/v1/shops/{shop}/sessions/{visit}/basket"))
        .await;
    let mut stream = Stream::of(replay(&caller, &shop, &visit)).await;
    let refused = replay(&caller, &shop, &visit).send().await.unwrap();
    assert_eq!(refused.status(), 429);
    let updates = caller.get(&format!("/v1/shops/{shop}/updates")).await;
    assert_eq!((updates.status, updates.code().as_str()), (429, "too_many_requests"));
    // The events at once are no stream that goes on.
    let events = caller.get(&format!("/v1/shops/{shop}/sessions/{visit}/events")).await;
    assert_eq!(events.status, 200);
    let (bye, _) = tokio::join!(stream.ends(), service.stop());
    assert_eq!(bye.0, json!({ "reason": "stopping" }));
}
