//! The naive oracle: sample by sample, in the plainest code that meets the contract of
//! [`normalize`](super). Nobody optimises it; the tests hold every backend against it.
//!
//! All arithmetic is in f64, and rounded to f32 after each operation where that is the working
//! type: which gives what f32 arithmetic gives, as 53 bits are more than twice 24.

use super::{Constant, Extent, Nonfinite, Norm, Rule};
use crate::tensor::{Dtype, decode};

/// The extent and the pixels of one image with a range of its own, given as the raw little-endian
/// bytes of its samples.
///
/// # Panics
/// If `raw` is not a whole number of elements.
#[must_use]
pub fn normalize(rule: impl Into<Rule>, dtype: Dtype, raw: &[u8]) -> (Extent, Vec<f32>) {
    let (extents, mut pixels) = scope(rule, &[(dtype, raw)]);
    (extents[0], pixels.remove(0))
}

/// The extents and the pixels of all images of one scope.
///
/// # Panics
/// If any of them is not a whole number of elements.
#[must_use]
pub fn scope(rule: impl Into<Rule>, images: &[(Dtype, &[u8])]) -> (Vec<Extent>, Vec<Vec<f32>>) {
    let rule = rule.into();
    let wide = images.iter().any(|(dtype, _)| dtype.is_wide());
    let working = if wide { |x| x } else { to_f32 };
    let images: Vec<Vec<(f64, f32)>> = images.iter().map(|(d, raw)| widened(*d, raw)).collect();
    let finite = images.iter().flatten().map(|(x, _)| x + 0.0).filter(|x| x.is_finite());
    let way = Way::of(&rule, finite.collect(), working);
    let extent = |image: &Vec<(f64, f32)>| {
        image.iter().fold(Extent::EMPTY, |e, &(x, _)| e.merge(Extent::of(x)))
    };
    let pixels = |image: &Vec<(f64, f32)>| {
        image.iter().map(|&(x, kept)| way.pixel(&rule, x, kept, working)).collect()
    };
    (images.iter().map(extent).collect(), images.iter().map(pixels).collect())
}

/// Each element as the number that it stands for, and as the pixel that keeps it.
fn widened(dtype: Dtype, raw: &[u8]) -> Vec<(f64, f32)> {
    assert_eq!(raw.len() % dtype.size(), 0, "raw bytes end inside an element");
    let widen = |element: &[u8]| {
        if dtype.is_wide() {
            let mut sample = [0.0];
            decode::to_f64(dtype, element, &mut sample);
            (sample[0], decode::pixel_of_f64(sample[0]))
        } else {
            let mut sample = [0.0];
            decode::to_f32(dtype, element, &mut sample);
            (f64::from(sample[0]), sample[0])
        }
    };
    raw.chunks(dtype.size()).map(widen).collect()
}

#[allow(clippy::cast_possible_truncation, reason = "rounding is what it is for")]
fn to_f32(x: f64) -> f64 {
    f64::from(x as f32)
}

/// Rounds to the working type.
type Working = fn(f64) -> f64;

/// What is done to finite samples.
enum Way {
    Keep,
    Fill(f64),
    /// (x − a) / b where no difference of samples is infinite, and else of halves.
    Map {
        clamp: Option<[f64; 2]>,
        a: f64,
        b: f64,
        halves: bool,
    },
}

