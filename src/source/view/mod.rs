//! Tensors as a layout shows them: other axes, some of their indices, turned round, combined.
//!
//! A view is a source like the one that it is of: what comes after it knows nothing of layouts. Planes
//! that lie in one piece are read straight from there (`gather`); those whose samples lie between the
//! samples of others, as in the order NHWC, are made together with them (`groups`).

mod gather;
mod groups;
mod layout;
mod reduce;
mod shape;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::thread;

pub use layout::Layout;

use super::{Reading, Source, past_end};
use crate::error::Error;
use crate::tensor::{Dump, Origin, TensorInfo, Unsupported};
use gather::{Axis, Out, gather};
use groups::Groups;
use reduce::{Reducing, moved};
use shape::{Shape, Shown, show};

/// Bytes that groups of images may take, beside two planes for each core.
const GROUPS: u64 = 48 << 20;

/// Images of more samples are read twice, once for their range.
const READ_TWICE: u64 = 1 << 20;

/// A source whose tensors are shown by a [`Layout`].
///
/// ```
/// use tensortiff::{Dtype, Layout, MemorySource, Source, View};
/// let hwc = MemorySource::new("m").with("a", Dtype::U8, &[1, 2, 3], vec![1, 2, 3, 4, 5, 6])?;
/// let mut layout = Layout::default();
/// layout.add("layout", "HWC")?;
/// let view = View::new(hwc, layout);
/// assert_eq!(view.tensors()[0].shape, [3, 1, 2]);
/// let mut samples = [0; 6];
/// view.read_at(0, 0, &mut samples)?;
/// assert_eq!(samples, [1, 4, 2, 5, 3, 6]);
/// # Ok::<(), tensortiff::Error>(())
/// ```
#[derive(Debug)]
pub struct View<S> {
    of: S,
    layout: Layout,
    tensors: Vec<TensorInfo>,
    /// Of each tensor; `None`: its bytes are as they are.
    ways: Vec<Option<Way>>,
    groups: Groups,
    /// Room for spans.
    spans: Mutex<Vec<Vec<u8>>>,
}

/// How a tensor's images are come by.
#[derive(Debug)]
struct Way {
    shape: Shape,
    /// `None`: each plane by itself.
    grouped: Option<Vec<Role>>,
}

/// What an axis of indices is to groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Each index has groups of its own.
    Apart,
    /// So many indices are together.
    Together(u64),
}

/// Where an image is in its group.
struct Member {
    /// Number of the group.
    group: u64,
    /// The element that comes first in it.
    first: u64,
    /// The axes of the images in it, and which of them, in C order, this is.
    axes: Vec<Axis>,
    number: u64,
}

impl<S: Source> View<S> {
    /// The tensors of `of`, shown by `layout`. Those that do not fit it are shown with the reason, and give
    /// no images.
    pub fn new(of: S, layout: Layout) -> View<S> {
        let (mut tensors, mut ways) = (of.tensors().to_vec(), Vec::new());
        let mut most = 0;
        if !layout.is_default() {
            for tensor in &mut tensors {
                let Shown { info, shape } = show(tensor, &layout);
                most = most.max(shape.as_ref().map_or(0, |shape| memory(shape, tensor)));
                ways.push(shape);
                *tensor = info;
            }
        }
        let way = |(shape, tensor): (Option<Shape>, &TensorInfo)| {
            shape.map(|shape| Way { grouped: grouped(&shape, tensor, most), shape })
        };
        let ways = ways.into_iter().zip(of.tensors()).map(way).collect();
        View { of, layout, tensors, ways, groups: Groups::new(most), spans: Mutex::default() }
    }

    /// The same with so many bytes at most for images that are made together: where those take more, fewer
    /// of them are, and samples are read more often.
    #[must_use]
    pub fn within(self, bytes: u64) -> View<S> {
        let most = self.groups.most().min(bytes);
        let way = |(way, tensor): (Option<Way>, &TensorInfo)| {
            way.map(|Way { shape, .. }| Way { grouped: grouped(&shape, tensor, most), shape })
        };
        let ways = self.ways.into_iter().zip(self.of.tensors()).map(way).collect();
        View { ways, groups: Groups::new(most), ..self }
    }

