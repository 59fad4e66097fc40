//! Folding actions, in their order, into lines, totals, verdict and findings.

use std::collections::{HashMap, HashSet};

use time::OffsetDateTime;

use crate::core::event::{Change, Correction, Event, Kind, Recorded};
use crate::core::id::ShopperId;
use crate::core::money::Money;

/// Most findings that a basket lists; it counts all of them.
pub const FINDINGS_MAX: usize = 100;
/// Most missing ids that a basket lists.
pub const MISSING_MAX: usize = 100;

/// Where a visit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The shopper is shopping.
    Open,
    /// The shopper has done nothing for a long time, and may come back.
    Abandoned,
    /// The shopper paid.
    Paid,
    /// The shopper left without paying.
    Cancelled,
}

impl Status {
    /// The status of this word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|status| status.word() == word)
    }

    /// Every status.
    pub const ALL: &[Self] = &[Self::Open, Self::Abandoned, Self::Paid, Self::Cancelled];

    /// The word for it in documents and messages.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Abandoned => "abandoned",
            Self::Paid => "paid",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Pieces of a product that came at one price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lot {
    /// Price of one piece.
    pub price: Money,
    /// Number of pieces.
    pub quantity: u64,
}

/// A product in the basket; it stays with quantity 0 when its last piece was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Product number.
    pub product_id: i64,
    /// Name at the last ADD.
    pub product_name: Option<String>,
    /// Bar code at the last ADD.
    pub upc: Option<String>,
    /// Category at the last ADD.
    pub category_id: Option<String>,
    /// Number of pieces.
    pub quantity: u64,
    /// What these pieces cost.
    pub amount: Money,
    /// The pieces by price, in the order in which the prices came.
    pub lots: Vec<Lot>,
}

/// Something about a basket that a person may want to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// The action at which it was found, by its place in the journal.
    pub sequence: u64,
    /// The same action, by its number.
    pub action_id: i64,
    /// The product concerned, if it is about one.
    pub product_id: Option<i64>,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FindingKind {
    /// More pieces were removed than were there; only those that were there left.
    RemovedAbsent,
    /// A piece came or left at another price than the pieces before it.
    PriceChanged,
    /// An action after the visit had ended; it has no effect.
    AfterEnd,
    /// A word that is none of ADD, REMOVE, CHECKOUT and CANCEL; it has no effect.
    UnknownAction,
    /// An action number came with another time: a code, or a retry that was stamped anew.
    RepeatedActionId,
    /// The journal has another body for the same action; the first one counts.
    ConflictingCopy,
    /// The action names another shopper than the visit's first.
    ShopperChanged,
}

impl FindingKind {
    /// Every kind.
    pub const ALL: &[Self] = &[
        Self::RemovedAbsent,
        Self::PriceChanged,
        Self::AfterEnd,
        Self::UnknownAction,
        Self::RepeatedActionId,
        Self::ConflictingCopy,
        Self::ShopperChanged,
    ];

    /// The word for it in documents and messages.
    pub const fn word(self) -> &'static str {
        match self {
            Self::RemovedAbsent => "removed_absent",
            Self::PriceChanged => "price_changed",
            Self::AfterEnd => "after_end",
            Self::UnknownAction => "unknown_action",
            Self::RepeatedActionId => "repeated_action_id",
            Self::ConflictingCopy => "conflicting_copy",
            Self::ShopperChanged => "shopper_changed",
        }
    }
}

/// A claimed total that is not the computed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Divergence {
    /// Place in the journal of the first action since which the totals have differed.
    pub since_sequence: u64,
    /// The same action, by its number.
    pub since_action_id: i64,
    /// Claimed less computed, at the last action.
    pub by: Money,
}

/// What follows from a basket's actions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fold {
    /// How the shopper ended the visit, if so.
    pub(super) ended: Option<Status>,
    /// Products in the order in which they first came.
    pub lines: Vec<Line>,
    /// Number of pieces.
    pub item_count: u64,
    /// What corrections put on top of what the pieces cost.
    pub adjustment: Money,
    /// What the pieces cost, with the adjustment.
    pub total: Money,
    /// What the app last claimed them to cost.
    pub claimed_total: Option<Money>,
    /// How claim and computation differ, if they do.
    pub divergence: Option<Divergence>,
    /// The first [`FINDINGS_MAX`] findings.
    pub findings: Vec<Finding>,
    /// The number of findings.
    pub finding_count: usize,
    /// Who shops: the first action's shopper.
    pub shopper: Option<ShopperId>,
    /// Time of the first action.
    pub opened_at: Option<OffsetDateTime>,
    /// Time of the last action.
    pub last_action_at: Option<OffsetDateTime>,
    /// Word of the last action.
    pub last_action: Option<String>,
    /// Where the last action stands in the order.
    pub(super) last_key: Option<(i64, i64)>,
    /// The place of each product's line.
    pub(super) line_of: HashMap<i64, usize>,
    seen_ids: HashSet<i64>,
    reported_ids: HashSet<i64>,
    gaps: Vec<i64>,
    id_range: Option<(i64, i64)>,
    actions: usize,
    by_time: bool,
}

