//! Proof that no two images of a run get one name, also on a file system that folds case.
//!
//! Ten million images must not cost memory, so the proof is made from the patterns of names where
//! it can be: images of one tensor differ in their index; tensors whose images are in different
//! folders do not meet; and in one folder, as indices are zero-padded and so of one length for a
//! tensor, two tensors can only meet if one's text before the index is the other's and more digits.
//! Where that does not suffice, a folder's names are compared by their hashes.

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
        (0..plan.rows().len()).map(|row| Leaf::new(plan, row)).collect();
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
    /// Length of the index, the same for all images.
    index_len: usize,
}

impl Leaf {
    fn new(plan: &Plan, row: usize) -> Option<Leaf> {
        let pattern: Pattern = plan.pattern(row)?;
        let mut texts = pattern.texts.iter().map(|text| text.to_lowercase());
        let first = texts.next()?;
        let (folder, before) = first.rsplit_once('/').unwrap_or(("", &first));
        let after = texts.next();
        if texts.next().is_some() || after.as_ref().is_some_and(|text| text.contains('/')) {
            return None;
        }
        let index_len = after.as_ref().map_or(0, |_| plan.rows()[row].index_text(0).len());
        // A row with an index in no name is of one image, or its names are all the same.
        if after.is_none() && plan.rows()[row].images > 1 {
            return None;
        }
        Some(Leaf { folder: folder.to_owned(), before: before.to_owned(), after, index_len })
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

/// Whether rows of one folder cannot meet: every name is before + index + after, where `after` is
/// the same for all.
fn are_distinct(leaves: &[Leaf], rows: &[usize]) -> bool {
    let rows = || rows.iter().map(|&row| &leaves[row]);
    let Some(after) = rows().find_map(|leaf| leaf.after.as_deref()) else {
        let mut names = HashSet::new();
        return rows().all(|leaf| names.insert(&leaf.before));
    };
    let mut befores: HashMap<&str, HashSet<usize>> = HashMap::new();
    let mut parts = Vec::new();
    for leaf in rows() {
        let before = match &leaf.after {
            Some(own) if own == after => leaf.before.as_str(),
            Some(_) => return false,
            // A name that ends otherwise is none of the others.
            None => leaf.before.strip_suffix(after).unwrap_or(&leaf.before),
        };
        let lengths = befores.entry(before).or_default();
        if !lengths.insert(before.len() + leaf.index_len) {
            return false;
        }
        parts.push((before, before.len() + leaf.index_len));
    }
    // Names of equal length whose texts before the index differ in length: the longer text must go
    // on as an index would.
    parts.into_iter().all(|(before, length)| {
        let digits = before.len() - before.trim_end_matches(of_index).len();
        (1..=digits).all(|cut| {
            !befores.get(&before[..before.len() - cut]).is_some_and(|own| own.contains(&length))
        })
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
