//! f32 arithmetic on bits, rounded to nearest even. Twin of `shaders/shared/softfloat.wgsl`, kept
//! comparable with it line by line, so that the integer forms are tested without a GPU and with
//! estimates far worse than this processor's.

use super::widen::INF;

/// Whether these are the bits of a finite float.
#[must_use]
pub fn is_finite(bits: u32) -> bool {
    bits & INF != INF
}

/// Orders as the finite floats do, with one key for both zeros.
#[must_use]
pub fn key_of(bits: u32) -> u32 {
    if bits > 0x8000_0000 { !bits } else { bits | 0x8000_0000 }
}

/// The bits that have this key; of a zero +0's.
#[must_use]
pub fn bits_of(key: u32) -> u32 {
    if key >= 0x8000_0000 { key ^ 0x8000_0000 } else { !key }
}

fn mantissa_of(magnitude: u32) -> u32 {
    (magnitude & 0x7F_FFFF) | if magnitude >= 0x80_0000 { 0x80_0000 } else { 0 }
}

fn exponent_of(magnitude: u32) -> u32 {
    (magnitude >> 23).max(1)
}

/// x − y of finite x ≥ y. Where that overflows, the result is not infinity but the bits that a
/// format with one exponent more would have; [`split`] takes them apart like any others.
#[must_use]
pub fn subtract(x: u32, y: u32) -> u32 {
    let (x_magnitude, y_magnitude) = (x & 0x7FFF_FFFF, y & 0x7FFF_FFFF);
    let large = x_magnitude.max(y_magnitude);
    let little = x_magnitude.min(y_magnitude);
    let mut exponent = exponent_of(large);
    // Three bits below the mantissa: guard, round, sticky.
    let a = mantissa_of(large) << 3;
    let b = mantissa_of(little) << 3;
    // From 27 on b is below the sticky bit, which a shift by 27 shows as well.
    let distance = (exponent - exponent_of(little)).min(27);
    let kept = b >> distance;
    let aligned = kept | u32::from(kept << distance != b);
    let same_sign = (x ^ y) & 0x8000_0000 == 0;
    let mut sum = if same_sign { a - aligned } else { a + aligned };
    if sum >= 0x800_0000 {
        sum = (sum >> 1) | (sum & 1);
        exponent += 1;
    } else {
        // Up to bit 26, as far as the exponent reaches.
        let lift = (sum.leading_zeros() - 5).min(exponent - 1);
        sum <<= lift;
        exponent -= lift;
    }
    if sum == 0 {
        return 0;
    }
    let mantissa = sum >> 3;
    let rest = sum & 7;
    let up = u32::from(rest > 4 || (rest == 4 && mantissa & 1 == 1));
    // The mantissa's bit 23, if it is there, counts the exponent up to where it belongs, and so
    // does a carry out of the rounding.
    ((exponent - 1) << 23) + mantissa + up
}

/// A positive float: mantissa · 2^(exponent − 150), with bit 23 the mantissa's highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// 24 bits.
    pub mantissa: u32,
    /// That of a subnormal goes down to −22.
    pub exponent: i32,
}

/// A positive float taken apart, or what [`subtract`] makes of an overflow.
#[must_use]
pub fn split(bits: u32) -> Split {
    let mantissa = mantissa_of(bits);
    let lift = mantissa.leading_zeros() - 8;
    Split {
        mantissa: mantissa << lift,
        exponent: exponent_of(bits).cast_signed() - lift.cast_signed(),
    }
}

