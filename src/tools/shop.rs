//! `ezout shop`: what shops say about themselves, for the people who look at them.

use anyhow::{Context as _, anyhow};

use super::{deed, say};
use crate::core::id::ShopId;
use crate::core::policy::Verb;
use crate::core::shop::ShopDetails;
use crate::views::{self, Deed, Views};

/// Most shops that are listed.
const LISTED_MAX: u16 = 1_000;

/// Options of `ezout shop`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Where the shops are.
    #[command(flatten)]
    pub views: views::Config,
}

/// What to do about shops.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Say what a shop's name, currency or time zone is. What is not said stays as it is; an empty text takes it away.
    Set {
        /// The shop.
        shop: String,
        /// Its name, for people.
        #[arg(long)]
        name: Option<String>,
        /// What its money is, as a code of ISO 4217 such as EUR.
        #[arg(long)]
        currency: Option<String>,
        /// Where it is, as a name of the IANA database such as Europe/Berlin.
        #[arg(long)]
        time_zone: Option<String>,
    },
    /// List the shops that have baskets or have said something.
    List,
}

/// Carries out one command.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let views = &Views::to_look_at(&args.views).await?;
    views.refresh_active().await?;
    match args.command {
        Command::Set {
            shop,
            name,
            currency,
            time_zone,
        } => {
            let id = ShopId::parse(&shop).with_context(|| format!("{shop:?} is no shop"))?;
            let before = views.shop_details(id).await?;
            let said = |now: Option<String>, before: Option<String>| match now {
                None => before,
                Some(text) => Some(text).filter(|text| !text.is_empty()),
            };
            let name = said(name, before.name);
            let currency = said(currency, before.currency);
            let time_zone = said(time_zone, before.time_zone);
            let details = ShopDetails::read(name.as_deref(), currency.as_deref(), time_zone.as_deref())
                .map_err(|error| anyhow!("--{} {}", error.field.replace('_', "-"), error.rule))?;
            let deed = Deed::in_shop(Verb::Operate, "name, currency and time zone".to_owned(), id);
            deed::note(views, deed).await?;
            views.set_shop(id, &details).await?;
            say(&line(id, &details));
        }
        Command::List => {
            let (shops, more) = views.some_shops(LISTED_MAX).await?;
            if shops.is_empty() {
                say("there is no shop");
            }
            for (shop, details) in &shops {
                say(&line(*shop, details));
            }
            if more {
                say(&format!("only {LISTED_MAX} are listed"));
            }
        }
    }
    Ok(())
}

fn line(shop: ShopId, details: &ShopDetails) -> String {
    let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    format!(
        "{shop}  {:3}  {:20}  {}",
        known(&details.currency),
        known(&details.time_zone),
        known(&details.name)
    )
}
