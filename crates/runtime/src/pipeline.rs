//! What makes the views of images for a device: the CPU, or the device itself.
//!
//! Both take the same numbers ([`Draw`]) and give the same pixels to within 1/255, equal ones for crops that are not
//! resized. On a wgpu device the second writes straight into the tensor's memory.

use crate::devices::{Choice, Offered};
use burn::Tensor;
use burn::tensor::{Device, Int, TensorData};
pub use gabion_augment::cpu::Source;
use gabion_augment::cpu::{apply_batch, backward_batch};
pub use gabion_augment::{Draw, ViewId, sample};
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

#[cfg(feature = "wgpu")]
mod device;

/// What a user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// The device where a short trial finds it faster, else the CPU.
    #[default]
    Auto,
    /// The CPU, whatever the device.
    Cpu,
    /// The device, which has to be one of wgpu's.
    Gpu,
}

impl Wanted {
    const ALL: [(Self, &'static str); 3] = [(Self::Auto, "auto"), (Self::Cpu, "cpu"), (Self::Gpu, "gpu")];
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name) = Self::ALL.into_iter().find(|(wanted, _)| wanted == self).expect("all have a name");
        f.pad(name)
    }
}

impl FromStr for Wanted {
    type Err = PipelineError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|(_, name)| *name == text);
        found.map(|(wanted, _)| wanted).ok_or_else(|| PipelineError::Unknown { name: text.into() })
    }
}

/// Why there are no views: one line each, with what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum PipelineError {
    #[error("there is no pipeline `{name}`: use auto, cpu or gpu")]
    Unknown { name: String },
    #[error("the gpu pipeline needs a wgpu device: give --device wgpu, or --pipeline cpu ({why})")]
    NoGpu { why: String },
    #[error("the device was lost ({why}): start again, with --device cpu if it happens again")]
    Lost { why: String },
    #[error("{why}")]
    Input { why: String },
}

/// What makes views, and where they go.
#[derive(Debug)]
pub struct Pipeline {
    device: Device,
    /// Views go to the device as bytes, a quarter of the way's work.
    bytes: bool,
    #[cfg(feature = "wgpu")]
    gpu: Option<device::OnDevice>,
    /// Why the device makes them no more.
    fallen: OnceLock<String>,
}

/// Images that views are made of, resident on the device where it makes them.
pub struct Sources<'a> {
    host: Vec<Source<'a>>,
    #[cfg(feature = "wgpu")]
    resident: Option<gabion_augment::gpu::Sources>,
}

/// Views on their way to a device: made by any thread, [`Views::into_tensor`] takes them there.
#[derive(Debug)]
pub enum Views {
    /// As they are.
    Floats(Vec<f32>),
    /// Rounded to 8 bits, four to a word.
    Bytes(Vec<i32>),
}

/// Views that a trial makes with both.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// What [`Draw::image`] indexes.
    pub sources: &'a [Source<'a>],
    /// As many as are made at once.
    pub draws: &'a [Draw],
    /// Height and width.
    pub size: [u32; 2],
}

impl Pipeline {
    /// Views made by the CPU for any device.
    pub fn cpu(device: Device) -> Self {
        Self {
            device,
            bytes: false,
            #[cfg(feature = "wgpu")]
            gpu: None,
            fallen: OnceLock::new(),
        }
    }

    /// Views made by the device: one that [`crate::choose`] gave for [`Choice::Wgpu`].
    ///
    /// # Errors
    /// When it is none, or lacks what the kernels need.
    #[cfg(feature = "wgpu")]
    pub fn gpu(device: Device) -> Result<Self, PipelineError> {
        let gpu = device::OnDevice::new(&device)?;
        Ok(Self { gpu: Some(gpu), ..Self::cpu(device) })
    }

    /// Views made by the device, which this build has not.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(feature = "wgpu"))]
    pub fn gpu(_: Device) -> Result<Self, PipelineError> {
        Err(PipelineError::NoGpu { why: "wgpu is not compiled in: build with `--features wgpu`".into() })
    }

    /// What was asked for, or with [`Wanted::Auto`] what makes the work faster; and why, in words.
    ///
    /// # Errors
    /// When the device is asked to and cannot.
    pub fn choose(
        wanted: Wanted,
        device: &Device,
        offered: &Offered,
        work: &Work<'_>,
    ) -> Result<(Self, String), PipelineError> {
        let cpu = || Self { bytes: offered.choice == Choice::Cuda, ..Self::cpu(device.clone()) };
        let feeds = if offered.choice == Choice::Cuda { ", sent as bytes" } else { "" };
        match wanted {
            Wanted::Cpu => Ok((cpu(), format!("views: cpu pipeline, as asked{feeds}"))),
            Wanted::Gpu => {
                let gpu = Self::gpu(device.clone())?;
                Ok((gpu, format!("views: gpu pipeline on {}, as asked", named(offered))))
            }
            Wanted::Auto if offered.choice != Choice::Wgpu => {
                Ok((cpu(), format!("views: cpu pipeline, the one there is for {}{feeds}", offered.name)))
            }
            Wanted::Auto => match Self::gpu(device.clone()) {
                Err(error) => Ok((cpu(), format!("views: cpu pipeline ({error})"))),
                Ok(gpu) => Ok(faster(gpu, cpu(), offered, work)),
            },
        }
    }

