//! The supervisor: kills, freezes and starts again, by a seed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use super::phones::Network;
use crate::support::{Service, Stack};

/// Where an API process can be made to die.
const API_POINTS: &[&str] = &["before_append", "after_append"];
/// Where a projector can be made to die.
const PROJECTOR_POINTS: &[&str] = &["after_baskets", "after_one_update", "after_updates", "after_checkpoint"];
/// How long a shopper may do nothing.
pub const ABANDON_AFTER: &str = "3s";
/// The same in milliseconds.
pub const ABANDON_AFTER_MS: i64 = 3_000;
/// How often processes are looked at.
const TICK: Duration = Duration::from_millis(20);

/// A process of the service, and what is to be done to it next.
struct Victim {
    role: &'static str,
    service: Service,
    due: Option<(Instant, Due)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Due {
    Start,
    Wake,
}

/// Owns all processes of a run.
pub struct Supervisor {
    stack: Stack,
    rng: fastrand::Rng,
    /// The API, then the projectors.
    victims: Vec<Victim>,
    api: Arc<Mutex<String>>,
    deeds: BTreeMap<String, u64>,
}

impl Supervisor {
    /// Starts one API and two projectors.
    pub async fn start(stack: Stack, seed: u64) -> Self {
        let mut victims = Vec::new();
        for role in ["api", "project", "project"] {
            let service = stack
                .service_with(role, &[("EZOUT_ABANDON_AFTER", ABANDON_AFTER)])
                .await;
            victims.push(Victim {
                role,
                service,
                due: None,
            });
        }
        let api = Arc::new(Mutex::new(victims[0].service.http_url()));
        let rng = fastrand::Rng::with_seed(seed);
        Self {
            stack,
            rng,
            victims,
            api,
            deeds: BTreeMap::new(),
        }
    }

    pub fn api_url(&self) -> String {
        self.api.lock().unwrap().clone()
    }

    /// Tells these phones whenever the API moves.
    pub fn tell(&mut self, network: &Network) {
        self.api = Arc::clone(&network.api);
    }

    /// What was done, and how often.
    pub fn deeds(&self) -> &BTreeMap<String, u64> {
        &self.deeds
    }

    /// Does its worst until then.
    pub async fn torment(&mut self, until: Instant) {
        let mut next = Instant::now() + self.pause(1_000..3_000);
        while Instant::now() < until {
            self.look_after().await;
            if Instant::now() >= next {
                self.strike().await;
                next = Instant::now() + self.pause(1_000..3_000);
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Starts and wakes all, and waits until all are ready.
    pub async fn calm(&mut self) -> &Stack {
        for place in 0..self.victims.len() {
            match self.victims[place].due.take() {
                Some((_, Due::Wake)) => self.victims[place].service.signal(Signal::CONT),
                Some((_, Due::Start)) => {}
                // One with a fail-point armed might still die.
                None => self.victims[place].service.kill().await,
            }
            if self.has_ended(place).await {
                self.launch(place, None);
            }
        }
        for victim in &self.victims {
            victim.service.wait_ready().await;
        }
        &self.stack
    }

    fn pause(&mut self, milliseconds: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.rng.u64(milliseconds))
    }

    fn count(&mut self, deed: String) {
        *self.deeds.entry(deed).or_default() += 1;
    }

    fn launch(&mut self, place: usize, fail_point: Option<&str>) {
        let mut environment: Vec<_> = fail_point.iter().map(|point| ("EZOUT_FAIL_POINT", *point)).collect();
        environment.push(("EZOUT_ABANDON_AFTER", ABANDON_AFTER));
        self.victims[place].service = self.stack.launch(self.victims[place].role, &environment);
        if place == 0 {
            *self.api.lock().unwrap() = self.victims[0].service.http_url();
        }
    }

    async fn has_ended(&mut self, place: usize) -> bool {
        let ended = self.victims[place].service.exited();
        tokio::time::timeout(Duration::from_millis(1), ended).await.is_ok()
    }

    /// Does what is due, and finds those that died of a fail-point.
    async fn look_after(&mut self) {
        for place in 0..self.victims.len() {
            match self.victims[place].due {
                Some((at, due)) if Instant::now() >= at => {
                    self.victims[place].due = None;
                    match due {
                        Due::Wake => self.victims[place].service.signal(Signal::CONT),
                        Due::Start => self.launch(place, None),
                    }
                }
                Some(_) => {}
                None => {
                    if self.has_ended(place).await {
                        self.count(format!("death of {} at a fail-point", self.victims[place].role));
                        self.start_later(place);
                    }
                }
            }
        }
    }

    fn start_later(&mut self, place: usize) {
        let at = Instant::now() + self.pause(50..1_500);
        self.victims[place].due = Some((at, Due::Start));
    }

    async fn strike(&mut self) {
        let place = self.rng.usize(0..self.victims.len());
        let free = self.victims[place].due.is_none();
        match self.rng.u8(0..12) {
            0 | 1 => self.kill_nats().await,
            2 | 3 => self.kill_mongod().await,
            4..=6 if place > 0 && free => {
                self.victims[place].service.signal(Signal::STOP);
                let at = Instant::now() + self.pause(6_000..9_000);
                self.victims[place].due = Some((at, Due::Wake));
                self.count("freeze of a projector".to_owned());
            }
            4..=8 if free => {
                self.victims[place].service.kill().await;
                self.start_later(place);
                self.count(format!("kill -9 {}", self.victims[place].role));
            }
            _ if free => {
                self.victims[place].service.kill().await;
                let points = if place == 0 { API_POINTS } else { PROJECTOR_POINTS };
                let point = points[self.rng.usize(0..points.len())];
                let armed = format!("{point}:{}", self.rng.u8(1..60));
                self.launch(place, Some(&armed));
                self.count(format!("{point} armed"));
            }
            _ => {}
        }
    }

    async fn kill_nats(&mut self) {
        self.stack.nats.kill().await;
        tokio::time::sleep(self.pause(10..1_500)).await;
        self.stack.nats.restart().await.unwrap();
        self.count("kill -9 nats-server".to_owned());
    }

    async fn kill_mongod(&mut self) {
        self.stack.mongod.kill().await;
        tokio::time::sleep(self.pause(10..1_500)).await;
        self.stack.mongod.restart().await.unwrap();
        self.count("kill -9 mongod".to_owned());
    }
}
