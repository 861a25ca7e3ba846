//! Seconds and memory of a training or inference step, in the terms of `bench/peers/train_step.py`; in [`augment`], views
//! a second beside other libraries; in [`infer`], answers beside other runtimes; in [`steps`], steps beside PyTorch's.

pub mod adapt;
pub mod arithmetic;
pub mod augment;
pub mod autoattack;
mod energy;
pub mod infer;
mod libraries;
mod ours;
mod peers;
mod rounds;
mod stages;
pub mod steps;

use burn::Tensor;
use burn::tensor::{Device, TensorData};
use gabion_learn::attack::Ball;
use gabion_learn::optim::Lars;
use gabion_learn::train::{self, FreeAt, Minibatch, State};
use gabion_learn::{Mode, Model};
use gabion_spec::{Arithmetic, Depth, Encoder, Loss, Optimizer, Projector, Stem};
use serde::Serialize;
use std::time::Instant;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// One replay of free adversarial training.
    FreeAt,
    /// A step on clean views.
    Standard,
    /// A forward pass without gradients.
    Infer,
}

/// Sizes of a benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // as in a recipe
pub struct Settings {
    pub step: Step,
    pub width: u32,
    pub hidden: u32,
    pub output: u32,
    pub batch: usize,
    pub views: usize,
    pub arithmetic: Arithmetic,
    pub warmup: usize,
    pub steps: usize,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// With what.
    pub settings: Settings,
    /// Of the network.
    pub parameters: usize,
    /// Seconds a step.
    pub median_seconds: f64,
    /// Seconds of the fastest step.
    pub min_seconds: f64,
    /// Crops a second at the median.
    pub images_per_second: f64,
    /// Resident memory before the first step, where the system tells.
    pub resident_before_mib: Option<f64>,
    /// Peak resident memory from the first step on, less what was resident before it.
    pub working_memory_mib: Option<f64>,
}

/// Times steps on random crops of 32x32.
#[allow(clippy::cast_precision_loss)]
pub fn measure(settings: Settings, device: &Device) -> Measured {
    let Settings { step, width, hidden, output, batch, views, arithmetic, warmup, steps } = settings;
    let encoder = Encoder { depth: Depth::Resnet18, width, stem: Stem::Cifar };
    let model = Model::init(&encoder, &Projector { hidden, output }, 0, &device.clone().autodiff());
    let model = model.compute_in(arithmetic).leave_factors();
    let parameters = burn::module::Module::num_params(&model);
    let crops = batch * views;
    let values: Vec<f32> = (0..crops * 3072).map(|i| ((i * 7919 + i / 3072 * 31) % 256) as f32 / 255.0).collect();
    let x = Tensor::<4>::from_data(TensorData::new(values, [crops, 3, 32, 32]), device);
    // Held only where it is used: a copy of the first weights outlives them once a step has moved them.
    let plain = (step == Step::Infer).then(|| burn::module::Module::valid(&model));
    let mut state = State { model, optim: Lars::new(Optimizer::default()), average: None, delta: None };
    let spec = Loss::EmpSsl { invariance_weight: 200.0, tcr_weight: 1.0, distortion: 0.2 };
    let objective = train::objective(spec, views);
    let threat = FreeAt { ball: Ball { epsilon: 8.0 / 255.0 }, step: 0.01, project_first: true, reset: false };
    let minibatch = Minibatch { x: x.clone(), clean: 0 };
    let mut once = || {
        let loss = match step {
            Step::FreeAt => {
                train::free_at(&mut state, &objective, &minibatch, [0.3], &threat).pop().map(|loss| loss.total)
            }
            Step::Standard => Some(train::standard(&mut state, &objective, &minibatch, 0.3).total),
            Step::Infer => {
                let plain = plain.as_ref().expect("made for this step");
                let _ = plain.forward(x.clone(), Mode::Eval).projection.into_data();
                None
            }
        };
        // As a training loop reads it.
        loss.map(|loss| loss.into_scalar::<f32>())
    };
    let before = resident("VmRSS");
    forget_peak();
    for _ in 0..warmup {
        once();
    }
    let mut seconds: Vec<f64> = (0..steps.max(1))
        .map(|_| {
            let start = Instant::now();
            once();
            start.elapsed().as_secs_f64()
        })
        .collect();
    let peak = resident("VmHWM");
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    Measured {
        settings,
        parameters,
        median_seconds: median,
        min_seconds: seconds[0],
        images_per_second: crops as f64 / median,
        resident_before_mib: before,
        working_memory_mib: peak.zip(before).map(|(peak, before)| peak - before),
    }
}

/// A field of /proc/self/status in MiB; none where there is no such file.
pub(crate) fn resident(field: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().trim_end_matches("kB").trim().parse::<f64>().ok().map(|kib| kib / 1024.0)
}

/// Starts VmHWM anew from what is resident now, where the system can.
pub(crate) fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}
