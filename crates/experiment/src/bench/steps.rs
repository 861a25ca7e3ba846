//! Steps of training and of an attack beside eager PyTorch: the same work, each side a fresh process a round, in turns.

use super::rounds::{median, median_ratio};
use super::{forget_peak, resident};
use crate::evaluate::Subject;
use gabion_learn::attack::{Classifier, Pass};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

/// A program that prints `{versions, result}` for one round, and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// As in a table.
    pub name: &'static str,
    /// What is started.
    pub program: PathBuf,
    /// With what.
    pub arguments: Vec<String>,
}

/// One side.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Side {
    /// As in a table.
    pub name: &'static str,
    /// Why there is nothing else.
    pub not_measured: Option<String>,
    /// Of its libraries.
    pub versions: BTreeMap<String, String>,
    /// Median seconds of a step, one a round.
    pub seconds: Vec<f64>,
    /// What steps add to the resident set, MiB, one a round where the system tells.
    pub working_mib: Vec<f64>,
    /// Of the rounds' medians.
    pub steps_per_second: Option<f64>,
    /// Images of them.
    pub views_per_second: Option<f64>,
    /// Median over the rounds.
    pub memory_mib: Option<f64>,
}

/// Both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// Images of a step.
    pub views: usize,
    /// Threads of everybody.
    pub threads: usize,
    /// Ours first.
    pub sides: Vec<Side>,
    /// Median over rounds of (our seconds) over (theirs); none where one side was not measured.
    pub ratio: Option<f64>,
    /// The same of memory.
    pub memory_ratio: Option<f64>,
}

#[derive(Deserialize)]
struct Printed {
    versions: BTreeMap<String, String>,
    result: Measured,
}

#[derive(Deserialize)]
struct Measured {
    median_seconds: f64,
    working_memory_mib: Option<f64>,
}

/// Lets both take turns, whose order alternates. Whoever cannot has a side that says why.
pub fn compare(
    programs: &[Program],
    (rounds, threads, views): (usize, usize, usize),
    tell: &mut dyn FnMut(&str),
) -> Compared {
    let mut sides: Vec<Side> = programs.iter().map(|program| Side { name: program.name, ..Side::default() }).collect();
    for round in 0..rounds {
        for turn in 0..programs.len() {
            let at = (turn + round) % programs.len();
            let side = &mut sides[at];
            if side.not_measured.is_some() {
                continue;
            }
            tell(&format!("round {} of {rounds}: {}", round + 1, side.name));
            match programs[at].round(threads) {
                Ok(Printed { versions, result }) => {
                    side.versions = versions;
                    side.seconds.push(result.median_seconds);
                    side.working_mib.extend(result.working_memory_mib);
                }
                Err(why) => side.not_measured = Some(why),
            }
        }
    }
    for side in &mut sides {
        side.steps_per_second = median(&side.seconds).map(|seconds| 1.0 / seconds);
        #[allow(clippy::cast_precision_loss)]
        let each = views as f64;
        side.views_per_second = side.steps_per_second.map(|steps| steps * each);
        side.memory_mib = median(&side.working_mib);
    }
    let ratio = |of: fn(&Side) -> &[f64]| match &sides[..] {
        [ours, theirs] if sides.iter().all(|side| side.not_measured.is_none()) => median_ratio(of(ours), of(theirs)),
        _ => None,
    };
    let (ratio, memory_ratio) = (ratio(|side| &side.seconds), ratio(|side| &side.working_mib));
    Compared { views, threads, sides, ratio, memory_ratio }
}

impl Program {
    fn round(&self, threads: usize) -> Result<Printed, String> {
        let name = self.program.display();
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env("RAYON_NUM_THREADS", threads.to_string());
        let done = command.output().map_err(|error| format!("{name} did not start: {error}"))?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr);
            return Err(format!("{name} failed: {}", said.lines().last().unwrap_or("it said nothing")));
        }
        serde_json::from_slice(&done.stdout).map_err(|error| format!("what {name} printed is no result: {error}"))
    }
}

