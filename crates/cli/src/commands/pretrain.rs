use super::{DataArguments, DeviceArguments, PipelineArguments, stop_on_interrupt};
use crate::output::{Done, Output, table, usage};
use crate::progress::Progress;
use gabion_experiment::recipe::{self, Base, PRESETS};
use gabion_experiment::run::{self, Event, Metrics, Options, Outcome};
use gabion_spec::Pretrain;
use serde_json::json;
use std::path::PathBuf;

/// Pretrain an encoder; writes a run folder with a bundle in it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gabion pretrain --preset cifar10-small --data data/cifar10 --out runs/small\n  \
    gabion pretrain --resume --data data/cifar10 --out runs/small")]
pub struct Arguments {
    /// An embedded recipe.
    #[arg(long, conflicts_with = "recipe")]
    preset: Option<String>,
    /// A recipe in TOML.
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Change a key of the recipe, such as threat.replays=5; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", num_args = 1..)]
    set: Vec<String>,
    #[command(flatten)]
    data: DataArguments,
    /// The run folder.
    #[arg(long, value_name = "RUN", required_unless_present_any = ["list_presets", "show_recipe"])]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArguments,
    #[command(flatten)]
    pipeline: PipelineArguments,
    /// Go on from the newest checkpoint in the run folder.
    #[arg(long)]
    resume: bool,
    /// Minibatches between checkpoints; a minute when absent.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    checkpoint_every: Option<u64>,
    /// List the presets and stop.
    #[arg(long)]
    list_presets: bool,
    /// Print the resolved recipe and stop.
    #[arg(long)]
    show_recipe: bool,
}

pub fn run(arguments: Arguments, output: &Output) -> Done {
    if arguments.list_presets {
        let first = |text: &str| text.lines().next().unwrap_or("").trim_start_matches("# ").to_string();
        let rows = PRESETS.iter().map(|(name, text)| vec![(*name).to_string(), first(text)]);
        let names: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
        return output.result(&names, || table(&["preset", "what"], rows));
    }
    let base = match (&arguments.preset, &arguments.recipe) {
        (Some(preset), _) => Some(Base::Preset(preset.clone())),
        (None, Some(file)) => Some(Base::File(file.clone())),
        (None, None) => None,
    };
    let resolved: Option<Pretrain> =
        base.map(|base| recipe::resolve(&base, &arguments.set)).transpose().map_err(usage)?;
    let recipe = match (resolved, &arguments.out) {
        (Some(recipe), _) => recipe,
        (None, Some(out)) if arguments.resume && arguments.set.is_empty() => run::recipe_of(out)?,
        _ => return Err(usage("no recipe: give --preset NAME or --recipe FILE; --list-presets lists the presets")),
    };
    if arguments.show_recipe {
        return output.result(&recipe, || toml_of(&recipe));
    }
    let out = arguments.out.expect("clap asks for it");
    let data = arguments.data.open(None)?;
    let (device, offered) = arguments.device.choose(output)?;
    let stop = stop_on_interrupt(output)?;
    let options = Options {
        out: &out,
        resume: arguments.resume,
        device,
        offered: &offered,
        pipeline: arguments.pipeline.wanted()?,
        checkpoint_every: arguments.checkpoint_every,
        stop: &stop,
    };
    let mut progress: Option<Progress<'_>> = None;
    let mut last: Option<Metrics> = None;
    let outcome = run::pretrain(&recipe, &data, &options, &mut |event| match event {
        Event::Started { minibatches, .. } => progress = Some(Progress::new(output, "pretraining", minibatches)),
        Event::Step(metrics) => last = Some(metrics.clone()),
        Event::Minibatch(done) => {
            if let (Some(progress), Some(metrics)) = (&mut progress, &last) {
                progress.at(done, || line(metrics));
            }
        }
        Event::Note(note) => match &progress {
            Some(progress) => progress.note(&note),
            None => output.note(note),
        },
    })?;
    if let Some(progress) = progress {
        progress.finish();
    }
    let last = serde_json::to_value(&last)?;
    match outcome {
        Outcome::Finished(bundle) => {
            let value = json!({ "outcome": "finished", "bundle": bundle, "last": last });
            output.result(&value, || format!("wrote {}", bundle.display()))
        }
        Outcome::Stopped { minibatches } => {
            let value = json!({ "outcome": "stopped", "minibatches": minibatches, "last": last });
            let data = arguments.data.data.as_deref().unwrap_or_default();
            let again = format!(
                "stopped after {minibatches} minibatches; go on with: gabion pretrain --resume --data {data} --out {}",
                out.display()
            );
            output.result(&value, || again)
        }
    }
}

fn line(metrics: &Metrics) -> String {
    let terms: String = metrics.terms.iter().map(|(name, value)| format!(" {name} {value:.4}")).collect();
    format!("loss {:.3}{terms} rate {:.4} {:.0} crops/s", metrics.loss, metrics.rate, metrics.crops_per_second)
}

fn toml_of(recipe: &Pretrain) -> String {
    gabion_experiment::recipe::to_toml(recipe)
}
