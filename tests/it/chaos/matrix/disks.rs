//! Disks fill up under load, and have room again; and a journal has as many bytes as it may.
//!
//! A disk is a file system in memory, which is full when it is made as small as what is in it. Only root can make one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::statvfs;
use serde_json::Value;

use super::Order;
use crate::chaos::promise::Promise;
use crate::chaos::scene::{Ground, Outcome, Scene};
use crate::support::{self, Service, Stack, configure_journal};

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
        self.remount(&format!("size={}", self.used() + LEFT));
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
        let told = statvfs(&self.0).unwrap();
        told.f_bavail * told.f_frsize
    }

    fn used(&self) -> u64 {
        let told = statvfs(&self.0).unwrap();
        (told.f_blocks - told.f_bfree) * told.f_frsize
    }

    /// Whether next to nothing is left.
    fn is_full(&self) -> bool {
        self.free() < LEFT / 8
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// What the alert of a full journal counts.
const FULL: &str = "ezout_journal_appends_total{outcome=\"full\"}";
/// What the alerts of events that are told to come again count: what was refused, and what was not acknowledged.
const PUT_OFF: [&str; 2] = [
    "ezout_received_events_total{outcome=\"unavailable\"}",
    "ezout_received_events_total{outcome=\"unknown\"}",
];
/// What an API that can store nothing says of its readiness.
const STORES_NOTHING: &str = "the journal stores nothing";

/// What was seen while there was no room: whether it was as it should be, and what is said where it was not.
type Seen = Vec<(bool, String)>;

/// Whether this comes true; it is given as long as everything else.
async fn comes_true(mut condition: impl AsyncFnMut() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < support::patience() {
        if condition().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

/// Whether a process says that it should get no work, with these words among its reasons.
async fn is_unready(service: &Service, words: &str) -> bool {
    let told = service.readiness().await.unwrap_or_default();
    let reasons = told["reasons"].as_array();
    let says = |reason: &Value| reason.as_str().is_some_and(|reason| reason.contains(words));
    told["ready"] == false && reasons.is_some_and(|reasons| reasons.iter().any(says))
}

async fn counted(service: &Service, series: &[&str]) -> f64 {
    let mut sum = 0.0;
    for one in series {
        sum += service.metric(one).await.unwrap_or(0.0);
    }
    sum
}

/// What phones are told, and who else, from the moment at which there is no room on this disk, or in the journal alone. Of a full disk
/// nats-server tells nobody: it does not answer.
async fn without_room(scene: &mut Scene, disk: Option<&Disk>) -> Seen {
    let mut seen = Seen::new();
    let (code, series) = match disk {
        Some(_) => ("outcome_unknown", &PUT_OFF[..]),
        None => ("journal_full", &[FULL][..]),
    };
    let before = counted(&scene.members[API].service, series).await;
    let known = scene.phones().put_off.len();
    let refused = comes_true(async || scene.phones().put_off[known..].iter().any(|told| told.code == code));
    seen.push((
        refused.await,
        format!("no phone was told {code} though there is no room"),
    ));
    let is_full = || disk.is_none_or(Disk::is_full);
    // On a slow machine an acknowledgement may be late before.
    let words = "events were refused and there was room on the disk";
    seen.push((comes_true(async || is_full()).await, words.to_owned()));
    let api = &scene.members[API].service;
    let unready = comes_true(async || is_unready(api, STORES_NOTHING).await);
    let words = "an API that can store nothing says that it is ready";
    seen.push((unready.await, words.to_owned()));
    let words = "what the alerts count does not show that there is no room";
    seen.push((counted(api, series).await > before, words.to_owned()));
    scene.pause(3_000..6_000).await;
    seen.push((is_full(), "there was room again though nobody made any".to_owned()));
    let unready = is_unready(&scene.members[API].service, STORES_NOTHING).await;
    let words = "an API that can store nothing says that it is ready again";
    seen.push((unready, words.to_owned()));
    let put_off = scene.phones().put_off.split_off(known);
    for told in &put_off {
        let is_right = match told.code.as_str() {
            "journal_full" => told.status == 507 && told.detail.contains("send it again later"),
            "outcome_unknown" | "journal_unavailable" => told.status == 503 && told.detail.contains("again after"),
            _ => false,
        };
        let is_right = is_right && told.retry_after.is_some();
        seen.push((is_right, format!("without room a phone was told {told:?}")));
    }
    let mut codes: BTreeMap<String, u64> = BTreeMap::new();
    for told in put_off {
        *codes.entry(told.code).or_default() += 1;
    }
    scene.notes.push(format!("without room phones were told {codes:?}"));
    seen
}

/// Adds what was seen to what came of a cell.
fn add(outcome: &mut Outcome, seen: Seen) {
    for (holds, otherwise) in seen {
        outcome.report.expect(Promise::I12, holds, || otherwise);
    }
}

pub async fn nats(order: Order) -> Option<Outcome> {
    let mut disk = None;
    let stack = Stack::start_as(|_| (), |nats| disk = Disk::mount(&nats.data)).await;
    let disk = disk?;
    let mut scene = Scene::open(stack, order.seed).await;
    scene.pause(2_000..4_000).await;
    disk.fill();
    scene.did("disk of nats-server filled");
    let seen = without_room(&mut scene, Some(&disk)).await;
    disk.grow();
    scene.stack().nats.kill().await;
    scene.stack().nats.restart().await.unwrap();
    let mut outcome = scene.finish().await;
    drop(disk);
    add(&mut outcome, seen);
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
    let mut seen = Seen::new();
    // It ends when it cannot write.
    let ended = tokio::time::timeout(support::patience(), scene.stack().mongod.exited()).await;
    scene.notes.push(format!(
        "with a full disk mongod ended: {ended:?}, {} bytes are left",
        disk.free()
    ));
    seen.push((ended.is_ok(), "mongod took no notice of its full disk".to_owned()));
    seen.push((disk.is_full(), "mongod ended while there was room".to_owned()));
    for projector in [API + 1, API + 2] {
        let service = &scene.members[projector].service;
        let unready = comes_true(async || is_unready(service, "views: ").await);
        let words = "a projector that can write no basket says that it is ready".to_owned();
        seen.push((unready.await, words));
        let told = comes_true(async || service.metric("ezout_views_open").await == Some(0.0));
        let words = "what its alert counts does not show that the views cannot be had".to_owned();
        seen.push((told.await, words));
    }
    let known = scene.phones().acknowledged_at.len();
    let taken = comes_true(async || scene.phones().acknowledged_at.len() > known);
    seen.push((taken.await, "without MongoDB no event is taken".to_owned()));
    let ready = scene.members[API].service.readiness().await.unwrap_or_default();
    seen.push((
        ready["ready"] == true,
        format!("without MongoDB the API is not ready: {ready}"),
    ));
    scene.pause(3_000..6_000).await;
    seen.push((disk.is_full(), "there was room again though nobody made any".to_owned()));
    disk.grow();
    scene.stack().mongod.kill().await;
    scene.stack().mongod.restart().await.unwrap();
    let mut outcome = scene.finish().await;
    drop(disk);
    add(&mut outcome, seen);
    Some(outcome)
}

/// Allows the journal so many bytes.
async fn allow(scene: &Scene, bytes: i64) {
    let context = async_nats::jetstream::new(scene.places().client().await);
    configure_journal(&context, scene.places().spread, |config| config.max_bytes = bytes).await;
}

pub async fn journal(order: Order) -> Option<Outcome> {
    let mut scene = Scene::open(Ground::from(Stack::start().await), order.seed).await;
    let mut seen = Seen::new();
    for _ in 0..if order.brief { 1 } else { 3 } {
        scene.pause(2_000..4_000).await;
        let context = async_nats::jetstream::new(scene.places().client().await);
        let first = scene.places().spread.of_partition(0).name();
        let bytes = context.get_stream(first).await.unwrap().cached_info().state.bytes;
        allow(&scene, i64::try_from(bytes + 32 * 1024).unwrap()).await;
        scene.did("journal full");
        seen.extend(without_room(&mut scene, None).await);
        allow(&scene, -1).await;
        let api = &scene.members[API].service;
        let ready = comes_true(async || api.readiness().await.unwrap_or_default()["ready"] == true);
        seen.push((ready.await, "with room again the API is not ready again".to_owned()));
    }
    let mut outcome = scene.finish().await;
    add(&mut outcome, seen);
    Some(outcome)
}
