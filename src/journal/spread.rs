//! Over how many streams a journal is spread, and what a sequence is then.
//!
//! A stream has one leader and one store. Where that is too little, the partitions lie in several streams, each partition
//! in one, and with it each shop. A sequence stays one number: no two events of the journal share it, and it grows within
//! each stream. Between streams it says nothing about what came first. With one stream it is the stream's own.

use std::fmt;
use std::str::FromStr;

use super::STREAM;

/// How many streams a journal has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread(u16);

impl Spread {
    /// One stream.
    pub const ONE: Self = Self(1);

    /// That many streams; nothing where a journal cannot have so many.
    pub fn over(streams: u16) -> Option<Self> {
        matches!(streams, 1 | 2 | 4 | 8 | 16).then_some(Self(streams))
    }

    /// How many.
    pub fn streams(self) -> u16 {
        self.0
    }

    /// Each stream, in order.
    pub fn lanes(self) -> impl DoubleEndedIterator<Item = Lane> + ExactSizeIterator {
        (0..self.0).map(move |index| Lane { index, of: self.0 })
    }

    /// The first stream of a journal of another number of streams: where it is there, this number is not the journal's.
    pub fn otherwise(self) -> Lane {
        match self {
            Self::ONE => Lane { index: 0, of: 2 },
            _ => Lane::ONLY,
        }
    }

    /// The stream of a partition.
    pub fn of_partition(self, partition: u16) -> Lane {
        Lane {
            index: partition % self.0,
            of: self.0,
        }
    }

    /// The stream of an event.
    pub fn of_sequence(self, sequence: u64) -> Lane {
        let index = sequence.saturating_sub(1) % u64::from(self.0);
        Lane {
            index: u16::try_from(index).expect("a remainder is below its divisor"),
            of: self.0,
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Spread {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let streams = text.parse().ok().and_then(Self::over);
        streams.ok_or("a journal has 1, 2, 4, 8 or 16 streams")
    }
}

/// One of the streams of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    index: u16,
    of: u16,
}

impl Lane {
    /// That of a journal in one stream, where sequences are the stream's own.
    pub const ONLY: Self = Self { index: 0, of: 1 };

    /// Which of them it is, from 0.
    pub fn index(self) -> usize {
        usize::from(self.index)
    }

    /// Of how many.
    pub fn spread(self) -> Spread {
        Spread(self.of)
    }

    /// The stream's name.
    pub fn name(self) -> String {
        match self.of {
            1 => STREAM.to_owned(),
            _ => format!("{STREAM}_{}", self.index),
        }
    }

    /// The partitions in it, of so many.
    pub fn partitions(self, partitions: u16) -> impl Iterator<Item = u16> {
        (self.index..partitions).step_by(usize::from(self.of))
    }

    /// The sequence of the message at this place in the stream; 0 for none.
    pub fn sequence(self, place: u64) -> u64 {
        match place {
            0 => 0,
            _ => (place - 1) * u64::from(self.of) + u64::from(self.index) + 1,
        }
    }

    /// The last place in the stream that is not beyond a sequence; 0 where all are.
    pub fn place(self, sequence: u64) -> u64 {
        sequence.saturating_add(u64::from(self.of - 1 - self.index)) / u64::from(self.of)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spreads() -> impl Strategy<Value = Spread> {
        prop_oneof![Just(1), Just(2), Just(4), Just(8), Just(16)].prop_map(|streams| Spread::over(streams).unwrap())
    }

    proptest! {
        #[test]
        fn each_event_has_a_sequence_of_its_own_which_leads_back_to_it(spread in spreads(), place in 1_u64..1 << 40) {
            for lane in spread.lanes() {
                let sequence = lane.sequence(place);
                prop_assert_eq!(spread.of_sequence(sequence), lane);
                prop_assert_eq!(lane.place(sequence), place);
                prop_assert!(lane.sequence(place + 1) > sequence);
            }
        }

        #[test]
        fn what_is_after_a_sequence_of_another_stream_is_beyond_it(spread in spreads(), sequence in 0_u64..1 << 40) {
            for lane in spread.lanes() {
                let place = lane.place(sequence);
                prop_assert!(lane.sequence(place) <= sequence);
                prop_assert!(lane.sequence(place + 1) > sequence);
            }
        }
    }

    #[test]
    fn one_stream_has_its_own_sequences() {
        for place in [0, 1, 2, 977] {
            assert_eq!((Lane::ONLY.sequence(place), Lane::ONLY.place(place)), (place, place));
        }
        assert_eq!(Lane::ONLY.name(), "CHECKOUT");
        assert_eq!(Lane::ONLY.partitions(16).count(), 16);
    }

    #[test]
    fn each_partition_is_in_one_stream() {
        let spread: Spread = "4".parse().unwrap();
        let names: Vec<String> = spread.lanes().map(Lane::name).collect();
        assert_eq!(names, ["CHECKOUT_0", "CHECKOUT_1", "CHECKOUT_2", "CHECKOUT_3"]);
        for partition in 0..16 {
            let of: Vec<Lane> = spread
                .lanes()
                .filter(|lane| lane.partitions(16).any(|other| other == partition))
                .collect();
            assert_eq!(of, [spread.of_partition(partition)]);
        }
        for text in ["0", "3", "32", "-1", "x", ""] {
            assert!(text.parse::<Spread>().is_err(), "{text}");
        }
    }
}
