//! The GPU against the CPU. A machine without an adapter says that it skips; `GABION_REQUIRE_GPU=1` lets it fail.

use super::*;
use crate::cpu::apply_batch;
use crate::{ViewId, sample};
use gabion_spec::{Augment, Blur, BlurFilter, Crop, Jitter, Pixels, Solarize};
use proptest::prelude::*;
use std::sync::OnceLock;

/// The largest difference of a value. Solarization jumps by 1/255 where a value lies within rounding of its threshold.
const TOLERANCE: f32 = 1.0 / 255.0 + 1e-5;

fn adapter() -> Option<&'static wgpu::Adapter> {
    static ADAPTER: OnceLock<Option<wgpu::Adapter>> = OnceLock::new();
    let adapter = ADAPTER.get_or_init(|| {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends: wgpu::Backends::PRIMARY,
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        ready(instance.enumerate_adapters(wgpu::Backends::PRIMARY)).into_iter().next()
    });
    if adapter.is_none() {
        let required = std::env::var_os("GABION_REQUIRE_GPU").is_some_and(|value| value == "1");
        assert!(!required, "GABION_REQUIRE_GPU=1 and there is no adapter");
        println!("skipped: no wgpu adapter");
    }
    adapter.as_ref()
}

/// A device that promises no more than `limits`, WebGPU's defaults with some of them lowered.
fn gpu(limits: wgpu::Limits) -> Option<Gpu> {
    let descriptor = wgpu::DeviceDescriptor { required_limits: limits, ..wgpu::DeviceDescriptor::default() };
    let (device, queue) = ready(adapter()?.request_device(&descriptor)).expect("a device with default limits");
    Some(Gpu::new(device, queue).expect("default limits are enough"))
}

fn shared() -> Option<&'static Gpu> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    GPU.get_or_init(|| gpu(wgpu::Limits::default())).as_ref()
}

fn noise(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// Everything often, so that few views meet every operation.
fn strong(size: [u32; 2], filter: BlurFilter) -> Augment {
    Augment {
        size,
        crop: Crop { scale: [0.05, 1.0], ..Crop::CROP },
        flip: 0.5,
        jitter: Some(Jitter { probability: 0.9, brightness: 0.8, contrast: 0.8, saturation: 0.8, hue: 0.5 }),
        grayscale: 0.2,
        blur: Some(Blur { probability: 0.5, sigma: [0.1, 3.0], filter }),
        solarize: Some(Solarize { probability: 0.3, threshold: Pixels::of_255(128.0) }),
    }
}

struct Case {
    images: Vec<Vec<u8>>,
    from: Vec<[u32; 2]>,
    draws: Vec<Draw>,
    size: [u32; 2],
}

impl Case {
    fn new(augment: &Augment, seed: u64, from: &[[u32; 2]], views: u32) -> Self {
        let images = from.iter().zip(seed..).map(|([h, w], seed)| noise((3 * h * w) as usize, seed)).collect();
        let draw = |view: u32| {
            let image = view % from.len() as u32;
            Draw { image, ..sample(augment, ViewId { seed, epoch: 0, image, view }, from[image as usize]) }
        };
        Self { images, from: from.to_vec(), draws: (0..views).map(draw).collect(), size: augment.size }
    }

    fn sources(&self) -> Vec<Source<'_>> {
        self.images.iter().zip(&self.from).map(|(pixels, &size)| Source::bytes(pixels, size)).collect()
    }

    fn on_cpu(&self) -> Vec<f32> {
        let mut views = vec![0.0; self.draws.len() * 3 * (self.size[0] * self.size[1]) as usize];
        apply_batch(&self.sources(), &self.draws, self.size, &mut views);
        views
    }

    fn on(&self, gpu: &Gpu) -> Vec<f32> {
        let sources = gpu.upload(&self.sources()).unwrap();
        gpu.views(&sources, &self.draws, self.size).unwrap()
    }
}

