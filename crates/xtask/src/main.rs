//! `cargo run -p xtask --release -- tidy | check | sizes | header`: checks of the repository itself, and what is made from it.

mod header;
mod manifests;
mod rules;
mod sizes;
mod tree;

use anyhow::{Context, Result, bail};
use std::process::{Command, ExitCode};
use tree::Tree;

const USAGE: &str = "usage: cargo run -p xtask --release -- <command>

  tidy    what a command can check of ARCHITECTURE.md's invariants, in seconds
  check   tidy, then fmt, clippy, the tests and the documentation, as .ci/run does
  sizes   bytes and packages of programs without Burn; with --all of the others too
  header  crates/capi/include/gabion.h from the sources beside it";

/// Something that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    /// The file, with a line where one is known, or a package.
    place: String,
    /// What is wrong and what to do.
    what: String,
}

impl Finding {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => tidy(),
        ["check"] => check(),
        ["sizes"] => tree::root().and_then(|root| sizes::sizes(&root, false)),
        ["sizes", "--all"] => tree::root().and_then(|root| sizes::sizes(&root, true)),
        ["header"] => tree::root().and_then(|root| header::write(&root)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn tidy() -> Result<()> {
    let root = tree::root()?;
    let tree = Tree::read(&root)?;
    let metadata = manifests::metadata(&root)?;
    let findings: Vec<Finding> = [
        rules::long_files(&tree),
        rules::learn_is_pure(&tree),
        rules::kernels_have_twins(&tree),
        rules::no_machine_paths(&tree),
        rules::cards_name_their_results(&tree),
        rules::results_say_how(&tree),
        manifests::arrows_point_down(&metadata),
        manifests::spec_depends_on_serde_alone(&metadata),
        manifests::backends_are_named_where_allowed(&metadata),
        manifests::run_and_test_share_artefacts(&root)?,
    ]
    .concat();
    for Finding { place, what } in &findings {
        eprintln!("{place}: {what}");
    }
    if !findings.is_empty() {
        bail!("{} finding(s)", findings.len());
    }
    println!("tidy: {} files, nothing to say", tree.files.len());
    Ok(())
}

fn check() -> Result<()> {
    tidy()?;
    cargo(&["fmt", "--all", "--check"], &[])?;
    cargo(&["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])?;
    cargo(&["test", "--release", "--workspace"], &[])?;
    // In release too, so that it finds the metadata that clippy left.
    cargo(&["doc", "--release", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")])
}

fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    println!("cargo {}", arguments.join(" "));
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(program)
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(tree::root()?)
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("cargo {} failed", arguments[0]);
    }
    Ok(())
}
