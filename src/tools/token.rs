//! `ezout token`: makes a token with the key pair of this machine, for a service that runs with `EZOUT_AUTH=dev`.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{complain, say};
use crate::core::duration::parse_duration;
use crate::core::id::{ShopId, ShopperId};
use crate::keys::dev::{self, Grant};
use crate::keys::{self, Mode};

/// Options of `ezout token`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The role that its bearer has.
    #[arg(long, value_parser = ["shopper", "merchant", "support", "service", "admin"])]
    pub role: String,
    /// A shop that it is for, once for each; `*` for every shop.
    #[arg(long = "shop", value_name = "SHOP")]
    pub shops: Vec<String>,
    /// Who its bearer is, as the audit and corrections will name them.
    #[arg(long, value_name = "NAME", default_value = "dev")]
    pub subject: String,
    /// The shopper that its bearer is.
    #[arg(long, value_name = "UUID")]
    pub shopper_id: Option<String>,
    /// How long it lasts.
    #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    pub lasts: Duration,
    /// Where the key pair is.
    #[command(flatten)]
    pub keys: keys::Config,
}

/// Prints the token, and nothing else, on stdout.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if matches!(args.keys.mode(), Mode::Firebase | Mode::Oidc) {
        bail!(
            "only the issuer makes tokens for a service with EZOUT_AUTH=firebase or oidc; to try it with tokens of this \
             machine set EZOUT_AUTH=dev, here and for the service"
        );
    }
    ensure!(
        (1..=128).contains(&args.subject.chars().count()) && !args.subject.chars().any(char::is_control),
        "--subject must have 1 to 128 characters"
    );
    let shops: Result<Vec<String>, _> = args
        .shops
        .iter()
        .map(|shop| {
            if shop == "*" {
                return Ok(shop.clone());
            }
            let id = ShopId::parse(shop).with_context(|| format!("--shop {shop:?}"))?;
            anyhow::Ok(id.to_string())
        })
        .collect();
    let shopper_id = match &args.shopper_id {
        Some(shopper) => {
            let id = ShopperId::parse(shopper).with_context(|| format!("--shopper-id {shopper:?}"))?;
            Some(id.to_string())
        }
        None => None,
    };
    let now = OffsetDateTime::now_utc();
    let grant = Grant {
        subject: args.subject.clone(),
        role: Some(args.role.clone()),
        shops: shops?,
        shopper_id,
        lasts: args.lasts,
    };
    let token = dev::sign(args.keys.dev_keys(), &grant, now)?;
    say(&token);
    if std::io::stdout().is_terminal() {
        let until = now.checked_add(time::Duration::try_from(args.lasts)?);
        let until = until.and_then(|until| until.replace_nanosecond(0).ok()?.format(&Rfc3339).ok());
        complain(&format!(
            "a token of {} ({}) until {}, for a service with EZOUT_AUTH=dev and the same EZOUT_AUTH_DEV_KEYS; send it as\n  \
             -H \"Authorization: Bearer $(ezout token --role {} …)\"",
            args.subject,
            args.role,
            until.unwrap_or_default(),
            args.role,
        ));
    }
    Ok(())
}
