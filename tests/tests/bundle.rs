//! Bundles: what is written is what is read, and every damage is refused by name.

use burn::Tensor;
use burn::tensor::{Device, TensorData};
use gabion_learn::{Head, Mode, Model, weights};
use gabion_runtime::bundle::{MANIFEST, WEIGHTS};
use gabion_runtime::{Bundle, BundleError, Classify, ClassifyError, Rgb, Session, durable};
use gabion_spec::{Depth, Encoder, Manifest, Precision, Projector, Stem};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const ENCODER: Encoder = Encoder { depth: Depth::Resnet18, width: 4, stem: Stem::Cifar };
const PROJECTOR: Projector = Projector { hidden: 16, output: 8 };

fn device() -> Device {
    Device::flex()
}

fn manifest() -> Manifest {
    gabion_tests::manifest(ENCODER, PROJECTOR, 16, ["ant", "bee", "cat"].map(String::from).to_vec())
}

fn modules() -> (Model, Head) {
    let device = device();
    let model = Model::init(&ENCODER, &PROJECTOR, 1, &device);
    // Running statistics of their own.
    let x = Tensor::<4>::from_data(TensorData::new(noise(4 * 3 * 16 * 16), [4, 3, 16, 16]), &device);
    let _ = model.forward(x, Mode::Train);
    (model, Head::init(16, 3, 2, &device))
}

fn noise(count: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..count).map(|_| next()).collect()
}

fn values(model: &Model, head: &Head) -> BTreeMap<String, Vec<f32>> {
    let mut tensors = weights::export(model, "");
    tensors.extend(weights::export(head, "head."));
    tensors.into_iter().map(|(name, data)| (name, data.as_slice::<f32>().unwrap().to_vec())).collect()
}

fn logits(model: &Model, head: &Head) -> Vec<f32> {
    let x = Tensor::<4>::from_data(TensorData::new(noise(2 * 3 * 16 * 16), [2, 3, 16, 16]), &device());
    let logits = head.forward(model.feature(x, Mode::Eval), Mode::Eval).to_data_as::<f32>();
    logits.as_slice::<f32>().unwrap().to_vec()
}

/// A bundle in a folder that goes away with it.
struct Folder {
    _temporary: tempfile::TempDir,
    dir: PathBuf,
}

impl Folder {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("a/bundle");
        let (model, head) = modules();
        Bundle::write(&dir, manifest(), &model, Some(&head), Precision::F32).unwrap();
        Self { _temporary: temporary, dir }
    }

    fn change_manifest(&self, change: impl FnOnce(&mut Value)) {
        let path = self.dir.join(MANIFEST);
        let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(path, serde_json::to_vec(&value).unwrap()).unwrap();
    }

    /// Changes tensors and makes the hash right again.
    fn change_weights(&self, change: impl FnOnce(&mut BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>)) {
        let path = self.dir.join(WEIGHTS);
        let bytes = fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors: BTreeMap<_, _> = file
            .iter()
            .map(|(name, view)| (name.to_string(), (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
            .collect();
        change(&mut tensors);
        let views = tensors
            .iter()
            .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
        fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        self.rehash();
    }

    /// Takes the right hash from the refusal, which names it.
    fn rehash(&self) {
        if let BundleError::Hash { found, .. } = self.refused() {
            self.change_manifest(|manifest| manifest["weights"]["sha256"] = found.into());
        }
    }

    fn refused(&self) -> BundleError {
        refused(&self.dir)
    }
}

fn refused(dir: &Path) -> BundleError {
    let error = Bundle::open(dir, &device()).map(|_| ()).unwrap_err();
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    assert!(text.contains(&dir.display().to_string()), "{text}");
    error
}

/// The refusal's text holds all of `parts`.
fn names(error: &BundleError, parts: &[&str]) {
    let text = error.to_string();
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}

#[test]
fn f32_comes_back_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("bundle");
    let (model, head) = modules();
    let written = Bundle::write(&dir, manifest(), &model, Some(&head), Precision::F32).unwrap();
    let opened = Bundle::open(&dir, &device()).unwrap();
    assert_eq!(opened.manifest, written);
    let head_opened = opened.head.unwrap();
    let bits = |values: BTreeMap<String, Vec<f32>>| -> BTreeMap<String, Vec<u32>> {
        values.into_iter().map(|(name, values)| (name, values.into_iter().map(f32::to_bits).collect())).collect()
    };
    assert_eq!(bits(values(&opened.model, &head_opened)), bits(values(&model, &head)));
    assert_eq!(logits(&opened.model, &head_opened), logits(&model, &head));
    // The same bundle is the same bytes, and nothing else lies in the folder.
    let bytes = fs::read(dir.join(WEIGHTS)).unwrap();
    assert_eq!(Bundle::write(&dir, manifest(), &model, Some(&head), Precision::F32).unwrap(), written);
    assert_eq!(fs::read(dir.join(WEIGHTS)).unwrap(), bytes);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("head.weight").unwrap().shape(), [3, 16]);
    assert_eq!(file.tensor("head.bias").unwrap().shape(), [3]);
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
}

