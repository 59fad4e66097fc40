//! The journal's files are damaged while its server is down: what is lost is noticed, and what is whole goes on.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ezout::journal::Spread;
use serde_json::json;

use super::Order;
use crate::chaos::collect::{end_of, read_once, read_stream, settled};
use crate::chaos::history::{Alarm, End};
use crate::chaos::promise::Promise;
use crate::chaos::scene::{Outcome, Scene};
use crate::support::{self, Stack, event, session, wait_for};

const STREAM: &str = "jetstream/$G/streams/CHECKOUT";

/// What is done to the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    BitsFlipped,
    TailCut,
    TailOfGarbage,
    IndexGone,
    OlderCopy,
    StreamGone,
}

const DAMAGES: [Damage; 6] = [
    Damage::BitsFlipped,
    Damage::TailCut,
    Damage::TailOfGarbage,
    Damage::IndexGone,
    Damage::OlderCopy,
    Damage::StreamGone,
];
/// How many where there is little time.
const SOME: usize = 2;

/// The last block of messages below a server's data.
pub fn block(data: &Path) -> PathBuf {
    let blocks = std::fs::read_dir(data.join(STREAM).join("msgs")).unwrap().flatten();
    let blocks = blocks.map(|entry| entry.path());
    let blocks = blocks.filter(|path| path.extension().is_some_and(|extension| extension == "blk"));
    let number = |path: &PathBuf| path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
    blocks.max_by_key(number).expect("the journal has a block")
}

/// Flips a bit of some bytes in the second half of a block.
pub fn flip(rng: &mut fastrand::Rng, block: &Path) {
    let mut bytes = std::fs::read(block).unwrap();
    for _ in 0..3 {
        let place = rng.usize(bytes.len() / 2..bytes.len());
        bytes[place] ^= 1 << rng.u8(..8);
    }
    std::fs::write(block, bytes).unwrap();
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}

impl Damage {
    fn of(self, rng: &mut fastrand::Rng, data: &Path, older: &Path) {
        match self {
            Self::BitsFlipped => flip(rng, &block(data)),
            Self::TailCut => {
                let block = std::fs::File::options().write(true).open(block(data)).unwrap();
                let length = block.metadata().unwrap().len();
                block.set_len(length - rng.u64(1..length / 3)).unwrap();
            }
            Self::TailOfGarbage => {
                let path = block(data);
                let mut bytes = std::fs::read(&path).unwrap();
                bytes.extend((0..rng.usize(100..10_000)).map(|_| rng.u8(..)));
                std::fs::write(path, bytes).unwrap();
            }
            Self::IndexGone => drop(std::fs::remove_file(data.join(STREAM).join("msgs/index.db"))),
            Self::OlderCopy => copy(older, data),
            Self::StreamGone => std::fs::remove_dir_all(data.join(STREAM)).unwrap(),
        }
    }
}

/// The journal as it was: who it is, and each event with its place, byte for byte.
struct Kept {
    end: End,
    events: Vec<(u64, Vec<u8>)>,
}

/// What the journal is, compared with what it was.
#[derive(Debug)]
enum Compared {
    Whole,
    /// There is none.
    Gone,
    /// It ends earlier, or is another one.
    Fallen(End),
    /// It ends where it did, and not all between is what it was.
    Holed,
    /// It did not let itself be read, so nothing is known.
    Unread(String),
}

/// The longest that one attempt to read the journal may take.
const READ_MAX: Duration = Duration::from_secs(30);

