//! Layout and bytes of everything before the pixels.

use std::io::Cursor;

use tiff::decoder::ifd::Entry;
use tiff::encoder::{TiffEncoder, TiffKind};
use tiff::tags::{Tag, Type};
use tiff::{Directory, TiffResult};

use super::description::{Description, Display, Numbers, Shown};
use super::encoding::{BigTiff, Compress, Encoding, Predictor, Profile};
use super::gdal;
use super::strips::Strips;
use crate::normalize::{Extent, Range, Rule, Scope};
use crate::tensor::Dtype;

/// Pixels begin at a multiple of this; of less in images so small that the header counts.
pub(super) const ALIGN: u64 = 512;
pub(super) const SMALL: u64 = 64 << 10;
pub(super) const SMALL_ALIGN: u64 = 64;
/// What a page of a stack begins at a multiple of, whose pixels lie elsewhere.
const PAGE_ALIGN: u64 = 16;
const SOFTWARE: &[u8] = b"tensortiff\0";
/// The tag of GDAL's metadata.
pub(super) const GDAL_METADATA: u16 = 42112;
/// Values of tag 317.
const NONE: u8 = 1;
const FLOAT: u8 = 3;

/// Everything before the pixels, for all images of one tensor.
#[derive(Debug, Clone)]
pub struct Header {
    /// The bytes up to the pixels, with zeros where an image's own numbers go.
    bytes: Vec<u8>,
    kind: Kind,
    description: Description,
    /// Where the count of tag 270, the text itself, and the values of tags 340 and 341 stand.
    text_count: usize,
    text: usize,
    display: [usize; 2],
    strips: Strips,
    /// Most bytes of a file.
    most: u64,
    /// Of packed strips: where their offsets and their lengths stand, and the value of tag 317, if that
    /// is there.
    packed: Option<([usize; 2], Option<usize>)>,
    /// Where GDAL's text stands, if that is there, and which samples share a range.
    gdal: Option<usize>,
    scope: Scope,
    moved: Moved,
}

/// What changes where a directory lies elsewhere, as those of a stack's pages do.
#[derive(Debug, Clone)]
struct Moved {
    /// Where offsets stand of what lies with the directory.
    own: Vec<usize>,
    /// Where the offsets of strips stand.
    strips: usize,
    /// Where the offset of the next directory stands.
    next: usize,
}

/// The packed strips of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    /// Bytes of each. They lie one after another behind the header.
    pub lens: Vec<u64>,
    /// Whether the predictor was used.
    pub is_predicted: bool,
}

/// How wide offsets and counts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Classic,
    Big,
}

impl Kind {
    /// Bytes of the file header; of an entry; of an offset, and of what stands in an entry itself.
    pub(super) fn sizes(self) -> [u64; 3] {
        match self {
            Kind::Classic => [8, 12, 4],
            Kind::Big => [16, 20, 8],
        }
    }

    /// Bytes of the file header and a directory.
    fn directory(self, entries: u64) -> u64 {
        let [file, entry, offset] = self.sizes();
        let count = if self == Kind::Classic { 2 } else { 8 };
        file + count + entries * entry + offset
    }

    /// Where in the file the entry of that place begins.
    fn entry(self, at: usize) -> usize {
        match self {
            Kind::Classic => 10 + 12 * at,
            Kind::Big => 24 + 20 * at,
        }
    }

    /// Bytes of an offset.
    fn offset_width(self) -> usize {
        if self == Kind::Classic { 4 } else { 8 }
    }

    /// The type of offsets and lengths of strips.
    fn long(self) -> Type {
        if self == Kind::Classic { Type::LONG } else { Type::LONG8 }
    }
}

/// What a header is of: images of one tensor.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Width and height in pixels.
    pub size: (u64, u64),
    /// The tensor's name, and its axes before the image's.
    pub tensor: &'a str,
    /// See `tensor`.
    pub axes: &'a [u64],
    /// What the tensor is of.
    pub dtype: Dtype,
    /// How pixels are made.
    pub how: (&'a Rule, Scope),
    /// How files are.
    pub encoding: &'a Encoding,
}

impl Header {
    /// Lays it out.
    ///
    /// # Errors
    /// Says so if an image does not fit the file that was asked for.
    pub fn new(subject: &Subject<'_>) -> Result<Header, String> {
        let description = Description::new(subject.tensor, subject.dtype, subject.how);
        Ok(Layout::of(subject, &description)?.header(description))
    }

