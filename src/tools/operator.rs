//! The commands come to NATS as the user `operator`.

use anyhow::{Context as _, bail};
use async_nats::{Client, ConnectError, ConnectErrorKind};

use crate::nats::{Address, User};

/// What is said to whoever NATS does not let in.
pub(super) const NOT_LET_IN: &str =
    "NATS does not let this user in; name the user operator with its password in EZOUT_NATS_URL";

/// The address, unless it names a user of ours for something else, of whom NATS would refuse some of what commands do,
/// and tell the command nothing.
pub(super) fn address(urls: &str) -> anyhow::Result<Address> {
    let address = Address::parse(urls)?;
    match address.user().and_then(User::of) {
        None | Some(User::Operator) => Ok(address),
        Some(user) => bail!(
            "the NATS user {} may not do all that commands do; name the user operator in EZOUT_NATS_URL",
            user.name()
        ),
    }
}

/// Whether the server lets whoever it was not in.
pub(super) fn is_not_let_in(error: &ConnectError) -> bool {
    matches!(
        error.kind(),
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation
    )
}

/// Connects now, or says what to do.
pub(super) async fn connect(urls: &str, name: &str) -> anyhow::Result<Client> {
    match address(urls)?.connect(name).await {
        Err(error) if is_not_let_in(&error) => bail!(NOT_LET_IN),
        connected => connected.context("cannot connect to NATS; is `ezout dev` running?"),
    }
}
