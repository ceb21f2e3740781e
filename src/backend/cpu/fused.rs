//! One image from raw words to pixels, in the kernels' integer form. Twin of
//! `shaders/fused.wgsl`.

use super::range::{DeviceExtent, pixel, range_of};
use super::widen::sample;
use crate::normalize::Norm;
use crate::tensor::Dtype;

/// The extent and the pixels' bits of `samples` samples that begin at `first_byte` of `raw`, with
/// every quotient's estimate made worse by `spoil` units. `None` of a wide type.
#[must_use]
pub fn fused(
    norm: Norm,
    dtype: Dtype,
    raw: &[u32],
    first_byte: usize,
    samples: usize,
    spoil: i32,
) -> Option<(DeviceExtent, Vec<u32>)> {
    let mut extent = DeviceExtent::default();
    for i in 0..samples {
        extent = extent.look(sample(dtype, raw, first_byte, i)?);
    }
    let range = range_of(norm, &extent);
    let pixels = (0..samples)
        .map(|i| Some(pixel(&range, sample(dtype, raw, first_byte, i)?, spoil)))
        .collect::<Option<Vec<u32>>>()?;
    Some((extent, pixels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::triples::{Family, mix, triple};
    use crate::normalize::{Extent, oracle};

    #[test]
    #[allow(clippy::cast_possible_truncation, reason = "random bits are cut to size")]
    fn images_of_every_type_come_out_as_the_oracle_has_them() {
        for dtype in Dtype::ALL.into_iter().filter(|dtype| !dtype.is_wide()) {
            for (seed, norm) in [(1, Norm::MinMax), (2, Norm::MinMax), (3, Norm::None)] {
                let raw: Vec<u8> = (0..4096_u64).map(|i| mix(seed << 32 | i) as u8).collect();
                check(norm, dtype, &raw, 48);
            }
        }
    }

    #[test]
    fn hard_triples_come_out_as_the_oracle_has_them() {
        for family in Family::ALL {
            for i in 0..3000 {
                let raw: Vec<u8> =
                    triple(family, i).into_iter().flat_map(u32::to_le_bytes).collect();
                check(Norm::MinMax, Dtype::F32, &raw, -48);
            }
        }
    }

    fn check(norm: Norm, dtype: Dtype, raw: &[u8], spoil: i32) {
        let (extent, pixels) = oracle::normalize(norm, dtype, raw);
        let words: Vec<u32> =
            raw.chunks(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect();
        let samples = raw.len() / dtype.size();
        let (got_extent, got) = fused(norm, dtype, &words, 0, samples, spoil).unwrap();
        assert_eq!(Extent::from(got_extent), extent, "{dtype} {norm}");
        for (i, (got, want)) in got.iter().zip(&pixels).enumerate() {
            assert_eq!(*got, want.to_bits(), "{dtype} {norm} sample {i} of {raw:?}");
        }
    }
}
