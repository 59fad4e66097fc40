//! `ezout migrate`: applies the migrations and says which.

use crate::tools::say;
use crate::views;

/// Applies what is not applied yet. Safe to run twice, and from two processes at once.
pub async fn run(config: &views::Config) -> anyhow::Result<()> {
    let database = views::connect(config).await?;
    let applied = views::migrate(&database).await?;
    if applied.is_empty() {
        say("every migration is applied already");
    }
    for name in applied {
        say(&format!("applied {name}"));
    }
    Ok(())
}
