use super::precision::PrecisionArguments;
use super::{DataArguments, DeviceArguments, bundle_path, machine, typed, versions};
use crate::output::{Done, Failure, Output, table, usage};
use crate::progress::Progress;
use burn::tensor::Device;
use clap::ValueEnum;
use gabion_experiment::data::Data;
use gabion_experiment::evaluate::{Assessment, Beyond, Grade, Headline, Keep, Options, Row, Subject, ViewRow, assess};
use gabion_experiment::measure::Rate;
use gabion_runtime::frozen::Precision;
use gabion_runtime::{Bundle, generations};
use gabion_spec::{Evaluate, Manifest, Norm, Objective, Pixels, Protocol};
use serde_json::json;
use std::path::{Path, PathBuf};

mod folder;

/// Measure accuracy, clean and under attack.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gabion evaluate runs/small --data data/cifar10 --protocol paper --images 2000\n  \
    gabion evaluate runs/small --data data/cifar10 --protocol trust --images 1000")]
pub struct Arguments {
    /// A run folder, a bundle, or the .safetensors file of a network that others trained.
    #[arg(value_name = "RUN|BUNDLE|FILE")]
    bundle: PathBuf,
    #[command(flatten)]
    data: DataArguments,
    /// By what rules.
    #[arg(long, value_enum, default_value = "paper")]
    protocol: ProtocolArgument,
    /// How budgets are measured.
    #[arg(long, value_enum, default_value = "linf")]
    norm: NormArgument,
    /// What PGD climbs in the protocols that are PGD alone.
    #[arg(long, value_enum, default_value = "ce")]
    loss: LossArgument,
    /// Random restarts in the protocols `strong` and `apgd`, for each target where there are targets; by default 5 and 1.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    restarts: Option<u32>,
    /// Test images, the same number of each class as far as that goes; all when absent.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    images: Option<u32>,
    /// Seeds the choice of images and whatever attacks draw.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Budgets; by default 4/255,8/255,16/255, or 8/255 of a longer protocol, or 0.5 of L2.
    #[arg(long, value_delimiter = ',', value_parser = Pixels::length)]
    epsilon: Vec<Pixels>,
    /// Images attacked together; does not change the result.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Crops of an image in the protocols `views` and `autoattack-rand`.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    views: u32,
    /// Sides in pixels of the patches in the protocol `corruptions`.
    #[arg(long, value_delimiter = ',', default_value = "5,8", value_parser = clap::value_parser!(u32).range(1..))]
    patch: Vec<u32>,
    /// A second model, whose adversarial images are shown to the first.
    #[arg(long, value_name = "RUN|BUNDLE|FILE")]
    transfer_from: Option<PathBuf>,
    /// A folder for what is done so far, the report and the results; run again, it goes on there.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
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
    precision: PrecisionArguments,
    #[command(flatten)]
    device: DeviceArguments,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ProtocolArgument {
    /// PGD-20, step 0.01, zero start.
    Paper,
    /// The reference script's 2 steps, which cannot reach 8/255: for comparison only.
    #[value(name = "paper-2step")]
    Paper2Step,
    /// PGD-50, 5 random restarts.
    Strong,
    /// The first two attacks of AutoAttack, APGD-CE and APGD-T: most of its strength in a part of its time.
    Apgd,
    /// AutoAttack, standard version.
    Autoattack,
    /// AutoAttack, the version for classifiers that draw at random, on the classifier over many fresh crops: gradients
    /// averaged over 20 draws.
    AutoattackRand,
    /// The classifier over many crops, attacked crop by crop and as an image.
    Views,
    /// 15 common corruptions at 5 severities, and patches.
    Corruptions,
    /// AutoAttack with checks for gradient masking.
    Trust,
    /// AutoAttack with its checks, crops, corruptions and patches.
    All,
}

impl From<ProtocolArgument> for Protocol {
    fn from(argument: ProtocolArgument) -> Self {
        match argument {
            ProtocolArgument::Paper => Self::Paper,
            ProtocolArgument::Paper2Step => Self::Paper2Step,
            ProtocolArgument::Strong => Self::Strong,
            ProtocolArgument::Apgd => Self::Apgd,
            ProtocolArgument::Autoattack => Self::Autoattack,
            ProtocolArgument::AutoattackRand => Self::AutoattackRand,
            ProtocolArgument::Views => Self::Views,
            ProtocolArgument::Corruptions => Self::Corruptions,
            ProtocolArgument::Trust => Self::Trust,
            ProtocolArgument::All => Self::All,
        }
    }
}

impl ProtocolArgument {
    fn has_patches(self) -> bool {
        matches!(self, Self::Corruptions | Self::All)
    }

