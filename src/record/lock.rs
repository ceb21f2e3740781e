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
            let file = match OpenOptions::new().write(true).create_new(true).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    files::open_regular(&path, true)?
                }
                file => Some(file.map_err(failed)?),
            };
            // Somebody may have taken it away meanwhile.
            let Some(file) = file else { continue };
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Busy { path: folder.to_owned() });
                }
                // Files cannot be locked here.
                Err(TryLockError::Error(_)) => {
                    files::remove(&path).map_err(failed)?;
                    break None;
                }
                Ok(()) if files::is_at(&file, &path).map_err(failed)? => break Some((file, path)),
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

    /// A link would lead elsewhere, and a pipe be waited for.
    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".tensortiff-0000000000000003.lock");
        let outside = dir.path().join("outside");
        std::os::unix::fs::symlink(&outside, &path).unwrap();
        assert!(matches!(Lock::named(dir.path(), Hash(3)), Err(Error::InTheWay { .. })));
        assert!(!outside.exists());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(Lock::named(dir.path(), Hash(3)), Err(Error::InTheWay { .. })));
        std::fs::remove_dir(&path).unwrap();
        // What a run left that was killed.
        std::fs::write(&path, "").unwrap();
        drop(Lock::named(dir.path(), Hash(3)).unwrap());
        assert!(!path.exists());
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
                    // Whoever finds it taken tries again, until each had it so often.
                    for _ in 0..40 {
                        let lock = loop {
                            match Lock::named(dir.path(), Hash(7)) {
                                Ok(lock) => break lock,
                                Err(_) => std::thread::yield_now(),
                            }
                        };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        times.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert_eq!(times.into_inner(), 8 * 40);
    }
}
