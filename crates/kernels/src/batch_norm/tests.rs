//! Batch normalisation against f64, on every level of the machine, and on any number of threads.

use super::*;
use crate::conv::tests::noise;
use proptest::prelude::*;

struct Case {
    norm: BatchNorm,
    x: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    residual: Option<Vec<f32>>,
    dy: Vec<f32>,
}

impl Case {
    fn new(rows: usize, channels: usize, relu: bool, residual: bool, seed: u64) -> Self {
        let length = rows * channels;
        Self {
            norm: BatchNorm { channels, epsilon: 1e-5, relu },
            x: noise(length, seed).iter().enumerate().map(|(i, x)| x * 2.0 + (i % channels) as f32 * 0.3).collect(),
            gamma: noise(channels, seed + 1).iter().map(|g| 1.0 + g / 2.0).collect(),
            beta: noise(channels, seed + 2),
            residual: residual.then(|| noise(length, seed + 3)),
            dy: noise(length, seed + 4),
        }
    }

    fn rows(&self) -> usize {
        self.x.len() / self.norm.channels
    }

    fn statistics(&self) -> (Vec<f64>, Vec<f64>) {
        let channels = self.norm.channels;
        let mut mean = vec![0.0; channels];
        let mut var = vec![0.0; channels];
        let rows = self.rows() as f64;
        for (i, x) in self.x.iter().enumerate() {
            mean[i % channels] += f64::from(*x) / rows;
        }
        for (i, x) in self.x.iter().enumerate() {
            var[i % channels] += (f64::from(*x) - mean[i % channels]).powi(2) / rows;
        }
        (mean, var)
    }

    /// Before the ReLU.
    fn output(&self, mean: &[f64], var: &[f64]) -> Vec<f64> {
        let channels = self.norm.channels;
        let at = |(i, x): (usize, &f32)| {
            let c = i % channels;
            let xhat = (f64::from(*x) - mean[c]) / (var[c] + f64::from(self.norm.epsilon)).sqrt();
            let residual = self.residual.as_ref().map_or(0.0, |r| f64::from(r[i]));
            xhat * f64::from(self.gamma[c]) + f64::from(self.beta[c]) + residual
        };
        self.x.iter().enumerate().map(at).collect()
    }

    /// dx, dgamma, dbeta, d_residual by the formula, given the output that masks.
    fn gradients(&self, mean: &[f64], var: &[f64], y: &[f32], through: bool) -> [Vec<f64>; 4] {
        let channels = self.norm.channels;
        let rows = self.rows() as f64;
        let inv_std: Vec<f64> = var.iter().map(|v| 1.0 / (v + f64::from(self.norm.epsilon)).sqrt()).collect();
        let xhat = |i: usize| (f64::from(self.x[i]) - mean[i % channels]) * inv_std[i % channels];
        let masked: Vec<f64> = self
            .dy
            .iter()
            .zip(y)
            .map(|(dy, y)| if !self.norm.relu || *y > 0.0 { f64::from(*dy) } else { 0.0 })
            .collect();
        let (mut dgamma, mut dbeta) = (vec![0.0; channels], vec![0.0; channels]);
        for (i, dy) in masked.iter().enumerate() {
            dgamma[i % channels] += dy * xhat(i);
            dbeta[i % channels] += dy;
        }
        let dx = |(i, dy): (usize, &f64)| {
            let c = i % channels;
            let rest = if through { (dbeta[c] + xhat(i) * dgamma[c]) / rows } else { 0.0 };
            f64::from(self.gamma[c]) * inv_std[c] * (dy - rest)
        };
        let dx = masked.iter().enumerate().map(dx).collect();
        [dx, dgamma, dbeta, masked]
    }

    /// y, dx, dgamma, dbeta, d_residual.
    fn run(&self, level: Level, given: Option<&Statistics>) -> (Statistics, [Vec<f32>; 5]) {
        self.run_on(&self.x, level, given)
    }

