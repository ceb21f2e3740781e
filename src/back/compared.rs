//! A sink that stores nothing: it compares what a run makes with what is stored.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Cursor;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Difference, Tell};
use crate::convert::{Place, Places};
use crate::encode::{Decoded, Pages};
use crate::error::Error;
use crate::record::read_at;
use crate::sink::{FilesSink, Pending, Sink};

/// Bytes of a file that are compared at once.
const STEP: usize = 64 << 10;
/// Longest header that is kept to say where pixels differ.
const HEADER: usize = 1 << 20;

/// See the module. Files that are missing are not told: who looked at the manifest knows of them.
pub(super) struct Compared<'a> {
    stored: &'a FilesSink,
    folder: &'a std::path::Path,
    tell: &'a Tell<'a>,
    /// Where images are that are members of tars.
    places: Option<Places>,
    /// Files that were compared.
    pub(super) files: AtomicU64,
}

impl<'a> Compared<'a> {
    pub(super) fn new(
        stored: &'a FilesSink,
        folder: &'a std::path::Path,
        tell: &'a Tell<'a>,
        places: Option<Places>,
    ) -> Compared<'a> {
        Compared { stored, folder, tell, places, files: AtomicU64::new(0) }
    }

    fn open(&self, name: &str, len: Option<u64>) -> Result<Comparison<'_>, Error> {
        let file = self.stored.open(name)?;
        let name = name.to_owned();
        Ok(Comparison { sink: self, name, len, file, found: Mutex::default() })
    }
}

impl Sink for Compared<'_> {
    fn prepare(&self, _names: &mut dyn Iterator<Item = String>) -> Result<(), Error> {
        Ok(())
    }

    fn put(&self, name: &str, header: &[u8], pixels: &[u8]) -> Result<(), Error> {
        let comparison = self.open(name, Some((header.len() + pixels.len()) as u64))?;
        comparison.write_at(0, header)?;
        comparison.write_at(header.len() as u64, pixels)?;
        Box::new(comparison).commit()
    }

    fn begin(&self, name: &str, len: Option<u64>) -> Result<Box<dyn Pending + '_>, Error> {
        Ok(Box::new(self.open(name, len)?))
    }
}

/// One image under way.
struct Comparison<'a> {
    sink: &'a Compared<'a>,
    name: String,
    len: Option<u64>,
    file: Option<File>,
    /// Of a tar by member: each piece is of one alone.
    found: Mutex<BTreeMap<Option<u64>, Found>>,
}

/// What differs so far.
#[derive(Default)]
struct Found {
    /// What the run makes at the file's begin.
    header: Vec<u8>,
    /// Words of four bytes that differ, and of them the first: where it is, what it is, what it ought to be.
    words: u64,
    first: Option<(u64, [u8; 4], [u8; 4])>,
    /// The first byte that the file does not have.
    end: Option<u64>,
    problem: Option<String>,
}

impl Pending for Comparison<'_> {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let Some(file) = &self.file else { return Ok(()) };
        let place = self.sink.places.as_ref().and_then(|places| places.of_byte(&self.name, offset));
        let image = place.map(|place| place.image);
        let note = |work: &mut dyn FnMut(&mut Found)| {
            let mut all = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            work(all.entry(image).or_default());
        };
        if offset == 0 && self.sink.places.is_none() {
            note(&mut |found| found.header = bytes[..bytes.len().min(HEADER)].to_vec());
        }
        let mut buffer = [0; STEP];
        let mut at = offset;
        for due in bytes.chunks(STEP) {
            let is = &mut buffer[..due.len()];
            match read_at(file, is, at) {
                Ok(read) if read == due.len() => {}
                Ok(read) => {
                    let end = at + read as u64;
                    note(&mut |found| {
                        found.end = Some(found.end.map_or(end, |known| known.min(end)));
                    });
                    return Ok(());
                }
                Err(error) => note(&mut |found| found.problem = Some(error.to_string())),
            }
            if is != due {
                note(&mut |found| found.differ(at, is, due));
            }
            at += due.len() as u64;
        }
        Ok(())
    }

    fn commit(self: Box<Self>) -> Result<(), Error> {
        let Comparison { sink, name, len, file, found } = *self;
        if file.is_none() {
            return Ok(());
        }
        sink.files.fetch_add(1, Ordering::Relaxed);
        for (image, found) in found.into_inner().unwrap_or_else(PoisonError::into_inner) {
            // Whatever lies behind all members is of the tar.
            let first = found.first.as_ref().map_or(found.end.unwrap_or(0), |(at, ..)| *at);
            let place = sink.places.as_ref().filter(|_| image.is_some());
            let place = place.and_then(|places| places.of_byte(&name, first));
            let tell = |what, problem| {
                let member = place.as_ref().map(|place| place.name.clone());
                let file = sink.folder.join(&name);
                (sink.tell)(Difference { file, page: None, member, what, problem });
            };
            if let Some(problem) = found.problem {
                tell("file", problem);
            } else if let Some(end) = found.end {
                tell("size", format!("it ends at byte {end}, and what the dump gives does not"));
            } else if let Some(first) = found.first {
                let (what, problem) = match (&place, image) {
                    (Some(place), _) => told_of_member(place, found.words, first),
                    (None, _) if sink.places.is_some() => {
                        ("file", "it does not end as tars do, with 1024 zeros".to_owned())
                    }
                    (None, _) => told(&found.header, len, found.words, first),
                };
                tell(what, problem);
            }
        }
        Ok(())
    }
}

