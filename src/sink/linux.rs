//! Making files on Linux: relative to open folders, without a name until they are whole.

use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::Space;
use super::place::with_temporary_name;

/// Open folders that are kept, of all threads. A run works on few at a time, and 64 descriptors must
/// suffice: these, the root, and for each thread a file and two folders.
const FOLDERS: usize = 16;
/// Folders and files as `mkdir` and `open` make them: the umask takes its bits away.
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o777);
const FILE_MODE: Mode = Mode::from_raw_mode(0o666);
const FOLDER_FLAGS: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC);
const FILE_FLAGS: OFlags = OFlags::WRONLY.union(OFlags::CLOEXEC);

/// Where files are made.
#[derive(Debug)]
pub(super) struct Place {
    root: PathBuf,
    overwrite: AtomicBool,
    /// Whether files can be made without a name here; found out once.
    nameless: AtomicBool,
    /// Whether they can be linked by their descriptor alone; found out by the first.
    by_descriptor: AtomicBool,
    root_folder: OnceLock<Arc<OwnedFd>>,
    folders: [Folders; FOLDERS],
    /// How many of these hold any.
    used: AtomicUsize,
}

/// Open folders of one thread, or of some where there are many. What threads count and lock in common
/// takes them time with every file, here and in the kernel: a folder that two of them write to is open
/// twice.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Folders(Mutex<Vec<(String, Arc<OwnedFd>)>>);

/// Which ones are this thread's.
fn own() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static OWN: usize = THREADS.fetch_add(1, Ordering::Relaxed) % FOLDERS);
    OWN.with(|own| *own)
}

impl Place {
    pub(super) fn new(root: &Path, overwrite: bool) -> Place {
        Place {
            root: root.to_owned(),
            overwrite: AtomicBool::new(overwrite),
            nameless: AtomicBool::new(true),
            by_descriptor: AtomicBool::new(true),
            root_folder: OnceLock::new(),
            folders: Default::default(),
            used: AtomicUsize::new(0),
        }
    }

    pub(super) fn use_temporary_names(&mut self) {
        self.nameless = AtomicBool::new(false);
    }

    pub(super) fn overwrite(&self) {
        self.overwrite.store(true, Ordering::Relaxed);
    }

    fn replaces(&self) -> bool {
        self.overwrite.load(Ordering::Relaxed)
    }

    /// The whole file system, in one call.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&*self.root_folder()?)?)
    }

    /// Finds the way that works: without a name where possible, for whatever reason it is not
    /// (no `/proc`, a file system that cannot link nameless files) with a temporary one.
    pub(super) fn prove_writable(&self) -> io::Result<()> {
        if self.nameless.load(Ordering::Relaxed) {
            if self.probe().is_ok() {
                return Ok(());
            }
            self.nameless.store(false, Ordering::Relaxed);
        }
        self.probe()
    }

    fn probe(&self) -> io::Result<()> {
        let (name, ()) = with_temporary_name(|name| self.create("")?.commit(name))?;
        let root = self.root_folder()?;
        let remove = || rustix::fs::unlinkat(&*root, &name, AtFlags::empty());
        // Once more, as it would stay there for good.
        Ok(remove().or_else(|_| remove())?)
    }

    pub(super) fn create(&self, folder: &str) -> io::Result<NewFile<'_>> {
        let folder = self.folder(folder)?;
        if self.nameless.load(Ordering::Relaxed) {
            match rustix::fs::openat(&*folder, ".", OFlags::TMPFILE | FILE_FLAGS, FILE_MODE) {
                Ok(fd) => {
                    return Ok(NewFile { place: self, folder, file: fd.into(), temporary: None });
                }
                // What file systems and kernels without O_TMPFILE answer. The root can have it and
                // another file system that is mounted below lack it.
                Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                    self.nameless.store(false, Ordering::Relaxed);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let flags = FILE_FLAGS | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let (name, fd) =
            with_temporary_name(|name| Ok(rustix::fs::openat(&*folder, name, flags, FILE_MODE)?))?;
        Ok(NewFile { place: self, folder, file: fd.into(), temporary: Some(name) })
    }

    fn root_folder(&self) -> io::Result<Arc<OwnedFd>> {
        if let Some(root) = self.root_folder.get() {
            return Ok(Arc::clone(root));
        }
        // The output folder itself may be a link: the user named it.
        let root = Arc::new(rustix::fs::openat(CWD, &self.root, FOLDER_FLAGS, Mode::empty())?);
        Ok(Arc::clone(self.root_folder.get_or_init(|| root)))
    }

    /// Whether a thread has this folder open, or one below it.
    fn is_open(&self, path: &str) -> bool {
        let is_below = |of: &str| of.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        self.folders.iter().any(|Folders(folders)| {
            let folders = folders.lock().unwrap_or_else(PoisonError::into_inner);
            folders.iter().any(|(of, _)| of == path || is_below(of))
        })
    }

    /// The open folder, made where it is missing.
    fn folder(&self, path: &str) -> io::Result<Arc<OwnedFd>> {
        let Folders(folders) = &self.folders[own()];
        let folders = || folders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = folders().iter().find(|(of, _)| of == path) {
            return Ok(Arc::clone(known));
        }
        let mut folder = self.root_folder()?;
        // The root as well is open once more for this thread.
        if path.is_empty() {
            folder = Arc::new(open(&folder, ".")?);
        }
        let mut end = 0;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            end += part.len();
            folder = Arc::new(open_or_make(&folder, part, || self.is_open(&path[..end]))?);
            end += 1;
        }
        let mut folders = folders();
        if folders.is_empty() {
            self.used.fetch_add(1, Ordering::Relaxed);
        }
        // Others hold no more, or will not once they need another one.
        if folders.len() >= FOLDERS / self.used.load(Ordering::Relaxed).clamp(1, FOLDERS) {
            folders.clear();
        }
        folders.push((path.to_owned(), Arc::clone(&folder)));
        Ok(folder)
    }
}

