//! The journal of a run under way: which images are done, whatever the order in which threads did
//! them.
//!
//! A head (magic, length, a checksum, what the run is [`About`] as JSON), then an [`Entry`] for each
//! image, image number *n* at byte `BEGIN + (n - FIRST) × 64`, where FIRST is 0 but for shards.
//! Entries that were never written are holes. An entry is written after its image has its name, so
//! that what the journal says is there.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::Hasher as _;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use super::entry::{Entry, SIZE};
use super::files;
use super::identity::Identity;
use crate::error::Error;

const MAGIC: [u8; 16] = *b"tensortiff jrn 1";
/// Magic, length of the identity, checksum of the identity.
const HEAD: usize = 32;
/// Longest identity: as long as 100,000 paths take.
const LONGEST: u64 = 64 << 20;
/// Entries begin at a multiple of this.
const PAGE: u64 = 4096;

/// What is where a journal would be.
#[derive(Debug)]
pub enum Opened {
    /// Nothing.
    None,
    /// A journal whose head cannot be read: it says nothing of any image.
    Torn,
    /// A journal, and whose it is.
    Whole(Journal, Box<About>),
}

/// What a journal is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The run.
    #[serde(flatten)]
    pub identity: Identity,
    /// The numbers of its images, where they are not all of them: those of one shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Range<u64>>,
}

impl About {
    /// The images that it is of.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.shard.clone().unwrap_or(0..self.identity.images)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Journal {
    file: File,
    place: Place,
}

/// Where a journal is, and where its entries are in it. It keeps no file open.
#[derive(Debug, Clone)]
pub struct Place {
    path: PathBuf,
    begin: u64,
    plan: u64,
    images: Range<u64>,
}

/// Whether the process that writes to a journal is at work, as far as that can be told.
#[must_use]
pub fn is_at_work(path: &Path) -> bool {
    let Ok(Some(file)) = files::open_regular(path, false) else { return false };
    matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}

impl Journal {
    /// A new journal, in the place of one that may be there.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn create(path: &Path, about: &About) -> Result<Journal, Error> {
        files::remove(path)
            .map_err(|source| Error::Write { path: path.to_owned(), source })
            .and_then(|()| Journal::create_new(path, about))
    }

    /// A new journal where nothing may be.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn create_new(path: &Path, about: &About) -> Result<Journal, Error> {
        let json = serde_json::to_vec(about).expect("what it is about has no key but strings");
        let mut head = MAGIC.to_vec();
        head.extend((json.len() as u64).to_le_bytes());
        head.extend(XxHash3_64::oneshot(&json).to_le_bytes());
        head.extend(&json);
        let create = || {
            // New, so that no link is followed.
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
            files::write_all_at(&file, &head, 0)?;
            Ok(file)
        };
        let file = create().map_err(|source| Error::Write { path: path.to_owned(), source })?;
        Ok(Journal { file, place: Place::new(path, head.len() as u64, about) })
    }

    /// A new journal that has its name only when its head is whole: one without is never of a run
    /// that is just beginning.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn create_whole(path: &Path, about: &About) -> Result<Journal, Error> {
        Journal::create_with(path, about, |_| Ok(()))
    }

    /// Says to other processes of this machine that it is at work, until it is dropped; see
    /// [`is_at_work`]. Where a system cannot lock files nothing is said.
    pub fn say_at_work(&self) {
        let _ = self.file.try_lock_shared();
    }

    /// The same, in the place of one that may be there, with what `fill` writes to it.
    ///
    /// # Errors
    /// [`Error::Write`], and what `fill` says.
    pub fn create_with(
        path: &Path,
        about: &About,
        fill: impl FnOnce(&Journal) -> Result<(), Error>,
    ) -> Result<Journal, Error> {
        let temporary = path.with_extension("tmp");
        let named = Journal::create(&temporary, about).and_then(|journal| {
            fill(&journal)?;
            let place = Place { path: path.to_owned(), ..journal.place };
            fs::rename(&temporary, path).map_err(|source| place.failed(source))?;
            Ok(Journal { place, ..journal })
        });
        if named.is_err() {
            // The first error counts.
            let _ = files::remove(&temporary);
        }
        named
    }

    /// What is at `path`, to be written to if `writable`.
    ///
    /// # Errors
    /// [`Error::InTheWay`], [`Error::Write`] where it cannot be read.
    pub fn open(path: &Path, writable: bool) -> Result<Opened, Error> {
        let Some(file) = files::open_regular(path, writable)? else { return Ok(Opened::None) };
        let read = || -> io::Result<Option<(u64, About)>> {
            let mut head = [0; HEAD];
            if files::read_at(&file, &mut head, 0)? < HEAD || head[..16] != MAGIC {
                return Ok(None);
            }
            let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight"));
            let len = word(16);
            // No allocation is sized by a claim alone: what is not as it was written, a hole perhaps,
            // is read in pieces and found out.
            if len > LONGEST || hash_of(&file, len)? != Some(word(24)) {
                return Ok(None);
            }
            let mut json = vec![0; usize::try_from(len).expect("at most 64 MiB")];
            if files::read_at(&file, &mut json, HEAD as u64)? < json.len()
                || files::is_crammed(&json)
            {
                return Ok(None);
            }
            let about = serde_json::from_slice(&json).ok().filter(|about: &About| {
                let images = about.range();
                images.start <= images.end && images.end <= about.identity.images
            });
            Ok(about.map(|about| (HEAD as u64 + len, about)))
        };
        let found = read().map_err(|source| Error::Write { path: path.to_owned(), source })?;
        Ok(match found {
            None => Opened::Torn,
            Some((head, about)) => {
                let place = Place::new(path, head, &about);
                Opened::Whole(Journal { file, place }, Box::new(about))
            }
        })
    }

    /// Writes entries, as bytes, of images from number `first` on, all of them the journal's.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write(&self, first: u64, entries: &[u8]) -> Result<(), Error> {
        files::write_all_at(&self.file, entries, self.place.offset(first))
            .map_err(|source| self.place.failed(source))
    }

    /// The entries of `count` images from number `first` on; `None` where there is no whole one.
    ///
    /// # Errors
    /// [`Error::Write`] where they cannot be read.
    pub fn read(&self, first: u64, count: usize) -> Result<Vec<Option<Entry>>, Error> {
        self.place.read_from(&self.file, first, count)
    }

    /// Where it is.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Has it on the disk.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn sync(&self) -> Result<(), Error> {
        self.file.sync_all().map_err(|source| self.place.failed(source))
    }

    /// Takes it away.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn remove(self) -> Result<(), Error> {
        files::remove(&self.place.path).map_err(|source| self.place.failed(source))
    }
}

