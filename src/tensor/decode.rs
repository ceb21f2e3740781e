//! Raw bytes to numbers, exactly.
//!
//! Narrow types widen to f32 without rounding. A NaN of F32 keeps its bits, one of F16 or BF16
//! keeps sign and payload (shifted up) and has its quiet bit set; every other type's NaN becomes
//! `0x7FC0_0000`. Wide types ([`Dtype::is_wide`]) go to f64; 64-bit integers are rounded to it,
//! to nearest even.

use super::Dtype;
use half::slice::HalfFloatSliceExt as _;
use multiversion::multiversion;

/// The NaN of every type that has no payload worth keeping.
pub const NAN: u32 = 0x7FC0_0000;

const fn table(decode: fn_table::Kind) -> [f32; 256] {
    fn_table::build(decode)
}

static E4M3: [f32; 256] = table(fn_table::Kind::E4m3);
static E5M2: [f32; 256] = table(fn_table::Kind::E5m2);

/// The two 8-bit float tables, built when the crate is compiled.
mod fn_table {
    pub(super) enum Kind {
        E4m3,
        E5m2,
    }

    /// value = ±mantissa × 2^(max(exponent, 1) − bias − mantissa bits), with the hidden bit set
    /// where the exponent field is not 0 (OCP 8-bit floating point specification, revision 1.0).
    pub(super) const fn build(kind: Kind) -> [f32; 256] {
        let (mantissa_bits, bias) = match kind {
            Kind::E4m3 => (3, 7),
            Kind::E5m2 => (2, 15),
        };
        let mut table = [0.0; 256];
        let mut code = 0_u32;
        while code < 256 {
            let magnitude = code & 0x7F;
            let exponent = magnitude >> mantissa_bits;
            let fraction = magnitude & ((1 << mantissa_bits) - 1);
            let negative = code >> 7 == 1;
            let bits = match kind {
                Kind::E4m3 if magnitude == 0x7F => super::NAN,
                Kind::E5m2 if magnitude > 0x7C => super::NAN,
                Kind::E5m2 if magnitude == 0x7C => 0x7F80_0000 | ((negative as u32) << 31),
                _ => {
                    let mut significand = fraction;
                    let mut scale = 127 - bias + 1; // biased f32 exponent of exponent field 1
                    if exponent > 0 {
                        significand |= 1 << mantissa_bits;
                        scale += exponent - 1;
                    }
                    let mut out = 0;
                    if significand != 0 {
                        // Shift the leading one up to the hidden place of an f32.
                        let lift = significand.leading_zeros() - 8;
                        out = ((significand << lift) & 0x7F_FFFF)
                            | ((scale + (23 - mantissa_bits) - lift) << 23);
                    }
                    out | ((negative as u32) << 31)
                }
            };
            table[code as usize] = f32::from_bits(bits);
            code += 1;
        }
        table
    }
}

/// Widens `raw` (whole little-endian elements of a narrow type) to f32, one for one.
///
/// # Panics
/// If `dtype` is wide or the lengths do not match; both are errors of the caller.
#[multiversion(targets("x86_64+avx2"))]
pub fn to_f32(dtype: Dtype, raw: &[u8], out: &mut [f32]) {
    assert_eq!(raw.len(), out.len() * dtype.size(), "raw bytes and samples do not match");
    match dtype {
        Dtype::Bool => each(raw, out, |[b]| f32::from(u8::from(b != 0))),
        Dtype::U8 => each(raw, out, |b| f32::from(u8::from_le_bytes(b))),
        Dtype::I8 => each(raw, out, |b| f32::from(i8::from_le_bytes(b))),
        Dtype::F8E4m3 => each(raw, out, |[b]| E4M3[usize::from(b)]),
        Dtype::F8E5m2 => each(raw, out, |[b]| E5M2[usize::from(b)]),
        Dtype::U16 => each(raw, out, |b| f32::from(u16::from_le_bytes(b))),
        Dtype::I16 => each(raw, out, |b| f32::from(i16::from_le_bytes(b))),
        Dtype::F16 => f16_to_f32(raw, out),
        Dtype::Bf16 => each(raw, out, |b| bf16_to_f32(u16::from_le_bytes(b))),
        Dtype::F32 => each(raw, out, f32::from_le_bytes),
        Dtype::U32 | Dtype::I32 | Dtype::U64 | Dtype::I64 | Dtype::F64 => {
            panic!("{dtype} does not widen exactly to f32")
        }
    }
}

