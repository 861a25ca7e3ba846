//! Views in the memory of Burn's tensors on a wgpu device.

use super::PipelineError;
use crate::devices::{Cache, under};
use burn::Tensor;
use burn::backend::Wgpu;
use burn::backend::wgpu::{AutoCompiler, CubeTensor, WgpuResource};
use burn::tensor::Device;
use cubecl_wgpu::WgpuServer;
use gabion_augment::Draw;
use gabion_augment::cpu::Source;
use gabion_augment::gpu::{Gpu, GpuError, Sources, Target, Values};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

/// The kernels on the device and the queue that Burn uses.
pub(super) struct OnDevice {
    gpu: Gpu,
    cache: Option<Cache>,
    /// Whether the kernels are compiled and kept.
    warm: AtomicBool,
}

impl fmt::Debug for OnDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnDevice").field("device", self.gpu.device()).finish_non_exhaustive()
    }
}

impl OnDevice {
    pub(super) fn new(device: &Device) -> Result<Self, PipelineError> {
        let Some((raw, queue, cache)) = under(device) else {
            return Err(PipelineError::NoGpu { why: "the device is another one".into() });
        };
        let gpu = Gpu::new(raw, queue).map_err(|error| PipelineError::NoGpu { why: error.to_string() })?;
        let gpu = match &cache {
            Some(cache) => gpu.with_cache(cache.cache.clone()),
            None => gpu,
        };
        Ok(Self { gpu, cache, warm: AtomicBool::new(false) })
    }

    pub(super) fn upload(&self, images: &[Source<'_>]) -> Result<Sources, GpuError> {
        self.gpu.upload(images)
    }

    pub(super) fn views(
        &self,
        device: &Device,
        sources: &Sources,
        draws: &[Draw],
        size: [u32; 2],
    ) -> Result<Tensor<4>, GpuError> {
        let [height, width] = size.map(|side| side as usize);
        let views = Tensor::<4>::empty([draws.len(), 3, height, width], device);
        within(&views, |target| self.gpu.apply(sources, draws, size, target))?;
        // The first views of a process compile their kernel; those of another size are seldom and stay out.
        if !self.warm.swap(true, Ordering::Relaxed)
            && let Some(cache) = &self.cache
        {
            cache.keep();
        }
        Ok(views)
    }

    pub(super) fn backward(
        &self,
        device: &Device,
        sources: &Sources,
        draws: &[Draw],
        gradients: Tensor<4>,
        source_size: [u32; 2],
    ) -> Result<Tensor<4>, GpuError> {
        let [_, _, height, width] = gradients.dims();
        let size = [height, width].map(|side| u32::try_from(side).expect("a view's sides are a u32"));
        let [rows, columns] = source_size.map(|side| side as usize);
        // The kernels work in place, on memory that nobody else looks at; the caller holds the one that is copied.
        let gradients = gradients.mul_scalar(1.0);
        let out = Tensor::<4>::empty([sources.len(), 3, rows, columns], device);
        within(&out, |out| within(&gradients, |gradients| self.gpu.backward(sources, draws, size, gradients, out)))?;
        Ok(out)
    }
}

/// Calls `work` with the memory of a tensor, after all that Burn has asked the device for so far: both use one queue, and
/// Burn keeps work back until there is more of it.
fn within<T>(tensor: &Tensor<4>, work: impl FnOnce(Target<'_>) -> Result<T, GpuError>) -> Result<T, GpuError> {
    let refused = |why: String| GpuError::Refused(why);
    let cube: CubeTensor = tensor
        .clone()
        .try_into_primitive::<Wgpu>()
        .map_err(|error| refused(format!("no tensor of wgpu: {error:?}")))?;
    if !cube.is_contiguous() {
        return Err(refused("the tensor is not contiguous".into()));
    }
    let resource = cube.client.get_resource::<WgpuServer<AutoCompiler>>(cube.handle.clone());
    let resource = resource.map_err(|error| refused(format!("{error:?}")))?;
    cube.client.flush().map_err(|error| refused(format!("{error:?}")))?;
    let WgpuResource { buffer, offset, .. } = resource.resource();
    work(Target { buffer, offset: *offset, values: Values::F32 })
}
