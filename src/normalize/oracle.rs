//! The naive oracle: one image, sample by sample, in the plainest code that meets the contract of
//! [`normalize`](super). Nobody optimises it; the tests hold every backend against it.

use super::{Extent, Norm, Range};
use crate::tensor::{Dtype, decode};

/// The extent and the pixels of one image, given as the raw little-endian bytes of its samples.
///
/// # Panics
/// If `raw` is not a whole number of elements.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "f32 samples widened to f64 come back exactly")]
pub fn normalize(norm: Norm, dtype: Dtype, raw: &[u8]) -> (Extent, Vec<f32>) {
    let size = dtype.size();
    assert_eq!(raw.len() % size, 0, "raw bytes end inside an element");
    let samples: Vec<(f64, f32)> = raw.chunks(size).map(|element| widen(dtype, element)).collect();
    let extent = samples.iter().fold(Extent::EMPTY, |e, &(x, _)| e.merge(Extent::of(x)));
    let pixels = samples.iter().map(|&(x, kept)| match Range::of(norm, &extent) {
        Range::MinMax { lo, hi } if x.is_finite() => {
            if dtype.is_wide() {
                minmax_f64(x, lo, hi) as f32
            } else {
                minmax_f32(x as f32, lo as f32, hi as f32)
            }
        }
        _ => kept,
    });
    (extent, pixels.collect())
}

/// One element as the number it stands for, and as the pixel that keeps it.
fn widen(dtype: Dtype, element: &[u8]) -> (f64, f32) {
    if dtype.is_wide() {
        let mut sample = [0.0];
        decode::to_f64(dtype, element, &mut sample);
        (sample[0], decode::pixel_of_f64(sample[0]))
    } else {
        let mut sample = [0.0];
        decode::to_f32(dtype, element, &mut sample);
        (f64::from(sample[0]), sample[0])
    }
}

fn minmax_f32(x: f32, lo: f32, hi: f32) -> f32 {
    if (hi - lo).is_finite() {
        (x - lo) / (hi - lo) + 0.0
    } else {
        (x / 2.0 - lo / 2.0) / (hi / 2.0 - lo / 2.0) + 0.0
    }
}

fn minmax_f64(x: f64, lo: f64, hi: f64) -> f64 {
    if (hi - lo).is_finite() {
        (x - lo) / (hi - lo) + 0.0
    } else {
        (x / 2.0 - lo / 2.0) / (hi / 2.0 - lo / 2.0) + 0.0
    }
}
