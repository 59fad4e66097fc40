//! Made-up events, each from its number, so that the same one can be sent again.

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use ezout::core::event::{ActionIdMeaning, Event, Strictness};
use ezout::core::id::{SessionId, ShopId};
use ezout::journal::Entry;
use uuid::Uuid;

/// Shops of a busy chain.
pub(crate) const SHOPS: u64 = 64;
/// Actions of a session, where many sessions make the load.
pub(crate) const ACTIONS: u64 = 10;
/// Different products in a session.
const PRODUCTS: u64 = 40;
/// Price of each, in cents.
const CENTS: u64 = 350;

/// One action of one visit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Action {
    /// Where.
    pub(crate) shop: ShopId,
    /// The visit.
    pub(crate) session: SessionId,
    /// Its number in the session, from 0.
    pub(crate) number: u64,
    /// Whether it is the payment.
    pub(crate) pays: bool,
}

impl Action {
    /// The action of that number in sessions of [`ACTIONS`] each, one session after the other.
    pub(crate) fn of_load(number: u64) -> Self {
        Self::of(number / ACTIONS, number % ACTIONS)
    }

    /// The action of that number in that session; the session decides the shop.
    pub(crate) fn of(session: u64, number: u64) -> Self {
        Self {
            shop: shop(session % SHOPS),
            session: SessionId::from(id(2, session)),
            number,
            pays: false,
        }
    }

    /// Appends the JSON as a phone sends it, some 350 bytes.
    pub(crate) fn write_json(&self, json: &mut Vec<u8>) {
        let Self {
            shop,
            session,
            number,
            pays,
        } = self;
        let word = if *pays { "CHECKOUT" } else { "ADD" };
        let (hours, minutes, seconds) = (number / 3_600, number / 60 % 60, number % 60);
        let product = number % PRODUCTS;
        let cents = CENTS * (number + 1);
        write!(
            json,
            "{{\"session_id\":\"{session}\",\"shop_id\":\"{shop}\",\"shopper_id\":\"ab29b2d3-7c8a-446e-a4e1-d8e2a51c0e94\",\
             \"action_id\":{},\"create_time\":\"2023-12-18T{:02}:{minutes:02}:{seconds:02}.000Z\",\"action\":\"{word}\",\
             \"product_name\":\"FUJI Apples\",\"product_id\":{},\"product_price\":{}.{:02},\"UPC\":\"042100005264\",\
             \"category_id\":\"fruit\",\"basket_total\":{}.{:02}}}",
            number + 1,
            10 + hours,
            500_100 + product,
            CENTS / 100,
            CENTS % 100,
            cents / 100,
            cents % 100,
        )
        .expect("memory takes it");
    }

    /// The event as the service hands it to the journal.
    pub(crate) fn entry(&self) -> Entry {
        let mut json = Vec::with_capacity(400);
        self.write_json(&mut json);
        let event = Event::parse(&json, Strictness::Strict).expect("the service accepts the events of the load");
        let id = event.identity(ActionIdMeaning::Auto);
        Entry {
            shop: event.shop,
            id,
            digest: event.digest(),
            headers: event.headers(id),
            body: Bytes::from(event.canonical_json()),
        }
    }
}

/// A shop of the chain.
pub(crate) fn shop(number: u64) -> ShopId {
    ShopId::from(id(1, number))
}

/// Sessions that nobody has used yet, that many.
pub(crate) fn fresh_sessions(count: u64) -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(count, Ordering::Relaxed)
}

/// Ids that look like those of the phones and count up.
fn id(kind: u128, number: u64) -> Uuid {
    const VERSION_4: u128 = 0x4000_8000_0000_0000_0000;
    Uuid::from_u128((kind << 120) | VERSION_4 | u128::from(number))
}
