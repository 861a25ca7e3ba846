//! What of a demo is to be seen: images, the commands that classify them, and the report.

use super::{Classified, Demo, DemoError, KINDS, Made, Work};
use crate::data::Images;
use crate::evaluate::Verdict;
use crate::report::{Example, ModelReport, Picture, Report, duration, png, thousands};
use gabion_runtime::{Classify, ClassifyError, Rgb};
use gabion_spec::{Pixels, Threat};
use std::path::Path;

/// A test image, the attack on each model, and what the models say of the 8-bit files that come of them.
pub(super) struct Shown {
    truth: String,
    epsilon: Pixels,
    /// Of each model.
    views: Vec<View>,
    /// Both get the clean image right, the attack deceives the standard model alone.
    pub(super) telling: bool,
}

struct View {
    clean: Rgb,
    attacked: Rgb,
    of_clean: (String, f32),
    of_attacked: (String, f32),
}

/// The images to show: first one that tells the models apart, at the largest budget where there is one; then the first
/// of other classes that both models get right when clean, whatever the attack makes of them.
pub(super) fn choose(work: &Work<'_>, made: &[Made]) -> Result<Vec<Shown>, DemoError> {
    let verdicts: Vec<&[Verdict]> = made.iter().map(|made| &made.evaluation.verdicts[..]).collect();
    let both_right = |&place: &usize| {
        let right = |of: &&[Verdict]| of[place].predicted == of[place].label;
        verdicts.iter().all(right)
    };
    let places: Vec<usize> = (0..verdicts[0].len()).filter(both_right).collect();
    let last = made[0].evaluation.attacks.len() - 1;
    let mut first = None;
    'found: for attack in (0..=last).rev() {
        for &place in &places {
            if !verdicts[0][place].robust[attack] && verdicts[1][place].robust[attack] {
                // The files hold whole levels: what deceived in between may not deceive in them.
                let shown = show(work, made, place, attack)?;
                if shown.telling {
                    first = Some((place, attack, shown));
                    break 'found;
                }
            }
        }
    }
    let (place, attack, first) = match first {
        Some(found) => found,
        None => {
            let place = places.first().copied().unwrap_or(0);
            (place, last, show(work, made, place, last)?)
        }
    };
    let mut classes = vec![verdicts[0][place].label];
    let mut shown = vec![first];
    for place in places {
        if shown.len() >= work.plan.examples {
            break;
        }
        if !classes.contains(&verdicts[0][place].label) {
            classes.push(verdicts[0][place].label);
            shown.push(show(work, made, place, attack)?);
        }
    }
    Ok(shown)
}

fn show(work: &Work<'_>, made: &[Made], place: usize, attack: usize) -> Result<Shown, DemoError> {
    let test = &work.data.split.test;
    let Verdict { index, label, .. } = made[0].evaluation.verdicts[place];
    let truth = test.classes[usize::from(label)].clone();
    let view = |made: &Made| {
        let clean = Rgb { height: test.height, width: test.width, pixels: test.image(index).to_vec() };
        let attacked = whole_levels(
            made.evaluation.adversarial(made.evaluation.attacks[attack].epsilon).expect("they are kept"),
            place,
            test,
        );
        let (of_clean, of_attacked) = (says(made, &clean)?, says(made, &attacked)?);
        Ok(View { clean, attacked, of_clean, of_attacked })
    };
    let views = made.iter().map(view).collect::<Result<Vec<_>, ClassifyError>>()?;
    let right = |said: &(String, f32)| said.0 == truth;
    let telling = views.iter().all(|view| right(&view.of_clean))
        && views.iter().map(|view| right(&view.of_attacked)).eq([false, true]);
    let epsilon = made[0].evaluation.attacks[attack].epsilon;
    Ok(Shown { epsilon, views, telling, truth })
}

/// Image `place` of `[images, 3, height, width]` in 8 bits a value. A budget of whole levels is kept.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // values are within [0, 1]
fn whole_levels(images: &[f32], place: usize, test: &Images) -> Rgb {
    let area = test.height * test.width;
    let planes = &images[place * 3 * area..][..3 * area];
    let level = |at: usize| (255.0 * planes[at % 3 * area + at / 3]).round() as u8;
    Rgb { height: test.height, width: test.width, pixels: (0..3 * area).map(level).collect() }
}

fn says(made: &Made, image: &Rgb) -> Result<(String, f32), ClassifyError> {
    let prediction = made.session.classify(image, &Classify::default())?;
    let (class, probability) = prediction.ranked(made.session.classes())[0];
    Ok((class.to_string(), probability))
}

