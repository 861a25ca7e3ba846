//! Our CPU kernels, Burn's backends and PyTorch on the same work: see README.md.

mod allocator;
mod burned;
mod case;
mod frozen;
#[path = "../../../crates/experiment/src/bench/peers.rs"]
#[allow(dead_code)] // its own question, which is another
mod peers;
mod sides;

use case::{Case, Difference, Operands, Pass, Work};
use clap::{Parser, ValueEnum};
use peers::{Peer, PeerError, Ready};
use serde::Serialize;
use serde_json::{Value, json};
use sides::{Prepare, Question, Round, Side};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Between two sides' turns, for threads that spin a little when their work is done.
const BREATH: Duration = Duration::from_millis(50);

/// Time a 3x3 convolution and a basic block on our kernels, on Burn's CPU backends and in PyTorch, round by round.
#[derive(Parser)]
struct Arguments {
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Work::Conv, Work::Block])]
    work: Vec<Work>,
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Pass::Train, Pass::Infer])]
    pass: Vec<Pass>,
    /// Channels.
    #[arg(long, value_delimiter = ',', default_values_t = [16, 32, 64])]
    width: Vec<usize>,
    /// Images of 32x32.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Side::value_variants().to_vec())]
    sides: Vec<Side>,
    #[arg(long, default_value_t = 2)]
    threads: u32,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Of a side's turn in a round; at least one pass.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// How much longer an answer may take, in seconds; a side that takes longer is killed and not measured.
    #[arg(long, default_value_t = 120)]
    patience: u64,
    #[arg(long, default_value = ".venv/bin/python")]
    python: PathBuf,
    /// The folder of alternatives.py.
    #[arg(long, default_value = "bench/peers")]
    peers: PathBuf,
    /// JSON, see results/README.md.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Be a side.
    #[arg(long, hide = true)]
    serve: Option<Side>,
}

/// What a side did of a case.
#[derive(Debug, Serialize)]
struct Row {
    name: Side,
    /// A pass's, of each round.
    seconds: Vec<f64>,
    /// Median of the rounds.
    median: Option<f64>,
    /// Each round's seconds by PyTorch's in the same round.
    ratios: Vec<f64>,
    /// Their median.
    ratio: Option<f64>,
    /// Of the first pass, with compilation and tuning.
    first_seconds: Option<f64>,
    /// From Burn's flex, see README.md.
    difference: Option<Difference>,
    not_measured: Option<String>,
}

#[derive(Debug, Serialize)]
struct Measured {
    #[serde(flatten)]
    case: Case,
    sides: Vec<Row>,
}

/// A contestant's process, started again after it died.
struct Contestant {
    side: Side,
    peer: Option<Peer>,
    ready: Ready,
}

impl Contestant {
    fn ask<T: serde::de::DeserializeOwned>(
        &mut self,
        question: &Question,
        arguments: &Arguments,
        expected: &'static str,
    ) -> Result<T, PeerError> {
        let patience = Duration::from_secs(arguments.patience);
        let mut peer = match self.peer.take() {
            Some(peer) => peer,
            None => {
                let (peer, ready) = Peer::start(&mut command(self.side, arguments), patience)?;
                self.ready = ready;
                peer
            }
        };
        let question = serde_json::to_string(question).expect("plain data");
        let answer = peer.ask(&question, patience, expected)?;
        self.peer = Some(peer);
        Ok(answer)
    }
}

fn command(side: Side, arguments: &Arguments) -> Command {
    let mut command = if side.is_python() {
        let mut command = Command::new(&arguments.python);
        command.arg(arguments.peers.join("alternatives.py"));
        command
    } else {
        Command::new(std::env::current_exe().expect("this program has a path"))
    };
    let threads = arguments.threads.to_string();
    command.args(["--serve", &side.name(), "--threads", &threads]).env("RAYON_NUM_THREADS", &threads);
    command
}

