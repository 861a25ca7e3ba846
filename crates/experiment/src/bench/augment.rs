//! Views per second of the paper's crop-based recipe: our CPU and GPU paths and other libraries, on the same images, in
//! one interleaved run.
//!
//! A figure is the median over rounds, a ratio the median of the rounds' ratios to torchvision on PIL images. What cannot
//! be measured here has a row that says why.

use super::libraries::{Handover, Library, PATIENCE};
use super::ours::{Batch, Cpu, Gpu, cpu_bandwidth, device_bandwidth};
use super::peers::{Ready, Round};
use super::rounds::{Contestant, Work, interleave, median, median_ratio};
use super::stages::costs;
use crate::data::Images;
use burn::tensor::Device;
use gabion_augment::Augment;
use gabion_runtime::Offered;
use serde::Serialize;
use std::cell::RefCell;
use std::collections::{BTreeMap, TryReserveError};
use std::io;
use std::path::PathBuf;

pub use super::libraries::Peers;
pub use super::stages::{Stage, StageCost};

/// Of the seconds of a contestant's round, the share that a stage gets.
const STAGE_SHARE: f64 = 0.25;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// Views of each image in a pass.
    pub views: u32,
    /// Height and width of an image, and of a view, in pixels.
    pub size: u32,
    /// How often all contestants take their turns.
    pub rounds: usize,
    /// Seconds of a turn.
    pub seconds: f64,
    /// Of our CPU path, beside one.
    pub threads: usize,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// More threads than the system gives.
    #[error("{threads} threads cannot be started ({source}): give fewer --threads")]
    Threads {
        /// How many.
        threads: usize,
        /// The reason.
        source: rayon::ThreadPoolBuildError,
    },
    /// More views than fit.
    #[error("{views} views do not fit into memory ({source}): give fewer --images or --views")]
    Memory {
        /// How many.
        views: usize,
        /// The reason.
        source: TryReserveError,
    },
    /// The images could not be handed to the peers.
    #[error("cannot write {}: {source}", path.display())]
    Handover {
        /// A temporary file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// One contestant.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What makes the views.
    pub name: String,
    /// Threads of the CPU, where they are counted.
    pub threads: Option<usize>,
    /// Median of the rounds.
    pub views_per_second: Option<f64>,
    /// Median of the rounds' ratios to torchvision on PIL images.
    pub ratio: Option<f64>,
    /// Why there is no figure.
    pub not_measured: Option<String>,
    /// What to know about it, such as where its work differs.
    pub notes: Vec<String>,
    /// What the memory allows, for our own paths.
    pub memory: Option<Memory>,
    /// Views a second of each round.
    pub rounds: Vec<f64>,
}

/// What a device's memory allows when it does nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// Bytes a second, reads and writes, of adding 1 to an array of 128 MiB into another: the fastest of several.
    pub bytes_per_second: f64,
    /// Views a second where a view's source is read once and the view written once.
    pub views_per_second: f64,
    /// Our share of that.
    pub share: f64,
}

/// What each operation costs on one of our paths.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Staged {
    /// The row's name.
    pub name: String,
    /// Why there are no costs.
    pub not_measured: Option<String>,
    /// Without the drawing of random numbers.
    pub costs: Vec<StageCost>,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// With what.
    pub settings: Settings,
    /// Images.
    pub images: usize,
    /// The distribution of the views.
    pub recipe: Augment,
    /// Bytes of a view's source and of the view.
    pub bytes_per_view: usize,
    /// Views a second of several threads over those of one, median of the rounds' ratios.
    pub scaling: Option<f64>,
    /// The contestants.
    pub rows: Vec<Row>,
    /// Operations one by one.
    pub stages: Vec<Staged>,
    /// Of the peers' libraries.
    #[serde(skip)]
    pub versions: BTreeMap<String, String>,
}

