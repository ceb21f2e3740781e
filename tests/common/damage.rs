//! Files made by hand, and chance damage that knows what a format is made of: arrays, archives, indices,
//! pickles.

#![allow(dead_code, reason = "each suite uses its own part")]
#![allow(unreachable_pub, reason = "a module of test binaries")]
#![allow(clippy::unwrap_used, reason = "a test that panics says where")]
#![allow(clippy::cast_possible_truncation, reason = "test data is small")]

use std::ops::Range;

use crate::common::Random;

/// So many every day, a million with `TENSORTIFF_LONG=1`.
pub fn inputs(few: u64) -> u64 {
    if std::env::var_os("TENSORTIFF_LONG").is_some() { 1_000_000 } else { few }
}

/// A `.npy` file of version 1.0 with this header, and so many bytes behind it.
pub fn npy(header: &str, data: usize) -> Vec<u8> {
    let length = u16::try_from(header.len()).unwrap().to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &vec![0; data]].concat()
}

/// A ZIP archive of stored members.
pub fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in members {
        let [len, size] = [name.len() as u16, 0].map(u16::to_le_bytes);
        let sizes = [(bytes.len() as u32).to_le_bytes(); 2].concat();
        let begin = out.len() as u32;
        out.extend([b"PK\x03\x04".as_slice(), &[20, 0, 0, 0, 0, 0], &[0; 8], &sizes].concat());
        out.extend([&len[..], &size, name.as_bytes(), bytes].concat());
        directory.extend([b"PK\x01\x02".as_slice(), &[20, 0, 20, 0, 0, 0, 0, 0], &[0; 8]].concat());
        directory
            .extend([&sizes[..], &len, &[0; 12], &begin.to_le_bytes(), name.as_bytes()].concat());
    }
    let count = (members.len() as u16).to_le_bytes();
    let [size, begin] = [directory.len() as u32, out.len() as u32].map(u32::to_le_bytes);
    out.extend(directory);
    out.extend(
        [b"PK\x05\x06".as_slice(), &[0; 4], &count, &count, &size, &begin, &[0; 2]].concat(),
    );
    out
}

/// The stored members of an archive; `None` where it is not one that [`archive`] could make again.
pub fn members(file: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let number = |at: usize, bytes: usize| {
        let field = file.get(at..at.checked_add(bytes)?)?;
        Some(field.iter().rev().fold(0_usize, |number, byte| number << 8 | usize::from(*byte)))
    };
    let mut found = Vec::new();
    for at in entries(file) {
        let name = file.get(at + 46..at + 46 + number(at + 28, 2)?)?;
        let (size, local) = (number(at + 24, 4)?, number(at + 42, 4)?);
        let data = local.checked_add(30 + number(local.checked_add(26)?, 2)?)?;
        let data = data.checked_add(number(local + 28, 2)?)?;
        if number(at + 10, 2)? != 0 {
            return None;
        }
        let bytes = file.get(data..data.checked_add(size)?)?;
        found.push((String::from_utf8(name.to_vec()).ok()?, bytes.to_vec()));
    }
    Some(found)
}

/// Where the entries of an archive's directory begin.
pub fn entries(file: &[u8]) -> Vec<usize> {
    let is_entry = |at: &usize| file[*at..].starts_with(b"PK\x01\x02");
    (0..file.len().saturating_sub(45)).filter(is_entry).collect()
}

/// Where a pickle of protocol 2 is in a file of `torch.save`.
pub fn pickle_in(file: &[u8]) -> Range<usize> {
    let find = |what: &[u8], from: usize| {
        let at = file[from..].windows(what.len()).position(|window| window == what);
        at.map(|at| from + at)
    };
    let begin = find(b"\x80\x02}", 0).or_else(|| find(b"\x80\x02c", 0)).unwrap();
    begin..find(b".PK", begin).unwrap_or(begin + 600)
}

/// What texts of a format are made of.
pub struct Grammar {
    pub pieces: &'static [&'static str],
    /// A part, and what stands before a piece in its place.
    pub part: &'static str,
    pub before: fn(&mut Random) -> String,
}

/// Headers of `.npy` files.
pub const NPY: Grammar = Grammar {
    pieces: &[
        "'",
        "(",
        ")",
        "{",
        "}",
        ",",
        ":",
        "L",
        "\\",
        "True",
        "False",
        "'descr'",
        "'shape'",
        "'>f8'",
        "'|b1'",
        "'<c8'",
        "18446744073709551615",
        "-1",
        "0",
        "1",
        "2",
        "3",
        " ",
        "\n",
        "é",
    ],
    part: "2, 3",
    before: |random| format!("{}, ", random.below(9)),
};

