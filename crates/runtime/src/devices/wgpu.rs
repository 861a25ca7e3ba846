//! Adapters through Burn's wgpu.

use super::cache::Cache;
use super::{Choice, DeviceError, Limits, Offered, SOFTWARE, guarded};
use burn::tensor::Device;
use burn::tensor::wgpu::WgpuSetup;
use burn::tensor::wgpu::wgpu::{
    self, Adapter, Backends, DeviceDescriptor, DeviceType, Features, Instance, InstanceDescriptor, Queue,
};
use gabion_augment::gpu::ready;
use std::sync::{Mutex, OnceLock, PoisonError};

/// What CubeCL compiles for where the adapter has it. It reads the adapter's list and not the device's, so all of these
/// that are there must be asked for, and nothing else need be.
const USED: Features = Features::SHADER_INT64
    .union(Features::SHADER_F64)
    .union(Features::SHADER_F16)
    .union(Features::SHADER_FLOAT32_ATOMIC)
    .union(Features::SUBGROUP)
    .union(Features::TIMESTAMP_QUERY)
    .union(Features::TIMESTAMP_QUERY_INSIDE_ENCODERS)
    .union(Features::TIMESTAMP_QUERY_INSIDE_PASSES)
    .union(Features::IMMEDIATES)
    .union(Features::PIPELINE_CACHE);

/// One for the life of the process: Vulkan's loader crashes when instances come and go on several threads.
fn instance() -> &'static Instance {
    static INSTANCE: OnceLock<Instance> = OnceLock::new();
    INSTANCE.get_or_init(|| {
        Instance::new(InstanceDescriptor {
            backends: Backends::PRIMARY,
            ..InstanceDescriptor::new_without_display_handle()
        })
    })
}

/// Adapters from the most to the least capable kind, asked for once: some drivers write to the terminal when they are.
fn adapters() -> &'static [Adapter] {
    static ADAPTERS: OnceLock<Vec<Adapter>> = OnceLock::new();
    ADAPTERS.get_or_init(|| {
        // A loader that breaks is as good as none here.
        let found = guarded("wgpu", || Ok(ready(instance().enumerate_adapters(Backends::PRIMARY))));
        let mut adapters = found.unwrap_or_default();
        adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
            DeviceType::DiscreteGpu => 0,
            DeviceType::IntegratedGpu => 1,
            DeviceType::VirtualGpu => 2,
            DeviceType::Other => 3,
            DeviceType::Cpu => 4,
        });
        adapters
    })
}

fn offer(adapter: &Adapter) -> Offered {
    let info = adapter.get_info();
    let kind = match info.device_type {
        DeviceType::DiscreteGpu => "discrete gpu",
        DeviceType::IntegratedGpu => "integrated gpu",
        DeviceType::VirtualGpu => "virtual gpu",
        DeviceType::Cpu => SOFTWARE,
        DeviceType::Other => "other",
    };
    Offered {
        name: info.name,
        choice: Choice::Wgpu,
        kind: kind.into(),
        backend: info.backend.to_string(),
        driver: format!("{} {}", info.driver, info.driver_info).trim().into(),
        limits: Some(limits(adapter)),
    }
}

fn limits(adapter: &Adapter) -> Limits {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    let subgroup = [info.subgroup_min_size, info.subgroup_max_size];
    Limits {
        buffer: limits.max_buffer_size,
        binding: limits.max_storage_buffer_binding_size,
        workgroup: limits.max_compute_invocations_per_workgroup,
        shared: limits.max_compute_workgroup_storage_size,
        subgroup: features.contains(Features::SUBGROUP).then_some(subgroup),
        f16: features.contains(Features::SHADER_F16),
    }
}

pub(super) fn offered() -> Vec<Offered> {
    adapters().iter().map(offer).collect()
}

/// A device that was opened, Burn's and wgpu's.
#[derive(Clone)]
struct Opened {
    device: Device,
    offered: Offered,
    raw: wgpu::Device,
    queue: Queue,
    cache: Option<Cache>,
}

/// Burn does not notice a setup that is registered twice.
static OPENED: Mutex<Option<Opened>> = Mutex::new(None);

pub(super) fn open() -> Result<(Device, Offered), DeviceError> {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(opened) = &*opened {
        return Ok((opened.device.clone(), opened.offered.clone()));
    }
    let Some(adapter) = adapters().first() else {
        return Err(DeviceError::Absent { choice: Choice::Wgpu });
    };
    let offered = offer(adapter);
    let made = guarded(&offered.name, || register(adapter.clone(), offered.clone()))?;
    let device = made.device.clone();
    *opened = Some(made);
    Ok((device, offered))
}

/// The device, the queue and the cache under a device that was opened here.
pub(crate) fn under(device: &Device) -> Option<(wgpu::Device, Queue, Option<Cache>)> {
    let opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    let opened = opened.as_ref().filter(|opened| opened.device == device.clone().without_autodiff())?;
    Some((opened.raw.clone(), opened.queue.clone(), opened.cache.clone()))
}

fn register(adapter: Adapter, offered: Offered) -> Result<Opened, String> {
    let descriptor = DeviceDescriptor {
        label: Some("gabion"),
        required_features: adapter.features() & USED,
        required_limits: adapter.limits(),
        // Burn sub-allocates from large blocks of its own.
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        ..DeviceDescriptor::default()
    };
    let (raw, queue) = ready(adapter.request_device(&descriptor)).map_err(|error| error.to_string())?;
    let (info, cache) = (adapter.get_info(), Cache::open(&raw, &adapter.get_info()));
    let setup = WgpuSetup {
        instance: instance().clone(),
        adapter,
        device: raw.clone(),
        queue: queue.clone(),
        backend: info.backend,
    };
    let device = Device::wgpu_options().setup(setup).init().map_err(|error| error.to_string())?;
    Ok(Opened { device, offered, raw, queue, cache })
}
