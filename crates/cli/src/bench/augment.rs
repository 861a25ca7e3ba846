//! `gabion bench augment`: views per second, ours beside torchvision's and kornia's, as one table and one file.

use super::{deliver, ensure_place, load_average};
use crate::commands::{machine, typed, versions};
use crate::output::{Done, Failure, Output, table, usage};
use clap::ValueEnum;
use gabion_experiment::bench::augment::{Measured, Peers, Row, Settings, Staged, measure};
use gabion_experiment::data::{Data, Images, photos::Photos, synth::Synth};
use gabion_runtime::Choice;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Count views per second of the crop-based recipe: our CPU and GPU paths beside torchvision and kornia, interleaved.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gabion bench augment --seconds 2 --out results/augment.json\n\n\
    The peers need a Python with torch, torchvision, pillow and kornia; one that is missing is named in its row.")]
pub struct Arguments {
    /// Images, the same number of each class as far as that goes.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    images: u32,
    /// Views of each in a pass.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    views: u32,
    /// How often everybody takes a turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of a turn.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
    /// Of our CPU path, beside one.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// Height and width of images and views in pixels; other than 32 only of photographs.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(4..=512))]
    size: u32,
    /// A data set: a folder of CIFAR-10, CIFAR-100 or photographs, an original archive, or `synth`.
    #[arg(long, value_name = "DIR|synth", default_value = "synth")]
    data: String,
    /// Our GPU path.
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceArgument,
    /// A Python that has the peers' packages [default: .venv/bin/python where it is there, else python3].
    #[arg(long, value_name = "PATH", env = "GABION_PYTHON", hide_env_values = true)]
    python: Option<PathBuf>,
    /// The folder of the peers' scripts.
    #[arg(long, value_name = "DIR", default_value = "bench/peers")]
    peers: PathBuf,
    /// Where the numbers go.
    #[arg(long, value_name = "FILE.json", default_value = "results/augment.json")]
    out: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum DeviceArgument {
    /// The wgpu adapter that there is, a software one too.
    Auto,
    /// None.
    Cpu,
    /// The wgpu adapter; an error where there is none.
    Wgpu,
}

pub fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds, such as 1 or 0.5")?;
    if (0.001..=600.0).contains(&seconds) { Ok(seconds) } else { Err("seconds are between 0.001 and 600".into()) }
}

pub fn run(arguments: &Arguments, output: &Output) -> Done {
    let &Arguments { views, size, rounds, seconds, threads, .. } = arguments;
    ensure_place(&arguments.out)?;
    let gpu = match arguments.device {
        DeviceArgument::Auto => gabion_runtime::choose(Choice::Wgpu).map_err(|error| error.to_string()),
        DeviceArgument::Cpu => Err("left out by --device cpu".into()),
        DeviceArgument::Wgpu => Ok(gabion_runtime::choose(Choice::Wgpu)?),
    };
    let (kind, images) = images(arguments)?;
    let mut machine = machine();
    if let (Ok((_, offered)), Some(fields)) = (&gpu, machine.as_object_mut()) {
        fields.insert("gpu".into(), json!(format!("{} ({}, {})", offered.name, offered.kind, offered.backend)));
        fields.insert("driver".into(), json!(offered.driver));
    }
    let local = Path::new(".venv/bin/python");
    let python =
        arguments.python.clone().unwrap_or_else(|| if local.exists() { local } else { Path::new("python3") }.into());
    let peers = Peers { python, folder: arguments.peers.clone() };
    let [rounds, threads] = [rounds, threads].map(|count| count as usize);
    let settings = Settings { views, size, rounds, seconds, threads };
    let load = load_average();
    let measured = measure(settings, &images, gpu, &peers, &mut |line| output.note(line))?;
    let mut versions = versions();
    if let Some(fields) = versions.as_object_mut() {
        fields.extend(measured.versions.iter().map(|(name, version)| (name.clone(), json!(version))));
    }
    let value = json!({
        "machine": machine,
        "versions": versions,
        "command": typed(),
        "data": kind,
        "load_average": load,
        "result": measured,
    });
    deliver(Some(&arguments.out), &value, output, || tables(&measured))
}

/// The name of the data set, and the images.
fn images(arguments: &Arguments) -> Result<(&'static str, Images), Failure> {
    let (count, side) = (arguments.images as usize, arguments.size as usize);
    let data = if arguments.data == "synth" {
        Data::synth(&Synth { train: count, test: 0, ..Synth::default() })
    } else {
        let photos = Photos { height: side, width: side, ..Photos::default() };
        Data::open_with(Path::new(&arguments.data), &photos)?
    };
    let train = data.split.train;
    if [train.height, train.width] != [side; 2] {
        let message =
            format!("the {} images are {}x{} pixels, not {side}x{side}", data.kind.name(), train.height, train.width);
        return Err(usage(format!("{message}: leave --size out, or give --data a folder of photographs")));
    }
    if train.len() < count {
        return Err(usage(format!("the data set has {} training images: give --images {0} or fewer", train.len())));
    }
    Ok((data.kind.name(), train.stratified(count, 0)))
}

fn tables(measured: &Measured) -> String {
    let Measured { rows, stages, scaling, .. } = measured;
    let mut text = table(
        &["views of the crop-based recipe", "views/s", "x torchvision on PIL", "memory floor views/s", "share of it"],
        rows.iter().map(cells),
    );
    let mut line = |what: String| {
        text.push('\n');
        text.push_str(&what);
    };
    for row in rows {
        if let Some(why) = &row.not_measured {
            line(format!("{}: not measured: {why}", row.called()));
        }
        for note in &row.notes {
            line(format!("{}: {note}", row.called()));
        }
    }
    if let Some(scaling) = scaling {
        line(format!("{} threads make {scaling:.2} times what one does", measured.settings.threads));
    }
    for Staged { name, not_measured, costs } in stages {
        if let Some(why) = not_measured {
            line(format!("stages of {name}: not measured: {why}"));
            continue;
        }
        let rows = costs.iter().map(|cost| {
            vec![
                cost.stage.name().into(),
                format!("{:.3}", cost.microseconds),
                cost.times.to_string(),
                whole(cost.views_per_second),
            ]
        });
        line(table(&[name, "us a view", "times", "views/s"], rows));
    }
    text
}

fn cells(row: &Row) -> Vec<String> {
    let memory =
        |of: fn(&gabion_experiment::bench::augment::Memory) -> String| row.memory.as_ref().map_or_else(String::new, of);
    vec![
        row.called(),
        row.views_per_second.map_or_else(|| "not measured".into(), whole),
        row.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
        memory(|memory| whole(memory.views_per_second)),
        memory(|memory| format!("{:.2} %", 100.0 * memory.share)),
    ]
}

fn whole(number: f64) -> String {
    format!("{number:.0}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_positive_and_bounded() {
        assert_eq!(seconds("0.5"), Ok(0.5));
        for text in ["0", "-1", "nan", "inf", "1e9", "soon"] {
            assert!(seconds(text).unwrap_err().contains("seconds"), "{text}");
        }
    }
}