    fn run_on<X: Element>(&self, x: &[X], level: Level, given: Option<&Statistics>) -> (Statistics, [Vec<f32>; 5]) {
        let Self { norm, gamma, beta, dy, .. } = self;
        let residual = self.residual.as_deref();
        let mut y = vec![f32::NAN; x.len()];
        let mut mask = vec![0xAAAA; self.rows() * crate::vector::words(norm.channels, level.lanes())];
        let statistics = match given {
            None => train_at(level, norm, x, gamma, beta, residual, &mut y, &mut mask),
            Some(given) => {
                normalise(level, norm, x, given, gamma, beta, residual, &mut y, &mut mask);
                given.clone()
            }
        };
        // The given statistics of a batch make its output again, bit for bit.
        let mut again = vec![f32::NAN; x.len()];
        normalise(level, norm, x, &statistics, gamma, beta, residual, &mut again, &mut []);
        assert_eq!(again, y);
        let mut dy = dy.clone();
        let mut dx = vec![f32::NAN; if residual.is_some() { x.len() } else { 0 }];
        let (mut dgamma, mut dbeta) = (vec![f32::NAN; norm.channels], vec![f32::NAN; norm.channels]);
        let grads = BatchNormGrads { dy: &mut dy, dx: &mut dx, dgamma: &mut dgamma, dbeta: &mut dbeta };
        backward_at(level, norm, x, &statistics, gamma, &mask, grads, given.is_none());
        let (dx, d_residual) = if residual.is_some() { (dx, dy) } else { (dy, Vec::new()) };
        (statistics, [y, dx, dgamma, dbeta, d_residual])
    }
}

fn assert_close(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    // Terms are about 1: a sum of them that cancels is no more exact than they are.
    let scale = expected.iter().fold(1f64, |m, v| m.max(v.abs()));
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*got) - expected).abs() / scale;
        assert!(error < tolerance, "{what}[{at}] is {got}, expected {expected} (scale {scale})");
    }
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

