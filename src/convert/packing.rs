//! Packed strips on their way from blocks, which come in any order, to an image's file, where they lie in
//! order: so its bytes do not depend on who made what when.

use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::backend::ImageId;
use crate::encode::{Packed, Packer};

/// How images of a span are cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub(super) width: usize,
    /// Bytes of pixels: of a strip, and of an image.
    pub(super) strip: u64,
    pub(super) image: u64,
}

/// Packs on one thread.
#[derive(Debug)]
pub(super) struct Packing {
    packer: Packer,
    /// The image that was packed last, and its strips; or one strip.
    packed: Vec<u8>,
    strips: Packed,
    /// Pixels of a strip of which the rest is to come, and where in which image that begins.
    part: Vec<u8>,
    next: Option<(ImageId, u64)>,
}

impl Packing {
    pub(super) fn new(packer: Packer) -> Packing {
        let (packed, part) = Default::default();
        Packing { packer, packed, strips: Packed::default(), part, next: None }
    }

    /// Packs a whole image.
    pub(super) fn image(&mut self, cut: Cut, pixels: &[u8]) -> io::Result<(&[u8], &Packed)> {
        self.strips.lens.clear();
        let mut end = 0;
        for strip in pixels.chunks(index(cut.strip)) {
            if self.strips.lens.is_empty() {
                self.strips.is_predicted = self.packer.is_predicted(strip, cut.width)?;
            }
            let predicted = self.strips.is_predicted;
            let before = end;
            end = self.packer.pack(strip, cut.width, predicted, &mut self.packed, before)?;
            self.strips.lens.push((end - before) as u64);
        }
        Ok((&self.packed[..end], &self.strips))
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
            (0, _) => file.tell(self.packer.is_predicted(strip, cut.width)?),
            (_, Some(always)) => always,
            (_, None) => file.is_predicted()?,
        };
        let end = self.packer.pack(strip, cut.width, is_predicted, &mut self.packed, 0)?;
        file.put(number, &self.packed[..end], write)
    }
}

/// Writes bytes at a place of a file.
pub(super) type Write<'w> = dyn Fn(u64, &[u8]) -> io::Result<()> + 'w;

/// Where the packed strips of an image go that comes in blocks.
#[derive(Debug)]
pub(super) struct PackedFile(Mutex<Placed>);

#[derive(Debug)]
struct Placed {
    /// Of the strips that have their place, which are the first ones, how long they are; and where the next
    /// one goes.
    lens: Vec<u64>,
    end: u64,
    /// Strips that came before others in front of them.
    waiting: BTreeMap<u64, Vec<u8>>,
    is_predicted: Option<bool>,
}

impl PackedFile {
    /// Of an image whose strips begin there.
    pub(super) fn new(begin: u64) -> PackedFile {
        let (lens, waiting) = Default::default();
        PackedFile(Mutex::new(Placed { lens, end: begin, waiting, is_predicted: None }))
    }

    fn lock(&self) -> MutexGuard<'_, Placed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the first strip tells. It may come twice, and is the same.
    fn tell(&self, is_predicted: bool) -> bool {
        *self.lock().is_predicted.get_or_insert(is_predicted)
    }

    fn is_predicted(&self) -> io::Result<bool> {
        self.lock()
            .is_predicted
            .ok_or_else(|| io::Error::other("a strip came before the first one"))
    }

    /// Takes a strip, which may come twice. It is written now if all before it are, and those that waited for
    /// it are, too; else it waits for them.
    fn put(&self, number: u64, packed: &[u8], write: &Write<'_>) -> io::Result<()> {
        let mut placed = self.lock();
        let next = placed.lens.len() as u64;
        if number != next {
            if number > next {
                placed.waiting.entry(number).or_insert_with(|| packed.to_vec());
            }
            return Ok(());
        }
        let mut at = placed.place(packed);
        drop(placed);
        write(at, packed)?;
        loop {
            let mut placed = self.lock();
            let next = placed.lens.len() as u64;
            let Some(packed) = placed.waiting.remove(&next) else { return Ok(()) };
            at = placed.place(&packed);
            drop(placed);
            write(at, &packed)?;
        }
    }

    /// The strips, once all are there.
    pub(super) fn finish(self, strips: u64) -> io::Result<Packed> {
        let placed = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Placed { lens, is_predicted, .. } = placed;
        if lens.len() as u64 != strips {
            let problem = format!("{} of {strips} strips are there", lens.len());
            return Err(io::Error::other(problem));
        }
        Ok(Packed { lens, is_predicted: is_predicted.unwrap_or(false) })
    }
}

impl Placed {
    /// Where the next strip goes.
    fn place(&mut self, packed: &[u8]) -> u64 {
        let at = self.end;
        self.lens.push(packed.len() as u64);
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

    const CUT: Cut = Cut { width: 10, strip: 400, image: 4 * 10 * 95 };
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
        let pixels = pixels();
        let mut whole = packing();
        let (due, strips) = whole.image(CUT, &pixels).unwrap();
        assert_eq!(strips.lens.len(), 10);
        for turn in 0..10 {
            for step in [7, 400, 1000] {
                let file = PackedFile::new(5);
                let written = Mutex::new(vec![0; 5 + due.len()]);
                let write = |at: u64, bytes: &[u8]| {
                    let at = index(at);
                    written.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
                    Ok(())
                };
                // The first tells; of the others, some come first, and one comes twice.
                let order =
                    [0].into_iter().chain((1..10).map(|k| 1 + (k + turn) % 9)).chain([turn]);
                for number in order {
                    let mut packing = packing();
                    let strip = &pixels[400 * number..(400 * (number + 1)).min(pixels.len())];
                    let mut at = 400 * number as u64;
                    for piece in strip.chunks(step) {
                        packing.pixels(IMAGE, CUT, at, piece, &file, &write).unwrap();
                        at += piece.len() as u64;
                    }
                }
                assert_eq!(&file.finish(10).unwrap(), strips);
                assert!(written.into_inner().unwrap()[5..] == *due, "{turn} {step}");
            }
        }
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
