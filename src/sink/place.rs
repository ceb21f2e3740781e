//! How files are made: one of several ways, chosen once per sink.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(target_os = "linux")]
use super::linux;
use super::{Space, portable};

/// Temporary names that are tried where others are taken. What a killed process of the same number
/// left (process 1 of a container, say) is as many as it had threads.
const TRIES: usize = 1000;

/// Where files are made.
#[derive(Debug)]
pub(super) enum Place {
    #[cfg(target_os = "linux")]
    Linux(Box<linux::Place>),
    #[cfg_attr(target_os = "linux", allow(dead_code, reason = "there it is for tests"))]
    Portable(portable::Place),
}

/// A file that has no final name yet. Dropped, it is gone.
#[derive(Debug)]
pub(super) enum NewFile<'a> {
    #[cfg(target_os = "linux")]
    Linux(linux::NewFile<'a>),
    Portable(portable::NewFile<'a>),
}

macro_rules! each {
    ($type:ident, $self:expr, $inner:ident => $call:expr) => {
        match $self {
            #[cfg(target_os = "linux")]
            $type::Linux($inner) => $call,
            $type::Portable($inner) => $call,
        }
    };
}

impl Place {
    /// The best way that the system has.
    pub(super) fn new(root: &Path, overwrite: bool) -> Place {
        #[cfg(target_os = "linux")]
        return Place::Linux(Box::new(linux::Place::new(root, overwrite)));
        #[cfg(not(target_os = "linux"))]
        return Place::portable(root, overwrite);
    }

    pub(super) fn portable(root: &Path, overwrite: bool) -> Place {
        Place::Portable(portable::Place::new(root, overwrite))
    }

    pub(super) fn use_temporary_names(&mut self) {
        #[cfg(target_os = "linux")]
        if let Place::Linux(place) = self {
            place.use_temporary_names();
        }
    }

    /// Makes a file in the root, names it as images are named and takes it away, so that what
    /// cannot work here is known before any image is made.
    pub(super) fn prove_writable(&self) -> io::Result<()> {
        each!(Place, self, place => place.prove_writable())
    }

    /// From now on files replace what has their name.
    pub(super) fn overwrite(&self) {
        each!(Place, self, place => place.overwrite());
    }

    /// Has everything on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        each!(Place, self, place => place.sync())
    }

    /// A new file in `folder`, which is made where it is missing.
    pub(super) fn create(&self, folder: &str) -> io::Result<NewFile<'_>> {
        Ok(match self {
            #[cfg(target_os = "linux")]
            Place::Linux(place) => NewFile::Linux(place.create(folder)?),
            Place::Portable(place) => NewFile::Portable(place.create(folder)?),
        })
    }
}

impl NewFile<'_> {
    pub(super) fn write_all(&self, header: &[u8], pixels: &[u8]) -> io::Result<()> {
        each!(NewFile, self, file => file.write_all(header, pixels))
    }

    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        each!(NewFile, self, file => file.set_len(len))
    }

    pub(super) fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        each!(NewFile, self, file => file.write_at(offset, bytes))
    }

    /// Has its bytes on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        each!(NewFile, self, file => file.sync())
    }

    /// Gives the file its name. [`AlreadyExists`](io::ErrorKind::AlreadyExists): the name is taken,
    /// where files are to be replaced by something that is not a file.
    pub(super) fn commit(self, leaf: &str) -> io::Result<()> {
        each!(NewFile, self, file => file.commit(leaf))
    }
}

/// Room on the file system of a folder.
pub(super) fn space(folder: &Path) -> io::Result<Option<Space>> {
    #[cfg(target_os = "linux")]
    return linux::space(folder);
    #[cfg(not(target_os = "linux"))]
    {
        // The standard library cannot tell.
        let _ = folder;
        Ok(None)
    }
}

/// Whether a process that was killed may have left a file of this name.
pub(super) fn is_temporary(name: &str) -> bool {
    name.starts_with(".tensortiff-") && name.ends_with(".tmp")
}

/// Calls `make` with temporary names until it finds one that is not taken. The numbers are the
/// process's: two sinks may work in one folder.
pub(super) fn with_temporary_name<T>(
    mut make: impl FnMut(&str) -> io::Result<T>,
) -> io::Result<(String, T)> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    for _ in 0..TRIES {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!(".tensortiff-{}-{number}.tmp", std::process::id());
        match make(&name) {
            Ok(made) => return Ok((name, made)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    // Not AlreadyExists: nobody is to think that the final name was taken.
    Err(io::Error::other("all temporary names that were tried are taken: .tensortiff-*.tmp"))
}
