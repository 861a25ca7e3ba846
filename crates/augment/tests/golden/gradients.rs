//! Gradients against those of autograd, in the four groups that `augment_gradients.py` describes.

use super::{WHOLE, integer, json, list, number, read};
use gabion_augment::Draw;
use gabion_augment::cpu::{self, Scratch, Source};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// Largest error of a view's values: f32 arithmetic, as in the pixels' float cases.
const VALUES: f64 = 4e-6;
/// Largest errors of gradients, as a share of a case's largest gradient: of crops, and through colour operations, where
/// hue divides what f32 rounded before it by the chroma, here at least 0.02. Found were 4e-7 and 9e-7.
const CROPS: f64 = 2e-6;
const COLOURS: f64 = 1e-5;

struct Golden {
    cases: Value,
    bytes: Vec<u8>,
}

impl Golden {
    fn open() -> Self {
        Self { cases: json("augment_gradients.json"), bytes: read("augment_gradients.safetensors") }
    }

    fn of_group(&self, group: &str) -> Vec<Case<'_>> {
        let tensors = SafeTensors::deserialize(&self.bytes).expect("a safetensors file");
        let cases = list(&self.cases["cases"]).iter().filter(|case| case["group"] == group);
        let cases: Vec<Case> = cases.map(|case| Case::read(case, &tensors)).collect();
        assert!(!cases.is_empty(), "no cases of {group}");
        cases
    }
}

struct Case<'a> {
    json: &'a Value,
    source: Vec<f32>,
    source_size: [u32; 2],
    size: [u32; 2],
    draws: Vec<Draw>,
    /// One for each value of each view.
    weights: Vec<f32>,
    views: Vec<f32>,
    crop_gradients: Vec<f32>,
    source_gradient: Vec<f32>,
}

impl<'a> Case<'a> {
    fn read(json: &'a Value, tensors: &SafeTensors) -> Self {
        let (source, shape) = tensor(tensors, &json["source"]);
        let size = [integer(&json["size"][0]), integer(&json["size"][1])];
        let draws: Vec<Draw> = list(&json["draws"]).iter().map(draw).collect();
        let values = draws.len() * 3 * (size[0] * size[1]) as usize;
        let optional = |key: &str| json.get(key).map(|name| tensor(tensors, name).0).unwrap_or_default();
        let mut weights = tensor(tensors, &json["weights"]).0;
        weights.truncate(values);
        assert_eq!(weights.len(), values, "{}: weights (left), values of the views (right)", json["name"]);
        Self {
            json,
            source,
            source_size: [shape[1] as u32, shape[2] as u32],
            size,
            draws,
            weights,
            views: optional("views"),
            crop_gradients: optional("crop_gradients"),
            source_gradient: tensor(tensors, &json["source_gradient"]).0,
        }
    }

    fn source(&self) -> Source<'_> {
        Source::floats(&self.source, self.source_size)
    }

    fn view_len(&self) -> usize {
        self.weights.len() / self.draws.len()
    }

    /// The error of the views, and that of the gradients by the crops and by the source.
    fn errors(&self) -> Errors {
        let mut errors = Errors::default();
        let scratch = &mut Scratch::default();
        if !self.views.is_empty() {
            let mut views = vec![f32::NAN; self.weights.len()];
            for (draw, view) in self.draws.iter().zip(views.chunks_exact_mut(self.view_len())) {
                cpu::apply(self.source(), draw, self.size, view, scratch);
            }
            errors.values = largest_error(&views, &self.views);
        }
        let mut gradients = self.weights.clone();
        for (draw, gradient) in self.draws.iter().zip(gradients.chunks_exact_mut(self.view_len())) {
            cpu::colour_backward(self.source(), draw, self.size, gradient, scratch);
        }
        if !self.crop_gradients.is_empty() {
            errors.crops = relative_error(&gradients, &self.crop_gradients);
        }
        let mut found = vec![f32::NAN; self.source.len()];
        cpu::resized_crop_backward(&self.draws, &gradients, self.size, self.source_size, &mut found, scratch);
        errors.source = relative_error(&found, &self.source_gradient);
        errors
    }
}