    /// Most bytes of a file with such a header, and all of them where strips are not packed: all that
    /// planning asks for.
    ///
    /// # Errors
    /// As [`new`](Header::new).
    pub fn most_of(subject: &Subject<'_>) -> Result<u64, String> {
        let description = Description::new(subject.tensor, subject.dtype, subject.how);
        Layout::of(subject, &description).map(|layout| layout.most)
    }

    /// Most bytes of a file, and all of them where strips are not packed.
    #[must_use]
    pub fn most(&self) -> u64 {
        self.most
    }

    /// Rows of a strip, and how many strips there are.
    #[must_use]
    pub fn strips(&self) -> (u64, u64) {
        (self.strips.rows, self.strips.count)
    }

    /// Length in bytes, which is where the pixels begin.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a header is never empty")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The header of the image at `index` whose samples showed `extent` and became pixels by
    /// `range`, written to `out` in place of what was there.
    pub fn write(&self, index: &[u64], extent: &Extent, range: &Range, out: &mut Vec<u8>) {
        let rule = &self.description.rule;
        let display = Display::of(rule, extent, range);
        self.begin(display, out);
        if self.gdal.is_some() {
            self.write_gdal(Description::numbers(rule, extent, range), display, out);
        }
        self.description.write(index, extent, range, out);
        self.end(out);
    }

    /// The same of a stack's first page, of which ImageJ takes the display range for all.
    pub fn write_first(
        &self,
        index: &[u64],
        extent: &Extent,
        range: &Range,
        shown: &Shown,
        out: &mut Vec<u8>,
    ) {
        self.begin(Display::of(&self.description.rule, extent, range), out);
        self.description.write_shown(index, extent, range, shown, out);
        self.end(out);
    }

    /// Makes of what [`write`](Header::write) gave a page's directory and what lies with it, which begins at
    /// byte `at` of a stack's file; its pixels lie at `pixels`, the next page's directory at `next`, or at
    /// 0 where there is none. Only the first page has the file's header, so that `at` is 0 there.
    pub(super) fn place<'b>(&self, [at, pixels, next]: [u64; 3], out: &'b mut [u8]) -> &'b [u8] {
        let [file, ..] = self.kind.sizes();
        let width = self.kind.offset_width();
        // As if the file began so much before the directory.
        let (begin, shift) = if at == 0 { (0, 0) } else { (file, at - file) };
        let mut set = |at: usize, value: u64| {
            out[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        };
        let number = |bytes: &[u8], at: usize| {
            let mut number = [0; 8];
            number[..width].copy_from_slice(&bytes[at..at + width]);
            u64::from_le_bytes(number)
        };
        for &field in &self.moved.own {
            set(field, number(&self.bytes, field) + shift);
        }
        for strip in 0..self.strips.count {
            let place = self.moved.strips + usize::try_from(strip).expect("a list fits") * width;
            set(place, pixels + strip * self.strips.each);
        }
        set(self.moved.next, next);
        &out[usize::try_from(begin).expect("a file's header is short")..]
    }

    /// Fills in GDAL's text, if that is there.
    fn write_gdal(&self, numbers: Numbers, display: Display, out: &mut [u8]) {
        let Some(at) = self.gdal else { return };
        let mut text = Vec::with_capacity(gdal::LEN);
        gdal::write(&self.description.rule, self.scope, numbers, display, &mut text);
        out[at..at + gdal::LEN].copy_from_slice(&text);
    }

    /// Whether `bytes` are the header of the image at `index`, of which these are the numbers of its
    /// range, of NaN and of infinite pixels, and its strips where they are packed. The display range is
    /// what they say, twice.
    #[must_use]
    pub fn is_of(
        &self,
        bytes: &[u8],
        index: &[u64],
        numbers: Option<(f64, f64)>,
        [nan, inf]: [u64; 2],
        packed: Option<&Packed>,
    ) -> bool {
        let value = |at: usize| {
            let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map(f32::from_le_bytes)
        };
        let [Some(min), Some(max)] = self.display.map(value) else { return false };
        let mut whole = Vec::new();
        self.begin(Display { min, max }, &mut whole);
        let numbers: Numbers = (numbers, nan, inf);
        self.write_gdal(numbers, Display { min, max }, &mut whole);
        self.description.write_numbers(index, Display { min, max }, numbers, &mut whole);
        // Numbers that are damaged may be too long for it.
        if whole.len() > self.bytes.len() {
            return false;
        }
        self.end(&mut whole);
        if let Some(packed) = packed {
            self.write_packed(packed, &mut whole);
        }
        whole == bytes
    }

    /// Fills in where packed strips lie, in a header that was written.
    pub fn write_packed(&self, packed: &Packed, out: &mut [u8]) {
        let Some(([offsets, lens], predictor)) = self.packed else { return };
        assert_eq!(packed.lens.len() as u64, self.strips.count, "each strip is there");
        let width = self.kind.offset_width();
        let mut offset = self.bytes.len() as u64;
        for (at, &len) in packed.lens.iter().enumerate() {
            for (list, value) in [(offsets, offset), (lens, len)] {
                let place = list + at * width;
                // What does not fit was refused: the upper bound does.
                out[place..place + width].copy_from_slice(&value.to_le_bytes()[..width]);
            }
            offset += len;
        }
        if let Some(at) = predictor {
            out[at] = if packed.is_predicted { FLOAT } else { NONE };
        }
    }

    /// All before the text.
    fn begin(&self, display: Display, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.bytes[..self.text]);
        for (at, value) in self.display.into_iter().zip([display.min, display.max]) {
            out[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
    }

    /// What follows the text.
    fn end(&self, out: &mut Vec<u8>) {
        let count = u32::try_from(out.len() - self.text).expect("a description is short");
        // Of a BigTIFF's 64 bits the upper half is 0.
        out[self.text_count..self.text_count + 4].copy_from_slice(&count.to_le_bytes());
        assert!(out.len() <= self.bytes.len(), "the room kept for the description suffices");
        out.resize(self.bytes.len(), 0);
    }

    /// Whether it is a BigTIFF's.
    #[must_use]
    pub fn is_big(&self) -> bool {
        self.kind == Kind::Big
    }
}

