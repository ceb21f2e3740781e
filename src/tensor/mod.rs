//! The data room about tensors: element types ([`Dtype`]), what a source says of
//! its dumps and tensors ([`Dump`], [`TensorInfo`]), patterns of names, and how raw little-endian bytes widen to
//! numbers ([`decode`]).
//!
//! Nothing here reads files or knows about images.

pub mod decode;
mod dtype;
mod glob;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::error::counted;
pub use dtype::Dtype;
pub(crate) use glob::Glob;

/// One thing that the user pointed at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dump {
    /// How errors name it: the path as given.
    pub label: String,
    /// The `{stem}` of output names: the file's name without folder and extension.
    pub stem: String,
}

/// A file that a dump lies in, or a part of it, as it was when its header was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Its bytes, header included.
    pub bytes: u64,
    /// When it was last modified, where the system knows.
    pub modified: Option<SystemTime>,
}

/// One tensor of a dump, as its header describes it. The bytes stay where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The tensor's name in its dump.
    pub name: String,
    /// Index into [`Source::dumps`](crate::source::Source::dumps): where the tensor comes from.
    pub dump: usize,
    /// Element type.
    pub dtype: Dtype,
    /// Axis lengths, outermost first; empty for a scalar.
    pub shape: Vec<u64>,
    /// What is known of the axes before the last two.
    pub leading: Leading,
}

/// What is known of the axes that are not an image's, and why there may be none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Leading {
    /// That they count from 0 on, and the last of them channels.
    #[default]
    Plain,
    /// What their indices are called in the tensor as it is stored, outermost first.
    Named(Arc<[IndexAxis]>),
    /// The tensor gives no images, as its axes are not those that were asked for.
    Misfit(Misfit),
    /// It cannot: what was asked for is a slip, and this is what to say of it.
    Wrong(Arc<str>),
}

/// How the indices of an axis are called: `start`, `start + step` and so on, below `of`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexAxis {
    /// Its letter, if it has one: `C` for channels.
    pub letter: Option<char>,
    /// What the first index is called.
    pub start: u64,
    /// How far the next ones are, at least 1.
    pub step: u64,
    /// Length of the axis that they are taken of.
    pub of: u64,
}

/// Why a tensor gives no images by a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Misfit {
    /// It has so many axes, and there are so many letters.
    Rank(usize, usize),
    /// It has no axis of this letter; whether its letters were said.
    Letter(char, bool),
    /// It is so long, which is no multiple of so many rows.
    Rows(u64, u64),
    /// One axis is left, and no number of rows was said.
    NoRows,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Misfit::Rank(rank, letters) => {
                write!(f, "{rank}-D: --layout has {}", counted(*letters as u64, "letter"))
            }
            Misfit::Letter(letter, true) => write!(f, "its --layout has no axis {letter}"),
            Misfit::Letter(letter, false) => write!(
                f,
                "has no axis {letter}: the last four are N, C, H, W, unless --layout says otherwise"
            ),
            Misfit::Rows(1, rows) => write!(f, "1 sample does not make {rows} equal rows"),
            Misfit::Rows(len, rows) => write!(f, "{len} samples do not make {rows} equal rows"),
            Misfit::NoRows => f.write_str("one axis is left of it: --rows makes images of that"),
        }
    }
}

/// A tensor of a type that its format knows and this version does not convert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsupported {
    /// Index of the dump.
    pub dump: usize,
    /// The tensor's name.
    pub tensor: String,
    /// The type's name.
    pub dtype: String,
    /// Axis lengths, outermost first.
    pub shape: Vec<u64>,
    /// Number of bytes.
    pub bytes: u64,
}

impl TensorInfo {
    /// A tensor of which nothing is known but this.
    #[must_use]
    pub fn new(name: impl Into<String>, dump: usize, dtype: Dtype, shape: Vec<u64>) -> TensorInfo {
        TensorInfo { name: name.into(), dump, dtype, shape, leading: Leading::Plain }
    }

    /// Number of elements; `None` where the product of the axes that are not 0 leaves `u64`.
    #[must_use]
    pub fn elements(&self) -> Option<u64> {
        product(&self.shape, 1)
    }

    /// Number of bytes as the source gives them, C order without gaps, a byte or more a sample; `None` where the product of the axes that are not 0,
    /// in bytes, leaves `u64`.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        product(&self.shape, self.dtype.size() as u64)
    }

    /// Number of bytes as files have them, where samples of less than a byte are packed
    /// ([`Dtype::bits`]); `None` as of [`bytes`](TensorInfo::bytes).
    #[must_use]
    pub fn packed_bytes(&self) -> Option<u64> {
        let bits = u128::from(self.dtype.bits());
        let bytes = |samples: u64| (u128::from(samples) * bits).div_ceil(8);
        self.bytes()?;
        u64::try_from(bytes(self.elements()?)).ok()
    }
}

/// `unit` times all axes; `None` where it leaves `u64` even without the axes that are 0, as NumPy
/// has it: so it does not depend on where a 0 stands, and no product of some of the axes overflows.
pub(crate) fn product(shape: &[u64], unit: u64) -> Option<u64> {
    let mut axes = shape.iter().filter(|&&axis| axis > 0);
    let most = axes.try_fold(unit, |n, &axis| n.checked_mul(axis))?;
    Some(if shape.contains(&0) { 0 } else { most })
}
