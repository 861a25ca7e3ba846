use super::{DeviceArguments, PipelineArguments};
use crate::output::{Done, Failure, Output, table, usage};
use burn::tensor::Device;
use gabion_experiment::data::synth::Synth;
use gabion_experiment::recipe::{self, Base};
use gabion_experiment::sheet::{self, Sheet};
use gabion_runtime::pipeline::{Pipeline, Source, ViewId, sample};
use gabion_runtime::{Choice, Offered, Rgb, Wanted, durable};
use gabion_spec::{Augment, Draw};
use serde_json::json;
use std::path::PathBuf;

/// Draw the random views of a picture on a contact sheet.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gabion augment cat.jpg --views 16 --out sheet.png\n  \
    gabion augment synth --compare --device wgpu --out compare.png")]
pub struct Arguments {
    /// A PNG, JPEG or WebP file, or `synth` for a drawn image.
    #[arg(value_name = "IMAGE|synth")]
    image: PathBuf,
    /// How many.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=64))]
    views: u32,
    /// The PNG file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Pixels of a side of a view; the recipe's when absent.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    size: Option<u32>,
    /// Seeds the views.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The embedded recipe whose views are drawn; the paper's crop-based ones when absent.
    #[arg(long, conflicts_with = "recipe")]
    preset: Option<String>,
    /// A recipe in TOML.
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Show each view as the CPU and as the GPU make it, and their difference times 50.
    #[arg(long)]
    compare: bool,
    #[command(flatten)]
    device: DeviceArguments,
    #[command(flatten)]
    pipeline: PipelineArguments,
}

pub fn run(arguments: &Arguments, output: &Output) -> Done {
    let augment = distribution(arguments)?;
    let wanted = arguments.pipeline.wanted()?;
    let rgb = picture(arguments)?;
    let side = |side: usize| u32::try_from(side).expect("a picture's side is a u32");
    let from = [side(rgb.height), side(rgb.width)];
    let id = |view| ViewId { seed: arguments.seed, epoch: 0, image: 0, view };
    let draws: Vec<Draw> = (0..arguments.views).map(|view| sample(&augment, id(view), from)).collect();
    let source = Source::bytes(&rgb.pixels, from);
    let made = |pipeline: &Pipeline| -> Result<Vec<f32>, Failure> {
        let views = pipeline.views(&pipeline.sources(&[source])?, &draws, augment.size)?;
        match pipeline.fallen() {
            Some(why) => Err(Failure::Failed(anyhow::anyhow!("the gpu pipeline cannot make these views: {why}"))),
            None => Ok(views.into_data_as::<f32>().try_into_vec::<f32>()?),
        }
    };
    let (views, other, maker) = if arguments.compare {
        // To compare, a software adapter is as good as any.
        let (device, offered) = gabion_runtime::choose(Choice::Wgpu)?;
        output.note(format!("device: {} ({}, {})", offered.name, offered.kind, offered.backend));
        let (cpu, gpu) = (Pipeline::cpu(device.clone()), Pipeline::gpu(device)?);
        (made(&cpu)?, Some(made(&gpu)?), format!("cpu and gpu ({})", offered.name))
    } else {
        let (device, offered) = arguments.device.choose(output)?;
        let pipeline = pipeline(wanted, device, &offered)?;
        (made(&pipeline)?, None, format!("{} ({})", pipeline.name(), offered.name))
    };
    let difference = other.as_ref().map(|other| sheet::largest_difference(&views, other, draws.len()));
    let png = sheet::png(&Sheet {
        source: &rgb,
        draws: &draws,
        size: augment.size,
        views: &views,
        other: other.as_deref().map(|other| (other, ["cpu", "gpu"])),
    });
    durable::write(&arguments.out, &png)
        .map_err(|error| anyhow::anyhow!("cannot write {}: {error}; choose another --out", arguments.out.display()))?;
    let value = json!({
        "sheet": arguments.out, "made_by": maker, "size": augment.size, "draws": draws,
        "largest_difference": difference.map(|(off, _)| off), "of_view": difference.map(|(_, view)| view + 1),
    });
    output.result(&value, || {
        let rows = draws.iter().enumerate().map(|(number, draw)| {
            let place = format!("{}, {}", draw.top, draw.left);
            vec![(number + 1).to_string(), place, sheet::words(draw).join(" ")]
        });
        let mut text = table(&["view", "top, left", "crop and operations"], rows);
        if let Some((off, view)) = difference {
            let levels = 255.0 * off;
            text += &format!("\nlargest difference: {levels:.1e} of 255, in view {}", view + 1);
        }
        format!("{text}\nwrote {}, made by {maker}", arguments.out.display())
    })
}

/// A sheet is no work to try two pipelines for.
fn pipeline(wanted: Wanted, device: Device, offered: &Offered) -> Result<Pipeline, Failure> {
    let gpu = wanted == Wanted::Gpu || (wanted == Wanted::Auto && offered.choice == Choice::Wgpu);
    Ok(if gpu { Pipeline::gpu(device)? } else { Pipeline::cpu(device) })
}

fn distribution(arguments: &Arguments) -> Result<Augment, Failure> {
    let base = match (&arguments.preset, &arguments.recipe) {
        (Some(preset), _) => Some(Base::Preset(preset.clone())),
        (None, file) => file.clone().map(Base::File),
    };
    let mut augment = match base {
        Some(base) => recipe::resolve(&base, &[]).map_err(usage)?.augment,
        None => Augment::default(),
    };
    if let Some(side) = arguments.size {
        augment.size = [side, side];
    }
    Ok(augment)
}

fn picture(arguments: &Arguments) -> Result<Rgb, Failure> {
    if arguments.image.as_os_str() == "synth" {
        let images = Synth { train: 1, test: 0, ..Synth::default() }.draw().train;
        return Ok(Rgb { height: images.height, width: images.width, pixels: images.image(0).to_vec() });
    }
    Rgb::open(&arguments.image).map_err(|error| Failure::Failed(anyhow::anyhow!(error.to_string())))
}
