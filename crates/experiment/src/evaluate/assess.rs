//! Everything that a protocol asks for, in one go.

use super::course::Course;
use super::plan::{stages, too_short};
use super::same_classes;
use super::subject::Drawn;
use super::{
    Corruptions, Evaluation, Headline, Options, Progress, Row, Scene, Subject, Trust, ViewRow, Views, corruptions,
    trust, views, wide,
};
use crate::data::Images;
use crate::measure::{Rate, Result, check};
use gabion_learn::attack::{Region, notes};
use gabion_spec::{self as spec, Claim, Protocol};
use serde::Serialize;

/// A measured classifier, with what its protocol asked for beyond attacks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Assessment {
    /// Clean and under attack.
    #[serde(flatten)]
    pub evaluation: Evaluation,
    /// One for each budget, where asked for.
    pub trust: Vec<Trust>,
    /// Common corruptions, where asked for.
    pub corruptions: Option<Corruptions>,
    /// Patches and transfer, where asked for.
    pub wide: Vec<Row>,
    /// The classifier over many crops, where asked for.
    pub views: Option<Views>,
}

/// What an assessment takes beyond the recipe.
#[derive(Default)]
pub struct Beyond<'a> {
    /// A second model, whose adversarial images are shown to the first.
    pub source: Option<&'a Subject>,
    /// Sides of patches in pixels.
    pub patches: Vec<usize>,
    /// Crops of an image.
    pub views: u32,
}

/// Measures a classifier on whole test images by a protocol: clean, under its attacks, and whatever else it asks for.
///
/// The images are chosen by [`crate::data::order::stratified`]. An image's result depends neither on its batch nor on the
/// other images, up to the rounding of a batched product. Images that the clean model gets wrong are not attacked.
///
/// # Errors
/// When images or classes do not fit the subject, the recipe makes no sense, the network gives a value that is not finite
/// for a clean image, an adversarial image leaves its budget, or the journal is of another evaluation or cannot be written.
pub fn assess(
    subject: &Subject,
    test: &Images,
    recipe: &spec::Evaluate,
    beyond: &Beyond<'_>,
    options: &Options,
    observer: &mut dyn FnMut(Progress),
) -> Result<Assessment> {
    let scene = Scene::new(subject, test, recipe, options)?;
    if let Some(source) = beyond.source {
        check("test", test, source.input)?;
        same_classes(&source.classes, source.outputs, &test.classes)?;
    }
    let battery = scene.battery();
    let victim = subject.victim();
    let mut course = Course::new(&battery, victim, observer)?;
    let mut warnings = subject.warnings.clone();
    match subject.over {
        Some(Drawn { views, .. }) => {
            warnings.push(format!("clean and attacked: the classifier over {views} crops, drawn anew in every pass"));
        }
        None if recipe.protocol == Protocol::AutoattackRand => {
            warnings.push("autoattack rand: this classifier draws nothing; autoattack is the version for it".into());
        }
        None => {}
    }
    let over_views = match (recipe.protocol, &subject.parts) {
        (Protocol::Views, _) | (Protocol::All, Some(_)) => {
            Some(views::measure(&battery, subject, beyond.views, (recipe.norm, &scene.epsilons), observer)?)
        }
        _ => None,
    };
    let (mut reports, mut others) = (Vec::new(), Vec::new());
    for epsilon in scene.epsilons.clone() {
        let region = Region { norm: recipe.norm, epsilon: epsilon.0 };
        for stage in stages(recipe, epsilon) {
            warnings.extend(stage.attacks.iter().filter_map(|attack| too_short(attack, epsilon)));
            warnings.extend(stage.attacks.iter().flat_map(|attack| notes(attack, subject.outputs)));
            course.run(&battery, victim, &stage, region, observer)?;
        }
        let transferred = match beyond.source {
            Some(source) => {
                let right = course.right();
                let (order, attacked) = wide::transfer(&battery, victim, source, region, &right, observer)?;
                others.push(course.summary(format!("transfer from {}", source.name), &order, &attacked));
                Some(attacked)
            }
            None => None,
        };
        if matches!(recipe.protocol, Protocol::Trust | Protocol::All) {
            let seen = trust::Beside { transferred: transferred.as_ref(), views: over_views.as_ref() };
            let report = trust::examine(&battery, victim, &course, region, &seen, observer)?;
            if matches!(report.headline, Headline::Withheld(_)) {
                course.withhold(region);
            }
            reports.push(report);
        }
    }
    let mut corrupted = None;
    if matches!(recipe.protocol, Protocol::Corruptions | Protocol::All) {
        corrupted = Some(corruptions::measure(&battery, victim, observer)?);
        for &side in &beyond.patches {
            let (order, attacked) = wide::patch(&battery, victim, side, &course.right(), observer)?;
            others.push(course.summary(order.name.clone(), &order, &attacked));
        }
    }
    warnings.extend(course.doubts());
    warnings.sort();
    warnings.dedup();
    let evaluation = course.evaluation(&scene, recipe, options, warnings);
    Ok(Assessment { evaluation, trust: reports, corruptions: corrupted, wide: others, views: over_views })
}

impl Assessment {
    /// What was measured, as claims of a bundle's manifest.
    pub fn claims(&self, data: &str, command: &str) -> Vec<Claim> {
        let claim = |what: String, rate: Rate| rate.claim(what, data, command);
        let mut claims = self.evaluation.claims(data, command);
        claims.extend(self.wide.iter().map(|row| claim(row.what(), row.rate)));
        if let Some(corruptions) = &self.corruptions {
            // Each image is seen 75 times; the mean is of images, not of 75 times as many.
            let images = self.evaluation.images;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at most the number of images
            let rate = Rate::new((corruptions.mean * images as f64).round() as u64, images);
            claims.push(claim("corruptions, mean of 75, rounded to images".into(), rate));
        }
        if let Some(views) = &self.views {
            claims.push(claim(format!("clean, {} views", views.views), views.clean));
            let named = |row: &ViewRow| format!("{}, {} views", row.what(), views.views);
            claims.extend(views.rows.iter().map(|row| claim(named(row), row.rate)));
        }
        claims
    }
}
