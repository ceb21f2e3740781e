//! Folders held against each other, file by file.

#![allow(dead_code, reason = "each suite uses its own part")]
#![allow(unreachable_pub, reason = "a module of test binaries")]
#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Files by their paths.
pub type Tree = BTreeMap<PathBuf, Vec<u8>>;

/// What stands for a folder that nothing is in.
pub const EMPTY: &[u8] = b"(an empty folder)";

/// All files and empty folders below a folder, by their path in it.
pub fn tree(root: impl AsRef<Path>) -> Tree {
    let root = root.as_ref();
    let mut found = Tree::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let name = |path: &Path| path.strip_prefix(root).unwrap().to_owned();
        let mut is_empty = folder != root;
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            is_empty = false;
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(name(&path), fs::read(&path).unwrap());
            }
        }
        if is_empty {
            found.insert(name(&folder), EMPTY.to_vec());
        }
    }
    found
}

/// As `assert_eq`, but without a thousand files in the message.
pub fn same(found: &Tree, whole: &Tree, after: &str) {
    let names = |one: &Tree, other: &Tree| {
        one.keys().filter(|name| !other.contains_key(*name)).take(5).cloned().collect::<Vec<_>>()
    };
    let [more, less] = [names(found, whole), names(whole, found)];
    assert!(more.is_empty() && less.is_empty(), "{after}: more: {more:?}, less: {less:?}");
    let other: Vec<_> = found.iter().filter(|(name, bytes)| whole[*name] != **bytes).collect();
    assert!(
        other.is_empty(),
        "{after}: {:?} differ",
        other.iter().map(|(n, _)| n).collect::<Vec<_>>()
    );
}

/// A folder in memory where there is one: a disk's would wait for others.
pub fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}
