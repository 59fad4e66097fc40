//! How waiting events are grouped on their way to the disk. Knows no server and no clock.
//!
//! On one server that syncs before it acknowledges, each single publish costs a sync and each atomic
//! batch costs a few, whatever its size: few events go singly, many go as one batch, one batch at a
//! time (several at once only take turns). Replicas commit in groups by themselves, and without syncing
//! there is nothing to share: there everything goes singly and pipelined.

use std::time::Duration;

use tokio::time::Instant;

/// Events in flight up to which single publishes are faster than an atomic batch.
///
/// A batch costs what some 7 to 32 single publishes cost: 13 on an idle disk (1.9 ms to 0.14 ms), 7 on one
/// that others keep busy, 32 on a slow one (13 ms to 0.4 ms). It also makes its first event wait for its last.
const SINGLES_MAX: usize = 20;
/// Events in one atomic batch; the server accepts no more.
pub(super) const BATCH_EVENTS_MAX: usize = 1_000;
/// Events in flight where everything goes singly.
pub(super) const PIPELINE_MAX: usize = 2_048;
/// A batch waits for those who were just answered to come back with their next event, until none has come for this long.
///
/// Without it, clients that wait for each answer fall into groups that commit in turns, at a fraction of the rate.
const QUIET: Duration = Duration::from_millis(2);
/// The wait lasts no longer than this for a small batch,
const GATHER_MAX: Duration = Duration::from_millis(3);
/// and than this for each event of a large one: about what it costs to answer a request and to read the next.
const GATHER_EACH: Duration = Duration::from_micros(20);
/// What each event adds to the time that a batch takes on its way to the disk and back, whatever the disk.
const COMMIT_EACH: Duration = Duration::from_micros(10);
/// Batches that go without waiting after one that waited in vain.
const GATHER_REST: u32 = 4;

/// What to do with the waiting events now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Wait,
    Singles(usize),
    Batch,
}

/// What there is to send.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Events not sent yet.
    pub(super) waiting: usize,
    /// Single events sent and not acknowledged.
    pub(super) flying: usize,
    /// Whether a sync can be shared: one server, synced, with atomic batches.
    pub(super) shared: bool,
}

/// The wait of a batch for those who are about to come back.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// Nothing if no batch is being gathered.
    wait: Option<Wait>,
    /// Batches still to go without.
    rest: u32,
}

#[derive(Debug, Clone, Copy)]
struct Wait {
    /// As many were answered a moment ago,
    answered: usize,
    /// and as many were waiting at that time.
    before: usize,
    /// As many are enough,
    expected: usize,
    /// and as many were waiting when last looked at.
    seen: usize,
    /// When it is over if nobody comes.
    until: Instant,
    /// When it is over in any case.
    latest: Instant,
}

impl Gather {
    /// After a batch that took so long: those just answered may be back in a moment.
    pub(super) fn begin(&mut self, answered: usize, waiting: usize, took: Duration, now: Instant) {
        self.rest = self.rest.saturating_sub(1);
        self.wait = None;
        let all = answered + waiting;
        if all > SINGLES_MAX && self.rest == 0 {
            let times = |each: Duration, events: usize| each.saturating_mul(u32::try_from(events).unwrap_or(u32::MAX));
            // What a batch costs whatever its size is saved by making one of two. Where it costs less than waiting
            // for all, two in turns are better: one is on its way while those of the other come back.
            let saved = took.saturating_sub(times(COMMIT_EACH, answered));
            let expected = if saved < times(GATHER_EACH, all) { all / 2 } else { all };
            self.wait = Some(Wait {
                answered,
                before: waiting,
                expected: expected.min(BATCH_EVENTS_MAX),
                seen: waiting,
                until: now + QUIET,
                latest: now + GATHER_MAX.max(times(GATHER_EACH, answered)),
            });
        }
    }

    /// Stops waiting.
    pub(super) fn end(&mut self) {
        self.wait = None;
    }

    /// Whether to wait a little longer, with so many waiting now.
    fn holds(&mut self, waiting: usize, now: Instant) -> bool {
        let Some(wait) = &mut self.wait else { return false };
        if waiting > wait.seen {
            wait.seen = waiting;
            wait.until = wait.latest.min(now + QUIET);
        }
        if waiting < wait.expected && now < wait.until {
            return true;
        }
        let came_back = waiting.saturating_sub(wait.before);
        if waiting < wait.expected && came_back < wait.answered / 2 {
            self.rest = GATHER_REST;
        }
        self.end();
        false
    }

