//! The basket of one session: a function of the *set* of its events.
//!
//! Whatever order the events come in and however often each comes, the same set gives the same
//! basket to the byte. That holds because a basket keeps its actions: an action that comes late
//! is put where it belongs and the basket is folded again. Nothing here can fail; what makes no
//! sense is a finding.

mod correct;
mod decide;
mod explain;
mod fold;
mod past;

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::core::event::{
    Abandonment, ActionIdMeaning, Change, Correction, Event, JournalEvent, Recorded, unix_microseconds,
};
use crate::core::id::BasketId;
use fold::Fold;

pub use correct::{Asked, PlanError};
pub use decide::{LineSince, Plan, Refused, Since};
pub use explain::{CorrectionEffect, Effect, Explanation, Idle};
pub use fold::{Divergence, FINDINGS_MAX, Finding, FindingKind, Line, Lot, MISSING_MAX, Status};

/// Most events that a basket keeps; later ones are parked.
pub const EVENTS_MAX: usize = 10_000;
/// Most bytes of texts that a basket's events have together; later events are parked. A text may stand
/// in an action and again in its line, so this and [`EVENTS_MAX`] keep a document below MongoDB's 16 MiB.
pub const TEXT_BYTES_MAX: usize = 3 * 1024 * 1024;

/// What became of an event that was put into a basket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It counts from now on.
    Counted,
    /// The basket has it already; nothing changed.
    Duplicate,
    /// Another event of the same identity counts; this one is a finding from now on.
    Conflicting,
    /// The basket has [`EVENTS_MAX`] events or [`TEXT_BYTES_MAX`] bytes of texts; nothing changed.
    Full,
}

/// What changed since the basket was last saved, so that a write costs what changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Everything: the basket was never saved, or an event was put before others.
    pub everything: bool,
    /// Actions from this place on are new.
    pub actions_from: usize,
    /// Conflicting copies from this place on are new.
    pub conflicts_from: usize,
    /// The abandonments or the corrections differ, or which of these count.
    pub marks: bool,
    /// The lines that differ.
    pub lines: LineChanges,
    /// The findings differ.
    pub findings: bool,
}

/// Which lines changed since the basket was last saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineChanges {
    /// Those at these places.
    Some(BTreeSet<usize>),
    /// Any of them, and their number may be smaller.
    All,
}

/// The basket of one session.
#[derive(Debug, Clone)]
pub struct Basket {
    id: BasketId,
    meaning: ActionIdMeaning,
    actions: Vec<Recorded>,
    conflicts: Vec<Recorded>,
    abandonments: Vec<Recorded<Abandonment>>,
    corrections: Vec<Recorded<Correction>>,
    parked_since: Option<u64>,
    fold: Fold,
    by_identity: HashMap<(i64, i64), usize>,
    action_ids: HashSet<i64>,
    ids_repeat: bool,
    text_bytes: usize,
    folded: bool,
    changes: Changes,
}

impl Basket {
    /// A basket without events.
    pub fn new(id: BasketId, meaning: ActionIdMeaning) -> Self {
        Self {
            id,
            meaning,
            actions: Vec::new(),
            conflicts: Vec::new(),
            abandonments: Vec::new(),
            corrections: Vec::new(),
            parked_since: None,
            fold: Fold::new(),
            by_identity: HashMap::new(),
            action_ids: HashSet::new(),
            ids_repeat: false,
            text_bytes: 0,
            folded: true,
            changes: Changes {
                everything: true,
                actions_from: 0,
                conflicts_from: 0,
                marks: true,
                lines: LineChanges::All,
                findings: true,
            },
        }
    }

    /// A basket as it was saved: its events of each kind in the order of their sequences.
    pub fn restore(
        id: BasketId,
        meaning: ActionIdMeaning,
        actions: Vec<Recorded>,
        conflicts: Vec<Recorded>,
        abandonments: Vec<Recorded<Abandonment>>,
        corrections: Vec<Recorded<Correction>>,
        parked_since: Option<u64>,
    ) -> Self {
        let mut basket = Self::new(id, meaning);
        basket.actions = actions;
        basket.conflicts = conflicts;
        basket.abandonments = abandonments;
        basket.corrections = corrections;
        basket.parked_since = parked_since;
        basket.index();
        basket.refold();
        basket.saved();
        basket
    }

