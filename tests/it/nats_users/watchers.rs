//! Watchers who connect to NATS themselves with a token, at a real nats-server that asks a real service about them.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, Subscriber};
use ezout::core::id::ShopId;
use ezout::core::policy::{self, Caller, Denied, Object, Role, Shops, Verb};
use ezout::keys::dev::{self, Grant};
use ezout::nats::{Address, User};
use ezout::tools::servers::{NatsOptions, free_port};
use futures::{SinkExt as _, StreamExt as _};
use serde_json::json;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::Message;

use crate::support::proxy::Proxy;
use crate::support::{Service, Stack, event, printed, session, wait_for};
use crate::tokens::issuer::{Behaviour, Issuer, Signer};

const SENDER: &str = "sender";

/// A service that lets watchers in, and those who watch it.
struct Doors {
    stack: Stack,
    service: Service,
    keys: PathBuf,
    websocket: u16,
}

impl Doors {
    async fn open() -> Self {
        Self::open_with(async |_| Vec::new()).await
    }

    /// With more of the environment, once the servers are there.
    async fn open_with(more: impl AsyncFnOnce(&Stack) -> Vec<(&'static str, String)>) -> Self {
        Self::open_at(|_| (), more).await
    }

    /// With a proxy between the door and its nats-server.
    async fn open_behind_a_proxy() -> (Self, Proxy) {
        let (tell, told) = tokio::sync::oneshot::channel();
        let doors = Self::open_with(async |stack| {
            let proxy = Proxy::start(&stack.nats.url()).await;
            let url = stack.nats.users().unwrap().url(&proxy.url(), User::Door);
            assert!(tell.send(proxy).is_ok());
            vec![("EZOUT_NATS_DOOR_URL", url)]
        })
        .await;
        (doors, told.await.unwrap())
    }

    /// At another nats-server than usual.
    async fn open_at(
        adjust: impl FnOnce(&mut NatsOptions),
        more: impl AsyncFnOnce(&Stack) -> Vec<(&'static str, String)>,
    ) -> Self {
        let websocket = free_port().unwrap();
        let stack = Stack::start_with_users(|nats| {
            nats.websocket_port = Some(websocket);
            adjust(nats);
        })
        .await;
        let keys = stack.folder().join("keys");
        let (url, seed) = (stack.nats.url_of(User::Door), stack.nats.users().unwrap().issuer_seed());
        let mut environment = vec![
            ("EZOUT_AUTH", "dev".to_owned()),
            ("EZOUT_AUTH_DEV_KEYS", keys.to_str().unwrap().to_owned()),
            ("EZOUT_NATS_DOOR_URL", url),
            ("EZOUT_NATS_ISSUER_SEED", seed),
        ];
        environment.extend(more(&stack).await);
        let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, &**value)).collect();
        let service = stack.service_with("serve", &environment).await;
        Self {
            stack,
            service,
            keys,
            websocket,
        }
    }

    fn token(&self, subject: &str, role: &str, shops: &[&str], lasts: Duration) -> String {
        let grant = Grant {
            subject: subject.to_owned(),
            role: Some(role.to_owned()),
            shops: shops.iter().map(|shop| (*shop).to_owned()).collect(),
            shopper_id: None,
            lasts,
        };
        dev::sign(&self.keys, &grant, OffsetDateTime::now_utc()).unwrap()
    }

    fn merchant(&self, subject: &str, shops: &[&str]) -> String {
        self.token(subject, "merchant", shops, Duration::from_mins(10))
    }

    /// Whether somebody with this token comes in.
    async fn lets_in(&self, token: &str) -> bool {
        let connected = ConnectOptions::new()
            .token(token.to_owned())
            .connect(self.stack.nats.url());
        connected.await.is_ok()
    }

    /// Somebody who came in; the service may know members and revocations a moment later than it is ready.
    async fn watcher(&self, token: &str) -> Watcher {
        wait_for("the watcher to be let in", async || {
            Watcher::connect(&self.stack, token).await
        })
        .await
    }

    async fn happens(&self, shop: &str) {
        let sender = self.token(SENDER, "service", &["*"], Duration::from_mins(10));
        let answer = reqwest::Client::new()
            .post(format!("{}/publish/{shop}", self.service.http_url()))
            .bearer_auth(sender)
            .json(&event(shop, &session(), 1, "ADD", 1, 2.5, 2.5))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
    }

