//! Edits of baskets by hand in MongoDB: each is one correction or one rejection, and the basket is healed.

mod chaos;
pub mod editor;
mod healing;
mod lost;
mod many;
pub mod proof;
pub mod shoppers;

use mongodb::Collection;
use mongodb::bson::{Bson, Decimal128, Document, doc};
use serde_json::{Value, json};

use crate::support::{Service, Stack, document, event, session, wait_for};

/// Waits until somebody follows the edits.
pub async fn followed(stack: &Stack) {
    let feeds = stack.database().await.collection::<Document>("feeds");
    wait_for("edits to be followed", async || {
        feeds
            .find_one(doc! { "_id": "edits", "token": { "$ne": null } })
            .await
            .unwrap()
    })
    .await;
}

struct Shop {
    stack: Stack,
    service: Service,
    name: String,
    baskets: Collection<Document>,
    corrections: Collection<Document>,
}

impl Shop {
    async fn open(environment: &[(&str, &str)]) -> Self {
        let stack = Stack::start().await;
        let mut all = vec![("EZOUT_EDITS_PER_MINUTE", "60")];
        all.extend(environment);
        let service = stack.service_with("serve", &all).await;
        followed(&stack).await;
        let database = stack.database().await;
        Self {
            name: session(),
            baskets: database.collection("baskets"),
            corrections: database.collection("corrections"),
            stack,
            service,
        }
    }

    /// A visit: three pieces of product 5 at 3.50 and one of product 6 at 2.
    async fn visit(&self) -> String {
        let session = session();
        let mut apples = event(&self.name, &session, 1, "ADD", 5, 3.5, 10.5);
        apples["quantity"] = json!(3);
        let pears = event(&self.name, &session, 2, "ADD", 6, 2.0, 12.5);
        let mut last = 0;
        for event in [apples, pears] {
            let answer = self.service.publish(&self.name, &event).await;
            assert_eq!(answer.status(), 200);
            last = answer.headers()["ezout-sequence"].to_str().unwrap().parse().unwrap();
        }
        self.service.basket(&self.name, &session, last).await;
        session
    }

    fn id(&self, session: &str) -> Document {
        doc! { "_id": format!("{}.{session}", self.name) }
    }

    async fn edit(&self, session: &str, update: Document) {
        let updated = self.baskets.update_one(self.id(session), update).await.unwrap();
        assert_eq!(updated.modified_count, 1);
    }

    /// What became of the edits of a session, once there are so many.
    async fn outcomes(&self, session: &str, count: usize) -> Vec<Document> {
        use futures::TryStreamExt as _;
        let basket = format!("{}.{session}", self.name);
        wait_for(&format!("{count} edits to be taken"), async || {
            let found = self
                .corrections
                .find(doc! { "basket": &basket })
                .sort(doc! { "created_at": 1 });
            let found: Vec<Document> = found.await.unwrap().try_collect().await.unwrap();
            (found.len() >= count).then_some(found)
        })
        .await
    }

    /// The basket, once its document is exactly what the journal says.
    async fn healed(&self, session: &str) -> Value {
        let path = format!(
            "{}/v1/shops/{}/sessions/{session}/basket",
            self.service.http_url(),
            self.name
        );
        wait_for("the basket to be healed", async || {
            let printed = self
                .stack
                .ezout(&["rebuild", "--session", &format!("{}.{session}", self.name)])
                .await;
            let text = String::from_utf8_lossy(&printed.stdout).into_owned();
            text.contains("1 baskets equal, 0 not").then_some(())
        })
        .await;
        reqwest::get(path).await.unwrap().json().await.unwrap()
    }

    async fn events(&self, session: &str) -> Vec<Value> {
        let path = format!(
            "{}/v1/shops/{}/sessions/{session}/events",
            self.service.http_url(),
            self.name
        );
        let history: Value = reqwest::get(path).await.unwrap().json().await.unwrap();
        history["events"].as_array().unwrap().clone()
    }
}

fn decimal(text: &str) -> Decimal128 {
    text.parse().unwrap()
}

