use super::*;
use crate::Tensor;
use gabion_spec as spec;
use gabion_spec::{Depth, Encoder, Input, Precision, Projector, Stem};
use std::collections::BTreeMap;

/// The manifest of a classifier; the writer fills in the weights' file and hash.
pub(crate) fn manifest(encoder: Encoder, projector: Projector, input: Input, classes: usize) -> Manifest {
    Manifest {
        format: spec::FORMAT_VERSION,
        name: "test".into(),
        encoder,
        projector,
        input,
        classes: (0..classes).map(|class| format!("class {class}")).collect(),
        head: Some(spec::Head {
            kind: spec::HeadKind::Linear,
            recipe: spec::Probe::Linear { rate: 1e-3, batch: 8, epochs: 1 },
        }),
        pretrain: None,
        finetune: Vec::new(),
        adapted: Vec::new(),
        data: None,
        weights: spec::Weights { file: String::new(), sha256: String::new(), precision: Precision::F32 },
        claims: Vec::new(),
        writer: "test".into(),
    }
}

/// A small network of weights that look random.
pub(crate) fn stored() -> Stored {
    let encoder = Encoder { depth: Depth::Resnet18, width: 4, stem: Stem::Cifar };
    random(manifest(encoder, Projector { hidden: 12, output: 5 }, Input { height: 16, width: 16 }, 7))
}

/// Weights that look random, as a manifest implies them.
pub(crate) fn random(manifest: Manifest) -> Stored {
    let classes = manifest.classes.len() as u64;
    let shapes = crate::weights::shapes(&manifest.encoder, &manifest.projector, classes).expect("it is small");
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let tensor = |(name, shape): (String, Vec<u64>)| {
        let shape: Vec<usize> = shape.into_iter().map(|side| side as usize).collect();
        let count: usize = shape.iter().product();
        let spread = (2.0 * shape[0] as f32 / count as f32).sqrt().max(0.2);
        let around =
            if name.ends_with("running_var") || name.contains("bn") && name.ends_with("weight") { 1.0 } else { 0.0 };
        let values = (0..count).map(|_| around + spread.min(0.9) * noise()).collect();
        (name, Tensor { shape, values })
    };
    let tensors: BTreeMap<String, Tensor> = shapes.into_iter().map(tensor).collect();
    Stored { manifest, tensors }
}

pub(crate) fn picture(height: usize, width: usize, seed: usize) -> Rgb {
    let byte = |at: usize| ((at * 2_654_435_761 + seed * 97) >> 7) as u8;
    Rgb { height, width, pixels: (0..3 * height * width).map(byte).collect() }
}

