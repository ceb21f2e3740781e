//! The first stage: what tensors there are, and their bytes.
//!
//! A source lists tensors from headers alone and answers one question, [`Source::read_at`]. It
//! reads into buffers that the caller owns and never maps files into memory: a file that shrinks
//! under a map kills the process, a short read is an error with a name.
//!
//! Files come through `dump_files`, which opens them by their `formats`: safetensors (`header`, and
//! `index` for several files), NumPy's (`npy`, in `zip` archives), torch's (`pickle`, `torch`), bytes without
//! a header (`raw`). What files leave open the user says (`reading`). What is not stored in C order,
//! little-endian and in whole bytes is read as if it were (`stored`), and so is what is deflated (`inflate`: one
//! thread on its way through a member; `unpacker`: all of them at once). A [`View`] shows a source's tensors with
//! other axes. Parsers trust nothing:
//! they have no unsafe, check every sum and product, and bound what they allocate and how deep they go.

mod dump_files;
mod formats;
mod header;
mod index;
mod inflate;
mod memory;
mod npy;
mod open_files;
mod pickle;
mod pread;
mod raw;
mod reading;
mod stored;
mod torch;
mod unpacker;
mod view;
mod written;
mod zip;

pub use dump_files::DumpFiles;
#[cfg(feature = "cli")]
pub(crate) use index::files as files_of_index;
pub use memory::MemorySource;
pub use raw::Raw;
pub use reading::{Complex, NpyV2, Reading};
#[cfg(feature = "cli")]
pub(crate) use torch::why_not;
pub use view::{Layout, View};
pub(crate) use written::safetensors_header;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::error::Error;
use crate::tensor::{Dump, Origin, TensorInfo, Unsupported};

/// Lists tensors and reads their bytes.
///
/// # Contract
/// - [`tensors`](Source::tensors) does not change, and every tensor's byte count fits `u64`.
/// - Bytes are what [`TensorInfo::bytes`] counts: samples in C order, each of [`Dtype::size`](crate::tensor::Dtype::size) bytes. Those
///   that files pack several to a byte are unpacked here, so that nobody else knows of it.
/// - [`read_at`](Source::read_at) fills the whole buffer or fails; it may be called from many
///   threads at once. A source that ends early answers [`Error::Changed`]; to read past a tensor's
///   end is the caller's mistake.
pub trait Source: Sync {
    /// The dumps, in the order in which the user named them.
    fn dumps(&self) -> &[Dump];

    /// All tensors, dump by dump, in the order of their bytes.
    fn tensors(&self) -> &[TensorInfo];

    /// Tensors that are not among [`tensors`](Source::tensors) because of their element type. A
    /// run that selects one of them fails before any work.
    fn unsupported(&self) -> &[Unsupported] {
        &[]
    }

    /// What a dump says of itself, as text by name.
    fn metadata(&self, dump: usize) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        let _ = dump;
        &NONE
    }

    /// What the user said of the files that they do not say themselves.
    fn reading(&self) -> &Reading {
        static NOTHING: Reading = Reading { raw: None, npy_v2: None, complex: None };
        &NOTHING
    }

    /// How its tensors are shown.
    fn layout(&self) -> &Layout {
        static AS_STORED: LazyLock<Layout> = LazyLock::new(Layout::default);
        &AS_STORED
    }

    /// Bytes of memory that reading takes at most, beside the buffers of who reads.
    fn memory(&self) -> u64 {
        0
    }

    /// The files of a dump, in the order of their names; none where it lies elsewhere.
    fn origins(&self, dump: usize) -> Vec<Origin> {
        let _ = dump;
        Vec::new()
    }

    /// Called when all is read: whether everything is still what it was when it was opened. What
    /// cannot be found out any more (a file that is gone, of which nothing is to be read) is no
    /// change.
    ///
    /// # Errors
    /// [`Error::Modified`].
    fn check_unchanged(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Bytes that a tensor takes where it lies: fewer than [`TensorInfo::bytes`] where it is packed.
    fn stored_bytes(&self, tensor: usize) -> u64 {
        self.tensors()[tensor].bytes().unwrap_or(u64::MAX)
    }

    /// Fills `buf` with the bytes of tensor number `tensor` from byte `offset` of
    /// [`stored_bytes`](Source::stored_bytes) on as they lie there, whatever they mean: what a copy
    /// of the dump reads.
    ///
    /// # Errors
    /// As [`read_at`](Source::read_at).
    fn read_stored(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.read_at(tensor, offset, buf)
    }

    /// Fills `buf` with the bytes of tensor number `tensor` that start at byte `offset` of it.
    ///
    /// # Errors
    /// [`Error::Read`] where the system refuses, and of kind
    /// [`InvalidInput`](std::io::ErrorKind::InvalidInput) where the tensor has fewer bytes;
    /// [`Error::Changed`] where bytes are gone, [`Error::Damaged`] where a checksum is wrong.
    fn read_at(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error>;
}

/// What to answer who asks for more bytes than a tensor has.
fn past_end(dump: &Dump, tensor: &TensorInfo, offset: u64, len: usize) -> Error {
    let has = tensor.bytes().unwrap_or(u64::MAX);
    let problem =
        format!("{len} bytes from byte {offset} on were asked for, and it has {has} bytes");
    Error::Read {
        dump: dump.label.clone(),
        tensor: tensor.name.clone(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidInput, problem),
    }
}
