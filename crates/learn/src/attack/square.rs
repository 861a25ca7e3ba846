//! Square attack (Andriushchenko et al. 2020, <https://arxiv.org/abs/1912.00049>), as AutoAttack runs it: `p_init` 0.8,
//! the schedule of 10,000 queries without rescaling, the margin as loss.
//!
//! The published program draws the place of a window once for the whole batch; here every image draws its own, so that a
//! result does not depend on the batch.

use super::image::{Flight, Found, Image, Row, Target, iterates, land, land_all, stream};
use super::objective::Goal;
use super::region::Region;
use super::victim::Pass;
use crate::init::Stream;
use gabion_kernels::{Frozen, Trace, Window};
use gabion_spec::{Norm, Objective};
use rayon::prelude::*;

/// Share of the pixels in the first windows.
const P_INIT: f64 = 0.8;

/// Share of the pixels in the window of a query.
pub(super) fn share(query: u32) -> f64 {
    let halvings = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000].iter().filter(|&&after| query > after).count();
    P_INIT / f64::from(1u32 << halvings)
}

/// Side of the window of a query.
#[allow(clippy::cast_sign_loss)]
pub(super) fn side(norm: Norm, query: u32, [height, width]: [usize; 2]) -> usize {
    let exact = (share(query) * (height * width) as f64).sqrt();
    // Half to even, as Python rounds.
    let side = exact.round_ties_even() as usize;
    let most = height.min(width);
    match norm {
        Norm::Linf => side.clamp(1, most),
        // Odd, so that a window has a middle.
        Norm::L2 => (side.max(3) | 1).min(most),
    }
}

/// Memory for the activations that a search keeps.
const TRACES_BYTES: usize = 512 << 20;

struct State {
    stream: Stream,
    /// The image of the greatest loss, which a query changes.
    best: Vec<f32>,
    /// Where the last query differs from it.
    window: Window,
    /// Whether it is the best.
    kept: bool,
    /// Whether its logits say another class.
    fooled: bool,
    /// The activations of the last query, where the network keeps them.
    trace: Option<Trace>,
}

/// Searches each image until it is fooled or the queries are spent.
pub(super) fn run(
    target: &Target<'_>,
    region: Region,
    images: &[Image<'_>],
    size: [usize; 2],
    queries: u32,
    seed: u64,
) -> Vec<Found> {
    // A query of the other norm changes every pixel.
    let keeps = target.victim.network().filter(|net| net.traces() && region.norm == Norm::Linf && target.eot == 1);
    let together = keeps.map_or(images.len(), |net| TRACES_BYTES / net.trace_bytes()).max(1);
    let search = Search { target, keeps, region, size, queries, seed };
    images.chunks(together).flat_map(|images| search.run(images)).collect()
}

struct Search<'a> {
    target: &'a Target<'a>,
    /// The network whose activations are kept.
    keeps: Option<&'a Frozen>,
    region: Region,
    size: [usize; 2],
    queries: u32,
    seed: u64,
}

