//! Copying a journal into a folder, checking the copy, and putting it in place elsewhere.

use std::path::Path;
use std::time::Duration;

use async_nats::jetstream;

use crate::Plan;
use crate::events::{Action, fresh_sessions};
use crate::meter::as_float;
use crate::processors::Processors;
use crate::raw;
use crate::service::Machine;
use crate::table::{Goal, Row, Table};

/// Each against an ordered consumer that only takes the same events, in the same run.
pub(crate) async fn whole(machine: &Machine, plan: &Plan, table: &mut Table) {
    let work = "backup and restore";
    if !plan.wants(work) {
        return;
    }
    let events = plan.backlog() * 4;
    let place = machine.place().await;
    let sessions = fresh_sessions(events);
    place
        .fill((0..events).map(|n| Action::of(sessions + n / 20, n % 20)))
        .await;
    let context = jetstream::new(place.client().await);
    let stream = context.get_stream(ezout::journal::STREAM).await;
    let stream = stream.expect("the journal is there");
    let stored = stream.cached_info().state.bytes;
    let (count, read) = raw::read(&stream, "checkout.*.*").await;
    assert_eq!(count, events);
    let folder = place.file("backup");
    let to = folder.to_str().expect("a path is text");

    let processors = Processors::watch(vec![("nats", place.nats_ids())]);
    let copied = place.run_on_both(&["backup", to]).await;
    row(
        table,
        format!("{work}, {events} events: backup"),
        events,
        copied,
        read,
        processors.used(),
    );
    let checked = place.run(&["backup", "--verify", to]).await;
    let elsewhere = machine.place().await;
    let processors = Processors::watch(vec![("nats", elsewhere.nats_ids())]);
    let restored = elsewhere.run_on_both(&["restore", to]).await;
    row(
        table,
        format!("{work}, {events} events: restore with its comparison"),
        events,
        restored,
        read,
        processors.used(),
    );
    // Megabytes of a million are bytes of each.
    let megabytes = |bytes: u64| as_float(bytes) / as_float(events);
    table.add(&Row {
        work: format!("{work}, a million events"),
        figure: format!(
            "{:>7.0} MB, checked in {:.1} s",
            megabytes(size(&folder)),
            million(checked, events)
        ),
        limit: format!("{:.0} MB in NATS", megabytes(stored)),
        ratio: as_float(size(&folder)) / as_float(stored),
        goal: Goal::None,
        used: crate::processors::Used::default(),
    });
}

/// How long so many events would take if they were a million, in seconds.
fn million(time: Duration, events: u64) -> f64 {
    time.as_secs_f64() * 1e6 / as_float(events)
}

fn row(table: &mut Table, work: String, events: u64, time: Duration, read: Duration, used: crate::processors::Used) {
    let a_second = |time: Duration| as_float(events) / time.as_secs_f64();
    table.add(&Row {
        work,
        figure: format!(
            "{:>7.0} events/s, {:.1} s a million",
            a_second(time),
            million(time, events)
        ),
        limit: format!("{:>7.0} events/s, ordered consumer", a_second(read)),
        ratio: a_second(time) / a_second(read),
        goal: Goal::None,
        used,
    });
}

/// Bytes of all files of a folder.
fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    entries
        .map(|entry| entry.expect("it can be listed").path())
        .map(|path| {
            if path.is_dir() {
                size(&path)
            } else {
                path.metadata().expect("it is there").len()
            }
        })
        .sum()
}