    /// When to look again though nothing has happened.
    pub(super) fn until(&self) -> Option<Instant> {
        self.wait.map(|wait| wait.until)
    }

    /// What to do now, while no batch is in flight.
    pub(super) fn choose(&mut self, load: Load, now: Instant) -> Choice {
        let Load {
            waiting,
            flying,
            shared,
        } = load;
        if waiting == 0 {
            return Choice::Wait;
        }
        if !shared {
            self.end();
            let count = waiting.min(PIPELINE_MAX.saturating_sub(flying));
            return if count == 0 {
                Choice::Wait
            } else {
                Choice::Singles(count)
            };
        }
        if self.holds(waiting, now) {
            return Choice::Wait;
        }
        if waiting + flying <= SINGLES_MAX {
            return Choice::Singles(waiting);
        }
        // The singles in flight will be back soon and belong to the batch.
        if flying > 0 { Choice::Wait } else { Choice::Batch }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that is slower than the clients.
    const SLOW: Duration = Duration::from_millis(13);

    fn load(waiting: usize, flying: usize) -> Load {
        Load {
            waiting,
            flying,
            shared: true,
        }
    }

    #[tokio::test]
    async fn few_go_singly_and_many_together() {
        let (mut gather, now) = (Gather::default(), Instant::now());
        assert_eq!(gather.choose(load(0, 0), now), Choice::Wait);
        assert_eq!(gather.choose(load(3, 2), now), Choice::Singles(3));
        assert_eq!(gather.choose(load(3, SINGLES_MAX), now), Choice::Wait);
        assert_eq!(gather.choose(load(SINGLES_MAX + 1, 0), now), Choice::Batch);
    }

    #[tokio::test]
    async fn everything_goes_singly_where_no_sync_is_shared() {
        let (mut gather, now) = (Gather::default(), Instant::now());
        let load = Load {
            shared: false,
            ..load(500, 10)
        };
        assert_eq!(gather.choose(load, now), Choice::Singles(500));
        assert_eq!(
            gather.choose(
                Load {
                    flying: PIPELINE_MAX,
                    ..load
                },
                now
            ),
            Choice::Wait
        );
    }

    #[tokio::test]
    async fn a_batch_waits_for_those_just_answered_while_they_come_back() {
        let (mut gather, now) = (Gather::default(), Instant::now());
        let ms = Duration::from_millis;
        gather.begin(80, 20, SLOW, now);
        assert_eq!(gather.choose(load(60, 0), now), Choice::Wait);
        assert_eq!(gather.choose(load(100, 0), now), Choice::Batch);
        gather.begin(80, 20, SLOW, now);
        assert_eq!(gather.choose(load(60, 0), now + ms(1)), Choice::Wait);
        assert_eq!(
            gather.choose(load(70, 0), now + ms(2)),
            Choice::Wait,
            "they are still coming"
        );
        assert_eq!(
            gather.choose(load(90, 0), now + ms(3)),
            Choice::Batch,
            "but not for ever"
        );
        gather.begin(80, 20, SLOW, now);
        assert_eq!(gather.choose(load(60, 0), now), Choice::Wait, "waiting has paid off");
    }

    #[tokio::test]
    async fn where_the_disk_is_faster_than_the_clients_a_batch_waits_for_half_of_them() {
        let (mut gather, now) = (Gather::default(), Instant::now());
        let fast = Duration::from_millis(1);
        gather.begin(80, 20, fast, now);
        assert_eq!(gather.choose(load(49, 0), now), Choice::Wait);
        assert_eq!(gather.choose(load(50, 0), now), Choice::Batch);
        gather.begin(50, 50, fast, now);
        assert_eq!(
            gather.choose(load(50, 0), now),
            Choice::Batch,
            "the other half is there already"
        );
    }

    #[tokio::test]
    async fn a_batch_that_waited_in_vain_is_followed_by_some_that_do_not_wait() {
        let (mut gather, now) = (Gather::default(), Instant::now());
        gather.begin(80, 20, SLOW, now);
        assert_eq!(gather.choose(load(30, 0), now), Choice::Wait);
        assert_eq!(gather.choose(load(30, 0), now + QUIET), Choice::Batch);
        for _ in 1..GATHER_REST {
            gather.begin(80, 20, SLOW, now);
            assert_eq!(gather.choose(load(30, 0), now), Choice::Batch);
        }
        gather.begin(80, 20, SLOW, now);
        assert_eq!(gather.choose(load(30, 0), now), Choice::Wait);
    }
}