async fn compare(scene: &Scene, before: &Kept) -> Compared {
    let begun = Instant::now();
    let context = async_nats::jetstream::new(scene.places().client().await);
    loop {
        let why = match end_of(&context, Spread::ONE).await {
            Ok(None) => return Compared::Gone,
            Ok(Some(end)) if end.is_fall_from(&before.end) => return Compared::Fallen(end),
            Ok(Some(_)) => match tokio::time::timeout(READ_MAX, read_once(&context, "CHECKOUT")).await {
                Ok(Ok(messages)) if events(&messages) == before.events => return Compared::Whole,
                Ok(Ok(_)) => return Compared::Holed,
                Ok(Err(error)) => error.to_string(),
                Err(late) => late.to_string(),
            },
            Err(error) => error.to_string(),
        };
        if begun.elapsed() > support::patience() {
            return Compared::Unread(why);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn events(messages: &[async_nats::jetstream::Message]) -> Vec<(u64, Vec<u8>)> {
    let event =
        |message: &async_nats::jetstream::Message| (message.info().unwrap().stream_sequence, message.payload.to_vec());
    messages.iter().map(event).collect()
}

impl Compared {
    /// Whether a process speaks of this when it says that.
    fn is_told_by(&self, before: &End, alarm: &Alarm) -> bool {
        let says = |words: &str| alarm.words.contains(words);
        match self {
            Self::Whole | Self::Unread(_) => false,
            Self::Gone => says("the journal CHECKOUT is gone"),
            Self::Fallen(end) => alarm.speaks_of(before, end),
            Self::Holed => {
                says("events are lost: the journal begins at ")
                    || says("events are lost: the journal has another event at ")
            }
        }
    }
}

/// What a process says of this, once one does.
async fn alarm(scene: &Scene, before: &End, now: &Compared) -> Option<Alarm> {
    let begun = Instant::now();
    while begun.elapsed() < support::patience() {
        for member in &scene.members {
            let told = member.service.readiness().await.unwrap_or_default();
            for reason in told["reasons"].as_array().into_iter().flatten() {
                let alarm = Alarm {
                    words: format!("{}: {}", member.role, reason.as_str().unwrap_or_default()),
                    at: Instant::now(),
                };
                if now.is_told_by(before, &alarm) {
                    return Some(alarm);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    None
}

/// Whether an event of somebody who is no phone of this run is taken.
async fn takes(scene: &Scene) -> bool {
    let (shop, session) = (session(), session());
    let url = format!("{}/publish/{shop}", scene.members[0].service.http_url());
    let request = reqwest::Client::new().post(url).timeout(Duration::from_secs(8));
    let answer = request
        .json(&json!(event(&shop, &session, 1, "ADD", 1, 1.0, 1.0)))
        .send()
        .await;
    answer.is_ok_and(|answer| answer.status().is_success())
}

async fn kept_of(scene: &Scene) -> Kept {
    let context = async_nats::jetstream::new(scene.places().client().await);
    let end = wait_for("the end of the journal", async || {
        end_of(&context, Spread::ONE).await.ok()?
    });
    Kept {
        end: end.await,
        events: events(&read_stream(&scene.places(), "CHECKOUT").await),
    }
}

pub async fn journal(order: Order) -> Option<Outcome> {
    // One stream: what is said of a loss is compared with where the whole journal ends. `journal::spread` damages one of several.
    let mut scene = Scene::open(Stack::start_spread(1).await, order.seed).await;
    let folder = scene.stack().folder().to_owned();
    let (data, kept, older) = (folder.join("nats"), folder.join("kept"), folder.join("older"));
    let mut damages = DAMAGES;
    scene.rng.shuffle(&mut damages);
    let mut found = Vec::new();
    for damage in damages.into_iter().take(if order.brief { SOME } else { DAMAGES.len() }) {
        scene.pause(2_000..4_000).await;
        scene.stack().nats.kill().await;
        copy(&data, &older);
        scene.stack().nats.restart().await.unwrap();
        scene.pause(2_000..4_000).await;
        scene.close().await;
        // What is put back later must lack no update that is told meanwhile.
        settled(&scene.places()).await;
        let before = kept_of(&scene).await;

        scene.stack().nats.kill().await;
        copy(&data, &kept);
        let mut rng = scene.rng.fork();
        damage.of(&mut rng, &data, &older);
        scene.did(format!("{damage:?}"));
        scene
            .stack()
            .nats
            .restart()
            .await
            .expect("nats-server starts whatever its files are");
        let now = compare(&scene, &before).await;
        let said = match &now {
            Compared::Whole | Compared::Unread(_) => None,
            _ => alarm(&scene, &before.end, &now).await,
        };
        let words = said.as_ref().map_or("", |said| &said.words);
        scene.notes.push(format!("{damage:?}: {now:?} {words}"));
        if !matches!(now, Compared::Whole) {
            found.push((damage, said.clone(), takes(&scene).await, now));
            scene.alarms.extend(said);
            scene.stack().nats.kill().await;
            copy(&kept, &data);
            scene.stack().nats.restart().await.unwrap();
        }
        for member in &scene.members {
            member.service.wait_ready().await;
        }
        let again = compare(&scene, &before).await;
        assert!(matches!(again, Compared::Whole), "the copy that was kept is {again:?}");
        scene.reopen();
    }
    let mut outcome = scene.finish().await;
    for (damage, said, taken, now) in found {
        if let Compared::Unread(why) = &now {
            outcome.report.expect(Promise::I15, false, || {
                format!("after {damage:?} the journal could not be compared with what it was: {why}")
            });
            continue;
        }
        outcome.report.expect(Promise::I15, said.is_some(), || {
            format!("the journal is {now:?} by {damage:?}, and nobody said so")
        });
        outcome.report.expect(Promise::I15, !taken, || {
            format!("the journal is {now:?} by {damage:?}, and another event was taken")
        });
    }
    Some(outcome)
}
