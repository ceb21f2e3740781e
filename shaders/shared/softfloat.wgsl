// f32 arithmetic on bits, rounded to nearest even. WGSL lets a driver flush subnormals, round
// either way and be 2.5 units off in a division, so that floats serve for estimates only, far from
// every edge, and integers decide. Twin: src/backend/cpu/softfloat.rs.

// Units by which tests spoil the quotient's estimate; up to 100 either way must not matter.
override SPOIL: i32 = 0;

fn is_finite(bits: u32) -> bool {
    return (bits & INF) != INF;
}

// Orders as the finite floats do, with one key for both zeros.
fn key_of(bits: u32) -> u32 {
    if bits > 0x80000000u {
        return ~bits;
    }
    return bits | 0x80000000u;
}

fn bits_of(key: u32) -> u32 {
    return select(~key, key ^ 0x80000000u, key >= 0x80000000u);
}

fn mantissa_of(magnitude: u32) -> u32 {
    return (magnitude & 0x7FFFFFu) | select(0u, 0x800000u, magnitude >= 0x800000u);
}

fn exponent_of(magnitude: u32) -> u32 {
    return max(magnitude >> 23u, 1u);
}

// x - y of finite x >= y. Where that overflows, the result is not infinity but the bits that a
// format with one exponent more would have; split takes them apart like any others.
fn subtract(x: u32, y: u32) -> u32 {
    let x_magnitude = x & 0x7FFFFFFFu;
    let y_magnitude = y & 0x7FFFFFFFu;
    let large = max(x_magnitude, y_magnitude);
    let little = min(x_magnitude, y_magnitude);
    var exponent = exponent_of(large);
    // Three bits below the mantissa: guard, round, sticky.
    let a = mantissa_of(large) << 3u;
    let b = mantissa_of(little) << 3u;
    // From 27 on b is below the sticky bit, which a shift by 27 shows as well.
    let distance = min(exponent - exponent_of(little), 27u);
    let kept = b >> distance;
    let aligned = kept | select(0u, 1u, (kept << distance) != b);
    let same_sign = ((x ^ y) & 0x80000000u) == 0u;
    var sum = select(a + aligned, a - aligned, same_sign);
    if sum >= 0x8000000u {
        sum = (sum >> 1u) | (sum & 1u);
        exponent += 1u;
    } else {
        // Up to bit 26, as far as the exponent reaches.
        let lift = min(countLeadingZeros(sum) - 5u, exponent - 1u);
        sum <<= (lift & 31u);
        exponent -= lift;
    }
    if sum == 0u {
        return 0u;
    }
    let mantissa = sum >> 3u;
    let rest = sum & 7u;
    let up = select(0u, 1u, rest > 4u || (rest == 4u && (mantissa & 1u) == 1u));
    // The mantissa's bit 23, if it is there, counts the exponent up to where it belongs, and so
    // does a carry out of the rounding.
    return ((exponent - 1u) << 23u) + mantissa + up;
}

struct Split {
    // value = mantissa * 2^(exponent - 150), with bit 23 the mantissa's highest.
    mantissa: u32,
    exponent: i32,
}

// A positive float taken apart, or what subtract makes of an overflow.
fn split(bits: u32) -> Split {
    let mantissa = mantissa_of(bits);
    let lift = countLeadingZeros(mantissa) - 8u;
    return Split(mantissa << (lift & 31u), i32(exponent_of(bits)) - i32(lift));
}

// n / d for such 0 <= n <= d and 0 < d, which is given taken apart.
fn divide(n_bits: u32, d: Split) -> u32 {
    if n_bits == 0u {
        return 0u;
    }
    let n = split(n_bits);
    // The quotient (n.mantissa << places) / d.mantissa has 25 bits: 24 and one to round by.
    let places = select(25u, 24u, n.mantissa >= d.mantissa);
    let divisor = f32(d.mantissa);
    let power = select(33554432.0, 16777216.0, n.mantissa >= d.mantissa);
    var quotient = u32(f32(n.mantissa) / divisor * power) + u32(SPOIL);
    // Modulo 2^32, which is exact: an estimate up to 127 units off leaves it within 31 bits.
    var rest = i32((n.mantissa << places) - quotient * d.mantissa);
    // At most 127 in magnitude, so that it is exact but for the rounding to a whole number: the
    // rest is then within half a divisor of 0, and one step up brings it to 0 <= rest < divisor.
    // The others are for a driver that is worse at it than WGSL allows.
    let off = f32(rest) / divisor;
    let correction = i32(off + select(0.5, -0.5, off < 0.0));
    quotient += u32(correction);
    rest -= correction * i32(d.mantissa);
    if rest < 0 {
        rest += i32(d.mantissa);
        quotient -= 1u;
    }
    if rest < 0 {
        rest += i32(d.mantissa);
        quotient -= 1u;
    }
    if rest >= i32(d.mantissa) {
        rest -= i32(d.mantissa);
        quotient += 1u;
    }
    let exponent = n.exponent - d.exponent - i32(places) + 151;
    // A subnormal result drops more bits; from 26 on nothing is left to round up.
    let drop = u32(clamp(2 - exponent, 1, 26));
    let mantissa = quotient >> drop;
    let dropped = quotient - (mantissa << drop);
    let middle = 1u << (drop - 1u);
    let sticky = rest != 0 || (mantissa & 1u) == 1u;
    let up = select(0u, 1u, dropped > middle || (dropped == middle && sticky));
    return (u32(max(exponent, 1) - 1) << 23u) + mantissa + up;
}
