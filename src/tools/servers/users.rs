//! The passwords of the users in `nats/users.conf`, and the key pair of whoever lets watchers in.
//!
//! They are made by chance at the first start, and are in a file of the data folder that only its owner may read.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use uuid::Uuid;

use super::{ServersError, put_private};
use crate::nats::{Issuer, User};

/// The file, which a shell can read: `KEY=value`.
const FILE: &str = "users.env";
/// Variable of nats-server with the public half of the key pair.
const ISSUER: &str = "EZOUT_NATS_ISSUER";
/// Variable of `ezout` with the secret half.
const ISSUER_SEED: &str = "EZOUT_NATS_ISSUER_SEED";

/// Users with their passwords.
#[derive(Clone)]
pub struct NatsUsers {
    variables: BTreeMap<String, String>,
}

impl std::fmt::Debug for NatsUsers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NatsUsers")
    }
}

impl NatsUsers {
    /// Reads them in a folder, or makes them there at the first time.
    ///
    /// # Errors
    /// Where the file can be neither read nor made, or others may read it.
    pub fn open(folder: &Path) -> Result<Self, ServersError> {
        let path = folder.join(FILE);
        let failed = |source| ServersError::Prepare {
            path: path.clone(),
            source,
        };
        if !path.exists() {
            put_private(&path, &Self::made().text()).map_err(failed)?;
        }
        if fs::metadata(&path).map_err(failed)?.mode() & 0o077 != 0 {
            let open = io::Error::new(
                io::ErrorKind::PermissionDenied,
                "others may read the passwords in it; delete it, and new ones are made",
            );
            return Err(failed(open));
        }
        let text = fs::read_to_string(&path).map_err(failed)?;
        let variables = text.lines().filter_map(|line| line.split_once('='));
        let variables: BTreeMap<String, String> = variables
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let needed = Self::made();
        if needed.variables.keys().any(|name| !variables.contains_key(name)) {
            let lacking = io::Error::new(
                io::ErrorKind::InvalidData,
                "it does not have all of the users; delete it, and it is made anew",
            );
            return Err(failed(lacking));
        }
        Ok(Self { variables })
    }

    fn made() -> Self {
        // Settings of nats-server take what begins with a digit for a number.
        let password = || format!("p{}", Uuid::new_v4().simple());
        let mut variables: BTreeMap<String, String> = User::ALL
            .into_iter()
            .map(|user| (user.variable(), password()))
            .collect();
        let issuer = Issuer::new();
        variables.insert(ISSUER.to_owned(), issuer.public_key());
        variables.insert(ISSUER_SEED.to_owned(), issuer.seed());
        Self { variables }
    }

    fn text(&self) -> String {
        let lines = self.variables.iter().map(|(name, value)| format!("{name}={value}\n"));
        lines.collect()
    }

    /// What nats-server needs in its environment.
    pub(super) fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        let public = self.variables.iter().filter(|(name, _)| *name != ISSUER_SEED);
        public.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The secret of whoever lets watchers in.
    pub fn issuer_seed(&self) -> String {
        self.variables.get(ISSUER_SEED).cloned().unwrap_or_default()
    }

    /// A URL of one server as this user.
    pub fn url(&self, url: &str, user: User) -> String {
        let (scheme, host) = url.split_once("://").unwrap_or(("nats", url));
        let host = host.rsplit('@').next().unwrap_or(host);
        let password = self.variables.get(&user.variable()).map_or("", String::as_str);
        format!("{scheme}://{}:{password}@{host}", user.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_kept_and_are_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let users = NatsUsers::open(folder.path()).unwrap();
        let file = folder.path().join(FILE);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        let again = NatsUsers::open(folder.path()).unwrap();
        assert_eq!(users.variables, again.variables);
        let passwords: std::collections::BTreeSet<&String> = users.variables.values().collect();
        assert_eq!(passwords.len(), User::ALL.len() + 2, "each has its own");
        let url = users.url("nats://old:x@127.0.0.1:4222", User::Api);
        assert!(
            url.starts_with("nats://api:p") && url.ends_with("@127.0.0.1:4222"),
            "{url}"
        );
        assert!(users.variables().all(|(name, _)| name != ISSUER_SEED));

        fs::write(folder.path().join("open"), "").unwrap();
        fs::copy(folder.path().join("open"), &file).unwrap();
        assert!(NatsUsers::open(folder.path()).is_err(), "nobody is in it");
    }
}
