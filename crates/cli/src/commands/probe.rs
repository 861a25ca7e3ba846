use super::{DataArguments, DeviceArguments, bundle_path, machine, typed, versions};
use crate::output::{Done, Output, table};
use crate::progress::Progress;
use clap::ValueEnum;
use gabion_experiment::probe::{self, Progress as Told};
use gabion_runtime::Bundle;
use gabion_spec::{Pixels, Probe};
use serde_json::json;
use std::path::PathBuf;

/// Train a classifier on a frozen encoder and write it into the bundle.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gabion probe runs/small --data data/cifar10 --head linear")]
pub struct Arguments {
    /// A run folder or a bundle.
    #[arg(value_name = "RUN|BUNDLE")]
    bundle: PathBuf,
    #[command(flatten)]
    data: DataArguments,
    /// Which classifier. knn has no weights: it is measured and claimed in the manifest.
    #[arg(long, value_enum)]
    head: HeadArgument,
    /// Passes over the training images.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: Option<u32>,
    /// Images in a minibatch.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// Learning rate.
    #[arg(long, value_parser = positive)]
    rate: Option<f64>,
    /// Views of each image, for --head patches.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    views: Option<u32>,
    /// Budget of the attack, for --head robust.
    #[arg(long, default_value = "8/255")]
    epsilon: Pixels,
    /// Seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArguments,
}

#[derive(Clone, Copy, ValueEnum)]
enum HeadArgument {
    /// Linear on the whole image.
    Linear,
    /// Linear on attacked images (PGD-5).
    Robust,
    /// Linear on the mean feature over views.
    Patches,
    /// k nearest neighbours.
    Knn,
}

impl Arguments {
    fn recipe(&self) -> Probe {
        let (epochs, batch, rate) = (self.epochs, self.batch, self.rate);
        match self.head {
            HeadArgument::Linear => {
                Probe::Linear { rate: rate.unwrap_or(3e-4), batch: batch.unwrap_or(256), epochs: epochs.unwrap_or(50) }
            }
            HeadArgument::Robust => Probe::Robust {
                rate: rate.unwrap_or(1e-3),
                batch: batch.unwrap_or(256),
                epochs: epochs.unwrap_or(3),
                epsilon: self.epsilon,
                step: Pixels(0.01),
                steps: 5,
            },
            HeadArgument::Patches => Probe::Patches {
                rate: rate.unwrap_or(0.03),
                momentum: 0.9,
                weight_decay: 5e-5,
                batch: batch.unwrap_or(100),
                epochs: epochs.unwrap_or(100),
                views: self.views.unwrap_or(16),
            },
            HeadArgument::Knn => Probe::Knn { k: 20, temperature: 0.07 },
        }
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number; for example 0.001".to_string())?;
    if rate.is_finite() && rate > 0.0 {
        Ok(rate)
    } else {
        Err("a rate is above 0 and finite; for example 0.001".into())
    }
}

pub fn run(arguments: Arguments, output: &Output) -> Done {
    let recipe = arguments.recipe();
    let path = bundle_path(&arguments.bundle);
    let (device, _) = arguments.device.choose(output)?;
    let bundle = Bundle::open(&path, &device)?;
    let input = bundle.manifest.input;
    let data = arguments.data.open(Some([input.height as usize, input.width as usize]))?;
    let mut progress: Option<(&str, Progress<'_>)> = None;
    let cache = path.parent().map(|folder| folder.join("features"));
    let probed = probe::probe(&bundle, &data.split, &recipe, arguments.seed, &device, cache.as_deref(), &mut |told| {
        let (what, done, total) = match told {
            Told::Features { part: "train", done, total } => ("features of training images", done as u64, total as u64),
            Told::Features { done, total, .. } => ("features of test images", done as u64, total as u64),
            Told::Step { done, total } => ("training the head", done, total),
            Told::Test { done, total } => ("testing", done as u64, total as u64),
            Told::Cached { .. } | Told::Epoch { .. } => return,
        };
        if progress.as_ref().is_none_or(|(showing, _)| *showing != what) {
            if let Some((_, over)) = progress.take() {
                over.finish();
            }
            progress = Some((what, Progress::new(output, what, total)));
        }
        if let Some((_, progress)) = &mut progress {
            progress.at(done, String::new);
        }
    })?;
    if let Some((_, over)) = progress {
        over.finish();
    }
    let tested = format!("{} test", data.kind.name());
    let manifest = probe::write_into(&path, &probed, &tested, &typed(), &device)?;
    let rate = probed.rate();
    let value = json!({
        "bundle": path, "head": manifest.head, "recipe": recipe, "clean": rate, "seconds": probed.seconds,
        "loss": probed.train_loss, "data": tested, "machine": machine(), "versions": versions(), "command": typed(),
    });
    output.result(&value, || {
        let accuracy = format!("{:.2} % ({} of {})", 100.0 * rate.accuracy, rate.right, rate.images);
        let interval = format!("{:.2} to {:.2} %", 100.0 * rate.low, 100.0 * rate.high);
        table(
            &["clean accuracy", "95 % interval", "seconds"],
            [vec![accuracy, interval, format!("{:.0}", probed.seconds)]],
        )
    })
}
