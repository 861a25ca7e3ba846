//! The folder of a long evaluation: what is done so far, and in the end its results.

use super::Arguments;
use crate::commands::typed;
use crate::output::Failure;
use gabion_experiment::data::Data;
use gabion_experiment::evaluate::{Assessment, Subject, page};
use gabion_runtime::durable;
use gabion_runtime::frozen::Precision;
use gabion_spec::{Evaluate, Norm, Protocol};
use serde_json::{Value, json};
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

/// What an evaluation leaves in its folder.
const FILES: [&str; 4] = ["result.json", "images.csv", "adversarial.safetensors", "report.html"];

/// Protocol and attacks of a result, which are the same whenever one command is run twice.
fn settings(result: &Value) -> Value {
    let of = |row: &Value| json!([row["name"], row["norm"], row["epsilon"]]);
    let rows = |key: &str| result[key].as_array().map_or_else(Vec::new, |rows| rows.iter().map(of).collect());
    json!([result["protocol"], rows("attacks"), rows("wide"), result["views"]["views"]])
}

/// The results of other attacks on the same images and weights, which may share the folder, go into a folder of their own
/// that is named by their protocol. Where it is, if there were any.
fn set_aside(folder: &Path, value: &Value) -> Result<Option<PathBuf>, Failure> {
    let read = std::fs::read(folder.join(FILES[0])).ok();
    let Some(theirs) = read.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()) else { return Ok(None) };
    if settings(&theirs) == settings(value) {
        return Ok(None);
    }
    // What a file says is a name only where it is a protocol's.
    let protocol = serde_json::from_value::<Protocol>(theirs["protocol"].clone()).ok();
    let name = protocol.and_then(|_| theirs["protocol"].as_str()).unwrap_or("earlier");
    let aside = (1..).map(|number| folder.join(format!("{name}-{number}"))).find(|place| !place.exists());
    let aside = aside.expect("there is a free number");
    std::fs::create_dir(&aside).map_err(|error| anyhow::anyhow!("cannot make {}: {error}", aside.display()))?;
    for name in FILES {
        let (from, to) = (folder.join(name), aside.join(name));
        if from.is_file() {
            std::fs::rename(&from, &to)
                .map_err(|error| anyhow::anyhow!("cannot move {} aside: {error}", from.display()))?;
        }
    }
    Ok(Some(aside))
}

/// Writes `result.json`, `images.csv`, `adversarial.safetensors` and `report.html`; says where earlier ones went.
pub(super) fn write(
    folder: &Path,
    assessment: &Assessment,
    value: &Value,
    about: &About<'_>,
) -> Result<Option<PathBuf>, Failure> {
    let aside = set_aside(folder, value)?;
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
    Ok(aside)
}
