//! `gabion`: robust self-supervised image encoders, from pretraining to a classified picture.
//!
//! Arguments become plain data, one call does the work, a table or JSON comes out.

mod allocator;
mod bench;
mod commands;
mod output;
mod progress;

use clap::{Parser, Subcommand};
use gabion_spec::one_line;
use output::{Done, Failure, Output};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "gabion", version, about, propagate_version = true, arg_required_else_help = true)]
struct Arguments {
    #[command(flatten)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Pretrain an encoder; writes a run folder with a bundle in it.
    Pretrain(commands::pretrain::Arguments),
    /// Train a classifier on an encoder and write it into the bundle.
    Probe(commands::probe::Arguments),
    /// Measure accuracy, clean and under attack.
    Evaluate(commands::evaluate::Arguments),
    /// Look again at the adversarial images of an evaluation.
    VerifyAdversarial(commands::verify::Arguments),
    /// Write a bundle again, in f32 or f16.
    Export(commands::export::Arguments),
    /// Check a bundle and show what it is.
    Inspect(commands::inspect::Arguments),
    /// Classify pictures.
    Classify(commands::classify::Arguments),
    /// Make a key pair to sign bundles with.
    Keygen(commands::sign::KeygenArguments),
    /// Sign a bundle.
    Sign(commands::sign::SignArguments),
    /// List the adapted weights beside a bundle.
    Generations(commands::generations::Arguments),
    /// Withdraw adapted weights.
    Rollback(commands::rollback::Arguments),
    /// Adapt a bundle to local images, under a guard.
    Adapt(Box<commands::adapt::Arguments>),
    /// Keep features of a bundle's data beside it, for adaptations to rehearse.
    Source(commands::source::Arguments),
    /// Classify over HTTP.
    #[cfg(feature = "serve")]
    Serve(commands::serve::Arguments),
    /// Draw the random views of a picture on a contact sheet.
    Augment(commands::augment::Arguments),
    /// Fetch or verify a data set.
    Data(commands::data::Arguments),
    /// List what this machine can compute on.
    Devices(commands::devices::Arguments),
    /// Train, attack, export and classify on drawn images, in under three minutes.
    Demo(commands::demo::Arguments),
    /// Time training steps and augmentation.
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    allocator::keep_memory();
    let Arguments { output, command } = Arguments::parse();
    finish(level().and_then(|()| run(command, &output)))
}

/// Refuses an instruction set that was asked for and cannot be had, before anything computes with it.
fn level() -> Done {
    let forced = gabion_runtime::Level::forced();
    forced.map(|_| ()).map_err(|error| output::usage(format!("{}: {error}", gabion_runtime::LEVEL_VARIABLE)))
}

fn run(command: Command, output: &Output) -> Done {
    match command {
        Command::Pretrain(arguments) => commands::pretrain::run(arguments, output),
        Command::Probe(arguments) => commands::probe::run(arguments, output),
        Command::Evaluate(arguments) => commands::evaluate::run(arguments, output),
        Command::VerifyAdversarial(arguments) => commands::verify::run(&arguments, output),
        Command::Export(arguments) => commands::export::run(&arguments, output),
        Command::Inspect(arguments) => commands::inspect::run(&arguments, output),
        Command::Classify(arguments) => commands::classify::run(&arguments, output),
        Command::Keygen(arguments) => commands::sign::make(&arguments, output),
        Command::Sign(arguments) => commands::sign::run(&arguments, output),
        Command::Generations(arguments) => commands::generations::run(&arguments, output),
        Command::Rollback(arguments) => commands::rollback::run(&arguments, output),
        Command::Adapt(arguments) => commands::adapt::run(&arguments, output),
        Command::Source(arguments) => commands::source::run(&arguments, output),
        #[cfg(feature = "serve")]
        Command::Serve(arguments) => commands::serve::run(&arguments, output),
        Command::Augment(arguments) => commands::augment::run(&arguments, output),
        Command::Data(arguments) => commands::data::run(arguments, output),
        Command::Devices(arguments) => commands::devices::run(&arguments, output),
        Command::Demo(arguments) => commands::demo::run(arguments, output),
        Command::Bench(arguments) => bench::run(&arguments, output),
    }
}

fn finish(done: Done) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => {
            eprintln!("error: {}", output::plain(&message));
            ExitCode::from(2)
        }
        Err(Failure::Failed(error)) => {
            eprintln!("error: {}", one_line(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}
