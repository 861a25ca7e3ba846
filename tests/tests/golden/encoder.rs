use super::{device, read, relative_error, tensors, under};
use burn::Tensor;
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients, TensorData};
use gabion_learn::{Mode, Model, weights};
use gabion_spec::{Arithmetic, Depth, Encoder, Projector, Stem};
use serde_json::Value;
use std::collections::BTreeMap;

const TOLERANCE: f64 = 1e-4;

/// Gradients of the parameters in the order of a visit.
struct InOrder<'a>(&'a mut Gradients, Vec<Option<TensorData>>);

impl ModuleVisitor for InOrder<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = param.val().grad_remove(self.0);
        self.1.push(gradient.map(|gradient| gradient.into_data()));
    }
}

fn shapes(case: &Value) -> (Encoder, Projector) {
    let number = |key: &str| u32::try_from(case[key].as_u64().unwrap()).unwrap();
    let shape = Encoder {
        depth: match number("depth") {
            18 => Depth::Resnet18,
            34 => Depth::Resnet34,
            _ => Depth::Resnet50,
        },
        width: number("width"),
        stem: if case["stem"] == "cifar" { Stem::Cifar } else { Stem::Imagenet },
    };
    (shape, Projector { hidden: number("hidden"), output: number("output") })
}

fn matches_pytorch(case: &Value) {
    let device = device();
    let file = case["name"].as_str().unwrap();
    let golden = tensors(&format!("encoder_{file}.safetensors"));
    let (shape, projector) = shapes(case);
    let vanishing: Vec<String> = case["vanishing_in_train"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap().trim_start_matches("grad/").to_string())
        .collect();
    for (name, mode) in
        [("train", Mode::Train), ("frozen", Mode::Eval), ("frozen", Mode::Frozen), ("train", Mode::Attack)]
    {
        let mut given = under(&golden, "weights/");
        let model = weights::import(Model::init(&shape, &projector, 1, &device), "", &mut given).unwrap();
        assert!(given.is_empty(), "left over: {given:?}");
        let x = Tensor::<4>::from_data(golden["input"].clone(), &device).require_grad();
        let out = model.forward(x.clone(), mode);
        let cotangent = |key: &str| Tensor::<2>::from_data(golden[key].clone(), &device);
        let check = |what: &str, found: &TensorData, key: &str| {
            let error = relative_error(found, &golden[key]);
            assert!(error < TOLERANCE, "{file} {mode:?} {what}: relative error {error:.2e}");
        };
        check("feature", &out.feature.to_data(), &format!("{name}/feature"));
        check("projection", &out.projection.to_data(), &format!("{name}/projection"));
        let scalar = (out.feature * cotangent("cotangent_feature")).sum()
            + (out.projection * cotangent("cotangent_projection")).sum();
        let mut grads = scalar.backward();
        check("input gradient", &x.grad(&grads).unwrap().into_data(), &format!("{name}/grad_input"));
        let names = weights::names(&model);
        let mut visitor = InOrder(&mut grads, Vec::new());
        model.visit(&mut visitor);
        for (parameter, gradient) in names.iter().zip(visitor.1) {
            let key = format!("{name}/grad/{parameter}");
            match (mode, golden.contains_key(&key)) {
                // A bias before batch normalisation has no effect; only rounding is left of its gradient.
                (Mode::Train, true) if vanishing.contains(parameter) => {
                    let largest = gradient.expect(parameter).iter::<f32>().fold(0f32, |most, g| most.max(g.abs()));
                    assert!(largest < 1e-3, "{parameter}: {largest}");
                }
                (Mode::Train | Mode::Eval, true) => check(parameter, &gradient.expect(parameter), &key),
                _ => assert!(gradient.is_none(), "{parameter} has a gradient under {mode:?}"),
            }
        }
        let after = weights::export(&model, "");
        let moved: BTreeMap<_, _> = match mode {
            Mode::Train => under(&golden, "train/after/"),
            _ => under(&golden, "weights/").into_iter().filter(|(name, _)| name.contains("running")).collect(),
        };
        assert!(!moved.is_empty());
        for (buffer, expected) in moved {
            let error = relative_error(&after[&buffer], &expected);
            assert!(error < TOLERANCE, "{file} {mode:?} {buffer}: relative error {error:.2e}");
        }
    }
}

#[test]
fn encoders_match_pytorch() {
    let cases: Vec<Value> = serde_json::from_slice(&read("encoders.json")).unwrap();
    assert!(cases.len() >= 4);
    for case in &cases {
        matches_pytorch(case);
    }
}

/// Rounding changes which units a ReLU lets through, and these networks are narrow: what bf16 may differ by is what
/// PyTorch's own autocast differs from its f32 by, and a quarter more.
const OF_AUTOCAST: f64 = 1.25;

#[test]
fn bf16_is_as_near_as_pytorchs_autocast() {
    let cases: Vec<Value> = serde_json::from_slice(&read("encoders.json")).unwrap();
    let autocast: Value = serde_json::from_slice(&read("bf16.json")).unwrap();
    for case in &cases {
        let device = device();
        let file = case["name"].as_str().unwrap();
        let golden = tensors(&format!("encoder_{file}.safetensors"));
        let (shape, projector) = shapes(case);
        for (name, mode) in [("train", Mode::Train), ("frozen", Mode::Eval)] {
            let mut given = under(&golden, "weights/");
            let model = weights::import(Model::init(&shape, &projector, 1, &device), "", &mut given).unwrap();
            let model = model.compute_in(Arithmetic::Bf16);
            let x = Tensor::<4>::from_data(golden["input"].clone(), &device).require_grad();
            let out = model.forward(x.clone(), mode);
            let (feature, projection) = (out.feature.to_data(), out.projection.to_data());
            let cotangent = |key: &str| Tensor::<2>::from_data(golden[key].clone(), &device);
            let scalar = (out.feature * cotangent("cotangent_feature")).sum()
                + (out.projection * cotangent("cotangent_projection")).sum();
            let gradient = x.grad(&scalar.backward()).unwrap().into_data();
            for (what, found) in [("feature", feature), ("projection", projection), ("grad_input", gradient)] {
                let error = relative_error(&found, &golden[&format!("{name}/{what}")]);
                let theirs = autocast["cases"][file][name][what].as_f64().unwrap();
                println!("{file} {name} {what}: {error:.1e}, autocast {theirs:.1e}");
                assert!(error > 0.0 && error < OF_AUTOCAST * theirs, "{file} {name} {what}: {error:.1e}, {theirs:.1e}");
            }
        }
    }
}