    /// Puts an event of any kind into the basket. Call [`settle`](Self::settle) before reading what follows from it.
    pub fn put(&mut self, recorded: Recorded<JournalEvent>) -> Applied {
        let Recorded {
            sequence,
            recorded_at,
            event,
        } = recorded;
        match event {
            JournalEvent::Action(event) => self.apply(Recorded {
                sequence,
                recorded_at,
                event,
            }),
            JournalEvent::Abandonment(event) => self.abandon(Recorded {
                sequence,
                recorded_at,
                event,
            }),
            JournalEvent::Correction(event) => self.correct(Recorded {
                sequence,
                recorded_at,
                event,
            }),
        }
    }

    /// Puts an abandonment into the basket. Of those after the same event the first in the journal counts.
    ///
    /// A basket is never too full for one: it has at most one for each other event.
    fn abandon(&mut self, recorded: Recorded<Abandonment>) -> Applied {
        let same = |other: &Recorded<Abandonment>| other.event.after == recorded.event.after;
        if let Some(known) = self.abandonments.iter().position(same) {
            if self.abandonments[known].sequence <= recorded.sequence {
                return Applied::Duplicate;
            }
            self.abandonments.remove(known);
        }
        let place = self
            .abandonments
            .partition_point(|other| other.sequence < recorded.sequence);
        self.abandonments.insert(place, recorded);
        self.changes.marks = true;
        Applied::Counted
    }

    /// Puts a correction into the basket. Of those with one id the first in the journal counts.
    fn correct(&mut self, recorded: Recorded<Correction>) -> Applied {
        if let Some(known) = self
            .corrections
            .iter()
            .position(|other| other.event.id == recorded.event.id)
        {
            if self.corrections[known].sequence <= recorded.sequence {
                return Applied::Duplicate;
            }
            self.corrections.remove(known);
        } else if self.is_full_with(correction_bytes(&recorded.event)) {
            return Applied::Full;
        }
        let place = self
            .corrections
            .partition_point(|other| other.sequence < recorded.sequence);
        self.corrections.insert(place, recorded);
        self.count_bytes();
        self.changes.marks = true;
        self.folded = false;
        Applied::Counted
    }

    /// Puts an action into the basket. Call [`settle`](Self::settle) before reading what follows from it.
    pub fn apply(&mut self, mut recorded: Recorded) -> Applied {
        recorded.event.unknown.clear();
        let identity = self.identity(&recorded.event);
        if let Some(&place) = self.by_identity.get(&identity) {
            return self.apply_copy(place, identity, recorded);
        }
        if self.is_full_for(&recorded.event) {
            return Applied::Full;
        }
        self.text_bytes += text_bytes(&recorded.event);
        let repeats = !self.action_ids.insert(recorded.event.action_id);
        let order_changes = repeats && !self.ids_repeat && self.meaning == ActionIdMeaning::Auto;
        self.ids_repeat |= repeats;
        let place = self
            .actions
            .partition_point(|action| action.sequence < recorded.sequence);
        if place < self.actions.len() {
            self.changes.everything = true;
            self.actions.insert(place, recorded);
            self.index();
            self.folded = false;
            return Applied::Counted;
        }
        self.by_identity.insert(identity, place);
        let in_order = self
            .fold
            .last_key
            .is_none_or(|last| last < self.order_key(&recorded.event));
        if self.folded && in_order && !order_changes && self.corrections.is_empty() {
            let findings = self.fold.finding_count;
            let touched = self
                .fold
                .step(&recorded, self.by_time(), self.reports_repeats(), 0, None);
            self.changes.findings |= findings != self.fold.finding_count;
            if let (Some(line), LineChanges::Some(lines)) = (touched, &mut self.changes.lines) {
                lines.insert(line);
            }
        } else {
            self.folded = false;
        }
        self.actions.push(recorded);
        Applied::Counted
    }

