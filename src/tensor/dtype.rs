//! The element types, with safetensors' names.

use std::fmt;

/// An element type. Bytes are little-endian, as in safetensors. A sample of a type of less than a byte
/// is a byte behind a [`Source`](crate::source::Source), whatever files have ([`bits`](Dtype::bits)):
/// its code, in the low bits; the others are not looked at.
#[allow(
    missing_docs,
    reason = "each variant is the name that safetensors gives the type; Bool is one byte, nonzero = 1"
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dtype {
    Bool,
    F4,
    F6E2m3,
    F6E3m2,
    U8,
    I8,
    F8E4m3,
    F8E5m2,
    F8E8m0,
    F8E4m3Fnuz,
    F8E5m2Fnuz,
    U16,
    I16,
    F16,
    Bf16,
    U32,
    I32,
    F32,
    U64,
    I64,
    F64,
}

impl Dtype {
    /// Every element type that can be converted.
    pub const ALL: [Dtype; 21] = [
        Dtype::Bool,
        Dtype::F4,
        Dtype::F6E2m3,
        Dtype::F6E3m2,
        Dtype::U8,
        Dtype::I8,
        Dtype::F8E4m3,
        Dtype::F8E5m2,
        Dtype::F8E8m0,
        Dtype::F8E4m3Fnuz,
        Dtype::F8E5m2Fnuz,
        Dtype::U16,
        Dtype::I16,
        Dtype::F16,
        Dtype::Bf16,
        Dtype::U32,
        Dtype::I32,
        Dtype::F32,
        Dtype::U64,
        Dtype::I64,
        Dtype::F64,
    ];

    /// Bytes per element, as sources give them.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Dtype::Bool
            | Dtype::F4
            | Dtype::F6E2m3
            | Dtype::F6E3m2
            | Dtype::U8
            | Dtype::I8
            | Dtype::F8E4m3
            | Dtype::F8E5m2
            | Dtype::F8E8m0
            | Dtype::F8E4m3Fnuz
            | Dtype::F8E5m2Fnuz => 1,
            Dtype::U16 | Dtype::I16 | Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::U32 | Dtype::I32 | Dtype::F32 => 4,
            Dtype::U64 | Dtype::I64 | Dtype::F64 => 8,
        }
    }

    /// Bits per element, as files have them: of F4 two samples are in a byte, the first in its low half,
    /// of F6 four in three bytes, each from the lowest free bit on.
    #[must_use]
    pub const fn bits(self) -> u64 {
        match self {
            Dtype::F4 => 4,
            Dtype::F6E2m3 | Dtype::F6E3m2 => 6,
            _ => 8 * self.size() as u64,
        }
    }

    /// Whether the arithmetic runs in f64, because f32 does not hold every value of the type.
    /// All other types widen exactly to f32 and are computed there.
    #[must_use]
    pub const fn is_wide(self) -> bool {
        matches!(self, Dtype::U32 | Dtype::I32 | Dtype::U64 | Dtype::I64 | Dtype::F64)
    }

    /// The name that safetensors uses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::Bool => "BOOL",
            Dtype::F4 => "F4",
            Dtype::F6E2m3 => "F6_E2M3",
            Dtype::F6E3m2 => "F6_E3M2",
            Dtype::U8 => "U8",
            Dtype::I8 => "I8",
            Dtype::F8E4m3 => "F8_E4M3",
            Dtype::F8E5m2 => "F8_E5M2",
            Dtype::F8E8m0 => "F8_E8M0",
            Dtype::F8E4m3Fnuz => "F8_E4M3FNUZ",
            Dtype::F8E5m2Fnuz => "F8_E5M2FNUZ",
            Dtype::U16 => "U16",
            Dtype::I16 => "I16",
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
            Dtype::U32 => "U32",
            Dtype::I32 => "I32",
            Dtype::F32 => "F32",
            Dtype::U64 => "U64",
            Dtype::I64 => "I64",
            Dtype::F64 => "F64",
        }
    }

    /// The type that safetensors calls `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Dtype> {
        Dtype::ALL.into_iter().find(|dtype| dtype.name() == name)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