/// Widens `raw` (whole little-endian elements of a wide type) to f64, one for one.
///
/// # Panics
/// If `dtype` is narrow or the lengths do not match; both are errors of the caller.
#[multiversion(targets("x86_64+avx2"))]
pub fn to_f64(dtype: Dtype, raw: &[u8], out: &mut [f64]) {
    assert_eq!(raw.len(), out.len() * dtype.size(), "raw bytes and samples do not match");
    match dtype {
        Dtype::U32 => each(raw, out, |b| f64::from(u32::from_le_bytes(b))),
        Dtype::I32 => each(raw, out, |b| f64::from(i32::from_le_bytes(b))),
        Dtype::U64 => each(raw, out, |b| u64::from_le_bytes(b) as f64),
        Dtype::I64 => each(raw, out, |b| i64::from_le_bytes(b) as f64),
        Dtype::F64 => each(raw, out, f64::from_le_bytes),
        _ => panic!("{dtype} is computed in f32"),
    }
}

/// Rounds an f64 sample to the pixel that shows it: to nearest even, any NaN to [`NAN`].
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "rounding is what this function is for")]
pub fn pixel_of_f64(sample: f64) -> f32 {
    if sample.is_nan() { f32::from_bits(NAN) } else { sample as f32 }
}

#[inline(always)]
fn each<const N: usize, T>(raw: &[u8], out: &mut [T], decode: impl Fn([u8; N]) -> T) {
    for (out, bytes) in out.iter_mut().zip(raw.as_chunks::<N>().0) {
        *out = decode(*bytes);
    }
}

/// bf16 is the upper half of an f32.
#[inline(always)]
fn bf16_to_f32(half: u16) -> f32 {
    let bits = u32::from(half) << 16;
    let nan = (bits & 0x7FFF_FFFF) > 0x7F80_0000;
    f32::from_bits(bits | (u32::from(nan) << 22))
}

/// bf16 that is neither NaN nor infinite.
#[inline(always)]
pub(crate) fn finite_bf16_to_f32(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}

/// f16 that is neither NaN nor infinite: moved to the places of an f32, it is too small by the
/// difference of the exponents' biases, 127 − 15. The product is exact, of subnormal ones too.
#[inline(always)]
pub(crate) fn finite_f16_to_f32(half: u16) -> f32 {
    const SCALE: f32 = f32::from_bits((112 + 127) << 23);
    let half = u32::from(half);
    f32::from_bits(((half & 0x8000) << 16) | ((half & 0x7FFF) << 13)) * SCALE
}