impl Found {
    fn differ(&mut self, at: u64, is: &[u8], due: &[u8]) {
        // Pieces begin and end where pixels do; a header may end within a word.
        for (number, (is, due)) in (0..).zip(is.chunks(4).zip(due.chunks(4))) {
            if is != due {
                self.words += 1;
                let at = at + 4 * number;
                if self.first.is_none_or(|(first, ..)| at < first) {
                    let word = |bytes: &[u8]| {
                        let mut word = [0; 4];
                        word[..bytes.len()].copy_from_slice(bytes);
                        word
                    };
                    self.first = Some((at, word(is), word(due)));
                }
            }
        }
    }
}

fn pixel_text(word: [u8; 4]) -> String {
    let pixel = f32::from_le_bytes(word);
    if pixel.is_nan() { format!("NaN ({:#010x})", pixel.to_bits()) } else { format!("{pixel:?}") }
}

/// Where and how a member of a tar differs.
fn told_of_member(
    place: &Place,
    words: u64,
    (at, is, due): (u64, [u8; 4], [u8; 4]),
) -> (&'static str, String) {
    if at < place.file || at >= place.end {
        let problem = "its header in the tar, or what follows its file, is not what it must be";
        return ("member", problem.to_owned());
    }
    let Some(pixel) = at.checked_sub(place.pixels).map(|bytes| bytes / 4) else {
        let byte = at - place.file;
        return ("header", format!("from byte {byte} on it is not what the dump gives"));
    };
    let (row, column) = (pixel / place.width, pixel % place.width);
    let [is, due] = [is, due].map(pixel_text);
    let problem = format!(
        "{words} of {} pixels are not what the dump gives, the first at row {row}, column {column}: {is}, \
         and it ought to be {due}",
        (place.end - place.pixels) / 4
    );
    ("samples", problem)
}

/// Where and how a file differs. That pixels follow their header is so of what is not packed.
fn told(
    header: &[u8],
    len: Option<u64>,
    words: u64,
    (at, is, due): (u64, [u8; 4], [u8; 4]),
) -> (&'static str, String) {
    let mut cursor = Cursor::new(header);
    let pages = Pages::begin(&mut cursor).ok();
    let image = pages.and_then(|mut pages| Decoded::open_page(cursor, &mut pages, 0).ok());
    let shape = image.as_ref().map(Decoded::shape);
    if image.as_ref().and_then(Decoded::packed_at).is_some_and(|begin| at >= begin) {
        let problem =
            format!("what they are packed in is not what the dump gives from byte {at} on");
        return ("samples", problem);
    }
    let begin = image.and_then(|image| image.pixels_at()).unwrap_or(header.len() as u64);
    let pixel = at.checked_sub(begin).map(|bytes| bytes / 4);
    let pages = |pixels: u64| len.map_or(1, |len| len.saturating_sub(begin) / 4 / pixels.max(1));
    match (pixel, shape) {
        (Some(pixel), Some([height, width]))
            if pixel < pages(height * width).saturating_mul(height * width) =>
        {
            let [is, due] = [is, due].map(pixel_text);
            let (page, of) = (pixel / (height * width), pages(height * width).max(1));
            let pixel = pixel % (height * width);
            let (row, column) = (pixel / width, pixel % width);
            let page = if of > 1 { format!("page {page}, ") } else { String::new() };
            let problem = format!(
                "{words} of {} pixels are not what the dump gives, the first at {page}row {row}, column \
                 {column}: {is}, and it ought to be {due}",
                of * height * width
            );
            ("samples", problem)
        }
        _ => ("header", format!("from byte {at} on it is not what the dump gives")),
    }
}
