//! Adapters through Burn's wgpu.

use super::{Choice, DeviceError, Offered, SOFTWARE, guarded};
use burn::tensor::Device;
use burn::tensor::wgpu::WgpuSetup;
use burn::tensor::wgpu::wgpu::{
    self, Adapter, Backends, DeviceDescriptor, DeviceType, Features, Instance, InstanceDescriptor,
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
    }
}

pub(super) fn offered() -> Vec<Offered> {
    adapters().iter().map(offer).collect()
}

pub(super) fn open() -> Result<(Device, Offered), DeviceError> {
    // Burn does not notice a setup that is registered twice.
    static OPENED: Mutex<Option<(Device, Offered)>> = Mutex::new(None);
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(opened) = &*opened {
        return Ok(opened.clone());
    }
    let Some(adapter) = adapters().first() else {
        return Err(DeviceError::Absent { choice: Choice::Wgpu });
    };
    let offered = offer(adapter);
    let device = guarded(&offered.name, || register(adapter.clone()))?;
    *opened = Some((device.clone(), offered.clone()));
    Ok((device, offered))
}

fn register(adapter: Adapter) -> Result<Device, String> {
    let descriptor = DeviceDescriptor {
        label: Some("gabion"),
        required_features: adapter.features() & USED,
        required_limits: adapter.limits(),
        // Burn sub-allocates from large blocks of its own.
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        ..DeviceDescriptor::default()
    };
    let (device, queue) = ready(adapter.request_device(&descriptor)).map_err(|error| error.to_string())?;
    let backend = adapter.get_info().backend;
    let setup = WgpuSetup { instance: instance().clone(), adapter, device, queue, backend };
    Device::wgpu_options().setup(setup).init().map_err(|error| error.to_string())
}
