//! From what was found in a scope to the range that maps to the output.

use super::{Extent, Moments, Norm, Rule};

/// Why an image has no range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kept {
    /// No normalization was asked for.
    Asked,
    /// The least finite sample of its scope equals the greatest.
    Constant,
    /// That is not so, and yet what the norm takes from them has no width: the same sample is at
    /// both percentiles, or the deviation is 0 or no number. What would be lo and hi, or mean and
    /// deviation.
    Degenerate(f64, f64),
    /// Its scope has no finite sample.
    NoFinite,
}

/// What is done to the samples of one image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Range {
    /// There is none: the pixels are the widened samples, bit for bit, or what [`Rule::constant`]
    /// and [`Rule::nonfinite`] say.
    Keep(Kept),
    /// y = (x − lo) / (hi − lo), with lo < hi, both finite, in the image's working type (an f32
    /// widened to f64 where that is f32). A zero is +0.
    Linear {
        /// Maps to 0.
        lo: f64,
        /// Maps to 1.
        hi: f64,
        /// Whether samples beyond lo and hi are taken for lo and hi.
        clamp: bool,
    },
    /// y = (x − mean) / std, likewise.
    Score {
        /// Maps to 0.
        mean: f64,
        /// Above 0 and finite.
        std: f64,
        /// The least and the greatest finite sample of the scope.
        bounds: [f64; 2],
    },
}

/// What was found in all samples of a scope, as far as its norm asks for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stats {
    /// Always.
    pub extent: Extent,
    /// For `zscore`; `None` without a finite sample.
    pub moments: Option<Moments>,
    /// For `percentile`: its two, in f64; `None` without a finite sample.
    pub percentiles: Option<[f64; 2]>,
}

impl From<Extent> for Stats {
    fn from(extent: Extent) -> Stats {
        Stats { extent, moments: None, percentiles: None }
    }
}

impl Range {
    /// The range that follows from what was found in a whole scope; `wide` if it works in f64.
    ///
    /// # Panics
    /// If what the norm needs was not found out.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "rounding to the working type")]
    pub fn of(rule: &Rule, stats: &Stats, wide: bool) -> Range {
        let extent = &stats.extent;
        if let Some(known) = Range::known(rule, wide) {
            return known;
        }
        if !extent.has_finite() {
            return Range::Keep(Kept::NoFinite);
        }
        if extent.min == extent.max {
            return Range::Keep(Kept::Constant);
        }
        let working = |x: f64| if wide { x } else { f64::from(x as f32) };
        let linear = |lo: f64, hi: f64, clamp| match lo < hi && (hi - lo) > 0.0 {
            true if lo.is_finite() && hi.is_finite() => Range::Linear { lo, hi, clamp },
            _ => Range::Keep(Kept::Degenerate(lo, hi)),
        };
        match rule.norm {
            Norm::MinMax => Range::Linear { lo: extent.min, hi: extent.max, clamp: false },
            Norm::Symmetric => {
                let most = extent.min.abs().max(extent.max.abs());
                Range::Linear { lo: -most, hi: most, clamp: false }
            }
            Norm::Percentile { .. } => {
                let [lo, hi] = stats.percentiles.expect("percentiles were found").map(working);
                linear(lo + 0.0, hi + 0.0, true)
            }
            Norm::ZScore { sigma } => {
                let Moments { mean, std } = stats.moments.expect("moments were found");
                match sigma {
                    _ if !(std > 0.0 && std.is_finite()) => {
                        Range::Keep(Kept::Degenerate(mean, std))
                    }
                    None => Range::Score { mean, std, bounds: [extent.min, extent.max] },
                    Some(sigma) => {
                        let reach = working(working(sigma) * std);
                        linear(working(mean - reach) + 0.0, working(mean + reach) + 0.0, true)
                    }
                }
            }
            Norm::Fixed { .. } | Norm::None => unreachable!("they are known"),
        }
    }

    /// The range, where it does not depend on samples.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "rounding to the working type")]
    pub fn known(rule: &Rule, wide: bool) -> Option<Range> {
        let working = |x: f64| if wide { x } else { f64::from(x as f32) };
        match rule.norm {
            Norm::None => Some(Range::Keep(Kept::Asked)),
            Norm::Fixed { lo, hi } => {
                Some(Range::Linear { lo: working(lo), hi: working(hi), clamp: true })
            }
            _ => None,
        }
    }