/// What a step of PGD costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AttackSteps {
    /// Images of a step.
    pub batch: usize,
    /// Seconds a step.
    pub median_seconds: f64,
    /// Peak resident memory from the first step on, less what was resident before it.
    pub working_memory_mib: Option<f64>,
}

/// Steps of PGD (step 0.01 within 8/255 of L-infinity, cross-entropy) on pictures of noise, none of which leaves.
#[allow(clippy::cast_precision_loss)]
pub fn attack(subject: &Subject, batch: usize, warmup: usize, steps: usize) -> AttackSteps {
    let victim = subject.victim();
    let length = 3 * subject.input.height as usize * subject.input.width as usize;
    let clean: Vec<f32> = (0..batch * length).map(|i| ((i * 7919 + i / length * 31) % 256) as f32 / 255.0).collect();
    let mut x = clean.clone();
    let names: Vec<u64> = (0..batch as u64).collect();
    let (before, mut seconds) = (resident("VmRSS"), Vec::new());
    forget_peak();
    for step in 0..warmup + steps.max(1) {
        let start = Instant::now();
        pgd_step(victim, &names, &clean, &mut x);
        if step >= warmup {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    let working = resident("VmHWM").zip(before).map(|(peak, before)| peak - before);
    AttackSteps { batch, median_seconds: median(&seconds).unwrap_or(f64::NAN), working_memory_mib: working }
}

fn pgd_step(victim: &dyn Classifier, names: &[u64], clean: &[f32], x: &mut [f32]) {
    const EPSILON: f32 = 8.0 / 255.0;
    let classes = victim.classes();
    let slope = victim.gradient(x, Pass { images: names, draw: 0 }, &mut |logits| {
        let mut weights = logits.to_vec();
        for (image, weights) in weights.chunks_exact_mut(classes).enumerate() {
            let most = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            weights.iter_mut().for_each(|logit| *logit = (*logit - most).exp());
            let sum: f32 = weights.iter().sum();
            weights.iter_mut().for_each(|share| *share /= sum);
            weights[image % classes] -= 1.0;
        }
        weights
    });
    for ((x, slope), clean) in x.iter_mut().zip(slope.x).zip(clean) {
        let sign = if slope == 0.0 { 0.0 } else { slope.signum() };
        *x = (*x + 0.01 * sign).clamp(clean - EPSILON, clean + EPSILON).clamp(0.0, 1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(name: &'static str, script: &str) -> Program {
        Program { name, program: "sh".into(), arguments: vec!["-c".into(), script.into()] }
    }

    #[test]
    fn sides_are_related_round_by_round() {
        let prints = |seconds: f64| {
            format!(
                r#"echo '{{"versions": {{"a": "1"}}, "result": {{"median_seconds": {seconds}, "working_memory_mib": 4, "more": 1}}}}'"#
            )
        };
        let found = compare(&[program("ours", &prints(0.5)), program("theirs", &prints(2.0))], (3, 2, 8), &mut |_| {});
        assert_eq!((found.ratio, found.memory_ratio), (Some(0.25), Some(1.0)));
        let ours = &found.sides[0];
        assert_eq!((ours.seconds.len(), ours.steps_per_second, ours.views_per_second), (3, Some(2.0), Some(16.0)));
    }

    #[test]
    fn one_that_cannot_says_why() {
        let broken = program("theirs", "echo 'no torch here' >&2; exit 3");
        let absent = Program { program: "/nowhere/python".into(), ..broken.clone() };
        let chatty = program("theirs", "echo hello");
        for (program, why) in [(broken, "no torch here"), (absent, "did not start"), (chatty, "no result")] {
            let found = compare(&[program], (2, 1, 1), &mut |_| {});
            let said = found.sides[0].not_measured.clone().unwrap();
            assert!(said.contains(why) && found.ratio.is_none(), "{said}");
        }
    }
}
