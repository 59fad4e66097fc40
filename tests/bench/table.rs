//! The table: each row a figure, the limit measured beside it, their ratio, and the goal.

use std::fmt;

use crate::processors::Used;

/// What is wanted of a ratio.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// The figure as a part of its limit.
    AtLeast(f64),
    /// The figure as a multiple of its limit.
    AtMost(f64),
    /// The row is there to compare.
    None,
}

/// One row.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) work: String,
    pub(crate) figure: String,
    pub(crate) limit: String,
    /// The figure by the limit.
    pub(crate) ratio: f64,
    pub(crate) goal: Goal,
    /// Processors used while the figure was measured.
    pub(crate) used: Used,
}

/// Prints rows as they come.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: usize,
    missed: Vec<String>,
    /// What all rounds came to, by the work and what it is compared with.
    rounds: Vec<(String, Vec<Round>)>,
}

/// A row of one round.
#[derive(Debug)]
struct Round {
    ratio: f64,
    figure: String,
    limit: String,
    goal: Goal,
}

impl Table {
    pub(crate) fn add(&mut self, row: &Row) {
        if self.rows == 0 {
            line("work", "figure", "limit", "ratio", "goal", "processors used");
        }
        self.rows += 1;
        let Row {
            work,
            figure,
            limit,
            ratio,
            goal,
            used,
        } = row;
        let ratio_text = if ratio.is_finite() {
            format!("{ratio:.2}")
        } else {
            String::new()
        };
        let goal_text = match goal.is_met(*ratio) {
            Some(met) => format!("{goal} {}", if met { "met" } else { "missed" }),
            None => String::new(),
        };
        line(work, figure, limit, &ratio_text, &goal_text, &used.to_string());
        // The same row in another round has other numbers.
        let words = limit
            .split_whitespace()
            .filter(|word| word.starts_with(char::is_alphabetic));
        let key = format!("{work}, {}", words.collect::<Vec<_>>().join(" "));
        let round = Round {
            ratio: *ratio,
            figure: figure.clone(),
            limit: limit.clone(),
            goal: *goal,
        };
        match self.rounds.iter_mut().find(|(known, _)| *known == key) {
            Some((_, rounds)) => rounds.push(round),
            None => self.rounds.push((key, vec![round])),
        }
        if goal.is_met(*ratio) == Some(false) {
            self.missed.push(work.clone());
        }
    }

    /// Of each row that has a ratio the round with the median one, with the least and the greatest of all rounds.
    fn medians(&mut self) {
        println!("\nmedians of all rounds");
        for (key, rounds) in &mut self.rounds {
            rounds.retain(|round| round.ratio.is_finite());
            rounds.sort_by(|one, other| one.ratio.total_cmp(&other.ratio));
            let (Some(least), Some(most)) = (rounds.first(), rounds.last()) else {
                continue;
            };
            let median = &rounds[rounds.len() / 2];
            let met = match median.goal.is_met(median.ratio) {
                Some(true) => "met",
                Some(false) => "missed",
                None => "",
            };
            println!(
                "{key:<80} {:<34} {:<37} {:.2} ({:.2} to {:.2}, {} rounds)  {} {met}",
                median.figure,
                median.limit,
                median.ratio,
                least.ratio,
                most.ratio,
                rounds.len(),
                median.goal,
            );
        }
    }

    pub(crate) fn end(&mut self) {
        if self.rounds.iter().any(|(_, rounds)| rounds.len() > 1) {
            self.medians();
            return;
        }
        if self.missed.is_empty() {
            println!("\n{} rows; every goal is met.", self.rows);
        } else {
            println!("\n{} rows; {} below the goal:", self.rows, self.missed.len());
            for work in &self.missed {
                println!("  {work}");
            }
        }
    }
}

fn line(work: &str, figure: &str, limit: &str, ratio: &str, goal: &str, used: &str) {
    println!("{work:<42} {figure:<34} {limit:<37} {ratio:>6}  {goal:<13} {used}");
}

impl Goal {
    fn is_met(self, ratio: f64) -> Option<bool> {
        match self {
            Self::AtLeast(goal) => Some(ratio >= goal),
            Self::AtMost(goal) => Some(ratio <= goal),
            Self::None => None,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(goal) => write!(f, ">= {goal}"),
            Self::AtMost(goal) => write!(f, "<= {goal}"),
            Self::None => Ok(()),
        }
    }
}
