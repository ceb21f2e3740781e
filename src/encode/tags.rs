//! The tags of a file, held against those that this program gives its images: each tag's type, count and
//! value, where strips lie, and that there are no others. A decoder takes more than is written here (a
//! width of type SHORT, a text that no NUL ends), and skips what it does not know.
//!
//! The text of tag 270 and the values of tags 340 and 341 are each image's own, and looked at elsewhere.

use std::io::{Cursor, Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

use tiff::Directory;
use tiff::decoder::ifd::Value;
use tiff::decoder::{Decoder, Limits};
use tiff::tags::{Tag, Type};

use super::decoded::{Decoded, told};
use super::description::{Description, Display, Numbers};
use super::encoding::{BigTiff, Compress, Encoding, Predictor};
use super::gdal;
use super::header::{GDAL_METADATA, Header, Subject};
use super::strips::Strips;
use crate::error::shown;
use crate::normalize::{Extent, Kept, Range, Rule, Scope};
use crate::tensor::Dtype;

/// How the files of a run are.
#[derive(Debug)]
pub struct Tags {
    rule: Rule,
    scope: Scope,
    encoding: Encoding,
    /// Those of the last image: many have the same size.
    last: Mutex<Option<Arc<Due>>>,
}

/// What the text of tag 270 says of an image.
#[derive(Debug)]
pub struct Said<'a> {
    /// The tensor's name, and its bytes where it was cut.
    pub tensor: (&'a str, Option<u64>),
    /// The image's indices.
    pub index: &'a [u64],
    /// What the tensor is of.
    pub dtype: &'a str,
    /// The numbers of the image's range.
    pub range: Option<(f64, f64)>,
    /// How many of its samples are NaN, and infinite.
    pub counts: [u64; 2],
    /// Between what it is shown.
    pub display: [f32; 2],
    /// Of a stack's first page: how many pages there are.
    pub pages: Option<u64>,
}

/// What is so of all images of one size, in one kind of file.
#[derive(Debug)]
struct Due {
    size: (u64, u64),
    is_big: bool,
    strips: Strips,
    tags: Vec<(Tag, Type, u64, Value)>,
}

impl Tags {
    /// Of the files of a run.
    #[must_use]
    pub fn new(rule: Rule, scope: Scope, encoding: Encoding) -> Tags {
        Tags { rule, scope, encoding, last: Mutex::default() }
    }

    /// The text of an image, without the NUL that ends it.
    #[must_use]
    pub fn text(&self, said: &Said<'_>) -> String {
        let (tensor, cut) = said.tensor;
        let description = Description::new(tensor, said.dtype, (&self.rule, self.scope));
        let description = match cut {
            Some(bytes) => description.of_cut(tensor, bytes),
            None => description,
        };
        let description = match said.pages {
            Some(pages) => description.of_first(pages),
            None => description,
        };
        let ([min, max], [nan, inf]) = (said.display, said.counts);
        let mut text = Vec::new();
        description.write_numbers(
            said.index,
            Display { min, max },
            (said.range, nan, inf),
            &mut text,
        );
        text.pop();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// What is otherwise in an image's file, each in one line; empty where nothing is. `range` are the numbers of
    /// the image's range, `nan` and `inf` those of samples that are not finite, and `len` the bytes of the
    /// file, of which a page of a stack says nothing.
    ///
    /// # Errors
    /// Why the tags cannot be read, in one line.
    pub fn differences<R: Read + Seek>(
        &self,
        image: &mut Decoded<R>,
        (range, nan, inf): (Option<(f64, f64)>, u64, u64),
        len: Option<u64>,
    ) -> Result<Vec<String>, String> {
        let is_big = match image.start() {
            b"II*\0" => false,
            b"II+\0" => true,
            _ => return Err("it begins as no little-endian TIFF does".to_owned()),
        };
        let mut found = Vec::new();
        let kind = if is_big { "BigTIFF" } else { "classic TIFF" };
        if let (BigTiff::Yes, false) | (BigTiff::No, true) = (self.encoding.bigtiff, is_big) {
            found.push(format!("it is a {kind}, and the run's files are none"));
        }
        let [height, width] = image.shape();
        let strips = Strips::new((width, height), &self.encoding);
        let strips = strips.map_err(|_| "the run can have no such image".to_owned())?;
        let list = if strips.tile.is_some() { Tag::TileOffsets } else { Tag::StripOffsets };
        let directory = image.directory()?;
        // What is not in the file is not made in memory: lists may be long.
        let listed = directory.get(list).map_or(0, tiff::decoder::ifd::Entry::count);
        if listed != strips.count {
            let (is, due) = (listed, strips.count);
            found.push(format!("{} has {is} values, and ought to have {due}", named(list)));
            return Ok(found);
        }
        let due = self.due((width, height), is_big, strips)?;
        // Entries of unknown types are no tags to the decoder.
        let entries = image.entries(is_big)?;
        if entries != due.tags.len() as u64 {
            let ought = due.tags.len();
            found.push(format!("its directory has {entries} entries, and ought to have {ought}"));
        }
        for (tag, type_, count, value) in &due.tags {
            let told = match (tag, image.unlike(&directory, (*tag, *type_, *count))) {
                (Tag::Unknown(GDAL_METADATA), Ok(None)) => {
                    let display = image.display();
                    display.and_then(|display| self.gdal(image, display, (range, nan, inf)))
                }
                (tag, Ok(None)) => self.value(image, *tag, value),
                (_, told) => told,
            };
            found.extend(told.unwrap_or_else(Some));
        }
        for (tag, _) in directory.iter() {
            if !due.tags.iter().any(|(known, ..)| *known == tag) {
                found.push(format!("{} is there, which no image of the run has", named(tag)));
            }
        }
        let are_as_long = self.encoding.compress == Compress::None;
        found.extend(image.lists(&due, are_as_long, len).unwrap_or_else(Some));
        Ok(found)
    }

    fn due(&self, size: (u64, u64), is_big: bool, strips: Strips) -> Result<Arc<Due>, String> {
        let lock = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().as_ref().filter(|due| (due.size, due.is_big) == (size, is_big)).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let bigtiff = if is_big { BigTiff::Yes } else { BigTiff::No };
        let encoding = &Encoding { bigtiff, ..self.encoding };
        let how = (&self.rule, self.scope);
        // Whose name and axes it is matters to the text alone, and to where pixels begin.
        let (tensor, dtype) = ("", Dtype::F32);
        let header = Header::new(&Subject { size, tensor, axes: &[], dtype, how, encoding });
        let header = header.map_err(|_| "the run can have no such image".to_owned())?;
        let mut bytes = Vec::new();
        header.write(&[], &Extent::EMPTY, &Range::Keep(Kept::Asked), &mut bytes);
        let limits = Limits::unlimited(); // it is our own
        let mut decoder = Decoder::new(Cursor::new(bytes)).map_err(told)?.with_limits(limits);
        let directory = read(&mut decoder)?;
        let mut tags = Vec::new();
        for (tag, entry) in directory.iter() {
            let value = match tag {
                _ if is_list(tag) => Value::List(Vec::new()),
                tag => decoder.get_tag(tag).map_err(told)?,
            };
            tags.push((tag, entry.field_type(), entry.count(), value));
        }
        let due = Arc::new(Due { size, is_big, strips, tags });
        *lock() = Some(Arc::clone(&due));
        Ok(due)
    }

    /// Whether a tag whose type and count are right has another value.
    fn value<R: Read + Seek>(
        &self,
        image: &mut Decoded<R>,
        tag: Tag,
        due: &Value,
    ) -> Result<Option<String>, String> {
        let is_own =
            [Tag::ImageDescription, Tag::SMinSampleValue, Tag::SMaxSampleValue].contains(&tag);
        if is_own || is_list(tag) {
            return Ok(None);
        }
        let is = image.value(tag)?;
        let due = match (tag, self.encoding.predictor) {
            (Tag::Predictor, Predictor::Float) => &Value::Short(3),
            (Tag::Predictor, Predictor::Auto) if is == Value::Short(3) => &is,
            _ => due,
        };
        let [shown_is, shown_due] = [&is, due].map(of_value);
        let differs = format!("{} is {shown_is}, and ought to be {shown_due}", named(tag));
        Ok((is != *due).then_some(differs))
    }

    /// Whether GDAL's text is another.
    fn gdal<R: Read + Seek>(
        &self,
        image: &mut Decoded<R>,
        [min, max]: [f32; 2],
        numbers: Numbers,
    ) -> Result<Option<String>, String> {
        let mut due = Vec::new();
        gdal::write(&self.rule, self.scope, numbers, Display { min, max }, &mut due);
        let is = match image.value(Tag::Unknown(GDAL_METADATA))? {
            Value::Ascii(text) => text,
            _ => String::new(),
        };
        let is_same = due.strip_suffix(b"\0") == Some(is.as_bytes());
        let tag = named(Tag::Unknown(GDAL_METADATA));
        Ok((!is_same).then(|| format!("{tag} is not what the manifest's numbers make it")))
    }
}

impl<R: Read + Seek> Decoded<R> {
    /// The image's directory.
    fn directory(&mut self) -> Result<Directory, String> {
        read(self.decoder())
    }

    /// How many entries the directory says that it has.
    fn entries(&mut self, is_big: bool) -> Result<u64, String> {
        let decoder = self.decoder();
        let at = decoder.ifd_pointer().map_or(0, |at| at.0);
        let (file, mut count) = (decoder.inner(), [0; 8]);
        let width = if is_big { 8 } else { 2 };
        let read = file.seek(SeekFrom::Start(at));
        let read = read.and_then(|_| file.read_exact(&mut count[..width]));
        read.map_err(|error| told(error.into()))?;
        Ok(u64::from_le_bytes(count))
    }

    fn value(&mut self, tag: Tag) -> Result<Value, String> {
        self.decoder().get_tag(tag).map_err(|error| format!("{}: {}", named(tag), told(error)))
    }

    /// Whether a tag is missing, or has another type or count.
    fn unlike(
        &mut self,
        directory: &Directory,
        (tag, due_type, count): (Tag, Type, u64),
    ) -> Result<Option<String>, String> {
        let Some(entry) = directory.get(tag) else {
            return Ok(Some(format!("{} is missing", named(tag))));
        };
        // Of a text it is that of its bytes and of one NUL.
        let count = match tag {
            Tag::ImageDescription => self.description()?.len() as u64 + 1,
            _ => count,
        };
        let is = (entry.field_type(), entry.count());
        Ok((is != (due_type, count)).then(|| {
            format!(
                "{} has {} of type {:?}, and ought to have {count} of type {due_type:?}",
                named(tag),
                is.1,
                is.0
            )
        }))
    }

    /// Whether strips do not lie one after the other up to the end, or are not as long as their pixels where
    /// they are to be.
    fn lists(
        &mut self,
        due: &Due,
        are_as_long: bool,
        len: Option<u64>,
    ) -> Result<Option<String>, String> {
        let [offsets, lens] = match due.strips.tile {
            None => [Tag::StripOffsets, Tag::StripByteCounts],
            Some(_) => [Tag::TileOffsets, Tag::TileByteCounts],
        };
        let mut list = |tag: Tag| {
            self.decoder().get_tag_u64_vec(tag).map_err(|e| format!("{}: {}", named(tag), told(e)))
        };
        let (places, sizes) = (list(offsets)?, list(lens)?);
        let mut end = places.first().copied().unwrap_or(0);
        for (strip, (&place, &size)) in (0..).zip(places.iter().zip(&sizes)) {
            if are_as_long && size != due.strips.len(strip) {
                let ought = due.strips.len(strip);
                return Ok(Some(format!(
                    "{}: that of {strip} is {size}, and ought to be {ought}",
                    named(lens)
                )));
            }
            if place != end {
                return Ok(Some(format!(
                    "{}: that of {strip} is {place}, and the one before ends at {end}",
                    named(offsets)
                )));
            }
            end =
                place.checked_add(size).ok_or_else(|| format!("{}: no such size", named(lens)))?;
        }
        Ok(len.filter(|len| *len != end).map(|len| {
            format!("{}: the last one ends at {end}, and the file at {len}", named(offsets))
        }))
    }
}

/// Whether it says where strips lie, or how long they are.
fn is_list(tag: Tag) -> bool {
    use Tag::{StripByteCounts, StripOffsets, TileByteCounts, TileOffsets};
    [StripOffsets, StripByteCounts, TileOffsets, TileByteCounts].contains(&tag)
}

/// The directory of an image.
fn read<R: Read + Seek>(decoder: &mut Decoder<R>) -> Result<Directory, String> {
    let at = decoder.ifd_pointer().ok_or_else(|| "it has no directory".to_owned())?;
    decoder.read_directory(at).map_err(told)
}

/// A tag's name and number.
fn named(tag: Tag) -> String {
    match tag {
        Tag::Unknown(GDAL_METADATA) => format!("GDAL_METADATA ({GDAL_METADATA})"),
        Tag::Unknown(number) => format!("tag {number}"),
        tag => format!("{tag:?} ({})", tag.to_u16()),
    }
}

/// A value for a message.
fn of_value(value: &Value) -> String {
    match value {
        Value::Byte(x) => x.to_string(),
        Value::Short(x) => x.to_string(),
        Value::Unsigned(x) => x.to_string(),
        Value::UnsignedBig(x) => x.to_string(),
        Value::Ascii(text) => shown(&format!("{text:?}")),
        value => shown(&format!("{value:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{EncodingText, Packed};

    const SIZE: (u64, u64) = (19, 18);
    const NUMBERS: Numbers = (Some((0.0, 341.0)), 0, 0);

    fn encoding(words: &[(&'static str, &'static str)]) -> Encoding {
        let mut text = EncodingText::default();
        assert!(words.iter().all(|(name, word)| text.set(name, word)));
        text.read().unwrap()
    }

    /// An image's file.
    fn file(encoding: &Encoding) -> Vec<u8> {
        let (tensor, axes, rule) = ("t", &[4][..], Rule::default());
        let how = (&rule, Scope::Image);
        let subject = Subject { size: SIZE, tensor, axes, dtype: Dtype::F32, how, encoding };
        let header = Header::new(&subject).unwrap();
        let extent = Extent::of(0.0).merge(Extent::of(341.0));
        let mut file = Vec::new();
        header.write(&[2], &extent, &Range::of(&rule, &extent.into(), false), &mut file);
        // What strips unpack to is not asked for here.
        let strips = header.strips().1;
        let each = Strips::new(SIZE, encoding).unwrap().each;
        let lens: Vec<u64> = (0..strips)
            .map(|at| if encoding.compress == Compress::None { each } else { 30 + at })
            .collect();
        let end = file.len() as u64 + lens.iter().sum::<u64>();
        header.write_packed(&Packed { lens, is_predicted: true }, &mut file);
        file.resize(usize::try_from(end).unwrap(), 7);
        file
    }

    /// Where a tag's entry begins in a classic file.
    fn entry(file: &[u8], tag: u16) -> usize {
        let entries = (0..20).map(|at| 10 + 12 * at);
        entries.into_iter().find(|&at| file[at..at + 2] == tag.to_le_bytes()).unwrap()
    }

    /// As `verify` looks at a file, but for its text.
    fn told(tags: &Tags, file: &[u8]) -> Result<Vec<String>, String> {
        let mut image = Decoded::open(Cursor::new(file))?;
        let (width, height) = SIZE;
        if image.shape() != [height, width] {
            return Ok(vec![format!("{:?}", image.shape())]);
        }
        let found = tags.differences(&mut image, NUMBERS, Some(file.len() as u64))?;
        let _ = image.description()?;
        Ok(found)
    }

    /// The bytes that say something: those of the file's header and of the directory, but for what follows
    /// a value in its entry, and for an image's own; of lists, the software, and GDAL's text.
    fn counting(file: &[u8]) -> Vec<usize> {
        let number = |at: usize, width: usize| {
            let mut bytes = [0; 8];
            bytes[..width].copy_from_slice(&file[at..at + width]);
            usize::try_from(u64::from_le_bytes(bytes)).unwrap()
        };
        let is_big = file[2] == 43;
        let (head, entry, width) = if is_big { (24, 20, 8) } else { (10, 12, 4) };
        let entries = number(head - if is_big { 8 } else { 2 }, if is_big { 8 } else { 2 });
        let mut counting: Vec<usize> = (0..head).collect();
        for at in (0..entries).map(|at| head + entry * at) {
            let value = at + 4 + width;
            counting.extend(at..value);
            let size = match number(at + 2, 2) {
                2 => 1,
                3 => 2,
                4 | 11 => 4,
                16 => 8,
                other => panic!("type {other}"),
            };
            let bytes = size * number(at + 4, width);
            match number(at, 2) {
                340 | 341 => {}
                270 => counting.extend(value..value + width),
                _ if bytes <= width => counting.extend(value..value + bytes),
                _ => {
                    counting.extend(value..value + width);
                    let place = number(value, width);
                    counting.extend(place..place + bytes);
                }
            }
        }
        let end = head + entry * entries;
        counting.extend(end..end + width);
        counting
    }

    #[test]
    fn every_bit_counts() {
        let words: [&[(&str, &str)]; 8] = [
            &[],
            &[("bigtiff", "yes")],
            &[("bigtiff", "no")],
            &[("compress", "deflate")],
            &[("compress", "zstd"), ("predictor", "float"), ("tile", "16")],
            &[("tile", "16"), ("bigtiff", "yes")],
            &[("profile", "gis")],
            &[("profile", "archive"), ("bigtiff", "yes"), ("tile", "16")],
        ];
        for words in words {
            let encoding = encoding(words);
            let tags = Tags::new(Rule::default(), Scope::Image, encoding);
            let whole = file(&encoding);
            assert_eq!(told(&tags, &whole), Ok(Vec::new()), "{words:?}");
            let mut missed = Vec::new();
            for at in counting(&whole) {
                for bit in 0..8 {
                    let mut other = whole.clone();
                    other[at] ^= 1 << bit;
                    if told(&tags, &other) == Ok(Vec::new()) {
                        missed.push((at, bit));
                    }
                }
            }
            assert_eq!(missed, [], "{words:?}");
        }
    }

    #[test]
    fn differences_are_in_words() {
        let default = encoding(&[]);
        let tags = Tags::new(Rule::default(), Scope::Image, default);
        let change = |with: &dyn Fn(&mut Vec<u8>)| {
            let mut file = file(&default);
            with(&mut file);
            told(&tags, &file).unwrap().join("; ")
        };
        assert_eq!(
            change(&|file| {
                let at = entry(file, 278);
                file[at + 8] = 200;
            }),
            "RowsPerStrip (278) is 200, and ought to be 18"
        );
        assert_eq!(
            change(&|file| {
                let at = entry(file, 256);
                file[at + 2] = 3;
            }),
            "ImageWidth (256) has 1 of type SHORT, and ought to have 1 of type LONG"
        );
        assert_eq!(
            change(&|file| {
                let at = entry(file, 305);
                file[at..at + 2].copy_from_slice(&315_u16.to_le_bytes());
            }),
            "Software (305) is missing; Artist (315) is there, which no image of the run has"
        );
        let big = encoding(&[("bigtiff", "yes")]);
        let found = told(&tags, &file(&big)).unwrap();
        assert_eq!(found, Vec::<String>::new(), "of --bigtiff auto either may be");
        let found = told(&Tags::new(Rule::default(), Scope::Image, big), &file(&default));
        assert_eq!(found.unwrap(), ["it is a classic TIFF, and the run's files are none"]);
        let found = told(&tags, &file(&encoding(&[("tile", "16")])));
        assert_eq!(found.unwrap(), ["StripOffsets (273) has 0 values, and ought to have 1"]);
    }

    /// A list that a file does not have is not made, however large the image says it is.
    #[test]
    fn nothing_large_is_made_for_what_is_not_there() {
        let packed = encoding(&[("compress", "zstd")]);
        let tags = Tags::new(Rule::default(), Scope::Image, packed);
        let mut file = file(&packed);
        for tag in [257, 278] {
            let value = entry(&file, tag) + 8;
            file[value..value + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        }
        let mut image = Decoded::open(Cursor::new(&file)).unwrap();
        let found = tags.differences(&mut image, NUMBERS, None).unwrap();
        assert!(found[0].contains("(273) has 1 values, and ought to have"), "{found:?}");
    }
}
