//! Every distinct convolution of a ResNet-18 for 32x32 images and the linear layers of a projector, in f32 and in bf16,
//! against this machine's multiply-add peak in f32.
//!
//! `cargo run --release -p gabion-kernels --example roofline [width = 16] [batch = 256] [results/roofline.json]`
//!
//! Prints milliseconds and GFLOP/s of the forward pass, the input gradient and the weight gradient with 1 and with 2
//! threads (best of several runs), then GB/s of the batch norm passes. FLOPs count a multiply-add as two and are those of
//! the plain sum, so that Winograd's way may pass the peak. With a file, widths may be several (`16,32,64`), and the table
//! goes there as JSON, with the bytes that each pass has to move at least.

// The peak is measured with intrinsics.
#![allow(unsafe_code)]

use gabion_kernels::*;
use std::time::Instant;

/// Best time of several runs, in seconds.
fn best(mut work: impl FnMut()) -> f64 {
    work();
    let start = Instant::now();
    let (mut fastest, mut runs) = (f64::INFINITY, 0);
    while runs < 5 || start.elapsed().as_secs_f64() < 0.4 {
        let start = Instant::now();
        work();
        fastest = fastest.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    fastest
}

#[cfg(target_arch = "x86_64")]
mod peak {
    use std::arch::x86_64::*;

    pub const ROUNDS: usize = 1 << 20;

    macro_rules! peak {
        ($name:ident, $feature:literal, $splat:ident, $fma:ident, $lanes:literal, $last:ident) => {
            /// FLOPs done, and a value that keeps the loop alive.
            #[target_feature(enable = $feature)]
            pub fn $name(seed: f32) -> (usize, f32) {
                let factor = $splat(seed);
                let mut sums = [$splat(1.0); 12];
                for _ in 0..ROUNDS {
                    for sum in &mut sums {
                        *sum = $fma(*sum, factor, factor);
                    }
                }
                (ROUNDS * 12 * $lanes * 2, sums.iter().map(|sum| $last(*sum)).sum())
            }
        };
    }
    peak!(avx512, "avx512f", _mm512_set1_ps, _mm512_fmadd_ps, 16, _mm512_cvtss_f32);
    peak!(avx2, "avx2,fma", _mm256_set1_ps, _mm256_fmadd_ps, 8, _mm256_cvtss_f32);
}

/// GFLOP/s of one core on independent multiply-adds, or `None` where this example knows no intrinsics.
fn peak() -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    {
        let measure = |run: &dyn Fn(f32) -> (usize, f32)| {
            let mut flops = 0;
            let seconds = best(|| flops = std::hint::black_box(run(std::hint::black_box(0.5))).0);
            flops as f64 / seconds / 1e9
        };
        match Level::current() {
            // SAFETY: the level was detected.
            Level::Avx512 => return Some(measure(&|seed| unsafe { peak::avx512(seed) })),
            // SAFETY: the level was detected.
            Level::Avx2 => return Some(measure(&|seed| unsafe { peak::avx2(seed) })),
            Level::Portable => {}
        }
    }
    None
}