impl Fold {
    pub(super) fn new() -> Self {
        Self {
            ended: None,
            lines: Vec::new(),
            item_count: 0,
            adjustment: Money::ZERO,
            total: Money::ZERO,
            claimed_total: None,
            divergence: None,
            findings: Vec::new(),
            finding_count: 0,
            shopper: None,
            opened_at: None,
            last_action_at: None,
            last_action: None,
            last_key: None,
            line_of: HashMap::new(),
            seen_ids: HashSet::new(),
            reported_ids: HashSet::new(),
            gaps: Vec::new(),
            id_range: None,
            actions: 0,
            by_time: false,
        }
    }

    /// The ids of actions that seem not to have come yet, at most [`MISSING_MAX`] of them.
    ///
    /// Empty where that cannot be known: where ids repeat or are codes, or lie so far apart that
    /// they hardly number the actions of one visit.
    pub fn missing(&self) -> &[i64] {
        let dense = self
            .id_range
            .is_some_and(|(first, last)| i128::from(last) - i128::from(first) < 2 * self.actions as i128);
        if dense && !self.by_time { &self.gaps } else { &[] }
    }

    /// Takes the next action in order; `copies` is the number of other bodies under its identity, and
    /// `uncorrected` the total that the actions alone make, which the app may know instead.
    /// Answers the place of the line that it changed.
    pub(super) fn step(
        &mut self,
        recorded: &Recorded,
        by_time: bool,
        reports_repeats: bool,
        copies: usize,
        uncorrected: Option<Money>,
    ) -> Option<usize> {
        let event = &recorded.event;
        let time = crate::core::event::unix_microseconds(event.create_time);
        self.by_time = by_time;
        self.last_key = Some(if by_time {
            (time, event.action_id)
        } else {
            (event.action_id, time)
        });
        self.actions += 1;
        self.note_id(recorded, reports_repeats);
        for _ in 0..copies {
            self.find(FindingKind::ConflictingCopy, recorded, None);
        }
        match self.shopper {
            None => self.shopper = Some(event.shopper),
            Some(shopper) if shopper != event.shopper => self.find(FindingKind::ShopperChanged, recorded, None),
            Some(_) => {}
        }
        self.opened_at = Some(
            self.opened_at
                .map_or(event.create_time, |opened| opened.min(event.create_time)),
        );
        self.last_action_at = Some(event.create_time);
        self.last_action = Some(event.action.clone());

        if self.ended.is_some() {
            self.find(FindingKind::AfterEnd, recorded, event.product_id);
            return None;
        }
        let touched = match event.kind() {
            Kind::Add => self.add(recorded),
            Kind::Remove => self.remove(recorded),
            Kind::Checkout => {
                self.ended = Some(Status::Paid);
                None
            }
            Kind::Cancel => {
                self.ended = Some(Status::Cancelled);
                None
            }
            Kind::Other => {
                self.find(FindingKind::UnknownAction, recorded, event.product_id);
                None
            }
        };
        self.compare(recorded, uncorrected);
        touched
    }

    fn note_id(&mut self, recorded: &Recorded, reports_repeats: bool) {
        let id = recorded.event.action_id;
        if !self.seen_ids.insert(id) && reports_repeats && self.reported_ids.insert(id) {
            self.find(FindingKind::RepeatedActionId, recorded, None);
        }
        if let Some((first, last)) = self.id_range {
            // Only in the order of ids is this the next one; otherwise nobody asks for the gaps.
            let mut gap = last.saturating_add(1);
            while gap < id && self.gaps.len() < MISSING_MAX {
                self.gaps.push(gap);
                gap += 1;
            }
            self.id_range = Some((first.min(id), last.max(id)));
        } else {
            self.id_range = Some((id, id));
        }
    }

    fn add(&mut self, recorded: &Recorded) -> Option<usize> {
        let event = &recorded.event;
        let (Some(product_id), Some(price)) = (event.product_id, event.product_price) else {
            return None;
        };
        let place = self.line(product_id);
        let line = &mut self.lines[place];
        line.product_name.clone_from(&event.product_name);
        line.upc.clone_from(&event.upc);
        line.category_id.clone_from(&event.category_id);
        let changed = line.lots.last().is_some_and(|lot| lot.price != price);
        self.put_pieces(place, price, event.quantity);
        if changed {
            self.find(FindingKind::PriceChanged, recorded, Some(product_id));
        }
        Some(place)
    }

    /// The place of a product's line, which is made where there is none.
    fn line(&mut self, product_id: i64) -> usize {
        *self.line_of.entry(product_id).or_insert_with(|| {
            self.lines.push(Line {
                product_id,
                product_name: None,
                upc: None,
                category_id: None,
                quantity: 0,
                amount: Money::ZERO,
                lots: Vec::new(),
            });
            self.lines.len() - 1
        })
    }

