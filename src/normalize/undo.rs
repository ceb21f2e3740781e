//! The way back from pixels to samples, as far as there is one.

use super::{Constant, Norm, Rule};
use crate::error::counted;

/// What makes samples of the pixels of one image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Undo {
    way: Way,
    out: Option<[f64; 2]>,
    /// Whether what lay beyond lo and hi was cut off.
    clamps: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    /// The pixels are the samples.
    Keep,
    /// All finite samples were this one.
    Fill(f64),
    Linear {
        lo: f64,
        hi: f64,
    },
    Score {
        mean: f64,
        std: f64,
    },
}

/// What was found while pixels became samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Undone {
    /// Pixels at the ends of a range beyond which samples were cut off: what they were is lost, but for
    /// those that lay just there.
    pub at_ends: u64,
    /// Samples beyond 32-bit floats, that become infinite.
    pub overflow: u64,
}

impl Undo {
    /// Why no image of a rule can be undone; `None` if it can.
    #[must_use]
    pub fn refusal(rule: &Rule) -> Option<String> {
        if let Some(gamma) = rule.gamma {
            return Some(format!("--gamma {gamma:?} cannot be undone: powers were rounded"));
        }
        if let Some([a, b]) = rule.out
            && narrow(a) == narrow(b)
        {
            return Some(format!("--out-range {a:?},{b:?} made all pixels the same"));
        }
        None
    }

    /// The way back from the pixels of an image of which these are the
    /// [numbers](super::Range::numbers) and the counts of samples that were not finite.
    ///
    /// # Errors
    /// Why there is none.
    pub fn of(
        rule: &Rule,
        numbers: Option<(f64, f64)>,
        [nan, inf]: [u64; 2],
    ) -> Result<Undo, String> {
        if let Some(refusal) = Undo::refusal(rule) {
            return Err(refusal);
        }
        if rule.nonfinite.fill().is_some() && (nan, inf) != (0, 0) {
            return Err(format!(
                "{nan} NaN and {} became numbers (--nonfinite), and nobody knows which",
                counted(inf, "infinite sample")
            ));
        }
        let mut undo = Undo { way: Way::Keep, out: rule.out, clamps: false };
        // What stays as it is goes through no output range either.
        let kept = Ok(Undo { out: None, ..undo });
        let Some((one, other)) = numbers.filter(|_| rule.norm != Norm::None) else {
            return kept;
        };
        if rule.norm.is_unclear(numbers) {
            return Err("nobody knows whether its samples have a deviation (--sigma)".to_owned());
        }
        if rule.norm.is_score() {
            if other > 0.0 && other.is_finite() && one.is_finite() {
                undo.way = Way::Score { mean: one, std: other };
                return Ok(undo);
            }
        } else if one < other && one.is_finite() && other.is_finite() {
            undo.way = Way::Linear { lo: one, hi: other };
            undo.clamps = !matches!(rule.norm, Norm::MinMax | Norm::Symmetric);
            return Ok(undo);
        }
        match (rule.constant, rule.norm) {
            (Constant::Keep, _) => kept,
            // Their range has no width only where all samples are the same.
            (_, Norm::MinMax | Norm::Symmetric) if one == other => {
                undo.way = Way::Fill(one);
                Ok(undo)
            }
            _ => {
                Err("its samples became one number (--constant), and may have differed".to_owned())
            }
        }
    }

