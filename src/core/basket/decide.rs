//! Whether what a person asks for can be, as the basket is: as differences, or why not.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{Applied, Basket, PlanError, Status};
use crate::core::event::{Change, Correction, JournalEvent, Proposal, Recorded};
use crate::core::money::Money;

/// The differences that a proposal makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Place in the journal of the last event of the basket that the author saw, or that it was made for.
    pub base_sequence: u64,
    /// What it changes.
    pub changes: Vec<Change>,
}

/// Why a proposal is no correction of the basket as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// What is asked for makes no sense.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Something happened that the author did not see.
    #[error("{0}")]
    MovedOn(Box<Since>),
    /// Events of the session wait for a decision, and a correction would wait behind them.
    #[error("event {0} of the session could not be applied and waits for a decision; `ezout parked list` shows it")]
    Parked(u64),
    /// The basket keeps no more events.
    #[error("the basket has as many events as it keeps")]
    Full,
}

impl Refused {
    /// The stable word for it.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Plan(error) => error.word(),
            Self::MovedOn(_) => "moved_on",
            Self::Parked(_) => "basket_parked",
            Self::Full => "basket_full",
        }
    }
}

/// What became otherwise after a place in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Since {
    /// The place.
    pub place: u64,
    /// Place in the journal of the basket's newest event.
    pub sequence: u64,
    /// Events of the basket after the place.
    pub events: usize,
    /// Where the visit stood and stands, if elsewhere.
    pub status: Option<(Status, Status)>,
    /// The total that was and is, if another.
    pub total: Option<(Money, Money)>,
    /// The lines that differ.
    pub lines: Vec<LineSince>,
}

/// A line that became otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineSince {
    /// The line.
    pub product_id: i64,
    /// Its name, where it has one.
    pub product_name: Option<String>,
    /// Pieces that there were and are.
    pub quantity: (u64, u64),
    /// What they cost and cost now.
    pub amount: (Money, Money),
}

impl std::fmt::Display for Since {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let events = if self.events == 1 { "event" } else { "events" };
        write!(
            f,
            "the basket has {} {events} after {} and is at {}",
            self.events, self.place, self.sequence
        )?;
        if let Some((from, to)) = self.status {
            write!(f, "; it is {} and was {}", to.word(), from.word())?;
        }
        if let Some((from, to)) = self.total {
            write!(f, "; its total is {to} and was {from}")?;
        }
        for line in self.lines.iter().take(3) {
            let (from, to) = line.quantity;
            write!(f, "; of product {} it has {to} and had {from}", line.product_id)?;
        }
        Ok(())
    }
}

impl Basket {
    /// The differences that make the basket, as it is now, what is asked for under an id that no correction of it has.
    ///
    /// # Errors
    /// [`Refused`] where it cannot be made so, would be worth less than nothing, or is not what the author saw.
    pub fn decide(&self, id: Uuid, proposal: &Proposal) -> Result<Plan, Refused> {
        if let Some(parked) = self.parked_since() {
            return Err(Refused::Parked(parked));
        }
        if let Some(since) = proposal.base_sequence.and_then(|base| self.since(base)) {
            return Err(Refused::MovedOn(Box::new(since)));
        }
        let plan = Plan {
            base_sequence: proposal.base_sequence.unwrap_or(self.sequence()),
            changes: self.plan(&proposal.asked)?,
        };
        let mut corrected = self.clone();
        let applied = corrected.put(Recorded {
            sequence: self.sequence() + 1,
            recorded_at: OffsetDateTime::UNIX_EPOCH,
            event: JournalEvent::Correction(Correction {
                basket: self.id(),
                id,
                author: proposal.author.clone(),
                reason: proposal.reason.clone(),
                base_sequence: plan.base_sequence,
                changes: plan.changes.clone(),
            }),
        });
        if applied == Applied::Full {
            return Err(Refused::Full);
        }
        corrected.settle();
        let (before, after) = (self.state().total, corrected.state().total);
        if after.is_negative() && after < before {
            return Err(PlanError::NegativeTotal(after).into());
        }
        Ok(plan)
    }

    /// What became otherwise after a place in the journal; nothing where the basket has no event after it.
    pub fn since(&self, place: u64) -> Option<Since> {
        let events = self
            .sequences()
            .into_iter()
            .filter(|sequence| *sequence > place)
            .count();
        if events == 0 {
            return None;
        }
        let before = self.as_of(place);
        let (was, is) = (before.state(), self.state());
        let differs = |from, to| (from != to).then_some((from, to));
        let line_before = |product_id: i64| {
            let line = was.lines.iter().find(|line| line.product_id == product_id);
            line.map_or((0, Money::ZERO), |line| (line.quantity, line.amount))
        };
        let lines = is.lines.iter().filter_map(|line| {
            let (quantity, amount) = line_before(line.product_id);
            let same = (quantity, amount) == (line.quantity, line.amount);
            (!same).then(|| LineSince {
                product_id: line.product_id,
                product_name: line.product_name.clone(),
                quantity: (quantity, line.quantity),
                amount: (amount, line.amount),
            })
        });
        let (status_before, status) = (before.status(), self.status());
        Some(Since {
            place,
            sequence: self.sequence(),
            events,
            status: (status_before != status).then_some((status_before, status)),
            total: differs(was.total, is.total),
            lines: lines.collect(),
        })
    }
}
