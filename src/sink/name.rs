//! The second line of defence against names that lead elsewhere; the planner's escaping is the first.

/// Folder and file name, if no part of `name` could lead outside of the place that it is below.
pub(super) fn split(name: &str) -> Option<(&str, &str)> {
    let (mut start, mut last) = (0, None);
    // One walk: each image has a name.
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'/' if leads_elsewhere(&name[start..at]) => return None,
            b'/' => (start, last) = (at + 1, Some(at)),
            b'\0' => return None,
            // On Windows `\` is another `/`, and `:` a drive or a stream of another file.
            b'\\' | b':' if cfg!(windows) => return None,
            _ => {}
        }
    }
    let leaf = &name[start..];
    if leads_elsewhere(leaf) { None } else { Some((last.map_or("", |at| &name[..at]), leaf)) }
}

/// An absolute path begins with an empty part.
fn leads_elsewhere(part: &str) -> bool {
    matches!(part, "" | "." | "..")
}
