//! What holds for every corruption, image and size.

use gabion_corrupt::{CorruptError, Corruption, CorruptionSet, MAX_SIDE, Scale, Severity, corrupt, corrupt_batch};
use proptest::prelude::*;

/// `[height, width, 3]`: a gradient, blocks and grain, all from a seed.
fn picture([height, width]: [usize; 2], seed: u64) -> Vec<u8> {
    let grain = |place: u64| (seed ^ place).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    let mut pixels = Vec::with_capacity(height * width * 3);
    for y in 0..height {
        for x in 0..width {
            let block = grain(((y / 6) * 97 + x / 7) as u64) % 120;
            for channel in 0..3 {
                let slope = (y * 60 / height + x * 40 / width) as u64;
                let noise = grain((y * width + x) as u64 * 3 + channel + 1000) % 24;
                pixels.push((slope + block * (channel + 2) / 4 + noise + 20).min(255) as u8);
            }
        }
    }
    pixels
}

fn corrupted(set: &CorruptionSet, image: &[u8], size: [usize; 2], index: u64) -> Vec<u8> {
    let mut out = vec![0; image.len()];
    corrupt(set, image, size, index, &mut out).unwrap();
    out
}

fn sets() -> impl Strategy<Value = CorruptionSet> {
    let corruption = (0..Corruption::ALL.len()).prop_map(|place| Corruption::ALL[place]);
    let severity = (1..=5_u8).prop_map(|level| Severity::new(level).unwrap());
    let scale = prop_oneof![Just(Scale::Cifar), Just(Scale::Imagenet)];
    (corruption, severity, scale, any::<u64>()).prop_map(|(corruption, severity, scale, seed)| CorruptionSet {
        corruption,
        severity,
        scale,
        seed,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_image_is_the_same_alone_and_in_any_batch(
        set in sets(), height in 1..20_usize, width in 1..20_usize, count in 1..6_usize, first: u64
    ) {
        let size = [height, width];
        let images: Vec<u8> = (0..count as u64).flat_map(|seed| picture(size, seed)).collect();
        let mut batch = vec![0; images.len()];
        corrupt_batch(&set, &images, size, first, &mut batch).unwrap();
        for (place, (image, out)) in images.chunks(height * width * 3).zip(batch.chunks(height * width * 3)).enumerate() {
            prop_assert_eq!(&corrupted(&set, image, size, first.wrapping_add(place as u64)), out);
        }
    }

    #[test]
    fn every_size_works(set in sets(), height in 1..80_usize, width in 1..80_usize, seed: u64) {
        let image = picture([height, width], seed);
        corrupted(&set, &image, [height, width], seed);
    }

    #[test]
    fn a_wrong_length_is_an_error_and_writes_nothing(
        set in sets(), height in 1..9_usize, width in 1..9_usize, short in 1..3_usize
    ) {
        let image = picture([height, width], 0);
        let mut out = vec![7; image.len()];
        let error = corrupt(&set, &image[short..], [height, width], 0, &mut out).unwrap_err();
        let is_length = matches!(error, CorruptError::Length { .. });
        prop_assert!(is_length);
        prop_assert!(corrupt(&set, &image, [height, width], 0, &mut out[short..]).is_err());
        prop_assert!(corrupt_batch(&set, &image[short..], [height, width], 0, &mut out[short..]).is_err());
        prop_assert!(out.iter().all(|&byte| byte == 7));
    }
}

#[test]
fn extreme_sizes_work() {
    for size in [[1, 1], [1, 2], [2, 1], [1, 1024], [1024, 1], [3, 300], [1024, 1024]] {
        let image = picture(size, 5);
        for corruption in Corruption::ALL {
            // The largest with the strongest constants only: it is for what overflows.
            let severities = if size[0] * size[1] > 1 << 16 { &Severity::ALL[4..] } else { &Severity::ALL[..] };
            for &severity in severities {
                let set = CorruptionSet { corruption, severity, scale: Scale::of(size), seed: 1 };
                corrupted(&set, &image, size, 0);
            }
        }
    }
}

#[test]
fn a_size_without_pixels_or_too_large_is_an_error() {
    let set = CorruptionSet { corruption: Corruption::Fog, severity: Severity::ALL[0], scale: Scale::Cifar, seed: 0 };
    for [height, width] in [[0, 4], [4, 0], [1, MAX_SIDE + 1], [usize::MAX, usize::MAX]] {
        let expected = Err(CorruptError::Size { height, width });
        assert_eq!(corrupt(&set, &[], [height, width], 0, &mut []), expected);
        assert_eq!(corrupt_batch(&set, &[], [height, width], 0, &mut []), expected);
    }
    assert_eq!(corrupt_batch(&set, &[], [4, 4], 0, &mut []), Ok(()));
}

#[test]
fn extreme_pictures_stay_pictures() {
    for scale in [Scale::Cifar, Scale::Imagenet] {
        for corruption in Corruption::ALL {
            for severity in Severity::ALL {
                let set = CorruptionSet { corruption, severity, scale, seed: 3 };
                for level in [0, 128, 255] {
                    let image = vec![level; 24 * 24 * 3];
                    let out = corrupted(&set, &image, [24, 24], 0);
                    // What only moves or averages pixels leaves a plain picture plain; a kernel that OpenCV's mirror
                    // makes heavier than one brightens it.
                    let plain = match corruption {
                        Corruption::GlassBlur
                        | Corruption::MotionBlur
                        | Corruption::ZoomBlur
                        | Corruption::Contrast
                        | Corruption::ElasticTransform
                        | Corruption::Pixelate => 0,
                        Corruption::DefocusBlur => 3,
                        _ => continue,
                    };
                    assert!(out.iter().all(|value| value.abs_diff(level) <= plain), "{corruption} {severity} {level}");
                }
            }
        }
    }
}

#[test]
fn random_corruptions_differ_between_images_seeds_and_severities() {
    let size = [32, 32];
    let image = picture(size, 0);
    for corruption in Corruption::ALL {
        let set = CorruptionSet { corruption, severity: Severity::ALL[4], scale: Scale::Cifar, seed: 0 };
        let fixed = matches!(
            corruption,
            Corruption::DefocusBlur
                | Corruption::ZoomBlur
                | Corruption::Brightness
                | Corruption::Contrast
                | Corruption::Pixelate
                | Corruption::JpegCompression
        );
        let first = corrupted(&set, &image, size, 0);
        assert_eq!(first == corrupted(&set, &image, size, 1), fixed, "{corruption}: images");
        assert_eq!(
            first == corrupted(&CorruptionSet { seed: 1, ..set }, &image, size, 0),
            fixed,
            "{corruption}: seeds"
        );
        let weaker = CorruptionSet { severity: Severity::ALL[0], ..set };
        assert_ne!(first, corrupted(&weaker, &image, size, 0), "{corruption}: severities");
    }
}

/// Pictures that distances are averaged over.
const PICTURES: u64 = 60;

/// Mean squared distance from the clean picture at each severity, in squared levels.
fn distances(corruption: Corruption, scale: Scale, side: usize) -> [f64; 5] {
    Severity::ALL.map(|severity| {
        let set = CorruptionSet { corruption, severity, scale, seed: 11 };
        let of = |index: u64| {
            let image = picture([side, side], index);
            let out = corrupted(&set, &image, [side, side], index);
            let squares = image.iter().zip(&out).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
            squares.sum::<f64>() / image.len() as f64
        };
        (0..PICTURES).map(of).sum::<f64>() / PICTURES as f64
    })
}

/// How far the published constants let distance rise.
fn rises(corruption: Corruption) -> Rise {
    match corruption {
        // More rounds with less blur; less of the picture under as much ice; sides that fit a pattern better or worse.
        Corruption::GlassBlur | Corruption::Frost | Corruption::Pixelate => Rise::FromFirstToLast,
        // Its affine part, which moves the most, shrinks.
        Corruption::ElasticTransform => Rise::Nowhere,
        _ => Rise::Everywhere,
    }
}

enum Rise {
    Everywhere,
    FromFirstToLast,
    Nowhere,
}

#[test]
fn distances_rise_with_severity_where_the_constants_say_so() {
    let mut failures = Vec::new();
    for (scale, side) in [(Scale::Cifar, 32), (Scale::Imagenet, 96)] {
        for corruption in Corruption::ALL {
            let distances = distances(corruption, scale, side);
            let met = match rises(corruption) {
                Rise::Everywhere => distances.is_sorted_by(|weaker, stronger| weaker < stronger),
                Rise::FromFirstToLast => distances[0] < distances[4],
                Rise::Nowhere => distances.iter().all(|&distance| distance > 0.0),
            };
            if !met {
                failures.push(format!("{scale:?} {corruption}: {distances:.1?}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// FNV-1a of all results of a corruption on one picture.
fn digest(corruption: Corruption) -> u64 {
    let size = [20, 17];
    let image = picture(size, 1);
    let mut digest = 0xCBF2_9CE4_8422_2325_u64;
    for scale in [Scale::Cifar, Scale::Imagenet] {
        for severity in Severity::ALL {
            for byte in corrupted(&CorruptionSet { corruption, severity, scale, seed: 6 }, &image, size, 4) {
                digest = (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
            }
        }
    }
    digest
}

/// A published figure is of these images. Corruptions are listed that use nothing which a system's mathematical library
/// may round in its own way.
#[test]
fn results_are_those_of_earlier_versions() {
    let known = [
        (Corruption::ImpulseNoise, 0xE5BE_3ADA_E7AD_CB91),
        (Corruption::ZoomBlur, 0x5FF0_B246_2581_D45C),
        (Corruption::Fog, 0x4003_16FE_EC5B_32F8),
        (Corruption::Brightness, 0xF88C_EF4C_3699_C04F),
        (Corruption::Contrast, 0x68CA_8745_8445_44F6),
        (Corruption::Pixelate, 0xC513_19F3_7974_A9F3),
        (Corruption::JpegCompression, 0xD29B_886B_2167_0F0E),
    ];
    for (corruption, digest_then) in known {
        let digest_now = digest(corruption);
        assert!(digest_now == digest_then, "{corruption}: {digest_now:#018X}, was {digest_then:#018X}");
    }
}