    fn put_pieces(&mut self, place: usize, price: Money, pieces: u32) {
        let line = &mut self.lines[place];
        let (quantity, amount) = (u64::from(pieces), price.times(pieces));
        match line.lots.iter_mut().find(|lot| lot.price == price) {
            Some(lot) => lot.quantity += quantity,
            None => line.lots.push(Lot { price, quantity }),
        }
        line.quantity += quantity;
        line.amount += amount;
        self.item_count += quantity;
        self.total += amount;
    }

    fn remove(&mut self, recorded: &Recorded) -> Option<usize> {
        let event = &recorded.event;
        let (Some(product_id), Some(price)) = (event.product_id, event.product_price) else {
            return None;
        };
        let Some(&place) = self.line_of.get(&product_id) else {
            self.find(FindingKind::RemovedAbsent, recorded, Some(product_id));
            return None;
        };
        let taken = self.take_pieces(place, price, event.quantity);
        if taken.other_price {
            self.find(FindingKind::PriceChanged, recorded, Some(product_id));
        }
        if taken.pieces < event.quantity {
            self.find(FindingKind::RemovedAbsent, recorded, Some(product_id));
        }
        Some(place)
    }

    /// Pieces leave at the price that is named, as far as there are such; the rest leave at
    /// the newest prices, so that what stays always costs what it cost when it came.
    fn take_pieces(&mut self, place: usize, price: Money, wanted: u32) -> Taken {
        let line = &mut self.lines[place];
        let mut left = u64::from(wanted).min(line.quantity);
        let pieces = u32::try_from(left).expect("at most as many as are wanted");
        let mut other_price = false;
        while left > 0 {
            let same = line.lots.iter().position(|lot| lot.price == price);
            other_price |= same.is_none();
            let lot = same.unwrap_or(line.lots.len() - 1);
            let taken = left.min(line.lots[lot].quantity);
            let amount = line.lots[lot]
                .price
                .times(u32::try_from(taken).expect("at most as many as are wanted"));
            line.lots[lot].quantity -= taken;
            line.quantity -= taken;
            line.amount -= amount;
            self.total -= amount;
            self.item_count -= taken;
            left -= taken;
            if line.lots[lot].quantity == 0 {
                line.lots.remove(lot);
            }
        }
        Taken { pieces, other_price }
    }

    /// Takes a correction, which stands behind the actions that were recorded before it. Of what is no
    /// longer there as its author saw it, as much changes as is there.
    pub(super) fn correct(&mut self, correction: &Correction) {
        for change in &correction.changes {
            match *change {
                Change::Pieces { product_id, price, by } => {
                    let place = self.line(product_id);
                    let pieces = u32::try_from(by.unsigned_abs()).unwrap_or(u32::MAX);
                    if by < 0 {
                        self.take_pieces(place, price, pieces);
                    } else {
                        self.put_pieces(place, price, pieces);
                    }
                }
                Change::Price {
                    product_id,
                    from,
                    to,
                    pieces,
                } => {
                    let place = self.line(product_id);
                    let there = self.lines[place].lots.iter().find(|lot| lot.price == from);
                    let pieces = there.map_or(0, |lot| lot.quantity.min(pieces));
                    let pieces = u32::try_from(pieces).unwrap_or(u32::MAX);
                    if pieces > 0 && from != to {
                        self.take_pieces(place, from, pieces);
                        self.put_pieces(place, to, pieces);
                    }
                }
                Change::Total { by } => {
                    self.adjustment += by;
                    self.total += by;
                }
                Change::Status { to, .. } => self.ended = Some(to).filter(|to| *to != Status::Open),
                Change::Undo { .. } => {}
            }
        }
        // A correction makes no difference to what the app claims, but may mend one.
        if let (Some(claimed), Some(divergence)) = (self.claimed_total, self.divergence) {
            self.divergence = (claimed != self.total).then(|| Divergence {
                by: claimed - self.total,
                ..divergence
            });
        }
    }

    fn compare(&mut self, recorded: &Recorded, uncorrected: Option<Money>) {
        let Event {
            basket_total: claimed, ..
        } = recorded.event;
        self.claimed_total = Some(claimed);
        // An app may clear its basket when the shopper cancels, or keep showing what was in it.
        let emptied = self.ended == Some(Status::Cancelled) && claimed == Money::ZERO;
        let known = claimed == self.total || Some(claimed) == uncorrected;
        self.divergence = (!known && !emptied).then(|| {
            let by = claimed - self.total;
            match self.divergence {
                Some(earlier) => Divergence { by, ..earlier },
                None => Divergence {
                    since_sequence: recorded.sequence,
                    since_action_id: recorded.event.action_id,
                    by,
                },
            }
        });
    }

    fn find(&mut self, kind: FindingKind, recorded: &Recorded, product_id: Option<i64>) {
        self.finding_count += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding {
                kind,
                sequence: recorded.sequence,
                action_id: recorded.event.action_id,
                product_id,
            });
        }
    }
}

/// Pieces that left a line.
struct Taken {
    pieces: u32,
    /// Some of them at another price than the one that was named.
    other_price: bool,
}
