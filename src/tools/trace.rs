//! `ezout trace`: the life of one event, stage by stage with its times.
//!
//! What it tells is in the journal, in the basket and in the update, so it can be asked about every event, whether or
//! not its trace is exported.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{past, say};
use crate::core::event::{JournalEvent, Recorded, from_unix_microseconds, rfc3339};
use crate::core::id::{BasketId, SessionId, ShopId, partition_of};
use crate::core::trace::{TRACEPARENT, TraceContext};
use crate::journal::{self, Facts, Journal, Lane, RECEIVED, RawEvent};
use crate::metrics::Metrics;
use crate::refold::{self, Decoded};
use crate::updates::Feed;
use crate::views::{self, Views};

/// Options of `ezout trace`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The shop's id.
    pub shop: String,
    /// The session's id.
    pub session: String,
    /// The action: its `action_id` as it was sent, or the event's id.
    pub action: String,
    /// Where the journal is.
    #[command(flatten)]
    pub journal: journal::Config,
    /// Where the baskets are.
    #[command(flatten)]
    pub views: views::Config,
}

/// Prints the life of one event.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let shop = ShopId::parse(&args.shop).with_context(|| format!("the shop id {:?}", args.shop))?;
    let session = SessionId::parse(&args.session).with_context(|| format!("the session id {:?}", args.session))?;
    let action = Action::parse(&args.action)?;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let (journal, facts) = past::open_journal(args.journal.clone(), &tasks, stop.clone()).await?;
    let views = past::open_views(&args.views, &tasks, stop.clone()).await?;
    let life = Life {
        journal,
        facts,
        views,
        id: BasketId { shop, session },
    };
    let outcome = life.tell(action).await;
    stop.cancel();
    outcome
}

/// Which event of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Number(i64),
    Event(Uuid),
}

impl Action {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let number = text.parse().map(Self::Number).ok();
        let event = || Uuid::parse_str(text).map(Self::Event).ok();
        number
            .or_else(event)
            .with_context(|| format!("{text:?} is no action: give its action_id, such as 3, or the event's id, a UUID"))
    }

    fn is(self, raw: &RawEvent, event: &Result<Recorded<JournalEvent>, String>) -> bool {
        match (self, event) {
            (Self::Event(id), _) => raw.id() == Some(id),
            (Self::Number(number), Ok(recorded)) => match &recorded.event {
                JournalEvent::Action(event) => event.action_id == number,
                // What the service recorded itself has the number 0 in its update.
                _ => number == 0,
            },
            (Self::Number(_), Err(_)) => false,
        }
    }
}

struct Life {
    journal: Journal,
    facts: Facts,
    views: Views,
    id: BasketId,
}

/// One line of what is printed.
struct Stage {
    name: &'static str,
    at: Option<OffsetDateTime>,
    about: String,
}

impl Life {
    async fn tell(&self, action: Action) -> anyhow::Result<()> {
        let partition = partition_of(self.id.shop, self.facts.partitions);
        let checkpoint = self.views.checkpoint(partition).await?.unwrap_or(0);
        let mut found = self.events(checkpoint).await?;
        found.retain(|(raw, decoded)| action.is(raw, &decoded.event));
        let (raw, decoded) = match found.len() {
            0 => bail!(
                "the journal has no such action of basket {}; what it has: `ezout replay --shop {} --session {}`",
                self.id,
                self.id.shop,
                self.id.session
            ),
            1 => found.remove(0),
            _ => {
                let ids: Vec<String> = found
                    .iter()
                    .filter_map(|(raw, _)| Some(raw.id()?.to_string()))
                    .collect();
                bail!(
                    "{} events have this action_id; ask by the event's id, one of {}",
                    ids.len(),
                    ids.join(" ")
                );
            }
        };
        let stages = self.stages(&raw, &decoded, checkpoint).await?;
        say(&format!(
            "event {} of basket {}",
            raw.id().map_or_else(|| "without an id".to_owned(), |id| id.to_string()),
            self.id
        ));
        if let Some(trace) = raw.header(TRACEPARENT).and_then(TraceContext::parse) {
            say(&format!("trace {:032x}", trace.trace));
        }
        say("");
        let mut before = None;
        for Stage { name, at, about } in stages {
            let time = at.map_or_else(|| "-".to_owned(), rfc3339);
            let later = at
                .zip(before)
                .map_or_else(String::new, |(at, before): (_, OffsetDateTime)| {
                    format!("{:+.3} ms", (at - before).as_seconds_f64() * 1e3)
                });
            say(&format!("{name:<10} {time:<28} {later:>14}  {about}"));
            before = at.or(before);
        }
        Ok(())
    }

