//! Views on a GPU through wgpu: the same [`Draw`]s as [`crate::cpu`] takes, one workgroup a view, in one dispatch.
//!
//! The device and the queue are the caller's, so that errors, loss and other users of them (a tensor library) are too;
//! nothing beyond WebGPU's default limits is needed. Sources are uploaded once and stay; draws are uploaded with each
//! call; views are written into any storage buffer, which may belong to a tensor.
//!
//! The kernels are in shaders/ and are put together when a size is first met: a view that fits the workgroup's memory
//! stays in it from the crop to the last operation, a larger one goes through a buffer.

mod backward;
mod chunks;
mod error;
mod shader;
mod sources;

pub use error::GpuError;
pub use sources::{Ring, Sources};

use bytemuck::{Pod, Zeroable};
use chunks::Chunk;
use gabion_spec::Draw;
use shader::{Kernel, Memory};
use sources::{Page, Place};
use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use wgpu::{BindingResource, CommandEncoder};

/// How values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// 4 bytes each.
    F32,
    /// 2 bytes each.
    F16,
}

impl Values {
    const fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

/// Where views lie: `[draws, 3, height, width]` from `offset` bytes on, a multiple of 4.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// A storage buffer.
    pub buffer: &'a wgpu::Buffer,
    /// Bytes before the first view.
    pub offset: u64,
    /// How values are written.
    pub values: Values,
}

/// What a dispatch is told.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Params {
    height: u32,
    width: u32,
    count: u32,
    shift: u32,
    half: u32,
    source_height: u32,
    source_width: u32,
    add: u32,
    first: u32,
    padding: [u32; 3],
    unit: [f32; 256],
}

impl Params {
    fn new([height, width]: [u32; 2], chunk: &Chunk) -> Self {
        let mut unit = [0.0; 256];
        for (byte, unit) in unit.iter_mut().enumerate() {
            *unit = byte as f32 / 255.0;
        }
        let count = u32::try_from(chunk.draws.len()).expect("a chunk's draws fit a binding");
        Self { height, width, count, shift: chunk.shift, unit, ..Self::zeroed() }
    }
}

/// The pipelines of a device.
pub struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    limits: wgpu::Limits,
    cache: Option<wgpu::PipelineCache>,
    pipelines: Mutex<HashMap<Kernel, wgpu::ComputePipeline>>,
    /// More views at once run out of memory.
    #[cfg(test)]
    most_views: std::sync::atomic::AtomicU64,
}

/// Longest wait for a device to finish: a driver that hangs is as good as lost.
const PATIENCE: Duration = Duration::from_secs(120);

/// Bytes of buffer that views larger than the workgroup's memory may take at a time.
const STORED_BYTES: u64 = 64 << 20;

impl Gpu {
    /// On a device of the caller's.
    ///
    /// # Errors
    /// [`GpuError::Limit`] where the device has less than WebGPU's default limits in what is used.
    pub fn new(device: wgpu::Device, queue: wgpu::Queue) -> Result<Self, GpuError> {
        let limits = device.limits();
        let enough = |limit, have: u32, need: u32| {
            let [have, need] = [have, need].map(u64::from);
            if have < need { Err(GpuError::Limit { limit, have, need }) } else { Ok(()) }
        };
        enough("invocations a workgroup", limits.max_compute_invocations_per_workgroup, shader::THREADS)?;
        enough("invocations a workgroup in x", limits.max_compute_workgroup_size_x, shader::THREADS)?;
        enough("storage buffers a stage", limits.max_storage_buffers_per_shader_stage, 6)?;
        enough("bytes of workgroup memory", limits.max_compute_workgroup_storage_size, shader::LEAST_MEMORY)?;
        Ok(Self {
            device,
            queue,
            limits,
            cache: None,
            pipelines: Mutex::default(),
            #[cfg(test)]
            most_views: u64::MAX.into(),
        })
    }

    /// With a cache of compiled pipelines, where the application keeps one.
    #[must_use]
    pub fn with_cache(self, cache: wgpu::PipelineCache) -> Self {
        Self { cache: Some(cache), ..self }
    }

