//! A session on a device of Burn's, with the CPU behind it: a device that is lost, or that has not the memory for one
//! view, costs the images it was busy with some time and nothing else.

use super::{ClassifyError, Engine, Seen, Session, crops, on_cpu};
use crate::frozen::{Network, network};
use crate::pipeline::{Pipeline, PipelineError, Wanted, Work};
use crate::{Bundle, BundleError, Choice, Offered, Stored};
use burn::Tensor;
use burn::module::Module;
use burn::tensor::{Device, TensorData};
use gabion_augment::Draw;
use gabion_learn::{Head, Mode, Model};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// A dispatch that takes longer risks the driver's watchdog: fewer views go next.
const LONGEST: Duration = Duration::from_millis(500);

/// Modules on a device.
#[derive(Debug)]
pub(super) struct OnDevice {
    stored: Stored,
    /// Gone once the device was lost.
    modules: RwLock<Option<(Model, Head)>>,
    device: Device,
    wanted: Option<(Wanted, Offered)>,
    pipeline: OnceLock<(Pipeline, String)>,
    /// Views at once that the device is known to bear.
    most: AtomicUsize,
    /// Why the CPU took over, and the network there.
    fallen: OnceLock<(String, Network)>,
}

impl Session {
    /// A session on the bundle's device; of one on the CPU, see [`Session::of`].
    ///
    /// # Errors
    /// When the bundle has no head.
    pub fn new(bundle: Bundle) -> Result<Self, BundleError> {
        let stored = bundle.stored();
        let Bundle { manifest, model, head } = bundle;
        let Some(head) = head else { return Err(BundleError::NoHead { name: manifest.name }) };
        let mut device = head.devices().into_iter().next().expect("a head has parameters");
        if crate::devices::is_cpu(&device) {
            return Self::of(&stored);
        }
        let mut modules = (model, head);
        if device.is_autodiff() {
            (modules, device) = ((modules.0.valid(), modules.1.valid()), device.without_autodiff());
        }
        let engine = OnDevice {
            stored,
            modules: RwLock::new(Some(modules)),
            device,
            wanted: None,
            pipeline: OnceLock::new(),
            most: AtomicUsize::new(usize::MAX),
            fallen: OnceLock::new(),
        };
        Ok(Self { augment: crops(&manifest), manifest, engine: Engine::Device(Box::new(engine)), memory: None })
    }

    /// A session where it is asked for; for [`Choice::Auto`] on what classifies faster in a short trial, and then never
    /// on a software adapter. Returns in words where it is and why.
    ///
    /// # Errors
    /// When the bundle cannot be read or has no head, or there is no such device.
    pub fn open_on(bundle: &std::path::Path, choice: Choice) -> Result<(Self, String), SessionError> {
        let stored = Stored::read(bundle)?;
        let cpu = Self::of(&stored)?;
        if choice == Choice::Cpu {
            return Ok((cpu, "the CPU, as asked".into()));
        }
        let (device, offered) = crate::choose(choice)?;
        if offered.choice == Choice::Cpu {
            return Ok((cpu, "the CPU: there is no GPU".into()));
        }
        let file = bundle.join(&stored.manifest.weights.file);
        let made = Bundle::made_of(stored, &device).map_err(|misfit| BundleError::Tensor { path: file, misfit })?;
        let gpu = Self::new(made)?.with_pipeline(Wanted::Auto, &offered);
        let name = format!("{} ({}, {})", offered.name, offered.kind, offered.backend);
        if choice != Choice::Auto {
            return Ok((gpu, format!("{name}, as asked")));
        }
        let [on_gpu, on_cpu] = [&gpu, &cpu].map(Self::trial);
        let told = format!("16 views: {name} {:.1} ms, CPU {:.1} ms", millis(on_gpu), millis(on_cpu));
        Ok(if on_gpu < on_cpu && gpu.fallen().is_none() { (gpu, told) } else { (cpu, told) })
    }

    /// Crops are made as wanted, on the device that `offered` describes; without this the CPU makes them.
    #[must_use]
    pub fn with_pipeline(mut self, wanted: Wanted, offered: &Offered) -> Self {
        if let Engine::Device(device) = &mut self.engine {
            device.wanted = Some((wanted, offered.clone()));
            device.pipeline = OnceLock::new();
        }
        self
    }

    /// What makes the crops and why, once some were made on a device.
    pub fn pipeline(&self) -> Option<&str> {
        match &self.engine {
            Engine::Device(device) => device.pipeline.get().map(|(_, why)| why.as_str()),
            _ => None,
        }
    }

