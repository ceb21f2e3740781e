//! How strips are packed: the predictor for floats, and then Deflate or Zstandard.
//!
//! The same strip gives the same bytes on every machine: neither `libdeflate` nor `zstd` makes of what a
//! processor can do more than speed. (`zlib-rs` hashes otherwise where there is an instruction for it.)

use libdeflater::{CompressionLvl, Compressor};
use zstd::zstd_safe::CParameter;

use super::encoding::{Compress, Encoding, Predictor};

/// How far back `zstd` refers at most (2^20 bytes): its tables take no more memory for long strips.
const ZSTD_WINDOW: u32 = 20;
/// Pixels whose bytes are sorted at once: both sides stay in the first-level cache.
const SORTED: usize = 512;

/// Packs strips, one after another. Each thread has its own.
pub struct Packer {
    codec: Codec,
    predictor: Predictor,
    predicted: Vec<u8>,
    packed: Vec<u8>,
}

enum Codec {
    Stored,
    Deflate(Compressor),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").field("predictor", &self.predictor).finish_non_exhaustive()
    }
}

impl Packer {
    /// A packer; `None` where pixels are stored as they are in memory.
    ///
    /// # Errors
    /// What the codec says, where it has no memory.
    pub fn new(encoding: &Encoding) -> std::io::Result<Option<Packer>> {
        let codec = match encoding.compress {
            Compress::None if encoding.tile.is_none() => return Ok(None),
            Compress::None => Codec::Stored,
            Compress::Deflate(level) => {
                let level = CompressionLvl::new(level.into());
                Codec::Deflate(Compressor::new(level.unwrap_or_default()))
            }
            Compress::Zstd(level) => {
                let mut codec = zstd::bulk::Compressor::new(level.into())?;
                codec.set_parameter(CParameter::WindowLog(ZSTD_WINDOW))?;
                Codec::Zstd(codec)
            }
        };
        let predictor = encoding.predictor;
        Ok(Some(Packer { codec, predictor, predicted: Vec::new(), packed: Vec::new() }))
    }

    /// Most bytes that a strip of so many takes.
    #[must_use]
    pub fn bound(strip: u64) -> u64 {
        // Deflate: 5 bytes for each block that is stored, which has 5,000 bytes at least in libdeflate, and
        // 6 around all. Zstandard: 3 for each 128 KiB, 18 around all, and what its own bound adds to short ones.
        strip.saturating_add(strip / 512).saturating_add(256)
    }

    /// Whether the predictor is used, where an image's first strip need not tell.
    #[must_use]
    pub fn always_predicts(&self) -> Option<bool> {
        match self.predictor {
            Predictor::None => Some(false),
            Predictor::Float => Some(true),
            Predictor::Auto => None,
        }
    }

    /// Whether the predictor is to be used for an image of which this is the first strip.
    ///
    /// # Errors
    /// What the codec says.
    pub fn is_predicted(&mut self, first: &[u8], width: usize) -> std::io::Result<bool> {
        if let Some(always) = self.always_predicts() {
            return Ok(always);
        }
        let mut packed = std::mem::take(&mut self.packed);
        let mut len = |predicted| self.pack(first, width, predicted, &mut packed, 0);
        let [one, other] = [len(true), len(false)];
        self.packed = packed;
        Ok(one? < other?)
    }

    /// Packs a strip of rows of `width` pixels to `out` from byte `at` on, and says where it ends there.
    /// `out` is made longer where it has to be, and else what is behind is left: to fill it takes time.
    ///
    /// # Errors
    /// What the codec says, where it has no memory.
    pub fn pack(
        &mut self,
        strip: &[u8],
        width: usize,
        is_predicted: bool,
        out: &mut Vec<u8>,
        at: usize,
    ) -> std::io::Result<usize> {
        let strip = if is_predicted {
            if self.predicted.len() < strip.len() {
                self.predicted.resize(strip.len(), 0);
            }
            let predicted = &mut self.predicted[..strip.len()];
            predict(strip, width, predicted);
            predicted
        } else {
            strip
        };
        let most = match &mut self.codec {
            Codec::Stored => strip.len(),
            Codec::Deflate(codec) => codec.zlib_compress_bound(strip.len()),
            Codec::Zstd(_) => zstd::zstd_safe::compress_bound(strip.len()),
        };
        if out.len() < at + most {
            out.resize(at + most, 0);
        }
        let packed = &mut out[at..at + most];
        let len = match &mut self.codec {
            Codec::Stored => {
                packed.copy_from_slice(strip);
                strip.len()
            }
            Codec::Deflate(codec) => codec
                .zlib_compress(strip, packed)
                .map_err(|error| std::io::Error::other(error.to_string()))?,
            Codec::Zstd(codec) => codec.compress_to_buffer(strip, packed)?,
        };
        Ok(at + len)
    }
}

