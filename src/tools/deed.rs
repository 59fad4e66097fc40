//! What a person does with a command is noted in the audit before it is done.

use anyhow::Context as _;

use crate::views::{Deed, Views};

/// Whoever gives a command, by the number that the person has on this machine.
pub(super) fn who() -> String {
    format!("command of user {}", rustix::process::getuid().as_raw())
}

/// Notes what is about to be done.
pub(super) async fn note(views: &Views, deed: Deed) -> anyhow::Result<()> {
    let noting = views.keep_deed(&deed.by(&who())).await;
    noting.context("nothing was done, since it could not be noted in the audit")
}
