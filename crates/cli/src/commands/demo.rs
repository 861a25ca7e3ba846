use super::{DeviceArguments, stop_on_interrupt};
use crate::output::{Done, Output, table};
use crate::progress::Progress;
use gabion_experiment::demo::{self, Demo, DemoEvent, Options};
use std::path::PathBuf;

/// Train, attack, export and classify on drawn images, in under three minutes.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gabion demo --out demo")]
pub struct Arguments {
    /// The folder for its files: a new one, or a former demo's, which is replaced.
    #[arg(long, value_name = "DIR", default_value = "gabion-demo")]
    out: PathBuf,
    /// Seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArguments,
}

pub fn run(arguments: Arguments, output: &Output) -> Done {
    let (device, offered) = arguments.device.choose(output)?;
    let stop = stop_on_interrupt(output)?;
    let options = Options { out: &arguments.out, device, offered, seed: arguments.seed, stop: &stop };
    let mut showing: Option<(String, Option<Progress<'_>>)> = None;
    let demo = demo::demo(&options, &mut |event| match event {
        DemoEvent::Stage { stage, stages, what } => {
            if let Some((_, Some(over))) = showing.take() {
                over.finish();
            }
            output.note(format!("[{stage}/{stages}] {what}"));
            showing = Some((what, None));
        }
        DemoEvent::Progress { done, total } => {
            if let Some((what, progress)) = &mut showing {
                progress.get_or_insert_with(|| Progress::new(output, what, total)).at(done, String::new);
            }
        }
        DemoEvent::Note(note) => output.note(note),
    })?;
    if let Some((_, Some(over))) = showing {
        over.finish();
    }
    output.result(&demo, || text(&demo))
}

fn text(demo: &Demo) -> String {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let budgets: Vec<String> =
        demo.models.first().map_or_else(Vec::new, |model| model.attacks.iter().map(|attack| attack.what()).collect());
    let header: Vec<&str> =
        ["pretraining", "clean"].into_iter().chain(budgets.iter().map(String::as_str)).chain(["seconds"]).collect();
    let rows = demo.models.iter().map(|model| {
        let attacks = model.attacks.iter().map(|attack| percent(attack.rate.accuracy));
        let mut row = vec![model.name.to_string(), percent(model.clean.accuracy)];
        row.extend(attacks);
        row.push(format!("{:.0}", model.seconds));
        row
    });
    let classified = demo.classified.iter().map(|one| {
        vec![
            one.model.to_string(),
            one.image.display().to_string(),
            one.truth.clone(),
            format!("{} {:.1} %", one.predicted, 100.0 * one.probability),
        ]
    });
    let mut text = table(&header, rows);
    text.push_str("\n\n");
    text.push_str(&table(&["model", "picture", "truth", "verdict"], classified));
    text.push_str(&format!("\n\nreport: {}\nbundle: {}\n", demo.report.display(), demo.bundle.display()));
    if let Some(first) = demo.classified.first() {
        text.push_str(&format!("try: {}\n", first.command));
    }
    text.push_str(&format!("took {:.0} s", demo.seconds));
    text
}
