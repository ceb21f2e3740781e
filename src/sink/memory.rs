//! A sink in memory: for library users and tests.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::{Pending, Sink};
use crate::error::Error;

/// Keeps whole files by name.
///
/// ```
/// use tensortiff::{MemorySink, Sink};
/// let sink = MemorySink::default();
/// sink.put("a.tif", b"header", b"pixels")?;
/// assert_eq!(sink.into_files()["a.tif"], b"headerpixels");
/// # Ok::<(), tensortiff::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct MemorySink {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl MemorySink {
    /// The files by name.
    #[must_use]
    pub fn into_files(self) -> BTreeMap<String, Vec<u8>> {
        self.files.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, name: &str, file: Vec<u8>) -> Result<(), Error> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if files.contains_key(name) {
            return Err(taken(name));
        }
        files.insert(name.to_owned(), file);
        Ok(())
    }
}

impl Sink for MemorySink {
    fn prepare(&self, names: &mut dyn Iterator<Item = String>) -> Result<(), Error> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if files.is_empty() {
            return Ok(());
        }
        let mut taken = names.filter(|name| files.contains_key(name));
        match taken.next() {
            None => Ok(()),
            Some(first) => {
                Err(Error::Exists { first: first.into(), count: 1 + taken.count() as u64 })
            }
        }
    }

    fn put(&self, name: &str, header: &[u8], pixels: &[u8]) -> Result<(), Error> {
        self.insert(name, [header, pixels].concat())
    }

    fn begin(&self, name: &str, len: u64) -> Result<Box<dyn Pending + '_>, Error> {
        let len = usize::try_from(len).map_err(|_| failed(name, io::ErrorKind::OutOfMemory))?;
        let bytes = Mutex::new(vec![0; len]);
        Ok(Box::new(PendingFile { sink: self, name: name.to_owned(), bytes }))
    }
}

struct PendingFile<'a> {
    sink: &'a MemorySink,
    name: String,
    bytes: Mutex<Vec<u8>>,
}

impl Pending for PendingFile<'_> {
    fn write_at(&self, offset: u64, piece: &[u8]) -> Result<(), Error> {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        usize::try_from(offset)
            .ok()
            .and_then(|start| bytes.get_mut(start..start.checked_add(piece.len())?))
            .ok_or_else(|| failed(&self.name, io::ErrorKind::InvalidInput))?
            .copy_from_slice(piece);
        Ok(())
    }

    fn commit(self: Box<Self>) -> Result<(), Error> {
        let bytes = self.bytes.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.sink.insert(&self.name, bytes)
    }
}

fn taken(name: &str) -> Error {
    Error::Exists { first: PathBuf::from(name), count: 1 }
}

fn failed(name: &str, kind: io::ErrorKind) -> Error {
    Error::Write { path: PathBuf::from(name), source: kind.into() }
}
