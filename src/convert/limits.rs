//! How much a process may map (`ulimit -v`), and how many files it may have open (`ulimit -n`), where that is
//! limited.

use std::fs;

/// Bytes that this process may still map; `None`: as many as it likes, or it is not known.
pub(super) fn left_to_map() -> Option<u64> {
    // Where there are no such files, there is no other way without unsafe code.
    let limit = limit(&fs::read_to_string("/proc/self/limits").ok()?, "Max address space")?;
    let mapped = mapped(&fs::read_to_string("/proc/self/status").ok()?).unwrap_or(0);
    Some(limit.saturating_sub(mapped))
}

/// Files that this process may have open; `None`: as many as it likes, or it is not known.
pub(super) fn open_files() -> Option<u64> {
    limit(&fs::read_to_string("/proc/self/limits").ok()?, "Max open files")
}

/// `Max address space         204800000            unlimited            bytes`
fn limit(limits: &str, which: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(which))?;
    line.split_whitespace().next()?.parse().ok()
}

/// `VmSize:     5288 kB`
fn mapped(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()?.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_where_the_kernel_writes_them() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max address space         204800000            unlimited            bytes     \n\
                    Max open files            1024                 1048576              files     \n\
                    Max file locks            unlimited            unlimited            locks     \n";
        let space = "Max address space";
        assert_eq!(limit(text, space), Some(204_800_000));
        assert_eq!(limit(text, "Max open files"), Some(1024));
        assert_eq!(limit(&text.replace("204800000", "unlimited"), space), None);
        assert_eq!([limit(space, space), limit("", space)], [None, None]);
        assert_eq!(mapped("VmPeak:\t    9000 kB\nVmSize:\t    5288 kB\n"), Some(5288 << 10));
        assert_eq!(mapped(""), None);
        if cfg!(target_os = "linux") {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            assert!(mapped(&status).is_some_and(|bytes| bytes > 1 << 20));
        }
    }
}
