//! Packed strips on their way from blocks, which come in any order, to an image's file, where they lie in
//! order: so its bytes do not depend on who made what when.

use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::backend::ImageId;
use crate::encode::{Packed, Packer};

/// How images of a span are cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub(super) width: usize,
    /// Bytes of pixels: of a strip, or a row of tiles, and of an image.
    pub(super) strip: u64,
    pub(super) image: u64,
    /// Width and height of a tile.
    pub(super) tile: Option<[usize; 2]>,
}

/// Packs on one thread.
#[derive(Debug)]
pub(super) struct Packing {
    packer: Packer,
    /// The image that was packed last, or a strip of it, and how long its strips or tiles are.
    packed: Vec<u8>,
    lens: Packed,
    tile: Vec<u8>,
    /// Pixels of a strip of which the rest is to come, and where in which image that begins.
    part: Vec<u8>,
    next: Option<(ImageId, u64)>,
    /// How long packing took since somebody asked.
    spent: Duration,
}

impl Packing {
    pub(super) fn new(packer: Packer) -> Packing {
        let (packed, tile, part) = Default::default();
        let (lens, spent) = Default::default();
        Packing { packer, packed, lens, tile, part, next: None, spent }
    }

    /// How long packing took since the last time.
    pub(super) fn take_spent(&mut self) -> Duration {
        std::mem::take(&mut self.spent)
    }

    /// Packs a whole image.
    pub(super) fn image(&mut self, cut: Cut, pixels: &[u8]) -> io::Result<(&[u8], &Packed)> {
        self.lens.lens.clear();
        let mut end = 0;
        for (number, strip) in pixels.chunks(index(cut.strip)).enumerate() {
            if number == 0 {
                let begun = Instant::now();
                self.lens.is_predicted = self.is_predicted(cut, strip)?;
                self.spent += begun.elapsed();
            }
            end = self.pack(cut, strip, self.lens.is_predicted, end)?;
        }
        Ok((&self.packed[..end], &self.lens))
    }

    /// Whether the predictor is used for an image of which this is the first strip, or row of tiles.
    fn is_predicted(&mut self, cut: Cut, strip: &[u8]) -> io::Result<bool> {
        let Some(size) = cut.tile else { return self.packer.is_predicted(strip, cut.width) };
        take_tile(strip, cut.width, size, 0, &mut self.tile);
        self.packer.is_predicted(&self.tile, size[0])
    }

    /// Packs a strip, or a row of tiles, behind what ends at `end`, and says where it ends.
    fn pack(
        &mut self,
        cut: Cut,
        strip: &[u8],
        is_predicted: bool,
        mut end: usize,
    ) -> io::Result<usize> {
        let begun = Instant::now();
        let Packing { packer, packed, lens, tile, .. } = self;
        let mut one = |pixels: &[u8], width: usize| {
            let begin = end;
            end = packer.pack(pixels, width, is_predicted, packed, begin)?;
            lens.lens.push((end - begin) as u64);
            Ok::<(), io::Error>(())
        };
        match cut.tile {
            None => one(strip, cut.width)?,
            Some(size) => {
                for left in (0..cut.width).step_by(size[0]) {
                    take_tile(strip, cut.width, size, left, tile);
                    one(tile, size[0])?;
                }
            }
        }
        self.spent += begun.elapsed();
        Ok(end)
    }

    /// Takes an image's pixels from byte `at` of them on: where a strip begins, or where the last ones
    /// ended. Strips that are whole with them go to `file`.
    pub(super) fn pixels(
        &mut self,
        image: ImageId,
        cut: Cut,
        mut at: u64,
        mut pixels: &[u8],
        file: &PackedFile,
        write: &Write<'_>,
    ) -> io::Result<()> {
        if self.next.take() != Some((image, at)) {
            // What went before failed, or was not of this image.
            self.part.clear();
        }
        if at % cut.strip != self.part.len() as u64 {
            return Err(io::Error::other("pixels came that begin within a strip"));
        }
        while !pixels.is_empty() {
            let number = at / cut.strip;
            let len = cut.strip.min(cut.image - number * cut.strip);
            let lacks = index(len) - self.part.len();
            let (some, rest) = pixels.split_at(lacks.min(pixels.len()));
            if some.len() < lacks {
                self.part.extend_from_slice(some);
            } else if self.part.is_empty() {
                self.strip(cut, number, some, file, write)?;
            } else {
                let mut part = mem::take(&mut self.part);
                part.extend_from_slice(some);
                let outcome = self.strip(cut, number, &part, file, write);
                part.clear();
                self.part = part;
                outcome?;
            }
            at += some.len() as u64;
            pixels = rest;
        }
        self.next = Some((image, at));
        Ok(())
    }

