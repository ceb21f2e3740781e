//! The first stage: what tensors there are, and their bytes.
//!
//! A source lists tensors from headers alone and answers one question, [`Source::read_at`]. It
//! reads into buffers that the caller owns and never maps files into memory: a file that shrinks
//! under a map kills the process, a short read is an error with a name.
//!
//! Files come through `dump_files`, which opens them by their `formats`: safetensors (`header`, and
//! `index` for several files), NumPy's (`npy`, in `zip` archives), torch's (`pickle`, `torch`). What is
//! not stored in C order and little-endian is read as if it were (`stored`). Parsers trust nothing:
//! they have no unsafe, check every sum and product, and bound what they allocate and how deep they go.

mod dump_files;
mod formats;
mod header;
mod index;
mod memory;
mod npy;
mod open_files;
mod pickle;
mod pread;
mod stored;
mod torch;
mod zip;

pub use dump_files::DumpFiles;
pub use memory::MemorySource;

use std::collections::BTreeMap;

use crate::error::Error;
use crate::tensor::{Dump, Origin, TensorInfo, Unsupported};

/// Lists tensors and reads their bytes.
///
/// # Contract
/// - [`tensors`](Source::tensors) does not change, and every tensor's byte count fits `u64`.
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

    /// The file of a dump; `None` where it is none.
    fn origin(&self, dump: usize) -> Option<Origin> {
        let _ = dump;
        None
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

    /// Fills `buf` with the bytes of tensor number `tensor` that start at byte `offset` of it.
    ///
    /// # Errors
    /// [`Error::Read`] where the system refuses, and of kind
    /// [`InvalidInput`](std::io::ErrorKind::InvalidInput) where the tensor has fewer bytes;
    /// [`Error::Changed`] where bytes are gone.
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
