//! How the samples of a tensor lie in its file, where they are not little-endian bytes in C order: they
//! are put so while they are read. Those of less than a byte become a byte each.

use std::num::NonZeroU8;
use std::ops::Range;
use std::sync::Arc;

use super::reading::Complex;
use crate::tensor::Dtype;

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
    /// Where elements are two numbers: what is made of them.
    complex: Option<Complex>,
    /// Bits of an element, where that is less than a byte; such are in C order.
    bits: Option<NonZeroU8>,
}

/// Fills a buffer from a byte of the tensor on, as it is in the file.
pub(super) type Fill<'f, E> = dyn FnMut(u64, &mut [u8]) -> Result<(), E> + 'f;

impl Stored {
    /// In C order.
    pub(super) fn plain(swapped: bool) -> Stored {
        Stored { swapped, ..Stored::default() }
    }

    /// In C order, as safetensors packs elements of this type: each begins at the lowest bit that the one
    /// before leaves free.
    pub(super) fn packed(dtype: Dtype) -> Stored {
        let bits = u8::try_from(dtype.bits()).ok().filter(|bits| *bits < 8);
        Stored { bits: bits.and_then(NonZeroU8::new), ..Stored::default() }
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
        Stored { strides, swapped, ..Stored::default() }
    }

    /// The same, of elements that are two f32, of which one is made.
    pub(super) fn complex(self, complex: Complex) -> Stored {
        Stored { complex: Some(complex), ..self }
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
        if let Some(bits) = self.bits {
            return unpack(bits.get().into(), offset, buf, fill);
        }
        let end = offset + buf.len() as u64;
        if offset.is_multiple_of(size) && end.is_multiple_of(size) {
            if let Some(complex) = self.complex {
                return self.read_complex(complex, shape, offset, buf, fill);
            }
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

/// Bytes of an element that is two f32.
const PAIR: u64 = 8;
/// Most such elements that are read at once.
const PAIRS: usize = 32 << 10;

impl Stored {
    /// What is made of elements of two f32, from a byte of the results on.
    fn read_complex<E>(
        &self,
        complex: Complex,
        shape: &[u64],
        offset: u64,
        buf: &mut [u8],
        fill: &mut Fill<'_, E>,
    ) -> Result<(), E> {
        let plain = Stored { strides: self.strides.clone(), ..Stored::default() };
        let mut pairs = vec![0; PAIRS.min(buf.len() / 4) * len(PAIR)];
        let mut at = offset * 2;
        for results in buf.chunks_mut(4 * PAIRS) {
            let pairs = &mut pairs[..results.len() * 2];
            plain.read(shape, PAIR, at, pairs, fill)?;
            if self.swapped {
                swap(pairs, PAIR / 2);
            }
            let parts = pairs.as_chunks::<4>().0.as_chunks::<2>().0;
            for (result, [re, im]) in results.as_chunks_mut::<4>().0.iter_mut().zip(parts) {
                *result = complex.of(*re, *im);
            }
            at += pairs.len() as u64;
        }
        Ok(())
    }
}

/// Puts elements of `size` bytes the other way round.
fn swap(bytes: &mut [u8], size: u64) {
    bytes.chunks_exact_mut(len(size)).for_each(<[u8]>::reverse);
}

/// Fills `buf` with the elements from number `first` on, which have 4 or 6 bits each and need not begin
/// with a byte.
fn unpack<E>(bits: u64, first: u64, buf: &mut [u8], fill: &mut Fill<'_, E>) -> Result<(), E> {
    let mut packed = Vec::new();
    // Eight elements end with a byte.
    let most = len(SPAN / bits * 8);
    let mut number = first;
    for some in buf.chunks_mut(most) {
        let (begin, end) = (number * bits / 8, (number + some.len() as u64) * bits);
        packed.resize(len(end.div_ceil(8) - begin), 0);
        fill(begin, &mut packed)?;
        spread(bits, number, &packed, some);
        number += some.len() as u64;
    }
    Ok(())
}

/// Elements from number `first` on; `packed` begins with the byte that has its lowest bit. Measured: by
/// eights 16 and 4 times 10^9 elements a second (of 4 and 6 bits, in cache, without AVX2), one by one 0.2.
fn spread(bits: u64, first: u64, packed: &[u8], out: &mut [u8]) {
    let even = first.next_multiple_of(8);
    let lead = out.len().min(len(even - first));
    let (head, out) = out.split_at_mut(lead);
    one_by_one(bits, first * bits % 8, packed, head);
    if out.is_empty() {
        return;
    }
    let packed = &packed[len(even * bits / 8 - first * bits / 8)..];
    let (eights, rest) = out.as_chunks_mut::<8>();
    let done = eights.len() * len(bits);
    if bits == 4 {
        let pairs = eights.as_flattened_mut().as_chunks_mut::<2>().0;
        pairs.iter_mut().zip(packed).for_each(|(two, byte)| *two = [byte & 0xF, byte >> 4]);
    } else {
        let sixes = packed.as_chunks::<6>().0;
        eights.iter_mut().zip(sixes).for_each(|(eight, six)| *eight = eight_of_six(*six));
    }
    one_by_one(bits, 0, &packed[done..], rest);
}

/// Eight elements of 6 bits: halves are moved to the middle of the word, then theirs, then theirs.
fn eight_of_six([a, b, c, d, e, f]: [u8; 6]) -> [u8; 8] {
    let x = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
    let x = (x & 0xFF_FFFF) | (x & 0xFFFF_FF00_0000) << 8;
    let x = (x & 0x0FFF_0000_0FFF) | (x & 0x00FF_F000_00FF_F000) << 4;
    let x = (x & 0x003F_003F_003F_003F) | (x & 0x0FC0_0FC0_0FC0_0FC0) << 2;
    x.to_le_bytes()
}

/// Elements from bit `first` of `packed` on.
fn one_by_one(bits: u64, first: u64, packed: &[u8], out: &mut [u8]) {
    let mask = (1 << bits) - 1;
    for (k, element) in (0..).zip(out) {
        let at = first + k * bits;
        let byte = len(at / 8);
        let next = packed.get(byte + 1).copied().unwrap_or_default();
        let both = u16::from_le_bytes([packed[byte], next]);
        *element = (both >> (at % 8)).to_le_bytes()[0] & mask;
    }
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

    /// Numbers of samples and of the first one at which pieces begin and end, and reads that are as long as
    /// they need to be and no longer.
    #[test]
    fn packed_samples_are_read_piece_by_piece() {
        for dtype in [Dtype::F4, Dtype::F6E2m3] {
            let (bits, samples) = (dtype.bits(), 3 * SPAN);
            let end = samples * bits / 8;
            let byte = |at: u64| (at.wrapping_mul(0x9E37_79B9) >> 13).to_le_bytes()[0];
            let piece = SPAN / bits * 8;
            for first in [0, 1, 2, 3, 4, 5, 1001] {
                for count in [0, 1, 2, 3, piece - 1, piece, piece + 1, samples - first] {
                    let mut buf = vec![0; len(count)];
                    let mut next = first * bits / 8;
                    let fill = &mut |at: u64, buf: &mut [u8]| -> Result<(), ()> {
                        // A byte that holds the end of a piece and the begin of the next comes twice.
                        assert!(at == next || at + 1 == next, "{at}, not {next}");
                        assert!(buf.len() as u64 <= SPAN + 1 && at + buf.len() as u64 <= end);
                        buf.iter_mut().zip(at..).for_each(|(out, at)| *out = byte(at));
                        next = at + buf.len() as u64;
                        Ok(())
                    };
                    let stored = Stored::packed(dtype);
                    stored.read(&[samples], 1, first, &mut buf, fill).unwrap();
                    if count > 0 {
                        assert_eq!(next, ((first + count) * bits).div_ceil(8), "{first} {count}");
                    }
                    for (got, at) in buf.iter().zip(first..) {
                        let bit = |bit: u64| byte(bit / 8) >> (bit % 8) & 1;
                        let want = (0..bits).fold(0, |sum, k| sum | bit(at * bits + k) << k);
                        assert_eq!(*got, want, "{dtype} {at} from {first}");
                    }
                }
            }
        }
        assert!(Stored::packed(Dtype::F8E8m0).is_plain() && Stored::packed(Dtype::F64).is_plain());
        assert!(!Stored::packed(Dtype::F4).is_plain());
    }

    #[allow(clippy::cast_possible_truncation, reason = "a result that is rounded once")]
    #[test]
    fn of_complex_numbers_one_part_is_read_or_the_magnitude() {
        let (inf, nan) = (f32::INFINITY, f32::from_bits(0xFFC0_1234));
        let parts = [[3.0, -4.0], [1e30, 1e30], [nan, 2.0], [inf, nan], [-inf, 1.0], [1.5, 1e-20]];
        let file = |swapped: bool| -> Vec<u8> {
            let bytes = |x: f32| if swapped { x.to_be_bytes() } else { x.to_le_bytes() };
            parts.iter().flatten().flat_map(|x| bytes(*x)).collect()
        };
        for (complex, expected) in [
            (Complex::Re, parts.map(|[re, _]| re.to_bits())),
            (Complex::Im, parts.map(|[_, im]| im.to_bits())),
            (
                Complex::Abs,
                [5.0, (f64::from(1e30_f32).powi(2) * 2.0).sqrt() as f32, 0.0, 0.0, inf, 1.5]
                    .map(f32::to_bits),
            ),
        ] {
            for swapped in [false, true] {
                let file = file(swapped);
                let fill = &mut |at: u64, buf: &mut [u8]| -> Result<(), ()> {
                    buf.copy_from_slice(&file[len(at)..len(at) + buf.len()]);
                    Ok(())
                };
                let stored = Stored::fortran(&[2, 3], swapped).complex(complex);
                let mut buf = [0; 24];
                stored.read(&[2, 3], 4, 0, &mut buf, fill).unwrap();
                let found = buf.as_chunks::<4>().0.iter().map(|x| u32::from_le_bytes(*x));
                let found: Vec<u32> = found.collect();
                // Fortran order: columns of two.
                for (at, place) in [0, 2, 4, 1, 3, 5].into_iter().enumerate() {
                    let is_nan = parts[place].iter().any(|x| x.is_nan());
                    let [re, im] = parts[place].map(f32::is_nan);
                    let wanted = match complex {
                        Complex::Abs if is_nan => 0x7FC0_0000,
                        Complex::Re if re => 0x7FC0_0000,
                        Complex::Im if im => 0x7FC0_0000,
                        _ => expected[place],
                    };
                    assert_eq!(found[at], wanted, "{complex} of {:?}", parts[place]);
                }
                let mut part = [0; 7];
                stored.read(&[2, 3], 4, 5, &mut part, fill).unwrap();
                assert_eq!(part, buf[5..12]);
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
