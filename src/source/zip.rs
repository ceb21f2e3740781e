//! ZIP archives whose members are stored as they are, so that they can be read in place, or deflated:
//! what `numpy.savez` and `numpy.savez_compressed` write. Source: PKWARE's APPNOTE 6.3.10, with ZIP64.

use std::collections::HashSet;
use std::fs::File;

use super::formats::Problem;
use super::inflate::Packed;
use super::pread;
use crate::error::shown;

/// Bytes of the end record without its comment, and of that the most.
const END: usize = 22;
const COMMENT: usize = 0xFFFF;
/// Longest directory that is read.
const LONGEST: u64 = 256 << 20;
/// Bytes of a member's own header without its name.
const LOCAL: usize = 30;
/// What stands for a number that ZIP64 says.
const ELSEWHERE: u64 = 0xFFFF_FFFF;
/// How members are packed that can be read.
const STORED: u64 = 0;
const DEFLATED: u64 = 8;

/// A file in an archive.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    /// Where its bytes begin in the archive.
    pub(super) begin: u64,
    /// Its bytes, unpacked.
    pub(super) len: u64,
    /// What it is packed, if it is.
    pub(super) packed: Option<Packed>,
}

/// The members of an archive of `len` bytes, in the order of its directory.
pub(super) fn members(file: &File, len: u64) -> Result<Vec<Member>, Problem> {
    let (count, begin, size) = directory(file, len)?;
    let bytes = read(file, begin, size)?;
    let mut rest = Fields(&bytes);
    let (mut members, mut names, mut spans) = (Vec::new(), HashSet::new(), Vec::new());
    while !rest.0.is_empty() {
        let (name, member) = entry(&mut rest)?;
        let of = |problem: &str| format!("its member {}: {problem}", shown(name));
        let Entry { flags, method, crc, packed, size, offset } = member;
        if flags & 1 != 0 {
            return Err(of("is encrypted").into());
        }
        if method != STORED && method != DEFLATED {
            return Err(of(&format!(
                "is compressed by method {method}, and can be read stored ({STORED}) or deflated \
                 ({DEFLATED}): as numpy.savez and numpy.savez_compressed write it"
            ))
            .into());
        }
        // Behind that nothing is read; and no system seeks behind 2^63.
        if offset.checked_add(LOCAL as u64).is_none_or(|end| end > begin) {
            return Err(of("is not where the directory says").into());
        }
        let mut local = [0; LOCAL];
        let read = pread::fill(file, offset, &mut local)?;
        let mut fields = Fields(&local[..read]);
        let is_there = fields.take(4)? == b"PK\x03\x04" && (packed == size || method == DEFLATED);
        let lengths = Fields(local.get(26..30).unwrap_or_default()).pair()?;
        let data = offset.checked_add((LOCAL + lengths.0 + lengths.1) as u64);
        let data = data.filter(|data| data.checked_add(packed).is_some_and(|end| end <= begin));
        let Some(data) = data.filter(|_| is_there) else {
            return Err(of("is not where the directory says").into());
        };
        if !names.insert(name) {
            return Err(of("is there twice").into());
        }
        let deflated = Packed { begin: data, len: packed, size, crc };
        if method == DEFLATED && !deflated.is_possible() {
            return Err(of(&format!(
                "is said to be of {size} bytes, which {packed} deflated ones cannot be"
            ))
            .into());
        }
        spans.push((data, data + packed, members.len()));
        let packed = (method == DEFLATED).then_some(deflated);
        members.push(Member { name: name.to_owned(), begin: data, len: size, packed });
    }
    // An archive whose members share their bytes can unpack to the square of its size.
    spans.sort_unstable();
    if let Some(two) = spans.windows(2).find(|two| two[0].1 > two[1].0) {
        let [one, other] = [two[0].2, two[1].2].map(|at| shown(&members[at].name));
        return Err(format!("its members {one} and {other} overlap").into());
    }
    if members.len() as u64 != count {
        let found = members.len();
        return Err(format!("its directory has {found} members, and {count} are said to be").into());
    }
    Ok(members)
}

/// The number of members, where the directory begins, and its bytes.
fn directory(file: &File, len: u64) -> Result<(u64, u64, u64), Problem> {
    let tail = len.min((END + COMMENT) as u64);
    let bytes = read(file, len - tail, tail)?;
    let is_end = |at: &usize| {
        let record = &bytes[*at..];
        let comment = usize::from(u16::from_le_bytes([record[20], record[21]]));
        record.starts_with(b"PK\x05\x06") && record.len() == END + comment
    };
    let last = bytes.len().checked_sub(END);
    let at = last.and_then(|last| (0..=last).rev().find(is_end));
    let at = at.ok_or_else(|| "it does not end as ZIP archives do; is it truncated?".to_owned())?;
    let end = len - tail + at as u64;
    let mut fields = Fields(&bytes[at + 4..at + END]);
    let (disk, first) = fields.pair()?;
    let (here, count) = fields.pair()?;
    let (size, begin) = (fields.number(4)?, fields.number(4)?);
    if (disk, first) != (0, 0) && (disk, first) != (0xFFFF, 0xFFFF) || here != count {
        return Err("it is one of several parts of an archive".to_owned().into());
    }
    let (count, size, begin, end) = match zip64(file, end)? {
        Some((count, size, begin, end)) => (count, size, begin, end),
        None => (count as u64, size, begin, end),
    };
    if begin.checked_add(size) != Some(end) {
        return Err("its directory is not where its end says".to_owned().into());
    }
    if size > LONGEST {
        return Err(format!("its directory has {size} bytes, and {LONGEST} are the most").into());
    }
    Ok((count, begin, size))
}

