use super::*;
use crate::session::tests::{manifest, picture, random};
use crate::{Classify, Rgb};
use gabion_spec::{Depth, Encoder, Input, Projector, Stem};

/// Bound on the difference of logits, relative to the greatest.
const TOLERANCE: f32 = 1e-4;

fn close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0f32, |most, value| most.max(value.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= TOLERANCE * scale, "{what}: {found}, {expected} of {scale}");
    }
}

/// Every depth and stem, with sides that halve unevenly, against the kernels' network and, where it is there, Burn's.
#[test]
fn logits_are_those_of_the_cpu_and_of_burn() {
    for depth in [Depth::Resnet18, Depth::Resnet34, Depth::Resnet50] {
        for (stem, side) in [(Stem::Cifar, 20), (Stem::Imagenet, 37)] {
            let what = format!("{depth:?} {stem:?}");
            let (encoder, projector) = (Encoder { depth, width: 5, stem }, Projector { hidden: 19, output: 4 });
            let stored = random(manifest(encoder, projector, Input { height: side, width: side }, 6));
            let count = 2 * 3 * (side * side) as usize;
            let pixels: Vec<f32> = (0..count).map(|at| ((at * 7919) % 1000) as f32 / 1000.0).collect();
            let mut expected = vec![0.0; 2 * 6];
            let network = crate::frozen::network(&stored, stored.manifest.input).unwrap().net;
            network.forward(&pixels, network.last(), &mut expected);

            let net = Net::of(&stored, &Device::Cpu).unwrap();
            let side = side as usize;
            let x = Tensor::from_slice(&pixels, (2, 3, side, side), &Device::Cpu).unwrap();
            let found: Vec<f32> = net.forward(&x).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            close(&found, &expected, &what);

            #[cfg(feature = "flex")]
            {
                use burn::tensor::{Device, TensorData};
                use gabion_learn::Mode;
                let crate::Bundle { model, head, .. } = crate::Bundle::made_of(stored, &Device::flex()).unwrap();
                let x = TensorData::new(pixels, [2, 3, side, side]);
                let x = burn::Tensor::<4>::from_data(x, &Device::flex());
                let logits = head.unwrap().forward(model.feature(x, Mode::Eval), Mode::Eval);
                let logits = logits.into_data_as::<f32>().try_into_vec::<f32>().unwrap();
                close(&found, &logits, &format!("{what}, Burn"));
            }
        }
    }
}

#[test]
fn predictions_are_those_of_the_cpu() {
    let encoder = Encoder { depth: Depth::Resnet18, width: 4, stem: Stem::Cifar };
    let input = Input { height: 16, width: 20 };
    let stored = random(manifest(encoder, Projector { hidden: 12, output: 5 }, input, 7));
    let (cpu, candle) = (Session::of(&stored).unwrap(), Session::of_candle(&stored, &Device::Cpu).unwrap());
    for views in [1, 2, 70] {
        let options = Classify { views, seed: 5, ..Classify::default() };
        let [a, b] = [&cpu, &candle].map(|session| session.classify(&picture(24, 33, 3), &options).unwrap());
        assert_eq!((a.label, a.views, a.agreement), (b.label, b.views, b.agreement));
        close(&b.probabilities, &a.probabilities, "probabilities");
    }
    let mut headless = stored;
    headless.manifest.head = None;
    let error = Session::of_candle(&headless, &Device::Cpu).unwrap_err();
    assert!(matches!(error, CandleError::Bundle(BundleError::NoHead { .. })));
}

/// The bundle that comes with the repository on CIFAR-10's test images.
#[test]
fn predictions_of_real_images_are_those_of_the_cpu() {
    let Some(data) = std::env::var_os("GABION_DATA") else {
        eprintln!("SKIPPED: no GABION_DATA");
        return;
    };
    let file = Path::new(&data).join("cifar10/test_batch.bin");
    let Ok(bytes) = std::fs::read(&file) else {
        eprintln!("SKIPPED: no {}", file.display());
        return;
    };
    let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/cifar10-small");
    let (cpu, candle) = (Session::open(&bundle).unwrap(), Session::open_candle(&bundle, &Device::Cpu).unwrap());
    let (mut images, mut right) = (0, 0);
    // A label, then planes of red, green and blue.
    for record in bytes.chunks_exact(1 + 3072).take(40) {
        let pixels = (0..1024).flat_map(|at| [0, 1, 2].map(|plane| record[1 + 1024 * plane + at])).collect();
        let image = Rgb { height: 32, width: 32, pixels };
        for views in [1, 16] {
            let options = Classify { views, seed: images, ..Classify::default() };
            let [a, b] = [&cpu, &candle].map(|session| session.classify(&image, &options).unwrap());
            close(&b.probabilities, &a.probabilities, "probabilities");
            assert!(a.label == b.label || a.margin < 1e-4, "image {images}: {} and {}", a.label, b.label);
            right += u32::from(views == 1 && b.label == usize::from(record[0]));
        }
        images += 1;
    }
    println!("{right} of {images} right");
    assert!(right > 12, "{right} of {images} right");
}