fn noise(length: usize) -> Vec<f32> {
    (0..length as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn convolutions(width: usize, batch: usize) -> Vec<Conv2d> {
    let conv = |side, channels_in, channels_out, kernel, stride| Conv2d {
        batch,
        height: side,
        width: side,
        channels_in,
        channels_out,
        kernel,
        stride,
        padding: kernel / 2,
    };
    let mut all = vec![conv(32, 3, width, 3, 1), conv(32, width, width, 3, 1)];
    for stage in 0..3 {
        let (side, channels) = (32 >> stage, width << stage);
        all.push(conv(side, channels, 2 * channels, 3, 2));
        all.push(conv(side, channels, 2 * channels, 1, 2));
        all.push(conv(side / 2, 2 * channels, 2 * channels, 3, 1));
    }
    all
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let widths = arguments.next().unwrap_or("16".into());
    let batch = arguments.next().map_or(256, |batch| batch.parse().expect("the batch is a number"));
    let peak = peak();
    let mut rows = Vec::new();
    for width in widths.split(',').map(|width| width.parse().expect("widths are numbers between commas")) {
        println!("{}, width {width}, batch {batch}", Level::current());
        if let Some(peak) = peak {
            println!("multiply-add peak of one core: {peak:.0} GFLOP/s");
        }
        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
            pool.install(|| layers(width, batch, threads, peak, &mut rows));
        }
    }
    if let Some(out) = arguments.next() {
        std::fs::write(&out, json(&rows, peak)).unwrap_or_else(|error| panic!("{out}: {error}"));
    }
}

fn layers(width: usize, batch: usize, threads: usize, peak: Option<f64>, rows: &mut Vec<String>) {
    for products in [Products::F32, Products::Bf16] {
        convolve(width, batch, threads, products, peak, rows);
    }
    norms(width, batch);
}

fn convolve(width: usize, batch: usize, threads: usize, products: Products, peak: Option<f64>, rows: &mut Vec<String>) {
    let name = match products {
        Products::F32 => "f32",
        Products::Bf16 => "bf16",
    };
    println!("\n{threads} thread(s), {name:<4}    forward              input gradient       weight gradient");
    println!("layer                  ms  GFLOP/s  peak    ms  GFLOP/s  peak    ms  GFLOP/s  peak");
    let mut row = |layer: String, flops: usize, bytes: usize, times: [f64; 3]| {
        print!("{layer:<18}");
        for (pass, seconds) in ["forward", "input gradient", "weight gradient"].into_iter().zip(times) {
            let speed = flops as f64 / seconds / 1e9;
            let share = peak.map_or(f64::NAN, |peak| speed / peak / threads as f64);
            print!(" {:>6.2} {speed:>7.0} {:>4.0}%", seconds * 1e3, 100.0 * share);
            let share = peak.map_or("null".into(), |_| format!("{share:.3}"));
            rows.push(format!(
                "{{\"width\": {width}, \"batch\": {batch}, \"threads\": {threads}, \"products\": \"{name}\", \
                 \"layer\": \"{layer}\", \"pass\": \"{pass}\", \"ms\": {:.3}, \"flops\": {flops}, \"bytes\": {bytes}, \
                 \"gflops\": {speed:.1}, \"gigabytes\": {:.1}, \"of_peak\": {share}}}",
                seconds * 1e3,
                bytes as f64 / seconds / 1e9,
            ));
        }
        println!();
    };
    for conv in convolutions(width, batch) {
        let (x, w, dy) = (noise(conv.input_len()), noise(conv.weight_len()), noise(conv.output_len()));
        let (mut y, mut dx, mut dw) = (dy.clone(), x.clone(), w.clone());
        let times = [
            best(|| conv2d(&conv, products, &x, &w, &mut y)),
            best(|| conv2d_input_grad(&conv, products, &dy, &w, &mut dx)),
            best(|| conv2d_weight_grad(&conv, products, &x, &dy, &mut dw)),
        ];
        let Conv2d { height, channels_in, channels_out, kernel, stride, .. } = conv;
        let layer = format!("{height}px {channels_in}>{channels_out} {kernel}x{kernel}/{stride}");
        row(layer, conv.flops(), 4 * (x.len() + w.len() + dy.len()), times);
    }
    for (inputs, outputs) in [(8 * width, 4096), (4096, 4096), (4096, 1024)] {
        let shape = Linear { rows: batch, inputs, outputs };
        let (x, w, dy) = (noise(batch * inputs), noise(outputs * inputs), noise(batch * outputs));
        let (mut y, mut dx, mut dw) = (dy.clone(), x.clone(), w.clone());
        let times = [
            best(|| linear(&shape, products, &x, &w, &mut y)),
            best(|| linear_input_grad(&shape, products, &dy, &w, &mut dx)),
            best(|| linear_weight_grad(&shape, products, &x, &dy, &mut dw)),
        ];
        row(format!("linear {inputs}>{outputs}"), shape.flops(), 4 * (x.len() + w.len() + dy.len()), times);
    }
}

/// Everything that a file of results has to say.
fn json(rows: &[String], peak: Option<f64>) -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let typed: Vec<_> = std::env::args().skip(1).collect();
    format!(
        "{{\n \"machine\": {{\"cpu\": {:?}, \"cores\": {cores}}},\n \"versions\": {{\"gabion\": \"{}\"}},\n \
         \"command\": \"cargo run --release -p gabion-kernels --example roofline {}\",\n \"level\": \"{}\",\n \
         \"peak_gflops_of_a_core\": {},\n \"rows\": [\n  {}\n ]\n}}\n",
        cpu.unwrap_or(std::env::consts::ARCH),
        env!("CARGO_PKG_VERSION"),
        typed.join(" "),
        Level::current(),
        peak.map_or("null".into(), |peak| format!("{peak:.1}")),
        rows.join(",\n  "),
    )
}

fn norms(width: usize, batch: usize) {
    println!("batch norm with residual and ReLU: ms and GB/s of the tensors that each pass has to move");
    for (pixels, channels) in [(1024, width), (256, 2 * width), (64, 4 * width), (16, 8 * width)] {
        let length = batch * pixels * channels;
        let norm = BatchNorm { channels, epsilon: 1e-5, relu: true };
        let (x, residual, dy) = (noise(length), noise(length), noise(length));
        let (gamma, beta) = (vec![1.0; channels], vec![0.1; channels]);
        let (mut y, mut dx, mut mask) = (dy.clone(), dy.clone(), vec![0; norm.mask_len(length)]);
        let (mut dgamma, mut dbeta) = (gamma.clone(), gamma.clone());
        let residual = Some(residual.as_slice());
        let mut statistics = batch_norm_train(&norm, &x, &gamma, &beta, residual, &mut y, &mut mask);
        let train = best(|| statistics = batch_norm_train(&norm, &x, &gamma, &beta, residual, &mut y, &mut mask));
        let mut dy = dy;
        let mut backward = |training: bool| {
            best(|| {
                let grads = BatchNormGrads { dy: &mut dy, dx: &mut dx, dgamma: &mut dgamma, dbeta: &mut dbeta };
                match training {
                    true => batch_norm_train_backward(&norm, &x, &statistics, &gamma, &mask, grads),
                    false => batch_norm_frozen_backward(&norm, &x, &statistics, &gamma, &mask, grads),
                }
            })
        };
        let (train_backward, frozen_backward) = (backward(true), backward(false));
        let frozen = best(|| batch_norm_frozen(&norm, &x, &statistics, &gamma, &beta, residual, &mut y, &mut mask));
        print!("{channels:>4} channels");
        // Tensors read and written: train reads x twice, its backward x twice and d_residual after writing it.
        let passes = [
            ("train", train, 4),
            ("backward", train_backward, 7),
            ("frozen", frozen, 3),
            ("backward", frozen_backward, 6),
        ];
        for (name, seconds, tensors) in passes {
            print!("  {name} {:.2} {:.0}", seconds * 1e3, (tensors * 4 * length) as f64 / seconds / 1e9);
        }
        println!();
    }
}
