//! From samples to pixels by any [`Rule`] and any range; [`normalize`](super::normalize) has the
//! plainest and commonest of them.

use std::ops::{Add, Div, Mul, Sub};

use multiversion::multiversion;

use super::normalize;
use crate::normalize::{Extent, Range, Rule};
use crate::tensor::decode::pixel_of_f64;

/// A working type.
trait Work:
    Copy
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Into<f64>
{
    const ZERO: Self;
    const HALF: Self;
    const ONE: Self;

    /// Rounds to it.
    fn of(x: f64) -> Self;

    fn is_finite(self) -> bool;
}

macro_rules! work {
    ($float:ident) => {
        impl Work for $float {
            const ZERO: $float = 0.0;
            const HALF: $float = 0.5;
            const ONE: $float = 1.0;

            #[inline(always)]
            #[allow(clippy::cast_possible_truncation, reason = "rounding is what it is for")]
            fn of(x: f64) -> $float {
                x as $float
            }

            #[inline(always)]
            fn is_finite(self) -> bool {
                self.is_finite()
            }
        }
    };
}

work!(f32);
work!(f64);

/// What is done to the finite samples, with every number in the working type.
#[derive(Clone, Copy)]
struct Map<T> {
    /// (x · half − lo) / divisor, of samples taken for `least` and `most` beyond them.
    clamp: Option<[T; 2]>,
    half: T,
    lo: T,
    divisor: T,
    gamma: Option<f64>,
    /// The output range's beginning, width and end.
    out: Option<[T; 3]>,
    /// What all become, with gamma and output range applied.
    filled: Option<T>,
    /// What −∞ or NaN, and what +∞ becomes.
    nonfinite: Option<[T; 2]>,
}

impl<T: Work> Map<T> {
    /// `None` where finite samples stay, and infinite ones too.
    fn new(rule: &Rule, range: &Range) -> Option<Map<T>> {
        let out = rule.out.map(|[a, b]| {
            let [a, b] = [a, b].map(T::of);
            [a, b - a, b]
        });
        let mut map = Map {
            clamp: None,
            half: T::ONE,
            lo: T::ZERO,
            divisor: T::ONE,
            gamma: rule.gamma,
            out,
            filled: None,
            nonfinite: None,
        };
        match *range {
            Range::Keep(_) => {
                map.filled = range.filled(rule).map(|y| map.finish(T::of(y)));
            }
            Range::Linear { lo, hi, clamp } => {
                let [lo, hi] = [lo, hi].map(T::of);
                map.clamp = clamp.then_some([lo, hi]);
                map.half = if (hi - lo).is_finite() { T::ONE } else { T::HALF };
                map.lo = lo * map.half;
                map.divisor = hi * map.half - map.lo;
            }
            // Where a difference would overflow, the deviation has, and there is no range.
            Range::Score { mean, std, .. } => {
                [map.lo, map.divisor] = [mean, std].map(T::of);
            }
        }
        map.nonfinite = rule.nonfinite.fill().map(|fill| fill.map(|y| map.finish(T::of(y))));
        let stays = matches!(range, Range::Keep(_)) && map.filled.is_none();
        (!stays || map.nonfinite.is_some()).then_some(map)
    }

    /// Gamma and output range.
    #[inline(always)]
    fn finish(&self, y: T) -> T {
        let y = match self.gamma {
            Some(gamma) => T::of(libm::pow(y.into(), gamma)),
            None => y,
        };
        match self.out {
            Some([_, _, end]) if y == T::ONE => end,
            Some([begin, width, _]) => y * width + begin,
            None => y,
        }
    }

    /// The pixel of a finite sample, if it does not stay.
    #[inline(always)]
    fn apply(&self, x: T) -> T {
        let x = match self.clamp {
            Some([least, _]) if x < least => least,
            Some([_, most]) if x > most => most,
            _ => x,
        };
        // −0 + 0 = +0
        self.finish((x * self.half - self.lo) / self.divisor + T::ZERO)
    }
}