/// Where everything stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    kind: Kind,
    width: u32,
    height: u32,
    encoding: Encoding,
    strips: Strips,
    /// Bytes of a list of strips: none where there is one, which stands in the directory itself.
    list: u64,
    software: u64,
    gdal: Option<u64>,
    offsets: u64,
    counts: u64,
    text: u64,
    start: u64,
    /// Most bytes of the file.
    most: u64,
    scope: Scope,
}

impl Layout {
    /// Of a page of a stack, and its text, as if its pixels followed; of the first one of so many where that
    /// is said. `None`: it does not fit such a file.
    pub(super) fn of_page(
        kind: Kind,
        subject: &Subject<'_>,
        strips: Strips,
        first_of: Option<u64>,
    ) -> Option<(Layout, Description)> {
        let description = Description::new(subject.tensor, subject.dtype, subject.how);
        let description = match first_of {
            Some(pages) if pages > 1 => description.of_first(pages),
            _ => description,
        };
        let layout = Layout::aligned(kind, subject, strips, &description, PAGE_ALIGN)?;
        Some((layout, description))
    }

    /// Where the pixels begin.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    fn of(subject: &Subject<'_>, description: &Description) -> Result<Layout, String> {
        let (width, height) = subject.size;
        let image = || format!("an image of {width}×{height} float pixels");
        let strips = Strips::new(subject.size, subject.encoding);
        let strips = strips.map_err(|problem| match problem {
            Some(problem) => format!("{} {problem}", image()),
            None => format!("{} does not fit any TIFF file", image()),
        })?;
        let of = |kind| Layout::of_kind(kind, subject, strips, description);
        let found = match subject.encoding.bigtiff {
            BigTiff::Yes => of(Kind::Big),
            BigTiff::Auto => of(Kind::Classic).or_else(|| of(Kind::Big)),
            BigTiff::No => {
                return of(Kind::Classic).ok_or_else(|| {
                    format!(
                        "{} does not fit a classic TIFF file, which ends at 4 GiB, and --bigtiff \
                         no allows no other",
                        image()
                    )
                });
            }
        };
        found.ok_or_else(|| format!("{} does not fit any TIFF file", image()))
    }

    fn of_kind(
        kind: Kind,
        subject: &Subject<'_>,
        strips: Strips,
        description: &Description,
    ) -> Option<Layout> {
        // Where packed pixels begin matters to nobody.
        let small = strips.pixels < SMALL || strips.are_packed;
        let align = if small { SMALL_ALIGN } else { ALIGN };
        Layout::aligned(kind, subject, strips, description, align)
    }

    /// The same, with pixels from a multiple of `align` on.
    fn aligned(
        kind: Kind,
        subject: &Subject<'_>,
        strips: Strips,
        description: &Description,
        align: u64,
    ) -> Option<Layout> {
        let (width, height) = subject.size;
        let [_, _, offset] = kind.sizes();
        let list = if strips.count > 1 { strips.count.checked_mul(offset)? } else { 0 };
        let is_gdal = subject.encoding.profile == Profile::Gis;
        let has_predictor = subject.encoding.predictor != Predictor::None;
        let more = [has_predictor, strips.tile.is_some(), is_gdal, is_gdal];
        let software = kind.directory(14 + more.map(u64::from).iter().sum::<u64>());
        let offsets = (software + SOFTWARE.len() as u64).next_multiple_of(2);
        let gdal = is_gdal.then_some(offsets);
        let offsets = offsets + gdal.map_or(0, |_| gdal::LEN as u64);
        let counts = offsets.checked_add(list)?;
        let text = counts.checked_add(list)?;
        let longest = description.longest(subject.axes, strips.pixels / 4);
        let longest = u64::try_from(longest).ok()?;
        let start = text.checked_add(longest)?.checked_next_multiple_of(align)?;
        let most = start.checked_add(strips.most()?)?;
        usize::try_from(start).ok()?;
        if kind == Kind::Classic && u32::try_from(most).is_err() {
            return None;
        }
        let (width, height) = (u32::try_from(width).ok()?, u32::try_from(height).ok()?);
        let encoding = *subject.encoding;
        Some(Layout {
            kind,
            width,
            height,
            encoding,
            strips,
            list,
            software,
            gdal,
            offsets,
            counts,
            text,
            start,
            most,
            scope: subject.how.1,
        })
    }

    /// The bytes. All that is laid out lies below the file's end, which fits; so does every count.
    pub(super) fn header(self, description: Description) -> Header {
        let Layout { kind, strips, .. } = self;
        let [_, _, offset] = kind.sizes();
        let value = |type_, value: u64| Entry::new_u64(type_, 1, value.to_le_bytes());
        let at =
            |type_, count: u64, offset: u64| Entry::new_u64(type_, count, offset.to_le_bytes());
        let listed = |first: u64, list_at: u64| match self.list {
            0 => value(kind.long(), first),
            _ => at(kind.long(), strips.count, list_at),
        };
        let compression = match self.encoding.compress {
            Compress::None => 1,
            Compress::Deflate(_) => 8,
            Compress::Zstd(_) => 50_000,
        };
        let mut entries = vec![
            (Tag::ImageWidth, value(Type::LONG, self.width.into())),
            (Tag::ImageLength, value(Type::LONG, self.height.into())),
            (Tag::BitsPerSample, value(Type::SHORT, 32)),
            (Tag::Compression, value(Type::SHORT, compression)),
            (Tag::PhotometricInterpretation, value(Type::SHORT, 1)),
            (Tag::ImageDescription, at(Type::ASCII, 0, self.text)),
            (Tag::SamplesPerPixel, value(Type::SHORT, 1)),
            (Tag::Software, at(Type::ASCII, SOFTWARE.len() as u64, self.software)),
            (Tag::SampleFormat, value(Type::SHORT, 3)),
            (Tag::SMinSampleValue, value(Type::FLOAT, 0)),
            (Tag::SMaxSampleValue, value(Type::FLOAT, 0)),
        ];
        let lists = [listed(self.start, self.offsets), listed(strips.pixels, self.counts)];
        let [offsets, counts] = lists;
        let list_tags = match strips.tile {
            None => {
                entries.push((Tag::RowsPerStrip, value(Type::LONG, strips.rows)));
                [Tag::StripOffsets, Tag::StripByteCounts]
            }
            Some([width, height]) => {
                entries.push((Tag::TileWidth, value(Type::LONG, width.into())));
                entries.push((Tag::TileLength, value(Type::LONG, height.into())));
                [Tag::TileOffsets, Tag::TileByteCounts]
            }
        };
        entries.extend(list_tags.into_iter().zip([offsets, counts]));
        if self.encoding.predictor != Predictor::None {
            entries.push((Tag::Predictor, value(Type::SHORT, NONE.into())));
        }
        if let Some(text) = self.gdal {
            let nodata: u64 = u32::from_le_bytes(gdal::NODATA).into();
            let len = gdal::NODATA.len() as u64;
            entries.push((Tag::Unknown(GDAL_METADATA), at(Type::ASCII, gdal::LEN as u64, text)));
            entries.push((Tag::GdalNodata, at(Type::ASCII, len, nodata)));
        }
        entries.sort_by_key(|(tag, _)| tag.to_u16());
        let tags: Vec<Tag> = entries.iter().map(|(tag, _)| *tag).collect();
        let mut bytes = directory(kind, entries);
        debug_assert_eq!(bytes.len() as u64, self.software, "as long as laid out");
        let index = |at: u64| usize::try_from(at).expect("below the start, which fits");
        bytes.extend_from_slice(SOFTWARE);
        bytes.resize(index(self.offsets), 0);
        if self.list > 0 && !strips.are_packed {
            let strip_at = |i: u64| self.start + i * strips.each;
            let lens = (0..strips.count).map(|strip| strips.len(strip));
            for number in (0..strips.count).map(strip_at).chain(lens) {
                bytes.extend_from_slice(&number.to_le_bytes()[..index(offset)]);
            }
        }
        bytes.resize(index(self.start), 0);
        let place = |tag: Tag| tags.iter().position(|&t| t == tag);
        let field = |tag: Tag| kind.entry(place(tag).unwrap_or(0));
        let inline = if kind == Kind::Classic { 8 } else { 12 };
        let listed_at = |tag: Tag, list_at: u64| match self.list {
            0 => field(tag) + inline,
            _ => index(list_at),
        };
        let packed = strips.are_packed.then(|| {
            let lists =
                [listed_at(list_tags[0], self.offsets), listed_at(list_tags[1], self.counts)];
            (lists, place(Tag::Predictor).map(|at| kind.entry(at) + inline))
        });
        let mut own = vec![field(Tag::ImageDescription) + inline, field(Tag::Software) + inline];
        if self.list > 0 {
            own.extend(list_tags.map(|tag| field(tag) + inline));
        }
        let moved = Moved {
            own,
            strips: listed_at(list_tags[0], self.offsets),
            next: index(kind.directory(tags.len() as u64)) - kind.offset_width(),
        };
        Header {
            bytes,
            kind,
            description,
            text_count: field(Tag::ImageDescription) + 4,
            text: index(self.text),
            display: [Tag::SMinSampleValue, Tag::SMaxSampleValue].map(|tag| field(tag) + inline),
            strips,
            most: self.most,
            packed,
            gdal: self.gdal.map(index),
            scope: self.scope,
            moved,
        }
    }
}

