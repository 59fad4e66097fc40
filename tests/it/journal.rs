//! The journal against real servers: once and in order, whatever is killed.

mod spread;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ezout::core::id::{ShopId, partition_of};
use ezout::journal::{
    AppendError, Config, Durability, Entry, Facts, Journal, RawEvent, Reader, Receipt, Spread, State,
};
use ezout::metrics::Metrics;
use ezout::tools::servers::{NatsOptions, NatsServer};
use futures::future::join_all;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::support::{self, binaries};

/// A server with data of its own; the last of a cluster to go takes the data with it.
struct Server {
    nats: NatsServer,
    folder: PathBuf,
    _data: Arc<TempDir>,
}

async fn start_one(sync_always: bool) -> Server {
    let data = Arc::new(tempfile::tempdir().unwrap());
    let folder = data.path().join("nats");
    let options = NatsOptions {
        sync_always,
        ..NatsOptions::in_folder(&folder)
    };
    let nats = NatsServer::start(&binaries().nats_server, options).await.unwrap();
    Server {
        nats,
        folder,
        _data: data,
    }
}

/// One server that syncs before it acknowledges.
async fn start() -> Server {
    start_one(true).await
}

/// One server that syncs every other minute.
async fn start_lazy() -> Server {
    start_one(false).await
}

/// Three servers that sync and know each other.
async fn start_cluster() -> [Server; 3] {
    let data = Arc::new(tempfile::tempdir().unwrap());
    let servers = NatsServer::start_cluster(&binaries().nats_server, data.path())
        .await
        .unwrap();
    servers.map(|nats| Server {
        nats,
        folder: data.path().to_owned(),
        _data: Arc::clone(&data),
    })
}

impl Server {
    fn url(&self) -> String {
        self.nats.url()
    }

    async fn kill(&mut self) {
        self.nats.kill().await;
    }

    async fn restart(&mut self) {
        self.nats.restart().await.unwrap();
    }

    /// Cuts the last quarter off a stream's only block of messages. The server must not be running.
    fn truncate(&self, stream: &str) {
        let block = self.folder.join(format!("jetstream/$G/streams/{stream}/msgs/1.blk"));
        let file = std::fs::OpenOptions::new().write(true).open(block).unwrap();
        file.set_len(file.metadata().unwrap().len() * 3 / 4).unwrap();
    }
}

const PARTITIONS: u16 = 4;

/// A process that uses the journal.
struct Process {
    journal: Journal,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Process {
    /// Starts it without waiting for anything.
    async fn begin(servers: &[&Server]) -> Self {
        Self::begin_spread(servers, support::spread()).await
    }

    /// The same for a journal in so many streams.
    async fn begin_spread(servers: &[&Server], streams: Spread) -> Self {
        let config = Config {
            nats_url: servers[0].url(),
            monitor_urls: servers.iter().map(|server| server.nats.monitor_url()).collect(),
            replicas: servers.len(),
            partitions: PARTITIONS,
            streams,
            append_queue: 4_096,
        };
        let (metrics, tasks, stop) = (
            Arc::new(Metrics::default()),
            TaskTracker::new(),
            CancellationToken::new(),
        );
        let journal = Journal::start(config, Arc::clone(&metrics), &tasks, stop.clone())
            .await
            .unwrap();
        Self {
            journal,
            metrics,
            tasks,
            stop,
        }
    }

    /// Starts it and waits until the journal is open.
    async fn start(servers: &[&Server]) -> Self {
        let process = Self::begin(servers).await;
        process.opened().await;
        process
    }

    /// The same for a test that speaks of the one stream of a journal.
    async fn start_in_one(servers: &[&Server]) -> Self {
        let process = Self::begin_spread(servers, Spread::ONE).await;
        process.opened().await;
        process
    }

    async fn opened(&self) -> Facts {
        let State::Open(facts) = self
            .wait_for("an open journal", |state| matches!(state, State::Open(_)))
            .await
        else {
            unreachable!()
        };
        facts
    }

    async fn unavailable(&self) -> String {
        let State::Unavailable { reason } = self
            .wait_for("an unavailable journal", |state| {
                matches!(state, State::Unavailable { .. })
            })
            .await
        else {
            unreachable!()
        };
        reason
    }

    async fn wait_for(&self, what: &str, holds: impl FnMut(&State) -> bool) -> State {
        let mut state = self.journal.state();
        let waited = tokio::time::timeout(Duration::from_secs(30), state.wait_for(holds)).await;
        waited
            .unwrap_or_else(|_| panic!("waited in vain for {what}, it is {:?}", self.journal.state().borrow()))
            .unwrap()
            .clone()
    }

    async fn append_all(&self, entries: &[Entry]) -> Vec<Result<Receipt, AppendError>> {
        join_all(entries.iter().map(|entry| self.journal.append(entry.clone()))).await
    }

    fn published(&self, way: &str) -> u64 {
        self.metrics.journal_publishes.with_label_values(&[way]).get()
    }

    /// Ends it in an orderly way.
    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        tokio::time::timeout(Duration::from_secs(10), self.tasks.wait())
            .await
            .expect("the tasks end");
    }
}

