//! Proof that no two images of a run get one name, also on a file system that folds case.
//!
//! Ten million images must not cost memory, so the proof is made from the patterns of names where
//! it can be: images of one tensor differ in their index; tensors whose images are in different
//! folders do not meet; and in one folder, as indices are zero-padded and so of one length for a
//! tensor, two tensors can only meet if one's text before the index is the other's and more digits.
//! Where that does not suffice, a folder's names are compared by their hashes.

use std::collections::HashSet;
use std::collections::hash_map::{DefaultHasher, Entry, HashMap};
use std::hash::{Hash as _, Hasher as _};

use super::Plan;

/// Two images, as (row, index), that would both be called `name`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Clash {
    pub(super) name: String,
    pub(super) one: (usize, u64),
    pub(super) other: (usize, u64),
}

/// The first clash, if there is one.
pub(super) fn clash(plan: &Plan) -> Option<Clash> {
    if plan.rows().len() == 1 && plan.pattern(0).is_some_and(|pattern| pattern.texts.len() > 1) {
        return None; // indices differ, and all names are of one length: none is another's folder
    }
    let patterns: Option<Vec<Leaf>> =
        (0..plan.rows().len()).map(|row| Leaf::new(plan, row)).collect();
    match patterns {
        Some(leaves) => by_folder(plan, &leaves),
        None if are_distinct_below_index(plan) => None,
        None => compare(plan, &(0..plan.rows().len()).collect::<Vec<_>>(), true),
    }
}

/// One case for all that some file system does not tell apart: character by character, so that
/// a text folds to its parts' foldings joined. (`str::to_lowercase` looks around a Σ.)
fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase(); // the same, sooner
    }
    let lower = text.chars().flat_map(char::to_lowercase);
    lower.flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

/// Whether some file system takes the one for the other. (If not, two names that clash are a file
/// and a folder.)
pub(super) fn is_one_name(one: &str, other: &str) -> bool {
    fold(one) == fold(other)
}

/// Whether all names are one folder, then an index as a part of its own, then a text that differs:
/// `{index}/{tensor}.tif`.
fn are_distinct_below_index(plan: &Plan) -> bool {
    let mut top: Option<String> = None;
    let mut below = HashSet::new();
    for row in 0..plan.rows().len() {
        let Some([before, after]) = plan.pattern(row).map(|pattern| &pattern.texts[..]) else {
            return false;
        };
        let before = fold(before);
        let own_part = (before.is_empty() || before.ends_with('/')) && after.starts_with('/');
        if !own_part || *top.get_or_insert_with(|| before.clone()) != before {
            return false;
        }
        if !below.insert(fold(after)) {
            return false;
        }
    }
    below.iter().all(|text| text.match_indices('/').all(|(at, _)| !below.contains(&text[..at])))
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
        let mut texts = plan.pattern(row)?.texts.iter().map(|text| fold(text));
        let first = texts.next()?;
        let (folder, before) = first.rsplit_once('/').unwrap_or(("", &first));
        let after = texts.next();
        if texts.next().is_some() || after.as_ref().is_some_and(|text| text.contains('/')) {
            return None;
        }
        let index_len = after.as_ref().map_or(0, |_| plan.rows()[row].index_text(0).len());
        // A row with an index in no name is of one image, or its names are all the same.
        if after.is_none() && plan.files_of(row) > 1 {
            return None;
        }
        Some(Leaf { folder: folder.to_owned(), before: before.to_owned(), after, index_len })
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
    let clash = doubtful.into_iter().find_map(|rows| compare(plan, rows, false));
    clash.or_else(|| file_is_folder(plan, leaves))
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
fn file_is_folder(plan: &Plan, leaves: &[Leaf]) -> Option<Clash> {
    let files = Files::new(leaves);
    let mut seen = HashSet::new();
    for (row, leaf) in leaves.iter().enumerate() {
        let mut path = leaf.folder.as_str();
        while !path.is_empty() && seen.insert(path) {
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
            if let Some(one) = files.find(plan, folder, name) {
                return Some(Clash { name: plan.name(one.0, one.1), one, other: (row, 0) });
            }
            path = folder;
        }
    }
    None
}

/// Images by folded folder and name, without a look at all rows of a folder.
#[derive(Default)]
struct Files<'a> {
    /// Rows by folder and the text before the index; the whole name where there is none.
    befores: HashMap<(&'a str, &'a str), Vec<usize>>,
    /// Texts after the index, by folder.
    afters: HashMap<&'a str, HashSet<&'a str>>,
    leaves: &'a [Leaf],
}

