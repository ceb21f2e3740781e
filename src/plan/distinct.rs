//! Proof that no two images of a run get one name, also on a file system that folds case.
//!
//! Ten million images must not cost memory, so the proof is made from the patterns of names where
//! it can be: images of one tensor differ in their index; tensors whose images are in different
//! folders do not meet; tensors in one folder differ if what stands before the index differs and
//! cannot run into it. Where that does not suffice, a folder's names are compared by their hashes.

use std::collections::hash_map::{DefaultHasher, Entry, HashMap};
use std::collections::{HashSet, hash_map};
use std::hash::{Hash as _, Hasher as _};

use super::Plan;
use super::template::Pattern;

/// Two images, as (row, index), that would both be called `name`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Clash {
    pub(super) name: String,
    pub(super) one: (usize, u64),
    pub(super) other: (usize, u64),
}

/// The first clash, if there is one.
pub(super) fn clash(plan: &Plan) -> Option<Clash> {
    let patterns: Option<Vec<Leaf>> =
        (0..plan.rows().len()).map(|row| plan.pattern(row).and_then(Leaf::new)).collect();
    match patterns {
        Some(leaves) => by_folder(plan, &leaves),
        None => compare(plan, &mut (0..plan.rows().len()), true),
    }
}

/// A row's names, case folded: all in one folder, and the index, if any, in the last part.
struct Leaf {
    folder: String,
    before: String,
    /// `None`: the row is one image without an index, called `before`.
    after: Option<String>,
}

impl Leaf {
    fn new(pattern: Pattern) -> Option<Leaf> {
        let mut texts = pattern.texts.iter().map(|text| text.to_lowercase());
        let first = texts.next()?;
        let (folder, before) = first.rsplit_once('/').unwrap_or(("", &first));
        let after = texts.next();
        if texts.next().is_some() || after.as_ref().is_some_and(|text| text.contains('/')) {
            return None;
        }
        Some(Leaf { folder: folder.to_owned(), before: before.to_owned(), after })
    }

    /// Whether an image of the row could be called `name` in its folder.
    fn may_be(&self, name: &str) -> bool {
        match &self.after {
            None => self.before == name,
            Some(after) => name
                .strip_prefix(&self.before)
                .and_then(|rest| rest.strip_suffix(after.as_str()))
                .is_some_and(|index| !index.is_empty() && index.chars().all(of_index)),
        }
    }
}

fn of_index(c: char) -> bool {
    c.is_ascii_digit() || c == '_'
}

fn by_folder(plan: &Plan, leaves: &[Leaf]) -> Option<Clash> {
    let mut folders: HashMap<&str, Vec<usize>> = HashMap::new();
    for (row, leaf) in leaves.iter().enumerate() {
        folders.entry(&leaf.folder).or_default().push(row);
    }
    let shared = folders.values().filter(|rows| rows.len() > 1 && !are_distinct(leaves, rows));
    // In the order of rows, so that the same clash is found every time.
    let mut doubtful: Vec<&Vec<usize>> = shared.collect();
    doubtful.sort();
    let clash =
        doubtful.into_iter().find_map(|rows| compare(plan, &mut rows.iter().copied(), false));
    clash.or_else(|| file_is_folder(plan, leaves, &folders))
}

/// Whether rows of one folder cannot meet.
fn are_distinct(leaves: &[Leaf], rows: &[usize]) -> bool {
    let first = &leaves[rows[0]];
    let mut befores = HashSet::new();
    rows.iter().map(|&row| &leaves[row]).all(|leaf| {
        let apart = match &leaf.after {
            None => true,
            Some(after) => !leaf.before.ends_with(of_index) && !after.starts_with(of_index),
        };
        apart && leaf.after == first.after && befores.insert(&leaf.before)
    })
}

/// A file that would have to be a folder for another image.
fn file_is_folder(
    plan: &Plan,
    leaves: &[Leaf],
    folders: &HashMap<&str, Vec<usize>>,
) -> Option<Clash> {
    for (row, leaf) in leaves.iter().enumerate() {
        let mut path = leaf.folder.as_str();
        while !path.is_empty() {
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
            for &other in folders.get(folder).into_iter().flatten() {
                if leaves[other].may_be(name) {
                    let full = |index: &u64| plan.name(other, *index).to_lowercase() == path;
                    if let Some(index) = (0..plan.rows()[other].images).find(full) {
                        let name = plan.name(other, index);
                        return Some(Clash { name, one: (other, index), other: (row, 0) });
                    }
                }
            }
            path = folder;
        }
    }
    None
}

/// Compares all names of some rows, and with `folders` also whether a name is another's folder.
fn compare(plan: &Plan, rows: &mut dyn Iterator<Item = usize>, folders: bool) -> Option<Clash> {
    // Two hashes of 64 bits: equal ones are looked at again, so a chance match does no harm.
    let mut files: HashMap<u64, (usize, u64)> = HashMap::new();
    let mut parents: HashMap<u64, (usize, u64)> = HashMap::new();
    let rows: Vec<usize> = rows.collect();
    for &row in &rows {
        for index in 0..plan.rows()[row].images {
            let name = plan.name(row, index).to_lowercase();
            match files.entry(hash(&name)) {
                Entry::Vacant(entry) => {
                    entry.insert((row, index));
                }
                Entry::Occupied(entry) => {
                    let one = *entry.get();
                    if plan.name(one.0, one.1).to_lowercase() == name {
                        let name = plan.name(row, index);
                        return Some(Clash { name, one, other: (row, index) });
                    }
                }
            }
            if folders {
                for (at, _) in name.match_indices('/') {
                    if let hash_map::Entry::Vacant(entry) = parents.entry(hash(&name[..at])) {
                        entry.insert((row, index));
                    }
                }
            }
        }
    }
    let found = parents.iter().filter_map(|(folder, &other)| {
        let one = *files.get(folder)?;
        let name = plan.name(one.0, one.1);
        let inside = plan.name(other.0, other.1).to_lowercase();
        let really = inside.strip_prefix(&name.to_lowercase())?.starts_with('/');
        really.then_some(Clash { name, one, other })
    });
    found.min_by_key(|clash| (clash.one, clash.other))
}

fn hash(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}
