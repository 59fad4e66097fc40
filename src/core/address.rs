//! Addresses of servers as they may be shown and logged: without the passwords in them.

/// The addresses, separated by commas as they were, with user and password replaced by `***`.
///
/// A password may hold anything, so all that stands before the last `@` of an address is taken out.
pub fn without_password(addresses: &str) -> String {
    let mut shown = String::with_capacity(addresses.len());
    let mut rest = addresses;
    while !rest.is_empty() {
        let begin = rest.find("://").map_or(0, |at| at + 3);
        let next = rest[begin..].find("://").and_then(|at| rest[..begin + at].rfind(','));
        // What stands before the first scheme is a list of addresses that have none.
        let bare = rest[..begin].rfind(',');
        let end = bare.or(next).map_or(rest.len(), |comma| comma + 1);
        let begin = if bare.is_some() { 0 } else { begin };
        shown.push_str(&rest[..begin]);
        let address = &rest[begin..end];
        let path = address.find(['/', '?']).unwrap_or(address.len());
        match address[..path].rfind('@').or_else(|| address.rfind('@')) {
            Some(at) => {
                shown.push_str("***");
                shown.push_str(&address[at..]);
            }
            None => shown.push_str(address),
        }
        rest = &rest[end..];
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        for (given, shown) in [
            ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
            ("nats://app:geheim@a:4222", "nats://***@a:4222"),
            (
                "nats://app:geheim@a:1, nats://b:2,tls://c:gEh@im@d:3",
                "nats://***@a:1, nats://b:2,tls://***@d:3",
            ),
            (
                "mongodb://u:p%40@a:1,b:2/ezout?replicaSet=rs0",
                "mongodb://***@a:1,b:2/ezout?replicaSet=rs0",
            ),
            (
                "mongodb://u:a/b@a:1/?replicaSet=rs0",
                "mongodb://***@a:1/?replicaSet=rs0",
            ),
            ("mongodb://a:1,b:2/?replicaSet=rs0", "mongodb://a:1,b:2/?replicaSet=rs0"),
            ("http://token@m:8222/", "http://***@m:8222/"),
            ("127.0.0.1:4222", "127.0.0.1:4222"),
            ("app:geheim@a:4222", "***@a:4222"),
            ("app:geheim@a:1,nats://b:2", "***@a:1,nats://b:2"),
            ("nats://app:ge,heim@a:1", "nats://***@a:1"),
            ("", ""),
        ] {
            assert_eq!(without_password(given), shown, "{given}");
        }
    }
}
