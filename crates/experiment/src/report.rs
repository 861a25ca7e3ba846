//! A report as one HTML page that needs nothing else: tables, plots and images lie within it.
//!
//! Plain data in, text out; whoever calls [`render`] writes the file. The page follows the reader's light or dark
//! scheme, fits a phone and prints.

mod adaptation;
pub(crate) mod plot;

pub use adaptation::adaptation;

use crate::measure::Rate;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gabion_runtime::Rgb;
use gabion_spec::{Pixels, one_line};
use image::{ImageFormat, RgbImage};
use minijinja::value::Value;
use minijinja::{Environment, context};
use std::io::Cursor;

/// What a report tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Its heading.
    pub title: String,
    /// Name and value of what describes the run as a whole: command, versions, seeds.
    pub facts: Vec<(String, String)>,
    /// The models side by side.
    pub models: Vec<ModelReport>,
    /// Images before and after an attack.
    pub examples: Vec<Example>,
    /// What a reader of the numbers should know; a paragraph each.
    pub notes: Vec<String>,
}

/// A model and what was measured of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelReport {
    /// Its name, a word or two.
    pub name: String,
    /// What it is, a sentence.
    pub description: String,
    /// Loss of each optimizer step; empty where it was not recorded.
    pub loss: Vec<(u64, f32)>,
    /// Accuracy on unperturbed images.
    pub clean: Rate,
    /// Accuracy under attack at each budget.
    pub points: Vec<(Pixels, Rate)>,
    /// Time that its pretraining took; 0 where that is not told.
    pub seconds: f64,
}

/// An image before and after an attack on one of several models.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Name of the model that was attacked.
    pub model: String,
    /// What it saw and said.
    pub picture: Picture,
}

/// An image before and after an attack.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// The true class.
    pub truth: String,
    /// Budget of the attack.
    pub epsilon: Pixels,
    /// The image.
    pub clean: Rgb,
    /// The attacked image, of the same size; the perturbation that the page shows is their difference.
    pub adversarial: Rgb,
    /// Class predicted of the image, with its probability.
    pub predicted_clean: (String, f32),
    /// Class predicted of the attacked image, with its probability.
    pub predicted_adversarial: (String, f32),
}

/// Why a report cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// An example's images that do not match.
    #[error(
        "example {example} has a clean image of {} and an adversarial one of {}: give both the same size and 3 bytes a pixel",
        described(clean),
        described(adversarial)
    )]
    Images {
        /// Which, from 0.
        example: usize,
        /// Height, width and bytes of the image.
        clean: [usize; 3],
        /// Height, width and bytes of the attacked image.
        adversarial: [usize; 3],
    },
    /// The plotting library refused.
    #[error("cannot draw the plot of {what}: {why}")]
    Plot {
        /// What is plotted.
        what: &'static str,
        /// The library's reason.
        why: String,
    },
    /// The template refused.
    #[error("cannot fill the report's template: {why}")]
    Template {
        /// The engine's reason.
        why: String,
    },
}

fn described([height, width, bytes]: &[usize; 3]) -> String {
    format!("{height}x{width} pixels in {bytes} bytes")
}

/// How models are told apart, in this order and then again from the first: a colour of the style sheet and a shape.
pub(crate) const MARKS: [&str; 6] = ["●", "■", "▲", "◆", "▼", "✚"];

/// The page.
///
/// # Errors
/// When an example's two images differ in size; anything else would be a defect of the template or the plots.
pub fn render(report: &Report) -> Result<String, ReportError> {
    let Report { title, facts, models, examples, notes } = report;
    let views = models.iter().enumerate().map(|(at, model)| {
        context! {
            series => at % MARKS.len(),
            mark => MARKS[at % MARKS.len()],
            name => &model.name,
            description => &model.description,
            time => if model.seconds > 0.0 { format!("Pretrained in {}.", duration(model.seconds)) } else { String::new() },
            has_loss => !model.loss.is_empty(),
        }
    });
    let accuracy_plot = if models.is_empty() { String::new() } else { plot::accuracy(models)? };
    let loss_plot = plot::loss(models)?;
    let examples = examples.iter().enumerate().map(|(at, example)| shown(at, example, models));
    let context = context! {
        title,
        facts => facts.iter().map(|(name, value)| context! { name, value }).collect::<Vec<_>>(),
        models => views.collect::<Vec<_>>(),
        rows => rows(models),
        accuracy_plot => Value::from_safe_string(accuracy_plot),
        loss_plot => loss_plot.map(Value::from_safe_string),
        examples => examples.collect::<Result<Vec<_>, _>>()?,
        notes => notes.iter().map(Value::from).collect::<Vec<_>>(),
    };
    fill("report.html", &context)
}

