//! Losses of logits and their gradients, written out: in f64, image by image, so that nothing underflows and nothing is
//! compared in sorted tensors.

use gabion_spec::Objective;

/// What one image's attack raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Any other class than the label.
    Untargeted(Objective),
    /// One class, by the targeted difference of logits ratio; by the difference of cross-entropies where there are fewer
    /// than four classes.
    Target(usize),
    /// One class, by the plain difference of two logits.
    Difference(usize),
}

/// The class of the greatest logit, the first of equals.
pub fn first_of_greatest(logits: &[f32]) -> usize {
    (1..logits.len()).fold(0, |best, class| if logits[class] > logits[best] { class } else { best })
}

/// The loss, and its derivative by each logit into `weights`.
///
/// DLR is `-(z_y - max_{i != y} z_i) / (z_1st - z_3rd + 1e-12)`, targeted
/// `-(z_y - z_t) / (z_1st - (z_3rd + z_4th) / 2 + 1e-12)` (Croce and Hein 2020, section 4).
pub fn loss(goal: Goal, logits: &[f32], label: usize, weights: &mut [f64]) -> f64 {
    weights.fill(0.0);
    let z = |class: usize| f64::from(logits[class]);
    match goal {
        Goal::Untargeted(Objective::CrossEntropy) => cross_entropy(logits, label, 1.0, weights),
        Goal::Untargeted(Objective::Dlr) if logits.len() >= 3 => {
            let order = ranks::<3>(logits);
            let rival = if order[0] == label { order[1] } else { order[0] };
            let (above, below) = (z(label) - z(rival), z(order[0]) - z(order[2]) + 1e-12);
            ratio(above, &[(label, 1.0), (rival, -1.0)], below, &[(order[0], 1.0), (order[2], -1.0)], weights)
        }
        Goal::Untargeted(_) => {
            let rival = (0..logits.len()).filter(|&class| class != label).max_by(|&a, &b| {
                // The first of equals, as everywhere.
                logits[a].total_cmp(&logits[b]).then(b.cmp(&a))
            });
            let Some(rival) = rival else { return f64::NEG_INFINITY };
            (weights[label], weights[rival]) = (-1.0, 1.0);
            z(rival) - z(label)
        }
        Goal::Target(target) if logits.len() >= 4 => {
            let order = ranks::<4>(logits);
            let above = z(label) - z(target);
            let below = z(order[0]) - 0.5 * (z(order[2]) + z(order[3])) + 1e-12;
            let of_below = [(order[0], 1.0), (order[2], -0.5), (order[3], -0.5)];
            ratio(above, &[(label, 1.0), (target, -1.0)], below, &of_below, weights)
        }
        Goal::Target(target) => {
            let of_label = cross_entropy(logits, label, 1.0, weights);
            of_label - cross_entropy(logits, target, -1.0, weights)
        }
        Goal::Difference(target) => {
            (weights[label], weights[target]) = (-1.0, 1.0);
            z(target) - z(label)
        }
    }
}

/// Adds `scale` times the derivative of the cross-entropy to `weights`, returns the cross-entropy.
fn cross_entropy(logits: &[f32], label: usize, scale: f64, weights: &mut [f64]) -> f64 {
    let most = f64::from(logits[first_of_greatest(logits)]);
    let power = |class: usize| (f64::from(logits[class]) - most).exp();
    let sum: f64 = (0..logits.len()).map(power).sum();
    // Not 1 - p, which is 0 from p = 1 - 1e-16 on.
    let others: f64 = (0..logits.len()).filter(|&class| class != label).map(power).sum();
    for (class, weight) in weights.iter_mut().enumerate() {
        *weight += scale * if class == label { -others / sum } else { power(class) / sum };
    }
    if f64::from(logits[label]) == most { others.ln_1p() } else { sum.ln() + most - f64::from(logits[label]) }
}

/// `-above / below` and its derivative.
fn ratio(above: f64, of_above: &[(usize, f64)], below: f64, of_below: &[(usize, f64)], weights: &mut [f64]) -> f64 {
    for &(class, factor) in of_above {
        weights[class] -= factor / below;
    }
    for &(class, factor) in of_below {
        weights[class] += factor * above / (below * below);
    }
    -above / below
}

