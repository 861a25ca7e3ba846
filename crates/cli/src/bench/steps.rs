//! `gabion bench train` and `gabion bench attack`: steps beside eager PyTorch.

use super::{StepArguments, deliver, ensure_place, load_average};
use crate::commands::evaluate::subject_in;
use crate::commands::precision::PrecisionArguments;
use crate::commands::{bundle_path, machine, typed, versions};
use crate::output::{Done, Output, table};
use gabion_experiment::bench::steps::{Compared, Program, attack, compare};
use gabion_runtime::Choice;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Who is compared, and how often.
#[derive(clap::Args)]
struct Comparison {
    /// How often both take their turns.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Of both.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// A Python that has torch and safetensors [default: .venv/bin/python where it is there, else python3].
    #[arg(long, value_name = "PATH", env = "GABION_PYTHON", hide_env_values = true)]
    python: Option<PathBuf>,
    /// The folder of the peers' scripts.
    #[arg(long, value_name = "DIR", default_value = "bench/peers")]
    peers: PathBuf,
    /// Where the numbers go.
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
}

/// Time one replay of free adversarial training on random crops of 32x32 beside eager PyTorch: forward, backward with the
/// gradient of the input, LARS, a step of the perturbation.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  gabion bench train --width 64 --steps 6 --out results/bench-train-width-64.json\n\n\
    The peer needs a Python with torch; without one ours stands alone."
)]
pub struct TrainArguments {
    #[command(flatten)]
    step: StepArguments,
    #[command(flatten)]
    comparison: Comparison,
}

/// Time steps of PGD over a bundle's frozen network beside eager PyTorch on the same weights.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  gabion bench attack models/cifar10-small --out results/bench-attack-cifar10-small.json\n\n\
    The peer needs a Python with torch and safetensors; without one ours stands alone."
)]
pub struct AttackArguments {
    /// A run folder or a bundle with a head.
    #[arg(value_name = "RUN|BUNDLE")]
    bundle: PathBuf,
    /// Images of a step.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Steps that do not count.
    #[arg(long, default_value_t = 3)]
    warmup: u32,
    /// Steps that count.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    #[command(flatten)]
    precision: PrecisionArguments,
    #[command(flatten)]
    comparison: Comparison,
    /// Measure ours in this process.
    #[arg(long, hide = true)]
    alone: bool,
}

pub fn train(arguments: &TrainArguments, output: &Output) -> Done {
    let StepArguments { width, hidden, output: embedding, batch, views, arithmetic, warmup, steps, device } =
        &arguments.step;
    let sizes = [
        ("--width", width),
        ("--hidden", hidden),
        ("--output", embedding),
        ("--batch", batch),
        ("--views", views),
        ("--warmup", warmup),
        ("--steps", steps),
    ];
    let sizes: Vec<String> = sizes.iter().flat_map(|(name, value)| [(*name).to_string(), value.to_string()]).collect();
    let mut ours = vec!["bench".to_string(), "free-at".into(), "--device".into(), device.name().into()];
    ours.extend(["--arithmetic".to_string(), arithmetic.to_string()]);
    ours.extend(sizes.iter().cloned());
    let about = json!({ "arithmetic": arithmetic });
    report(&arguments.comparison, ours, "train_step.py", sizes, (*batch * *views) as usize, about, output)
}

pub fn attack_steps(arguments: &AttackArguments, output: &Output) -> Done {
    if arguments.alone {
        return gabion_experiment::in_pool(|| alone(arguments, output));
    }
    let bundle = bundle_path(&arguments.bundle);
    let &AttackArguments { batch, warmup, steps, .. } = arguments;
    let sizes = [("--batch", batch), ("--warmup", warmup), ("--steps", steps)];
    let sizes: Vec<String> = sizes.iter().flat_map(|(name, value)| [(*name).to_string(), value.to_string()]).collect();
    let path = bundle.display().to_string();
    let precision = arguments.precision.arithmetic().to_string();
    let mut ours = vec!["bench".to_string(), "attack".into(), path.clone(), "--alone".into()];
    ours.extend(["--precision".to_string(), precision.clone()]);
    ours.extend(sizes.iter().cloned());
    let theirs = ["--bundle".to_string(), path].into_iter().chain(sizes).collect();
    let about =
        json!({ "model": { "name": bundle.file_name().map(|name| name.to_string_lossy()) }, "precision": precision });
    report(&arguments.comparison, ours, "attack.py", theirs, batch as usize, about, output)
}

