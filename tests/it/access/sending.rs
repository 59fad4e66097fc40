//! Whoever appends does so in their own shops, and for themselves.

use ezout::core::policy::Role;
use ezout::keys::dev::Grant;
use serde_json::{Value, json};

use super::guarded::{Guarded, grant};
use crate::support::{event, session};

fn by(shop: &str, shopper: &str, action_id: i64) -> Value {
    let mut added = event(shop, &session(), action_id, "ADD", 1, 1.5, 1.5);
    added["shopper_id"] = json!(shopper);
    added
}

#[tokio::test]
async fn what_is_sent_to_a_shop_of_somebody_else_is_not_recorded() {
    let guarded = Guarded::shared().await;
    let [own, other, missing] = [session(), session(), session()];
    let recorded = event(&other, &session(), 1, "ADD", 1, 1.5, 1.5);
    guarded.admin().publish(&other, &recorded).await;
    let before = guarded.journal_of(&other).await;
    assert_eq!(before.len(), 1);
    for role in [Role::Service, Role::Shopper] {
        let caller = guarded.caller(Some(guarded.token(role, &[&own])));
        let send = async |shop: &str| {
            caller
                .post("/send", &event(shop, &session(), 1, "ADD", 1, 1.5, 1.5))
                .await
        };
        assert_eq!(send(&own).await.status, 200);
        let (foreign, none) = (send(&other).await, send(&missing).await);
        assert_eq!((foreign.status, foreign.code().as_str()), (404, "not_found"));
        assert_eq!(foreign.whole(), none.whole());
        // The same event that is there is answered as any other.
        let again = caller.post("/send", &recorded).await;
        assert_eq!(again.whole(), none.whole());
        // The path is theirs, the body is not.
        let added = event(&other, &session(), 1, "ADD", 1, 1.5, 1.5);
        let got = caller.publish(&own, &added).await;
        assert_eq!((got.status, got.code().as_str()), (422, "shop_mismatch"));
        let lines = [event(&own, &session(), 1, "ADD", 1, 1.5, 1.5), added];
        let got = caller.post_lines(&format!("/v1/shops/{own}/events"), &lines).await;
        let verdicts: Vec<Value> = got
            .text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(
            (&verdicts[0]["status"], &verdicts[1]["code"]),
            (&json!("recorded"), &json!("shop_mismatch"))
        );
    }
    assert_eq!(guarded.journal_of(&other).await, before);
    assert_eq!(guarded.journal_of(&missing).await.len(), 0);
    assert_eq!(guarded.journal_of(&own).await.len(), 4);
}

#[tokio::test]
async fn a_shopper_whose_token_says_who_they_are_sends_for_nobody_else() {
    let guarded = Guarded::shared().await;
    let [shop, me, you] = [session(), session(), session()];
    let named = |role, shops: &[&str]| {
        guarded.sign(&Grant {
            shopper_id: Some(me.clone()),
            ..grant("me", role, shops)
        })
    };
    let events = format!("/v1/shops/{shop}/events");
    let mut recorded = 0;
    for token in [
        named(None, &[]),
        named(Some(Role::Shopper), &[&shop]),
        named(Some(Role::Service), &[&shop]),
    ] {
        let caller = guarded.caller(Some(token));
        for path in ["/send", &format!("/publish/{shop}"), &events] {
            let got = caller.post(path, &by(&shop, &you, 1)).await;
            assert_eq!((got.status, got.code().as_str()), (403, "forbidden"), "{path}");
            let got = caller.post(path, &by(&shop, &me, 1)).await;
            assert!([200, 201].contains(&got.status), "{path}: {got:?}");
            recorded += 1;
        }
        // Each line for itself.
        let lines = [
            by(&shop, &me, 1),
            by(&shop, &you, 2),
            by(&shop, &me, 3),
            by(&shop, &you, 4),
        ];
        let got = caller.post_lines(&events, &lines).await;
        assert_eq!(got.status, 200, "{got:?}");
        let verdicts: Vec<Value> = got
            .text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let told: Vec<(&str, Option<&str>)> = verdicts
            .iter()
            .map(|verdict| (verdict["status"].as_str().unwrap(), verdict["code"].as_str()))
            .collect();
        let refused = ("refused", Some("forbidden"));
        assert_eq!(told, [("recorded", None), refused, ("recorded", None), refused]);
        recorded += 2;
    }
    let journal = guarded.journal_of(&shop).await;
    assert_eq!(journal.len(), recorded);
    for event in journal {
        assert!(event.contains(&me) && !event.contains(&you), "{event}");
    }
}
