//! Files to read from, of which a bounded number is open at a time: a thousand dumps do not take a
//! thousand descriptors.
//!
//! As many as the bound allows stay open for good, and reading them takes no lock and no count.
//! Where there are more, each is opened when it is read and closed when so many others were opened
//! since; a run goes through its dumps one after another, so that each is opened about once. What
//! is opened again must still be the file whose header was read.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, Metadata};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::error::{EMFILE, ENFILE};
use crate::tensor::Origin;

/// The bound where the limit is not known: a quarter of what macOS allows.
const MOST: usize = 64;
/// The bound at most: what a thousand open files cost the kernel is nothing.
const MOST_AT_ALL: usize = 1024;

/// Files that were looked at once and can be read from then on.
#[derive(Debug)]
pub(super) struct OpenFiles {
    files: Vec<Known>,
    most: usize,
    few: Mutex<Few>,
}

#[derive(Debug)]
struct Known {
    path: PathBuf,
    identity: Identity,
    kept: Option<File>,
}

/// Those that are open, in the order in which they were opened.
#[derive(Debug, Default)]
struct Few {
    open: HashMap<usize, Arc<File>>,
    order: VecDeque<usize>,
}

/// Which file it is, whatever its name.
#[cfg(unix)]
pub(super) type Place = (u64, u64);
#[cfg(not(unix))]
pub(super) type Place = PathBuf;

/// Device and inode.
#[cfg(unix)]
#[allow(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
pub(super) fn place(_: &Path, found: &Metadata) -> io::Result<Place> {
    use std::os::unix::fs::MetadataExt as _;
    Ok((found.dev(), found.ino()))
}

/// The path without links.
#[cfg(not(unix))]
pub(super) fn place(path: &Path, _: &Metadata) -> io::Result<Place> {
    fs::canonicalize(path)
}

/// What a file was when its header was read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    place: Place,
    len: u64,
    modified: Option<SystemTime>,
}

/// An open file.
pub(super) enum Handle<'a> {
    Kept(&'a File),
    Counted(Arc<File>),
}

/// Why there is no handle.
#[derive(Debug)]
pub(super) enum Gone {
    /// The system refuses.
    Refused(io::Error),
    /// It is not the file that it was; it ends here.
    Changed(u64),
}

impl OpenFiles {
    /// Room for `count` files.
    pub(super) fn new(count: usize) -> OpenFiles {
        OpenFiles::with_bound(count, bound())
    }

    /// Room for `count` files, of which `most` are open at a time.
    pub(super) fn with_bound(count: usize, most: usize) -> OpenFiles {
        OpenFiles { files: Vec::with_capacity(count), most, few: Mutex::default() }
    }

    /// Adds a file that is open, and what it was before its header was read: what is written to it
    /// from then on is a change.
    ///
    /// # Errors
    /// What the system says where it says nothing about the file.
    pub(super) fn add(&mut self, path: &Path, file: File, seen: &Metadata) -> io::Result<()> {
        let known = Known {
            identity: Identity::of(path, seen)?,
            // The folder that a relative path starts from may be another one later.
            path: std::path::absolute(path)?,
            kept: (self.files.capacity() <= self.most).then_some(file),
        };
        self.files.push(known);
        Ok(())
    }

    /// How many were added.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// What a file was when it was added.
    pub(super) fn origin(&self, index: usize) -> Origin {
        let Identity { len, modified, .. } = self.files[index].identity;
        Origin { bytes: len, modified }
    }

    /// Whether a file is another one than when it was added, or was written to. One that is not open
    /// was looked at whenever it was opened, and is looked at by its path.
    pub(super) fn is_changed(&self, index: usize) -> bool {
        let known = &self.files[index];
        let now = match &known.kept {
            Some(file) => file.metadata(),
            None => fs::metadata(&known.path),
        };
        now.is_ok_and(|now| known.check(&now).is_err())
    }