fn alone(arguments: &AttackArguments, output: &Output) -> Done {
    let (device, _) = gabion_runtime::choose(Choice::Cpu)?;
    let precision = arguments.precision.frozen(&device, output)?;
    let (subject, _) = subject_in(precision, &arguments.bundle, &device)?;
    let &AttackArguments { batch, warmup, steps, .. } = arguments;
    let [batch, warmup, steps] = [batch, warmup, steps].map(|count| count as usize);
    let measured = attack(&subject, batch, warmup, steps);
    let value = json!({ "machine": machine(), "versions": versions(), "command": typed(), "result": measured });
    output.result(&value, || format!("{:.1} steps/s", 1.0 / measured.median_seconds))
}

fn report(
    comparison: &Comparison,
    ours: Vec<String>,
    script: &str,
    theirs: Vec<String>,
    views: usize,
    about: serde_json::Value,
    output: &Output,
) -> Done {
    if let Some(out) = &comparison.out {
        ensure_place(out)?;
    }
    let local = Path::new(".venv/bin/python");
    let python =
        comparison.python.clone().unwrap_or_else(|| if local.exists() { local } else { Path::new("python3") }.into());
    let [mut ours, mut theirs] = [ours, theirs];
    ours.extend(["--json".to_string(), "--quiet".into()]);
    theirs.extend(["--threads".to_string(), comparison.threads.to_string()]);
    theirs.insert(0, comparison.peers.join(script).display().to_string());
    let programs = [
        Program { name: "gabion", program: std::env::current_exe()?, arguments: ours },
        Program { name: "PyTorch eager", program: python, arguments: theirs },
    ];
    let load = load_average();
    let counts = (comparison.rounds.into(), comparison.threads.into(), views);
    let compared = compare(&programs, counts, &mut |line| output.note(line));
    if let Some(why) = &compared.sides[0].not_measured {
        return Err(anyhow::anyhow!("ours was not measured: {why}").into());
    }
    let mut versions = versions();
    if let Some(fields) = versions.as_object_mut() {
        let theirs = compared.sides[1].versions.iter();
        fields.extend(theirs.map(|(name, version)| (name.clone(), json!(version))));
    }
    let mut value = json!({
        "machine": machine(),
        "versions": versions,
        "command": typed(),
        "load_average": load,
        "result": compared,
    });
    if let (Some(fields), Some(about)) = (value.as_object_mut(), about.as_object()) {
        fields.extend(about.clone());
    }
    deliver(comparison.out.as_deref(), &value, output, || tables(&compared))
}

fn tables(compared: &Compared) -> String {
    let figure =
        |value: Option<f64>, digits: usize| value.map_or_else(String::new, |value| format!("{value:.digits$}"));
    let rows = compared.sides.iter().map(|side| {
        vec![
            side.name.to_string(),
            figure(side.steps_per_second.map(|steps| 1e3 / steps), 1),
            figure(side.steps_per_second, 2),
            figure(side.views_per_second, 0),
            figure(side.memory_mib, 0),
        ]
    });
    let mut text = table(&["", "ms/step", "steps/s", "views/s", "working memory, MiB"], rows);
    let ratio = figure(compared.ratio, 2);
    if !ratio.is_empty() {
        text.push_str(&format!("\ntime, ours over theirs: {ratio}; memory: {}", figure(compared.memory_ratio, 2)));
    }
    for side in &compared.sides {
        if let Some(why) = &side.not_measured {
            text.push_str(&format!("\n{}: not measured: {why}", side.name));
        }
    }
    text
}