#[test]
fn f16_is_rounded_once() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let (model, head) = modules();
    let written = Bundle::write(&first, manifest(), &model, Some(&head), Precision::F16).unwrap();
    assert_eq!(written.weights.precision, Precision::F16);
    let opened = Bundle::open(&first, &device()).unwrap();
    let rounded = values(&opened.model, opened.head.as_ref().unwrap());
    for (name, exact) in values(&model, &head) {
        for (rounded, exact) in rounded[&name].iter().zip(exact) {
            assert!((rounded - exact).abs() <= exact.abs() / 2048.0 + 6e-8, "{name}: {exact} became {rounded}");
        }
    }
    let opened_head = opened.head.unwrap();
    Bundle::write(&second, opened.manifest.clone(), &opened.model, Some(&opened_head), Precision::F16).unwrap();
    let again = Bundle::open(&second, &device()).unwrap();
    let again_head = again.head.unwrap();
    assert_eq!(values(&again.model, &again_head), rounded);
    assert_eq!(logits(&again.model, &again_head), logits(&opened.model, &opened_head));
    assert_eq!(fs::read(first.join(WEIGHTS)).unwrap(), fs::read(second.join(WEIGHTS)).unwrap());
}

#[test]
fn a_value_beyond_half_precision_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("bundle");
    let (model, head) = modules();
    let mut tensors = weights::export(&head, "head.");
    tensors.insert("head.bias".into(), TensorData::new(vec![0f32, 70_000.0, 0.0], [3]));
    let head = weights::import(head, "head.", &mut tensors).unwrap();
    let error = Bundle::write(&dir, manifest(), &model, Some(&head), Precision::F16).unwrap_err();
    names(&error, &["head.bias", "70000", "f32"]);
    assert!(!dir.exists());
    Bundle::write(&dir, manifest(), &model, Some(&head), Precision::F32).unwrap();
}