fn check(case: &Case) {
    for level in Level::available() {
        for frozen in [false, true] {
            let given = Statistics {
                mean: noise(case.norm.channels, 11),
                var: noise(case.norm.channels, 12).iter().map(|v| v + 1.5).collect(),
            };
            let (statistics, [y, dx, dgamma, dbeta, d_residual]) = case.run(level, frozen.then_some(&given));
            let (mean, var) = if frozen { (widen(&given.mean), widen(&given.var)) } else { case.statistics() };
            assert_close("mean", &statistics.mean, &mean, 1e-6);
            assert_close("var", &statistics.var, &var, 1e-6);
            let relu = |y: f64| if case.norm.relu { y.max(0.0) } else { y };
            let y64: Vec<f64> = case.output(&mean, &var).into_iter().map(relu).collect();
            assert_close("y", &y, &y64, 1e-5);
            let expected = case.gradients(&mean, &var, &y, !frozen);
            assert_close("dx", &dx, &expected[0], 1e-5);
            assert_close("dgamma", &dgamma, &expected[1], 1e-5);
            assert_close("dbeta", &dbeta, &expected[2], 1e-5);
            if case.residual.is_some() {
                assert_close("d_residual", &d_residual, &expected[3], 1e-7);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]
    #[test]
    fn agrees_with_the_formula(
        rows in 4usize..400,
        channels in 1usize..150,
        relu in any::<bool>(),
        residual in any::<bool>(),
        seed in 1u64..1 << 40,
    ) {
        check(&Case::new(rows, channels, relu, residual, seed));
    }
}

#[test]
fn many_chunks_agree_with_the_formula() {
    check(&Case::new(40_001, 16, true, true, 5));
    check(&Case::new(5_000, 130, true, false, 6));
}

#[test]
fn a_distant_mean_costs_no_precision() {
    let mut case = Case::new(50_000, 20, false, false, 3);
    for (i, x) in case.x.iter_mut().enumerate() {
        // Standard deviation 1 about 1000, and no value repeats the rounding of another.
        *x = 1000.0 + (*x - (i % 20) as f32 * 0.3) * 3f32.sqrt() / 2.0;
    }
    let (mean, var) = case.statistics();
    assert!(var.iter().all(|v| (0.9..1.1).contains(v)), "{var:?}");
    let y64 = case.output(&mean, &var);
    for level in Level::available() {
        let (statistics, [y, ..]) = case.run(level, None);
        assert_close("mean", &statistics.mean, &mean, 1e-7);
        assert_close("var", &statistics.var, &var, 2e-6);
        // An f32 near 1000 has steps of 6e-5.
        assert_close("y", &y, &y64, 4e-5);
    }
}

/// The formula itself, by central differences of the f64 forward pass.
#[test]
fn the_formula_is_the_derivative() {
    let case = Case::new(12, 3, true, true, 9);
    let loss = |case: &Case| {
        let (mean, var) = case.statistics();
        let y = case.output(&mean, &var);
        y.iter().zip(&case.dy).map(|(y, dy)| y.max(0.0) * f64::from(*dy)).sum::<f64>()
    };
    let (mean, var) = case.statistics();
    let y: Vec<f32> = case.output(&mean, &var).iter().map(|y| *y as f32).collect();
    assert!(y.iter().all(|y| y.abs() > 1e-3), "a kink too near for differences");
    let [dx, dgamma, dbeta, _] = case.gradients(&mean, &var, &y, true);
    // A power of two, so that x + step and x - step are exact enough in f32.
    let step = 1.0 / 4096.0;
    let slope = |change: &dyn Fn(&mut Case, f32)| {
        let mut moved = Case::new(12, 3, true, true, 9);
        change(&mut moved, step);
        let above = loss(&moved);
        change(&mut moved, -2.0 * step);
        (above - loss(&moved)) / (2.0 * f64::from(step))
    };
    for i in 0..case.x.len() {
        let numeric = slope(&|case, step| case.x[i] += step);
        assert!((numeric - dx[i]).abs() < 2e-3, "dx[{i}]: {numeric} and {}", dx[i]);
    }
    for c in 0..3 {
        let numeric = slope(&|case, step| case.gamma[c] += step);
        assert!((numeric - dgamma[c]).abs() < 2e-3, "dgamma[{c}]: {numeric} and {}", dgamma[c]);
        let numeric = slope(&|case, step| case.beta[c] += step);
        assert!((numeric - dbeta[c]).abs() < 2e-3, "dbeta[{c}]: {numeric} and {}", dbeta[c]);
    }
}

#[test]
fn an_attack_needs_neither_parameters_nor_input() {
    let case = Case::new(300, 24, true, true, 4);
    let given = Statistics { mean: noise(24, 1), var: vec![0.7; 24] };
    let (_, [_, dx, _, _, d_residual]) = case.run(Level::current(), Some(&given));
    let (mut y, mut mask) = (vec![0.0; dx.len()], vec![0; case.norm.mask_len(dx.len())]);
    let residual = case.residual.as_deref();
    batch_norm_frozen(&case.norm, &case.x, &given, &case.gamma, &case.beta, residual, &mut y, &mut mask);
    let (mut dy, mut dx_alone) = (case.dy.clone(), vec![0.0; dx.len()]);
    let grads = BatchNormGrads { dy: &mut dy, dx: &mut dx_alone, dgamma: &mut [], dbeta: &mut [] };
    batch_norm_frozen_backward::<f32>(&case.norm, &[], &given, &case.gamma, &mask, grads);
    assert_eq!((dx_alone, dy), (dx, d_residual));
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    for (rows, channels) in [(30_000, 16), (1_000, 128), (7_001, 5)] {
        let case = Case::new(rows, channels, true, true, 2);
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
            let (statistics, all) = pool.install(|| case.run(Level::current(), None));
            let all = [all.concat(), statistics.mean, statistics.var].concat();
            all.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let one = on(1);
        assert!(one == on(2) && one == on(3), "{rows} rows of {channels} depend on the threads");
    }
}

#[test]
fn rows_of_bf16_are_those_numbers() {
    for (rows, channels, relu, residual) in [(37, 40, true, true), (64, 16, true, false), (5, 3, false, true)] {
        let mut case = Case::new(rows, channels, relu, residual, 11);
        let halves: Vec<half::bf16> = case.x.iter().map(|x| half::bf16::from_f32(*x)).collect();
        case.x = halves.iter().map(|half| half.to_f32()).collect();
        for level in Level::available() {
            let (statistics, found) = case.run(level, None);
            assert_eq!(case.run_on(&halves, level, None), (statistics.clone(), found), "{level:?}");
            let found = case.run(level, Some(&statistics));
            assert_eq!(case.run_on(&halves, level, Some(&statistics)), found, "{level:?}");
        }
    }
}