    /// What it is a view of.
    pub fn source(&self) -> &S {
        &self.of
    }

    /// Calls `work` with room for a span.
    fn with_span<T>(&self, work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let spans = || self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let mut span = spans().pop().unwrap_or_default();
        let outcome = work(&mut span);
        spans().push(span);
        outcome
    }

    /// Fills `out` with the samples `wanted` of a plane.
    fn plane(
        &self,
        tensor: usize,
        way: &Way,
        index: u64,
        wanted: Range<u64>,
        out: &mut [u8],
    ) -> Result<(), Error> {
        if let Some(roles) = &way.grouped {
            return self.grouped(tensor, (way, roles), index, wanted, out);
        }
        let (first, plane) = (way.shape.first_of(index), way.shape.plane);
        let dtype = self.of.tensors()[tensor].dtype;
        let read = &mut |at, buf: &mut [u8]| self.of.read_at(tensor, at, buf);
        let size = self.tensors[tensor].dtype.size();
        self.with_span(|span| {
            let mut done = 0;
            for (axes, first) in rows(plane, first, wanted) {
                let bytes = len(axes[0].len * axes[1].len) * size;
                let out = &mut out[done..done + bytes];
                match way.shape.reduce {
                    None => gather(&axes, first, size, out.into(), span, read)?,
                    Some((axis, how)) => {
                        Reducing { axis, how, dtype, span }.read(axes, first, out, read)?;
                    }
                }
                done += bytes;
            }
            Ok(())
        })
    }

    /// The same, of an image that is made with others.
    fn grouped(
        &self,
        tensor: usize,
        (way, roles): (&Way, &[Role]),
        index: u64,
        wanted: Range<u64>,
        out: &mut [u8],
    ) -> Result<(), Error> {
        let Shape { plane, .. } = way.shape;
        let member = way.shape.member(roles, index);
        let images: u64 = member.axes.iter().map(|axis| axis.len).product();
        let size = self.tensors[tensor].dtype.size();
        let bytes = images * plane[0].len * plane[1].len * size as u64;
        let far = far(&plane);
        let passes = if plane[0].len * plane[1].len > READ_TWICE { 2 } else { 1 };
        let all = passes * bytes / size as u64;
        let group = self.groups.group((tensor, member.group), bytes, plane[far].len, all);
        let mut make = |slab: usize| {
            let stretch = group.stretch(slab);
            let mut axes = member.axes.clone();
            axes.extend(plane);
            let at = axes.len() - 2 + far;
            axes[at].len = stretch.end - stretch.start;
            let first = moved(member.first, plane[far].step, stretch.start);
            let (room_of_one, gap) = room(axes[at].len * plane[1 - far].len, size);
            let mut room = self.groups.room(len(images * room_of_one) * size);
            let out = Out { bytes: &mut room, gap };
            let read = &mut |at, buf: &mut [u8]| self.of.read_at(tensor, at, buf);
            self.with_span(|span| gather(&axes, first, size, out, span, read))?;
            Ok::<_, Error>(room)
        };
        let width = plane[1].len;
        let lines = wanted.start / width..wanted.end.div_ceil(width);
        let places = if far == 0 { lines.clone() } else { 0..width };
        for number in group.slabs(&places) {
            let slab = group.slab(number, &mut make)?;
            let stretch = group.stretch(number);
            let (rows, columns) =
                if far == 0 { (stretch, 0..width) } else { (0..plane[0].len, stretch) };
            let across = columns.end - columns.start;
            let before = member.number * room((rows.end - rows.start) * across, size).0;
            // Runs of it, here and in the slab: all its rows at once where they are whole.
            let run = |row: Range<u64>, slab: &[u8], out: &mut [u8]| {
                let run = row.start * width + columns.start..(row.end - 1) * width + columns.end;
                let (begin, end) = (run.start.max(wanted.start), run.end.min(wanted.end));
                if begin < end {
                    let there = before + (row.start - rows.start) * across + (begin - run.start);
                    let count = len(end - begin) * size;
                    let (there, here) = (len(there) * size, len(begin - wanted.start) * size);
                    out[here..here + count].copy_from_slice(&slab[there..there + count]);
                }
            };
            if far == 0 {
                run(rows.clone(), &slab, out);
            } else {
                lines.clone().for_each(|row| run(row..row + 1, &slab, out));
            }
        }
        self.groups.was_read(group, wanted.end - wanted.start);
        Ok(())
    }
}

