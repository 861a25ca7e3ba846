//! `gabion bench autoattack`: ours beside the official one.

use super::{deliver, ensure_place, load_average};
use crate::commands::{DeviceArguments, evaluate::subject, machine, typed, versions};
use crate::output::{Done, Output, table};
use clap::ValueEnum;
use gabion_experiment::bench::augment::Peers;
use gabion_experiment::bench::autoattack::{Compared, Component, Settings, compare};
use gabion_experiment::data::Data;
use gabion_spec::{Norm, Pixels};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Compare our AutoAttack with the official one image by image: the same weights and images, in turns.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gabion bench autoattack models/cifar10-small --data data/cifar10 --images 100 \
    --out results/autoattack-cifar10-small.json\n\n\
    The peer needs a Python with torch, safetensors and pyautoattack.")]
pub struct Arguments {
    /// A bundle, or the .safetensors file of a network that others trained.
    #[arg(value_name = "BUNDLE|FILE")]
    model: PathBuf,
    /// The folder of CIFAR-10.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Test images, the same number of each class.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    images: u32,
    /// Images of a turn.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    batch: u32,
    /// Seeds both.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Of the peer; ours takes all cores.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// Budget in L-infinity.
    #[arg(long, default_value = "8/255")]
    epsilon: Pixels,
    /// Which attacks.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "standard")]
    attacks: Vec<AttackArgument>,
    /// A Python that has the peer's packages [default: .venv/bin/python where it is there, else python3].
    #[arg(long, value_name = "PATH", env = "GABION_PYTHON", hide_env_values = true)]
    python: Option<PathBuf>,
    /// The folder of the peers' scripts.
    #[arg(long, value_name = "DIR", default_value = "bench/peers")]
    peers: PathBuf,
    /// Where the numbers go.
    #[arg(long, value_name = "FILE.json")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArguments,
}

#[derive(Clone, Copy, ValueEnum)]
enum AttackArgument {
    ApgdCe,
    ApgdDlr,
    ApgdT,
    FabT,
    Square,
    Standard,
}

pub fn run(arguments: &Arguments, output: &Output) -> Done {
    gabion_experiment::in_pool(|| measure(arguments, output))
}

fn measure(arguments: &Arguments, output: &Output) -> Done {
    ensure_place(&arguments.out)?;
    let (device, offered) = arguments.device.choose(output)?;
    let (subject, _) = subject(&arguments.model, &device)?;
    let data = Data::open(&arguments.data)?;
    let local = Path::new(".venv/bin/python");
    let python =
        arguments.python.clone().unwrap_or_else(|| if local.exists() { local } else { Path::new("python3") }.into());
    let peers = Peers { python, folder: arguments.peers.clone() };
    let attack = |attack: &AttackArgument| match attack {
        AttackArgument::ApgdCe => Component::ApgdCe,
        AttackArgument::ApgdDlr => Component::ApgdDlr,
        AttackArgument::ApgdT => Component::ApgdT,
        AttackArgument::FabT => Component::FabT,
        AttackArgument::Square => Component::Square,
        AttackArgument::Standard => Component::Standard,
    };
    let mut attacks: Vec<Component> = arguments.attacks.iter().map(attack).collect();
    attacks.dedup();
    let settings = Settings {
        images: arguments.images as usize,
        batch: arguments.batch as usize,
        seed: arguments.seed,
        threads: arguments.threads as usize,
        norm: Norm::Linf,
        epsilon: arguments.epsilon,
        attacks,
    };
    let load = load_average();
    let places = (arguments.model.as_path(), arguments.data.as_path());
    let compared = compare(&subject, &data.split.test, places, settings, &peers, &mut |line| output.note(line))?;
    let mut versions = versions();
    if let Some(fields) = versions.as_object_mut() {
        fields.extend(compared.versions.iter().map(|(name, version)| (name.clone(), json!(version))));
    }
    let value = json!({
        "machine": machine(),
        "versions": versions,
        "command": typed(),
        "device": offered.name,
        "model": { "name": subject.name, "weights": subject.weights },
        "load_average": load,
        "result": compared,
    });
    deliver(Some(&arguments.out), &value, output, || tables(&compared))
}

fn tables(compared: &Compared) -> String {
    let rows = compared.rows.iter().map(|row| {
        vec![
            row.attack.name().to_string(),
            row.ours.to_string(),
            row.official.to_string(),
            row.disagree.to_string(),
            format!("{:.3}", row.our_seconds),
            format!("{:.3}", row.official_seconds),
            format!("{:.2}", row.ratio),
        ]
    });
    let head = ["attack", "robust, ours", "official", "differ", "s/image, ours", "official", "ratio"];
    format!("{}\nforward and backward: {:.2} of PyTorch's time", table(&head, rows), compared.pass_ratio)
}
