// From samples to an extent, from that to a range, and from the range to pixels. Twin:
// src/backend/cpu/range.rs.

// One sample's part in an extent.
fn look(so_far: Extent, x: u32) -> Extent {
    var extent = so_far;
    extent.visited += 1u;
    if is_finite(x) {
        extent.max_key = max(extent.max_key, key_of(x));
        extent.max_inverse_key = max(extent.max_inverse_key, ~key_of(x));
    } else if x == INF {
        extent.pos_inf += 1u;
    } else if x == (INF | 0x80000000u) {
        extent.neg_inf += 1u;
    } else {
        extent.nan += 1u;
    }
    return extent;
}

fn range_of(norm: u32, extent: Extent) -> Range {
    var lo = bits_of(~extent.max_inverse_key);
    var hi = bits_of(extent.max_key);
    // Without a finite sample, and of a constant image, there is no range.
    if norm == 0u || extent.max_key == 0u || lo == hi {
        return Range(KEEP, 0u, 0u, 0u, 0);
    }
    if norm == 2u {
        hi = max(lo & 0x7FFFFFFFu, hi & 0x7FFFFFFFu);
        lo = hi | 0x80000000u;
    }
    // Where hi - lo overflows, the contract halves x, lo and hi first. Here the exponent has room
    // for the difference; halving is exact for every sample that can matter, so that the quotient
    // is the same.
    let divisor = split(subtract(hi, lo));
    return Range(MINMAX, lo, hi, divisor.mantissa, divisor.exponent);
}

fn pixel(range: Range, x: u32) -> u32 {
    if range.mode == KEEP || !is_finite(x) {
        return x;
    }
    if range.mode == CLAMPED {
        if key_of(x) <= key_of(range.lo) {
            return 0u;
        }
        if key_of(x) >= key_of(range.hi) {
            return 0x3F800000u;
        }
    }
    let divisor = Split(range.divisor_mantissa, range.divisor_exponent);
    return divide(subtract(x, range.lo), divisor);
}
