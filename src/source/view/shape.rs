//! A tensor as its layout shows it: axes in the order of images, and where their elements lie.

use std::sync::Arc;

use super::gather::Axis;
use super::layout::{Indices, Layout, Reduction};
use crate::error::{shown, shown_indices, shown_shape};
use crate::tensor::{Dtype, IndexAxis, Leading, Misfit, TensorInfo};

/// A tensor of which something else is shown than it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    /// Those before the image's, outermost first.
    pub(super) index: Vec<Axis>,
    /// The image's rows and columns.
    pub(super) plane: [Axis; 2],
    /// The element of the tensor that comes first.
    pub(super) first: u64,
    /// What is combined into one.
    pub(super) reduce: Option<(Axis, Reduction)>,
}

/// What a layout makes of a tensor.
pub(super) struct Shown {
    pub(super) info: TensorInfo,
    /// `None`: its bytes are as they are.
    pub(super) shape: Option<Shape>,
}

/// An axis on the way.
#[derive(Debug, Clone)]
struct Lettered {
    letter: Option<char>,
    axis: Axis,
    /// What its indices are called.
    called: IndexAxis,
}

/// Applies a layout to a tensor.
pub(super) fn show(info: &TensorInfo, layout: &Layout) -> Shown {
    let unshown = |leading| Shown { info: TensorInfo { leading, ..info.clone() }, shape: None };
    if info.bytes().is_none_or(|bytes| bytes == 0 || bytes > i64::MAX.unsigned_abs()) {
        return unshown(Leading::Plain); // The plan says what is wrong.
    }
    match shape_of(info, layout) {
        Ok(None) => unshown(Leading::Plain),
        Ok(Some((shape, named))) => {
            let dtype = match shape.reduce {
                None => info.dtype,
                Some(_) if info.dtype.is_wide() => Dtype::F64,
                Some(_) => Dtype::F32,
            };
            let axes = shape.index.iter().chain(&shape.plane).map(|axis| axis.len).collect();
            let leading = Leading::Named(named.into());
            let info = TensorInfo { dtype, shape: axes, leading, ..info.clone() };
            let is_plain = shape.reduce.is_none() && shape.is_whole(info.elements());
            Shown { info, shape: (!is_plain).then_some(shape) }
        }
        Err(leading) => unshown(leading),
    }
}

type Named = Vec<IndexAxis>;
/// Axes of indices, and the image's.
type Split = (Vec<Lettered>, [Axis; 2]);

fn shape_of(info: &TensorInfo, layout: &Layout) -> Result<Option<(Shape, Named)>, Leading> {
    let said = layout.letters_of(&info.name);
    let mut axes = lettered(info, said)?;
    let mut first = 0;
    for (letter, indices) in &layout.select {
        let axis = axis_of(&mut axes, *letter, said)?;
        let of = axis.axis.len;
        let (start, step, len) = indices
            .of(of)
            .filter(|(.., len)| *len > 0)
            .ok_or_else(|| nothing(info, *letter, indices, of))?;
        first += start * axis.axis.step.unsigned_abs();
        let stepped = axis.axis.step * step.cast_signed();
        axis.axis = Axis { len, step: stepped };
        axis.called = IndexAxis { start, step, ..axis.called };
    }
    let reduce = match layout.reduce {
        None => None,
        Some((letter, reduction)) => {
            let axis = axis_of(&mut axes, letter, said)?.axis;
            axes.retain(|axis| axis.letter != Some(letter));
            Some((axis, reduction))
        }
    };
    let Some((index, [mut height, mut width])) = images(axes, layout, info)? else {
        return Ok(None);
    };
    if layout.transpose {
        std::mem::swap(&mut height, &mut width);
    }
    for (axis, flipped) in [(&mut height, layout.flip.y), (&mut width, layout.flip.x)] {
        if flipped {
            first += (axis.len - 1) * axis.step.unsigned_abs();
            axis.step = -axis.step;
        }
    }
    let named = index.iter().map(|axis| axis.called).collect();
    let index = index.iter().map(|axis| axis.axis).collect();
    Ok(Some((Shape { index, plane: [height, width], first, reduce }, named)))
}

