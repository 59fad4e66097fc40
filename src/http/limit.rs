//! Limits on how often somebody may ask: by address before anything is read, by caller, and for what is appended by shop,
//! and by whoever sends many events in one body, who is charged before the shop that is there for all;
//! and on how much somebody may have at once: connections of an address, live streams of a caller and of an address.
//!
//! How often is a leaky bucket (GCRA) that fills up again evenly. So one that is too fast is told when to come
//! again, and the others do not notice it. Addresses of this machine are not counted: a proxy there is everybody.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use prometheus::IntCounter;

use super::problem::{Code, Problem};
use crate::core::id::ShopId;
use crate::core::places::{Full, Place, Places};
use crate::metrics::Metrics;

/// How many seconds' worth may come at once after a silence.
const BURST_SECONDS: u32 = 2;
/// The most events that one body has, all of which may come at once.
const LINES: u32 = 1_000;
const _: () = assert!(LINES as usize == super::LINES_MAX);
/// Pause that is asked for when somebody has as many live streams as they may, in seconds.
const VIEWERS_SECONDS: u16 = 10;
/// How often those who did not come lately are forgotten.
const FORGET_INTERVAL: Duration = Duration::from_secs(30);

/// How often somebody may ask.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Requests a second from one address, of IPv6 from one /64, before a token is looked at; 0 for any number. Twice as many at once. As many events a second, beyond the first of each body, of callers without a token. Addresses of this machine are not counted.
    #[arg(long = "rate-address", env = "EZOUT_RATE_ADDRESS", default_value_t = 1_000)]
    pub address: u32,

    /// Requests a second of one caller, where callers are asked who they are; 0 for any number. Twice as many at once. As many events a second, beyond the first of each body.
    #[arg(long = "rate-caller", env = "EZOUT_RATE_CALLER", default_value_t = 2_000)]
    pub caller: u32,

    /// Events a second that one shop may append; 0 for any number. Twice as many at once, but at least a body of 1000 lines.
    #[arg(long = "rate-shop", env = "EZOUT_RATE_SHOP", default_value_t = 20_000)]
    pub shop: u32,

    /// Connections to the API from one address, of IPv6 from one /64, at once; one more is closed. 0 for any number, as behind a proxy on another machine. Addresses of this machine are not counted.
    #[arg(long, env = "EZOUT_CONNECTIONS_PER_ADDRESS", default_value_t = 1_000)]
    pub connections_per_address: usize,

    /// Live streams of one caller at once, and as many watchers at NATS, where callers are asked who they are; 0 for any number.
    #[arg(long, env = "EZOUT_VIEWERS_PER_CALLER", default_value_t = 100)]
    pub viewers_per_caller: usize,

    /// Live streams to one address, of IPv6 to one /64, at once; 0 for any number. Addresses of this machine are not counted.
    #[arg(long, env = "EZOUT_VIEWERS_PER_ADDRESS", default_value_t = 1_000)]
    pub viewers_per_address: usize,
}

/// Places of addresses, of which each may have so many at once.
#[derive(Debug, Clone)]
pub(super) struct Addresses {
    places: Places<IpAddr>,
    counts_own: bool,
    refused: Option<IntCounter>,
}

impl Addresses {
    /// So many for each, and any number where it is 0; those of this machine have as many as they like unless `counts_own`.
    pub(super) fn new(most: usize, counts_own: bool, refused: IntCounter) -> Self {
        Self {
            places: Places::new(most),
            counts_own,
            refused: Some(refused),
        }
    }

    /// As many as they like for all.
    pub(super) fn any() -> Self {
        Self {
            places: Places::new(0),
            counts_own: false,
            refused: None,
        }
    }

    /// A place for somebody from there, until it is dropped.
    pub(super) fn take(&self, peer: SocketAddr) -> Result<Option<Place<IpAddr>>, Full> {
        if !self.counts_own && peer.ip().to_canonical().is_loopback() {
            return Ok(None);
        }
        let taken = self.places.take(network(peer.ip()));
        taken
            .map(Some)
            .inspect_err(|Full| self.refused.iter().for_each(IntCounter::inc))
    }
}

