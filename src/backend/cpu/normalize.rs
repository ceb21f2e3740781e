//! Min-max normalization on the CPU, with the processor's own correctly rounded operations. Twin
//! of `shaders/normalize.wgsl`, which gets the same bits from integers.

use crate::normalize::Extent;
use crate::tensor::decode::pixel_of_f64;

/// y = (x − lo) / (hi − lo) in f32, in place, for finite lo < hi and samples of that extent.
/// Where the extent has none that are not finite, they need no look.
pub fn normalize_f32(lo: f32, hi: f32, extent: &Extent, samples: &mut [f32]) {
    let map = Map::new(lo, hi);
    if extent.nonfinite() > 0 {
        for x in samples {
            let y = map.apply(*x);
            *x = if x.is_finite() { y } else { *x };
        }
    } else if map.halved {
        samples.iter_mut().for_each(|x| *x = map.apply(*x));
    } else {
        samples.iter_mut().for_each(|x| *x = (*x - map.lo) / map.divisor);
    }
}

struct Map {
    lo: f32,
    divisor: f32,
    halved: bool,
}

impl Map {
    fn new(lo: f32, hi: f32) -> Map {
        let halved = !(hi - lo).is_finite();
        let half = if halved { 0.5 } else { 1.0 };
        let (lo, hi) = (lo * half, hi * half);
        // x − (−0) is +0 for both zeros, where −0 − (+0) would be −0.
        Map { lo: if lo == 0.0 { -0.0 } else { lo }, divisor: hi - lo, halved }
    }

    fn apply(&self, x: f32) -> f32 {
        let x = if self.halved { x * 0.5 } else { x };
        (x - self.lo) / self.divisor
    }
}

/// The same in f64, rounded to f32 at the end, from `samples` to `pixels`.
///
/// # Panics
/// If the lengths differ.
#[allow(clippy::cast_possible_truncation, reason = "the one rounding at the end")]
pub fn normalize_f64(lo: f64, hi: f64, samples: &[f64], pixels: &mut [f32]) {
    assert_eq!(samples.len(), pixels.len(), "one pixel a sample");
    let half = if (hi - lo).is_finite() { 1.0 } else { 0.5 };
    let lo = if lo == 0.0 { -0.0 } else { lo * half };
    let divisor = hi * half - lo;
    for (&x, pixel) in samples.iter().zip(pixels) {
        let y = (x * half - lo) / divisor;
        *pixel = if x.is_finite() { y as f32 } else { pixel_of_f64(x) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_positive_whatever_its_signs() {
        for lo in [0.0, -0.0] {
            let mut samples = [0.0, -0.0, 1.0];
            normalize_f32(lo, 1.0, &Extent::EMPTY, &mut samples);
            assert_eq!(samples.map(f32::to_bits), [0, 0, 1_f32.to_bits()]);
            let mut pixels = [9.0; 3];
            normalize_f64(f64::from(lo), 1.0, &[0.0, -0.0, 1.0], &mut pixels);
            assert_eq!(pixels.map(f32::to_bits), [0, 0, 1_f32.to_bits()]);
        }
    }

    #[test]
    fn ranges_that_overflow_are_halved() {
        let (lo, hi) = (-f32::MAX, f32::MAX);
        let mut samples = [lo, 0.0, f32::MIN_POSITIVE, hi];
        normalize_f32(lo, hi, &Extent::EMPTY, &mut samples);
        assert_eq!(samples, [0.0, 0.5, 0.5, 1.0]);
        let mut pixels = [9.0; 3];
        normalize_f64(-f64::MAX, f64::MAX, &[-f64::MAX, 0.0, f64::MAX], &mut pixels);
        assert_eq!(pixels, [0.0, 0.5, 1.0]);
    }
}