/// Measures everybody on `images`, all of `settings.size`; `gpu` is an opened adapter or why there is none, `tell` hears
/// what goes on.
///
/// # Errors
/// When our own CPU path cannot be measured; whatever else fails has a row that says so.
///
/// # Panics
/// When there is no image, or the images are of another size.
pub fn measure(
    settings: Settings,
    images: &Images,
    gpu: Result<(Device, Offered), String>,
    peers: &Peers,
    tell: &mut dyn FnMut(&str),
) -> Result<Measured, Error> {
    let Settings { views, size, rounds, seconds, threads } = settings;
    let image_size = [images.height, images.width];
    assert!(!images.is_empty() && image_size == [size as usize; 2], "{} images of {image_size:?}", images.len());
    let batch = Batch { images, views, augment: Augment { size: [size; 2], ..Augment::default() } };
    let mut one = Cpu::new(&batch, 1)?;
    let mut more = (threads > 1).then(|| Cpu::new(&batch, threads)).transpose()?;
    let (device, gpu_row) = match gpu {
        Ok((device, offered)) => (Ok(device), gpu_row(&offered, threads)),
        Err(why) => (Err(why), Row::new("gabion, GPU", None)),
    };
    let mut gpu = device.clone().and_then(|device| Gpu::new(&batch, device, threads));
    let mut versions = BTreeMap::new();

    let (mut rows, mut works): (Vec<Row>, Vec<Work<'_>>) = (Vec::new(), Vec::new());
    for (cpu, threads) in std::iter::once((&mut one, 1)).chain(more.as_mut().map(|cpu| (cpu, threads))) {
        rows.push(Row::new("gabion, CPU", Some(threads)));
        works.push(Box::new(|seconds| Ok(cpu.round(seconds))));
    }
    let ours = rows.len() + 1;
    rows.push(gpu_row.clone());
    works.push(work(gpu.as_mut().map_err(|why| why.clone()), |gpu, seconds| gpu.round(seconds)));
    let handover = Handover::write(images)?;
    for library in Library::ALL {
        tell(&format!("starting {}", library.name()));
        let (peer, ready) = match library.start(peers, &handover, &settings) {
            Ok((peer, ready)) => (Ok(peer), ready),
            Err(why) => (Err(why), Ready::default()),
        };
        versions.extend(ready.versions);
        rows.push(Row { notes: ready.notes, ..Row::new(library.name(), Some(1)) });
        works.push(work(peer, |peer, seconds| peer.round(seconds, PATIENCE).map_err(|error| error.to_string())));
    }
    drop(handover);
    let named = rows.iter().map(Row::called).zip(works);
    let contestants = named.map(|(name, work)| Contestant { name, work }).collect();
    for (row, rates) in rows.iter_mut().zip(interleave(contestants, rounds, seconds, tell)) {
        row.take(rates);
    }
    // The first peer: torchvision on PIL images.
    let baseline = rows[ours].rounds.clone();
    for row in &mut rows {
        row.ratio = median_ratio(&row.rounds, &baseline);
    }

    tell("memory bandwidth");
    for row in &mut rows[..ours] {
        let bandwidth = match row.threads {
            Some(threads) => cpu_bandwidth(threads),
            None => device.as_ref().map_err(Clone::clone).and_then(device_bandwidth),
        };
        row.bound(bandwidth, batch.bytes_per_view());
    }
    let stages = vec![
        staged(rows[0].called(), &settings, tell, |stage, seconds| Ok(one.stage(stage, seconds))),
        staged(gpu_row.called(), &settings, tell, |stage, seconds| {
            gpu.as_mut().map_err(|why| why.clone())?.stage(stage, seconds)
        }),
    ];
    Ok(Measured {
        settings,
        images: images.len(),
        bytes_per_view: batch.bytes_per_view(),
        recipe: batch.augment,
        scaling: if threads > 1 { median_ratio(&rows[1].rounds, &rows[0].rounds) } else { None },
        rows,
        stages,
        versions,
    })
}

/// The work of something that may be absent.
fn work<'a, T: 'a>(
    present: Result<T, String>,
    mut round: impl FnMut(&mut T, f64) -> Result<Round, String> + 'a,
) -> Work<'a> {
    match present {
        Ok(mut present) => Box::new(move |seconds| round(&mut present, seconds)),
        Err(why) => Box::new(move |_| Err(why.clone())),
    }
}

/// Every operation alone on one of our paths.
fn staged(
    name: String,
    settings: &Settings,
    tell: &mut dyn FnMut(&str),
    work: impl FnMut(Stage, f64) -> Result<Round, String>,
) -> Staged {
    let work = &RefCell::new(work);
    let contestant = |stage: Stage| Contestant {
        name: format!("{name}, {}", stage.name()),
        work: Box::new(move |seconds| (work.borrow_mut())(stage, seconds)),
    };
    let contestants = Stage::ALL.into_iter().map(contestant).collect();
    let rates = interleave(contestants, settings.rounds, settings.seconds * STAGE_SHARE, tell);
    match rates.into_iter().collect::<Result<Vec<_>, _>>() {
        Ok(rates) => {
            let costs = costs(&Stage::ALL.into_iter().zip(rates).collect::<Vec<_>>());
            Staged { name, not_measured: None, costs }
        }
        Err(why) => Staged { name, not_measured: Some(why), costs: Vec::new() },
    }
}

impl Row {
    fn new(name: &str, threads: Option<usize>) -> Self {
        Self {
            name: name.into(),
            threads,
            views_per_second: None,
            ratio: None,
            not_measured: None,
            notes: Vec::new(),
            memory: None,
            rounds: Vec::new(),
        }
    }

    /// Its name with the number of threads.
    pub fn called(&self) -> String {
        match self.threads {
            None => self.name.clone(),
            Some(1) => format!("{}, 1 thread", self.name),
            Some(threads) => format!("{}, {threads} threads", self.name),
        }
    }

