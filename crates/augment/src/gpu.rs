//! Views on a GPU through wgpu: the same [`Draw`]s as [`crate::cpu`] takes, one workgroup a view, in one dispatch.
//!
//! The device and the queue are the caller's, so that errors, loss and other users of them (a tensor library) are too;
//! nothing beyond WebGPU's default limits is needed. Sources are uploaded once and stay; draws are uploaded with each
//! call; views are written into any storage buffer, which may belong to a tensor.
//!
//! The kernels are in shaders/ and are put together when a size is first met: a view that fits the workgroup's memory
//! stays in it from the crop to the last operation, a larger one goes through a buffer.

mod chunks;
mod shader;

use crate::cpu::{self, Source};
use bytemuck::{Pod, Zeroable};
use chunks::Chunk;
use gabion_spec::Draw;
use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use wgpu::util::{BufferInitDescriptor, DeviceExt};

/// Why views could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum GpuError {
    #[error("the device has {have} {limit}, {need} are needed; use the CPU pipeline")]
    Limit { limit: &'static str, have: u64, need: u64 },
    #[error("the device is out of memory: {0}; make fewer views at once or use the CPU pipeline")]
    OutOfMemory(String),
    #[error("the device refused the work: {0}")]
    Refused(String),
    #[error("the device was lost: {0}")]
    Lost(String),
    #[error("source {source_number} is {height}x{width} and has {have} values, {need} are needed")]
    SourceLength { source_number: usize, height: u32, width: u32, have: usize, need: usize },
    #[error("draw {draw} is of source {source_number}, there are {sources}")]
    NoSource { draw: usize, source_number: u32, sources: usize },
    #[error("draw {draw} crops {crop:?} (top, left, height, width), the source is {height}x{width}")]
    Outside { draw: usize, crop: [u32; 4], height: u32, width: u32 },
    #[error(
        "views of {height}x{width} cannot be made; both sides are at least 1 and f16 needs an even number of values"
    )]
    Size { height: u32, width: u32 },
    #[error("{draws} views of {view_bytes} bytes do not fit the {have} bytes after the target's offset {offset}")]
    Target { draws: usize, view_bytes: u64, offset: u64, have: u64 },
}

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

/// Where views go: `[draws, 3, height, width]` from `offset` bytes on, a multiple of 4.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// A storage buffer.
    pub buffer: &'a wgpu::Buffer,
    /// Bytes before the first view.
    pub offset: u64,
    /// How values are written.
    pub values: Values,
}

/// A source as the shader sees it.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Entry {
    start: u32,
    height: u32,
    width: u32,
    floats: u32,
}

/// Images that one binding holds.
struct Page {
    pixels: wgpu::Buffer,
    entries: wgpu::Buffer,
}

/// Images that stay on the device.
pub struct Sources {
    pages: Vec<Page>,
    /// Height and width, page, number within the page.
    places: Vec<([u32; 2], usize, u32)>,
}

impl Sources {
    /// How many images.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
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
    unit: [f32; 256],
}

