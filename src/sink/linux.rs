//! Making files on Linux: relative to open folders, without a name until they are whole.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

/// Open folders that are kept. A run works on few at a time, and 64 descriptors must suffice.
const FOLDERS: usize = 16;
/// Folders and files as `mkdir` and `open` make them: the umask takes its bits away.
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o777);
const FILE_MODE: Mode = Mode::from_raw_mode(0o666);

/// Where files are made.
#[derive(Debug)]
pub(super) struct Place {
    root: PathBuf,
    overwrite: bool,
    /// Whether files can be made without a name here; found out once.
    nameless: AtomicBool,
    root_folder: OnceLock<Arc<OwnedFd>>,
    folders: RwLock<HashMap<String, Arc<OwnedFd>>>,
    /// Numbers temporary names.
    counter: AtomicU64,
}

impl Place {
    pub(super) fn new(root: &Path, overwrite: bool) -> Place {
        Place {
            root: root.to_owned(),
            overwrite,
            nameless: AtomicBool::new(true),
            root_folder: OnceLock::new(),
            folders: RwLock::default(),
            counter: AtomicU64::new(0),
        }
    }

    pub(super) fn use_temporary_names(&mut self) {
        self.nameless = AtomicBool::new(false);
    }

    /// Makes a file in the root, names it and takes it away: whether that works, and whether it
    /// works without a temporary name, is known before any image is made.
    pub(super) fn prove_writable(&self) -> io::Result<()> {
        let mut file = self.create("", "")?;
        if file.temporary.is_none() {
            let name = self.temporary_name();
            match file.link(&name) {
                Ok(()) => file.temporary = Some(name),
                // No /proc here, or a file system that cannot link nameless files.
                Err(_) => {
                    self.nameless.store(false, Ordering::Relaxed);
                    self.create("", "")?;
                }
            }
        }
        Ok(())
    }

    /// A new file that will be called `leaf`.
    pub(super) fn create(&self, folder: &str, leaf: &str) -> io::Result<NewFile<'_>> {
        let folder = self.folder(folder)?;
        let mut temporary = None;
        let mut file = None;
        if self.nameless.load(Ordering::Relaxed) {
            match rustix::fs::openat(&*folder, ".", OFlags::TMPFILE | write_flags(), FILE_MODE) {
                Ok(fd) => file = Some(fd),
                // What file systems and kernels without O_TMPFILE answer.
                Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
                    self.nameless.store(false, Ordering::Relaxed);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let file = match file {
            Some(fd) => fd,
            None => {
                let name = self.temporary_name();
                let flags = write_flags() | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let fd = rustix::fs::openat(&*folder, &name, flags, FILE_MODE)?;
                temporary = Some(name);
                fd
            }
        };
        let file = File::from(file);
        Ok(NewFile { place: self, folder, leaf: leaf.to_owned(), file, temporary })
    }

    fn temporary_name(&self) -> String {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        format!(".tensortiff-{}-{number}.tmp", std::process::id())
    }

    fn root_folder(&self) -> io::Result<Arc<OwnedFd>> {
        if let Some(root) = self.root_folder.get() {
            return Ok(Arc::clone(root));
        }
        // The output folder itself may be a link: the user named it.
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = Arc::new(rustix::fs::openat(CWD, &self.root, flags, Mode::empty())?);
        Ok(Arc::clone(self.root_folder.get_or_init(|| root)))
    }

    /// The open folder, made where it is missing.
    fn folder(&self, path: &str) -> io::Result<Arc<OwnedFd>> {
        let mut folder = self.root_folder()?;
        if path.is_empty() {
            return Ok(folder);
        }
        if let Some(known) = self.folders.read().unwrap_or_else(PoisonError::into_inner).get(path) {
            return Ok(Arc::clone(known));
        }
        for part in path.split('/') {
            folder = Arc::new(open_or_make(&folder, part)?);
        }
        let mut folders = self.folders.write().unwrap_or_else(PoisonError::into_inner);
        if folders.len() >= FOLDERS {
            folders.clear();
        }
        Ok(Arc::clone(folders.entry(path.to_owned()).or_insert(folder)))
    }
}

fn write_flags() -> OFlags {
    OFlags::WRONLY | OFlags::CLOEXEC
}

fn open_or_make(parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => match rustix::fs::mkdirat(parent, name, FOLDER_MODE) {
            // Another thread may have been first.
            Ok(()) | Err(Errno::EXIST) => {
                Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
            }
            Err(error) => Err(error.into()),
        },
        found => Ok(found?),
    }
}

/// A file that has no name yet. Dropped, it is gone.
#[derive(Debug)]
pub(super) struct NewFile<'a> {
    place: &'a Place,
    folder: Arc<OwnedFd>,
    leaf: String,
    file: File,
    temporary: Option<String>,
}

impl NewFile<'_> {
    /// Writes both parts in one call where the system takes them so.
    pub(super) fn write_all(&self, header: &[u8], pixels: &[u8]) -> io::Result<()> {
        let mut parts = [IoSlice::new(header), IoSlice::new(pixels)];
        let mut parts = &mut parts[..];
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match (&self.file).write_vectored(parts) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut parts, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    pub(super) fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Gives the file its name.
    pub(super) fn commit(mut self) -> io::Result<()> {
        if self.temporary.is_none() {
            match self.link(&self.leaf) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) if self.place.overwrite => {}
                Err(error) => return Err(error.into()),
            }
            let name = self.place.temporary_name();
            self.link(&name)?;
            self.temporary = Some(name);
        }
        let name = self.temporary.clone().unwrap_or_default();
        let flags =
            if self.place.overwrite { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        match rustix::fs::renameat_with(&self.folder, &name, &self.folder, &self.leaf, flags) {
            // A file system without that flag: a hard link does not replace either.
            Err(Errno::INVAL | Errno::NOSYS) if !self.place.overwrite => {
                let (from, to) = (name.as_str(), self.leaf.as_str());
                rustix::fs::linkat(&self.folder, from, &self.folder, to, AtFlags::empty())?;
                Ok(()) // and the temporary name goes as this is dropped
            }
            Ok(()) => {
                self.temporary = None;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn link(&self, name: &str) -> Result<(), Errno> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        rustix::fs::linkat(CWD, path, &self.folder, name, AtFlags::SYMLINK_FOLLOW)
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if let Some(name) = self.temporary.take() {
            // If even this fails, the file keeps a name that says what it is.
            let _ = rustix::fs::unlinkat(&self.folder, name, AtFlags::empty());
        }
    }
}
