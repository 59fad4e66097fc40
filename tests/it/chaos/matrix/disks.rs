//! Disks fill up under load, and have room again; and a journal has as many bytes as it may.
//!
//! A disk is a file system in memory, which is full when it is made as small as what is in it. Only root can make one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::Order;
use crate::chaos::promise::Promise;
use crate::chaos::scene::{Ground, Outcome, Scene};
use crate::support::{self, Stack, configure_journal, wait_for};

/// Place of the API among the scene's members.
const API: usize = 0;
/// What is left of a disk for events, in bytes.
const LEFT: u64 = 512 * 1024;
/// What a disk has at first and in the end: nats-server takes no stream that may become larger than its disk.
const ROOM: &str = "size=4g";

/// A file system in memory, taken away when this is dropped.
struct Disk(PathBuf);

impl Disk {
    /// Makes one with room; None where this is not allowed, which is then said.
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", ROOM, "tmpfs"])
            .arg(at)
            .output();
        if mounted.is_ok_and(|mounted| mounted.status.success()) {
            return Some(Self(at.to_owned()));
        }
        support::skip("mount", "only root can make a disk that is full");
        None
    }

    /// Makes it as small as what is in it, and a little.
    fn fill(&self) {
        self.remount(&format!("size={}", self.told("used") + LEFT));
    }

    /// Gives it room again.
    fn grow(&self) {
        self.remount(ROOM);
    }

    fn remount(&self, size: &str) {
        let options = format!("remount,{size}");
        let remounted = Command::new("mount").args(["-o", &options]).arg(&self.0).status();
        assert!(remounted.unwrap().success(), "{options}");
    }

    /// Bytes that are left.
    fn free(&self) -> u64 {
        self.told("avail")
    }

    fn told(&self, column: &str) -> u64 {
        let told = Command::new("df")
            .args(["-B1", &format!("--output={column}")])
            .arg(&self.0)
            .output();
        let told = String::from_utf8(told.unwrap().stdout).unwrap();
        told.lines().nth(1).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// How long it may take until somebody says that there is no room.
const NOTICED_WITHIN: Duration = Duration::from_secs(30);
/// What the alerts of a full journal and of events that are told to come again count. A server that has no room for a message may not
/// answer at all.
const REFUSED: [&str; 3] = [
    "ezout_journal_appends_total{outcome=\"full\"}",
    "ezout_received_events_total{outcome=\"unavailable\"}",
    "ezout_received_events_total{outcome=\"unknown\"}",
];

async fn refused(scene: &Scene) -> f64 {
    let mut refused = 0.0;
    for series in REFUSED {
        refused += scene.members[API].service.metric(series).await.unwrap_or(0.0);
    }
    refused
}

/// Waits until the API counts that it could not take events, and then for a while.
async fn noticed(scene: &mut Scene) -> bool {
    let before = refused(scene).await;
    let answers = scene.phones().answers;
    let saying = async {
        loop {
            if refused(scene).await > before {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let said = tokio::time::timeout(NOTICED_WITHIN, saying).await.is_ok();
    scene.pause(3_000..6_000).await;
    let mut since = scene.phones().answers;
    for (status, times) in answers {
        *since.entry(status).or_default() -= times;
    }
    scene
        .notes
        .push(format!("without room phones were answered {since:?}, noticed: {said}"));
    said
}

pub async fn nats(order: Order) -> Option<Outcome> {
    let mut disk = None;
    let stack = Stack::start_as(|_| (), |nats| disk = Disk::mount(&nats.data)).await;
    let disk = disk?;
    let mut scene = Scene::open(stack, order.seed).await;
    scene.pause(2_000..4_000).await;
    disk.fill();
    scene.did("disk of nats-server filled");
    wait_for("the disk to be full", async || (disk.free() < LEFT / 8).then_some(())).await;
    let noticed = noticed(&mut scene).await;
    disk.grow();
    scene.stack().nats.kill().await;
    scene.stack().nats.restart().await.unwrap();
    let mut outcome = scene.finish().await;
    drop(disk);
    outcome
        .report
        .expect(Promise::I12, noticed, || "nobody said that the disk is full".to_owned());
    Some(outcome)
}

pub async fn mongod(order: Order) -> Option<Outcome> {
    let mut disk = None;
    let stack = Stack::start_with(|mongod| disk = Disk::mount(&mongod.data)).await;
    let disk = disk?;
    let mut scene = Scene::open(stack, order.seed).await;
    scene.pause(2_000..4_000).await;
    disk.fill();
    scene.did("disk of mongod filled");
    let ended = tokio::time::timeout(Duration::from_mins(1), scene.stack().mongod.exited()).await;
    scene.notes.push(match ended {
        Ok(status) => format!("with a full disk mongod ended: {status}"),
        Err(_) => format!("with a full disk mongod went on; {} bytes are left", disk.free()),
    });
    scene.pause(3_000..6_000).await;
    disk.grow();
    scene.stack().mongod.kill().await;
    scene.stack().mongod.restart().await.unwrap();
    let outcome = scene.finish().await;
    drop(disk);
    Some(outcome)
}

/// Allows the journal so many bytes.
async fn allow(scene: &Scene, bytes: i64) {
    let context = async_nats::jetstream::new(scene.places().client().await);
    configure_journal(&context, |config| config.max_bytes = bytes).await;
}

pub async fn journal(order: Order) -> Option<Outcome> {
    let mut scene = Scene::open(Ground::from(Stack::start().await), order.seed).await;
    let mut all_noticed = true;
    for _ in 0..if order.brief { 1 } else { 3 } {
        scene.pause(2_000..4_000).await;
        let context = async_nats::jetstream::new(scene.places().client().await);
        let bytes = context.get_stream("CHECKOUT").await.unwrap().cached_info().state.bytes;
        allow(&scene, i64::try_from(bytes + 32 * 1024).unwrap()).await;
        scene.did("journal full");
        all_noticed &= noticed(&mut scene).await;
        allow(&scene, -1).await;
    }
    let mut outcome = scene.finish().await;
    let otherwise = || "nobody said that the journal is full".to_owned();
    outcome.report.expect(Promise::I12, all_noticed, otherwise);
    Some(outcome)
}
