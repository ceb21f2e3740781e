//! A TIFF file read back as a reader would: by the `tiff` crate's decoder, and not by what this program
//! knows of its own headers.
//!
//! The decoder reads tags, and says where strips lie; those that are stored as pixels are in memory are read from
//! there, in pieces of any size, and all others by it. Pages are shown to it one by one, as it remembers
//! all that it passes.
//!
//! What a file says may be anything: nothing is allocated by it beyond [`LARGEST_CHUNK`], and the lists of strips, which
//! are in the file, and of which there are no more than [`MOST_STRIPS`].

use std::io::{BufReader, Read, Seek, SeekFrom};

use tiff::decoder::{ChunkType, Decoder, Limits};
use tiff::tags::{ByteOrder, Tag};
use tiff::{ColorType, TiffError};

use super::paged::{Pages, Shown};
use super::streams::Streams;
use crate::error::shown_problem;

/// Most bytes that the decoder unpacks at once: a strip of the largest image that is written as one.
/// What is stored as it is has no such limit, as it is read in pieces of any size.
const LARGEST_CHUNK: u64 = 64 << 20;
/// Most strips or tiles: the decoder holds the list of them, and more for a moment.
const MOST_STRIPS: u64 = 1 << 20;
/// A header fits, and reading pixels does not begin with much of what is read again.
const BUFFER: usize = 4 << 10;
const FLOAT: u64 = 3;
const NONE: u64 = 1;
const BLACK_IS_ZERO: u64 = 1;

/// An image of one float per pixel in a file.
#[derive(Debug)]
pub struct Decoded<R: Read + Seek> {
    decoder: Decoder<BufReader<Shown<R>>>,
    /// Byte order and version.
    start: [u8; 4],
    width: u64,
    height: u64,
    /// Rows of a strip or a tile, and columns of a tile.
    rows: u64,
    tile: Option<u64>,
    /// Where the strips lie, if they are the pixels as they are in memory.
    plain: Option<Vec<u64>>,
    /// What the pixels are packed in, where that is known.
    streams: Option<Streams>,
    /// The strip, or the row of tiles, that was unpacked last.
    chunk: Option<u64>,
    pixels: Vec<u8>,
    tile_pixels: Vec<u8>,
}

impl<R: Read + Seek> Decoded<R> {
    /// Reads the tags.
    ///
    /// # Errors
    /// Why it is no such image, in one line.
    pub fn open(file: R) -> Result<Decoded<R>, String> {
        Decoded::begin(Shown::whole(file), false)
    }

    /// Opens a page of a file of any number, from 0 on. `pages` is where somebody was before who opened another
    /// one, which is not behind it.
    ///
    /// # Errors
    /// As [`open`](Decoded::open); that there is no such page.
    pub fn open_page(file: R, pages: &mut Pages, page: u64) -> Result<Decoded<R>, String> {
        Decoded::begin(Shown::page(file, pages, page)?, true)
    }