    fn take(&mut self, rates: Result<Vec<f64>, String>) {
        match rates {
            Ok(rounds) => (self.views_per_second, self.rounds) = (median(&rounds), rounds),
            Err(why) => self.not_measured = Some(why),
        }
    }

    #[allow(clippy::cast_precision_loss)] // bytes of a view fit f64
    fn bound(&mut self, bandwidth: Result<f64, String>, bytes_per_view: usize) {
        let Some(ours) = self.views_per_second else { return };
        match bandwidth {
            Ok(bytes_per_second) => {
                let views_per_second = bytes_per_second / bytes_per_view as f64;
                self.memory = Some(Memory { bytes_per_second, views_per_second, share: ours / views_per_second });
            }
            Err(why) => self.notes.push(format!("memory bandwidth not measured: {why}")),
        }
    }
}

/// The row of our GPU path, not measured yet.
fn gpu_row(offered: &Offered, threads: usize) -> Row {
    let mut row = Row::new(&format!("gabion, {} ({})", offered.name, offered.kind), None);
    row.notes.push(format!(
        "{threads} threads of the CPU draw the numbers; sources were uploaded before and views stay on the device"
    ));
    if offered.kind == "software gpu" {
        row.notes.push("software gpu: there is no GPU in this, its driver computes on the cores of the CPU".into());
    }
    row
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::toy;

    /// A program in the place of Python's script.
    fn peers(script: &str) -> (tempfile::TempDir, Peers) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("augment.py"), script).unwrap();
        let peers = Peers { python: "sh".into(), folder: folder.path().into() };
        (folder, peers)
    }

    fn measured(peers: &Peers) -> Measured {
        let settings = Settings { views: 2, size: 8, rounds: 3, seconds: 1e-3, threads: 2 };
        measure(settings, &toy::images(6, 1), Err("not wanted".into()), peers, &mut |_| {}).unwrap()
    }

    #[test]
    fn rows_are_ours_and_the_peers_and_ratios_are_to_pil() {
        // $2 is the library, $4 the file of images, whose length goes into the answers: 6 images of 8x8.
        let (_folder, peers) = peers(
            r#"[ "$2" = v2 ] && { echo '{"missing": "no v2 here"}'; exit; }
            views=$(($(wc -c < "$4") / 192)); [ "$2" = kornia ] && views=3
            echo "{\"ready\": {\"versions\": {\"$2\": \"9\"}, \"notes\": [\"size $6, views $8\"]}}"
            while read -r line; do echo "{\"views\": $views, \"seconds\": 0.5}"; done"#,
        );
        let measured = measured(&peers);
        let names: Vec<String> = measured.rows.iter().map(Row::called).collect();
        assert_eq!(names[..3], ["gabion, CPU, 1 thread", "gabion, CPU, 2 threads", "gabion, GPU"]);
        let [one, two, gpu, pil, v2, kornia] = &measured.rows[..] else { panic!("{names:?}") };
        assert_eq!(gpu.not_measured.as_deref(), Some("not wanted"));
        assert!(v2.not_measured.as_deref().unwrap().contains("no v2 here") && v2.ratio.is_none());
        assert_eq!((pil.views_per_second, pil.ratio), (Some(12.0), Some(1.0)));
        assert_eq!((kornia.ratio, &kornia.rounds[..]), (Some(0.5), &[6.0; 3][..]));
        assert_eq!(kornia.notes, ["size 8, views 2"]);
        assert_eq!(measured.versions.keys().collect::<Vec<_>>(), ["kornia", "pil"]);
        for ours in [one, two] {
            assert_eq!(ours.rounds.len(), 3);
            assert!(ours.ratio.unwrap() > 0.0 && ours.memory.unwrap().share > 0.0, "{ours:?}");
        }
        assert!(measured.scaling.unwrap() > 0.0);
        assert_eq!(measured.bytes_per_view, 192 * 5);
        let [cpu, gpu] = &measured.stages[..] else { panic!("two paths") };
        assert_eq!(cpu.costs.iter().map(|cost| cost.stage).collect::<Vec<_>>(), Stage::ALL);
        assert!(gpu.costs.is_empty() && gpu.not_measured.is_some());
    }

    #[test]
    fn without_peers_ours_are_measured_and_why_is_said() {
        let (folder, mut peers) = peers("echo 'out of luck' >&2; exit 7");
        let why = |peers: &Peers| measured(peers).rows.pop().unwrap().not_measured.unwrap();
        assert!(why(&peers).contains("out of luck"));
        peers.python = "no-such-python".into();
        assert!(why(&peers).contains("`no-such-python` cannot be started"));
        peers.folder = folder.path().join("absent");
        let measured = measured(&peers);
        assert!(measured.rows[3].not_measured.as_deref().unwrap().contains("--peers"));
        assert!(measured.rows[0].views_per_second.unwrap() > 0.0 && measured.rows[0].ratio.is_none());
    }
}
