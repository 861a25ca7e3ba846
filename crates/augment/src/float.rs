//! What core has not yet of f32 and f64, by libm. The names are std's, whose own methods win where there is std.

/// Of f64.
#[cfg(feature = "libm")]
pub(crate) trait Float: Sized {
    fn sqrt(self) -> Self;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn floor(self) -> Self;
    fn ceil(self) -> Self;
    fn powi(self, power: i32) -> Self;
    fn round_ties_even(self) -> Self;
}

#[cfg(feature = "libm")]
impl Float for f64 {
    fn sqrt(self) -> Self {
        libm::sqrt(self)
    }

    fn exp(self) -> Self {
        libm::exp(self)
    }

    fn ln(self) -> Self {
        libm::log(self)
    }

    fn floor(self) -> Self {
        libm::floor(self)
    }

    fn ceil(self) -> Self {
        libm::ceil(self)
    }

    fn powi(self, power: i32) -> Self {
        (0..power).fold(1.0, |product, _| product * self)
    }

    fn round_ties_even(self) -> Self {
        libm::rint(self)
    }
}

/// Of f32.
pub(crate) trait Euclid {
    fn rem_euclid(self, by: Self) -> Self;
}

impl Euclid for f32 {
    fn rem_euclid(self, by: Self) -> Self {
        let rest = self % by;
        if rest < 0.0 { rest + by.abs() } else { rest }
    }
}
