//! Pages of a file one by one. A decoder knows its file by the first directory: it is shown each page's in
//! that place, so that it need not walk there from the first one again, nor keep what it has seen.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

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

    /// Fails where a tag of the directory that it is at has more values than the file has bytes for, or than `most`
    /// where it is a list of strips or tiles: a decoder would make room for them.
    ///
    /// # Errors
    /// In one line.
    pub(super) fn check_counts<R: Read + Seek>(
        self,
        file: &mut R,
        most: u64,
    ) -> Result<(), String> {
        /// More than any directory that was ever seen.
        const ENTRIES: u64 = 4096;
        let len = file.seek(SeekFrom::End(0)).map_err(|error| told(&error))?;
        let mut file = BufReader::with_capacity(1 << 10, file);
        file.seek(SeekFrom::Start(self.at)).map_err(|error| told(&error))?;
        let mut number = |width: usize| -> Result<u64, String> {
            let mut number = [0; 8];
            file.read_exact(&mut number[..width]).map_err(|error| told(&error))?;
            Ok(u64::from_le_bytes(number))
        };
        let (counts, offsets) = if self.is_big { (8, 8) } else { (2, 4) };
        let entries = number(counts)?;
        if entries > ENTRIES {
            return Err(format!("its directory has {entries} entries"));
        }
        for _ in 0..entries {
            let (tag, type_, count) = (number(2)?, number(2)?, number(offsets)?);
            number(offsets)?;
            let size = match type_ {
                3 | 8 => 2,
                4 | 9 | 11 | 13 => 4,
                5 | 10 | 12 | 16..=18 => 8,
                _ => 1,
            };
            let is_list = matches!(tag, 273 | 279 | 324 | 325);
            if count.checked_mul(size).is_none_or(|bytes| bytes > len) || (is_list && count > most)
            {
                return Err(format!("tag {tag} has {count} values, which are too many"));
            }
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tiff::encoder::{TiffEncoder, colortype};

    use super::*;
    use crate::encode::Decoded;

    fn file(pages: u8, is_big: bool) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        let sizes =
            (1..=u32::from(pages)).map(|width| (width, vec![width as f32; 2 * width as usize]));
        if is_big {
            let mut encoder = TiffEncoder::new_big(&mut file).unwrap();
            for (width, pixels) in sizes {
                encoder.write_image::<colortype::Gray32Float>(width, 2, &pixels).unwrap();
            }
        } else {
            let mut encoder = TiffEncoder::new(&mut file).unwrap();
            for (width, pixels) in sizes {
                encoder.write_image::<colortype::Gray32Float>(width, 2, &pixels).unwrap();
            }
        }
        file.into_inner()
    }

    /// A page's pixels, from where somebody is.
    fn look(file: &[u8], pages: &mut Pages, page: u64) -> Result<Vec<u8>, String> {
        let mut image = Decoded::open_page(Cursor::new(file), pages, page)?;
        let mut pixels = Vec::new();
        image.each(&mut |step| pixels.extend_from_slice(step))?;
        Ok(pixels)
    }

    #[test]
    fn every_page_is_found_from_the_first_and_from_those_before() {
        for is_big in [false, true] {
            let file = file(5, is_big);
            let begin = || Pages::begin(&mut Cursor::new(&file)).unwrap();
            for from in 0..5 {
                for page in from..5 {
                    let mut pages = begin();
                    look(&file, &mut pages, from).unwrap();
                    assert_eq!(pages.page(), from);
                    let due = (page + 1) as f32;
                    let due = due.to_le_bytes().repeat(usize::try_from(2 * (page + 1)).unwrap());
                    assert_eq!(look(&file, &mut pages, page).unwrap(), due, "{from} {page}");
                }
            }
            let mut pages = begin();
            for page in [5, 6, u64::MAX] {
                let told = look(&file, &mut pages, page).unwrap_err();
                assert_eq!(told, format!("it has no page {page}"));
            }
        }
    }

    #[test]
    fn what_is_damaged_is_told_or_read() {
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
            usize::try_from(state >> 33).unwrap()
        };
        for is_big in [false, true] {
            let whole = file(4, is_big);
            for _ in 0..10_000 {
                let mut damaged = whole.clone();
                for _ in 0..=random() % 4 {
                    let at = random() % damaged.len();
                    damaged[at] = u8::try_from(random() % 256).unwrap();
                }
                damaged.truncate(whole.len() - random() % 2 * (random() % whole.len()));
                let Ok(mut pages) = Pages::begin(&mut Cursor::new(&damaged)) else { continue };
                for page in 0..50 {
                    let _ = look(&damaged, &mut pages, page);
                }
            }
        }
    }
}
