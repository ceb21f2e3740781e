//! Extents on the CPU. Twin of `shaders/extent.wgsl`.
//!
//! Written so that the compiler keeps the lanes in registers, for any processor and again for AVX2,
//! which is chosen when the program runs: 32 lanes of `if x < least` and flags as wide as the
//! samples. Measured in cache on an AMD EPYC, GB/s of f32 with AVX2 / without: this form 57 / 30,
//! flags that are `bool` 37 / 23, 64 lanes 44 / -, 16 lanes - / 22; of f64 with AVX2: 24 lanes 48,
//! 32 lanes 23, 16 lanes 6. The lanes suffice only where all samples are finite. They tell when
//! not, and a chunk with a NaN or an infinity is done again by lanes that count.

use std::ops::{AddAssign, BitOrAssign};

use multiversion::multiversion;

use crate::normalize::Extent;
use crate::tensor::{Dtype, decode};

/// Lanes of halves.
const LANES: usize = 32;
/// Samples per chunk: 16 KiB of f32 stay in the first-level cache for the second look.
const CHUNK: usize = 4096;

/// What the lanes need of f32 and f64.
pub trait Sample: Copy + PartialOrd + Into<f64> {
    /// +∞.
    const INFINITY: Self;
    /// −∞.
    const NEG_INFINITY: Self;
    /// An integer of the same size.
    type Flag: Copy + Default + PartialEq + BitOrAssign + AddAssign + From<bool> + Into<u64>;
    /// The least magnitude that f32 rounds to ∞.
    const OVERFLOW: Self;

    /// All bits set if it is a NaN.
    fn nan(self) -> Self::Flag;

    /// The magnitude.
    fn magnitude(self) -> Self;

    /// The extent of a chunk in which nothing needs to be counted; `None` of any other.
    fn by_lanes(chunk: &[Self]) -> Option<Extent>;

    /// The extent of any chunk.
    fn counted(chunk: &[Self]) -> Extent;
}

macro_rules! sample {
    ($float:ident, $flag:ident, $overflow:expr, $lanes:literal, $counting_lanes:literal) => {
        impl Sample for $float {
            const INFINITY: $float = $float::INFINITY;
            const NEG_INFINITY: $float = $float::NEG_INFINITY;
            type Flag = $flag;
            const OVERFLOW: $float = $overflow;

            #[inline(always)]
            fn nan(self) -> $flag {
                if self.is_nan() { $flag::MAX } else { 0 }
            }

            #[inline(always)]
            fn magnitude(self) -> $float {
                self.abs()
            }

            #[inline(always)]
            fn by_lanes(chunk: &[$float]) -> Option<Extent> {
                by_lanes::<$float, $lanes>(chunk)
            }

            #[inline(always)]
            fn counted(chunk: &[$float]) -> Extent {
                counted::<$float, $counting_lanes>(chunk)
            }
        }
    };
}

sample!(f32, u32, f32::INFINITY, 32, 16);
sample!(f64, u64, Extent::OVERFLOW, 24, 8);

/// The extent of `samples`, as merging [`Extent::of`] over them gives it.
#[must_use]
#[multiversion(targets("x86_64+avx2"))]
pub fn extent<T: Sample>(samples: &[T]) -> Extent {
    samples.chunks(CHUNK).fold(Extent::EMPTY, |extent, chunk| {
        extent.merge(T::by_lanes(chunk).unwrap_or_else(|| T::counted(chunk)))
    })
}

#[inline(always)]
fn by_lanes<T: Sample, const LANES: usize>(chunk: &[T]) -> Option<Extent> {
    let (rows, rest) = chunk.as_chunks::<LANES>();
    let mut least = [T::INFINITY; LANES];
    let mut greatest = [T::NEG_INFINITY; LANES];
    let mut nan = [T::Flag::default(); LANES];
    for row in rows {
        for lane in 0..LANES {
            let x = row[lane];
            least[lane] = if x < least[lane] { x } else { least[lane] };
            greatest[lane] = if x > greatest[lane] { x } else { greatest[lane] };
            nan[lane] |= x.nan();
        }
    }
    let mut extent = one_by_one(rest);
    if !rows.is_empty() {
        let min = least.into_iter().fold(T::INFINITY, |a, x| if x < a { x } else { a }).into();
        let max = greatest.into_iter().fold(T::NEG_INFINITY, |a, x| if x > a { x } else { a });
        let max: f64 = max.into();
        let countless = min > -Extent::OVERFLOW && max < Extent::OVERFLOW;
        if !countless || nan != [T::Flag::default(); LANES] {
            return None;
        }
        let visited = (chunk.len() - rest.len()) as u64;
        // −0 + 0 = +0
        extent = extent.merge(Extent { min: min + 0.0, max: max + 0.0, visited, ..Extent::EMPTY });
    }
    Some(extent)
}