#[tokio::test]
async fn an_edit_of_what_may_be_edited_becomes_one_correction() {
    let shop = Shop::open(&[]).await;
    let session = shop.visit().await;
    shop.edit(&session, doc! { "$set": { "lines.0.quantity": 2 } }).await;
    let outcomes = shop.outcomes(&session, 1).await;
    assert_eq!(outcomes[0].get_str("state").unwrap(), "published", "{outcomes:?}");
    let basket = shop.healed(&session).await;
    assert_eq!(
        (
            &basket["lines"][0]["quantity"],
            &basket["total"],
            &basket["corrections"][0]["author"]
        ),
        (&json!(2), &json!(9.0), &json!("database")),
        "{basket}"
    );
    assert_eq!(
        basket["corrections"][0]["changes"],
        json!([{ "kind": "pieces", "product_id": 5, "price": 3.5, "by": -1 }])
    );

    // A price, the total, the status and a line, as an editor does them.
    shop.edit(&session, doc! { "$set": { "lines.0.prices.0.price": 3.0 } })
        .await;
    shop.outcomes(&session, 2).await;
    assert_eq!(shop.healed(&session).await["total"], json!(8.0));
    shop.edit(&session, doc! { "$set": { "total": decimal("7.5") } }).await;
    shop.outcomes(&session, 3).await;
    let basket = shop.healed(&session).await;
    assert_eq!((&basket["total"], &basket["adjustment"]), (&json!(7.5), &json!(-0.5)));
    shop.edit(&session, doc! { "$pop": { "lines": 1 } }).await;
    shop.outcomes(&session, 4).await;
    let basket = shop.healed(&session).await;
    assert_eq!(
        (&basket["total"], basket["lines"].as_array().unwrap().len()),
        (&json!(5.5), 1),
        "{basket}"
    );
    shop.edit(&session, doc! { "$set": { "status": "paid" } }).await;
    shop.outcomes(&session, 5).await;
    assert_eq!(shop.healed(&session).await["status"], "paid");

    let events = shop.events(&session).await;
    assert_eq!(events.len(), 7, "two actions and five corrections, and no echo of them");
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(shop.events(&session).await.len(), 7);
    assert_eq!(shop.outcomes(&session, 5).await.len(), 5);
}

