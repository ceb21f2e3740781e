// Raw little-endian samples to the bits of the f32 that they stand for. Integers only: a driver may
// flush subnormals in a bitcast or an unpack. Twin: src/backend/cpu/widen.rs.

const DTYPE_F32: u32 = 0u;
const DTYPE_F16: u32 = 1u;
const DTYPE_BF16: u32 = 2u;
const DTYPE_F8_E4M3: u32 = 3u;
const DTYPE_F8_E5M2: u32 = 4u;
const DTYPE_BOOL: u32 = 5u;
const DTYPE_I8: u32 = 6u;
const DTYPE_U8: u32 = 7u;
const DTYPE_I16: u32 = 8u;
const DTYPE_U16: u32 = 9u;
const DTYPE_F8_E8M0: u32 = 10u;
const DTYPE_F8_E4M3FNUZ: u32 = 11u;
const DTYPE_F8_E5M2FNUZ: u32 = 12u;
const DTYPE_F6_E2M3: u32 = 13u;
const DTYPE_F6_E3M2: u32 = 14u;
const DTYPE_F4: u32 = 15u;

const INF: u32 = 0x7F800000u;
// The NaN of every type that has no payload worth keeping.
const NAN: u32 = 0x7FC00000u;

// The bits of mantissa * 2^-scale, for a mantissa below 2^24 and a result in the normal range.
fn scaled(sign: u32, mantissa: u32, scale: u32) -> u32 {
    // countLeadingZeros of 0 is 32; select throws that result away, the shift is masked.
    let lift = countLeadingZeros(mantissa) - 8u;
    let bits = ((mantissa << (lift & 31u)) & 0x7FFFFFu) | ((150u - scale - lift) << 23u);
    return sign | select(bits, 0u, mantissa == 0u);
}

fn decode_f16(half: u32) -> u32 {
    let sign = (half & 0x8000u) << 16u;
    let magnitude = half & 0x7FFFu;
    if magnitude >= 0x7C00u {
        let quiet = select(0u, 0x400000u, magnitude > 0x7C00u);
        return sign | INF | ((magnitude & 0x3FFu) << 13u) | quiet;
    }
    if magnitude >= 0x400u {
        // The exponent's bias grows by 112.
        return sign | ((magnitude << 13u) + (112u << 23u));
    }
    return scaled(sign, magnitude, 24u);
}

fn decode_bf16(half: u32) -> u32 {
    let bits = half << 16u;
    return bits | select(0u, 0x400000u, (bits & 0x7FFFFFFFu) > INF);
}

fn decode_f8_e4m3(code: u32) -> u32 {
    let sign = (code & 0x80u) << 24u;
    let magnitude = code & 0x7Fu;
    if magnitude == 0x7Fu {
        return NAN;
    }
    if magnitude >= 8u {
        return sign | ((magnitude << 20u) + (120u << 23u));
    }
    return scaled(sign, magnitude, 9u);
}

fn decode_f8_e5m2(code: u32) -> u32 {
    let sign = (code & 0x80u) << 24u;
    let magnitude = code & 0x7Fu;
    if magnitude > 0x7Cu {
        return NAN;
    }
    if magnitude == 0x7Cu {
        return sign | INF;
    }
    if magnitude >= 4u {
        return sign | ((magnitude << 21u) + (112u << 23u));
    }
    return scaled(sign, magnitude, 16u);
}

// Powers of two, of which the least is subnormal.
fn decode_f8_e8m0(code: u32) -> u32 {
    if code == 0xFFu {
        return NAN;
    }
    return select(code << 23u, 0x400000u, code == 0u);
}

// A float without infinities: its sign is bit `top`, `fraction` the width of its mantissa. Bits above
// the sign are not looked at.
fn decode_small(code: u32, top: u32, fraction: u32, bias: u32) -> u32 {
    let sign = ((code >> top) & 1u) << 31u;
    let magnitude = code & ((1u << top) - 1u);
    if (magnitude >> fraction) > 0u {
        return sign | ((magnitude << (23u - fraction)) + ((127u - bias) << 23u));
    }
    return scaled(sign, magnitude, fraction + bias - 1u);
}

// What would be -0 is NaN.
fn decode_fnuz(code: u32, fraction: u32, bias: u32) -> u32 {
    return select(decode_small(code, 7u, fraction, bias), NAN, code == 0x80u);
}

// A two's complement integer whose sign bit is `top`.
fn decode_signed(code: u32, top: u32) -> u32 {
    let negative = (code & top) != 0u;
    let magnitude = select(code, 2u * top - code, negative);
    return scaled(select(0u, 0x80000000u, negative), magnitude, 0u);
}

fn decode(dtype: u32, code: u32) -> u32 {
    switch dtype {
        case DTYPE_F32: { return code; }
        case DTYPE_F16: { return decode_f16(code); }
        case DTYPE_BF16: { return decode_bf16(code); }
        case DTYPE_F8_E4M3: { return decode_f8_e4m3(code); }
        case DTYPE_F8_E5M2: { return decode_f8_e5m2(code); }
        case DTYPE_F8_E8M0: { return decode_f8_e8m0(code); }
        case DTYPE_F8_E4M3FNUZ: { return decode_fnuz(code, 3u, 8u); }
        case DTYPE_F8_E5M2FNUZ: { return decode_fnuz(code, 2u, 16u); }
        case DTYPE_F6_E2M3: { return decode_small(code, 5u, 3u, 1u); }
        case DTYPE_F6_E3M2: { return decode_small(code, 5u, 2u, 3u); }
        case DTYPE_F4: { return decode_small(code, 3u, 1u, 1u); }
        case DTYPE_BOOL: { return select(0u, 0x3F800000u, code != 0u); }
        case DTYPE_I8: { return decode_signed(code, 0x80u); }
        case DTYPE_I16: { return decode_signed(code, 0x8000u); }
        default: { return scaled(0u, code, 0u); }
    }
}

// Binary logarithm of the bytes of a sample.
fn size_shift(dtype: u32) -> u32 {
    switch dtype {
        case DTYPE_F32: { return 2u; }
        case DTYPE_F16, DTYPE_BF16, DTYPE_I16, DTYPE_U16: { return 1u; }
        default: { return 0u; }
    }
}

// Sample `index` of samples that begin at `first_byte` of `raw`, which may be any byte.
fn sample(dtype: u32, first_byte: u32, index: u32) -> u32 {
    let shift = size_shift(dtype);
    let byte = first_byte + (index << shift);
    let word = raw[byte >> 2u] >> (8u * (byte & 3u));
    // 8, 16 or 32 bits.
    let mask = 0xFFFFFFFFu >> (32u - (8u << shift));
    return decode(dtype, word & mask);
}