    /// What makes the views now: `gpu` or `cpu`.
    pub fn name(&self) -> &'static str {
        if self.on_device() { "gpu" } else { "cpu" }
    }

    /// Whether the device makes the views.
    pub fn on_device(&self) -> bool {
        #[cfg(feature = "wgpu")]
        return self.gpu.is_some() && self.fallen.get().is_none();
        #[cfg(not(feature = "wgpu"))]
        false
    }

    /// Why the CPU took over, where it had to.
    pub fn fallen(&self) -> Option<&str> {
        self.fallen.get().map(String::as_str)
    }

    /// The device that views go to.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Makes images ready, once for many calls of [`Self::views`].
    ///
    /// # Errors
    /// When an image has not its size's length, or the device is lost.
    pub fn sources<'a>(&self, images: &[Source<'a>]) -> Result<Sources<'a>, PipelineError> {
        for (number, image) in images.iter().enumerate() {
            let ([height, width], have) = (image.size, image.values.len());
            if have == 0 || have != 3 * height as usize * width as usize {
                let why = format!("image {number} of {height}x{width} pixels has {have} values");
                return Err(PipelineError::Input { why });
            }
        }
        Ok(Sources {
            host: images.to_vec(),
            #[cfg(feature = "wgpu")]
            resident: self.tried(|gpu| gpu.upload(images))?,
        })
    }

    /// Makes a view for each draw. Where the device cannot (memory, a limit), the CPU does from then on; see
    /// [`Self::fallen`].
    ///
    /// # Shapes
    /// `[draws, 3, height, width]` in `[0, 1]` for `size` = `[height, width]`.
    ///
    /// # Errors
    /// When a draw does not fit its image, or the device is lost.
    pub fn views(&self, sources: &Sources<'_>, draws: &[Draw], size: [u32; 2]) -> Result<Tensor<4>, PipelineError> {
        check(&sources.host, draws, size)?;
        #[cfg(feature = "wgpu")]
        if let Some(resident) = &sources.resident
            && let Some(made) = self.tried(|gpu| gpu.views(&self.device, resident, draws, size))?
        {
            return Ok(made);
        }
        Ok(self.host_views(&sources.host, draws, size).into_tensor(size, &self.device))
    }

    /// Views made by the CPU, ready for [`Views::into_tensor`].
    ///
    /// # Panics
    /// As [`apply_batch`].
    pub fn host_views(&self, sources: &[Source<'_>], draws: &[Draw], size: [u32; 2]) -> Views {
        let mut views = vec![0.0; draws.len() * 3 * (size[0] * size[1]) as usize];
        apply_batch(sources, draws, size, &mut views);
        if self.bytes { Views::bytes(&views) } else { Views::Floats(views) }
    }

    /// The gradient with respect to the images from that with respect to their views.
    ///
    /// # Shapes
    /// `gradients` `[draws, 3, height, width]`, returns `[images, 3, h, w]`; all images have one size.
    ///
    /// # Errors
    /// As [`Self::views`]; when images differ in size.
    pub fn backward(
        &self,
        sources: &Sources<'_>,
        draws: &[Draw],
        gradients: Tensor<4>,
    ) -> Result<Tensor<4>, PipelineError> {
        let [count, _, height, width] = gradients.dims();
        let size = [height, width].map(|side| u32::try_from(side).expect("a view's sides are a u32"));
        check(&sources.host, draws, size)?;
        let Some(first) = sources.host.first() else {
            return Err(PipelineError::Input { why: "there are no images to go back to".into() });
        };
        if count != draws.len() || sources.host.iter().any(|source| source.size != first.size) {
            let why = format!("{count} gradients of {} views; or the images are not of one size", draws.len());
            return Err(PipelineError::Input { why });
        }
        #[cfg(feature = "wgpu")]
        if let Some(resident) = &sources.resident {
            let back =
                |gpu: &device::OnDevice| gpu.backward(&self.device, resident, draws, gradients.clone(), first.size);
            if let Some(made) = self.tried(back)? {
                return Ok(made);
            }
        }
        let [rows, columns] = first.size.map(|side| side as usize);
        let mut gradients = gradients.into_data_as::<f32>().try_into_vec::<f32>().expect("f32 was asked for");
        let mut out = vec![0.0; sources.host.len() * 3 * rows * columns];
        backward_batch(&sources.host, draws, size, &mut gradients, &mut out);
        Ok(Tensor::from_data(TensorData::new(out, [sources.host.len(), 3, rows, columns]), &self.device))
    }

    /// What the device makes; nothing where there is none, or where it cannot and the CPU has to.
    #[cfg(feature = "wgpu")]
    fn tried<T>(
        &self,
        make: impl FnOnce(&device::OnDevice) -> Result<T, gabion_augment::gpu::GpuError>,
    ) -> Result<Option<T>, PipelineError> {
        use gabion_augment::gpu::GpuError;
        let Some(gpu) = self.gpu.as_ref().filter(|_| self.fallen.get().is_none()) else { return Ok(None) };
        match make(gpu) {
            Ok(made) => Ok(Some(made)),
            Err(GpuError::Lost(why)) => Err(PipelineError::Lost { why }),
            Err(error @ (GpuError::Limit { .. } | GpuError::OutOfMemory(_) | GpuError::Refused(_))) => {
                // Another thread's reason does as well.
                let _ = self.fallen.set(error.to_string());
                Ok(None)
            }
            Err(error) => Err(PipelineError::Input { why: error.to_string() }),
        }
    }
}

