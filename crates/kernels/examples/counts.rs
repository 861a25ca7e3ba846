//! Instructions of each kernel on a small fixed workload: a number that does not move with the machine's load, so that a
//! regression shows on a busy one.
//!
//! `cargo run --release -p gabion-kernels --example counts [FILE]`
//!
//! Runs itself once a workload under `perf stat` or, where that counts nothing, under valgrind's callgrind, on one thread,
//! and prints thousands of instructions less those of starting. The level is AVX2 unless `GABION_LEVEL` says otherwise:
//! valgrind knows no AVX-512. With a file of earlier output, a kernel that takes over 2% more than there is an error.

use gabion_kernels::*;
use std::collections::BTreeMap;
use std::process::{Command, ExitCode};

/// What an environment variable of this name asks a child to run.
const WORKLOAD: &str = "GABION_COUNT";

/// What an earlier count may be passed by: compilers and standard libraries differ by less.
const TOLERANCE: f64 = 1.02;

const NAMES: [&str; 10] = [
    "nothing",
    "conv 3x3 forward",
    "conv 3x3 input gradient",
    "conv 3x3 weight gradient",
    "conv 3x3/2 forward",
    "conv 3x3/2 input gradient",
    "conv 3x3/2 weight gradient",
    "batch norm forward",
    "batch norm backward",
    "lars",
];

fn noise(length: usize) -> Vec<f32> {
    (0..length as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// Makes every operand, so that all workloads start alike, and runs one kernel.
fn run(name: &str) {
    let conv = |stride| Conv2d {
        batch: 4,
        height: 16,
        width: 16,
        channels_in: 32,
        channels_out: 32,
        kernel: 3,
        stride,
        padding: 1,
    };
    let (one, two) = (conv(1), conv(2));
    let (x, w, dy) = (noise(one.input_len()), noise(one.weight_len()), noise(one.output_len()));
    let (mut y, mut dx, mut dw) = (dy.clone(), x.clone(), w.clone());
    let half = two.output_len();
    let norm = BatchNorm { channels: 32, epsilon: 1e-5, relu: true };
    let (gamma, beta) = (vec![1.0; 32], vec![0.1; 32]);
    let mut mask = vec![u16::MAX; norm.mask_len(x.len())];
    let rule = Lars { rate: 0.3, momentum: 0.9, weight_decay: 1e-4, trust: Some(0.005) };
    match name {
        "conv 3x3 forward" => conv2d(&one, Products::F32, &x, &w, &mut y),
        "conv 3x3 input gradient" => conv2d_input_grad(&one, Products::F32, &dy, &w, &mut dx),
        "conv 3x3 weight gradient" => conv2d_weight_grad(&one, Products::F32, &x, &dy, &mut dw),
        "conv 3x3/2 forward" => conv2d(&two, Products::F32, &x, &w, &mut y[..half]),
        "conv 3x3/2 input gradient" => conv2d_input_grad(&two, Products::F32, &dy[..half], &w, &mut dx),
        "conv 3x3/2 weight gradient" => conv2d_weight_grad(&two, Products::F32, &x, &dy[..half], &mut dw),
        "batch norm forward" => {
            batch_norm_train(&norm, &x, &gamma, &beta, None, &mut y, &mut mask);
        }
        "batch norm backward" => {
            let statistics = Statistics { mean: beta.clone(), var: gamma.clone() };
            let (mut dgamma, mut dbeta) = (gamma.clone(), beta.clone());
            let grads = BatchNormGrads { dy: &mut y, dx: &mut [], dgamma: &mut dgamma, dbeta: &mut dbeta };
            batch_norm_train_backward(&norm, &x, &statistics, &gamma, &mask, grads);
        }
        "lars" => lars(&rule, &mut y, &x, &mut dx),
        _ => {}
    }
    std::hint::black_box((y, dx, dw, mask));
}

/// Instructions of a child that runs a workload.
fn count(name: &str) -> Option<u64> {
    let itself = std::env::current_exe().ok()?;
    let child = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).arg(&itself).env(WORKLOAD, name).env("RAYON_NUM_THREADS", "1");
        if std::env::var_os(VARIABLE).is_none() && cfg!(target_arch = "x86_64") {
            command.env(VARIABLE, "avx2");
        }
        let output = command.output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let number = |text: &str| text.replace(',', "").trim().parse().ok();
    let perf = child("perf", &["stat", "-x", ";", "-e", "instructions:u"])
        .and_then(|said| said.lines().find(|line| line.contains("instructions"))?.split(';').next().and_then(number));
    perf.or_else(|| {
        let said = child("valgrind", &["--tool=callgrind", "--callgrind-out-file=/dev/null"])?;
        said.lines().find(|line| line.contains("Collected :"))?.split(':').nth(1).and_then(number)
    })
}

fn main() -> ExitCode {
    if let Ok(name) = std::env::var(WORKLOAD) {
        run(&name);
        return ExitCode::SUCCESS;
    }
    let earlier: BTreeMap<String, f64> = match std::env::args().nth(1) {
        Some(file) => std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{file}: {error}"))
            .lines()
            .filter_map(|line| line.rsplit_once(' ').map(|(name, count)| (name.trim().into(), count.parse())))
            .filter_map(|(name, count)| count.ok().map(|count| (name, count)))
            .collect(),
        None => BTreeMap::new(),
    };
    let Some(start) = count(NAMES[0]) else {
        eprintln!("neither perf nor valgrind counts instructions here: install valgrind");
        return ExitCode::FAILURE;
    };
    let mut worse = false;
    for name in &NAMES[1..] {
        let Some(instructions) = count(name) else {
            eprintln!("{name}: the child failed");
            return ExitCode::FAILURE;
        };
        let thousands = instructions.saturating_sub(start) / 1000;
        println!("{name:<28} {thousands}");
        if let Some(before) = earlier.get(*name)
            && thousands as f64 > before * TOLERANCE
        {
            eprintln!("{name}: {thousands} thousand instructions, {before} before");
            worse = true;
        }
    }
    if worse { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
