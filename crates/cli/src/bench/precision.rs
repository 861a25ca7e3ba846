//! `gabion bench precision`: what half precision on a device changes, or bf16 and int8 on the CPU.

use super::{deliver, ensure_place, load_average};
use crate::commands::precision::{PrecisionArguments, tell};
use crate::commands::{DataArguments, bundle_path, machine, typed, versions};
use crate::output::{Done, Output, table, usage};
use anyhow::anyhow;
use gabion_runtime::frozen::Precision;
use gabion_runtime::{Arithmetic, Bundle, Choice, Classify, Prediction, Rgb, Session};
use serde_json::json;
use std::path::PathBuf;

/// Classify test images in f32, and in f16 on a device or in bf16 or int8 on the CPU, and compare.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  \
    gabion bench precision models/cifar10-small --data data/cifar10 --out results/precision-cifar10-small.json\n  \
    gabion bench precision models/cifar10-small --data data/cifar10 --device cpu --images 10000")]
pub struct Arguments {
    /// A run folder or a bundle with a head.
    #[arg(value_name = "RUN|BUNDLE")]
    bundle: PathBuf,
    #[command(flatten)]
    data: DataArguments,
    /// Test images, the same number of each class as far as that goes.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    images: u32,
    /// wgpu or cuda for f16, cpu for bf16 and int8.
    #[arg(long, default_value = "wgpu", value_name = "DEVICE")]
    device: String,
    #[command(flatten)]
    precision: PrecisionArguments,
    /// Seeds the choice of images.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where the numbers go.
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
}

pub fn run(arguments: &Arguments, output: &Output) -> Done {
    if let Some(out) = &arguments.out {
        ensure_place(out)?;
    }
    let choice: Choice = arguments.device.parse().map_err(usage)?;
    let (device, offered) = gabion_runtime::choose(choice)?;
    let bundle = Bundle::open(&bundle_path(&arguments.bundle), &device)?;
    let (name, weights) = (bundle.manifest.name.clone(), bundle.manifest.weights.sha256.clone());
    let full = Session::new(bundle.clone())?;
    let half = if full.is_on_cpu() {
        let stored = bundle.stored();
        match arguments.precision.arithmetic() {
            Arithmetic::Int8 => {
                tell(Precision::Int8, output);
                let views = arguments.precision.views(stored.manifest.input, Some(&arguments.data))?;
                Session::of_calibrated(&stored, &views)?
            }
            _ => {
                tell(Precision::Bf16, output);
                Session::of_in(Precision::Bf16, &stored)?
            }
        }
    } else {
        Session::new(bundle)?.with_precision(gabion_spec::Precision::F16)
    };
    let half_name = half.arithmetic().to_string();
    if half.arithmetic() == Arithmetic::F32 {
        return Err(anyhow!(
            "{} computes in f32 alone: choose a device whose f16 is yes in `gabion devices`",
            offered.name
        )
        .into());
    }
    let test = arguments.data.open(None)?.split.test.stratified(arguments.images as usize, arguments.seed);
    let (mut right, mut same, mut furthest) = ([0u32; 2], 0u32, 0f32);
    for index in 0..test.len() {
        let image = Rgb { height: test.height, width: test.width, pixels: test.image(index).to_vec() };
        let said = |session: &Session| session.classify(&image, &Classify::default());
        let said: [Prediction; 2] = [said(&full)?, said(&half)?];
        for (right, said) in right.iter_mut().zip(&said) {
            *right += u32::from(said.label == usize::from(test.labels[index]));
        }
        same += u32::from(said[0].label == said[1].label);
        let apart = said[0].probabilities.iter().zip(&said[1].probabilities).map(|(a, b)| (a - b).abs());
        furthest = apart.fold(furthest, f32::max);
    }
    if let Some(why) = full.fallen().or(half.fallen()) {
        return Err(anyhow!("the CPU had to take over ({why}): nothing was measured").into());
    }
    let percent = |count: u32| 100.0 * f64::from(count) / test.len() as f64;
    let value = json!({
        "machine": machine(),
        "versions": versions(),
        "command": typed(),
        "device": { "name": offered.name, "kind": offered.kind, "driver": offered.driver },
        "model": { "name": name, "weights": weights },
        "load_average": load_average(),
        "result": {
            "images": test.len(), "right_f32": right[0], format!("right_{half_name}"): right[1], "same_label": same,
            "largest_difference_of_a_probability": furthest,
        },
    });
    deliver(arguments.out.as_deref(), &value, output, || {
        let row = [percent(right[0]), percent(right[1]), percent(same)].map(|percent| format!("{percent:.2}"));
        table(
            &["right in f32, %", &format!("right in {half_name}, %"), "same label, %", "furthest probability"],
            [row.into_iter().chain([format!("{furthest:.4}")]).collect()],
        )
    })
}
