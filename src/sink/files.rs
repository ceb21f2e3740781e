//! One file an image, below a folder.
//!
//! A file gets its name only when it is whole. On Linux it is made without a name (`O_TMPFILE`) and
//! linked when it is complete: nothing is left behind whatever happens, even `kill -9`, and an
//! existing name is noticed atomically. Measured on tmpfs with 100,000 files of 3.6 KB and 4 threads
//! this costs 1.2 to 1.4 times a plain create and write, temp file and rename 2.1 to 2.3 times: there
//! threads queue on the folder's lock twice. Where a file system or system lacks it, and to replace
//! a file, a temporary name in the same folder is renamed.
//!
//! Folders are opened part by part below the output folder without following links, and files are
//! made relative to them, so that a link that somebody plants there leads nowhere.

use std::io;
use std::path::{Path, PathBuf};

use super::{Pending, Sink};
use crate::error::Error;

#[cfg(target_os = "linux")]
use super::linux as place;
#[cfg(not(target_os = "linux"))]
use super::portable as place;

/// Writes files below a folder.
#[derive(Debug)]
pub struct FilesSink {
    root: PathBuf,
    overwrite: bool,
    place: place::Place,
}

impl FilesSink {
    /// A sink that writes below `root`, which is made when the run begins. With `overwrite` it
    /// replaces files that exist; else they are an error.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, overwrite: bool) -> FilesSink {
        let root = root.into();
        FilesSink { place: place::Place::new(&root, overwrite), root, overwrite }
    }

    /// The same sink without nameless files, as on a file system that lacks them: for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn with_temporary_names(mut self) -> FilesSink {
        self.place.use_temporary_names();
        self
    }

    /// Existing targets, looked for folder by folder.
    fn check(&self, names: &mut dyn Iterator<Item = String>) -> Result<(), Error> {
        let mut folder: Option<(String, bool)> = None;
        let mut first = None;
        let mut count = 0;
        for name in names {
            let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
            let known = folder.as_ref().filter(|(of, _)| of == parent).map(|(_, exists)| *exists);
            let exists = match known {
                Some(exists) => exists,
                None => {
                    let exists = self.check_folders(parent)?;
                    folder = Some((parent.to_owned(), exists));
                    exists
                }
            };
            if exists && self.check_file(&name)? {
                count += 1;
                first.get_or_insert_with(|| self.root.join(&name));
            }
        }
        match first {
            Some(first) if !self.overwrite => Err(Error::Exists { first, count }),
            _ => Ok(()),
        }
    }

    /// Whether the folder exists below the output folder; anything else in its place is refused.
    fn check_folders(&self, parent: &str) -> Result<bool, Error> {
        let mut path = self.root.clone();
        for part in parent.split('/').filter(|part| !part.is_empty()) {
            path.push(part);
            match kind(&path)? {
                None => return Ok(false),
                Some(kind) if kind.is_dir() => {}
                Some(kind) => {
                    return Err(in_the_way(path, kind.is_symlink(), "a folder is needed"));
                }
            }
        }
        Ok(true)
    }

    /// Whether the file exists; a folder or link in its place is refused.
    fn check_file(&self, name: &str) -> Result<bool, Error> {
        let path = self.root.join(name);
        match kind(&path)? {
            None => Ok(false),
            Some(kind) if kind.is_file() => Ok(true),
            Some(kind) => Err(in_the_way(path, kind.is_symlink(), "a file is to be written here")),
        }
    }

    fn checked<'n>(&self, name: &'n str) -> Result<(&'n str, &'n str), Error> {
        let bad = |part: &str| {
            part.is_empty() || part == "." || part == ".." || part.contains(['\0', '\\'])
        };
        if name.split('/').any(bad) {
            return Err(Error::InTheWay {
                path: self.root.join(name.replace('\0', "\\0")),
                problem: "the name would lead outside the output folder",
            });
        }
        Ok(name.rsplit_once('/').unwrap_or(("", name)))
    }

    fn error(&self, name: &str, source: io::Error) -> Error {
        let path = self.root.join(name);
        match source.kind() {
            io::ErrorKind::AlreadyExists if !self.overwrite => {
                Error::Exists { first: path, count: 1 }
            }
            _ => Error::Write { path, source },
        }
    }
}

impl Sink for FilesSink {
    fn prepare(&self, names: &mut dyn Iterator<Item = String>) -> Result<(), Error> {
        let failed = |source| Error::Write { path: self.root.clone(), source };
        match std::fs::metadata(&self.root) {
            Ok(found) if !found.is_dir() => {
                return Err(in_the_way(self.root.clone(), false, "a folder is needed"));
            }
            Ok(_) => {
                // Nothing can be in the way in an empty folder, however many names there are.
                if std::fs::read_dir(&self.root).map_err(failed)?.next().is_some() {
                    self.check(names)?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        std::fs::create_dir_all(&self.root).map_err(failed)?;
        self.place.prove_writable().map_err(failed)
    }

    fn put(&self, name: &str, header: &[u8], pixels: &[u8]) -> Result<(), Error> {
        let (folder, leaf) = self.checked(name)?;
        let file = self.place.create(folder, leaf).map_err(|e| self.error(name, e))?;
        file.write_all(header, pixels).map_err(|e| self.error(name, e))?;
        file.commit().map_err(|e| self.error(name, e))
    }

    fn begin(&self, name: &str, len: u64) -> Result<Box<dyn Pending + '_>, Error> {
        let (folder, leaf) = self.checked(name)?;
        let file = self.place.create(folder, leaf).map_err(|e| self.error(name, e))?;
        file.set_len(len).map_err(|e| self.error(name, e))?;
        Ok(Box::new(PendingFile { sink: self, name: name.to_owned(), file }))
    }
}

struct PendingFile<'a> {
    sink: &'a FilesSink,
    name: String,
    file: place::NewFile<'a>,
}

impl Pending for PendingFile<'_> {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_at(offset, bytes).map_err(|e| self.sink.error(&self.name, e))
    }

    fn commit(self: Box<Self>) -> Result<(), Error> {
        let PendingFile { sink, name, file } = *self;
        file.commit().map_err(|e| sink.error(&name, e))
    }
}

fn kind(path: &Path) -> Result<Option<std::fs::FileType>, Error> {
    match std::fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found.file_type())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Write { path: path.to_owned(), source }),
    }
}

fn in_the_way(path: PathBuf, link: bool, needed: &'static str) -> Error {
    let problem = match (link, needed) {
        (true, _) => "a symbolic link is in the way; links in the output folder are not followed",
        (false, "a folder is needed") => "not a folder, and a folder is needed",
        (false, _) => "not a file, and a file is to be written here",
    };
    Error::InTheWay { path, problem }
}
