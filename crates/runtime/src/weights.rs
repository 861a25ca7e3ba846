//! What a weights file holds: the names and shapes that a manifest implies, and their bytes.

use crate::BundleError;
use crate::bundle::HEADER_BYTES;
use gabion_spec::{Encoder, Misfit, Precision, Projector, Stem};
use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::Path;

/// A shape for each torch name.
pub(crate) type Shapes = BTreeMap<String, Vec<u64>>;

/// Values in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Sides.
    pub shape: Vec<usize>,
    /// As many values as the product of the sides.
    pub values: Vec<f32>,
}

/// The tensors of a network, from its manifest alone; `classes` is 0 without a head.
pub(crate) fn shapes(encoder: &Encoder, projector: &Projector, classes: u64) -> Option<Shapes> {
    let mut shapes = Shapes::new();
    let norm = |shapes: &mut Shapes, name: String, channels: u64| {
        for part in ["weight", "bias", "running_mean", "running_var"] {
            shapes.insert(format!("{name}.{part}"), vec![channels]);
        }
    };
    let width = u64::from(encoder.width);
    let expansion = encoder.depth.expansion() as u64;
    let stem = match encoder.stem {
        Stem::Cifar => 3,
        Stem::Imagenet => 7,
    };
    shapes.insert("encoder.conv1.weight".into(), vec![width, 3, stem, stem]);
    norm(&mut shapes, "encoder.bn1".into(), width);
    let mut channels_in = width;
    for (stage, blocks) in encoder.depth.blocks().into_iter().enumerate() {
        let inner = width.checked_mul(1 << stage)?;
        let channels_out = inner.checked_mul(expansion)?;
        for block in 0..blocks {
            let name = format!("encoder.layer{}.{block}", stage + 1);
            // (channels out, channels in, kernel) of each convolution.
            let convolutions = match expansion {
                1 => vec![(inner, channels_in, 3), (inner, inner, 3)],
                _ => vec![(inner, channels_in, 1), (inner, inner, 3), (channels_out, inner, 1)],
            };
            for (place, (out, from, kernel)) in convolutions.into_iter().enumerate() {
                shapes.insert(format!("{name}.conv{}.weight", place + 1), vec![out, from, kernel, kernel]);
                norm(&mut shapes, format!("{name}.bn{}", place + 1), out);
            }
            if (stage > 0 && block == 0) || channels_in != channels_out {
                shapes.insert(format!("{name}.downsample.0.weight"), vec![channels_out, channels_in, 1, 1]);
                norm(&mut shapes, format!("{name}.downsample.1"), channels_out);
            }
            channels_in = channels_out;
        }
    }
    let (hidden, output) = (u64::from(projector.hidden), u64::from(projector.output));
    let linear = |shapes: &mut Shapes, name: &str, from: u64, to: u64| {
        shapes.insert(format!("{name}.weight"), vec![to, from]);
        shapes.insert(format!("{name}.bias"), vec![to]);
    };
    linear(&mut shapes, "projector.pre_feature.0", channels_in, hidden);
    norm(&mut shapes, "projector.pre_feature.1".into(), hidden);
    linear(&mut shapes, "projector.projection.0", hidden, hidden);
    norm(&mut shapes, "projector.projection.1".into(), hidden);
    linear(&mut shapes, "projector.projection.3", hidden, output);
    if classes > 0 {
        linear(&mut shapes, "head", hidden, classes);
    }
    Some(shapes)
}

/// Values of all tensors.
pub(crate) fn values(shapes: &Shapes) -> Option<u64> {
    shapes.values().try_fold(0u64, |sum, shape| {
        sum.checked_add(shape.iter().try_fold(1u64, |product, &side| product.checked_mul(side))?)
    })
}

/// Checks that `found` are the tensors of `expected`.
///
/// # Errors
/// The first tensor, by name, that is missing or has another shape, then the first that does not belong.
pub(crate) fn compare(found: &Shapes, expected: &Shapes) -> Result<(), Misfit> {
    let sides = |shape: &[u64]| shape.iter().map(|&side| usize::try_from(side).unwrap_or(usize::MAX)).collect();
    for (name, expected) in expected {
        match found.get(name) {
            None => return Err(Misfit::Missing { name: name.clone() }),
            Some(found) if found != expected => {
                return Err(Misfit::Shape { name: name.clone(), found: sides(found), expected: sides(expected) });
            }
            Some(_) => {}
        }
    }
    match found.keys().find(|name| !expected.contains_key(*name)) {
        Some(name) => Err(Misfit::Extra { name: name.clone() }),
        None => Ok(()),
    }
}

