//! Extents on the CPU. Twin of `shaders/extent.wgsl`.
//!
//! Baseline code for any processor, shaped so that the compiler keeps the lanes in registers: 32
//! lanes of `if x < least` reach memory bandwidth on plain x86-64 (24.5 GB/s measured; `f32::min`
//! gave 19, 16 lanes 3 to 6). The lanes suffice only where all samples are finite, which is nearly
//! always so. They tell when not, and the rare chunk with a NaN or an infinity is done again
//! sample by sample.

use crate::normalize::Extent;

const LANES: usize = 32;
/// Samples per chunk: 16 KiB of f32 stay in the first-level cache for the second look.
const CHUNK: usize = 4096;

/// What the lanes need of f32 and f64.
pub trait Sample: Copy + PartialOrd + Into<f64> {
    /// +∞.
    const INFINITY: Self;
    /// −∞.
    const NEG_INFINITY: Self;
}

impl Sample for f32 {
    const INFINITY: f32 = f32::INFINITY;
    const NEG_INFINITY: f32 = f32::NEG_INFINITY;
}

impl Sample for f64 {
    const INFINITY: f64 = f64::INFINITY;
    const NEG_INFINITY: f64 = f64::NEG_INFINITY;
}

/// The extent of `samples`, as merging [`Extent::of`] over them gives it.
#[must_use]
pub fn extent<T: Sample>(samples: &[T]) -> Extent {
    samples.chunks(CHUNK).fold(Extent::EMPTY, |extent, chunk| {
        extent.merge(by_lanes(chunk).unwrap_or_else(|| one_by_one(chunk)))
    })
}

/// The extent of a chunk in which nothing needs to be counted; `None` of any other.
fn by_lanes<T: Sample>(chunk: &[T]) -> Option<Extent> {
    let (rows, rest) = chunk.as_chunks::<LANES>();
    let mut least = [T::INFINITY; LANES];
    let mut greatest = [T::NEG_INFINITY; LANES];
    let mut unordered = [false; LANES];
    for row in rows {
        for lane in 0..LANES {
            let x = row[lane];
            least[lane] = if x < least[lane] { x } else { least[lane] };
            greatest[lane] = if x > greatest[lane] { x } else { greatest[lane] };
            // Only a NaN is unequal to itself.
            #[allow(clippy::eq_op, reason = "the cheapest test for NaN that stays in the lanes")]
            let nan = x != x;
            unordered[lane] |= nan;
        }
    }
    let mut extent = one_by_one(rest);
    if !rows.is_empty() {
        let min = least.into_iter().fold(T::INFINITY, |a, x| if x < a { x } else { a }).into();
        let max = greatest.into_iter().fold(T::NEG_INFINITY, |a, x| if x > a { x } else { a });
        let max: f64 = max.into();
        let countless = min > -Extent::OVERFLOW && max < Extent::OVERFLOW;
        if !countless || unordered.contains(&true) {
            return None;
        }
        let visited = (chunk.len() - rest.len()) as u64;
        // −0 + 0 = +0
        extent = extent.merge(Extent { min: min + 0.0, max: max + 0.0, visited, ..Extent::EMPTY });
    }
    Some(extent)
}

fn one_by_one<T: Sample>(samples: &[T]) -> Extent {
    samples.iter().fold(Extent::EMPTY, |extent, &x| extent.merge(Extent::of(x.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that a sample can be, planted where chunks and lanes begin and end.
    #[test]
    fn whatever_is_planted_is_found_wherever_it_is() {
        let plants = [-2.0, 2.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, -1e39];
        for len in [1, 2, 31, 32, 33, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 40] {
            let edges = [0, 1, 31, 32, 33, CHUNK - 1, CHUNK, CHUNK + 1, len / 2, len - 1];
            for at in edges.into_iter().filter(|&at| at < len) {
                for plant in plants {
                    let mut samples: Vec<f64> =
                        (0..len).map(|i| (i as f64).sin() * 0.5 + 0.1).collect();
                    samples[at] = plant;
                    assert_eq!(extent(&samples), one_by_one(&samples), "{plant} at {at} of {len}");
                    #[allow(clippy::cast_possible_truncation, reason = "test data")]
                    let samples: Vec<f32> = samples.into_iter().map(|x| x as f32).collect();
                    assert_eq!(extent(&samples), one_by_one(&samples), "{plant} at {at} of {len}");
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
