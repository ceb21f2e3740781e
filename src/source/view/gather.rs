//! Elements that lie anywhere in a tensor, put into C order: read in spans, each with what lies between
//! its elements, and copied from there.
//!
//! Axes are ordered by how far apart neighbours on them lie. Those of the nearest make a span as long as
//! it stays dense and short enough for the second-level cache; the others are gone through span by span.

use std::array;
use std::ops::Range;

use multiversion::multiversion;

/// Most bytes of a span.
const SPAN: u64 = 256 << 10;
/// A span may have so many times as many bytes as are wanted of it, beside a page for each stretch: to
/// skip less than that is no cheaper than to read it.
const SPARSE: u64 = 4;
const PAGE: u64 = 4096;

/// What is filled: elements in C order, with room of `gap` of them behind each plane of the last two axes.
#[derive(Debug)]
pub(super) struct Out<'o> {
    pub(super) bytes: &'o mut [u8],
    pub(super) gap: u64,
}

impl<'o> From<&'o mut [u8]> for Out<'o> {
    fn from(bytes: &'o mut [u8]) -> Out<'o> {
        Out { bytes, gap: 0 }
    }
}

/// An axis: its length, and how far neighbours on it are apart in the tensor, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Axis {
    pub(super) len: u64,
    pub(super) step: i64,
}

/// Fills a buffer from a byte of the tensor on.
pub(super) type Read<'f, E> = dyn FnMut(u64, &mut [u8]) -> Result<(), E> + 'f;

/// An axis in the order of the tensor: from neighbour to neighbour there, and in the result.
#[derive(Debug, Clone, Copy)]
struct Loop {
    len: usize,
    from: usize,
    to: isize,
}

/// Fills `out` with elements of `size` bytes, in C order over `axes`; the first of all is number `first`
/// of the tensor. `span` is room to be used again. All elements have to be in the tensor, which has less
/// than 2^63 bytes of them, and `out` has room for as many as there are.
pub(super) fn gather<E>(
    axes: &[Axis],
    first: u64,
    size: usize,
    out: Out<'_>,
    span: &mut Vec<u8>,
    read: &mut Read<'_, E>,
) -> Result<(), E> {
    let (loops, first, begin) = loops(axes, first, out.gap);
    let out = out.bytes;
    let (fine, some) = fine(&loops, size as u64);
    let mut gathering = Gathering { fine: &loops[..fine], some, size, out, span, read };
    gathering.spans(&loops[fine..], first, begin)
}

/// The axes as loops, the nearest neighbours first, and where the first element of all of them is, there
/// and here.
fn loops(axes: &[Axis], mut first: u64, gap: u64) -> (Vec<Loop>, u64, isize) {
    let (mut loops, mut begin, mut to) = (Vec::<Loop>::new(), 0, 1);
    for (behind, axis) in axes.iter().rev().enumerate() {
        if behind == 2 {
            to += at(gap).cast_signed();
        }
        let len = at(axis.len);
        if len > 1 {
            let back = axis.step < 0;
            if back {
                first -= axis.step.unsigned_abs() * (axis.len - 1);
                begin += to * (len - 1).cast_signed();
            }
            let this =
                Loop { len, from: at(axis.step.unsigned_abs()), to: if back { -to } else { to } };
            match loops.last_mut() {
                // Both go on from this one's end to the next one's begin.
                Some(last) if joins(last, &this) => last.len *= len,
                _ => loops.push(this),
            }
        }
        to *= len.cast_signed();
    }
    loops.sort_by_key(|axis| (axis.from, axis.to.unsigned_abs()));
    (loops, first, begin)
}

fn joins(inner: &Loop, outer: &Loop) -> bool {
    outer.from == inner.from * inner.len && outer.to == inner.to * inner.len.cast_signed()
}

/// How many of the loops make a span, and how many steps of the next one, where that has too many for one
/// span and is cut.
fn fine(loops: &[Loop], size: u64) -> (usize, Option<usize>) {
    let most = SPAN / size;
    let (mut span, mut wanted) = (1_u64, 1_u64);
    for (at, axis) in loops.iter().enumerate() {
        let (step, all) = (axis.from as u64, axis.len as u64);
        if step > (wanted * SPARSE).max(span) + PAGE / size {
            return (at, None);
        }
        let some = most.saturating_sub(span) / step.max(1) + 1;
        if some < all {
            let some = usize::try_from(some).expect("fewer than all");
            return (at, (some > 1).then_some(some));
        }
        span += step * (all - 1);
        wanted = wanted.saturating_mul(all);
    }
    (loops.len(), None)
}

struct Gathering<'a, 'f, E> {
    fine: &'a [Loop],
    some: Option<usize>,
    size: usize,
    out: &'a mut [u8],
    span: &'a mut Vec<u8>,
    read: &'a mut Read<'f, E>,
}

impl<E> Gathering<'_, '_, E> {
    /// Goes through the coarse loops, the farthest neighbours outermost.
    fn spans(&mut self, coarse: &[Loop], first: u64, begin: isize) -> Result<(), E> {
        let Some((last, coarse)) = coarse.split_last() else {
            return self.one(self.fine.to_vec(), first, begin);
        };
        let some = if coarse.is_empty() { self.some } else { None };
        for k in (0..last.len).step_by(some.unwrap_or(1)) {
            let (first, begin) =
                (first + last.from as u64 * k as u64, begin + last.to * k.cast_signed());
            match some {
                None => self.spans(coarse, first, begin)?,
                Some(some) => {
                    let cut = Loop { len: some.min(last.len - k), ..*last };
                    self.one([self.fine, &[cut]].concat(), first, begin)?;
                }
            }
        }
        Ok(())
    }

