//! What a basket must be, worked out a second time: from the journal's bodies, without the product's code.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// An action as the journal's body tells it; money in 1/10,000.
#[derive(Debug, Clone)]
pub struct Action {
    pub sequence: u64,
    pub basket: String,
    id: i64,
    time: i128,
    word: String,
    shopper: String,
    product: Option<(i64, i128)>,
    quantity: i128,
    claimed: i128,
}

/// That a basket was idle, as the journal's body tells it.
#[derive(Debug, Clone, Copy)]
pub struct Idle {
    pub sequence: u64,
    /// The last event of the basket by then.
    pub after: u64,
}

impl Idle {
    /// Reads a body of the journal: the basket, and what is said of it.
    pub fn read(sequence: u64, body: &[u8]) -> Option<(String, Self)> {
        let body: serde_json::Value = serde_json::from_slice(body).ok()?;
        let basket = format!("{}.{}", body["shop_id"].as_str()?, body["session_id"].as_str()?);
        let after = body["after"].as_u64()?;
        Some((basket, Self { sequence, after }))
    }
}

#[derive(Deserialize)]
struct Body<'a> {
    session_id: String,
    shop_id: String,
    shopper_id: String,
    action_id: i64,
    create_time: String,
    action: String,
    product_id: Option<i64>,
    #[serde(borrow)]
    product_price: Option<&'a RawValue>,
    quantity: Option<i128>,
    #[serde(borrow)]
    basket_total: &'a RawValue,
}

impl Action {
    /// Reads a body of the journal, where it is an action.
    pub fn read(sequence: u64, body: &[u8]) -> Option<Self> {
        let body: Body<'_> = serde_json::from_slice(body).ok()?;
        let price = body.product_price.and_then(|price| money(price.get()));
        Some(Self {
            sequence,
            basket: format!("{}.{}", body.shop_id, body.session_id),
            id: body.action_id,
            time: OffsetDateTime::parse(&body.create_time, &Rfc3339)
                .ok()?
                .unix_timestamp_nanos(),
            word: body.action.to_ascii_uppercase(),
            shopper: body.shopper_id,
            product: body.product_id.zip(price),
            quantity: body.quantity.unwrap_or(1),
            claimed: money(body.basket_total.get())?,
        })
    }

    /// What copies of one event have in common within a basket.
    pub fn identity(&self) -> (i64, i128) {
        (self.id, self.time)
    }
}

/// Decimal text with at most four decimals, as the journal and MongoDB write it.
pub fn money(text: &str) -> Option<i128> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = format!("{fraction:0<4}");
    (fraction.len() == 4).then_some(())?;
    let number: i128 = format!("{whole}{fraction}").parse().ok()?;
    Some(sign * number)
}

/// Pieces of one product: number, pieces, what they cost, and pieces by price.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    pub product: i64,
    pub quantity: i128,
    pub amount: i128,
    pub prices: Vec<(i128, i128)>,
}

/// What follows from a set of actions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    pub status: &'static str,
    pub item_count: i128,
    pub total: i128,
    pub claimed: Option<i128>,
    pub diverged: bool,
    pub findings: i128,
    pub version: i128,
    pub lines: Vec<Line>,
}

/// The basket of these events, whatever order they are given in.
pub fn expected(actions: &[Action], idles: &[Idle]) -> Expected {
    let mut basket = of_actions(actions);
    let last = actions.iter().map(|action| action.sequence).max().unwrap_or(0);
    if basket.status == "open" && idles.iter().any(|idle| idle.after >= last) {
        basket.status = "abandoned";
    }
    basket.version += idles.len() as i128;
    basket
}

fn of_actions(actions: &[Action]) -> Expected {
    let ids: BTreeSet<i64> = actions.iter().map(|action| action.id).collect();
    let numbered = ids.len() == actions.len();
    let mut order: Vec<&Action> = actions.iter().collect();
    order.sort_by_key(|action| {
        if numbered {
            (i128::from(action.id), action.time)
        } else {
            (action.time, i128::from(action.id))
        }
    });
    let mut basket = Expected {
        status: "open",
        version: actions.len() as i128,
        ..Expected::default()
    };
    let mut times: BTreeMap<i64, usize> = BTreeMap::new();
    for action in &order {
        let time = times.entry(action.id).or_default();
        *time += 1;
        // An id that comes again is told once, however often it comes.
        basket.findings += i128::from(*time == 2) + i128::from(action.shopper != order[0].shopper);
        basket.take(action);
    }
    basket.item_count = basket.lines.iter().map(|line| line.quantity).sum();
    basket.total = basket.lines.iter().map(|line| line.amount).sum();
    basket
}

impl Expected {
    fn take(&mut self, action: &Action) {
        if self.status != "open" {
            self.findings += 1;
            return;
        }
        match (action.word.as_str(), action.product) {
            ("ADD", Some((product, price))) => self.add(product, price, action.quantity),
            ("REMOVE", Some((product, price))) => self.remove(product, price, action.quantity),
            ("CHECKOUT", _) => self.status = "paid",
            ("CANCEL", _) => self.status = "cancelled",
            _ => self.findings += 1,
        }
        let total: i128 = self.lines.iter().map(|line| line.amount).sum();
        let emptied = self.status == "cancelled" && action.claimed == 0;
        self.claimed = Some(action.claimed);
        self.diverged = action.claimed != total && !emptied;
    }

    fn add(&mut self, product: i64, price: i128, pieces: i128) {
        let place = self.lines.iter().position(|line| line.product == product);
        let place = place.unwrap_or_else(|| {
            self.lines.push(Line {
                product,
                ..Line::default()
            });
            self.lines.len() - 1
        });
        let line = &mut self.lines[place];
        self.findings += i128::from(line.prices.last().is_some_and(|(last, _)| *last != price));
        match line.prices.iter_mut().find(|(known, _)| *known == price) {
            Some((_, quantity)) => *quantity += pieces,
            None => line.prices.push((price, pieces)),
        }
        line.recount();
    }

    /// Pieces at the named price go first, then those of the newest prices; what is not there is a finding.
    fn remove(&mut self, product: i64, price: i128, pieces: i128) {
        let Some(line) = self.lines.iter_mut().find(|line| line.product == product) else {
            self.findings += 1;
            return;
        };
        let (mut left, mut elsewhere) = (pieces, false);
        while left > 0 && !line.prices.is_empty() {
            let named = line.prices.iter().position(|(known, _)| *known == price);
            elsewhere |= named.is_none();
            let place = named.unwrap_or(line.prices.len() - 1);
            let taken = left.min(line.prices[place].1);
            left -= taken;
            line.prices[place].1 -= taken;
            line.prices.retain(|(_, quantity)| *quantity > 0);
        }
        self.findings += i128::from(elsewhere) + i128::from(left > 0);
        line.recount();
    }
}

impl Line {
    fn recount(&mut self) {
        self.quantity = self.prices.iter().map(|(_, quantity)| quantity).sum();
        self.amount = self.prices.iter().map(|(price, quantity)| price * quantity).sum();
    }
}
