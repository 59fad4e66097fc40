//! One simulated visit: what the shopper does, and what the phone makes of it.

use time::OffsetDateTime;
use uuid::Uuid;

use crate::core::event::{Event, Strictness, rfc3339};
use crate::core::id::{SessionId, ShopId, ShopperId};
use crate::core::money::Money;

/// Name, product number, price in cents, bar code, category.
const CATALOGUE: &[(&str, i64, i64, &str, &str)] = &[
    ("FUJI Apples", 500_100, 350, "042100005264", "fruit"),
    ("Bananas", 500_101, 129, "000000004011", "fruit"),
    ("Whole Milk 1 l", 500_200, 189, "041303001806", "dairy"),
    ("Cheddar 250 g", 500_201, 449, "021000615261", "dairy"),
    ("Sourdough Bread", 500_300, 525, "072250037129", "bakery"),
    ("Butter Croissant", 500_301, 175, "072250011234", "bakery"),
    ("Ground Coffee 500 g", 500_400, 899, "025500303499", "pantry"),
    ("Olive Oil 750 ml", 500_401, 1_249, "041196010459", "pantry"),
    ("Spaghetti 500 g", 500_402, 159, "076808280081", "pantry"),
    ("Dark Chocolate 85 %", 500_500, 329, "037466081663", "sweets"),
    ("Sparkling Water 6 x 0.5 l", 500_600, 479, "012000161155", "drinks"),
    ("Orange Juice 1 l", 500_601, 319, "048500202753", "drinks"),
    ("Dish Soap", 500_700, 279, "037000973782", "household"),
    ("AA Batteries 8 pcs", 500_701, 1_099, "041333825014", "household"),
];

/// The shop of this number; number 0 is the one of the documentation's example.
pub fn shop_of(number: u32) -> ShopId {
    const EXAMPLE: u128 = 0x123e_4567_e89b_42d3_a456_4266_1417_4000;
    ShopId::from(Uuid::from_u128(EXAMPLE + u128::from(number)))
}

/// An event as it is sent; an event may be sent more than once.
#[derive(Debug, Clone)]
pub struct Send {
    /// The body.
    pub json: String,
    /// The event.
    pub event: Event,
}

/// A visit's sends in the order in which they leave the phone.
#[derive(Debug, Clone)]
pub struct Visit {
    /// The visit's session.
    pub session: SessionId,
    /// The sends.
    pub sends: Vec<Send>,
}

impl Visit {
    /// Makes up a visit that begins at `start`; the same generator makes the same visit.
    pub fn new(rng: &mut fastrand::Rng, shop: ShopId, start: OffsetDateTime) -> Self {
        let mut phone = Phone::new(rng, shop, start);
        let wanted = 2 + rng.usize(0..14);
        let mut basket: Vec<usize> = Vec::new();
        for _ in 0..wanted {
            if !basket.is_empty() && rng.f64() < 0.15 {
                let removed = basket.swap_remove(rng.usize(0..basket.len()));
                phone.act(rng, "REMOVE", removed, 1);
            } else {
                let product = rng.usize(0..CATALOGUE.len());
                let pieces = if rng.f64() < 0.1 { 2 } else { 1 };
                basket.extend(std::iter::repeat_n(product, pieces));
                phone.act(rng, "ADD", product, u32::try_from(pieces).expect("one or two"));
            }
        }
        let end = if rng.f64() < 0.85 { "CHECKOUT" } else { "CANCEL" };
        phone.act(rng, end, 0, 1);
        Self {
            session: phone.session,
            sends: with_mishaps(rng, phone.events),
        }
    }
}

/// Some actions come a little late, and some are sent twice.
fn with_mishaps(rng: &mut fastrand::Rng, events: Vec<Event>) -> Vec<Send> {
    let mut sends: Vec<Send> = Vec::new();
    let mut held: Option<Send> = None;
    for event in events {
        let send = Send {
            json: event.canonical_json(),
            event,
        };
        if held.is_none() && rng.f64() < 0.05 {
            held = Some(send);
            continue;
        }
        if rng.f64() < 0.05 {
            sends.push(send.clone());
        }
        sends.push(send);
        if rng.f64() < 0.5 {
            sends.extend(held.take());
        }
    }
    sends.extend(held);
    sends
}

