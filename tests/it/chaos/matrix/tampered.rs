//! The journal's files are damaged while its server is down: what is lost is noticed, and what is whole goes on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::Order;
use crate::chaos::collect::{read_stream, settled};
use crate::chaos::promise::Promise;
use crate::chaos::scene::{Outcome, Scene};
use crate::support::{Stack, event, session};

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

/// Whether each event is there as it was, byte for byte.
async fn is_whole(scene: &Scene, before: &[(u64, Vec<u8>)]) -> bool {
    let reading = events(scene);
    tokio::time::timeout(Duration::from_secs(10), reading)
        .await
        .is_ok_and(|now| now == before)
}

async fn events(scene: &Scene) -> Vec<(u64, Vec<u8>)> {
    let messages = read_stream(&scene.places(), "CHECKOUT").await;
    let event =
        |message: &async_nats::jetstream::Message| (message.info().unwrap().stream_sequence, message.payload.to_vec());
    messages.iter().map(event).collect()
}

/// What one of the processes says of the journal, once one does.
async fn alarm(scene: &Scene) -> Option<String> {
    let words = [
        "acknowledged events are lost",
        "another one",
        "gone",
        "ends at",
        "begins",
        "another event",
        "halted",
    ];
    let said = async {
        loop {
            for member in &scene.members {
                let told = member.service.readiness().await.unwrap_or_default();
                let reasons = told["reasons"].as_array().cloned().unwrap_or_default();
                let mut reasons = reasons
                    .into_iter()
                    .filter_map(|reason| Some(reason.as_str()?.to_owned()));
                if let Some(reason) = reasons.find(|reason| words.iter().any(|word| reason.contains(word))) {
                    return format!("{}: {reason}", member.role);
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(40), said).await.ok()
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

pub async fn journal(order: Order) -> Option<Outcome> {
    let mut scene = Scene::open(Stack::start().await, order.seed).await;
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
        let before = events(&scene).await;

        scene.stack().nats.kill().await;
        copy(&data, &kept);
        let mut rng = scene.rng.fork();
        damage.of(&mut rng, &data, &older);
        scene.did(format!("{damage:?}"));
        let started = scene.stack().nats.restart().await;
        let whole = started.is_ok() && is_whole(&scene, &before).await;
        if whole {
            scene.notes.push(format!("{damage:?}: nothing is lost"));
        } else {
            let said = alarm(&scene).await;
            let taken = takes(&scene).await;
            scene.alarmed |= said.is_some();
            scene
                .notes
                .push(format!("{damage:?}: {}", said.clone().unwrap_or_default()));
            found.push((damage, said, taken));
            scene.stack().nats.kill().await;
            copy(&kept, &data);
            scene.stack().nats.restart().await.unwrap();
        }
        for member in &scene.members {
            member.service.wait_ready().await;
        }
        assert!(is_whole(&scene, &before).await, "the copy that was kept is whole");
        scene.reopen();
    }
    let mut outcome = scene.finish().await;
    for (damage, said, taken) in found {
        outcome.report.expect(Promise::I15, said.is_some(), || {
            format!("events were lost by {damage:?}, and nobody said so")
        });
        outcome.report.expect(Promise::I15, !taken, || {
            format!("events were lost by {damage:?}, and another one was taken in their place")
        });
    }
    Some(outcome)
}