fn shop(n: u128) -> ShopId {
    ShopId::from(Uuid::from_u128(n))
}

fn entry(n: u128) -> Entry {
    let session = Uuid::from_u128(n % 10).to_string();
    Entry {
        shop: shop(n % 7),
        id: Uuid::from_u128(n),
        digest: n * 3,
        headers: vec![("ce-subject", session)],
        body: Bytes::from(format!("event {n}")),
    }
}

fn entries(range: std::ops::Range<u128>) -> Vec<Entry> {
    range.map(entry).collect()
}

fn sequences(results: &[Result<Receipt, AppendError>]) -> Vec<u64> {
    results.iter().map(|result| result.as_ref().unwrap().sequence).collect()
}

/// Reads what a partition holds now.
async fn read_partition(journal: &Journal, partition: u16) -> Vec<RawEvent> {
    // A cluster that has just lost a server may need more than one attempt.
    let mut reader = loop {
        match journal.read(partition, 0).await {
            Ok(reader) => break reader,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let mut events = Vec::new();
    while let Ok(next) = tokio::time::timeout(Duration::from_millis(500), reader.next(100)).await {
        events.extend(next.unwrap_or_default());
    }
    events
}

/// Reads the whole journal, by id. Fails if an id is there twice.
async fn read_all(journal: &Journal) -> HashMap<Uuid, RawEvent> {
    let mut all = HashMap::new();
    for partition in 0..PARTITIONS {
        let mut last = 0;
        for event in read_partition(journal, partition).await {
            assert!(event.sequence > last, "out of order");
            last = event.sequence;
            assert_eq!(partition_of(event.shop().unwrap(), PARTITIONS), partition);
            assert!(all.insert(event.id().unwrap(), event).is_none(), "recorded twice");
        }
    }
    all
}

/// Takes exactly `count` events.
async fn take(reader: &mut Reader, count: usize) -> Vec<RawEvent> {
    let mut events = Vec::new();
    let taking = async {
        while events.len() < count {
            if let Ok(more) = reader.next(count - events.len()).await {
                events.extend(more);
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), taking)
        .await
        .expect("the events come");
    events
}

#[tokio::test]
async fn an_event_is_recorded_once_and_another_of_its_identity_is_a_conflict() {
    let server = start().await;
    let process = Process::start_in_one(&[&server]).await;
    let first = process.journal.append(entry(1)).await.unwrap();
    assert_eq!(
        first,
        Receipt {
            sequence: 1,
            duplicate: false,
            durability: Durability::Disk
        }
    );
    assert_eq!(
        process.journal.append(entry(1)).await.unwrap(),
        Receipt {
            duplicate: true,
            ..first
        }
    );
    let other = Entry { digest: 99, ..entry(1) };
    assert_eq!(
        process.journal.append(other.clone()).await,
        Err(AppendError::Conflict { sequence: 1 })
    );

    // A process that remembers nothing gives the same answers.
    let fresh = Process::start_in_one(&[&server]).await;
    assert_eq!(
        fresh.journal.append(other).await,
        Err(AppendError::Conflict { sequence: 1 })
    );
    assert_eq!(
        fresh.journal.append(entry(1)).await.unwrap(),
        Receipt {
            duplicate: true,
            ..first
        }
    );

    let stored = process.journal.get(1).await.unwrap().unwrap();
    assert_eq!(stored.id(), Some(entry(1).id));
    assert_eq!(stored.digest(), Some(entry(1).digest));
    assert_eq!(stored.session().unwrap().uuid(), Uuid::from_u128(1));
    assert_eq!(stored.shop(), Some(entry(1).shop));
    assert_eq!(stored.body, entry(1).body);
    assert!(process.journal.get(2).await.unwrap().is_none());
    let tail = process.journal.size().await.unwrap();
    assert_eq!((tail.first_sequence, tail.last_sequence), (1, 1));
    process.end().await;
    fresh.end().await;
}

#[tokio::test]
async fn a_thousand_at_once_are_each_recorded_once_with_their_own_receipt() {
    let server = start().await;
    let process = Process::start(&[&server]).await;
    let all = entries(0..1_000);
    let results = process.append_all(&all).await;
    let distinct: HashSet<u64> = sequences(&results).into_iter().collect();
    assert_eq!(distinct.len(), 1_000);
    assert!(
        process.published("batch") > 900,
        "only {} of 1,000 went in batches",
        process.published("batch")
    );
    let stored = read_all(&process.journal).await;
    assert_eq!(stored.len(), 1_000);
    for (entry, result) in all.iter().zip(results) {
        assert_eq!(
            stored[&entry.id].sequence,
            result.unwrap().sequence,
            "the receipt names another event"
        );
        assert_eq!(stored[&entry.id].body, entry.body);
    }
}

#[tokio::test]
async fn one_event_appended_by_many_at_once_is_recorded_once() {
    let server = start().await;
    let process = Process::start(&[&server]).await;
    let mut all = Vec::new();
    for n in 0..100 {
        all.extend([
            entry(n),
            entry(n),
            Entry {
                digest: 1_000_000,
                ..entry(n)
            },
        ]);
    }
    let results = process.append_all(&all).await;
    for three in results.chunks(3) {
        let first = three[0].clone().unwrap();
        assert!(!first.duplicate);
        assert_eq!(
            three[1],
            Ok(Receipt {
                duplicate: true,
                ..first
            })
        );
        assert_eq!(
            three[2],
            Err(AppendError::Conflict {
                sequence: first.sequence
            })
        );
    }
    assert_eq!(read_all(&process.journal).await.len(), 100);
}

#[tokio::test]
async fn a_storm_of_retries_after_a_restart_does_not_leave_the_fast_path() {
    let server = start().await;
    let process = Process::start_in_one(&[&server]).await;
    let firsts = sequences(&process.append_all(&entries(0..2_000)).await);
    process.end().await;

    let fresh = Process::start_in_one(&[&server]).await;
    // Retries and new events mixed, as the phones send them.
    let mixed: Vec<Entry> = entries(0..2_000)
        .into_iter()
        .zip(entries(2_000..4_000))
        .flat_map(|(old, new)| [old, new])
        .collect();
    let results = fresh.append_all(&mixed).await;
    for (pair, first) in results.chunks(2).zip(firsts) {
        let retry = pair[0].clone().unwrap();
        assert_eq!((retry.sequence, retry.duplicate), (first, true));
        assert!(!pair[1].clone().unwrap().duplicate);
    }
    // The first to arrive may go singly; the rest must not.
    assert!(
        fresh.published("single") < 200,
        "{} went singly",
        fresh.published("single")
    );
    assert!(
        fresh.metrics.journal_refused_batches.get() >= 1,
        "the restarted process knew what it cannot know"
    );
    assert_eq!(read_all(&fresh.journal).await.len(), 4_000);
}

#[tokio::test]
async fn a_batch_with_another_processs_events_is_sorted_out_each_time() {
    let server = start().await;
    let (one, two) = (Process::start(&[&server]).await, Process::start(&[&server]).await);
    for round in 0..5 {
        let range = round * 400..(round + 1) * 400;
        let firsts = sequences(&one.append_all(&entries(range.clone())).await);
        // Conflicts and duplicates of events that only the other process has seen.
        let mut retries = entries(range);
        retries[7].digest += 1;
        let results = two.append_all(&retries).await;
        assert_eq!(results[7], Err(AppendError::Conflict { sequence: firsts[7] }));
        for (n, result) in results.iter().enumerate().filter(|(n, _)| *n != 7) {
            assert_eq!(
                result.as_ref().map(|receipt| (receipt.sequence, receipt.duplicate)),
                Ok((firsts[n], true))
            );
        }
    }
    assert_eq!(read_all(&two.journal).await.len(), 2_000);
    assert!(two.published("single") < 200, "{} went singly", two.published("single"));
}

#[tokio::test]
async fn a_killed_server_loses_no_acknowledged_event_and_retries_settle_the_rest() {
    let mut server = start().await;
    let process = Process::start(&[&server]).await;
    let workers: Vec<_> = (0..200_u128)
        .map(|worker| {
            let journal = process.journal.clone();
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for n in 0..20_u128 {
                    let event = entry(worker * 1_000 + n);
                    // Repeats until it is settled, as a phone does.
                    loop {
                        match journal.append(event.clone()).await {
                            Ok(receipt) => break acknowledged.push((event.id, receipt.sequence)),
                            Err(AppendError::Unknown | AppendError::Unavailable { .. } | AppendError::Overloaded) => {
                                tokio::time::sleep(Duration::from_millis(20)).await;
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
                acknowledged
            })
        })
        .collect();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        server.kill().await;
        assert!(!process.unavailable().await.is_empty());
        server.restart().await;
        process.opened().await;
    }
    let acknowledged: Vec<(Uuid, u64)> = join_all(workers).await.into_iter().flat_map(Result::unwrap).collect();
    let stored = read_all(&process.journal).await;
    assert_eq!(acknowledged.len(), 4_000);
    assert_eq!(stored.len(), 4_000);
    for (id, sequence) in acknowledged {
        assert_eq!(stored[&id].sequence, sequence);
    }
}

#[tokio::test]
async fn without_a_server_an_append_is_refused_at_once_and_works_when_it_is_there() {
    let mut server = start().await;
    server.kill().await;
    let process = Process::begin(&[&server]).await;
    assert!(matches!(
        process.journal.append(entry(1)).await,
        Err(AppendError::Unavailable { .. })
    ));
    assert!(process.journal.read(0, 0).await.is_err());
    server.restart().await;
    process.opened().await;
    process.journal.append(entry(1)).await.unwrap();
    server.kill().await;
    process.unavailable().await;
    let refused = tokio::time::timeout(Duration::from_secs(1), process.journal.append(entry(2))).await;
    assert!(matches!(refused, Ok(Err(AppendError::Unavailable { .. }))));
}

#[tokio::test]
async fn a_server_that_does_not_sync_is_called_weaker_and_so_are_the_receipts() {
    let server = start_lazy().await;
    let process = Process::start(&[&server]).await;
    let facts = process.opened().await;
    assert_eq!(facts.durability, Durability::Memory);
    assert!(
        facts.weaker.iter().any(|reason| reason.contains("sync_interval")),
        "{:?}",
        facts.weaker
    );
    let receipt = process.journal.append(entry(1)).await.unwrap();
    assert_eq!(receipt.durability.to_string(), "memory");
    let results = process.append_all(&entries(2..600)).await;
    assert_eq!(sequences(&results).len(), 598);
    assert_eq!(process.published("batch"), 0);
}

#[tokio::test]
async fn a_monitoring_port_that_cannot_be_read_promises_nothing() {
    let server = start().await;
    let config = Config {
        nats_url: server.url(),
        monitor_urls: vec!["http://127.0.0.1:1".to_owned()],
        replicas: 1,
        partitions: PARTITIONS,
        streams: support::spread(),
        append_queue: 16,
    };
    let journal = Journal::start(config, Arc::default(), &TaskTracker::new(), CancellationToken::new())
        .await
        .unwrap();
    let mut state = journal.state();
    let State::Open(facts) = state
        .wait_for(|state| matches!(state, State::Open(_)))
        .await
        .unwrap()
        .clone()
    else {
        unreachable!()
    };
    assert_eq!(facts.durability, Durability::Memory);
    assert!(
        facts.weaker.iter().any(|reason| reason.contains("monitoring address")),
        "{:?}",
        facts.weaker
    );
}

#[tokio::test]
async fn a_stream_that_is_weaker_than_promised_is_named_with_every_reason() {
    let server = start().await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let metadata = HashMap::from([
        ("ezout_epoch".to_owned(), Uuid::new_v4().to_string()),
        ("ezout_partitions".to_owned(), "3".to_owned()),
    ]);
    let config = async_nats::jetstream::stream::Config {
        name: "CHECKOUT".to_owned(),
        subjects: vec!["checkout.*.*".to_owned()],
        max_age: Duration::from_hours(1),
        metadata,
        ..Default::default()
    };
    context.create_stream(config).await.unwrap();
    let process = Process::start_in_one(&[&server]).await;
    let facts = process.opened().await;
    assert_eq!((facts.partitions, facts.durability), (3, Durability::Disk));
    for word in [
        "max_age",
        "discard",
        "deny_delete",
        "deny_purge",
        "allow_atomic",
        "allow_direct",
    ] {
        assert!(
            facts.weaker.iter().any(|reason| reason.contains(word)),
            "{word} is not in {:?}",
            facts.weaker
        );
    }
    // It works all the same, without batches.
    assert_eq!(sequences(&process.append_all(&entries(0..100)).await).len(), 100);
}

#[tokio::test]
async fn a_stream_without_an_epoch_is_not_taken_for_the_journal() {
    let server = start().await;
    let context = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let config = async_nats::jetstream::stream::Config {
        name: "CHECKOUT".to_owned(),
        subjects: vec!["checkout.*.*".to_owned()],
        ..Default::default()
    };
    context.create_stream(config).await.unwrap();
    let process = Process::begin_spread(&[&server], Spread::ONE).await;
    process
        .wait_for(
            "a refusal",
            |state| matches!(state, State::Unavailable { reason } if reason.contains("ezout_epoch")),
        )
        .await;
    assert!(matches!(
        process.journal.append(entry(1)).await,
        Err(AppendError::Unavailable { .. })
    ));
}

/// The epoch on which these processes agree.
async fn epoch_of_all(processes: &[Process]) -> Uuid {
    let opened = join_all(processes.iter().map(Process::opened)).await;
    let epochs: HashSet<Uuid> = opened.iter().map(|facts| facts.epoch).collect();
    assert_eq!(epochs.len(), 1);
    opened[0].epoch
}

#[tokio::test]
async fn processes_that_create_the_journal_at_once_agree_on_its_epoch() {
    let server = start().await;
    let servers = [&server];
    let processes: Vec<Process> = join_all((0..6).map(|_| Process::start(&servers))).await;
    let epoch = epoch_of_all(&processes).await;
    assert_eq!(processes[0].journal.size().await.unwrap().epoch, epoch);
}

#[tokio::test]
async fn a_journal_that_vanishes_is_not_begun_anew_by_a_running_process() {
    let server = start().await;
    let process = Process::start_in_one(&[&server]).await;
    let before = process.opened().await.epoch;
    process.journal.append(entry(1)).await.unwrap();
    let context = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
    context.delete_stream("CHECKOUT").await.unwrap();
    assert!(matches!(
        process.journal.append(entry(2)).await,
        Err(AppendError::Unavailable { .. })
    ));
    process
        .wait_for(
            "the loss",
            |state| matches!(state, State::Unavailable { reason } if reason.contains("is gone")),
        )
        .await;
    process.end().await;
    let fresh = Process::start_in_one(&[&server]).await;
    assert_ne!(fresh.opened().await.epoch, before);
}

#[tokio::test]
async fn a_journal_that_lost_its_end_is_not_appended_to() {
    let mut server = start().await;
    let process = Process::start_in_one(&[&server]).await;
    process.append_all(&entries(0..50)).await;
    server.kill().await;
    process.unavailable().await;
    // A block whose end is gone is cut there by the server, without a word.
    server.truncate("CHECKOUT");
    server.restart().await;
    process
        .wait_for(
            "the loss",
            |state| matches!(state, State::Unavailable { reason } if reason.contains("acknowledged events are lost")),
        )
        .await;
    assert!(matches!(
        process.journal.append(entry(99)).await,
        Err(AppendError::Unavailable { .. })
    ));
}

#[tokio::test]
async fn a_reader_resumes_after_any_sequence_and_two_do_not_disturb_each_other() {
    let server = start().await;
    let process = Process::start(&[&server]).await;
    process.append_all(&entries(0..700)).await;
    let partition = partition_of(shop(1), PARTITIONS);
    let all = read_partition(&process.journal, partition).await;
    assert!(all.len() >= 100);
    assert_eq!(all.last().unwrap().pending, 0);
    let middle = all.len() / 2;
    let mut one = process.journal.read(partition, 0).await.unwrap();
    let mut two = process.journal.read(partition, all[middle].sequence).await.unwrap();
    for event in &all {
        assert_eq!(one.next(1).await.unwrap()[0].sequence, event.sequence);
        if event.sequence > all[middle].sequence {
            assert_eq!(two.next(1).await.unwrap()[0].sequence, event.sequence);
        }
    }
    // A wait that is given up loses nothing.
    assert!(
        tokio::time::timeout(Duration::from_millis(30), one.next(10))
            .await
            .is_err()
    );
    let appended = process
        .journal
        .append(Entry {
            shop: shop(1),
            ..entry(9_000)
        })
        .await
        .unwrap();
    assert_eq!(take(&mut one, 1).await[0].sequence, appended.sequence);
    assert_eq!(take(&mut two, 1).await[0].sequence, appended.sequence);

    let mut of_shop = process.journal.read_shop(shop(1), 0).await.unwrap();
    assert_eq!(
        take(&mut of_shop, 101).await.last().unwrap().sequence,
        appended.sequence
    );
}

#[tokio::test]
async fn a_reader_goes_on_after_the_server_was_killed() {
    let mut server = start().await;
    let process = Process::start_in_one(&[&server]).await;
    let same_shop = |n| Entry {
        shop: shop(1),
        ..entry(n)
    };
    let partition = partition_of(shop(1), PARTITIONS);
    // One reader has read before the server is killed, the other has only been opened after an event.
    let mut reader = process.journal.read(partition, 0).await.unwrap();
    process.append_all(&(0..50).map(same_shop).collect::<Vec<_>>()).await;
    let mut late = process.journal.read(partition, 50).await.unwrap();
    let mut seen: Vec<u64> = take(&mut reader, 50).await.iter().map(|event| event.sequence).collect();
    server.kill().await;
    process.unavailable().await;
    server.restart().await;
    process.opened().await;
    process.append_all(&(50..100).map(same_shop).collect::<Vec<_>>()).await;
    let started = std::time::Instant::now();
    seen.extend(take(&mut reader, 50).await.iter().map(|event| event.sequence));
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "it took {:?}",
        started.elapsed()
    );
    assert_eq!(seen, (1..=100).collect::<Vec<u64>>());
    let late: Vec<u64> = take(&mut late, 50).await.iter().map(|event| event.sequence).collect();
    assert_eq!(late, (51..=100).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_cluster_keeps_three_copies_on_disk_and_survives_the_loss_of_one() {
    let mut servers = start_cluster().await;
    let process = Process::start(&servers.iter().collect::<Vec<_>>()).await;
    let facts = process
        .wait_for(
            "a whole cluster",
            |state| matches!(state, State::Open(facts) if facts.weaker.is_empty()),
        )
        .await;
    let State::Open(facts) = facts else { unreachable!() };
    assert_eq!((facts.replicas, facts.durability), (3, Durability::DiskQuorum));
    let firsts = process.append_all(&entries(0..500)).await;
    assert_eq!(firsts[0].as_ref().unwrap().durability.to_string(), "disk-quorum");
    assert_eq!(process.published("batch"), 0);

    // The one that this process is connected to.
    servers[0].kill().await;
    let mut settled = HashMap::new();
    let working = async {
        for entry in entries(0..600) {
            loop {
                match process.journal.append(entry.clone()).await {
                    Ok(receipt) => {
                        settled.insert(entry.id, receipt.sequence);
                        break;
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(50), working)
        .await
        .expect("two of three go on");
    for (entry, first) in entries(0..500).iter().zip(sequences(&firsts)) {
        assert_eq!(settled[&entry.id], first);
    }
    let stored = read_all(&process.journal).await;
    assert_eq!(stored.len(), 600);
    let facts = process.opened().await;
    assert!(facts.weaker.iter().any(|reason| reason.contains("monitoring address")) || facts.weaker.is_empty());
}
