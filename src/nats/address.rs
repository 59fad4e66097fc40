//! Where NATS is, and who we are to it: what stands in `EZOUT_NATS_URL`.

use async_nats::{ConnectOptions, ServerAddr};

use super::LinkError;

/// Servers of one deployment, and the user to connect as.
#[derive(Debug, Clone)]
pub struct Address {
    servers: Vec<ServerAddr>,
    credentials: Credentials,
}

#[derive(Clone)]
enum Credentials {
    None,
    Token(String),
    User { name: String, password: String },
}

// No secret gets into a log by way of a debug text.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Token(_) => f.write_str("Token"),
            Self::User { name, .. } => f.debug_tuple("User").field(name).finish(),
        }
    }
}

impl Address {
    /// Reads addresses with commas between them. User and password, or a token alone, may stand before the host of one,
    /// and are for all: the servers of a cluster that are discovered have none of their own.
    ///
    /// # Errors
    /// [`LinkError`] if it is no list of addresses, or if two users are named.
    pub fn parse(urls: &str) -> Result<Self, LinkError> {
        let servers: Vec<ServerAddr> = urls
            .split(',')
            .map(|url| url.trim().parse::<ServerAddr>())
            .collect::<Result<_, _>>()
            .map_err(|error| LinkError(error.into()))?;
        let mut found: Option<(String, Option<String>)> = None;
        for server in &servers {
            let Some(user) = server.username() else { continue };
            let named = (decoded(user), server.password().map(decoded));
            if found.as_ref().is_some_and(|found| *found != named) {
                return Err(LinkError("it names more than one user".into()));
            }
            found = Some(named);
        }
        let credentials = match found {
            None => Credentials::None,
            Some((token, None)) => Credentials::Token(token),
            Some((name, Some(password))) => Credentials::User { name, password },
        };
        Ok(Self { servers, credentials })
    }

    /// The servers.
    pub fn servers(&self) -> Vec<ServerAddr> {
        self.servers.clone()
    }

    /// The name of the user; nothing where there is none, or a token.
    pub fn user(&self) -> Option<&str> {
        match &self.credentials {
            Credentials::User { name, .. } => Some(name),
            Credentials::None | Credentials::Token(_) => None,
        }
    }

    /// What to connect with: the user, and a place for answers that no other user may listen at.
    pub fn options(&self) -> ConnectOptions {
        let options = ConnectOptions::new().custom_inbox_prefix(self.inbox_prefix());
        match self.credentials.clone() {
            Credentials::None => options,
            Credentials::Token(token) => options.token(token),
            Credentials::User { name, password } => options.user_and_password(name, password),
        }
    }

    /// Connects now, or fails.
    ///
    /// # Errors
    /// [`async_nats::ConnectError`] where no server answers, or the user is not let in.
    pub async fn connect(&self, name: &str) -> Result<async_nats::Client, async_nats::ConnectError> {
        self.options().name(name).connect(self.servers()).await
    }

    /// Where servers have users, whoever names none is an operator, if he is let in at all.
    fn inbox_prefix(&self) -> String {
        let legal = |name: &&str| {
            name.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        };
        format!("_INBOX_{}", self.user().filter(legal).unwrap_or("operator"))
    }
}

/// Text in a URL without its percent signs; what is no escape stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = match rest {
            [b'%', high, low, ..] => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                digit(high)
                    .zip(digit(low))
                    .and_then(|(high, low)| u8::try_from(high * 16 + low).ok())
            }
            _ => None,
        };
        if let Some(byte) = escaped {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(urls: &str) -> (Option<String>, String, usize) {
        let address = Address::parse(urls).unwrap();
        (
            address.user().map(str::to_owned),
            address.inbox_prefix(),
            address.servers.len(),
        )
    }

    #[test]
    fn the_user_is_that_of_the_address_and_has_a_place_of_its_own() {
        let user = |name: &str| Some(name.to_owned());
        assert_eq!(read("nats://127.0.0.1:4222"), (None, "_INBOX_operator".to_owned(), 1));
        assert_eq!(
            read("nats://api:geheim@a:1, nats://b:2"),
            (user("api"), "_INBOX_api".to_owned(), 2)
        );
        // A token is a secret, and no part of a subject; neither is a name that would be more than one.
        assert_eq!(read("nats://geheim@a:1"), (None, "_INBOX_operator".to_owned(), 1));
        assert_eq!(read("nats://a.%3E:x@a:1").1, "_INBOX_operator");
        assert!(Address::parse("nats://a:1@a,nats://b:2@b").is_err());
        assert!(Address::parse("nats://api:geheim@a:1,b:c:d").is_err());
    }

    #[test]
    fn a_password_may_hold_anything_and_is_never_shown() {
        assert_eq!(decoded("p%40s%3Aw%2fd%zz%"), "p@s:w/d%zz%");
        let address = Address::parse("nats://api:gehei%6D@a:1").unwrap();
        assert!(matches!(&address.credentials, Credentials::User { password, .. } if password == "geheim"));
        assert!(!format!("{:?}", address.credentials).contains("geheim"));
    }
}