/// Indices of several files.
pub const INDEX: Grammar = Grammar {
    pieces: &[
        "\"",
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\\",
        "\\u0000",
        "\\ud800",
        "null",
        "1e999",
        "../",
        "/",
        "a",
        "b",
        ".safetensors",
        "../out.safetensors",
        "below/",
        "weight_map",
        "\"a\":\"m-2.safetensors\",",
        "é",
        "\n",
    ],
    part: "below/m-1.safetensors",
    before: |_| "below/".to_owned(),
};

/// A text with so many parts of it put in, put in another's place or lost.
pub fn text(random: &mut Random, whole: &str, times: u64, grammar: &Grammar) -> String {
    let mut text = whole.to_owned();
    for _ in 0..times {
        let from = random.below(text.len() as u64 + 1) as usize;
        let to = (from + random.below(8) as usize).min(text.len());
        if !text.is_char_boundary(from) || !text.is_char_boundary(to) {
            continue;
        }
        let piece = grammar.pieces[random.below(grammar.pieces.len() as u64) as usize];
        match random.below(4) {
            0 => text.insert_str(from, piece),
            1 => text.replace_range(from..to, piece),
            2 => text.replace_range(from..to, ""),
            _ => text = text.replace(grammar.part, &((grammar.before)(random) + piece)),
        }
    }
    text
}

/// Lines of JSON, and what stands between them: one to three bytes changed, lost or doubled.
pub fn lines(random: &mut Random, whole: &[u8]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for _ in 0..1 + random.below(3) {
        let at = random.next() as usize % bytes.len().max(1);
        match (random.next() % 4, bytes.get(at).copied()) {
            (_, None) => {}
            (0, Some(_)) => drop(bytes.remove(at)),
            (1, Some(byte)) => bytes.insert(at, byte),
            (2, Some(_)) => bytes[at] = random.next() as u8,
            (_, Some(_)) => bytes[at] = b"0179-\"{}[],:\n"[random.next() as usize % 13],
        }
    }
    bytes
}

