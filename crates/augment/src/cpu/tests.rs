use super::*;
use crate::{Augment, ViewId, sample};
use gabion_spec::{Blur, BlurFilter, Crop, Jitter, Solarize};
use proptest::prelude::*;

type Blurring = fn(&mut [f32], [u32; 2], f32, &mut Scratch);
type Operation<'a> = &'a mut dyn FnMut(&mut [f32]);

/// Bytes without any pattern that a resize could hide.
fn noise(len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u8).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.iter().map(|&byte| f32::from(byte) / 255.0).collect()
}

/// The draw of the whole of a source.
fn whole([height, width]: [u32; 2]) -> Draw {
    Draw { height, width, solarize: Draw::NO_SOLARIZE, ..Draw::default() }
}

fn resized(pixels: &[u8], from: [u32; 2], draw: &Draw, size: [u32; 2]) -> Vec<f32> {
    let mut view = vec![f32::NAN; view_len(size)];
    resized_crop(Source::bytes(pixels, from), draw, size, &mut view, &mut Scratch::default());
    view
}

/// A view of `[3, height, width]` from bytes without a pattern.
fn view(size: [u32; 2]) -> Vec<f32> {
    floats(&noise(view_len(size)))
}

fn assert_near(got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len());
    for (place, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance, "value {place}: {got} is not within {tolerance} of {want}");
    }
}

#[test]
fn a_crop_of_the_right_size_is_the_bytes_over_255() {
    let (rows, columns) = (7, 5);
    let pixels = noise(rows * columns * 3);
    let draw = Draw { top: 2, left: 1, ..whole([4, 3]) };
    let view = resized(&pixels, [7, 5], &draw, [4, 3]);
    for c in 0..3 {
        for y in 0..4 {
            for x in 0..3 {
                let byte = pixels[((y + 2) * columns + x + 1) * 3 + c];
                assert_eq!(view[(c * 4 + y) * 3 + x], f32::from(byte) / 255.0);
            }
        }
    }
}

#[test]
fn a_flip_reverses_rows_and_two_flips_nothing() {
    for (from, size) in [([9, 7], [5, 11]), ([32, 32], [32, 32]), ([50, 40], [8, 9])] {
        let pixels = noise(view_len(from));
        let straight = resized(&pixels, from, &whole(from), size);
        let mut flipped = resized(&pixels, from, &Draw { flip: 1, ..whole(from) }, size);
        for row in flipped.chunks_exact_mut(size[1] as usize) {
            row.reverse();
        }
        assert_eq!(flipped, straight, "{from:?} -> {size:?}");
    }
}

#[test]
fn enlarging_by_two_is_half_pixel_bilinear() {
    let view = resized(&[0, 0, 0, 255, 255, 255], [1, 2], &whole([1, 2]), [2, 4]);
    for row in view.chunks_exact(4) {
        assert_eq!(row, [0.0, 0.25, 0.75, 1.0]);
    }
}

#[test]
fn shrinking_by_two_is_a_triangle() {
    let pixels: Vec<u8> = [0u8, 0, 255, 0].iter().flat_map(|&byte| [byte; 3]).collect();
    let view = resized(&pixels, [1, 4], &whole([1, 4]), [1, 2]);
    // Weights 3/4, 3/4, 1/4 for the first pixel and 1/4, 3/4, 3/4 for the second, over their sum of 7/4.
    assert_near(&view[..2], &[1.0 / 7.0, 3.0 / 7.0], 1e-7);
}

#[test]
fn taps_do_not_reach_outside_the_crop() {
    let mut pixels = vec![255; 6 * 6 * 3];
    for y in 2..4 {
        pixels[(y * 6 + 2) * 3..][..6].fill(0);
    }
    for size in [[1, 1], [2, 2], [9, 9]] {
        let view = resized(&pixels, [6, 6], &Draw { top: 2, left: 2, ..whole([2, 2]) }, size);
        assert!(view.iter().all(|&value| value == 0.0), "{size:?}");
    }
}

#[test]
fn extreme_sizes() {
    // One pixel to one and to many, many to one.
    assert_eq!(resized(&[3, 4, 5], [1, 1], &whole([1, 1]), [1, 1]), floats(&[3, 4, 5]));
    let view = resized(&[3, 4, 5], [1, 1], &whole([1, 1]), [100, 300]);
    for (channel, byte) in view.chunks_exact(30_000).zip([3u8, 4, 5]) {
        assert!(channel.iter().all(|&value| value == f32::from(byte) / 255.0));
    }
    // A huge shrink of a ramp keeps the ramp, and of noise its mean.
    let (rows, columns) = (2000, 1500);
    let ramp: Vec<u8> = (0..rows * columns * 3).map(|n| (n / 3 % columns * 255 / columns) as u8).collect();
    let view = resized(&ramp, [2000, 1500], &whole([2000, 1500]), [32, 32]);
    for row in view.chunks_exact(32) {
        for (x, value) in row.iter().enumerate().take(31).skip(1) {
            assert!((value - (x as f32 + 0.5) / 32.0).abs() < 0.004, "{x}: {value}");
        }
    }
    let view = resized(&noise(rows * columns * 3), [2000, 1500], &whole([2000, 1500]), [32, 32]);
    assert!(view.iter().all(|value| (value - 0.5).abs() < 0.05));
    // A huge enlargement keeps its corners.
    let pixels = noise(12);
    let view = resized(&pixels, [2, 2], &whole([2, 2]), [1000, 1200]);
    assert_eq!([view[0], view[1199]], [f32::from(pixels[0]) / 255.0, f32::from(pixels[3]) / 255.0]);
}

