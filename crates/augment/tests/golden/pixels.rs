//! Pixels against PIL's and torchvision's. Errors are in levels of 1/255.

use super::{WHOLE, integer, json, list, number, read, size};
use gabion_augment::Draw;
use gabion_augment::cpu::{self, Scratch, Source};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::BTreeMap;

/// A tensor `[height, width, 3]` as its size and its `[3, height, width]` values in `[0, 1]`.
fn planar(tensors: &SafeTensors, name: &Value) -> ([u32; 2], Vec<f32>) {
    let tensor = tensors.tensor(name.as_str().expect("a tensor's name")).expect("a tensor of the file");
    let interleaved: Vec<f32> = match tensor.dtype() {
        Dtype::U8 => tensor.data().iter().map(|&byte| f32::from(byte) / 255.0).collect(),
        Dtype::F32 => tensor.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
        other => panic!("{name}: {other:?}"),
    };
    let [height, width] = [tensor.shape()[0], tensor.shape()[1]];
    let values = (0..3).flat_map(|c| interleaved[c..].iter().step_by(3).copied()).collect();
    ([height as u32, width as u32], values)
}

fn cropped(params: &Value) -> Draw {
    let [top, left, height, width] = ["top", "left", "height", "width"].map(|key| integer(&params[key]));
    Draw { top, left, height, width, ..WHOLE }
}

const JITTER: [&str; 4] = ["brightness", "contrast", "saturation", "hue"];

/// The draw of a whole recipe.
fn chained(params: &Value) -> Draw {
    let mut draw = Draw { flip: params["flip"].as_bool().expect("a bool").into(), ..cropped(&params["crop"]) };
    if let Some(jitter) = params["jitter"].as_object() {
        draw.jitter = 1;
        draw.order = list(&jitter["order"]).iter().enumerate().fold(0, |order, (place, name)| {
            order | (JITTER.iter().position(|known| name == known).expect("an operation") as u32) << (8 * place)
        });
        [draw.brightness, draw.contrast, draw.saturation, draw.hue] = JITTER.map(|name| number(&jitter[name]) as f32);
    }
    draw.grayscale = params["gray"].as_bool().expect("a bool").into();
    draw.blur_sigma = params["blur_sigma"].as_f64().unwrap_or(0.0) as f32;
    if params["solarized"].as_bool().expect("a bool") {
        draw.solarize = 128.0 / 255.0;
    }
    draw
}

/// What f32 arithmetic may add to any of the bounds, in levels.
const ARITHMETIC: f64 = 0.01;

/// The most that PIL's 8 bits can put between its pixels and exact ones, in levels, when the input differs by `error`.
///
/// Resizing rounds after each of its two passes (1/2 each), gray and the blur's six passes do likewise. Blends cut off
/// (up to 1); contrast blends with a rounded mean of rounded gray (1/2 each), saturation with rounded gray, either
/// `|1 - factor|` of it. Hue is cut off to 1/255 of a turn, so is the shift, and their sum wraps at 256 instead of 255:
/// 3/255 of a turn, 18 levels where the chroma is full; saturation is cut off (1) and the result rounded (1/2).
/// An error in a colour changes its value, chroma and hue, by at most the error, twice and twice that.
fn pil_bound(op: &str, factor: f64, error: f64) -> f64 {
    let blend = (factor.abs() + (1.0 - factor).abs()) * error + 1.0;
    match op {
        "resized_crop" => error + 1.0,
        "hflip" => error,
        "grayscale" | "true_gaussian_blur" => error + 0.5,
        "pil_gaussian_blur" => error + 6.0 * 0.5,
        "brightness" => factor * error + 1.0,
        "contrast" => blend + (1.0 - factor).abs(),
        "saturation" => blend + (1.0 - factor).abs() * 0.5,
        "hue" => 5.0 * error + 19.5,
        // Around 128 a value and its inverse are one level apart.
        "solarize" => error + if error > 0.0 { 1.0 } else { 0.0 },
        other => panic!("no bound for {other}"),
    }
}

/// [`pil_bound`] of one operation after another.
fn chain_bound(draw: &Draw) -> f64 {
    let mut error = pil_bound("resized_crop", 1.0, 0.0);
    if draw.jitter != 0 {
        for op in draw.jitter_order() {
            let factors = [draw.brightness, draw.contrast, draw.saturation, draw.hue];
            error = pil_bound(JITTER[op as usize], factors[op as usize].into(), error);
        }
    }
    if draw.grayscale != 0 {
        error = pil_bound("grayscale", 1.0, error);
    }
    if draw.blur_sigma > 0.0 {
        error = pil_bound("pil_gaussian_blur", 1.0, error);
    }
    if draw.solarize < Draw::NO_SOLARIZE {
        error = pil_bound("solarize", 1.0, error);
    }
    error
}

