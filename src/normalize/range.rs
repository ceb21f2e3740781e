//! From an extent to the range that maps to the output.

use super::{Extent, Norm};

/// Why the pixels of an image are its widened samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// No normalization was asked for.
    Asked,
    /// The least finite sample equals the greatest.
    Constant,
    /// There is no finite sample, and so no range.
    NoFinite,
}

/// What is done to the samples of one image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Range {
    /// The pixels are the widened samples, bit for bit.
    Keep(Kept),
    /// y = (x − lo) / (hi − lo), with lo < hi, both finite, in the image's working type (an f32
    /// widened to f64 where that is f32). A zero is +0.
    MinMax {
        /// Maps to 0.
        lo: f64,
        /// Maps to 1.
        hi: f64,
    },
}

impl Range {
    /// The range that follows from what was found in a whole image.
    #[must_use]
    pub fn of(norm: Norm, extent: &Extent) -> Range {
        if norm == Norm::None {
            Range::Keep(Kept::Asked)
        } else if !extent.has_finite() {
            Range::Keep(Kept::NoFinite)
        } else if extent.min == extent.max {
            Range::Keep(Kept::Constant)
        } else {
            Range::MinMax { lo: extent.min, hi: extent.max }
        }
    }
}
