//! Our side of the comparison, in a process of its own.

use super::{MOST_PASSES, Subject};
use crate::bench::resident;
use gabion_runtime::frozen::{self, Network, Precision};
use gabion_runtime::{Arithmetic, Choice, Classify, Level, Rgb, Session, Stored};
use serde::Deserialize;
use serde_json::json;
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::time::Instant;

/// Answers on stdout what is asked on stdin, for a subject of ours; `device` is of a [`Subject::Device`].
///
/// # Errors
/// When bundle or views cannot be read, or nobody listens.
pub fn serve(subject: Subject, bundle: &Path, input: &Path, threads: usize, device: Choice) -> Result<(), String> {
    #[derive(Deserialize)]
    #[serde(tag = "ask", rename_all = "lowercase")]
    enum Question {
        Logits { views: usize },
        Round { views: usize, seconds: f64 },
        Memory,
    }
    // Another pool may be there already; then it says how many threads it has.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    let mut model = Ours::open(subject, bundle, input, device)?;
    let note = format!("{}, {} threads; {}", model.precision(), rayon::current_num_threads(), model.place());
    let mut out = io::stdout().lock();
    let mut say = |answer: serde_json::Value| {
        writeln!(out, "{answer}").and_then(|()| out.flush()).map_err(|error| error.to_string())
    };
    say(json!({ "ready": { "versions": {}, "notes": [note] } }))?;
    for line in io::stdin().lock().lines() {
        let line = line.map_err(|error| error.to_string())?;
        match serde_json::from_str(&line).map_err(|error| format!("{line:?} is no question: {error}"))? {
            Question::Logits { views } => say(json!({ "logits": model.pass(views)? }))?,
            Question::Round { views, seconds } => {
                let (mut times, began) = (Vec::new(), Instant::now());
                while times.len() < MOST_PASSES && (times.is_empty() || began.elapsed().as_secs_f64() < seconds) {
                    let start = Instant::now();
                    model.pass(views)?;
                    times.push((start.elapsed().as_secs_f64() * 1e7).round() / 1e4);
                }
                say(json!({ "milliseconds": times }))?;
            }
            Question::Memory => say(json!({ "peak_kib": resident("VmHWM").unwrap_or(0.0) * 1024.0 }))?,
        }
    }
    Ok(())
}

/// A subject of ours, in its own process.
enum Ours {
    Network { network: Box<Network>, views: Vec<f32>, logits: Vec<f32>, classes: usize },
    Session { session: Box<Session>, place: String, image: Rgb, said: Vec<f32> },
}

impl Ours {
    fn open(subject: Subject, bundle: &Path, input: &Path, device: Choice) -> Result<Self, String> {
        let bytes = std::fs::read(input).map_err(|error| format!("cannot read {}: {error}", input.display()))?;
        let views: Vec<f32> = bytes.as_chunks().0.iter().map(|value: &[u8; 4]| f32::from_le_bytes(*value)).collect();
        let words = |error: &dyn std::error::Error| error.to_string();
        let precision = match subject {
            Subject::Network => Some(Precision::F32),
            Subject::NetworkBf16 => Some(Precision::Bf16),
            Subject::NetworkInt8 => Some(Precision::Int8),
            _ => None,
        };
        if let Some(precision) = precision {
            let stored = Stored::read(bundle).map_err(|error| words(&error))?;
            let input = stored.manifest.input;
            let network = match precision {
                Precision::Int8 => frozen::calibrated(&stored, input, &views),
                _ => frozen::network_in(precision, &stored, input),
            };
            let network = Box::new(network.map_err(|error| words(&error))?);
            let classes = stored.manifest.classes.len();
            return Ok(Self::Network { network, views, logits: Vec::new(), classes });
        }
        let (session, place) = match subject {
            Subject::SessionBf16 => {
                let session = Session::open_in(Precision::Bf16, bundle).map_err(|error| words(&error))?;
                (session, "the CPU".into())
            }
            _ => Session::open_on(bundle, device).map_err(|error| words(&error))?,
        };
        let gabion_spec::Input { height, width } = session.manifest().input;
        let (height, width) = (height as usize, width as usize);
        let plane = height * width;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let byte = |at: usize| (views[at % 3 * plane + at / 3] * 255.0).round() as u8;
        let image = Rgb { height, width, pixels: (0..3 * plane).map(byte).collect() };
        Ok(Self::Session { session: Box::new(session), place, image, said: Vec::new() })
    }

    fn precision(&self) -> &'static str {
        let precision = match self {
            Self::Network { network, .. } => network.net.precision().into(),
            Self::Session { session, .. } => session.arithmetic(),
        };
        match precision {
            Arithmetic::F32 => "f32",
            Arithmetic::F16 => "f16",
            Arithmetic::Bf16 if Level::current().multiplies_bf16() => "bf16 where it is faster",
            Arithmetic::Int8 if Level::current().multiplies_int8() => {
                "int8, first convolution and linear layers in f32"
            }
            Arithmetic::Int8 => "int8 in plain Rust, for want of instructions",
            Arithmetic::Bf16 => "bf16 multiplied in f32, for want of instructions",
        }
    }

    fn place(&self) -> &str {
        match self {
            Self::Network { .. } => "views to logits on the CPU",
            Self::Session { place, .. } => place,
        }
    }

    /// Logits of the first views, or of a vote of so many up to a constant.
    fn pass(&mut self, count: usize) -> Result<&[f32], String> {
        match self {
            Self::Network { network, views, logits, classes, .. } => {
                let length = count * network.net.input_len();
                let views = views.get(..length).ok_or("there are not so many views")?;
                logits.resize(count * *classes, 0.0);
                network.net.forward(views, network.net.last(), logits);
                Ok(logits)
            }
            Self::Session { session, image, said, .. } => {
                let options = Classify { views: u32::try_from(count).unwrap_or(u32::MAX), ..Classify::default() };
                let answer = session.classify(image, &options).map_err(|error| error.to_string())?;
                said.clear();
                said.extend(answer.probabilities.iter().map(|probability| probability.max(f32::MIN_POSITIVE).ln()));
                Ok(said)
            }
        }
    }
}
