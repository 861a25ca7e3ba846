use super::precision::PrecisionArguments;
use super::{DataArguments, DeviceArguments};
use crate::output::{Done, Output, table};
use gabion_experiment::evaluate::{Verified, verify};
use serde_json::json;
use std::path::PathBuf;

/// Look again at the adversarial images of an evaluation.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gabion verify-adversarial runs/small evaluations/small/adversarial.safetensors \
    --data data/cifar10\n\nExits with 1 where an image leaves its budget or the model gets more of them right than was said.")]
pub struct Arguments {
    /// What was attacked.
    #[arg(value_name = "RUN|BUNDLE|FILE")]
    bundle: PathBuf,
    /// What `gabion evaluate --save-adversarial` wrote.
    #[arg(value_name = "IMAGES.safetensors")]
    images: PathBuf,
    #[command(flatten)]
    data: DataArguments,
    #[command(flatten)]
    precision: PrecisionArguments,
    #[command(flatten)]
    device: DeviceArguments,
}

pub fn run(arguments: &Arguments, output: &Output) -> Done {
    let (device, _) = arguments.device.choose(output)?;
    let (subject, _) = arguments.precision.subject(&arguments.bundle, &device, &arguments.data, output)?;
    let data = arguments.data.open(Some([subject.input.height as usize, subject.input.width as usize]))?;
    let verified = verify(&subject, &data.split.test, &arguments.images)?;
    let value = json!({ "bundle": subject.name, "weights": subject.weights, "budgets": verified });
    output.result(&value, || {
        let row = |of: &Verified| {
            let said = of.said.map_or("not said".into(), |said| said.to_string());
            let distance = format!("{:.6}", of.farthest);
            let right = format!("{} of {}", of.right, of.images);
            vec![format!("{} {}", of.norm, of.epsilon), distance, of.outside.to_string(), right, said]
        };
        table(&["budget", "greatest distance", "outside", "right", "as said"], verified.iter().map(row))
    })?;
    match verified.iter().find(|of| !of.holds()) {
        Some(of) => Err(anyhow::anyhow!(
            "at {} {} images are outside of the budget and {} are right: the file does not hold what it says",
            of.epsilon,
            of.outside,
            of.right
        )
        .into()),
        None => Ok(()),
    }
}
