//! A journal that lies in several streams.

use async_nats::jetstream::Context;

use super::*;

/// As many as there are partitions, so each has its own.
const STREAMS: u16 = 4;

fn over(streams: u16) -> Spread {
    Spread::over(streams).unwrap()
}

async fn start_over(server: &Server, streams: u16) -> Process {
    let process = Process::begin_spread(&[server], over(streams)).await;
    process.opened().await;
    process
}

async fn context(server: &Server) -> Context {
    async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap())
}

/// The streams that are there, with the messages of each.
async fn streams(server: &Server) -> HashMap<String, u64> {
    let mut found = HashMap::new();
    let context = context(server).await;
    let mut all = context.streams();
    while let Some(info) = futures::TryStreamExt::try_next(&mut all).await.unwrap() {
        found.insert(info.config.name, info.state.messages);
    }
    found
}

/// Waits until a process has no journal, for a reason with these words.
async fn refused(process: &Process, words: &str) {
    process
        .wait_for(
            words,
            |state| matches!(state, State::Unavailable { reason } if reason.contains(words)),
        )
        .await;
}

#[tokio::test]
async fn each_event_is_recorded_once_in_the_stream_of_its_shop() {
    let server = start().await;
    let process = start_over(&server, STREAMS).await;
    let all = entries(0..2_000);
    let results = process.append_all(&all).await;
    let places = sequences(&results);
    assert_eq!(places.iter().collect::<HashSet<_>>().len(), 2_000);
    assert!(process.published("batch") > 0);

    // A receipt leads to its event, and to the stream of the shop.
    let mut by_partition: HashMap<u16, Vec<u64>> = HashMap::new();
    for (entry, place) in all.iter().zip(&places) {
        let stored = process.journal.get(*place).await.unwrap().unwrap();
        assert_eq!((stored.id(), stored.sequence), (Some(entry.id), *place));
        let partition = partition_of(entry.shop, PARTITIONS);
        assert_eq!(over(STREAMS).of_sequence(*place), over(STREAMS).of_partition(partition));
        by_partition.entry(partition).or_default().push(*place);
    }
    let there = streams(&server).await;
    assert_eq!(there.len(), usize::from(STREAMS));
    assert_eq!(read_all(&process.journal).await.len(), 2_000);
    for partition in 0..PARTITIONS {
        let mut places = by_partition.remove(&partition).unwrap_or_default();
        places.sort_unstable();
        let lane = over(STREAMS).of_partition(partition);
        assert_eq!(there[&lane.name()], places.len() as u64);
        let tail = process.journal.tail(partition).await.unwrap();
        assert_eq!(Some(&tail.last_sequence), places.last());
        // What is after a place is the same, be it a place of this stream or of another one.
        for after in [0, places[0], places[100], places[100] + 1, tail.last_sequence] {
            let beyond = places.iter().filter(|place| **place > after).count();
            let backlog = process.journal.backlog(partition, after).await.unwrap();
            assert_eq!(backlog.events, beyond as u64);
            let mut reader = process.journal.read(partition, after).await.unwrap();
            assert_eq!(reader.pending_at_open(), beyond as u64);
            let read: Vec<u64> = take(&mut reader, beyond)
                .await
                .iter()
                .map(|event| event.sequence)
                .collect();
            assert_eq!(read, places[places.len() - beyond..]);
        }
    }
    let size = process.journal.size().await.unwrap();
    assert_eq!(
        (size.messages, Some(size.last_sequence)),
        (2_000, places.iter().max().copied())
    );
    let tails = process.journal.tails().await.unwrap();
    let sample = tails.sample(1_000);
    assert!(sample.iter().all(|place| places.contains(place)));
    let sampled: HashSet<String> = sample
        .iter()
        .map(|place| over(STREAMS).of_sequence(*place).name())
        .collect();
    assert_eq!(sampled.len(), usize::from(STREAMS));
    let page = process.journal.page(all[0].shop, places[0], 5).await.unwrap();
    let of_shop = all
        .iter()
        .zip(&places)
        .filter(|(entry, place)| entry.shop == all[0].shop && **place > places[0]);
    let mut of_shop: Vec<u64> = of_shop.map(|(_, place)| *place).collect();
    of_shop.sort_unstable();
    let found: Vec<u64> = page.iter().map(|event| event.sequence).collect();
    assert_eq!(found, of_shop[..5]);

    // Who remembers nothing knows each again.
    process.end().await;
    let fresh = start_over(&server, STREAMS).await;
    let again = fresh.append_all(&all).await;
    assert!(again.iter().all(|result| result.as_ref().unwrap().duplicate));
    assert_eq!(sequences(&again), places);
    let other = Entry { digest: 99, ..entry(7) };
    let conflict = AppendError::Conflict { sequence: places[7] };
    assert_eq!(fresh.journal.append(other).await, Err(conflict));
    assert_eq!(streams(&server).await.values().sum::<u64>(), 2_000);
    fresh.end().await;
}

/// As the events of a request do, which are all of one shop.
#[tokio::test]
async fn as_many_events_of_one_shop_may_wait_as_in_one_stream() {
    let server = start().await;
    let process = start_over(&server, STREAMS).await;
    let of_one_shop: Vec<Entry> = (0..4_000)
        .map(|n| Entry {
            shop: shop(1),
            ..entry(n)
        })
        .collect();
    let places = sequences(&process.append_all(&of_one_shop).await);
    assert!(
        places.is_sorted_by(|one, next| one + u64::from(STREAMS) == *next),
        "they lie in one stream"
    );
    process.end().await;
}