    fn begin(mut file: Shown<R>, is_page: bool) -> Result<Decoded<R>, String> {
        let mut start = [0; 4];
        // Of what is shorter the decoder tells.
        let read = file.read(&mut start).and_then(|_| file.rewind());
        read.map_err(|error| told(error.into()))?;
        if start.starts_with(b"MM") {
            return Err("it is no little-endian TIFF".to_owned());
        }
        // Otherwise the decoder tells what it is not.
        if let Ok(pages) = Pages::begin(&mut file) {
            pages.check_counts(&mut file, MOST_STRIPS)?;
        }
        file.rewind().map_err(|error| told(error.into()))?;
        let decoder = Decoder::new(BufReader::with_capacity(BUFFER, file)).map_err(told)?;
        let mut limits = Limits::default();
        limits.decoding_buffer_size = most();
        limits.intermediate_buffer_size = most();
        let mut decoder = decoder.with_limits(limits);
        let (width, height) = decoder.dimensions().map_err(told)?;
        let mut number = |tag: Tag, otherwise: u64| {
            decoder.find_tag_unsigned::<u64>(tag).map(|found| found.unwrap_or(otherwise))
        };
        let format = number(Tag::SampleFormat, 1).map_err(told)?;
        let shown = number(Tag::PhotometricInterpretation, u64::MAX).map_err(told)?;
        let compression = number(Tag::Compression, NONE).map_err(told)?;
        let predictor = number(Tag::Predictor, NONE).map_err(told)?;
        let kind = decoder.colortype().map_err(told)?;
        if kind != ColorType::Gray(32) || format != FLOAT || shown != BLACK_IS_ZERO {
            return Err(format!(
                "its pixels are no 32-bit floats of which more is brighter, but {kind:?} of sample \
                 format {format}, photometric interpretation {shown}"
            ));
        }
        if !is_page && decoder.more_images() {
            return Err("it holds more than one image".to_owned());
        }
        let (width, height) = (u64::from(width), u64::from(height));
        // Of what follows no product is larger.
        let bytes = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(4));
        if bytes.and_then(|bytes| i64::try_from(bytes).ok()).is_none() {
            return Err(format!("no file holds {height}×{width} pixels"));
        }
        let tile = match decoder.get_chunk_type() {
            ChunkType::Strip => None,
            ChunkType::Tile => Some(u64::from(decoder.chunk_dimensions().0)),
        };
        let rows = u64::from(decoder.chunk_dimensions().1).min(height);
        if rows == 0 || width == 0 {
            return Err("it has no pixels".to_owned());
        }
        let as_in_memory = decoder.byte_order() == ByteOrder::LittleEndian && tile.is_none();
        let plain = match as_in_memory && (compression, predictor) == (NONE, NONE) {
            false => None,
            true => Some(plain(&mut decoder, 4 * width, height, rows)?),
        };
        let streams = Streams::of(&mut decoder, compression, tile.is_some())?;
        let (chunk, pixels, tile_pixels) = Default::default();
        Ok(Decoded {
            decoder,
            start,
            width,
            height,
            rows,
            tile,
            plain,
            streams,
            chunk,
            pixels,
            tile_pixels,
        })
    }

    /// Whether no other directory follows its own.
    #[must_use]
    pub fn is_last(&self) -> bool {
        !self.decoder.more_images()
    }

    pub(super) fn decoder(&mut self) -> &mut Decoder<BufReader<Shown<R>>> {
        &mut self.decoder
    }

    /// The file's first four bytes: byte order and version.
    pub(super) fn start(&self) -> &[u8; 4] {
        &self.start
    }

    /// Where its pixels begin, where they are stored as they are in memory.
    #[must_use]
    pub fn pixels_at(&self) -> Option<u64> {
        self.plain.as_ref().and_then(|places| places.first().copied())
    }

    /// Where what its pixels are packed in begins, where they are packed.
    #[must_use]
    pub fn packed_at(&self) -> Option<u64> {
        self.streams.as_ref().and_then(Streams::begin)
    }

    /// Height and width in pixels.
    #[must_use]
    pub fn shape(&self) -> [u64; 2] {
        [self.height, self.width]
    }

    /// The text of tag 270, without the NUL that ends it.
    ///
    /// # Errors
    /// In one line, where there is none.
    pub fn description(&mut self) -> Result<String, String> {
        let text = self.decoder.get_tag_ascii_string(Tag::ImageDescription).map_err(told)?;
        Ok(text.trim_end_matches('\0').to_owned())
    }

    /// The values of tags 340 and 341, between which a viewer shows pixels.
    ///
    /// # Errors
    /// In one line, where there are none.
    pub fn display(&mut self) -> Result<[f32; 2], String> {
        let min = self.decoder.get_tag_f32(Tag::SMinSampleValue).map_err(told)?;
        let max = self.decoder.get_tag_f32(Tag::SMaxSampleValue).map_err(told)?;
        Ok([min, max])
    }

    /// Fills `buf` with the pixels' bytes, little-endian floats row by row, from byte `offset` of them on.
    ///
    /// # Errors
    /// Why they cannot be read, in one line.
    pub fn read_at(&mut self, mut offset: u64, mut buf: &mut [u8]) -> Result<(), String> {
        let strip = self.rows * 4 * self.width;
        while !buf.is_empty() {
            let chunk = offset / strip;
            let within = offset % strip;
            let height = self.rows.min(self.height.saturating_sub(chunk * self.rows));
            let left = (height * 4 * self.width).saturating_sub(within);
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
            if len == 0 {
                return Err("it has fewer pixels".to_owned());
            }
            let (part, rest) = std::mem::take(&mut buf).split_at_mut(len);
            self.read_of(chunk, height, within, part)?;
            (buf, offset) = (rest, offset + len as u64);
        }
        Ok(())
    }

    /// Calls `see` with all pixels' bytes, in order.
    ///
    /// # Errors
    /// Why they cannot be read, in one line.
    pub fn each(&mut self, see: &mut dyn FnMut(&[u8])) -> Result<(), String> {
        const STEP: u64 = 256 << 10;
        let all = 4 * self.width * self.height;
        let mut buffer = vec![0; usize::try_from(STEP.min(all)).expect("a step is short")];
        for at in (0..all).step_by(buffer.len().max(1)) {
            let left = usize::try_from(all - at).unwrap_or(usize::MAX);
            let len = left.min(buffer.len());
            let step = &mut buffer[..len];
            self.read_at(at, step)?;
            see(step);
        }
        Ok(())
    }

    fn read_of(&mut self, chunk: u64, rows: u64, at: u64, part: &mut [u8]) -> Result<(), String> {
        let number = u32::try_from(chunk).map_err(|_| "it has too many strips".to_owned())?;
        let place = self.plain.as_ref().map(|places| places.get(number as usize).copied());
        if let Some(place) = place {
            let place = place.and_then(|place| place.checked_add(at));
            let place = place.ok_or_else(|| "it has too few strips".to_owned())?;
            let file = self.decoder.inner();
            let read = file.seek(SeekFrom::Start(place)).and_then(|_| file.read_exact(part));
            return read.map_err(|error| told(TiffError::IoError(error)));
        }
        if self.chunk != Some(chunk) {
            let bytes = rows * 4 * self.width;
            if bytes > LARGEST_CHUNK {
                return Err(format!("a strip of {bytes} bytes is packed, {LARGEST_CHUNK} can be"));
            }
            self.chunk = None;
            self.pixels.resize(usize::try_from(bytes).expect("it is below the limit"), 0);
            match self.tile {
                None => {
                    self.decoder.read_chunk_bytes(number, &mut self.pixels).map_err(told)?;
                    self.check_stream(number, bytes)?;
                }
                Some(columns) => self.read_tiles(chunk, rows, columns)?,
            }
            self.chunk = Some(chunk);
        }
        let at = usize::try_from(at).expect("it lies in the strip");
        let pixels = self.pixels.get(at..at + part.len());
        part.copy_from_slice(pixels.ok_or_else(|| "it has fewer pixels".to_owned())?);
        Ok(())
    }
}

