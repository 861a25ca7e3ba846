//! Our AutoAttack beside the official one (`bench/peers/official.py`): the same weights, the same images, in turns, image by
//! image.

use super::libraries::Peers;
use super::peers::{Peer, PeerError};
use crate::data::{Images, order};
use crate::evaluate::Subject;
use crate::measure::pixels;
use gabion_learn::attack::{Campaign, Image, Pass, Region, autoattack, first_of_greatest, run};
use gabion_spec::{Attack, Pixels};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Passes there and back that are timed for a ratio.
const PASSES: u32 = 10;

/// An attack that both know by this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // AutoAttack's own names
pub enum Component {
    ApgdCe,
    ApgdDlr,
    ApgdT,
    FabT,
    Square,
    /// The cascade of four.
    Standard,
}

impl Component {
    /// In their order.
    pub const ALL: [Self; 6] = [Self::ApgdCe, Self::ApgdDlr, Self::ApgdT, Self::FabT, Self::Square, Self::Standard];

    /// The official name.
    pub fn name(self) -> &'static str {
        match self {
            Self::ApgdCe => "apgd-ce",
            Self::ApgdDlr => "apgd-dlr",
            Self::ApgdT => "apgd-t",
            Self::FabT => "fab-t",
            Self::Square => "square",
            Self::Standard => "standard",
        }
    }

    fn attacks(self) -> Vec<Attack> {
        match self {
            Self::ApgdCe => vec![Attack::APGD_CE],
            Self::ApgdDlr => vec![Attack::APGD_DLR],
            Self::ApgdT => vec![Attack::APGD_T],
            Self::FabT => vec![Attack::FAB_T],
            Self::Square => vec![Attack::SQUARE],
            Self::Standard => Attack::autoattack(),
        }
    }
}

/// What is compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// Test images, the same number of each class as far as that goes.
    pub images: usize,
    /// Images of a turn.
    pub batch: usize,
    /// Seeds both.
    pub seed: u64,
    /// Threads of the official one; ours takes those of the machine.
    pub threads: usize,
    /// How budgets are measured.
    pub norm: gabion_spec::Norm,
    /// Budget.
    pub epsilon: Pixels,
    /// The attacks.
    pub attacks: Vec<Component>,
}

/// Both side by side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// What was asked for.
    pub settings: Settings,
    /// Images whose clean prediction is right: those that are attacked.
    pub clean: usize,
    /// What the official program says of itself.
    pub notes: Vec<String>,
    /// Versions of its libraries.
    pub versions: BTreeMap<String, String>,
    /// One an attack.
    pub rows: Vec<Row>,
    /// Seconds of our passes there and back over those of PyTorch, median over turns.
    pub pass_ratio: f64,
}

/// One attack by both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The attack.
    pub attack: Component,
    /// Images that stand ours.
    pub ours: usize,
    /// Images that stand the official one.
    pub official: usize,
    /// Images on which they differ.
    pub disagree: usize,
    /// Of these, the ones that stand ours alone.
    pub ours_alone: usize,
    /// Seconds an image of the set, ours.
    pub our_seconds: f64,
    /// Seconds an image of the set, official.
    pub official_seconds: f64,
    /// Ours over the official, all turns together.
    pub ratio: f64,
    /// Seconds of every turn, ours and official.
    pub turns: Vec<[f64; 2]>,
}

#[derive(Deserialize)]
struct Answer {
    robust: Vec<bool>,
    seconds: f64,
}

