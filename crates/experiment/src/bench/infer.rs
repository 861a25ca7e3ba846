//! Inference of one bundle by several programs, each a process of its own that is asked line by line, in turns: ours (the
//! network alone, and from image to answer), PyTorch, ONNX Runtime and Candle. All see the same views and have to give the
//! same logits before anything is timed.

use super::energy::Meter;
use super::libraries::{PATIENCE, Peers};
use super::peers::{Peer, Ready};
use super::rounds::median;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

mod bundle;
mod ours;

pub use bundle::{random_bundle, views};
pub use ours::serve;

/// Greatest difference of a logit to ours, beside the greatest logit.
const TOLERANCE: f32 = 1e-4;
/// The same in bf16.
const BF16_TOLERANCE: f32 = 2e-2;
/// The same in int8.
const INT8_TOLERANCE: f32 = 1e-1;
/// Passes of which a line can tell.
const MOST_PASSES: usize = 4000;

/// Who computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// Our network, views to logits, on the CPU.
    Network,
    /// The same in bf16.
    NetworkBf16,
    /// The same in int8, calibrated on the views.
    NetworkInt8,
    /// A session on the CPU, image to answer: crops and vote included.
    Session,
    /// The same in bf16.
    SessionBf16,
    /// The same on another device.
    Device,
    /// ONNX Runtime.
    Onnxruntime,
    /// PyTorch, eager.
    Torch,
    /// The same with channels last.
    TorchChannelsLast,
    /// Candle.
    Candle,
}

impl Subject {
    /// As in a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Network => "gabion, network",
            Self::NetworkBf16 => "gabion, network in bf16",
            Self::NetworkInt8 => "gabion, network in int8",
            Self::Session => "gabion, image to answer",
            Self::SessionBf16 => "gabion, image to answer in bf16",
            Self::Device => "gabion on the device, image to answer",
            Self::Onnxruntime => "ONNX Runtime",
            Self::Torch => "PyTorch eager",
            Self::TorchChannelsLast => "PyTorch eager, channels last",
            Self::Candle => "Candle",
        }
    }

    /// As a word of a command line.
    fn word(self) -> String {
        serde_json::to_value(self).ok().and_then(|value| value.as_str().map(str::to_string)).unwrap_or_default()
    }
}

/// How much is measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// Views of a pass, each number by itself.
    pub views: Vec<u32>,
    /// How often all take their turns.
    pub rounds: usize,
    /// Seconds of a turn.
    pub seconds: f64,
    /// Of everybody.
    pub threads: usize,
    /// Fresh processes, from start to the first answer.
    pub starts: usize,
}

/// What stands where.
#[derive(Clone, Debug)]
pub struct Places {
    /// The bundle.
    pub bundle: PathBuf,
    /// Views that everybody sees, `[n, 3, height, width]` as little-endian f32; the first is the image itself.
    pub input: PathBuf,
    /// This program, for subjects of ours.
    pub gabion: PathBuf,
    /// A device of ours to measure too.
    pub device: Option<String>,
    /// Python and its scripts.
    pub peers: Peers,
    /// The program that answers for Candle.
    pub candle: PathBuf,
}

/// One subject.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Who.
    pub subject: Subject,
    /// In a table.
    pub name: &'static str,
    /// Why there is nothing else.
    pub not_measured: Option<String>,
    /// Of its libraries.
    pub versions: BTreeMap<String, String>,
    /// In what its work differs.
    pub notes: Vec<String>,
    /// Greatest difference of a logit to ours, over the greatest logit.
    pub difference: Option<f32>,
    /// Milliseconds from a process' start to its first answer, one each; the first may have read the disk.
    pub starts: Vec<f64>,
    /// Of `starts` without the first.
    pub start: Option<f64>,
    /// VmHWM of the process, MiB.
    pub peak_mib: Option<f64>,
    /// For each number of views.
    pub passes: Vec<Passes>,
}

/// Passes of a number of views.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Passes {
    /// Views of a pass.
    pub views: u32,
    /// How many passes.
    pub count: usize,
    /// Milliseconds, percentiles over all passes.
    pub p50: f64,
    #[allow(missing_docs)]
    pub p95: f64,
    #[allow(missing_docs)]
    pub p99: f64,
    /// Passes a second of computing.
    pub images_per_second: f64,
    /// Views of them.
    pub views_per_second: f64,
    /// Of the whole machine, where it says; with what else runs.
    pub joules_per_image: Option<f64>,
    /// Median over rounds of (its median time) over (that of our network).
    pub ratio: Option<f64>,
    /// Median milliseconds of each round.
    pub rounds: Vec<f64>,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// What was asked for.
    pub settings: Settings,
    /// What energy is read from; none where the machine exposes nothing.
    pub energy: Option<String>,
    /// One a subject.
    pub rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Logits {
    logits: Vec<f32>,
}

