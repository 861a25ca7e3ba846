//! Features of the frozen encoder for whole parts of a data set, kept on the host and cached on disk.

use crate::data::Images;
use crate::measure::{Error, Result, hexadecimal, host, pixels};
use burn::Tensor;
use burn::module::Module;
use burn::tensor::{Device, TensorData};
use gabion_augment::{Augment, Draw, ViewId, cpu, sample};
use gabion_learn::{Mode, Model};
use gabion_runtime::durable;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::Path;

/// Crops of one forward pass.
const BATCH: usize = 256;

/// What of an image the encoder sees.
#[derive(Clone, Debug)]
pub(crate) enum View {
    /// All of it.
    Whole,
    /// The mean feature over random views.
    Mean {
        /// How they are drawn.
        augment: Augment,
        /// How many.
        views: u32,
        /// Which ones.
        seed: u64,
    },
}

/// Features of a part of a data set.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Features {
    /// `[images, length]`.
    pub(crate) values: Vec<f32>,
    /// Length of a feature.
    pub(crate) length: usize,
}

impl Features {
    /// Rows on a device.
    ///
    /// # Shapes
    /// - output: `[indices.len(), length]`
    pub(crate) fn rows(&self, indices: &[usize], device: &Device) -> Tensor<2> {
        let mut rows = Vec::with_capacity(indices.len() * self.length);
        for &index in indices {
            rows.extend_from_slice(&self.values[index * self.length..][..self.length]);
        }
        Tensor::from_data(TensorData::new(rows, [indices.len(), self.length]), device)
    }
}

/// An encoder without autodiff, named by its weights.
pub(crate) struct Frozen {
    pub(crate) model: Model,
    pub(crate) device: Device,
    /// SHA-256 of its weights.
    pub(crate) sha256: String,
}

impl Frozen {
    pub(crate) fn new(model: &Model, device: &Device) -> Self {
        let device = device.clone().inner();
        Self { model: model.valid().to_device(&device), sha256: fingerprint(model), device }
    }

    /// The features of every image; from the cache where it holds them whole, else computed and stored there.
    ///
    /// `observe` hears how many images are done, and `None` when the cache had them.
    pub(crate) fn features(
        &self,
        (part, images): (&'static str, &Images),
        view: &View,
        cache: Option<&Path>,
        observe: &mut dyn FnMut(Option<usize>),
    ) -> Result<Features> {
        let file = cache.map(|cache| cache.join(format!("features-{}.safetensors", self.key(part, images, view))));
        if let Some(features) = file.as_deref().and_then(|file| read(file, images.len())) {
            observe(None);
            return Ok(features);
        }
        let features = self.compute(part, images, view, observe)?;
        if let (Some(folder), Some(file)) = (cache, file) {
            std::fs::create_dir_all(folder).map_err(Error::io("make the cache folder", folder))?;
            write(&file, &features).map_err(Error::io("write the features to", &file))?;
        }
        Ok(features)
    }

    /// Everything that decides the features, hashed.
    fn key(&self, part: &str, images: &Images, view: &View) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("gabion features 1\n{}\n{:?}\n{part}\n{view:?}\n", self.sha256, self.device));
        hash.update(format!("{}x{}\n", images.height, images.width));
        for label in &images.labels {
            hash.update(label.to_le_bytes());
        }
        hash.update(&images.pixels);
        hexadecimal(&hash.finalize())
    }

    fn compute(
        &self,
        part: &'static str,
        images: &Images,
        view: &View,
        observe: &mut dyn FnMut(Option<usize>),
    ) -> Result<Features> {
        let views = match view {
            View::Whole => 1,
            View::Mean { views, .. } => *views as usize,
        };
        let (mut values, mut length) = (Vec::new(), 0);
        let indices: Vec<usize> = (0..images.len()).collect();
        for chunk in indices.chunks((BATCH / views).max(1)) {
            let crops = match view {
                View::Whole => pixels(images, chunk),
                View::Mean { augment, seed, .. } => crops(part, images, chunk, (augment, views, *seed)),
            };
            let feature = self.model.feature(Tensor::from_data(crops, &self.device), Mode::Eval);
            length = feature.dims()[1];
            let mean = feature.reshape([chunk.len(), views, length]).mean_dim(1);
            let rows = host(mean);
            if let Some(at) = rows.iter().position(|value| !value.is_finite()) {
                return Err(Error::NotFinite { part, image: chunk[at / length] });
            }
            if values.is_empty() {
                values.reserve_exact(images.len() * length);
            }
            values.extend(rows);
            observe(Some(values.len() / length));
        }
        Ok(Features { values, length })
    }
}

