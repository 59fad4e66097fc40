//! `ezout simulate`: shoppers who shop over HTTP as the phones do; the demo and the load.
//!
//! Visits are realistic and seeded: products from a catalogue, removals, actions that come late,
//! sends that are repeated, and now and then a total that the app got wrong.

pub mod visit;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::core::id::ShopId;
use crate::tools::say;

pub use visit::{Send, Visit, shop_of};

/// How long an answer may take before the shopper's phone gives up and sends again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before an event is sent again, where the answer names none.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Options of `ezout simulate`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where the API is.
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    pub url: String,
    /// Number of shops.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub shops: u32,
    /// Shoppers who shop at the same time; each has one request under way at most.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub shoppers: u32,
    /// Events a second of all shoppers together; 0 for as many as the system takes.
    #[arg(long, default_value_t = 20.0)]
    pub rate: f64,
    /// How long, with its unit: `30s`, `5m`, `1h`.
    #[arg(long = "for", default_value = "1m", value_parser = duration)]
    pub duration: Duration,
    /// Seed of the visits; the same seed makes the same visits. Without it, another one each time, which is printed.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Token that `simulate` sends along, of the role `service` or `admin`. Without it: none, which suffices where `EZOUT_AUTH_ANONYMOUS` is `append` and where nobody is asked
    #[arg(long, env = "EZOUT_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<Token>,
}

/// A token, which is never printed.
#[derive(Clone)]
pub struct Token(String);

impl From<String> for Token {
    fn from(token: String) -> Self {
        Self(token)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Args {
    /// The shoppers of the demo: few enough for an eye to follow.
    pub(super) fn demo(url: String, token: Option<Token>) -> Self {
        Self {
            token,
            url,
            shops: 3,
            shoppers: 12,
            rate: 6.0,
            duration: Duration::MAX,
            seed: None,
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let unit_at = text
        .find(|character: char| !character.is_ascii_digit() && character != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let factor = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err("a duration has a number and a unit, such as 30s, 5m or 1h".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| format!("{number:?} is no number"))?;
    Duration::try_from_secs_f64(number * factor).map_err(|error| error.to_string())
}

/// What came of a simulation.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Seed of the visits.
    pub seed: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Events that were recorded.
    pub recorded: u64,
    /// Sends of events that were recorded before.
    pub duplicates: u64,
    /// Answers that refused an event for good.
    pub refused: u64,
    /// Those of them that asked for a token, or for another one.
    pub not_let_in: u64,
    /// Sends that were repeated because the system was not there or overloaded.
    pub retried: u64,
    /// Visits that ended.
    pub visits: u64,
    /// Microseconds from a send to its answer.
    pub latency_us: Histogram<u64>,
}

impl Summary {
    fn new(seed: u64) -> Self {
        let longest_us = u64::try_from(ANSWER_TIMEOUT.as_micros()).unwrap_or(u64::MAX);
        let latency_us = Histogram::new_with_max(longest_us, 3).expect("three digits and some seconds are allowed");
        Self {
            seed,
            answered: 0,
            recorded: 0,
            duplicates: 0,
            refused: 0,
            not_let_in: 0,
            retried: 0,
            visits: 0,
            latency_us,
        }
    }

    fn text(&self, seconds: f64) -> String {
        let at = |quantile: f64| {
            format!(
                "{:.2} ms",
                Duration::from_micros(self.latency_us.value_at_quantile(quantile)).as_secs_f64() * 1e3
            )
        };
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = self.answered as f64 / seconds;
        format!(
            "{} answers in {seconds:.1} s ({rate:.0}/s), {} visits ended, seed {}\n\
             recorded {}   repeated {}   refused {}   sent again after a failure {}\n\
             answer time   p50 {}   p90 {}   p99 {}   p99.9 {}   max {}",
            self.answered,
            self.visits,
            self.seed,
            self.recorded,
            self.duplicates,
            self.refused,
            self.retried,
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
            at(1.0)
        )
    }
}

/// Shops until the time is over or Ctrl-C, and prints what came of it.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let bar = ProgressBar::new(args.duration.as_secs().max(1));
    let style = "{elapsed_precise} {wide_bar} {msg}";
    bar.set_style(ProgressStyle::with_template(style).context("the bar's template")?);
    let stop = CancellationToken::new();
    let (ended, timer) = (stop.clone(), args.duration);
    tokio::spawn(async move {
        let _ = tokio::time::timeout(timer, tokio::signal::ctrl_c()).await;
        ended.cancel();
    });
    let started = Instant::now();
    let summary = shop(&args, stop, |summary| {
        bar.set_position(started.elapsed().as_secs());
        bar.set_message(format!(
            "{} recorded, {} repeated, {} sent again",
            summary.recorded, summary.duplicates, summary.retried
        ));
    })
    .await?;
    bar.finish_and_clear();
    say(&summary.text(started.elapsed().as_secs_f64()));
    if summary.answered == 0 {
        bail!("nothing answered at {}; is the service running?", args.url);
    }
    if summary.not_let_in == summary.answered {
        bail!(
            "the service at {} asks for a token of the role service; give one as EZOUT_TOKEN, with EZOUT_AUTH=dev the one that \
             `ezout token --role service --shop '*'` prints",
            args.url
        );
    }
    Ok(())
}

/// Lets the shoppers shop until `stop`; `progress` is told about twice a second.
pub async fn shop(args: &Args, stop: CancellationToken, progress: impl Fn(&Summary)) -> anyhow::Result<Summary> {
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_TIMEOUT).build()?;
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let summary = Arc::new(Mutex::new(Summary::new(seed)));
    let pause = if args.rate > 0.0 {
        Duration::from_secs_f64(f64::from(args.shoppers) / args.rate)
    } else {
        Duration::ZERO
    };
    let mut shoppers = tokio::task::JoinSet::new();
    for number in 0..args.shoppers {
        let shopper = Shopper {
            client: client.clone(),
            url: args.url.trim_end_matches('/').to_owned(),
            shop: shop_of(number % args.shops),
            pause,
            token: args
                .token
                .as_ref()
                .map(|token| token.0.trim())
                .filter(|token| !token.is_empty())
                .map(str::to_owned),
            rng: fastrand::Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(u64::from(number))),
            summary: Arc::clone(&summary),
        };
        let stop = stop.clone();
        shoppers.spawn(async move { stop.run_until_cancelled(shopper.shop_for_ever()).await });
    }
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        progress(&lock(&summary));
    }
    shoppers.join_all().await;
    let summary = lock(&summary).clone();
    Ok(summary)
}