/// What a live stream holds while it is open.
#[derive(Debug)]
pub(super) struct ViewerPlaces {
    _of_caller: Option<Place<String>>,
    _of_address: Option<Place<IpAddr>>,
}

/// The limits of a process; clones share them.
#[derive(Debug, Clone)]
pub(super) struct Limits(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    addresses: Option<Limit<IpAddr>>,
    callers: Option<Limit<String>>,
    /// Events beyond the first of a body, of which one may have more than a caller may ask at once.
    events_of_addresses: Option<Limit<IpAddr>>,
    events_of_callers: Option<Limit<String>>,
    shops: Option<Limit<ShopId>>,
    viewers_of_callers: Places<String>,
    viewers_of_addresses: Addresses,
    refused_viewers: Option<IntCounter>,
}

#[derive(Debug)]
struct Limit<K: Hash + Eq + Clone> {
    limiter: DefaultKeyedRateLimiter<K>,
    burst: NonZeroU32,
    refused: IntCounter,
    who: &'static str,
}

impl<K: Hash + Eq + Clone> Limit<K> {
    fn new(rate: u32, burst_min: u32, who: &'static str, metrics: &Metrics) -> Option<Self> {
        let rate = NonZeroU32::new(rate)?;
        let burst = NonZeroU32::new(rate.get().saturating_mul(BURST_SECONDS).max(burst_min))?;
        Some(Self {
            limiter: RateLimiter::keyed(Quota::per_second(rate).allow_burst(burst)),
            burst,
            refused: metrics.limited_requests.with_label_values(&[who]),
            who,
        })
    }