    /// The device.
    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// Makes one view for each draw and submits the work; whoever submits to the same queue later sees the views.
    ///
    /// Where memory runs out it goes on with fewer views at a time. A lost device is told to whoever reads the views, and
    /// through the callback of the device's owner.
    ///
    /// # Shapes
    /// `target` `[draws, 3, height, width]` for `size` = `[height, width]`. No draws are no work.
    ///
    /// # Errors
    /// When a draw does not fit its source, the target is too small, or the device refuses.
    pub fn apply(&self, sources: &Sources, draws: &[Draw], size: [u32; 2], target: Target<'_>) -> Result<(), GpuError> {
        if draws.is_empty() {
            return Ok(());
        }
        let work = Work::new(self, sources, draws, size, target)?;
        self.in_parts(work, |work| {
            let mut encoder = self.encoder();
            for page in 0..sources.pages.len() {
                for chunk in work.chunks(draws, |place| (place.page == page).then_some(place.number)) {
                    self.dispatch_views(&mut encoder, Kernel::Apply, work, &sources.pages[page], &chunk);
                }
            }
            self.queue.submit([encoder.finish()]);
        })
    }

    fn encoder(&self) -> CommandEncoder {
        self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    /// Does the work, with half of the views at a time for as long as memory runs out.
    fn in_parts<'a>(&self, mut work: Work<'a>, encode: impl Fn(&Work<'a>)) -> Result<(), GpuError> {
        loop {
            let views = work.limits.views.min(work.draws as u64);
            match self.shortage(views).map_or_else(|| self.checked(|| encode(&work)), Err) {
                Err(GpuError::OutOfMemory(_)) if views > 1 => {
                    work.limits.views = (views / 2).max(1);
                }
                done => return done,
            }
        }
    }

    /// The shortage of memory that a test asks for.
    #[cfg(test)]
    fn shortage(&self, views: u64) -> Option<GpuError> {
        let most = self.most_views.load(std::sync::atomic::Ordering::Relaxed);
        (views > most).then(|| GpuError::OutOfMemory("as a test asks".into()))
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self)] // as in a test
    fn shortage(&self, _: u64) -> Option<GpuError> {
        None
    }

