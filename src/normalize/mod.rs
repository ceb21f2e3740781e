//! The data room about numbers: what a pass over samples finds out ([`Extent`]), which range
//! follows from it ([`Range`]), and the [`oracle`] that every backend must equal bit for bit.
//!
//! # The contract
//! For every input and option the pixels are the same on the CPU and on every GPU. F32 and all
//! types that widen exactly to it are computed in f32, the others in f64 with one rounding to f32
//! at the end; every operation rounds to nearest even.
//!
//! `minmax` is y = (x − lo) / (hi − lo) with lo and hi the least and greatest finite sample of the
//! image and a true division. Where hi − lo overflows, x, lo and hi are halved first. NaN and ±Inf
//! do not take part in the range; they and the pixels of constant images keep their bits.
//! A zero in a normalized image is +0.

mod extent;
pub mod oracle;
mod range;

pub use extent::Extent;
pub use range::{Kept, Range};

use std::fmt;

/// How samples become pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Norm {
    /// y = (x − lo) / (hi − lo) over the finite samples of the image.
    #[default]
    MinMax,
    /// The widened samples, bit for bit.
    None,
}

impl Norm {
    /// The word that options and files use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Norm::MinMax => "minmax",
            Norm::None => "none",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Norm> {
        [Norm::MinMax, Norm::None].into_iter().find(|norm| norm.name() == name)
    }
}

impl fmt::Display for Norm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
