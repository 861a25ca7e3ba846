use super::super::first_of_greatest;
use super::super::victim::Gradient;
use super::*;
use crate::init::Stream;
use gabion_spec::{Norm, Pixels};

const SIZE: [usize; 2] = [5, 4];
const LENGTH: usize = 3 * 5 * 4;

/// `z = W x + b`, whose worst case is known exactly.
struct Linear {
    weight: Vec<Vec<f32>>,
    bias: Vec<f32>,
}

impl Linear {
    fn random(classes: usize, seed: u64) -> Self {
        let mut stream = Stream::new(seed, "linear");
        let weight = (0..classes).map(|_| (0..LENGTH).map(|_| stream.normal() as f32).collect()).collect();
        Self { weight, bias: (0..classes).map(|_| stream.normal() as f32).collect() }
    }

    fn logit(&self, class: usize, x: &[f32]) -> f64 {
        let sum: f64 = self.weight[class].iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
        sum + f64::from(self.bias[class])
    }

    /// The least lead of the label over another class in the L-infinity ball within the box.
    fn worst_margin(&self, x: &[f32], label: usize, epsilon: f32) -> f64 {
        let least = |rival: usize| -> f64 {
            let change = |at: usize| {
                let w = f64::from(self.weight[label][at]) - f64::from(self.weight[rival][at]);
                let [low, high] = [(x[at] - epsilon).max(0.0), (x[at] + epsilon).min(1.0)];
                (w * f64::from(low)).min(w * f64::from(high))
            };
            (0..x.len()).map(change).sum::<f64>() + f64::from(self.bias[label]) - f64::from(self.bias[rival])
        };
        (0..self.bias.len()).filter(|&rival| rival != label).map(least).fold(f64::INFINITY, f64::min)
    }
}

impl Classifier for Linear {
    fn classes(&self) -> usize {
        self.bias.len()
    }

    fn logits(&self, x: &[f32], _: Pass<'_>) -> Vec<f32> {
        x.chunks_exact(LENGTH).flat_map(|x| (0..self.bias.len()).map(|class| self.logit(class, x) as f32)).collect()
    }

    fn gradient(&self, x: &[f32], pass: Pass<'_>, weights: &mut dyn FnMut(&[f32]) -> Vec<f32>) -> Gradient {
        let logits = self.logits(x, pass);
        let back = |row: &[f32]| -> Vec<f32> {
            (0..LENGTH).map(|at| row.iter().zip(&self.weight).map(|(weight, w)| weight * w[at]).sum()).collect()
        };
        let x = weights(&logits).chunks_exact(self.bias.len()).flat_map(back).collect();
        Gradient { logits, x }
    }
}

/// Images, some of their values at the ends of the box.
fn images(count: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut stream = Stream::new(seed, "images");
    (0..count).map(|_| (0..LENGTH).map(|_| (1.4 * stream.uniform() - 0.2).clamp(0.0, 1.0) as f32).collect()).collect()
}

fn labelled<'a>(victim: &dyn Classifier, x: &'a [Vec<f32>]) -> Vec<Image<'a>> {
    let label = |x: &[f32]| first_of_greatest(&victim.logits(x, Pass { images: &[0], draw: 0 }));
    x.iter().enumerate().map(|(name, x)| Image { name: name as u64, label: label(x), x }).collect()
}

fn campaign(victim: &dyn Classifier, region: Region) -> Campaign<'_> {
    Campaign { victim, region, size: SIZE, seed: 3 }
}

fn every_attack() -> Vec<Attack> {
    let pgd = |objective, momentum, start, eot| Attack::Pgd {
        objective,
        steps: 10,
        step: Pixels(0.01),
        restarts: 2,
        start,
        momentum,
        eot,
    };
    vec![
        Attack::Noise { draws: 5 },
        Attack::Fgsm { objective: Objective::CrossEntropy },
        Attack::RandomFgsm { objective: Objective::Margin },
        pgd(Objective::CrossEntropy, 0.0, Start::Zero, 1),
        pgd(Objective::Dlr, 0.9, Start::Random, 3),
        Attack::Apgd { objective: Objective::CrossEntropy, iterations: 20, restarts: 1, eot: 1 },
        Attack::Apgd { objective: Objective::Dlr, iterations: 20, restarts: 2, eot: 2 },
        Attack::ApgdTargeted { targets: 9, iterations: 10, restarts: 1, eot: 1 },
        Attack::FabTargeted { targets: 9, iterations: 10 },
        Attack::Square { queries: 60 },
    ]
}