    /// Of the copies of one identity the first in the journal counts; each other body is kept once.
    fn apply_copy(&mut self, place: usize, identity: (i64, i64), copy: Recorded) -> Applied {
        let winner = &self.actions[place];
        let known = std::iter::once(winner)
            .chain(&self.conflicts)
            .any(|other| other.event == copy.event && other.sequence <= copy.sequence);
        if known {
            return Applied::Duplicate;
        }
        let wins = copy.sequence < winner.sequence;
        if self.is_full_for(&copy.event) {
            return Applied::Full;
        }
        self.text_bytes += text_bytes(&copy.event);
        self.folded = false;
        let newest = self.conflicts.last().is_none_or(|last| last.sequence < copy.sequence);
        if !wins && newest {
            self.conflicts.push(copy);
            return Applied::Conflicting;
        }
        // A copy from further up the journal than what is here, which only a fold out of order meets.
        self.changes.everything = true;
        let same_identity = |basket: &Self, other: &Recorded| basket.identity(&other.event) == identity;
        let (mut copies, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.conflicts)
            .into_iter()
            .partition(|other| same_identity(self, other));
        self.conflicts = others;
        copies.push(self.actions.remove(place));
        copies.push(copy);
        copies.sort_by_key(|other| other.sequence);
        let mut bodies: Vec<Recorded> = Vec::new();
        for copy in copies {
            if bodies.iter().all(|body| body.event != copy.event) {
                bodies.push(copy);
            }
        }
        let first = bodies.remove(0);
        self.actions.push(first);
        self.conflicts.extend(bodies);
        self.actions.sort_by_key(|action| action.sequence);
        self.conflicts.sort_by_key(|conflict| conflict.sequence);
        self.index();
        if wins { Applied::Counted } else { Applied::Conflicting }
    }

    /// Marks that this event of the session, and so every later one, waits among the parked events.
    pub fn park(&mut self, sequence: u64) {
        self.parked_since = Some(self.parked_since.map_or(sequence, |since| since.min(sequence)));
    }

    /// Marks that no event of the session is parked any more.
    pub fn unpark(&mut self) {
        self.parked_since = None;
    }

    /// Brings what follows from the events up to date; cheap where all of them came in order.
    pub fn settle(&mut self) {
        if !self.folded {
            self.refold();
        }
    }

    /// Marks everything as saved.
    pub fn saved(&mut self) {
        self.changes = Changes {
            everything: false,
            actions_from: self.actions.len(),
            conflicts_from: self.conflicts.len(),
            marks: false,
            lines: LineChanges::Some(BTreeSet::new()),
            findings: false,
        };
    }

    fn refold(&mut self) {
        let fold = self.folded_with(|_, _| {});
        let before = std::mem::replace(&mut self.fold, Fold::new());
        if before.lines != fold.lines {
            self.changes.lines = LineChanges::All;
        }
        self.changes.findings |= before.findings != fold.findings || before.finding_count != fold.finding_count;
        self.fold = fold;
        self.folded = true;
    }

