//! Output folders with something beside them that must not change, and what the sink's tests share.

#![allow(dead_code, reason = "each test file takes what it needs")]
#![allow(clippy::unwrap_used, reason = "clippy.toml allows it in functions marked as tests only")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tensortiff::FilesSink;

/// A way of making files.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) make: fn(&Path, bool) -> FilesSink,
}

/// All ways of making files.
pub(crate) const FILES: [Way; 3] = [
    Way { name: "nameless", make: |root, overwrite| FilesSink::new(root, overwrite) },
    Way {
        name: "temporary",
        make: |root, overwrite| FilesSink::new(root, overwrite).with_temporary_names(),
    },
    Way { name: "std", make: |root, overwrite| FilesSink::new(root, overwrite).with_std_alone() },
];

/// A sink for the folder `out`, and beside it a folder `outside`.
pub(crate) struct Files {
    way: Way,
    overwrite: bool,
    dir: tempfile::TempDir,
    pub(crate) out: PathBuf,
    pub(crate) outside: PathBuf,
    pub(crate) sink: FilesSink,
}

impl Files {
    pub(crate) fn new(way: Way, overwrite: bool) -> Files {
        let dir = tempfile::tempdir().unwrap();
        let (out, outside) = (dir.path().join("out"), dir.path().join("outside"));
        plant(&outside.join("victim"));
        let sink = (way.make)(&out, overwrite);
        Files { way, overwrite, dir, out, outside, sink }
    }

    pub(crate) fn use_out(&mut self, below: &str) {
        self.out = self.dir.path().join(below);
        self.sink = (self.way.make)(&self.out, self.overwrite);
    }

    pub(crate) fn assert_outside_untouched(&self, case: &str) {
        let expected = [("victim".to_owned(), b"planted".to_vec())].into();
        assert_eq!(tree(&self.outside), expected, "{case}");
    }

    /// A number near the next one in a temporary name, seen in a name while it is there.
    pub(crate) fn temporary_number(&self) -> u64 {
        let probe = Files::new(FILES[2], false);
        fs::create_dir(&probe.out).unwrap();
        let pending = tensortiff::Sink::begin(&probe.sink, "probe", Some(1)).unwrap();
        let name = entries(&probe.out).pop().unwrap();
        drop(pending);
        name.trim_end_matches(".tmp").rsplit('-').next().unwrap().parse::<u64>().unwrap() + 1
    }
}

/// All files below a folder, with their bytes. One that goes while this looks is passed over.
pub(crate) fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for name in entries(root) {
        let path = root.join(&name);
        if path.is_file()
            && let Ok(bytes) = fs::read(&path)
        {
            files.insert(name, bytes);
        }
    }
    files
}

/// All entries below a folder by name, sorted; links are not followed.
pub(crate) fn entries(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder)).into_iter().flatten() {
            let entry = entry.unwrap();
            let name = format!("{folder}{}", entry.file_name().into_string().unwrap());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(format!("{name}/"));
            }
            found.push(name);
        }
    }
    found.sort();
    found
}

/// Bytes that tell which image they are of, and where they were.
pub(crate) fn content(image: usize, len: usize) -> Vec<u8> {
    let byte = |i| u8::try_from((image * 31 + i + i / 256) % 251).unwrap();
    (0..len).map(byte).collect()
}

/// A file that was there before.
pub(crate) fn plant(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, b"planted").unwrap();
}

#[cfg(unix)]
pub(crate) fn link(to: &Path, at: &Path) {
    std::os::unix::fs::symlink(to, at).unwrap();
}

#[cfg(windows)]
pub(crate) fn link(to: &Path, at: &Path) {
    if to.is_dir() {
        std::os::windows::fs::symlink_dir(to, at).unwrap();
    } else {
        std::os::windows::fs::symlink_file(to, at).unwrap();
    }
}
