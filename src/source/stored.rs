//! How the bytes of a tensor lie in its file, where they are not little-endian and in C order: they
//! are put so while they are read.

use std::ops::Range;
use std::sync::Arc;

/// Most bytes that are read at once of which only some are wanted.
const SPAN: u64 = 256 << 10;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Stored {
    /// How far elements that are neighbours on an axis are apart, for each axis, in elements; `None`
    /// in C order.
    strides: Option<Arc<[u64]>>,
    /// Whether the bytes of each element are the other way round.
    swapped: bool,
}

/// Fills a buffer from a byte of the tensor on, as it is in the file.
pub(super) type Fill<'f, E> = dyn FnMut(u64, &mut [u8]) -> Result<(), E> + 'f;

impl Stored {
    /// In C order.
    pub(super) fn plain(swapped: bool) -> Stored {
        Stored { strides: None, swapped }
    }

    /// In Fortran order: the first axis runs fastest.
    pub(super) fn fortran(shape: &[u64], swapped: bool) -> Stored {
        let strides: Vec<u64> = shape
            .iter()
            .scan(1_u64, |step, axis| {
                let this = *step;
                *step = step.saturating_mul(*axis);
                Some(this)
            })
            .collect();
        Stored::strided(shape, &strides, swapped)
    }

    /// With these strides, of which no element lies beyond 2^64.
    pub(super) fn strided(shape: &[u64], strides: &[u64], swapped: bool) -> Stored {
        let mut step: u64 = 1;
        let is_c = shape.iter().zip(strides).rev().all(|(&axis, &stride)| {
            let fits = axis <= 1 || stride == step;
            step = step.saturating_mul(axis);
            fits
        });
        let is_empty = shape.contains(&0);
        let strides = if is_c || is_empty { None } else { Some(strides.into()) };
        Stored { strides, swapped }
    }

    /// Whether bytes are as they are to be.
    pub(super) fn is_plain(&self) -> bool {
        *self == Stored::default()
    }

