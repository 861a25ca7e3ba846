//! Whether a probe's recipe makes sense.

use crate::measure::{Error, Result};
use gabion_spec::{self as spec, Invalid, Pixels};

pub(super) fn recipe(recipe: &spec::Probe) -> Result<()> {
    let ensure = |holds: bool, key: &'static str, why: &str| {
        if holds { Ok(()) } else { Err(Error::Recipe(Invalid { key, why: why.into() })) }
    };
    let positive = |value: f64| value > 0.0 && value.is_finite();
    let training = |rate: f64, batch: u32, epochs: u32| {
        ensure(positive(rate), "rate", "must be above 0")?;
        ensure(batch > 0, "batch", "a minibatch needs at least 1 image")?;
        ensure(epochs > 0, "epochs", "0 epochs train nothing")
    };
    match *recipe {
        spec::Probe::Linear { rate, batch, epochs } => training(rate, batch, epochs),
        spec::Probe::Robust { rate, batch, epochs, epsilon, step, steps } => {
            training(rate, batch, epochs)?;
            let budget = |pixels: Pixels| (0.0..=1.0).contains(&pixels.0);
            ensure(budget(epsilon), "epsilon", "must be within 0 and 1, such as \"8/255\"")?;
            ensure(budget(step), "step", "must be within 0 and 1, such as 0.01")?;
            ensure(steps > 0, "steps", "0 steps attack nothing; use head = \"linear\"")
        }
        spec::Probe::Patches { rate, momentum, weight_decay, batch, epochs, views } => {
            training(rate, batch, epochs)?;
            ensure((0.0..1.0).contains(&momentum), "momentum", "must be at least 0 and below 1")?;
            ensure(weight_decay >= 0.0 && weight_decay.is_finite(), "weight_decay", "must not be negative")?;
            ensure(views > 0, "views", "0 views show nothing")
        }
        spec::Probe::Alf(recipe) | spec::Probe::Aff(recipe) => Ok(recipe.validate()?),
        spec::Probe::Knn { k, temperature } => {
            ensure(k > 0, "k", "0 neighbours have no vote")?;
            ensure(positive(temperature), "temperature", "must be above 0")
        }
    }
}
