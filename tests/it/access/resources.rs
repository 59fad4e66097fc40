//! Who clients of resources are, from their first token to the end of the last: for a gateway that forgives nothing.

use std::time::Duration;

use ezout::core::policy::Role;
use ezout::keys::dev::Grant;
use ezout::views::Revoked;
use futures::StreamExt as _;
use serde_json::{Value, json};

use super::guarded::{Guarded, Stocked, grant};
use super::matrix::Client;
use crate::support::gateway::Gateway;
use crate::support::{event, session, wait_for};

const LIMITED: &str = "ezout_limited_requests_total{who=\"connection\"}";
/// Long enough to do some things before it ends.
const SOON: Duration = Duration::from_secs(3);

fn code(got: &Result<Value, Value>) -> Option<&str> {
    got.as_ref().err().map(|error| error["code"].as_str().unwrap())
}

fn names(of: &Stocked) -> [String; 3] {
    let name = |rest: &str| format!("ezout.shop.{}.{rest}", of.shop);
    [
        name(&format!("basket.{}", of.session)),
        name("baskets"),
        name("sessions?limit=5"),
    ]
}

/// Somebody with a token of a merchant of this shop that ends soon, subscribed to everything.
async fn viewer<C: Client>(guarded: &Guarded, url: &str, subject: &str, of: &Stocked, lasts: Duration) -> C {
    // On a slow machine the time may be over before the last one.
    wait_for("everything at once", async || {
        let client = C::connect(url).await;
        enter(guarded, &client, subject, of, lasts).await;
        for name in names(of) {
            client.get(&name).await.ok()?;
        }
        Some(client)
    })
    .await
}

async fn enter<C: Client>(guarded: &Guarded, client: &C, subject: &str, of: &Stocked, lasts: Duration) {
    let token = guarded.sign(&Grant {
        lasts,
        ..grant(subject, Some(Role::Merchant), &[&of.shop])
    });
    assert_eq!(client.say("jwt", json!({ "jwt": token })).await, Ok(Value::Null));
}

async fn loses_all<C: Client>(client: &C, of: &Stocked) {
    for name in names(of) {
        let reason = wait_for(&format!("the end of {name}"), async || client.lost(&name)).await;
        assert_eq!(reason, "system.accessDenied", "{name}");
    }
    for name in names(of) {
        assert_eq!(code(&client.get(&name).await), Some("system.accessDenied"));
    }
}

fn has_all<C: Client>(client: &C, of: &Stocked) {
    for name in names(of) {
        assert_eq!(client.lost(&name), None, "{name}");
        assert!(client.sees(&name).is_some(), "{name}");
    }
}

/// Changes the basket, and waits until this client sees it.
async fn follows<C: Client>(guarded: &Guarded, client: &C, of: &Stocked, action_id: i64) {
    let mut added = event(&of.shop, &of.session, action_id, "ADD", 1, 1.5, 1.5);
    added["product_name"] = json!(of.product);
    added["shopper_id"] = json!(of.shopper);
    let sequence = guarded.admin().publish(&of.shop, &added).await.sequence();
    let [basket, ..] = names(of);
    wait_for("the change", async || {
        (client.sees(&basket)?["sequence"].as_u64()? >= sequence).then_some(())
    })
    .await;
}