    /// Fills `buf` with bytes from `offset` on of the tensor as it is to be, of this shape, with
    /// elements of `size` bytes.
    pub(super) fn read<E>(
        &self,
        shape: &[u64],
        size: u64,
        offset: u64,
        buf: &mut [u8],
        fill: &mut Fill<'_, E>,
    ) -> Result<(), E> {
        let end = offset + buf.len() as u64;
        if offset.is_multiple_of(size) && end.is_multiple_of(size) {
            match &self.strides {
                None => fill(offset, buf)?,
                Some(strides) => {
                    gather(shape, strides, size, offset / size..end / size, buf, fill)?;
                }
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

/// Elements `wanted`, in C order. Those of a plane are read in lines along the axis on which neighbours
/// are nearer, each line with what lies between its elements.
fn gather<E>(
    shape: &[u64],
    strides: &[u64],
    size: u64,
    wanted: Range<u64>,
    buf: &mut [u8],
    fill: &mut Fill<'_, E>,
) -> Result<(), E> {
    // A tensor of one axis is a plane of one row.
    let (axes, height, width) = match shape {
        [axes @ .., height, width] => (axes, *height, *width),
        [width] => (&[][..], 1, *width),
        [] => return fill(wanted.start * size, buf),
    };
    let (outer, last) = strides.split_at(axes.len());
    let (row_step, column_step) = match last {
        [row, column, ..] => (*row, *column),
        [column] => (0, *column),
        [] => (0, 0),
    };
    let plane = height * width;
    let mut span = Vec::new();
    let mut at = wanted.start;
    while at < wanted.end {
        // Up to the end of this plane.
        let (number, from) = (at / plane, at % plane);
        let to = plane.min(from + (wanted.end - at));
        let base = place(axes, outer, number);
        // Where the element of a row and column is to be.
        let target =
            |row: u64, column: u64| len((at - wanted.start + row * width + column - from) * size);
        let mut line =
            |first: u64, count: u64, step: u64, target: &dyn Fn(u64) -> usize, buf: &mut [u8]| {
                let most = (SPAN / size / step.max(1)).max(1);
                let mut done = 0;
                while done < count {
                    let some = most.min(count - done);
                    span.resize(len(((some - 1) * step + 1) * size), 0);
                    fill((base + first + done * step) * size, &mut span)?;
                    for k in 0..some {
                        let (source, target, size) =
                            (len(k * step * size), target(done + k), len(size));
                        buf[target..target + size].copy_from_slice(&span[source..source + size]);
                    }
                    done += some;
                }
                Ok(())
            };
        if row_step < column_step {
            for column in 0..width {
                // Rows whose element lies from `from` on, and before `to`.
                let row_of = |element: u64| element.saturating_sub(column).div_ceil(width);
                let (first, end) = (row_of(from), row_of(to));
                let place = first * row_step + column * column_step;
                let target = |k| target(first + k, column);
                line(place, end - first, row_step, &target, buf)?;
            }
        } else {
            for row in from / width..to.div_ceil(width) {
                let first = from.saturating_sub(row * width);
                let end = width.min(to - row * width);
                let place = row * row_step + first * column_step;
                let target = |k| target(row, first + k);
                line(place, end - first, column_step, &target, buf)?;
            }
        }
        at += to - from;
    }
    Ok(())
}

/// Where plane number `number`, in C order over these axes, begins.
fn place(axes: &[u64], strides: &[u64], mut number: u64) -> u64 {
    let mut place = 0;
    for (axis, stride) in axes.iter().zip(strides).rev() {
        place += number % axis * stride;
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

    /// The elements of a file are their numbers there.
    fn check(shape: &[u64], strides: &[u64], swapped: bool) {
        let elements: u64 = shape.iter().product();
        let last: u64 = shape.iter().zip(strides).map(|(axis, step)| (axis - 1) * step).sum();
        let bytes = |number: u64| {
            let number = u32::try_from(number).unwrap();
            if swapped { number.to_be_bytes() } else { number.to_le_bytes() }
        };
        let file: Vec<u8> = (0..=last).flat_map(bytes).collect();
        // In C order, worked out one by one.
        let place = |mut at: u64| {
            let mut place = 0;
            for (axis, step) in shape.iter().zip(strides).rev() {
                place += at % axis * step;
                at /= axis;
            }
            place
        };
        let wanted: Vec<u8> =
            (0..elements).flat_map(|at| u32::try_from(place(at)).unwrap().to_le_bytes()).collect();
        let stored = Stored::strided(shape, strides, swapped);
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
                assert_eq!(buf, wanted[from..to], "{shape:?}, {strides:?}, {from} to {to}");
            }
        }
    }

    #[test]
    fn any_strides_are_read_as_c_order() {
        for shape in [&[3, 4][..], &[2, 3, 4], &[5, 1, 3], &[1, 7, 2], &[4, 3, 2, 2], &[6, 1], &[7]]
        {
            let fortran = Stored::fortran(shape, false).strides;
            let fortran = fortran.map_or_else(|| vec![1; shape.len()], |strides| strides.to_vec());
            // Every second element, all the same, rows that overlap, a row for all.
            let many: [Vec<u64>; 5] = [
                fortran,
                (0..shape.len() as u64).map(|axis| 2 * (axis + 1)).collect(),
                vec![0; shape.len()],
                vec![1; shape.len()],
                (0..shape.len() as u64).map(|axis| axis * 3).collect(),
            ];
            for strides in many {
                check(shape, &strides, false);
                check(shape, &strides, true);
            }
        }
    }

    #[test]
    fn what_is_in_c_order_is_plain() {
        for (shape, strides) in
            [(&[2, 3][..], &[3, 1][..]), (&[1, 3], &[77, 1]), (&[], &[]), (&[0, 5], &[9, 9])]
        {
            assert!(Stored::strided(shape, strides, false).is_plain(), "{shape:?}");
        }
        assert!(!Stored::strided(&[2, 3], &[1, 2], false).is_plain());
        assert!(!Stored::plain(true).is_plain());
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
        let stored = Stored::fortran(&shape, false);
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
