//! The one folder that a bench makes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cli::signals;
use crate::error::Error;

/// A new folder, which goes when this is dropped, or when a signal ends the process before that,
/// with everything in it.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new(parent: &Path) -> Result<Scratch, Error> {
        // A process that was killed may have left one, and in containers every process is the first.
        const MOST: u32 = 1000;
        let mut held = signals::held_folder();
        for number in 0..MOST {
            let path = parent.join(format!("tensortiff-bench-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => {
                    *held = Some(path.clone());
                    return Ok(Scratch(path));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(Error::Write { path: parent.to_owned(), source }),
            }
        }
        let source = io::ErrorKind::AlreadyExists.into();
        Err(Error::Write { path: parent.join("tensortiff-bench-*"), source })
    }

    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Held meanwhile, so that a signal waits until all is gone.
        let mut held = signals::held_folder();
        drop(fs::remove_dir_all(&self.0));
        *held = None;
    }
}
