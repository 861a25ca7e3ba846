use crate::output::{Done, Failure, Output, table};
use crate::progress::Progress;
use clap::{Subcommand, ValueEnum};
use gabion_experiment::data::Kind;
use gabion_experiment::data::archive::{State, Which, verify};
use gabion_experiment::data::fetch::{self, Fetched, fetch};
use serde_json::json;
use std::path::PathBuf;

/// Fetch or verify a data set.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gabion data fetch cifar10 --out data/cifar10")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Download CIFAR-10 or CIFAR-100, check it and unpack it; goes on where an earlier download stopped.
    #[command(after_help = "Example:\n  gabion data fetch cifar10 --out data/cifar10")]
    Fetch {
        /// Which data set.
        #[arg(value_enum)]
        which: WhichArgument,
        /// The folder for its files.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// A mirror of the original archive.
        #[arg(long)]
        url: Option<String>,
    },
    /// Check the files of a data set against their SHA-256.
    #[command(after_help = "Example:\n  gabion data verify data/cifar10")]
    Verify {
        /// Its folder.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum WhichArgument {
    /// 60,000 images of 10 classes.
    Cifar10,
    /// 60,000 images of 100 classes.
    Cifar100,
}

pub fn run(arguments: Arguments, output: &Output) -> Done {
    match arguments.command {
        Command::Fetch { which, out, url } => {
            let which = match which {
                WhichArgument::Cifar10 => Which::Cifar10,
                WhichArgument::Cifar100 => Which::Cifar100,
            };
            let mut bar: Option<Progress<'_>> = None;
            let fetched = fetch(which, &out, url.as_deref(), &mut |told| match told {
                fetch::Progress::Downloading { done, total } => {
                    let bar = bar.get_or_insert_with(|| Progress::new(output, "downloading", total));
                    bar.at(done, String::new);
                }
                fetch::Progress::Retrying { attempt, why } => output.note(format!("trying again ({attempt}): {why}")),
                fetch::Progress::Unpacking { file } => output.note(format!("unpacking {file}")),
            })?;
            if let Some(bar) = bar {
                bar.finish();
            }
            let (value, line) = match fetched {
                Fetched::AlreadyThere => {
                    (json!({ "outcome": "already there" }), "all files were there and good".to_string())
                }
                Fetched::Unpacked { received } => {
                    (json!({ "outcome": "unpacked", "received": received }), format!("wrote {}", out.display()))
                }
            };
            output.result(&value, || line)
        }
        Command::Verify { folder } => {
            let which = match Kind::detect(&folder)? {
                Kind::Cifar10 => Which::Cifar10,
                Kind::Cifar100 => Which::Cifar100,
                other => {
                    return Err(anyhow::anyhow!(
                        "{}: {} has no published hashes to verify",
                        folder.display(),
                        other.name()
                    )
                    .into());
                }
            };
            let files = verify(which, &folder)?;
            let state = |state: &State| match state {
                State::Good => "good".to_string(),
                State::Missing => "missing".into(),
                State::WrongLength { found } => format!("wrong length {found}"),
                State::WrongHash { found } => format!("wrong SHA-256 {found}"),
            };
            let value: Vec<_> =
                files.iter().map(|file| json!({ "path": file.path, "state": state(&file.state) })).collect();
            let rows = files.iter().map(|file| vec![file.path.display().to_string(), state(&file.state)]);
            output.result(&value, || table(&["file", "state"], rows))?;
            let bad = files.iter().filter(|file| !matches!(file.state, State::Good)).count();
            if bad > 0 {
                return Err(Failure::Failed(anyhow::anyhow!(
                    "{bad} files are not as published; fetch them again with gabion data fetch"
                )));
            }
            Ok(())
        }
    }
}
