//! What training needs in memory, from the network's shape alone, and the rows that fit into a budget.
//!
//! Counted for the CPU device's own operations (`learn/src/ops/cpu.rs`): a frozen layer keeps its rectified output, a layer
//! that moves keeps its convolution's output too. Other devices run Burn's operations, which keep more, in memory of
//! their own.

use super::AdaptError;
use gabion_spec::{Adapt, Depth, Encoder, Manifest, Scope, Statistics, Stem};

/// How training goes through the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Rows of a forward and backward pass.
    pub(super) rows: usize,
    /// Rows of a pass of the guard's attack.
    pub(super) guard_rows: usize,
    /// Whether there is memory for the guard's network to be prepared for the CPU.
    pub(super) prepares: bool,
    /// Bytes that it is expected to take at most.
    pub(super) bytes: u64,
}

/// Values of a row in its way through the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Values {
    /// Kept from the forward to the backward pass.
    kept: u64,
    /// The largest activation.
    largest: u64,
}

/// Rows that no pass exceeds; more make nothing faster.
const MOST_ROWS: usize = 256;
/// Activations of the largest size that live at once beside what is kept: a layer's input and output, their gradients,
/// the residual's, and copies in another order of axes.
const AT_ONCE: u64 = 6;
/// Allocators keep freed blocks of sizes that do not fit the next request.
const SLACK: f64 = 1.35;
/// What threads keep of their own, and what is too small to count.
const BASE: u64 = 24 << 20;
/// Copies of a parameter that moves: its successor, gradient, sum of gradients, momentum, and intermediate results.
const COPIES: u64 = 7;
const F32: u64 = 4;

/// Rows for a budget in bytes, or as many as are sensible without one.
pub(super) fn plan(manifest: &Manifest, recipe: &Adapt, batch: usize, budget: Option<u64>) -> Result<Plan, AdaptError> {
    let attacked = recipe.epsilon.0 > 0.0;
    let row = row_bytes(manifest, Some((recipe.scope, attacked)));
    let guard_row = row_bytes(manifest, None);
    let wanted = batch * recipe.objective.views() as usize;
    let fixed = fixed_bytes(manifest, recipe, wanted);
    let Some(budget) = budget else {
        let rows = wanted.clamp(1, whole(recipe).unwrap_or(MOST_ROWS.max(wanted)));
        return Ok(Plan { rows, guard_rows: MOST_ROWS / 2, prepares: true, bytes: fixed + row * rows as u64 });
    };
    let left = budget.saturating_sub(fixed);
    let fitting = |row: u64| usize::try_from(left / row).unwrap_or(usize::MAX);
    let rows = fitting(row).min(wanted).min(MOST_ROWS.max(wanted));
    let guard_rows = fitting(guard_row).min(MOST_ROWS / 2);
    if rows == 0 || guard_rows == 0 {
        let needed = fixed + row.max(guard_row);
        let remedy = "give more, choose a narrower scope or a smaller batch";
        return Err(AdaptError::Memory { what: "one image", needed, given: budget, remedy });
    }
    if recipe.statistics == Statistics::Train && rows < wanted {
        let needed = fixed + row * wanted as u64;
        let remedy = "give more, choose a smaller batch, or freeze the statistics";
        return Err(AdaptError::Memory { what: "a whole minibatch", needed, given: budget, remedy });
    }
    let bytes = fixed + (row * rows as u64).max(guard_row * guard_rows as u64);
    let prepared = prepared_bytes(manifest) + guard_row * guard_rows as u64;
    let prepares = prepared <= budget;
    let bytes = if prepares { bytes.max(prepared) } else { bytes };
    Ok(Plan { rows, guard_rows, prepares, bytes })
}

/// Bytes of a network prepared for the CPU with its gradients, beside activations, while nothing is trained: a 3x3 has 36
/// values each way, and is copied out of the modules and folded first; the modules from before and after are there too.
fn prepared_bytes(manifest: &Manifest) -> u64 {
    let classes = manifest.classes.len() as u64;
    let all = crate::parameter_count(&manifest.encoder, &manifest.projector, classes).unwrap_or(u64::MAX / 64);
    BASE + F32 * all * (2 * 4 + 4)
}

/// Rows of a pass that must not be cut.
fn whole(recipe: &Adapt) -> Option<usize> {
    (recipe.statistics == Statistics::Train).then_some(usize::MAX)
}

/// Bytes that do not depend on the rows of a pass.
fn fixed_bytes(manifest: &Manifest, recipe: &Adapt, wanted: usize) -> u64 {
    let classes = manifest.classes.len() as u64;
    let all = crate::parameter_count(&manifest.encoder, &manifest.projector, classes).unwrap_or(u64::MAX / 64);
    let hidden = u64::from(manifest.projector.hidden);
    let head = (hidden + 1) * classes;
    let moving = match recipe.scope {
        Scope::Head => head,
        Scope::LastBlock => {
            let width = u64::from(manifest.encoder.width) * 8;
            let projector = all.saturating_sub(head).saturating_sub(encoder_values(&manifest.encoder));
            let block = match manifest.encoder.depth {
                Depth::Resnet18 | Depth::Resnet34 => 18 * width * width,
                Depth::Resnet50 => 17 * width * width,
            };
            head + projector + block
        }
        Scope::All => all,
    };
    // Statistics are estimated on copies.
    let copies = if matches!(recipe.statistics, Statistics::ReEstimate { .. }) { 3 * all } else { 0 };
    let pixels = 3 * u64::from(manifest.input.height) * u64::from(manifest.input.width);
    // Images, perturbation before and after, its gradient and parts.
    let images = 6 * pixels * wanted as u64;
    let rehearsal = if recipe.rehearsal > 0.0 { 4 * hidden * u64::from(recipe.batch) } else { 0 };
    BASE + F32 * (COPIES * moving + copies + images + rehearsal)
}

