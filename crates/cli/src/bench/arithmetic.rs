//! `gabion bench arithmetic`: a recipe trained in f32 and in bf16.

use super::{deliver, ensure_place, load_average};
use crate::commands::{DataArguments, machine, stop_on_interrupt, typed, versions};
use crate::output::{Done, Output, table};
use gabion_experiment::bench::arithmetic::{Settings, Trained, train};
use gabion_experiment::recipe::{self, Base};
use gabion_runtime::Choice;
use gabion_spec::{Arithmetic, Evaluate, Norm, Objective, Pixels, Probe, Protocol};
use serde_json::json;
use std::path::PathBuf;

/// Train a recipe in f32 and in bf16 from the same weights on the same views; compare losses, time, and accuracy of a linear
/// classifier, clean and under PGD-20 at 8/255.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  gabion bench arithmetic --preset cifar10-small --set images=6400 epochs=1 \\\n    \
    --data data/cifar10 --runs runs/arithmetic --out results/arithmetic-cifar10-small.json"
)]
pub struct Arguments {
    /// An embedded recipe.
    #[arg(long, default_value = "cifar10-small")]
    preset: String,
    /// Change a key of the recipe, such as epochs=1; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", num_args = 1..)]
    set: Vec<String>,
    #[command(flatten)]
    data: DataArguments,
    /// A folder for the two runs, new or empty.
    #[arg(long, value_name = "DIR", default_value = "runs/arithmetic")]
    runs: PathBuf,
    /// Test images under attack.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    images: u32,
    /// Where the numbers go.
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
}

pub fn run(arguments: &Arguments, output: &Output) -> Done {
    if let Some(out) = &arguments.out {
        ensure_place(out)?;
    }
    let recipe =
        recipe::resolve(&Base::Preset(arguments.preset.clone()), &arguments.set).map_err(crate::output::usage)?;
    let data = arguments.data.open(None)?;
    let (device, offered) = gabion_runtime::choose(Choice::Cpu)?;
    let stop = stop_on_interrupt(output)?;
    let evaluate = Evaluate {
        restarts: None,
        protocol: Protocol::Paper,
        objective: Objective::CrossEntropy,
        norm: Norm::Linf,
        images: Some(arguments.images),
        seed: recipe.seed,
        epsilons: vec![Pixels::of_255(8.0)],
    };
    let settings = Settings {
        recipe: &recipe,
        data: &data,
        probe: &Probe::Linear { rate: 3e-4, batch: 256, epochs: 20 },
        evaluate: &evaluate,
        out: &arguments.runs,
        device,
        offered: &offered,
        stop: &stop,
    };
    let load = load_average();
    let trained = [Arithmetic::F32, Arithmetic::Bf16]
        .into_iter()
        .map(|arithmetic| train(arithmetic, &settings, &mut |line| output.note(line)))
        .collect::<Result<Vec<_>, _>>()?;
    let value = json!({
        "machine": machine(),
        "versions": versions(),
        "command": typed(),
        "load_average": load,
        "data": data.kind.name(),
        "result": trained,
    });
    deliver(arguments.out.as_deref(), &value, output, || rows(&trained))
}

fn rows(trained: &[Trained]) -> String {
    let row = |Trained { arithmetic, last_loss, seconds, clean, attacks, .. }: &Trained| {
        let attacked = attacks.iter().map(|row| format!("{:.1} %", 100.0 * row.rate.accuracy)).collect::<Vec<_>>();
        let clean = format!("{:.1} %", 100.0 * clean.accuracy);
        vec![arithmetic.to_string(), format!("{seconds:.0}"), format!("{last_loss:.3}"), clean, attacked.join(", ")]
    };
    table(&["arithmetic", "seconds", "last loss", "clean", "attacked"], trained.iter().map(row))
}
