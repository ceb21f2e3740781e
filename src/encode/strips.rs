//! How images are cut into strips: a function of their size alone.

use super::pack::Packer;

/// Images up to this many bytes are one strip, where strips are not packed.
const ONE_STRIP: u64 = 64 << 20;
/// Strips of larger images: readers that decode whole strips must cope.
const STRIP: u64 = 16 << 20;
/// Strips that are packed, where a row is not longer: each is packed by one thread, and read by one.
const PACKED_STRIP: u64 = 512 << 10;
/// Where there were more, they are longer, up to the longest row: readers hold the list of them.
const MOST_STRIPS: u64 = 1 << 16;
/// Longest row that is packed: a strip is never less than a row, and is packed in memory.
const LONGEST_ROW: u64 = 64 << 20;

/// The strips of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Strips {
    /// Rows of all but the last, which may have fewer.
    pub(super) rows: u64,
    pub(super) count: u64,
    /// Bytes of pixels in all, and in all but the last.
    pub(super) pixels: u64,
    pub(super) each: u64,
    pub(super) are_packed: bool,
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
    pub(super) fn new(
        (width, height): (u64, u64),
        are_packed: bool,
    ) -> Result<Strips, Option<String>> {
        let row = width.checked_mul(4).ok_or(None)?;
        let pixels = row.checked_mul(height).ok_or(None)?;
        let rows = match are_packed {
            true if row > LONGEST_ROW => {
                let longest = LONGEST_ROW / 4;
                return Err(Some(format!(
                    "cannot be packed: a row has {longest} pixels at most where --compress is given"
                )));
            }
            true => packed_rows(width, height),
            false if pixels <= ONE_STRIP => height,
            false => (STRIP / row).max(1),
        };
        let each = rows.checked_mul(row).ok_or(None)?;
        Ok(Strips { rows, count: height.div_ceil(rows), pixels, each, are_packed })
    }

    /// Bytes of the pixels of a strip.
    pub(super) fn len(&self, strip: u64) -> u64 {
        self.each.min(self.pixels - strip * self.each)
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
            let strips = Strips::new((width, height), true).unwrap();
            assert_eq!((strips.rows, strips.count), (rows, count), "{width}×{height}");
            let all: u64 = (0..count).map(|strip| strips.len(strip)).sum();
            assert_eq!(all, 4 * width * height, "{width}×{height}");
        }
        // 64 GiB, 16 TiB.
        let of = |height| Strips::new((1 << 10, height), true).unwrap();
        assert_eq!((of(1 << 24).rows, of(1 << 24).count), (256, 1 << 16));
        assert_eq!((of(1 << 32).rows, of(1 << 32).count), (1 << 14, 1 << 18));
        let told = Strips::new(((1 << 24) + 1, 2), true).unwrap_err().unwrap();
        assert!(told.contains("16777216 pixels"), "{told}");
        assert!(Strips::new(((1 << 24) + 1, 2), false).is_ok());
        assert_eq!(Strips::new((1 << 62, 2), true), Err(None));
    }
}
