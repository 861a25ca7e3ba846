//! Who computes, and this program as one of them: asked line by line, so that all can take turns.

use crate::burned::{Burned, Layers, Order};
use crate::case::{Case, Operands, Pass, write};
use crate::frozen::Prepared;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::io::{BufRead, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A contestant. The last two are `bench/peers/alternatives.py`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    Gabion,
    GabionFrozen,
    Flex,
    FlexView,
    FlexMatmuls,
    FlexIm2col,
    Cubecl,
    Torch,
    TorchChannelsLast,
}

impl Side {
    /// As on the command line.
    pub fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self).expect("none is hidden").get_name().into()
    }

    pub fn is_python(self) -> bool {
        matches!(self, Self::Torch | Self::TorchChannelsLast)
    }

    /// Whether it has such a pass at all.
    pub fn has(self, pass: Pass) -> bool {
        self != Self::GabionFrozen || pass == Pass::Infer
    }

    fn note(self) -> &'static str {
        match self {
            Self::Gabion => "gabion-learn's layers on Burn's flex device: activations lie channels-last",
            Self::GabionFrozen => "gabion-kernels' Frozen, prepared once, normalisations folded: inference alone",
            Self::Flex => "burn::nn on flex (simd, rayon, x86-v4), channels first",
            Self::FlexView => "the same; input and output gradient are permuted views that lie channels-last",
            Self::FlexMatmuls => "flex, channels last: a convolution is nine products of shifted rows",
            Self::FlexIm2col => "flex, channels last: a convolution is one product with nine shifted copies",
            Self::Cubecl => "burn::nn on CubeCL's cpu (fusion, autotune), channels first",
            Self::Torch | Self::TorchChannelsLast => "bench/peers/alternatives.py",
        }
    }

    fn open(self, case: Case, operands: Operands) -> Result<Running, String> {
        let burned =
            |layers, order, device| Ok(Running::Burned(Box::new(Burned::new(case, &operands, layers, order, device))));
        match self {
            Self::Gabion => burned(Layers::Ours, Order::View, Device::flex()),
            Self::Flex => burned(Layers::Burn, Order::First, Device::flex()),
            Self::FlexView => burned(Layers::Burn, Order::View, Device::flex()),
            Self::FlexMatmuls => burned(Layers::Matmuls, Order::Last, Device::flex()),
            Self::FlexIm2col => burned(Layers::Im2col, Order::Last, Device::flex()),
            #[cfg(feature = "cubecl")]
            Self::Cubecl => burned(Layers::Burn, Order::First, Device::cpu()),
            Self::GabionFrozen => Ok(Running::Frozen(Box::new(Prepared::new(case, operands)))),
            _ => Err(format!("this program cannot be {}", self.name())),
        }
    }
}

enum Running {
    Burned(Box<Burned>),
    Frozen(Box<Prepared>),
}

impl Running {
    fn pass(&mut self) {
        match self {
            Self::Burned(burned) => burned.pass(),
            Self::Frozen(prepared) => prepared.pass(),
        }
    }

    fn values(&self) -> Vec<f32> {
        match self {
            Self::Burned(burned) => burned.values(),
            Self::Frozen(prepared) => prepared.values(),
        }
    }
}

/// What a side is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase")]
pub enum Question {
    /// To compute a case's operands once and write what came of it; answered by [`Prepare`].
    Prepare { case: Case, operands: PathBuf, values: PathBuf },
    /// To compute it again and again for so many seconds; answered by [`Round`].
    Round { seconds: f64 },
}

/// Seconds of the first pass, with all that is done only once.
#[derive(Debug, Serialize, Deserialize)]
pub struct Prepare {
    pub first_seconds: f64,
}

/// Passes of a round, and seconds of all.
#[derive(Debug, Serialize, Deserialize)]
pub struct Round {
    pub passes: u32,
    pub seconds: f64,
}

/// Answers until stdin ends.
pub fn serve(side: Side) -> Result<(), String> {
    // The last line of stderr is what is reported of a side that died.
    std::panic::set_hook(Box::new(|info| eprintln!("{}", info.to_string().replace('\n', " "))));
    say(&json!({ "ready": { "versions": { "burn": "0.22.1" }, "notes": [side.note()] } }));
    let mut running = None;
    for line in stdin().lock().lines() {
        let line = line.map_err(|error| error.to_string())?;
        match serde_json::from_str(&line).map_err(|error| format!("no question `{line}`: {error}"))? {
            Question::Prepare { case, operands, values } => {
                // The earlier case's memory first.
                drop(running.take());
                running = Some(prepare(side, case, &operands, &values)?);
            }
            Question::Round { seconds } => say(&round(running.as_mut().ok_or("nothing is prepared")?, seconds)),
        }
    }
    Ok(())
}

fn prepare(side: Side, case: Case, operands: &Path, values: &Path) -> Result<Running, String> {
    let operands = Operands::read(&case, operands).map_err(|error| format!("{}: {error}", operands.display()))?;
    let mut running = side.open(case, operands)?;
    let start = Instant::now();
    running.pass();
    let first_seconds = start.elapsed().as_secs_f64();
    write(values, &running.values()).map_err(|error| format!("{}: {error}", values.display()))?;
    say(&Prepare { first_seconds });
    Ok(running)
}

fn round(running: &mut Running, seconds: f64) -> Round {
    let (start, mut passes) = (Instant::now(), 0);
    loop {
        running.pass();
        passes += 1;
        let passed = start.elapsed().as_secs_f64();
        if passed >= seconds {
            return Round { passes, seconds: passed };
        }
    }
}

fn say(answer: &impl Serialize) {
    let mut out = stdout().lock();
    // Who asked may be gone; the end of stdin follows then.
    let _ = writeln!(out, "{}", serde_json::to_string(answer).expect("plain data")).and_then(|()| out.flush());
}