/// `half` converts slices with the processor's own instruction where there is one.
fn f16_to_f32(raw: &[u8], out: &mut [f32]) {
    let mut halves = [half::f16::ZERO; 1024];
    for (out, raw) in out.chunks_mut(halves.len()).zip(raw.chunks(2 * halves.len())) {
        let halves = &mut halves[..out.len()];
        each(raw, halves, half::f16::from_le_bytes);
        halves.convert_to_f32_slice(out);
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small floats widen exactly")]
mod tests {
    use super::*;

    fn one(dtype: Dtype, raw: &[u8]) -> u32 {
        let mut out = [0.0];
        to_f32(dtype, raw, &mut out);
        out[0].to_bits()
    }

    /// Value of a small float by its definition, in f64 where everything is exact.
    fn small_float(code: u32, exponent_bits: u32, mantissa_bits: u32) -> f64 {
        let bias = (1 << (exponent_bits - 1)) - 1;
        let fraction = f64::from(code & ((1 << mantissa_bits) - 1));
        let field = (code >> mantissa_bits) & ((1 << exponent_bits) - 1);
        let sign = if code >> (exponent_bits + mantissa_bits) == 1 { -1.0 } else { 1.0 };
        let unit = 2_f64.powi(-i32::try_from(mantissa_bits).unwrap());
        let exponent = i32::try_from(field.max(1)).unwrap() - bias;
        let hidden = f64::from(u8::from(field > 0));
        sign * (hidden + fraction * unit) * 2_f64.powi(exponent)
    }

    #[test]
    fn every_f8_code_has_the_value_of_its_definition() {
        for code in 0..=255_u8 {
            let (e4m3, e5m2) = (one(Dtype::F8E4m3, &[code]), one(Dtype::F8E5m2, &[code]));
            let magnitude = code & 0x7F;
            if magnitude == 0x7F {
                assert_eq!(e4m3, NAN, "e4m3 {code:#x}");
            } else {
                let want = small_float(u32::from(code), 4, 3) as f32;
                assert_eq!(e4m3, want.to_bits(), "e4m3 {code:#x}");
            }
            match magnitude {
                0x7C => assert_eq!(e5m2, 0x7F80_0000 | (u32::from(code & 0x80) << 24)),
                0x7D.. => assert_eq!(e5m2, NAN, "e5m2 {code:#x}"),
                _ => {
                    let want = small_float(u32::from(code), 5, 2) as f32;
                    assert_eq!(e5m2, want.to_bits(), "e5m2 {code:#x}");
                }
            }
        }
    }

    #[test]
    fn every_half_code_has_the_value_of_its_definition() {
        for code in 0..=u16::MAX {
            let raw = code.to_le_bytes();
            let (f16, bf16) = (one(Dtype::F16, &raw), one(Dtype::Bf16, &raw));
            let (code, sign) = (u32::from(code), u32::from(code & 0x8000) << 16);
            let want = match code & 0x7FFF {
                0x7C00 => sign | 0x7F80_0000,
                m @ 0x7C01.. => sign | 0x7FC0_0000 | ((m & 0x3FF) << 13),
                _ => (small_float(code, 5, 10) as f32).to_bits(),
            };
            assert_eq!(f16, want, "f16 {code:#x}");
            let quiet = if code & 0x7FFF > 0x7F80 { 0x40_0000 } else { 0 };
            assert_eq!(bf16, (code << 16) | quiet, "bf16 {code:#x}");
        }
    }

    #[test]
    fn long_runs_of_f16_agree_with_single_ones() {
        let raw: Vec<u8> = (0..5000_u16).flat_map(|i| i.wrapping_mul(13).to_le_bytes()).collect();
        let mut out = vec![0.0; 5000];
        to_f32(Dtype::F16, &raw, &mut out);
        for (i, out) in out.iter().enumerate() {
            assert_eq!(out.to_bits(), one(Dtype::F16, &raw[2 * i..2 * i + 2]), "sample {i}");
        }
    }

    #[test]
    fn integers_and_booleans_keep_their_values() {
        assert_eq!(one(Dtype::Bool, &[2]), 1_f32.to_bits());
        assert_eq!(one(Dtype::Bool, &[0]), 0);
        assert_eq!(one(Dtype::I8, &[0x80]), (-128_f32).to_bits());
        assert_eq!(one(Dtype::U8, &[0x80]), 128_f32.to_bits());
        assert_eq!(one(Dtype::I16, &i16::MIN.to_le_bytes()), (-32768_f32).to_bits());
        assert_eq!(one(Dtype::U16, &u16::MAX.to_le_bytes()), 65535_f32.to_bits());
        let mut out = [0.0];
        to_f64(Dtype::U64, &u64::MAX.to_le_bytes(), &mut out);
        assert_eq!(out[0], 18_446_744_073_709_551_616.0);
        // To f64's 53 bits, ties to even, and not by way of f32.
        for (x, want) in [
            ((1 << 24) + 1, 16_777_217.0),
            ((1 << 53) - 1, 9_007_199_254_740_991.0),
            ((1 << 53) + 1, 9_007_199_254_740_992.0),
            ((1 << 53) + 3, 9_007_199_254_740_996.0),
        ] {
            to_f64(Dtype::U64, &u64::to_le_bytes(x), &mut out);
            assert_eq!(out[0], want, "{x}");
            let x = i64::try_from(x).unwrap();
            to_f64(Dtype::I64, &(-x).to_le_bytes(), &mut out);
            assert_eq!(out[0], -want, "-{x}");
        }
        to_f64(Dtype::U32, &u32::MAX.to_le_bytes(), &mut out);
        assert_eq!(out[0], 4_294_967_295.0);
        to_f64(Dtype::I32, &(-16_777_217_i32).to_le_bytes(), &mut out);
        assert_eq!(out[0], -16_777_217.0);
        to_f64(Dtype::I64, &i64::MIN.to_le_bytes(), &mut out);
        assert_eq!(out[0], -9_223_372_036_854_775_808.0);
    }
}
