//! From the logits of views to one answer, and whether more views could still change it.
//!
//! A head is linear, so that the mean of the views' logits are the logits of their mean feature.

/// Fewest views that a vote may end after: with fewer a spread says nothing.
pub(super) const FEWEST: u32 = 8;

/// What the views said so far.
#[derive(Debug, Default)]
pub(super) struct Ballot {
    classes: usize,
    views: u32,
    /// `[views, classes]`.
    logits: Vec<f32>,
    /// `[classes]`, in f64.
    sums: Vec<f64>,
}

impl Ballot {
    /// Forgets everything but its memory.
    pub(super) fn begin(&mut self, classes: usize) {
        self.classes = classes;
        self.views = 0;
        self.logits.clear();
        self.sums.clear();
        self.sums.resize(classes, 0.0);
    }

    /// Room for the logits of so many further views, to be written before [`Ballot::counted`].
    pub(super) fn room(&mut self, views: u32) -> &mut [f32] {
        let from = self.logits.len();
        self.logits.resize(from + views as usize * self.classes, 0.0);
        &mut self.logits[from..]
    }

    /// Takes what was written into account.
    pub(super) fn counted(&mut self) {
        for row in self.logits[self.views as usize * self.classes..].chunks_exact(self.classes) {
            self.sums.iter_mut().zip(row).for_each(|(sum, logit)| *sum += f64::from(*logit));
            self.views += 1;
        }
    }

    /// Whether every sum is a number: a NaN or an infinity in a logit stays in its class's.
    pub(super) fn is_finite(&self) -> bool {
        self.sums.iter().all(|sum| sum.is_finite())
    }

    pub(super) fn views(&self) -> u32 {
        self.views
    }

    /// The class of the greatest mean, the first of equals.
    pub(super) fn first(&self) -> usize {
        first(&self.sums)
    }

    /// The first class of each view.
    pub(super) fn firsts(&self) -> impl Iterator<Item = usize> {
        self.logits.chunks_exact(self.classes).map(first)
    }

    /// Share of the views whose own first class it is.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn agreement(&self) -> f32 {
        let chosen = self.first();
        let own = self.firsts().filter(|&first| first == chosen).count();
        own as f32 / self.views as f32
    }

    /// Probabilities of the mean logits, in f64 within.
    #[allow(clippy::cast_possible_truncation)] // a probability fits
    pub(super) fn probabilities(&self, out: &mut Vec<f32>) {
        let mean = |sum: f64| sum / f64::from(self.views);
        let greatest = self.sums.iter().copied().map(mean).fold(f64::NEG_INFINITY, f64::max);
        let power = |sum: f64| (mean(sum) - greatest).exp();
        let total: f64 = self.sums.iter().copied().map(power).sum();
        out.clear();
        out.extend(self.sums.iter().map(|&sum| (power(sum) / total) as f32));
    }

    /// Whether the answer of all `most` views is, with probability `confidence`, the one of those there are.
    ///
    /// Of the first class and any other, the difference of their mean logits over all views is distributed around that
    /// over the views so far with variance `s^2 (1 / n - 1 / most)`, `s` being the spread between views. The risk is
    /// shared among the looks that are taken and the other classes.
    pub(super) fn settled(&self, most: u32, confidence: f32, looks: u32) -> bool {
        if self.views >= most {
            return true;
        }
        if self.views < FEWEST || confidence >= 1.0 {
            return false;
        }
        let others = (self.classes.max(2) - 1) as f64;
        let risk = f64::from(1.0 - confidence) / (f64::from(looks.max(1)) * others);
        let n = f64::from(self.views);
        let reach = quantile(risk) * (1.0 / n - 1.0 / f64::from(most)).sqrt();
        let chosen = self.first();
        (0..self.classes).filter(|&class| class != chosen).all(|class| {
            let mean = (self.sums[chosen] - self.sums[class]) / n;
            let rows = self.logits.chunks_exact(self.classes);
            let squares: f64 = rows.map(|row| (f64::from(row[chosen]) - f64::from(row[class]) - mean).powi(2)).sum();
            mean > reach * (squares / (n - 1.0)).sqrt()
        })
    }
}