/// Lets both take turns on chunks of the images, and compares what came of each image. `model` and `data` are what the
/// subject and the images are made of, for the other program.
///
/// # Errors
/// When the other program cannot be asked; it has ended then.
pub fn compare(
    subject: &Subject,
    test: &Images,
    (model, data): (&Path, &Path),
    settings: Settings,
    peers: &Peers,
    observer: &mut dyn FnMut(&str),
) -> Result<Compared, PeerError> {
    let mut command = Command::new(&peers.python);
    command.arg(peers.folder.join("official.py")).args(["--serve", "--model"]).arg(model).arg("--data").arg(data);
    command.args(["--epsilon", &settings.epsilon.to_string(), "--norm", &settings.norm.to_string()]);
    command.args(["--batch", &settings.batch.to_string(), "--threads", &settings.threads.to_string()]);
    let (mut peer, ready) = Peer::start(&mut command, PATIENCE)?;
    let victim = subject.victim();
    let indices = order::stratified(&test.labels, settings.images, settings.seed);
    let size = [test.height, test.width];
    let region = Region { norm: settings.norm, epsilon: settings.epsilon.0 };
    let campaign = Campaign { victim, region, size, seed: settings.seed };
    let mut rows: Vec<Row> = settings.attacks.iter().map(|&attack| Row::new(attack)).collect();
    let (mut clean, mut passes) = (0, Vec::new());
    let ask = |peer: &mut Peer, attack: &str, indices: &[usize]| -> Result<Answer, PeerError> {
        let question = serde_json::json!({ "attack": attack, "indices": indices, "seed": settings.seed }).to_string();
        peer.ask(&question, PATIENCE, "{robust, seconds}")
    };
    for (turn, chunk) in indices.chunks(settings.batch).enumerate() {
        let x = pixels(test, chunk).try_into_vec::<f32>().expect("pixels are f32");
        let length = x.len() / chunk.len();
        let names: Vec<u64> = chunk.iter().map(|&index| index as u64).collect();
        let pass = Pass { images: &names, draw: 0 };
        let label = |row: usize| usize::from(test.labels[chunk[row]]);
        let theirs = ask(&mut peer, "passes", chunk)?;
        let began = Instant::now();
        for _ in 0..PASSES {
            victim.gradient(&x, pass, &mut |logits| vec![1.0; logits.len()]);
        }
        passes.push(began.elapsed().as_secs_f64() / theirs.seconds);
        let mut counted = 0;
        for row in &mut rows {
            let official = (turn % 2 == 0).then(|| ask(&mut peer, row.attack.name(), chunk)).transpose()?;
            let began = Instant::now();
            // The clean pass is part of the work, as it is there.
            let logits = victim.logits(&x, pass);
            let right: Vec<usize> = logits
                .chunks_exact(subject.outputs)
                .enumerate()
                .filter(|(row, logits)| first_of_greatest(logits) == label(*row))
                .map(|(row, _)| row)
                .collect();
            let images: Vec<Image<'_>> = right
                .iter()
                .map(|&row| Image { name: names[row], label: label(row), x: &x[row * length..][..length] })
                .collect();
            let attacks = row.attack.attacks();
            let stands: Vec<bool> = match &attacks[..] {
                [attack] => run(attack, campaign, &images).iter().map(|found| !found.fooled()).collect(),
                several => autoattack(several, campaign, &images).iter().map(|(fell, _)| fell.is_none()).collect(),
            };
            let ours = began.elapsed().as_secs_f64();
            let official = match official {
                Some(official) => official,
                None => ask(&mut peer, row.attack.name(), chunk)?,
            };
            let mut robust = vec![false; chunk.len()];
            right.iter().zip(stands).for_each(|(&place, stands)| robust[place] = stands);
            if official.robust.len() != chunk.len() {
                let answer = format!("{} answers for {} images", official.robust.len(), chunk.len());
                return Err(PeerError::Nonsense { answer, expected: "one answer an image" });
            }
            row.add(&robust, &official.robust, [ours, official.seconds]);
            let seconds = official.seconds;
            let so_far = format!("{} against {} robust, {} differ", row.ours, row.official, row.disagree);
            let done = (turn * settings.batch + chunk.len()).min(indices.len());
            observer(&format!(
                "{} {done}/{}: {so_far}; {ours:.1} s against {seconds:.1} s",
                row.attack.name(),
                indices.len()
            ));
            counted = right.len();
        }
        clean += counted;
    }
    rows.iter_mut().for_each(|row| row.finish(indices.len()));
    passes.sort_by(f64::total_cmp);
    let pass_ratio = passes[passes.len() / 2];
    Ok(Compared { settings, clean, notes: ready.notes, versions: ready.versions, rows, pass_ratio })
}

impl Row {
    fn new(attack: Component) -> Self {
        Self {
            attack,
            ours: 0,
            official: 0,
            disagree: 0,
            ours_alone: 0,
            our_seconds: 0.0,
            official_seconds: 0.0,
            ratio: 0.0,
            turns: Vec::new(),
        }
    }

    fn add(&mut self, ours: &[bool], official: &[bool], seconds: [f64; 2]) {
        for (ours, official) in ours.iter().zip(official) {
            self.ours += usize::from(*ours);
            self.official += usize::from(*official);
            self.disagree += usize::from(ours != official);
            self.ours_alone += usize::from(*ours && !official);
        }
        self.turns.push(seconds);
    }

    fn finish(&mut self, images: usize) {
        let sum = |side: usize| self.turns.iter().map(|turn| turn[side]).sum::<f64>();
        self.our_seconds = sum(0) / images as f64;
        self.official_seconds = sum(1) / images as f64;
        self.ratio = self.our_seconds / self.official_seconds;
    }
}
