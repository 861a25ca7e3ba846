//! What a session computes in, as a user asks for it.

use crate::frozen::Precision;
use std::fmt;

/// What a session multiplies in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// IEEE single: everywhere.
    #[default]
    F32,
    /// IEEE half: on devices that have it.
    F16,
    /// bf16: on the CPU.
    Bf16,
    /// 8 bits, within ranges that were seen on other images: on the CPU.
    Int8,
}

impl Arithmetic {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Bf16, Self::Int8];

    /// On the CPU; none of what it does not compute in.
    pub const fn on_cpu(self) -> Option<Precision> {
        match self {
            Self::F32 => Some(Precision::F32),
            Self::F16 => None,
            Self::Bf16 => Some(Precision::Bf16),
            Self::Int8 => Some(Precision::Int8),
        }
    }
}

impl From<Precision> for Arithmetic {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
            Precision::Int8 => Self::Int8,
        }
    }
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_cpu_computes_in_has_the_same_name_there() {
        for arithmetic in Arithmetic::ALL {
            let Some(precision) = arithmetic.on_cpu() else { continue };
            assert_eq!((arithmetic.to_string(), Arithmetic::from(precision)), (precision.to_string(), arithmetic));
        }
        assert_eq!(Arithmetic::F16.on_cpu(), None);
    }
}
