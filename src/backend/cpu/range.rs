//! Extents, ranges and pixels as the kernels have them: on bits, in structs that travel. Twin of
//! `shaders/range.wgsl` and `shaders/shared/range.wgsl`. The host makes the ranges of a giant's
//! blocks with this code.

use super::softfloat::{Split, bits_of, divide, is_finite, key_of, split, subtract};
use super::widen::INF;
use crate::normalize::{Extent, Norm};

/// An extent on the device. All zeros is the extent of no samples.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct DeviceExtent {
    /// Greatest key of a finite sample.
    pub max_key: u32,
    /// Greatest complement of one, and so the complement of the least.
    pub max_inverse_key: u32,
    /// Number of NaN.
    pub nan: u32,
    /// Number of +∞.
    pub pos_inf: u32,
    /// Number of −∞.
    pub neg_inf: u32,
    /// Number of samples looked at.
    pub visited: u32,
}

/// Pixels are samples.
pub const KEEP: u32 = 0;
/// (x − lo) / divisor.
pub const MINMAX: u32 = 1;
/// The same, where samples beyond lo and hi are taken for lo and hi.
pub const CLAMPED: u32 = 2;

/// A range on the device.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct DeviceRange {
    /// [`KEEP`], [`MINMAX`] or [`CLAMPED`].
    pub mode: u32,
    /// Bits of lo.
    pub lo: u32,
    /// Bits of hi.
    pub hi: u32,
    /// hi − lo as mantissa · 2^(exponent − 150), with bit 23 the mantissa's highest.
    pub divisor_mantissa: u32,
    /// See there.
    pub divisor_exponent: i32,
}

impl DeviceExtent {
    /// The extent with one more sample.
    #[must_use]
    pub fn look(self, x: u32) -> DeviceExtent {
        let mut extent = self;
        extent.visited += 1;
        if is_finite(x) {
            extent.max_key = extent.max_key.max(key_of(x));
            extent.max_inverse_key = extent.max_inverse_key.max(!key_of(x));
        } else if x == INF {
            extent.pos_inf += 1;
        } else if x == INF | 0x8000_0000 {
            extent.neg_inf += 1;
        } else {
            extent.nan += 1;
        }
        extent
    }
}

impl From<DeviceExtent> for Extent {
    fn from(e: DeviceExtent) -> Extent {
        let (min, max) = if e.max_key == 0 {
            (Extent::EMPTY.min, Extent::EMPTY.max)
        } else {
            let value = |key| f64::from(f32::from_bits(bits_of(key)));
            (value(!e.max_inverse_key), value(e.max_key))
        };
        Extent {
            min,
            max,
            nan: e.nan.into(),
            pos_inf: e.pos_inf.into(),
            neg_inf: e.neg_inf.into(),
            overflow: 0,
            visited: e.visited.into(),
        }
    }
}

/// The range that follows from an extent.
#[must_use]
pub fn range_of(norm: Norm, extent: &DeviceExtent) -> DeviceRange {
    let lo = bits_of(!extent.max_inverse_key);
    let hi = bits_of(extent.max_key);
    // Without a finite sample, and of a constant image, there is no range.
    if norm == Norm::None || extent.max_key == 0 || lo == hi {
        return DeviceRange::default();
    }
    if norm == Norm::Symmetric {
        let most = (lo & 0x7FFF_FFFF).max(hi & 0x7FFF_FFFF);
        return minmax(most | 0x8000_0000, most);
    }
    minmax(lo, hi)
}

/// The range of finite lo < hi, a zero of which is +0.
#[must_use]
pub fn minmax(lo: u32, hi: u32) -> DeviceRange {
    // Where hi − lo overflows, the contract halves x, lo and hi first. Here the exponent has room
    // for the difference; halving is exact for every sample that can matter, so that the quotient
    // is the same.
    let divisor = split(subtract(hi, lo));
    DeviceRange {
        mode: MINMAX,
        lo,
        hi,
        divisor_mantissa: divisor.mantissa,
        divisor_exponent: divisor.exponent,
    }
}

impl From<crate::normalize::Range> for DeviceRange {
    #[allow(clippy::cast_possible_truncation, reason = "a narrow image's lo and hi came from f32")]
    fn from(range: crate::normalize::Range) -> DeviceRange {
        match range {
            crate::normalize::Range::Linear { lo, hi, clamp } => {
                let range = minmax((lo as f32).to_bits(), (hi as f32).to_bits());
                DeviceRange { mode: if clamp { CLAMPED } else { MINMAX }, ..range }
            }
            _ => DeviceRange::default(),
        }
    }
}

/// The pixel of a sample, with the quotient's estimate made worse by `spoil` units.
#[must_use]
pub fn pixel(range: &DeviceRange, x: u32, spoil: i32) -> u32 {
    if range.mode == KEEP || !is_finite(x) {
        return x;
    }
    if range.mode == CLAMPED {
        if key_of(x) <= key_of(range.lo) {
            return 0;
        }
        if key_of(x) >= key_of(range.hi) {
            return 1_f32.to_bits();
        }
    }
    let divisor = Split { mantissa: range.divisor_mantissa, exponent: range.divisor_exponent };
    divide(subtract(x, range.lo), divisor, spoil)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalize::Range;

    #[test]
    fn extents_come_back_as_the_oracle_has_them() {
        let samples = [1.5, -0.0, f32::NAN, f32::INFINITY, -7.25e-40, f32::NEG_INFINITY, f32::NAN];
        for len in 0..=samples.len() {
            for start in 0..len {
                let part = &samples[start..len];
                let device = part.iter().fold(DeviceExtent::default(), |e, x| e.look(x.to_bits()));
                let naive = part.iter().fold(Extent::EMPTY, |e, &x| e.merge(Extent::of(x.into())));
                assert_eq!(Extent::from(device), naive, "{part:?}");
                for norm in [Norm::MinMax, Norm::Symmetric, Norm::None] {
                    let range = DeviceRange::from(Range::of(&norm.into(), &naive.into(), false));
                    assert_eq!(range_of(norm, &device), range, "{part:?}");
                }
            }
        }
    }
}
