//! `gabion bench adapt`: seconds of adaptation to a shifted stream, and what they change.

use super::{deliver, ensure_place, load_average};
use crate::commands::{DataArguments, DeviceArguments, adapt::bytes, bundle_path, machine, typed, versions};
use crate::output::{Done, Output, table, usage};
use clap::ValueEnum;
use gabion_experiment::bench::adapt::{Half, Row, Settings, Shift, measure};
use gabion_experiment::measure::Rate;
use gabion_experiment::recipe;
use gabion_runtime::adapt::Source;
use gabion_runtime::adapt::source::SOURCE;
use gabion_runtime::{Bundle, Verdict};
use gabion_spec::{Adapt, Budget, LocalObjective, Scope};
use serde_json::json;
use std::path::PathBuf;

/// Adapt a bundle to shifted streams of test images, and measure what it gained, kept and forgot.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  gabion bench adapt models/cifar10-small --data data/cifar10 --out results/adapt-cifar10-small.json\n\n\
    Images that are trained on, guarded by and measured on are disjoint; recipes were chosen with --half tuning."
)]
pub struct Arguments {
    /// A run folder or a bundle with a head.
    #[arg(value_name = "RUN|BUNDLE")]
    bundle: PathBuf,
    #[command(flatten)]
    data: DataArguments,
    /// Streams, as corruption:severity, or dark:share-of-light.
    #[arg(long, value_delimiter = ',', default_value = "fog:4,dark:0.4,gaussian-noise:5")]
    shifts: Vec<Shift>,
    /// What is done in each.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "head,last-block,all,emp-ssl")]
    rows: Vec<RowArgument>,
    /// Seconds of each.
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// Optimizer steps of each, in place of seconds.
    #[arg(long, conflicts_with = "seconds")]
    steps: Option<u64>,
    /// Local images.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..))]
    local: u32,
    /// Images of the guard.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    guard: u32,
    /// Images that accuracy is measured on.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    images: u32,
    /// Which half of the test images.
    #[arg(long, value_enum, default_value = "reported")]
    half: HalfArgument,
    /// A recipe in TOML, whose keys take the place of every row's defaults.
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Change a key of every row's recipe, such as rate=0.01; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Most memory on top of what is resident, such as 512MB.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory: Option<u64>,
    /// Seeds the choice of images, the shifts and the training.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where the numbers go.
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArguments,
}

#[derive(Clone, Copy, ValueEnum)]
enum RowArgument {
    Head,
    LastBlock,
    All,
    /// EMP-SSL of the last block, without labels.
    EmpSsl,
    /// EMP-SSL of everything.
    EmpSslAll,
}

impl RowArgument {
    fn recipe(self) -> Adapt {
        match self {
            Self::Head => Adapt::new(Scope::Head, LocalObjective::Supervised),
            Self::LastBlock => Adapt::new(Scope::LastBlock, LocalObjective::Supervised),
            Self::All => Adapt::new(Scope::All, LocalObjective::Supervised),
            Self::EmpSsl => Adapt::new(Scope::LastBlock, LocalObjective::EMP_SSL),
            Self::EmpSslAll => Adapt::new(Scope::All, LocalObjective::EMP_SSL),
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum HalfArgument {
    Reported,
    Tuning,
}

pub fn run(arguments: &Arguments, output: &Output) -> Done {
    gabion_experiment::in_pool(|| within(arguments, output))
}

fn within(arguments: &Arguments, output: &Output) -> Done {
    if let Some(out) = &arguments.out {
        ensure_place(out)?;
    }
    let budget = match arguments.steps {
        Some(steps) => Budget::Steps { steps },
        None => Budget::Seconds { seconds: arguments.seconds },
    };
    let recipe_of = |row: &RowArgument| {
        let base = Adapt { seed: arguments.seed, budget, ..row.recipe() };
        recipe::adapt(&base, arguments.recipe.as_deref(), &arguments.set)
    };
    let recipes: Vec<Adapt> = arguments.rows.iter().map(recipe_of).collect::<Result<_, _>>().map_err(usage)?;
    let (device, offered) = arguments.device.choose(output)?;
    let path = bundle_path(&arguments.bundle);
    let bundle = Bundle::open(&path, &device)?;
    let source = path.join(SOURCE);
    let source = source.exists().then(|| Source::read(&source, &bundle.manifest)).transpose()?;
    let data = arguments.data.open(None)?;
    let settings = Settings {
        shifts: arguments.shifts.clone(),
        recipes,
        half: match arguments.half {
            HalfArgument::Reported => Half::Reported,
            HalfArgument::Tuning => Half::Tuning,
        },
        local: arguments.local as usize,
        guard: arguments.guard as usize,
        images: arguments.images as usize,
        seed: arguments.seed,
        memory: arguments.memory,
    };
    let load = load_average();
    let rows = measure(&bundle, source.as_ref(), &data.split.test, &settings, &mut |line| output.note(line))?;
    let value = json!({
        "machine": machine(),
        "versions": versions(),
        "command": typed(),
        "device": offered.name,
        "model": { "name": bundle.manifest.name, "weights": bundle.manifest.weights.sha256 },
        "load_average": load,
        "result": { "settings": settings, "rows": rows },
    });
    deliver(arguments.out.as_deref(), &value, output, || tables(&rows))
}

fn tables(rows: &[Row]) -> String {
    let change = |[before, after]: [Rate; 2]| {
        let (before, after) = (100.0 * before.accuracy, 100.0 * after.accuracy);
        format!("{before:.1} -> {after:.1} ({:+.1})", after - before)
    };
    let cells = rows.iter().map(|row| {
        vec![
            row.shift.name(),
            format!("{} {}", row.recipe.scope.name(), row.recipe.objective.name()),
            change(row.shifted.map(|of| of.clean)),
            change(row.shifted.map(|of| of.pgd)),
            change(row.published.map(|of| of.clean)),
            change(row.published.map(|of| of.pgd)),
            row.steps.to_string(),
            format!("{:.1}", row.seconds),
            row.peak_mib.map_or("unknown".into(), |mib| format!("{mib:.0}")),
            if row.verdict == Verdict::Promoted { "promoted" } else { "refused" }.into(),
        ]
    });
    let head = [
        "stream",
        "what moves",
        "clean, shifted",
        "PGD-10 8/255, shifted",
        "clean, published",
        "PGD-10 8/255, published",
        "steps",
        "s",
        "peak MiB",
        "guard",
    ];
    table(&head, cells)
}