#[tokio::test]
async fn a_reader_goes_on_in_its_stream_after_the_server_was_killed() {
    let mut server = start().await;
    let process = start_over(&server, 2).await;
    let of_shop = |n| Entry {
        shop: shop(1),
        ..entry(n)
    };
    let partition = partition_of(shop(1), PARTITIONS);
    process.append_all(&entries(1_000..1_100)).await;
    let mut reader = process.journal.read_shop(shop(1), 0).await.unwrap();
    process.append_all(&(0..50).map(of_shop).collect::<Vec<_>>()).await;
    let known = usize::try_from(reader.pending_at_open()).unwrap() + 50;
    let mut seen = take(&mut reader, known).await;
    server.kill().await;
    process.unavailable().await;
    server.restart().await;
    process.opened().await;
    process.append_all(&(50..100).map(of_shop).collect::<Vec<_>>()).await;
    seen.extend(take(&mut reader, 50).await);
    let seen: Vec<u64> = seen.iter().map(|event| event.sequence).collect();
    let stored = read_partition(&process.journal, partition).await;
    let stored = stored.iter().filter(|event| event.shop() == Some(shop(1)));
    assert_eq!(seen, stored.map(|event| event.sequence).collect::<Vec<_>>());
}

#[tokio::test]
async fn processes_that_create_it_at_once_agree_on_all_streams() {
    let server = start().await;
    let servers = [&server];
    let processes = join_all((0..6).map(|_| Process::begin_spread(&servers, over(STREAMS)))).await;
    let epoch = epoch_of_all(&processes).await;
    let context = context(&server).await;
    for lane in over(STREAMS).lanes() {
        let stream = context.get_stream(lane.name()).await.unwrap();
        let noted = &stream.cached_info().config.metadata["ezout_epoch"];
        assert_eq!(noted.parse(), Ok(epoch));
    }
}

#[tokio::test]
async fn a_process_that_was_started_for_another_number_is_refused_and_makes_nothing() {
    for (is, asked) in [(4, 1), (1, 4), (4, 2), (2, 4)] {
        let server = start().await;
        let process = start_over(&server, is).await;
        process.append_all(&entries(0..20)).await;
        process.end().await;
        let before = streams(&server).await;
        let other = Process::begin_spread(&[&server], over(asked)).await;
        refused(&other, &format!("set EZOUT_JOURNAL_STREAMS={is};")).await;
        assert!(other.journal.append(entry(1)).await.is_err());
        assert_eq!(streams(&server).await, before, "{is} and {asked}");
    }
    let server = start().await;
    let process = Process::begin_spread(&[&server], over(8)).await;
    refused(&process, "is at most EZOUT_PARTITIONS").await;
    assert!(streams(&server).await.is_empty());
}

#[tokio::test]
async fn a_stream_that_is_lost_is_not_made_anew() {
    for lost in over(STREAMS).lanes() {
        let server = start().await;
        let process = start_over(&server, STREAMS).await;
        process.append_all(&entries(0..50)).await;
        let context = context(&server).await;
        context.delete_stream(lost.name()).await.unwrap();
        // It looks when somebody appends to that stream.
        process.append_all(&entries(50..100)).await;
        let has_lost = format!("the journal has lost {}", lost.name());
        refused(&process, &has_lost).await;
        process.end().await;
        let fresh = Process::begin_spread(&[&server], over(STREAMS)).await;
        refused(&fresh, &has_lost).await;
        assert!(context.get_stream(lost.name()).await.is_err());
    }
}

#[tokio::test]
async fn a_stream_that_ends_too_early_stops_all_of_them() {
    let mut server = start().await;
    let process = start_over(&server, STREAMS).await;
    let places = sequences(&process.append_all(&entries(0..200)).await);
    server.kill().await;
    process.unavailable().await;
    let torn = over(STREAMS).of_sequence(places[0]);
    server.truncate(&torn.name());
    server.restart().await;
    refused(&process, &format!("the journal {} ends at event ", torn.name())).await;
    let last = places
        .iter()
        .filter(|place| over(STREAMS).of_sequence(**place) == torn)
        .max();
    refused(
        &process,
        &format!(" but had event {}: acknowledged events are lost", last.unwrap()),
    )
    .await;
    let of_another = entries(1_000..1_100)
        .into_iter()
        .find(|entry| over(STREAMS).of_partition(partition_of(entry.shop, PARTITIONS)) != torn);
    assert!(process.journal.append(of_another.unwrap()).await.is_err());
}

#[tokio::test]
async fn a_journal_that_was_made_halfway_is_made_whole() {
    let server = start().await;
    let process = start_over(&server, STREAMS).await;
    let epoch = process.opened().await.epoch;
    process.end().await;
    let context = context(&server).await;
    for name in ["CHECKOUT_0", "CHECKOUT_2"] {
        context.delete_stream(name).await.unwrap();
    }
    let process = start_over(&server, STREAMS).await;
    assert_eq!(process.opened().await.epoch, epoch);
    assert_eq!(sequences(&process.append_all(&entries(0..100)).await).len(), 100);

    // One of another journal among them is none of it.
    process.end().await;
    let mut config = context
        .get_stream("CHECKOUT_2")
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    context.delete_stream("CHECKOUT_2").await.unwrap();
    let other = Uuid::new_v4();
    config.metadata.insert("ezout_epoch".to_owned(), other.to_string());
    context.create_stream(config).await.unwrap();
    let process = Process::begin_spread(&[&server], over(STREAMS)).await;
    refused(&process, &other.to_string()).await;
}
