//! What a run leaves beside its images, so that it can be continued and accounted for: a journal
//! while it works, a manifest when it is done, and a lock meanwhile.
//!
//! In the output folder these are `.tensortiff-KEY.journal` and `manifest.jsonl`, where KEY is a
//! hash of the names of all images: runs that make the same files share them, others do not. A run
//! that finds another's `manifest.jsonl` writes `manifest-KEY.jsonl`.
//!
//! A run to a tar locks `.tensortiff-KEY.lock`, KEY of the tar's name, and shares the folder; the file goes with the
//! run, unless that is killed.
//!
//! A run of a shard has a journal of its own, `.tensortiff-KEY-RANDOM.journal`, which stays until a
//! manifest is made of all. No two processes ever write to one file, as network file systems write
//! whole pages back and lose what another machine wrote to them.

pub mod entry;
mod files;
pub mod identity;
pub mod journal;
pub mod lock;
pub mod manifest;
pub mod shards;

pub(crate) use files::read_at;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;
use identity::Hash;
use journal::{Journal, Opened};
use manifest::Manifest;

/// Begins the names of files that are not images.
pub const HIDDEN: &str = ".tensortiff-";
const MANIFEST: &str = "manifest";
const JOURNAL: &str = ".journal";
const TEMPORARY: &str = ".tmp";

/// Whether images may not have a name that begins with this part: a run's own files have it.
#[must_use]
pub fn is_own(first_part: &str) -> bool {
    let lower = first_part.to_ascii_lowercase();
    lower.starts_with(HIDDEN) || (lower.starts_with(MANIFEST) && lower.ends_with(".jsonl"))
}

/// Where the journal of the run with these names is.
#[must_use]
pub fn journal_path(folder: &Path, names: Hash) -> PathBuf {
    folder.join(format!("{HIDDEN}{}{JOURNAL}", String::from(names)))
}

/// Where a new journal of a shard of that run may be: another one at each call.
#[must_use]
pub fn new_part_path(folder: &Path, names: Hash) -> PathBuf {
    let mut random = RandomState::new().build_hasher();
    random.write_u32(std::process::id());
    let (names, random) = (String::from(names), String::from(Hash(random.finish())));
    folder.join(format!("{HIDDEN}{names}-{random}{JOURNAL}"))
}

/// The journals of shards of that run, in whatever state.
///
/// # Errors
/// [`Error::Open`] where the folder cannot be read.
pub fn parts(folder: &Path, names: Hash) -> Result<Vec<PathBuf>, Error> {
    let begin = format!("{HIDDEN}{}-", String::from(names));
    let mut all = journals(folder)?;
    all.retain(|path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&begin))
    });
    all.sort();
    Ok(all)
}

/// Takes the journals of shards of that run away.
///
/// # Errors
/// [`Error::Open`], [`Error::Write`].
pub fn forget_parts(folder: &Path, names: Hash) -> Result<(), Error> {
    parts(folder, names)?
        .into_iter()
        .try_for_each(|path| files::remove(&path).map_err(|source| Error::Write { path, source }))
}

/// Where the manifest of the run with these names is, or is to be.
///
/// # Errors
/// [`Error::InTheWay`], [`Error::Open`] where one that is there cannot be read.
pub fn manifest_path(folder: &Path, names: Hash) -> Result<PathBuf, Error> {
    let usual = folder.join(format!("{MANIFEST}.jsonl"));
    let other = folder.join(format!("{MANIFEST}-{}.jsonl", String::from(names)));
    let is_there = |path: &Path| std::fs::symlink_metadata(path).is_ok();
    let free = match is_there(&usual) {
        false => true,
        true => match Manifest::open(&usual)? {
            Some(found) => found.head().names == names,
            // It may have been this run's.
            None => !is_there(&other) && Manifest::is_torn(&usual, true)?,
        },
    };
    Ok(if free { usual } else { other })
}

/// Takes away the manifest in a folder of the run with these names: it says nothing any more of
/// images that are made anew.
///
/// # Errors
/// [`Error::InTheWay`], [`Error::Write`] where it cannot be taken away.
pub fn forget(folder: &Path, names: Hash) -> Result<(), Error> {
    let path = manifest_path(folder, names)?;
    files::remove(&path).map_err(|source| Error::Write { path, source })
}

