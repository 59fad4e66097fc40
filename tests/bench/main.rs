//! Measures the pipeline against the limits of what it is built on: `make bench`.
//!
//! Each row is a figure of the service, which runs as a process of its own on real servers, and beside
//! it the limit: the same work done by the engine alone, with the same durability, in the same run.
//! All sides and the load share one machine, so only the ratios mean something elsewhere; a row also
//! says who used the processors, since what the load uses the service lacks.
//!
//! Words after `--` choose: `quick` measures for a shorter time, `long` lets the crowd of browsers go on for five
//! minutes, `sessions NUMBER` looks back in a journal of so many sessions, `cache GIGABYTES` is what mongod has for its
//! cache, `times NUMBER` measures everything so often and gives the medians, and `only WORDS`, which comes last, measures
//! the rows with these words; several are separated by ` / `.

#![expect(clippy::print_stdout, reason = "the table is what this is for")]

mod access;
mod alternatives;
mod apart;
mod backup;
mod events;
mod gateway;
mod growth;
mod history;
mod ingest;
mod live;
mod load;
mod meter;
mod plain;
mod processors;
mod projection;
mod raw;
mod service;
mod slow;
mod table;

use std::str::FromStr;
use std::time::Duration;

use crate::service::Machine;
use crate::table::Table;

/// The one of the service, so that what it is compared with has it, too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What to measure, and for how long.
struct Plan {
    quick: bool,
    long: bool,
    /// Words of rows; none where all are wanted.
    only: Vec<String>,
    /// Sessions of the journal in which is looked back.
    sessions: u64,
    /// Gigabytes of mongod's cache, where not the usual ones.
    cache: Option<f64>,
    /// How often everything is measured.
    times: u64,
    /// How long each side of a comparison is measured.
    time: Duration,
    /// How long a load runs before it counts.
    warm_up: Duration,
}

impl Plan {
    fn from_words(words: &[String]) -> Self {
        fn number<T: FromStr>(words: &[String], named: &str) -> Option<T> {
            let place = words.iter().position(|word| word == named)?;
            let number = words.get(place + 1).and_then(|word| word.parse().ok());
            Some(number.unwrap_or_else(|| panic!("after `{named}` comes a number")))
        }
        let times = number(words, "times").unwrap_or(1);
        assert!(times % 2 == 1, "`times` is odd, for there to be a median");
        let quick = words.iter().any(|word| word == "quick");
        let only = words.iter().position(|word| word == "only");
        Self {
            quick,
            long: words.iter().any(|word| word == "long"),
            only: only.map_or_else(Vec::new, |place| {
                let words = words[place + 1..].join(" ");
                words.split(" / ").map(str::to_owned).collect()
            }),
            cache: number(words, "cache"),
            sessions: number(words, "sessions").unwrap_or(if quick { 5_000 } else { 50_000 }),
            times,
            time: if quick {
                Duration::from_secs(1)
            } else {
                Duration::from_secs(4)
            },
            warm_up: if quick {
                Duration::from_millis(300)
            } else {
                Duration::from_secs(1)
            },
        }
    }

    fn wants(&self, work: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| work.contains(only.as_str()))
    }

    fn connections(&self) -> Vec<usize> {
        if self.quick {
            vec![1, 256]
        } else {
            vec![1, 16, 64, 256, 1_024]
        }
    }

    /// Events of a backlog.
    fn backlog(&self) -> u64 {
        if self.quick { 10_000 } else { 50_000 }
    }

    /// Events that are sent one by one.
    fn single_events(&self) -> u64 {
        if self.quick { 50 } else { 200 }
    }

    /// Events that are sent at so many a second.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "some ten thousands"
    )]
    fn events_at(&self, rate: f64) -> u64 {
        (self.time.as_secs_f64() * rate) as u64
    }
}

/// The part of a time that each of `rounds` gets.
fn fraction(time: Duration, rounds: u32) -> Duration {
    time / rounds
}

/// Is for ever what [`apart`] has started with these words, if it has.
async fn be_apart(words: &[String]) {
    let address = |text: &str| text.parse().expect("it is the address of a socket");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["crowd", service] => live::be_crowd(address(service)).await,
        ["slow", service] => slow::be_slow(address(service)).await,
        ["plain-api", http, nats_url] => plain::be_api(address(http), nats_url).await,
        ["plain-project", nats_url, mongodb_uri, database] => {
            plain::be_projector(nats_url, mongodb_uri, database).await;
        }
        _ => {}
    }
}

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    be_apart(&words).await;
    let plan = Plan::from_words(&words);
    let machine = Machine::start(plan.cache).await;
    println!("{}", processors::machine());
    println!("{}\n", machine.versions().await);
    let mut table = Table::default();
    for _ in 0..plan.times {
        measure(&machine, &plan, &mut table).await;
    }
    table.end();
}

async fn measure(machine: &Machine, plan: &Plan, table: &mut Table) {
    ingest::one_server(machine, plan, table).await;
    ingest::storm(machine, plan, table).await;
    access::tokens(machine, plan, table).await;
    access::slow_clients(machine, plan, table).await;
    access::denials(machine, plan, table).await;
    access::revocations(machine, plan, table).await;
    ingest::lines(machine, plan, table).await;
    ingest::three_replicas(machine, plan, table).await;
    ingest::several_streams(machine, plan, table).await;
    alternatives::original(machine, plan, table).await;
    alternatives::plainly(machine, plan, table).await;
    projection::backlog(machine, plan, table).await;
    projection::projectors(machine, plan, table).await;
    projection::several_streams(machine, plan, table).await;
    projection::long_session(machine, plan, table).await;
    projection::latency(machine, plan, table).await;
    projection::correction(machine, plan, table).await;
    projection::full_load(machine, plan, table).await;
    gateway::browsers(machine, plan, table).await;
    live::crowd(machine, plan, table).await;
    history::sessions(machine, plan, table).await;
    history::shop(machine, plan, table).await;
    growth::growth(machine, plan, table).await;
    backup::whole(machine, plan, table).await;
}
