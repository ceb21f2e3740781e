//! Files of a run's record: never through a link, and opened only if they are regular.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead};
use std::path::Path;

use crate::error::Error;

/// The file at `path`; `None` if there is none.
pub(super) fn open_regular(path: &Path, writable: bool) -> Result<Option<File>, Error> {
    const PROBLEM: &str = "not a file, and the run's record is to be here";
    let in_the_way = || Error::InTheWay { path: path.to_owned(), problem: PROBLEM };
    let failed = |source| Error::Write { path: path.to_owned(), source };
    // Looked at first: opening a pipe waits for a writer.
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    if !found.is_file() {
        return Err(in_the_way());
    }
    let file = OpenOptions::new().read(true).write(writable).open(path).map_err(failed)?;
    // And again: a link may have taken its place.
    let opened = file.metadata().map_err(failed)?;
    if is_same(&found, &opened) { Ok(Some(file)) } else { Err(in_the_way()) }
}

/// Whether a file is still what its path leads to.
pub(super) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(is_same(&found, &file.metadata()?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(unix)]
fn is_same(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(not(unix))]
fn is_same(_: &fs::Metadata, other: &fs::Metadata) -> bool {
    other.is_file()
}

/// Most bytes that are read of a line behind a NUL: no line has one, and it may be a hole of terabytes.
const DAMAGED: u64 = 1 << 20;

/// The next line with its end, of so many bytes at most; empty at the end of the file.
pub(super) fn read_line(lines: &mut impl BufRead, most: u64, line: &mut Vec<u8>) -> io::Result<()> {
    line.clear();
    let (mut left, mut is_damaged) = (most, false);
    while left > 0 {
        let buffer = match lines.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            buffer => buffer?,
        };
        let some = &buffer[..buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        let end = some.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
        let read = end.unwrap_or(some.len());
        line.extend_from_slice(&some[..read]);
        left -= read as u64;
        if !is_damaged && some[..read].contains(&0) {
            (is_damaged, left) = (true, left.min(DAMAGED));
        }
        lines.consume(read);
        if end.is_some() || read == 0 {
            break;
        }
    }
    Ok(())
}

/// Values that JSON may have however short it is, and bytes that each more has on average: what is
/// written has names of eight bytes and more, and what is read takes a hundred for a value of any length.
const FREE_VALUES: usize = 1_000_000;
const BYTES_A_VALUE: usize = 8;

/// Whether JSON has so many values for its length that it was made to cost memory.
pub(super) fn is_crammed(json: &[u8]) -> bool {
    let (mut is_text, mut is_escaped, mut values) = (false, false, 0_usize);
    for &byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b',' | b'[' | b'{' if !is_text => values += 1,
            _ => {}
        }
    }
    values > FREE_VALUES + json.len() / BYTES_A_VALUE
}

/// Removes a file, or a link, if it is there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Reads as much as there is.
pub(crate) fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        #[cfg(unix)]
        let read =
            std::os::unix::fs::FileExt::read_at(file, &mut buf[done..], offset + done as u64);
        #[cfg(windows)]
        let read =
            std::os::windows::fs::FileExt::seek_read(file, &mut buf[done..], offset + done as u64);
        match read {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

pub(super) fn write_all_at(file: &File, buf: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        #[cfg(unix)]
        let written =
            std::os::unix::fs::FileExt::write_at(file, &buf[done..], offset + done as u64);
        #[cfg(windows)]
        let written =
            std::os::windows::fs::FileExt::seek_write(file, &buf[done..], offset + done as u64);
        match written {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
