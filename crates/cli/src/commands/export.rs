use super::{DeviceArguments, bundle_path};
use crate::output::{Done, Output};
use clap::ValueEnum;
use gabion_runtime::Bundle;
use gabion_spec::Precision;
use std::path::PathBuf;

/// Write a bundle again, in f32 or f16.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gabion export runs/small --precision f16 --out models/small")]
pub struct Arguments {
    /// A run folder or a bundle.
    #[arg(value_name = "RUN|BUNDLE")]
    bundle: PathBuf,
    /// The new bundle's folder.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Stored precision of the weights.
    #[arg(long, value_enum, default_value = "f32")]
    precision: PrecisionArgument,
    /// A new name for people.
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    device: DeviceArguments,
}

#[derive(Clone, Copy, ValueEnum)]
enum PrecisionArgument {
    /// IEEE half.
    F16,
    /// IEEE single.
    F32,
}

pub fn run(arguments: &Arguments, output: &Output) -> Done {
    let (device, _) = arguments.device.choose(output)?;
    let Bundle { mut manifest, model, head, .. } = Bundle::open(&bundle_path(&arguments.bundle), &device)?;
    if let Some(name) = &arguments.name {
        manifest.name.clone_from(name);
    }
    let precision = match arguments.precision {
        PrecisionArgument::F16 => Precision::F16,
        PrecisionArgument::F32 => Precision::F32,
    };
    if precision != manifest.weights.precision {
        // They were measured on other weights.
        manifest.claims.clear();
    }
    let manifest = Bundle::write(&arguments.out, manifest, &model, head.as_ref(), precision)?;
    output.result(&manifest, || format!("wrote {}", arguments.out.display()))
}
