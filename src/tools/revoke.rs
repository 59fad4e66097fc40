//! `ezout revoke`: tokens that count no more.

use std::io::Read as _;

use anyhow::{Context as _, bail, ensure};

use super::{deed, say};
use crate::core::policy::Verb;
use crate::keys;
use crate::views::{self, Deed, Revoked, Views};

/// Options of `ezout revoke`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Whose tokens, by their subject: all of people who signed in before now. Who signs in again has new ones.
    #[arg(required_unless_present = "token")]
    pub subject: Option<String>,
    /// One token instead: its `jti`, or `-` to read the token itself from stdin, where no list of processes shows it.
    #[arg(long, value_name = "ID", conflicts_with = "subject")]
    pub token: Option<String>,
    /// Where the revocations are.
    #[command(flatten)]
    pub views: views::Config,
}

/// Revokes; every door of every process knows it within a second.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let (revoked, what) = match (args.subject, args.token) {
        (Some(subject), None) => {
            ensure!(
                keys::token_id(&subject).is_err(),
                "that is a token and no subject; pipe it into `ezout revoke --token -`"
            );
            let what = format!("tokens of {subject} are revoked");
            (Revoked::Subject(subject), what)
        }
        (None, Some(token)) => {
            let id = if token == "-" {
                id_from_stdin()?
            } else {
                ensure!(
                    keys::token_id(&token).is_err(),
                    "a token does not belong on a command line; pipe it into `ezout revoke --token -`"
                );
                token
            };
            let what = format!("token {id} is revoked");
            (Revoked::Token(id), what)
        }
        _ => bail!("say whose tokens, or which token"),
    };
    let views = Views::to_look_at(&args.views).await?;
    deed::note(&views, Deed::of_system(Verb::Operate, what.clone())).await?;
    views.revoke(&revoked).await?;
    say(&what);
    Ok(())
}

fn id_from_stdin() -> anyhow::Result<String> {
    let mut token = String::new();
    let mut input = std::io::stdin().lock().take(2 * keys::TOKEN_BYTES_MAX as u64);
    input
        .read_to_string(&mut token)
        .context("the token cannot be read from stdin")?;
    keys::token_id(token.trim()).context("what came by stdin is no token")
}
