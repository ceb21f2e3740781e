//! One run at a time in an output folder, or several that share it: a shard each, or a tar each.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::identity::Hash;
use super::{HIDDEN, files};
use crate::error::Error;

/// How often a folder is tried that somebody has alone, who shares it again in a moment.
const TRIES: u32 = 50;
const EACH: Duration = Duration::from_millis(20);

/// Held while a run works in a folder; the system lets go of it when the process ends, however it
/// does. It leaves no file, but for that of a tar whose run was killed.
#[derive(Debug)]
pub struct Lock {
    folder: Option<File>,
    /// The file that stands for a tar, and where it is.
    file: Option<(File, PathBuf)>,
}

impl Lock {
    /// Locks the folder, alone or with others that share it. Where a system cannot lock folders
    /// (Windows, some network file systems) nothing is locked.
    ///
    /// # Errors
    /// [`Error::Busy`] if another run holds it, and either does not share it.
    pub fn new(folder: &Path, shared: bool) -> Result<Lock, Error> {
        let Ok(opened) = File::open(folder) else { return Ok(Lock { folder: None, file: None }) };
        match if shared { opened.try_lock_shared() } else { opened.try_lock() } {
            Err(TryLockError::WouldBlock) => Err(Error::Busy { path: folder.to_owned() }),
            Err(TryLockError::Error(_)) => Ok(Lock { folder: None, file: None }),
            Ok(()) => Ok(Lock { folder: Some(opened), file: None }),
        }
    }

    /// Locks what is called so in a folder, which others share who work at something else there.
    ///
    /// # Errors
    /// [`Error::Busy`] if another run works at the same, or has the folder to itself; [`Error::Write`] where
    /// no file can be made.
    pub fn named(folder: &Path, name: Hash) -> Result<Lock, Error> {
        let mut lock = Lock::new(folder, true);
        for _ in 0..TRIES {
            if lock.is_ok() {
                break;
            }
            // Who tidies up has it alone for a moment.
            std::thread::sleep(EACH);
            lock = Lock::new(folder, true);
        }
        let mut lock = lock?;
        let path = folder.join(format!("{HIDDEN}{}.lock", String::from(name)));
        let failed = |source| Error::Write { path: path.clone(), source };
        lock.file = loop {
            let mut open = OpenOptions::new();
            let file = open.write(true).create(true).truncate(false).open(&path).map_err(failed)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Busy { path: folder.to_owned() });
                }
                // Files cannot be locked here.
                Err(TryLockError::Error(_)) => {
                    files::remove(&path).map_err(failed)?;
                    break None;
                }
                // Somebody may have taken it away between the two.
                Ok(()) if is_at(&file, &path).map_err(failed)? => break Some((file, path)),
                Ok(()) => {}
            }
        };
        Ok(lock)
    }

    /// Whether nobody shares the folder now. Nobody does then until [`share`](Lock::share).
    ///
    /// # Errors
    /// As there.
    pub fn is_alone(&self, path: &Path) -> Result<bool, Error> {
        let is_shared = |folder: &File| matches!(folder.try_lock(), Err(TryLockError::WouldBlock));
        if !self.folder.as_ref().is_some_and(is_shared) {
            return Ok(true);
        }
        // What was held is gone where it could not become more.
        self.share(path).map(|()| false)
    }

    /// Shares the folder again.
    ///
    /// # Errors
    /// [`Error::Busy`] if somebody has it alone meanwhile.
    pub fn share(&self, path: &Path) -> Result<(), Error> {
        let Some(folder) = &self.folder else { return Ok(()) };
        for _ in 0..TRIES {
            match folder.try_lock_shared() {
                Err(TryLockError::WouldBlock) => std::thread::sleep(EACH),
                _ => return Ok(()),
            }
        }
        Err(Error::Busy { path: path.to_owned() })
    }
}

impl Lock {
    /// Lets go of it.
    ///
    /// # Errors
    /// [`Error::Write`] where its file cannot be taken away.
    pub fn release(mut self) -> Result<(), Error> {
        // The file is held until it is gone.
        let Some((_file, path)) = self.file.take() else { return Ok(()) };
        files::remove(&path).map_err(|source| Error::Write { path, source })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some((_, path)) = &self.file {
            // It says nothing, wherever it is.
            let _ = files::remove(path);
        }
    }
}

/// Whether a file is what its path leads to.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let of = |found: std::fs::Metadata| (found.dev(), found.ino());
    match std::fs::symlink_metadata(path) {
        Ok(found) => Ok(of(found) == of(file.metadata()?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Elsewhere a file that is open keeps its name.
#[cfg(not(unix))]
fn is_at(_file: &File, _path: &Path) -> io::Result<bool> {
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_is_one_runs_and_a_folder_all_of_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let one = Lock::named(path, Hash(1)).unwrap();
        assert!(one.is_alone(path).unwrap());
        // Nobody else comes in while that is so.
        assert!(matches!(Lock::named(path, Hash(2)), Err(Error::Busy { .. })));
        one.share(path).unwrap();
        assert!(matches!(Lock::named(path, Hash(1)), Err(Error::Busy { .. })));
        let other = Lock::named(path, Hash(2)).unwrap();
        assert!(!one.is_alone(path).unwrap() && !other.is_alone(path).unwrap());
        assert!(matches!(Lock::new(path, false), Err(Error::Busy { .. })));
        drop(one);
        let again = Lock::named(path, Hash(1)).unwrap();
        drop((again, other));
        let alone = Lock::new(path, false).unwrap();
        assert!(matches!(Lock::named(path, Hash(1)), Err(Error::Busy { .. })));
        drop(alone);
        assert_eq!(std::fs::read_dir(path).unwrap().count(), 0);
    }

    /// Many threads at one name: one has it at a time, though each takes its file away.
    #[test]
    fn nobody_has_a_name_twice() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let (inside, times) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        let Ok(lock) = Lock::named(dir.path(), Hash(7)) else { continue };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        times.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert!(times.into_inner() > 100);
    }
}