#[test]
fn probabilities_are_a_distribution_and_the_label_is_their_first() {
    let session = Session::of(&stored()).unwrap();
    for views in [1, 2, 16, 70] {
        let said = session.classify(&picture(24, 20, 1), &Classify { views, ..Classify::default() }).unwrap();
        assert!((said.probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        let ranked = said.ranked(session.classes());
        assert_eq!(ranked[0].0, session.classes()[said.label]);
        assert!((ranked[0].1 - ranked[1].1 - said.margin).abs() < 1e-6);
        assert_eq!(said.views, views);
    }
}

/// Largest distance of a probability in bf16: a network's worth of roundings to 8 bits.
const BF16_TOLERANCE: f32 = 2e-2;

#[test]
fn bf16_says_nearly_the_same() {
    use crate::frozen::Precision;
    let exact = Session::of(&stored()).unwrap();
    let session = Session::of_in(Precision::Bf16, &stored()).unwrap();
    assert_eq!([&exact, &session].map(Session::arithmetic), [Arithmetic::F32, Arithmetic::Bf16]);
    let mut most = 0f32;
    for (seed, views) in (0..12).zip([1, 5].into_iter().cycle()) {
        let options = Classify { views, ..Classify::default() };
        let [a, b] = [&exact, &session].map(|on| on.classify(&picture(24, 20, seed), &options).unwrap().probabilities);
        most = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(most, f32::max);
    }
    assert!(most > 0.0 && most < BF16_TOLERANCE, "largest difference of a probability: {most}");
}

/// The same in int8: 255 steps a layer.
const INT8_TOLERANCE: f32 = 5e-2;

#[test]
fn int8_says_nearly_the_same_and_wants_to_be_calibrated() {
    use crate::frozen::Precision;
    let (stored, exact) = (stored(), Session::of(&stored()).unwrap());
    let error = Session::of_in(Precision::Int8, &stored).unwrap_err();
    assert!(matches!(error, BundleError::Uncalibrated { .. }) && error.to_string().contains("calibrate"), "{error}");
    assert!(matches!(Session::of_calibrated(&stored, &[]), Err(BundleError::Uncalibrated { .. })));
    let views: Vec<f32> =
        (0..40).flat_map(|seed| picture(16, 16, 100 + seed).pixels).map(|byte| f32::from(byte) / 255.0).collect();
    let session = Session::of_calibrated(&stored, &views).unwrap();
    assert_eq!(session.arithmetic(), Arithmetic::Int8);
    let mut most = 0f32;
    for (seed, views) in (0..12).zip([1, 5].into_iter().cycle()) {
        let options = Classify { views, ..Classify::default() };
        let [a, b] = [&exact, &session].map(|on| on.classify(&picture(24, 20, seed), &options).unwrap().probabilities);
        most = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(most, f32::max);
    }
    assert!(most > 0.0 && most < INT8_TOLERANCE, "largest difference of a probability: {most}");
}

#[test]
fn a_session_that_is_opened_reads_what_it_needs_and_checks_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, mut stored) = (folder.path().join("bundle"), stored());
    stored.write(&dir, Precision::F32).unwrap();
    let lean = Stored::read_to_answer(&dir).unwrap();
    let gone = |name: &str| name.starts_with("projector.projection.");
    assert!(stored.tensors.keys().any(|name| gone(name)));
    let kept = stored.tensors.iter().filter(|(name, _)| !gone(name));
    assert!(lean.tensors.iter().eq(kept));
    let (image, options) = (picture(20, 20, 1), Classify { views: 3, ..Classify::default() });
    let said = |session: &Session| session.classify(&image, &options).unwrap().probabilities;
    assert_eq!(said(&Session::open(&dir).unwrap()), said(&Session::of(&stored).unwrap()));
    // A value that is no number, though nothing is computed with it; its writer knew the right hash.
    let nothing = &mut stored.tensors.get_mut("projector.projection.3.weight").unwrap().values[0];
    *nothing = 12345.5;
    let dir = folder.path().join("broken");
    stored.write(&dir, Precision::F32).unwrap();
    let file = dir.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let place = bytes.windows(4).position(|window| window == 12345.5f32.to_le_bytes()).unwrap();
    bytes[place..place + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let hash = |bytes: &[u8]| {
        use sha2::Digest;
        sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let manifest = std::fs::read_to_string(dir.join("manifest.json")).unwrap();
    let manifest = manifest.replace(&hash(&std::fs::read(&file).unwrap()), &hash(&bytes));
    std::fs::write(&file, bytes).unwrap();
    std::fs::write(dir.join("manifest.json"), manifest).unwrap();
    let error = Session::open(&dir).unwrap_err().to_string();
    assert!(error.contains("projector.projection.3.weight"), "{error}");
}

#[test]
fn no_answer_is_a_nan() {
    let folder = tempfile::tempdir().unwrap();
    let with = |tensor: &str, value: f32| {
        let mut stored = stored();
        stored.tensors.get_mut(tensor).unwrap().values[0] = value;
        stored
    };
    // What its writer refuses, its reader refuses too.
    let (variance, marked) = ("encoder.bn1.running_var", 0.123_456_7f32);
    let error = with(variance, -0.5).write(&folder.path().join("bundle"), Precision::F32).unwrap_err();
    assert!(
        matches!(&error, BundleError::Tensor { misfit: spec::Misfit::Negative { name }, .. } if name == variance),
        "{error}"
    );
    let stored = with(variance, marked);
    let shapes = stored
        .tensors
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.shape.iter().map(|&side| side as u64).collect()));
    let shapes = shapes.collect();
    let path = Path::new("x");
    let mut bytes = crate::weights::encode(path, &stored.tensors, Precision::F32).unwrap();
    let place = bytes.windows(4).position(|window| window == marked.to_le_bytes()).unwrap();
    bytes[place..place + 4].copy_from_slice(&(-marked).to_le_bytes());
    for wanted in [true, false] {
        let error = crate::weights::decode(path, &bytes, &shapes, Precision::F32, |_| wanted).unwrap_err();
        assert!(error.to_string().contains("variance below 0"), "{error}");
    }
    // Numbers that are none once they are folded.
    let mut huge = with(variance, 0.0);
    huge.tensors.get_mut("encoder.bn1.weight").unwrap().values[0] = f32::MAX;
    let error = Session::of(&huge).unwrap_err();
    assert!(matches!(&error, BundleError::Overflow { layer, .. } if layer == "encoder.bn1"), "{error}");
    // And where only a picture brings it about.
    let mut head = with("head.bias", f32::MAX);
    head.tensors.get_mut("head.weight").unwrap().values.fill(f32::MAX);
    let session = Session::of(&head).unwrap();
    for views in [1, 16] {
        let said = session.classify(&picture(24, 20, 1), &Classify { views, ..Classify::default() });
        assert_eq!(said, Err(ClassifyError::NotFinite));
    }
}

