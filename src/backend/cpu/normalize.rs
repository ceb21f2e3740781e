//! Min-max normalization on the CPU, with the processor's own correctly rounded operations. Twin
//! of `shaders/normalize.wgsl`, which gets the same bits from integers.

use multiversion::multiversion;

use crate::normalize::Extent;
use crate::tensor::Dtype;
use crate::tensor::decode::{finite_bf16_to_f32, finite_f16_to_f32, pixel_of_f64};

/// y = (x − lo) / (hi − lo) in f32, in place, for finite lo < hi and samples of that extent.
/// Where the extent has none that are not finite, they need no look.
#[multiversion(targets("x86_64+avx2"))]
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

/// The same from raw samples of F16 or BF16 that are all finite, in one go. False, and nothing is
/// done, of other types and where the range must be halved.
///
/// # Panics
/// If the lengths do not match.
#[multiversion(targets("x86_64+avx2"))]
pub fn normalize_halves(lo: f32, hi: f32, dtype: Dtype, raw: &[u8], pixels: &mut [f32]) -> bool {
    assert_eq!(raw.len(), 2 * pixels.len(), "one pixel a sample");
    let map = Map::new(lo, hi);
    if map.halved {
        return false;
    }
    let halves = raw.as_chunks::<2>().0.iter().map(|half| u16::from_le_bytes(*half));
    let pairs = pixels.iter_mut().zip(halves);
    match dtype {
        Dtype::Bf16 => pairs.for_each(|(y, half)| {
            *y = (finite_bf16_to_f32(half) - map.lo) / map.divisor;
        }),
        Dtype::F16 => pairs.for_each(|(y, half)| {
            *y = (finite_f16_to_f32(half) - map.lo) / map.divisor;
        }),
        _ => return false,
    }
    true
}

struct Map {
    lo: f32,
    divisor: f32,
    halved: bool,
}

impl Map {
    #[inline(always)]
    fn new(lo: f32, hi: f32) -> Map {
        let halved = !(hi - lo).is_finite();
        let half = if halved { 0.5 } else { 1.0 };
        let (lo, hi) = (lo * half, hi * half);
        // x − (−0) is +0 for both zeros, where −0 − (+0) would be −0.
        Map { lo: if lo == 0.0 { -0.0 } else { lo }, divisor: hi - lo, halved }
    }

    #[inline(always)]
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
#[multiversion(targets("x86_64+avx2"))]
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
    use crate::tensor::decode;

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

    /// Every finite code against decoding and normalizing one after the other.
    #[test]
    fn halves_in_one_go_are_what_two_steps_make_of_them() {
        for (dtype, infinity) in [(Dtype::F16, 0x7C00), (Dtype::Bf16, 0x7F80)] {
            let codes = (0..=u16::MAX).filter(|code| code & 0x7FFF < infinity);
            let raw: Vec<u8> = codes.flat_map(u16::to_le_bytes).collect();
            let mut samples = vec![0.0; raw.len() / 2];
            decode::to_f32(dtype, &raw, &mut samples);
            for (lo, hi) in [(-65504.0, 65504.0), (0.0, 1.0), (-3.0, 1e-30), (1e-44, 7.0)] {
                let mut want = samples.clone();
                normalize_f32(lo, hi, &Extent::EMPTY, &mut want);
                let mut got = vec![9.0; want.len()];
                assert!(normalize_halves(lo, hi, dtype, &raw, &mut got));
                let differs = (0..got.len()).find(|&i| got[i].to_bits() != want[i].to_bits());
                assert_eq!(differs, None, "{dtype} {lo} {hi}");
            }
            assert!(!normalize_halves(-f32::MAX, f32::MAX, dtype, &raw, &mut samples));
        }
        assert!(!normalize_halves(0.0, 1.0, Dtype::I16, &[1, 2], &mut [0.0]));
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
