//! What somebody most likely meant. Only for messages: nothing is chosen by it.

use super::{Error, counted, shown};

/// What to say of a pattern of tensors' names that matches none of them: most likely it is a slip.
pub(crate) fn no_match<'a>(
    option: &str,
    pattern: &str,
    names: impl Iterator<Item = &'a str> + Clone,
) -> Error {
    Error::Usage(told_of_no_match(option, pattern, names))
}

/// The same in words.
pub(crate) fn told_of_no_match<'a>(
    option: &str,
    pattern: &str,
    names: impl Iterator<Item = &'a str> + Clone,
) -> String {
    let core = pattern.trim_matches('*');
    let distance = |name: &str| {
        // A pattern is of a part of a name as well as of all of it.
        let begin: String = name.chars().take(core.chars().count()).collect();
        let whole = edit_distance(pattern, name);
        (!name.contains(core), edit_distance(core, &begin).min(whole), whole)
    };
    // At most 20,000 characters compared a name: this many names take a fraction of a second.
    let nearest = names.clone().take(20_000).min_by_key(|name| distance(name));
    match nearest {
        None => format!("{option} {}: the dump holds no tensors", shown(pattern)),
        Some(nearest) => format!(
            "{option} {}: matches none of {}; the nearest is {} (`tensortiff ls` lists them; \
             * does not match /, ** does)",
            shown(pattern),
            counted(names.count() as u64, "tensor"),
            shown(nearest)
        ),
    }
}

/// The nearest of some words, where one is near enough to be meant.
pub(crate) fn near<'a>(wanted: &str, among: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    let distance = |word: &&str| edit_distance(&wanted, &word.to_lowercase());
    among.into_iter().min_by_key(distance).filter(|word| is_near(&wanted, &word.to_lowercase()))
}

/// Whether one may be a slip for the other: no more than a third of it is otherwise, or two letters, which may
/// have changed places.
pub(crate) fn is_near(one: &str, other: &str) -> bool {
    let longer = one.chars().count().max(other.chars().count());
    let most = (longer / 3).max(if longer > 3 { 2 } else { 1 });
    !one.is_empty() && edit_distance(one, other) <= most
}

/// Levenshtein distance over the first 100 characters, enough to find a slip.
pub(crate) fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(100).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(100).enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replace = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_far_is_not_near() {
        for (one, other, near) in [
            ("defalte", "deflate", true),
            ("cpuu", "cpu", true),
            ("maen", "mean", true),
            ("compres", "compress", true),
            ("x", "y", true),
            ("", "y", false),
            ("scope", "complex", false),
            ("name", "sample", false),
            ("avg", "max", false),
        ] {
            assert_eq!(is_near(one, other), near, "{one}, {other}");
        }
        assert_eq!(near("CPUU", ["auto", "cpu", "gpu"]), Some("cpu"));
        assert_eq!(near("nvidia", ["auto", "cpu", "gpu"]), None);
    }
}
