//! One run at a time in an output folder, or several that make a shard each.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::error::Error;

/// Held while a run works in a folder; the system lets go of it when the process ends, however it
/// does. It leaves no file.
#[derive(Debug)]
pub struct Lock {
    _folder: Option<File>,
}

impl Lock {
    /// Locks the folder, alone or with others that share it. Where a system cannot lock folders
    /// (Windows, some network file systems) nothing is locked.
    ///
    /// # Errors
    /// [`Error::Busy`] if another run holds it, and either does not share it.
    pub fn new(folder: &Path, shared: bool) -> Result<Lock, Error> {
        let Ok(opened) = File::open(folder) else { return Ok(Lock { _folder: None }) };
        match if shared { opened.try_lock_shared() } else { opened.try_lock() } {
            Err(TryLockError::WouldBlock) => Err(Error::Busy { path: folder.to_owned() }),
            Err(TryLockError::Error(_)) => Ok(Lock { _folder: None }),
            Ok(()) => Ok(Lock { _folder: Some(opened) }),
        }
    }
}