    /// One workgroup a view.
    fn dispatch_views(
        &self,
        encoder: &mut CommandEncoder,
        kernel: fn(Memory) -> Kernel,
        work: &Work<'_>,
        page: &Page,
        chunk: &Chunk,
    ) {
        let half = u32::from(work.target.values == Values::F16);
        let params = self.uniform(&Params { half, ..Params::new(work.size, chunk) });
        let draws = self.storage("draws", &chunks::draw_bytes(&chunk.draws));
        let places = self.storage("places", bytemuck::cast_slice(&chunk.places));
        let mut bindings = vec![
            (0, params.as_entire_binding()),
            (1, draws.as_entire_binding()),
            (2, places.as_entire_binding()),
            (3, page.entries.as_entire_binding()),
            (4, page.pixels.as_entire_binding()),
            (5, chunk.binding(work.target.buffer)),
        ];
        let stored = (work.memory == Memory::Stored).then(|| {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("views in the making"),
                size: 8 * work.length * chunk.draws.len() as u64,
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            })
        });
        bindings.extend(stored.iter().map(|stored| (6, stored.as_entire_binding())));
        let count = u32::try_from(chunk.draws.len()).expect("a chunk's draws fit a binding");
        let across = count.min(self.limits.max_compute_workgroups_per_dimension);
        self.dispatch(encoder, kernel(work.memory), bindings, [across, count.div_ceil(across)]);
    }

    fn uniform(&self, params: &Params) -> wgpu::Buffer {
        self.filled("params", bytemuck::bytes_of(params), wgpu::BufferUsages::UNIFORM)
    }

    fn dispatch(
        &self,
        encoder: &mut CommandEncoder,
        kernel: Kernel,
        bindings: Vec<(u32, BindingResource<'_>)>,
        [across, down]: [u32; 2],
    ) {
        let pipeline = self.pipeline(kernel);
        let entry = |(binding, resource)| wgpu::BindGroupEntry { binding, resource };
        let entries: Vec<wgpu::BindGroupEntry<'_>> = bindings.into_iter().map(entry).collect();
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(kernel.entry_point()),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(across, down, 1);
    }

    fn pipeline(&self, kernel: Kernel) -> wgpu::ComputePipeline {
        let mut pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        let made = pipelines.entry(kernel).or_insert_with(|| {
            let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(kernel.entry_point()),
                source: wgpu::ShaderSource::Wgsl(kernel.text().into()),
            });
            self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(kernel.entry_point()),
                layout: None,
                module: &module,
                entry_point: Some(kernel.entry_point()),
                compilation_options: wgpu::PipelineCompilationOptions {
                    // Every value is set before it is read.
                    zero_initialize_workgroup_memory: false,
                    ..wgpu::PipelineCompilationOptions::default()
                },
                cache: self.cache.as_ref(),
            })
        });
        made.clone()
    }

    /// [`Gpu::apply`] into memory of the host: for tests and pictures.
    ///
    /// # Shapes
    /// Returns `[draws, 3, height, width]`.
    ///
    /// # Errors
    /// As [`Gpu::apply`]; when the device is lost.
    pub fn views(&self, sources: &Sources, draws: &[Draw], size: [u32; 2]) -> Result<Vec<f32>, GpuError> {
        let bytes = 4 * 3 * u64::from(size[0]) * u64::from(size[1]) * draws.len() as u64;
        if bytes == 0 {
            let nowhere = self.storage("no views", &[0; 4]);
            let target = Target { buffer: &nowhere, offset: 0, values: Values::F32 };
            return self.apply(sources, draws, size, target).map(|()| Vec::new());
        }
        let buffer = |label, usage| {
            let descriptor =
                wgpu::BufferDescriptor { label: Some(label), size: bytes, usage, mapped_at_creation: false };
            self.checked(|| self.device.create_buffer(&descriptor))
        };
        let made = buffer("views", wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC)?;
        let read = buffer("views to read", wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)?;
        self.apply(sources, draws, size, Target { buffer: &made, offset: 0, values: Values::F32 })?;
        let mut encoder = self.encoder();
        encoder.copy_buffer_to_buffer(&made, 0, &read, 0, bytes);
        self.queue.submit([encoder.finish()]);
        Ok(bytemuck::pod_collect_to_vec(&self.mapped(&read)?))
    }

    /// The bytes of a buffer that the host may read.
    fn mapped(&self, buffer: &wgpu::Buffer) -> Result<wgpu::BufferView, GpuError> {
        let (sender, receiver) = std::sync::mpsc::channel();
        buffer.slice(..).map_async(wgpu::MapMode::Read, move |result| {
            // Nobody waits any more where this fails.
            let _ = sender.send(result);
        });
        let lost = |error: &dyn std::fmt::Display| GpuError::Lost(error.to_string());
        self.answer(&receiver)?.map_err(|error| lost(&error))?;
        buffer.slice(..).get_mapped_range().map_err(|error| lost(&error))
    }

    /// Waits for what a callback of the device sends. A thread that polls the same device may have taken the callback and
    /// not called it yet; a lost device may call none at all.
    fn answer<T>(&self, receiver: &Receiver<T>) -> Result<T, GpuError> {
        const MOMENT: Duration = Duration::from_millis(20);
        let until = Instant::now() + PATIENCE;
        let wait = wgpu::PollType::Wait { submission_index: None, timeout: Some(PATIENCE) };
        loop {
            self.device.poll(wait.clone()).map_err(|error| GpuError::Lost(error.to_string()))?;
            match receiver.recv_timeout(MOMENT) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Timeout) if Instant::now() < until && self.alive() => {}
                Err(_) => return Err(GpuError::Lost("it answers no more".into())),
            }
        }
    }

    /// Whether the device still makes buffers. A lost one says nothing, and gives what cannot be used.
    fn alive(&self) -> bool {
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        self.storage("sign of life", &[0; 4]);
        ready(scope.pop()).is_none()
    }

    /// Runs what may fail on the device and turns its failure into an error.
    fn checked<T>(&self, work: impl FnOnce() -> T) -> Result<T, GpuError> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let done = work();
        // What memory was missing for is refused later on: the first cause counts.
        let refused = ready(validation.pop());
        let errors = [ready(memory.pop()), refused];
        match errors.into_iter().flatten().next() {
            None => {}
            Some(wgpu::Error::OutOfMemory { source }) => return Err(GpuError::OutOfMemory(source.to_string())),
            Some(error) if self.alive() => return Err(GpuError::Refused(error.to_string())),
            Some(error) => return Err(GpuError::Lost(error.to_string())),
        }
        Ok(done)
    }
}

