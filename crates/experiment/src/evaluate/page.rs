//! An assessment as one HTML page that needs nothing else: the number and whether to believe it first, then what it rests
//! on.
//!
//! Plain data in, text out. Whatever was not measured has no section. Where a trust report withholds the number of a budget,
//! the reason stands in its place; of that protocol only the curve against iterations stays, called a symptom.

mod crops;
mod curves;
mod pictures;
mod rows;
mod sections;

pub use pictures::pictures;

use super::{Assessment, Grade, Headline, Row, Trust};
use crate::measure::Rate;
use crate::report::{MARKS, Picture, ReportError, duration, fill, thousands, triple};
use gabion_spec::{Attack, Norm, Pixels, Protocol};
use minijinja::context;
use minijinja::value::Value;

/// What a page says beyond the numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct About {
    /// The bundle's name.
    pub bundle: String,
    /// Name of the data set.
    pub data: String,
    /// The command that measures the same again.
    pub command: String,
    /// Name and value of whatever else identifies the measurement: SHA-256 of the weights, device, machine, versions.
    pub facts: Vec<(String, String)>,
    /// Names of the classes, in the order of the labels; a class without one goes by its number.
    pub classes: Vec<String>,
    /// Images before and after an attack.
    pub pictures: Vec<Picture>,
}

/// The page.
///
/// # Errors
/// When the two images of a picture differ in size; anything else would be a defect of the template or the plots.
pub fn page(assessment: &Assessment, about: &About) -> Result<String, ReportError> {
    let Assessment { evaluation, trust, corruptions, views, .. } = assessment;
    let curves =
        [curves::budgets(assessment)?, curves::iterations(assessment)?].into_iter().flatten().collect::<Vec<_>>();
    let pictures = about.pictures.iter().enumerate().map(|(at, picture)| triple(at, picture));
    let context = context! {
        title => format!("Robustness of {}", about.bundle),
        about => subtitle(assessment, about),
        cards => cards(assessment),
        clean => number(evaluation.clean),
        warnings => &evaluation.warnings,
        trust => trust.iter().map(sections::trust).collect::<Vec<_>>(),
        groups => rows::groups(assessment),
        curves,
        classes => sections::classes(assessment, &about.classes),
        corruptions => corruptions.as_ref().filter(|all| !all.rows.is_empty()).map(|all| sections::corruptions(all, evaluation.clean)),
        views => views.as_ref().map(crops::section),
        pictures => pictures.collect::<Result<Vec<_>, _>>()?,
        command => &about.command,
        facts => facts(assessment, about),
    };
    fill("evaluation.html", &context)
}

fn subtitle(Assessment { evaluation, .. }: &Assessment, about: &About) -> String {
    let images = thousands(evaluation.images);
    let what = match evaluation.protocol {
        Protocol::Paper => "the paper's PGD-20",
        Protocol::Paper2Step => "two steps of PGD, for comparison only",
        Protocol::Strong => "PGD-50 with five random restarts",
        Protocol::Apgd => "Auto-PGD, untargeted and targeted",
        Protocol::Autoattack => "AutoAttack",
        Protocol::AutoattackRand => "AutoAttack's version for random classifiers",
        Protocol::Views => "the classifier over crops under attack",
        Protocol::Corruptions => "common corruptions and patches",
        Protocol::Trust => "AutoAttack with a trust report",
        Protocol::All => "AutoAttack with a trust report, crops, corruptions and patches",
    };
    let on = if about.data.is_empty() { String::new() } else { format!(" of {}", about.data) };
    format!("{images} test images{on}; protocol: {what}.")
}

/// What stands at the top: one card for each budget.
fn cards(assessment: &Assessment) -> Vec<Value> {
    let Assessment { evaluation, trust, .. } = assessment;
    let here = |norm, epsilon| move |trust: &&Trust| trust.norm == norm && trust.epsilon == epsilon;
    let measured: Vec<&Row> = evaluation.headlines().collect();
    let of_rows = measured.iter().map(|row| {
        let trust = trust.iter().find(here(row.norm, row.epsilon));
        let headline = trust.map_or(Headline::Accuracy(row.rate), |trust| trust.headline.clone());
        card(&called(row), row.norm, row.epsilon, &headline, trust)
    });
    let alone = trust.iter().filter(|trust| !measured.iter().any(|row| here(row.norm, row.epsilon)(trust)));
    let of_trust = alone.map(|trust| card("AutoAttack", trust.norm, trust.epsilon, &trust.headline, Some(trust)));
    let mut cards: Vec<(bool, Value)> = of_rows.chain(of_trust).collect();
    // What is withheld is read before any number; the sort keeps the order of budgets.
    cards.sort_by_key(|(stated, _)| *stated);
    cards.into_iter().map(|(_, card)| card).collect()
}