#[inline(always)]
fn counted<T: Sample, const LANES: usize>(chunk: &[T]) -> Extent {
    let (rows, rest) = chunk.as_chunks::<LANES>();
    let mut least = [T::INFINITY; LANES];
    let mut greatest = [T::NEG_INFINITY; LANES];
    let [mut nan, mut pos_inf, mut neg_inf, mut overflow] = [[T::Flag::default(); LANES]; 4];
    for row in rows {
        for lane in 0..LANES {
            let x = row[lane];
            let size = x.magnitude();
            let finite = size < T::INFINITY;
            least[lane] = if finite && x < least[lane] { x } else { least[lane] };
            greatest[lane] = if finite && x > greatest[lane] { x } else { greatest[lane] };
            nan[lane] += T::Flag::from(x.nan() != T::Flag::default());
            pos_inf[lane] += T::Flag::from(x == T::INFINITY);
            neg_inf[lane] += T::Flag::from(x == T::NEG_INFINITY);
            overflow[lane] += T::Flag::from(finite && size >= T::OVERFLOW);
        }
    }
    let sum = |lanes: [T::Flag; LANES]| lanes.into_iter().map(Into::<u64>::into).sum::<u64>();
    let min: f64 = least.into_iter().fold(T::INFINITY, |a, x| if x < a { x } else { a }).into();
    let max = greatest.into_iter().fold(T::NEG_INFINITY, |a, x| if x > a { x } else { a });
    let max: f64 = max.into();
    one_by_one(rest).merge(Extent {
        min: min + 0.0, // −0 + 0 = +0
        max: max + 0.0,
        nan: sum(nan),
        pos_inf: sum(pos_inf),
        neg_inf: sum(neg_inf),
        overflow: sum(overflow),
        visited: (chunk.len() - rest.len()) as u64,
    })
}

#[inline(always)]
fn one_by_one<T: Sample>(samples: &[T]) -> Extent {
    samples.iter().fold(Extent::EMPTY, |extent, &x| extent.merge(Extent::of(x.into())))
}

/// The extent of raw samples of F16 or BF16.
///
/// Their codes become signed integers of the same order, with every infinity and NaN outside of
/// the finite ones: what is decoded is the least and the greatest.
///
/// # Panics
/// If `dtype` is another.
#[must_use]
#[multiversion(targets("x86_64+avx2"))]
pub fn extent_of_halves(dtype: Dtype, raw: &[u8]) -> Extent {
    let infinity: i16 = match dtype {
        Dtype::F16 => 0x7C00,
        Dtype::Bf16 => 0x7F80,
        _ => panic!("{dtype} is no half"),
    };
    raw.chunks(2 * CHUNK).fold(Extent::EMPTY, |extent, chunk| {
        let (halves, _) = chunk.as_chunks::<2>();
        let (least, greatest) = extremes(halves);
        extent.merge(if least > key(infinity | i16::MIN) && greatest < infinity {
            let decoded = |key_of| {
                let mut sample = [0.0];
                // The key of a key is the code.
                decode::to_f32(dtype, &key(key_of).to_le_bytes(), &mut sample);
                f64::from(sample[0]) + 0.0
            };
            let (min, max) = (decoded(least), decoded(greatest));
            Extent { min, max, visited: halves.len() as u64, ..Extent::EMPTY }
        } else {
            let mut samples = [0.0; CHUNK];
            let samples = &mut samples[..halves.len()];
            decode::to_f32(dtype, chunk, samples);
            f32::counted(samples)
        })
    })
}

