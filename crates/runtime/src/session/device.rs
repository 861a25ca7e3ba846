//! A session on a device, with the CPU behind it: a device that is lost, or that has not the memory for one view, costs
//! the images it was busy with some time and nothing else.

mod chunk;
mod modules;

use super::{Arithmetic, ClassifyError, Engine, Seen, Session, crops, on_cpu};
use crate::frozen::{Network, network};
use crate::pipeline::Wanted;
use crate::{Bundle, BundleError, Choice, Offered, Stored};
use burn::module::Module;
use chunk::Chunk;
use gabion_spec::{Precision, one_line};
use half::f16;
use modules::Modules;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// What computes and may break: Burn's modules, or in tests something that breaks on purpose.
trait Device: fmt::Debug + Send + Sync {
    /// Logits of the view that `pixels` hold, or of those that are to be made, row by row. A panic counts as trouble.
    fn logits(&self, seen: Seen<'_>, pixels: &[f32]) -> Result<Vec<f32>, Trouble>;

    /// Lets go of what lies on it without asking it: it is lost.
    fn abandon(&self);

    /// Computes in this precision from now on, where it can.
    fn compute_in(&mut self, _: Precision) {}

    /// What it computes in.
    fn precision(&self) -> Precision {
        Precision::F32
    }

    /// Views are made as wanted from now on, on the device that `offered` describes.
    fn make_views(&mut self, _: Wanted, _: &Offered) {}

    /// What makes the views and why, once it was chosen.
    fn pipeline(&self) -> Option<&str> {
        None
    }
}

/// What a device could not do.
enum Trouble {
    /// It had not the memory.
    Memory(String),
    /// It is gone, or in a state that nobody knows.
    Lost(String),
    /// What it was given makes no sense.
    Input(ClassifyError),
}

/// A device, and the CPU behind it.
#[derive(Debug)]
pub(super) struct OnDevice {
    stored: Stored,
    device: Box<dyn Device>,
    chunk: Mutex<Chunk>,
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
        Ok(Self::behind(Box::new(Modules::new(modules, manifest.input, device)), stored))
    }

    /// A session on a device that computes what `stored` says.
    fn behind(device: Box<dyn Device>, stored: Stored) -> Self {
        let manifest = stored.manifest.clone();
        let engine = OnDevice { stored, device, chunk: Mutex::new(Chunk::new()), fallen: OnceLock::new() };
        Self { augment: crops(&manifest), manifest, engine: Engine::Device(Box::new(engine)), memory: None }
    }

    /// A session where it is asked for; for [`Choice::Auto`] on what classifies faster in a short trial, and then never
    /// on a software adapter. Returns in words where it is and why.
    ///
    /// # Errors
    /// When the bundle cannot be read or has no head, or there is no such device.
    pub fn open_on(bundle: &Path, choice: Choice) -> Result<(Self, String), SessionError> {
        if choice == Choice::Cpu {
            return Ok((Self::open(bundle)?, "the CPU, as asked".into()));
        }
        let stored = Stored::read(bundle)?;
        let cpu = Self::of(&stored)?;
        let (elsewhere, place) = cpu.elsewhere(&stored, choice)?;
        Ok((elsewhere.unwrap_or(cpu), place))
    }

    /// The bundle of this session, which is one on the CPU, on another device; none where the CPU was asked for, there is
    /// nothing else or, for [`Choice::Auto`], nothing faster. Also in words where it is and why.
    pub(crate) fn elsewhere(&self, stored: &Stored, choice: Choice) -> Result<(Option<Self>, String), SessionError> {
        if choice == Choice::Cpu {
            return Ok((None, "the CPU, as asked".into()));
        }
        let (device, offered) = crate::choose(choice)?;
        if offered.choice == Choice::Cpu {
            return Ok((None, "the CPU: there is no GPU".into()));
        }
        let file = Path::new(&stored.manifest.weights.file).into();
        let made = Bundle::made_of(stored.clone(), &device);
        let made = made.map_err(|misfit| BundleError::Tensor { path: file, misfit })?;
        let gpu = Self::new(made)?.with_pipeline(Wanted::Auto, &offered);
        let name = format!("{} ({}, {})", offered.name, offered.kind, offered.backend);
        if choice != Choice::Auto {
            return Ok((Some(gpu), format!("{name}, as asked")));
        }
        let [on_gpu, on_cpu] = [&gpu, self].map(Self::trial);
        let told = format!("16 views: {name} {:.1} ms, CPU {:.1} ms", millis(on_gpu), millis(on_cpu));
        Ok(((on_gpu < on_cpu && gpu.fallen().is_none()).then_some(gpu), told))
    }

