//! The clocks of the servers and of the service, compared with that of this machine.
//!
//! Leases go by MongoDB's clock alone, and the order of events by none. But times of the past are those of NATS,
//! lag is told by the service's clock against that of NATS, and a service that looks for retries allows for a minute.

use time::{Duration, OffsetDateTime};

use super::report::Finding;

const CHECK: &str = "clocks";
/// Beyond this, times that are compared by a person mislead.
const TOLD: Duration = Duration::seconds(1);
/// What the service allows for.
const ALLOWED: Duration = Duration::MINUTE;

/// A clock.
#[derive(Debug, Clone)]
pub(super) struct Clock {
    pub(super) whose: String,
    /// How far it is ahead of this machine's.
    pub(super) ahead: Duration,
    /// By how much that may be wrong.
    unsure: Duration,
}

impl Clock {
    /// A clock that said `now` to a question that was asked and answered then.
    pub(super) fn read(whose: String, asked: OffsetDateTime, now: OffsetDateTime, answered: OffsetDateTime) -> Self {
        let half = (answered - asked) / 2;
        Self {
            whose,
            ahead: now - (asked + half),
            unsure: half,
        }
    }

    /// The same of a clock that tells whole seconds.
    pub(super) fn of_whole_seconds(self) -> Self {
        let half = Duration::milliseconds(500);
        Self {
            ahead: self.ahead + half,
            unsure: self.unsure + half,
            ..self
        }
    }

    /// How far it is off at least.
    fn off(&self) -> Duration {
        (self.ahead.abs() - self.unsure).max(Duration::ZERO)
    }
}

pub(super) fn judge(clocks: &[Clock]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for clock in clocks {
        let off = clock.off();
        if off <= TOLD {
            continue;
        }
        let word = if clock.ahead.is_negative() {
            "behind"
        } else {
            "ahead of"
        };
        let fact = format!(
            "the clock of {} is {:.1} s {word} this machine's",
            clock.whose,
            clock.ahead.abs().as_seconds_f64()
        );
        let next = "chronyc -n tracking".to_owned();
        let finding = if off > ALLOWED {
            let fact = format!("{fact}; the service allows for {} s", ALLOWED.whole_seconds());
            Finding::fail(CHECK, fact, next)
        } else {
            Finding::warn(
                CHECK,
                format!("{fact}, so lag and times of the past are wrong by that"),
                next,
            )
        };
        findings.push(finding.first("on both machines, to see which is wrong"));
    }
    if clocks.is_empty() {
        findings.push(Finding::skipped(CHECK, "nobody told the time"));
    } else if findings.is_empty() {
        let told: Vec<&str> = clocks.iter().map(|clock| clock.whose.as_str()).collect();
        let fact = format!(
            "{} and this machine agree within {} s",
            told.join(", "),
            TOLD.whole_seconds()
        );
        findings.push(Finding::ok(CHECK, fact));
    }
    findings
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn told(ahead_ms: i64, took_ms: i64) -> String {
        let asked = datetime!(2026-01-01 12:00 UTC);
        let answered = asked + Duration::milliseconds(took_ms);
        let now = asked + Duration::milliseconds(took_ms / 2 + ahead_ms);
        let clock = Clock::read("NATS".to_owned(), asked, now, answered);
        super::super::report::Report::new(judge(&[clock])).text()
    }

    #[test]
    fn a_clock_is_told_when_it_is_off_by_more_than_the_question_took() {
        assert!(told(0, 10).starts_with("ok "), "{}", told(0, 10));
        assert!(told(1_500, 2_000).starts_with("ok "), "{}", told(1_500, 2_000));
        assert!(told(1_500, 10).starts_with("warn "), "{}", told(1_500, 10));
        assert!(told(-20_000, 10).contains("20.0 s behind"), "{}", told(-20_000, 10));
        assert!(told(-61_000, 10).starts_with("FAIL "), "{}", told(-61_000, 10));
        assert!(told(61_000, 10).contains("61.0 s ahead of"), "{}", told(61_000, 10));
    }
}
