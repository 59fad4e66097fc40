//! Who used the processors: all sides share one machine, so a ratio can only be judged beside this.

use std::fmt;
use std::time::Instant;

use crate::meter::as_float;

/// Ticks in a second of what the system counts; 100 on every Linux.
const TICKS_A_SECOND: f64 = 100.0;

/// Process ids to watch, by the word that stands for them.
pub(crate) type Watched = Vec<(&'static str, Vec<u32>)>;

/// A watch over processes.
#[derive(Debug)]
pub(crate) struct Processors {
    processes: Watched,
    began: Vec<u64>,
    busy: u64,
    at: Instant,
}

impl Processors {
    /// Begins to watch these processes, and this one, which makes the load.
    pub(crate) fn watch(mut processes: Watched) -> Self {
        processes.push(("load", vec![std::process::id()]));
        Self {
            began: ticks(&processes),
            processes,
            busy: busy_ticks(),
            at: Instant::now(),
        }
    }

    /// What each used since then, in processors.
    pub(crate) fn used(&self) -> Used {
        let seconds = self.at.elapsed().as_secs_f64();
        let processors = |ticks: u64| as_float(ticks) / TICKS_A_SECOND / seconds;
        let mut used: Vec<(&'static str, f64)> = Vec::new();
        let mut ours = 0;
        for ((name, _), (began, now)) in self.processes.iter().zip(self.began.iter().zip(ticks(&self.processes))) {
            ours += now.saturating_sub(*began);
            used.push((name, processors(now.saturating_sub(*began))));
        }
        let others = busy_ticks().saturating_sub(self.busy).saturating_sub(ours);
        used.push(("others", processors(others)));
        Used(used)
    }
}

/// Processors used, by the word that stands for the process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Used(Vec<(&'static str, f64)>);

impl fmt::Display for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (name, processors)) in self.0.iter().enumerate() {
            let space = if place == 0 { "" } else { " " };
            write!(f, "{space}{name} {processors:.2}")?;
        }
        Ok(())
    }
}

fn ticks(processes: &[(&'static str, Vec<u32>)]) -> Vec<u64> {
    let of = |id: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        // The 14th and 15th field of the line: user and system time.
        fields
            .split(' ')
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum::<u64>()
    };
    processes.iter().map(|(_, ids)| ids.iter().map(of).sum()).collect()
}

/// Everything that the machine did but idle and wait for its disk.
fn busy_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    // Beyond the eighth stands what is counted in the first two already.
    fields.iter().take(8).sum::<u64>().saturating_sub(idle)
}

/// Bytes of memory that a process holds at most since its start, or now.
pub(crate) fn resident_bytes(id: u32, at_most: bool) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let name = if at_most { "VmHWM:" } else { "VmRSS:" };
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}

/// The machine in a few words.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("a processor without a name", |(_, model)| model.trim());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    format!(
        "{cores} processors ({model}), Linux {}, load before the start {load}",
        kernel.trim()
    )
}