impl<R: Read + Seek> Decoded<R> {
    /// Fails where what was unpacked is not packed as a whole: the decoder has its pixels then, and looks no
    /// further.
    fn check_stream(&mut self, number: u32, bytes: u64) -> Result<(), String> {
        let Some(streams) = &mut self.streams else { return Ok(()) };
        // What the decoder has room for, at most a tile that it unpacks as well.
        let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes <= most());
        let bytes = bytes.ok_or_else(|| format!("a tile has more than {LARGEST_CHUNK} bytes"))?;
        streams.check(self.decoder.inner(), number as usize, bytes)
    }

    /// Unpacks a row of tiles, without what is beyond the image.
    fn read_tiles(&mut self, band: u64, rows: u64, columns: u64) -> Result<(), String> {
        let across = self.width.div_ceil(columns.max(1));
        for tile in 0..across {
            let number = band.checked_mul(across).and_then(|first| first.checked_add(tile));
            let number = number.and_then(|number| u32::try_from(number).ok());
            let number = number.ok_or_else(|| "it has too many tiles".to_owned())?;
            let left = tile * columns;
            let width = columns.min(self.width - left);
            if self.decoder.chunk_data_dimensions(number) != (narrow(width), narrow(rows)) {
                return Err("a tile has another size than the others".to_owned());
            }
            // At most the row of tiles, which is below the limit.
            self.tile_pixels.resize(usize::try_from(rows * 4 * width).unwrap_or(usize::MAX), 0);
            self.decoder.read_chunk_bytes(number, &mut self.tile_pixels).map_err(told)?;
            let (columns, rows) = self.decoder.chunk_dimensions();
            let bytes = u64::from(columns).saturating_mul(rows.into()).saturating_mul(4);
            self.check_stream(number, bytes)?;
            let [left, width, all] = [left, width, self.width].map(|x| 4 * narrow(x) as usize);
            let lines = self.pixels.chunks_mut(all).zip(self.tile_pixels.chunks(width));
            lines.for_each(|(line, part)| line[left..left + width].copy_from_slice(part));
        }
        Ok(())
    }
}

/// Of what is below an image's sides, which have 32 bits.
fn narrow(pixels: u64) -> u32 {
    u32::try_from(pixels).unwrap_or(u32::MAX)
}

