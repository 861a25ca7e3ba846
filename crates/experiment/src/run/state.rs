//! The state of training: at the start, in a checkpoint, and back.

use super::RunError;
use crate::checkpoint::{Checkpoint, Position};
use burn::Tensor;
use burn::tensor::{Device, TensorData};
use gabion_learn::optim::{Average, Lars};
use gabion_learn::train::State;
use gabion_learn::{Model, weights};
use gabion_spec::Pretrain;
use std::collections::BTreeMap;

/// Random weights, no momentum.
pub(super) fn initial(recipe: &Pretrain, device: &Device) -> State {
    let model = Model::init(&recipe.encoder, &recipe.projector, recipe.seed, &device.clone().autodiff());
    State {
        model: model.compute_in(recipe.arithmetic).leave_factors(),
        optim: Lars::new(recipe.optimizer),
        average: recipe.average.map(Average::new),
        delta: None,
    }
}

/// Everything that the next step depends on.
pub(super) fn save(state: &State, position: &Position) -> Checkpoint {
    let mut tensors = weights::export(&state.model, "model/");
    let mut add = |prefix: &str, given: BTreeMap<String, TensorData>| {
        tensors.extend(given.into_iter().map(|(name, data)| (format!("{prefix}{name}"), data)));
    };
    add("momentum/", state.optim.state());
    if let Some(average) = &state.average {
        add("average/", average.state());
    }
    if let Some(delta) = &state.delta {
        add("delta", BTreeMap::from([(String::new(), delta.to_data_as::<f32>())]));
    }
    Checkpoint { position: position.clone(), tensors }
}

/// Takes a checkpoint into `state`; returns where it stands.
pub(super) fn restore(
    state: &mut State,
    checkpoint: Checkpoint,
    recipe: &Pretrain,
    device: &Device,
) -> Result<Position, RunError> {
    let mut given = checkpoint.under("model/");
    state.model = weights::import(initial(recipe, device).model, "", &mut given)?;
    state.optim.load(&checkpoint.under("momentum/"), device);
    if let Some(average) = &mut state.average {
        average.load(&checkpoint.under("average/"), device);
    }
    state.delta = checkpoint.tensors.get("delta").map(|data| Tensor::from_data(data.clone(), device));
    Ok(checkpoint.position)
}
