//! What is drawn as curves: accuracy against the budget, and against the iterations of an attack.

use super::{budget, series, withheld};
use crate::evaluate::{Assessment, Evaluation, Row};
use crate::measure::Rate;
use crate::report::ReportError;
use crate::report::plot::{Curve, Drawn, Places, levels, shares, ticks};
use gabion_spec::{Attack, Norm, Objective, Pixels};
use minijinja::context;
use minijinja::value::Value;

/// A figure: its legend names every curve.
fn figure(heading: &str, svg: String, caption: String, legend: Vec<(usize, String)>) -> Value {
    let legend = legend.into_iter().map(|(at, name)| context! { name, ..series(at) });
    context! { heading, svg => Value::from_safe_string(svg), caption, legend => legend.collect::<Vec<_>>() }
}

/// Accuracy against the budget: the sweep of a trust report, and the protocol's own numbers; none where nothing but the
/// clean images was measured.
pub(super) fn budgets(Assessment { evaluation, trust, .. }: &Assessment) -> Result<Option<Value>, ReportError> {
    let Some(norm) = trust.first().map(|trust| trust.norm).or(evaluation.attacks.first().map(|row| row.norm)) else {
        return Ok(None);
    };
    let place = |epsilon: Pixels| match norm {
        Norm::Linf => 255.0 * f64::from(epsilon.0),
        Norm::L2 => f64::from(epsilon.0),
    };
    let (mut curves, mut legend) = (Vec::new(), Vec::new());
    let own: Vec<(f64, Rate)> = evaluation
        .headlines()
        .filter(|row| row.norm == norm && !withheld(trust, row.norm, row.epsilon))
        .map(|row| (place(row.epsilon), row.rate))
        .collect();
    // Without a sweep the protocol's numbers are the curve, and begin at the clean images.
    let swept = trust.iter().any(|trust| !trust.sweep.is_empty());
    let mut seen: Vec<&[(Pixels, Rate)]> = Vec::new();
    for trust in trust.iter().filter(|trust| trust.norm == norm && !trust.sweep.is_empty()) {
        // Sweeps of the same budgets are the same.
        if seen.contains(&&trust.sweep[..]) {
            continue;
        }
        seen.push(&trust.sweep);
        let points = trust.sweep.iter().map(|&(epsilon, rate)| (place(epsilon), rate)).collect();
        legend.push((curves.len(), "PGD-40 at rising budgets".to_string()));
        curves.push(Curve { series: curves.len(), points, drawn: Drawn::Through });
    }
    // Last, so that no mark of the sweep hides them.
    if !own.is_empty() {
        let name = evaluation.headlines().next().map_or_else(String::new, super::called);
        let clean = (!swept).then_some((0.0, evaluation.clean));
        let points = clean.into_iter().chain(own).collect();
        let series = curves.len();
        curves.push(Curve { series, points, drawn: if swept { Drawn::Marks } else { Drawn::Through } });
        legend.push((series, name));
    }
    if curves.is_empty() {
        return Ok(None);
    }
    let all = match norm {
        Norm::Linf => ticks(&curves),
        Norm::L2 => curves.first().map_or_else(Vec::new, |curve| curve.points.iter().map(|point| point.0).collect()),
    };
    let smallest = all.iter().copied().find(|&tick| tick > 0.0);
    let furthest = all.last().copied().unwrap_or(0.0);
    let unit = smallest.filter(|smallest| furthest > 12.0 * smallest);
    let plain = |x: f64| format!("{}", if x < 1.0 { (100.0 * x).round() / 100.0 } else { (10.0 * x).round() / 10.0 });
    let (what, label): (_, &dyn Fn(f64) -> String) = match norm {
        Norm::Linf => ("budget of the attack (1/255)", &levels),
        Norm::L2 => ("budget of the attack (L2)", &plain),
    };
    let name = "Accuracy against the budget of the attack, falling from the clean accuracy at 0";
    let svg = shares(&curves, &Places { what, ticks: spaced(all, unit), unit, label }, name)?;
    let caption = if unit.is_some() {
        "Accuracy against the budget, whose axis is logarithmic; bars are 95 % intervals, 0 is the clean image. More budget \
         has to mean less accuracy, down to 0."
    } else {
        "Accuracy against the budget; bars are 95 % intervals, 0 is the clean image."
    };
    Ok(Some(figure("Accuracy against the budget", svg, caption.into(), legend)))
}