/// The file header and the directory, as the `tiff` crate writes them.
fn directory(kind: Kind, entries: Vec<(Tag, Entry)>) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    let directory: Directory = entries.into_iter().collect();
    match kind {
        Kind::Classic => write(TiffEncoder::new(&mut file), &directory),
        Kind::Big => write(TiffEncoder::new_big(&mut file), &directory),
    }
    .expect("memory takes everything, and all numbers fit");
    file.into_inner()
}

fn write<K: TiffKind>(
    encoder: TiffResult<TiffEncoder<&mut Cursor<Vec<u8>>, K>>,
    directory: &Directory,
) -> TiffResult<()> {
    let mut encoder = encoder?;
    let mut writer = encoder.image_directory()?;
    writer.extend_from(directory);
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalize::Kept;
    use crate::normalize::Norm;
    use tiff::decoder::ifd::Value;
    use tiff::decoder::{Decoder, DecodingResult, Limits};

    use crate::encode::Profile;

    const DEFAULT: Encoding = Encoding {
        profile: Profile::Fiji,
        bigtiff: BigTiff::Auto,
        compress: Compress::None,
        predictor: Predictor::None,
        tile: None,
    };

    fn subject<'a>(size: (u64, u64), rule: &'a Rule, encoding: &'a Encoding) -> Subject<'a> {
        let how = (rule, Scope::Image);
        Subject { size, tensor: "a.b", axes: &[12, 3], dtype: Dtype::F32, how, encoding }
    }

    fn file(width: u64, height: u64, samples: &[f32], norm: Norm) -> Vec<u8> {
        let rule = Rule::from(norm);
        let subject = subject((width, height), &rule, &DEFAULT);
        let header = Header::new(&subject).unwrap();
        assert_eq!(Header::most_of(&subject), Ok(header.len() as u64 + 4 * width * height));
        let extent = samples.iter().fold(Extent::EMPTY, |e, &x| e.merge(Extent::of(f64::from(x))));
        let mut file = Vec::new();
        header.write(&[7, 2], &extent, &Range::of(&rule, &extent.into(), false), &mut file);
        assert_eq!(file.len(), header.len());
        file.extend(samples.iter().flat_map(|x| x.to_le_bytes()));
        file
    }

    #[test]
    fn the_whole_tag_list_is_the_default_profile() {
        let samples = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let mut decoder = Decoder::new(Cursor::new(file(3, 2, &samples, Norm::None))).unwrap();
        assert_eq!(decoder.ifd_pointer().map(|p| p.0), Some(8));
        let tags: Vec<(u16, Value)> =
            decoder.tag_iter().map(|e| e.map(|(t, v)| (t.to_u16(), v)).unwrap()).collect();
        let text = "ImageJ=1.54f\nmin=1.0\nmax=6.0\ntensortiff={\"v\":1,\"tensor\":\"a.b\",\"index\":[7,2],\
                    \"dtype\":\"F32\",\"norm\":\"none\",\"scope\":\"image\",\"lo\":1.0,\"hi\":6.0,\"nan\":0,\"inf\":0}\n";
        let expected = vec![
            (256, Value::Unsigned(3)),
            (257, Value::Unsigned(2)),
            (258, Value::Short(32)),
            (259, Value::Short(1)),
            (262, Value::Short(1)),
            (270, Value::Ascii(text.to_owned())),
            (273, Value::Unsigned(448)),
            (277, Value::Short(1)),
            (278, Value::Unsigned(2)),
            (279, Value::Unsigned(24)),
            (305, Value::Ascii("tensortiff".to_owned())),
            (339, Value::Short(3)),
            (340, Value::Float(1.0)),
            (341, Value::Float(6.0)),
        ];
        assert_eq!(tags, expected);
    }

    /// Tag by tag the classic file's, but for where things lie.
    #[test]
    fn a_bigtiff_differs_in_offsets_alone() {
        let rule = Rule::default();
        for (width, height) in [(3, 2), (4096, 4097)] {
            let tags = |bigtiff: BigTiff| {
                let encoding = Encoding { bigtiff, ..DEFAULT };
                let subject = subject((width, height), &rule, &encoding);
                let header = Header::new(&subject);
                let mut file = Vec::new();
                let extent = Extent::of(3.0).merge(Extent::of(-1.5));
                let range = Range::of(&rule, &extent.into(), false);
                header.unwrap().write(&[7, 2], &extent, &range, &mut file);
                let mut decoder = Decoder::new(Cursor::new(&file)).unwrap();
                let pointer = decoder.ifd_pointer().map(|pointer| pointer.0);
                let tags: Vec<(u16, Value)> =
                    decoder.tag_iter().map(|e| e.map(|(t, v)| (t.to_u16(), v)).unwrap()).collect();
                let [offsets, counts] = [Tag::StripOffsets, Tag::StripByteCounts]
                    .map(|tag| decoder.get_tag_u64_vec(tag).unwrap());
                assert_eq!(offsets[0], file.len() as u64);
                assert!(offsets.windows(2).zip(&counts).all(|(at, len)| at[0] + len == at[1]));
                let tags: Vec<_> =
                    tags.into_iter().filter(|(tag, _)| ![273, 279].contains(tag)).collect();
                (file[..4].to_vec(), pointer, tags, counts)
            };
            let (classic, big) = (tags(BigTiff::No), tags(BigTiff::Yes));
            assert_eq!(classic.0, [b'I', b'I', 42, 0]);
            assert_eq!(big.0, [b'I', b'I', 43, 0]);
            assert_eq!((classic.1, big.1), (Some(8), Some(16)));
            assert_eq!((classic.2, classic.3), (big.2, big.3));
        }
    }

    #[test]
    fn pixels_come_back() {
        let samples: Vec<f32> = (0..35_u8).map(f32::from).collect();
        let mut decoder = Decoder::new(Cursor::new(file(7, 5, &samples, Norm::None))).unwrap();
        let DecodingResult::F32(pixels) = decoder.read_image().unwrap() else {
            panic!("not f32");
        };
        assert_eq!(pixels, samples);
    }

    /// Up to 64 MiB, whatever its shape; a pixel row more, and strips are of 16 MiB at most.
    #[test]
    fn an_image_of_64_mib_is_one_strip_and_one_row_more_is_not() {
        for (width, height) in [(4096, 4096), (1, 1 << 24), (1 << 24, 1), (5793, 2896)] {
            let strips = |height: u64| {
                let rule = Rule::default();
                let subject = Subject { axes: &[], ..subject((width, height), &rule, &DEFAULT) };
                let header = Header::new(&subject).unwrap();
                let mut file = Vec::new();
                header.write(&[], &Extent::EMPTY, &Range::Keep(Kept::Asked), &mut file);
                let mut decoder =
                    Decoder::new(Cursor::new(file)).unwrap().with_limits(Limits::unlimited());
                decoder.get_tag_u64_vec(Tag::StripByteCounts).unwrap()
            };
            assert!(4 * width * height <= 64 << 20 && 4 * width * (height + 1) > 64 << 20);
            assert_eq!(strips(height), [4 * width * height], "{width}×{height}");
            let more = strips(height + 1);
            assert!(more.len() >= 2, "{width}×{}: {} strips", height + 1, more.len());
            assert_eq!(more.iter().sum::<u64>(), 4 * width * (height + 1));
            let most = (16 << 20).max(4 * width);
            assert!(more.iter().all(|&strip| strip <= most && strip % (4 * width) == 0));
        }
    }

    #[test]
    fn large_images_have_strips_that_join() {
        // One row over 64 MiB.
        let (width, height) = (4096, 4097);
        let samples: Vec<f32> = (0..width * height).map(|i| (i % 8191) as f32).collect();
        let bytes = file(width, height, &samples, Norm::MinMax);
        let end = bytes.len() as u64;
        let mut decoder =
            Decoder::new(Cursor::new(bytes)).unwrap().with_limits(Limits::unlimited());
        assert_eq!(decoder.strip_count().unwrap(), 5);
        let offsets = decoder.get_tag_u64_vec(Tag::StripOffsets).unwrap();
        let counts = decoder.get_tag_u64_vec(Tag::StripByteCounts).unwrap();
        let ends: Vec<u64> = offsets.iter().zip(&counts).map(|(at, len)| at + len).collect();
        assert_eq!(&ends[..4], &offsets[1..], "each strip ends where the next begins");
        assert_eq!(ends[4], end, "the last one ends with the file");
        let DecodingResult::F32(pixels) = decoder.read_image().unwrap() else {
            panic!("not f32");
        };
        assert!(pixels == samples, "the strips are not the pixels in order");
    }

    #[test]
    fn an_image_beyond_32_bit_offsets_is_a_bigtiff_or_refused() {
        let rule = Rule::default();
        let new = |bigtiff, w, h| {
            let encoding = &Encoding { bigtiff, ..DEFAULT };
            let header = Header::new(&Subject { axes: &[], ..subject((w, h), &rule, encoding) });
            header.map(|header| header.is_big())
        };
        for (bigtiff, small, large) in [
            (BigTiff::Auto, Some(false), Some(true)),
            (BigTiff::Yes, Some(true), Some(true)),
            (BigTiff::No, Some(false), None),
        ] {
            assert_eq!(new(bigtiff, 1 << 15, (1 << 15) - 1).ok(), small, "{bigtiff:?}");
            assert_eq!(new(bigtiff, 1 << 15, 1 << 15).ok(), large, "{bigtiff:?}");
            assert!(new(bigtiff, u64::MAX, 2).is_err() && new(bigtiff, 1 << 33, 1).is_err());
        }
        // The header counts: with two lists of 256 strips it takes more than 2 KiB.
        let all = (1_u64 << 32) / 4;
        assert_eq!(new(BigTiff::Auto, 1, all - 500).ok(), Some(true));
        assert_eq!(new(BigTiff::Auto, 1, all - (1 << 15)).ok(), Some(false));
        assert!(new(BigTiff::No, 1 << 15, 1 << 15).unwrap_err().contains("--bigtiff no"));
    }
}