    /// The file, opened if need be. No lock is held by what is given back.
    pub(super) fn get(&self, index: usize) -> Result<Handle<'_>, Gone> {
        let known = &self.files[index];
        if let Some(file) = &known.kept {
            return Ok(Handle::Kept(file));
        }
        if let Some(file) = self.few().open.get(&index) {
            return Ok(Handle::Counted(Arc::clone(file)));
        }
        let file = Arc::new(self.open(known)?);
        let mut few = self.few();
        // Two threads may come here at once: one of the two descriptors goes soon.
        if few.open.insert(index, Arc::clone(&file)).is_none() {
            few.order.push_back(index);
        }
        let oldest = if few.order.len() > self.most { few.order.pop_front() } else { None };
        let closed = oldest.and_then(|index| few.open.remove(&index));
        drop(few);
        drop(closed); // not under the lock: closing may take its time
        Ok(Handle::Counted(file))
    }

    fn open(&self, known: &Known) -> Result<File, Gone> {
        // Looked at before it is opened, too: opening a pipe waits for a writer.
        known.check(&fs::metadata(&known.path)?)?;
        let file = loop {
            match File::open(&known.path) {
                // The rest of the process took what was thought to be free.
                Err(error) if is_out_of_descriptors(&error) && self.close_all() => {}
                opened => break opened?,
            }
        };
        known.check(&file.metadata()?)?;
        Ok(file)
    }

    /// Whether there was something to close.
    fn close_all(&self) -> bool {
        !std::mem::take(&mut *self.few()).open.is_empty()
    }

    fn few(&self) -> MutexGuard<'_, Few> {
        self.few.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn check(&self, now: &Metadata) -> Result<(), Gone> {
        if Identity::of(&self.path, now)? == self.identity {
            Ok(())
        } else {
            Err(Gone::Changed(now.len()))
        }
    }
}

impl Identity {
    fn of(path: &Path, found: &Metadata) -> io::Result<Identity> {
        let modified = found.modified().ok();
        Ok(Identity { place: place(path, found)?, len: found.len(), modified })
    }
}

impl Deref for Handle<'_> {
    type Target = File;

    fn deref(&self) -> &File {
        match self {
            Handle::Kept(file) => file,
            Handle::Counted(file) => file,
        }
    }
}