#[derive(Deserialize)]
struct Round {
    milliseconds: Vec<f64>,
}

#[derive(Deserialize)]
struct Memory {
    peak_kib: f64,
}

/// Lets every subject answer, start anew, and take turns. Whoever cannot has a row that says why.
pub fn compare(subjects: &[Subject], places: &Places, settings: Settings, tell: &mut dyn FnMut(&str)) -> Compared {
    let meter = Meter::find();
    let mut entrants: Vec<Entrant> = subjects.iter().map(|&subject| Entrant::new(subject)).collect();
    let mut ours = None;
    for entrant in &mut entrants {
        tell(&format!("{}: {} starts", entrant.row.name, settings.starts));
        let entered = entrant.enter(places, &settings, ours.as_deref());
        match entered {
            Ok(logits) if entrant.row.subject == Subject::Network => ours = Some(logits),
            Ok(_) => {}
            Err(why) => entrant.row.not_measured = Some(why),
        }
    }
    for &views in &settings.views {
        for entrant in &mut entrants {
            entrant.row.passes.push(Passes { views, ..Passes::default() });
            entrant.times.clear();
            entrant.joules = 0.0;
            entrant.prepare(views);
        }
        for round in 0..settings.rounds {
            tell(&format!("{views} views, round {} of {}", round + 1, settings.rounds));
            // Nobody always comes after the same one.
            let count = entrants.len().max(1);
            for place in 0..entrants.len() {
                entrants[(place + round) % count].round(views, settings.seconds, meter.as_ref());
            }
        }
        entrants.iter_mut().for_each(|entrant| entrant.finish(meter.is_some()));
    }
    let rows = entrants.into_iter().map(Entrant::leave).collect();
    let mut compared = Compared { settings, energy: meter.map(|meter| meter.name.clone()), rows };
    compared.relate();
    compared
}

struct Entrant {
    row: Row,
    peer: Option<Peer>,
    times: Vec<f64>,
    joules: f64,
}

impl Entrant {
    fn new(subject: Subject) -> Self {
        let row = Row {
            subject,
            name: subject.name(),
            not_measured: None,
            versions: BTreeMap::new(),
            notes: Vec::new(),
            difference: None,
            starts: Vec::new(),
            start: None,
            peak_mib: None,
            passes: Vec::new(),
        };
        Self { row, peer: None, times: Vec::new(), joules: 0.0 }
    }

    /// Starts it as often as asked, the last one stays; compares its logits with ours.
    fn enter(&mut self, places: &Places, settings: &Settings, ours: Option<&[f32]>) -> Result<Vec<f32>, String> {
        let question = json!({ "ask": "logits", "views": 1 }).to_string();
        for _ in 0..settings.starts.max(1) {
            drop(self.peer.take());
            let began = Instant::now();
            let (mut peer, ready) = self.row.subject.start(places, settings.threads)?;
            let _: Logits = peer.ask(&question, PATIENCE, "{logits}").map_err(|error| error.to_string())?;
            self.row.starts.push(began.elapsed().as_secs_f64() * 1e3);
            (self.row.versions, self.row.notes) = (ready.versions, ready.notes);
            self.peer = Some(peer);
        }
        self.row.start = median(self.row.starts.get(1..).unwrap_or_default());
        let most = settings.views.iter().copied().max().unwrap_or(1);
        // A session draws its own crops of more than one view.
        let alone = matches!(self.row.subject, Subject::Session | Subject::SessionBf16 | Subject::Device);
        let views = if alone { 1 } else { most };
        let question = json!({ "ask": "logits", "views": views }).to_string();
        let peer = self.peer.as_mut().expect("it was started");
        let Logits { logits } = peer.ask(&question, PATIENCE, "{logits}").map_err(|error| error.to_string())?;
        if let Some(ours) = ours {
            let classes = ours.len() / most as usize;
            let error = if alone {
                difference(&log_softmax(&logits), &log_softmax(&ours[..classes.min(ours.len())]))
            } else {
                difference(&logits, ours)
            };
            self.row.difference = Some(error);
            let tolerance = match self.row.subject {
                Subject::NetworkBf16 | Subject::SessionBf16 => BF16_TOLERANCE,
                Subject::NetworkInt8 => INT8_TOLERANCE,
                _ => TOLERANCE,
            };
            if error.is_nan() || error > tolerance {
                self.peer = None;
                return Err(format!(
                    "its logits differ from ours by {error:.1e} of the greatest: not the same network"
                ));
            }
        }
        Ok(logits)
    }

    /// A pass that does not count: the first of its shape allocates, and plans where a program plans.
    fn prepare(&mut self, views: u32) {
        let Some(peer) = &mut self.peer else { return };
        let question = json!({ "ask": "round", "views": views, "seconds": 0.0 }).to_string();
        if let Err(error) = peer.ask::<Round>(&question, PATIENCE, "{milliseconds}") {
            self.give_up(error.to_string());
        }
    }