#[test]
fn equal_seeds_give_equal_predictions_on_any_thread() {
    let session = Session::of(&stored()).unwrap();
    let images: Vec<Rgb> = (0..6).map(|seed| picture(20, 20, seed)).collect();
    let options = Classify { views: 12, seed: 3, ..Classify::default() };
    let probabilities = |said: Vec<Prediction>| said.into_iter().map(|said| said.probabilities).collect::<Vec<_>>();
    let once = probabilities(session.classify_all(&images, &options).unwrap());
    std::thread::scope(|scope| {
        let others: Vec<_> =
            (0..4).map(|_| scope.spawn(|| probabilities(session.classify_all(&images, &options).unwrap()))).collect();
        for other in others {
            assert_eq!(other.join().unwrap(), once);
        }
    });
    let other = session.classify(&images[0], &Classify { seed: 4, ..options }).unwrap();
    assert_ne!(other.probabilities, once[0]);
}

#[test]
fn a_vote_may_end_early_and_says_so() {
    let session = Session::of(&stored()).unwrap();
    let mut fewer = 0;
    for seed in 0..8 {
        let image = picture(32, 32, seed);
        let all = Classify { views: 64, seed: 1, confidence: 1.0 };
        let whole = session.classify(&image, &all).unwrap();
        let early = session.classify(&image, &Classify { confidence: 0.999, ..all }).unwrap();
        assert_eq!((whole.views, whole.label), (64, early.label));
        fewer += usize::from(early.views < 64);
    }
    assert!(fewer > 0, "no vote of eight ended early");
}

#[test]
fn a_budget_bounds_the_views_at_once_and_changes_no_answer() {
    let stored = stored();
    let free = Session::of(&stored).unwrap();
    let needs = free.bytes(1);
    assert!(free.bytes(64) > needs);
    let bound = Session::of(&stored).unwrap().with_memory(free.bytes(4)).unwrap();
    assert!(bound.batch() >= 4 && bound.batch() < 64);
    let options = Classify { views: 50, ..Classify::default() };
    let (a, b) = (picture(20, 30, 1), picture(20, 30, 1));
    assert_eq!(free.classify(&a, &options).unwrap().probabilities, bound.classify(&b, &options).unwrap().probabilities);
    let error = Session::of(&stored).unwrap().with_memory(needs - 1).unwrap_err();
    assert_eq!(error, ClassifyError::Memory { needs, budget: needs - 1 });
}

#[test]
fn nonsense_is_refused_by_name() {
    let session = Session::of(&stored()).unwrap();
    let refused = |options: Classify| session.classify(&picture(8, 8, 0), &options).unwrap_err().to_string();
    assert!(refused(Classify { views: 0, ..Classify::default() }).contains("views is 0"));
    assert!(refused(Classify { views: 9999, ..Classify::default() }).contains("views is 9999"));
    assert!(refused(Classify { confidence: f32::NAN, ..Classify::default() }).contains("confidence is NaN"));
    assert!(refused(Classify { confidence: 0.4, ..Classify::default() }).contains("confidence is 0.4"));
    let torn = Rgb { height: 4, width: 4, pixels: vec![0; 47] };
    assert!(session.classify(&torn, &Classify::default()).unwrap_err().to_string().contains("47 bytes"));
    let huge = Rgb { height: usize::MAX, width: 3, pixels: Vec::new() };
    assert!(matches!(session.classify(&huge, &Classify::default()), Err(ClassifyError::Pixels { .. })));
    let mut headless = stored();
    headless.manifest.head = None;
    assert!(matches!(Session::of(&headless), Err(BundleError::NoHead { .. })));
}

#[test]
fn a_stream_allocates_nothing_after_its_first_image() {
    let session = Session::of(&stored()).unwrap();
    // Allocations are counted on one thread, so there is one.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| {
        for (views, confidence) in [(1, 1.0), (16, 1.0), (64, 0.99)] {
            let mut stream = session.stream(Classify { views, confidence, seed: 0 }).unwrap();
            let images: Vec<Rgb> = (0..5).map(|seed| picture(16, 16, seed)).collect();
            images.iter().for_each(|image| assert!(stream.classify(image).unwrap().label < 7));
            let counted = allocation_counter::measure(|| {
                images.iter().for_each(|image| assert!(stream.classify(image).unwrap().label < 7));
            });
            assert_eq!(counted.count_total, 0, "{views} views");
        }
    });
}

#[cfg(feature = "flex")]
#[test]
fn a_session_on_modules_of_the_cpu_is_the_same() {
    let stored = stored();
    let bundle = crate::Bundle::made_of(stored.clone(), &burn::tensor::Device::flex()).unwrap();
    let (a, b) = (Session::of(&stored).unwrap(), Session::new(bundle).unwrap());
    let options = Classify { views: 9, ..Classify::default() };
    let image = picture(33, 20, 5);
    assert_eq!(
        a.classify(&image, &options).unwrap().probabilities,
        b.classify(&image, &options).unwrap().probabilities
    );
}
