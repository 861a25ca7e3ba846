//! Pixel budgets, written as people write them: `"8/255"`.

use alloc::string::{String, ToString};
use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An intensity in units of the pixel range `[0, 1]`, such as a perturbation budget.
///
/// Reads `"8/255"`, `"0.01"` or a bare number; writes the fraction over 255 where it is exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Pixels(pub f32);

impl Pixels {
    /// `levels / 255`.
    pub const fn of_255(levels: f32) -> Self {
        Self(levels / 255.0)
    }

    /// Reads a Euclidean length of many pixels, which may be more than 1.
    ///
    /// # Errors
    /// When it is no number from 0 on.
    pub fn length(text: &str) -> Result<Self, ParsePixelsError> {
        let found = number(text).filter(|value| *value >= 0.0 && value.is_finite());
        found.map(Self).ok_or_else(|| ParsePixelsError { text: text.to_string(), most: None })
    }
}

/// What was wrong with a pixel budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsePixelsError {
    text: String,
    most: Option<u32>,
}

impl fmt::Display for ParsePixelsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, most } = self;
        match most {
            Some(most) => write!(f, "`{text}` is not a pixel budget between 0 and {most}; write it as 8/255 or 0.01"),
            None => write!(f, "`{text}` is not a pixel budget from 0 on; write it as 128/255 or 0.5"),
        }
    }
}

impl core::error::Error for ParsePixelsError {}

/// `8/255` or a bare number.
fn number(text: &str) -> Option<f32> {
    match text.split_once('/') {
        Some((above, below)) => {
            above.trim().parse::<f32>().ok().zip(below.trim().parse::<f32>().ok()).map(|(a, b)| a / b)
        }
        None => text.trim().parse::<f32>().ok(),
    }
}

impl FromStr for Pixels {
    type Err = ParsePixelsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = number(text).filter(|value| (0.0..=1.0).contains(value));
        found.map(Pixels).ok_or_else(|| ParsePixelsError { text: text.to_string(), most: Some(1) })
    }
}

impl fmt::Display for Pixels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for levels in 0..=255u8 {
            if Self::of_255(f32::from(levels)) == *self {
                return write!(f, "{levels}/255");
            }
        }
        write!(f, "{}", self.0)
    }
}

impl Serialize for Pixels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pixels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Pixels;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a pixel budget such as \"8/255\" or 0.01")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Pixels, E> {
                text.parse().map_err(E::custom)
            }

            #[allow(clippy::cast_possible_truncation)] // a budget has no use for f64's precision
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Pixels, E> {
                let value = value as f32;
                if (0.0..=1.0).contains(&value) {
                    Ok(Pixels(value))
                } else {
                    Err(E::custom(ParsePixelsError { text: value.to_string(), most: Some(1) }))
                }
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Pixels, E> {
                value.to_string().parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Pixels, E> {
                value.to_string().parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_round_trip_and_nonsense_is_refused() {
        assert_eq!("8/255".parse(), Ok(Pixels::of_255(8.0)));
        assert_eq!(Pixels::of_255(8.0).to_string(), "8/255");
        assert_eq!("0.01".parse::<Pixels>().unwrap().to_string(), "0.01");
        for wrong in ["-1/255", "256/255", "8/0", "nan", "", "eight", "1e9"] {
            assert!(wrong.parse::<Pixels>().is_err(), "{wrong}");
        }
    }
}
