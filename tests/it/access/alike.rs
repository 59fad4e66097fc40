//! What is somebody else's is answered with the same bytes as what does not exist, and causes the same work, so there is
//! nothing that takes longer.

use std::collections::BTreeMap;

use ezout::core::policy::{Role, Verb};
use ezout::http::{self, Door};
use ezout::present;
use futures::TryStreamExt as _;
use mongodb::Database;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use super::guarded::{Got, Guarded, Stocked};
use super::matrix::{params, request, resource};
use super::resources::ask;
use crate::support::gateway::Gateway;
use crate::support::{heard, session, wait_for};

/// Room for everything that MongoDB is asked meanwhile, in bytes.
const PROFILE_BYTES: i64 = 256 * 1024 * 1024;

/// Has MongoDB note each thing that it is asked from now on.
async fn note_all(database: &Database) {
    for command in [
        doc! { "create": "system.profile", "capped": true, "size": PROFILE_BYTES },
        doc! { "profile": 2 },
    ] {
        database.run_command(command).await.unwrap();
    }
}

impl Stocked {
    /// What whoever asks for it has to name, or one of these.
    fn names(&self) -> [&str; 4] {
        [&self.shop, &self.session, &self.correction, &self.shopper]
    }

    /// A text without what is this one's only.
    fn hidden_in(&self, text: &str) -> String {
        self.names()
            .iter()
            .fold(text.to_owned(), |text, name| text.replace(name, "?"))
    }

    /// A shop that there is not.
    fn nowhere() -> Self {
        Self {
            shop: session(),
            session: session(),
            shopper: session(),
            product: session(),
            correction: session(),
        }
    }
}

/// What MongoDB was asked that names this, and how often, but for what was noted in the audit. It notes each thing before it answers.
async fn asked_of_mongodb(database: &Database, of: &Stocked) -> BTreeMap<String, usize> {
    let profile = database.collection::<Document>("system.profile");
    let all: Vec<Document> = profile.find(doc! {}).await.unwrap().try_collect().await.unwrap();
    let mut asked = BTreeMap::new();
    for entry in all {
        let place = entry.get_str("ns").unwrap();
        let text = entry.to_string();
        if place.ends_with(".system.profile") || !of.names().iter().any(|name| text.contains(name)) {
            continue;
        }
        // It is noted by a pipeline of no collection, and beside the answer.
        let is_audit = place == "ezout.audit" || place.ends_with(".$cmd.aggregate") && text.contains("\"audit\"");
        if !is_audit {
            *asked.entry(place.to_owned()).or_default() += 1;
        }
    }
    asked
}

/// The subjects of what was said at NATS until now that names this, and how often.
async fn said_at_nats(nats: &async_nats::Client, all: &mut async_nats::Subscriber, of: &Stocked) -> Vec<String> {
    const END: &str = "test.end";
    nats.publish(END, "".into()).await.unwrap();
    let mut subjects = Vec::new();
    loop {
        let message = heard(all).await;
        if message.subject.as_str() == END {
            break;
        }
        let payload = String::from_utf8_lossy(&message.payload);
        let text = format!("{} {payload}", message.subject);
        if of.names().iter().any(|name| text.contains(name)) {
            subjects.push(of.hidden_in(message.subject.as_str()));
        }
    }
    subjects.sort();
    subjects
}

/// How often it was noted that somebody was refused.
async fn noted(database: &Database, who: &str) -> usize {
    let audit = database.collection::<Document>("audit");
    let count = audit.count_documents(doc! { "who": who }).await.unwrap();
    usize::try_from(count).unwrap()
}

/// Every route about a shop, asked by somebody of another one; the answers, and how many verbs were refused.
async fn ask_every_route(guarded: &Guarded, who: &str, own: &Stocked, of: &Stocked) -> (Vec<String>, usize) {
    let caller = guarded.caller(Some(guarded.token_of(who, Role::Admin, &[&own.shop])));
    let (mut answers, mut verbs) = (Vec::new(), Vec::<Verb>::new());
    for (method, path, door) in http::doors() {
        let (Door::Shop(verb) | Door::Body(verb)) = door else {
            continue;
        };
        let asked = request(&method, &path, &of.shop, of, 1).expect("the matrix knows each route");
        let asking = caller.request(method.clone(), &asked.path);
        let got = Got::of(match &asked.body {
            Some(body) => asking.json(body),
            None => asking,
        })
        .await;
        assert_eq!(got.status, 404, "{method} {path}: {got:?}");
        answers.push(of.hidden_in(&format!("{method} {path} {:?}", got.whole())));
        if !verbs.contains(&verb) {
            verbs.push(verb);
        }
    }
    (answers, verbs.len())
}