/// Turns samples into pixels in place, in f32; `extent` is that of these samples, or of more.
pub(super) fn narrow(rule: &Rule, range: &Range, extent: &Extent, samples: &mut [f32]) {
    if let Range::Linear { lo, hi, clamp: false } = *range
        && (rule.gamma, rule.out) == (None, None)
        && (rule.nonfinite.fill().is_none() || extent.nonfinite() == 0)
    {
        #[allow(clippy::cast_possible_truncation, reason = "a narrow image's lo and hi are f32")]
        return normalize::normalize_f32(lo as f32, hi as f32, extent, samples);
    }
    if let Some(map) = Map::new(rule, range) {
        in_f32(&map, range.keeps(rule), samples);
    }
}

#[multiversion(targets("x86_64+avx2"))]
fn in_f32(map: &Map<f32>, keeps: bool, samples: &mut [f32]) {
    in_place(map, keeps, samples, |x| x, |y| y);
}

/// The same with the arithmetic in f64: of samples whose scope has others that need it.
pub(super) fn narrow_in_f64(rule: &Rule, range: &Range, samples: &mut [f32]) {
    if let Some(map) = Map::new(rule, range) {
        in_f64(&map, range.keeps(rule), samples);
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the one rounding at the end")]
#[multiversion(targets("x86_64+avx2"))]
fn in_f64(map: &Map<f64>, keeps: bool, samples: &mut [f32]) {
    in_place(map, keeps, samples, f64::from, |y| y as f32 + 0.0);
}

#[inline(always)]
fn in_place<T: Work>(
    map: &Map<T>,
    keeps: bool,
    samples: &mut [f32],
    widen: impl Fn(f32) -> T,
    round: impl Fn(T) -> f32,
) {
    let nonfinite = map.nonfinite.map(|fill| fill.map(&round));
    let fill = |x: f32| match nonfinite {
        Some([_, infinity]) if x == f32::INFINITY => infinity,
        Some([other, _]) => other,
        None => x,
    };
    if keeps {
        return each(samples, |x| if x.is_finite() { x } else { fill(x) });
    }
    if let Some(filled) = map.filled.map(&round) {
        return each(samples, |x| if x.is_finite() { filled } else { fill(x) });
    }
    let plain = Map { gamma: None, out: None, ..*map };
    match (map.gamma, map.out) {
        (None, None) => each(samples, |x| {
            let y = round(plain.apply(widen(x)));
            if x.is_finite() { y } else { fill(x) }
        }),
        _ => each(samples, |x| {
            let y = round(map.apply(widen(x)));
            if x.is_finite() { y } else { fill(x) }
        }),
    }
}

#[inline(always)]
fn each(samples: &mut [f32], pixel: impl Fn(f32) -> f32) {
    samples.iter_mut().for_each(|x| *x = pixel(*x));
}

/// Turns f64 samples into pixels, rounded to f32 at the end.
///
/// # Panics
/// If the lengths differ.
#[allow(clippy::cast_possible_truncation, reason = "the one rounding at the end")]
pub(super) fn wide(rule: &Rule, range: &Range, samples: &[f64], pixels: &mut [f32]) {
    assert_eq!(samples.len(), pixels.len(), "one pixel a sample");
    if let Range::Linear { lo, hi, clamp: false } = *range
        && (rule.gamma, rule.out, rule.nonfinite.fill()) == (None, None, None)
    {
        return normalize::normalize_f64(lo, hi, samples, pixels);
    }
    let map = Map::<f64>::new(rule, range);
    let keeps = range.keeps(rule);
    for (&x, pixel) in samples.iter().zip(pixels) {
        *pixel = match &map {
            Some(map) if x.is_finite() && !keeps => {
                map.filled.unwrap_or_else(|| map.apply(x)) as f32 + 0.0
            }
            Some(Map { nonfinite: Some([other, infinity]), .. }) if !x.is_finite() => {
                if x == f64::INFINITY { *infinity as f32 } else { *other as f32 }
            }
            _ => pixel_of_f64(x),
        };
    }
}
