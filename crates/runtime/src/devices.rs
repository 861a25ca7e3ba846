//! What can compute here, and the choice of one.
//!
//! Listing opens nothing. A wgpu device is made here, with the features that Burn's kernels use, and handed to Burn:
//! left to itself CubeCL asks for every feature that an adapter lists and panics where the driver then refuses one.

use burn::tensor::Device;
use std::fmt;
use std::str::FromStr;

/// What a user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// CUDA, else a real GPU through wgpu, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// Vulkan, Metal or DX12 through wgpu; a software adapter too when there is nothing else.
    Wgpu,
    /// NVIDIA through CUDA.
    Cuda,
}

impl Choice {
    /// Every choice, compiled in or not.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Cpu, Self::Wgpu, Self::Cuda];

    /// Whether this build has it.
    pub const fn compiled_in(self) -> bool {
        match self {
            Self::Auto => cfg!(any(feature = "flex", feature = "wgpu", feature = "cuda")),
            Self::Cpu => cfg!(feature = "flex"),
            Self::Wgpu => cfg!(feature = "wgpu"),
            Self::Cuda => cfg!(feature = "cuda"),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Wgpu => "wgpu",
            Self::Cuda => "cuda",
        }
    }

    /// The feature of this crate that compiles it in.
    const fn feature(self) -> &'static str {
        match self {
            Self::Auto | Self::Cpu => "flex",
            Self::Wgpu => "wgpu",
            Self::Cuda => "cuda",
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Choice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match Self::ALL.into_iter().find(|choice| choice.name() == text) {
            Some(choice) => choice.ensure_compiled_in(),
            None => Err(DeviceError::Unknown { name: text.into(), valid: valid() }),
        }
    }
}

impl Choice {
    fn ensure_compiled_in(self) -> Result<Self, DeviceError> {
        if self.compiled_in() {
            return Ok(self);
        }
        Err(DeviceError::NotCompiledIn { choice: self, valid: valid() })
    }
}

/// `auto, cpu, wgpu (not compiled in: cuda)`.
fn valid() -> String {
    let names = |compiled_in: bool| {
        let names = Choice::ALL.into_iter().filter(|choice| choice.compiled_in() == compiled_in);
        names.map(Choice::name).collect::<Vec<_>>().join(", ")
    };
    match names(false) {
        absent if absent.is_empty() => names(true),
        absent => format!("{} (not compiled in: {absent})", names(true)),
    }
}

/// A device that [`choose`] can take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// The part's name.
    pub name: String,
    /// What asks for it.
    pub choice: Choice,
    /// `cpu`, `discrete gpu`, `integrated gpu`, `virtual gpu`, `software gpu` or `other`.
    pub kind: String,
    /// What reaches it, such as `flex`, `vulkan` or `cuda`.
    pub backend: String,
    /// Its driver and version, empty where there is none.
    pub driver: String,
    /// What bounds a dispatch on it, where its interface tells without opening it.
    pub limits: Option<Limits>,
}

/// What bounds a dispatch on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the largest buffer.
    pub buffer: u64,
    /// Bytes of a buffer that a kernel can see at once.
    pub binding: u64,
    /// Most invocations of a workgroup.
    pub workgroup: u32,
    /// Bytes of memory that a workgroup shares.
    pub shared: u32,
    /// Invocations of the smallest and the largest subgroup, where kernels may use them.
    pub subgroup: Option<[u32; 2]>,
    /// Whether kernels may compute in half precision.
    pub f16: bool,
}

/// Why there is no device: one line each, with what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No choice of this name.
    #[error("there is no device `{name}`: use one of {valid}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What can be asked for.
        valid: String,
    },
    /// A choice that this build lacks.
    #[error("device `{choice}` is not compiled in: build with `--features {}`, or use one of {valid}", choice.feature())]
    NotCompiledIn {
        /// What was asked for.
        choice: Choice,
        /// What can be asked for.
        valid: String,
    },
    /// The machine has no such part, or no driver for it.
    #[error("no {choice} device was found: install its driver, or use `cpu`")]
    Absent {
        /// What was asked for.
        choice: Choice,
    },
    /// The driver refused.
    #[error("{name} could not be opened ({why}): update its driver, or use `cpu`")]
    Refused {
        /// The part.
        name: String,
        /// The driver's reason.
        why: String,
    },
}

/// Every device that this build reaches on this machine: CUDA's, then wgpu's from the most to the least capable kind,
/// then the CPU. Opens none.
pub fn offered() -> Vec<Offered> {
    let mut offered = cuda::offered();
    offered.extend(gpu::offered());
    if Choice::Cpu.compiled_in() {
        offered.push(cpu_offered());
    }
    offered
}

/// Whether a device is the CPU, which has networks of its own ([`crate::frozen`]).
pub fn is_cpu(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    return device.clone().inner() == Device::flex();
    #[cfg(not(feature = "flex"))]
    {
        let _ = device;
        false
    }
}

/// Opens a device. A wgpu device is opened once; asking again gives the same one.
///
/// # Errors
/// When the choice is not compiled in, the machine has none, or its driver refuses.
pub fn choose(choice: Choice) -> Result<(Device, Offered), DeviceError> {
    match choice.ensure_compiled_in()? {
        Choice::Auto => choose_best(),
        Choice::Cpu => cpu(),
        Choice::Wgpu => gpu::open(),
        Choice::Cuda => cuda::open(),
    }
}

fn choose_best() -> Result<(Device, Offered), DeviceError> {
    if !cuda::offered().is_empty() {
        return cuda::open();
    }
    // A driver that refuses is no reason to do without a device when none was asked for by name.
    if gpu::offered().first().is_some_and(|best| best.kind != SOFTWARE) {
        let opened = gpu::open();
        if opened.is_ok() || !Choice::Cpu.compiled_in() {
            return opened;
        }
    }
    cpu()
}