/// A template of this folder, filled. What pages share lies there too.
pub(crate) fn fill(name: &'static str, context: &Value) -> Result<String, ReportError> {
    // A name that ends in html switches escaping on.
    let templates = [
        ("report.html", include_str!("report/report.html")),
        ("evaluation.html", include_str!("report/evaluation.html")),
        ("triple.html", include_str!("report/triple.html")),
        ("style.css", include_str!("report/style.css")),
    ];
    let mut environment = Environment::new();
    let filled = templates
        .into_iter()
        .try_for_each(|(name, text)| environment.add_template(name, text))
        .and_then(|()| environment.get_template(name)?.render(context));
    filled.map_err(|error| ReportError::Template { why: one_line(&format!("{error:#}")) })
}

/// A row for the clean images, then one a budget, rising.
fn rows(models: &[ModelReport]) -> Vec<Value> {
    let row = |label: String, rates: Vec<Option<Rate>>| {
        let most = rates.iter().flatten().map(|rate| rate.accuracy).fold(0.0, f64::max);
        let cell = |rate: Rate| {
            context! {
                accuracy => format!("{:.1} %", 100.0 * rate.accuracy),
                interval => format!("{:.1} – {:.1}", 100.0 * rate.low, 100.0 * rate.high),
                best => rate.accuracy >= most,
            }
        };
        context! { label, cells => rates.into_iter().map(|rate| Value::from(rate.map(cell))).collect::<Vec<_>>() }
    };
    let mut epsilons: Vec<Pixels> = models.iter().flat_map(|model| model.points.iter().map(|point| point.0)).collect();
    epsilons.sort_by(|a, b| a.0.total_cmp(&b.0));
    epsilons.dedup();
    let at = |epsilon: Pixels| {
        let rates =
            models.iter().map(|model| model.points.iter().find(|point| point.0 == epsilon).map(|point| point.1));
        row(format!("PGD {epsilon}"), rates.collect())
    };
    let clean = row("none".into(), models.iter().map(|model| Some(model.clean)).collect());
    std::iter::once(clean).chain(epsilons.into_iter().map(at)).collect()
}

fn shown(at: usize, Example { model, picture }: &Example, models: &[ModelReport]) -> Result<Value, ReportError> {
    let series = models.iter().position(|other| other.name == *model).unwrap_or(0) % MARKS.len();
    Ok(context! { series, mark => MARKS[series], model, ..triple(at, picture)? })
}

/// The image, what was added to it, and what came of it; `at` names it in an error.
pub(crate) fn triple(at: usize, picture: &Picture) -> Result<Value, ReportError> {
    let Picture { truth, epsilon, clean, adversarial, predicted_clean, predicted_adversarial } = picture;
    let sizes = [clean, adversarial].map(|image| [image.height, image.width, image.pixels.len()]);
    let bytes = clean.height.checked_mul(clean.width).and_then(|area| area.checked_mul(3));
    if sizes[0] != sizes[1] || bytes != Some(clean.pixels.len()) || bytes == Some(0) {
        return Err(ReportError::Images { example: at, clean: sizes[0], adversarial: sizes[1] });
    }
    let view = |image: &Rgb, (class, probability): &(String, f32)| {
        let (verdict, sign) = if class == truth { ("right", "✓") } else { ("wrong", "✗") };
        let confidence = format!("{:.0} %", 100.0 * probability);
        context! { src => source(image), class, confidence, verdict, sign }
    };
    Ok(context! {
        truth,
        epsilon => epsilon.to_string(),
        width => clean.width,
        height => clean.height,
        clean => view(clean, predicted_clean),
        perturbation => source(&perturbation(clean, adversarial)),
        adversarial => view(adversarial, predicted_adversarial),
    })
}

/// Ten times the difference, around grey.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped to a byte
fn perturbation(clean: &Rgb, adversarial: &Rgb) -> Rgb {
    let enlarged = |(&clean, &adversarial): (&u8, &u8)| {
        (128 + 10 * (i32::from(adversarial) - i32::from(clean))).clamp(0, 255) as u8
    };
    Rgb { pixels: clean.pixels.iter().zip(&adversarial.pixels).map(enlarged).collect(), ..*clean }
}

/// An image as PNG.
///
/// # Panics
/// When there are not 3 bytes a pixel, or a side does not fit PNG.
pub(crate) fn png(image: &Rgb) -> Vec<u8> {
    let side = |side: usize| u32::try_from(side).expect("a side fits u32");
    let picture =
        RgbImage::from_raw(side(image.width), side(image.height), image.pixels.clone()).expect("3 bytes a pixel");
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).expect("memory takes every PNG");
    bytes.into_inner()
}

