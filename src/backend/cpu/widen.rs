//! Raw codes to the bits of the f32 that they stand for, by integers alone. Twin of
//! `shaders/shared/widen.wgsl`; the production code is [`tensor::decode`](crate::tensor::decode),
//! with which the tests hold every code of 8 and 16 bits.

use crate::tensor::Dtype;
use crate::tensor::decode::NAN;

/// The bits of +∞.
pub const INF: u32 = 0x7F80_0000;

/// The bits of mantissa · 2^−scale, for a mantissa below 2^24 and a result in the normal range.
fn scaled(sign: u32, mantissa: u32, scale: u32) -> u32 {
    if mantissa == 0 {
        return sign;
    }
    let lift = mantissa.leading_zeros() - 8;
    sign | ((mantissa << lift) & 0x7F_FFFF) | ((150 - scale - lift) << 23)
}

fn f16(half: u32) -> u32 {
    let sign = (half & 0x8000) << 16;
    let magnitude = half & 0x7FFF;
    if magnitude >= 0x7C00 {
        let quiet = if magnitude > 0x7C00 { 0x40_0000 } else { 0 };
        return sign | INF | ((magnitude & 0x3FF) << 13) | quiet;
    }
    if magnitude >= 0x400 {
        // The exponent's bias grows by 112.
        return sign | ((magnitude << 13) + (112 << 23));
    }
    scaled(sign, magnitude, 24)
}

fn bf16(half: u32) -> u32 {
    let bits = half << 16;
    bits | if bits & 0x7FFF_FFFF > INF { 0x40_0000 } else { 0 }
}

fn f8_e4m3(code: u32) -> u32 {
    let sign = (code & 0x80) << 24;
    match code & 0x7F {
        0x7F => NAN,
        magnitude @ 8.. => sign | ((magnitude << 20) + (120 << 23)),
        magnitude => scaled(sign, magnitude, 9),
    }
}

fn f8_e5m2(code: u32) -> u32 {
    let sign = (code & 0x80) << 24;
    match code & 0x7F {
        0x7D.. => NAN,
        0x7C => sign | INF,
        magnitude @ 4.. => sign | ((magnitude << 21) + (112 << 23)),
        magnitude => scaled(sign, magnitude, 16),
    }
}

fn f8_e8m0(code: u32) -> u32 {
    match code {
        0xFF => NAN,
        0 => 1 << 22,
        code => code << 23,
    }
}

/// A float without infinities: its sign is bit `top`, `fraction` the width of its mantissa.
fn small(code: u32, top: u32, fraction: u32, bias: u32) -> u32 {
    let sign = (code >> top & 1) << 31;
    let magnitude = code & ((1 << top) - 1);
    if magnitude >> fraction > 0 {
        return sign | ((magnitude << (23 - fraction)) + ((127 - bias) << 23));
    }
    scaled(sign, magnitude, fraction + bias - 1)
}

fn fnuz(code: u32, fraction: u32, bias: u32) -> u32 {
    if code == 0x80 { NAN } else { small(code, 7, fraction, bias) }
}

/// A two's complement integer whose sign bit is `top`.
fn signed(code: u32, top: u32) -> u32 {
    if code & top != 0 { scaled(1 << 31, 2 * top - code, 0) } else { scaled(0, code, 0) }
}

/// The f32 bits of one code of a narrow type; `None` of a wide one.
#[must_use]
pub fn decode(dtype: Dtype, code: u32) -> Option<u32> {
    Some(match dtype {
        Dtype::F32 => code,
        Dtype::F16 => f16(code),
        Dtype::Bf16 => bf16(code),
        Dtype::F8E4m3 => f8_e4m3(code),
        Dtype::F8E5m2 => f8_e5m2(code),
        Dtype::F8E8m0 => f8_e8m0(code),
        Dtype::F8E4m3Fnuz => fnuz(code, 3, 8),
        Dtype::F8E5m2Fnuz => fnuz(code, 2, 16),
        Dtype::F6E2m3 => small(code, 5, 3, 1),
        Dtype::F6E3m2 => small(code, 5, 2, 3),
        Dtype::F4 => small(code, 3, 1, 1),
        Dtype::Bool => u32::from(code != 0) * 0x3F80_0000,
        Dtype::I8 => signed(code, 0x80),
        Dtype::I16 => signed(code, 0x8000),
        Dtype::U8 | Dtype::U16 => scaled(0, code, 0),
        Dtype::U32 | Dtype::I32 | Dtype::U64 | Dtype::I64 | Dtype::F64 => return None,
    })
}

/// Sample `index` of samples that begin at `first_byte` of `raw`, as the kernels load it: a word
/// and a shift. `None` of a wide type.
#[must_use]
pub fn sample(dtype: Dtype, raw: &[u32], first_byte: usize, index: usize) -> Option<u32> {
    let byte = first_byte + index * dtype.size();
    let word = raw[byte >> 2] >> (8 * (byte & 3));
    let mask =
        u32::MAX.checked_shr(32_u32.saturating_sub(8 * u32::try_from(dtype.size()).ok()?))?;
    decode(dtype, word & mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::decode::to_f32;

    #[test]
    fn every_code_decodes_to_what_the_production_code_says() {
        for dtype in Dtype::ALL.into_iter().filter(|dtype| dtype.size() < 4) {
            let codes = 1_u32 << (8 * dtype.size());
            for code in 0..codes {
                let mut want = [0.0];
                to_f32(dtype, &code.to_le_bytes()[..dtype.size()], &mut want);
                let got = decode(dtype, code).unwrap();
                assert_eq!(got, want[0].to_bits(), "{dtype} {code:#x}");
            }
        }
    }

    #[test]
    fn samples_are_found_at_every_byte() {
        let bytes: Vec<u8> = (0..64_u8).map(|i| i.wrapping_mul(37)).collect();
        let words: Vec<u32> =
            bytes.chunks(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect();
        for dtype in [Dtype::U8, Dtype::U16, Dtype::F32] {
            for first in (0..16).step_by(dtype.size()) {
                for index in 0..8 {
                    let at = first + index * dtype.size();
                    let mut want = [0.0];
                    to_f32(dtype, &bytes[at..at + dtype.size()], &mut want);
                    let got = sample(dtype, &words, first, index).unwrap();
                    assert_eq!(got, want[0].to_bits(), "{dtype} {first} {index}");
                }
            }
        }
    }
}