/// Like [`pil_bound`] for torchvision's float images: its weight of red in gray is 0.2989, ours 0.299.
fn float_bound(op: &str, factor: f64) -> f64 {
    let gray = match op {
        "contrast" | "saturation" => 255.0 * 1e-4 * (1.0 - factor).abs(),
        _ => 0.0,
    };
    gray + 255.0 * 4e-6
}

/// The operation of a pixel case on its input, and the bound of its error in levels.
fn run(case: &Value, tensors: &SafeTensors, scratch: &mut Scratch) -> (Vec<f32>, f64) {
    let (op, params) = (case["op"].as_str().expect("an operation"), &case["params"]);
    let (source, mut view) = planar(tensors, &case["input"]);
    let input = tensors.tensor(case["input"].as_str().expect("a name")).expect("an input");
    let mut apply = |draw: &Draw, out: [u32; 2]| {
        let mut view = vec![0.0; 3 * (out[0] * out[1]) as usize];
        cpu::apply(Source::bytes(input.data(), source), draw, out, &mut view, scratch);
        view
    };
    let adjust = op.strip_prefix("adjust_").map(|name| name.strip_suffix("_float").unwrap_or(name));
    let bound = match op {
        "resized_crop" => {
            view = apply(&cropped(params), [integer(&params["out_height"]), integer(&params["out_width"])]);
            pil_bound(op, 1.0, 0.0)
        }
        "hflip" => {
            view = apply(&Draw { height: source[0], width: source[1], flip: 1, ..WHOLE }, source);
            pil_bound(op, 1.0, 0.0)
        }
        "chain" => {
            let draw = chained(params);
            view = apply(&draw, size(&params["out"]));
            chain_bound(&draw)
        }
        "grayscale" => {
            cpu::grayscale(&mut view);
            pil_bound(op, 1.0, 0.0)
        }
        "solarize" => {
            cpu::solarize(&mut view, number(&params["threshold"]) as f32 / 255.0);
            pil_bound(op, 1.0, 0.0)
        }
        "pil_gaussian_blur" => {
            cpu::pil_box_blur(&mut view, source, number(&params["sigma"]) as f32, scratch);
            pil_bound(op, 1.0, 0.0)
        }
        "true_gaussian_blur" => {
            cpu::gaussian_blur(&mut view, source, number(&params["sigma"]) as f32, scratch);
            pil_bound(op, 1.0, 0.0)
        }
        _ => {
            let (name, factor) = (adjust.expect("a known operation"), number(&params["factor"]));
            let adjust = match name {
                "brightness" => cpu::brightness,
                "contrast" => cpu::contrast,
                "saturation" => cpu::saturation,
                "hue" => cpu::hue,
                other => panic!("unknown operation {other}"),
            };
            adjust(&mut view, factor as f32);
            if op.ends_with("_float") {
                return (view, float_bound(name, factor));
            }
            pil_bound(name, factor, 0.0)
        }
    };
    (view, bound + ARITHMETIC)
}

#[test]
fn pixels_are_pil_s_but_for_its_rounding() {
    let bytes = read("augment.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let scratch = &mut Scratch::default();
    let mut found: BTreeMap<String, (f64, f64, f64)> = BTreeMap::new();
    for case in list(&json("augment.json")["pixels"]) {
        let (view, bound) = run(case, &tensors, scratch);
        let (_, expected) = planar(&tensors, &case["output"]);
        assert_eq!(view.len(), expected.len(), "{}", case["name"]);
        let errors = || view.iter().zip(&expected).map(|(a, b)| f64::from((a - b).abs()) * 255.0);
        let (worst, mean) = (errors().fold(0.0, f64::max), errors().sum::<f64>() / view.len() as f64);
        assert!(worst <= bound, "{}: {worst} levels, at most {bound}", case["name"]);
        let entry = found.entry(case["op"].to_string()).or_default();
        *entry = (entry.0.max(worst), entry.1.max(mean), entry.2.max(bound));
    }
    for (op, (worst, mean, bound)) in &found {
        println!("{op}: worst {worst:.4} (bound {bound:.4}), worst mean {mean:.4} levels");
    }
    // The bounds of hue and of what follows it are wide; on the average of an image they are not.
    for (op, bound) in [("\"adjust_hue\"", 3.0), ("\"chain\"", 3.0)] {
        assert!(found[op].1 <= bound, "{op}: a mean error of {} levels", found[op].1);
    }
}