#[test]
fn neutral_factors_change_nothing() {
    let before = view([8, 9]);
    let mut after = before.clone();
    brightness(&mut after, 1.0);
    contrast(&mut after, 1.0);
    saturation(&mut after, 1.0);
    for turns in [0.0, 1.0, -1.0] {
        hue(&mut after, turns);
    }
    solarize(&mut after, Draw::NO_SOLARIZE);
    assert_eq!(after, before);
    // The formula itself, a hair from a whole turn.
    hue(&mut after, 1.0 - f32::EPSILON / 2.0);
    assert_near(&after, &before, 1e-6);
}

#[test]
fn factor_zero_leaves_the_other_end_of_the_blend() {
    let before = view([8, 9]);
    let mut black = before.clone();
    brightness(&mut black, 0.0);
    assert!(black.iter().all(|&value| value == 0.0));
    let mut gray = before.clone();
    grayscale(&mut gray);
    let mut unsaturated = before.clone();
    saturation(&mut unsaturated, 0.0);
    assert_near(&unsaturated, &gray, 1e-6);
    let mut flat = before;
    contrast(&mut flat, 0.0);
    let mean = gray.iter().sum::<f32>() / gray.len() as f32;
    assert_near(&flat, &vec![mean; flat.len()], 1e-6);
}

#[test]
fn a_third_of_a_turn_moves_the_channels() {
    let before = view([8, 9]);
    let mut after = before.clone();
    hue(&mut after, 1.0 / 3.0);
    // Red goes to green, green to blue, blue to red.
    assert_near(&after[72..], &before[..144], 1e-6);
    assert_near(&after[..72], &before[144..], 1e-6);
    hue(&mut after, -1.0 / 3.0);
    assert_near(&after, &before, 1e-6);
}

#[test]
fn gray_has_no_hue() {
    let mut after = [0.0, 0.3, 1.0].repeat(3);
    hue(&mut after, 0.37);
    assert_eq!(after, [0.0, 0.3, 1.0].repeat(3));
}

#[test]
fn solarizing_twice_returns() {
    let before: Vec<f32> = view([8, 9]).into_iter().map(|value| if value < 0.5 { value / 2.0 } else { 1.0 }).collect();
    let mut after = before.clone();
    solarize(&mut after, 128.0 / 255.0);
    assert!(after.iter().all(|&value| value < 0.5));
    let mut threshold = [127.0 / 255.0, 128.0 / 255.0, 1.0];
    solarize(&mut threshold, 128.0 / 255.0);
    assert_eq!(threshold, [127.0 / 255.0, 1.0 - 128.0 / 255.0, 0.0]);
    // What was inverted lies below the threshold and stays there.
    let once = after.clone();
    solarize(&mut after, 128.0 / 255.0);
    assert_eq!(after, once);
    solarize(&mut after, 0.0);
    solarize(&mut after, 0.0);
    assert_near(&after, &once, 1e-7);
}

#[test]
fn blurs_keep_constants_and_spread_a_point() {
    for blur in [gaussian_blur as Blurring, pil_box_blur] {
        for (size, sigma) in [([1, 1], 2.0), ([2, 3], 5.0), ([32, 32], 0.1), ([32, 31], 2.0)] {
            for value in [0.0, 0.3, 1.0] {
                let mut flat = vec![value; view_len(size)];
                blur(&mut flat, size, sigma, &mut Scratch::default());
                assert_near(&flat, &vec![value; view_len(size)], 1e-6);
            }
        }
        let (size, sigma) = ([41, 41], 2.0);
        let mut point = vec![0.0; view_len(size)];
        point[20 * 41 + 20] = 1.0;
        blur(&mut point, size, sigma, &mut Scratch::default());
        let moment = |power: i32| -> f32 {
            point.iter().take(41 * 41).enumerate().map(|(n, v)| v * ((n % 41) as f32 - 20.0).powi(power)).sum()
        };
        assert!((moment(0) - 1.0).abs() < 1e-5 && moment(1).abs() < 1e-5, "{} {}", moment(0), moment(1));
        assert!((moment(2) / (sigma * sigma) - 1.0).abs() < 0.04, "variance {}", moment(2));
    }
}

#[test]
fn no_draws_are_no_work() {
    apply_batch(&[], &[], [32, 32], &mut []);
}

