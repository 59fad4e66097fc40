//! Whether a request comes from this machine, and from a page of ours.

use std::net::SocketAddr;

use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, Uri};

/// Says which page a request comes from.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// What proxies add.
const PASSED_ON: [&str; 6] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

/// Whether a request comes from our own page, or from a program of this machine: no page of another origin has
/// sent it, nobody has given our address another name, and no proxy says that it comes from elsewhere.
pub(super) fn is_own_page(headers: &HeaderMap) -> bool {
    let is_passed_on = PASSED_ON.iter().any(|name| headers.contains_key(*name));
    let Some(host) = one(headers, HOST).filter(|_| !is_passed_on) else {
        return false;
    };
    let is_ours = one(headers, ORIGIN).is_none_or(|origin| origin == format!("http://{host}"));
    let is_here = one(headers, SEC_FETCH_SITE).is_none_or(|site| matches!(site, "same-origin" | "none"));
    is_of_this_machine(host) && is_ours && is_here
}

/// Whether a request asks for this machine by its own name: a page whose name was made to lead here asks by that one.
/// What names nobody is sent by no browser.
pub(in crate::http) fn asks_this_machine(uri: &Uri, headers: &HeaderMap) -> bool {
    let named = uri.authority().map(Authority::as_str);
    let named = [named, one(headers, HOST)].into_iter().flatten();
    named.into_iter().all(is_of_this_machine)
}

/// The value of a header, and no address of anything where it is sent twice: who does that does not mean it well.
fn one(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().map(|value| value.to_str().unwrap_or("?"));
    if values.next().is_some() { Some("?") } else { value }
}

fn is_of_this_machine(host: &str) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|byte| byte.is_ascii_digit()) {
            name
        } else {
            host
        }
    });
    let address = name
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<std::net::IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::super::headers;
    use super::*;

    #[test]
    fn only_our_own_page_and_programs_of_this_machine_are_given_tokens() {
        for (is_own, pairs) in [
            (true, &[(HOST, "127.0.0.1:8000")][..]),
            (true, &[(HOST, "localhost:8000"), (ORIGIN, "http://localhost:8000")]),
            (true, &[(HOST, "[::1]:8000"), (SEC_FETCH_SITE, "same-origin")]),
            (true, &[(HOST, "localhost")]),
            (false, &[]),
            (false, &[(HOST, "evil.example:8000")]),
            (false, &[(HOST, "127.0.0.1.evil.example")]),
            (false, &[(HOST, "localhost.evil.example:8000")]),
            (false, &[(HOST, "10.0.0.7:8000")]),
            (false, &[(HOST, "127.0.0.1:8000"), (ORIGIN, "http://127.0.0.1:9000")]),
            (false, &[(HOST, "127.0.0.1:8000"), (ORIGIN, "null")]),
            (false, &[(HOST, "127.0.0.1:8000"), (SEC_FETCH_SITE, "cross-site")]),
            (false, &[(HOST, "127.0.0.1:8000"), (SEC_FETCH_SITE, "same-site")]),
        ] {
            assert_eq!(is_own_page(&headers(pairs)), is_own, "{pairs:?}");
        }
        for name in PASSED_ON {
            let name = HeaderName::from_static(name);
            let pairs = [(HOST, "127.0.0.1:8000"), (name, "192.0.2.1")];
            assert!(!is_own_page(&headers(&pairs)), "{pairs:?}");
        }
        let twice = HeaderMap::from_iter([
            (HOST, HeaderValue::from_static("127.0.0.1:8000")),
            (ORIGIN, HeaderValue::from_static("http://127.0.0.1:8000")),
        ]);
        let mut twice = twice;
        twice.append(ORIGIN, HeaderValue::from_static("https://evil.example"));
        assert!(!is_own_page(&twice));
    }

    #[test]
    fn who_asks_by_another_name_does_not_ask_this_machine() {
        let asks = |uri: &'static str, pairs: &[(HeaderName, &'static str)]| {
            asks_this_machine(&Uri::from_static(uri), &headers(pairs))
        };
        for host in [
            "127.0.0.1:8000",
            "localhost:8000",
            "LOCALHOST",
            "[::1]:8000",
            "[::1]",
            "127.0.0.2",
        ] {
            assert!(asks("/v1/me", &[(HOST, host)]), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8000",
            "localhost.evil.example",
            "10.0.0.7:8000",
            "",
            "?",
        ] {
            assert!(!asks("/v1/me", &[(HOST, host)]), "{host}");
        }
        assert!(!asks("/v1/me", &[(HOST, "localhost"), (HOST, "localhost")]), "twice");
        assert!(asks("/v1/me", &[]));
        // As HTTP/2 says it.
        assert!(asks("http://127.0.0.1:8000/v1/me", &[]));
        assert!(!asks("http://evil.example:8000/v1/me", &[(HOST, "localhost")]));
    }
}