impl Views {
    fn bytes(views: &[f32]) -> Self {
        let word = |four: &[f32]| {
            // A value is in [0, 1] and 255 of it in a byte.
            let byte = |at: usize| u32::from(four.get(at).map_or(0, |value| (value * 255.0).round() as u8));
            (byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24).cast_signed()
        };
        Self::Bytes(views.chunks(4).map(word).collect())
    }

    /// `[views, 3, height, width]` in `[0, 1]` on a device.
    pub fn into_tensor(self, [height, width]: [u32; 2], device: &Device) -> Tensor<4> {
        let [height, width] = [height, width].map(|side| side as usize);
        let length = 3 * height * width;
        match self {
            Self::Floats(values) => {
                let views = values.len() / length;
                Tensor::from_data(TensorData::new(values, [views, 3, height, width]), device)
            }
            Self::Bytes(words) => {
                let count = words.len();
                let words = Tensor::<1, Int>::from_data(TensorData::new(words, [count]), device);
                let byte = |at: i32| words.clone().bitwise_right_shift_scalar(8 * at).bitwise_and_scalar(255);
                let values = Tensor::stack::<2>((0..4).map(byte).collect(), 1).reshape([4 * count]);
                let views = 4 * count / length;
                let values = values.narrow(0, 0, views * length).float().div_scalar(255.0);
                values.reshape([views, 3, height, width])
            }
        }
    }
}

/// The adapter, and whether it is one that computes on the CPU's cores.
fn named(offered: &Offered) -> String {
    format!("{} ({})", offered.name, offered.kind)
}

/// The faster of two, by the best of three rounds after one that does not count.
fn faster(gpu: Pipeline, cpu: Pipeline, offered: &Offered, work: &Work<'_>) -> (Pipeline, String) {
    let [on_gpu, on_cpu] = [&gpu, &cpu].map(|pipeline| trial(pipeline, work));
    let told = |time: &Result<Duration, PipelineError>| match time {
        Ok(time) => format!("{:.1} ms", time.as_secs_f64() * 1e3),
        Err(error) => error.to_string(),
    };
    let times = format!("{} views: gpu {}, cpu {}", work.draws.len(), told(&on_gpu), told(&on_cpu));
    let won = match (&on_gpu, &on_cpu) {
        (Ok(gpu), Ok(cpu)) => gpu < cpu,
        (made, _) => made.is_ok(),
    };
    if won && gpu.fallen().is_none() {
        (gpu, format!("views: gpu pipeline on {} ({times})", named(offered)))
    } else {
        let why = gpu.fallen().map_or_else(|| times.clone(), ToString::to_string);
        (cpu, format!("views: cpu pipeline, {} is no faster ({why})", named(offered)))
    }
}

fn trial(pipeline: &Pipeline, work: &Work<'_>) -> Result<Duration, PipelineError> {
    let sources = pipeline.sources(work.sources)?;
    let mut best = Duration::MAX;
    for round in 0..4 {
        let start = Instant::now();
        let views = pipeline.views(&sources, work.draws, work.size)?;
        let lost = |error: &dyn fmt::Debug| PipelineError::Lost { why: format!("{error:?}") };
        pipeline.device.sync().map_err(|error| lost(&error))?;
        drop(views);
        if round > 0 {
            best = best.min(start.elapsed());
        }
    }
    Ok(best)
}

fn check(sources: &[Source<'_>], draws: &[Draw], [height, width]: [u32; 2]) -> Result<(), PipelineError> {
    let wrong = |why: String| Err(PipelineError::Input { why });
    if height == 0 || width == 0 || draws.is_empty() {
        return wrong(format!("{} views of {height}x{width} pixels cannot be made", draws.len()));
    }
    for (number, draw) in draws.iter().enumerate() {
        let Some(source) = sources.get(draw.image as usize) else {
            return wrong(format!("draw {number} is of image {}, there are {}", draw.image, sources.len()));
        };
        let inside =
            |start: u32, length: u32, all: u32| length > 0 && start.checked_add(length).is_some_and(|end| end <= all);
        let [rows, columns] = source.size;
        if !inside(draw.top, draw.height, rows) || !inside(draw.left, draw.width, columns) {
            return wrong(format!("draw {number} crops what is not in an image of {rows}x{columns}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