struct Phone {
    shop: ShopId,
    session: SessionId,
    shopper: ShopperId,
    action_id: i64,
    time: OffsetDateTime,
    claimed_cents: i64,
    events: Vec<Event>,
}

impl Phone {
    fn new(rng: &mut fastrand::Rng, shop: ShopId, start: OffsetDateTime) -> Self {
        let mut id = || uuid::Builder::from_random_bytes(rng.u128(..).to_be_bytes()).into_uuid();
        let (session, shopper) = (SessionId::from(id()), ShopperId::from(id()));
        Self {
            shop,
            session,
            shopper,
            action_id: 100,
            time: start,
            claimed_cents: 0,
            events: Vec::new(),
        }
    }

    fn act(&mut self, rng: &mut fastrand::Rng, action: &str, product: usize, pieces: u32) {
        let (name, product_id, cents, upc, category) = CATALOGUE[product];
        self.action_id += 1;
        self.time += time::Duration::milliseconds(rng.i64(800..9_000));
        match action {
            "ADD" => self.claimed_cents += cents * i64::from(pieces),
            // What the app forgot to add up may be taken off again; no app shows a negative total.
            "REMOVE" => self.claimed_cents = (self.claimed_cents - cents * i64::from(pieces)).max(0),
            _ => {}
        }
        if rng.f64() < 0.01 {
            // An app that forgot to add something up, and never notices.
            self.claimed_cents = (self.claimed_cents - cents).max(0);
        }
        let in_cents = |cents: i64| Money::from_units(i128::from(cents) * 100);
        let event = Event {
            session: self.session,
            shop: self.shop,
            shopper: self.shopper,
            action_id: self.action_id,
            create_time: self.time,
            action: action.to_owned(),
            product_name: Some(name.to_owned()),
            product_id: Some(product_id),
            product_price: Some(in_cents(cents)),
            upc: Some(upc.to_owned()),
            category_id: Some(category.to_owned()),
            basket_total: in_cents(self.claimed_cents),
            quantity: pieces,
            unknown: Vec::new(),
        };
        // What a phone sends has whole milliseconds.
        let text = event.twelve_fields(&rfc3339(truncated(event.create_time)));
        let parsed = Event::parse(text.as_bytes(), Strictness::Strict).expect("a simulated event is an event");
        self.events.push(Event {
            quantity: pieces,
            ..parsed
        });
    }
}

fn truncated(time: OffsetDateTime) -> OffsetDateTime {
    time.replace_nanosecond(u32::from(time.millisecond()) * 1_000_000)
        .expect("fewer than a second's nanoseconds")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_visits() {
        let visits = |seed| {
            let mut rng = fastrand::Rng::with_seed(seed);
            (0..20)
                .map(|_| {
                    Visit::new(&mut rng, shop_of(0), OffsetDateTime::UNIX_EPOCH)
                        .sends
                        .into_iter()
                        .map(|send| send.json)
                        .collect::<Vec<_>>()
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(visits(7), visits(7));
        assert_ne!(visits(7), visits(8));
    }

    #[test]
    fn visits_have_their_mishaps() {
        let mut rng = fastrand::Rng::with_seed(3);
        let visits: Vec<Visit> = (0..300)
            .map(|_| Visit::new(&mut rng, shop_of(0), OffsetDateTime::UNIX_EPOCH))
            .collect();
        let ids = |visit: &Visit| visit.sends.iter().map(|send| send.event.action_id).collect::<Vec<_>>();
        assert!(
            visits
                .iter()
                .any(|visit| ids(visit).windows(2).any(|pair| pair[0] == pair[1])),
            "nothing repeated"
        );
        assert!(visits.iter().any(|visit| !ids(visit).is_sorted()), "nothing late");
        assert!(
            visits
                .iter()
                .any(|visit| visit.sends.iter().any(|send| send.event.action == "REMOVE"))
        );
        assert!(
            visits
                .iter()
                .any(|visit| visit.sends.iter().any(|send| send.event.action == "CANCEL"))
        );
    }
}
