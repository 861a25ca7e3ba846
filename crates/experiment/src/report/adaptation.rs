//! An adaptation as a page: the guard's figures before and after, and how it went.

use super::{ModelReport, Report};
use crate::measure::Rate;
use gabion_runtime::Verdict;
use gabion_runtime::adapt::{self, Figures};

/// What a page tells of an adaptation. `facts` come before those of the adaptation itself.
pub fn adaptation(bundle: &str, report: &adapt::Report, verdict: &Verdict, facts: Vec<(String, String)>) -> Report {
    let adapt::Report { recipe, images, batch, rows, steps, seconds, guard_seconds, .. } = report;
    let of = |figures: Figures, name: &str, description: String, loss| {
        let rate = |right: usize| Rate::new(right as u64, figures.images as u64);
        ModelReport {
            name: name.into(),
            description,
            loss,
            clean: rate(figures.clean),
            points: vec![(recipe.guard.epsilon, rate(figures.robust))],
            seconds: 0.0,
        }
    };
    let loss = (1..).zip(report.losses.iter().copied()).collect();
    let word = if *verdict == Verdict::Promoted { "Promoted" } else { "Refused" };
    let after = format!("{word}: {steps} steps in {seconds:.1} s on {images} local images.");
    let decision = match verdict {
        Verdict::Promoted => "Promoted: on the guard set it lost no more than it may.".to_string(),
        Verdict::Refused { lost } => {
            let lost: Vec<String> = lost.iter().map(ToString::to_string).collect();
            format!("Refused, the bundle stays as it was: {}.", lost.join("; "))
        }
    };
    let own = [
        ("scope", recipe.scope.name().to_string()),
        ("objective", recipe.objective.name().into()),
        ("perturbation", format!("{}, {} replays of {}", recipe.epsilon, recipe.replays, recipe.step)),
        ("minibatch", format!("{batch} images, {rows} rows at once")),
        ("expected memory", format!("{} MiB at most", report.expected_bytes >> 20)),
        ("guard", format!("PGD-{}, {} images, {guard_seconds:.1} s", recipe.guard.steps, report.before.images)),
    ];
    Report {
        title: format!("Adaptation of {bundle}"),
        facts: facts.into_iter().chain(own.map(|(name, value)| (name.into(), value))).collect(),
        models: vec![
            of(report.before, "before", "The bundle as it was.".into(), Vec::new()),
            of(report.after, "after", after, loss),
        ],
        examples: Vec::new(),
        notes: vec![
            decision,
            "Accuracy is that of the guard set: labelled local images that were held out of training.".into(),
        ],
    }
}
