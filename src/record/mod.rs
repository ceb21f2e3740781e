//! What a run leaves beside its images, so that it can be continued and accounted for: a journal
//! while it works, a manifest when it is done, and a lock meanwhile.
//!
//! In the output folder these are `.tensortiff-KEY.journal` and `manifest.jsonl`, where KEY is a
//! hash of the names of all images: runs that make the same files share them, others do not. A run
//! that finds another's `manifest.jsonl` writes `manifest-KEY.jsonl`.
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
    let free = match std::fs::symlink_metadata(&usual) {
        Err(_) => true,
        Ok(_) => Manifest::open(&usual)?.is_some_and(|found| found.head().names == names),
    };
    Ok(if free { usual } else { folder.join(format!("{MANIFEST}-{}.jsonl", String::from(names))) })
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
