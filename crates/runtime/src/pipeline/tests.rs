use super::*;
use gabion_augment::{Augment, ViewId, sample};

fn image(seed: usize, [height, width]: [u32; 2]) -> Vec<u8> {
    (0..3 * (height * width) as usize).map(|at| ((at * 7919 + seed * 131 + at / 97 * 31) % 256) as u8).collect()
}

fn draws(images: u32, views: u32, size: [u32; 2]) -> Vec<Draw> {
    let draw = |view: u32| {
        let image = view % images;
        Draw { image, ..sample(&Augment::default(), ViewId { seed: 3, epoch: 0, image, view }, size) }
    };
    (0..views).map(draw).collect()
}

fn values(tensor: Tensor<4>) -> Vec<f32> {
    tensor.into_data_as::<f32>().try_into_vec::<f32>().unwrap()
}

/// A wgpu device; a machine without one says that it skips.
#[cfg(feature = "wgpu")]
fn wgpu() -> Option<(Device, Offered)> {
    let required = std::env::var_os("GABION_REQUIRE_GPU").is_some_and(|value| value == "1");
    match crate::choose(Choice::Wgpu) {
        Ok(opened) => Some(opened),
        Err(crate::DeviceError::Absent { .. }) if !required => {
            println!("skipped: no wgpu adapter");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn bytes_are_the_values_rounded() {
    let device = crate::choose(Choice::Cpu).unwrap().0;
    // 3 * 5 * 3 is no multiple of four.
    let given: Vec<f32> = (0..2 * 45).map(|at| (at as f32 * 0.011).min(1.0)).collect();
    let tensor = Views::bytes(&given).into_tensor([5, 3], &device);
    assert_eq!(tensor.dims(), [2, 3, 5, 3]);
    for (found, given) in values(tensor).into_iter().zip(given) {
        assert!((found - given).abs() <= 0.5 / 255.0 + 1e-6, "{found}, not {given}");
        assert!((found * 255.0 - (found * 255.0).round()).abs() < 1e-4);
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let pipeline = Pipeline::cpu(crate::choose(Choice::Cpu).unwrap().0);
    let pixels = image(0, [4, 4]);
    let error = pipeline.sources(&[Source::bytes(&pixels[1..], [4, 4])]).err().unwrap().to_string();
    assert!(error.contains("image 0 of 4x4 pixels has 47 values"), "{error}");
    let sources = pipeline.sources(&[Source::bytes(&pixels, [4, 4])]).unwrap();
    let whole = Draw { height: 4, width: 4, solarize: Draw::NO_SOLARIZE, ..Draw::default() };
    let error = |draw, size| pipeline.views(&sources, &[draw], size).unwrap_err().to_string();
    assert!(error(Draw { image: 1, ..whole }, [2, 2]).contains("of image 1, there are 1"));
    assert!(error(Draw { top: 1, ..whole }, [2, 2]).contains("4x4"));
    assert!(error(whole, [0, 2]).contains("0x2"));
    assert!("fast".parse::<Wanted>().unwrap_err().to_string().contains("auto, cpu or gpu"));
    let (device, offered) = crate::choose(Choice::Cpu).unwrap();
    let work = Work { sources: &[], draws: &[], size: [2, 2] };
    let error = Pipeline::choose(Wanted::Gpu, &device, &offered, &work).unwrap_err().to_string();
    assert!(error.contains("--device wgpu"), "{error}");
    let (taken, why) = Pipeline::choose(Wanted::Auto, &device, &offered, &work).unwrap();
    assert_eq!((taken.name(), why.contains("cpu pipeline")), ("cpu", true));
}

#[cfg(feature = "wgpu")]
#[test]
fn views_and_gradients_lie_in_the_devices_tensors() {
    let Some((device, offered)) = wgpu() else { return };
    let (gpu, cpu) = (Pipeline::gpu(device.clone()).unwrap(), Pipeline::cpu(device.clone()));
    assert_eq!((gpu.name(), cpu.name()), ("gpu", "cpu"));
    let size = [40, 48];
    let images: Vec<Vec<u8>> = (0..3).map(|seed| image(seed, size)).collect();
    let sources: Vec<Source<'_>> = images.iter().map(|pixels| Source::bytes(pixels, size)).collect();
    let draws = draws(3, 24, size);
    let [on_gpu, on_cpu] = [&gpu, &cpu].map(|pipeline| pipeline.sources(&sources).unwrap());
    // Work of Burn's around it, on memory that it uses again: the order has to hold.
    for round in 0..5 {
        let before = Tensor::<4>::ones([24, 3, 32, 32], &device) * (round as f32);
        let made = gpu.views(&on_gpu, &draws, [32, 32]).unwrap();
        let sum = made.clone() + before;
        let wanted = values(cpu.views(&on_cpu, &draws, [32, 32]).unwrap());
        for ((made, sum), wanted) in values(made).into_iter().zip(values(sum)).zip(wanted) {
            assert!((made - wanted).abs() <= 1.0 / 255.0 + 1e-5, "{made}, not {wanted}");
            assert!((sum - made - round as f32).abs() < 1e-5);
        }
    }
    let given = cpu.views(&on_cpu, &draws, [16, 16]).unwrap() - 0.5;
    let [found, wanted] = [(&gpu, &on_gpu), (&cpu, &on_cpu)]
        .map(|(pipeline, sources)| values(pipeline.backward(sources, &draws, given.clone()).unwrap()));
    assert_eq!(found.len(), 3 * 3 * 40 * 48);
    let scale = wanted.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    let apart = found.iter().zip(&wanted).filter(|(a, b)| (*a - *b).abs() > 1e-3 * scale).count();
    assert!(apart <= wanted.len() / 100, "{apart} of {} apart", wanted.len());
    // What was given is as it was.
    let again = values(cpu.views(&on_cpu, &draws, [16, 16]).unwrap() - 0.5);
    assert_eq!(values(given), again);
    assert_eq!(gpu.fallen(), None);
    let work = Work { sources: &sources, draws: &draws, size: [32, 32] };
    let (_, why) = Pipeline::choose(Wanted::Auto, &device, &offered, &work).unwrap();
    assert!(why.contains("24 views: gpu ") && why.contains(" ms, cpu "), "{why}");
}

/// A view that no binding of the device reaches.
#[cfg(feature = "wgpu")]
#[test]
fn the_cpu_takes_over_where_the_device_cannot() {
    let Some((device, _)) = wgpu() else { return };
    let gpu = Pipeline::gpu(device).unwrap();
    let pixels = image(1, [8, 8]);
    let sources = gpu.sources(&[Source::bytes(&pixels, [8, 8])]).unwrap();
    let whole = Draw { height: 8, width: 8, solarize: Draw::NO_SOLARIZE, ..Draw::default() };
    let views = gpu.views(&sources, &[whole], [1700, 1700]).unwrap();
    assert_eq!(views.dims(), [1, 3, 1700, 1700]);
    assert_eq!(gpu.name(), "cpu");
    assert!(gpu.fallen().is_some_and(|why| why.contains("use the CPU pipeline")), "{:?}", gpu.fallen());
    assert_eq!(gpu.views(&sources, &[whole], [8, 8]).unwrap().dims(), [1, 3, 8, 8]);
}

/// Losing the device of this process would take it from other tests: another process loses its own.
#[cfg(feature = "wgpu")]
#[test]
fn a_lost_device_is_an_error_and_no_hang() {
    if wgpu().is_none() {
        return;
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "pipeline::tests::loses_its_device", "--ignored", "--nocapture"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("it hangs");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("told that it was lost"), "{text}");
}

#[cfg(feature = "wgpu")]
#[test]
#[ignore = "loses the device of its process; a_lost_device_is_an_error_and_no_hang runs it"]
fn loses_its_device() {
    let (device, _) = wgpu().unwrap();
    let gpu = Pipeline::gpu(device.clone()).unwrap();
    let pixels = image(1, [8, 8]);
    let images = [Source::bytes(&pixels, [8, 8])];
    let sources = gpu.sources(&images).unwrap();
    let whole = Draw { height: 8, width: 8, solarize: Draw::NO_SOLARIZE, ..Draw::default() };
    let made = gpu.views(&sources, &[whole], [8, 8]).unwrap();
    crate::devices::under(&device).unwrap().0.destroy();
    let error = gpu.views(&sources, &[whole], [8, 8]).map(|_| ()).unwrap_err();
    assert!(matches!(error, PipelineError::Lost { .. }), "{error:?}");
    let error = gpu.sources(&images).map(|_| ()).unwrap_err();
    assert!(matches!(error, PipelineError::Lost { .. }), "{error:?}");
    // Burn panics, which whoever trains turns into an error.
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| values(made))).is_err());
    println!("told that it was lost");
}
