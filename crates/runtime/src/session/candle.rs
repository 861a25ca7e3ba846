//! A session on Candle: the same bundle, the same crops, another engine. Whoever has Candle in a program already classifies
//! without a second one; Candle's CUDA and Metal come with features of the same names.

mod net;

use super::{ClassifyError, Engine, Seen, Session, crops, seen_on_cpu};
use crate::{BundleError, Stored};
use candle_core::{Device, Tensor};
use net::Net;
use std::path::Path;

/// Layers on a device of Candle's.
#[derive(Debug)]
pub(super) struct OnCandle {
    net: Net,
    device: Device,
    /// Height and width.
    input: [u32; 2],
}

/// Why there is no session on Candle: the bundle, or Candle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CandleError {
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Candle could not load the network.
    #[error("Candle cannot load the network ({why}): choose its CPU")]
    Load {
        /// Candle's reason.
        why: String,
    },
}

impl Session {
    /// A session on a device of Candle's.
    ///
    /// # Errors
    /// When the bundle cannot be read or has no head, or the device cannot hold it.
    pub fn open_candle(bundle: &Path, device: &Device) -> Result<Self, CandleError> {
        Self::of_candle(&Stored::read(bundle)?, device)
    }

    /// A session on a device of Candle's, of a bundle that was read.
    ///
    /// # Errors
    /// When it has no head, or the device cannot hold it.
    pub fn of_candle(stored: &Stored, device: &Device) -> Result<Self, CandleError> {
        let manifest = stored.manifest.clone();
        if manifest.head.is_none() {
            return Err(BundleError::NoHead { name: manifest.name }.into());
        }
        let net = Net::of(stored, device).map_err(|error| CandleError::Load { why: line(&error) })?;
        let input = [manifest.input.height, manifest.input.width];
        let engine = OnCandle { net, device: device.clone(), input };
        Ok(Self { augment: crops(&manifest), manifest, engine: Engine::Candle(Box::new(engine)), memory: None })
    }
}

/// Candle's reasons span lines, with a trace of calls below the first.
fn line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().trim().into()
}

impl OnCandle {
    pub(super) fn logits(&self, seen: Seen<'_>, pixels: &mut Vec<f32>, out: &mut [f32]) -> Result<(), ClassifyError> {
        let [height, width] = self.input.map(|side| side as usize);
        let views = seen_on_cpu(seen, 3 * height * width, self.input, pixels);
        let computed = Tensor::from_slice(pixels, (views, 3, height, width), &self.device)
            .and_then(|x| self.net.forward(&x)?.flatten_all()?.to_vec1::<f32>());
        let logits = computed.map_err(|error| ClassifyError::Candle { why: line(&error) })?;
        out.copy_from_slice(&logits);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