    /// The two numbers that undo it: what maps to 0 and 1, or mean and deviation where the pixels
    /// are [scores](Norm::ZScore); of samples that have no range, the least and the greatest of the
    /// image, or what would be the two. `None` where there is none.
    #[must_use]
    pub fn numbers(&self, rule: &Rule, extent: &Extent) -> Option<(f64, f64)> {
        let bounds = extent.has_finite().then_some((extent.min, extent.max));
        match *self {
            Range::Linear { lo, hi, .. } => Some((lo, hi)),
            Range::Score { mean, std, .. } => Some((mean, std)),
            Range::Keep(Kept::Degenerate(a, b)) => Some((a, b)),
            Range::Keep(Kept::Constant) if rule.norm.is_score() => {
                bounds.map(|(constant, _)| (constant, 0.0))
            }
            Range::Keep(_) => bounds,
        }
    }

    /// It as text, from which it comes back as it is.
    #[must_use]
    pub fn to_text(&self) -> String {
        match *self {
            Range::Linear { lo, hi, clamp: false } => format!("linear {lo:?} {hi:?}"),
            Range::Linear { lo, hi, clamp: true } => format!("clamped {lo:?} {hi:?}"),
            Range::Score { mean, std, bounds: [min, max] } => {
                format!("score {mean:?} {std:?} {min:?} {max:?}")
            }
            Range::Keep(Kept::Asked) => "none".to_owned(),
            Range::Keep(Kept::Constant) => "constant".to_owned(),
            Range::Keep(Kept::Degenerate(a, b)) => format!("degenerate {a:?} {b:?}"),
            Range::Keep(Kept::NoFinite) => "nofinite".to_owned(),
        }
    }

    /// What a text says; `None` if it is none.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Range> {
        let mut words = text.split(' ');
        let kind = words.next()?;
        let numbers: Vec<f64> = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
        let finite = numbers.iter().all(|number| number.is_finite());
        Some(match (kind, &*numbers) {
            ("linear" | "clamped", &[lo, hi]) if finite && lo < hi => {
                Range::Linear { lo, hi, clamp: kind == "clamped" }
            }
            ("score", &[mean, std, min, max]) if finite && std > 0.0 && min < max => {
                Range::Score { mean, std, bounds: [min, max] }
            }
            ("none", []) => Range::Keep(Kept::Asked),
            ("constant", []) => Range::Keep(Kept::Constant),
            ("degenerate", &[a, b]) => Range::Keep(Kept::Degenerate(a, b)),
            ("nofinite", []) => Range::Keep(Kept::NoFinite),
            _ => return None,
        })
    }

    /// Whether finite samples are the image's pixels as they are.
    #[must_use]
    pub fn keeps(&self, rule: &Rule) -> bool {
        matches!(self, Range::Keep(_)) && self.filled(rule).is_none()
    }

    /// What every finite sample becomes, before gamma and output range, where there is no range and
    /// that is not the sample itself.
    #[must_use]
    pub fn filled(&self, rule: &Rule) -> Option<f64> {
        match self {
            Range::Keep(Kept::Constant | Kept::Degenerate(..)) => rule.constant.fill(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_comes_back_from_its_text() {
        let all = [
            Range::Linear { lo: -0.1, hi: 1e300, clamp: false },
            Range::Linear { lo: 5e-324, hi: 1.0 / 3.0, clamp: true },
            Range::Score { mean: 0.0, std: 0.1, bounds: [-1.0, 7.5] },
            Range::Keep(Kept::Asked),
            Range::Keep(Kept::Constant),
            Range::Keep(Kept::Degenerate(-2.5, f64::INFINITY)),
            Range::Keep(Kept::NoFinite),
        ];
        for range in all {
            assert_eq!(Range::from_text(&range.to_text()), Some(range));
        }
        let wrong = [
            "",
            "linear",
            "linear 1",
            "linear 2 1",
            "linear 1 inf",
            "linear 1 nan",
            "linear 1 2 3",
            "score 0 0 1 2",
            "constant 1",
            "Linear 1 2",
            "linear 1,2",
            "linear  1 2",
        ];
        for text in wrong {
            assert_eq!(Range::from_text(text), None, "{text}");
        }
    }
}