#[tokio::test]
async fn an_edit_of_anything_else_is_rejected_with_the_reason_and_healed() {
    let shop = Shop::open(&[]).await;
    let session = shop.visit().await;
    let before = document(&shop.stack.database().await, &shop.name, &session)
        .await
        .unwrap();
    let code = |outcome: &Document| {
        assert_eq!(outcome.get_str("state").unwrap(), "rejected", "{outcome}");
        outcome
            .get_document("rejection")
            .unwrap()
            .get_str("code")
            .unwrap()
            .to_owned()
    };
    for (number, (update, expected)) in [
        (doc! { "$set": { "note": "hello" } }, "field"),
        (doc! { "$set": { "actions.0.quantity": 9_i64 } }, "field"),
        (doc! { "$unset": { "claimed_total": "" } }, "field"),
        (doc! { "$set": { "lines.0.product_name": "Plums" } }, "line"),
        (doc! { "$set": { "version": 77_i64, "sequence": 99_999_i64 } }, "field"),
        (doc! { "$set": { "lines.0.quantity": -4 } }, "line"),
    ]
    .into_iter()
    .enumerate()
    {
        shop.edit(&session, update).await;
        let outcomes = shop.outcomes(&session, number + 1).await;
        assert_eq!(code(&outcomes[number]), expected);
        shop.healed(&session).await;
    }
    // A whole document, by another one, by none, and one that never was.
    let mut other = before.clone();
    other.insert("note", "replaced");
    shop.baskets.replace_one(shop.id(&session), other).await.unwrap();
    assert_eq!(code(&shop.outcomes(&session, 7).await[6]), "field");
    shop.healed(&session).await;
    shop.baskets.delete_one(shop.id(&session)).await.unwrap();
    assert_eq!(code(&shop.outcomes(&session, 8).await[7]), "deleted");
    shop.healed(&session).await;
    let fake = session_of_nobody(&before, &shop.name);
    let key = fake.get_str("_id").unwrap().to_owned();
    shop.baskets.insert_one(fake).await.unwrap();
    let name = key.split_once('.').unwrap().1.to_owned();
    assert_eq!(code(&shop.outcomes(&name, 1).await[0]), "inserted");
    wait_for("the fake to go", async || {
        shop.baskets
            .find_one(doc! { "_id": &key })
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;

    let after = document(&shop.stack.database().await, &shop.name, &session)
        .await
        .unwrap();
    let plain = |mut document: Document| {
        document.remove("fence");
        document.remove("seal");
        document
            .into_iter()
            .collect::<std::collections::BTreeMap<String, Bson>>()
    };
    assert_eq!(plain(after), plain(before));
    assert_eq!(shop.events(&session).await.len(), 2);
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(shop.outcomes(&session, 8).await.len(), 8, "healing is no edit");
    assert_eq!(shop.outcomes(&name, 1).await.len(), 1);
}

fn session_of_nobody(like: &Document, shop: &str) -> Document {
    let mut fake = like.clone();
    let session = session();
    fake.insert("_id", format!("{shop}.{session}"));
    fake.insert("session_id", session);
    fake
}

#[tokio::test]
async fn edits_of_one_transaction_are_one_correction_for_each_basket() {
    let shop = Shop::open(&[]).await;
    let (one, other) = (shop.visit().await, shop.visit().await);
    let client = shop.stack.database().await.client().clone();
    let mut transaction = client.start_session().await.unwrap();
    transaction.start_transaction().await.unwrap();
    for (session, update) in [
        (&one, doc! { "$set": { "lines.0.quantity": 2 } }),
        (&one, doc! { "$set": { "lines.0.quantity": 1 } }),
        (&other, doc! { "$set": { "total": decimal("12") } }),
    ] {
        let baskets = client.database("ezout").collection::<Document>("baskets");
        baskets
            .update_one(shop.id(session), update)
            .session(&mut transaction)
            .await
            .unwrap();
    }
    transaction.commit_transaction().await.unwrap();
    shop.outcomes(&one, 1).await;
    shop.outcomes(&other, 1).await;
    assert_eq!(shop.healed(&one).await["total"], json!(5.5));
    assert_eq!(shop.healed(&other).await["total"], json!(12.0));
    for session in [&one, &other] {
        assert_eq!(shop.outcomes(session, 1).await.len(), 1);
        assert_eq!(shop.events(session).await.len(), 3);
    }
}

#[tokio::test]
async fn too_many_edits_of_a_shop_are_taken_no_more_until_a_person_says_so() {
    let shop = Shop::open(&[("EZOUT_EDITS_PER_MINUTE", "3")]).await;
    let sessions = [
        shop.visit().await,
        shop.visit().await,
        shop.visit().await,
        shop.visit().await,
        shop.visit().await,
    ];
    for session in &sessions {
        shop.edit(session, doc! { "$set": { "lines.0.quantity": 1 } }).await;
    }
    for session in &sessions[..3] {
        shop.outcomes(session, 1).await;
    }
    wait_for("the shop to be held", async || {
        let held = shop.service.metric("ezout_held_shops").await?;
        (held > 0.5).then_some(())
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    for session in &sessions[3..] {
        assert!(
            shop.corrections
                .find_one(doc! { "session_id": session })
                .await
                .unwrap()
                .is_none()
        );
    }
    let resumed = shop.stack.ezout(&["corrections", "resume", &shop.name]).await;
    assert!(resumed.status.success(), "{resumed:?}");
    for session in &sessions[3..] {
        let outcomes = shop.outcomes(session, 1).await;
        assert_eq!(outcomes[0].get_str("state").unwrap(), "published");
        assert_eq!(shop.healed(session).await["total"], json!(5.5));
    }
    for session in &sessions {
        assert_eq!(shop.events(session).await.len(), 3);
    }
}

#[tokio::test]
async fn an_edit_that_is_larger_than_an_event_is_rejected_and_those_after_it_are_taken() {
    let shop = Shop::open(&[]).await;
    let (large, other) = (shop.visit().await, shop.visit().await);
    let lots = (0..30_000).map(|number| doc! { "price": decimal(&format!("{number}.5")), "quantity": 1 });
    let lots: Vec<Document> = lots.collect();
    shop.edit(
        &large,
        doc! { "$set": { "lines.0.prices": lots, "lines.0.quantity": 30_000 } },
    )
    .await;
    shop.edit(&other, doc! { "$set": { "lines.0.quantity": 1 } }).await;
    let rejected = &shop.outcomes(&large, 1).await[0];
    let code = rejected.get_document("rejection").unwrap().get_str("code").unwrap();
    assert_eq!(code, "too_large");
    assert_eq!(shop.outcomes(&other, 1).await[0].get_str("state").unwrap(), "published");
    assert_eq!(shop.healed(&large).await["total"], json!(12.5));
}

#[tokio::test]
async fn a_held_shop_is_held_by_whoever_starts_and_let_go_while_nobody_follows() {
    let environment = [("EZOUT_EDITS_PER_MINUTE", "1")];
    let mut shop = Shop::open(&environment).await;
    let sessions = [shop.visit().await, shop.visit().await];
    for session in &sessions {
        shop.edit(session, doc! { "$set": { "lines.0.quantity": 1 } }).await;
    }
    shop.outcomes(&sessions[0], 1).await;
    let held = async |service: &Service| {
        wait_for("the shop to be held", async || {
            let held = service.metric("ezout_held_shops").await?;
            (held > 0.5).then_some(())
        })
        .await;
    };
    held(&shop.service).await;
    shop.service.stop().await;

    // Whoever has lost the place compares all baskets first, but not those.
    let feeds = shop.stack.database().await.collection::<Document>("feeds");
    let lost = doc! { "$unset": { "token": "" } };
    feeds.update_one(doc! { "_id": "edits" }, lost).await.unwrap();
    shop.service = shop.stack.service_with("serve", &environment).await;
    followed(&shop.stack).await;
    held(&shop.service).await;
    let taken = doc! { "session_id": &sessions[1] };
    assert_eq!(shop.corrections.count_documents(taken.clone()).await.unwrap(), 0);
    shop.service.stop().await;

    let resumed = shop.stack.ezout(&["corrections", "resume", &shop.name]).await;
    assert!(resumed.status.success(), "{resumed:?}");
    shop.service = shop.stack.service_with("serve", &environment).await;
    let outcome = &shop.outcomes(&sessions[1], 1).await[0];
    // A process that has just begun may fold the basket anew before it reads the correction.
    let sequence = outcome.get_i64("sequence").unwrap().try_into().unwrap();
    shop.service.basket(&shop.name, &sessions[1], sequence).await;
    assert_eq!(shop.healed(&sessions[1]).await["total"], json!(5.5));
}
