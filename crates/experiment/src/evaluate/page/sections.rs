//! The trust report, the classes and the corruptions as a page shows them.

use super::{bar, budget, number, series, unbroken, withheld};
use crate::evaluate::{Assessment, Check, CorruptionRow, Corruptions, Grade, Row, Trust};
use crate::measure::Rate;
use crate::report::thousands;
use minijinja::context;
use minijinja::value::Value;

/// A grade is told by word, shape and colour.
fn grade(grade: Grade) -> Value {
    let (word, shape, class) = match grade {
        Grade::Pass => ("PASS", "✓", "pass"),
        Grade::Warn => ("WARN", "▲", "warn"),
        Grade::Fail => ("FAIL", "✗", "fail"),
    };
    context! { word, shape, class }
}

pub(super) fn trust(trust: &Trust) -> Value {
    let check = |check: &Check| {
        context! { grade => grade(check.grade), name => check.name, figure => unbroken(&check.figure), meaning => check.meaning }
    };
    context! {
        budget => budget(trust.norm, trust.epsilon),
        checks => trust.checks.iter().map(check).collect::<Vec<_>>(),
    }
}

/// Budgets that the bars of a class have room for, the largest; one where classes are many.
fn most_budgets(classes: usize) -> usize {
    if classes > 20 { 1 } else { 3 }
}

/// Accuracy of each class, clean and under the protocol; none where there is but one class.
pub(super) fn classes(Assessment { evaluation, trust, .. }: &Assessment, names: &[String]) -> Option<Value> {
    let all = evaluation.verdicts.iter().map(|verdict| usize::from(verdict.label)).max()? + 1;
    let all = all.max(names.len());
    if all < 2 {
        return None;
    }
    let shown = |row: &Row| {
        let whole = row.attack.is_none() || row.cascade.is_none();
        whole && !withheld(trust, row.norm, row.epsilon)
    };
    let places: Vec<usize> = (0..evaluation.attacks.len()).filter(|&at| shown(&evaluation.attacks[at])).collect();
    let places = &places[places.len().saturating_sub(most_budgets(all))..];
    let mut legend = vec![context! { name => "clean", ..series(0) }];
    legend.extend(places.iter().enumerate().map(|(at, &place)| {
        let row = &evaluation.attacks[place];
        context! { name => format!("{}, {}", super::called(row), budget(row.norm, row.epsilon)), ..series(at + 1) }
    }));
    let class = |label: usize| {
        let of: Vec<_> = evaluation.verdicts.iter().filter(|verdict| usize::from(verdict.label) == label).collect();
        let images = of.len() as u64;
        if images == 0 {
            return None;
        }
        let clean = Rate::new(of.iter().filter(|verdict| verdict.predicted == verdict.label).count() as u64, images);
        let robust =
            |&place: &usize| Rate::new(of.iter().filter(|v| v.robust.get(place) == Some(&true)).count() as u64, images);
        let rates = std::iter::once(clean).chain(places.iter().map(robust));
        let bars =
            rates.enumerate().map(|(at, rate)| context! { bar => bar(rate), rate => number(rate), ..series(at) });
        let name = names.get(label).cloned().unwrap_or_else(|| format!("class {label}"));
        Some(context! { name, images => thousands(images), bars => bars.collect::<Vec<_>>() })
    };
    let classes: Vec<Value> = (0..all).filter_map(class).collect();
    // Side by side where that is shorter.
    let half = if classes.len() > 5 { classes.len().div_ceil(2) } else { classes.len().max(1) };
    let columns: Vec<Value> = classes.chunks(half).map(|part| part.iter().cloned().collect::<Value>()).collect();
    Some(context! { legend, columns })
}

const SEVERITIES: std::ops::RangeInclusive<u8> = 1..=5;

/// A row for each corruption, a column for each severity, and the means of both.
pub(super) fn corruptions(Corruptions { rows, mean }: &Corruptions, clean: Rate) -> Value {
    let cell = |accuracy: Option<f64>| {
        accuracy.map(|accuracy| {
            // How much of what the clean images keep is lost.
            let lost = 1.0 - (accuracy / clean.accuracy.max(1e-9)).clamp(0.0, 1.0);
            context! { accuracy => format!("{:.1}", 100.0 * accuracy), lost => format!("{:.0}", 100.0 * lost) }
        })
    };
    let line = |of: &[&CorruptionRow]| -> Vec<Option<Value>> {
        let at = |severity| of.iter().filter(|row| row.severity == severity).copied().collect::<Vec<_>>();
        SEVERITIES.map(|severity| cell(average(&at(severity)))).chain([cell(average(of))]).collect()
    };
    let mut families: Vec<(&str, Vec<&str>)> = Vec::new();
    for row in rows {
        let at = families.iter().position(|family| family.0 == row.family).unwrap_or_else(|| {
            families.push((&row.family, Vec::new()));
            families.len() - 1
        });
        if !families[at].1.contains(&&*row.name) {
            families[at].1.push(&row.name);
        }
    }
    let families = families.into_iter().map(|(family, names)| {
        let lines = names.into_iter().map(|name| {
            let of: Vec<&CorruptionRow> = rows.iter().filter(|row| row.name == name).collect();
            context! { name => name.replace('-', " "), cells => line(&of) }
        });
        context! { family, lines => lines.collect::<Vec<_>>() }
    });
    context! {
        severities => SEVERITIES.collect::<Vec<_>>(),
        families => families.collect::<Vec<_>>(),
        all => line(&rows.iter().collect::<Vec<_>>()),
        mean => format!("{:.1} %", 100.0 * mean),
    }
}

fn average(rows: &[&CorruptionRow]) -> Option<f64> {
    (!rows.is_empty()).then(|| rows.iter().map(|row| row.rate.accuracy).sum::<f64>() / rows.len() as f64)
}
