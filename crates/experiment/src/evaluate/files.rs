//! An evaluation in files, written whole or not at all.

use super::Evaluation;
use super::subject::Drawn;
use crate::measure::{Error, Result};
use gabion_runtime::durable;
use gabion_spec::{Norm, Pixels};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

impl Evaluation {
    /// Images that stand every attack of a budget.
    fn standing(&self, epsilon: Pixels) -> usize {
        let rows: Vec<usize> = (0..self.attacks.len()).filter(|&row| self.attacks[row].epsilon == epsilon).collect();
        self.verdicts.iter().filter(|verdict| rows.iter().all(|&row| verdict.robust[row])).count()
    }

    /// Writes one row an image: `index,label,predicted,clean` and a column for each attack, such as `pgd-20 8/255`; 1 in
    /// them for right, 0 for wrong.
    ///
    /// # Errors
    /// When the system refuses; the file is then as it was.
    pub fn write_csv(&self, path: &Path) -> Result<()> {
        let rows = |file: &mut dyn io::Write| -> csv::Result<()> {
            let mut table = csv::Writer::from_writer(file);
            let columns = ["index", "label", "predicted", "clean"].map(String::from);
            table.write_record(columns.into_iter().chain(self.attacks.iter().map(super::Row::what)))?;
            for verdict in &self.verdicts {
                let clean = verdict.predicted == verdict.label;
                let numbers = [verdict.index, verdict.label.into(), verdict.predicted.into(), clean.into()];
                let robust = verdict.robust.iter().map(|&robust| usize::from(robust));
                table.write_record(numbers.into_iter().chain(robust).map(|number| number.to_string()))?;
            }
            Ok(table.flush()?)
        };
        durable::write_with(path, |file| rows(file).map_err(io::Error::other))
            .map_err(Error::io("write the results to", path))
    }

    /// Writes the adversarial images: for each budget `adversarial_8_255` f32 `[images, 3, height, width]` in `[0, 1]`
    /// (named by [`tensor_name`]), and with them `index` and `label` i64 `[images]`. An image that the clean model gets
    /// wrong is there unchanged.
    ///
    /// # Errors
    /// When they were not kept, or the system refuses; the file is then as it was.
    pub fn write_adversarial(&self, path: &Path) -> Result<()> {
        let Some(kept) = &self.adversarial else { return Err(Error::NotKept) };
        let [height, width] = self.size;
        let images = self.verdicts.len();
        let numbers = |of: &dyn Fn(&super::Verdict) -> usize| -> Vec<i64> {
            self.verdicts.iter().map(|verdict| i64::try_from(of(verdict)).expect("indices fit i64")).collect()
        };
        let (index, label) = (numbers(&|verdict| verdict.index), numbers(&|verdict| verdict.label.into()));
        let view = |dtype, shape: Vec<usize>, bytes| {
            TensorView::new(dtype, shape, bytes).expect("the shape is that of the values")
        };
        let mut tensors = vec![
            ("index".to_string(), view(Dtype::I64, vec![images], bytemuck::cast_slice(&index))),
            ("label".to_string(), view(Dtype::I64, vec![images], bytemuck::cast_slice(&label))),
        ];
        for (epsilon, values) in kept {
            let shape = vec![images, 3, height, width];
            tensors.push((tensor_name(*epsilon), view(Dtype::F32, shape, bytemuck::cast_slice(values))));
        }
        let standing = kept.iter().map(|(epsilon, _)| (tensor_name(*epsilon), self.standing(*epsilon))).collect();
        let norm = self.attacks.first().map_or_else(Norm::default, |row| row.norm);
        let about = About { weights: self.weights_sha256.clone(), norm, standing, crops: self.over };
        // One entry, because a file with several has them in any order.
        let text = serde_json::to_string(&about).expect("plain data");
        let metadata = HashMap::from([(ABOUT.to_string(), text)]);
        safetensors::serialize(tensors, Some(metadata))
            .map_err(io::Error::other)
            .and_then(|whole| durable::write(path, &whole))
            .map_err(Error::io("write the adversarial images to", path))
    }
}

/// The entry of a file's metadata that says what its images are.
pub(super) const ABOUT: &str = "gabion";

/// What adversarial images in a file are of.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct About {
    /// SHA-256 of the model's weights.
    pub(super) weights: String,
    /// How budgets are measured.
    pub(super) norm: Norm,
    /// By the name of a tensor, how many of its images the model gets right.
    pub(super) standing: BTreeMap<String, usize>,
    /// The crops that images were classified by, where they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) crops: Option<Drawn>,
}

/// The tensor of a budget's adversarial images: `adversarial_8_255` of 8/255, `adversarial_0.01` of 0.01.
pub fn tensor_name(epsilon: Pixels) -> String {
    format!("adversarial_{}", epsilon.to_string().replace('/', "_"))
}
