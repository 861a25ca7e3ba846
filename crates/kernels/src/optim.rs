//! The optimizer's step, fused: one pass for the norms, one that moves.

use crate::Level;
use crate::level::Kernel;
use crate::vector::Vector;
use rayon::prelude::*;

/// Values of a task; norms are summed over such pieces in f32 lanes, and the pieces in f64, in order.
const PIECE: usize = 16 * 1024;

/// SGD with Nesterov momentum under LARS in clip mode (You et al. 2017, <https://arxiv.org/abs/1708.03888>; the form of
/// <https://github.com/kakaobrain/torchlars>).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lars {
    /// The rate; under LARS a cap.
    pub rate: f32,
    /// What is left of the velocity.
    pub momentum: f32,
    /// Share of the parameter that is added to its gradient, where LARS scales it.
    pub weight_decay: f32,
    /// LARS's trust coefficient; none for plain SGD without weight decay.
    pub trust: Option<f32>,
}

/// One step of a parameter: with `g = scale (gradient + weight_decay p)`, `v <- momentum v + g` and
/// `p <- p - rate (g + momentum v)`. `scale = min(trust |p| / (|gradient| + weight_decay |p| + 1e-8) / rate, 1)`; without
/// trust, or when either norm is 0, `g` is the gradient.
///
/// # Shapes
/// - `parameter`, `gradient`, `velocity`: of one length; `parameter` and `velocity` are moved
///
/// # Panics
/// When the lengths differ.
pub fn lars(rule: &Lars, parameter: &mut [f32], gradient: &[f32], velocity: &mut [f32]) {
    lars_at(Level::current(), rule, parameter, gradient, velocity);
}

fn lars_at(level: Level, rule: &Lars, parameter: &mut [f32], gradient: &[f32], velocity: &mut [f32]) {
    let lengths = [gradient.len(), velocity.len()];
    assert_eq!(lengths, [parameter.len(); 2], "values: gradient and velocity (left), parameter (right)");
    let step = Step::new(rule, || norm(level, parameter), || norm(level, gradient));
    let moving = parameter.par_chunks_mut(PIECE).zip(velocity.par_chunks_mut(PIECE)).zip(gradient.par_chunks(PIECE));
    moving.for_each(|((p, v), g)| level.run(Move { step, p, g, v }));
}

/// What happens to every value of a parameter.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    decay: f32,
    scale: f32,
    momentum: f32,
    rate: f32,
}

impl Step {
    /// By the lengths of the parameter and its gradient, which are asked for where LARS needs them.
    pub fn new(rule: &Lars, p: impl FnOnce() -> f32, g: impl FnOnce() -> f32) -> Self {
        let plain = Self { decay: 0.0, scale: 1.0, momentum: rule.momentum, rate: rule.rate };
        let Some(trust) = rule.trust else { return plain };
        let (p, g) = (p(), g());
        if p * g > 0.0 {
            let bound = trust * p / (g + rule.weight_decay * p + 1e-8);
            let scale = if rule.rate > 0.0 { (bound / rule.rate).min(1.0) } else { 1.0 };
            Self { decay: rule.weight_decay, scale, ..plain }
        } else {
            plain
        }
    }
}

/// The length of a vector.
pub(crate) fn norm(level: Level, values: &[f32]) -> f32 {
    let mut parts = vec![0f32; values.len().div_ceil(PIECE)];
    parts.par_iter_mut().zip(values.par_chunks(PIECE)).for_each(|(sum, values)| *sum = squares(level, values));
    parts.into_iter().map(f64::from).sum::<f64>().sqrt() as f32
}

/// The sum of the squares of a few values.
pub(crate) fn squares(level: Level, values: &[f32]) -> f32 {
    let mut sum = 0.0;
    level.run(Squares { values, sum: &mut sum });
    sum
}

struct Squares<'a> {
    values: &'a [f32],
    sum: &'a mut f32,
}