    /// Minutes or hours rather than seconds: kept in a folder, whether one was named or not.
    fn is_long(self) -> bool {
        !matches!(self, Self::Paper | Self::Paper2Step | Self::Strong)
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum NormArgument {
    /// The greatest change of a value.
    Linf,
    /// The Euclidean length of the change.
    L2,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LossArgument {
    /// Cross-entropy.
    Ce,
    /// The difference of logits ratio.
    Dlr,
    /// The greatest wrong logit less the right one.
    Margin,
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

/// A run, a bundle, or the file of a network.
pub fn subject(path: &Path, device: &Device) -> Result<(Subject, Option<Manifest>), Failure> {
    subject_in(Precision::F32, path, device)
}

/// The same, multiplying in `precision` on the CPU.
pub fn subject_in(precision: Precision, path: &Path, device: &Device) -> Result<(Subject, Option<Manifest>), Failure> {
    if path.is_file() {
        return Ok((Subject::foreign_in(precision, path, device)?, None));
    }
    let bundle = Bundle::open(&bundle_path(path), device)?;
    Ok((Subject::bundle_in(precision, &bundle, device)?, Some(bundle.manifest)))
}

pub fn run(arguments: Arguments, output: &Output) -> Done {
    gabion_experiment::in_pool(|| measure(&arguments, output))
}

fn measure(arguments: &Arguments, output: &Output) -> Done {
    let recipe = recipe(arguments);
    recipe.validate().map_err(|error| usage(error.to_string()))?;
    for file in [&arguments.per_image, &arguments.save_adversarial].into_iter().flatten() {
        ensure_file(file)?;
    }
    let (device, offered) = arguments.device.choose(output)?;
    let (subject, manifest) = arguments.precision.subject(&arguments.bundle, &device, &arguments.data, output)?;
    let precision = subject.precision();
    if arguments.claim && manifest.is_none() {
        return Err(usage("--claim writes into a bundle; a network's file has no manifest"));
    }
    if arguments.claim && precision != Precision::F32 {
        return Err(usage("--claim is of the network in f32: leave --precision out"));
    }
    let source = match &arguments.transfer_from {
        Some(path) => Some(self::subject(path, &device)?.0),
        None => None,
    };
    let data = arguments.data.open(Some([subject.input.height as usize, subject.input.width as usize]))?;
    let smallest = subject.input.height.min(subject.input.width);
    if let Some(side) = arguments.patch.iter().find(|side| **side > smallest)
        && arguments.protocol.has_patches()
    {
        return Err(usage(format!("--patch {side} is larger than the image, {smallest} pixels")));
    }
    // A network's file has no encoder and head to classify crops with: its version of AutoAttack is the standard one.
    let subject = match arguments.protocol {
        ProtocolArgument::AutoattackRand if subject.has_crops() => {
            subject.over_crops(arguments.views, arguments.seed)?
        }
        _ => subject,
    };
    let adapted = bundle_path(&arguments.bundle).join(generations::GENERATIONS);
    if manifest.is_some() && adapted.is_dir() {
        output.note(format!("this is the base; what was adapted from it are bundles in {}", adapted.display()));
    }
    let folder = folder::of(arguments, &subject, &data, &recipe);
    if let Some(folder) = &folder {
        output.note(format!("folder: {} (run the same command to go on)", folder.display()));
    }
    let keep = if arguments.save_adversarial.is_some() || folder.is_some() { Keep::Fooling } else { Keep::Nothing };
    let options = Options { batch: arguments.batch as usize, keep, journal: folder.clone() };
    let patches = arguments.patch.iter().map(|&side| side as usize).collect();
    let beyond = Beyond { source: source.as_ref(), patches, views: arguments.views };
    let mut showing: Option<(String, Progress<'_>)> = None;
    let assessment = assess(&subject, &data.split.test, &recipe, &beyond, &options, &mut |told| {
        if showing.as_ref().is_none_or(|(shown, _)| *shown != told.what) {
            if let Some((_, over)) = showing.take() {
                over.finish();
            }
            showing = Some((told.what.clone(), Progress::new(output, &told.what, told.total as u64)));
        }
        if let Some((_, progress)) = &mut showing {
            let share = 100.0 * told.right as f64 / told.images.max(1) as f64;
            progress.at(told.done as u64, || format!("{} still right, {share:.1} %", told.right));
        }
    })?;
    if let Some((_, over)) = showing {
        over.finish();
    }
    let evaluation = &assessment.evaluation;
    let written = [
        arguments.per_image.as_ref().map(|file| evaluation.write_csv(file)),
        arguments.save_adversarial.as_ref().map(|file| evaluation.write_adversarial(file)),
    ];
    for warning in &evaluation.warnings {
        output.note(format!("warning: {warning}"));
    }
    let mut value = serde_json::to_value(&assessment)?;
    if let Some(fields) = value.as_object_mut() {
        let head = manifest.as_ref().and_then(|manifest| manifest.head.clone());
        let about = json!({ "name": subject.name, "weights": subject.weights, "head": head });
        fields.insert("precision".into(), json!(precision.to_string()));
        fields.insert("bundle".into(), about);
        fields.insert("data".into(), json!(data.kind.name()));
        fields.insert("device".into(), json!(offered.name));
        fields.insert("machine".into(), machine());
        fields.insert("versions".into(), versions());
        fields.insert("command".into(), json!(typed()));
        // One row an image goes to --per-image.
        fields.remove("verdicts");
    }
    let about = folder::About { subject: &subject, data: &data, device: &offered.name };
    let filed = folder.as_ref().map(|folder| folder::write(folder, &assessment, &value, &about));
    output.result(&value, || tables(&assessment))?;
    // A full disk does not take away the numbers.
    written.into_iter().flatten().try_for_each(|written| Ok::<(), Failure>(written?))?;
    if let Some(Some(aside)) = filed.transpose()? {
        output.note(format!("results of other attacks that were in the folder are now in {}", aside.display()));
    }
    if arguments.claim { claim(&bundle_path(&arguments.bundle), &device, &assessment, &data) } else { Ok(()) }
}

fn recipe(arguments: &Arguments) -> Evaluate {
    let norm = match arguments.norm {
        NormArgument::Linf => Norm::Linf,
        NormArgument::L2 => Norm::L2,
    };
    let usual: &[Pixels] = match (norm, arguments.protocol.is_long()) {
        (Norm::L2, _) => &[Pixels(0.5)],
        (Norm::Linf, true) => &[Pixels::of_255(8.0)],
        (Norm::Linf, false) => &[Pixels::of_255(4.0), Pixels::of_255(8.0), Pixels::of_255(16.0)],
    };
    let epsilons = if arguments.epsilon.is_empty() { usual.to_vec() } else { arguments.epsilon.clone() };
    let objective = match arguments.loss {
        LossArgument::Ce => Objective::CrossEntropy,
        LossArgument::Dlr => Objective::Dlr,
        LossArgument::Margin => Objective::Margin,
    };
    let (images, seed) = (arguments.images, arguments.seed);
    let restarts = arguments.restarts;
    Evaluate { protocol: arguments.protocol.into(), norm, objective, restarts, images, seed, epsilons }
}

/// What a person reads: numbers, and why to believe them.
fn tables(assessment: &Assessment) -> String {
    let percent = |share: f64| format!("{:.2} %", 100.0 * share);
    let row = |what: String, rate: Rate| {
        let interval = format!("{} to {}", percent(rate.low), percent(rate.high));
        vec![what, percent(rate.accuracy), interval, format!("{} of {}", rate.right, rate.images)]
    };
    let evaluation = &assessment.evaluation;
    let mut rows = vec![row("clean".into(), evaluation.clean)];
    let cascaded = |at: &Row| {
        let part = at.cascade.is_some() && at.attack.is_some();
        if part { format!("  after {}", at.what()) } else { at.what() }
    };
    rows.extend(evaluation.attacks.iter().map(|at| match at.withheld {
        true => vec![cascaded(at), "withheld".into(), String::new(), String::new()],
        false => row(cascaded(at), at.rate),
    }));
    rows.extend(assessment.wide.iter().map(|at| row(at.what(), at.rate)));
    if let Some(corruptions) = &assessment.corruptions {
        let (name, share) = ("corruptions, mean of 75".to_string(), percent(corruptions.mean));
        rows.push(vec![name, share, String::new(), String::new()]);
    }
    if let Some(views) = &assessment.views {
        rows.push(row(format!("clean, {} views", views.views), views.clean));
        let named = |at: &ViewRow| format!("{}, {} views", at.what(), views.views);
        rows.extend(views.rows.iter().map(|at| row(named(at), at.rate)));
    }
    let mut text = table(&["attack", "accuracy", "95 % interval", "right"], rows);
    for trust in &assessment.trust {
        let grade = |grade: Grade| match grade {
            Grade::Pass => "PASS",
            Grade::Warn => "WARN",
            Grade::Fail => "FAIL",
        };
        let rows = trust
            .checks
            .iter()
            .map(|check| vec![grade(check.grade).to_string(), check.name.to_string(), check.figure.clone()]);
        let headline = match &trust.headline {
            Headline::Accuracy(rate) => {
                format!("robust accuracy {} ({} to {})", percent(rate.accuracy), percent(rate.low), percent(rate.high))
            }
            Headline::Withheld(why) => format!("NO ROBUST ACCURACY: {why}"),
        };
        let budget = format!("{} {}", trust.norm, trust.epsilon);
        text = format!("{text}\n\n{}\n\n{budget}: {headline}", table(&["", "check", "figure"], rows));
    }
    text
}

/// Writes the bundle with what was measured of it; its weights stay what they are.
fn claim(path: &Path, device: &Device, assessment: &Assessment, data: &Data) -> Done {
    if let Some(Headline::Withheld(why)) =
        assessment.trust.iter().map(|trust| &trust.headline).find(|headline| matches!(headline, Headline::Withheld(_)))
    {
        return Err(usage(format!("nothing is claimed: {why}")));
    }
    let Bundle { mut manifest, model, head } = Bundle::open(path, device)?;
    if manifest.weights.sha256 != assessment.evaluation.weights_sha256 {
        return Err(usage("nothing is claimed: the bundle's weights are no longer those that were measured"));
    }
    for claim in assessment.claims(&format!("{} test", data.kind.name()), &typed()) {
        manifest.claim(claim);
    }
    let precision = manifest.weights.precision;
    Bundle::write(path, manifest, &model, head.as_ref(), precision)?;
    Ok(())
}
