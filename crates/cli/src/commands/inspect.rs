use super::{DeviceArguments, bundle_path};
use crate::output::{Done, Output, table};
use gabion_runtime::Bundle;
use std::path::PathBuf;

/// Check a bundle and show what it is.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gabion inspect runs/small/bundle")]
pub struct Arguments {
    /// A run folder or a bundle.
    #[arg(value_name = "RUN|BUNDLE")]
    bundle: PathBuf,
    #[command(flatten)]
    device: DeviceArguments,
}

pub fn run(arguments: &Arguments, output: &Output) -> Done {
    let path = bundle_path(&arguments.bundle);
    let (device, _) = arguments.device.choose(output)?;
    let bundle = Bundle::open(&path, &device)?;
    let manifest = &bundle.manifest;
    output.result(manifest, || {
        let parameters = burn::module::Module::num_params(&bundle.model);
        let mut rows: Vec<[String; 2]> = vec![
            ["name".into(), manifest.name.clone()],
            [
                "encoder".into(),
                format!(
                    "{:?}, width {}, {:?} stem",
                    manifest.encoder.depth, manifest.encoder.width, manifest.encoder.stem
                ),
            ],
            [
                "projector".into(),
                format!("feature {}, embedding {}", manifest.projector.hidden, manifest.projector.output),
            ],
            ["input".into(), format!("{}x{} RGB in [0, 1]", manifest.input.height, manifest.input.width)],
            ["parameters".into(), parameters.to_string()],
            ["weights".into(), format!("{:?}, sha256 {}", manifest.weights.precision, manifest.weights.sha256)],
            [
                "head".into(),
                manifest.head.as_ref().map_or("none: run gabion probe".into(), |head| format!("{:?}", head.kind)),
            ],
            ["classes".into(), manifest.classes.join(", ")],
            ["pretrained on".into(), manifest.data.clone().unwrap_or_default()],
            [
                "threat".into(),
                manifest.pretrain.as_ref().map_or(String::new(), |recipe| format!("{:?}", recipe.threat)),
            ],
            [
                "fine-tuned".into(),
                match manifest.finetune.last() {
                    Some(recipe) => format!("{:?} at {}, {} epochs", recipe.objective, recipe.epsilon, recipe.epochs),
                    None => "no".into(),
                },
            ],
            ["written by".into(), manifest.writer.clone()],
        ];
        #[allow(clippy::cast_precision_loss)] // counts of images
        for claim in &manifest.claims {
            let accuracy = 100.0 * claim.right as f64 / claim.images.max(1) as f64;
            rows.push([
                format!("claim: {}", claim.what),
                format!("{accuracy:.2} % of {} images, {}", claim.images, claim.data),
            ]);
        }
        table(&["what", "value"], rows.into_iter().map(Vec::from))
    })
}