/// Bytes of which one to three places within one of these ranges were changed. `usual` are bytes that mean
/// something there. The length stays, but where `cuts` is set.
pub fn bytes(
    random: &mut Random,
    whole: &[u8],
    within: &[Range<usize>],
    usual: &[u8],
    cuts: bool,
) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for _ in 0..1 + random.below(3) {
        let range = &within[random.below(within.len() as u64) as usize];
        let range = range.start.min(bytes.len())..range.end.min(bytes.len());
        if range.is_empty() {
            continue;
        }
        let at = range.start + random.below(range.len() as u64) as usize;
        match random.below(if cuts { 8 } else { 7 }) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 | 3 if !usual.is_empty() => {
                bytes[at] = usual[random.below(usual.len() as u64) as usize];
            }
            2 => bytes.iter_mut().skip(at).take(8).for_each(|byte| *byte = 0),
            3 | 4 => bytes.iter_mut().skip(at).take(4).for_each(|byte| *byte = 0xFF),
            5 | 6 => {
                let from = range.start + random.below(range.len() as u64) as usize;
                let count = (random.below(12) as usize).min(bytes.len() - from.max(at));
                bytes.copy_within(from..from + count, at);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

/// An archive, damaged anywhere, and half of the times in its directory, which is at the end.
pub fn any_archive(random: &mut Random, whole: &[u8]) -> Vec<u8> {
    let tail = whole.len().saturating_sub(400);
    bytes(random, whole, &[0..whole.len(), tail..whole.len()], &[], true)
}

/// What fields of an archive's directory (PKWARE's APPNOTE, 4.3.12) and of its end (4.3.16) say: where they
/// are, and their bytes.
const FIELDS: [(usize, usize); 10] =
    [(8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (34, 2), (42, 4)];
const LAST: [(usize, usize); 7] = [(4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)];

/// An archive with a number of its directory changed to one that some code might take wrongly.
pub fn directory(random: &mut Random, whole: &[u8]) -> Vec<u8> {
    let mut file = whole.to_vec();
    let entries = entries(&file);
    let last = file.len().saturating_sub(22);
    for _ in 0..1 + random.below(2) {
        let (begin, fields) = match random.below(entries.len() as u64 + 1) as usize {
            at if at < entries.len() => (entries[at], &FIELDS[..]),
            _ => (last, &LAST[..]),
        };
        let (at, bytes) = fields[random.below(fields.len() as u64) as usize];
        let Some(field) = file.get(begin + at..begin + at + bytes) else { continue };
        let old = field.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let new = match random.below(8) {
            0 => 0,
            1 => 8,
            2 => u64::from(u32::MAX),
            3 => old.wrapping_add(1),
            4 => old.wrapping_sub(1),
            5 => whole.len() as u64,
            6 => old.wrapping_mul(2),
            _ => random.below(whole.len() as u64 + 1),
        };
        file[begin + at..begin + at + bytes].copy_from_slice(&new.to_le_bytes()[..bytes]);
    }
    file
}

/// Opcodes of pickles.
const OPCODES: &[u8] = b"(.0NKMJXhqrjtRQbsuaeGCBU)}]\x81\x85\x86\x87\x88\x8a\x8b\x8c\x8d\x8f\x90\x91\x93\x94\x95\xff\x00\x01\x02";

/// What `torch.save` wrote, with its pickle damaged, or anything else. The lengths stay.
pub fn torch(random: &mut Random, whole: &[u8], pickle: &Range<usize>) -> Vec<u8> {
    let tail = whole.len().saturating_sub(900);
    let within = [0..whole.len(), tail..whole.len(), pickle.clone(), pickle.clone()];
    bytes(random, whole, &within, OPCODES, false)
}

/// A pickle of which opcodes and what belongs to them were changed, lost, doubled or moved.
pub fn pickle(random: &mut Random, whole: &[u8]) -> Vec<u8> {
    let mut pickle = whole.to_vec();
    for _ in 0..1 + random.below(3) {
        let at = random.below(pickle.len() as u64 + 1) as usize;
        let end = (at + random.below(12) as usize).min(pickle.len());
        let opcode = OPCODES[random.below(OPCODES.len() as u64) as usize];
        match random.below(6) {
            0 => pickle.insert(at, opcode),
            1 => drop(pickle.drain(at..end)),
            2 => {
                let doubled = pickle[at..end].to_vec();
                drop(pickle.splice(at..at, doubled));
            }
            3 if at < pickle.len() => pickle[at] = opcode,
            4 if at < pickle.len() => pickle[at] = random.next() as u8,
            _ => {
                let huge = [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F];
                let count = [1, 2, 4, 8][random.below(4) as usize];
                drop(pickle.splice(at..end.min(at + count), huge[8 - count..].iter().copied()));
            }
        }
    }
    pickle
}

/// An archive that is whole, with one of its members damaged: half of the times one whose name ends so.
pub fn within_archive(
    random: &mut Random,
    whole: &[u8],
    ends: &str,
    damage: impl Fn(&mut Random, &[u8]) -> Vec<u8>,
) -> Vec<u8> {
    let Some(mut members) = members(whole).filter(|members| !members.is_empty()) else {
        return any_archive(random, whole);
    };
    let mut at = random.below(members.len() as u64) as usize;
    if random.below(2) == 0 {
        at = members.iter().position(|(name, _)| name.ends_with(ends)).unwrap_or(at);
    }
    members[at].1 = damage(random, &members[at].1);
    let members: Vec<(&str, &[u8])> =
        members.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    archive(&members)
}

/// A `.npy` file with its header's text damaged, whose length is then said right, or any of its bytes.
pub fn array(random: &mut Random, whole: &[u8]) -> Vec<u8> {
    let header = |file: &[u8]| {
        let (width, begin) = if *file.get(6)? == 1 { (2, 10_usize) } else { (4, 12) };
        let length = file.get(8..8 + width)?.iter().rev();
        let length = length.fold(0_usize, |number, byte| number << 8 | usize::from(*byte));
        let end = begin.checked_add(length)?;
        Some((width, begin..end, std::str::from_utf8(file.get(begin..end)?).ok()?.to_owned()))
    };
    if random.below(4) > 0
        && let Some((width, range, header)) = header(whole)
    {
        let times = 1 + random.below(3);
        let header = text(random, &header, times, &NPY);
        let mut file = whole.to_vec();
        let length = (header.len() as u64).to_le_bytes();
        file[8..8 + width].copy_from_slice(&length[..width]);
        drop(file.splice(range, header.bytes()));
        return file;
    }
    bytes(random, whole, &[0..whole.len().min(128), 0..12, 0..whole.len()], b"(){},:'0123 ", true)
}