/// The hash of so many bytes behind the head; `None` if there are not so many.
fn hash_of(file: &File, len: u64) -> io::Result<Option<u64>> {
    let mut hasher = XxHash3_64::new();
    let mut piece = [0; 4096];
    let mut left = len;
    while left > 0 {
        let take = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
        let piece = &mut piece[..take];
        if files::read_at(file, piece, HEAD as u64 + (len - left))? < take {
            return Ok(None);
        }
        hasher.write(piece);
        left -= take as u64;
    }
    Ok(Some(hasher.finish()))
}

impl Place {
    fn new(path: &Path, head: u64, about: &About) -> Place {
        Place {
            path: path.to_owned(),
            begin: head.next_multiple_of(PAGE),
            plan: about.identity.plan.0,
            images: about.range(),
        }
    }

    /// The images that the journal is of.
    #[must_use]
    pub fn images(&self) -> &Range<u64> {
        &self.images
    }

    /// As [`Journal::read`], from a journal that is opened for it; no entries if it is gone.
    ///
    /// # Errors
    /// [`Error::InTheWay`], [`Error::Write`] where they cannot be read.
    pub fn read(&self, first: u64, count: usize) -> Result<Vec<Option<Entry>>, Error> {
        match files::open_regular(&self.path, false)? {
            None => Ok(vec![None; count]),
            Some(file) => self.read_from(&file, first, count),
        }
    }

    fn read_from(
        &self,
        file: &File,
        first: u64,
        count: usize,
    ) -> Result<Vec<Option<Entry>>, Error> {
        let mut entries = vec![None; count];
        let end = first.saturating_add(count as u64);
        let (from, end) = (first.max(self.images.start), end.min(self.images.end));
        if from >= end {
            return Ok(entries);
        }
        let within = |image: u64| usize::try_from(image - first).expect("below count");
        let mut bytes = vec![0; (within(end) - within(from)) * SIZE];
        let read = files::read_at(file, &mut bytes, self.offset(from))
            .map_err(|source| self.failed(source))?;
        bytes[read..].fill(0);
        for (bytes, image) in bytes.as_chunks::<SIZE>().0.iter().zip(from..) {
            entries[within(image)] = Entry::of_bytes(bytes, self.plan, image);
        }
        Ok(entries)
    }

    fn offset(&self, image: u64) -> u64 {
        self.begin.saturating_add((image - self.images.start).saturating_mul(SIZE as u64))
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Write { path: self.path.clone(), source }
    }
}
