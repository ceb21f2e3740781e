//! Layout and bytes of everything before the pixels.

use std::io::Cursor;

use tiff::Directory;
use tiff::decoder::ifd::Entry;
use tiff::encoder::TiffEncoder;
use tiff::tags::{Tag, Type};

use super::description::{Description, Display};
use crate::normalize::{Extent, Norm, Range};
use crate::tensor::Dtype;

/// Pixels begin at a multiple of this; of less in images so small that the header counts.
const ALIGN: u64 = 512;
const SMALL: u64 = 64 << 10;
const SMALL_ALIGN: u64 = 64;
/// Images up to this many bytes are one strip.
const ONE_STRIP: u64 = 64 << 20;
/// Strips of larger images: readers that decode whole strips must cope.
const STRIP: u64 = 16 << 20;
const SOFTWARE: &[u8] = b"tensortiff\0";

/// Everything before the pixels, for all images of one tensor.
#[derive(Debug, Clone)]
pub struct Header {
    /// The bytes up to the pixels, with zeros where an image's own numbers go.
    bytes: Vec<u8>,
    description: Description,
    /// Where the count of tag 270, the text itself, and the values of tags 340 and 341 stand.
    text_count: usize,
    text: usize,
    display: [usize; 2],
}

impl Header {
    /// Lays out the header of images of `width` × `height` pixels that come from a tensor of
    /// which `axes` are the axes before the image's.
    ///
    /// # Errors
    /// Says so if an image does not fit a classic TIFF, whose offsets are 32 bits wide.
    pub fn new(
        (width, height): (u64, u64),
        tensor: &str,
        axes: &[u64],
        dtype: Dtype,
        norm: Norm,
    ) -> Result<Header, String> {
        Header::lay_out((width, height), Description::new(tensor, dtype, norm), axes).ok_or_else(
            || {
                format!(
                    "an image of {width}×{height} float pixels does not fit a classic TIFF file, \
                     which ends at 4 GiB"
                )
            },
        )
    }