/// What ZIP64 says: members, bytes of the directory, its begin, its end.
fn zip64(file: &File, end: u64) -> Result<Option<(u64, u64, u64, u64)>, Problem> {
    let Some(at) = end.checked_sub(20) else { return Ok(None) };
    let locator = read(file, at, 20)?;
    let mut fields = Fields(&locator);
    if fields.take(4)? != b"PK\x06\x07" {
        return Ok(None);
    }
    fields.take(4)?;
    let record_at = fields.number(8)?;
    let wrong = || "its ZIP64 record is not where it says".to_owned();
    if record_at.checked_add(56).is_none_or(|record_end| record_end > at) {
        return Err(wrong().into());
    }
    let record = read(file, record_at, 56)?;
    let mut fields = Fields(&record);
    if fields.take(4)? != b"PK\x06\x06" {
        return Err(wrong().into());
    }
    fields.take(8 + 2 + 2 + 4 + 4)?;
    let (here, count) = (fields.number(8)?, fields.number(8)?);
    let (size, begin) = (fields.number(8)?, fields.number(8)?);
    if here != count {
        return Err("it is one of several parts of an archive".to_owned().into());
    }
    Ok(Some((count, size, begin, record_at)))
}

/// What the directory says of a member.
struct Entry {
    flags: u64,
    method: u64,
    crc: u32,
    packed: u64,
    size: u64,
    offset: u64,
}

fn entry<'b>(rest: &mut Fields<'b>) -> Result<(&'b str, Entry), Problem> {
    if rest.take(4)? != b"PK\x01\x02" {
        return Err("its directory is damaged".to_owned().into());
    }
    rest.take(4)?;
    let (flags, method) = (rest.number(2)?, rest.number(2)?);
    rest.take(4)?; // time, date
    let crc = rest.take(4)?;
    let crc = u32::from_le_bytes([crc[0], crc[1], crc[2], crc[3]]);
    let (mut packed, mut size) = (rest.number(4)?, rest.number(4)?);
    let (name, extra) = rest.pair()?;
    let comment = usize::try_from(rest.number(2)?).unwrap_or(usize::MAX);
    rest.take(8)?; // disk, attributes
    let mut offset = rest.number(4)?;
    let name = rest.take(name)?;
    let mut extras = Fields(rest.take(extra)?);
    rest.take(comment)?;
    let name = std::str::from_utf8(name)
        .map_err(|_| format!("its member {} has a name that is not UTF-8", shown_bytes(name)))?;
    while extras.0.len() >= 4 {
        let (id, len) = extras.pair()?;
        let mut field = Fields(extras.take(len)?);
        if id == 1 {
            // Only those that did not fit, in this order.
            for number in [&mut size, &mut packed, &mut offset] {
                if *number == ELSEWHERE {
                    *number = field.number(8)?;
                }
            }
        }
    }
    Ok((name, Entry { flags, method, crc, packed, size, offset }))
}

fn shown_bytes(bytes: &[u8]) -> String {
    shown(&String::from_utf8_lossy(bytes))
}

fn read(file: &File, at: u64, len: u64) -> Result<Vec<u8>, Problem> {
    let mut bytes = vec![0; usize::try_from(len).map_err(|error| error.to_string())?];
    if pread::fill(file, at, &mut bytes)? < bytes.len() {
        return Err("it shrank while it was read".to_owned().into());
    }
    Ok(bytes)
}

/// Little-endian numbers, one after the other.
struct Fields<'b>(&'b [u8]);

impl<'b> Fields<'b> {
    fn take(&mut self, len: usize) -> Result<&'b [u8], Problem> {
        let (taken, rest) = self
            .0
            .split_at_checked(len)
            .ok_or_else(|| "a record of it ends too early".to_owned())?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self, len: usize) -> Result<u64, Problem> {
        Ok(self.take(len)?.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// Two numbers of two bytes.
    fn pair(&mut self) -> Result<(usize, usize), Problem> {
        let mut two = || self.take(2).map(|two| usize::from(u16::from_le_bytes([two[0], two[1]])));
        Ok((two()?, two()?))
    }
}
