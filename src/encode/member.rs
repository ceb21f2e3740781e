//! Members of a tar: what comes before an image's file in it, and behind. Nothing of it depends on the time,
//! the user or the system.
//!
//! ```text
//! header (512 bytes, ustar) | file | zeros to a multiple of 512 | next member … | 1024 zeros
//! ```
//! Where a name fits no ustar header (100 bytes, or 155 before a `/` and 100 behind) all members of its row
//! have an extended header of POSIX (pax) before theirs, of one length: where members lie depends on rows
//! alone.

use tar::{Builder, EntryType, Header};

/// What members begin at a multiple of, in bytes.
pub const TAR_BLOCK: usize = 512;
/// Zeros that a tar ends with, in bytes.
pub const TAR_END: usize = 2 * TAR_BLOCK;

const BLOCK: u64 = TAR_BLOCK as u64;

/// Bytes before the file of each member of these names.
pub fn member_head(names: &mut dyn Iterator<Item = &str>) -> u64 {
    let extended = |name: &str| extended(name, 0).len() as u64;
    let longest = names.filter(|name| !fits(name)).map(extended).max();
    BLOCK + longest.unwrap_or(0)
}

/// Bytes behind a member's file.
#[must_use]
pub fn member_padding(len: u64) -> u64 {
    len.wrapping_neg() % BLOCK
}

/// Appends what comes before a file of `len` bytes in its member, in `head` bytes, as
/// [`member_head`] of its name and others said.
pub fn write_member_head(name: &str, len: u64, head: u64, out: &mut Vec<u8>) {
    if head > BLOCK {
        out.extend(extended(name, head - BLOCK));
    }
    out.extend(last_block(name, len));
}

/// The 512 bytes right before a member's file.
#[must_use]
pub fn last_block(name: &str, len: u64) -> [u8; TAR_BLOCK] {
    let mut header = Header::new_ustar();
    if header.set_path(name).is_err() {
        // The extended header has all of it.
        let own = header.as_ustar_mut().expect("it was made as one");
        let most = own.name.len().min(name.len());
        let cut = (0..=most).rev().find(|&at| name.is_char_boundary(at)).unwrap_or(0);
        (own.name, own.prefix) = ([0; 100], [0; 155]);
        own.name[..cut].copy_from_slice(&name.as_bytes()[..cut]);
    }
    header.set_size(len);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(EntryType::Regular);
    header.set_cksum();
    *header.as_bytes()
}

/// Whether a ustar header holds the name.
fn fits(name: &str) -> bool {
    Header::new_ustar().set_path(name).is_ok()
}

/// An extended header with the name; with a comment, so that it has `len` bytes, where it would have fewer.
fn extended(name: &str, len: u64) -> Vec<u8> {
    let made = |records: &[(&str, &[u8])]| {
        let mut builder = Builder::new(Vec::new());
        let made = builder.append_pax_extensions(records.iter().copied());
        let made = made.and_then(|()| builder.into_inner());
        let mut made = made.expect("memory takes all that is written");
        made.truncate(made.len() - TAR_END);
        made
    };
    let path = ("path", name.as_bytes());
    let least = made(&[path]);
    let len = usize::try_from(len).unwrap_or(0);
    if len <= least.len() {
        return least;
    }
    let records = Header::from_byte_slice(&least[..TAR_BLOCK]).entry_size();
    let records = usize::try_from(records.expect("it was made as one")).unwrap_or(0);
    // `N comment=…\n`, whose N counts itself, fills the last block to its end.
    let record = len - TAR_BLOCK - records;
    let besides = record.to_string().len() + " comment=\n".len();
    made(&[path, ("comment", " ".repeat(record - besides).as_bytes())])
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// Names of all lengths, alone and beside a longer one: another reader finds name and bytes, and all
    /// take what was said.
    #[test]
    fn members_of_any_name_have_the_length_that_was_said() {
        let mut names: Vec<String> = (1..700).map(|n| format!("{}.tif", "x".repeat(n))).collect();
        names.extend(
            (1..700).step_by(7).map(|n| format!("ä{}/{}é.tif", "d".repeat(n), "y".repeat(90))),
        );
        names.push(format!("{}/z.tif", "folder/".repeat(500)));
        let longest = member_head(&mut names.iter().map(String::as_str));
        assert!(longest > 8 * BLOCK);
        for name in &names {
            let own = member_head(&mut std::iter::once(name.as_str()));
            for head in [own, own.max(3 * BLOCK), longest] {
                let mut tar = Vec::new();
                write_member_head(name, 3, head, &mut tar);
                assert_eq!(tar.len() as u64, head, "{name}");
                tar.extend(b"abc");
                tar.resize(tar.len() + usize::try_from(member_padding(3)).unwrap() + TAR_END, 0);
                let mut archive = ::tar::Archive::new(&tar[..]);
                let mut entries = archive.entries().unwrap();
                let mut entry = entries.next().unwrap().unwrap();
                assert_eq!(entry.path_bytes(), name.as_bytes());
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                assert_eq!(text, "abc");
                assert!(entries.next().is_none());
            }
        }
        assert_eq!(member_head(&mut ["a.tif"].into_iter()), BLOCK);
        assert_eq!([0, 1, 511, 512, 513].map(member_padding), [0, 511, 1, 0, 511]);
    }

    /// Octal digits end at 8 GiB; above, the size is told in base 256, as GNU tar and Python have it.
    #[test]
    fn a_member_may_have_more_than_8_gib() {
        for len in [(8 << 30) - 1, 8 << 30, 1 << 45] {
            let block = last_block("a.tif", len);
            assert_eq!(Header::from_byte_slice(&block).entry_size().unwrap(), len);
        }
    }
}
