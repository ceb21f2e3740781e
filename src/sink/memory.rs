//! A sink in memory: for library users and tests.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::pieces::Pieces;
use super::{Pending, Sink, Stored, name};
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
    replaces: AtomicBool,
}

impl MemorySink {
    /// The files by name.
    #[must_use]
    pub fn into_files(self) -> BTreeMap<String, Vec<u8>> {
        self.files.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of what is there now.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn insert(&self, name: &str, file: Vec<u8>) -> Result<(), Error> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if files.contains_key(name) && !self.replaces.load(Ordering::Relaxed) {
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

    fn replace(&self) {
        self.replaces.store(true, Ordering::Relaxed);
    }

    fn stored(&self, name: &str) -> Result<Option<u64>, Error> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(files.get(name).map(|file| file.len() as u64))
    }

    fn read(&self, name: &str) -> Result<Option<Box<dyn Stored + '_>>, Error> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let copy = |file: &Vec<u8>| Box::new(io::Cursor::new(file.clone())) as Box<dyn Stored>;
        Ok(files.get(name).map(copy))
    }

    fn put(&self, name: &str, header: &[u8], pixels: &[u8]) -> Result<(), Error> {
        checked(name)?;
        self.insert(name, [header, pixels].concat())
    }

    fn begin(&self, name: &str, len: Option<u64>) -> Result<Box<dyn Pending + '_>, Error> {
        checked(name)?;
        let pieces = Pieces::new(len);
        let len = usize::try_from(len.unwrap_or(0));
        let len = len.map_err(|_| failed(name, io::ErrorKind::OutOfMemory.into()))?;
        let bytes = Mutex::new(vec![0; len]);
        Ok(Box::new(PendingFile { sink: self, name: name.to_owned(), bytes, pieces }))
    }
}

struct PendingFile<'a> {
    sink: &'a MemorySink,
    name: String,
    bytes: Mutex<Vec<u8>>,
    pieces: Pieces,
}

impl Pending for PendingFile<'_> {
    fn write_at(&self, offset: u64, piece: &[u8]) -> Result<(), Error> {
        self.pieces.check(offset, piece.len()).map_err(|e| failed(&self.name, e))?;
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let start = usize::try_from(offset)
            .map_err(|_| failed(&self.name, io::ErrorKind::OutOfMemory.into()))?;
        let end = start + piece.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(piece);
        self.pieces.add(offset, piece.len());
        Ok(())
    }

    fn commit(self: Box<Self>) -> Result<(), Error> {
        self.pieces.whole().map_err(|e| failed(&self.name, e))?;
        let bytes = self.bytes.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.sink.insert(&self.name, bytes)
    }
}

/// The same names are refused as where they would matter.
fn checked(name: &str) -> Result<(), Error> {
    let problem = "the name would lead outside the output folder";
    let path = || PathBuf::from(name.replace('\0', "\\0"));
    name::split(name).map(drop).ok_or_else(|| Error::InTheWay { path: path(), problem })
}

fn taken(name: &str) -> Error {
    Error::Exists { first: PathBuf::from(name), count: 1 }
}

fn failed(name: &str, source: io::Error) -> Error {
    Error::Write { path: PathBuf::from(name), source }
}