/// Elements that a part of a plane, of so many, takes in a slab, and how many of those are a gap: where
/// planes begin at a power of 2 from each other, all of them meet in a few lines of the cache.
fn room(elements: u64, size: usize) -> (u64, u64) {
    const LINE: u64 = 64;
    let line = LINE / size as u64;
    let room = elements.next_multiple_of(line) + line;
    (room, room - elements)
}

impl<S: Source> Source for View<S> {
    fn dumps(&self) -> &[Dump] {
        self.of.dumps()
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn unsupported(&self) -> &[Unsupported] {
        self.of.unsupported()
    }

    fn metadata(&self, dump: usize) -> &BTreeMap<String, String> {
        self.of.metadata(dump)
    }

    fn reading(&self) -> &Reading {
        self.of.reading()
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn memory(&self) -> u64 {
        self.of.memory() + self.groups.most()
    }

    fn origins(&self, dump: usize) -> Vec<Origin> {
        self.of.origins(dump)
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        self.of.check_unchanged()
    }

    fn stored_bytes(&self, tensor: usize) -> u64 {
        self.of.stored_bytes(tensor)
    }

    fn read_stored(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.of.read_stored(tensor, offset, buf)
    }

    fn read_at(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let Some(Some(way)) = self.ways.get(tensor) else {
            return self.of.read_at(tensor, offset, buf);
        };
        let info = &self.tensors[tensor];
        let end = offset.checked_add(buf.len() as u64).filter(|end| Some(*end) <= info.bytes());
        let Some(end) = end else {
            return Err(past_end(&self.of.dumps()[info.dump], info, offset, buf.len()));
        };
        let size = info.dtype.size() as u64;
        let (from, to) = (offset / size, end.div_ceil(size));
        if !offset.is_multiple_of(size) || !end.is_multiple_of(size) {
            // Parts of samples: whole ones first.
            let mut whole = vec![0; len((to - from) * size)];
            self.read_at(tensor, from * size, &mut whole)?;
            let skipped = len(offset - from * size);
            buf.copy_from_slice(&whole[skipped..skipped + buf.len()]);
            return Ok(());
        }
        let plane = way.shape.plane[0].len * way.shape.plane[1].len;
        let mut at = from;
        while at < to {
            let (index, begin) = (at / plane, at % plane);
            let wanted = begin..plane.min(begin + (to - at));
            let count = wanted.end - wanted.start;
            let here = len((at - from) * size)..len((at - from + count) * size);
            self.plane(tensor, way, index, wanted, &mut buf[here])?;
            at += count;
        }
        Ok(())
    }
}

/// The axis of a plane along which neighbours are farther apart.
fn far(plane: &[Axis; 2]) -> usize {
    usize::from(plane[1].step.unsigned_abs() > plane[0].step.unsigned_abs() && plane[1].len > 1)
}

/// Parts of a plane that cover some of its samples in C order: a part of a row, whole rows, a part of a row.
/// Each is of two axes and begins at an element.
fn rows(
    plane: [Axis; 2],
    first: u64,
    wanted: Range<u64>,
) -> impl Iterator<Item = ([Axis; 2], u64)> {
    let [rows, columns] = plane;
    let width = columns.len;
    let mut at = wanted.start;
    std::iter::from_fn(move || {
        let (row, column) = (at / width, at % width);
        let left = wanted.end.checked_sub(at).filter(|left| *left > 0)?;
        let first = moved(moved(first, rows.step, row), columns.step, column);
        let (lines, len) = match left / width {
            whole if column == 0 && whole > 0 => (whole, width),
            _ => (1, left.min(width - column)),
        };
        at += lines * len;
        Some(([Axis { len: lines, ..rows }, Axis { len, ..columns }], first))
    })
}

/// Bytes that the groups of a tensor are to take at most: two of them, but no more than planes that
/// threads have under way anyhow.
fn memory(shape: &Shape, info: &TensorInfo) -> u64 {
    let Some((together, plane)) = together(shape, info) else { return 0 };
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let most = GROUPS.saturating_add(plane.saturating_mul(2 * cores));
    together.saturating_mul(plane).saturating_mul(2).min(most)
}

/// How many images lie among each other, and the bytes of one; `None` where each plane can be read by
/// itself as well.
fn together(shape: &Shape, info: &TensorInfo) -> Option<(u64, u64)> {
    let near = shape.index.iter().filter(|axis| shape.is_near(axis));
    let together = near.map(|axis| axis.len).product::<u64>();
    let turned = far(&shape.plane) == 1;
    let bytes = shape.plane[0].len * shape.plane[1].len * info.dtype.size() as u64;
    (shape.reduce.is_none() && (together > 1 || turned)).then_some((together, bytes))
}

/// The roles of the axes where images are made together, in groups of no more than half of `most` bytes.
fn grouped(shape: &Shape, info: &TensorInfo, most: u64) -> Option<Vec<Role>> {
    let (_, plane) = together(shape, info)?;
    let mut left = most / 2 / plane;
    if left == 0 {
        return None; // Images as large as all memory that there is for it.
    }
    let mut roles = vec![Role::Apart; shape.index.len()];
    for (axis, role) in shape.index.iter().zip(&mut roles).rev() {
        if left > 1 && shape.is_near(axis) {
            *role = Role::Together(axis.len.min(left));
            left = if left >= axis.len { left / axis.len } else { 1 };
        }
    }
    Some(roles)
}

impl Shape {
    /// Whether the images along an axis of indices lie among each other.
    fn is_near(&self, axis: &Axis) -> bool {
        axis.len > 1 && axis.step.unsigned_abs() < self.plane[far(&self.plane)].step.unsigned_abs()
    }

    /// The indices of an image, innermost first, with their axes' numbers.
    fn indices(&self, mut index: u64) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.index.iter().enumerate().rev().map(move |(number, axis)| {
            let at = index % axis.len;
            index /= axis.len;
            (number, at)
        })
    }

    /// The element with which an image begins.
    fn first_of(&self, index: u64) -> u64 {
        self.indices(index)
            .fold(self.first, |first, (number, at)| moved(first, self.index[number].step, at))
    }

    fn member(&self, roles: &[Role], index: u64) -> Member {
        let mut member = Member { group: 0, first: self.first, axes: Vec::new(), number: 0 };
        let (mut groups, mut images) = (1, 1);
        for (number, at) in self.indices(index) {
            let axis = self.index[number];
            match roles[number] {
                Role::Apart => {
                    member.group += groups * at;
                    groups *= axis.len;
                    member.first = moved(member.first, axis.step, at);
                }
                Role::Together(some) => {
                    let begin = at / some * some;
                    member.group += groups * (at / some);
                    groups *= axis.len.div_ceil(some);
                    member.first = moved(member.first, axis.step, begin);
                    member.number += images * (at - begin);
                    let axis = Axis { len: some.min(axis.len - begin), ..axis };
                    images *= axis.len;
                    member.axes.insert(0, axis);
                }
            }
        }
        member
    }
}

fn len(number: u64) -> usize {
    usize::try_from(number).expect("it is part of a buffer")
}