impl<'a> Files<'a> {
    fn new(leaves: &'a [Leaf]) -> Files<'a> {
        let mut files = Files { leaves, ..Files::default() };
        for (row, leaf) in leaves.iter().enumerate() {
            files.befores.entry((&leaf.folder, &leaf.before)).or_default().push(row);
            if let Some(after) = &leaf.after {
                files.afters.entry(&leaf.folder).or_default().insert(after);
            }
        }
        files
    }

    /// The image called `name` in `folder`: the lowest, if there were several.
    fn find(&self, plan: &Plan, folder: &str, name: &str) -> Option<(usize, u64)> {
        let rows = |before| self.befores.get(&(folder, before)).into_iter().flatten().copied();
        let single = rows(name).filter(|&row| self.leaves[row].after.is_none()).map(|row| (row, 0));
        let afters = self.afters.get(folder).into_iter().flatten();
        let indexed = afters.filter_map(|&after| Some((after, name.strip_suffix(after)?)));
        let indexed = indexed.flat_map(|(after, rest)| {
            let digits = rest.len() - rest.trim_end_matches(of_index).len();
            (1..=digits).flat_map(move |cut| {
                let (before, index) = rest.split_at(rest.len() - cut);
                let rows = rows(before);
                let rows =
                    rows.filter(move |&row| self.leaves[row].after.as_deref() == Some(after));
                rows.filter_map(move |row| Some((row, plan.rows()[row].index_of(index)?)))
            })
        });
        single.chain(indexed).min()
    }
}

/// Compares all names of some rows, and with `folders` also whether a name is another's folder.
///
/// Holds 8 bytes a name. Equal hashes are looked at again, so that a chance match does no harm.
fn compare(plan: &Plan, rows: &[usize], folders: bool) -> Option<Clash> {
    let images = || {
        let row = |&row: &usize| (0..plan.files_of(row)).map(move |index| (row, index));
        rows.iter().flat_map(row)
    };
    let folded = |(row, index)| fold(&plan.name(row, index));
    let mut hashes: Vec<u64> = images().map(|image| hash(&folded(image))).collect();
    hashes.sort_unstable();
    let twice: HashSet<u64> = hashes.windows(2).filter(|w| w[0] == w[1]).map(|w| w[0]).collect();
    let mut files: HashMap<String, (usize, u64)> = HashMap::new();
    for other in images().filter(|_| !twice.is_empty()) {
        let name = folded(other);
        if !twice.contains(&hash(&name)) {
            continue;
        }
        match files.entry(name) {
            Entry::Vacant(entry) => drop(entry.insert(other)),
            Entry::Occupied(entry) => {
                let name = plan.name(other.0, other.1);
                return Some(Clash { name, one: *entry.get(), other });
            }
        }
    }
    // Folders that may be files, each with the first image inside.
    let mut inside: HashMap<String, (usize, u64)> = HashMap::new();
    for image in images().filter(|_| folders) {
        let name = folded(image);
        for (at, _) in name.match_indices('/') {
            if hashes.binary_search(&hash(&name[..at])).is_ok() {
                inside.entry(name[..at].to_owned()).or_insert(image);
            }
        }
    }
    let mut files = images().filter(|_| !inside.is_empty());
    files.find_map(|one| {
        let other = *inside.get(&folded(one))?;
        Some(Clash { name: plan.name(one.0, one.1), one, other })
    })
}

fn hash(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_joins_every_case_of_a_character() {
        for c in ('\0'..=char::MAX).map(String::from) {
            let folded = fold(&c);
            assert_eq!(fold(&folded), folded, "{c:?}");
            assert_eq!(fold(&c.to_lowercase()), folded, "{c:?}");
            assert_eq!(fold(&c.to_uppercase()), folded, "{c:?}");
        }
        assert_eq!(fold("aΣ"), fold("aσ"));
        assert_eq!(fold("STRAẞE"), fold("strasse"));
    }
}