impl Way {
    fn of(rule: &Rule, mut samples: Vec<f64>, working: Working) -> Way {
        let w = working;
        let flat = match rule.constant {
            Constant::Keep => Way::Keep,
            Constant::Zero => Way::Fill(0.0),
            Constant::Half => Way::Fill(0.5),
        };
        let linear = |lo: f64, hi: f64, clamp: bool| {
            let halves = w(hi - lo).is_infinite();
            let b = if halves { w(hi / 2.0 - lo / 2.0) } else { w(hi - lo) };
            Way::Map { clamp: clamp.then_some([lo, hi]), a: lo, b, halves }
        };
        if let Norm::Fixed { lo, hi } = rule.norm {
            return linear(w(lo), w(hi), true);
        }
        let (Some(min), Some(max)) =
            (samples.iter().copied().reduce(f64::min), samples.iter().copied().reduce(f64::max))
        else {
            return Way::Keep;
        };
        match rule.norm {
            Norm::None => Way::Keep,
            _ if min == max => flat,
            Norm::MinMax => linear(min, max, false),
            Norm::Symmetric => {
                let most = f64::max(-min, max);
                linear(-most, most, false)
            }
            Norm::Percentile { low, high } => {
                samples.sort_by(f64::total_cmp);
                let [lo, hi] = [low, high].map(|percent| w(percentile(&samples, percent)));
                if lo == hi { flat } else { linear(lo, hi, true) }
            }
            Norm::ZScore { sigma } => {
                let n = samples.len() as f64;
                let mean = w(sum(samples.iter().copied()) / n);
                let product = |a: f64, b: f64| [a * b, a.mul_add(b, -(a * b))];
                let squares = samples.iter().flat_map(|&x| {
                    [product(x, x), product(-2.0 * mean, x), product(mean, mean)].concat()
                });
                let std = w(w(sum(squares) / n).sqrt());
                // Squares that leave f64 have a sum that is no number here.
                if !(std > 0.0 && std.is_finite()) {
                    return flat;
                }
                let Some(sigma) = sigma else {
                    return Way::Map { clamp: None, a: mean, b: std, halves: false };
                };
                let reach = w(w(sigma) * std);
                let (lo, hi) = (w(mean - reach), w(mean + reach));
                if lo.is_finite() && hi.is_finite() && lo < hi {
                    linear(lo, hi, true)
                } else {
                    flat
                }
            }
            Norm::Fixed { .. } => unreachable!("dealt with"),
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "a pixel is an f32")]
    fn pixel(&self, rule: &Rule, x: f64, kept: f32, w: Working) -> f32 {
        let y = match (self, rule.nonfinite) {
            (_, Nonfinite::Zero) if !x.is_finite() => 0.0,
            (_, Nonfinite::Clamp) if x == f64::INFINITY => 1.0,
            (_, Nonfinite::Clamp) if !x.is_finite() => 0.0,
            (Way::Map { clamp, a, b, halves }, _) if x.is_finite() => {
                let [least, most] = clamp.unwrap_or([x, x]);
                let x = if x < least {
                    least
                } else if x > most {
                    most
                } else {
                    x
                };
                let half = if *halves { 2.0 } else { 1.0 };
                w(w(w(x / half) - w(a / half)) / b)
            }
            (Way::Fill(y), _) if x.is_finite() => *y,
            _ => return kept,
        };
        let y = rule.gamma.map_or(y, |gamma| w(libm::pow(y, gamma)));
        let y = match rule.out {
            Some([_, end]) if y == 1.0 => w(end),
            Some([a, b]) => w(w(y * w(w(b) - w(a))) + w(a)),
            None => y,
        };
        y as f32 + 0.0
    }
}

/// As `numpy.percentile` has it, of sorted samples.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is an index")]
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let index = (sorted.len() - 1) as f64 * (percent / 100.0);
    let [a, b] = [index.floor(), index.ceil()].map(|at| sorted[at as usize]);
    let t = index - index.floor();
    let width = b - a;
    match (width.is_finite(), t >= 0.5) {
        (true, true) => b - width * (1.0 - t),
        (true, false) => a + width * t,
        (false, true) => 2.0 * (b / 2.0 - (b / 2.0 - a / 2.0) * (1.0 - t)),
        (false, false) => 2.0 * (a / 2.0 + (b / 2.0 - a / 2.0) * t),
    }
}

/// The exact sum, rounded once: Shewchuk's partials that do not overlap, as `math.fsum` has them.
pub(crate) fn sum(terms: impl IntoIterator<Item = f64>) -> f64 {
    let mut partials: Vec<f64> = Vec::new();
    for mut x in terms {
        let mut kept = 0;
        for at in 0..partials.len() {
            let mut y = partials[at];
            if x.abs() < y.abs() {
                std::mem::swap(&mut x, &mut y);
            }
            let hi = x + y;
            let lo = y - (hi - x);
            if lo != 0.0 {
                partials[kept] = lo;
                kept += 1;
            }
            x = hi;
        }
        partials.truncate(kept);
        partials.push(x);
    }
    let Some(mut hi) = partials.pop() else { return 0.0 };
    let mut lo = 0.0;
    while let Some(y) = partials.pop() {
        let x = hi;
        hi = x + y;
        lo = y - (hi - x);
        if lo != 0.0 {
            break;
        }
    }
    // Half way: what is below decides.
    if let Some(&last) = partials.last()
        && ((lo < 0.0 && last < 0.0) || (lo > 0.0 && last > 0.0))
    {
        let y = lo * 2.0;
        let x = hi + y;
        if y == x - hi {
            hi = x;
        }
    }
    hi
}