#[test]
fn without_a_head_there_is_no_session() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("bundle");
    let (model, head) = modules();
    let headless = Manifest { head: None, classes: Vec::new(), ..manifest() };
    names(
        &Bundle::write(&dir, headless.clone(), &model, Some(&head), Precision::F32).unwrap_err(),
        &["no head", "a head"],
    );
    Bundle::write(&dir, headless, &model, None, Precision::F32).unwrap();
    let error = Session::new(Bundle::open(&dir, &device()).unwrap()).map(|_| ()).unwrap_err();
    names(&error, &["gabion probe"]);
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let folder = Folder::new();
    folder.change_weights(|tensors| drop(tensors.remove("encoder.bn1.bias")));
    names(&folder.refused(), &[WEIGHTS, "`encoder.bn1.bias` is missing"]);

    let folder = Folder::new();
    folder.change_weights(|tensors| drop(tensors.insert("more".into(), (Dtype::F32, vec![1], vec![0; 4]))));
    names(&folder.refused(), &[WEIGHTS, "`more` does not belong"]);

    let folder = Folder::new();
    folder.change_weights(|tensors| tensors.get_mut("projector.projection.3.weight").unwrap().1.reverse());
    names(&folder.refused(), &[WEIGHTS, "`projector.projection.3.weight`", "[16, 8]", "[8, 16]"]);

    let folder = Folder::new();
    folder.change_weights(|tensors| {
        tensors.get_mut("encoder.bn1.bias").unwrap().2[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    names(&folder.refused(), &[WEIGHTS, "`encoder.bn1.bias`", "NaN"]);

    let folder = Folder::new();
    folder.change_weights(|tensors| {
        let bias = tensors.get_mut("encoder.bn1.bias").unwrap();
        (bias.0, bias.2) = (Dtype::F16, vec![0; 8]);
    });
    names(&folder.refused(), &[WEIGHTS, "`encoder.bn1.bias`", "F16", "F32"]);
}

#[test]
fn a_damaged_weights_file_is_refused() {
    let folder = Folder::new();
    let path = folder.dir.join(WEIGHTS);
    let bytes = fs::read(&path).unwrap();
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&path, &flipped).unwrap();
    assert!(matches!(folder.refused(), BundleError::Hash { .. }));
    names(&folder.refused(), &[WEIGHTS, "SHA-256"]);

    for keep in [0, 7, bytes.len() / 2] {
        fs::write(&path, &bytes[..keep]).unwrap();
        names(&folder.refused(), &[WEIGHTS, &format!("{keep} bytes"), "cut short"]);
    }
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(matches!(folder.refused(), BundleError::Hash { .. }));

    let mut long = bytes.clone();
    long.resize(bytes.len() + (2 << 20), 0);
    fs::write(&path, &long).unwrap();
    assert!(matches!(folder.refused(), BundleError::Size { .. }));

    // A header that lies, with the right hash.
    let mut lying = bytes.clone();
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(&path, &lying).unwrap();
    folder.rehash();
    assert!(matches!(folder.refused(), BundleError::Header { .. }));

    fs::remove_file(&path).unwrap();
    names(&folder.refused(), &["cannot read", WEIGHTS]);
}

#[test]
fn a_name_twice_is_refused() {
    let folder = Folder::new();
    let path = folder.dir.join(WEIGHTS);
    let bytes = fs::read(&path).unwrap();
    let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let header = std::str::from_utf8(&bytes[8..8 + length]).unwrap().trim_end();
    let twice = header.replacen(
        "\"head.bias\":",
        "\"head.bias\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]},\"head.bias\":",
        1,
    );
    assert_ne!(twice, header);
    let mut changed = (twice.len() as u64).to_le_bytes().to_vec();
    changed.extend_from_slice(twice.as_bytes());
    changed.extend_from_slice(&bytes[8 + length..]);
    fs::write(&path, changed).unwrap();
    folder.rehash();
    names(&folder.refused(), &[WEIGHTS, "head.bias"]);
}

#[test]
fn a_manifest_that_makes_no_sense_is_refused() {
    let refusal = |change: fn(&mut Value)| {
        let folder = Folder::new();
        folder.change_manifest(change);
        folder.refused()
    };
    // A newer version is refused by its number, whatever else it holds.
    let error = refusal(|manifest| {
        manifest["format"] = 7.into();
        manifest["new"] = json!({ "field": 1 });
    });
    assert!(matches!(error, BundleError::Version { found: 7, .. }), "{error}");
    names(&refusal(|manifest| manifest["new"] = 1.into()), &[MANIFEST, "`new`"]);
    names(&refusal(|manifest| drop(manifest.as_object_mut().unwrap().remove("format"))), &[MANIFEST, "`format`"]);
    for file in ["../model.safetensors", "/etc/passwd", "..", "", "a\\b", "C:x", "sub/model.safetensors"] {
        let folder = Folder::new();
        folder.change_manifest(|manifest| manifest["weights"]["file"] = file.into());
        let error = folder.refused();
        assert!(matches!(error, BundleError::FileName { .. }), "{error}");
        names(&error, &[MANIFEST, "weights.file", &format!("{file:?}")]);
    }
    names(&refusal(|manifest| manifest["encoder"]["width"] = 1025.into()), &["`encoder.width`", "1025", "1..=1024"]);
    names(&refusal(|manifest| manifest["encoder"]["width"] = 0.into()), &["`encoder.width`"]);
    names(&refusal(|manifest| manifest["projector"]["hidden"] = 65_537.into()), &["`projector.hidden`"]);
    names(&refusal(|manifest| manifest["projector"]["output"] = 0.into()), &["`projector.output`"]);
    names(&refusal(|manifest| manifest["input"]["height"] = 1025.into()), &["`input.height`"]);
    names(&refusal(|manifest| manifest["input"]["width"] = 0.into()), &["`input.width`"]);
    names(&refusal(|manifest| manifest["classes"] = json!([])), &["`classes`"]);
    // A giant that is not there is refused before its model is made.
    let error = refusal(|manifest| {
        manifest["encoder"]["width"] = 1024.into();
        manifest["projector"]["hidden"] = 65_536.into();
    });
    names(&error, &["[1024]"]);
    let error = refusal(|manifest| drop(manifest["classes"].as_array_mut().unwrap().pop()));
    assert!(matches!(error, BundleError::Classes { rows: 3, classes: 2, .. }), "{error}");
    let error = refusal(|manifest| manifest["head"] = Value::Null);
    names(&error, &["`head.bias` does not belong"]);

    let folder = Folder::new();
    fs::write(folder.dir.join(MANIFEST), vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(matches!(folder.refused(), BundleError::TooLarge { .. }));
    fs::write(folder.dir.join(MANIFEST), "[".repeat(100_000)).unwrap();
    assert!(matches!(folder.refused(), BundleError::Manifest { .. }));
    fs::remove_file(folder.dir.join(MANIFEST)).unwrap();
    assert!(matches!(folder.refused(), BundleError::NoManifest { .. }));
}

#[test]
fn a_failed_write_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let (model, head) = modules();
    for dir in [file.clone(), file.join("bundle")] {
        let error = Bundle::write(&dir, manifest(), &model, Some(&head), Precision::F32).unwrap_err();
        names(&error, &["cannot write", &dir.display().to_string()]);
    }
    durable::write(&file.join("below"), b"y").unwrap_err();

    // A disk that fills up half way.
    let full = |out: &mut dyn io::Write| {
        out.write_all(&[0; 100_000])?;
        Err(io::Error::from(io::ErrorKind::StorageFull))
    };
    assert_eq!(durable::write_with(&file, full).unwrap_err().kind(), io::ErrorKind::StorageFull);
    durable::write_with(&folder.path().join("new"), full).unwrap_err();
    assert_eq!(fs::read(&file).unwrap(), b"x");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    durable::write(&file, b"whole").unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"whole");
}

