//! The one table of everything that was measured on whole images.

use super::{budget, called, number, withheld};
use crate::evaluate::{Assessment, Corruptions, Row};
use crate::report::{duration, thousands};
use minijinja::context;
use minijinja::value::Value;

/// The clean images, the attacks of each budget with a cascade's sum before its parts, then what goes beyond.
pub(super) fn groups(assessment: &Assessment) -> Vec<Value> {
    let Assessment { evaluation, trust, corruptions, wide, .. } = assessment;
    let clean = context! {
        kind => "alone", attack => "none, the clean images", budget => "", rate => number(evaluation.clean),
    };
    let mut groups = vec![vec![clean]];
    let together = |a: &Row, b: &Row| a.cascade.is_some() && a.cascade == b.cascade && same_budget(a, b);
    for stage in evaluation.attacks.chunk_by(together) {
        let hide = |row: &Row| withheld(trust, row.norm, row.epsilon);
        let (sums, parts): (Vec<&Row>, Vec<&Row>) = stage.iter().partition(|row| row.attack.is_none());
        let kind = if sums.is_empty() { "alone" } else { "part" };
        let sums = sums.into_iter().map(|row| measured("sum", row, hide(row)));
        groups.push(sums.chain(parts.into_iter().map(|row| measured(kind, row, hide(row)))).collect());
    }
    let beyond: Vec<Value> = wide.iter().map(|row| measured("alone", row, false)).collect();
    groups.push(beyond.into_iter().chain(corruptions.as_ref().and_then(mean)).collect());
    groups.into_iter().filter(|rows| !rows.is_empty()).map(Value::from).collect()
}

fn same_budget(a: &Row, b: &Row) -> bool {
    a.norm == b.norm && a.epsilon == b.epsilon
}

fn measured(kind: &str, row: &Row, hide: bool) -> Value {
    let each = |passes: u64| passes as f64 / row.attacked.max(1) as f64;
    // A patch may be painted at will.
    let budget = if row.name.starts_with("patch ") { "any colour".to_string() } else { budget(row.norm, row.epsilon) };
    context! {
        kind,
        attack => called(row),
        budget,
        withheld => hide,
        rate => if hide { Value::UNDEFINED } else { number(row.rate) },
        fell => thousands(row.attacked.saturating_sub(row.rate.right)),
        attacked => thousands(row.attacked),
        gradients => (row.attacked > 0).then(|| format!("{:.1}", each(row.passes.gradients))),
        forwards => (row.attacked > 0).then(|| format!("{:.1}", each(row.passes.forwards))),
        time => duration(row.seconds),
    }
}

/// The mean over corruptions: no share of images, so that it has no interval.
fn mean(Corruptions { rows, mean }: &Corruptions) -> Option<Value> {
    (!rows.is_empty()).then(|| {
        context! {
            kind => "alone",
            attack => format!("common corruptions, mean of {}", rows.len()),
            budget => "",
            rate => context! { accuracy => format!("{:.1} %", 100.0 * mean) },
        }
    })
}