    /// Folds the actions in their order, and the corrections that count among them, and shows the fold after each.
    ///
    /// A correction stands behind the last action, in their order, that was recorded before it: the
    /// author saw no more than those.
    fn folded_with<'a>(&'a self, mut after_each: impl FnMut(&mut Fold, Step<'a>)) -> Fold {
        let mut order: Vec<&Recorded> = self.actions.iter().collect();
        order.sort_by_cached_key(|action| self.order_key(&action.event));
        let mut conflicts: HashMap<(i64, i64), usize> = HashMap::new();
        for conflict in &self.conflicts {
            *conflicts.entry(self.identity(&conflict.event)).or_default() += 1;
        }
        let mut corrections = self.placed_among(&order).into_iter().peekable();
        // What the app can know of the total.
        let mut of_actions = corrections.peek().map(|_| Fold::new());
        let mut fold = Fold::new();
        let (by_time, reports_repeats) = (self.by_time(), self.reports_repeats());
        for place in 0..=order.len() {
            while let Some((_, correction)) = corrections.next_if(|(behind, _)| *behind == place) {
                fold.correct(&correction.event);
                after_each(&mut fold, Step::Correction(correction));
            }
            let Some(action) = order.get(place).copied() else { break };
            let copies = if conflicts.is_empty() {
                0
            } else {
                conflicts.get(&self.identity(&action.event)).copied().unwrap_or(0)
            };
            let uncorrected = of_actions.as_mut().map(|fold| {
                fold.step(action, by_time, reports_repeats, copies, None);
                fold.total
            });
            let touched = fold.step(action, by_time, reports_repeats, copies, uncorrected);
            after_each(&mut fold, Step::Action(action, touched));
        }
        fold
    }

    /// The corrections that count, each with the number of actions that it stands behind.
    fn placed_among(&self, order: &[&Recorded]) -> Vec<(usize, &Recorded<Correction>)> {
        let place = |correction: &Recorded<Correction>| {
            let last = order.iter().rposition(|action| action.sequence < correction.sequence);
            last.map_or(0, |last| last + 1)
        };
        let counting = self.counting().into_iter();
        let mut placed: Vec<_> = counting.map(|correction| (place(correction), correction)).collect();
        placed.sort_by_key(|(place, correction)| (*place, correction.sequence));
        placed
    }

    fn index(&mut self) {
        self.by_identity = self
            .actions
            .iter()
            .enumerate()
            .map(|(place, action)| (self.identity(&action.event), place))
            .collect();
        self.action_ids = self.actions.iter().map(|action| action.event.action_id).collect();
        self.ids_repeat = self.action_ids.len() < self.actions.len();
        self.count_bytes();
    }

    fn count_bytes(&mut self) {
        let of_actions: usize = self
            .actions
            .iter()
            .chain(&self.conflicts)
            .map(|kept| text_bytes(&kept.event))
            .sum();
        let of_corrections: usize = self.corrections.iter().map(|kept| correction_bytes(&kept.event)).sum();
        self.text_bytes = of_actions + of_corrections;
    }

    fn is_full_for(&self, event: &Event) -> bool {
        self.is_full_with(text_bytes(event))
    }

    fn is_full_with(&self, more_bytes: usize) -> bool {
        self.actions.len() + self.conflicts.len() + self.corrections.len() >= EVENTS_MAX
            || self.text_bytes + more_bytes > TEXT_BYTES_MAX
    }

    fn identity(&self, event: &Event) -> (i64, i64) {
        match self.meaning {
            ActionIdMeaning::Number => (event.action_id, 0),
            ActionIdMeaning::Auto | ActionIdMeaning::Code => (event.action_id, unix_microseconds(event.create_time)),
        }
    }

    fn by_time(&self) -> bool {
        match self.meaning {
            ActionIdMeaning::Auto => self.ids_repeat,
            ActionIdMeaning::Number => false,
            ActionIdMeaning::Code => true,
        }
    }

    /// A repeated id may be a retry that was stamped anew, unless it is known to be a code.
    fn reports_repeats(&self) -> bool {
        self.meaning == ActionIdMeaning::Auto
    }

    fn order_key(&self, event: &Event) -> (i64, i64) {
        let time = unix_microseconds(event.create_time);
        if self.by_time() {
            (time, event.action_id)
        } else {
            (event.action_id, time)
        }
    }

    /// Which basket this is.
    pub fn id(&self) -> BasketId {
        self.id
    }

    /// The actions that count, in the order of the journal.
    pub fn actions(&self) -> &[Recorded] {
        &self.actions
    }

    /// Other bodies under the identity of an action that counts, in the order of the journal.
    pub fn conflicts(&self) -> &[Recorded] {
        &self.conflicts
    }

    /// What says that the shopper did nothing for a long time, in the order of the journal; most of it may be void by now.
    pub fn abandonments(&self) -> &[Recorded<Abandonment>] {
        &self.abandonments
    }