/// Writes the image and its attacks as files, and says what the models make of them.
pub(super) fn write(work: &Work<'_>, made: &[Made], shown: &Shown) -> Result<Vec<Classified>, DemoError> {
    let mut classified = Vec::new();
    work.folder.write("clean.png", &png(&shown.views[0].clean))?;
    for (made, view) in made.iter().zip(&shown.views) {
        work.folder.write(made.kind.attacked, &png(&view.attacked))?;
        let files = [("clean.png", None, &view.of_clean), (made.kind.attacked, Some(shown.epsilon), &view.of_attacked)];
        for (name, epsilon, said) in files {
            let image = work.folder.path(name);
            classified.push(Classified {
                model: made.kind.name,
                epsilon,
                truth: shown.truth.clone(),
                predicted: said.0.clone(),
                probability: said.1,
                command: format!("gabion classify {} {}", quoted(&made.bundle), quoted(&image)),
                image,
            });
        }
    }
    Ok(classified)
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    if path.chars().all(|letter| letter.is_alphanumeric() || "/\\:._-+~@%".contains(letter)) && !path.starts_with('~') {
        return path;
    }
    format!("'{}'", path.replace('\'', "'\\''"))
}

pub(super) fn report(work: &Work<'_>, demo: &Demo, made: &[Made], shown: &[Shown]) -> Report {
    let models = made.iter().map(|made| ModelReport {
        name: made.kind.name.into(),
        description: format!("{} {}", made.kind.description, cost(made)),
        loss: made.loss.clone(),
        clean: made.evaluation.clean,
        points: made.evaluation.attacks.iter().map(|attack| (attack.epsilon, attack.rate)).collect(),
        seconds: made.seconds,
    });
    let examples = shown.iter().flat_map(|shown| {
        shown.views.iter().zip(&KINDS).map(|(view, kind)| Example {
            model: kind.name.into(),
            picture: Picture {
                truth: shown.truth.clone(),
                epsilon: shown.epsilon,
                clean: view.clean.clone(),
                adversarial: view.attacked.clone(),
                predicted_clean: view.of_clean.clone(),
                predicted_adversarial: view.of_attacked.clone(),
            },
        })
    });
    Report {
        title: "Gabion demo: free adversarial training against standard training".into(),
        facts: facts(work, demo, made),
        models: models.collect(),
        examples: examples.collect(),
        notes: notes(made, shown),
    }
}

fn cost(made: &Made) -> String {
    let passes = thousands(made.crop_passes);
    match made.recipe.threat {
        Threat::Free { epsilon, replays, .. } => {
            format!("{} epochs of {replays} replays at {epsilon}, {passes} crop passes.", made.recipe.epochs)
        }
        _ => format!("{} epochs, {passes} crop passes.", made.recipe.epochs),
    }
}

fn facts(work: &Work<'_>, demo: &Demo, made: &[Made]) -> Vec<(String, String)> {
    let (attack, synth, encoder) =
        (made[0].evaluation.attacks[0].described(), &work.plan.synth, &made[0].recipe.encoder);
    let images = made[0].recipe.images.map_or(synth.train, |images| images as usize);
    let presets: Vec<&str> = KINDS.iter().map(|kind| kind.preset).collect();
    let depth = format!("{:?}", encoder.depth);
    [
        ("command", work.command()),
        ("version", format!("gabion {} ({}), Burn {}", env!("CARGO_PKG_VERSION"), crate::COMMIT, crate::BURN)),
        ("device", format!("{} ({})", work.options.offered.name, work.options.offered.backend)),
        ("seed", format!("{} (weights, views, heads, test images), {} (drawn images)", demo.seed, synth.seed)),
        ("presets", presets.join(", ")),
        ("encoder", format!("{depth}, width {}", encoder.width)),
        (
            "data",
            format!("synth: ten drawn shapes, {images} images to pretrain on, {} for the classifier", synth.train),
        ),
        ("test", format!("{} images that no training saw", made[0].evaluation.images)),
        ("attack", format!("{attack}, zero start, on the whole model")),
        ("bundle", demo.bundle.display().to_string()),
        ("time", format!("{} in all", duration(demo.seconds))),
    ]
    .map(|(name, value)| (name.to_string(), value))
    .to_vec()
}

fn notes(made: &[Made], shown: &[Shown]) -> Vec<String> {
    let mut notes = vec![
        "Both models went through the same number of crops, every replay counted. PGD is an upper bound: stronger \
         attacks leave less."
            .to_string(),
        "These are small networks on drawn shapes, trained for a minute or two; their numbers say nothing about photographs."
            .into(),
        "The free-AT model was measured from its exported bundle, with weights at half precision.".into(),
    ];
    let chosen = if shown[0].telling {
        "The first image was chosen because the attack deceives the standard model on it and not the other."
    } else {
        "No image was found on which the attack deceives the standard model and not the other."
    };
    notes.push(format!(
        "{chosen} The rest are the first of other classes that both models get right when clean, whatever the attack \
         makes of them. Attacked images are rounded to 8 bits before they are shown and classified."
    ));
    let warnings = made
        .iter()
        .flat_map(|made| made.evaluation.warnings.iter().map(move |warning| format!("{}: {warning}.", made.kind.name)));
    notes.extend(warnings);
    notes
}
