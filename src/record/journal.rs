//! The journal of a run under way: which images are done, whatever the order in which threads did
//! them.
//!
//! A head (magic, length, a checksum, the run's [`Identity`] as JSON), then an [`Entry`] for each
//! image, image number *n* at byte `BEGIN + n × 64`. Entries that were never written are holes. An
//! entry is written after its image has its name, so that what the journal says is there.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

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
    Whole(Journal, Box<Identity>),
}

/// See the module.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    begin: u64,
    plan: u64,
}

impl Journal {
    /// A new journal, in the place of one that may be there.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn create(path: &Path, identity: &Identity) -> Result<Journal, Error> {
        let json = serde_json::to_vec(identity).expect("an identity has no key but strings");
        let mut head = MAGIC.to_vec();
        head.extend((json.len() as u64).to_le_bytes());
        head.extend(XxHash3_64::oneshot(&json).to_le_bytes());
        head.extend(&json);
        let create = || {
            files::remove(path)?;
            // New, so that no link is followed.
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
            files::write_all_at(&file, &head, 0)?;
            Ok(file)
        };
        let file = create().map_err(|source| Error::Write { path: path.to_owned(), source })?;
        Ok(Journal::new(path, file, head.len() as u64, identity))
    }

    fn new(path: &Path, file: File, head: u64, identity: &Identity) -> Journal {
        Journal {
            path: path.to_owned(),
            file,
            begin: head.next_multiple_of(PAGE),
            plan: identity.plan.0,
        }
    }

    /// What is at `path`.
    ///
    /// # Errors
    /// [`Error::InTheWay`], [`Error::Write`] where it cannot be read.
    pub fn open(path: &Path) -> Result<Opened, Error> {
        let Some(file) = files::open_regular(path, true)? else { return Ok(Opened::None) };
        let read = || -> io::Result<Option<(u64, Identity)>> {
            let mut head = [0; HEAD];
            if files::read_at(&file, &mut head, 0)? < HEAD || head[..16] != MAGIC {
                return Ok(None);
            }
            let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight"));
            let len = word(16);
            // No allocation is sized by a claim alone.
            if len > LONGEST || len > file.metadata()?.len() {
                return Ok(None);
            }
            let mut json = vec![0; usize::try_from(len).expect("at most 64 MiB")];
            if files::read_at(&file, &mut json, HEAD as u64)? < json.len()
                || XxHash3_64::oneshot(&json) != word(24)
            {
                return Ok(None);
            }
            Ok(serde_json::from_slice(&json).ok().map(|identity| (HEAD as u64 + len, identity)))
        };
        let found = read().map_err(|source| Error::Write { path: path.to_owned(), source })?;
        Ok(match found {
            None => Opened::Torn,
            Some((head, identity)) => {
                Opened::Whole(Journal::new(path, file, head, &identity), Box::new(identity))
            }
        })
    }

    /// Writes entries, as bytes, of images from number `first` on.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write(&self, first: u64, entries: &[u8]) -> Result<(), Error> {
        files::write_all_at(&self.file, entries, self.begin + first * SIZE as u64)
            .map_err(|source| self.failed(source))
    }

    /// The entries of `count` images from number `first` on; `None` where there is no whole one.
    ///
    /// # Errors
    /// [`Error::Write`] where they cannot be read.
    pub fn read(&self, first: u64, count: usize) -> Result<Vec<Option<Entry>>, Error> {
        let mut bytes = vec![0; count * SIZE];
        let read = files::read_at(&self.file, &mut bytes, self.begin + first * SIZE as u64)
            .map_err(|source| self.failed(source))?;
        bytes[read..].fill(0);
        let entries = bytes.as_chunks::<SIZE>().0.iter().zip(first..);
        Ok(entries.map(|(bytes, ordinal)| Entry::of_bytes(bytes, self.plan, ordinal)).collect())
    }

    /// Takes it away.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn remove(self) -> Result<(), Error> {
        files::remove(&self.path).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Write { path: self.path.clone(), source }
    }
}
