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

/// What each code of a small float stands for.
type Table = [f32; 256];

static E4M3: Table = Small { exponent: 4, mantissa: 3, bias: 7, top: Top::Nan }.table();
static E5M2: Table = Small { exponent: 5, mantissa: 2, bias: 15, top: Top::Ieee }.table();
static E4M3_FNUZ: Table = Small { exponent: 4, mantissa: 3, bias: 8, top: Top::Fnuz }.table();
static E5M2_FNUZ: Table = Small { exponent: 5, mantissa: 2, bias: 16, top: Top::Fnuz }.table();
static F6_E2M3: Table = Small { exponent: 2, mantissa: 3, bias: 1, top: Top::Finite }.table();
static F6_E3M2: Table = Small { exponent: 3, mantissa: 2, bias: 3, top: Top::Finite }.table();
static F4: Table = Small { exponent: 2, mantissa: 1, bias: 1, top: Top::Finite }.table();
static E8M0: Table = e8m0();

/// A float of at most 8 bits: sign, exponent, mantissa. Bits above the sign are not looked at.
/// value = ±mantissa × 2^(max(exponent, 1) − bias − mantissa bits), with the hidden bit set where the
/// exponent field is not 0. Sources: the OCP's specifications of 8-bit floating point (1.0) and of
/// microscaling formats (1.0); of FNUZ, <https://arxiv.org/abs/2206.02915>.
struct Small {
    exponent: u32,
    mantissa: u32,
    bias: u32,
    top: Top,
}

/// What of a small float's codes is no number.
#[derive(Clone, Copy)]
enum Top {
    /// As IEEE 754 has it.
    Ieee,
    /// The greatest magnitude is NaN, and there are no infinities.
    Nan,
    /// The code of −0 is NaN.
    Fnuz,
    /// None.
    Finite,
}

impl Small {
    const fn table(&self) -> Table {
        let mut table = [0.0; 256];
        let mut code = 0_u32;
        while code < 256 {
            table[code as usize] = f32::from_bits(self.decode(code));
            code += 1;
        }
        table
    }

    const fn decode(&self, code: u32) -> u32 {
        let width = self.exponent + self.mantissa;
        let magnitude = code & ((1 << width) - 1);
        let sign = (code >> width & 1) << 31;
        let infinity = ((1 << self.exponent) - 1) << self.mantissa;
        match self.top {
            Top::Ieee if magnitude > infinity => NAN,
            Top::Ieee if magnitude == infinity => sign | 0x7F80_0000,
            Top::Nan if magnitude == (1 << width) - 1 => NAN,
            Top::Fnuz if magnitude == 0 && sign != 0 => NAN,
            _ => sign | self.finite(magnitude),
        }
    }

    const fn finite(&self, magnitude: u32) -> u32 {
        let exponent = magnitude >> self.mantissa;
        let mut significand = magnitude & ((1 << self.mantissa) - 1);
        let mut scale = 127 - self.bias + 1; // biased f32 exponent of exponent field 1
        if exponent > 0 {
            significand |= 1 << self.mantissa;
            scale += exponent - 1;
        }
        if significand == 0 {
            return 0;
        }
        // Shift the leading one up to the hidden place of an f32.
        let lift = significand.leading_zeros() - 8;
        ((significand << lift) & 0x7F_FFFF) | ((scale + (23 - self.mantissa) - lift) << 23)
    }
}

/// 2^(code − 127): an f32's exponent without the rest, and its greatest code NaN.
const fn e8m0() -> Table {
    let mut table = [0.0; 256];
    table[0] = f32::from_bits(1 << 22); // subnormal
    let mut code = 1_u32;
    while code < 255 {
        table[code as usize] = f32::from_bits(code << 23);
        code += 1;
    }
    table[255] = f32::from_bits(NAN);
    table
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
        Dtype::F8E4m3Fnuz => each(raw, out, |[b]| E4M3_FNUZ[usize::from(b)]),
        Dtype::F8E5m2Fnuz => each(raw, out, |[b]| E5M2_FNUZ[usize::from(b)]),
        Dtype::F8E8m0 => each(raw, out, |[b]| E8M0[usize::from(b)]),
        Dtype::F6E2m3 => each(raw, out, |[b]| F6_E2M3[usize::from(b)]),
        Dtype::F6E3m2 => each(raw, out, |[b]| F6_E3M2[usize::from(b)]),
        Dtype::F4 => each(raw, out, |[b]| F4[usize::from(b)]),
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

    /// The others' codes are in tests/small_floats.rs; here is that of a wider byte only the low bits count.
    #[test]
    fn other_small_floats_have_the_values_of_their_definitions() {
        for code in 0..=255_u8 {
            let wide = u32::from(code);
            for (dtype, exponent, mantissa) in
                [(Dtype::F6E2m3, 2, 3), (Dtype::F6E3m2, 3, 2), (Dtype::F4, 2, 1)]
            {
                let low = wide & ((1 << (exponent + mantissa + 1)) - 1);
                let want = small_float(low, exponent, mantissa) as f32;
                assert_eq!(one(dtype, &[code]), want.to_bits(), "{dtype} {code:#x}");
            }
            // With their bias greater by one.
            for (dtype, exponent, mantissa) in
                [(Dtype::F8E4m3Fnuz, 4, 3), (Dtype::F8E5m2Fnuz, 5, 2)]
            {
                let want = small_float(wide, exponent, mantissa) as f32 / 2.0;
                let want = if code == 0x80 { NAN } else { want.to_bits() };
                assert_eq!(one(dtype, &[code]), want, "{dtype} {code:#x}");
            }
            let want = 2_f64.powi(i32::from(code) - 127) as f32;
            let want = if code == 255 { NAN } else { want.to_bits() };
            assert_eq!(one(Dtype::F8E8m0, &[code]), want, "{code:#x}");
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