    /// Whether the pixels are the samples.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.way == Way::Keep
    }

    /// The numbers by which sample = pixel · scale + offset; `None` where the pixels are the samples, or there
    /// are no such numbers.
    #[must_use]
    pub fn scale_and_offset(&self) -> Option<(f64, f64)> {
        let (scale, offset) = match self.way {
            Way::Keep | Way::Fill(_) => return None,
            // What f32 images were divided by; of others the difference is less than their pixels' rounding.
            Way::Linear { lo, hi } => match f64::from(narrow(hi - lo)) {
                width if width.is_finite() && width >= f32::MIN_POSITIVE.into() => (width, lo),
                _ => (hi - lo, lo),
            },
            Way::Score { mean, std } => (std, mean),
        };
        let (scale, offset) = match self.out {
            None => (scale, offset),
            Some([a, b]) => {
                let (a, b) = (f64::from(narrow(a)), f64::from(narrow(b)));
                let scale = scale / (b - a);
                (scale, offset - a * scale)
            }
        };
        (scale.is_finite() && offset.is_finite()).then_some((scale, offset))
    }

    /// Makes samples of pixels. Those that are not finite stay.
    pub fn apply(&self, pixels: &mut [f32]) -> Undone {
        let mut undone = Undone::default();
        if self.way == Way::Keep {
            return undone;
        }
        let unit = |y: f64| match self.out {
            None => y,
            // What became an end is that end.
            Some([a, b]) => match (f64::from(narrow(a)), f64::from(narrow(b))) {
                (a, _) if y == a => 0.0,
                (_, b) if y == b => 1.0,
                (a, b) => (y - a) / (b - a),
            },
        };
        for pixel in pixels.iter_mut().filter(|pixel| pixel.is_finite()) {
            let y = unit(f64::from(*pixel));
            let x = match self.way {
                Way::Keep => return undone,
                Way::Fill(sample) => sample,
                Way::Linear { lo, hi } => {
                    undone.at_ends += u64::from(self.clamps && (y <= 0.0 || y >= 1.0));
                    match y {
                        0.0 => lo,
                        1.0 => hi,
                        y if (hi - lo).is_finite() => y * (hi - lo) + lo,
                        y => 2.0 * (y * (hi / 2.0 - lo / 2.0) + lo / 2.0),
                    }
                }
                Way::Score { mean, std } => y * std + mean,
            };
            *pixel = narrow(x);
            undone.overflow += u64::from(pixel.is_infinite());
        }
        undone
    }

    /// Whether `made`, which differs from a sample `x` of the dump, can have come from it by rounding alone, or by what
    /// the norm cuts off. Pixels are the result of three operations in f32, or five with an output range, each of
    /// which may be off by a part of 2^-24; what is allowed here is four times that.
    #[must_use]
    pub fn may_round(&self, x: f32, made: f32) -> bool {
        const PART: f64 = 1.0 / (1_u64 << 20) as f64;
        if self.way == Way::Keep {
            return false;
        }
        let (x, made) = (f64::from(x), f64::from(made));
        if !(x.is_finite() && made.is_finite()) {
            return x == made || (x.is_nan() && made.is_nan());
        }
        // And by how much it changes where a pixel changes by 1.
        let (x, size, mut unit) = match self.way {
            Way::Keep => return false,
            Way::Fill(sample) => return x == f64::from(narrow(sample)),
            Way::Linear { lo, hi } if self.clamps => {
                (x.clamp(lo, hi), hi / 2.0 - lo / 2.0, hi - lo)
            }
            Way::Linear { lo, hi } => (x, hi / 2.0 - lo / 2.0, hi - lo),
            Way::Score { mean, std } => (x, x.abs() + mean.abs(), std),
        };
        // A narrow output range far from 0 has few steps.
        let mut steps = 1.0;
        if let Some([a, b]) = self.out {
            unit /= (b - a).abs();
            steps += (a.abs() + b.abs()) / (b - a).abs();
        }
        // Pixels, and samples, below the normal ones are whole numbers of the smallest.
        let smallest = f64::from(f32::from_bits(1));
        (made - x).abs() <= PART * (size * steps + x.abs()) + 4.0 * smallest * (1.0 + unit)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "rounding is what it is for")]