/// Room on the file system of a folder.
pub(super) fn space(folder: &Path) -> io::Result<Option<Space>> {
    let found = rustix::fs::statvfs(folder)?;
    // Some file systems do not say (FUSE's, /proc).
    Ok((found.f_blocks > 0).then(|| Space {
        path: folder.to_owned(),
        bytes: found.f_bavail.saturating_mul(found.f_frsize),
        // Some file systems make them as they need them, and count none.
        inodes: (found.f_files > 0).then_some(found.f_favail),
        block: found.f_frsize,
        exists: true,
        occupied: true,
    }))
}

/// Opens a folder, never through a link: `O_NOFOLLOW` with `O_DIRECTORY` fails with ENOTDIR there.
fn open(parent: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(parent, name, FOLDER_FLAGS | OFlags::NOFOLLOW, Mode::empty())
}

/// The same; where there is none it is made, unless another thread has it open: then it made it just now, or
/// somebody took it away.
fn open_or_make(
    parent: &OwnedFd,
    name: &str,
    is_open: impl FnOnce() -> bool,
) -> io::Result<OwnedFd> {
    match open(parent, name) {
        Err(Errno::NOENT) if !is_open() => {
            match rustix::fs::mkdirat(parent, name, FOLDER_MODE) {
                // Another thread may have been first.
                Ok(()) | Err(Errno::EXIST) => Ok(open(parent, name)?),
                Err(error) => Err(error.into()),
            }
        }
        Err(Errno::NOENT) => Ok(open(parent, name)?),
        found => Ok(found?),
    }
}

/// A file without its final name. Dropped, it is gone.
#[derive(Debug)]
pub(super) struct NewFile<'a> {
    place: &'a Place,
    folder: Arc<OwnedFd>,
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

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    pub(super) fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Gives the file its name. (Syncing the file belongs before this, the folder after.)
    pub(super) fn commit(mut self, leaf: &str) -> io::Result<()> {
        let name = match self.temporary.take() {
            Some(name) => name,
            None => match self.link(leaf) {
                Err(Errno::EXIST) if self.place.replaces() => {
                    with_temporary_name(|name| Ok(self.link(name)?))?.0
                }
                done => return Ok(done?),
            },
        };
        // From here on it goes by that name when this is dropped.
        self.temporary = Some(name.clone());
        if self.place.replaces() {
            self.replace(&name, leaf)?
        } else {
            self.rename(&name, leaf)?
        }
        Ok(())
    }

    /// By the descriptor itself where the system lets it (Linux 6.10, or a privileged process),
    /// else by its path in /proc, which takes the kernel longer to walk: 1.25 times the floor
    /// against 1.12 with 100,000 tiny files on tmpfs.
    fn link(&self, name: &str) -> Result<(), Errno> {
        if self.place.by_descriptor.load(Ordering::Relaxed) {
            match rustix::fs::linkat(&self.file, "", &self.folder, name, AtFlags::EMPTY_PATH) {
                // What systems answer that do not let it; the other way finds out if the reason
                // is another.
                Err(Errno::NOENT | Errno::PERM | Errno::INVAL) => {}
                done => return done,
            }
        }
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        rustix::fs::linkat(CWD, path, &self.folder, name, AtFlags::SYMLINK_FOLLOW)?;
        self.place.by_descriptor.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Takes the place of a file. There is no moment without a whole one.
    fn replace(&mut self, from: &str, to: &str) -> io::Result<()> {
        match rustix::fs::statat(&self.folder, to, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile => {}
            // A link would be replaced and not followed, but it is not ours to replace.
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        rustix::fs::renameat(&self.folder, from, &self.folder, to)?;
        self.temporary = None;
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let folder = &self.folder;
        match rustix::fs::renameat_with(folder, from, folder, to, RenameFlags::NOREPLACE) {
            Ok(()) => {
                self.temporary = None;
                Ok(())
            }
            // A file system without that flag (NFS, 9p) or a kernel without that call: a hard link
            // does not replace either. The temporary name goes as this is dropped.
            Err(Errno::INVAL | Errno::NOSYS) => {
                Ok(rustix::fs::linkat(folder, from, folder, to, AtFlags::empty())?)
            }
            Err(error) => Err(error.into()),
        }
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