    fn lay_out(
        (width, height): (u64, u64),
        description: Description,
        axes: &[u64],
    ) -> Option<Header> {
        let row = width.checked_mul(4)?;
        let pixels = row.checked_mul(height)?;
        let rows_per_strip = if pixels <= ONE_STRIP { height } else { (STRIP / row).max(1) };
        let strips = height.div_ceil(rows_per_strip);
        // A list of one stands in the directory itself.
        let list = if strips > 1 { strips.checked_mul(4)? } else { 0 };

        let directory_len = 2 + 12 * 14 + 4;
        let software = 8 + directory_len;
        let offsets = (software + SOFTWARE.len() as u64).next_multiple_of(2);
        let counts = offsets + list;
        let text = counts + list;
        let align = if pixels < SMALL { SMALL_ALIGN } else { ALIGN };
        let longest = u64::try_from(description.longest(axes, pixels / 4)).ok()?;
        let start = text.checked_add(longest)?.next_multiple_of(align);
        let end = u32::try_from(start.checked_add(pixels)?).ok()?;

        // All lie below `end`, which fits 32 bits; so does every count.
        let long = |x: u64| u32::try_from(x.min(end.into())).unwrap_or(end);
        let strip = rows_per_strip.checked_mul(row)?;
        let strip_at = |i: u64| long(start + i * strip);
        let strip_len = |i: u64| long(strip.min(pixels - i * strip));
        let value = |type_, value: u32| Entry::new(type_, 1, value.to_le_bytes());
        let at =
            |type_, count: u64, offset| Entry::new(type_, long(count), long(offset).to_le_bytes());
        let entries = [
            (Tag::ImageWidth, value(Type::LONG, u32::try_from(width).ok()?)),
            (Tag::ImageLength, value(Type::LONG, u32::try_from(height).ok()?)),
            (Tag::BitsPerSample, value(Type::SHORT, 32)),
            (Tag::Compression, value(Type::SHORT, 1)),
            (Tag::PhotometricInterpretation, value(Type::SHORT, 1)),
            (Tag::ImageDescription, at(Type::ASCII, 0, text)),
            (
                Tag::StripOffsets,
                if list > 0 {
                    at(Type::LONG, strips, offsets)
                } else {
                    value(Type::LONG, long(start))
                },
            ),
            (Tag::SamplesPerPixel, value(Type::SHORT, 1)),
            (Tag::RowsPerStrip, value(Type::LONG, long(rows_per_strip))),
            (
                Tag::StripByteCounts,
                if list > 0 {
                    at(Type::LONG, strips, counts)
                } else {
                    value(Type::LONG, long(pixels))
                },
            ),
            (Tag::Software, at(Type::ASCII, SOFTWARE.len() as u64, software)),
            (Tag::SampleFormat, value(Type::SHORT, 3)),
            (Tag::SMinSampleValue, value(Type::FLOAT, 0)),
            (Tag::SMaxSampleValue, value(Type::FLOAT, 0)),
        ];
        let tags = entries.each_ref().map(|(tag, _)| *tag);
        let mut bytes = directory(entries);
        debug_assert_eq!(bytes.len() as u64, software, "the directory is as long as laid out");
        bytes.extend_from_slice(SOFTWARE);
        bytes.resize(usize::try_from(offsets).ok()?, 0);
        if list > 0 {
            bytes.extend((0..strips).flat_map(|i| strip_at(i).to_le_bytes()));
            bytes.extend((0..strips).flat_map(|i| strip_len(i).to_le_bytes()));
        }
        bytes.resize(usize::try_from(start).ok()?, 0);
        let field = |tag: Tag| 10 + 12 * tags.iter().position(|&t| t == tag).unwrap_or(0);
        Some(Header {
            bytes,
            description,
            text_count: field(Tag::ImageDescription) + 4,
            text: usize::try_from(text).ok()?,
            display: [field(Tag::SMinSampleValue) + 8, field(Tag::SMaxSampleValue) + 8],
        })
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
        out.clear();
        out.extend_from_slice(&self.bytes[..self.text]);
        let display = Display::of(extent, range);
        for (at, value) in self.display.into_iter().zip([display.min, display.max]) {
            out[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        self.description.write(index, extent, range, out);
        let count = u32::try_from(out.len() - self.text).expect("the whole header fits 32 bits");
        out[self.text_count..self.text_count + 4].copy_from_slice(&count.to_le_bytes());
        assert!(out.len() <= self.bytes.len(), "the room kept for the description suffices");
        out.resize(self.bytes.len(), 0);
    }
}

/// The file header and the directory, as the `tiff` crate writes them.
fn directory<const N: usize>(entries: [(Tag, Entry); N]) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    let directory: Directory = entries.into_iter().collect();
    let mut encoder = TiffEncoder::new(&mut file).expect("memory takes 8 bytes");
    let mut writer = encoder.image_directory().expect("memory takes everything");
    writer.extend_from(&directory);
    writer.finish().expect("memory takes everything");
    file.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalize::Kept;
    use tiff::decoder::ifd::Value;
    use tiff::decoder::{Decoder, DecodingResult, Limits};

    fn file(width: u64, height: u64, samples: &[f32], norm: Norm) -> Vec<u8> {
        let header = Header::new((width, height), "a.b", &[12, 3], Dtype::F32, norm).unwrap();
        let extent = samples.iter().fold(Extent::EMPTY, |e, &x| e.merge(Extent::of(f64::from(x))));
        let mut file = Vec::new();
        header.write(&[7, 2], &extent, &Range::of(norm, &extent), &mut file);
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
                let header =
                    Header::new((width, height), "t", &[], Dtype::F32, Norm::None).unwrap();
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
            let most = STRIP.max(4 * width);
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
    fn an_image_beyond_32_bit_offsets_is_refused() {
        let new = |w, h| Header::new((w, h), "t", &[], Dtype::F32, Norm::MinMax);
        assert!(new(1 << 15, (1 << 15) - 1).is_ok());
        assert!(new(1 << 15, 1 << 15).is_err());
        assert!(new(u64::MAX, 2).is_err());
        assert!(new(1 << 33, 1).is_err());
    }
}
