//! How images are cut into strips or tiles: a function of their size alone.

use super::encoding::Encoding;
use super::pack::Packer;

/// Images up to this many bytes are one strip, where strips are not packed.
const ONE_STRIP: u64 = 64 << 20;
/// Strips of larger images: readers that decode whole strips must cope.
const STRIP: u64 = 16 << 20;
/// Strips that are packed, where a row is not longer: each is packed by one thread, and read by one.
const PACKED_STRIP: u64 = 512 << 10;
/// Where there were more, they are longer, up to the longest row: readers hold the list of them.
const MOST_STRIPS: u64 = 1 << 16;
/// The same of tiles, whose size is asked for.
const MOST_TILES: u64 = 1 << 18;
/// Longest row that is packed: a strip is never less than a row, and is packed in memory.
const LONGEST_ROW: u64 = 64 << 20;

/// The strips of an image, or its tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Strips {
    /// Rows of all but the last, which may have fewer; of a tile.
    pub(super) rows: u64,
    pub(super) count: u64,
    /// Bytes of pixels in all.
    pub(super) pixels: u64,
    /// Bytes of all but the last, or of each tile: those at the right and at the bottom are filled up.
    pub(super) each: u64,
    /// Whether pixels are not stored as they are in memory.
    pub(super) are_packed: bool,
    /// Width and height of a tile.
    pub(super) tile: Option<[u16; 2]>,
}

/// Rows of a strip that is packed.
pub(super) fn packed_rows(width: u64, height: u64) -> u64 {
    let row = width.saturating_mul(4).max(1);
    let strip = (row.saturating_mul(height) / MOST_STRIPS).clamp(PACKED_STRIP, LONGEST_ROW);
    (strip / row).clamp(1, height.max(1))
}

impl Strips {
    /// Of an image of so many pixels in width and height.
    ///
    /// # Errors
    /// Why it can have none, in one line without a subject.
    pub(super) fn new(size: (u64, u64), encoding: &Encoding) -> Result<Strips, Option<String>> {
        let (width, height) = size;
        let row = width.checked_mul(4).ok_or(None)?;
        let pixels = row.checked_mul(height).ok_or(None)?;
        let are_packed = encoding.is_packed();
        if let Some(tile) = encoding.tile_of(size) {
            let [across, rows] = tile.map(u64::from);
            if row.checked_mul(rows.min(height)).is_none_or(|bytes| bytes > LONGEST_ROW) {
                return Err(Some(format!(
                    "cannot have tiles of {across}×{rows}: a row of tiles has {} pixels at most",
                    LONGEST_ROW / 4
                )));
            }
            let count = width.div_ceil(across).checked_mul(height.div_ceil(rows)).ok_or(None)?;
            if count > MOST_TILES {
                return Err(Some(format!(
                    "would have {count} tiles of {across}×{rows}: there are {MOST_TILES} at most, as readers \
                     hold the list of them"
                )));
            }
            let each = 4 * across * rows;
            return Ok(Strips { rows, count, pixels, each, are_packed, tile: Some(tile) });
        }
        let rows = match encoding.packed_rows(size) {
            Some(_) if row > LONGEST_ROW => {
                return Err(Some(format!(
                    "cannot be packed: a row has {} pixels at most where --compress is given",
                    LONGEST_ROW / 4
                )));
            }
            Some(rows) => rows,
            None if pixels <= ONE_STRIP => height,
            None => (STRIP / row).max(1),
        };
        let each = rows.checked_mul(row).ok_or(None)?;
        let count = height.div_ceil(rows);
        Ok(Strips { rows, count, pixels, each, are_packed, tile: None })
    }

    /// Bytes of the pixels of a strip.
    pub(super) fn len(&self, strip: u64) -> u64 {
        match self.tile {
            Some(_) => self.each,
            None => self.each.min(self.pixels - strip * self.each),
        }
    }

    /// Most bytes that all take.
    pub(super) fn most(&self) -> Option<u64> {
        if !self.are_packed {
            return Some(self.pixels);
        }
        let whole = Packer::bound(self.each).checked_mul(self.count - 1)?;
        whole.checked_add(Packer::bound(self.len(self.count - 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::Compress;

    const PLAIN: Encoding = Encoding {
        profile: crate::encode::Profile::Fiji,
        bigtiff: crate::encode::BigTiff::Auto,
        compress: Compress::None,
        predictor: crate::encode::Predictor::None,
        tile: None,
    };
    const PACKED: Encoding = Encoding { compress: Compress::Zstd(1), ..PLAIN };

    #[test]
    fn tiles_are_filled_up() {
        let tiled = Encoding { tile: Some(32), ..PLAIN };
        for (width, height, tile, count) in [
            (32, 32, [32, 32], 1),
            (33, 32, [32, 32], 2),
            (31, 97, [32, 32], 4),
            (64, 64, [32, 32], 4),
            // No more than it takes.
            (1, 1, [16, 16], 1),
            (17, 1000, [32, 32], 32),
            (16, 1000, [16, 32], 32),
            (1000, 3, [32, 16], 32),
        ] {
            let tiles = Strips::new((width, height), &tiled).unwrap();
            let each = 4 * u64::from(tile[0]) * u64::from(tile[1]);
            assert_eq!((tiles.tile, tiles.count, tiles.each), (Some(tile), count, each));
            assert!(tiles.most().unwrap() >= each * count);
            let band = tiled.packed_bytes((width, height));
            assert_eq!(band, each * width.div_ceil(tile[0].into()), "{width}×{height}");
        }
        let of = |width, height, side| {
            Strips::new((width, height), &Encoding { tile: Some(side), ..PACKED })
        };
        assert!(of(1 << 16, 1000, 256).is_ok());
        assert!(of((1 << 16) + 1, 240, 256).is_ok(), "there are no more rows");
        let told = of((1 << 16) + 1, 1000, 256).unwrap_err().unwrap();
        assert!(told.contains("256×256") && told.contains("16777216"), "{told}");
        assert_eq!(of(1 << 62, 2, 16), Err(None));
    }

    #[test]
    fn packed_strips_are_whole_rows_of_half_a_mebibyte() {
        for (width, height, rows, count) in [
            (512, 512, 256, 2),
            (512, 255, 255, 1),
            (512, 257, 256, 2),
            (100, 10_000, 1310, 8),
            (1 << 17, 5, 1, 5),
            (1 << 18, 5, 1, 5),
            (1 << 24, 2, 1, 2),
            (1, 1, 1, 1),
        ] {
            let strips = Strips::new((width, height), &PACKED).unwrap();
            assert_eq!((strips.rows, strips.count), (rows, count), "{width}×{height}");
            let all: u64 = (0..count).map(|strip| strips.len(strip)).sum();
            assert_eq!(all, 4 * width * height, "{width}×{height}");
        }
        // 64 GiB, 16 TiB.
        let of = |height| Strips::new((1 << 10, height), &PACKED).unwrap();
        assert_eq!((of(1 << 24).rows, of(1 << 24).count), (256, 1 << 16));
        assert_eq!((of(1 << 32).rows, of(1 << 32).count), (1 << 14, 1 << 18));
        let told = Strips::new(((1 << 24) + 1, 2), &PACKED).unwrap_err().unwrap();
        assert!(told.contains("16777216 pixels"), "{told}");
        assert!(Strips::new(((1 << 24) + 1, 2), &PLAIN).is_ok());
        assert_eq!(Strips::new((1 << 62, 2), &PACKED), Err(None));
    }
}