    /// The events of the session: those that its basket has, and those after the checkpoint.
    async fn events(&self, checkpoint: u64) -> anyhow::Result<Vec<(RawEvent, Decoded)>> {
        let places = self.views.places(self.id).await?;
        let mut sequences: BTreeSet<u64> = places.into_iter().flat_map(|places| places.sequences).collect();
        let parked = self.views.parked_of(&self.facts.epoch.to_string(), self.id).await?;
        sequences.extend(parked.iter().map(|event| event.sequence));
        let mut events = refold::events_at(&self.journal, &sequences).await?;
        let end = self.journal.tail_of_shop(self.id.shop).await?.last_sequence;
        let id = self.id;
        refold::events_of_shop(&self.journal, id.shop, checkpoint.min(end), end, |raw| {
            if !sequences.contains(&raw.sequence) {
                events.push(raw);
            }
        })
        .await?;
        let decoded = events.into_iter().map(|raw| {
            let decoded = Decoded::of(&raw);
            (raw, decoded)
        });
        Ok(decoded.filter(|(_, decoded)| decoded.basket == Some(id)).collect())
    }

    async fn stages(&self, raw: &RawEvent, decoded: &Decoded, checkpoint: u64) -> anyhow::Result<Vec<Stage>> {
        let epoch = self.facts.epoch.to_string();
        let mut stages = Vec::new();
        let mut add = |name, at, about: String| stages.push(Stage { name, at, about });
        if let Ok(Recorded {
            event: JournalEvent::Action(event),
            ..
        }) = &decoded.event
        {
            add(
                "sent",
                Some(event.create_time),
                format!("{} {}, by the phone's clock", event.action, event.action_id),
            );
            match raw.header(RECEIVED).and_then(from_unix_microseconds) {
                Some(at) => add("received", Some(at), "its body was here".to_owned()),
                None => add(
                    "received",
                    None,
                    "recorded by an older version, which did not note it".to_owned(),
                ),
            }
        }
        let lane = self.journal.spread().of_sequence(raw.sequence);
        let place = match lane {
            Lane::ONLY => format!("place {} of {}", raw.sequence, lane.name()),
            _ => format!(
                "sequence {}, place {} of {}",
                raw.sequence,
                lane.place(raw.sequence),
                lane.name()
            ),
        };
        add("recorded", Some(raw.recorded_at), place);
        let parked = self.views.parked_of(&epoch, self.id).await?;
        if let Some(event) = parked.iter().find(|event| event.sequence == raw.sequence) {
            let word = event.state.word();
            add(
                "projected",
                None,
                format!("{word}: {}; `ezout parked show {}`", event.reason, raw.sequence),
            );
            return Ok(stages);
        }
        if raw.sequence > checkpoint {
            let partition = partition_of(self.id.shop, self.facts.partitions);
            add(
                "projected",
                None,
                format!("not yet: partition {partition} is at {checkpoint}; `ezout doctor` says why"),
            );
            return Ok(stages);
        }
        let feed = Feed::new(self.journal.link(), &Arc::new(Metrics::new())).await?;
        match feed
            .of_event(&epoch, self.id.shop, raw.sequence, raw.recorded_at)
            .await?
        {
            Some(update) => {
                add("projected", update.projected_at, "in its basket".to_owned());
                add(
                    "published",
                    Some(update.stored_at),
                    format!(
                        "place {} of UPDATES, to updates.store.{}",
                        update.at.place, self.id.shop
                    ),
                );
            }
            None => add(
                "projected",
                None,
                "in its basket, or found to be a copy; its update is not stored any more, or it never had one"
                    .to_owned(),
            ),
        }
        Ok(stages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_is_a_number_or_an_event() {
        assert_eq!(Action::parse("3").unwrap(), Action::Number(3));
        let id = Uuid::from_u128(7);
        assert_eq!(Action::parse(&id.to_string()).unwrap(), Action::Event(id));
        assert!(Action::parse("add").unwrap_err().to_string().contains("such as 3"));
    }
}