/// Whether somebody of another shop may see every resource of a shop and call every method, as a gateway asks for them.
/// What a resource is it asks without saying for whom, and lets nobody see who may not.
async fn ask_every_access(guarded: &Guarded, who: &str, own: &Stocked, of: &Stocked) -> (Vec<String>, usize) {
    let token = guarded.token_of(who, Role::Admin, &[&own.shop]);
    let gateway = Gateway::connect(&guarded.stack.nats.url()).await;
    gateway
        .auth("ezout.auth", "jwt", json!({ "jwt": token }))
        .await
        .unwrap();
    let nats = guarded.stack.nats_client().await;
    let (mut answers, mut verbs) = (Vec::new(), vec![Verb::Look]);
    let mut asked = Vec::new();
    for (word, methods) in present::resources() {
        let (rest, _) = resource(word, of).expect("the matrix knows each resource");
        let name = format!("ezout.shop.{}.{rest}", of.shop);
        asked.push((format!("access.{name}"), Value::Null));
        for (method, verb) in methods {
            let params = params(word, method, 1).expect("the matrix knows each method");
            asked.push((format!("call.{name}.{method}"), params));
            if !verbs.contains(verb) {
                verbs.push(*verb);
            }
        }
    }
    for (subject, params) in asked {
        let request = json!({ "token": gateway.token(), "cid": "dc2cmhlqmd2tgi8lv8rg", "params": params });
        let answer = ask(&nats, subject.clone(), &request).await;
        assert_eq!(answer["error"]["code"], "system.notFound", "{subject}: {answer}");
        answers.push(of.hidden_in(&format!("{subject} {answer}")));
    }
    (answers, verbs.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_somebody_elses_is_answered_by_the_same_work_as_what_does_not_exist() {
    let guarded = Guarded::start().await;
    let database = guarded.stack.database().await;
    let own = guarded.shop_with(&session(), "own").await;
    let other = guarded.shop_with(&session(), "foreign").await;
    let nowhere = Stocked::nowhere();
    // What is still to be done about the other shop is done.
    let open = format!("/v1/shops/{}/summary", other.shop);
    guarded.admin().get(&open).await;

    note_all(&database).await;
    let nats = guarded.stack.nats_client().await;
    let mut all = nats.subscribe(">").await.unwrap();
    nats.flush().await.unwrap();

    // What is found shows that work would be seen.
    let basket = format!("/v1/shops/{}/sessions/{}/basket", own.shop, own.session);
    assert_eq!(guarded.admin().get(&basket).await.status, 200);
    let asked = asked_of_mongodb(&database, &own).await;
    assert!(asked.keys().any(|what| what.ends_with(".baskets")), "{asked:?}");

    let (mut by_http, mut by_res, mut people) = (Vec::new(), Vec::new(), Vec::new());
    for of in [&other, &nowhere] {
        let who = session();
        let (answers, verbs) = ask_every_route(&guarded, &who, &own, of).await;
        let said = said_at_nats(&nats, &mut all, of).await;
        assert!(
            said.is_empty(),
            "a request that was refused was heard of at NATS: {said:?}"
        );
        by_http.push(answers);
        people.push((who, verbs));
    }
    for of in [&other, &nowhere] {
        let who = session();
        let (answers, verbs) = ask_every_access(&guarded, &who, &own, of).await;
        let said = said_at_nats(&nats, &mut all, of).await;
        // Each question, and nothing that it caused.
        assert_eq!(said.len(), answers.len(), "{said:?}");
        by_res.push((answers, said));
        people.push((who, verbs));
    }
    assert_eq!(by_http[0], by_http[1]);
    assert_eq!(by_res[0], by_res[1]);
    // Each was noted once for each verb, and that is all.
    for (who, verbs) in &people {
        wait_for("what was refused to be noted", async || {
            (noted(&database, who).await >= *verbs).then_some(())
        })
        .await;
    }
    for (who, verbs) in &people {
        assert_eq!(noted(&database, who).await, *verbs);
    }
    for of in [&other, &nowhere] {
        let asked = asked_of_mongodb(&database, of).await;
        assert!(asked.is_empty(), "{asked:?}");
    }
    let (routes, others) = (by_http[0].len(), by_res[0].0.len());
    eprintln!("{routes} routes, and {others} accesses and calls, are answered alike and without a question to a store");
}
