//! Networks that others trained, as subjects: a `.safetensors` file of a known architecture.

use super::Subject;
use crate::measure::{Error, Result, hexadecimal};
use burn::Tensor;
use burn::tensor::{Device, TensorData};
use gabion_learn::networks::{Architecture, Network};
use gabion_runtime::devices::is_cpu;
use gabion_runtime::frozen::Precision;
use gabion_spec::Input;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// Larger files are no network of these.
const MOST_BYTES: u64 = 256 << 20;

impl Subject {
    /// A network of [`gabion_learn::networks`] in a file, on 32x32 images; told by the names of its tensors.
    ///
    /// # Errors
    /// When the file cannot be read, is no safetensors file of f32, or fits no network.
    pub fn foreign(path: &Path, device: &Device) -> Result<Self> {
        Self::foreign_in(Precision::F32, path, device)
    }

    /// [`Subject::foreign`], multiplying in `precision` on the CPU.
    ///
    /// # Errors
    /// As it does.
    pub fn foreign_in(precision: Precision, path: &Path, device: &Device) -> Result<Self> {
        let io = |source| Error::Io { doing: "read the network", path: path.to_path_buf(), source };
        let wrong = |why: String| Error::Network { path: path.to_path_buf(), why };
        let length = std::fs::metadata(path).map_err(io)?.len();
        if length > MOST_BYTES {
            return Err(wrong(format!("{length} bytes are more than {MOST_BYTES}")));
        }
        let bytes = std::fs::read(path).map_err(io)?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| wrong(error.to_string()))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors() {
            // Counters of batches are no weights.
            if view.dtype() == Dtype::I64 && name.ends_with("num_batches_tracked") {
                continue;
            }
            if view.dtype() != Dtype::F32 {
                return Err(wrong(format!("tensor `{name}` is {:?}, not f32", view.dtype())));
            }
            let values: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
            tensors.insert(name, TensorData::new(values, view.shape().to_vec()));
        }
        let outputs = ["linear.bias", "linear2.bias", "7.bias"]
            .iter()
            .find_map(|name| tensors.get(*name).and_then(|data| data.shape().first().copied()))
            .unwrap_or(0);
        let architecture = Architecture::recognise(&tensors).map_err(|error| wrong(error.to_string()))?;
        if let Architecture::Small { widths, features, .. } = architecture
            && features != widths[1] * 16 * 16
        {
            return Err(wrong("it takes images of another size than 32x32".into()));
        }
        let build = |tensors, device| Network::build(tensors, &device).map_err(|error| wrong(error.to_string()));
        let plain = build(tensors.clone(), device.clone().inner())?;
        let graph = build(tensors, device.clone().autodiff())?;
        let input = Input { height: 32, width: 32 };
        let frozen = is_cpu(device).then(|| plain.freeze_in(precision, [32, 32]));
        let classify = move |x: Tensor<4>| if x.device().is_autodiff() { graph.logits(x) } else { plain.logits(x) };
        let name = path.file_stem().map_or_else(|| "network".into(), |stem| stem.to_string_lossy().into_owned());
        let weights = hexadecimal(&Sha256::digest(&bytes));
        let subject = Self::function(name, weights, (input, outputs), classify, device);
        Ok(match frozen {
            Some(frozen) => subject.prepared(frozen),
            None => subject,
        })
    }
}