/// Bytes of a value.
pub(crate) fn width(precision: Precision) -> u64 {
    match precision {
        Precision::F16 => 2,
        Precision::F32 => 4,
    }
}

fn dtype(precision: Precision) -> Dtype {
    match precision {
        Precision::F16 => Dtype::F16,
        Precision::F32 => Dtype::F32,
    }
}

/// A safetensors file of `tensors`, the same bytes for the same values.
///
/// # Errors
/// A value that is not finite, a negative variance, or what half precision cannot hold.
pub(crate) fn encode(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    precision: Precision,
) -> Result<Vec<u8>, BundleError> {
    let mut encoded = BTreeMap::new();
    for (name, Tensor { shape, values }) in tensors {
        sensible(name, values.iter().copied()).map_err(|misfit| BundleError::Tensor { path: path.into(), misfit })?;
        let bytes: Vec<u8> = match precision {
            Precision::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Precision::F16 => {
                if let Some(&value) = values.iter().find(|&&value| !f16::from_f32(value).is_finite()) {
                    return Err(BundleError::Range { path: path.into(), tensor: name.clone(), value });
                }
                values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect()
            }
        };
        encoded.insert(name, (shape.clone(), bytes));
    }
    let views = encoded.iter().map(|(name, (shape, bytes))| {
        let view = TensorView::new(dtype(precision), shape.clone(), bytes).expect("bytes and shape agree");
        (name.as_str(), view)
    });
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize(views, Some(metadata))
        .map_err(|error| BundleError::Header { path: path.into(), why: error.to_string() })
}

/// The tensors of a safetensors file as f32, when they are `expected` ones of `precision`, all finite and no variance
/// negative; of them those that are `wanted`.
///
/// # Errors
/// The first thing wrong with the header or a tensor; nothing is allocated for the values before the header is right.
pub(crate) fn decode(
    path: &Path,
    bytes: &[u8],
    expected: &Shapes,
    precision: Precision,
    wanted: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, Tensor>, BundleError> {
    let damaged = |why| BundleError::Header { path: path.into(), why };
    let length = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
    // A header as long as the values of a large network would be parsed into many times its size.
    if length > HEADER_BYTES {
        return Err(damaged(format!("a header of {length} bytes is above the limit of {HEADER_BYTES}")));
    }
    // This checks that the header's length is inside the file.
    let file = SafeTensors::deserialize(bytes).map_err(|error| damaged(error.to_string()))?;
    let header = bytes.get(8..).zip(usize::try_from(length).ok()).and_then(|(rest, length)| rest.get(..length));
    serde_json::from_slice::<OnceEach>(header.unwrap_or_default()).map_err(|error| damaged(error.to_string()))?;
    let misfit = |misfit| BundleError::Tensor { path: path.into(), misfit };
    let mut found = Shapes::new();
    for (name, view) in file.iter() {
        found.insert(name.to_string(), view.shape().iter().map(|&side| side as u64).collect());
    }
    let head = "head.weight";
    if let (Some([rows, _]), Some([classes, _])) =
        (found.get(head).map(Vec::as_slice), expected.get(head).map(Vec::as_slice))
        && rows != classes
    {
        return Err(BundleError::Classes { path: path.into(), rows: *rows, classes: *classes });
    }
    compare(&found, expected).map_err(misfit)?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        if view.dtype() != dtype(precision) {
            let found = format!("{:?}", view.dtype());
            let expected = format!("{:?}", dtype(precision));
            return Err(BundleError::Precision { path: path.into(), tensor: name.into(), found, expected });
        }
        let wanted = wanted(name);
        let values = match precision {
            Precision::F32 => {
                let values = view.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
                checked(name, values, wanted)
            }
            Precision::F16 => {
                let values = view.data().as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32());
                checked(name, values, wanted)
            }
        };
        let values = values.map_err(misfit)?;
        if wanted {
            tensors.insert(name.to_string(), Tensor { shape: view.shape().to_vec(), values });
        }
    }
    Ok(tensors)
}

/// Values that make sense, and no memory for those that nobody wants.
fn checked(name: &str, values: impl Iterator<Item = f32> + Clone, wanted: bool) -> Result<Vec<f32>, Misfit> {
    sensible(name, values.clone())?;
    Ok(if wanted { values.collect() } else { Vec::new() })
}