/// Where strips lie that are as long as their pixels.
fn plain<R: Read + Seek>(
    decoder: &mut Decoder<R>,
    row: u64,
    height: u64,
    rows: u64,
) -> Result<Vec<u64>, String> {
    let places = decoder.get_tag_u64_vec(Tag::StripOffsets).map_err(told)?;
    let counts = decoder.get_tag_u64_vec(Tag::StripByteCounts).map_err(told)?;
    let mut left = height;
    for count in counts {
        let due = rows.min(left) * row;
        left -= rows.min(left);
        if count != due {
            return Err(format!("a strip has {count} bytes, and its pixels take {due}"));
        }
    }
    if left > 0 {
        return Err("its strips do not hold all its rows".to_owned());
    }
    Ok(places)
}

fn most() -> usize {
    usize::try_from(LARGEST_CHUNK).unwrap_or(usize::MAX)
}

#[allow(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
pub(super) fn told(error: TiffError) -> String {
    match error {
        TiffError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "it ends too early".to_owned()
        }
        error => shown_problem(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;
    use tiff::encoder::{Compression, TiffEncoder, colortype};

    const PIXELS: [f32; 12] =
        [0.0, 1.0, 2.5, -3.0, f32::MAX, 7.0, 8.0, 9.0, 1e-40, 11.0, 12.0, 13.0];

    fn file(rows: u32, compression: Compression) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        let mut encoder = TiffEncoder::new(&mut file).unwrap().with_compression(compression);
        let mut image = encoder.new_image::<colortype::Gray32Float>(3, 4).unwrap();
        image.rows_per_strip(rows).unwrap();
        image.write_data(&PIXELS).unwrap();
        file.into_inner()
    }

    fn bytes() -> Vec<u8> {
        PIXELS.iter().flat_map(|pixel| pixel.to_le_bytes()).collect()
    }

    /// Any part of the pixels, of strips as they are and of packed ones.
    #[test]
    fn pixels_are_read_from_any_byte_on() {
        for compression in [Compression::Uncompressed, Compression::Packbits] {
            for rows in 1..=4 {
                let mut image = Decoded::open(Cursor::new(file(rows, compression))).unwrap();
                assert_eq!(image.shape(), [4, 3]);
                assert_eq!(image.plain.is_some(), compression == Compression::Uncompressed);
                for from in 0..48 {
                    for to in from..=48 {
                        let mut part = vec![0; to - from];
                        image.read_at(from as u64, &mut part).unwrap();
                        assert_eq!(part, bytes()[from..to], "{rows} {from} {to}");
                    }
                }
                assert!(image.read_at(47, &mut [0; 2]).unwrap_err().contains("fewer pixels"));
            }
        }
    }

    #[test]
    fn what_is_no_float_image_is_told() {
        let told = |file: Vec<u8>| Decoded::open(Cursor::new(file)).unwrap_err();
        assert!(told(Vec::new()).contains("signature"), "{}", told(Vec::new()));
        let mut short = file(1, Compression::Uncompressed);
        short.truncate(60);
        assert!(told(short.clone()).contains("ends too early"), "{}", told(short));
        let mut whole = Cursor::new(Vec::new());
        let mut encoder = TiffEncoder::new(&mut whole).unwrap();
        encoder.write_image::<colortype::Gray32>(1, 1, &[7]).unwrap();
        assert!(told(whole.into_inner()).contains("no 32-bit floats"));
        let mut two = Cursor::new(Vec::new());
        let mut encoder = TiffEncoder::new(&mut two).unwrap();
        encoder.write_image::<colortype::Gray32Float>(1, 1, &[7.0]).unwrap();
        encoder.write_image::<colortype::Gray32Float>(1, 1, &[7.0]).unwrap();
        assert!(told(two.into_inner()).contains("more than one"));
    }

    /// Sides that no number of bytes holds, and lists that are longer than the file, are told before anything is made
    /// of them.
    #[test]
    fn nothing_is_believed_that_no_file_holds() {
        let set = |file: &mut [u8], tag: u16, at: usize, value: u32| {
            let entries = u32::from_le_bytes(file[4..8].try_into().unwrap()) as usize;
            let begin = (0..20).map(|entry| entries + 2 + 12 * entry);
            let is = |entry: &usize| file[*entry..entry + 2] == tag.to_le_bytes();
            let entry = begin.into_iter().find(is).unwrap();
            // A LONG, whatever it was.
            file[entry + 2..entry + 4].copy_from_slice(&4_u16.to_le_bytes());
            file[entry + at..entry + at + 4].copy_from_slice(&value.to_le_bytes());
        };
        for compression in [Compression::Uncompressed, Compression::Packbits] {
            let mut wide = file(2, compression);
            for (tag, value) in [(256, 1 << 31), (257, 3 << 30), (278, 1 << 31)] {
                set(&mut wide, tag, 8, value);
            }
            let told = Decoded::open(Cursor::new(wide)).unwrap_err();
            assert!(told.contains("no file holds 3221225472×2147483648 pixels"), "{told}");
            for tag in [273, 279, 258] {
                let mut long = file(2, compression);
                set(&mut long, tag, 4, 1 << 20);
                let told = Decoded::open(Cursor::new(long)).unwrap_err();
                assert_eq!(told, format!("tag {tag} has 1048576 values, which are too many"));
            }
            // Of a list no more than the most either, however long the file.
            let mut long = file(2, compression);
            long.resize(8 << 20, 0);
            set(&mut long, 279, 4, (1 << 20) + 1);
            let told = Decoded::open(Cursor::new(long)).unwrap_err();
            assert_eq!(told, "tag 279 has 1048577 values, which are too many");
        }
    }

    /// A file of tiles of 16, of an image that is not much larger.
    fn tiled(compress: &str) -> (Vec<u8>, Vec<u8>) {
        use crate::encode::{EncodingText, Header, Packed, Packer, Subject};
        use crate::normalize::{Extent, Kept, Range, Rule, Scope};
        let mut text = EncodingText::default();
        assert!(text.set("tile", "16") && text.set("compress", compress));
        let encoding = &text.read().unwrap();
        let (size, dtype) = ((19, 18), crate::tensor::Dtype::F32);
        let (tensor, axes, rule) = ("t", &[][..], Rule::default());
        let header = Header::new(&Subject {
            size,
            tensor,
            axes,
            dtype,
            how: (&rule, Scope::Image),
            encoding,
        });
        let header = header.unwrap();
        let pixels: Vec<u8> = (0..19 * 18).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let mut packer = Packer::new(encoding).unwrap().unwrap();
        let (mut packed, mut end, mut lens) = (Vec::new(), 0, Vec::new());
        for (top, left) in [(0, 0), (0, 16), (16, 0), (16, 16)] {
            let mut tile = vec![0; 4 * 16 * 16];
            for row in top..18.min(top + 16) {
                let columns = 16.min(19 - left);
                let from = 4 * (19 * row + left);
                let to = 4 * 16 * (row - top);
                tile[to..to + 4 * columns].copy_from_slice(&pixels[from..from + 4 * columns]);
            }
            let next = packer.pack(&tile, 16, false, &mut packed, end).unwrap();
            lens.push((next - end) as u64);
            end = next;
        }
        let mut file = Vec::new();
        header.write(&[], &Extent::EMPTY, &Range::Keep(Kept::Asked), &mut file);
        header.write_packed(&Packed { lens, is_predicted: false }, &mut file);
        file.extend(&packed[..end]);
        (file, pixels)
    }

    #[test]
    fn tiles_are_read_from_any_byte_on() {
        for compress in ["none", "deflate", "zstd"] {
            let (file, pixels) = tiled(compress);
            let mut image = Decoded::open(Cursor::new(file)).unwrap();
            assert_eq!((image.shape(), image.tile), ([18, 19], Some(16)));
            for from in (0..pixels.len()).step_by(13) {
                for to in (from..=pixels.len()).step_by(101).chain([pixels.len()]) {
                    let mut part = vec![0; to - from];
                    image.read_at(from as u64, &mut part).unwrap();
                    assert!(part == pixels[from..to], "{compress} {from} {to}");
                }
            }
            let end = pixels.len() as u64;
            assert!(image.read_at(end - 1, &mut [0; 2]).unwrap_err().contains("fewer pixels"));
        }
    }

    /// Whatever bytes say, there is an answer, and none costs much memory.
    #[test]
    fn damaged_files_are_told_or_read() {
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
            usize::try_from(state >> 33).unwrap()
        };
        let strips = [Compression::Uncompressed, Compression::Packbits];
        let strips = strips.map(|compression| file(2, compression));
        let tiles = ["none", "deflate", "zstd"].map(|compress| tiled(compress).0);
        for whole in strips.into_iter().chain(tiles) {
            for _ in 0..20_000 {
                let mut damaged = whole.clone();
                for _ in 0..=random() % 4 {
                    let at = random() % damaged.len();
                    damaged[at] = u8::try_from(random() % 256).unwrap();
                }
                let Ok(mut image) = Decoded::open(Cursor::new(damaged)) else { continue };
                let (_, _) = (image.description(), image.display());
                let mut pixels = [0; 48];
                let _ = image.read_at(0, &mut pixels);
                assert!(image.pixels.capacity() <= most());
            }
        }
    }
}
