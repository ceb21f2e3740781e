//! Pages of a file one by one. A decoder knows its file by the first directory: it is shown each page's in
//! that place, so that it need not walk there from the first one again, nor keep what it has seen.

use std::io::{self, Read, Seek, SeekFrom};

/// How far somebody is who walks along the directories of a file.
#[derive(Debug, Clone, Copy)]
pub struct Pages {
    is_big: bool,
    page: u64,
    /// Where the page's directory begins; 0 behind the last.
    at: u64,
}

impl Pages {
    /// At the first page of a file.
    ///
    /// # Errors
    /// Why it is no little-endian TIFF, in one line.
    pub fn begin<R: Read + Seek>(file: &mut R) -> Result<Pages, String> {
        let mut begin = [0; 8];
        file.rewind().and_then(|()| file.read_exact(&mut begin)).map_err(|error| told(&error))?;
        let is_big = match begin[..4] {
            [b'I', b'I', 42, 0] => false,
            [b'I', b'I', 43, 0] => true,
            _ => return Err("it begins as no little-endian TIFF does".to_owned()),
        };
        let mut pages = Pages { is_big, page: 0, at: 0 };
        pages.at = pages.offset(file, pages.first())?;
        Ok(pages)
    }

    /// The page it is at.
    #[must_use]
    pub fn page(&self) -> u64 {
        self.page
    }

    /// Goes on to a page, which is not before this one, and says where its directory begins.
    ///
    /// # Errors
    /// That there is none, or why it is not found, in one line.
    pub fn turn_to<R: Read + Seek>(&mut self, file: &mut R, page: u64) -> Result<u64, String> {
        while self.at != 0 && self.page < page {
            let next = self.after(file)?;
            (self.page, self.at) = (self.page + 1, next);
        }
        match self.at {
            0 => Err(format!("it has no page {page}")),
            at => Ok(at),
        }
    }

    /// Where the offset of the first directory stands.
    fn first(self) -> u64 {
        if self.is_big { 8 } else { 4 }
    }

    fn width(self) -> usize {
        if self.is_big { 8 } else { 4 }
    }

    fn offset<R: Read + Seek>(self, file: &mut R, at: u64) -> Result<u64, String> {
        let mut number = [0; 8];
        let read = file.seek(SeekFrom::Start(at));
        let read = read.and_then(|_| file.read_exact(&mut number[..self.width()]));
        read.map_err(|error| told(&error))?;
        Ok(u64::from_le_bytes(number))
    }

    /// The offset behind the entries.
    fn after<R: Read + Seek>(self, file: &mut R) -> Result<u64, String> {
        let mut count = [0; 8];
        let (width, entry) = if self.is_big { (8, 20) } else { (2, 12) };
        let read = file.seek(SeekFrom::Start(self.at));
        let read = read.and_then(|_| file.read_exact(&mut count[..width]));
        read.map_err(|error| told(&error))?;
        let entries = u64::from_le_bytes(count).checked_mul(entry);
        let behind = entries.and_then(|bytes| bytes.checked_add(self.at + width as u64));
        let behind = behind.filter(|behind| i64::try_from(*behind).is_ok());
        let behind = behind.ok_or_else(|| format!("page {} is no directory", self.page))?;
        self.offset(file, behind)
    }
}

fn told(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return "it ends too early".to_owned();
    }
    crate::error::shown(&error.to_string())
}

/// A file whose first directory is shown to be another.
#[derive(Debug)]
pub(super) struct Shown<R> {
    file: R,
    at: u64,
    /// What stands in the place of some bytes, and where.
    instead: (u64, Vec<u8>),
}

impl<R: Read + Seek> Shown<R> {
    /// As it is.
    pub(super) fn whole(file: R) -> Shown<R> {
        Shown { file, at: 0, instead: (0, Vec::new()) }
    }

    /// From a page on.
    ///
    /// # Errors
    /// As those of [`Pages::turn_to`].
    pub(super) fn page(mut file: R, pages: &mut Pages, page: u64) -> Result<Shown<R>, String> {
        let at = pages.turn_to(&mut file, page)?;
        file.rewind().map_err(|error| told(&error))?;
        let bytes = at.to_le_bytes()[..pages.width()].to_vec();
        Ok(Shown { file, at: 0, instead: (pages.first(), bytes) })
    }
}

impl<R: Read> Read for Shown<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buf)?;
        let (from, bytes) = &self.instead;
        for (place, &byte) in (*from..).zip(bytes) {
            let within = place.checked_sub(self.at).and_then(|at| usize::try_from(at).ok());
            if let Some(shown) = within.and_then(|at| buf[..read].get_mut(at)) {
                *shown = byte;
            }
        }
        self.at += read as u64;
        Ok(read)
    }
}

impl<R: Seek> Seek for Shown<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = self.file.seek(to)?;
        Ok(self.at)
    }
}
