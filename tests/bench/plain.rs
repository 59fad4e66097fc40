//! The plain way to build this in Rust: a handler that publishes each event and waits until it is stored, and a durable
//! consumer that writes each into its basket, one by one. It looks for no duplicates and checks nothing.

use std::net::SocketAddr;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{self, stream};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use bson::{Document, doc};
use futures::StreamExt as _;
use mongodb::options::{Acknowledgment, CollectionOptions, WriteConcern};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::apart::{Apart, say_ready};
use crate::events;

/// The stream, and its consumer.
const NAME: &str = "PLAIN";

/// The twelve fields.
#[derive(Deserialize, Serialize)]
struct Sent {
    session_id: String,
    shop_id: String,
    shopper_id: String,
    action_id: i64,
    create_time: String,
    action: String,
    product_name: Option<String>,
    product_id: Option<i64>,
    product_price: Option<f64>,
    #[serde(rename = "UPC")]
    upc: Option<String>,
    category_id: Option<String>,
    basket_total: f64,
}

/// The stream where it is kept; the server syncs as it is configured.
pub(crate) async fn stream(nats_url: &str) -> stream::Stream {
    let client = async_nats::connect(nats_url).await.expect("nats-server listens");
    let config = stream::Config {
        name: NAME.to_owned(),
        subjects: vec!["plain.*".to_owned()],
        ..stream::Config::default()
    };
    jetstream::new(client)
        .get_or_create_stream(config)
        .await
        .expect("the stream is there")
}

/// Serves `POST /publish/{shop_id}` until it is killed.
pub(crate) async fn be_api(address: SocketAddr, nats_url: &str) -> ! {
    stream(nats_url).await;
    let context = jetstream::new(async_nats::connect(nats_url).await.expect("nats-server listens"));
    let router = Router::new()
        .route("/publish/{shop_id}", post(publish))
        .with_state(context);
    let listener = tokio::net::TcpListener::bind(address).await.expect("the port is free");
    say_ready();
    axum::serve(listener, router).await.expect("it serves on");
    unreachable!("it serves until it is killed");
}

async fn publish(
    State(context): State<jetstream::Context>,
    Path(shop_id): Path<String>,
    Json(action): Json<Sent>,
) -> Result<Json<Value>, StatusCode> {
    let body = serde_json::to_vec(&action).map_err(|_| StatusCode::BAD_REQUEST)?;
    let sent = context.publish(format!("plain.{shop_id}"), body.into()).await;
    sent.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?
        .await
        .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    Ok(Json(json!({ "status": format!("Message sent to shop ID {shop_id}") })))
}

/// Writes each event into its basket until it is killed.
pub(crate) async fn be_projector(nats_url: &str, mongodb_uri: &str, database: &str) -> ! {
    let stream = stream(nats_url).await;
    let config = pull::Config {
        durable_name: Some(NAME.to_owned()),
        ack_policy: AckPolicy::Explicit,
        ..pull::Config::default()
    };
    let consumer = stream
        .get_or_create_consumer(NAME, config)
        .await
        .expect("the consumer is there");
    let client = mongodb::Client::with_uri_str(mongodb_uri)
        .await
        .expect("the URI is well formed");
    let durable = WriteConcern::builder()
        .w(Acknowledgment::Majority)
        .journal(true)
        .build();
    let options = CollectionOptions::builder().write_concern(durable).build();
    let baskets = client
        .database(database)
        .collection_with_options::<Document>("plain_baskets", options);
    say_ready();
    let mut messages = consumer.messages().await.expect("the consumer answers");
    while let Some(message) = messages.next().await {
        let message = message.expect("the consumer goes on");
        let action: Sent = serde_json::from_slice(&message.payload).expect("it was read before");
        let price = match action.action.as_str() {
            "ADD" => action.product_price.unwrap_or_default(),
            "REMOVE" => -action.product_price.unwrap_or_default(),
            _ => 0.0,
        };
        let kept = bson::serialize_to_bson(&action).expect("JSON fits");
        let update = doc! {
            "$push": { "actions": kept },
            "$inc": { "version": 1, "total": price },
            "$set": { "claimed_total": action.basket_total },
        };
        let basket = doc! { "_id": &action.session_id };
        baskets
            .update_one(basket, update)
            .upsert(true)
            .await
            .expect("mongod writes");
        message.ack().await.expect("nats-server listens");
    }
    unreachable!("messages come until it is killed");
}

/// Stores events as the handler does.
pub(crate) async fn fill(nats_url: &str, actions: impl Iterator<Item = events::Action>) {
    stream(nats_url).await;
    let context = jetstream::new(async_nats::connect(nats_url).await.expect("nats-server listens"));
    let publish = |action: events::Action| {
        let context = context.clone();
        async move {
            let mut body = Vec::new();
            action.write_json(&mut body);
            let sent = context.publish(format!("plain.{}", action.shop), body.into()).await;
            sent.expect("nats-server listens").await.expect("it is stored");
        }
    };
    futures::stream::iter(actions)
        .map(publish)
        .buffered(256)
        .collect::<()>()
        .await;
}

/// Waits until the consumer has nothing left.
pub(crate) async fn all_consumed(nats_url: &str, projector: &mut Apart) {
    let stream = stream(nats_url).await;
    loop {
        assert!(projector.is_there(), "the plain projector died");
        if let Ok(info) = stream.consumer_info(NAME).await
            && info.num_pending == 0
            && info.num_ack_pending == 0
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