fn lock(summary: &Mutex<Summary>) -> std::sync::MutexGuard<'_, Summary> {
    summary.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Shopper {
    client: reqwest::Client,
    url: String,
    shop: ShopId,
    pause: Duration,
    token: Option<String>,
    rng: fastrand::Rng,
    summary: Arc<Mutex<Summary>>,
}

impl Shopper {
    async fn shop_for_ever(mut self) {
        // Shoppers do not all enter at the same moment.
        tokio::time::sleep(self.pause.mul_f64(self.rng.f64())).await;
        loop {
            let visit = Visit::new(&mut self.rng, self.shop, OffsetDateTime::now_utc());
            for send in visit.sends {
                let due = Instant::now() + self.pause.mul_f64(0.5 + self.rng.f64());
                self.send(&send).await;
                tokio::time::sleep_until(due).await;
            }
            lock(&self.summary).visits += 1;
        }
    }

    /// Sends an event until it is answered for good, as a phone does.
    async fn send(&self, send: &Send) {
        loop {
            let started = Instant::now();
            let mut request = self.client.post(format!("{}/publish/{}", self.url, self.shop));
            if let Some(token) = &self.token {
                request = request.bearer_auth(token);
            }
            let answer = request
                .header("content-type", "application/json")
                .body(send.json.clone())
                .send()
                .await;
            let again = match answer {
                Ok(answer) => self.note(&answer, started.elapsed()),
                Err(_) => Some(RETRY_PAUSE),
            };
            let Some(pause) = again else { return };
            lock(&self.summary).retried += 1;
            tokio::time::sleep(pause).await;
        }
    }

    /// Notes an answer, and says after which pause to send again where it is not for good.
    fn note(&self, answer: &reqwest::Response, took: Duration) -> Option<Duration> {
        if answer.status().is_server_error() {
            let after = answer
                .headers()
                .get("retry-after")
                .and_then(|after| after.to_str().ok()?.parse().ok());
            return Some(after.map_or(RETRY_PAUSE, Duration::from_secs));
        }
        let mut summary = lock(&self.summary);
        summary.answered += 1;
        summary
            .latency_us
            .saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        let duplicate = answer
            .headers()
            .get("ezout-duplicate")
            .is_some_and(|value| value == "true");
        if !answer.status().is_success() {
            summary.refused += 1;
            if matches!(answer.status().as_u16(), 401 | 403 | 404) {
                summary.not_let_in += 1;
            }
        } else if duplicate {
            summary.duplicates += 1;
        } else {
            summary.recorded += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_printed() {
        assert_eq!(format!("{:?}", Token::from("a.b.c".to_owned())), "[redacted]");
    }

    #[test]
    fn a_duration_needs_its_unit() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for text in ["", "30", "s", "-1s", "1d", "1e9h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