#[test]
fn autoattack_agrees_with_the_exact_answer_on_linear_models() {
    let (mut standing, mut fallen) = (0, 0);
    for (seed, classes) in [(1, 10), (2, 10), (3, 4), (4, 3), (5, 2)] {
        let victim = Linear::random(classes, seed);
        let x = images(60, seed);
        let images = labelled(&victim, &x);
        for epsilon in [1.0 / 255.0, 4.0 / 255.0, 12.0 / 255.0] {
            let found = autoattack(&Attack::autoattack(), campaign(&victim, Region::linf(epsilon)), &images);
            for (image, (fell, found)) in images.iter().zip(found) {
                let margin = victim.worst_margin(image.x, image.label, epsilon);
                // Within the rounding of f32 logits neither answer is wrong.
                if margin.abs() < 1e-5 {
                    continue;
                }
                assert_eq!(fell.is_some(), margin < 0.0, "{classes} classes, {epsilon}: margin {margin}");
                assert!(Region::linf(epsilon).contains(image.x, &found.x, 1e-6));
                *(if fell.is_some() { &mut fallen } else { &mut standing }) += 1;
            }
        }
    }
    assert!(standing > 200 && fallen > 200, "{standing} stand, {fallen} fall: the comparison says little");
}

#[test]
fn no_attack_does_what_cannot_be_done_or_leaves_its_region() {
    let victim = Linear::random(10, 7);
    let x = images(40, 7);
    let images = labelled(&victim, &x);
    for region in [Region::linf(3.0 / 255.0), Region::l2(0.1)] {
        for attack in every_attack() {
            for (image, found) in images.iter().zip(run(&attack, campaign(&victim, region), &images)) {
                if found.fooled() || !matches!(attack, Attack::FabTargeted { .. }) {
                    assert!(region.contains(image.x, &found.x, 1e-6), "{} {region:?}", attack.name());
                }
                let logits = victim.logits(&found.x, Pass { images: &[0], draw: 0 });
                let wrong = first_of_greatest(&logits) != image.label;
                if region.norm == Norm::Linf && found.fooled() {
                    assert!(wrong && victim.worst_margin(image.x, image.label, region.epsilon) < 1e-5);
                }
            }
        }
    }
}

#[test]
fn what_comes_of_an_image_does_not_depend_on_the_others() {
    let victim = Linear::random(6, 11);
    let x = images(12, 11);
    let images = labelled(&victim, &x);
    for region in [Region::linf(6.0 / 255.0), Region::l2(0.25)] {
        for attack in every_attack() {
            let together = run(&attack, campaign(&victim, region), &images);
            for (image, of_all) in images.iter().zip(together) {
                let alone = run(&attack, campaign(&victim, region), &[*image]);
                assert_eq!(alone, [of_all], "{}", attack.name());
            }
        }
    }
}

#[test]
fn nothing_changes_within_no_budget() {
    let victim = Linear::random(5, 2);
    let x = images(8, 2);
    let images = labelled(&victim, &x);
    for attack in every_attack() {
        for found in run(&attack, campaign(&victim, Region::linf(0.0)), &images) {
            assert!(!found.fooled(), "{}", attack.name());
        }
    }
}

/// A network that does not see its input, and one that gives no numbers.
struct Blind {
    logits: Vec<f32>,
}

impl Classifier for Blind {
    fn classes(&self) -> usize {
        self.logits.len()
    }

    fn logits(&self, x: &[f32], _: Pass<'_>) -> Vec<f32> {
        self.logits.repeat(x.len() / LENGTH)
    }

    fn gradient(&self, x: &[f32], pass: Pass<'_>, weights: &mut dyn FnMut(&[f32]) -> Vec<f32>) -> Gradient {
        let logits = self.logits(x, pass);
        weights(&logits);
        let poison = if self.logits.iter().all(|logit| logit.is_finite()) { 0.0 } else { f32::NAN };
        Gradient { logits, x: vec![poison; x.len()] }
    }
}

#[test]
fn no_gradient_is_counted_and_no_number_is_said() {
    let x = images(2, 1);
    let image = |label| Image { name: 0, label, x: &x[0] };
    let flat = Blind { logits: vec![1.0, 0.0, 0.5, 0.2] };
    for attack in every_attack() {
        let found = run(&attack, campaign(&flat, Region::linf(0.1)), &[image(0)]).remove(0);
        assert!(!found.fooled());
        assert_eq!(found.passes.zero_gradients > 0, found.passes.gradients > 0, "{}", attack.name());
        assert_eq!(found.passes.not_finite, 0);
    }
    let broken = Blind { logits: vec![f32::NAN, 0.0, 0.5, 0.2] };
    for attack in every_attack() {
        let found = run(&attack, campaign(&broken, Region::linf(0.1)), &[image(0)]).remove(0);
        assert!(found.passes.not_finite > 0, "{}", attack.name());
        assert!(found.fooled() || matches!(attack, Attack::FabTargeted { .. }), "{}", attack.name());
        assert!(found.x.iter().all(|value| value.is_finite()));
    }
}

#[test]
fn few_classes_are_said_aloud() {
    assert!(notes(&Attack::APGD_T, 10).is_empty());
    assert!(notes(&Attack::APGD_T, 3).iter().any(|note| note.contains("cross-entropy")));
    assert!(notes(&Attack::APGD_DLR, 2).iter().any(|note| note.contains("margin")));
    assert!(notes(&Attack::FAB_T, 5).iter().any(|note| note.contains("4 targets")));
}
