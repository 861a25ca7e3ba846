use super::{DeviceArguments, TrustArguments, bundle_path, machine, stop_on_interrupt, typed, versions};
use crate::output::{Done, Failure, Output, table, usage};
use crate::progress::Progress;
use clap::ValueEnum;
use gabion_experiment::recipe;
use gabion_experiment::report::{adaptation, render};
use gabion_runtime::adapt::Source;
use gabion_runtime::adapt::folder::Folder;
use gabion_runtime::adapt::source::SOURCE;
use gabion_runtime::adapt::{self, Figures, Report};
use gabion_runtime::deployed::promote;
use gabion_runtime::{Adapted, Bundle, Local, Trust, Verdict, durable, generations};
use gabion_spec::{Adapt, Budget, LocalObjective, Manifest, Pixels, Scope};
use serde_json::json;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// Adapt a bundle to local images: seconds of free adversarial training, under a guard.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  gabion adapt models/cifar10-small --samples local --for 30s --memory 512MB\n  \
    gabion adapt models/cifar10-small --samples unlabelled --objective emp-ssl --guard labelled\n\n\
    A result that is promoted goes to BUNDLE/generations; one that is refused is written nowhere, and the command exits \
    with 1.")]
pub struct Arguments {
    /// A run folder or a bundle with a head.
    #[arg(value_name = "RUN|BUNDLE")]
    bundle: PathBuf,
    /// Local pictures: one folder a class, named as in the bundle, or for emp-ssl pictures without labels.
    #[arg(long, value_name = "DIR")]
    samples: PathBuf,
    /// Labelled pictures that nothing is trained on; a share of the labelled samples when absent.
    #[arg(long, value_name = "DIR")]
    guard: Option<PathBuf>,
    /// Time of training, such as 30s or 2m.
    #[arg(long = "for", value_name = "TIME", value_parser = seconds, conflicts_with = "steps")]
    time: Option<f64>,
    /// Optimizer steps in place of time: the same result again.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// What moves.
    #[arg(long, value_enum, default_value = "last-block")]
    scope: ScopeArgument,
    /// What is minimised.
    #[arg(long, value_enum, default_value = "supervised")]
    objective: ObjectiveArgument,
    /// Budget of the perturbation, such as 8/255.
    #[arg(long, value_name = "BUDGET")]
    epsilon: Option<Pixels>,
    /// Most memory on top of what is resident, such as 512MB.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory: Option<u64>,
    /// A recipe in TOML, whose keys take the place of the defaults.
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Change a key of the recipe, such as rate=0.005; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Seeds order, views, the guard's choice and its attack.
    #[arg(long)]
    seed: Option<u64>,
    /// A page of what was done and measured, or its numbers.
    #[arg(long, value_name = "FILE.html|FILE.json", value_parser = report_path)]
    report: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustArguments,
    #[command(flatten)]
    device: DeviceArguments,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScopeArgument {
    Head,
    LastBlock,
    All,
}

#[derive(Clone, Copy, ValueEnum)]
enum ObjectiveArgument {
    /// Cross-entropy of the labels.
    Supervised,
    /// EMP-SSL, without labels.
    EmpSsl,
}

impl Arguments {
    /// The defaults of what was chosen, then the file, then the settings.
    fn recipe(&self) -> Result<Adapt, Failure> {
        let scope = match self.scope {
            ScopeArgument::Head => Scope::Head,
            ScopeArgument::LastBlock => Scope::LastBlock,
            ScopeArgument::All => Scope::All,
        };
        let objective = match self.objective {
            ObjectiveArgument::Supervised => LocalObjective::Supervised,
            ObjectiveArgument::EmpSsl => LocalObjective::EMP_SSL,
        };
        let mut recipe =
            recipe::adapt(&Adapt::new(scope, objective), self.recipe.as_deref(), &self.set).map_err(usage)?;
        recipe.seed = self.seed.unwrap_or(recipe.seed);
        recipe.epsilon = self.epsilon.unwrap_or(recipe.epsilon);
        if let Some(seconds) = self.time {
            recipe.budget = Budget::Seconds { seconds };
        } else if let Some(steps) = self.steps {
            recipe.budget = Budget::Steps { steps };
        }
        recipe.validate().map_err(usage)?;
        Ok(recipe)
    }
}

pub fn run(arguments: &Arguments, output: &Output) -> Done {
    let stop = stop_on_interrupt(output)?;
    gabion_experiment::in_pool(|| within(arguments, output, &|| stop.load(Ordering::Relaxed)))
}

fn within(arguments: &Arguments, output: &Output, stopped: &dyn Fn() -> bool) -> Done {
    let mut recipe = arguments.recipe()?;
    if let Some(report) = &arguments.report {
        crate::bench::ensure_place(report)?;
    }
    let trust = arguments.trust.resolve()?;
    generations::adaptable(&trust)?;
    let (device, offered) = arguments.device.choose(output)?;
    let path = bundle_path(&arguments.bundle);
    let generations::Served { bundle, origin, skipped } =
        generations::open(&path, &trust, |dir| Bundle::open(dir, &device))?;
    for skipped in &skipped {
        output.note(format!("generation {} is passed over: {}", skipped.number, skipped.why));
    }
    let size = [bundle.manifest.input.height as usize, bundle.manifest.input.width as usize];
    let folder = |path: &Path| Folder::open(path, &bundle.manifest.classes, size);
    let samples = folder(&arguments.samples)?;
    let guard = arguments.guard.as_deref().map(folder).transpose()?;
    let source = if recipe.rehearsal > 0.0 { source(&path, &trust, &bundle.manifest, output)? } else { None };
    if source.is_none() {
        recipe.rehearsal = 0.0;
    }
    let local = Local {
        samples: samples.samples(),
        guard: guard.as_ref().map(Folder::samples),
        source: source.as_ref(),
        memory: arguments.memory,
    };
    let mut progress = Progress::new(output, "adapting", 1000);
    let adapted = adapt::adapt(&bundle, &local, &recipe, &mut |at| {
        match at {
            adapt::Progress::Step { done, loss, share, .. } => {
                progress.at((1000.0 * share) as u64, || format!("step {done}, loss {loss:.3}"));
            }
            adapt::Progress::Guard { after, done, total } => {
                let what = if after { "after" } else { "before" };
                progress.at(if after { 1000 } else { 0 }, || format!("guard {what}: {done} of {total}"));
            }
        }
        if stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    progress.finish();
    let Adapted { candidate, verdict, report } = adapted;
    let generation = match verdict {
        Verdict::Promoted => Some(promote(&path, &trust, &origin, &candidate)?),
        Verdict::Refused { .. } => None,
    };
    let value = json!({
        "machine": machine(),
        "versions": versions(),
        "command": typed(),
        "device": offered.name,
        "bundle": { "name": bundle.manifest.name, "weights": bundle.manifest.weights.sha256 },
        "generation": generation,
        "decision": verdict,
        "report": report,
    });
    if let Some(file) = &arguments.report {
        let text = if file.extension().is_some_and(|ending| ending == "json") {
            serde_json::to_string_pretty(&value)? + "\n"
        } else {
            let facts = vec![("command".to_string(), typed()), ("device".into(), offered.name.clone())];
            render(&adaptation(&bundle.manifest.name, &report, &verdict, facts))?
        };
        durable::write(file, text.as_bytes())
            .map_err(|error| anyhow::anyhow!("cannot write {}: {error}", file.display()))?;
        output.note(format!("written to {}", file.display()));
    }
    output.result(&value, || summary(&report, &verdict, generation))?;
    match verdict {
        Verdict::Promoted => Ok(()),
        Verdict::Refused { lost } => {
            let lost: Vec<String> = lost.iter().map(ToString::to_string).collect();
            Err(anyhow::anyhow!("refused, the bundle stays as it was: {}", lost.join("; ")).into())
        }
    }
}

/// What is rehearsed. A signature does not cover it, so that where one is required it could be a stranger's.
fn source(bundle: &Path, trust: &Trust, manifest: &Manifest, output: &Output) -> Result<Option<Source>, Failure> {
    let path = bundle.join(SOURCE);
    if std::fs::symlink_metadata(&path).is_err() {
        output.note(format!("no {SOURCE} beside the bundle: nothing is rehearsed; `gabion source` writes one"));
        return Ok(None);
    }
    if trust.key().is_some() {
        output.note(format!("{SOURCE} is signed by nobody: nothing is rehearsed"));
        return Ok(None);
    }
    Ok(Some(Source::read(&path, manifest)?))
}

fn summary(report: &Report, verdict: &Verdict, generation: Option<u64>) -> String {
    let Report { before, after, steps, seconds, .. } = report;
    let row = |what: &str, of: fn(&Figures) -> f64| {
        let (before, after) = (of(before), of(after));
        vec![what.into(), format!("{before:.1} %"), format!("{after:.1} %"), format!("{:+.1}", after - before)]
    };
    let attacked = format!("PGD-{} {}", report.recipe.guard.steps, report.recipe.guard.epsilon);
    let head = ["guard set", "before", "after", "points"];
    let rows = table(&head, [row("clean", Figures::clean_points), row(&attacked, Figures::robust_points)]);
    let done = format!("{steps} steps in {seconds:.1} s, {} images of the guard", before.images);
    match (verdict, generation) {
        (Verdict::Promoted, Some(number)) => format!("{rows}\n{done}; promoted to generation {number}"),
        _ => format!("{rows}\n{done}; refused"),
    }
}

/// `30s`, `2m`, `90`.
fn seconds(text: &str) -> Result<f64, String> {
    let (number, factor) = match text.trim().strip_suffix('m') {
        Some(minutes) => (minutes, 60.0),
        None => (text.trim().trim_end_matches('s'), 1.0),
    };
    let wrong = || format!("`{text}` is no time: write it as 30s or 2m");
    let seconds: f64 = number.trim().parse().map_err(|_| wrong())?;
    if seconds.is_finite() && seconds > 0.0 { Ok(seconds * factor) } else { Err(wrong()) }
}

fn report_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let ending = path.extension().and_then(|ending| ending.to_str());
    if matches!(ending, Some("html" | "json")) { Ok(path) } else { Err("name a file.html or a file.json".into()) }
}

/// Bytes such as `512MB`, of 1024 kilobytes each.
pub fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1u64,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return Err(format!("`{unit}` is no unit of memory: write it as 512MB")),
    };
    let wrong = || format!("`{text}` is no amount of memory: write it as 512MB");
    let number: u64 = number.trim().parse().map_err(|_| wrong())?;
    number.checked_mul(factor).filter(|&bytes| bytes > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_people_write_them() {
        assert_eq!(bytes("512MB"), Ok(512 << 20));
        assert_eq!(bytes("1 GiB"), Ok(1 << 30));
        assert_eq!(bytes("4096"), Ok(4096));
        for wrong in ["", "MB", "-1MB", "0", "1XB", "99999999999999GB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!((seconds("30s"), seconds("2m"), seconds("1.5")), (Ok(30.0), Ok(120.0), Ok(1.5)));
        for wrong in ["", "0s", "-3s", "inf", "1h", "nan"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
