//! The second line of defence against names that lead elsewhere; the planner's escaping is the first.

/// Folder and file name, if no part of `name` could lead outside of the place that it is below.
pub(super) fn split(name: &str) -> Option<(&str, &str)> {
    let bad = |part: &str| {
        // On Windows `\` is another `/`, and `:` a drive or a stream of another file.
        let windows = cfg!(windows) && part.contains(['\\', ':']);
        part.is_empty() || part == "." || part == ".." || part.contains('\0') || windows
    };
    // An absolute path begins with an empty part.
    if name.split('/').any(bad) { None } else { Some(name.rsplit_once('/').unwrap_or(("", name))) }
}
