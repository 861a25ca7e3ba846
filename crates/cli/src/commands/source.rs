use super::{DataArguments, DeviceArguments, bundle_path};
use crate::output::{Done, Output};
use gabion_runtime::adapt::Source;
use gabion_runtime::adapt::source::SOURCE;
use gabion_runtime::{Bundle, Rgb, Samples};
use gabion_spec::Pixels;
use serde_json::json;
use std::path::PathBuf;

/// Keep features of the data that a bundle was made from beside it, for adaptations to rehearse.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gabion source runs/small/bundle --data data/cifar10 --images 500")]
pub struct Arguments {
    /// A run folder or a bundle with a head.
    #[arg(value_name = "RUN|BUNDLE")]
    bundle: PathBuf,
    #[command(flatten)]
    data: DataArguments,
    /// Training images, the same number of each class as far as that goes.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    images: u32,
    /// Also features of PGD-5 twins within this budget; 0 for none.
    #[arg(long, default_value = "8/255")]
    epsilon: Pixels,
    /// Seeds the choice of images.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where they go [default: source.safetensors in the bundle].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArguments,
}

pub fn run(arguments: &Arguments, output: &Output) -> Done {
    gabion_experiment::in_pool(|| within(arguments, output))
}

fn within(arguments: &Arguments, output: &Output) -> Done {
    let (device, _) = arguments.device.choose(output)?;
    let path = bundle_path(&arguments.bundle);
    let bundle = Bundle::open(&path, &device)?;
    let size = [bundle.manifest.input.height as usize, bundle.manifest.input.width as usize];
    let data = arguments.data.open(Some(size))?.split.train.stratified(arguments.images as usize, arguments.seed);
    if data.classes != bundle.manifest.classes {
        let ours = bundle.manifest.classes.join(", ");
        return Err(anyhow::anyhow!(
            "the bundle tells {ours}, the data set other classes: name the data it was made from"
        )
        .into());
    }
    let images: Vec<Rgb> = (0..data.len())
        .map(|index| Rgb { height: data.height, width: data.width, pixels: data.image(index).to_vec() })
        .collect();
    let samples = Samples { images: &images, labels: Some(&data.labels) };
    let source = Source::gather(&bundle, samples, (arguments.epsilon.0 > 0.0).then_some(arguments.epsilon))?;
    let out = arguments.out.clone().unwrap_or_else(|| path.join(SOURCE));
    source.write(&out)?;
    let value = json!({ "file": out, "features": source.len(), "images": images.len() });
    output.result(&value, || format!("wrote {} features of {} images to {}", source.len(), images.len(), out.display()))
}