    /// Reads a span and copies what is wanted of it.
    fn one(&mut self, mut fine: Vec<Loop>, first: u64, begin: isize) -> Result<(), E> {
        let size = self.size;
        let len = 1 + fine.iter().map(|axis| (axis.len - 1) * axis.from).sum::<usize>();
        let byte = first * size as u64;
        let begin = begin.cast_unsigned();
        // What is one run, there and here, is read to where it is to be.
        if let [] | [Loop { from: 1, to: 1, .. }] = fine[..] {
            let here = begin * size..(begin + len) * size;
            return (self.read)(byte, &mut self.out[here]);
        }
        self.span.resize(len * size, 0);
        (self.read)(byte, self.span)?;
        match size {
            1 => copy::<1>(&mut fine, self.span, self.out, begin),
            2 => copy::<2>(&mut fine, self.span, self.out, begin),
            4 => copy::<4>(&mut fine, self.span, self.out, begin),
            _ => copy::<8>(&mut fine, self.span, self.out, begin),
        }
        Ok(())
    }
}

/// Copies elements of N bytes: loops over all but two axes, the one along which neighbours are nearest
/// there, and the one along which they are nearest here.
fn copy<const N: usize>(loops: &mut Vec<Loop>, span: &[u8], out: &mut [u8], begin: usize) {
    let (span, out) = (span.as_chunks::<N>().0, out.as_chunks_mut::<N>().0);
    let near = loops.remove(0);
    let nearest = loops.iter().enumerate().min_by_key(|(_, axis)| axis.to.unsigned_abs());
    let across = match nearest {
        Some((at, axis)) if axis.to.unsigned_abs() < near.to.unsigned_abs() => loops.remove(at),
        _ => Loop { len: 1, from: 0, to: 0 },
    };
    each(loops, 0, begin.cast_signed(), &mut |from, to| {
        plane(&near, &across, &span[from..], out, to);
    });
}

/// Calls `work` for each place that the loops come to.
fn each(loops: &[Loop], from: usize, to: isize, work: &mut dyn FnMut(usize, isize)) {
    let Some((last, loops)) = loops.split_last() else {
        return work(from, to);
    };
    for k in 0..last.len {
        each(loops, from + k * last.from, to + k.cast_signed() * last.to, work);
    }
}

/// Elements that are turned at once: so many neighbours there, of each of so many that are neighbours here,
/// which are a whole line of the cache or more.
const THERE: usize = 8;
const HERE: usize = 16;

fn plane<E: Copy>(near: &Loop, across: &Loop, span: &[E], out: &mut [E], begin: isize) {
    let place = |x: usize, y: usize| {
        let to = begin + x.cast_signed() * near.to + y.cast_signed() * across.to;
        to.cast_unsigned()
    };
    if across.to == 1 && near.from == 1 && near.len == across.from {
        let to = |x: usize| place(x, 0)..place(x, 0) + across.len;
        let all = &span[..near.len * across.len];
        let done = match near.len {
            2 => few::<E, 2>(all, out.get_disjoint_mut(array::from_fn(to)).ok()),
            3 => few::<E, 3>(all, out.get_disjoint_mut(array::from_fn(to)).ok()),
            4 => few::<E, 4>(all, out.get_disjoint_mut(array::from_fn(to)).ok()),
            _ => false,
        };
        if done {
            return;
        }
    }
    let (mut xs, mut ys) = (0, 0);
    if near.from == 1 && across.to == 1 && near.to > 0 {
        (xs, ys) = (near.len - near.len % THERE, across.len - across.len % HERE);
        // Along a few lines here at a time: 1.1 ns an element, and 2.7 with the loops exchanged.
        for x in (0..xs).step_by(THERE) {
            for y in (0..ys).step_by(HERE) {
                let there = &span[y * across.from + x..];
                turn(there, across.from, &mut out[place(x, y)..], near.to.unsigned_abs());
            }
        }
    }
    let mut rest = |xs: Range<usize>, ys: Range<usize>| {
        for x in xs {
            for y in ys.clone() {
                out[place(x, y)] = span[x * near.from + y * across.from];
            }
        }
    };
    // Where nothing was turned, that is all.
    let (xs, ys) = if ys == 0 { (0, 0) } else { (xs, ys) };
    rest(xs..near.len, 0..across.len);
    rest(0..xs, ys..across.len);
}

/// Puts elements apart that alternate, as the samples of a few channels do: the first of each C to the first
/// of `outs`, and so on. False without those. (Three channels of u8: 0.02 ns an element with AVX2, 0.38 one
/// by one; of f32 0.07 and 0.15.)
#[multiversion(targets("x86_64+avx2"))]
fn few<E: Copy, const C: usize>(span: &[E], outs: Option<[&mut [E]; C]>) -> bool {
    let Some(outs) = outs else { return false };
    let span = span.as_chunks::<C>().0;
    assert!(outs.iter().all(|out| out.len() == span.len()), "each gets one of each C");
    for at in 0..span.len() {
        for c in 0..C {
            outs[c][at] = span[at][c];
        }
    }
    true
}

/// Turns some elements: line y there becomes column y here.
#[inline]
fn turn<E: Copy>(span: &[E], from: usize, out: &mut [E], to: usize) {
    let line = |y: usize| -> &[E; THERE] {
        span[y * from..].first_chunk().expect("all elements are there")
    };
    let lines: [&[E; THERE]; HERE] = array::from_fn(line);
    for x in 0..THERE {
        let here: &mut [E; HERE] =
            out[x * to..].first_chunk_mut().expect("there is room for all elements");
        *here = array::from_fn(|y| lines[y][x]);
    }
}

fn at(number: u64) -> usize {
    usize::try_from(number).expect("it is part of a buffer, or of a tensor that was found to fit")
}
