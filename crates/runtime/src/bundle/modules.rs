//! A bundle as Burn's modules, to be trained, attacked or run on a device.

use super::{BundleError, MANIFEST, Stored};
use crate::weights::Tensor;
use burn::tensor::{Device, Shape, TensorData};
use gabion_learn::weights::{export, import};
use gabion_learn::{Head, Model};
use gabion_spec::{Manifest, Misfit, Precision};
use std::collections::BTreeMap;
use std::path::Path;

/// A manifest with the modules that it describes.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// What the bundle is.
    pub manifest: Manifest,
    /// Encoder and projector.
    pub model: Model,
    /// The classifier, when there is one.
    pub head: Option<Head>,
}

impl Bundle {
    /// Opens a bundle onto a device; see [`Stored::read`].
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn open(dir: &Path, device: &Device) -> Result<Self, BundleError> {
        let stored = Stored::read(dir)?;
        let file = dir.join(&stored.manifest.weights.file);
        Self::made_of(stored, device).map_err(|misfit| BundleError::Tensor { path: file, misfit })
    }

    /// The modules of a stored bundle on a device.
    ///
    /// # Errors
    /// The first tensor that does not fit.
    pub fn made_of(stored: Stored, device: &Device) -> Result<Self, Misfit> {
        let Stored { manifest, tensors } = stored;
        let data = |Tensor { shape, values }: Tensor| TensorData::new(values, Shape::from(shape));
        let mut tensors: BTreeMap<String, TensorData> =
            tensors.into_iter().map(|(name, tensor)| (name, data(tensor))).collect();
        let model = import(Model::init(&manifest.encoder, &manifest.projector, 0, device), "", &mut tensors)?;
        let head = match manifest.head {
            Some(_) => {
                let head = Head::init(manifest.projector.hidden as usize, manifest.classes.len(), 0, device);
                Some(import(head, "head.", &mut tensors)?)
            }
            None => None,
        };
        match tensors.into_keys().next() {
            Some(name) => Err(Misfit::Extra { name }),
            None => Ok(Self { manifest, model, head }),
        }
    }

    /// The bundle as it would be stored.
    pub fn stored(&self) -> Stored {
        Stored { manifest: self.manifest.clone(), tensors: tensors_of(&self.model, self.head.as_ref()) }
    }

    /// Writes a bundle and returns its manifest, whose `format` and `weights` are set here; see [`Stored::write`].
    ///
    /// # Errors
    /// When manifest and modules disagree, a value is not finite or does not fit the precision, or the system refuses;
    /// a folder that was not there then still is not.
    pub fn write(
        dir: &Path,
        manifest: Manifest,
        model: &Model,
        head: Option<&Head>,
        precision: Precision,
    ) -> Result<Manifest, BundleError> {
        if manifest.head.is_some() != head.is_some() {
            let word = |has| if has { "a head" } else { "no head" };
            let (manifest, modules) = (word(manifest.head.is_some()), word(head.is_some()));
            return Err(BundleError::HeadDiffers { path: dir.join(MANIFEST), manifest, modules });
        }
        Stored { manifest, tensors: tensors_of(model, head) }.write(dir, precision)
    }
}

fn tensors_of(model: &Model, head: Option<&Head>) -> BTreeMap<String, Tensor> {
    let mut tensors = export(model, "");
    if let Some(head) = head {
        tensors.extend(export(head, "head."));
    }
    let tensor = |data: TensorData| {
        let shape = data.shape().to_vec();
        Tensor { shape, values: data.try_into_vec::<f32>().expect("weights are exported as f32") }
    };
    tensors.into_iter().map(|(name, data)| (name, tensor(data))).collect()
}