#[derive(Debug, Default)]
struct Errors {
    values: f64,
    crops: f64,
    source: f64,
}

fn tensor(tensors: &SafeTensors, name: &Value) -> (Vec<f32>, Vec<usize>) {
    let tensor = tensors.tensor(name.as_str().expect("a tensor's name")).expect("a tensor of the file");
    assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
    let values = tensor.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
    (values.collect(), tensor.shape().to_vec())
}

/// A draw of which only what is not neutral is written.
fn draw(written: &Value) -> Draw {
    let mut draw = serde_json::to_value(WHOLE).expect("a draw has a JSON form");
    for (field, value) in written.as_object().expect("fields of a draw") {
        draw[field] = value.clone();
    }
    serde_json::from_value(draw).unwrap_or_else(|error| panic!("{written}: {error}"))
}

/// The largest absolute difference; NaN when there is one.
fn largest_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "values: found (left), expected (right)");
    let errors = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
    errors.fold(0.0, |worst, error| if error > worst || error.is_nan() { error } else { worst })
}

/// [`largest_error`] as a share of the largest value that is expected.
fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    largest_error(found, expected) / largest_error(expected, &vec![0.0; expected.len()])
}

/// Asserts the errors of all cases of a group, and prints the largest.
fn assert_group(group: &str, bound: f64) {
    let golden = Golden::open();
    let mut worst = Errors::default();
    let cases = golden.of_group(group);
    for case in &cases {
        let errors = case.errors();
        let name = &case.json["name"];
        assert!(errors.values <= VALUES, "{name}: values differ by {}, at most {VALUES}", errors.values);
        assert!(errors.crops <= bound, "{name}: gradients by the crop differ by {}, at most {bound}", errors.crops);
        assert!(errors.source <= bound, "{name}: gradients by the source differ by {}, at most {bound}", errors.source);
        worst.values = worst.values.max(errors.values);
        worst.crops = worst.crops.max(errors.crops);
        worst.source = worst.source.max(errors.source);
    }
    println!("{} of {group}: {worst:?}", cases.len());
}

#[test]
fn crops_have_the_gradient_of_interpolate() {
    assert_group("crop", CROPS);
}

#[test]
fn enlarging_crops_have_the_gradient_of_grid_sample() {
    assert_group("grid_sample", CROPS);
}

#[test]
fn single_colour_operations_have_autograd_s_gradient() {
    assert_group("operation", COLOURS);
}

#[test]
fn chains_of_operations_have_autograd_s_gradient() {
    assert_group("chain", COLOURS);
}

/// The functions that [`cpu::colour_backward`] is made of, each on its own.
#[test]
fn each_colour_backward_has_autograd_s_gradient() {
    let golden = Golden::open();
    let mut worst: Vec<(String, f64)> = Vec::new();
    for mut case in golden.of_group("operation") {
        let (op, factor) = (case.json["op"].as_str().expect("an operation"), number(&case.json["factor"]) as f32);
        let mut gradient = case.weights.clone();
        match op {
            "brightness" => cpu::brightness_backward(&case.source, factor, &mut gradient),
            "contrast" => cpu::contrast_backward(&mut case.source, factor, &mut gradient),
            "saturation" => cpu::saturation_backward(&case.source, factor, &mut gradient),
            "hue" => cpu::hue_backward(&case.source, factor, &mut gradient),
            "grayscale" => cpu::grayscale_backward(&mut gradient),
            "solarize" => cpu::solarize_backward(&case.source, factor, &mut gradient),
            // Their backward has no name of its own outside of the room.
            "gaussian_blur" | "pil_box_blur" => continue,
            other => panic!("unknown operation {other}"),
        }
        let error = relative_error(&gradient, &case.source_gradient);
        assert!(error <= COLOURS, "{}: gradients differ by {error}, at most {COLOURS}", case.json["name"]);
        match worst.iter_mut().find(|(known, _)| known == op) {
            Some((_, worst)) => *worst = worst.max(error),
            None => worst.push((op.to_owned(), error)),
        }
    }
    assert_eq!(worst.len(), 6, "operations that were compared: {worst:?}");
    println!("{worst:?}");
}
