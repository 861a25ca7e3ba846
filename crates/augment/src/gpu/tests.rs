//! The GPU against the CPU. A machine without an adapter says that it skips; `GABION_REQUIRE_GPU=1` lets it fail.

use super::*;
use crate::cpu::{Source, apply_batch, backward_batch};
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
    let mapped = gpu.mapped(&read).unwrap();
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

/// Gradients of noise, on the CPU and on the device: with respect to the crops and to the sources.
fn gradients_of(case: &Case, gpu: &Gpu, sources: &[Source<'_>]) -> [[Vec<f32>; 2]; 2] {
    let from = sources[0].size;
    let views = case.draws.len() * 3 * (case.size[0] * case.size[1]) as usize;
    let given: Vec<f32> = noise(views, 77).into_iter().map(|byte| f32::from(byte) / 127.5 - 1.0).collect();
    let mut crops = given.clone();
    let mut wanted = vec![0.0; sources.len() * 3 * (from[0] * from[1]) as usize];
    backward_batch(sources, &case.draws, case.size, &mut crops, &mut wanted);
    // Offsets that are no multiple of a binding's alignment.
    let (at, out_at) = (68, 132);
    let buffer = |offset: usize, contents: &[f32]| {
        let bytes = [&vec![0; offset], bytemuck::cast_slice::<f32, u8>(contents)].concat();
        gpu.filled("gradients", &bytes, wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC)
    };
    let gradients = buffer(at, &given);
    // What is there before does not matter.
    let out = buffer(out_at, &vec![9.0; wanted.len()]);
    let target = |buffer, offset: usize| Target { buffer, offset: offset as u64, values: Values::F32 };
    let resident = gpu.upload(sources).unwrap();
    gpu.backward(&resident, &case.draws, case.size, target(&gradients, at), target(&out, out_at)).unwrap();
    let found = [read_back(gpu, &gradients, at), read_back(gpu, &out, out_at)];
    [[crops, wanted], found]
}

fn read_back(gpu: &Gpu, buffer: &wgpu::Buffer, offset: usize) -> Vec<f32> {
    let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    let size = buffer.size();
    let read =
        gpu.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false });
    let mut encoder = gpu.encoder();
    encoder.copy_buffer_to_buffer(buffer, 0, &read, 0, size);
    gpu.queue.submit([encoder.finish()]);
    let mapped = gpu.mapped(&read).unwrap();
    bytemuck::pod_collect_to_vec(&mapped[offset..])
}