/// The pipelines of a device.
pub struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    limits: wgpu::Limits,
    pipelines: Mutex<HashMap<shader::Memory, wgpu::ComputePipeline>>,
}

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
        Ok(Self { device, queue, limits, pipelines: Mutex::default() })
    }

    /// The device.
    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// Copies images to the device, where they stay until the result is dropped.
    ///
    /// # Errors
    /// When a source has not its size's length, is larger than a binding, or memory runs out.
    pub fn upload(&self, sources: &[Source<'_>]) -> Result<Sources, GpuError> {
        let most = usize::try_from(self.limits.max_storage_buffer_binding_size).unwrap_or(usize::MAX);
        let (mut pages, mut places) = (Vec::new(), Vec::with_capacity(sources.len()));
        let (mut bytes, mut entries) = (Vec::new(), Vec::new());
        for (source_number, source) in sources.iter().enumerate() {
            let [height, width] = source.size;
            let need = 3 * height as usize * width as usize;
            let have = source.values.len();
            if have != need || need == 0 {
                return Err(GpuError::SourceLength { source_number, height, width, have, need });
            }
            let (padded, floats) = match source.values {
                cpu::Values::Bytes(_) => (need.next_multiple_of(4), 0),
                cpu::Values::Floats(_) => (4 * need, 1),
            };
            if padded > most {
                let limit = "bytes a storage binding";
                return Err(GpuError::Limit { limit, have: most as u64, need: padded as u64 });
            }
            if bytes.len() + padded > most {
                pages.push(self.page(&mut bytes, &mut entries)?);
            }
            let number = u32::try_from(entries.len()).expect("a page's bytes fit a u32");
            places.push((source.size, pages.len(), number));
            let start = u32::try_from(bytes.len()).expect("a binding's bytes fit a u32");
            // Floats are found by their word.
            entries.push(Entry { start: if floats == 1 { start / 4 } else { start }, height, width, floats });
            match source.values {
                cpu::Values::Bytes(pixels) => bytes.extend_from_slice(pixels),
                cpu::Values::Floats(values) => bytes.extend_from_slice(bytemuck::cast_slice(values)),
            }
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        if !entries.is_empty() {
            pages.push(self.page(&mut bytes, &mut entries)?);
        }
        Ok(Sources { pages, places })
    }

    fn page(&self, bytes: &mut Vec<u8>, entries: &mut Vec<Entry>) -> Result<Page, GpuError> {
        let page = self.checked(|| Page {
            pixels: self.storage("sources", bytes),
            entries: self.storage("source sizes", bytemuck::cast_slice(entries)),
        })?;
        bytes.clear();
        entries.clear();
        Ok(page)
    }

    fn storage(&self, label: &'static str, contents: &[u8]) -> wgpu::Buffer {
        self.device.create_buffer_init(&BufferInitDescriptor {
            label: Some(label),
            contents,
            usage: wgpu::BufferUsages::STORAGE,
        })
    }

    /// Makes one view for each draw and submits the work; whoever submits to the same queue later sees the views.
    ///
    /// # Shapes
    /// `target` `[draws, 3, height, width]` for `size` = `[height, width]`. No draws are no work.
    ///
    /// # Errors
    /// When a draw does not fit its source, the target is too small, or the device refuses.
    pub fn apply(&self, sources: &Sources, draws: &[Draw], size: [u32; 2], target: Target<'_>) -> Result<(), GpuError> {
        let [height, width] = size;
        let length = 3 * u64::from(height) * u64::from(width);
        if draws.is_empty() {
            return Ok(());
        }
        if length == 0 || (target.values == Values::F16 && !length.is_multiple_of(2)) {
            return Err(GpuError::Size { height, width });
        }
        check_draws(sources, draws)?;
        let view_bytes = length * target.values.bytes();
        let have = target.buffer.size().saturating_sub(target.offset);
        if draws.len() as u64 * view_bytes > have || !target.offset.is_multiple_of(4) {
            return Err(GpuError::Target { draws: draws.len(), view_bytes, offset: target.offset, have });
        }
        let binding = self.limits.max_storage_buffer_binding_size;
        let need = view_bytes + u64::from(self.limits.min_storage_buffer_offset_alignment);
        if need > binding {
            return Err(GpuError::Limit { limit: "bytes a storage binding", have: binding, need });
        }
        let memory = shader::memory(length, self.limits.max_compute_workgroup_storage_size);
        let most_views = match memory {
            shader::Memory::Held(_) => u64::MAX,
            shader::Memory::Stored => {
                let most = STORED_BYTES.min(self.limits.max_storage_buffer_binding_size);
                if 8 * length > most {
                    return Err(GpuError::Limit { limit: "bytes a storage binding", have: most, need: 8 * length });
                }
                most / (8 * length)
            }
        };
        let limits = chunks::Limits {
            align: u64::from(self.limits.min_storage_buffer_offset_alignment),
            binding: self.limits.max_storage_buffer_binding_size,
            views: most_views,
        };
        self.checked(|| {
            let pipeline = self.pipeline(memory);
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            for page in 0..sources.pages.len() {
                for chunk in chunks::of_page(sources, page, draws, &target, view_bytes, &limits) {
                    self.encode(&mut encoder, &pipeline, memory, &sources.pages[page], &chunk, size, &target);
                }
            }
            self.queue.submit([encoder.finish()]);
        })
    }

    #[allow(clippy::too_many_arguments)] // the operands of one dispatch
    fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        pipeline: &wgpu::ComputePipeline,
        memory: shader::Memory,
        page: &Page,
        chunk: &Chunk,
        [height, width]: [u32; 2],
        target: &Target<'_>,
    ) {
        let count = u32::try_from(chunk.draws.len()).expect("a chunk's draws fit a binding");
        let mut unit = [0f32; 256];
        for (byte, unit) in unit.iter_mut().enumerate() {
            *unit = byte as f32 / 255.0;
        }
        let half = u32::from(target.values == Values::F16);
        let params =
            Params { height, width, count, shift: chunk.shift, half, source_height: 0, source_width: 0, add: 0, unit };
        let params = self.device.create_buffer_init(&BufferInitDescriptor {
            label: Some("params"),
            contents: bytemuck::bytes_of(&params),
            usage: wgpu::BufferUsages::UNIFORM,
        });
        let draws = self.storage("draws", &chunks::draw_bytes(&chunk.draws));
        let places = self.storage("places", bytemuck::cast_slice(&chunk.places));
        let views = wgpu::BufferBinding {
            buffer: target.buffer,
            offset: chunk.offset,
            size: std::num::NonZeroU64::new(chunk.bytes),
        };
        let mut entries = vec![
            params.as_entire_binding(),
            draws.as_entire_binding(),
            places.as_entire_binding(),
            page.entries.as_entire_binding(),
            page.pixels.as_entire_binding(),
            wgpu::BindingResource::Buffer(views),
        ];
        let stored = (memory == shader::Memory::Stored).then(|| {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("views in the making"),
                size: 8 * 3 * u64::from(height) * u64::from(width) * u64::from(count),
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            })
        });
        entries.extend(stored.iter().map(wgpu::Buffer::as_entire_binding));
        let entries: Vec<wgpu::BindGroupEntry<'_>> =
            (0..).zip(entries).map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource }).collect();
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("apply"),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let across = count.min(self.limits.max_compute_workgroups_per_dimension);
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(across, count.div_ceil(across), 1);
    }

    fn pipeline(&self, memory: shader::Memory) -> wgpu::ComputePipeline {
        let mut pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        let made = pipelines.entry(memory).or_insert_with(|| {
            let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some("apply"),
                source: wgpu::ShaderSource::Wgsl(shader::apply(memory).into()),
            });
            self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some("apply"),
                layout: None,
                module: &module,
                entry_point: Some("apply"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    // Every value is set before it is read.
                    zero_initialize_workgroup_memory: false,
                    ..wgpu::PipelineCompilationOptions::default()
                },
                cache: None,
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
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(&made, 0, &read, 0, bytes);
        self.queue.submit([encoder.finish()]);
        let (sender, receiver) = std::sync::mpsc::channel();
        read.slice(..).map_async(wgpu::MapMode::Read, move |result| {
            let _ = sender.send(result);
        });
        self.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|error| GpuError::Lost(error.to_string()))?;
        receiver
            .recv()
            .map_err(|error| GpuError::Lost(error.to_string()))?
            .map_err(|error| GpuError::Lost(error.to_string()))?;
        let mapped = read.slice(..).get_mapped_range().map_err(|error| GpuError::Lost(error.to_string()))?;
        Ok(bytemuck::pod_collect_to_vec(&mapped))
    }

    /// Runs what may fail on the device and turns its failure into an error.
    fn checked<T>(&self, work: impl FnOnce() -> T) -> Result<T, GpuError> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let done = work();
        for scope in [validation, memory] {
            match ready(scope.pop()) {
                None => {}
                Some(wgpu::Error::OutOfMemory { source }) => return Err(GpuError::OutOfMemory(source.to_string())),
                Some(error) => return Err(GpuError::Refused(error.to_string())),
            }
        }
        Ok(done)
    }
}

fn check_draws(sources: &Sources, draws: &[Draw]) -> Result<(), GpuError> {
    for (number, draw) in draws.iter().enumerate() {
        let Some(&([height, width], ..)) = sources.places.get(draw.image as usize) else {
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
