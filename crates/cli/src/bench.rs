//! `gabion bench`: the same work as bench/peers, with the same JSON.

use crate::commands::{DeviceArguments, machine, typed, versions};
use crate::output::{Done, Output, table};
use clap::ValueEnum;
use gabion_experiment::bench::{Settings, Step, measure};
use serde_json::json;

/// Time a training or inference step on random crops of 32x32.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gabion bench free-at --width 16 --batch 64 --json\n  \
    python bench/peers/train_step.py --width 16 --batch 64")]
pub struct Arguments {
    /// What is timed.
    #[arg(value_enum)]
    step: StepArgument,
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
    /// Steps that do not count.
    #[arg(long, default_value_t = 3)]
    warmup: u32,
    /// Steps that count.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    #[command(flatten)]
    device: DeviceArguments,
}

#[derive(Clone, Copy, ValueEnum)]
enum StepArgument {
    /// One replay of free adversarial training.
    FreeAt,
    /// A step on clean views.
    Standard,
    /// A forward pass.
    Infer,
}

pub fn run(arguments: &Arguments, output: &Output) -> Done {
    let (device, offered) = arguments.device.choose(output)?;
    let &Arguments { width, hidden, output: embedding, batch, views, warmup, steps, .. } = arguments;
    let step = match arguments.step {
        StepArgument::FreeAt => Step::FreeAt,
        StepArgument::Standard => Step::Standard,
        StepArgument::Infer => Step::Infer,
    };
    let [batch, views, warmup, steps] = [batch, views, warmup, steps].map(|count| count as usize);
    let measured = measure(Settings { step, width, hidden, output: embedding, batch, views, warmup, steps }, &device);
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