    /// Takes so much; if it is not there, says when it will be.
    fn take(&self, key: &K, number: u32) -> Result<(), Problem> {
        let number = NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN).min(self.burst);
        let taken = self.limiter.check_key_n(key, number);
        match taken {
            // More than there can ever be was made less above.
            Ok(Ok(())) | Err(_) => Ok(()),
            Ok(Err(until)) => {
                self.refused.inc();
                let pause = until.wait_time_from(DefaultClock::default().now());
                let seconds = u16::try_from(pause.as_secs().saturating_add(1)).unwrap_or(u16::MAX);
                let detail = format!(
                    "this {} asks more often than it may; what came is not recorded, so send it again after Retry-After",
                    self.who
                );
                Err(Problem::new(Code::TooManyRequests, detail).with_retry(seconds))
            }
        }
    }

    fn forget(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

impl Limits {
    pub(super) fn new(config: &Config, metrics: &Metrics) -> Self {
        Self(Arc::new(Parts {
            addresses: Limit::new(config.address, 0, "address", metrics),
            callers: Limit::new(config.caller, 0, "caller", metrics),
            events_of_addresses: Limit::new(config.address, LINES, "address", metrics),
            events_of_callers: Limit::new(config.caller, LINES, "caller", metrics),
            shops: Limit::new(config.shop, LINES, "shop", metrics),
            viewers_of_callers: Places::new(config.viewers_per_caller),
            viewers_of_addresses: Addresses::new(
                config.viewers_per_address,
                false,
                metrics.limited_places.with_label_values(&["viewer"]),
            ),
            refused_viewers: Some(metrics.limited_places.with_label_values(&["viewer"])),
        }))
    }

    /// No limit at all.
    pub(super) fn none() -> Self {
        Self(Arc::new(Parts {
            addresses: None,
            callers: None,
            events_of_addresses: None,
            events_of_callers: None,
            shops: None,
            viewers_of_callers: Places::new(0),
            viewers_of_addresses: Addresses::any(),
            refused_viewers: None,
        }))
    }

    /// A request from there.
    pub(super) fn address(&self, peer: SocketAddr) -> Result<(), Problem> {
        match &self.0.addresses {
            Some(limit) if !peer.ip().to_canonical().is_loopback() => limit.take(&network(peer.ip()), 1),
            _ => Ok(()),
        }
    }

    /// A request of this subject.
    pub(super) fn caller(&self, subject: &str) -> Result<(), Problem> {
        match &self.0.callers {
            Some(limit) => limit.take(&subject.to_owned(), 1),
            None => Ok(()),
        }
    }

    /// So many events of this subject beyond the first of a body, or from there if it is not known whose they are.
    pub(super) fn events(&self, subject: Option<&str>, peer: Option<SocketAddr>, events: usize) -> Result<(), Problem> {
        let number = u32::try_from(events).unwrap_or(u32::MAX);
        match (&self.0.events_of_callers, &self.0.events_of_addresses, subject, peer) {
            _ if events == 0 => Ok(()),
            (Some(limit), _, Some(subject), _) => limit.take(&subject.to_owned(), number),
            (_, Some(limit), None, Some(peer)) if !peer.ip().to_canonical().is_loopback() => {
                limit.take(&network(peer.ip()), number)
            }
            _ => Ok(()),
        }
    }

    /// So many events for this shop.
    pub(super) fn shop(&self, shop: ShopId, events: usize) -> Result<(), Problem> {
        match &self.0.shops {
            Some(limit) if events > 0 => limit.take(&shop, u32::try_from(events).unwrap_or(u32::MAX)),
            _ => Ok(()),
        }
    }

    /// A live stream of this subject to there.
    pub(super) fn viewer(&self, subject: Option<&str>, peer: Option<SocketAddr>) -> Result<ViewerPlaces, Problem> {
        let Parts {
            viewers_of_callers,
            viewers_of_addresses,
            refused_viewers,
            ..
        } = &*self.0;
        let full = |who: &str| {
            let detail =
                format!("this {who} has as many live streams as it may; end one, or ask again after Retry-After");
            Problem::new(Code::TooManyRequests, detail).with_retry(VIEWERS_SECONDS)
        };
        let of_caller = subject
            .map(|subject| viewers_of_callers.take(subject.to_owned()))
            .transpose();
        let of_caller = of_caller.map_err(|Full| {
            refused_viewers.iter().for_each(IntCounter::inc);
            full("caller")
        })?;
        let of_address = peer.map(|peer| viewers_of_addresses.take(peer)).transpose();
        Ok(ViewerPlaces {
            _of_caller: of_caller,
            _of_address: of_address.map_err(|Full| full("address"))?.flatten(),
        })
    }

    /// Forgets those who did not come lately, for ever.
    pub(super) async fn forget(self) {
        loop {
            tokio::time::sleep(FORGET_INTERVAL).await;
            for limit in [&self.0.addresses, &self.0.events_of_addresses].into_iter().flatten() {
                limit.forget();
            }
            for limit in [&self.0.callers, &self.0.events_of_callers].into_iter().flatten() {
                limit.forget();
            }
            if let Some(limit) = &self.0.shops {
                limit.forget();
            }
        }
    }
}

/// What counts as one address: whoever has one of IPv6 has 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let prefix = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(prefix))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use uuid::Uuid;

    use super::*;

    fn limits(rate: u32) -> (Limits, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new());
        let config = Config {
            address: rate,
            caller: rate,
            shop: rate,
            connections_per_address: 0,
            viewers_per_caller: rate as usize,
            viewers_per_address: rate as usize,
        };
        (Limits::new(&config, &metrics), metrics)
    }

    #[test]
    fn who_asks_too_often_is_told_when_to_come_again_and_the_others_notice_nothing() {
        let (limits, metrics) = limits(1);
        let peer = |text: &str| SocketAddr::new(text.parse().unwrap(), 1);
        for _ in 0..2 {
            limits.address(peer("192.0.2.1")).unwrap();
        }
        let problem = limits.address(peer("192.0.2.1")).unwrap_err();
        assert_eq!(problem.code().status(), StatusCode::TOO_MANY_REQUESTS);
        limits.address(peer("192.0.2.2")).unwrap();
        assert_eq!(metrics.limited_requests.with_label_values(&["address"]).get(), 1);
        for _ in 0..10 {
            limits.address(peer("127.0.0.1")).unwrap();
            limits.address(peer("::ffff:127.0.0.1")).unwrap();
        }
        for _ in 0..2 {
            limits.address(peer("2001:db8::1")).unwrap();
        }
        assert!(limits.address(peer("2001:db8::2")).is_err());
        limits.address(peer("2001:db8:0:1::1")).unwrap();

        for _ in 0..2 {
            limits.caller("a").unwrap();
        }
        assert!(limits.caller("a").is_err());
        limits.caller("b").unwrap();
    }

    #[test]
    fn a_shop_may_append_a_whole_body_at_once() {
        let (limits, _) = limits(1);
        let shop = |n| ShopId::from(Uuid::from_u128(n));
        limits.shop(shop(1), super::super::LINES_MAX).unwrap();
        assert!(limits.shop(shop(1), 1).is_err());
        limits.shop(shop(2), 1).unwrap();
    }

    #[test]
    fn nobody_sends_more_events_than_they_may_whoever_else_sends_to_the_shop() {
        let (limits, metrics) = limits(1);
        let peer = |text: &str| Some(SocketAddr::new(text.parse().unwrap(), 1));
        let beyond = super::super::LINES_MAX - 1;
        limits.events(Some("a"), peer("192.0.2.1"), beyond).unwrap();
        let problem = limits.events(Some("a"), peer("192.0.2.2"), beyond).unwrap_err();
        assert_eq!(problem.code(), Code::TooManyRequests);
        assert!(problem.retry_after_seconds().is_some());
        assert_eq!(metrics.limited_requests.with_label_values(&["caller"]).get(), 1);
        limits.events(Some("b"), peer("192.0.2.1"), beyond).unwrap();
        // Of whom it is not known who they are.
        limits.events(None, peer("192.0.2.1"), beyond).unwrap();
        assert!(limits.events(None, peer("192.0.2.1"), beyond).is_err());
        limits.events(None, peer("192.0.2.2"), beyond).unwrap();
        assert_eq!(metrics.limited_requests.with_label_values(&["address"]).get(), 1);
        for _ in 0..9 {
            limits.events(None, peer("127.0.0.1"), beyond).unwrap();
            limits.events(Some("a"), None, 0).unwrap();
        }
    }

    #[test]
    fn a_limit_of_nothing_is_none() {
        let (limits, _) = limits(0);
        let peer = SocketAddr::new("192.0.2.1".parse().unwrap(), 1);
        let mut viewers = Vec::new();
        for _ in 0..100 {
            limits.caller("a").unwrap();
            viewers.push(limits.viewer(Some("a"), Some(peer)).unwrap());
        }
    }

    #[test]
    fn who_has_as_many_streams_as_they_may_gets_another_when_one_ends() {
        let (limits, metrics) = limits(2);
        let peer = |text: &str| Some(SocketAddr::new(text.parse().unwrap(), 1));
        let (one, other) = (peer("2001:db8::1"), peer("2001:db8:0:1::1"));
        let first = limits.viewer(Some("a"), one).unwrap();
        let _second = limits.viewer(Some("a"), other).unwrap();
        // The caller has two, and its address one more than the other caller.
        let problem = limits.viewer(Some("a"), peer("192.0.2.1")).unwrap_err();
        assert_eq!(problem.code(), Code::TooManyRequests);
        let _third = limits.viewer(Some("b"), peer("2001:db8::2")).unwrap();
        assert!(limits.viewer(Some("c"), one).is_err(), "both are of one /64");
        let local: Vec<_> = (0..9)
            .map(|_| limits.viewer(None, peer("127.0.0.1")).unwrap())
            .collect();
        assert_eq!(local.len(), 9);
        assert_eq!(metrics.limited_places.with_label_values(&["viewer"]).get(), 2);
        drop(first);
        let _fourth = limits.viewer(Some("a"), one).unwrap();
    }
}