#[track_caller]
fn assert_near(case: &Case, found: &[f32], tolerance: f32) {
    let wanted = case.on_cpu();
    assert_eq!(found.len(), wanted.len());
    let length = wanted.len() / case.draws.len();
    for (place, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
        let off = (found - wanted).abs();
        assert!(off <= tolerance, "value {place}: {found}, not {wanted}, of {:?}", case.draws[place / length]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_view_is_the_cpus(
        seed: u64,
        rows in 8u32..512, columns in 8u32..512,
        size in prop::sample::select(vec![[16, 16], [32, 32], [64, 64], [224, 224], [9, 13], [33, 40]]),
        boxes: bool,
    ) {
        let Some(gpu) = shared() else { return Ok(()) };
        let filter = if boxes { BlurFilter::PilBoxes } else { BlurFilter::Gaussian };
        let views = if size[0] > 64 { 3 } else { 12 };
        let case = Case::new(&strong(size, filter), seed, &[[rows, columns], [columns, 8]], views);
        let found = case.on(gpu);
        assert_near(&case, &found, TOLERANCE);
        prop_assert!(found.iter().zip(case.on(gpu)).all(|(a, b)| a.to_bits() == b.to_bits()), "not the same twice");
    }
}

#[test]
fn a_crop_without_a_resize_is_bit_equal() {
    let Some(gpu) = shared() else { return };
    let augment = Augment { flip: 0.5, ..Augment::identity([32, 32]) };
    let mut case = Case::new(&augment, 3, &[[40, 50], [32, 32]], 40);
    for (n, draw) in (0..).zip(&mut case.draws) {
        (draw.height, draw.width) = (32, 32);
        if draw.image == 0 {
            (draw.top, draw.left) = (n % 9, n % 19);
        } else {
            (draw.top, draw.left) = (0, 0);
        }
    }
    let same = case.on(gpu).iter().zip(case.on_cpu()).all(|(a, b)| a.to_bits() == b.to_bits());
    assert!(same);
}

#[test]
fn small_bindings_are_met_with_pages_and_dispatches() {
    let limits = wgpu::Limits { max_storage_buffer_binding_size: 30_000, ..wgpu::Limits::default() };
    let Some(gpu) = gpu(limits) else { return };
    let case = Case::new(&strong([17, 15], BlurFilter::PilBoxes), 5, &[[60, 50], [50, 60], [64, 64], [70, 33]], 50);
    let sources = gpu.upload(&case.sources()).unwrap();
    assert!(sources.pages.len() > 1);
    assert_near(&case, &gpu.views(&sources, &case.draws, case.size).unwrap(), TOLERANCE);
    // A view that no binding reaches.
    let error = gpu.views(&sources, &case.draws[..1], [100, 100]).unwrap_err();
    assert!(matches!(error, GpuError::Limit { .. }), "{error}");
}

#[test]
fn more_views_than_workgroups_in_a_row() {
    let Some(gpu) = shared() else { return };
    let case = Case::new(&Augment::identity([1, 1]), 1, &[[2, 2]], 70_000);
    assert_near(&case, &case.on(gpu), 1e-6);
}

#[test]
fn halves_are_the_floats_rounded() {
    let Some(gpu) = shared() else { return };
    let case = Case::new(&strong([16, 10], BlurFilter::Gaussian), 8, &[[40, 30]], 9);
    let sources = gpu.upload(&case.sources()).unwrap();
    let bytes = 2 * case.draws.len() as u64 * 3 * 160;
    let buffer = |usage| {
        let size = 512 + bytes;
        gpu.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    };
    let made = buffer(wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC);
    let read = buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
    // An offset that is no multiple of a binding's alignment.
    let target = Target { buffer: &made, offset: 324, values: Values::F16 };
    gpu.apply(&sources, &case.draws, case.size, target).unwrap();
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    encoder.copy_buffer_to_buffer(&made, 0, &read, 0, 512 + bytes);
    gpu.queue.submit([encoder.finish()]);
    read.slice(..).map_async(wgpu::MapMode::Read, |_| ());
    gpu.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    let mapped = read.slice(..).get_mapped_range().unwrap();
    let found: Vec<f32> = mapped[324..324 + usize::try_from(bytes).unwrap()]
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&half| half::f16::from_le_bytes(half).to_f32())
        .collect();
    assert!(mapped[..324].iter().all(|&byte| byte == 0), "something was written before the target");
    assert_near(&case, &found, TOLERANCE + 1.0 / 2048.0);
}

#[test]
fn what_does_not_fit_is_named() {
    let Some(gpu) = shared() else { return };
    let pixels = [0; 48];
    let sources = gpu.upload(&[Source::bytes(&pixels, [4, 4])]).unwrap();
    let whole = Draw { height: 4, width: 4, solarize: Draw::NO_SOLARIZE, ..Draw::default() };
    let error = |draw, size| gpu.views(&sources, &[draw], size).unwrap_err().to_string();
    assert!(error(Draw { image: 3, ..whole }, [2, 2]).contains("of source 3, there are 1"));
    assert!(error(Draw { top: 1, ..whole }, [2, 2]).contains("[1, 0, 4, 4]"));
    assert!(error(Draw { width: 0, ..whole }, [2, 2]).contains("4x4"));
    assert!(error(Draw { left: u32::MAX, ..whole }, [2, 2]).contains("crops"));
    assert!(error(whole, [0, 2]).contains("0x2"));
    let short = gpu.upload(&[Source::bytes(&pixels[1..], [4, 4])]).err().unwrap();
    assert!(short.to_string().contains("has 47 values, 48 are needed"), "{short}");
    let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 64,
        usage: wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    });
    let target = |offset| Target { buffer: &buffer, offset, values: Values::F32 };
    let error = gpu.apply(&sources, &[whole], [2, 2], target(32)).unwrap_err().to_string();
    assert!(error.contains("1 views of 48 bytes do not fit the 32 bytes"), "{error}");
    // A buffer of another use is the device's to refuse, as an error and not an abort.
    let error = gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 64,
        usage: wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let error = gpu.apply(&sources, &[whole], [2, 2], Target { buffer: &error, offset: 0, values: Values::F32 });
    assert!(matches!(error, Err(GpuError::Refused(_))), "{error:?}");
    // And it goes on working.
    assert_eq!(gpu.views(&sources, &[whole], [4, 4]).unwrap(), [0.0; 48]);
    assert!(gpu.views(&sources, &[], [4, 4]).is_ok_and(|views| views.is_empty()));
}

