//! One file a command.

pub mod adapt;
pub mod augment;
pub mod classify;
pub mod data;
pub mod demo;
pub mod devices;
pub mod evaluate;
pub mod export;
pub mod generations;
pub mod inspect;
pub mod precision;
pub mod pretrain;
pub mod probe;
pub mod rollback;
#[cfg(feature = "serve")]
pub mod serve;
pub mod sign;
pub mod source;
pub mod verify;

use crate::output::{Failure, Output, usage};
use burn::tensor::Device;
use gabion_experiment::data::photos::Photos;
use gabion_experiment::data::{self as sets, Data, Kind, synth::Synth};
use gabion_runtime::{Offered, PublicKey, Trust, Wanted};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where images come from.
#[derive(clap::Args)]
pub struct DataArguments {
    /// A data set: a folder of CIFAR-10, CIFAR-100 or photographs, an original archive, or `synth`.
    #[arg(long, value_name = "DIR|synth", env = "GABION_DATA")]
    data: Option<String>,
}

impl DataArguments {
    /// Reads it; photographs are stored at `photos` pixels.
    pub fn open(&self, photos: Option<[usize; 2]>) -> Result<Data, Failure> {
        let Some(text) = &self.data else {
            return Err(usage("no data: give --data DIR, --data synth, or set GABION_DATA"));
        };
        if text == "synth" {
            return Ok(Data::synth(&Synth::default()));
        }
        let mut path = PathBuf::from(text);
        // A folder of data sets stands for its CIFAR-10.
        if let Err(sets::Error::Unrecognised { .. }) = Kind::detect(&path)
            && path.join("cifar10").is_dir()
        {
            path.push("cifar10");
        }
        let photos =
            photos.map_or_else(Photos::default, |[height, width]| Photos { height, width, ..Photos::default() });
        Ok(Data::open_with(&path, &photos)?)
    }
}

/// What computes.
#[derive(clap::Args)]
pub struct DeviceArguments {
    /// auto, cpu, wgpu or cuda; `gabion devices` lists what there is.
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: String,
}

impl DeviceArguments {
    /// As it was typed.
    pub fn name(&self) -> &str {
        &self.device
    }

    #[cfg(feature = "serve")]
    fn choice(&self) -> Result<gabion_runtime::Choice, gabion_runtime::DeviceError> {
        self.device.parse()
    }

    pub fn choose(&self, output: &Output) -> Result<(Device, Offered), Failure> {
        let choice = self.device.parse().map_err(usage)?;
        let (device, offered) = gabion_runtime::choose(choice)?;
        output.note(format!("device: {} ({}, {})", offered.name, offered.kind, offered.backend));
        Ok((device, offered))
    }

    /// A device of Candle's.
    #[cfg(feature = "candle")]
    pub fn candle(&self) -> Result<candle_core::Device, Failure> {
        let device = match self.device.as_str() {
            "auto" | "cpu" => Ok(candle_core::Device::Cpu),
            "cuda" => candle_core::Device::new_cuda(0),
            "metal" => candle_core::Device::new_metal(0),
            other => return Err(usage(format!("Candle has no device `{other}`: use auto, cpu, cuda or metal"))),
        };
        device.map_err(|error| usage(format!("Candle has no such device here ({error}): use cpu")))
    }
}

/// What makes the views.
#[derive(clap::Args)]
pub struct PipelineArguments {
    /// auto, cpu or gpu: what makes the views; auto tries both on a wgpu device.
    #[arg(long, default_value = "auto", value_name = "PIPELINE")]
    pipeline: String,
}

impl PipelineArguments {
    pub fn wanted(&self) -> Result<Wanted, Failure> {
        self.pipeline.parse().map_err(usage)
    }
}

/// Which bundles are served.
#[derive(clap::Args)]
pub struct TrustArguments {
    /// Refuse a bundle that is not signed with this key: a file that `gabion keygen` wrote, or the key's 64 digits.
    #[arg(long, value_name = "KEY")]
    require_signature: Option<String>,
    /// With --require-signature: serve what this device adapted from the signed bundle, though nobody signed it.
    #[arg(long, requires = "require_signature")]
    local_generations: bool,
}

impl TrustArguments {
    pub fn resolve(&self) -> Result<Trust, Failure> {
        let Some(text) = &self.require_signature else { return Ok(Trust::Any) };
        let key = match text.parse() {
            Ok(key) => key,
            Err(_) => PublicKey::read(Path::new(text)).map_err(usage)?,
        };
        Ok(if self.local_generations { Trust::SignedWithLocalGenerations(key) } else { Trust::Signed(key) })
    }
}

/// A run folder stands for the bundle in it.
pub fn bundle_path(path: &Path) -> PathBuf {
    let inside = path.join("bundle");
    if !path.join("manifest.json").exists() && inside.join("manifest.json").exists() { inside } else { path.into() }
}

/// A flag that Ctrl-C sets; a second Ctrl-C ends the process.
pub fn stop_on_interrupt(output: &Output) -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let (flag, quiet) = (Arc::clone(&stop), output.quiet);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        if !quiet {
            eprintln!("stopping after this minibatch; press Ctrl-C again to stop at once");
        }
    })?;
    Ok(stop)
}

/// The command as it was typed, for claims and results, with nothing of one machine in it.
pub fn typed() -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let words = std::env::args().skip(1).map(|word| without_folder(&word, &here));
    words.fold(
        "gabion".into(),
        |line, word| {
            if word.contains(' ') { format!("{line} '{word}'") } else { format!("{line} {word}") }
        },
    )
}

/// Of a path that starts at the root what is below `here`, else its last part.
fn without_folder(word: &str, here: &Path) -> String {
    let (option, path) = word.split_once('=').map_or(("", word), |(option, path)| (&word[..=option.len()], path));
    let path = Path::new(path);
    let short = match (path.is_absolute(), path.strip_prefix(here), path.file_name()) {
        (false, ..) => return word.into(),
        (true, Ok(below), _) if below.as_os_str().is_empty() => Path::new("."),
        (true, Ok(below), _) => below,
        (true, Err(_), last) => Path::new(last.unwrap_or_default()),
    };
    format!("{option}{}", short.display())
}

/// What computed, for results.
pub fn machine() -> serde_json::Value {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(':').nth(1));
    let name = name.map_or(std::env::consts::ARCH.into(), |name| name.trim().to_string());
    let cores = std::thread::available_parallelism().map(usize::from).unwrap_or(1);
    serde_json::json!({ "cpu": name, "cores": cores })
}

/// With what, for results.
pub fn versions() -> serde_json::Value {
    let gabion = format!("{} ({})", env!("CARGO_PKG_VERSION"), gabion_experiment::COMMIT);
    serde_json::json!({ "gabion": gabion, "burn": gabion_experiment::BURN })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_command_names_no_folder_of_a_machine() {
        let here = Path::new("/me/gabion");
        for (word, kept) in [
            ("--out", "--out"),
            ("results/augment.json", "results/augment.json"),
            ("--seconds=0.5", "--seconds=0.5"),
            ("/me/gabion/results/a.json", "results/a.json"),
            ("--out=/me/gabion/a.json", "--out=a.json"),
            ("/me/gabion", "."),
            ("/opt/venv/bin/python", "python"),
            ("--data=/my sets/cifar10/", "--data=cifar10"),
        ] {
            assert_eq!(without_folder(word, here), kept);
        }
    }
}
