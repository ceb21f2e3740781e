//! A part of a file as if it were one.

use std::io::{self, Read, Seek, SeekFrom};

/// Some bytes of what is read from: positions count from their begin, and they end.
#[derive(Debug)]
pub struct Section<R> {
    inner: R,
    begin: u64,
    len: u64,
    at: u64,
}

impl<R: Seek> Section<R> {
    /// The `len` bytes from byte `begin` on, or as many as there are.
    ///
    /// # Errors
    /// Where positions leave 64 bits, or the system refuses them.
    pub fn new(mut inner: R, begin: u64, len: u64) -> io::Result<Section<R>> {
        begin.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        inner.seek(SeekFrom::Start(begin))?;
        Ok(Section { inner, begin, len, at: 0 })
    }
}

impl<R: Read> Read for Section<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let most = buf.len().min(left);
        let read = self.inner.read(&mut buf[..most])?;
        self.at += read as u64;
        Ok(read)
    }
}

impl<R: Seek> Seek for Section<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
        };
        let at = at.ok_or(io::ErrorKind::InvalidInput)?;
        let place = self.begin.checked_add(at).ok_or(io::ErrorKind::InvalidInput)?;
        self.inner.seek(SeekFrom::Start(place))?;
        self.at = at;
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn a_section_is_read_like_a_file_of_its_own() {
        let mut part = Section::new(Cursor::new(b"0123456789"), 3, 4).unwrap();
        let mut text = String::new();
        part.read_to_string(&mut text).unwrap();
        assert_eq!(text, "3456");
        for (to, due, rest) in [
            (SeekFrom::Start(1), 1, "456"),
            (SeekFrom::End(-1), 3, "6"),
            (SeekFrom::Current(-3), 1, "456"),
            (SeekFrom::Start(9), 9, ""),
            (SeekFrom::End(0), 4, ""),
        ] {
            assert_eq!(part.seek(to).unwrap(), due);
            text.clear();
            part.read_to_string(&mut text).unwrap();
            assert_eq!(text, rest);
        }
        assert!(part.seek(SeekFrom::Current(-9)).is_err());
        assert!(part.seek(SeekFrom::Start(u64::MAX)).is_err());
        // What the file does not have the section does not have either.
        let mut beyond = Section::new(Cursor::new(b"0123"), 2, 9).unwrap();
        text.clear();
        beyond.read_to_string(&mut text).unwrap();
        assert_eq!(text, "23");
        assert!(Section::new(Cursor::new(b""), u64::MAX, 2).is_err());
    }
}
