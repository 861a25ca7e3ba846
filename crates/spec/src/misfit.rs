//! Weights that do not fit a network, as every reader of weights reports them.

use crate::one_line;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// A tensor that a network does not have as it is.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the messages are the documentation
pub enum Misfit {
    Missing { name: String },
    Extra { name: String },
    Shape { name: String, found: Vec<usize>, expected: Vec<usize> },
    NotFinite { name: String },
    Negative { name: String },
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name } => write!(f, "tensor `{name}` is missing"),
            Self::Extra { name } => write!(f, "tensor `{}` does not belong to this model", one_line(name)),
            Self::Shape { name, found, expected } => {
                write!(f, "tensor `{name}` has shape {found:?}, the model needs {expected:?}")
            }
            Self::NotFinite { name } => write!(f, "tensor `{name}` holds a NaN or an infinity"),
            Self::Negative { name } => write!(f, "tensor `{name}` holds a variance below 0"),
        }
    }
}

impl core::error::Error for Misfit {}