#[test]
fn a_session_classifies() {
    let folder = Folder::new();
    let session = Session::new(Bundle::open(&folder.dir, &device()).unwrap()).unwrap();
    let pixels: Vec<u8> = noise(40 * 30 * 3).into_iter().map(|value| (value * 255.0) as u8).collect();
    let image = Rgb { height: 30, width: 40, pixels };
    let one = session.classify(&image, &Classify::default()).unwrap();
    assert_eq!((one.views, one.agreement, one.probabilities.len()), (1, 1.0, 3));
    assert!((one.probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    assert!(one.ranked(session.classes()).is_sorted_by(|a, b| a.1 >= b.1));

    let options = Classify { views: 70, seed: 5, ..Classify::default() };
    let many = session.classify(&image, &options).unwrap();
    assert_eq!(many.views, 70);
    assert!((0.0..=1.0).contains(&many.agreement));
    assert_eq!(session.classify(&image, &options).unwrap().probabilities, many.probabilities);
    assert_ne!(session.classify(&image, &Classify { seed: 6, ..options }).unwrap().probabilities, many.probabilities);

    // A bundle on a device with autodiff says the same.
    let bundle = Bundle::open(&folder.dir, &device().autodiff()).unwrap();
    let other = Session::new(bundle).unwrap().classify(&image, &Classify::default()).unwrap();
    assert_eq!(other.probabilities, one.probabilities);

    let none = session.classify(&image, &Classify { views: 0, ..Classify::default() }).unwrap_err();
    assert_eq!(none, ClassifyError::Views { views: 0 });
    let short = Rgb { pixels: vec![0; 5], ..image };
    assert!(matches!(session.classify(&short, &options), Err(ClassifyError::Pixels { bytes: 5, .. })));
}

#[cfg(unix)]
#[test]
fn a_link_is_followed_and_a_device_stays_one() {
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("file"), folder.path().join("link"));
    fs::write(&file, "old").unwrap();
    std::os::unix::fs::symlink("file", &link).unwrap();
    durable::write(&link, b"new").unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(&file).unwrap(), b"new");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    durable::write(Path::new("/dev/null"), b"nothing").unwrap();
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}