impl From<io::Error> for Gone {
    fn from(error: io::Error) -> Gone {
        Gone::Refused(error)
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    cfg!(unix) && matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

/// A quarter of the descriptors that this process may have: the sink, a GPU's driver and whoever
/// uses this library need some as well.
fn bound() -> usize {
    // Where there is no such file, there is no other way without unsafe code or one more crate.
    let limits = fs::read_to_string("/proc/self/limits").ok();
    let limit = limits.as_deref().and_then(soft_limit);
    limit.map_or(MOST, |limit| (limit / 4).clamp(1, MOST_AT_ALL))
}

/// `Max open files            1024                 1048576              files`
fn soft_limit(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(usize::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::pread;

    const FILES: usize = 20;
    const LEN: usize = 100;

    /// Files of their own number, of which two stay open.
    fn files(dir: &Path) -> OpenFiles {
        let mut files = OpenFiles::with_bound(FILES, 2);
        for i in 0..FILES {
            let path = dir.join(i.to_string());
            fs::write(&path, [u8::try_from(i).unwrap(); LEN]).unwrap();
            add(&mut files, &path);
        }
        files
    }

    fn add(files: &mut OpenFiles, path: &Path) {
        let file = File::open(path).unwrap();
        let seen = file.metadata().unwrap();
        files.add(path, file, &seen).unwrap();
    }

    fn read(files: &OpenFiles, i: usize) -> Result<[u8; LEN], Gone> {
        let mut bytes = [255; LEN];
        assert_eq!(pread::fill(&*files.get(i)?, 0, &mut bytes)?, LEN);
        Ok(bytes)
    }

    #[test]
    fn a_bounded_number_is_open_whoever_reads() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let files = &files;
                scope.spawn(move || {
                    for k in 0..2000 {
                        let i = (thread + k * k) % FILES;
                        assert_eq!(read(files, i).unwrap(), [u8::try_from(i).unwrap(); LEN]);
                        let few = files.few();
                        assert!(few.open.len() <= 2 && few.order.len() == few.open.len());
                    }
                });
            }
        });
        assert!(files.close_all() && !files.close_all());
        assert_eq!(read(&files, 7).unwrap(), [7; LEN], "after all were closed");
    }

    #[test]
    fn few_files_stay_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, [3; LEN]).unwrap();
        let mut files = OpenFiles::with_bound(1, 1);
        add(&mut files, &path);
        fs::remove_file(&path).unwrap();
        assert_eq!(read(&files, 0).unwrap(), [3; LEN]);
        assert!(matches!(files.get(0), Ok(Handle::Kept(_))));
    }

    #[test]
    fn a_file_that_is_opened_again_is_the_one_that_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let at = |i: usize| dir.path().join(i.to_string());
        let files = files(dir.path());
        let open = |i: usize| File::options().write(true).open(at(i)).unwrap();
        // Longer and shorter at the same time.
        for (i, len) in [(0, 60), (1, 200)] {
            let modified = fs::metadata(at(i)).unwrap().modified().unwrap();
            open(i).set_len(len).unwrap();
            open(i).set_modified(modified).unwrap();
        }
        // Another file with the same bytes and times.
        let modified = fs::metadata(at(2)).unwrap().modified().unwrap();
        fs::write(at(99), [2; LEN]).unwrap();
        open(99).set_modified(modified).unwrap();
        fs::rename(at(99), at(2)).unwrap();
        // The same file, written to.
        open(3).set_modified(modified + std::time::Duration::from_nanos(1_000)).unwrap();
        for (i, end) in [(0, 60), (1, 200), (2, 100), (3, 100)] {
            match read(&files, i) {
                Err(Gone::Changed(now)) => assert_eq!(now, end, "{i}"),
                other => panic!("{i}: {other:?}"),
            }
        }
        fs::remove_file(at(4)).unwrap();
        match read(&files, 4) {
            Err(Gone::Refused(error)) => assert_eq!(error.kind(), io::ErrorKind::NotFound),
            other => panic!("{other:?}"),
        }
        assert_eq!(read(&files, 5).unwrap(), [5; LEN]);
    }

    /// Those that are open no more are looked at by their paths.
    #[test]
    fn a_change_is_seen_of_files_that_are_not_kept_open() {
        let dir = tempfile::tempdir().unwrap();
        let at = |i: usize| dir.path().join(i.to_string());
        let files = files(dir.path());
        (0..FILES).for_each(|i| assert!(read(&files, i).is_ok()));
        assert!(!(0..FILES).any(|i| files.is_changed(i)));
        for (i, change) in [(0, "time"), (1, "length"), (19, "time")] {
            let file = File::options().write(true).open(at(i)).unwrap();
            let modified = file.metadata().unwrap().modified().unwrap();
            match change {
                "time" => file.set_modified(modified + std::time::Duration::from_secs(1)).unwrap(),
                _ => {
                    file.set_len(60).unwrap();
                    file.set_modified(modified).unwrap();
                }
            }
        }
        fs::write(at(99), [2; LEN]).unwrap();
        fs::rename(at(99), at(2)).unwrap();
        fs::remove_file(at(3)).unwrap();
        let changed: Vec<usize> = (0..FILES).filter(|&i| files.is_changed(i)).collect();
        assert_eq!(changed, [0, 1, 2, 19], "one that is gone is no change");
    }

    #[test]
    #[cfg(unix)]
    fn a_pipe_in_a_files_place_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let path = dir.path().join("6");
        fs::remove_file(&path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(matches!(read(&files, 6), Err(Gone::Changed(0))));
    }

    #[test]
    fn the_limit_is_read_where_the_kernel_writes_it() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max processes             63432                63432                processes \n\
                    Max open files            1024                 1048576              files     \n";
        assert_eq!(soft_limit(text), Some(1024));
        assert_eq!(soft_limit(&text.replace("1024", "unlimited")), Some(usize::MAX));
        assert_eq!(soft_limit("Max open files"), None);
        assert_eq!(soft_limit(""), None);
        if cfg!(target_os = "linux") {
            let limits = fs::read_to_string("/proc/self/limits").unwrap();
            let limit = soft_limit(&limits).expect("it is there");
            assert_eq!(bound(), (limit / 4).clamp(1, MOST_AT_ALL));
        }
    }
}