/// The classes of the `N` greatest logits, falling; of equals the later first, as an ascending stable sort read from its
/// end gives them.
fn ranks<const N: usize>(logits: &[f32]) -> [usize; N] {
    let mut order = [usize::MAX; N];
    for place in 0..N {
        for class in (0..logits.len()).rev() {
            if order[..place].contains(&class) {
                continue;
            }
            if order[place] == usize::MAX || logits[class] > logits[order[place]] {
                order[place] = class;
            }
        }
    }
    order
}

/// The class of each rank of the clean logits, falling; targets are ranks 2 and on.
pub(super) fn by_rank(logits: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(b.cmp(&a)));
    order
}

/// Derivatives smaller than this are lost in f32 on their way back: they are scaled up, which changes neither a sign nor a
/// direction.
const SATURATED: f64 = 1e-12;

/// Derivatives as f32 for the way back; whether they are too small for it, and scaled up where `scale_up` says so.
pub(super) fn narrow(weights: &[f64], out: &mut [f32], scale_up: bool) -> bool {
    let most = weights.iter().fold(0.0f64, |most, weight| most.max(weight.abs()));
    let saturated = most > 0.0 && most < SATURATED;
    let scale = if saturated && scale_up { 1.0 / most } else { 1.0 };
    out.iter_mut().zip(weights).for_each(|(out, weight)| *out = (weight * scale) as f32);
    saturated
}

#[cfg(test)]
mod tests {
    use super::*;
    use gabion_spec::Objective::{CrossEntropy, Dlr, Margin};

    fn value(goal: Goal, logits: &[f32], label: usize) -> f64 {
        loss(goal, logits, label, &mut vec![0.0; logits.len()])
    }

    #[test]
    fn ratios_are_the_published_ones() {
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} is not {b}");
        let z = [1.0, 2.0, 0.5, -1.0, 3.0];
        near(value(Goal::Untargeted(Dlr), &z, 1), 0.5);
        near(value(Goal::Target(4), &z, 1), 0.444_444_444);
        let z = [4.0, 2.0, 1.0, 0.0, -2.0];
        near(value(Goal::Untargeted(Dlr), &z, 0), -2.0 / 3.0);
        near(value(Goal::Target(2), &z, 0), -0.857_142_857);
        near(value(Goal::Untargeted(Margin), &z, 0), -2.0);
        near(value(Goal::Difference(2), &z, 0), -3.0);
    }

    #[test]
    fn few_classes_have_a_loss_too() {
        assert_eq!(value(Goal::Untargeted(Dlr), &[1.0, 3.0], 1), -2.0);
        assert_eq!(value(Goal::Untargeted(Dlr), &[1.0], 0), f64::NEG_INFINITY);
        let z = [1.0, 3.0, -1.0];
        assert!((value(Goal::Target(0), &z, 1) - (1.0 - 3.0)).abs() < 1e-12);
    }

    #[test]
    fn derivatives_are_those_of_the_values() {
        let z = [0.3f32, -1.2, 2.1, 0.9, 1.7];
        for label in 0..5 {
            for goal in [
                Goal::Untargeted(CrossEntropy),
                Goal::Untargeted(Dlr),
                Goal::Untargeted(Margin),
                Goal::Target((label + 2) % 5),
                Goal::Difference((label + 1) % 5),
            ] {
                let mut weights = [0.0; 5];
                loss(goal, &z, label, &mut weights);
                for class in 0..5 {
                    let moved = |by: f32| {
                        let mut z = z;
                        z[class] += by;
                        value(goal, &z, label)
                    };
                    let h = 1.0 / 1024.0;
                    let slope = (moved(h) - moved(-h)) / (2.0 * f64::from(h));
                    assert!((slope - weights[class]).abs() < 1e-4, "{goal:?} {label} {class}: {slope} {weights:?}");
                }
            }
        }
    }

    #[test]
    fn saturation_leaves_a_direction() {
        let z = [0.0f32, 200.0, 3.0];
        let mut weights = [0.0; 3];
        let value = loss(Goal::Untargeted(CrossEntropy), &z, 1, &mut weights);
        assert!(value > 0.0 && value < 1e-80);
        let mut narrowed = [0.0; 3];
        assert!(narrow(&weights, &mut narrowed, true));
        assert!(narrowed[1] < -0.9 && narrowed[2] > 0.9);
    }
}
