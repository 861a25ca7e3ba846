//! `gabion bench infer`: a bundle beside PyTorch, ONNX Runtime and Candle.

use super::{deliver, ensure_place, load_average};
use crate::commands::{bundle_path, machine, typed, versions};
use crate::output::{Done, Failure, Output, table, usage};
use clap::ValueEnum;
use gabion_experiment::bench::augment::Peers;
use gabion_experiment::bench::infer::{Compared, Places, Settings, Subject, compare, random_bundle, serve, views};
use gabion_runtime::{Choice, Session};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Time a bundle's answers beside PyTorch, ONNX Runtime and Candle: the same views, the same logits, in turns, each in a
/// process of its own.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  gabion bench infer models/cifar10-small --views 1,16 --out results/infer-cifar10-small.json\n  \
    gabion bench infer --random-width 64 --out results/infer-width-64.json\n\n\
    The peers need a Python with torch, safetensors, onnx and onnxruntime, and the example that `cargo build --release \
    --workspace --examples` makes; one that is missing is named in its row."
)]
pub struct Arguments {
    /// A run folder or a bundle with a head.
    #[arg(value_name = "RUN|BUNDLE", required_unless_present = "random_width")]
    bundle: Option<PathBuf>,
    /// A ResNet-18 of this width with random weights in place of a bundle.
    #[arg(long, value_name = "WIDTH", conflicts_with = "bundle", value_parser = clap::value_parser!(u32).range(1..=256))]
    random_width: Option<u32>,
    /// Views of a pass; each number is measured by itself.
    #[arg(long, value_delimiter = ',', default_value = "1,16", value_parser = clap::value_parser!(u32).range(1..=1024))]
    views: Vec<u32>,
    /// How often all take their turns.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Seconds of a turn.
    #[arg(long, default_value = "1", value_parser = super::augment::seconds)]
    seconds: f64,
    /// Of everybody.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Fresh processes of each, from start to the first answer.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=100))]
    starts: u16,
    /// A device to measure beside the CPU: wgpu or cuda.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    device: String,
    /// A Python that has the peers' packages [default: .venv/bin/python where it is there, else python3].
    #[arg(long, value_name = "PATH", env = "GABION_PYTHON", hide_env_values = true)]
    python: Option<PathBuf>,
    /// The folder of the peers' scripts.
    #[arg(long, value_name = "DIR", default_value = "bench/peers")]
    peers: PathBuf,
    /// The program that answers for Candle [default: examples/candle beside this one].
    #[arg(long, value_name = "PATH")]
    candle: Option<PathBuf>,
    /// Where the numbers go.
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
    /// Answer the questions of another `gabion bench infer`.
    #[arg(long, hide = true, requires = "input")]
    serve: Option<Ours>,
    /// Its views.
    #[arg(long, hide = true)]
    input: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Ours {
    Network,
    NetworkBf16,
    NetworkInt8,
    Session,
    SessionBf16,
    Device,
}

pub fn run(arguments: &Arguments, output: &Output) -> Done {
    let choice: Choice = arguments.device.parse().map_err(usage)?;
    if let (Some(ours), Some(input), Some(bundle)) = (arguments.serve, &arguments.input, &arguments.bundle) {
        let subject = match ours {
            Ours::Network => Subject::Network,
            Ours::NetworkBf16 => Subject::NetworkBf16,
            Ours::NetworkInt8 => Subject::NetworkInt8,
            Ours::Session => Subject::Session,
            Ours::SessionBf16 => Subject::SessionBf16,
            Ours::Device => Subject::Device,
        };
        let served = serve(subject, bundle, input, arguments.threads.into(), choice);
        return served.map_err(|why| Failure::Failed(anyhow::anyhow!(why)));
    }
    if let Some(out) = &arguments.out {
        ensure_place(out)?;
    }
    let folder = tempdir()?;
    let bundle = match (&arguments.bundle, arguments.random_width) {
        (Some(bundle), _) => bundle_path(bundle),
        (None, width) => {
            let place = folder.0.join("bundle");
            let (device, _) = gabion_runtime::choose(Choice::Cpu)?;
            random_bundle(&place, width.unwrap_or(64), &device)?;
            place
        }
    };
    let session = Session::open(&bundle)?;
    let input = folder.0.join("views.f32");
    views(&input, &session, arguments.views.iter().copied().max().unwrap_or(1))?;
    let local = Path::new(".venv/bin/python");
    let python =
        arguments.python.clone().unwrap_or_else(|| if local.exists() { local } else { Path::new("python3") }.into());
    let gabion = std::env::current_exe()?;
    let beside = gabion.parent().unwrap_or(Path::new(".")).join("examples/candle");
    let places = Places {
        bundle,
        input,
        gabion,
        device: (choice != Choice::Cpu).then(|| choice.to_string()),
        peers: Peers { python, folder: arguments.peers.clone() },
        candle: arguments.candle.clone().unwrap_or(beside),
    };
    let settings = Settings {
        views: arguments.views.clone(),
        rounds: arguments.rounds.into(),
        seconds: arguments.seconds,
        threads: arguments.threads.into(),
        starts: arguments.starts.into(),
    };
    let mut subjects =
        vec![Subject::Network, Subject::NetworkBf16, Subject::NetworkInt8, Subject::Session, Subject::SessionBf16];
    if choice != Choice::Cpu {
        subjects.push(Subject::Device);
    }
    subjects.extend([Subject::Onnxruntime, Subject::Torch, Subject::TorchChannelsLast, Subject::Candle]);
    let load = load_average();
    let compared = compare(&subjects, &places, settings, &mut |line| output.note(line));
    let mut versions = versions();
    if let Some(fields) = versions.as_object_mut() {
        let all = compared.rows.iter().flat_map(|row| &row.versions);
        fields.extend(all.map(|(name, version)| (name.clone(), json!(version))));
    }
    let manifest = session.manifest();
    let value = json!({
        "machine": machine(),
        "versions": versions,
        "command": typed(),
        "model": { "name": manifest.name, "weights": manifest.weights.sha256, "encoder": manifest.encoder },
        "load_average": load,
        "result": compared,
    });
    deliver(arguments.out.as_deref(), &value, output, || tables(&compared))
}

/// A folder that goes away.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // What is left in the folder of temporary files does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tempdir() -> std::io::Result<Temporary> {
    let folder = std::env::temp_dir().join(format!("gabion-infer-{}", std::process::id()));
    std::fs::create_dir(&folder).map(|()| Temporary(folder))
}