/// The whole life of tokens at a gateway.
pub(super) async fn from_the_first_token_to_the_last<C: Client>(url: &str) {
    let guarded = Guarded::shared().await;
    let of = guarded.shop_with(&session(), "pears").await;
    let [basket, baskets, _] = names(&of);
    let (ada, bob) = (session(), session());
    let rights = guarded.rights().await;

    // What is no token is nobody's, also of somebody who had come in before.
    let client = C::connect(url).await;
    assert_eq!(code(&client.get(&basket).await), Some("system.accessDenied"));
    for params in [json!({}), json!({ "jwt": 1 }), json!(null), json!("token")] {
        let said = client.say("jwt", params.clone()).await;
        assert_eq!(code(&said), Some("system.invalidParams"), "{params}");
    }
    let said = client.say("jwt", json!({ "jwt": "a.b.c" })).await;
    assert_eq!(code(&said), Some("ezout.invalid_token"));
    assert_eq!(
        code(&client.say("nothing", json!({})).await),
        Some("system.methodNotFound")
    );
    assert_eq!(code(&client.get(&basket).await), Some("system.accessDenied"));
    enter(guarded, &client, &ada, &of, Duration::from_hours(1)).await;
    client.get(&basket).await.unwrap();
    assert!(client.say("jwt", json!({ "jwt": "a.b.c" })).await.is_err());
    wait_for("the end", async || client.lost(&basket)).await;
    drop(client);

    // Two of the same person: one renews, and the time of the other is over, later than that of the first token.
    let client = wait_for("a renewal in time", async || {
        let client = viewer::<C>(guarded, url, &ada, &of, SOON).await;
        enter(guarded, &client, &ada, &of, Duration::from_hours(1)).await;
        // On a slow machine it comes too late.
        names(&of)
            .iter()
            .all(|name| client.lost(name).is_none())
            .then_some(client)
    })
    .await;
    let late = viewer::<C>(guarded, url, &ada, &of, SOON).await;
    let bobs = viewer::<C>(guarded, url, &bob, &of, Duration::from_hours(1)).await;
    loses_all(&late, &of).await;
    follows(guarded, &client, &of, 2).await;
    has_all(&client, &of);
    // And comes in again.
    enter(guarded, &late, &ada, &of, Duration::from_hours(1)).await;
    late.get(&baskets).await.unwrap();

    // Being asked again changes nothing for whoever still may.
    let nats = guarded.stack.nats_client().await;
    let reset = json!({ "tids": [ada, bob], "subject": "auth.ezout.auth.renew" });
    nats.publish("system.tokenReset", reset.to_string().into())
        .await
        .unwrap();
    nats.publish("system.reset", r#"{"access":["ezout.>"]}"#.into())
        .await
        .unwrap();
    nats.flush().await.unwrap();
    follows(guarded, &client, &of, 3).await;
    follows(guarded, &bobs, &of, 4).await;
    has_all(&client, &of);
    has_all(&bobs, &of);

    // Who is revoked is out, with all their connections, and nobody else is.
    rights.revoke(&Revoked::Subject(ada.clone())).await;
    loses_all(&client, &of).await;
    wait_for("the end", async || late.lost(&baskets)).await;
    follows(guarded, &bobs, &of, 5).await;
    has_all(&bobs, &of);

    // Who goes by himself is nobody.
    assert_eq!(bobs.say("logout", Value::Null).await, Ok(Value::Null));
    loses_all(&bobs, &of).await;

    // A right that came from the members alone goes with the membership.
    let carol = session();
    rights.set_member(&carol, Role::Merchant, &[&of.shop]).await;
    let token = guarded.sign(&grant(&carol, None, &[]));
    guarded
        .caller(Some(token.clone()))
        .get_until(&format!("/v1/shops/{}/summary", of.shop))
        .await;
    let carols = C::connect(url).await;
    carols.say("jwt", json!({ "jwt": token })).await.unwrap();
    for name in names(&of) {
        carols.get(&name).await.unwrap();
    }
    assert!(rights.views.remove_member(&carol).await.unwrap());
    loses_all(&carols, &of).await;

    // One token counts no more, and another of the same person does.
    let dave = session();
    let [one, two] = [(), ()].map(|()| guarded.token_of(&dave, Role::Support, &[&of.shop]));
    let (first, second) = (C::connect(url).await, C::connect(url).await);
    for (client, token) in [(&first, &one), (&second, &two)] {
        client.say("jwt", json!({ "jwt": token })).await.unwrap();
        for name in names(&of) {
            client.get(&name).await.unwrap();
        }
    }
    rights.revoke(&Revoked::Token(id_of(&one))).await;
    loses_all(&first, &of).await;
    follows(guarded, &second, &of, 6).await;
    has_all(&second, &of);
    // It does not come back.
    let said = first.say("jwt", json!({ "jwt": one })).await;
    assert_eq!(code(&said), Some("system.accessDenied"));
}

/// The `jti` of a token.
pub(super) fn id_of(token: &str) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    claims["jti"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_client_is_somebody_from_its_first_token_to_the_end_of_the_last() {
    let guarded = Guarded::shared().await;
    from_the_first_token_to_the_last::<Gateway>(&guarded.stack.nats.url()).await;
}

/// Asks a service as a gateway does, and answers what it says in the end.
pub(super) async fn ask(nats: &async_nats::Client, subject: String, request: &Value) -> Value {
    let inbox = nats.new_inbox();
    let mut replies = nats.subscribe(inbox.clone()).await.unwrap();
    let payload = request.to_string().into();
    nats.publish_with_reply(subject, inbox, payload).await.unwrap();
    loop {
        let reply = replies.next().await.unwrap();
        // One that takes longer asks for time first.
        if reply.payload.starts_with(b"{") {
            return serde_json::from_slice(&reply.payload).unwrap();
        }
    }
}

/// A gateway remembers what it was told about an access, so each call is looked at once more.
#[tokio::test]
async fn a_call_is_refused_though_the_gateway_still_believes_in_the_right() {
    let guarded = Guarded::shared().await;
    let (of, subject) = (guarded.shop_with(&session(), "pears").await, session());
    let [basket, ..] = names(&of);
    let gateway: Gateway = viewer(
        guarded,
        &guarded.stack.nats.url(),
        &subject,
        &of,
        Duration::from_hours(1),
    )
    .await;
    let kept = gateway.token();
    assert!(!kept.to_string().contains("eyJ"), "a gateway keeps claims and no token");
    let nats = guarded.stack.nats_client().await;
    let call = async |token: &Value, method: &str, params: Value| {
        let request = json!({ "token": token, "cid": "dc2cmhlqmd2tgi8lv4rg", "params": params });
        ask(&nats, format!("call.{basket}.{method}"), &request).await
    };
    let handle = json!({ "by": "Ada", "instead": true });
    assert_eq!(
        call(&kept, "handle", handle.clone()).await["result"]["handled_by"],
        "Ada"
    );
    // A merchant may not, whatever the gateway believes.
    let correct = json!({ "author": "Ada", "reason": "x", "adjustment": { "by": 1 } });
    assert_eq!(
        call(&kept, "correct", correct.clone()).await["error"]["code"],
        "system.accessDenied"
    );
    // What the gateway gives back is held to the rules again.
    for (name, value) in [("exp", json!(1_000_000_000)), ("role", json!("service"))] {
        let mut other = kept.clone();
        other[name] = value;
        for (method, params) in [("handle", &handle), ("nothing", &json!({}))] {
            let answer = call(&other, method, params.clone()).await;
            assert_eq!(answer["error"]["code"], "system.accessDenied", "{name} {method}");
        }
    }
    for other in [json!({}), json!("x"), json!({ "role": "anybody" }), json!(true)] {
        let answer = call(&other, "handle", handle.clone()).await;
        assert_eq!(answer["error"]["code"], "ezout.invalid_token", "{other}");
    }
    assert_eq!(
        call(&Value::Null, "handle", handle.clone()).await["error"]["code"],
        "system.accessDenied"
    );
    let rights = guarded.rights().await;
    rights.revoke(&Revoked::Subject(subject)).await;
    wait_for("the refusal", async || {
        let answer = call(&kept, "handle", handle.clone()).await;
        (answer["error"]["code"] == "system.accessDenied").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_says_who_it_is_again_and_again_is_told_to_wait_and_the_others_are_not() {
    let guarded = Guarded::shared().await;
    let nats = guarded.stack.nats_client().await;
    let token = guarded.token(Role::Merchant, &[&session()]);
    let (one, other) = ("dc2cmhlqmd2tgi8lv5rg", "dc2cmhlqmd2tgi8lv6rg");
    let auth = async |cid: &str, method: &str| {
        let request = json!({ "token": null, "cid": cid, "params": { "jwt": token } });
        ask(&nats, format!("auth.ezout.auth.{method}"), &request).await
    };
    let before = guarded.service.metric(LIMITED).await.unwrap();
    let mut answers = Vec::new();
    for _ in 0..100 {
        answers.push(auth(one, "jwt").await);
    }
    let limited = answers
        .iter()
        .filter(|answer| answer["error"]["code"] == "ezout.too_many_requests");
    let limited = limited.count();
    assert!((1..=80).contains(&limited), "{limited} of 100 were told to wait");
    assert!(
        answers[..20]
            .iter()
            .all(|answer| answer["result"].is_null() && answer["error"].is_null())
    );
    assert!(guarded.service.metric(LIMITED).await.unwrap() >= before + 1.0);
    // Whoever is asked about is not told to wait, and neither is another connection.
    for (cid, method) in [(one, "renew"), (other, "jwt")] {
        let answer = auth(cid, method).await;
        assert!(answer["error"].is_null(), "{method}: {answer}");
    }
    wait_for("the connection to be heard again", async || {
        auth(one, "logout").await["error"].is_null().then_some(())
    })
    .await;
}

/// The name of a connection becomes part of a subject.
#[tokio::test]
async fn whoever_asks_without_a_connection_is_given_nothing() {
    let guarded = Guarded::shared().await;
    let nats = guarded.stack.nats_client().await;
    let mut given = nats.subscribe("conn.>").await.unwrap();
    nats.flush().await.unwrap();
    let token = guarded.token(Role::Admin, &["*"]);
    for cid in [
        json!(null),
        json!("*"),
        json!(">"),
        json!("a.b"),
        json!("dc2cmhlqmd2tgi8lv4r."),
        json!(7),
    ] {
        let request = json!({ "token": null, "cid": cid, "params": { "jwt": token } }).to_string();
        let answer = nats.request("auth.ezout.auth.jwt", request.into()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert_eq!(answer["error"]["code"], "system.invalidParams", "{cid}");
    }
    // What other tests are given has the names of gateways.
    nats.publish("conn.end", "".into()).await.unwrap();
    while let Some(message) = given.next().await {
        let name = message.subject.as_str();
        if name == "conn.end" {
            break;
        }
        assert_eq!(name.len(), "conn.dc2cmhlqmd2tgi8lv4rg.token".len(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_has_ended_is_counted_once_for_each_connection() {
    const ENDS: &str = "ezout_access_ends_total{door=\"resgate\"}";
    const REVOKED: &str = "ezout_revocation_seconds_count{door=\"resgate\"}";
    let guarded = Guarded::start().await;
    let url = guarded.stack.nats.url();
    let of = guarded.shop_with(&session(), "pears").await;
    let (ada, bob) = (session(), session());
    let hour = Duration::from_hours(1);
    let viewers: [Gateway; 2] = [
        viewer(&guarded, &url, &ada, &of, hour).await,
        viewer(&guarded, &url, &ada, &of, hour).await,
    ];
    let stays: Gateway = viewer(&guarded, &url, &bob, &of, hour).await;
    let kept = viewers[0].token();
    let before = guarded.service.metric(ENDS).await.unwrap();

    let rights = guarded.rights().await;
    rights.revoke(&Revoked::Subject(ada)).await;
    for viewer in &viewers {
        loses_all(viewer, &of).await;
        // And asks for everything once more.
        loses_all(viewer, &of).await;
    }
    // A gateway that was not told asks with what it has.
    let nats = guarded.stack.nats_client().await;
    for name in names(&of) {
        let name = name.split('?').next().unwrap();
        let request = json!({ "token": kept, "cid": "dc2cmhlqmd2tgi8lv7rg" });
        for _ in 0..3 {
            let answer = ask(&nats, format!("access.{name}"), &request).await;
            assert_eq!(answer["error"]["code"], "system.accessDenied", "{answer}");
        }
    }
    has_all(&stays, &of);
    let ends = guarded.service.metric(ENDS).await.unwrap() - before;
    let measured = guarded.service.metric(REVOKED).await;
    assert_eq!((Some(ends), measured), (Some(3.0), Some(3.0)));
}