/// Refuses what makes every answer a NaN.
fn sensible(name: &str, mut values: impl Iterator<Item = f32> + Clone) -> Result<(), Misfit> {
    if !values.clone().all(f32::is_finite) {
        return Err(Misfit::NotFinite { name: name.into() });
    }
    if name.ends_with(".running_var") && values.any(|value| value < 0.0) {
        return Err(Misfit::Negative { name: name.into() });
    }
    Ok(())
}

/// A JSON object in which no name stands twice; the safetensors crate takes the last of equals.
struct OnceEach;

impl<'de> Deserialize<'de> for OnceEach {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OnceEach)
    }
}

impl<'de> Visitor<'de> for OnceEach {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut names = BTreeSet::new();
        while let Some((name, IgnoredAny)) = map.next_entry::<String, _>()? {
            if let Some(twice) = names.replace(name) {
                return Err(A::Error::custom(format!("tensor `{twice}` stands there twice")));
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gabion_spec::Depth;

    #[cfg(feature = "flex")]
    #[test]
    fn the_manifest_implies_the_tensors_of_the_model() {
        use gabion_learn::{Head, Model, weights};
        let device = burn::tensor::Device::flex();
        for depth in [Depth::Resnet18, Depth::Resnet34, Depth::Resnet50] {
            for stem in [Stem::Cifar, Stem::Imagenet] {
                let encoder = Encoder { depth, width: 3, stem };
                let projector = Projector { hidden: 11, output: 5 };
                let mut tensors = weights::export(&Model::init(&encoder, &projector, 0, &device), "");
                tensors.extend(weights::export(&Head::init(11, 7, 0, &device), "head."));
                let found: Shapes = tensors
                    .into_iter()
                    .map(|(name, data)| (name, data.shape().iter().map(|&side| side as u64).collect()))
                    .collect();
                let expected = shapes(&encoder, &projector, 7).unwrap();
                assert_eq!(found, expected, "{encoder:?}");
                assert_eq!(values(&found), crate::parameter_count(&encoder, &projector, 7));
            }
        }
    }

    #[test]
    fn torchvisions_network_has_torchvisions_count() {
        let encoder = Encoder { depth: Depth::Resnet18, width: 64, stem: Stem::Imagenet };
        let counted: u64 = shapes(&encoder, &Projector { hidden: 1, output: 1 }, 0)
            .unwrap()
            .iter()
            .filter(|(name, _)| name.starts_with("encoder.") && !name.contains("running"))
            .map(|(_, shape)| shape.iter().product::<u64>())
            .sum();
        // 11,689,512 with the last layer of 512 * 1000 + 1000.
        assert_eq!(counted, 11_689_512 - 513_000);
    }

    #[test]
    fn no_shape_overflows_silently() {
        let encoder = Encoder { depth: Depth::Resnet50, width: u32::MAX, stem: Stem::Imagenet };
        let projector = Projector { hidden: u32::MAX, output: u32::MAX };
        assert_eq!(crate::parameter_count(&encoder, &projector, u64::MAX), None);
    }

    #[test]
    fn a_name_twice_is_refused() {
        let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header);
        bytes.extend_from_slice(&[0; 4]);
        let expected = Shapes::from([("a".to_string(), vec![1])]);
        let error = decode(Path::new("x"), &bytes, &expected, Precision::F32, |_| true).unwrap_err();
        assert!(matches!(error, BundleError::Header { .. }), "{error}");
    }

    #[test]
    fn a_header_longer_than_any_is_refused_unread() {
        let mut bytes = (HEADER_BYTES + 1).to_le_bytes().to_vec();
        bytes.resize(9 + HEADER_BYTES as usize, b' ');
        let error = decode(Path::new("x"), &bytes, &Shapes::new(), Precision::F32, |_| true).unwrap_err();
        assert!(error.to_string().contains("above the limit"), "{error}");
    }

    #[test]
    fn a_shape_that_overflows_is_refused() {
        let header = br#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,4]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header);
        bytes.extend_from_slice(&[0; 4]);
        let expected = Shapes::from([("a".to_string(), vec![1])]);
        let error = decode(Path::new("x"), &bytes, &expected, Precision::F32, |_| true).unwrap_err();
        assert!(matches!(error, BundleError::Header { .. }), "{error}");
    }
}