/// The module of a shader that asks for nothing beyond WebGPU.
#[track_caller]
fn valid(text: &str) -> naga::Module {
    let module = naga::front::wgsl::parse_str(text).unwrap_or_else(|error| panic!("{}", error.emit_to_string(text)));
    naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::empty())
        .validate(&module)
        .unwrap_or_else(|error| panic!("{}", error.emit_to_string(text)));
    module
}

/// Names and offsets of a struct's members; its size is the one in Rust.
fn members<'a>(module: &'a naga::Module, name: &str, size: usize) -> Vec<(&'a str, usize)> {
    let (_, found) = module.types.iter().find(|(_, kind)| kind.name.as_deref() == Some(name)).unwrap();
    let naga::TypeInner::Struct { members, span } = &found.inner else { panic!("{name} is a struct") };
    assert_eq!(*span as usize, size, "{name}");
    members.iter().map(|member| (member.name.as_deref().unwrap(), member.offset as usize)).collect()
}

#[test]
fn a_draw_is_laid_out_as_the_shader_reads_it() {
    for memory in [shader::Memory::Held(3072), shader::Memory::Held(12_288), shader::Memory::Stored] {
        let [colour, crop] = shader::backward(memory);
        let [module, ..] = [&shader::apply(memory), &colour, &crop].map(|text| valid(text));
        let found = members(&module, "Draw", size_of::<Draw>());
        let wanted = [
            ("image", std::mem::offset_of!(Draw, image)),
            ("top", std::mem::offset_of!(Draw, top)),
            ("left", std::mem::offset_of!(Draw, left)),
            ("height", std::mem::offset_of!(Draw, height)),
            ("width", std::mem::offset_of!(Draw, width)),
            ("flip", std::mem::offset_of!(Draw, flip)),
            ("jitter", std::mem::offset_of!(Draw, jitter)),
            ("order", std::mem::offset_of!(Draw, order)),
            ("brightness", std::mem::offset_of!(Draw, brightness)),
            ("contrast", std::mem::offset_of!(Draw, contrast)),
            ("saturation", std::mem::offset_of!(Draw, saturation)),
            ("hue", std::mem::offset_of!(Draw, hue)),
            ("grayscale", std::mem::offset_of!(Draw, grayscale)),
            ("blur_sigma", std::mem::offset_of!(Draw, blur_sigma)),
            ("blur_filter", std::mem::offset_of!(Draw, blur_filter)),
            ("solarize", std::mem::offset_of!(Draw, solarize)),
        ];
        assert_eq!(found, wanted);
        // Their fields are as many words in the same order.
        let words = |of: usize| (0..of).map(|word| 4 * word).collect::<Vec<_>>();
        let offsets = |name, size| members(&module, name, size).iter().map(|(_, at)| *at).collect::<Vec<_>>();
        assert_eq!(offsets("Source", size_of::<Entry>()), words(4));
        assert_eq!(offsets("Params", size_of::<Params>()), words(9));
        assert_eq!(members(&module, "Params", size_of::<Params>())[8], ("unit", std::mem::offset_of!(Params, unit)));
    }
}