/// A pixel at a corner (equal channels, a threshold, a clamp) may go another way on each side, and through the mean of
/// contrast and through blurs it moves others a little: nearly all agree closely, and the sum of all does.
#[track_caller]
fn assert_gradients(case: &Case, wanted: &[f32], found: &[f32], most_apart: usize) {
    assert_eq!(wanted.len(), found.len());
    let scale = wanted.iter().fold(0.0f32, |most, value| most.max(value.abs())).max(1e-3);
    let apart: Vec<usize> = (0..wanted.len()).filter(|&at| (wanted[at] - found[at]).abs() > 2e-4 * scale).collect();
    assert!(
        apart.len() <= most_apart,
        "{} of {} apart, first {:?}: {:?}, not {:?}, largest {scale}, {:?}",
        apart.len(),
        wanted.len(),
        apart.first(),
        apart.first().map(|&at| found[at]),
        apart.first().map(|&at| wanted[at]),
        case.draws
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn gradients_are_the_cpus(
        seed: u64,
        rows in 8u32..100, columns in 8u32..100,
        size in prop::sample::select(vec![[16, 16], [32, 32], [64, 64], [96, 96], [9, 13]]),
        boxes: bool,
    ) {
        let Some(gpu) = shared() else { return Ok(()) };
        let filter = if boxes { BlurFilter::PilBoxes } else { BlurFilter::Gaussian };
        let case = Case::new(&strong(size, filter), seed, &[[rows, columns]; 3], 7);
        // Floats, so that few pixels have equal channels.
        let values: Vec<Vec<f32>> = (0..3)
            .map(|image| {
                let [high, low] = [0, 9].map(|more| noise((3 * rows * columns) as usize, seed ^ (image + more)));
                high.iter().zip(&low).map(|(&h, &l)| (f32::from(h) + f32::from(l) / 256.0) / 256.0).collect()
            })
            .collect();
        let sources: Vec<Source<'_>> = values.iter().map(|values| Source::floats(values, [rows, columns])).collect();
        let [wanted, found] = gradients_of(&case, gpu, &sources);
        let [_, again] = gradients_of(&case, gpu, &sources);
        // What a view at a corner moves: at most a few of its values.
        for (wanted, found) in wanted.iter().zip(&found) {
            assert_gradients(&case, wanted, found, wanted.len() / 500);
        }
        prop_assert!(found == again, "not the same twice");
    }
}

#[test]
fn gradients_through_small_bindings_are_the_same() {
    let limits = wgpu::Limits { max_storage_buffer_binding_size: 30_000, ..wgpu::Limits::default() };
    let Some(small) = gpu(limits) else { return };
    let augment = Augment { jitter: None, grayscale: 0.0, solarize: None, ..strong([17, 15], BlurFilter::PilBoxes) };
    let case = Case::new(&augment, 5, &[[40, 41]; 6], 50);
    let [wanted, found] = gradients_of(&case, &small, &case.sources());
    assert_gradients(&case, &wanted[1], &found[1], 0);
    let [_, whole] = gradients_of(&case, shared().unwrap(), &case.sources());
    assert_gradients(&case, &whole[1], &found[1], 0);
    // A source without a view has no gradient.
    let mut case = case;
    case.draws.retain(|draw| draw.image != 2 && draw.image != 5);
    let [wanted, found] = gradients_of(&case, &small, &case.sources());
    assert_gradients(&case, &wanted[1], &found[1], 0);
    assert!(found[1][5 * 3 * 1640..].iter().all(|&value| value == 0.0));
}

#[test]
fn gradients_of_what_does_not_fit_are_named() {
    let Some(gpu) = shared() else { return };
    let pixels = [7; 48];
    let target = |buffer| Target { buffer, offset: 0, values: Values::F32 };
    let buffer = gpu.storage("room", &[0; 192]);
    let draw = Draw { height: 4, width: 4, solarize: Draw::NO_SOLARIZE, ..Draw::default() };
    let sizes = gpu.upload(&[Source::bytes(&pixels, [4, 4]), Source::bytes(&pixels[..24], [2, 4])]).unwrap();
    let error = gpu.backward(&sizes, &[draw], [4, 4], target(&buffer), target(&buffer)).unwrap_err().to_string();
    assert!(error.contains("source 1 is 2x4 and the first is 4x4"), "{error}");
    let one = gpu.upload(&[Source::bytes(&pixels, [4, 4])]).unwrap();
    let halves = Target { values: Values::F16, ..target(&buffer) };
    let error = gpu.backward(&one, &[draw], [4, 4], halves, target(&buffer)).unwrap_err();
    assert_eq!(error, GpuError::Halves);
    let small = gpu.storage("less", &[0; 188]);
    let error = gpu.backward(&one, &[draw], [4, 4], target(&buffer), target(&small)).unwrap_err();
    assert!(matches!(error, GpuError::Target { .. }), "{error}");
    let error = gpu.backward(&one, &[draw], [4, 4], Target { offset: 2, ..target(&buffer) }, target(&small));
    assert_eq!(error, Err(GpuError::Misaligned { offset: 2 }));
}

#[test]
fn a_ring_keeps_the_last_images_of_a_stream() {
    // Two of three slots on the first page.
    let limits = wgpu::Limits { max_storage_buffer_binding_size: 8_000, ..wgpu::Limits::default() };
    let Some(gpu) = gpu(limits) else { return };
    let size = [31, 33];
    let frames: Vec<Vec<u8>> = (0..5).map(|seed| noise(3 * 31 * 33, seed)).collect();
    let mut ring = gpu.ring(size, 3).unwrap();
    let whole = Draw { height: 31, width: 33, solarize: Draw::NO_SOLARIZE, ..Draw::default() };
    let shown = |ring: &Ring, image| gpu.views(ring.sources(), &[Draw { image, ..whole }], [8, 8]).unwrap();
    let wanted = |frame: usize| {
        let mut view = vec![0.0; 192];
        apply_batch(&[Source::bytes(&frames[frame], size)], &[whole], [8, 8], &mut view);
        view
    };
    for (number, frame) in frames.iter().enumerate() {
        let slot = gpu.push(&mut ring, frame).unwrap();
        assert_eq!(slot as usize, number % 3);
        // This one, and the one before it where there is one.
        for back in 0..=number.min(1) {
            let found = shown(&ring, ((number - back) % 3) as u32);
            let off = found.iter().zip(wanted(number - back)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < 1e-5, "frame {number}, {back} back: {off}");
        }
    }
    let error = gpu.push(&mut ring, &frames[0][1..]).unwrap_err().to_string();
    assert!(error.contains("has 3068 values, 3069 are needed"), "{error}");
    assert!(matches!(gpu.ring([200, 200], 1), Err(GpuError::Limit { .. })));
}

#[test]
fn a_lost_device_is_an_error_and_no_hang() {
    let Some(gpu) = gpu(wgpu::Limits::default()) else { return };
    let case = Case::new(&strong([16, 16], BlurFilter::Gaussian), 2, &[[20, 20]], 4);
    let sources = gpu.upload(&case.sources()).unwrap();
    gpu.device.destroy();
    let error = gpu.views(&sources, &case.draws, case.size).unwrap_err();
    assert!(matches!(error, GpuError::Lost(_)), "{error:?}");
}

#[test]
fn short_memory_is_met_with_fewer_views_at_a_time() {
    let Some(gpu) = gpu(wgpu::Limits::default()) else { return };
    let case = Case::new(&strong([16, 16], BlurFilter::Gaussian), 2, &[[20, 20]], 23);
    let (plenty, gradients) = (case.on(&gpu), gradients_of(&case, &gpu, &case.sources()));
    gpu.most_views.store(3, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(case.on(&gpu), plenty);
    assert_eq!(gradients_of(&case, &gpu, &case.sources()), gradients);
    gpu.most_views.store(0, std::sync::atomic::Ordering::Relaxed);
    let sources = gpu.upload(&case.sources()).unwrap();
    let error = gpu.views(&sources, &case.draws, case.size).unwrap_err();
    assert!(matches!(error, GpuError::OutOfMemory(_)), "{error}");
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
        let kernels = [Kernel::Apply(memory), Kernel::ColourBackward(memory), Kernel::ResizedCropBackward];
        let [module, ..] = kernels.map(|kernel| valid(&kernel.text()));
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
        assert_eq!(offsets("Source", size_of::<sources::Entry>()), words(4));
        assert_eq!(
            offsets("Params", size_of::<Params>()),
            [words(9), vec![std::mem::offset_of!(Params, unit)]].concat()
        );
        assert_eq!(members(&module, "Params", size_of::<Params>())[9], ("unit", std::mem::offset_of!(Params, unit)));
    }
}