    /// Whether the event at this place in the journal is in the basket as an event of its own, and no copy.
    pub fn holds(&self, sequence: u64) -> bool {
        self.actions
            .binary_search_by_key(&sequence, |action| action.sequence)
            .is_ok()
            || self.abandonments.iter().any(|other| other.sequence == sequence)
            || self.corrections.iter().any(|other| other.sequence == sequence)
    }

    /// The places in the journal of all events that the basket holds.
    pub fn sequences(&self) -> BTreeSet<u64> {
        let of_phones = self.actions.iter().chain(&self.conflicts).map(|event| event.sequence);
        let idle = self.abandonments.iter().map(|event| event.sequence);
        let of_people = self.corrections.iter().map(|event| event.sequence);
        of_phones.chain(idle).chain(of_people).collect()
    }

    /// The highest place in the journal of an event that the basket holds; 0 without events.
    pub fn sequence(&self) -> u64 {
        let abandoned = self.abandonments.last().map_or(0, |event| event.sequence);
        let corrected = self.corrections.last().map_or(0, |event| event.sequence);
        self.last_activity()
            .max(abandoned)
            .max(corrected)
            .max(self.parked_since.unwrap_or(0))
    }

    /// The highest place in the journal of what the shopper's phone sent, or of a correction that says where
    /// the visit stands; 0 if there is neither.
    fn last_activity(&self) -> u64 {
        let last = |events: &[Recorded]| events.last().map_or(0, |event| event.sequence);
        let moves = |correction: &&Recorded<Correction>| {
            let mut changes = correction.event.changes.iter();
            changes.any(|change| matches!(change, Change::Status { .. }))
        };
        let counting = self.counting();
        let moved = counting
            .iter()
            .copied()
            .rfind(moves)
            .map_or(0, |correction| correction.sequence);
        last(&self.actions).max(last(&self.conflicts)).max(moved)
    }

    /// Where the visit stands.
    pub fn status(&self) -> Status {
        match self.state().ended {
            Some(ended) => ended,
            None if self.abandonments.iter().any(|recorded| !self.is_void(&recorded.event)) => Status::Abandoned,
            None => Status::Open,
        }
    }

    /// Whether the shopper came back after what this abandonment is about, or has ended the visit.
    pub fn is_void(&self, abandonment: &Abandonment) -> bool {
        self.state().ended.is_some() || abandonment.after < self.last_activity()
    }

    /// How many events the basket holds; grows with each.
    pub fn version(&self) -> usize {
        self.actions.len() + self.conflicts.len() + self.abandonments.len() + self.corrections.len()
    }

    /// How many bytes the basket takes in memory, about.
    pub fn weight(&self) -> usize {
        const EVENT_BYTES: usize = 1_200;
        EVENT_BYTES * (self.version() + 1) + 2 * self.text_bytes
    }

    /// The first event of the session that is parked, if one is.
    pub fn parked_since(&self) -> Option<u64> {
        self.parked_since
    }

    /// What changed since the basket was last saved.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// What follows from the events.
    pub fn state(&self) -> &Fold {
        debug_assert!(self.folded, "settle comes before reading");
        &self.fold
    }
}

/// A step of the fold.
enum Step<'a> {
    /// An action, and the place of the line that it changed.
    Action(&'a Recorded, Option<usize>),
    /// A correction.
    Correction(&'a Recorded<Correction>),
}

/// Bytes of a correction's texts, and of its changes, of which there may be many.
fn correction_bytes(correction: &Correction) -> usize {
    const CHANGE_BYTES: usize = 200;
    correction.author.len() + correction.reason.len() + CHANGE_BYTES * correction.changes.len()
}

/// Bytes of the texts whose length the phone decides.
fn text_bytes(event: &Event) -> usize {
    [&event.product_name, &event.upc, &event.category_id]
        .into_iter()
        .flatten()
        .map(String::len)
        .sum()
}

#[cfg(test)]
mod tests;
