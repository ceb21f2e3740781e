//! The first stage: what tensors there are, and their bytes.
//!
//! A source lists tensors from headers alone and answers one question, [`Source::read_at`]. It
//! reads into buffers that the caller owns and never maps files into memory: a file that shrinks
//! under a map kills the process, a short read is an error with a name.

mod header;
mod memory;
mod pread;
mod safetensors;

pub use memory::MemorySource;
pub use safetensors::SafetensorsFiles;

use crate::error::Error;
use crate::tensor::{Dump, TensorInfo, Unsupported};

/// Lists tensors and reads their bytes.
///
/// # Contract
/// - [`tensors`](Source::tensors) does not change, and every tensor's byte count fits `u64`.
/// - [`read_at`](Source::read_at) fills the whole buffer or fails; it may be called from many
///   threads at once. A source that ends early answers [`Error::Changed`].
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

    /// Fills `buf` with the bytes of tensor number `tensor` that start at byte `offset` of it.
    ///
    /// # Errors
    /// [`Error::Read`] where the system refuses, [`Error::Changed`] where bytes are gone.
    fn read_at(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error>;
}
