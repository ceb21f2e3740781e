//! How the bytes of a tensor lie in its file, where they are not little-endian and in C order: they
//! are put so while they are read.

use std::ops::Range;

/// Most bytes that are read at once of which only some are wanted.
const SPAN: u64 = 256 << 10;

/// The order of axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Order {
    /// The last axis runs fastest.
    #[default]
    C,
    /// The first axis runs fastest.
    Fortran,
}

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Stored {
    pub(super) order: Order,
    /// Whether the bytes of each element are the other way round.
    pub(super) swapped: bool,
}

/// Fills a buffer from a byte of the tensor on, as it is in the file.
pub(super) type Fill<'f, E> = dyn FnMut(u64, &mut [u8]) -> Result<(), E> + 'f;

impl Stored {
    /// Whether bytes are as they are to be.
    pub(super) fn is_plain(self) -> bool {
        self == Stored::default()
    }

    /// Fills `buf` with bytes from `offset` on of the tensor as it is to be, of this shape, with
    /// elements of `size` bytes.
    pub(super) fn read<E>(
        self,
        shape: &[u64],
        size: u64,
        offset: u64,
        buf: &mut [u8],
        fill: &mut Fill<'_, E>,
    ) -> Result<(), E> {
        let end = offset + buf.len() as u64;
        if offset.is_multiple_of(size) && end.is_multiple_of(size) {
            match self.order {
                Order::C => fill(offset, buf)?,
                Order::Fortran => gather(shape, size, offset / size..end / size, buf, fill)?,
            }
            if self.swapped {
                swap(buf, size);
            }
            return Ok(());
        }
        // Parts of elements: whole ones first.
        let (first, last) = (offset / size * size, end.div_ceil(size) * size);
        let mut whole = vec![0; len(last - first)];
        self.read(shape, size, first, &mut whole, fill)?;
        let skipped = len(offset - first);
        buf.copy_from_slice(&whole[skipped..skipped + buf.len()]);
        Ok(())
    }
}

/// Puts elements of `size` bytes the other way round.
fn swap(bytes: &mut [u8], size: u64) {
    bytes.chunks_exact_mut(len(size)).for_each(<[u8]>::reverse);
}

/// Elements `wanted`, in C order, from a file in Fortran order, where those of a column of a plane lie at
/// equal distances: each column's are read together, with what lies between them.
fn gather<E>(
    shape: &[u64],
    size: u64,
    wanted: Range<u64>,
    buf: &mut [u8],
    fill: &mut Fill<'_, E>,
) -> Result<(), E> {
    let [axes @ .., height, width] = shape else { return fill(wanted.start * size, buf) };
    let row_step: u64 = axes.iter().product();
    let column_step = row_step * height;
    let plane = height * width;
    let mut span = Vec::new();
    let mut at = wanted.start;
    while at < wanted.end {
        // Up to the end of this plane.
        let (number, from) = (at / plane, at % plane);
        let to = plane.min(from + (wanted.end - at));
        let base = place(axes, number);
        for column in 0..*width {
            // The column's elements within: rows whose element lies from `from` on, and before `to`.
            let row_of = |element: u64| element.saturating_sub(column).div_ceil(*width);
            let rows = row_of(from)..row_of(to);
            let most = (SPAN / size / row_step).max(1);
            for first in rows.clone().step_by(len(most)) {
                let count = most.min(rows.end - first);
                span.resize(len(((count - 1) * row_step + 1) * size), 0);
                fill((base + column * column_step + first * row_step) * size, &mut span)?;
                for row in 0..count {
                    let source = len(row * row_step * size);
                    let target =
                        len((at - wanted.start + (first + row) * width + column - from) * size);
                    let size = len(size);
                    buf[target..target + size].copy_from_slice(&span[source..source + size]);
                }
            }
        }
        at += to - from;
    }
    Ok(())
}

/// Where plane number `number`, in C order over these axes, begins in a file in Fortran order.
fn place(axes: &[u64], mut number: u64) -> u64 {
    let mut step: u64 = axes.iter().product();
    let mut place = 0;
    for &axis in axes.iter().rev() {
        step /= axis;
        place += number % axis * step;
        number /= axis;
    }
    place
}

fn len(bytes: u64) -> usize {
    usize::try_from(bytes).expect("it is part of a buffer")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The elements of a file in Fortran order are their numbers there.
    fn check(shape: &[u64], swapped: bool) {
        let elements: u64 = shape.iter().product();
        let bytes = |number: u64| {
            let number = u32::try_from(number).unwrap();
            if swapped { number.to_be_bytes() } else { number.to_le_bytes() }
        };
        let file: Vec<u8> = (0..elements).flat_map(bytes).collect();
        // In C order, worked out one by one.
        let place = |mut at: u64| {
            let mut indices = vec![0; shape.len()];
            for (index, axis) in indices.iter_mut().zip(shape).rev() {
                *index = at % axis;
                at /= axis;
            }
            let step = |axis: usize| shape[..axis].iter().product::<u64>();
            indices.iter().enumerate().map(|(axis, index)| index * step(axis)).sum::<u64>()
        };
        let wanted: Vec<u8> =
            (0..elements).flat_map(|at| u32::try_from(place(at)).unwrap().to_le_bytes()).collect();
        let stored = Stored { order: Order::Fortran, swapped };
        for from in 0..wanted.len() {
            for to in [from, from + 1, from + 4, from + 13, wanted.len()] {
                let to = to.min(wanted.len());
                let mut buf = vec![0; to - from];
                let fill = &mut |at: u64, buf: &mut [u8]| -> Result<(), ()> {
                    let at = usize::try_from(at).unwrap();
                    buf.copy_from_slice(file.get(at..at + buf.len()).ok_or(())?);
                    Ok(())
                };
                stored.read(shape, 4, from as u64, &mut buf, fill).unwrap();
                assert_eq!(buf, wanted[from..to], "{shape:?}, {from} to {to}");
            }
        }
    }

    #[test]
    fn fortran_order_is_read_as_c_order() {
        for shape in [&[3, 4][..], &[2, 3, 4], &[5, 1, 3], &[1, 7, 2], &[4, 3, 2, 2], &[6, 1]] {
            check(shape, false);
            check(shape, true);
        }
    }

    #[test]
    fn long_columns_are_read_piece_by_piece() {
        let shape = [3, SPAN, 2];
        let elements = shape.iter().product::<u64>();
        let mut buf = vec![0; len(elements)];
        let mut longest = 0;
        let fill = &mut |at: u64, buf: &mut [u8]| -> Result<(), ()> {
            longest = longest.max(buf.len() as u64);
            assert!(at + buf.len() as u64 <= elements);
            buf.iter_mut().zip(at..).for_each(|(byte, at)| *byte = at.to_le_bytes()[0]);
            Ok(())
        };
        let stored = Stored { order: Order::Fortran, swapped: false };
        stored.read(&shape, 1, 0, &mut buf, fill).unwrap();
        assert!(longest <= SPAN, "{longest}");
        for at in (0..elements).step_by(997) {
            let (plane, row, column) = (at / (2 * SPAN), at / 2 % SPAN, at % 2);
            let place = plane + 3 * row + 3 * SPAN * column;
            assert_eq!(buf[len(at)], place.to_le_bytes()[0], "{at}");
        }
    }

    #[test]
    fn bytes_are_turned_element_by_element() {
        let mut bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        swap(&mut bytes, 4);
        assert_eq!(bytes, [4, 3, 2, 1, 8, 7, 6, 5]);
    }
}