/// Whether it states a number, and the card.
fn card(attack: &str, norm: Norm, epsilon: Pixels, headline: &Headline, trust: Option<&Trust>) -> (bool, Value) {
    let (rate, reason) = match headline {
        Headline::Accuracy(rate) => (Some(number(*rate)), None),
        Headline::Withheld(reason) => (None, Some(reason)),
    };
    let counts = trust.map(|trust| {
        let of = |grade| trust.checks.iter().filter(|check| check.grade == grade).count();
        context! { pass => of(Grade::Pass), warn => of(Grade::Warn), fail => of(Grade::Fail) }
    });
    let reason = reason.map(|reason| unbroken(reason));
    (rate.is_some(), context! { attack, budget => budget(norm, epsilon), rate, reason, examined => counts })
}

/// A rate as the page shows it everywhere.
fn number(rate: Rate) -> Value {
    context! {
        accuracy => format!("{:.1} %", 100.0 * rate.accuracy),
        interval => format!("{:.1} – {:.1}", 100.0 * rate.low, 100.0 * rate.high),
        right => thousands(rate.right),
        images => thousands(rate.images),
    }
}

/// Words whose percent signs stay with their numbers.
fn unbroken(words: &str) -> String {
    words.replace(" %", "\u{a0}%")
}

/// Such as `L∞ 8/255`.
fn budget(norm: Norm, epsilon: Pixels) -> String {
    match norm {
        Norm::Linf => format!("L∞ {epsilon}"),
        Norm::L2 => format!("L2 {}", epsilon.0),
    }
}

/// An attack's name for a reader.
fn called(row: &Row) -> String {
    match (&*row.name, row.attack) {
        ("autoattack", None) => "AutoAttack".into(),
        (_, Some(Attack::Pgd { .. })) if row.cascade.is_none() => row.described(),
        _ => row.name.clone(),
    }
}

/// Whether the trust report of a budget withholds its number.
fn withheld(trust: &[Trust], norm: Norm, epsilon: Pixels) -> bool {
    let withheld = |trust: &Trust| matches!(trust.headline, Headline::Withheld(_));
    trust.iter().any(|trust| trust.norm == norm && trust.epsilon == epsilon && withheld(trust))
}

fn facts(Assessment { evaluation, .. }: &Assessment, about: &About) -> Vec<Value> {
    let own = [
        ("bundle", about.bundle.clone()),
        ("data set", about.data.clone()),
        ("images", format!("{} of the test images", thousands(evaluation.images))),
        ("SHA-256 of images", evaluation.data_sha256.clone()),
        ("seed", evaluation.seed.to_string()),
        ("attacks took", duration(evaluation.seconds)),
    ];
    let own = own.into_iter().map(|(name, value)| (name.to_string(), value));
    let all = own.chain(about.facts.iter().cloned()).filter(|(_, value)| !value.is_empty());
    all.map(|(name, value)| context! { name, value }).collect()
}

/// A bar from 0 to 100 % with the interval as a line across its end; its colour is that of the series around it.
fn bar(rate: Rate) -> Value {
    let [share, low, high] = [rate.accuracy, rate.low, rate.high].map(|share| 100.0 * share);
    Value::from_safe_string(format!(
        "<svg class=\"bar\" viewBox=\"0 0 100 10\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{share:.1} %\">\
         <rect class=\"track\" width=\"100\" height=\"10\"/><rect class=\"share\" width=\"{share:.2}\" height=\"10\"/>\
         <path class=\"ends\" d=\"M{low:.2} 5H{high:.2}\"/></svg>"
    ))
}

/// The place of a series among the marks, and its mark.
fn series(at: usize) -> Value {
    let at = at % MARKS.len();
    context! { series => at, mark => MARKS[at] }
}

#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;