fn narrow(x: f64) -> f32 {
    x as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalize::{Nonfinite, oracle};
    use crate::tensor::Dtype;

    fn samples() -> Vec<f32> {
        let mut state = 7_u32;
        let random = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            narrow(f64::from(state >> 8) / 1e6 - 5.0)
        });
        let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-40];
        odd.into_iter().chain(random.take(5000)).collect()
    }

    fn round_trip(rule: Rule, numbers: Option<(f64, f64)>, samples: &[f32]) -> (Vec<f32>, Undone) {
        let raw: Vec<u8> = samples.iter().flat_map(|x| x.to_le_bytes()).collect();
        let (_, mut pixels) = oracle::normalize(rule, Dtype::F32, &raw);
        let undone = Undo::of(&rule, numbers, [0, 0]).unwrap().apply(&mut pixels);
        (pixels, undone)
    }

    #[test]
    fn linear_rules_are_undone_but_for_rounding() {
        let samples = samples();
        let finite = || samples.iter().filter(|x| x.is_finite()).map(|x| f64::from(*x));
        let (lo, hi) = (finite().fold(f64::MAX, f64::min), finite().fold(f64::MIN, f64::max));
        let most = hi.abs().max(lo.abs());
        let out = Some([255.0, -1.0]);
        for (rule, numbers) in [
            (Norm::MinMax.into(), (lo, hi)),
            (Rule { out, ..Norm::MinMax.into() }, (lo, hi)),
            (Norm::Symmetric.into(), (-most, most)),
            (Norm::Fixed { lo: -10.0, hi: 300.0 }.into(), (-10.0, 300.0)),
        ] {
            let (found, undone) = round_trip(rule, Some(numbers), &samples);
            assert_eq!(undone, Undone::default(), "{rule:?}");
            for (is, was) in found.iter().zip(&samples) {
                if was.is_finite() {
                    let error = (f64::from(*is) - f64::from(*was)).abs();
                    assert!(error <= 3e-7 * (numbers.1 - numbers.0), "{rule:?}: {was} {is}");
                    let undo = Undo::of(&rule, Some(numbers), [0, 0]).unwrap();
                    assert!(is == was || undo.may_round(*was, *is), "{rule:?}: {was} {is}");
                    assert!(!undo.may_round(*was + 0.01, *is), "{rule:?}: {was} {is}");
                } else {
                    assert_eq!(is.to_bits(), was.to_bits());
                }
                // The ends come back as they were.
                if [lo, hi].contains(&f64::from(*was)) && rule.norm == Norm::MinMax {
                    assert_eq!(is, was, "{rule:?}");
                }
            }
        }
    }

    #[test]
    fn what_stays_comes_back_bit_for_bit() {
        let samples = samples();
        let bits = |of: &[f32]| of.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let (found, _) = round_trip(Norm::None.into(), Some((-5.0, 5.0)), &samples);
        assert_eq!(bits(&found), bits(&samples));
        // A constant image, kept or not; NaN stays.
        let constant = [f32::NAN, 0.1, 0.1];
        for constant_as in [Constant::Keep, Constant::Zero, Constant::Half] {
            let rule = Rule { constant: constant_as, out: Some([3.0, 4.0]), ..Rule::default() };
            let (found, _) = round_trip(rule, Some((0.1_f32.into(), 0.1_f32.into())), &constant);
            assert_eq!(bits(&found), bits(&constant), "{constant_as:?}");
        }
    }

    #[test]
    fn what_was_cut_off_is_counted() {
        let fixed = Norm::Fixed { lo: 0.0, hi: 1.0 }.into();
        let (found, undone) = round_trip(fixed, Some((0.0, 1.0)), &[-3.0, 0.5, 2.0, 9.0]);
        assert_eq!((found, undone.at_ends), (vec![0.0, 0.5, 1.0, 1.0], 3));
        let undo = Undo::of(&Rule::default(), Some((-1e300, 1e300)), [0, 0]).unwrap();
        let mut pixels = [0.0, 0.5, 1.0];
        assert_eq!(undo.apply(&mut pixels).overflow, 2);
        assert_eq!(pixels, [f32::NEG_INFINITY, 0.0, f32::INFINITY]);
        let undo = Undo::of(&Rule::default(), Some((-1e308, 1.5e308)), [0, 0]).unwrap();
        let mut pixels = [0.4];
        assert_eq!(undo.apply(&mut pixels).overflow, 1, "{pixels:?}");
    }

    #[test]
    fn what_cannot_be_undone_is_refused_with_the_reason() {
        let half =
            Rule { constant: Constant::Half, ..Norm::Percentile { low: 1.0, high: 99.0 }.into() };
        let zero = Rule { nonfinite: Nonfinite::Zero, ..Rule::default() };
        for (rule, numbers, nan, part) in [
            (Rule { gamma: Some(2.2), ..Rule::default() }, (0.0, 1.0), 0, "--gamma 2.2"),
            (Rule { out: Some([1.0, 1.0]), ..Rule::default() }, (0.0, 1.0), 0, "--out-range"),
            (half, (1.0, 1.0), 0, "--constant"),
            (zero, (0.0, 1.0), 1, "1 NaN"),
            (Norm::ZScore { sigma: Some(2.0) }.into(), (-1.0, 0.0), 0, "--sigma"),
        ] {
            let told = Undo::of(&rule, Some(numbers), [nan, 0]).unwrap_err();
            assert!(told.contains(part), "{told}");
        }
        assert!(Undo::of(&zero, Some((0.0, 1.0)), [0, 0]).is_ok());
    }
}
