//! The golden CNN: logits and input gradients of PyTorch. Where CIFAR-10 and the weights are, networks that others trained.

use super::{device, parse, read, relative_error, tensors, under};
use burn::Tensor;
use burn::tensor::{Device, TensorData};
use gabion_learn::loss::cross_entropy;
use gabion_learn::networks::{Architecture, Network};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Of f32 against float64, in the Euclidean norm.
const LOGITS: f64 = 2e-6;
const GRADIENT: f64 = 1e-5;
/// The same of deeper networks; PyTorch's own f32 gradient of resnet56 is 1.1e-5 off.
const DEEP_LOGITS: f64 = 1e-5;
const DEEP_GRADIENT: f64 = 1e-4;

#[test]
fn the_small_cnn_has_pytorchs_logits_and_gradients() {
    let golden = tensors("autoattack.safetensors");
    let network = Network::build(under(&golden, "weights/"), &device()).unwrap();
    assert_eq!(network.architecture(), Architecture::Small { widths: [8, 16], features: 576, classes: 10 });
    let x = Tensor::<4>::from_data(golden["images"].clone(), &device()).div_scalar(255.0).require_grad();
    let logits = network.logits(x.clone());
    let error = relative_error(&logits.to_data(), &golden["logits"]);
    assert!(error < LOGITS, "logits are off by {error:.1e}");
    let first = golden["gradient"].shape()[0];
    let labels = Tensor::<1>::from_data(golden["labels"].clone(), &device()).int().narrow(0, 0, first);
    let loss = cross_entropy(logits.narrow(0, 0, first), labels).sum();
    let gradient = x.grad(&loss.backward()).unwrap();
    let off = relative_error(&gradient.narrow(0, 0, first).into_data(), &golden["gradient"]);
    assert!(off < GRADIENT, "gradients are off by {off:.1e}");
    println!("relative error of logits {error:.1e}, of gradients {off:.1e}");
}

/// Whose values are in `foreign.json`.
const OTHERS: [(&str, Architecture); 6] = [
    ("resnet2b", Architecture::Crown { width: 8, stages: 1 }),
    ("resnet4b", Architecture::Crown { width: 16, stages: 2 }),
    ("cifar_cnn_a_adv", Architecture::CnnA),
    ("cifar_cnn_a_mix", Architecture::CnnA),
    ("resnet20-12fca82f", Architecture::Cifar { blocks: 3 }),
    ("resnet56-4bfd9763", Architecture::Cifar { blocks: 9 }),
];
const IMAGES: usize = 1000;
const BATCH: usize = 100;
/// Images whose two greatest logits may change places in f32.
const TIES: usize = 1;
/// Of a flat gradient, the values that `foreign.json` keeps.
const EVERY: usize = 97;
const RECORD: usize = 1 + 3 * 32 * 32;

/// The folder of the weights: `GABION_MODELS`, or beside the repository.
fn models() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/models");
    std::env::var_os("GABION_MODELS").map_or_else(beside, PathBuf::from)
}

/// Pixels in [0, 1] and labels of the first test images, where `GABION_DATA` has them.
fn cifar10() -> Option<(Tensor<4>, Vec<i64>)> {
    let root = PathBuf::from(std::env::var_os("GABION_DATA")?);
    let file = ["cifar10/test_batch.bin", "test_batch.bin"].map(|name| root.join(name));
    let records = std::fs::read(file.iter().find(|file| file.is_file())?).unwrap();
    let records: Vec<&[u8]> = records.chunks_exact(RECORD).take(IMAGES).collect();
    let pixels: Vec<f32> =
        records.iter().flat_map(|record| &record[1..]).map(|&byte| f32::from(byte) / 255.0).collect();
    let x = Tensor::from_data(TensorData::new(pixels, [records.len(), 3, 32, 32]), &Device::flex());
    Some((x, records.iter().map(|record| i64::from(record[0])).collect()))
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

#[test]
fn networks_of_others_are_as_in_pytorch() {
    let Some((x, labels)) = cifar10() else {
        println!("skipped: GABION_DATA names no folder with cifar10/test_batch.bin");
        return;
    };
    let folder = models();
    let golden: Value = serde_json::from_slice(&read("foreign.json")).unwrap();
    for (name, architecture) in OTHERS {
        let Ok(bytes) = std::fs::read(folder.join(name).with_extension("safetensors")) else {
            println!("skipped: no {name}.safetensors in GABION_MODELS");
            continue;
        };
        let (network, golden) = (Network::build(parse(&bytes), &Device::flex()).unwrap(), &golden[name]);
        assert_eq!(network.architecture(), architecture, "{name}");
        let mut right = 0;
        for (at, labels) in labels.chunks(BATCH).enumerate() {
            let logits = network.logits(x.clone().narrow(0, at * BATCH, labels.len()));
            let predicted: Vec<i64> = logits.argmax(1).into_data().iter::<i64>().collect();
            right += predicted.iter().zip(labels).filter(|(found, label)| found == label).count();
        }
        let expected = golden["right"].as_u64().unwrap() as usize;
        assert!(right.abs_diff(expected) <= TIES, "{name}: {right} of {IMAGES} are right, in PyTorch {expected}");

        let rows = golden["logits"].as_array().unwrap();
        let few = Tensor::from_inner(x.clone().narrow(0, 0, rows.len())).require_grad();
        let logits = network.logits(few.clone());
        let expected = TensorData::new(rows.iter().flat_map(numbers).collect::<Vec<_>>(), logits.dims());
        let error = relative_error(&logits.to_data(), &expected);
        assert!(error < DEEP_LOGITS, "{name}: logits are off by {error:.1e}");
        let truth = TensorData::new(labels[..rows.len()].to_vec(), [rows.len()]);
        let loss = cross_entropy(logits, Tensor::from_data(truth, &device())).sum();
        let gradient: Vec<f32> = few.grad(&loss.backward()).unwrap().into_data().iter::<f32>().collect();
        let norm = gradient.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        let part: Vec<f32> = gradient.into_iter().step_by(EVERY).collect();
        let part = TensorData::new(part.clone(), [part.len()]);
        let off = relative_error(&part, &TensorData::new(numbers(&golden["gradient"]), part.shape()));
        let off = off.max((norm / golden["norm"].as_f64().unwrap() - 1.0).abs());
        assert!(off < DEEP_GRADIENT, "{name}: gradients are off by {off:.1e}");
        println!("{name}: {right} of {IMAGES}; relative error of logits {error:.1e}, of gradients {off:.1e}");
    }
}