/// The signed integer of a half's code, in the order of the values that codes stand for.
#[inline(always)]
fn key(code: i16) -> i16 {
    code ^ ((code >> 15) & i16::MAX)
}

/// The least and the greatest key.
#[inline(always)]
fn extremes(halves: &[[u8; 2]]) -> (i16, i16) {
    let (rows, rest) = halves.as_chunks::<LANES>();
    let mut least = [i16::MAX; LANES];
    let mut greatest = [i16::MIN; LANES];
    for row in rows {
        for lane in 0..LANES {
            let key = key(i16::from_le_bytes(row[lane]));
            least[lane] = least[lane].min(key);
            greatest[lane] = greatest[lane].max(key);
        }
    }
    let rest = rest.iter().map(|&half| key(i16::from_le_bytes(half)));
    let least = least.into_iter().chain(rest.clone()).fold(i16::MAX, i16::min);
    (least, greatest.into_iter().chain(rest).fold(i16::MIN, i16::max))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every code of a half by itself and among others, at every place of a row.
    #[test]
    fn halves_are_what_their_decoded_samples_are() {
        for dtype in [Dtype::F16, Dtype::Bf16] {
            let check = |codes: &[u16]| {
                let raw: Vec<u8> = codes.iter().flat_map(|code| code.to_le_bytes()).collect();
                let mut samples = vec![0.0; codes.len()];
                decode::to_f32(dtype, &raw, &mut samples);
                let (got, want) = (extent_of_halves(dtype, &raw), one_by_one(&samples));
                assert_eq!(got, want, "{dtype} {codes:x?}");
                assert_eq!(got.min.to_bits(), want.min.to_bits(), "{dtype} {codes:x?}");
            };
            for code in 0..=u16::MAX {
                check(&[code]);
                let mut codes = [0x3C12; 35];
                codes[usize::from(code) % 35] = code;
                check(&codes);
            }
            let many: Vec<u16> = (0..12_295).map(|i: u16| i.wrapping_mul(40503)).collect();
            check(&many);
        }
    }

    /// Equal to the sign of a zero.
    fn same(got: Extent, want: Extent, case: &str) {
        assert_eq!(got, want, "{case}");
        let signs = |e: Extent| [e.min.to_bits(), e.max.to_bits()];
        assert_eq!(signs(got), signs(want), "{case}: the sign of a zero");
    }

    /// Everything that a sample can be, planted where chunks and lanes begin and end.
    #[test]
    fn whatever_is_planted_is_found_wherever_it_is() {
        let over = Extent::OVERFLOW;
        let plants = [
            [-2.0, 2.0],
            [-0.0, 0.2],
            [f64::NAN, f64::NAN],
            [f64::INFINITY, f64::NEG_INFINITY],
            [1e300, -1e39],
            // The least magnitudes that overflow f32, and the greatest that do not.
            [over, -over],
            [over.next_down(), (-over).next_up()],
            // Zeros beside what must be counted.
            [-0.0, f64::NAN],
            [f64::NAN, -0.0],
        ];
        for len in [1, 2, 31, 32, 33, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 40] {
            let edges = [0, 1, 31, 32, 33, CHUNK - 1, CHUNK, CHUNK + 1, len / 2, len - 1];
            for at in edges.into_iter().filter(|&at| at < len) {
                for plant in plants {
                    // Of one sign, so that a planted zero is the least or the greatest.
                    for sign in [1.0, -1.0] {
                        let mut samples: Vec<f64> =
                            (0..len).map(|i| sign * ((i as f64).sin() * 0.5 + 0.6)).collect();
                        samples[at] = plant[0];
                        samples[(at + len / 3) % len] = plant[1];
                        let case = format!("{plant:?} at {at} of {len}");
                        same(extent(&samples), one_by_one(&samples), &case);
                        #[allow(clippy::cast_possible_truncation, reason = "test data")]
                        let samples: Vec<f32> = samples.into_iter().map(|x| x as f32).collect();
                        same(extent(&samples), one_by_one(&samples), &case);
                    }
                }
            }
        }
    }

    #[test]
    fn zeros_are_reported_positive() {
        let e = extent(&[-0.0_f32; 64]);
        assert_eq!((e.min.to_bits(), e.max.to_bits()), (0, 0));
    }
}