    fn round(&mut self, views: u32, seconds: f64, meter: Option<&Meter>) {
        let Some(peer) = &mut self.peer else { return };
        let question = json!({ "ask": "round", "views": views, "seconds": seconds }).to_string();
        let before = meter.map(Meter::joules);
        let patience = Duration::from_secs_f64(seconds) + PATIENCE;
        match peer.ask::<Round>(&question, patience, "{milliseconds}") {
            Ok(Round { milliseconds }) if !milliseconds.is_empty() => {
                self.joules += meter.zip(before).map_or(0.0, |(meter, before)| meter.joules() - before);
                let passes = self.row.passes.last_mut().expect("one for these views");
                passes.rounds.extend(median(&milliseconds));
                self.times.extend(milliseconds);
            }
            Ok(_) => self.give_up("it made no pass".into()),
            Err(error) => self.give_up(error.to_string()),
        }
    }

    fn give_up(&mut self, why: String) {
        self.peer = None;
        self.row.not_measured = Some(why);
    }

    #[allow(clippy::cast_precision_loss)]
    fn finish(&mut self, metered: bool) {
        let passes = self.row.passes.last_mut().expect("one for these views");
        if self.peer.is_none() || self.times.is_empty() {
            self.row.passes.pop();
            return;
        }
        self.times.sort_by(f64::total_cmp);
        let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|share| percentile(&self.times, share));
        (passes.count, passes.p50, passes.p95, passes.p99) = (self.times.len(), p50, p95, p99);
        passes.images_per_second = 1e3 * self.times.len() as f64 / self.times.iter().sum::<f64>();
        passes.views_per_second = passes.images_per_second * f64::from(passes.views);
        passes.joules_per_image = metered.then(|| self.joules / self.times.len() as f64);
    }

    fn leave(mut self) -> Row {
        if let Some(peer) = &mut self.peer
            && let Ok(Memory { peak_kib }) = peer.ask(r#"{"ask": "memory"}"#, PATIENCE, "{peak_kib}")
        {
            self.row.peak_mib = Some(peak_kib / 1024.0);
        }
        self.row
    }
}

impl Compared {
    /// Ratios to our network.
    fn relate(&mut self) {
        let ours: Vec<Passes> =
            self.rows.iter().find(|row| row.subject == Subject::Network).map_or(Vec::new(), |row| row.passes.clone());
        for passes in self.rows.iter_mut().flat_map(|row| &mut row.passes) {
            let ours = ours.iter().find(|ours| ours.views == passes.views);
            passes.ratio = ours.and_then(|ours| super::rounds::median_ratio(&passes.rounds, &ours.rounds));
        }
    }
}

impl Subject {
    fn start(self, places: &Places, threads: usize) -> Result<(Peer, Ready), String> {
        let Places { bundle, input, gabion, device, peers, candle } = places;
        let mut command = match self {
            Self::Network
            | Self::NetworkBf16
            | Self::NetworkInt8
            | Self::Session
            | Self::SessionBf16
            | Self::Device => {
                let mut command = Command::new(gabion);
                command.args(["bench", "infer"]).arg(bundle).args(["--serve", &self.word()]);
                let device = if self == Self::Device { device.as_deref() } else { None };
                command.args(["--device", device.unwrap_or("cpu")]);
                command
            }
            Self::Candle if !candle.is_file() => {
                let what = "build it with `cargo build --release --workspace --examples`, or name it with --candle";
                return Err(format!("{} is not there: {what}", candle.display()));
            }
            Self::Candle => {
                let mut command = Command::new(candle);
                command.arg(bundle);
                command
            }
            Self::Onnxruntime | Self::Torch | Self::TorchChannelsLast => {
                let script = peers.folder.join("infer.py");
                if !script.is_file() {
                    return Err(format!("{} is not there: name its folder with --peers", script.display()));
                }
                let mut command = Command::new(&peers.python);
                command.arg(script).args(["--serve", &self.word()]).arg("--bundle").arg(bundle);
                command
            }
        };
        command.arg("--input").arg(input).args(["--threads", &threads.to_string()]);
        // For what takes its number of threads from the environment.
        command.env("RAYON_NUM_THREADS", threads.to_string());
        Peer::start(&mut command, PATIENCE).map_err(|error| error.to_string())
    }
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let at = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[at]
}

fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|logit| (logit - most).exp()).sum();
    logits.iter().map(|logit| logit - most - sum.ln()).collect()
}

/// The greatest difference over the greatest value; NaN where one is missing or not finite.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    if found.len() != expected.len() || found.iter().chain(expected).any(|value| !value.is_finite()) {
        return f32::NAN;
    }
    let greatest = expected.iter().fold(0f32, |most, value| most.max(value.abs()));
    found.iter().zip(expected).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / greatest.max(f32::MIN_POSITIVE)
}

#[cfg(test)]
mod tests;
