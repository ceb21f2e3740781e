//! Making files where nothing is known of the system: a temporary name in the same folder, then
//! the final one. Links are looked for but not locked out: whoever plants one between the look and
//! the use is followed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::place::with_temporary_name;

/// Where files are made.
#[derive(Debug)]
pub(super) struct Place {
    root: PathBuf,
    overwrite: AtomicBool,
}

impl Place {
    pub(super) fn new(root: &Path, overwrite: bool) -> Place {
        Place { root: root.to_owned(), overwrite: AtomicBool::new(overwrite) }
    }

    pub(super) fn overwrite(&self) {
        self.overwrite.store(true, Ordering::Relaxed);
    }

    fn replaces(&self) -> bool {
        self.overwrite.load(Ordering::Relaxed)
    }

    pub(super) fn prove_writable(&self) -> io::Result<()> {
        let (name, ()) = with_temporary_name(|name| self.create("")?.commit(name))?;
        fs::remove_file(self.root.join(name))
    }

    /// Every file below the root: the standard library has no call for all at once.
    pub(super) fn sync(&self) -> io::Result<()> {
        fn walk(folder: &Path) -> io::Result<()> {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    walk(&entry.path())?;
                } else if entry.file_type()?.is_file() {
                    OpenOptions::new().write(true).open(entry.path())?.sync_all()?;
                }
            }
            // Names are the folder's; where folders cannot be opened they are safe without.
            File::open(folder).map_or(Ok(()), |folder| folder.sync_all())
        }
        walk(&self.root)
    }

    pub(super) fn create(&self, folder: &str) -> io::Result<NewFile<'_>> {
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
        let (name, file) = with_temporary_name(|name| {
            OpenOptions::new().write(true).create_new(true).open(path.join(name))
        })?;
        let temporary = Some(path.join(name));
        Ok(NewFile { place: self, folder: path, file, temporary })
    }
}

/// A file under a temporary name. Dropped, it is gone.
#[derive(Debug)]
pub(super) struct NewFile<'a> {
    place: &'a Place,
    folder: PathBuf,
    file: File,
    temporary: Option<PathBuf>,
}

impl NewFile<'_> {
    pub(super) fn write_all(&self, header: &[u8], pixels: &[u8]) -> io::Result<()> {
        (&self.file).write_all(header)?;
        (&self.file).write_all(pixels)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    pub(super) fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        write_all_at(&self.file, bytes, offset)
    }

    /// Gives the file its name. A hard link does not replace what is there, a rename does.
    pub(super) fn commit(mut self, leaf: &str) -> io::Result<()> {
        let target = self.folder.join(leaf);
        let Some(temporary) = &self.temporary else { return Ok(()) };
        if !self.place.replaces() {
            // The temporary name goes as this is dropped.
            return fs::hard_link(temporary, target);
        }
        match fs::symlink_metadata(&target) {
            Ok(found) if !found.is_file() => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::rename(temporary, target)?;
        self.temporary = None;
        Ok(())
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            // If even this fails, the file keeps a name that says what it is.
            let _ = fs::remove_file(temporary);
        }
    }
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    // It moves the file's cursor, which nobody uses, and is one call with its own offset.
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_write(file, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