fn tables(compared: &Compared) -> String {
    let mut text = String::new();
    for &views in &compared.settings.views {
        let rows = compared.rows.iter().filter_map(|row| {
            let passes = row.passes.iter().find(|passes| passes.views == views)?;
            let figure =
                |value: Option<f64>, digits: usize| value.map_or_else(String::new, |value| format!("{value:.digits$}"));
            let energy = match passes.joules_per_image {
                Some(joules) => format!("{:.2}", 1e3 * joules),
                None => "not exposed".into(),
            };
            Some(vec![
                row.name.into(),
                format!("{:.2}", passes.p50),
                format!("{:.2}", passes.p95),
                format!("{:.2}", passes.p99),
                format!("{:.0}", passes.images_per_second),
                format!("{:.0}", passes.views_per_second),
                figure(passes.ratio, 2),
                figure(row.peak_mib, 0),
                figure(row.starts.first().copied(), 0),
                figure(row.start, 0),
                energy,
            ])
        });
        let head = format!("{views} view{}", if views == 1 { "" } else { "s" });
        let head = [
            &head,
            "p50 ms",
            "p95",
            "p99",
            "images/s",
            "views/s",
            "x our network",
            "peak MiB",
            "first start ms",
            "start ms",
            "mJ/image",
        ];
        text.push_str(&table(&head, rows));
        text.push('\n');
    }
    for row in &compared.rows {
        if let Some(why) = &row.not_measured {
            text.push_str(&format!("{}: not measured: {why}\n", row.name));
        }
        for note in &row.notes {
            text.push_str(&format!("{}: {note}\n", row.name));
        }
    }
    text
}
