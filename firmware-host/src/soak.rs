//! A long run on a source that misbehaves, with every mode in turn, watched from inside: memory, threads, faults.

use crate::app::App;
use crate::command::{Command, Mode};
use crate::config::Config;
use crate::display::Target;
use crate::engine::Engine;
use crate::run::{Plan, Summary, run};
use crate::source::faulty;
use crate::work::Post;
use gabion_spec::Pixels;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After this, memory is to stay; after half of the time where there were adaptations, for the allocator's heaps settle
/// after a dozen of these.
const WARM: Duration = Duration::from_secs(60);
/// Most growth after that, KiB.
const GROWTH: u64 = 5 * 1024;
/// Where it adapted: what is resident at its most depends on what training and two sets of weights happen to meet in the heaps.
const GROWTH_ADAPTING: u64 = 32 * 1024;
/// Time between two commands.
const PACE: Duration = Duration::from_secs(4);

/// What the kernel says of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Resident memory, KiB.
    pub resident: u64,
    /// Threads.
    pub threads: u64,
}

impl Process {
    /// As of now; zeros where there is no `/proc`.
    pub fn now() -> Self {
        let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let number = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
            line.and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        Self { resident: number("VmRSS:"), threads: number("Threads:") }
    }
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// How long it ran.
    pub time: Duration,
    /// Before it began.
    pub first: Process,
    /// The most until it was warm: in the first minute, and the first half where there were adaptations.
    pub warm: Process,
    /// The most after that.
    pub most: Process,
    /// At the end.
    pub last: Process,
    /// Processor time over wall time, in percent of one core.
    pub load: f64,
    /// Faults that the source was made to have.
    pub injected: u32,
    /// The run.
    pub summary: Summary,
}

impl Report {
    /// What is wrong, in words; nothing when all is well.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let grown = self.most.resident.saturating_sub(self.warm.resident);
        if grown > if self.summary.adaptations > 0 { GROWTH_ADAPTING } else { GROWTH } {
            complaints.push(format!("memory grew by {grown} KiB after it was warm"));
        }
        if !self.summary.stuck.is_empty() {
            complaints.push(format!("threads did not end: {}", self.summary.stuck.join(", ")));
        }
        if let Some(died) = &self.summary.died {
            complaints.push(died.clone());
        }
        // The fault that the run ends in may not have been said yet; a pause hides one that falls into it.
        let (injected, said) = (u64::from(self.injected), self.summary.faults);
        if said + 1 < injected || said > injected {
            complaints.push(format!("{injected} faults, {said} of them logged"));
        }
        complaints
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, first, warm, most, last, load, injected, summary } = self;
        writeln!(f, "ran {} s, {} frames answered, {} drawn", time.as_secs(), summary.frames, summary.drawn)?;
        let Summary { adaptations, promoted, refused, .. } = summary;
        let failed = adaptations.saturating_sub(promoted + refused);
        writeln!(f, "adaptations {adaptations}: {promoted} promoted, {refused} refused, {failed} failed")?;
        writeln!(f, "load {load:.0} % of a core; threads {} before, {} after", first.threads, last.threads)?;
        writeln!(
            f,
            "memory at most {} KiB until it was warm, {} KiB then, {} KiB at the end",
            warm.resident, most.resident, last.resident
        )?;
        write!(f, "faults injected {injected}, shown and logged {}", summary.faults)
    }
}

/// Processor time of this process.
fn processor() -> Duration {
    // User and system time in clock ticks of 1/100 s, the 14th and 15th field; the name in parentheses may have spaces.
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

/// What is asked for, one after the other, again and again.
fn commands() -> [Command; 10] {
    [
        Command::Mode(Mode::Attack),
        Command::Epsilon(Pixels::of_255(4.0)),
        Command::Views(16),
        Command::Mode(Mode::Adapt),
        Command::Views(8),
        Command::Epsilon(Pixels::of_255(8.0)),
        Command::Mode(Mode::Adapt),
        Command::RollBack,
        Command::Label("no such class".into()),
        Command::Mode(Mode::Live),
    ]
}

/// Soaks.
///
/// # Errors
/// When the system gives no thread.
pub fn soak(
    config: &Config,
    engine: Arc<dyn Engine>,
    post: &Arc<Post>,
    targets: &mut [Box<dyn Target>],
    time: Duration,
) -> std::io::Result<Report> {
    let start = Instant::now();
    let before = processor();
    let mut plan: Plan = config.plan(engine, start);
    plan.capture.origin = config.source.clone().faulty();
    plan.capture.longest_backoff = Duration::from_secs(2);
    // Shorter than the faulty source's silences, longer than those of a busy machine.
    plan.stall = Duration::from_millis(900);
    let first = Process::now();
    let (mut warm, mut most, mut looked) = (Process::default(), Process::default(), Duration::ZERO);
    let (mut next, mut step) = (PACE, 0);
    let commands = commands();
    let already = faulty::injected();
    let summary = run(&plan, post, targets, &mut |now, _: &App, summary: &Summary| {
        if now >= time {
            return Some(Command::Quit);
        }
        if now >= looked + Duration::from_secs(1) {
            looked = now;
            let process = Process::now();
            if now < WARM || (summary.adaptations > 0 && now < time / 2) {
                (warm, most) = (warm.max(most).max(process), Process::default());
            } else {
                most = most.max(process);
            }
            if now.as_secs() % 60 == 0 {
                tracing::info!(
                    seconds = now.as_secs(),
                    kibibytes = process.resident,
                    threads = process.threads,
                    frames = summary.frames,
                    faults = summary.faults,
                    adaptations = summary.adaptations,
                    promoted = summary.promoted,
                    refused = summary.refused,
                    "soaking"
                );
            }
        }
        (now >= next).then(|| {
            next += PACE;
            step += 1;
            commands[(step - 1) % commands.len()].clone()
        })
    })?;
    let time = start.elapsed();
    let load = 100.0 * (processor() - before).as_secs_f64() / time.as_secs_f64();
    let injected = faulty::injected() - already;
    Ok(Report { time, first, warm, most, last: Process::now(), load, injected, summary })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_name_what_is_wrong() {
        let process = |resident| Process { resident, threads: 3 };
        let mut report = Report {
            time: Duration::from_secs(100),
            first: process(9_000),
            warm: process(10_000),
            most: process(12_000),
            last: process(11_000),
            load: 10.0,
            injected: 9,
            summary: Summary { faults: 9, ..Summary::default() },
        };
        assert_eq!(report.complaints(), Vec::<String>::new());
        report.most = process(20_000);
        report.summary.adaptations = 7;
        assert_eq!(report.complaints(), Vec::<String>::new());
        report.summary.adaptations = 0;
        report.summary.stuck = vec!["capture"];
        report.summary.faults = 4;
        report.summary.died = Some("the inference thread died".into());
        assert_eq!(report.complaints().len(), 4);
    }

    #[test]
    fn the_kernel_says_something() {
        let process = Process::now();
        assert!(process.resident > 1000 && process.threads >= 1);
    }
}
