use super::{TrustArguments, bundle_path};
use crate::output::{Done, Output};
use gabion_runtime::Source;
use gabion_runtime::generations::rollback;
use serde_json::json;
use std::path::PathBuf;
use std::str::FromStr;

/// Withdraw adapted weights, for good.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gabion rollback runs/small --to base")]
pub struct Arguments {
    /// A run folder or a bundle.
    #[arg(value_name = "RUN|BUNDLE")]
    bundle: PathBuf,
    /// base, or the number of the generation that is served then; without this the one before the newest.
    #[arg(long, value_name = "base|N")]
    to: Option<Target>,
    #[command(flatten)]
    trust: TrustArguments,
}

/// Where a rollback ends.
#[derive(Clone, Copy)]
struct Target(Source);

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("base", _) => Ok(Self(Source::Base)),
            (_, Ok(number)) if number > 0 => Ok(Self(Source::Generation(number))),
            _ => Err("use base, or a number that `gabion generations` lists".into()),
        }
    }
}

pub fn run(arguments: &Arguments, output: &Output) -> Done {
    let bundle = bundle_path(&arguments.bundle);
    if !bundle.is_dir() {
        return Err(crate::output::usage(format!("{} is not a folder: name a bundle", bundle.display())));
    }
    let trust = arguments.trust.resolve()?;
    let rolled = rollback(&bundle, &trust, arguments.to.map(|Target(source)| source))?;
    output.result(&json!({ "to": rolled.to.number(), "withdrawn": rolled.withdrawn }), || {
        let withdrawn: Vec<String> = rolled.withdrawn.iter().map(u64::to_string).collect();
        match &withdrawn[..] {
            [] => format!("serves {}; nothing was withdrawn", rolled.to),
            numbers => format!("serves {}; withdrawn: {}", rolled.to, numbers.join(", ")),
        }
    })
}