    async fn ended(&self) -> f64 {
        self.service
            .metric("ezout_revocation_seconds_count{door=\"nats\"}")
            .await
            .unwrap_or_default()
    }
}

struct Watcher {
    client: Client,
    complaints: mpsc::Receiver<String>,
    lost: watch::Receiver<bool>,
}

impl Watcher {
    async fn connect(stack: &Stack, token: &str) -> Option<Self> {
        let (complain, complaints) = mpsc::channel(1_024);
        let (lose, lost) = watch::channel(false);
        let client = ConnectOptions::new()
            .token(token.to_owned())
            .max_reconnects(1)
            .event_callback(move |event| {
                match event {
                    Event::ServerError(error) => drop(complain.try_send(error.to_string())),
                    Event::Disconnected | Event::Closed => drop(lose.send_replace(true)),
                    _ => {}
                }
                std::future::ready(())
            })
            .connect(stack.nats.url())
            .await
            .ok()?;
        Some(Self {
            client,
            complaints,
            lost,
        })
    }

    async fn subscribe(&self, subject: &str) -> Subscriber {
        let subscriber = self.client.subscribe(subject.to_owned()).await.unwrap();
        self.client.flush().await.unwrap();
        subscriber
    }

    /// Waits until the server has refused something.
    async fn refused(&mut self, what: &str) {
        let expected = format!("Permissions Violation for {what}");
        loop {
            let complaint = tokio::time::timeout(Duration::from_mins(1), self.complaints.recv()).await;
            let complaint = complaint.expect("a complaint").expect("the watcher stays");
            if complaint.contains(&expected) {
                return;
            }
        }
    }

    async fn sent_away(&mut self) {
        self.lost.wait_for(|lost| *lost).await.unwrap();
    }
}

