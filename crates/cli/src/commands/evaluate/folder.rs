//! The folder of a long evaluation: what is done so far, and in the end its results.

use super::Arguments;
use crate::commands::typed;
use crate::output::Failure;
use gabion_experiment::data::Data;
use gabion_experiment::evaluate::{Assessment, Subject, page};
use gabion_runtime::durable;
use gabion_runtime::frozen::Precision;
use gabion_spec::{Evaluate, Norm};
use std::path::{Path, PathBuf};

/// Images that a report shows.
const PICTURES: usize = 8;

/// What an evaluation was of, for the report.
pub(super) struct About<'a> {
    pub(super) subject: &'a Subject,
    pub(super) data: &'a Data,
    pub(super) device: &'a str,
}

/// The folder that was named; for a long protocol one below `evaluations` that says what it is of.
pub(super) fn of(arguments: &Arguments, subject: &Subject, data: &Data, recipe: &Evaluate) -> Option<PathBuf> {
    if arguments.out.is_some() || !arguments.protocol.is_long() {
        return arguments.out.clone();
    }
    let images = recipe.images.map_or("all".to_string(), |images| images.to_string());
    let norm = if recipe.norm == Norm::L2 { "-l2" } else { "" };
    let weights = &subject.weights[..subject.weights.len().min(8)];
    let budgets: Vec<String> = arguments.epsilon.iter().map(|epsilon| epsilon.to_string().replace('/', "of")).collect();
    let budgets = budgets.iter().fold(String::new(), |all, budget| format!("{all}-{budget}"));
    let name: String = subject.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let protocol = serde_json::to_value(recipe.protocol).unwrap_or_default();
    let protocol = protocol.as_str().unwrap_or("evaluation");
    let precision = match subject.precision() {
        Precision::F32 => String::new(),
        other => format!("-{other}"),
    };
    let of = format!("{name}-{weights}{precision}-{}", data.kind.name());
    let folder = format!("{of}-{protocol}-{images}-seed{}{norm}{budgets}", recipe.seed);
    Some(Path::new("evaluations").join(folder))
}

/// Writes `result.json`, `images.csv`, `adversarial.safetensors` and `report.html`.
pub(super) fn write(
    folder: &Path,
    assessment: &Assessment,
    value: &serde_json::Value,
    about: &About<'_>,
) -> Result<(), Failure> {
    durable::write(&folder.join("result.json"), &serde_json::to_vec_pretty(value)?)?;
    assessment.evaluation.write_csv(&folder.join("images.csv"))?;
    if !assessment.evaluation.attacks.is_empty() {
        assessment.evaluation.write_adversarial(&folder.join("adversarial.safetensors"))?;
    }
    let test = &about.data.split.test;
    let text = |key: &str, field: &str| value[key][field].as_str().unwrap_or_default().to_string();
    let facts = [
        ("weights (SHA-256)", about.subject.weights.clone()),
        ("device", about.device.to_string()),
        ("precision", about.subject.precision().to_string()),
        ("machine", text("machine", "cpu")),
        ("gabion", text("versions", "gabion")),
        ("Burn", text("versions", "burn")),
    ];
    let page = page::page(
        assessment,
        &page::About {
            bundle: about.subject.name.clone(),
            data: format!("{} test", about.data.kind.name()),
            command: typed(),
            facts: facts.map(|(name, value)| (name.to_string(), value)).to_vec(),
            classes: test.classes.clone(),
            pictures: page::pictures(about.subject, test, &assessment.evaluation, PICTURES),
        },
    )?;
    durable::write(&folder.join("report.html"), page.as_bytes())?;
    Ok(())
}
