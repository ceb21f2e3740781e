//! Making files where nothing is known of the system: a temporary name in the same folder, then
//! the final one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Where files are made.
#[derive(Debug)]
pub(super) struct Place {
    root: PathBuf,
    overwrite: bool,
    /// Numbers temporary names.
    counter: AtomicU64,
}

impl Place {
    pub(super) fn new(root: &Path, overwrite: bool) -> Place {
        Place { root: root.to_owned(), overwrite, counter: AtomicU64::new(0) }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn use_temporary_names(&mut self) {}

    pub(super) fn prove_writable(&self) -> io::Result<()> {
        self.create("", "writable").map(drop)
    }

    /// A new file that will be called `leaf`.
    pub(super) fn create(&self, folder: &str, leaf: &str) -> io::Result<NewFile<'_>> {
        let mut path = self.root.clone();
        for part in folder.split('/').filter(|part| !part.is_empty()) {
            path.push(part);
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            if !fs::symlink_metadata(&path)?.is_dir() {
                return Err(io::ErrorKind::NotADirectory.into());
            }
        }
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let temporary = path.join(format!(".tensortiff-{}-{number}.tmp", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        Ok(NewFile { place: self, file: Mutex::new(file), temporary, target: path.join(leaf) })
    }
}

/// A file under a temporary name. Dropped, it is gone.
#[derive(Debug)]
pub(super) struct NewFile<'a> {
    place: &'a Place,
    /// Pieces come from several threads, and a seek belongs to the write after it.
    file: Mutex<File>,
    temporary: PathBuf,
    target: PathBuf,
}

impl NewFile<'_> {
    pub(super) fn write_all(&self, header: &[u8], pixels: &[u8]) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(header)?;
        file.write_all(pixels)
    }

    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).set_len(len)
    }

    pub(super) fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(bytes)
    }

    /// Gives the file its name. A hard link does not replace what is there, a rename does.
    pub(super) fn commit(self) -> io::Result<()> {
        if self.place.overwrite {
            fs::rename(&self.temporary, &self.target)
        } else {
            fs::hard_link(&self.temporary, &self.target)
        }
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        // After a rename there is nothing to remove.
        let _ = fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_appear_whole_and_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let list = || {
            let mut names: Vec<_> = fs::read_dir(dir.path().join("a"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        let place = Place::new(dir.path(), false);
        place.prove_writable().unwrap();
        let file = place.create("a", "x").unwrap();
        file.write_all(b"head", b"pixels").unwrap();
        assert_eq!(list().len(), 1, "the temporary name");
        file.commit().unwrap();
        assert_eq!(list(), ["x"]);
        assert_eq!(fs::read(dir.path().join("a/x")).unwrap(), b"headpixels");
        drop(place.create("a", "y").unwrap());
        let again = place.create("a", "x").unwrap().commit().unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(list(), ["x"]);
        let place = Place::new(dir.path(), true);
        let file = place.create("a", "x").unwrap();
        file.set_len(3).unwrap();
        file.write_at(1, b"bc").unwrap();
        file.commit().unwrap();
        assert_eq!(list(), ["x"]);
        assert_eq!(fs::read(dir.path().join("a/x")).unwrap(), b"\0bc");
    }
}
