//! A whole frozen ResNet-18 for 32x32 images: milliseconds and GFLOP/s of the direct sum, whatever computed it.
//!
//! `cargo run --release -p gabion-kernels --example frozen [width = 16] [batch = 64]`
//!
//! Prints the forward pass and the passes there and back in every precision that has one, with 1 and with 2 threads (best of several
//! runs).

use gabion_kernels::{Builder, Filter, Frozen, Level, Precision, Value};
use std::time::Instant;

fn best(mut work: impl FnMut()) -> f64 {
    work();
    let start = Instant::now();
    let (mut fastest, mut runs) = (f64::INFINITY, 0);
    while runs < 5 || start.elapsed().as_secs_f64() < 2.0 {
        let start = Instant::now();
        work();
        fastest = fastest.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    fastest
}

fn noise(length: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..length).map(|_| next()).collect()
}

/// The network, and the multiply-adds of an image.
fn resnet(width: usize, precision: Precision) -> (Frozen, usize) {
    let (net, mut x) = Builder::new([3, 32, 32], &[1.0; 3], &[0.0; 3]);
    let mut net = match precision {
        Precision::Int8 => net.quantised(&resnet(width, Precision::F32).0.ranges(&noise(8 * 3072))),
        _ => net.with(precision),
    };
    let mut products = 0;
    let mut conv = |net: &mut Builder, x: Value, [from, to, kernel, stride, side]: [usize; 5], around, relu| {
        let filter = Filter { kernel, stride, padding: kernel / 2 };
        products += (side / stride).pow(2) * from * to * kernel * kernel;
        let spread = (2.0 / (from * kernel * kernel) as f32).sqrt();
        let weights: Vec<f32> = noise(from * to * kernel * kernel).iter().map(|value| value * spread).collect();
        net.conv(x, filter, &weights, &vec![0.1; to], around, relu)
    };
    x = conv(&mut net, x, [3, width, 3, 1, 32], None, true);
    let mut from = width;
    for stage in 0..4 {
        let to = width << stage;
        for block in 0..2 {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let side = (32 >> stage) * stride;
            let around = match stride {
                1 => x,
                _ => conv(&mut net, x, [from, to, 1, stride, side], None, false),
            };
            let mid = conv(&mut net, x, [from, to, 3, stride, side], None, true);
            x = conv(&mut net, mid, [to, to, 3, 1, side / stride], Some(around), true);
            from = to;
        }
    }
    x = net.average_pool(x);
    net.linear(x, &noise(from * 10), &[0.0; 10], false);
    (net.build(), products)
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>().expect("a number"));
    let (width, batch) = (arguments.next().unwrap_or(16), arguments.next().unwrap_or(64));
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let (net, products) = resnet(width, precision);
        let x = noise(batch * net.input_len());
        let (mut logits, mut dx) = (vec![0.0; batch * 10], vec![0.0; x.len()]);
        let megabytes = net.weight_bytes() as f64 / 1e6;
        println!("{precision:?}, {}, width {width}, batch {batch}, weights {megabytes:.1} MB", Level::current());
        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            let forward = pool.install(|| best(|| net.forward(&x, net.last(), &mut logits)));
            let mut ones = |logits: &[f32]| vec![1.0; logits.len()];
            let rate = |passes: f64, seconds: f64| 2e-9 * passes * (products * batch) as f64 / seconds;
            if precision == Precision::Int8 {
                println!("{threads} thread(s): forward {:.2} ms, {:.0} GFLOP/s", forward * 1e3, rate(1.0, forward));
                continue;
            }
            let both = pool.install(|| best(|| net.gradient(&x, net.last(), &mut ones, &mut logits, &mut dx)));
            println!(
                "{threads} thread(s): forward {:.2} ms, {:.0} GFLOP/s; there and back {:.2} ms, {:.0} GFLOP/s",
                forward * 1e3,
                rate(1.0, forward),
                both * 1e3,
                rate(2.0, both)
            );
        }
    }
}
