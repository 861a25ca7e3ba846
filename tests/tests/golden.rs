//! Values and gradients from PyTorch: `tests/golden/make.py` and `finetune.py` write the files, this compares.

mod golden {
    mod encoder;
    mod finetune;
    mod losses;
    mod networks;
    mod optimizer;
    mod steps;

    use burn::tensor::{Device, TensorData};
    use safetensors::{Dtype, SafeTensors};
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    /// A file of `tests/golden`.
    pub fn read(name: &str) -> Vec<u8> {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// All tensors of a file as f32.
    pub fn tensors(name: &str) -> BTreeMap<String, TensorData> {
        parse(&read(name))
    }

    /// All tensors of a file's bytes as f32.
    pub fn parse(bytes: &[u8]) -> BTreeMap<String, TensorData> {
        let file = SafeTensors::deserialize(bytes).expect("this is a safetensors file");
        file.tensors()
            .into_iter()
            .map(|(name, view)| {
                let values: Vec<f32> = match view.dtype() {
                    Dtype::F32 => {
                        view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
                    }
                    Dtype::U8 => view.data().iter().map(|&b| f32::from(b)).collect(),
                    other => panic!("{name}: {other:?}"),
                };
                (name, TensorData::new(values, view.shape().to_vec()))
            })
            .collect()
    }

    /// Those under a prefix, without it.
    pub fn under(tensors: &BTreeMap<String, TensorData>, prefix: &str) -> BTreeMap<String, TensorData> {
        tensors.iter().filter_map(|(name, data)| Some((name.strip_prefix(prefix)?.to_string(), data.clone()))).collect()
    }

    /// Relative error in the Euclidean norm.
    pub fn relative_error(found: &TensorData, expected: &TensorData) -> f64 {
        assert_eq!(found.shape(), expected.shape());
        let (found, expected) = (found.as_slice::<f32>().unwrap(), expected.as_slice::<f32>().unwrap());
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
        let difference = norm(&mut found.iter().zip(expected).map(|(a, b)| f64::from(a - b)));
        let size = norm(&mut expected.iter().map(|&b| f64::from(b)));
        difference / size.max(1e-12)
    }

    /// The CPU with autodiff.
    pub fn device() -> Device {
        Device::flex().autodiff()
    }
}
