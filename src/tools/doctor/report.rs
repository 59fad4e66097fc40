//! What was found: a line for each check, and below each finding the command that comes next.

use std::fmt::Write as _;

use serde::Serialize;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// All is well.
    Ok,
    /// It works, and somebody should know.
    Warn,
    /// Something that is promised does not hold.
    Fail,
    /// It could not be looked at, for a reason that another line tells.
    Skipped,
}

impl Level {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
            Self::Skipped => "skip",
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    check: &'static str,
    level: Level,
    fact: String,
    /// What to do before the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<String>,
    /// The command that comes next.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl Finding {
    fn new(check: &'static str, level: Level, fact: impl Into<String>) -> Self {
        Self {
            check,
            level,
            fact: fact.into(),
            first: None,
            next: None,
        }
    }

    pub(super) fn ok(check: &'static str, fact: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, fact)
    }

    pub(super) fn skipped(check: &'static str, why: impl Into<String>) -> Self {
        Self::new(check, Level::Skipped, format!("not looked at: {}", why.into()))
    }

    pub(super) fn warn(check: &'static str, fact: impl Into<String>, next: String) -> Self {
        Self {
            next: Some(next),
            ..Self::new(check, Level::Warn, fact)
        }
    }

    pub(super) fn fail(check: &'static str, fact: impl Into<String>, next: String) -> Self {
        Self {
            next: Some(next),
            ..Self::new(check, Level::Fail, fact)
        }
    }

    pub(super) fn is_ok(&self) -> bool {
        self.level == Level::Ok
    }

    /// What a person has to do or to decide before the command.
    pub(super) fn first(self, first: impl Into<String>) -> Self {
        Self {
            first: Some(first.into()),
            ..self
        }
    }
}

/// Everything that was found, in the order from outside in.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// No check failed; there may be warnings.
    ok: bool,
    failed: usize,
    warned: usize,
    checks: Vec<Finding>,
}

impl Report {
    pub(super) fn new(checks: Vec<Finding>) -> Self {
        let count = |level| checks.iter().filter(|finding| finding.level == level).count();
        Self {
            ok: count(Level::Fail) == 0,
            failed: count(Level::Fail),
            warned: count(Level::Warn),
            checks,
        }
    }

    pub(super) fn failed(&self) -> usize {
        self.failed
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for finding in &self.checks {
            let Finding {
                check,
                level,
                fact,
                first,
                next,
            } = finding;
            let _ = writeln!(text, "{:<4}  {check:<11}  {fact}", level.word());
            if let Some(first) = first {
                let _ = writeln!(text, "      {first}");
            }
            if let Some(next) = next {
                let _ = writeln!(text, "      $ {next}");
            }
        }
        let skipped = self.checks.iter().filter(|check| check.level == Level::Skipped).count();
        let fine = self.checks.len() - self.failed - self.warned - skipped;
        let _ = write!(text, "\n{fine} ok, {} warn, {} FAIL", self.warned, self.failed);
        if skipped > 0 {
            let _ = write!(text, ", {skipped} not looked at");
        }
        text
    }

    /// For machines.
    pub(super) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("words and numbers are JSON")
    }
}

/// Numbers as a person would say them: `1`, `0 to 15`, `0, 3 and 7 to 9`.
pub(super) fn ranges(numbers: &[u16]) -> String {
    let mut spans: Vec<(u16, u16)> = Vec::new();
    for number in numbers {
        match spans.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*number) => *last = *number,
            _ => spans.push((*number, *number)),
        }
    }
    let mut words: Vec<String> = Vec::new();
    for (first, last) in spans {
        match last - first {
            0 => words.push(first.to_string()),
            1 => words.extend([first.to_string(), last.to_string()]),
            _ => words.push(format!("{first} to {last}")),
        }
    }
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => String::new(),
    }
}

/// `1 event`, `2 events`.
pub(super) fn counted(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// `partition 3`, `partitions 0 to 15`.
pub(super) fn partitions(numbers: &[u16]) -> String {
    let plural = if numbers.len() == 1 { "" } else { "s" };
    format!("partition{plural} {}", ranges(numbers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_in_ranges() {
        for (numbers, told) in [
            (&[][..], ""),
            (&[3], "3"),
            (&[3, 4], "3 and 4"),
            (&[0, 1, 2, 3], "0 to 3"),
            (&[0, 3, 7, 8, 9, u16::MAX], "0, 3, 7 to 9 and 65535"),
        ] {
            assert_eq!(ranges(numbers), told);
        }
    }

    #[test]
    fn a_report_tells_each_line_its_command_and_the_sum() {
        let report = Report::new(vec![
            Finding::ok("nats", "n1 answers"),
            Finding::warn("parked", "1 event waits", "ezout parked list".to_owned()),
            Finding::fail("sync", "n1 does not sync", "nats-server".to_owned()).first("stop it, then"),
            Finding::skipped("lag", "MongoDB does not answer"),
        ]);
        assert_eq!(
            report.text(),
            "ok    nats         n1 answers\n\
             warn  parked       1 event waits\n      $ ezout parked list\n\
             FAIL  sync         n1 does not sync\n      stop it, then\n      $ nats-server\n\
             skip  lag          not looked at: MongoDB does not answer\n\n\
             1 ok, 1 warn, 1 FAIL, 1 not looked at"
        );
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(
            (&json["ok"], &json["checks"][2]["next"]),
            (&false.into(), &"nats-server".into())
        );
        assert_eq!(report.failed(), 1);
    }
}
