//! `ezout revoke`: tokens that count no more.

use std::io::Read as _;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use time::OffsetDateTime;

use super::{deed, say};
use crate::access;
use crate::core::duration::parse_duration;
use crate::core::event::rfc3339;
use crate::core::policy::Verb;
use crate::keys::{self, LIFE_MAX, SKEW_MAX, Unchecked};
use crate::views::{self, Deed, KeptRevocation, Revocation, Revoked, RevokedUntil, Views};

/// Options of `ezout revoke`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Whose tokens, by their subject: all of people who signed in before now. Who signs in again a minute later has new ones; where the issuer does not say when somebody signed in (`auth_time`), only once it is lifted or has ended.
    #[arg(required_unless_present_any = ["token", "list"])]
    pub subject: Option<String>,
    /// One token instead: its `jti`, or `-` to read the token itself from stdin, where no list of processes shows it.
    #[arg(long, value_name = "ID", conflicts_with = "subject")]
    pub token: Option<String>,
    /// How long it counts; never shorter than what was said before, which has to be lifted first. Without it: that of a subject until it is lifted, that of a token until the token has ended.
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub lasts: Option<Duration>,
    /// Take a revocation back: what has not ended counts again.
    #[arg(long, conflicts_with = "lasts")]
    pub lift: bool,
    /// List what is revoked instead, the newest first: since when, until when, and by whom.
    #[arg(long, conflicts_with_all = ["subject", "token", "lasts", "lift"])]
    pub list: bool,
    /// Where the revocations are.
    #[command(flatten)]
    pub views: views::Config,
}

/// Longest name of a token, in bytes.
const TOKEN_ID_BYTES_MAX: usize = 128;
/// Longest subject, in characters.
const SUBJECT_MAX: usize = 128;

/// What is revoked, as people call it, and until when if nobody says so.
struct Named {
    revoked: Revoked,
    what: String,
    until: RevokedUntil,
}

/// Revokes, or takes it back, which every door of every process knows within a second; or lists what is revoked.
pub async fn run(args: Args) -> anyhow::Result<()> {
    if args.list {
        return list(&Views::to_look_at(&args.views).await?).await;
    }
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
    let stands = views.rights().await?.revoked.remove(&revoked);
    let until = match args.lasts {
        Some(lasts) => {
            let until = after(lasts)?;
            if let Some(longer) = stands.and_then(|stands| longer(stands, until)) {
                bail!(shortened(&what, longer));
            }
            until
        }
        None => stands.and_then(|stands| longer(stands, until)).unwrap_or(until),
    };
    let done = format!("{what} is revoked {}", end_of(until));
    note(&done).await?;
    ensure!(
        views.revoke(&revoked, until, &deed::who()).await?,
        "{what} was revoked for longer by somebody else meanwhile, which counts"
    );
    say(&done);
    if until == RevokedUntil::Lifted {
        say(
            "who signs in again a minute later has new ones; where the issuer does not say when that was, only after `ezout revoke --lift`",
        );
    }
    Ok(())
}

async fn list(views: &Views) -> anyhow::Result<()> {
    let now = OffsetDateTime::now_utc();
    let mut kept = views.revocations().await?;
    // MongoDB takes those away a moment later.
    kept.retain(|kept| kept.revocation.ends_at.is_none_or(|end| now < end));
    if kept.is_empty() {
        say("nothing is revoked");
    }
    for kept in &kept {
        say(&line(kept));
    }
    Ok(())
}

/// A revocation for people. Of a token there is its id, and never more.
fn line(kept: &KeptRevocation) -> String {
    let what = match &kept.revoked {
        Revoked::Subject(subject) => format!("all of {subject}"),
        Revoked::Token(id) => format!("token {id}"),
    };
    let Revocation { at, ends_at } = kept.revocation;
    let end = end_of(ends_at.map_or(RevokedUntil::Lifted, RevokedUntil::At));
    let by = kept.by.as_ref().map(|by| format!(", by {by}"));
    format!("{}  {what}  {end}{}", rfc3339(at), by.unwrap_or_default())
}

/// The end of what stands, where that is later.
fn longer(stands: Revocation, until: RevokedUntil) -> Option<RevokedUntil> {
    match (stands.ends_at, until) {
        (_, RevokedUntil::Lifted) => None,
        (None, RevokedUntil::At(_)) => Some(RevokedUntil::Lifted),
        (Some(end), RevokedUntil::At(until)) => (end > until).then_some(RevokedUntil::At(end)),
    }
}

fn shortened(what: &str, stands: RevokedUntil) -> String {
    let end = end_of(stands);
    format!(
        "{what} is revoked for longer already, {end}; nothing was changed: take it back first with `ezout revoke --lift`"
    )
}

fn end_of(until: RevokedUntil) -> String {
    match until {
        RevokedUntil::Lifted => "until it is lifted".to_owned(),
        RevokedUntil::At(end) => format!("until {}", rfc3339(end)),
    }
}

/// The end of what begins now.
fn after(lasts: Duration) -> anyhow::Result<RevokedUntil> {
    let lasts = time::Duration::try_from(lasts).ok();
    let end = lasts.and_then(|lasts| OffsetDateTime::now_utc().checked_add(lasts));
    Ok(RevokedUntil::At(
        end.context("--for is longer than there are calendars")?,
    ))
}

fn named(subject: Option<String>, token: Option<String>, is_lift: bool) -> anyhow::Result<Named> {
    match (subject, token) {
        (Some(subject), None) => {
            ensure!(
                !looks_like_a_token(&subject),
                "that is a token and no subject; pipe it into `ezout revoke --token -`"
            );
            ensure!(
                (1..=SUBJECT_MAX).contains(&subject.chars().count()) && !subject.chars().any(char::is_control),
                "that can be no subject, which has 1 to {SUBJECT_MAX} characters; nothing was done"
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
                    !looks_like_a_token(&token),
                    "a token does not belong on a command line; pipe it into `ezout revoke --token -`"
                );
                ensure!(
                    (1..=TOKEN_ID_BYTES_MAX).contains(&token.len())
                        && !token.contains(|c: char| c.is_whitespace() || c.is_control())
                        && token.matches('.').count() < 2,
                    "that can be no id of a token, which has 1 to {TOKEN_ID_BYTES_MAX} bytes, no spaces, and no two dots; \
                     nothing was done"
                );
                (token, after((LIFE_MAX + SKEW_MAX).unsigned_abs())?)
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

/// Whether a text is a token, or may be most of one: as in `Authorization: Bearer`, with a part too many, or cut off.
fn looks_like_a_token(text: &str) -> bool {
    let token = without_scheme(text);
    // What every header of a token begins with, which is `{"` in its letters.
    let begins_like_one = token.starts_with("eyJ") && token.contains('.');
    token.len() < text.trim().len() || begins_like_one || keys::unchecked(token).is_ok()
}

/// A token without the `Bearer` that stands before it in a header.
fn without_scheme(text: &str) -> &str {
    access::bearer(text.trim()).unwrap_or(text.trim())
}

fn token_from_stdin() -> anyhow::Result<Unchecked> {
    let mut token = String::new();
    let mut input = std::io::stdin().lock().take(2 * keys::TOKEN_BYTES_MAX as u64);
    input
        .read_to_string(&mut token)
        .context("the token cannot be read from stdin")?;
    keys::unchecked(without_scheme(&token)).context("what came by stdin is no token")
}
