//! The data room about numbers: what a pass over samples finds out ([`Extent`]), which range
//! follows from it ([`Range`]), and the [`oracle`] that every backend must equal bit for bit.
//!
//! # The contract
//! For every input and option the pixels are the same on the CPU and on every GPU. F32 and all
//! types that widen exactly to it are computed in f32, the others in f64 with one rounding to f32
//! at the end; every operation rounds to nearest even.
//!
//! `minmax` is y = (x − lo) / (hi − lo) with lo and hi the least and greatest finite sample of the
//! [`Scope`] and a true division. Where hi − lo overflows, x, lo and hi are halved first. NaN and ±Inf
//! do not take part in the range; they and the pixels of constant images keep their bits.
//! A zero in a normalized image is +0.
//!
//! The other [`Norm`]s end in the same division, or in that by a deviation. Where one clamps, x is
//! compared with lo and hi before the arithmetic. Percentiles are order statistics of the finite
//! samples (`quantiles`), interpolated in f64 as NumPy does, and rounded to the working type; means
//! and deviations come from exact sums (`sums`), rounded once, and again to the working type after
//! each further step. Both, like the extent, merge in any order. A scope that mixes types works in
//! f64 if any of them does.
//!
//! [`Undo`] is the way back.
//!
//! [`Rule`] has what follows: y^gamma in f64 by the `libm` crate, rounded once; then the output
//! range, product and sum rounded, where 1 becomes its end exactly. What [`Constant`] and
//! [`Nonfinite`] put in a sample's place goes through both as if it were normalized.

mod extent;
pub mod oracle;
pub(crate) mod quantiles;
mod range;
mod rule;
pub(crate) mod sums;
mod undo;

pub use extent::Extent;
pub use range::{Kept, Range, Stats};
pub use rule::{Constant, Nonfinite, Norm, Rule, RuleText, Scope};
pub use sums::Moments;
pub use undo::{Undo, Undone};