/// Takes away the manifest at a path, if it is of the run with these names.
///
/// # Errors
/// [`Error::InTheWay`], [`Error::Open`] where it cannot be read, [`Error::Write`] where it cannot be taken away.
pub fn forget_at(path: &Path, names: Hash) -> Result<(), Error> {
    match Manifest::open(path)? {
        Some(found) if found.head().names == names => {
            files::remove(path).map_err(|source| Error::Write { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Takes away journals and the manifest in a folder of runs with these names that are of something
/// else, as of the same dumps before they were changed.
///
/// # Errors
/// As [`forget`] and [`forget_parts`], [`Error::Write`] where one cannot be read, and [`Error::Busy`] where
/// such a run is at work.
pub fn forget_others(folder: &Path, names: Hash, run: &identity::Identity) -> Result<(), Error> {
    let is_other = |was: &identity::Identity| was.difference(run).is_some();
    let mut journals = parts(folder, names)?;
    journals.push(journal_path(folder, names));
    for path in journals {
        if whose(&path)?.is_some_and(|was| is_other(&was)) {
            // What it makes is not what this run makes, under the same names.
            if journal::is_at_work(&path) {
                return Err(Error::Busy { path: folder.to_owned() });
            }
            files::remove(&path).map_err(|source| Error::Write { path, source })?;
        }
    }
    let manifest = Manifest::open(&manifest_path(folder, names)?)?;
    match manifest.is_some_and(|found| is_other(&found.head().identity)) {
        true => forget(folder, names),
        false => Ok(()),
    }
}

/// Takes away the files with temporary names in a folder, which a run that was killed left: nobody is
/// at work there.
///
/// # Errors
/// [`Error::Open`] where the folder cannot be read, [`Error::Write`].
pub fn forget_temporary(folder: &Path) -> Result<(), Error> {
    let is_temporary = |name: &str| name.starts_with(HIDDEN) && name.ends_with(TEMPORARY);
    names(folder, is_temporary)?
        .into_iter()
        .map(|name| folder.join(name))
        .try_for_each(|path| files::remove(&path).map_err(|source| Error::Write { path, source }))
}

/// All manifests in a folder, the usual one first.
///
/// # Errors
/// [`Error::Open`] where the folder cannot be read.
pub fn manifests(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let is_manifest = |name: &str| {
        let stem = name.strip_suffix(".jsonl").and_then(|name| name.strip_prefix(MANIFEST));
        stem.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let mut found = names(folder, is_manifest)?;
    found.sort_by_key(|name| (name.len(), name.clone()));
    Ok(found.into_iter().map(|name| folder.join(name)).collect())
}

/// All journals in a folder.
///
/// # Errors
/// [`Error::Open`] where the folder cannot be read.
pub fn journals(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let is_journal = |name: &str| name.starts_with(HIDDEN) && name.ends_with(JOURNAL);
    Ok(names(folder, is_journal)?.into_iter().map(|name| folder.join(name)).collect())
}

fn names(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>, Error> {
    let failed = |source| Error::Open { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        found.extend(name.to_str().filter(|name| wanted(name)).map(str::to_owned));
    }
    Ok(found)
}

/// Whose a journal is, if it can be told.
///
/// # Errors
/// As [`Journal::open`].
pub fn whose(journal: &Path) -> Result<Option<identity::Identity>, Error> {
    Ok(match Journal::open(journal, false)? {
        Opened::Whole(_, about) => Some(about.identity),
        _ => None,
    })
}

/// XXH3 (64 bit, seed 0) of an image's pixels.
#[must_use]
pub fn hash(pixels: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot(pixels)
}

/// The same of what is left to read.
///
/// # Errors
/// What the system says.
pub fn hash_of(read: &mut dyn io::Read) -> io::Result<u64> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match read.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(read) => hasher.write(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// XXH3 (64 bit, seed 0) of what is told it piece by piece.
#[derive(Default)]
pub struct Hasher(twox_hash::XxHash3_64);

impl Hasher {
    /// Some bytes more.
    pub fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// A number more.
    pub fn number(&mut self, number: u64) {
        self.write(&number.to_le_bytes());
    }

    /// A text more, and where it ends.
    pub fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.write(text.as_bytes());
    }

    /// The hash.
    #[must_use]
    pub fn finish(&self) -> u64 {
        self.0.finish()
    }
}
