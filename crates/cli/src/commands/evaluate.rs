use super::{DataArguments, DeviceArguments, bundle_path, machine, typed, versions};
use crate::output::{Done, Failure, Output, table, usage};
use crate::progress::Progress;
use clap::ValueEnum;
use gabion_experiment::evaluate::{self, Evaluation, Options, Row, Subject};
use gabion_experiment::measure::Rate;
use gabion_runtime::Bundle;
use gabion_spec::{Evaluate, Norm, Pixels, Protocol};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Measure accuracy, clean and under attack.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gabion evaluate runs/small --data data/cifar10 --protocol paper --images 2000")]
pub struct Arguments {
    /// A run folder or a bundle.
    #[arg(value_name = "RUN|BUNDLE")]
    bundle: PathBuf,
    #[command(flatten)]
    data: DataArguments,
    /// By what rules.
    #[arg(long, value_enum, default_value = "paper")]
    protocol: ProtocolArgument,
    /// Test images, the same number of each class as far as that goes; all when absent.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    images: Option<u32>,
    /// Seeds the choice of images and the restarts.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Budgets.
    #[arg(long, value_delimiter = ',', default_value = "4/255,8/255,16/255")]
    epsilon: Vec<Pixels>,
    /// Images attacked together; does not change the result.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Write what became of each image.
    #[arg(long, value_name = "FILE.csv")]
    per_image: Option<PathBuf>,
    /// Write what was measured into the bundle's manifest.
    #[arg(long)]
    claim: bool,
    /// Write the adversarial images.
    #[arg(long, value_name = "FILE.safetensors")]
    save_adversarial: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArguments,
}

#[derive(Clone, Copy, ValueEnum)]
enum ProtocolArgument {
    /// PGD-20, step 0.01, zero start.
    Paper,
    /// The reference script's 2 steps, which cannot reach 8/255: for comparison only.
    #[value(name = "paper-2step")]
    Paper2Step,
    /// PGD-50, 5 random restarts.
    Strong,
}

/// Refuses before the work what could not become a file after it.
fn ensure_file(path: &Path) -> Result<(), Failure> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(usage(format!("{} is no folder; make it first", folder.display())));
    }
    // A file is written beside its place and renamed: this would replace a device or a pipe.
    if path.exists() && !path.is_file() {
        return Err(usage(format!("{} is not a regular file; name another", path.display())));
    }
    Ok(())
}

pub fn run(arguments: Arguments, output: &Output) -> Done {
    for file in [&arguments.per_image, &arguments.save_adversarial].into_iter().flatten() {
        ensure_file(file)?;
    }
    let path = bundle_path(&arguments.bundle);
    let (device, offered) = arguments.device.choose(output)?;
    let bundle = Bundle::open(&path, &device)?;
    let input = bundle.manifest.input;
    let data = arguments.data.open(Some([input.height as usize, input.width as usize]))?;
    let recipe = Evaluate {
        protocol: match arguments.protocol {
            ProtocolArgument::Paper => Protocol::Paper,
            ProtocolArgument::Paper2Step => Protocol::Paper2Step,
            ProtocolArgument::Strong => Protocol::Strong,
        },
        norm: Norm::Linf,
        images: arguments.images,
        seed: arguments.seed,
        epsilons: arguments.epsilon.clone(),
    };
    let keep = arguments.save_adversarial.is_some();
    let options = Options { batch: arguments.batch as usize, keep, journal: None };
    let subject = Subject::bundle(&bundle, &device)?;
    let mut showing: Option<(String, Progress<'_>)> = None;
    let evaluation = evaluate::evaluate(&subject, &data.split.test, &recipe, &options, &mut |told| {
        if showing.as_ref().is_none_or(|(shown, _)| *shown != told.what) {
            if let Some((_, over)) = showing.take() {
                over.finish();
            }
            showing = Some((told.what.clone(), Progress::new(output, &told.what, told.total as u64)));
        }
        if let Some((_, progress)) = &mut showing {
            progress.at(told.done as u64, || format!("{} still right", told.right));
        }
    })?;
    if let Some((_, over)) = showing {
        over.finish();
    }
    let written = [
        arguments.per_image.as_ref().map(|file| evaluation.write_csv(file)),
        arguments.save_adversarial.as_ref().map(|file| evaluation.write_adversarial(file)),
    ];
    for warning in &evaluation.warnings {
        output.note(format!("warning: {warning}"));
    }
    let mut value = serde_json::to_value(&evaluation)?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert(
            "bundle".into(),
            json!({
                "name": bundle.manifest.name, "weights": bundle.manifest.weights.sha256, "head": bundle.manifest.head,
            }),
        );
        fields.insert("data".into(), json!(data.kind.name()));
        fields.insert("device".into(), json!(offered.name));
        fields.insert("machine".into(), machine());
        fields.insert("versions".into(), versions());
        fields.insert("command".into(), json!(typed()));
        // One row an image goes to --per-image.
        fields.remove("verdicts");
    }
    output.result(&value, || {
        let row = |what: String, rate: Rate| {
            let percent = |share: f64| format!("{:.2} %", 100.0 * share);
            vec![
                what,
                percent(rate.accuracy),
                format!("{} to {}", percent(rate.low), percent(rate.high)),
                format!("{} of {}", rate.right, rate.images),
            ]
        };
        let rows = std::iter::once(row("clean".into(), evaluation.clean))
            .chain(evaluation.attacks.iter().map(|attack| row(Row::what(attack), attack.rate)));
        table(&["attack", "accuracy", "95 % interval", "right"], rows)
    })?;
    // A full disk does not take away the numbers.
    written.into_iter().flatten().try_for_each(|written| Ok::<(), Failure>(written?))?;
    if arguments.claim { claim(&path, bundle, &evaluation, data.kind.name()) } else { Ok(()) }
}

/// Writes the bundle with what was measured of it; its weights stay what they are.
fn claim(path: &Path, bundle: Bundle, evaluation: &Evaluation, data: &str) -> Done {
    let Bundle { mut manifest, model, head } = bundle;
    for claim in evaluation.claims(&format!("{data} test"), &typed()) {
        manifest.claim(claim);
    }
    let precision = manifest.weights.precision;
    Bundle::write(path, manifest, &model, head.as_ref(), precision)?;
    Ok(())
}