impl Kernel for Squares<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let mut sums = [V::splat(0.0); 4];
        for (at, values) in self.values.chunks(V::LANES).enumerate() {
            // SAFETY: the slice holds what is loaded.
            let value = unsafe { V::load_up_to(values.as_ptr(), values.len()) };
            sums[at % 4] = value.mul_add(value, sums[at % 4]);
        }
        let mut lanes = [0.0; 16];
        // SAFETY: no level has more than 16 lanes.
        unsafe { sums[0].add(sums[1]).add(sums[2].add(sums[3])).store(lanes.as_mut_ptr()) }
        *self.sum = lanes.iter().sum();
    }
}

/// Moves parameter and velocity.
pub(crate) struct Move<'a> {
    pub step: Step,
    pub p: &'a mut [f32],
    pub g: &'a [f32],
    pub v: &'a mut [f32],
}

impl Kernel for Move<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { step: Step { decay, scale, momentum, rate }, p, g, v } = self;
        assert!(g.len() == p.len() && v.len() == p.len());
        let [decay, scale, momentum, back] = [decay, scale, momentum, -rate].map(V::splat);
        for start in (0..p.len()).step_by(V::LANES) {
            let count = p.len() - start;
            // SAFETY: `count` values lie at `start` in all three.
            unsafe {
                let (of_p, of_v) = (p.as_mut_ptr().add(start), v.as_mut_ptr().add(start));
                let p = V::load_up_to(of_p, count);
                let g = p.mul_add(decay, V::load_up_to(g.as_ptr().add(start), count)).mul(scale);
                let v = V::load_up_to(of_v, count).mul_add(momentum, g);
                v.store_up_to(of_v, count);
                v.mul_add(momentum, g).mul_add(back, p).store_up_to(of_p, count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exact(rule: &Lars, p: &[f32], g: &[f32], v: &[f32]) -> Vec<[f64; 2]> {
        let length = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let [rate, momentum, decay] = [rule.rate, rule.momentum, rule.weight_decay].map(f64::from);
        let (mut scale, mut added) = (1.0, 0.0);
        if let Some(trust) = rule.trust.filter(|_| length(p) * length(g) > 0.0) {
            added = decay;
            if rate > 0.0 {
                scale = (f64::from(trust) * length(p) / (length(g) + decay * length(p) + 1e-8) / rate).min(1.0);
            }
        }
        let step = |((p, g), v): ((&f32, &f32), &f32)| {
            let [p, g, v] = [p, g, v].map(|x| f64::from(*x));
            let g = scale * (g + added * p);
            let v = momentum * v + g;
            [p - rate * (g + momentum * v), v]
        };
        p.iter().zip(g).zip(v).map(step).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]
        #[test]
        fn it_is_the_formula(
            length in 1usize..40_000, seed in 1u64..1 << 40, size in 0f32..2.0, rate in 0f32..1.0, scaled: bool,
        ) {
            let noise = |seed| crate::conv::tests::noise(length, seed);
            let (p, v) = (noise(seed), noise(seed + 1));
            let g: Vec<f32> = noise(seed + 2).iter().map(|g| g * size).collect();
            let rule = Lars { rate, momentum: 0.9, weight_decay: 1e-4, trust: scaled.then_some(0.005) };
            let exact = exact(&rule, &p, &g, &v);
            for level in Level::available() {
                let run = |threads: usize| {
                    let (mut p, mut v) = (p.clone(), v.clone());
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
                    pool.install(|| lars_at(level, &rule, &mut p, &g, &mut v));
                    (p, v)
                };
                let (moved, velocity) = run(1);
                prop_assert_eq!(&run(3), &(moved.clone(), velocity.clone()));
                for (found, exact) in moved.iter().zip(&velocity).zip(&exact) {
                    prop_assert!((f64::from(*found.0) - exact[0]).abs() < 1e-6, "{level:?}: {found:?}, exact {exact:?}");
                    prop_assert!((f64::from(*found.1) - exact[1]).abs() < 1e-6, "{level:?}: {found:?}, exact {exact:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_zero_is_left_to_plain_sgd() {
        let rule = Lars { rate: 0.5, momentum: 0.9, weight_decay: 0.1, trust: Some(0.001) };
        let (mut p, mut v) = (vec![0.0; 3], vec![0.0; 3]);
        lars(&rule, &mut p, &[1.0; 3], &mut v);
        assert_eq!((p, v), (vec![-0.95; 3], vec![1.0; 3]));
    }
}
