//! The fifteen promises that must hold whatever fails, by the numbers under which reports name them.

use std::fmt;

/// A promise of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// What was acknowledged is in the journal once.
    I1,
    /// What was not acknowledged is in it once or not at all.
    I2,
    /// Nothing is in it that nobody sent.
    I3,
    /// Each basket is what an independent fold of the journal makes of it.
    I4,
    /// Each basket and each checkpoint is as far as the journal and no further, and no fence falls.
    I5,
    /// What a session sent one after the other is recorded in that order.
    I6,
    /// Who watches sees every version in order, wherever it was cut off, and ends with what is so.
    I7,
    /// Each edit and each correction is one event or one rejection.
    I8,
    /// What cannot be read waits, in order, and holds up nobody else.
    I9,
    /// Nobody is told or changes anything of another shop.
    I10,
    /// A rebuild makes the same baskets.
    I11,
    /// An answer of 2xx means that the event is in the journal, at the place that was told.
    I12,
    /// Memory and descriptors of each process have bounds, and none panics.
    I13,
    /// After the end of a fault nothing stands still for more than 30 s, and in the end events are told at once again: within a second,
    /// or on a slow machine within three times what it took before.
    I14,
    /// A journal that ends earlier than before, or is another one, is never taken for one that has nothing new.
    I15,
}

impl Promise {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::I1,
        Self::I2,
        Self::I3,
        Self::I4,
        Self::I5,
        Self::I6,
        Self::I7,
        Self::I8,
        Self::I9,
        Self::I10,
        Self::I11,
        Self::I12,
        Self::I13,
        Self::I14,
        Self::I15,
    ];
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