fn encoder_values(encoder: &Encoder) -> u64 {
    let none = gabion_spec::Projector { hidden: 0, output: 0 };
    crate::parameter_count(encoder, &none, 0).unwrap_or(0)
}

/// Bytes of a row; of an attack on what is frozen whole where nothing moves.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // far below 2^52
fn row_bytes(manifest: &Manifest, training: Option<(Scope, bool)>) -> u64 {
    let Values { kept, largest } = row_values(manifest, training);
    let pixels = 3 * u64::from(manifest.input.height) * u64::from(manifest.input.width);
    // An attack on the host keeps a handful of copies of an image.
    let host = if training.is_none() { 8 * pixels } else { 2 * pixels };
    ((F32 * (kept + AT_ONCE * largest + host)) as f64 * SLACK) as u64
}

fn row_values(manifest: &Manifest, training: Option<(Scope, bool)>) -> Values {
    let encoder = &manifest.encoder;
    let (scope, attacked) = training.unwrap_or((Scope::Head, true));
    let mut side = [u64::from(manifest.input.height), u64::from(manifest.input.width)];
    let mut values = Values::default();
    let mut layer = |channels: u64, side: [u64; 2], moves: bool, below_moves: bool| {
        let size = channels * side[0] * side[1];
        values.largest = values.largest.max(size);
        // A layer without a gradient to give keeps nothing.
        values.kept += match (moves, attacked || below_moves) {
            (true, _) => 2 * size,
            (false, true) => size,
            (false, false) => 0,
        };
    };
    let halved = |side: [u64; 2]| side.map(|side| side.div_ceil(2));
    let trunk = scope == Scope::All;
    if encoder.stem == Stem::Imagenet {
        side = halved(side);
    }
    layer(u64::from(encoder.width), side, trunk, trunk);
    if encoder.stem == Stem::Imagenet {
        side = halved(side);
        layer(u64::from(encoder.width), side, false, trunk);
    }
    let expansion = encoder.depth.expansion() as u64;
    let blocks = encoder.depth.blocks();
    for (stage, count) in blocks.into_iter().enumerate() {
        let width = u64::from(encoder.width) << stage;
        for block in 0..count {
            let last = stage + 1 == blocks.len() && block + 1 == count;
            let moves = trunk || (last && scope == Scope::LastBlock);
            let before = side;
            if stage > 0 && block == 0 {
                side = halved(side);
            }
            if block == 0 {
                // The shortcut's projection.
                layer(width * expansion, side, moves, trunk);
            }
            if expansion > 1 {
                layer(width, before, moves, trunk);
                layer(width, side, moves, trunk);
                layer(width * expansion, side, moves, trunk);
            } else {
                layer(width, side, moves, trunk);
                layer(width, side, moves, trunk);
            }
        }
    }
    let top = scope != Scope::Head;
    let (hidden, output) = (u64::from(manifest.projector.hidden), u64::from(manifest.projector.output));
    layer(2 * hidden, [1, 1], top, trunk);
    if top {
        layer(2 * hidden + output, [1, 1], true, trunk);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::tests::manifest;
    use gabion_spec::{LocalObjective, Pixels};

    #[test]
    fn less_memory_makes_fewer_rows_and_none_is_an_error() {
        let recipe = Adapt::new(Scope::All, LocalObjective::Supervised);
        let manifest = manifest(16, 1024, 32);
        let rows = |mib: u64| plan(&manifest, &recipe, 64, Some(mib << 20)).map(|plan| plan.rows);
        let unlimited = plan(&manifest, &recipe, 64, None).unwrap();
        assert_eq!(unlimited.rows, 64);
        assert_eq!(rows(1024).unwrap(), 64);
        let few = rows(150).unwrap();
        assert!((1..64).contains(&few), "{few}");
        assert!(rows(120).unwrap() < few);
        let error = rows(40).unwrap_err();
        assert!(matches!(error, AdaptError::Memory { what: "one image", .. }), "{error}");
        let whole = Adapt { statistics: Statistics::Train, ..recipe };
        let error = plan(&manifest, &whole, 64, Some(150 << 20)).unwrap_err();
        assert!(matches!(error, AdaptError::Memory { what: "a whole minibatch", .. }), "{error}");
    }

    #[test]
    fn what_moves_less_keeps_less() {
        let manifest = manifest(16, 1024, 32);
        let of = |scope, attacked| row_bytes(&manifest, Some((scope, attacked)));
        assert!(of(Scope::All, true) > of(Scope::LastBlock, true));
        assert!(of(Scope::LastBlock, true) > of(Scope::LastBlock, false));
        assert!(of(Scope::LastBlock, true) > of(Scope::Head, true));
        let recipe = Adapt { epsilon: Pixels(0.0), ..Adapt::new(Scope::Head, LocalObjective::Supervised) };
        assert!(plan(&manifest, &recipe, 64, None).unwrap().bytes < 64 << 20);
    }
}
