//! `ezout tail`: prints a shop's updates as any NATS subscriber receives them.

use anyhow::Context as _;
use futures::StreamExt as _;

use crate::core::id::ShopId;
use crate::tools::{operator, say};

/// Where NATS is if nobody says where.
pub(super) const NATS_URL: &str = "nats://127.0.0.1:4222";

/// Options of `ezout tail`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The shop's id; without one, every shop's updates.
    pub shop: Option<String>,
    /// NATS server.
    #[arg(
        long,
        env = "EZOUT_NATS_URL",
        default_value = NATS_URL,
        hide_env_values = true
    )]
    pub nats_url: String,
}

/// Prints one update a line until it is stopped.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let subject = match args.shop {
        Some(shop) => format!(
            "updates.store.{}",
            ShopId::parse(&shop).with_context(|| format!("the shop id {shop:?}"))?
        ),
        None => "updates.store.*".to_owned(),
    };
    let client = operator::connect(&args.nats_url, "ezout tail").await?;
    let mut updates = client.subscribe(subject).await?;
    while let Some(update) = updates.next().await {
        say(&String::from_utf8_lossy(&update.payload));
    }
    Ok(())
}
