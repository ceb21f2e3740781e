//! The last stage: where images go, whole or not at all.

mod files;
#[cfg(target_os = "linux")]
mod linux;
mod memory;
mod name;
mod null;
mod pieces;
mod place;
mod portable;
mod section;
mod stream;

pub use files::{FilesSink, Fsync};
pub use memory::MemorySink;
pub use null::NullSink;
pub use section::Section;
pub use stream::StreamSink;

use std::io;
use std::path::PathBuf;

use crate::error::Error;

/// Takes finished images from any thread.
///
/// # Contract: whole or absent
/// - Nobody ever sees a short image under its final name. An image is visible when
///   [`put`](Sink::put) or [`Pending::commit`] has returned Ok; if either fails, or a [`Pending`]
///   is dropped, nothing of that image is left behind.
/// - Names are relative paths with `/` between parts. A sink refuses a name that could lead
///   outside of it, whoever made it.
/// - An image that exists already is replaced only where the sink was made to; otherwise it is
///   left as it is and the call fails.
pub trait Sink: Sync {
    /// Called once, before any image, with every name of the run: creates the output place and
    /// fails if a name is taken already. Nothing has been written when it fails.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::InTheWay`], or [`Error::Write`] where the place cannot be made.
    fn prepare(&self, names: &mut dyn Iterator<Item = String>) -> Result<(), Error>;

    /// Called instead of [`prepare`](Sink::prepare) where an earlier run was interrupted, with the
    /// names that it did not say were done: what it left of them may be replaced, and what it
    /// left besides is taken away.
    ///
    /// # Errors
    /// As [`prepare`](Sink::prepare), but for names that are taken by images.
    fn resume(&self, names: &mut dyn Iterator<Item = String>) -> Result<(), Error> {
        self.prepare(names)
    }

    /// Called instead of both where this run makes a part of the images and others may make the rest
    /// in the same place, with the names of its part. What exists already is an error unless
    /// the part was begun before (`resumed`); from then on it is replaced, as another process may
    /// be making the same part. What others left is theirs.
    ///
    /// # Errors
    /// As theirs.
    fn join(&self, names: &mut dyn Iterator<Item = String>, resumed: bool) -> Result<(), Error> {
        if resumed { self.resume(names) } else { self.prepare(names) }
    }

    /// Fails as [`prepare`](Sink::prepare) would, or [`resume`](Sink::resume), as far as that can be
    /// found out without making anything.
    ///
    /// # Errors
    /// As theirs.
    fn inspect(&self, names: &mut dyn Iterator<Item = String>, resumed: bool) -> Result<(), Error> {
        let _ = (names, resumed);
        Ok(())
    }

    /// How much room there is; `None` where that is not known.
    ///
    /// # Errors
    /// [`Error::Write`] where the system does not say.
    fn space(&self) -> Result<Option<Space>, Error> {
        Ok(None)
    }

    /// Takes away what runs that were killed left besides images in the folders of these names, and in the
    /// place itself. Nobody else is at work there.
    ///
    /// # Errors
    /// [`Error::Write`].
    fn tidy(&self, names: &mut dyn Iterator<Item = String>) -> Result<(), Error> {
        let _ = names;
        Ok(())
    }

    /// From now on images that exist are replaced: some of this run's are made again.
    fn replace(&self) {}

    /// How many bytes the image of this name has; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::InTheWay`], or [`Error::Write`] where it cannot be found out.
    fn stored(&self, name: &str) -> Result<Option<u64>, Error> {
        let _ = name;
        Ok(None)
    }

    /// An image that is there, to be read; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::InTheWay`], or [`Error::Write`] where it cannot be opened.
    fn read(&self, name: &str) -> Result<Option<Box<dyn Stored + '_>>, Error> {
        let _ = name;
        Ok(None)
    }

    /// Called once, after the last image: what was asked to be safe on a disk then is.
    ///
    /// # Errors
    /// [`Error::Write`].
    fn finish(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Stores an image: `header`, then `pixels`.
    ///
    /// # Errors
    /// Any error leaves the sink as it was.
    fn put(&self, name: &str, header: &[u8], pixels: &[u8]) -> Result<(), Error>;

    /// Opens an image that comes in pieces. `len` is its length in bytes; where that is not
    /// known, it is as long as its pieces reach.
    ///
    /// # Errors
    /// Any error leaves the sink as it was.
    fn begin(&self, name: &str, len: Option<u64>) -> Result<Box<dyn Pending + '_>, Error>;
}

/// What a stored image is read from.
pub trait Stored: io::Read + io::Seek {}

impl<T: io::Read + io::Seek> Stored for T {}

/// Room in a sink's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// The place.
    pub path: PathBuf,
    /// Bytes that this user may still write.
    pub bytes: u64,
    /// Files and folders that may still be made, where they are counted.
    pub inodes: Option<u64>,
    /// Bytes that files grow by.
    pub block: u64,
    /// Whether the sink's own folder is there, if it has one.
    pub exists: bool,
    /// Whether something is in the sink's place, which may make room when it is replaced.
    pub occupied: bool,
}

/// An image under way. Dropping it leaves nothing behind.
pub trait Pending: Send + Sync {
    /// Stores `bytes` at byte `offset` of the image; pieces come in any order, from any thread,
    /// and do not overlap.
    ///
    /// # Errors
    /// After an error the image must be dropped.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error>;

    /// Makes the image visible under its name.
    ///
    /// # Errors
    /// Any error leaves nothing behind; that a byte was not stored is one.
    fn commit(self: Box<Self>) -> Result<(), Error>;
}