/// Views to be made or gone back through, checked.
struct Work<'a> {
    sources: &'a Sources,
    draws: usize,
    size: [u32; 2],
    /// Values of a view.
    length: u64,
    target: Target<'a>,
    memory: Memory,
    limits: chunks::Limits,
}

impl<'a> Work<'a> {
    fn new(
        gpu: &Gpu,
        sources: &'a Sources,
        draws: &[Draw],
        size: [u32; 2],
        target: Target<'a>,
    ) -> Result<Self, GpuError> {
        let [height, width] = size;
        let length = 3 * u64::from(height) * u64::from(width);
        if length == 0 || (target.values == Values::F16 && !length.is_multiple_of(2)) {
            return Err(GpuError::Size { height, width });
        }
        check_draws(sources, draws)?;
        let (offset, view_bytes) = (target.offset, length * target.values.bytes());
        if !offset.is_multiple_of(4) {
            return Err(GpuError::Misaligned { offset });
        }
        let have = target.buffer.size().saturating_sub(offset);
        if draws.len() as u64 * view_bytes > have {
            return Err(GpuError::Target { draws: draws.len(), view_bytes, offset, have });
        }
        let binding = gpu.limits.max_storage_buffer_binding_size;
        let align = u64::from(gpu.limits.min_storage_buffer_offset_alignment);
        let fits = |need, have| {
            if need > have { Err(GpuError::Limit { limit: "bytes a storage binding", have, need }) } else { Ok(()) }
        };
        fits(view_bytes + align, binding)?;
        let memory = shader::memory(length, gpu.limits.max_compute_workgroup_storage_size);
        let views = match memory {
            Memory::Held(_) => u64::MAX,
            Memory::Stored => {
                let most = STORED_BYTES.min(binding);
                fits(8 * length, most)?;
                most / (8 * length)
            }
        };
        let limits = chunks::Limits { align, binding, views };
        Ok(Self { sources, draws: draws.len(), size, length, target, memory, limits })
    }

    /// The draws of some sources in dispatches; `number` says which, and the number that a kernel finds them by.
    fn chunks(&self, draws: &[Draw], number: impl Fn(&Place) -> Option<u32>) -> Vec<Chunk> {
        let chosen = draws.iter().enumerate().filter_map(|(at, draw)| {
            let image = number(&self.sources.places[draw.image as usize])?;
            Some((at as u64, Draw { image, ..*draw }))
        });
        let bytes = self.target.values.bytes();
        chunks::cut(chosen, &self.target, self.length * bytes, &self.limits)
    }
}

fn check_draws(sources: &Sources, draws: &[Draw]) -> Result<(), GpuError> {
    for (number, draw) in draws.iter().enumerate() {
        let Some(&Place { size: [height, width], .. }) = sources.places.get(draw.image as usize) else {
            return Err(GpuError::NoSource { draw: number, source_number: draw.image, sources: sources.len() });
        };
        let inside =
            |start: u32, length: u32, all: u32| length > 0 && start.checked_add(length).is_some_and(|end| end <= all);
        if !inside(draw.top, draw.height, height) || !inside(draw.left, draw.width, width) {
            let crop = [draw.top, draw.left, draw.height, draw.width];
            return Err(GpuError::Outside { draw: number, crop, height, width });
        }
    }
    Ok(())
}

/// The output of a future that is ready when first asked, as wgpu's are outside a browser.
pub fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::yield_now(),
        }
    }
}

#[cfg(test)]
mod tests;