/// An image for `src`.
fn source(image: &Rgb) -> Value {
    Value::from_safe_string(format!("data:image/png;base64,{}", STANDARD.encode(png(image))))
}

/// Such as `95 232`, with narrow spaces that do not break.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&[u8]> = digits.as_bytes().rchunks(3).rev().collect();
    groups.iter().map(|group| String::from_utf8_lossy(group)).collect::<Vec<_>>().join("\u{202f}")
}

/// Such as `41 s` or `12 min`.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 10.0 => format!("{seconds:.1} s"),
        seconds if seconds < 120.0 => format!("{seconds:.0} s"),
        seconds if seconds < 7200.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{:.1} h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let model = |name: &str, rights: [u64; 3]| ModelReport {
            name: name.into(),
            description: "A <description>.".into(),
            loss: (0..400).map(|step| (step, -90.0 - 60.0 * (1.0 - (-(step as f32) / 60.0).exp()))).collect(),
            clean: Rate::new(rights[0], 300),
            points: vec![(Pixels::of_255(8.0), Rate::new(rights[2], 300)), (Pixels(0.01), Rate::new(rights[1], 300))],
            seconds: 41.3,
        };
        let image = |value: u8| Rgb { height: 32, width: 32, pixels: vec![value; 32 * 32 * 3] };
        Report {
            title: "A & <b>".into(),
            facts: vec![("command".into(), "gabion demo --out '<x>'".into())],
            models: vec![model("standard", [240, 60, 0]), model("free-AT <script>", [210, 160, 90])],
            examples: vec![Example {
                model: "standard".into(),
                picture: Picture {
                    truth: "ring \"".into(),
                    epsilon: Pixels::of_255(8.0),
                    clean: image(100),
                    adversarial: image(108),
                    predicted_clean: ("ring \"".into(), 0.98),
                    predicted_adversarial: ("disc".into(), 0.71),
                },
            }],
            notes: vec!["1 < 2".into()],
        }
    }

    #[test]
    fn a_page_is_whole_escaped_and_needs_nothing_else() {
        let page = render(&report()).unwrap();
        for part in [
            "<title>A &amp; &lt;b&gt;</title>",
            "80.0 %",
            "PGD 8&#x2f;255",
            "PGD 0.01",
            "✗ disc",
            "71 %",
            "1 &lt; 2",
            "41 s",
        ] {
            assert!(page.contains(part), "{part} is not there");
        }
        for part in ["<script", "<description>", "'<x>'", "<link", "url(", "@import"] {
            assert!(!page.contains(part), "{part} is there");
        }
        // Nothing is loaded: every source is within, and no address but the name of SVG.
        let sources: Vec<&str> = page.split("src=\"").skip(1).collect();
        assert!(sources.len() == 3 && sources.iter().all(|source| source.starts_with("data:image/png;base64,")));
        assert_eq!(page.matches("http").count(), page.matches("http://www.w3.org/2000/svg").count());
        assert_eq!(page.matches("<svg role=\"img\" aria-label=").count(), 2);
        assert_eq!(page.matches("<img").count(), page.matches(" alt=\"").count());
    }

    #[test]
    fn an_empty_report_is_a_page() {
        let page = render(&Report { title: "Nothing".into(), ..Report::default() }).unwrap();
        assert!(page.contains("<h1>Nothing</h1>") && !page.contains("<svg role") && !page.contains("<table>"));
    }

    #[test]
    fn strange_numbers_draw() {
        let mut report = report();
        report.models[0].loss = vec![(0, f32::NAN), (1, f32::INFINITY)];
        report.models[1].loss = vec![(7, 2.0)];
        report.models[0].points.clear();
        render(&report).unwrap();
        report.models[1].points.clear();
        let page = render(&report).unwrap();
        assert!(!page.contains("NaN") && !page.contains("inf,"));
    }

    #[test]
    fn a_perturbation_is_the_difference_around_grey() {
        let clean = Rgb { height: 1, width: 1, pixels: vec![100, 100, 100] };
        let adversarial = Rgb { height: 1, width: 1, pixels: vec![108, 92, 0] };
        assert_eq!(perturbation(&clean, &adversarial).pixels, [208, 48, 0]);
        let mut report = report();
        report.examples[0].picture.adversarial = adversarial;
        let error = render(&report).unwrap_err().to_string();
        assert!(error.contains("example 0") && error.contains("1x1") && !error.contains('\n'), "{error}");
    }
}
