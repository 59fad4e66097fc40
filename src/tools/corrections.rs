//! `ezout corrections`: what became of those of a basket; shops whose edits by hand are held, and taking them again.

use anyhow::Context as _;

use crate::core::event::{Change, rfc3339};
use crate::core::id::{BasketId, ShopId};
use crate::tools::say;
use crate::views::{self, Filed, Standing, Views};

/// Most corrections in a list.
const LIST_MAX: u16 = 200;

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

/// What to do about corrections.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// List the corrections of a basket and what became of each, the newest first.
    List {
        /// The basket, as SHOP.SESSION.
        basket: String,
    },
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
        Command::List { basket } => {
            let id = BasketId::parse(&basket).with_context(|| format!("{basket:?} is no basket: say SHOP.SESSION"))?;
            let filed = views.filed_of(id, LIST_MAX).await?;
            if filed.is_empty() {
                say("the basket has no correction");
            }
            for filed in &filed {
                say(&line(filed));
            }
        }
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

fn line(filed: &Filed) -> String {
    let became = match &filed.standing {
        Standing::New => "new".to_owned(),
        Standing::Published { sequence, changes } => {
            let changes: Vec<String> = changes.iter().map(Change::json).collect();
            format!("event {sequence}: {}", changes.join(", "))
        }
        Standing::Rejected { code, reason } => format!("rejected as {code}: {reason}"),
    };
    format!(
        "{}  {}  by {} ({}), {:?}: {became}",
        rfc3339(filed.created_at),
        filed.id,
        filed.author,
        filed.source.word(),
        filed.reason
    )
}