    fn strip(
        &mut self,
        cut: Cut,
        number: u64,
        strip: &[u8],
        file: &PackedFile,
        write: &Write<'_>,
    ) -> io::Result<()> {
        let is_predicted = match (number, self.packer.always_predicts()) {
            (0, _) => file.tell(self.is_predicted(cut, strip)?),
            (_, Some(always)) => always,
            (_, None) => file.is_predicted()?,
        };
        self.lens.lens.clear();
        let end = self.pack(cut, strip, is_predicted, 0)?;
        file.put(number, &self.packed[..end], &self.lens.lens, write)
    }
}

/// The tile whose left side is column `left` of a row of tiles. What is beyond the image is 0.
fn take_tile(
    strip: &[u8],
    width: usize,
    [tile_width, tile_height]: [usize; 2],
    left: usize,
    tile: &mut Vec<u8>,
) {
    let columns = tile_width.min(width - left);
    tile.clear();
    tile.resize(4 * tile_width * tile_height, 0);
    for (row, out) in strip.chunks(4 * width).zip(tile.chunks_mut(4 * tile_width)) {
        out[..4 * columns].copy_from_slice(&row[4 * left..4 * (left + columns)]);
    }
}

/// Writes bytes at a place of a file.
pub(super) type Write<'w> = dyn Fn(u64, &[u8]) -> io::Result<()> + 'w;

/// Where the packed strips of an image go that comes in blocks.
#[derive(Debug)]
pub(super) struct PackedFile(Mutex<Placed>);

#[derive(Debug)]
struct Placed {
    /// How many strips, or rows of tiles, have their place, which are the first ones; how long all strips or
    /// tiles in them are; where the next one goes.
    count: u64,
    lens: Vec<u64>,
    end: u64,
    /// Those that came before others in front of them, and how long what is in them is.
    waiting: BTreeMap<u64, (Vec<u8>, Vec<u64>)>,
    is_predicted: Option<bool>,
}

impl PackedFile {
    /// Of an image whose strips begin there.
    pub(super) fn new(begin: u64) -> PackedFile {
        let (lens, waiting) = Default::default();
        PackedFile(Mutex::new(Placed { count: 0, lens, end: begin, waiting, is_predicted: None }))
    }

    fn lock(&self) -> MutexGuard<'_, Placed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the first strip tells. It may come twice, and is the same.
    fn tell(&self, is_predicted: bool) -> bool {
        *self.lock().is_predicted.get_or_insert(is_predicted)
    }

    fn is_predicted(&self) -> io::Result<bool> {
        let told = self.lock().is_predicted;
        told.ok_or_else(|| io::Error::other("a strip came before the first one"))
    }

    /// Takes a strip, which may come twice. It is written now if all before it are, and those that waited for
    /// it are, too; else it waits for them.
    fn put(&self, number: u64, packed: &[u8], lens: &[u64], write: &Write<'_>) -> io::Result<()> {
        let mut placed = self.lock();
        if number != placed.count {
            if number > placed.count {
                let copy = || (packed.to_vec(), lens.to_vec());
                placed.waiting.entry(number).or_insert_with(copy);
            }
            return Ok(());
        }
        let mut at = placed.place(packed, lens);
        drop(placed);
        write(at, packed)?;
        loop {
            let mut placed = self.lock();
            let next = placed.count;
            let Some((packed, lens)) = placed.waiting.remove(&next) else { return Ok(()) };
            at = placed.place(&packed, &lens);
            drop(placed);
            write(at, &packed)?;
        }
    }

    /// The strips or tiles, once all are there.
    pub(super) fn finish(self, all: u64) -> io::Result<Packed> {
        let placed = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Placed { lens, is_predicted, .. } = placed;
        if lens.len() as u64 != all {
            return Err(io::Error::other(format!("{} of {all} strips are there", lens.len())));
        }
        Ok(Packed { lens, is_predicted: is_predicted.unwrap_or(false) })
    }
}

