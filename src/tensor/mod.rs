//! The data room about tensors: element types ([`Dtype`]), what a source says of
//! its dumps and tensors ([`Dump`], [`TensorInfo`]), and how raw little-endian bytes widen to numbers ([`decode`]).
//!
//! Nothing here reads files or knows about images.

pub mod decode;
mod dtype;

use std::time::SystemTime;

pub use dtype::Dtype;

/// One thing that the user pointed at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dump {
    /// How errors name it: the path as given.
    pub label: String,
    /// The `{stem}` of output names: the file's name without folder and extension.
    pub stem: String,
}

/// A file that a dump lies in, as it was when its header was read.
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
    /// Number of elements; `None` where the product of the axes that are not 0 leaves `u64`.
    #[must_use]
    pub fn elements(&self) -> Option<u64> {
        product(&self.shape, 1)
    }

    /// Number of bytes, C order without gaps; `None` where the product of the axes that are not 0,
    /// in bytes, leaves `u64`.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        product(&self.shape, self.dtype.size() as u64)
    }
}

/// `unit` times all axes; `None` where it leaves `u64` even without the axes that are 0, as NumPy
/// has it: so it does not depend on where a 0 stands, and no product of some of the axes overflows.
pub(crate) fn product(shape: &[u64], unit: u64) -> Option<u64> {
    let mut axes = shape.iter().filter(|&&axis| axis > 0);
    let most = axes.try_fold(unit, |n, &axis| n.checked_mul(axis))?;
    Some(if shape.contains(&0) { 0 } else { most })
}
