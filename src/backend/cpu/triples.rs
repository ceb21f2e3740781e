//! Families of lo ≤ x ≤ hi on which arithmetic goes wrong, for tests and for a GPU's proof.

/// A way of choosing three floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Any finite bits.
    Random,
    /// One exponent: exact cancellation.
    SameExponent,
    /// Sums of uniform numbers about 0, as weights are.
    Gaussian,
    /// Numbers at which something changes, crossed.
    Special,
    /// A range of a few units in the last place.
    Narrow,
    /// Ranges that overflow f32, more often than not.
    Wide,
    /// Subnormal numbers and the least normal ones.
    Subnormal,
}

impl Family {
    /// All of them.
    pub const ALL: [Family; 7] = [
        Family::Random,
        Family::SameExponent,
        Family::Gaussian,
        Family::Special,
        Family::Narrow,
        Family::Wide,
        Family::Subnormal,
    ];
}

/// Numbers at which something changes; with either sign.
const SPECIAL: [u32; 20] = [
    0,
    1,
    2,
    3,
    0x007F_FFFF,
    0x0080_0000,
    0x0080_0001,
    0x00FF_FFFF,
    0x0100_0000,
    0x0100_0001,
    0x0CFF_FFFF,
    0x3300_0000,
    0x3F7F_FFFF,
    0x3F80_0000,
    0x3F80_0001,
    0x4B7F_FFFF,
    0x4B80_0000,
    0x7EFF_FFFF,
    0x7F00_0000,
    0x7F7F_FFFF,
];

/// SplitMix64: the bits of `seed`, mixed.
#[must_use]
pub fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The bits of finite lo ≤ x ≤ hi, number `index` of a family.
#[must_use]
pub fn triple(family: Family, index: u64) -> [u32; 3] {
    let mut bits = [0, 1, 2].map(|k| member(family, index, k));
    bits.sort_by(|&a, &b| f32::from_bits(a).total_cmp(&f32::from_bits(b)));
    bits
}

/// The bits of finite float `which` of set `index` of a family.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "random bits are cut to size")]
pub fn member(family: Family, index: u64, which: u64) -> u32 {
    let base = mix(index ^ ((family as u64) << 56));
    let bits = mix(base.wrapping_add(which));
    let word = (bits >> 32) as u32;
    let sign = word & 0x8000_0000;
    match family {
        Family::Random if word & 0x7F80_0000 == 0x7F80_0000 => word ^ 0x4000_0000,
        Family::Random => word,
        Family::SameExponent => {
            let exponent = (base >> 40) as u32 % 255;
            (exponent << 23) | (word & 0x7F_FFFF) | ((base >> 63) as u32) << 31
        }
        Family::Gaussian => {
            let parts = bits.to_le_bytes();
            let sum: f32 = parts.map(|part| f32::from(part) - 127.5).into_iter().sum();
            (sum * (1.0 + (word & 0xFFFF) as f32 * 1e-6) * 1e-3).to_bits()
        }
        Family::Special => SPECIAL[(bits % SPECIAL.len() as u64) as usize] | sign,
        Family::Narrow => {
            let start = (base >> 32) as u32 & 0x7EFF_FFFF;
            (start + word % 10) | ((base >> 63) as u32) << 31
        }
        Family::Wide => match bits % 8 {
            0 => word & 0x83FF_FFFF,
            _ => sign | ((254 - (bits >> 8 & 1) as u32) << 23) | (word & 0x7F_FFFF),
        },
        Family::Subnormal => (word & (0x1FF_FFFF >> (bits % 24))) | sign,
    }
}