    /// The best of three rounds on 16 views, after one that prepares.
    fn trial(&self) -> Duration {
        let input = self.manifest.input;
        let (height, width) = (input.height as usize, input.width as usize);
        let image = crate::Rgb { height, width, pixels: vec![128; 3 * height * width] };
        let options = super::Classify { views: 16, ..super::Classify::default() };
        let round = |_| {
            let start = Instant::now();
            self.classify(&image, &options).map_or(Duration::MAX, |_| start.elapsed())
        };
        round(0);
        (0..3).map(round).min().unwrap_or(Duration::MAX)
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Why there is no session: the bundle or the device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The device.
    #[error(transparent)]
    Device(#[from] crate::DeviceError),
}

/// What a device could not do.
enum Trouble {
    /// It had not the memory.
    Memory(String),
    /// It is gone, or in a state that nobody knows.
    Lost(String),
    /// What it was given makes no sense.
    Input(PipelineError),
}

impl OnDevice {
    pub(super) fn fallen(&self) -> Option<&str> {
        self.fallen.get().map(|(why, _)| why.as_str())
    }

    pub(super) fn logits(&self, seen: Seen<'_>, pixels: &mut Vec<f32>, out: &mut [f32]) -> Result<(), ClassifyError> {
        let Seen::Crops(source, draws) = seen else { return self.some(seen, pixels, out) };
        let classes = out.len() / draws.len();
        let mut done = 0;
        while done < draws.len() {
            let views = self.most.load(Ordering::Relaxed).min(draws.len() - done);
            let draws = &draws[done..done + views];
            self.some(Seen::Crops(source, draws), pixels, &mut out[done * classes..][..views * classes])?;
            done += views;
        }
        Ok(())
    }

    /// As many views as were asked for, in halves where the device has not the memory, on the CPU where it is gone.
    fn some(&self, seen: Seen<'_>, pixels: &mut Vec<f32>, out: &mut [f32]) -> Result<(), ClassifyError> {
        let size = [self.stored.manifest.input.height, self.stored.manifest.input.width];
        if let Some((_, network)) = self.fallen.get() {
            on_cpu(network, seen, size, pixels, out);
            return Ok(());
        }
        let start = Instant::now();
        match self.tried(seen, pixels, out) {
            Ok(()) => {
                if let Seen::Crops(_, draws) = seen
                    && start.elapsed() > LONGEST
                {
                    self.most.fetch_min((draws.len() / 2).max(1), Ordering::Relaxed);
                }
                Ok(())
            }
            Err(Trouble::Input(error)) => Err(error.into()),
            Err(Trouble::Memory(why)) => match seen {
                Seen::Crops(source, draws) if draws.len() > 1 => {
                    let half = draws.len() / 2;
                    self.most.fetch_min(half, Ordering::Relaxed);
                    let (first, second) = out.split_at_mut(out.len() / draws.len() * half);
                    self.some(Seen::Crops(source, &draws[..half]), pixels, first)?;
                    self.some(Seen::Crops(source, &draws[half..]), pixels, second)
                }
                _ => self.fall(why, seen, pixels, out),
            },
            Err(Trouble::Lost(why)) => self.fall(why, seen, pixels, out),
        }
    }

    fn fall(&self, why: String, seen: Seen<'_>, pixels: &mut Vec<f32>, out: &mut [f32]) -> Result<(), ClassifyError> {
        self.fallen.get_or_init(|| {
            // A lost device's tensors are never touched again, not even to be freed.
            if let Some(modules) = self.modules.write().unwrap_or_else(PoisonError::into_inner).take() {
                std::mem::forget(modules);
            }
            (why, network(&self.stored, self.stored.manifest.input))
        });
        self.some(seen, pixels, out)
    }

    fn tried(&self, seen: Seen<'_>, pixels: &[f32], out: &mut [f32]) -> Result<(), Trouble> {
        let computed = catch_unwind(AssertUnwindSafe(|| {
            let views = match seen {
                Seen::Pixels => {
                    let input = self.stored.manifest.input;
                    let shape = [1, 3, input.height as usize, input.width as usize];
                    Tensor::from_data(TensorData::new(pixels.to_vec(), shape), &self.device)
                }
                Seen::Crops(source, draws) => self.views(source, draws)?,
            };
            let modules = self.modules.read().unwrap_or_else(PoisonError::into_inner);
            let Some((model, head)) = modules.as_ref() else { return Ok(None) };
            let logits = head.forward(model.feature(views, Mode::Eval), Mode::Eval);
            Ok(Some(logits.into_data_as::<f32>().try_into_vec::<f32>().expect("f32 was asked for")))
        }));
        match computed {
            Ok(Ok(Some(logits))) => {
                out.copy_from_slice(&logits);
                Ok(())
            }
            Ok(Ok(None)) => Err(Trouble::Lost("another image lost it".into())),
            Ok(Err(PipelineError::Lost { why })) => Err(Trouble::Lost(why)),
            Ok(Err(error)) => Err(Trouble::Input(error)),
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().map(ToString::to_string);
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
                let why = text.split_whitespace().collect::<Vec<_>>().join(" ");
                let memory = ["out of memory", "outofmemory", "oom"];
                let lower = why.to_lowercase();
                if memory.iter().any(|word| lower.contains(word)) {
                    Err(Trouble::Memory(why))
                } else {
                    Err(Trouble::Lost(why))
                }
            }
        }
    }

    fn views(&self, source: gabion_augment::cpu::Source<'_>, draws: &[Draw]) -> Result<Tensor<4>, PipelineError> {
        let size = [self.stored.manifest.input.height, self.stored.manifest.input.width];
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