/// `views` crops of each image, image-major. The parts of a data set get streams of their own.
fn crops(part: &str, images: &Images, chunk: &[usize], (augment, views, seed): (&Augment, usize, u64)) -> TensorData {
    let narrow = |value: usize| u32::try_from(value).expect("images, views and sides fit u32");
    let size = [narrow(images.height), narrow(images.width)];
    let sources: Vec<_> = chunk.iter().map(|&index| cpu::Source::bytes(images.image(index), size)).collect();
    let draws: Vec<Draw> = chunk
        .iter()
        .enumerate()
        .flat_map(|(place, &index)| {
            (0..narrow(views)).map(move |view| {
                let id = ViewId { seed, epoch: u32::from(part != "train"), image: narrow(index), view };
                Draw { image: narrow(place), ..sample(augment, id, size) }
            })
        })
        .collect();
    let [height, width] = augment.size.map(|side| side as usize);
    let mut values = vec![0.0; draws.len() * 3 * height * width];
    cpu::apply_batch(&sources, &draws, augment.size, &mut values);
    TensorData::new(values, [draws.len(), 3, height, width])
}

/// SHA-256 of a model's weights by name, whatever file they came from.
pub(crate) fn fingerprint(model: &Model) -> String {
    let mut hash = Sha256::new();
    for (name, data) in gabion_learn::weights::export(model, "") {
        hash.update(format!("{name} {:?}\n", data.shape().to_vec()));
        hash.update(bytemuck::cast_slice(data.as_slice::<f32>().expect("weights are exported as f32")));
    }
    hexadecimal(&hash.finalize())
}

const SHA256: &str = "sha256";
const TENSOR: &str = "features";

fn write(file: &Path, features: &Features) -> std::io::Result<()> {
    let bytes: &[u8] = bytemuck::cast_slice(&features.values);
    let shape = vec![features.values.len() / features.length, features.length];
    let view = TensorView::new(Dtype::F32, shape, bytes).expect("the shape is that of the values");
    let metadata = HashMap::from([(SHA256.to_string(), hexadecimal(&Sha256::digest(bytes)))]);
    let whole = safetensors::serialize([(TENSOR, view)], Some(metadata)).map_err(std::io::Error::other)?;
    durable::write(file, &whole)
}

/// The features in a file; none when it is absent, damaged or of another number of images, so that they are computed
/// again.
fn read(file: &Path, images: usize) -> Option<Features> {
    let bytes = std::fs::read(file).ok()?;
    let (_, header) = SafeTensors::read_metadata(&bytes).ok()?;
    let tensors = SafeTensors::deserialize(&bytes).ok()?;
    let view = tensors.tensor(TENSOR).ok()?;
    let &[rows, length] = view.shape() else { return None };
    let whole = header.metadata().as_ref()?.get(SHA256)? == &hexadecimal(&Sha256::digest(view.data()));
    let fits = view.dtype() == Dtype::F32 && rows == images && length > 0 && whole;
    // Not a cast: the bytes in a file are not aligned.
    fits.then(|| Features { values: bytemuck::pod_collect_to_vec(view.data()), length })
}
