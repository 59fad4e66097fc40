//! `ezout member`: what people may do beyond what their token says.

use anyhow::{Context as _, ensure};

use super::{deed, say};
use crate::core::policy::{Role, Shops, Verb};
use crate::views::{self, Deed, Member, Views, parse_shops};

/// Longest subject, in characters.
const SUBJECT_MAX: usize = 128;

/// Options of `ezout member`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Where the members are.
    #[command(flatten)]
    pub views: views::Config,
}

/// What to do about members.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Add a member, or replace what they may do. It takes effect within a second, without a new token.
    Add {
        /// The subject of their tokens: the uid of Firebase, the `sub` of OIDC.
        subject: String,
        /// What they are; it replaces the role of their token.
        #[arg(long, value_parser = ["shopper", "merchant", "support", "service", "admin"])]
        role: String,
        /// A shop that they may do it in, once for each; `*` for every shop. Added to those of their token.
        #[arg(long = "shop", value_name = "SHOP")]
        shops: Vec<String>,
    },
    /// List the members with their roles and shops.
    List,
    /// Remove a member. What they see live ends within a second, unless their token allows it by itself.
    Remove {
        /// The subject of their tokens.
        subject: String,
    },
}

/// Carries out one command.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let views = &Views::to_look_at(&args.views).await?;
    match args.command {
        Command::Add { subject, role, shops } => {
            ensure!(
                (1..=SUBJECT_MAX).contains(&subject.chars().count()),
                "a subject has 1 to {SUBJECT_MAX} characters"
            );
            let role = Role::parse(&role).with_context(|| format!("{role:?} is no role"))?;
            let shops = parse_shops(&shops).context("--shop takes a UUID, or * for every shop")?;
            let member = Member { role, shops };
            let what = format!("member {subject} is {}", shown(&member));
            deed::note(views, Deed::of_system(Verb::Operate, what)).await?;
            views.set_member(&subject, &member).await?;
            say(&format!("{subject} is {}", shown(&member)));
        }
        Command::List => {
            let rights = views.rights().await?;
            let mut members: Vec<_> = rights.members.iter().collect();
            members.sort_by_key(|(subject, _)| subject.as_str());
            if members.is_empty() {
                say("there is no member; everybody may do what their token says");
            }
            for (subject, member) in members {
                say(&format!("{subject}  {}", shown(member)));
            }
        }
        Command::Remove { subject } => {
            let what = format!("member {subject} is removed");
            deed::note(views, Deed::of_system(Verb::Operate, what)).await?;
            if views.remove_member(&subject).await? {
                say(&format!(
                    "{subject} is no member any more; their token says what they may do"
                ));
            } else {
                say(&format!("{subject} was no member"));
            }
        }
    }
    Ok(())
}

fn shown(member: &Member) -> String {
    let shops = match &member.shops {
        Shops::All => "in every shop".to_owned(),
        Shops::Only(shops) if shops.is_empty() => "in the shops of their token".to_owned(),
        Shops::Only(shops) => {
            let shops: Vec<String> = shops.iter().map(ToString::to_string).collect();
            format!("in {}", shops.join(", "))
        }
    };
    format!("{} {shops}", member.role)
}
