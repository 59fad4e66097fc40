//! `ezout revoke`: tokens that count no more.

use std::io::Read as _;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use time::OffsetDateTime;

use super::{deed, say};
use crate::core::duration::parse_duration;
use crate::core::policy::Verb;
use crate::keys::{self, LIFE_MAX, SKEW_MAX, Unchecked};
use crate::views::{self, Deed, Revoked, RevokedUntil, Views};

/// Options of `ezout revoke`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Whose tokens, by their subject: all of people who signed in before now. Who signs in again has new ones; where the issuer does not say when somebody signed in (`auth_time`), only once it is lifted or has ended.
    #[arg(required_unless_present = "token")]
    pub subject: Option<String>,
    /// One token instead: its `jti`, or `-` to read the token itself from stdin, where no list of processes shows it.
    #[arg(long, value_name = "ID", conflicts_with = "subject")]
    pub token: Option<String>,
    /// How long it counts. Without it: that of a subject until it is lifted, that of a token until the token has ended.
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub lasts: Option<Duration>,
    /// Take a revocation back: what has not ended counts again.
    #[arg(long, conflicts_with = "lasts")]
    pub lift: bool,
    /// Where the revocations are.
    #[command(flatten)]
    pub views: views::Config,
}

/// What is revoked, as people call it, and until when if nobody says so.
struct Named {
    revoked: Revoked,
    what: String,
    until: RevokedUntil,
}

/// Revokes, or takes it back; every door of every process knows it within a second.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let Named { revoked, what, until } = named(args.subject, args.token, args.lift)?;
    let views = Views::to_look_at(&args.views).await?;
    let note = async |what: &str| deed::note(&views, Deed::of_system(Verb::Operate, what.to_owned())).await;
    if args.lift {
        let lifted = format!("{what} may count again");
        note(&lifted).await?;
        let was_there = views.lift(&revoked).await?;
        say(&if was_there {
            lifted
        } else {
            format!("{what} was not revoked")
        });
        return Ok(());
    }
    let until = args.lasts.map_or(until, RevokedUntil::After);
    let done = format!("{what} is revoked");
    note(&done).await?;
    views.revoke(&revoked, until).await?;
    say(&done);
    if until == RevokedUntil::Lifted {
        say(
            "who signs in again has new ones; where the issuer does not say when that was, only after `ezout revoke --lift`",
        );
    }
    Ok(())
}

fn named(subject: Option<String>, token: Option<String>, is_lift: bool) -> anyhow::Result<Named> {
    match (subject, token) {
        (Some(subject), None) => {
            ensure!(
                keys::unchecked(&subject).is_err(),
                "that is a token and no subject; pipe it into `ezout revoke --token -`"
            );
            Ok(Named {
                what: format!("everything that {subject} signed in with"),
                revoked: Revoked::Subject(subject),
                until: RevokedUntil::Lifted,
            })
        }
        (None, Some(token)) => {
            let (id, until) = if token == "-" {
                let Unchecked { token_id, expires_at } = token_from_stdin()?;
                let Some(end) = expires_at.and_then(|end| end.checked_add(SKEW_MAX)) else {
                    bail!("what came by stdin has no end, so no door takes it for a token");
                };
                ensure!(
                    is_lift || end > OffsetDateTime::now_utc(),
                    "what came by stdin has ended; there is nothing to revoke"
                );
                (token_id, RevokedUntil::At(end))
            } else {
                ensure!(
                    keys::unchecked(&token).is_err(),
                    "a token does not belong on a command line; pipe it into `ezout revoke --token -`"
                );
                (token, RevokedUntil::After((LIFE_MAX + SKEW_MAX).unsigned_abs()))
            };
            Ok(Named {
                what: format!("token {id}"),
                revoked: Revoked::Token(id),
                until,
            })
        }
        _ => bail!("say whose tokens, or which token"),
    }
}

fn token_from_stdin() -> anyhow::Result<Unchecked> {
    let mut token = String::new();
    let mut input = std::io::stdin().lock().take(2 * keys::TOKEN_BYTES_MAX as u64);
    input
        .read_to_string(&mut token)
        .context("the token cannot be read from stdin")?;
    keys::unchecked(token.trim()).context("what came by stdin is no token")
}