/// [`Offered::kind`] of an adapter that computes on the CPU.
const SOFTWARE: &str = "software gpu";

fn cpu_offered() -> Offered {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Offered {
        name: format!("{} ({threads} threads)", std::env::consts::ARCH),
        choice: Choice::Cpu,
        kind: "cpu".into(),
        backend: "flex".into(),
        driver: String::new(),
        limits: None,
    }
}

#[cfg(feature = "flex")]
#[allow(clippy::unnecessary_wraps)] // the other build of it fails
fn cpu() -> Result<(Device, Offered), DeviceError> {
    Ok((Device::flex(), cpu_offered()))
}

#[cfg(not(feature = "flex"))]
fn cpu() -> Result<(Device, Offered), DeviceError> {
    Err(DeviceError::NotCompiledIn { choice: Choice::Cpu, valid: valid() })
}

/// What a driver's code gives, its panic made an error.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn guarded<T>(name: &str, open: impl FnOnce() -> Result<T, String>) -> Result<T, DeviceError> {
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(open));
    let result = caught.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        Err(text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".into()))
    });
    result.map_err(|why| DeviceError::Refused { name: name.into(), why: gabion_spec::one_line(&why) })
}

#[cfg(feature = "wgpu")]
mod cache;
#[cfg(feature = "wgpu")]
#[path = "devices/wgpu.rs"]
mod gpu;
#[cfg(feature = "wgpu")]
pub(crate) use {cache::Cache, gpu::under};

#[cfg(not(feature = "wgpu"))]
mod gpu {
    use super::{Choice, Device, DeviceError, Offered, valid};

    pub(super) fn offered() -> Vec<Offered> {
        Vec::new()
    }

    pub(super) fn open() -> Result<(Device, Offered), DeviceError> {
        Err(DeviceError::NotCompiledIn { choice: Choice::Wgpu, valid: valid() })
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use super::{Choice, Device, DeviceError, Offered, guarded};
    use burn::tensor::DeviceType;

    pub(super) fn offered() -> Vec<Offered> {
        let count = guarded("CUDA", || Ok(Device::enumerate(DeviceType::Cuda).len())).unwrap_or(0);
        let offered = |index| Offered {
            name: format!("CUDA device {index}"),
            choice: Choice::Cuda,
            kind: "discrete gpu".into(),
            backend: "cuda".into(),
            driver: String::new(),
            limits: None,
        };
        (0..count).map(offered).collect()
    }

    pub(super) fn open() -> Result<(Device, Offered), DeviceError> {
        let Some(mut offered) = offered().into_iter().next() else {
            return Err(DeviceError::Absent { choice: Choice::Cuda });
        };
        let (device, identity) = guarded(&offered.name, || {
            let device = Device::cuda(0);
            let identity = device.identity();
            Ok((device, identity))
        })?;
        if let Some(identity) = identity {
            offered.name = identity.name;
        }
        Ok((device, offered))
    }
}

#[cfg(not(feature = "cuda"))]
mod cuda {
    use super::{Choice, Device, DeviceError, Offered, valid};

    pub(super) fn offered() -> Vec<Offered> {
        Vec::new()
    }

    pub(super) fn open() -> Result<(Device, Offered), DeviceError> {
        Err(DeviceError::NotCompiledIn { choice: Choice::Cuda, valid: valid() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_errors_list_them() {
        assert_eq!("auto".parse::<Choice>().unwrap(), Choice::Auto);
        assert_eq!("cpu".parse::<Choice>().unwrap().to_string(), "cpu");
        let error = "gpu".parse::<Choice>().unwrap_err().to_string();
        assert!(error.contains("`gpu`") && error.contains("auto, cpu"), "{error}");
        for choice in Choice::ALL.into_iter().filter(|choice| !choice.compiled_in()) {
            let error = choice.to_string().parse::<Choice>().unwrap_err().to_string();
            assert!(error.contains("not compiled in") && error.contains("--features"), "{error}");
            assert!(matches!(choose(choice), Err(DeviceError::NotCompiledIn { .. })));
        }
    }

    #[test]
    fn the_cpu_is_always_there_and_last() {
        let (device, taken) = choose(Choice::Cpu).unwrap();
        assert_eq!(device, Device::flex());
        assert_eq!(offered().last(), Some(&taken));
    }

    #[test]
    fn auto_takes_no_software_adapter() {
        let (_, taken) = choose(Choice::Auto).unwrap();
        assert_ne!(taken.kind, SOFTWARE);
    }

    #[cfg(feature = "wgpu")]
    #[test]
    fn wgpu_multiplies() {
        use burn::Tensor;
        let required = std::env::var_os("GABION_REQUIRE_GPU").is_some_and(|value| value == "1");
        let (device, taken) = match choose(Choice::Wgpu) {
            Ok(opened) => opened,
            Err(DeviceError::Absent { .. }) if !required => return println!("skipped: no wgpu adapter"),
            Err(error) => panic!("{error}"),
        };
        println!("{taken:?}");
        let limits = taken.limits.expect("wgpu tells");
        assert!(limits.binding <= limits.buffer && limits.workgroup > 0 && limits.shared > 0);
        assert!(limits.subgroup.is_none_or(|[least, most]| least <= most));
        let a = Tensor::<2>::from_data([[1.0, 2.0], [3.0, 4.0]], &device);
        let product = a.clone().matmul(a).to_data_as::<f32>();
        assert_eq!(product.as_slice::<f32>().unwrap(), [7.0, 10.0, 15.0, 22.0]);
        assert_eq!(choose(Choice::Wgpu).unwrap().0, device);
    }
}