    /// Crops are made as wanted, on the device that `offered` describes; without this the CPU makes them.
    #[must_use]
    pub fn with_pipeline(mut self, wanted: Wanted, offered: &Offered) -> Self {
        if let Engine::Device(on) = &mut self.engine {
            on.device.make_views(wanted, offered);
        }
        self
    }

    /// Computes in half precision where the device has it: half of the memory, and on most GPUs in less time. Where it has
    /// not, on the CPU, and where a weight is beyond 16 bits, it is as before: see [`Session::arithmetic`].
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        if let Engine::Device(on) = &mut self.engine {
            let fits = |tensor: &crate::Tensor| tensor.values.iter().all(|value| value.abs() <= f16::MAX.to_f32());
            if precision == Precision::F32 || on.stored.tensors.values().all(fits) {
                on.device.compute_in(precision);
            }
        }
        self
    }

    /// What makes the crops and why, once some were made on a device.
    pub fn pipeline(&self) -> Option<&str> {
        match &self.engine {
            Engine::Device(on) => on.device.pipeline(),
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

impl OnDevice {
    pub(super) fn arithmetic(&self) -> Arithmetic {
        match self.device.precision() {
            Precision::F16 if self.fallen.get().is_none() => Arithmetic::F16,
            _ => Arithmetic::F32,
        }
    }

    pub(super) fn fallen(&self) -> Option<&str> {
        self.fallen.get().map(|(why, _)| why.as_str())
    }

    pub(super) fn logits(&self, seen: Seen<'_>, pixels: &mut Vec<f32>, out: &mut [f32]) -> Result<(), ClassifyError> {
        let Seen::Crops(source, draws) = seen else { return self.some(seen, pixels, out) };
        let classes = out.len() / draws.len();
        let mut done = 0;
        while done < draws.len() {
            let views = self.chunk().views().min(draws.len() - done);
            let draws = &draws[done..done + views];
            self.some(Seen::Crops(source, draws), pixels, &mut out[done * classes..][..views * classes])?;
            done += views;
        }
        Ok(())
    }

    fn chunk(&self) -> MutexGuard<'_, Chunk> {
        self.chunk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As many views as were asked for, in halves where the device has not the memory, on the CPU where it is gone.
    fn some(&self, seen: Seen<'_>, pixels: &mut Vec<f32>, out: &mut [f32]) -> Result<(), ClassifyError> {
        let size = [self.stored.manifest.input.height, self.stored.manifest.input.width];
        if let Some((_, network)) = self.fallen.get() {
            on_cpu(network, seen, size, pixels, out);
            return Ok(());
        }
        let start = Instant::now();
        match self.tried(seen, pixels) {
            // Half precision that overflowed tells nothing.
            Ok(logits)
                if self.device.precision() == Precision::F16 && logits.iter().any(|logit| !logit.is_finite()) =>
            {
                self.fall("a value is beyond half precision".into(), seen, pixels, out)
            }
            Ok(logits) => {
                out.copy_from_slice(&logits);
                if let Seen::Crops(_, draws) = seen {
                    self.chunk().took(draws.len(), start.elapsed());
                }
                Ok(())
            }
            Err(Trouble::Input(error)) => Err(error),
            Err(Trouble::Memory(why)) => match seen {
                Seen::Crops(source, draws) if draws.len() > 1 => {
                    self.chunk().too_many(draws.len());
                    let half = draws.len() / 2;
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
        if self.fallen.get().is_none() {
            let prepared = network(&self.stored, self.stored.manifest.input).map_err(|_| ClassifyError::NotFinite)?;
            self.fallen.get_or_init(|| {
                self.device.abandon();
                (why, prepared)
            });
        }
        self.some(seen, pixels, out)
    }

    /// What the device computes; its panic is trouble of the kind that the message tells.
    fn tried(&self, seen: Seen<'_>, pixels: &[f32]) -> Result<Vec<f32>, Trouble> {
        catch_unwind(AssertUnwindSafe(|| self.device.logits(seen, pixels))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<&str>().map(ToString::to_string);
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            let why = one_line(&text);
            let lower = why.to_lowercase();
            let memory =
                ["out of memory", "outofmemory", "out_of_memory", "oom"].iter().any(|word| lower.contains(word));
            Err(if memory { Trouble::Memory(why) } else { Trouble::Lost(why) })
        })
    }
}

#[cfg(test)]
mod tests;
