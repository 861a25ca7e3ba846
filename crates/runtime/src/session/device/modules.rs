//! Burn's modules on a device of Burn's.

use super::super::{ClassifyError, Seen};
use super::Trouble;
use crate::Offered;
use crate::pipeline::{Pipeline, PipelineError, Wanted, Work};
use burn::Tensor;
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, FloatDType, TensorData};
use gabion_augment::Draw;
use gabion_augment::cpu::Source;
use gabion_learn::{Head, Mode, Model};
use gabion_spec::{Input, Precision};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// An encoder and its head.
#[derive(Debug)]
pub(super) struct Modules {
    /// Gone once the device was lost. Whoever computes holds them too, so that nobody waits for a device that hangs.
    modules: Mutex<Option<Arc<(Model, Head)>>>,
    input: Input,
    device: Device,
    wanted: Option<(Wanted, Offered)>,
    pipeline: OnceLock<(Pipeline, String)>,
    /// Of weights and activations; views are made, and logits told, in f32.
    precision: Precision,
}

impl Modules {
    pub(super) fn new(modules: (Model, Head), input: Input, device: Device) -> Self {
        let (modules, precision) = (Mutex::new(Some(Arc::new(modules))), Precision::F32);
        Self { modules, input, device, wanted: None, pipeline: OnceLock::new(), precision }
    }

    /// Crops of an image on the device, by what a trial on the first ones finds faster.
    fn views(&self, source: Source<'_>, draws: &[Draw]) -> Result<Tensor<4>, PipelineError> {
        let size = [self.input.height, self.input.width];
        if self.pipeline.get().is_none() {
            let work = Work { sources: &[source], draws, size };
            let chosen = match &self.wanted {
                None => (Pipeline::cpu(self.device.clone()), "views: cpu pipeline".into()),
                Some((wanted, offered)) => Pipeline::choose(*wanted, &self.device, offered, &work)?,
            };
            // Another thread's choice does as well.
            let _ = self.pipeline.set(chosen);
        }
        let (pipeline, _) = self.pipeline.get().expect("set above");
        pipeline.views(&pipeline.sources(&[source])?, draws, size)
    }
}

impl super::Device for Modules {
    fn logits(&self, seen: Seen<'_>, pixels: &[f32]) -> Result<Vec<f32>, Trouble> {
        let views = match seen {
            Seen::Pixels => {
                let shape = [1, 3, self.input.height as usize, self.input.width as usize];
                Tensor::from_data(TensorData::new(pixels.to_vec(), shape), &self.device)
            }
            Seen::Crops(source, draws) => self.views(source, draws).map_err(|error| match error {
                PipelineError::Lost { why } => Trouble::Lost(why),
                error => Trouble::Input(ClassifyError::Crops(error)),
            })?,
        };
        let modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some((model, head)) = modules.as_deref() else {
            return Err(Trouble::Lost("another image lost it".into()));
        };
        let views = views.cast(float(self.precision));
        let logits = head.forward(model.feature(views, Mode::Eval), Mode::Eval);
        Ok(logits.into_data_as::<f32>().try_into_vec::<f32>().expect("f32 was asked for"))
    }

    fn abandon(&self) {
        // Tensors that are never touched again, not even to be freed.
        if let Some(modules) = self.modules.lock().unwrap_or_else(PoisonError::into_inner).take() {
            std::mem::forget(modules);
        }
    }

    fn compute_in(&mut self, precision: Precision) {
        let modules = self.modules.get_mut().unwrap_or_else(PoisonError::into_inner);
        let to = float(precision);
        if precision == self.precision || !self.device.supports_dtype(to) {
            return;
        }
        *modules = modules.take().map(|modules| {
            let (model, head) = Arc::unwrap_or_clone(modules);
            Arc::new((model.map(&mut Cast(to)), head.map(&mut Cast(to))))
        });
        self.precision = precision;
    }

    fn precision(&self) -> Precision {
        self.precision
    }

    fn make_views(&mut self, wanted: Wanted, offered: &Offered) {
        self.wanted = Some((wanted, offered.clone()));
        self.pipeline = OnceLock::new();
    }

    fn pipeline(&self) -> Option<&str> {
        self.pipeline.get().map(|(_, why)| why.as_str())
    }
}

fn float(precision: Precision) -> FloatDType {
    match precision {
        Precision::F16 => FloatDType::F16,
        Precision::F32 => FloatDType::F32,
    }
}

/// Every parameter and every statistic in another type.
struct Cast(FloatDType);

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        Param::from_mapped_value(id, value.cast(self.0), mapper)
    }
}