/// n / d for such 0 ≤ n ≤ d and 0 < d, which is given taken apart. The estimate of the quotient
/// is made worse by `spoil` units, up to 100 of which do not matter.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "the estimates are cut to integers")]
#[allow(clippy::cast_sign_loss, reason = "the first estimate is a positive quotient")]
pub fn divide(n_bits: u32, d: Split, spoil: i32) -> u32 {
    if n_bits == 0 {
        return 0;
    }
    let n = split(n_bits);
    // The quotient (n.mantissa << places) / d.mantissa has 25 bits: 24 and one to round by.
    let places = if n.mantissa >= d.mantissa { 24 } else { 25 };
    let divisor = d.mantissa as f32;
    let power = if n.mantissa >= d.mantissa { 16_777_216.0 } else { 33_554_432.0 };
    let mut quotient =
        ((n.mantissa as f32 / divisor * power) as u32).wrapping_add(spoil.cast_unsigned());
    // Modulo 2^32, which is exact: an estimate up to 127 units off leaves it within 31 bits.
    let mut rest =
        (n.mantissa << places).wrapping_sub(quotient.wrapping_mul(d.mantissa)).cast_signed();
    // At most 127 in magnitude, so that it is exact but for the rounding to a whole number: the
    // rest is then within half a divisor of 0, and one step up brings it to 0 ≤ rest < divisor.
    // The others are for a driver that is worse at it than WGSL allows.
    let divisor_bits = d.mantissa.cast_signed();
    let off = rest as f32 / divisor;
    let correction = (off + if off < 0.0 { -0.5 } else { 0.5 }) as i32;
    quotient = quotient.wrapping_add(correction.cast_unsigned());
    rest = rest.wrapping_sub(correction.wrapping_mul(divisor_bits));
    for _ in 0..2 {
        if rest < 0 {
            rest += divisor_bits;
            quotient -= 1;
        }
    }
    if rest >= divisor_bits {
        rest -= divisor_bits;
        quotient += 1;
    }
    let exponent = n.exponent - d.exponent - places + 151;
    // A subnormal result drops more bits; from 26 on nothing is left to round up.
    let drop = (2 - exponent).clamp(1, 26);
    let mantissa = quotient >> drop;
    let dropped = quotient - (mantissa << drop);
    let middle = 1 << (drop - 1);
    let sticky = rest != 0 || mantissa & 1 == 1;
    let up = u32::from(dropped > middle || (dropped == middle && sticky));
    (((exponent.max(1) - 1) as u32) << 23) + mantissa + up
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::triples::{Family, triple};

    #[test]
    fn keys_order_as_floats_do_and_lead_back() {
        let mut bits: Vec<u32> = (0..200_000_u32)
            .map(|i| i.wrapping_mul(0x9E37_79B9))
            .filter(|&b| is_finite(b))
            .collect();
        bits.extend([0, 1 << 31, 1, (1 << 31) + 1, 0x7F7F_FFFF, 0xFF7F_FFFF]);
        for pair in bits.windows(2) {
            let (a, b) = (f32::from_bits(pair[0]), f32::from_bits(pair[1]));
            assert_eq!(
                a.partial_cmp(&b).unwrap(),
                key_of(pair[0]).cmp(&key_of(pair[1])),
                "{a} {b}"
            );
            assert_eq!(f32::from_bits(bits_of(key_of(pair[0]))), a);
            // 0 is the identity of the greatest key and of the greatest complement of one.
            assert!(key_of(pair[0]) > 0 && !key_of(pair[0]) > 0);
        }
        assert_eq!(bits_of(key_of(1 << 31)), 0);
    }

    #[test]
    fn twelve_million_triples_are_subtracted_and_divided_as_by_the_processor() {
        let spoils = [0, 16, -16, 48, -48, 100, -100];
        let mut divided = [0_u64; 2];
        for family in Family::ALL {
            for i in 0..1_800_000 {
                let [lo, x, hi] = triple(family, i);
                let [flo, fx, fhi] = [lo, x, hi].map(f32::from_bits);
                let (n, d) = (fx - flo + 0.0, fhi - flo + 0.0);
                let case = || format!("{family:?} {i}: lo {lo:#x} x {x:#x} hi {hi:#x}");
                assert_eq!(subtract(x, lo).min(INF), n.to_bits(), "x − lo, {}", case());
                assert_eq!(subtract(hi, lo).min(INF), d.to_bits(), "hi − lo, {}", case());
                if d > 0.0 {
                    let want = match d.is_finite() {
                        true => n / d,
                        false => (fx / 2.0 - flo / 2.0) / (fhi / 2.0 - flo / 2.0) + 0.0,
                    };
                    let spoil = spoils[(i % 7) as usize];
                    let got = divide(subtract(x, lo), split(subtract(hi, lo)), spoil);
                    assert_eq!(got, want.to_bits(), "spoiled by {spoil}, {}", case());
                    divided[usize::from(d.is_infinite())] += 1;
                }
            }
        }
        assert!(divided[0] > 10_000_000 && divided[1] > 500_000, "only {divided:?} divisions");
    }
}
