//! The folder of a long evaluation: what is done so far, and in the end its results.

use super::{Arguments, typed};
use crate::output::Failure;
use gabion_experiment::data::Data;
use gabion_experiment::evaluate::{Assessment, Subject};
use gabion_runtime::durable;
use gabion_spec::{Evaluate, Norm};
use std::path::{Path, PathBuf};

/// What an evaluation was of, for the report.
pub(super) struct About<'a> {
    pub(super) subject: &'a Subject,
    pub(super) data: &'a Data,
    pub(super) device: &'a str,
}

/// The folder that was named; for a long protocol one below `evaluations` that says what it is of.
pub(super) fn of(arguments: &Arguments, subject: &Subject, recipe: &Evaluate) -> Option<PathBuf> {
    if arguments.out.is_some() || !arguments.protocol.is_long() {
        return arguments.out.clone();
    }
    let images = recipe.images.map_or("all".to_string(), |images| images.to_string());
    let norm = if recipe.norm == Norm::L2 { "-l2" } else { "" };
    let weights = &subject.weights[..subject.weights.len().min(8)];
    let name: String = subject.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Some(Path::new("evaluations").join(format!("{name}-{weights}-{images}-seed{}{norm}", recipe.seed)))
}

/// Writes `result.json`, `images.csv`, `adversarial.safetensors` and `report.html`.
pub(super) fn write(
    folder: &Path,
    assessment: &Assessment,
    value: &serde_json::Value,
    about: &About<'_>,
) -> Result<(), Failure> {
    let _ = (about.subject, about.data, about.device, typed());
    durable::write(&folder.join("result.json"), &serde_json::to_vec_pretty(value)?)?;
    assessment.evaluation.write_csv(&folder.join("images.csv"))?;
    if !assessment.evaluation.attacks.is_empty() {
        assessment.evaluation.write_adversarial(&folder.join("adversarial.safetensors"))?;
    }
    Ok(())
}