/// The predictor for floats (Adobe's TIFF Technical Note 3): in each row the most significant bytes of all
/// pixels, then the next ones, and of all these bytes in that order each one's difference to the one before.
fn predict(pixels: &[u8], width: usize, out: &mut [u8]) {
    for (row, out) in pixels.chunks(4 * width).zip(out.chunks_mut(4 * width)) {
        let (high, low) = out.split_at_mut(2 * width);
        let ((first, second), (third, fourth)) =
            (high.split_at_mut(width), low.split_at_mut(width));
        let planes = first
            .chunks_mut(SORTED)
            .zip(second.chunks_mut(SORTED))
            .zip(third.chunks_mut(SORTED).zip(fourth.chunks_mut(SORTED)));
        let mut before = [0; 4];
        for (pixels, ((first, second), (third, fourth))) in row.chunks(4 * SORTED).zip(planes) {
            for (place, plane) in [(3, first), (2, second), (1, third), (0, fourth)] {
                for (byte, pixel) in plane.iter_mut().zip(pixels.chunks_exact(4)) {
                    *byte = pixel[place];
                }
                differ(plane, &mut before[place]);
            }
        }
        // A plane's first byte follows the last one of the plane before.
        let last = |place: usize| before[place];
        for (plane, place) in [(1, 3), (2, 2), (3, 1)] {
            let first = &mut out[plane * width];
            *first = first.wrapping_sub(last(place));
        }
    }
}

/// Each byte becomes its difference to the one before; `before` is what comes before, and then the last.
fn differ(bytes: &mut [u8], before: &mut u8) {
    let Some(&last) = bytes.last() else { return };
    let mut sorted = [0; SORTED];
    let sorted = &mut sorted[..bytes.len()];
    sorted.copy_from_slice(bytes);
    for (byte, (one, other)) in bytes[1..].iter_mut().zip(sorted[1..].iter().zip(&sorted[..])) {
        *byte = one.wrapping_sub(*other);
    }
    bytes[0] = sorted[0].wrapping_sub(*before);
    *before = last;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encodings() -> impl Iterator<Item = Encoding> {
        let all =
            [Compress::Deflate(1), Compress::Deflate(12), Compress::Zstd(1), Compress::Zstd(22)];
        all.into_iter().map(|compress| Encoding { compress, ..Encoding::default() })
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 9_u64;
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..len).map(|_| byte()).collect()
    }

    /// As the note says it, byte by byte.
    fn by_the_note(row: &[u8]) -> Vec<u8> {
        let width = row.len() / 4;
        let sorted: Vec<u8> =
            (0..4).rev().flat_map(|place| (0..width).map(move |i| row[4 * i + place])).collect();
        let before = [0].into_iter().chain(sorted.iter().copied());
        sorted.iter().zip(before).map(|(one, other)| one.wrapping_sub(other)).collect()
    }

    #[test]
    fn the_predictor_is_the_notes() {
        for width in [1, 2, 3, 511, 512, 513, 1024, 1500] {
            let pixels = noise(4 * width * 3);
            let mut out = vec![0; pixels.len()];
            predict(&pixels, width, &mut out);
            let due: Vec<u8> = pixels.chunks(4 * width).flat_map(by_the_note).collect();
            assert!(out == due, "{width}");
        }
    }

    /// Also of what cannot be packed, and for every length around what codecs do otherwise.
    #[test]
    fn no_strip_is_longer_than_its_bound() {
        for encoding in encodings() {
            let mut packer = Packer::new(&encoding).unwrap().unwrap();
            let noise = noise(1 << 20);
            for len in
                (4..200).chain([4999, 5000, 10_000, 65_535, 65_536, 131_072, 300_000, 1 << 20])
            {
                let mut out = Vec::new();
                let end = packer.pack(&noise[..len], len / 4, false, &mut out, 0).unwrap();
                assert!(end as u64 <= Packer::bound(len as u64), "{encoding:?}: {len}");
            }
        }
    }

    #[test]
    fn packed_strips_follow_what_was_there() {
        for encoding in encodings() {
            let mut packer = Packer::new(&encoding).unwrap().unwrap();
            let (mut both, mut one) = (vec![7; 3], Vec::new());
            let both_end = packer.pack(&[1; 400], 10, true, &mut both, 3).unwrap();
            let end = packer.pack(&[1; 400], 10, true, &mut one, 0).unwrap();
            assert_eq!((&both[..3], &both[3..both_end]), (&[7; 3][..], &one[..end]));
            assert!(end < 100);
            // The same where something longer was before.
            packer.pack(&noise(4000), 10, true, &mut one, 0).unwrap();
            let again = packer.pack(&[1; 400], 10, true, &mut one, 0).unwrap();
            assert_eq!(&one[..again], &both[3..both_end]);
        }
    }

    /// Smooth pixels with noise in their last bits gain by it, zeros with few others do not.
    #[test]
    fn the_predictor_is_used_where_it_gains() {
        let smooth: Vec<u8> =
            (0..10_000).flat_map(|i| (1e4 + i as f32).sqrt().to_le_bytes()).collect();
        let sparse: Vec<u8> = noise(10_000)
            .iter()
            .flat_map(|&byte| (if byte < 25 { 0.1 + f32::from(byte) } else { 0.0 }).to_le_bytes())
            .collect();
        for encoding in encodings() {
            for (predictor, expected) in [
                (Predictor::None, [false; 2]),
                (Predictor::Float, [true; 2]),
                (Predictor::Auto, [true, false]),
            ] {
                let mut packer = Packer::new(&Encoding { predictor, ..encoding }).unwrap().unwrap();
                let found =
                    [&smooth, &sparse].map(|first| packer.is_predicted(first, 100).unwrap());
                assert_eq!(found, expected, "{encoding:?} {predictor:?}");
            }
        }
    }
}
