//! `gabion bench`: the same work as bench/peers, with the same JSON.

use crate::commands::{DeviceArguments, machine, typed, versions};
use crate::output::{Done, Failure, Output, table, usage};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use gabion_experiment::bench::{Settings, Step, measure};
use gabion_runtime::{Choice, durable};
use gabion_spec::Arithmetic;
use serde_json::{Value, json};
use std::path::Path;

mod adapt;
mod arithmetic;
mod augment;
mod autoattack;
mod infer;
mod precision;
mod steps;

/// Time training steps and augmentation.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gabion bench free-at --width 16 --batch 64 --json\n  \
    python bench/peers/train_step.py --width 16 --batch 64\n  gabion bench augment --out augment.json")]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Time one replay of free adversarial training on random crops of 32x32.
    FreeAt(StepArguments),
    /// Time a step on clean views of 32x32.
    Standard(StepArguments),
    /// Time a forward pass on random crops of 32x32.
    Forward(StepArguments),
    /// Time a training step beside PyTorch.
    Train(steps::TrainArguments),
    /// Time steps of PGD over a frozen network beside PyTorch.
    Attack(steps::AttackArguments),
    /// Time a bundle's answers beside PyTorch, ONNX Runtime and Candle.
    Infer(infer::Arguments),
    /// Count views per second beside torchvision and kornia.
    Augment(augment::Arguments),
    /// Adapt to shifted streams, and measure what it gained, kept and forgot.
    Adapt(Box<adapt::Arguments>),
    /// Train a recipe in f32 and in bf16.
    Arithmetic(arithmetic::Arguments),
    /// Compare half precision with single on a device.
    Precision(precision::Arguments),
    /// Compare our AutoAttack with the official one.
    Autoattack(autoattack::Arguments),
}

pub fn run(arguments: &Arguments, output: &Output) -> Done {
    match &arguments.what {
        What::FreeAt(arguments) => step(Step::FreeAt, arguments, output),
        What::Standard(arguments) => step(Step::Standard, arguments, output),
        What::Forward(arguments) => step(Step::Infer, arguments, output),
        What::Train(arguments) => steps::train(arguments, output),
        What::Attack(arguments) => steps::attack_steps(arguments, output),
        What::Infer(arguments) => infer::run(arguments, output),
        What::Adapt(arguments) => adapt::run(arguments, output),
        What::Arithmetic(arguments) => arithmetic::run(arguments, output),
        What::Precision(arguments) => precision::run(arguments, output),
        What::Augment(arguments) => augment::run(arguments, output),
        What::Autoattack(arguments) => autoattack::run(arguments, output),
    }
}

#[derive(clap::Args)]
struct StepArguments {
    /// Width of the residual network.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    width: u32,
    /// Length of the feature.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    hidden: u32,
    /// Length of the embedding.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    output: u32,
    /// Images in a minibatch.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Views of each.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    views: u32,
    /// What convolutions of training compute in; bf16 is the CPU's.
    #[arg(long, default_value_t, value_parser = arithmetic())]
    arithmetic: Arithmetic,
    /// Steps that do not count.
    #[arg(long, default_value_t = 3)]
    warmup: u32,
    /// Steps that count.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    #[command(flatten)]
    device: DeviceArguments,
}

/// What `--arithmetic` may say.
fn arithmetic() -> impl TypedValueParser<Value = Arithmetic> {
    PossibleValuesParser::new(Arithmetic::NAMES).try_map(|name| name.parse())
}

fn step(step: Step, arguments: &StepArguments, output: &Output) -> Done {
    let (device, offered) = arguments.device.choose(output)?;
    let &StepArguments { width, hidden, output: embedding, batch, views, arithmetic, warmup, steps, .. } = arguments;
    if !arithmetic.is_f32() && offered.choice != Choice::Cpu {
        return Err(usage(format!("--arithmetic bf16 is the CPU's, not that of {}", offered.name)));
    }
    let [batch, views, warmup, steps] = [batch, views, warmup, steps].map(|count| count as usize);
    let measured =
        measure(Settings { step, width, hidden, output: embedding, batch, views, arithmetic, warmup, steps }, &device);
    let value = json!({
        "machine": machine(),
        "versions": versions(),
        "device": offered.name,
        "command": typed(),
        "result": measured,
    });
    output.result(&value, || {
        let memory = measured.working_memory_mib.map_or("unknown".into(), |mib| format!("{mib:.0} MiB"));
        let row =
            vec![format!("{:.1}", 1e3 * measured.median_seconds), format!("{:.0}", measured.images_per_second), memory];
        table(&["median ms", "crops/s", "working memory"], [row])
    })
}

/// Shows the numbers and writes them to a file, where one is named.
fn deliver(out: Option<&Path>, value: &Value, output: &Output, tables: impl FnOnce() -> String) -> Done {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    let written = out.map(|out| (out, durable::write(out, text.as_bytes())));
    output.result(value, tables)?;
    // A full disk does not take away the numbers.
    if let Some((out, written)) = written {
        written.map_err(|error| anyhow::anyhow!("cannot write {}: {error}", out.display()))?;
        output.note(format!("written to {}", out.display()));
    }
    Ok(())
}

/// Refuses before the work what could not be written after it.
pub fn ensure_place(out: &Path) -> Result<(), Failure> {
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(usage(format!("{} is no folder; make it, or name another file with --out", folder.display())));
    }
    if out.is_dir() {
        return Err(usage(format!("{} is a folder; name a file with --out", out.display())));
    }
    Ok(())
}

/// What the machine had to do before, in Linux's terms.
fn load_average() -> Option<Vec<f64>> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    Some(text.split_whitespace().take(3).filter_map(|number| number.parse().ok()).collect())
}