#[test]
#[should_panic(expected = "a source of [4, 4, 3] has 48 values, got 47")]
fn a_short_source_is_named() {
    resized(&[0; 47], [4, 4], &whole([4, 4]), [2, 2]);
}

#[test]
#[should_panic(expected = "2 draws of [3, 4, 5] need 120 values, got 60")]
fn a_short_batch_is_named() {
    apply_batch(&[], &[Draw::default(); 2], [4, 5], &mut [0.0; 60]);
}

#[test]
#[should_panic(expected = "a crop of 4x4 at (1, 0) is not inside a source of 4x4")]
fn a_crop_outside_is_named() {
    resized(&[0; 48], [4, 4], &Draw { top: 1, ..whole([4, 4]) }, [2, 2]);
}

#[test]
#[should_panic(expected = "a view has pixels, got 0x4")]
fn an_empty_view_is_named() {
    resized(&[0; 48], [4, 4], &whole([4, 4]), [0, 4]);
}

#[test]
#[should_panic(expected = "a draw is of image 3, the batch has 1")]
fn a_missing_image_is_named() {
    let pixels = [0; 48];
    let draw = Draw { image: 3, ..whole([4, 4]) };
    apply_batch(&[Source::bytes(&pixels, [4, 4])], &[draw], [2, 2], &mut [0.0; 12]);
}

/// Everything on, so that few views meet every operation.
fn strong(size: [u32; 2], filter: BlurFilter) -> Augment {
    Augment {
        size,
        crop: Crop { scale: [0.05, 1.0], ..Crop::CROP },
        flip: 0.5,
        jitter: Some(Jitter { probability: 0.9, brightness: 1.0, contrast: 1.0, saturation: 1.0, hue: 0.5 }),
        grayscale: 0.2,
        blur: Some(Blur { probability: 0.7, sigma: [0.1, 4.0], filter }),
        solarize: Some(Solarize { probability: 0.5, threshold: gabion_spec::Pixels::of_255(128.0) }),
    }
}

proptest! {
    #[test]
    fn every_operation_stays_in_the_box(
        values in prop::collection::vec(prop_oneof![Just(0.0f32), Just(1.0), 0.0f32..=1.0], 3 * 4 * 5),
        factor in 0.0f32..3.0, turns in -2.0f32..2.0, sigma in 0.05f32..6.0, threshold in 0.0f32..2.0,
    ) {
        let scratch = &mut Scratch::default();
        let operations: [(&str, Operation); 8] = [
            ("brightness", &mut |view| brightness(view, factor)),
            ("contrast", &mut |view| contrast(view, factor)),
            ("saturation", &mut |view| saturation(view, factor)),
            ("hue", &mut |view| hue(view, turns)),
            ("grayscale", &mut |view| grayscale(view)),
            ("solarize", &mut |view| solarize(view, threshold)),
            ("gaussian_blur", &mut |view| gaussian_blur(view, [4, 5], sigma, &mut Scratch::default())),
            ("pil_box_blur", &mut |view| pil_box_blur(view, [4, 5], sigma, scratch)),
        ];
        for (name, operation) in operations {
            let mut view = values.clone();
            operation(&mut view);
            prop_assert!(view.iter().all(|value| (0.0..=1.0).contains(value)), "{}: {:?}", name, view);
        }
    }

    #[test]
    fn permuted_draws_give_permuted_views(
        seed: u64, rows in 1u32..70, columns in 1u32..70, height in 1u32..40, width in 1u32..40, boxes: bool,
    ) {
        let (from, size) = ([rows, columns], [height, width]);
        let images: Vec<Vec<u8>> = (0..3).map(|n| noise(view_len(from) + n)[n..].to_vec()).collect();
        let sources: Vec<Source> = images.iter().map(|pixels| Source::bytes(pixels, from)).collect();
        let augment = strong(size, if boxes { BlurFilter::PilBoxes } else { BlurFilter::Gaussian });
        let mut draws: Vec<Draw> = (0..25)
            .map(|n| Draw { image: n % 3, ..sample(&augment, ViewId { seed, epoch: 0, image: n % 3, view: n }, from) })
            .collect();
        let len = view_len(size);
        let mut views = vec![0.0; draws.len() * len];
        apply_batch(&sources, &draws, size, &mut views);
        prop_assert!(views.iter().all(|value| (0.0..=1.0).contains(value)));

        draws.reverse();
        let mut reversed = vec![0.0; views.len()];
        apply_batch(&sources, &draws, size, &mut reversed);
        for (view, same) in views.chunks_exact(len).zip(reversed.chunks_exact(len).rev()) {
            prop_assert_eq!(view, same);
        }
        // One at a time, with fresh memory.
        for (draw, same) in draws.iter().zip(reversed.chunks_exact(len)) {
            let mut view = vec![0.0; len];
            apply(sources[draw.image as usize], draw, size, &mut view, &mut Scratch::default());
            prop_assert_eq!(view.as_slice(), same);
        }
    }
}
