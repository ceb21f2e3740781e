//! Which bytes of an image have been stored, so that one with a piece missing is never shown.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};

/// The stored ranges of an image of `len` bytes, or of as many as they reach to.
///
/// A sum of lengths would not do: a unit that goes back to the queue after its device was lost
/// stores its piece twice. Ranges that touch are merged, so there are about as many as there are
/// threads; a piece is 1 MiB or so, and one lock for each costs nothing.
#[derive(Debug)]
pub(super) struct Pieces {
    len: Option<u64>,
    /// End by start; apart from each other.
    stored: Mutex<BTreeMap<u64, u64>>,
}

impl Pieces {
    pub(super) fn new(len: Option<u64>) -> Pieces {
        Pieces { len, stored: Mutex::default() }
    }

    /// Refuses a piece that would make the image longer than it was said to be.
    pub(super) fn check(&self, offset: u64, bytes: usize) -> io::Result<()> {
        let most = self.len.unwrap_or(i64::MAX.unsigned_abs());
        match offset.checked_add(bytes as u64) {
            Some(end) if end <= most => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{bytes} bytes at {offset} do not fit an image of {most} bytes"),
            )),
        }
    }

    /// Notes that a piece which passed [`check`](Pieces::check) is stored.
    pub(super) fn add(&self, offset: u64, bytes: usize) {
        let (mut start, mut end) = (offset, offset + bytes as u64);
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((&from, &to)) =
            stored.range(..=end).next_back().filter(|(_, to)| **to >= start)
        {
            (start, end) = (start.min(from), end.max(to));
            stored.remove(&from);
        }
        stored.insert(start, end);
    }

    /// Refuses an image with a hole.
    pub(super) fn whole(&self) -> io::Result<()> {
        let stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: u64 = stored.iter().map(|(start, end)| end - start).sum();
        let len = self.len.or(stored.last_key_value().map(|(_, end)| *end)).unwrap_or(0);
        if bytes == len {
            return Ok(());
        }
        let problem = format!("only {bytes} of {len} bytes were stored");
        Err(io::Error::new(io::ErrorKind::InvalidData, problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_whole_when_each_byte_was_stored_in_whatever_order() {
        // Every sequence of 4 pieces between 0 and 5, against a plain list of bytes.
        let pieces: Vec<(usize, usize)> =
            (0..=5).flat_map(|start| (start..=5).map(move |end| (start, end))).collect();
        let n = pieces.len();
        for case in 0..n.pow(4) {
            let images = [Pieces::new(Some(5)), Pieces::new(None)];
            let mut bytes = [false; 5];
            for k in 0..4 {
                let (start, end) = pieces[case / n.pow(k) % n];
                for image in &images {
                    image.check(start as u64, end - start).unwrap();
                    image.add(start as u64, end - start);
                }
                bytes[start..end].fill(true);
            }
            let [known, unknown] = images.map(|image| image.whole().is_ok());
            assert_eq!(known, bytes == [true; 5], "case {case}");
            let reach = (0..4).map(|k| pieces[case / n.pow(k) % n].1).max().unwrap();
            // An empty piece reaches nowhere, but where it stands alone behind the others.
            let holes = bytes[..reach].contains(&false);
            assert!(unknown != holes || bytes.iter().all(|stored| !stored), "case {case}");
        }
    }

    #[test]
    fn a_piece_beyond_the_end_is_refused() {
        let image = Pieces::new(Some(5));
        assert!(image.check(0, 5).is_ok() && image.check(5, 0).is_ok());
        for (offset, bytes) in [(0, 6), (1, 5), (5, 1), (6, 0), (u64::MAX, 1), (u64::MAX, 0)] {
            assert!(image.check(offset, bytes).is_err(), "{bytes} at {offset}");
        }
    }
}