fn shop() -> String {
    uuid::Uuid::new_v4().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_hears_its_shop_and_may_do_nothing_else() {
    let doors = Doors::open().await;
    let (own, other) = (shop(), shop());
    let mut watcher = doors.watcher(&doors.merchant("m", &[&own])).await;
    let mut hears = watcher.subscribe(&format!("updates.store.{own}")).await;

    let others = format!("updates.store.{other}");
    for subject in [
        others.as_str(),
        "updates.store.*",
        "updates.>",
        ">",
        "checkout.>",
        "upd.>",
        "_INBOX.>",
        "event.ezout.>",
        "conn.*.token",
        "$SYS.>",
        "$SYS.REQ.USER.AUTH",
    ] {
        let _silent = watcher.subscribe(subject).await;
        watcher.refused(&format!("Subscription to \"{subject}\"")).await;
    }
    let owns = format!("updates.store.{own}");
    for subject in [
        owns.as_str(),
        "checkout.0.probe",
        "$JS.API.INFO",
        "$JS.API.STREAM.INFO.CHECKOUT",
        "$JS.API.STREAM.DELETE.CHECKOUT",
        "$SYS.REQ.USER.AUTH",
        "_INBOX.probe",
        "whatever",
    ] {
        watcher
            .client
            .publish(subject.to_owned(), "probe".into())
            .await
            .unwrap();
        watcher.client.flush().await.unwrap();
        watcher.refused(&format!("Publish to \"{subject}\"")).await;
    }

    // Of the other shop first, so that what would be heard of it would be heard before.
    let everybody = doors.token("s", "support", &["*"], Duration::from_mins(10));
    let mut all = doors.watcher(&everybody).await.subscribe("updates.store.*").await;
    doors.happens(&other).await;
    assert!(all.next().await.unwrap().subject.ends_with(&other));
    doors.happens(&own).await;
    assert!(all.next().await.unwrap().subject.ends_with(&own));
    let heard = hears.next().await.unwrap();
    assert!(heard.subject.ends_with(&own));
    assert_eq!(doors.service.metric("ezout_nats_watchers").await, Some(2.0));
    drop((watcher, all));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_do_not_count_let_nobody_in() {
    let doors = Doors::open().await;
    let shop = shop();
    let good = doors.merchant("m", &[&shop]);
    drop(doors.watcher(&good).await);

    let later = OffsetDateTime::now_utc() - time::Duration::HOUR;
    let grant = Grant {
        subject: "m".to_owned(),
        role: Some("merchant".to_owned()),
        shops: vec![shop.clone()],
        shopper_id: None,
        lasts: Duration::from_mins(10),
    };
    let expired = dev::sign(&doors.keys, &grant, later).unwrap();
    let stranger = dev::sign(&doors.stack.folder().join("other"), &grant, OffsetDateTime::now_utc()).unwrap();
    let shopper = doors.token("s", "shopper", &[&shop], Duration::from_mins(10));
    let nowhere = doors.merchant("n", &[]);
    let mut forged = good.clone();
    forged.truncate(good.len() - 8);
    forged += "AAAAAAAA";
    for token in [&expired, &stranger, &shopper, &nowhere, &forged, "x", "a.b.c"] {
        assert!(!doors.lets_in(token).await, "{token}");
    }
    let long = "a".repeat(3_000);
    assert!(!doors.lets_in(&long).await);
    assert!(async_nats::connect(doors.stack.nats.url()).await.is_err(), "no token");
    // As the password of whatever user, except one of ours.
    let as_user = async |user: &str| {
        let options = ConnectOptions::new().user_and_password(user.to_owned(), good.clone());
        options.connect(doors.stack.nats.url()).await.is_ok()
    };
    assert!(as_user("whoever").await);
    for user in User::ALL {
        assert!(!as_user(user.name()).await, "{}", user.name());
    }

    let revoked = doors.merchant("r", &[&shop]);
    assert!(doors.lets_in(&revoked).await);
    printed(&doors.stack.ezout(&["revoke", "r"]).await);
    let series = "ezout_refusals_total{reason=\"revoked\"}";
    wait_for("the revocation to be known", async || {
        // The one who was on the way in when it came is sent away and not refused.
        (!doors.lets_in(&revoked).await && doors.service.metric(series).await? >= 1.0).then_some(())
    })
    .await;
    for reason in [
        "expired",
        "unknown_key",
        "role",
        "shop",
        "signature",
        "malformed",
        "no_token",
        "revoked",
    ] {
        let series = format!("ezout_refusals_total{{reason=\"{reason}\"}}");
        assert!(doors.service.metric(&series).await.unwrap() >= 1.0, "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_ends_ends_the_connection() {
    let doors = Doors::open().await;
    let (first, second) = (shop(), shop());

    let mut stays = doors.watcher(&doors.merchant("stays", &[&first])).await;
    let mut revoked = doors.watcher(&doors.merchant("revoked", &[&first, &second])).await;
    printed(&doors.stack.ezout(&["revoke", "revoked"]).await);
    revoked.sent_away().await;

    // A member who is none any more.
    let add = ["member", "add", "added", "--role", "merchant", "--shop", &first];
    printed(&doors.stack.ezout(&add).await);
    let token = doors.merchant("added", &[]);
    let mut member = doors.watcher(&token).await;
    printed(&doors.stack.ezout(&["member", "remove", "added"]).await);
    member.sent_away().await;

    // A token that ends by itself.
    let short = doors.token("short", "merchant", &[&first], Duration::from_secs(3));
    let mut short = doors.watcher(&short).await;
    short.sent_away().await;

    wait_for("the ends to be counted", async || {
        (doors.ended().await >= 2.0).then_some(())
    })
    .await;
    let series = "ezout_access_ends_total{door=\"nats\"}";
    assert_eq!(doors.service.metric(series).await, Some(2.0));
    assert!(!*stays.lost.borrow_and_update(), "nobody else is sent away");
    drop((revoked, member, short));
    let one = async || (doors.service.metric("ezout_nats_watchers").await == Some(1.0)).then_some(());
    wait_for("those who left to be forgotten", one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_server_is_not_answered() {
    let doors = Doors::open().await;
    let token = doors.merchant("m", &[&shop()]);
    drop(doors.watcher(&token).await);
    // None of the users may ask; here the one who listens may, and would hear an answer.
    let settings = doors.stack.folder().join("nats/users.conf");
    let text = std::fs::read_to_string(&settings).unwrap();
    let listens = "publish: [\"$SYS._INBOX.>\", \"$SYS.REQ.SERVER.*.KICK\"]";
    assert!(text.contains(listens), "{text}");
    std::fs::write(&settings, text.replace(listens, "publish: [\">\"]")).unwrap();
    let server = i32::try_from(doors.stack.nats.pid());
    let server = rustix::process::Pid::from_raw(server.unwrap()).unwrap();
    rustix::process::kill_process(server, rustix::process::Signal::HUP).unwrap();

    let door = Address::parse(&doors.stack.nats.url_of(User::Door)).unwrap();
    let unanswered = "somebody who is no server asked who may come in; nobody answers";
    wait_for("the question to be heard", async || {
        // The server may not know the new settings yet.
        let client = door.connect("door").await.ok()?;
        let asking = client.request("$SYS.REQ.USER.AUTH", "{}".into());
        let answer = tokio::time::timeout(Duration::from_millis(500), asking).await;
        assert!(answer.is_err() || answer.is_ok_and(|answer| answer.is_err()));
        let log = std::fs::read_to_string(&doors.service.log).unwrap();
        log.contains(unanswered).then_some(())
    })
    .await;
    drop(doors.watcher(&token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_hears_its_shop_by_websocket_and_nothing_else() {
    let doors = Doors::open().await;
    let (own, other) = (shop(), shop());
    let token = doors.merchant("browser", &[&own]);
    drop(doors.watcher(&token).await);

    let url = format!("ws://127.0.0.1:{}/", doors.websocket);
    let (mut socket, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
    let options = json!({"verbose": false, "pedantic": false, "auth_token": token, "protocol": 1});
    let lines = format!("CONNECT {options}\r\nSUB updates.store.{own} 1\r\nSUB updates.store.{other} 2\r\nPING\r\n");
    socket.send(Message::binary(lines.into_bytes())).await.unwrap();
    let mut heard = String::new();
    let mut hear = async |part: &str| {
        while !heard.contains(part) {
            let frame = socket.next().await.unwrap().unwrap();
            heard += &String::from_utf8_lossy(&frame.into_data());
        }
        heard.clone()
    };
    let said = hear("PONG").await;
    assert!(
        said.contains(&format!(
            "Permissions Violation for Subscription to \"updates.store.{other}\""
        )),
        "{said}"
    );
    doors.happens(&other).await;
    doors.happens(&own).await;
    let said = hear(&format!("MSG updates.store.{own} 1 ")).await;
    assert!(!said.contains(&format!("MSG updates.store.{other}")), "{said}");
    printed(&doors.stack.ezout(&["revoke", "browser"]).await);
    while let Some(Ok(_)) = socket.next().await {}
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_door_misses_while_it_is_cut_off_is_made_up_for() {
    let (doors, proxy) = Doors::open_behind_a_proxy().await;
    let shop = shop();
    let mut revoked = doors.watcher(&doors.merchant("revoked", &[&shop])).await;
    let short = doors.token("short", "merchant", &[&shop], Duration::from_secs(4));
    let mut short = doors.watcher(&short).await;
    assert_eq!(doors.service.metric("ezout_nats_watchers").await, Some(2.0));

    proxy.cut();
    printed(&doors.stack.ezout(&["revoke", "revoked"]).await);
    // One leaves and nobody hears of it; the other stays, however often its end is asked for.
    short.sent_away().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!*revoked.lost.borrow_and_update());
    assert!(doors.ended().await < 1.0);
    proxy.mend();
    revoked.sent_away().await;
    wait_for("the end to be counted", async || {
        (doors.ended().await >= 1.0).then_some(())
    })
    .await;
    wait_for("everybody to be forgotten", async || {
        (doors.service.metric("ezout_nats_watchers").await == Some(0.0)).then_some(())
    })
    .await;
    let series = "ezout_access_ends_total{door=\"nats\"}";
    assert_eq!(doors.service.metric(series).await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_does_not_answer_keeps_nobody_waiting_at_the_door() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let issuer = Issuer::start(Behaviour::Stalls).await;
    let url = issuer.keys_url();
    let doors = Doors::open_with(async |_| {
        vec![
            ("EZOUT_AUTH", "firebase".to_owned()),
            ("EZOUT_AUTH_PROJECT", "shop-app".to_owned()),
            ("EZOUT_AUTH_KEYS_URL", url),
        ]
    })
    .await;
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let (header, claims) = (json!({ "alg": "RS256", "kid": "one" }), json!({ "sub": "ada" }));
    let token = format!("{}.{}.{}", part(header), part(claims), URL_SAFE_NO_PAD.encode([7; 256]));
    // The fetch of the keys goes on for 10 s; the server gives up after 2 s, and is answered before.
    let series = "ezout_refusals_total{reason=\"unavailable\"}";
    wait_for("the door to say that nobody can tell", async || {
        assert!(!doors.lets_in(&token).await);
        (doors.service.metric(series).await? >= 1.0).then_some(())
    })
    .await;
    let log = std::fs::read_to_string(doors.stack.nats.log()).unwrap();
    assert!(log.contains("unavailable"), "the server does not know why: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_let_in_and_did_not_come_is_forgotten() {
    let doors = Doors::open().await;
    let shop = shop();
    let mut stays = doors.watcher(&doors.merchant("stays", &[&shop])).await;
    // The server asks a process that sleeps, and has given up when it is answered.
    doors.service.signal(rustix::process::Signal::STOP);
    let is_in = doors.lets_in(&doors.merchant("late", &[&shop])).await;
    doors.service.signal(rustix::process::Signal::CONT);
    assert!(!is_in);
    for watchers in [2.0, 1.0] {
        wait_for(&format!("{watchers} watchers"), async || {
            (doors.service.metric("ezout_nats_watchers").await == Some(watchers)).then_some(())
        })
        .await;
    }
    assert!(!*stays.lost.borrow_and_update(), "who came in stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_caller_has_no_more_connections_than_it_may() {
    let doors = Doors::open_with(async |_| vec![("EZOUT_VIEWERS_PER_CALLER", "2".to_owned())]).await;
    let shop = shop();
    let ada = || doors.merchant("ada", &[&shop]);
    let first = doors.watcher(&ada()).await;
    let _second = doors.watcher(&ada()).await;
    let series = "ezout_limited_places_total{place=\"watcher\"}";
    let before = doors.service.metric(series).await.unwrap();
    assert!(!doors.lets_in(&ada()).await);
    assert!(doors.service.metric(series).await.unwrap() > before);
    assert!(doors.lets_in(&doors.merchant("bob", &[&shop])).await);
    drop(first);
    let _third = doors.watcher(&ada()).await;
}

/// A shop with something in it: its updates are there to be heard.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_keeps_nobodys_place() {
    let one = async |_: &Stack| vec![("EZOUT_VIEWERS_PER_CALLER", "1".to_owned())];
    let mut doors = Doors::open_with(one).await;
    let shop = shop();
    let token = doors.merchant("m", &[&shop]);
    let before = doors.watcher(&token).await;
    // So the streams are there for good.
    let mut updates = before.subscribe(&format!("updates.store.{shop}")).await;
    doors.happens(&shop).await;
    updates.next().await.unwrap();
    assert!(!doors.lets_in(&token).await, "one is all that they may have");
    doors.stack.nats.kill().await;
    drop(before);
    doors.stack.nats.restart().await.unwrap();
    drop(doors.watcher(&token).await);
}

async fn with_updates(doors: &Doors) -> String {
    let shop = shop();
    doors.happens(&shop).await;
    shop
}

#[tokio::test(flavor = "multi_thread")]
async fn every_caller_at_the_door_of_nats_gets_what_the_policy_says() {
    let doors = Doors::open().await;
    // The service knows members and revocations from here on.
    drop(doors.watcher(&doors.merchant("first", &[&shop()])).await);
    let (own, other, nowhere) = (with_updates(&doors).await, with_updates(&doors).await, shop());
    let mut rows = 0;
    for role in Role::ALL {
        for (given, shops) in [
            (vec![own.as_str()], Shops::Only([ShopId::parse(&own).unwrap()].into())),
            (vec!["*"], Shops::All),
            (Vec::new(), Shops::NONE),
        ] {
            let who = format!("{role} of {given:?}");
            let token = doors.token(&who, role.word(), &given, Duration::from_mins(10));
            // A shopper without shops may append in all, and look in none.
            let caller = Caller {
                role,
                shops,
                shopper: None,
            };
            let comes_in = role.may(Verb::Look) && caller.shops != Shops::NONE;
            let mut watcher = Watcher::connect(&doors.stack, &token).await;
            assert_eq!(watcher.is_some(), comes_in, "{who}");
            rows += 1;
            let Some(watcher) = &mut watcher else { continue };
            for shop in [&own, &other, &nowhere] {
                let subject = format!("updates.store.{shop}");
                let _hears = watcher.subscribe(&subject).await;
                let object = Object::Shop(ShopId::parse(shop).unwrap());
                rows += 1;
                match policy::decide(&caller, Verb::Look, object) {
                    // What is refused is refused before the flush is answered.
                    Ok(()) => assert!(watcher.complaints.try_recv().is_err(), "{who} at {shop}"),
                    Err(Denied::Shop) => watcher.refused(&format!("Subscription to \"{subject}\"")).await,
                    Err(denied) => panic!("{who} has come in: {denied}"),
                }
                // Nobody tells anything here, whatever they may hear.
                watcher.client.publish(subject.clone(), "probe".into()).await.unwrap();
                watcher.client.flush().await.unwrap();
                watcher.refused(&format!("Publish to \"{subject}\"")).await;
                rows += 1;
            }
        }
    }
    eprintln!("the matrix of the door of NATS has {rows} rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_of_somebody_else_is_refused_in_the_words_of_one_that_there_is_not() {
    let doors = Doors::open().await;
    let own = shop();
    let mut watcher = doors.watcher(&doors.merchant("m", &[&own])).await;
    let (other, nowhere) = (with_updates(&doors).await, shop());
    let mut said = Vec::new();
    for shop in [&other, &nowhere] {
        let _hears = watcher.subscribe(&format!("updates.store.{shop}")).await;
        let complaint = watcher.complaints.recv().await.unwrap();
        assert!(complaint.contains(shop.as_str()), "{complaint}");
        said.push(complaint.replace(shop.as_str(), "?"));
    }
    assert_eq!(said[0], said[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_watchers_as_there_may_be_leave_room_for_the_parts() {
    let doors = Doors::open_at(|nats| nats.watchers_max = Some(2), async |_| Vec::new()).await;
    let shop = shop();
    let first = doors.watcher(&doors.merchant("first", &[&shop])).await;
    let mut second = doors.watcher(&doors.merchant("second", &[&shop])).await;
    assert!(!doors.lets_in(&doors.merchant("third", &[&shop])).await);
    for user in User::ALL {
        let address = Address::parse(&doors.stack.nats.url_of(user)).unwrap();
        assert!(address.connect("part").await.is_ok(), "{}", user.name());
    }
    assert!(!*second.lost.borrow_and_update(), "who was there stays");
    drop(first);
    drop(doors.watcher(&doors.merchant("third", &[&shop])).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_keys_that_nobody_knows_keep_those_of_known_ones_from_nothing() {
    const STRANGERS: usize = 400;
    let issuer = Issuer::start(Behaviour::Status(500)).await;
    let (signer, stranger) = (Signer::new("known"), Signer::new("unknown"));
    issuer.behave(signer.published());
    let options = issuer.options();
    let doors = Doors::open_with(async |_| options).await;
    let shop = shop();
    let claims = |subject: &str| {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        json!({
            "iss": issuer.url(), "aud": "ezout", "sub": subject, "iat": now, "exp": now + 600,
            "role": "merchant", "shops": [shop],
        })
    };
    drop(doors.watcher(&signer.sign(&claims("first"))).await);

    // From now on a fetch of the keys takes as long as one may.
    issuer.behave(Behaviour::Stalls);
    let fetches = issuer.fetches();
    let url = doors.stack.nats.url();
    let strangers = (0..STRANGERS).map(|number| {
        let (url, token) = (url.clone(), stranger.sign(&claims(&format!("stranger {number}"))));
        tokio::spawn(async move { ConnectOptions::new().token(token).connect(url).await.is_ok() })
    });
    let strangers: Vec<_> = strangers.collect();
    wait_for("the fetch", async || (issuer.fetches() > fetches).then_some(())).await;
    // They wait for it, and those who were not asked about yet are in front of this one.
    for number in 0..5 {
        let token = signer.sign(&claims(&format!("known {number}")));
        assert!(
            doors.lets_in(&token).await,
            "somebody with a known key was kept waiting"
        );
    }
    for stranger in strangers {
        assert!(!stranger.await.unwrap());
    }
    let unavailable = "ezout_refusals_total{reason=\"unavailable\"}";
    assert!(doors.service.metric(unavailable).await.unwrap() > 64.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stops_sends_its_watchers_away_and_waits_for_none_that_it_cannot_reach() {
    const WATCHERS: usize = 20;
    for is_cut_off in [false, true] {
        let (mut doors, proxy) = Doors::open_behind_a_proxy().await;
        let shop = shop();
        let mut watchers = Vec::new();
        for number in 0..WATCHERS {
            let token = doors.merchant(&format!("watcher {number}"), &[&shop]);
            watchers.push(doors.watcher(&token).await);
        }
        if is_cut_off {
            proxy.cut();
        }
        assert!(doors.service.stop().await.success());
        for watcher in &mut watchers {
            if is_cut_off {
                assert!(!*watcher.lost.borrow_and_update(), "who could have ended it?");
            } else {
                watcher.sent_away().await;
            }
        }
    }
}