impl Placed {
    /// Where the next strip goes.
    fn place(&mut self, packed: &[u8], lens: &[u64]) -> u64 {
        let at = self.end;
        self.count += 1;
        self.lens.extend_from_slice(lens);
        self.end += packed.len() as u64;
        at
    }
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a strip fits memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::EncodingText;

    const CUT: Cut = Cut { width: 10, strip: 400, image: 4 * 10 * 95, tile: None };
    const IMAGE: ImageId = ImageId { span: 0, index: 0 };

    fn packing() -> Packing {
        let mut text = EncodingText::default();
        assert!(text.set("compress", "zstd") && text.set("predictor", "auto"));
        Packing::new(Packer::new(&text.read().unwrap()).unwrap().unwrap())
    }

    fn pixels() -> Vec<u8> {
        (0..950_u32).flat_map(|i| (i as f32).sqrt().to_le_bytes()).collect()
    }

    /// The same file, whoever packs what when, in pieces of whatever length.
    #[test]
    fn strips_lie_in_order_whatever_order_they_come_in() {
        let tiled = Cut { strip: 4 * 16 * 25, width: 25, image: 4 * 25 * 38, tile: Some([16; 2]) };
        for (cut, count, chunks) in [(CUT, 10, 10), (tiled, 3, 6)] {
            let pixels = pixels();
            let strip = index(cut.strip);
            let mut whole = packing();
            let (due, lens) = whole.image(cut, &pixels).unwrap();
            assert_eq!(lens.lens.len(), chunks);
            for turn in 0..count {
                for step in [7, 400, 1000] {
                    let file = PackedFile::new(5);
                    let written = Mutex::new(vec![0; 5 + due.len()]);
                    let write = |at: u64, bytes: &[u8]| {
                        let at = index(at);
                        written.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
                        Ok(())
                    };
                    // The first tells; of the others, some come first, and one comes twice.
                    let others = (1..count).map(|k| 1 + (k + turn) % (count - 1));
                    for number in [0].into_iter().chain(others).chain([turn]) {
                        let mut packing = packing();
                        let end = (strip * (number + 1)).min(pixels.len());
                        let mut at = (strip * number) as u64;
                        for piece in pixels[strip * number..end].chunks(step) {
                            packing.pixels(IMAGE, cut, at, piece, &file, &write).unwrap();
                            at += piece.len() as u64;
                        }
                    }
                    assert_eq!(&file.finish(chunks as u64).unwrap(), lens);
                    assert!(written.into_inner().unwrap()[5..] == *due, "{turn} {step}");
                }
            }
        }
    }

    #[test]
    fn tiles_are_parts_of_rows_filled_up_with_zeros() {
        let strip: Vec<u8> = (0..2 * 5 * 4).collect();
        let mut tile = vec![9; 3];
        take_tile(&strip, 5, [4; 2], 4, &mut tile);
        assert_eq!(tile.len(), 64);
        assert_eq!(
            (&tile[..8], &tile[16..24]),
            (&[16, 17, 18, 19, 0, 0, 0, 0][..], &[36, 37, 38, 39, 0, 0, 0, 0][..])
        );
        assert!(tile[24..].iter().all(|&byte| byte == 0));
        take_tile(&strip, 5, [4; 2], 0, &mut tile);
        assert_eq!((&tile[..16], &tile[16..32]), (&strip[..16], &strip[20..36]));
    }

    #[test]
    fn what_does_not_come_strip_by_strip_is_an_error() {
        let pixels = pixels();
        let write = |_: u64, _: &[u8]| Ok(());
        let mut packing = packing();
        let file = PackedFile::new(0);
        let mut put = |at: u64, len: usize| {
            let from = index(at);
            packing.pixels(IMAGE, CUT, at, &pixels[from..from + len], &file, &write)
        };
        assert!(put(4, 396).unwrap_err().to_string().contains("within a strip"));
        assert!(put(400, 400).unwrap_err().to_string().contains("before the first"));
        // A strip that was begun is begun again.
        put(0, 200).unwrap();
        put(0, 200).unwrap();
        put(200, 600).unwrap();
        assert!(file.finish(10).unwrap_err().to_string().contains("2 of 10"));
    }

    #[test]
    fn a_write_that_fails_is_told() {
        let file = PackedFile::new(0);
        let write = |_: u64, _: &[u8]| Err(io::Error::other("planted"));
        let told = packing().pixels(IMAGE, CUT, 0, &pixels()[..400], &file, &write).unwrap_err();
        assert_eq!(told.to_string(), "planted");
    }
}
