//! `ezout corrections`: shops whose edits by hand are held, and taking them again.

use anyhow::Context as _;

use crate::core::id::ShopId;
use crate::tools::say;
use crate::views::{self, Views};

/// Options of `ezout corrections`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Where the views are.
    #[command(flatten)]
    pub views: views::Config,
}

/// What to do about edits by hand.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// List the shops whose edits are not taken, since there were too many in a minute.
    Held,
    /// Take the edits of a shop again; those made meanwhile become corrections as well.
    Resume {
        /// The shop.
        shop: String,
    },
}

/// Looks, or decides; the owner of the corrections acts on it within seconds.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let views = Views::to_look_at(&args.views).await?;
    match args.command {
        Command::Held => {
            let held = views.held_shops().await?;
            if held.is_empty() {
                say("no shop is held");
            }
            for shop in held {
                say(&shop.to_string());
            }
        }
        Command::Resume { shop } => {
            let id = ShopId::parse(&shop).with_context(|| format!("{shop:?} is no shop"))?;
            anyhow::ensure!(
                views.resume_shop(id).await?,
                "shop {id} is not held; `ezout corrections held` lists those that are"
            );
            say(&format!(
                "edits of shop {id} are taken again; those made meanwhile become corrections within seconds"
            ));
        }
    }
    Ok(())
}