impl Search<'_> {
    fn run(&self, images: &[Image<'_>]) -> Vec<Found> {
        let &Self { target, keeps, region, size, queries, seed } = self;
        let mut landed: Vec<Option<Found>> = images.iter().map(|_| None).collect();
        let mut flights: Vec<_> = images
            .iter()
            .enumerate()
            .map(|(place, image)| {
                let mut stream = stream(seed, "square", image.name);
                let mut x = match region.norm {
                    Norm::Linf => stripes(image.x, size, region.epsilon, &mut stream),
                    Norm::L2 => tiles(image.x, size, region, &mut stream),
                };
                region.project(image.x, &mut x);
                let (found, best) = (Found::new(&x), x.clone());
                let window = Window { rows: 0..size[0], columns: 0..size[1] };
                let own = State { stream, best, window, kept: true, fooled: false, trace: keeps.map(Frozen::trace) };
                Flight { image: *image, place, x, found, own }
            })
            .collect();
        for query in 1..=queries {
            if query > 1 {
                let side = side(region.norm, query - 1, size);
                flights.par_iter_mut().for_each(|Flight { image, x, own, .. }| {
                    x.copy_from_slice(&own.best);
                    match region.norm {
                        Norm::Linf => own.window = square(image.x, x, size, side, region.epsilon, &mut own.stream),
                        Norm::L2 => windows(image.x, x, size, side, region, &mut own.stream),
                    }
                    region.project(image.x, x);
                });
            }
            let answer = |flights: &mut [Flight<'_, State>], pass: Pass<'_>| match keeps {
                Some(net) => changed(net, flights),
                None => target.victim.logits(&iterates(flights).1, pass),
            };
            let see = |Flight { x, found, own, .. }: &mut Flight<'_, State>, row: Row<'_>| {
                // The first query is what others change, whatever its loss.
                own.kept = found.improve(x, row.loss as f32) || query == 1;
                if own.kept {
                    own.best.copy_from_slice(x);
                }
                own.fooled = row.fooled;
            };
            target.forward_by(answer, &mut flights, query, |_| Goal::Untargeted(Objective::Margin), see);
            for flight in flights.iter_mut().filter(|flight| flight.own.fooled) {
                // Kept activations are those of a whole pass up to rounding, but a whole pass has the verdict.
                if keeps.is_none() || target.fools(flight) {
                    flight.found.fool(&flight.x, query);
                }
            }
            land(&mut flights, &mut landed);
            if 4 * query <= 3 * queries {
                flights.iter_mut().for_each(|flight| flight.found.earlier_loss = flight.found.loss);
            }
        }
        land_all(flights, landed)
    }
}

/// Logits of the iterates by way of their traces.
fn changed(net: &Frozen, flights: &mut [Flight<'_, State>]) -> Vec<f32> {
    let (_, x) = iterates(flights);
    let windows: Vec<Window> = flights.iter().map(|flight| flight.own.window.clone()).collect();
    let mut traces: Vec<&mut Trace> = Vec::with_capacity(flights.len());
    for Flight { own, .. } in flights {
        let trace = own.trace.as_mut().expect("every image has a trace, or none");
        if !own.kept {
            trace.undo();
        }
        traces.push(trace);
    }
    let mut logits = vec![0.0; traces.len() * net.len_of(net.last())];
    net.changed(&mut traces, &x, &windows, &mut logits);
    logits
}

/// Columns of plus or minus epsilon, one sign a channel and column.
fn stripes(image: &[f32], [height, width]: [usize; 2], epsilon: f32, stream: &mut Stream) -> Vec<f32> {
    let mut x = image.to_vec();
    for plane in x.chunks_exact_mut(height * width) {
        let signs: Vec<f32> = (0..width).map(|_| stream.sign()).collect();
        for row in plane.chunks_exact_mut(width) {
            row.iter_mut().zip(&signs).for_each(|(x, sign)| *x += sign * epsilon);
        }
    }
    x
}

/// A window of one colour change, plus or minus twice the budget before projection.
fn square(
    image: &[f32],
    x: &mut [f32],
    [height, width]: [usize; 2],
    side: usize,
    epsilon: f32,
    stream: &mut Stream,
) -> Window {
    let (top, left) = (stream.below(height - side + 1), stream.below(width - side + 1));
    for (plane, image) in x.chunks_exact_mut(height * width).zip(image.chunks_exact(height * width)) {
        let change = stream.sign() * 2.0 * epsilon;
        for row in top..top + side {
            for at in row * width + left..row * width + left + side {
                plane[at] = (plane[at] + change).clamp(image[at] - epsilon, image[at] + epsilon);
            }
        }
    }
    Window { rows: top..top + side, columns: left..left + side }
}

/// Values `[side, side]` of length 1: two bumps of opposite sign, side by side or one above the other.
pub(super) fn bump(side: usize, stream: &mut Stream) -> Vec<f32> {
    let half = side / 2;
    let mut values = vec![0.0f32; side * side];
    values[..half * side].copy_from_slice(&pyramid(half, side));
    for (value, other) in values[half * side..].iter_mut().zip(pyramid(side - half, side)) {
        *value = -other;
    }
    unit(&mut values);
    if stream.uniform() > 0.5 {
        values = (0..side * side).map(|at| values[(at % side) * side + at / side]).collect();
    }
    values
}

/// Nested rectangles around the middle, the larger the fainter; length 1.
fn pyramid(height: usize, width: usize) -> Vec<f32> {
    let mut values = vec![0.0f32; height * width];
    let middle = [height / 2, width / 2];
    for ring in 0..middle[0].max(middle[1]) + 1 {
        let span = |middle: usize, length: usize| {
            middle.saturating_sub(ring)..(middle + ring + 1).min(length).max(middle.saturating_sub(ring))
        };
        for row in span(middle[0], height) {
            for column in span(middle[1], width) {
                values[row * width + column] += 1.0 / ((ring + 1) * (ring + 1)) as f32;
            }
        }
    }
    unit(&mut values);
    values
}

fn unit(values: &mut [f32]) {
    let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
    if length > 0.0 {
        values.iter_mut().for_each(|value| *value /= length);
    }
}

/// Bumps on a grid of five by five tiles, the whole stretched to the budget.
fn tiles(image: &[f32], [height, width]: [usize; 2], region: Region, stream: &mut Stream) -> Vec<f32> {
    let side = (height.min(width) / 5).max(1);
    let margin = [height, width].map(|length| length % side / 2);
    let mut change = vec![0.0f32; image.len()];
    for row in 0..height / side {
        for column in 0..width / side {
            let bump = bump(side, stream);
            for plane in change.chunks_exact_mut(height * width) {
                let sign = stream.sign();
                for (at, value) in bump.iter().enumerate() {
                    let y = margin[0] + row * side + at / side;
                    let x = margin[1] + column * side + at % side;
                    plane[y * width + x] += sign * value;
                }
            }
        }
    }
    region.stretch(&mut change);
    change.iter_mut().zip(image).for_each(|(change, image)| *change = (*change + image).clamp(0.0, 1.0));
    change
}

/// Moves the perturbation of one window into another, which gets a bump as well.
fn windows(
    image: &[f32],
    x: &mut [f32],
    [height, width]: [usize; 2],
    side: usize,
    region: Region,
    stream: &mut Stream,
) {
    let mut place = || [stream.below(height - side + 1), stream.below(width - side + 1)];
    let (to, from) = (place(), place());
    let at = |[top, left]: [usize; 2], cell: usize| (top + cell / side) * width + left + cell % side;
    let inside = |[top, left]: [usize; 2], pixel: usize| {
        (top..top + side).contains(&(pixel / width)) && (left..left + side).contains(&(pixel % width))
    };
    let area = height * width;
    let mut change: Vec<f32> = x.iter().zip(image).map(|(x, image)| x - image).collect();
    let spare = (region.epsilon * region.epsilon - change.iter().map(|value| value * value).sum::<f32>()).max(0.0);
    let channels = (image.len() / area) as f32;
    let bump = bump(side, stream);
    for plane in change.chunks_exact_mut(area) {
        let sign = stream.sign();
        // What lies in the plane's windows is spread anew, and the plane's share of what the budget has left.
        let in_windows: f32 = plane
            .iter()
            .enumerate()
            .filter(|&(pixel, _)| inside(to, pixel) || inside(from, pixel))
            .map(|(_, value)| value * value)
            .sum();
        let old: Vec<f32> = (0..side * side).map(|cell| plane[at(to, cell)]).collect();
        let length = old.iter().map(|value| value * value).sum::<f32>().sqrt() + 1e-12;
        let mut new: Vec<f32> = bump.iter().zip(&old).map(|(bump, old)| sign * bump + old / length).collect();
        unit(&mut new);
        let size = (spare / channels + in_windows).sqrt();
        (0..side * side).for_each(|cell| plane[at(from, cell)] = 0.0);
        new.iter().enumerate().for_each(|(cell, value)| plane[at(to, cell)] = value * size);
    }
    region.stretch(&mut change);
    x.iter_mut().zip(image).zip(change).for_each(|((x, image), change)| *x = (image + change).clamp(0.0, 1.0));
}

#[cfg(test)]
mod tests {
    use super::super::victim::{Classifier, Gradient};
    use super::super::{Campaign, run as attack};
    use super::*;
    use gabion_kernels::{Builder, Filter};
    use gabion_spec::Attack;

    /// The same without its network.
    struct Hidden<'a>(&'a Frozen);

    impl Classifier for Hidden<'_> {
        fn classes(&self) -> usize {
            self.0.classes()
        }

        fn logits(&self, x: &[f32], pass: Pass<'_>) -> Vec<f32> {
            self.0.logits(x, pass)
        }

        fn gradient(&self, _: &[f32], _: Pass<'_>, _: &mut dyn FnMut(&[f32]) -> Vec<f32>) -> Gradient {
            unreachable!("a search asks for no gradient")
        }
    }

    fn values(length: usize, scale: f32, name: &str) -> Vec<f32> {
        let mut stream = Stream::new(4, name);
        (0..length).map(|_| stream.normal() as f32 * scale).collect()
    }

    #[test]
    fn kept_activations_find_what_whole_passes_find() {
        const SIDE: usize = 24;
        let (mut net, x) = Builder::new([3, SIDE, SIDE], &[1.0; 3], &[-0.5; 3]);
        let filter = Filter { kernel: 3, stride: 1, padding: 1 };
        let stem = net.conv(x, filter, &values(8 * 27, 0.3, "stem"), &[0.1; 8], None, true);
        let mid = net.conv(stem, filter, &values(8 * 72, 0.15, "mid"), &[0.1; 8], None, true);
        let block = net.conv(mid, filter, &values(8 * 72, 0.15, "block"), &[0.1; 8], Some(stem), true);
        net.linear(block, &values(5 * 8 * SIDE * SIDE, 0.05, "linear"), &[0.0; 5], false);
        let net = net.build();
        assert!(net.traces());
        let pixels: Vec<Vec<f32>> = (0..12u64)
            .map(|at| {
                let mut stream = Stream::new(at, "pixels");
                (0..3 * SIDE * SIDE).map(|_| stream.uniform() as f32).collect()
            })
            .collect();
        let label = |x: &[f32]| super::super::first_of_greatest(&net.logits(x, Pass { images: &[0], draw: 0 }));
        let images: Vec<Image<'_>> =
            pixels.iter().zip(0..).map(|(x, name)| Image { name, label: label(x), x }).collect();
        let (region, size, seed) = (Region::linf(0.06), [SIDE, SIDE], 7);
        let hidden = Hidden(&net);
        let campaign = Campaign { victim: &net, region, size, seed };
        let square = Attack::Square { queries: 400 };
        let kept = attack(&square, campaign, &images);
        let whole = attack(&square, Campaign { victim: &hidden, ..campaign }, &images);
        let fallen = kept.iter().filter(|found| found.fooled()).count();
        assert!((2..11).contains(&fallen), "{fallen} of 12 fell: a budget that tells nothing");
        let differ = kept.iter().zip(&whole).filter(|(kept, whole)| kept.fooled() != whole.fooled()).count();
        assert!(differ <= 1, "{differ} of 12 verdicts differ");
        for (image, found) in images.iter().zip(&kept) {
            assert_eq!(label(&found.x) != image.label, found.fooled(), "a whole pass says otherwise");
            assert_eq!(
                attack(&square, campaign, &[*image]),
                std::slice::from_ref(found),
                "alone it came out otherwise"
            );
        }
    }

    #[test]
    fn windows_shrink_as_published() {
        let sides = [1, 11, 51, 201, 501, 1001, 2001, 4001].map(|query| side(Norm::Linf, query, [32, 32]));
        assert_eq!(sides, [29, 20, 14, 10, 7, 5, 4, 3]);
        assert_eq!(share(10), 0.8);
        assert!(side(Norm::L2, 1, [8, 8]) <= 8);
    }

    #[test]
    fn a_query_moves_only_what_lies_in_its_windows() {
        const SIZE: [usize; 2] = [20, 20];
        let region = Region::l2(0.5);
        let image = vec![0.5f32; 3 * 400];
        let mut stream = Stream::new(2, "windows");
        let mut x = tiles(&image, SIZE, region, &mut stream);
        let length = |x: &[f32]| x.iter().zip(&image).map(|(x, image)| (x - image) * (x - image)).sum::<f32>().sqrt();
        for _ in 0..50 {
            let before = x.clone();
            windows(&image, &mut x, SIZE, 5, region, &mut stream);
            assert!((length(&x) - 0.5).abs() < 1e-4, "{}", length(&x));
            let moved = x.iter().zip(&before).filter(|(x, before)| (*x - *before).abs() > 1e-5).count();
            assert!((1..=3 * 2 * 25).contains(&moved), "{moved} values moved");
        }
    }

    #[test]
    fn a_bump_has_length_one() {
        let mut stream = Stream::new(1, "bump");
        for side in [3, 5, 13, 29] {
            let length: f32 = bump(side, &mut stream).iter().map(|value| value * value).sum();
            assert!((length - 1.0).abs() < 1e-5, "{side}: {length}");
        }
    }
}
