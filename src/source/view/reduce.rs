//! Samples along one axis, combined into one: in the order of their indices, in f64, rounded once to the
//! type that the tensor is computed in.

use super::gather::{Axis, Read, gather};
use super::layout::Reduction;
use crate::tensor::{Dtype, decode};

/// Bytes of samples that are combined at once, about.
const AT_ONCE: u64 = 512 << 10;
/// The NaN of results, whatever NaN they are of.
const NAN: u32 = 0x7FC0_0000;

/// What is combined, and of what it is.
pub(super) struct Reducing<'r> {
    pub(super) axis: Axis,
    pub(super) how: Reduction,
    pub(super) dtype: Dtype,
    /// Room to be used again.
    pub(super) span: &'r mut Vec<u8>,
}

impl Reducing<'_> {
    /// Fills `out` with results over `axes`, in C order, as f32 or, for wide types, as f64.
    pub(super) fn read<E>(
        &mut self,
        axes: [Axis; 2],
        first: u64,
        out: &mut [u8],
        read: &mut Read<'_, E>,
    ) -> Result<(), E> {
        let wide = self.dtype.is_wide();
        let size = if wide { 8 } else { 4 };
        // Some of a row at a time.
        let most = (AT_ONCE / (self.dtype.size() as u64 * self.axis.len.max(8))).max(8);
        let [rows, columns] = axes;
        let mut done = 0;
        for row in 0..rows.len {
            let first = moved(first, rows.step, row);
            for column in (0..columns.len).step_by(usize::try_from(most).unwrap_or(usize::MAX)) {
                let len = most.min(columns.len - column);
                let columns = Axis { len, step: columns.step };
                let first = moved(first, columns.step, column);
                let results = self.some(columns, first, read)?;
                let here = &mut out[done..done + results.len() * size];
                for (result, bytes) in results.iter().zip(here.chunks_exact_mut(size)) {
                    put(*result, wide, bytes);
                }
                done += here.len();
            }
        }
        Ok(())
    }

    /// The results of some columns of a row.
    fn some<E>(
        &mut self,
        columns: Axis,
        first: u64,
        read: &mut Read<'_, E>,
    ) -> Result<Vec<f64>, E> {
        let mean = match self.how {
            Reduction::Std => self.fold(columns, first, read, &[], sum)?,
            _ => Vec::new(),
        };
        let count = self.axis.len as f64;
        let mean: Vec<f64> = mean.into_iter().map(|sum| sum / count).collect();
        let fold = match self.how {
            Reduction::Mean => sum,
            Reduction::AbsMean => |so_far: f64, x: f64, _: f64| so_far + x.abs(),
            Reduction::L2 => |so_far: f64, x: f64, _: f64| so_far + x * x,
            Reduction::Std => |so_far: f64, x: f64, mean: f64| so_far + (x - mean) * (x - mean),
            Reduction::Max => |so_far: f64, x: f64, _: f64| extreme(so_far, x, x > so_far),
            Reduction::Min => |so_far: f64, x: f64, _: f64| extreme(so_far, x, x < so_far),
        };
        let mut results = self.fold(columns, first, read, &mean, fold)?;
        for result in &mut results {
            *result = match self.how {
                Reduction::Mean | Reduction::AbsMean => *result / count,
                Reduction::L2 => result.sqrt(),
                Reduction::Std => (*result / count).sqrt(),
                Reduction::Max | Reduction::Min => *result,
            };
        }
        Ok(results)
    }

    /// Goes along the axis; `known` is something about each column, or nothing.
    fn fold<E>(
        &mut self,
        columns: Axis,
        first: u64,
        read: &mut Read<'_, E>,
        known: &[f64],
        fold: fn(f64, f64, f64) -> f64,
    ) -> Result<Vec<f64>, E> {
        let width = usize::try_from(columns.len).expect("it is part of a buffer");
        let begin = match self.how {
            Reduction::Max => f64::NEG_INFINITY,
            Reduction::Min => f64::INFINITY,
            _ => 0.0,
        };
        let mut folded = vec![begin; width];
        let size = self.dtype.size();
        let most = (AT_ONCE / (size as u64 * columns.len)).max(1);
        let mut at = 0;
        while at < self.axis.len {
            let some = Axis { len: most.min(self.axis.len - at), step: self.axis.step };
            let first = moved(first, some.step, at);
            let lines = usize::try_from(some.len).expect("it is part of a buffer");
            let mut raw = vec![0; lines * width * size];
            gather(&[some, columns], first, size, raw.as_mut_slice().into(), self.span, read)?;
            for line in raw.chunks_exact(width * size) {
                for (column, x) in widened(self.dtype, line).into_iter().enumerate() {
                    let known = known.get(column).copied().unwrap_or_default();
                    folded[column] = fold(folded[column], x, known);
                }
            }
            at += some.len;
        }
        Ok(folded)
    }
}

fn sum(so_far: f64, x: f64, _: f64) -> f64 {
    so_far + x
}

/// NaN stays, and comes.
fn extreme(so_far: f64, x: f64, is_more: bool) -> f64 {
    if is_more || x.is_nan() { x } else { so_far }
}

fn widened(dtype: Dtype, raw: &[u8]) -> Vec<f64> {
    let len = raw.len() / dtype.size();
    let mut wide = vec![0.0; len];
    if dtype.is_wide() {
        decode::to_f64(dtype, raw, &mut wide);
    } else {
        let mut narrow = vec![0.0; len];
        decode::to_f32(dtype, raw, &mut narrow);
        wide.iter_mut().zip(narrow).for_each(|(wide, narrow)| *wide = f64::from(narrow));
    }
    wide
}

/// A result, rounded to f32 unless it is of a wide type.
#[allow(clippy::cast_possible_truncation, reason = "this is the rounding")]
fn put(result: f64, wide: bool, bytes: &mut [u8]) {
    match (wide, result.is_nan()) {
        (true, true) => bytes.copy_from_slice(&f64::NAN.to_le_bytes()),
        (true, false) => bytes.copy_from_slice(&result.to_le_bytes()),
        (false, true) => bytes.copy_from_slice(&NAN.to_le_bytes()),
        (false, false) => bytes.copy_from_slice(&(result as f32).to_le_bytes()),
    }
}

/// The element that is so many steps on.
pub(super) fn moved(first: u64, step: i64, steps: u64) -> u64 {
    first.wrapping_add_signed(step.wrapping_mul(steps.cast_signed()))
}
