//! Whether packed strips are whole: a decoder that has its pixels looks at nothing behind them, and others
//! refuse a stream whose end or sum is wrong.

use std::fmt;
use std::io::{BufRead, Read, Seek, SeekFrom};

use libdeflater::{Decompressor, adler32};
use tiff::decoder::Decoder;
use tiff::tags::Tag;
use zstd::zstd_safe::find_frame_compressed_size;

use super::Packer;
use super::decoded::told;

const DEFLATE: u64 = 8;
const ZSTD: u64 = 50_000;

/// The streams of a file.
pub(super) struct Streams {
    codec: Codec,
    places: Vec<u64>,
    lens: Vec<u64>,
    packed: Vec<u8>,
    unpacked: Vec<u8>,
}

enum Codec {
    Deflate(Decompressor),
    Zstd(zstd::bulk::Decompressor<'static>),
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").field("number", &self.places.len()).finish_non_exhaustive()
    }
}

impl Streams {
    /// Those of strips, or of tiles; `None` of a file that is packed in no such way as this program packs.
    ///
    /// # Errors
    /// Why they are not found, in one line.
    pub(super) fn of<R: Read + Seek>(
        decoder: &mut Decoder<R>,
        compression: u64,
        are_tiles: bool,
    ) -> Result<Option<Streams>, String> {
        let codec = match compression {
            DEFLATE => Codec::Deflate(Decompressor::new()),
            ZSTD => {
                let codec = zstd::bulk::Decompressor::new();
                Codec::Zstd(codec.map_err(|error| error.to_string())?)
            }
            _ => return Ok(None),
        };
        let [places, lens] = match are_tiles {
            false => [Tag::StripOffsets, Tag::StripByteCounts],
            true => [Tag::TileOffsets, Tag::TileByteCounts],
        };
        let mut list = |tag| decoder.get_tag_u64_vec(tag).map_err(told);
        let (places, lens) = (list(places)?, list(lens)?);
        Ok(Some(Streams { codec, places, lens, packed: Vec::new(), unpacked: Vec::new() }))
    }

    /// Where the first one begins.
    pub(super) fn begin(&self) -> Option<u64> {
        self.places.first().copied()
    }

    /// Fails where a stream is not one whole one of so many bytes.
    ///
    /// # Errors
    /// How, in one line.
    pub(super) fn check<R: BufRead + Seek>(
        &mut self,
        file: &mut R,
        number: usize,
        bytes: usize,
    ) -> Result<(), String> {
        let place = self.places.get(number).zip(self.lens.get(number));
        let (&place, &len) = place.ok_or_else(|| "it has too few strips".to_owned())?;
        // Longer ones hold something else than pixels.
        let len =
            usize::try_from(len).ok().filter(|len| *len as u64 <= Packer::bound(bytes as u64));
        let len = len.ok_or_else(|| "a packed strip takes more than its pixels".to_owned())?;
        self.packed.resize(len, 0);
        self.unpacked.resize(bytes, 0);
        let read = file.seek(SeekFrom::Start(place));
        let read = read.and_then(|_| file.read_exact(&mut self.packed));
        read.map_err(|error| told(error.into()))?;
        let Streams { codec, packed, unpacked, .. } = self;
        let is_whole = match codec {
            Codec::Deflate(codec) => {
                codec.zlib_decompress(packed, unpacked) == Ok(bytes)
                    && packed.ends_with(&adler32(unpacked).to_be_bytes())
            }
            Codec::Zstd(codec) => {
                find_frame_compressed_size(packed) == Ok(len)
                    && codec.decompress_to_buffer(packed, unpacked).is_ok_and(|is| is == bytes)
            }
        };
        if is_whole { Ok(()) } else { Err("a packed strip is damaged".to_owned()) }
    }
}