/// The index of the greatest, the first of equals.
fn first<T: PartialOrd + Copy>(values: &[T]) -> usize {
    let mut best = 0;
    for at in 1..values.len() {
        if values[at] > values[best] {
            best = at;
        }
    }
    best
}

/// How many standard deviations a normal number exceeds with probability `risk`, at most 0.5: Abramowitz and Stegun,
/// formula 26.2.23, whose error is below 4.5e-4.
fn quantile(risk: f64) -> f64 {
    let t = (-2.0 * risk.clamp(1e-300, 0.5).ln()).sqrt();
    let (above, below) =
        (2.515_517 + t * (0.802_853 + t * 0.010_328), 1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308)));
    t - above / below
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(rows: &[[f32; 3]]) -> Ballot {
        let mut vote = Ballot::default();
        vote.begin(3);
        for row in rows {
            vote.room(1).copy_from_slice(row);
            vote.counted();
        }
        vote
    }

    #[test]
    fn the_answer_is_that_of_the_mean() {
        let vote = vote(&[[0.0, 2.0, 1.0], [4.0, 1.0, 0.0], [0.0, 1.5, 1.0]]);
        assert_eq!(vote.first(), 1);
        assert!((vote.agreement() - 2.0 / 3.0).abs() < 1e-6);
        let mut probabilities = Vec::new();
        vote.probabilities(&mut probabilities);
        let means = [4.0 / 3.0, 4.5 / 3.0, 2.0 / 3.0f64];
        let total: f64 = means.iter().map(|mean| mean.exp()).sum();
        for (found, mean) in probabilities.iter().zip(means) {
            assert!((f64::from(*found) - mean.exp() / total).abs() < 1e-6);
        }
    }

    #[test]
    fn the_first_of_equals_wins_and_far_logits_are_a_distribution() {
        assert_eq!(first(&[0.0, 2.0, 2.0]), 1);
        let mut probabilities = Vec::new();
        vote(&[[1000.0, 1000.0, -1000.0]]).probabilities(&mut probabilities);
        assert_eq!(probabilities, [0.5, 0.5, 0.0]);
    }

    #[test]
    fn quantiles_are_those_of_tables() {
        for (risk, deviations) in [(0.5, 0.0), (0.025, 1.959_964), (0.005, 2.575_829), (1e-6, 4.753_424)] {
            assert!((quantile(risk) - deviations).abs() < 5e-4, "{risk}");
        }
    }

    #[test]
    fn a_clear_vote_ends_and_a_close_one_goes_on() {
        let clear: Vec<[f32; 3]> = (0..8).map(|view| [5.0 + 0.1 * (view % 3) as f32, 0.0, 1.0]).collect();
        assert!(vote(&clear).settled(64, 0.99, 8));
        assert!(!vote(&clear[..7]).settled(64, 0.99, 8), "too few views");
        assert!(!vote(&clear).settled(64, 1.0, 8), "certainty takes them all");
        let close: Vec<[f32; 3]> = (0..8).map(|view| [if view % 2 == 0 { 3.0 } else { -2.5 }, 0.0, -9.0]).collect();
        assert!(!vote(&close).settled(64, 0.99, 8));
        assert!(vote(&close).settled(8, 0.99, 1), "there are no more views");
    }

    /// Of votes that end early, no more change than were risked.
    #[test]
    fn the_confidence_is_kept() {
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let mut normal = || (-2.0 * uniform().max(1e-300).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
        let (mut early, mut changed) = (0, 0);
        for _ in 0..2000 {
            let lead = 0.5 * normal();
            let rows: Vec<[f32; 3]> =
                (0..64).map(|_| [(lead + normal()) as f32, normal() as f32, (normal() - 2.0) as f32]).collect();
            let whole = vote(&rows).first();
            let end = (1..8).map(|look| 8 * look).find(|&views| vote(&rows[..views]).settled(64, 0.95, 8));
            if let Some(views) = end {
                early += 1;
                changed += usize::from(vote(&rows[..views]).first() != whole);
            }
        }
        assert!(early > 600, "{early} votes ended early");
        assert!(changed * 20 <= early, "{changed} of {early} would have changed");
    }
}
