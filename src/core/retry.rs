//! Waiting before trying again: exponential, bounded, with jitter.

use std::time::Duration;

/// The pauses between attempts at something that failed.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    attempt: u32,
}

impl Backoff {
    /// Starts at `first`, doubles each time, and stays at `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            attempt: 0,
        }
    }

    /// The next pause: between half and all of the exponential one, so that many who failed
    /// together do not return together.
    pub fn next_pause(&mut self) -> Duration {
        let full = self.first.saturating_mul(1 << self.attempt.min(16)).min(self.longest);
        self.attempt = self.attempt.saturating_add(1);
        full.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Begins again after a success.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_start_over_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for full in [100, 200, 400, 800, 1_000, 1_000] {
            let pause = backoff.next_pause();
            assert!(
                pause >= Duration::from_millis(full / 2) && pause <= Duration::from_millis(full),
                "{pause:?} of {full}"
            );
        }
        backoff.reset();
        assert!(backoff.next_pause() <= Duration::from_millis(100));
    }
}
