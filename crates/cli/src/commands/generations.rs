use super::{TrustArguments, bundle_path};
use crate::output::{Done, Output, table};
use gabion_runtime::generations::{State, list};
use serde_json::json;
use std::path::PathBuf;

/// List the adapted weights that are kept beside a bundle.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gabion generations runs/small")]
pub struct Arguments {
    /// A run folder or a bundle.
    #[arg(value_name = "RUN|BUNDLE")]
    bundle: PathBuf,
    #[command(flatten)]
    trust: TrustArguments,
}

pub fn run(arguments: &Arguments, output: &Output) -> Done {
    let listed = list(&bundle_path(&arguments.bundle), &arguments.trust.resolve()?)?;
    // The newest sound one.
    let served = listed.iter().find(|listed| matches!(listed.state, State::Sound(_))).map(|listed| listed.number);
    let (mut values, mut rows) = (Vec::new(), Vec::new());
    for listed in &listed {
        let is_served = served == Some(listed.number);
        let (state, parent, why) = match &listed.state {
            State::Sound(record) => {
                (if is_served { "served" } else { "kept" }, record.parent().to_string(), String::new())
            }
            State::Withdrawn => ("withdrawn", String::new(), String::new()),
            State::Faulty(why) => ("faulty", String::new(), why.to_string()),
        };
        values.push(json!({ "number": listed.number, "state": state, "parent": parent, "why": why }));
        rows.push(vec![listed.number.to_string(), state.into(), parent, why]);
    }
    let state = if served.is_none() { "served" } else { "kept" };
    values.push(json!({ "number": 0, "state": state, "parent": "", "why": "" }));
    rows.push(vec!["base".into(), state.into(), String::new(), String::new()]);
    output.result(&values, || table(&["generation", "state", "adapted from", "why not served"], rows))
}
