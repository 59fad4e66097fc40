//! What a measurement consists of: a rate, the latencies behind it, and who used the processors meanwhile.

use std::cmp::Ordering;
use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// When a measurement counts: from its start, which lets everything get going first, to its end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    start: Instant,
    end: Instant,
}

impl Window {
    /// A window of `time` that opens when `warm_up` has passed.
    pub(crate) fn after(warm_up: Duration, time: Duration) -> Self {
        let start = Instant::now() + warm_up;
        Self {
            start,
            end: start + time,
        }
    }

    /// Whether something should still be begun.
    pub(crate) fn is_open(&self) -> bool {
        Instant::now() < self.end
    }

    fn seconds(&self) -> f64 {
        (self.end - self.start).as_secs_f64()
    }
}

/// Collects what was done in a window.
#[derive(Debug)]
pub(crate) struct Meter {
    window: Window,
    events: u64,
    micros: Histogram<u64>,
}

impl Meter {
    /// A meter that counts what ends within the window.
    pub(crate) fn new(window: Window) -> Self {
        Self {
            window,
            events: 0,
            micros: Histogram::new_with_max(60_000_000, 3).expect("bounds are valid"),
        }
    }

    /// Counts `events` that were begun together at `since` and are done now.
    pub(crate) fn count(&mut self, events: u64, since: Instant) {
        let now = Instant::now();
        if now >= self.window.start && now < self.window.end {
            self.events += events;
            self.micros.saturating_record_n(micros(now - since), events);
        }
    }

    /// Adds what another meter counted, in the same window or in another one of the same length.
    pub(crate) fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.micros.add(&other.micros).expect("bounds are the same");
    }

    /// The rate of what was counted in one window, or in `windows` of the same length.
    pub(crate) fn rate(&self, windows: u32) -> Rate {
        Rate {
            per_second: as_float(self.events) / self.window.seconds() / f64::from(windows),
            p50_ms: quantile_ms(&self.micros, 0.5),
            p99_ms: quantile_ms(&self.micros, 0.99),
        }
    }
}

/// A measured rate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    /// Events done in a second.
    pub(crate) per_second: f64,
    /// Half of the events took at most this long.
    pub(crate) p50_ms: f64,
    /// 99 of 100 events took at most this long.
    pub(crate) p99_ms: f64,
}

impl Rate {
    /// The rate without its times, as a limit of that name.
    pub(crate) fn alone(&self, name: &str) -> String {
        format!("{:>7.0}/s {name}", self.per_second)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>7.0}/s p50 {:.1} p99 {:.1} ms",
            self.per_second, self.p50_ms, self.p99_ms
        )
    }
}

/// Times of single operations.
#[derive(Debug)]
pub(crate) struct Times(Histogram<u64>);

impl Times {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_max(60_000_000, 3).expect("bounds are valid"))
    }

    /// Adds one.
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.saturating_record(micros(time));
    }

    /// How many there are.
    pub(crate) fn len(&self) -> u64 {
        self.0.len()
    }

    /// The time that half of them took at most.
    pub(crate) fn p50_ms(&self) -> f64 {
        quantile_ms(&self.0, 0.5)
    }

    /// The time that 99 of 100 took at most.
    pub(crate) fn p99_ms(&self) -> f64 {
        quantile_ms(&self.0, 0.99)
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {:.2} p99 {:.2} ms", self.p50_ms(), self.p99_ms())
    }
}

/// How probable it is that something of the first kind takes longer than something of the second, where equals count half
/// (the statistic of Mann and Whitney): 0.5 where nothing tells them apart.
pub(crate) fn is_longer(first: &[Duration], second: &[Duration]) -> f64 {
    let halves = |one: &Duration| -> u64 {
        let half = |other: &Duration| match one.cmp(other) {
            Ordering::Greater => 2,
            Ordering::Equal => 1,
            Ordering::Less => 0,
        };
        second.iter().map(half).sum()
    };
    let all: u64 = first.iter().map(halves).sum();
    as_float(all) / 2.0 / (as_float(first.len() as u64) * as_float(second.len() as u64))
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn quantile_ms(micros: &Histogram<u64>, quantile: f64) -> f64 {
    as_float(micros.value_at_quantile(quantile)) / 1_000.0
}

/// A count as a number to divide.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts, bytes and microseconds are far below 2^52"
)]
pub(crate) fn as_float(count: u64) -> f64 {
    count as f64
}
