//! `--precision`: what networks multiply in.

use crate::output::{Failure, Output, usage};
use burn::tensor::Device;
use clap::ValueEnum;
use gabion_runtime::devices::is_cpu;
use gabion_runtime::frozen::Precision;
use gabion_runtime::{Arithmetic, Level};

/// What networks multiply in.
#[derive(clap::Args)]
pub struct PrecisionArguments {
    /// f32; bf16 on the CPU; f16 on a device that has it (see `gabion devices`).
    #[arg(long, value_enum, default_value_t = Floats::F32)]
    precision: Floats,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Floats {
    /// IEEE single.
    F32,
    /// IEEE half, on devices that have it.
    F16,
    /// The upper half of a single, on the CPU.
    Bf16,
}

impl Floats {
    pub fn arithmetic(self) -> Arithmetic {
        match self {
            Self::F32 => Arithmetic::F32,
            Self::F16 => Arithmetic::F16,
            Self::Bf16 => Arithmetic::Bf16,
        }
    }
}

impl PrecisionArguments {
    pub fn arithmetic(&self) -> Arithmetic {
        self.precision.arithmetic()
    }

    /// Of what is computed on `device` by networks that attacks can climb: f32, or bf16 on the CPU.
    pub fn frozen(&self, device: &Device, output: &Output) -> Result<Precision, Failure> {
        match self.arithmetic().on_cpu() {
            None => Err(usage("--precision f16 is for classify and serve on a device; here it is f32 or bf16")),
            Some(Precision::Bf16) if !is_cpu(device) => Err(bf16_is_the_cpus()),
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
    (precision == Precision::Bf16 && !level.multiplies_bf16()).then(|| {
        format!(
            "precision: bf16, but {level} here has no instructions for it (AVX512_BF16): numbers are rounded to bf16 all \
             the same and multiplied in f32, which saves memory and no time"
        )
    })
}

/// What is said to those who want bf16 elsewhere.
pub fn bf16_is_the_cpus() -> Failure {
    usage("--precision bf16 is computed on the CPU: give --device cpu, or --precision f16 for a device")
}
