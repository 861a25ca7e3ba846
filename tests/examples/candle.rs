//! Candle's inference of a bundle, for `gabion bench infer`, which asks line by line as it asks `bench/peers/infer.py`:
//!
//! `candle BUNDLE --input FILE.f32 --threads N`

#[path = "../shared/candle_network.rs"]
mod candle_network;

use candle_core::{DType, Device, Tensor};
use candle_network::Network;
use candle_nn::VarBuilder;
use gabion_spec::{Depth, Manifest, Stem};
use serde_json::{Value, json};
use std::error::Error;
use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

/// As many as an answer of one line holds.
const MOST_PASSES: usize = 4000;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [bundle, _, input, _, threads] = &words[..] else {
        return Err("usage: candle BUNDLE --input FILE.f32 --threads N".into());
    };
    let dir = Path::new(bundle);
    let manifest: Manifest = serde_json::from_slice(&std::fs::read(dir.join("manifest.json"))?)?;
    if manifest.encoder.stem != Stem::Cifar || !matches!(manifest.encoder.depth, Depth::Resnet18 | Depth::Resnet34) {
        println!("{}", json!({ "missing": "this example has ResNet-18 and 34 with the CIFAR stem alone" }));
        return Ok(());
    }
    let bytes = std::fs::read(dir.join(&manifest.weights.file))?;
    let vb = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu)?;
    let network = Network::load(&vb, &manifest)?;
    drop(vb);
    let values: Vec<f32> =
        std::fs::read(input)?.as_chunks().0.iter().map(|value: &[u8; 4]| f32::from_le_bytes(*value)).collect();
    let (height, width) = (manifest.input.height as usize, manifest.input.width as usize);
    let count = values.len() / (3 * height * width);
    let views = Tensor::from_vec(values, (count, 3, height, width), &Device::Cpu)?;
    let pass = |count: usize| -> candle_core::Result<Vec<f32>> {
        network.forward(&views.narrow(0, 0, count)?)?.flatten_all()?.to_vec1()
    };
    let notes = [format!("eager, f32, batch norms as layers, {threads} threads")];
    println!("{}", json!({ "ready": { "versions": { "candle": "0.11" }, "notes": notes } }));
    for line in std::io::stdin().lock().lines() {
        let question: Value = serde_json::from_str(&line?)?;
        let count = question["views"].as_u64().unwrap_or(1) as usize;
        match question["ask"].as_str() {
            Some("logits") => println!("{}", json!({ "logits": pass(count)? })),
            Some("round") => {
                let (mut times, began) = (Vec::new(), Instant::now());
                let seconds = question["seconds"].as_f64().unwrap_or(1.0);
                while times.len() < MOST_PASSES && (times.is_empty() || began.elapsed().as_secs_f64() < seconds) {
                    let start = Instant::now();
                    pass(count)?;
                    times.push((start.elapsed().as_secs_f64() * 1e7).round() / 1e4);
                }
                println!("{}", json!({ "milliseconds": times }));
            }
            Some("memory") => println!("{}", json!({ "peak_kib": peak()? })),
            _ => return Err(format!("{question} is no question").into()),
        }
    }
    Ok(())
}

/// VmHWM of this process, KiB.
fn peak() -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
