use super::precision::PrecisionArguments;
use super::{DeviceArguments, PipelineArguments, TrustArguments, bundle_path};
#[cfg(feature = "candle")]
use crate::output::usage;
use crate::output::{Done, Failure, Output, table};
#[cfg(feature = "candle")]
use gabion_runtime::Stored;
use gabion_runtime::{Arithmetic, Bundle, Classify, Rgb, Served, Session, Source, generations};
use gabion_spec::Precision;
use serde_json::json;
use std::path::PathBuf;

/// Classify pictures.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gabion classify runs/small cat.jpg dog.png --views 16")]
pub struct Arguments {
    /// A run folder or a bundle with a head.
    #[arg(value_name = "RUN|BUNDLE")]
    bundle: PathBuf,
    /// PNG, JPEG or WebP files.
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,
    /// Views of each picture; 1 is the whole picture.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    views: u32,
    /// End a vote once all views would give the same answer with this probability; 1 takes every view.
    #[arg(long, default_value_t = 1.0)]
    confidence: f32,
    /// Seeds the views.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Whose network computes; with Candle `--device` is auto (its CPU), cpu, cuda or metal.
    #[cfg(feature = "candle")]
    #[arg(long, value_enum, default_value_t = Engine::Gabion)]
    engine: Engine,
    #[command(flatten)]
    precision: PrecisionArguments,
    #[command(flatten)]
    trust: TrustArguments,
    #[command(flatten)]
    device: DeviceArguments,
    #[command(flatten)]
    pipeline: PipelineArguments,
}

/// Whose network computes.
#[cfg(feature = "candle")]
#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Engine {
    /// Gabion's kernels on the CPU, Burn on other devices.
    Gabion,
    /// Candle.
    Candle,
}

fn session(arguments: &Arguments, output: &Output) -> Result<Session, Failure> {
    let path = bundle_path(&arguments.bundle);
    let trust = arguments.trust.resolve()?;
    #[cfg(feature = "candle")]
    if arguments.engine == Engine::Candle {
        if arguments.precision.arithmetic() != Arithmetic::F32 {
            return Err(usage("Candle computes in f32: leave --precision out"));
        }
        let device = arguments.device.candle()?;
        output.note(format!("device: Candle's {:?}", device.location()));
        let stored = opened(generations::open(&path, &trust, Stored::read)?, output);
        return Ok(Session::of_candle(&stored, &device)?);
    }
    let wanted = arguments.pipeline.wanted()?;
    let (device, offered) = arguments.device.choose(output)?;
    let bundle = opened(generations::open(&path, &trust, |dir| Bundle::open(dir, &device))?, output);
    let wants = arguments.precision.arithmetic();
    if wants == Arithmetic::Int8 {
        arguments.precision.frozen(&device, output)?;
        let views = arguments.precision.views(bundle.manifest.input, None)?;
        return Ok(Session::of_calibrated(&bundle.stored(), &views)?);
    }
    if wants == Arithmetic::Bf16 {
        let precision = arguments.precision.frozen(&device, output)?;
        return Ok(Session::of_in(precision, &bundle.stored())?);
    }
    let mut session = Session::new(bundle)?.with_pipeline(wanted, &offered);
    if wants == Arithmetic::F16 {
        session = session.with_precision(Precision::F16);
        if session.arithmetic() != wants {
            output.note("precision: f32, there is no f16 here, or a weight is beyond it");
        }
    }
    Ok(session)
}

/// Says which weights were opened.
fn opened<T>(served: Served<T>, output: &Output) -> T {
    for skipped in &served.skipped {
        output.note(format!("generation {} is passed over: {}", skipped.number, skipped.why));
    }
    if served.origin.source != Source::Base {
        output.note(format!("weights: {}", served.origin.source));
    }
    served.bundle
}

pub fn run(arguments: &Arguments, output: &Output) -> Done {
    let session = session(arguments, output)?;
    let options = Classify { views: arguments.views, confidence: arguments.confidence, seed: arguments.seed };
    let (mut values, mut rows, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    for path in &arguments.images {
        // A broken picture does not keep the others from being classified.
        let rgb = match Rgb::open(path) {
            Ok(rgb) => rgb,
            Err(error) => {
                failures.push(error.to_string());
                continue;
            }
        };
        let prediction = session.classify(&rgb, &options)?;
        let top: Vec<_> = prediction.ranked(session.classes()).into_iter().take(5).collect();
        values.push(json!({
            "image": path, "views": prediction.views, "agreement": prediction.agreement,
            "margin": prediction.margin,
            "milliseconds": prediction.milliseconds,
            "top": top.iter().map(|(class, p)| json!({ "class": class, "probability": p })).collect::<Vec<_>>(),
        }));
        let classes: Vec<String> = top.iter().map(|(class, p)| format!("{class} {:.1} %", 100.0 * p)).collect();
        rows.push(vec![
            path.display().to_string(),
            classes.join("\n"),
            format!("{:.0} %", 100.0 * prediction.agreement),
            format!("{:.1}", prediction.milliseconds),
        ]);
    }
    if let Some(why) = session.pipeline() {
        output.note(why);
    }
    if !rows.is_empty() {
        output.result(&values, || table(&["image", "top 5", "view agreement", "ms"], rows))?;
    }
    if failures.is_empty() { Ok(()) } else { Err(Failure::Failed(anyhow::anyhow!(failures.join("; ")))) }
}
