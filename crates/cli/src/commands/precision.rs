//! `--precision`: what networks multiply in.

use super::{DataArguments, bundle_path};
use crate::output::{Failure, Output, usage};
use burn::tensor::Device;
use clap::ValueEnum;
use gabion_experiment::evaluate::Subject;
use gabion_experiment::measure::whole;
use gabion_runtime::devices::is_cpu;
use gabion_runtime::frozen::Precision;
use gabion_runtime::{Arithmetic, Bundle, Level};
use gabion_spec::{Input, Manifest};
use std::path::Path;

/// What networks multiply in.
#[derive(clap::Args)]
pub struct PrecisionArguments {
    /// f32; bf16 or int8 on the CPU; f16 on a device that has it (see `gabion devices`).
    #[arg(long, value_enum, default_value_t = Floats::F32)]
    precision: Floats,
    /// The data set whose training images say how large activations become in int8 [default: --data].
    #[arg(long, value_name = "DIR|synth")]
    calibrate: Option<String>,
}

/// Training images that calibrate a network in int8.
const CALIBRATES: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Floats {
    /// IEEE single.
    F32,
    /// IEEE half, on devices that have it.
    F16,
    /// The upper half of a single, on the CPU.
    Bf16,
    /// 8 bits, on the CPU.
    Int8,
}

impl Floats {
    pub fn arithmetic(self) -> Arithmetic {
        match self {
            Self::F32 => Arithmetic::F32,
            Self::F16 => Arithmetic::F16,
            Self::Bf16 => Arithmetic::Bf16,
            Self::Int8 => Arithmetic::Int8,
        }
    }
}

impl PrecisionArguments {
    pub fn arithmetic(&self) -> Arithmetic {
        self.precision.arithmetic()
    }

    /// The images that calibrate a bundle, of the set that was named or else of `data`.
    pub fn views(&self, input: Input, data: Option<&DataArguments>) -> Result<Vec<f32>, Failure> {
        let named = self.calibrate.as_ref().map(|set| DataArguments { data: Some(set.clone()) });
        let Some(set) = named.as_ref().or(data) else {
            return Err(usage("--precision int8 is calibrated on training images: give --calibrate DIR, or synth"));
        };
        let data = set.open(Some([input.height as usize, input.width as usize]))?;
        let train = &data.split.train;
        if [train.height, train.width] != [input.height as usize, input.width as usize] {
            return Err(usage(format!(
                "the images to calibrate on are {}x{}, the bundle takes {}x{}: name another data set",
                train.height, train.width, input.height, input.width
            )));
        }
        Ok(whole(train, CALIBRATES, 0))
    }

    /// What [`super::evaluate::subject`] gives, in this precision.
    pub fn subject(
        &self,
        path: &Path,
        device: &Device,
        data: &DataArguments,
        output: &Output,
    ) -> Result<(Subject, Option<Manifest>), Failure> {
        let precision = self.frozen(device, output)?;
        if precision != Precision::Int8 {
            return super::evaluate::subject_in(precision, path, device);
        }
        if path.is_file() {
            return Err(usage("--precision int8 is of bundles: a network's file is evaluated in f32 or bf16"));
        }
        let bundle = Bundle::open(&bundle_path(path), device)?;
        let views = self.views(bundle.manifest.input, Some(data))?;
        Ok((Subject::bundle_in_int8(&bundle, device, &views)?, Some(bundle.manifest)))
    }

    /// Of what is computed on `device` by networks that attacks can climb: f32, or bf16 or int8 on the CPU.
    pub fn frozen(&self, device: &Device, output: &Output) -> Result<Precision, Failure> {
        match self.arithmetic().on_cpu() {
            None => Err(usage("--precision f16 is for classify and serve on a device; here it is f32, bf16 or int8")),
            Some(precision) if precision != Precision::F32 && !is_cpu(device) => Err(is_the_cpus()),
            Some(precision) => {
                tell(precision, output);
                Ok(precision)
            }
        }
    }
}

/// Says what is done where the machine has no instructions for it.
pub fn tell(precision: Precision, output: &Output) {
    if let Some(why) = widened(precision) {
        output.note(why);
    }
}

/// What is done where the machine has no instructions for it.
pub fn widened(precision: Precision) -> Option<String> {
    let level = Level::current();
    match precision {
        Precision::Bf16 if !level.multiplies_bf16() => Some(format!(
            "precision: bf16, but {level} here has no instructions for it (AVX512_BF16): numbers are rounded to bf16 all \
             the same and multiplied in f32, which saves no time"
        )),
        Precision::Int8 if !level.multiplies_int8() => Some(format!(
            "precision: int8, but {level} here has no instructions for it (AVX512_VNNI, NEON dot products): the same \
             integers are found more slowly than f32 would be"
        )),
        _ => None,
    }
}

/// What is said to those who want bf16 or int8 elsewhere.
pub fn is_the_cpus() -> Failure {
    usage("--precision bf16 and int8 are computed on the CPU: give --device cpu, or --precision f16 for a device")
}