/// The axes with their letters: those that were said, or the last four as `NCHW`.
fn lettered(info: &TensorInfo, said: Option<&[char]>) -> Result<Vec<Lettered>, Leading> {
    let rank = info.shape.len();
    if let Some(said) = said
        && said.len() != rank
    {
        return Err(Leading::Misfit(Misfit::Rank(rank, said.len())));
    }
    let mut step = 1_i64;
    let mut axes = Vec::new();
    for (behind, &len) in info.shape.iter().rev().enumerate() {
        let letter = match said {
            Some(said) => Some(said[rank - 1 - behind]),
            None => ['W', 'H', 'C', 'N'].get(behind).copied(),
        };
        let called = IndexAxis { letter, start: 0, step: 1, of: len };
        axes.push(Lettered { letter, axis: Axis { len, step }, called });
        step *= len.cast_signed(); // All of them fit: see `show`.
    }
    axes.reverse();
    Ok(axes)
}

fn axis_of<'a>(
    axes: &'a mut [Lettered],
    letter: char,
    said: Option<&[char]>,
) -> Result<&'a mut Lettered, Leading> {
    let found = axes.iter_mut().find(|axis| axis.letter == Some(letter));
    found.ok_or(Leading::Misfit(Misfit::Letter(letter, said.is_some())))
}

fn nothing(info: &TensorInfo, letter: char, indices: &Indices, len: u64) -> Leading {
    // A slice may be empty though all its indices are there.
    let nothing = if let Indices::Slice { .. } = indices { "nothing is selected; " } else { "" };
    let problem = format!(
        "--select {letter}={indices}: {nothing}tensor {} has {len} there, {} (shape {}); --tensor and \
         --exclude choose tensors",
        shown(&info.name),
        shown_indices(len),
        shown_shape(&info.shape)
    );
    Leading::Wrong(Arc::from(problem))
}

/// Which axes are the image's, and which count images. `None` where there is nothing to be shown that
/// is not there already.
fn images(
    mut axes: Vec<Lettered>,
    layout: &Layout,
    info: &TensorInfo,
) -> Result<Option<Split>, Leading> {
    let mut take = |letter: char| {
        let at = axes.iter().position(|axis| axis.letter == Some(letter))?;
        Some(axes.remove(at))
    };
    let (height, width) = match (take('H'), take('W')) {
        (None, None) => {
            let width = axes.pop();
            (axes.pop(), width)
        }
        (height, None) => (None, height),
        found => found,
    };
    match (height, width, layout.rows) {
        (Some(height), Some(width), _) => Ok(Some((axes, [height.axis, width.axis]))),
        (None, Some(Lettered { axis, .. }), Some(rows)) => {
            let Axis { len, step } = axis;
            if !len.is_multiple_of(rows.get()) {
                return Err(Leading::Misfit(Misfit::Rows(len, rows.get())));
            }
            let width = len / rows.get();
            let height = Axis { len: rows.get(), step: step * width.cast_signed() };
            Ok(Some((axes, [height, Axis { len: width, step }])))
        }
        (None, Some(_), None) if info.shape.len() > 1 => Err(Leading::Misfit(Misfit::NoRows)),
        _ => Ok(None), // Of one axis or none: the plan says so.
    }
}

impl Shape {
    /// Whether it is all of a tensor of so many elements, in order.
    fn is_whole(&self, elements: Option<u64>) -> bool {
        let mut step = 1;
        let in_order = self.index.iter().chain(&self.plane).rev().all(|axis| {
            let fits = axis.len == 1 || axis.step == step;
            step *= axis.len.cast_signed();
            fits
        });
        in_order && self.first == 0 && elements == Some(step.unsigned_abs())
    }
}
