//! What the journal says of one image: 64 bytes that tell by themselves whether they are whole.

use std::num::NonZeroU64;

use twox_hash::XxHash3_64;

use crate::normalize::{Extent, Range, Rule};

/// Bytes of an entry. A disk writes no less than eight of them at once.
pub const SIZE: usize = 64;
const CHECKED: usize = SIZE - size_of::<u64>();

const DONE: u8 = 1;
const FAILED: u8 = 2;
const EXISTED: u8 = 3;
const HASHED: u8 = 0x80;

/// What became of one image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Entry {
    /// It is there, whole, under its name.
    Done(Found),
    /// It could not be made.
    Failed(Failure),
    /// It was there before the run, which left it as it was.
    Existed,
}

/// What was found in an image's samples, and made of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// The numbers of its range, as [`Range::numbers`] has them; `None` where there are none.
    pub range: Option<(f64, f64)>,
    /// Number of NaN.
    pub nan: u64,
    /// Number of infinite pixels.
    pub inf: u64,
    /// XXH3 (64 bit, seed 0) of the pixels, little-endian, without the header.
    pub hash: Option<u64>,
    /// Bytes of the file, header included, where they do not follow from the plan.
    pub len: Option<NonZeroU64>,
}

/// Why an image could not be made, as far as it fits a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// What was being done.
    pub doing: Doing,
    /// The system's number of the error; 0 where it has none.
    pub errno: i32,
}

/// What was being done when an image failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Doing {
    /// Reading its samples.
    Read = 0,
    /// Writing its file.
    Write = 1,
    /// Normalizing: it has samples that are not finite.
    Normalize = 2,
}

impl Found {
    /// What an extent and a range say. Images that are kept show samples beyond f32 as infinite.
    #[must_use]
    pub fn of(
        rule: &Rule,
        extent: &Extent,
        range: &Range,
        hash: Option<u64>,
        len: Option<NonZeroU64>,
    ) -> Found {
        let overflow = if range.keeps(rule) { extent.overflow } else { 0 };
        Found {
            range: range.numbers(rule, extent),
            nan: extent.nan,
            inf: extent.pos_inf + extent.neg_inf + overflow,
            hash,
            len,
        }
    }
}

impl Entry {
    /// The entry of image number `ordinal` of a plan.
    #[must_use]
    pub fn to_bytes(self, plan: u64, ordinal: u64) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        match self {
            Entry::Done(found) => {
                bytes[0] = DONE | if found.hash.is_some() { HASHED } else { 0 };
                let (lo, hi) = found.range.unwrap_or((f64::INFINITY, f64::NEG_INFINITY));
                let [hash, len] =
                    [found.hash, found.len.map(NonZeroU64::get)].map(Option::unwrap_or_default);
                let words = [lo.to_bits(), hi.to_bits(), found.nan, found.inf, hash, len];
                for (at, word) in words.into_iter().enumerate() {
                    put(&mut bytes, 1 + at, word);
                }
            }
            Entry::Failed(failure) => {
                bytes[0] = FAILED;
                bytes[1] = failure.doing as u8;
                bytes[4..8].copy_from_slice(&failure.errno.to_le_bytes());
            }
            Entry::Existed => bytes[0] = EXISTED,
        }
        let check = checksum(&bytes, plan, ordinal);
        put(&mut bytes, CHECKED / 8, check);
        bytes
    }

    /// The entry in `bytes`; `None` if there is none, or a torn one, or another plan's or image's.
    #[must_use]
    pub fn of_bytes(bytes: &[u8; SIZE], plan: u64, ordinal: u64) -> Option<Entry> {
        if word(bytes, CHECKED / 8) != checksum(bytes, plan, ordinal) {
            return None;
        }
        match bytes[0] & !HASHED {
            DONE => {
                let [lo, hi] = [1, 2].map(|at| f64::from_bits(word(bytes, at)));
                Some(Entry::Done(Found {
                    range: lo.is_finite().then_some((lo, hi)),
                    nan: word(bytes, 3),
                    inf: word(bytes, 4),
                    hash: (bytes[0] & HASHED != 0).then(|| word(bytes, 5)),
                    len: NonZeroU64::new(word(bytes, 6)),
                }))
            }
            FAILED => {
                let all = [Doing::Read, Doing::Write, Doing::Normalize];
                let doing = all.into_iter().find(|doing| *doing as u8 == bytes[1])?;
                let errno = i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
                Some(Entry::Failed(Failure { doing, errno }))
            }
            EXISTED => Some(Entry::Existed),
            _ => None,
        }
    }
}

/// Where an entry stands is part of what is checked: one in the wrong place says nothing.
fn checksum(bytes: &[u8; SIZE], plan: u64, ordinal: u64) -> u64 {
    let seed = plan ^ ordinal.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    XxHash3_64::oneshot_with_seed(seed, &bytes[..CHECKED])
}

fn put(bytes: &mut [u8; SIZE], at: usize, word: u64) {
    bytes[8 * at..8 * at + 8].copy_from_slice(&word.to_le_bytes());
}

fn word(bytes: &[u8; SIZE], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[8 * at..8 * at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        let found = |range, hash: Option<u64>| {
            let len = hash.and_then(NonZeroU64::new);
            Entry::Done(Found { range, nan: 3, inf: u64::MAX, hash, len })
        };
        vec![
            found(Some((-0.5, 1e300)), Some(7)),
            found(Some((2.0, 2.0)), None),
            found(None, Some(0)),
            Entry::Failed(Failure { doing: Doing::Read, errno: 5 }),
            Entry::Failed(Failure { doing: Doing::Write, errno: -1 }),
            Entry::Failed(Failure { doing: Doing::Normalize, errno: 0 }),
            found(Some((3.0, 0.5)), None),
            found(Some((3.0, f64::INFINITY)), None),
            Entry::Existed,
        ]
    }

    #[test]
    fn an_entry_comes_back_as_it_was() {
        for entry in entries() {
            assert_eq!(Entry::of_bytes(&entry.to_bytes(9, 4), 9, 4), Some(entry));
        }
    }

    #[test]
    fn an_entry_that_is_torn_or_elsewhere_says_nothing() {
        assert_eq!(Entry::of_bytes(&[0; SIZE], 9, 4), None);
        for entry in entries() {
            let whole = entry.to_bytes(9, 4);
            assert_eq!(Entry::of_bytes(&whole, 9, 5), None);
            assert_eq!(Entry::of_bytes(&whole, 8, 4), None);
            for bit in 0..8 * SIZE {
                let mut torn = whole;
                torn[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Entry::of_bytes(&torn, 9, 4), None, "bit {bit} of {entry:?}");
            }
            for end in (0..SIZE).filter(|&end| whole[end..].iter().any(|&byte| byte != 0)) {
                let mut torn = whole;
                torn[end..].fill(0);
                assert_eq!(Entry::of_bytes(&torn, 9, 4), None, "{end} bytes of {entry:?}");
            }
        }
    }
}