fn main() -> ExitCode {
    allocator::keep_memory();
    let arguments = Arguments::parse();
    let done = match arguments.serve {
        Some(side) => sides::serve(side),
        None => compare(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn compare(arguments: &Arguments) -> Result<(), String> {
    let folder = Temporary(std::env::temp_dir().join(format!("gabion-alternatives-{}", std::process::id())));
    std::fs::create_dir(&folder.0).map_err(|error| format!("{}: {error}", folder.0.display()))?;
    let load = load_average();
    let contestant = |side: &Side| Contestant { side: *side, peer: None, ready: Ready::default() };
    let mut contestants: Vec<Contestant> = arguments.sides.iter().map(contestant).collect();
    let mut cases = Vec::new();
    for &work in &arguments.work {
        for &pass in &arguments.pass {
            for &width in &arguments.width {
                let case = Case { work, pass, width, batch: arguments.batch, side: 32 };
                let measured = measure(case, &mut contestants, &folder.0, arguments)?;
                print(&measured);
                cases.push(measured);
            }
        }
    }
    let ready = contestants.iter().map(|contestant| (contestant.side.name(), &contestant.ready));
    let notes: BTreeMap<_, _> = ready.clone().map(|(name, ready)| (name, &ready.notes)).collect();
    let mut versions: BTreeMap<_, _> = ready.flat_map(|(_, ready)| ready.versions.clone()).collect();
    versions.insert("gabion".into(), commit());
    let value = json!({
        "machine": machine(),
        "versions": versions,
        "command": typed(),
        "load_average": load,
        "result": { "threads": arguments.threads, "rounds": arguments.rounds, "notes": notes, "cases": cases },
    });
    if let Some(out) = &arguments.out {
        let text = serde_json::to_string_pretty(&value).expect("plain data") + "\n";
        std::fs::write(out, text).map_err(|error| format!("{}: {error}", out.display()))?;
    }
    Ok(())
}

/// A folder that goes away.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // What is left in the folder of temporary files does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Lets all compute the case once, compares what came of it, and lets those whose values are right take turns.
fn measure(
    case: Case,
    contestants: &mut [Contestant],
    folder: &Path,
    arguments: &Arguments,
) -> Result<Measured, String> {
    let io = |error: std::io::Error| format!("{}: {error}", folder.display());
    let operands = folder.join("operands.f32");
    Operands::write(&case, &operands).map_err(io)?;
    let mut contestants: Vec<_> = contestants.iter_mut().filter(|contestant| contestant.side.has(case.pass)).collect();
    let mut rows = Vec::new();
    let place = |side: Side| folder.join(format!("{}.f32", side.name()));
    for contestant in &mut contestants {
        let values = place(contestant.side);
        let question = Question::Prepare { case, operands: operands.clone(), values };
        let prepared = contestant.ask::<Prepare>(&question, arguments, "{first_seconds}");
        rows.push(Row {
            name: contestant.side,
            seconds: Vec::new(),
            median: None,
            ratios: Vec::new(),
            ratio: None,
            first_seconds: prepared.as_ref().ok().map(|prepared| prepared.first_seconds),
            difference: None,
            not_measured: prepared.err().map(|error| error.to_string()),
        });
    }
    if let Ok(right) = case::read(&place(Side::Flex)) {
        for row in rows.iter_mut().filter(|row| row.not_measured.is_none()) {
            let apart = Difference::of(&case, &case::read(&place(row.name)).map_err(io)?, &right);
            row.difference = Some(apart);
            if !apart.is_small(case.work) {
                let Difference { output, gradients } = apart;
                let why =
                    format!("its output differs from that of flex by {output:.1e}, its gradients by {gradients:.1e}");
                row.not_measured = Some(why);
            }
        }
    }
    for side in &arguments.sides {
        // One that was not written is not missed.
        let _ = std::fs::remove_file(place(*side));
    }
    let question = Question::Round { seconds: arguments.seconds };
    for round in 0..arguments.rounds {
        for turn in 0..rows.len() {
            // Nobody always follows the same one.
            let index = if round % 2 == 0 { turn } else { rows.len() - 1 - turn };
            let row = &mut rows[index];
            if row.not_measured.is_some() {
                continue;
            }
            std::thread::sleep(BREATH);
            match contestants[index].ask::<Round>(&question, arguments, "{passes, seconds}") {
                Ok(Round { passes, seconds }) => row.seconds.push(seconds / f64::from(passes)),
                Err(error) => row.not_measured = Some(error.to_string()),
            }
        }
    }
    let torch = rows.iter().find(|row| row.name == Side::Torch).map_or(Vec::new(), |row| row.seconds.clone());
    for row in &mut rows {
        row.median = median(&row.seconds);
        row.ratios = row.seconds.iter().zip(&torch).map(|(side, torch)| side / torch).collect();
        row.ratio = median(&row.ratios);
    }
    Ok(Measured { case, sides: rows })
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(if sorted.len() % 2 == 1 { upper } else { f64::midpoint(sorted[sorted.len() / 2 - 1], upper) })
}

fn print(measured: &Measured) {
    let Case { work, pass, width, batch, .. } = measured.case;
    println!("{work:?} {pass:?}, width {width}, batch {batch}");
    for row in &measured.sides {
        let figure = |value: Option<f64>, scale: f64, digits: usize| {
            value.map_or_else(|| "-".into(), |value| format!("{:.digits$}", scale * value))
        };
        println!(
            "  {:<20} {:>9} ms {:>8} x PyTorch   first {:>8} ms   differs {}{}",
            row.name.name(),
            figure(row.median, 1e3, 2),
            figure(row.ratio, 1.0, 2),
            figure(row.first_seconds, 1e3, 0),
            row.difference.map_or_else(|| "-".into(), |apart| format!("{:.0e}, {:.0e}", apart.output, apart.gradients)),
            row.not_measured.as_ref().map_or_else(String::new, |why| format!("   not measured: {why}")),
        );
    }
}

fn machine() -> Value {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(':').nth(1));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    json!({ "cpu": name.map_or(std::env::consts::ARCH, str::trim), "cores": cores })
}

/// What the machine had to do before, in Linux's terms.
fn load_average() -> Option<Vec<f64>> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    Some(text.split_whitespace().take(3).filter_map(|number| number.parse().ok()).collect())
}

fn commit() -> String {
    let asked = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let answer = asked.ok().filter(|output| output.status.success());
    answer.map_or_else(|| "unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().into())
}

/// The command that makes the file again, with no folder of one machine in it.
fn typed() -> String {
    let words = std::env::args().skip(1).map(|word| {
        let path = Path::new(&word);
        if path.is_absolute() { path.file_name().unwrap_or_default().to_string_lossy().into_owned() } else { word }
    });
    words.fold("cargo run --release --manifest-path bench/alternatives/Cargo.toml --".into(), |line, word| {
        format!("{line} {word}")
    })
}