/// Ticks whose names do not touch each other.
fn spaced(ticks: Vec<f64>, unit: Option<f64>) -> Vec<f64> {
    let put = |x: f64| unit.map_or(x, |unit| (1.0 + x / unit).log2());
    let room = 0.075 * ticks.last().map_or(0.0, |&last| put(last));
    let mut kept: Vec<f64> = Vec::new();
    for tick in ticks {
        if kept.last().is_none_or(|&last| put(tick) - put(last) >= room) {
            kept.push(tick);
        }
    }
    kept
}

/// Accuracy against the iterations of APGD on cross-entropy, or of PGD: what of each budget was still right after them.
pub(super) fn iterations(Assessment { evaluation, trust, .. }: &Assessment) -> Result<Option<Value>, ReportError> {
    let mut rows: Vec<(usize, &Row, u32)> = Vec::new();
    for (at, row) in evaluation.attacks.iter().enumerate() {
        let known = rows.iter().any(|(_, other, _)| other.epsilon == row.epsilon && other.norm == row.norm);
        if let Some(steps) = row.attack.as_ref().and_then(length).filter(|_| !known) {
            rows.push((at, row, steps));
        }
    }
    let (mut curves, mut legend, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for (series, &(at, row, steps)) in rows.iter().enumerate() {
        let points = still_right(evaluation, at, steps);
        let Some(&(most, last)) = points.last() else { continue };
        let earlier = points.iter().rev().find(|(step, _)| *step <= 0.75 * most).map_or(last, |point| point.1);
        let fell = earlier.right.saturating_sub(last.right);
        ends.push(format!("{fell} of {} at {}", row.attacked, budget(row.norm, row.epsilon)));
        legend.push((series, format!("{}, {}", row.name, budget(row.norm, row.epsilon))));
        curves.push(Curve { series, points, drawn: Drawn::Line });
    }
    let Some(furthest) = curves.iter().flat_map(|curve| curve.points.last()).map(|point| point.0).reduce(f64::max)
    else {
        return Ok(None);
    };
    let every = [1.0, 2.0, 5.0, 10.0, 20.0, 25.0, 50.0, 100.0, 250.0, 1000.0, 1e4];
    let every = every.into_iter().find(|every| furthest / every <= 6.0).unwrap_or(furthest);
    let ticks = (0..=6).map(|at| f64::from(at) * every).take_while(|&tick| tick <= furthest).collect();
    let places = Places { what: "iterations", ticks, unit: None, label: &levels };
    let svg = shares(&curves, &places, "Accuracy against the iterations of the attack, falling from its start")?;
    let mut caption = format!(
        "Share of the test images that are still right after so many iterations. In the last quarter fell {}: a curve that \
         is not flat at its end belongs to an attack that was stopped too early.",
        ends.join(", ")
    );
    let diagnosis = |(_, row, _): &(usize, &Row, u32)| withheld(trust, row.norm, row.epsilon);
    for (_, row, _) in rows.iter().filter(|&row| diagnosis(row)) {
        caption += &format!(" The number at {} is withheld: its curve is a symptom.", budget(row.norm, row.epsilon));
    }
    Ok(Some(figure("Accuracy against iterations", svg, caption, legend)))
}

/// Iterations of an attack that is drawn.
fn length(attack: &Attack) -> Option<u32> {
    match *attack {
        Attack::Pgd { steps, restarts, .. } => Some(steps * restarts),
        Attack::Apgd { objective: Objective::CrossEntropy, iterations, restarts, .. } => Some(iterations * restarts),
        _ => None,
    }
}

/// Images that the attack of row `at` has not yet fooled, after each step.
fn still_right(evaluation: &Evaluation, at: usize, steps: u32) -> Vec<(f64, Rate)> {
    let fooled: Vec<u32> =
        evaluation.verdicts.iter().filter_map(|verdict| verdict.fooled_at.get(at).copied().flatten()).collect();
    let last = fooled.iter().copied().fold(steps, u32::max);
    let mut falls = vec![0u64; last as usize + 1];
    fooled.iter().for_each(|&step| falls[step as usize] += 1);
    let mut standing = evaluation.attacks[at].attacked;
    let after = |(step, falls): (usize, u64)| {
        standing = standing.saturating_sub(falls);
        (step as f64, Rate::new(standing, evaluation.images))
    };
    falls.into_iter().enumerate().map(after).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ticks_do_not_touch() {
        let sweep = vec![0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 127.5];
        assert_eq!(spaced(sweep.clone(), Some(1.0)), sweep);
        assert_eq!(spaced(vec![0.0, 1.0, 8.0, 100.0], None), [0.0, 8.0, 100.0]);
        assert!(spaced(Vec::new(), None).is_empty());
    }
}
