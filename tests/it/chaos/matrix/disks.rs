//! Disks fill up under load, and have room again; and a journal has as many bytes as it may.
//!
//! A disk is a file system in memory, which is full when it is made as small as what is in it. Only root can make one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::Order;
use crate::chaos::scene::{Ground, Outcome, Scene};
use crate::support::{self, Service, Stack, wait_for};

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

/// Waits until a process says that it is not ready, and answers what it says.
async fn complaint(service: &Service) -> String {
    wait_for("a complaint", async || {
        let told = service.readiness().await?;
        (told["ready"] != true).then(|| told["reasons"].to_string())
    })
    .await
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
    let said = complaint(&scene.members[0].service).await;
    scene.notes.push(format!("with a full disk: {said}"));
    scene.pause(4_000..8_000).await;
    disk.grow();
    scene.stack().nats.kill().await;
    scene.stack().nats.restart().await.unwrap();
    let outcome = scene.finish().await;
    drop(disk);
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
    let mut config = context
        .get_stream("CHECKOUT")
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    config.max_bytes = bytes;
    context.update_stream(config).await.unwrap();
}

pub async fn journal(order: Order) -> Option<Outcome> {
    let mut scene = Scene::open(Ground::from(Stack::start().await), order.seed).await;
    for _ in 0..if order.brief { 1 } else { 3 } {
        scene.pause(2_000..4_000).await;
        let context = async_nats::jetstream::new(scene.places().client().await);
        let bytes = context.get_stream("CHECKOUT").await.unwrap().cached_info().state.bytes;
        allow(&scene, i64::try_from(bytes + 32 * 1024).unwrap()).await;
        scene.did("journal full");
        let said = complaint(&scene.members[0].service).await;
        scene.notes.push(format!("with a full journal: {said}"));
        scene.pause(3_000..6_000).await;
        allow(&scene, -1).await;
    }
    Some(scene.finish().await)
}
