//! Tensors that are in memory already: for library users and tests.

use std::borrow::Cow;

use super::Source;
use crate::error::{Error, shown, shown_shape};
use crate::tensor::{Dtype, Dump, TensorInfo};

/// A dump made of byte slices.
///
/// ```
/// use tensortiff::{Dtype, MemorySource, Source};
/// let pixels: Vec<u8> = [0.0_f32, 1.0, 2.0, 3.0].iter().flat_map(|x| x.to_le_bytes()).collect();
/// let source = MemorySource::new("dump").with("a", Dtype::F32, &[2, 2], pixels)?;
/// assert_eq!(source.tensors()[0].elements(), Some(4));
/// # Ok::<(), tensortiff::Error>(())
/// ```
#[derive(Debug)]
pub struct MemorySource<'a> {
    dumps: Vec<Dump>,
    tensors: Vec<TensorInfo>,
    bytes: Vec<Cow<'a, [u8]>>,
}

impl<'a> MemorySource<'a> {
    /// An empty dump whose `{stem}` is `stem`.
    #[must_use]
    pub fn new(stem: &str) -> Self {
        let dump = Dump { label: stem.to_owned(), stem: stem.to_owned() };
        MemorySource { dumps: vec![dump], tensors: Vec::new(), bytes: Vec::new() }
    }

    /// Adds a tensor of little-endian elements in C order.
    ///
    /// # Errors
    /// [`Error::Usage`] if `bytes` is not as long as dtype and shape demand.
    pub fn with(
        mut self,
        name: &str,
        dtype: Dtype,
        shape: &[u64],
        bytes: impl Into<Cow<'a, [u8]>>,
    ) -> Result<Self, Error> {
        let (tensor, bytes) =
            (TensorInfo::new(name.to_owned(), 0, dtype, shape.to_vec()), bytes.into());
        if tensor.bytes() != Some(bytes.len() as u64) {
            return Err(Error::Usage(format!(
                "tensor {}: {dtype} of shape {} does not take {} bytes",
                shown(name),
                shown_shape(shape),
                bytes.len()
            )));
        }
        self.tensors.push(tensor);
        self.bytes.push(bytes);
        Ok(self)
    }
}

impl Source for MemorySource<'_> {
    fn dumps(&self) -> &[Dump] {
        &self.dumps
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn read_at(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let found = usize::try_from(offset)
            .ok()
            .and_then(|start| self.bytes[tensor].get(start..start.checked_add(buf.len())?));
        let past_end = || super::past_end(&self.dumps[0], &self.tensors[tensor], offset, buf.len());
        buf.copy_from_slice(found.ok_or_else(past_end)?);
        Ok(())
    }
}
