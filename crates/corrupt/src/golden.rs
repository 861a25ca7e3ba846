//! Every corruption but frost against the libraries that the published images were made with, on the random numbers
//! that the reference drew: tests/golden/corruptions.py.

use crate::{Corruption, Scale, Severity, blur, digital, elastic, jpeg, noise, published, random::Random, weather};
use safetensors::SafeTensors;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Deserialize)]
struct Golden {
    shot_noise: Vec<ShotNoise>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    corruption: Corruption,
    scale: Scale,
    severity: Severity,
    input: String,
    output: String,
    fields: Option<String>,
    degrees: Option<f64>,
}

#[derive(Deserialize)]
struct ShotNoise {
    photons: f32,
    level: u8,
    mean: f64,
    std: f64,
}

/// How far values may be from the reference's: `farthest` levels, and at all in a `share` of an image's values.
#[derive(Clone, Copy)]
struct Tolerance {
    farthest: u8,
    share: f64,
}

/// Whole numbers all the way.
const EXACT: Tolerance = Tolerance { farthest: 0, share: 0.0 };
/// A fraction is cut off at the end, and f32 rounds it elsewhere than f64.
const CUT: Tolerance = Tolerance { farthest: 1, share: 0.01 };
/// Many results are whole but for rounding; the reference cuts some down to the next lower level.
const OFTEN_WHOLE: Tolerance = Tolerance { farthest: 1, share: 0.1 };

fn tolerance(corruption: Corruption) -> Tolerance {
    match corruption {
        Corruption::ImpulseNoise | Corruption::Pixelate | Corruption::JpegCompression => EXACT,
        Corruption::DefocusBlur | Corruption::GlassBlur | Corruption::Brightness | Corruption::Contrast => OFTEN_WHOLE,
        _ => CUT,
    }
}

fn files() -> (Golden, Vec<u8>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let golden = serde_json::from_slice(&read("corruptions.json")).expect("corruptions.json has the test's shape");
    (golden, read("corruptions.safetensors"))
}

/// The case with its own random numbers.
fn computed(case: &Case, image: &[u8], size: [usize; 2], fields: &[f32]) -> Vec<u8> {
    let mut out = vec![0; image.len()];
    let mut fields = fields.iter().copied();
    let mut field = || fields.next().expect("the reference drew as many numbers");
    let (scale, severity) = (case.scale, case.severity);
    let degrees = case.degrees.unwrap_or(f64::NAN);
    match case.corruption {
        Corruption::GaussianNoise => {
            noise::gaussian_noise(image, published::GAUSSIAN_NOISE.at(scale, severity), field, &mut out);
        }
        Corruption::ImpulseNoise => {
            noise::impulse_noise(image, published::IMPULSE_NOISE.at(scale, severity), field, &mut out);
        }
        Corruption::DefocusBlur => {
            let (radius, softness) = published::DEFOCUS_BLUR.at(scale, severity);
            blur::defocus_blur(image, size, radius, softness, &mut out);
        }
        Corruption::GlassBlur => {
            let offset = || [field() as isize, field() as isize];
            blur::glass_blur(image, size, published::GLASS_BLUR.at(scale, severity), offset, &mut out);
        }
        Corruption::MotionBlur => {
            let (radius, sigma) = published::MOTION_BLUR.at(scale, severity);
            blur::motion_blur(image, size, radius, sigma, degrees, &mut out);
        }
        Corruption::ZoomBlur => blur::zoom_blur(image, size, published::ZOOM_BLUR.at(scale, severity), &mut out),
        Corruption::Snow => {
            weather::snow(image, size, published::SNOW.at(scale, severity), field, degrees, &mut out);
        }
        Corruption::Fog => weather::fog(image, size, published::FOG.at(scale, severity), field, &mut out),
        Corruption::Brightness => weather::brightness(image, published::BRIGHTNESS.at(scale, severity), &mut out),
        Corruption::Contrast => digital::contrast(image, published::CONTRAST.at(scale, severity), &mut out),
        Corruption::ElasticTransform => {
            let constants = published::ELASTIC_TRANSFORM.at(scale, severity);
            elastic::elastic_transform(image, size, constants, field, &mut out);
        }
        Corruption::Pixelate => digital::pixelate(image, size, published::PIXELATE.at(scale, severity), &mut out),
        Corruption::JpegCompression => {
            jpeg::jpeg_compression(image, size, published::JPEG_COMPRESSION.at(scale, severity), &mut out);
        }
        Corruption::ShotNoise | Corruption::Frost => unreachable!("{} has no golden values", case.corruption),
    }
    assert!(fields.next().is_none(), "{}: the reference drew more numbers", case.name);
    out
}

#[test]
fn corruptions_are_the_references() {
    let (golden, bytes) = files();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut seen = BTreeMap::<_, Vec<String>>::new();
    let mut failures = Vec::new();
    for case in &golden.cases {
        let input = tensors.tensor(&case.input).unwrap();
        let size = [input.shape()[0], input.shape()[1]];
        let fields: Vec<f32> =
            case.fields.iter().flat_map(|name| floats(tensors.tensor(name).unwrap().data())).collect();
        let found = computed(case, input.data(), size, &fields);
        let expected = tensors.tensor(&case.output).unwrap().data();
        let differences = || found.iter().zip(expected).map(|(found, expected)| found.abs_diff(*expected));
        let farthest = differences().max().unwrap();
        let share = differences().filter(|&distance| distance > 0).count() as f64 / found.len() as f64;
        seen.entry(case.corruption).or_default().push(format!("{farthest}/{share:.4}"));
        let tolerance = tolerance(case.corruption);
        if farthest > tolerance.farthest || share > tolerance.share {
            failures.push(format!("{}: farthest {farthest}, {share:.4} off", case.name));
        }
    }
    for (corruption, seen) in &seen {
        println!("{corruption}: farthest/share off: {}", seen.join(" "));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(seen.len(), Corruption::ALL.len() - 2);
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// Draws of a test, and standard errors that its moments may be off; the reference has as many.
const SHOT_DRAWS: usize = 400_000;
const SHOT_ERRORS: f64 = 6.0;

#[test]
fn shot_noise_has_the_references_moments() {
    let (golden, _) = files();
    assert_eq!(golden.shot_noise.len(), 30);
    for ShotNoise { photons, level, mean, std } in golden.shot_noise {
        let mut out = vec![0; SHOT_DRAWS];
        let mut random = Random::named(&[u64::from(level), photons.to_bits().into()]);
        noise::shot_noise(&vec![level; SHOT_DRAWS], photons, &mut random, &mut out);
        let n = SHOT_DRAWS as f64;
        let found_mean = out.iter().map(|&value| f64::from(value)).sum::<f64>() / n;
        let found_std = (out.iter().map(|&value| (f64::from(value) - found_mean).powi(2)).sum::<f64>() / n).sqrt();
        let error = std / n.sqrt();
        // A value that is whole but for rounding counts one level more here, in one photon of many.
        let whole = 0.02;
        assert!((found_mean - mean).abs() < SHOT_ERRORS * error + whole, "{photons} {level}: {found_mean} {mean}");
        assert!((found_std - std).abs() < SHOT_ERRORS * error + whole, "{photons} {level}: {found_std} {std}");
    }
}
