//! What is asked for: how samples become pixels, and which of them share a range.

use std::fmt;

/// How samples become pixels, before what [`Rule`] adds.
///
/// x is a sample, lo and hi come from the finite samples of its [`Scope`].
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Norm {
    /// y = (x − lo) / (hi − lo), lo and hi the least and the greatest sample.
    #[default]
    MinMax,
    /// The same with percentiles as lo and hi; samples beyond them become 0 and 1. They are exact
    /// order statistics at the virtual index (n − 1)·(P / 100), interpolated in f64 as NumPy's
    /// default method, `linear`, does.
    Percentile {
        /// Which percentile maps to 0, of 100.
        low: f64,
        /// Which percentile maps to 1.
        high: f64,
    },
    /// y = (x + m) / 2m, m the greatest magnitude: zero lands on 0.5.
    Symmetric,
    /// y = (x − mean) / std, with the population's standard deviation, unbounded. With `sigma`,
    /// mean ± sigma · std map to 0 and 1, and samples beyond them become 0 and 1.
    ZScore {
        /// How many standard deviations about the mean, where the pixels are to be in 0..1.
        sigma: Option<f64>,
    },
    /// y = (x − lo) / (hi − lo) with a lo and hi that are given; samples beyond them become 0 and 1.
    Fixed {
        /// Maps to 0.
        lo: f64,
        /// Maps to 1.
        hi: f64,
    },
    /// The widened samples, bit for bit.
    None,
}

/// Which samples share one range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// Those of one image.
    #[default]
    Image,
    /// Those of a tensor with the same index on the axis of channels: that which its layout calls C, or
    /// the one before the image's.
    Channel,
    /// Those of one tensor, as far as it is converted.
    Tensor,
    /// Those of tensors for which a template gives the same text.
    Group,
    /// All that the run converts.
    Dump,
}

/// What becomes of images whose finite samples, over their scope, have no width: they are all equal,
/// or both percentiles are, or their deviation is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Constant {
    /// They stay as they are, bits included.
    #[default]
    Keep,
    /// Every finite sample becomes 0, as if normalized to it.
    Zero,
    /// Every finite sample becomes 0.5, likewise.
    Half,
}

/// What becomes of samples that are NaN or infinite. They never take part in a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Nonfinite {
    /// They stay as they are.
    #[default]
    Keep,
    /// All become 0, as if normalized to it.
    Zero,
    /// −∞ and NaN become 0, +∞ becomes 1.
    Clamp,
    /// The image is not made.
    Fail,
}

/// Everything that decides how a sample of known range becomes a pixel. See the
/// [contract](super).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rule {
    /// From sample and range to y.
    pub norm: Norm,
    /// Where there is no range, but finite samples.
    pub constant: Constant,
    /// Where a sample is not finite.
    pub nonfinite: Nonfinite,
    /// y becomes y^gamma, in f64, rounded once.
    pub gamma: Option<f64>,
    /// y becomes y · (B − A) + A, product and sum rounded; 1 becomes B exactly.
    pub out: Option<[f64; 2]>,
}

impl From<Norm> for Rule {
    fn from(norm: Norm) -> Rule {
        Rule { norm, ..Rule::default() }
    }
}

/// Words of an option, each with its value.
type Words<T> = [(&'static str, T)];

const NORMS: &Words<Norm> = &[
    ("minmax", Norm::MinMax),
    ("percentile", Norm::Percentile { low: 1.0, high: 99.0 }),
    ("symmetric", Norm::Symmetric),
    ("zscore", Norm::ZScore { sigma: None }),
    ("fixed", Norm::Fixed { lo: 0.0, hi: 0.0 }),
    ("none", Norm::None),
];
const SCOPES: &Words<Scope> = &[
    ("image", Scope::Image),
    ("channel", Scope::Channel),
    ("tensor", Scope::Tensor),
    ("group", Scope::Group),
    ("dump", Scope::Dump),
];
const CONSTANTS: &Words<Constant> =
    &[("keep", Constant::Keep), ("zero", Constant::Zero), ("half", Constant::Half)];
const NONFINITES: &Words<Nonfinite> = &[
    ("keep", Nonfinite::Keep),
    ("zero", Nonfinite::Zero),
    ("clamp", Nonfinite::Clamp),
    ("fail", Nonfinite::Fail),
];

fn word<T: PartialEq>(words: &Words<T>, value: &T) -> &'static str {
    words.iter().find(|(_, of)| of == value).map_or("", |(word, _)| word)
}

fn named<T: Copy>(words: &Words<T>, option: &str, name: &str) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| *word == name);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        format!("--{option} {name}: there are {}", all.join(", "))
    })
}

impl Norm {
    /// The word that options and files use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Norm::MinMax => "minmax",
            Norm::Percentile { .. } => "percentile",
            Norm::Symmetric => "symmetric",
            Norm::ZScore { .. } => "zscore",
            Norm::Fixed { .. } => "fixed",
            Norm::None => "none",
        }
    }

    /// Whether pixels are z-scores, without bounds.
    #[must_use]
    pub const fn is_score(self) -> bool {
        matches!(self, Norm::ZScore { sigma: None })
    }

    /// Whether these numbers of a [range](super::Range::numbers) may be lo and hi, or mean and deviation
    /// where samples have none: a deviation of 0 is told as it is.
    pub(crate) fn is_unclear(self, numbers: Option<(f64, f64)>) -> bool {
        let sigma = matches!(self, Norm::ZScore { sigma: Some(_) });
        sigma && numbers.is_some_and(|(_, other)| other == 0.0)
    }

    /// Whether pixels are in 0..1.
    fn is_unit(self) -> bool {
        !matches!(self, Norm::None | Norm::ZScore { sigma: None })
    }
}

impl Constant {
    /// What finite samples become, if they do not stay.
    pub(crate) const fn fill(self) -> Option<f64> {
        match self {
            Constant::Keep => None,
            Constant::Zero => Some(0.0),
            Constant::Half => Some(0.5),
        }
    }
}

impl Nonfinite {
    /// What −∞ or NaN, and what +∞ becomes, if they do not stay.
    pub(crate) const fn fill(self) -> Option<[f64; 2]> {
        match self {
            Nonfinite::Keep | Nonfinite::Fail => None,
            Nonfinite::Zero => Some([0.0, 0.0]),
            Nonfinite::Clamp => Some([0.0, 1.0]),
        }
    }
}

impl fmt::Display for Norm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Scope {
    /// The word that options and files use.
    #[must_use]
    pub fn name(self) -> &'static str {
        word(SCOPES, &self)
    }
}

/// The options of a rule and its scope as text, by the names that the command line has for them: as
/// they are typed, and as a plan keeps them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleText<'a> {
    texts: [Option<&'a str>; RuleText::NAMES.len()],
}

impl<'a> RuleText<'a> {
    /// The names.
    pub const NAMES: [&'static str; 9] =
        ["norm", "scope", "clip", "range", "sigma", "constant", "nonfinite", "gamma", "out-range"];

    /// Sets one; false if there is none of that name.
    pub fn set(&mut self, name: &str, text: &'a str) -> bool {
        let at = RuleText::NAMES.iter().position(|known| *known == name);
        if let Some(at) = at {
            self.texts[at] = Some(text);
        }
        at.is_some()
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        RuleText::NAMES.iter().position(|known| *known == name).and_then(|at| self.texts[at])
    }

    /// What they say.
    ///
    /// # Errors
    /// Which option is wrong and what it ought to be, in one line.
    pub fn read(&self) -> Result<(Rule, Scope), String> {
        let mut norm = match self.get("norm") {
            None => Norm::default(),
            Some(name) => named(NORMS, "norm", name)?,
        };
        let asked = norm;
        let belongs = |option: &str, to: &str| {
            format!("--{option} goes with --norm {to}, and not with {asked}")
        };
        match (self.get("clip"), norm) {
            (None, _) => {}
            (Some(text), Norm::Percentile { .. }) => {
                let [low, high] = pair("clip", text, "1,99")?;
                norm = Norm::Percentile { low, high };
            }
            (Some(_), _) => return Err(belongs("clip", "percentile")),
        }
        match (self.get("range"), norm) {
            (None, Norm::Fixed { .. }) => {
                return Err("--norm fixed needs --range LO,HI: what maps to 0 and to 1".to_owned());
            }
            (None, _) => {}
            (Some(text), Norm::Fixed { .. }) => {
                let [lo, hi] = pair("range", text, "-1,1")?;
                norm = Norm::Fixed { lo, hi };
            }
            (Some(_), _) => return Err(belongs("range", "fixed")),
        }
        match (self.get("sigma"), norm) {
            (None, _) => {}
            (Some(text), Norm::ZScore { .. }) => {
                norm = Norm::ZScore { sigma: Some(number("sigma", text)?) };
            }
            (Some(_), _) => return Err(belongs("sigma", "zscore")),
        }
        let constant = match self.get("constant") {
            None => Constant::default(),
            Some(name) => named(CONSTANTS, "constant", name)?,
        };
        let nonfinite = match self.get("nonfinite") {
            None => Nonfinite::default(),
            Some(name) => named(NONFINITES, "nonfinite", name)?,
        };
        let gamma = self.get("gamma").map(|text| number("gamma", text)).transpose()?;
        let out = self.get("out-range").map(|text| pair("out-range", text, "0,255")).transpose()?;
        let scope = match self.get("scope") {
            None => Scope::default(),
            Some(name) => named(SCOPES, "scope", name)?,
        };
        let rule = Rule { norm, constant, nonfinite, gamma, out };
        rule.check()?;
        if scope != Scope::Image && matches!(norm, Norm::None | Norm::Fixed { .. }) {
            return Err(format!(
                "--scope {}: --norm {norm} takes no range from samples that they could share",
                scope.name()
            ));
        }
        Ok((rule, scope))
    }
}

fn number(option: &str, text: &str) -> Result<f64, String> {
    let number = text.trim().parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| format!("--{option} {text}: that is no number"))
}

fn pair(option: &str, text: &str, example: &str) -> Result<[f64; 2], String> {
    let wrong =
        || format!("--{option} {text}: two numbers with a comma between them are, as {example}");
    let (a, b) = text.split_once(',').ok_or_else(wrong)?;
    match (number(option, a), number(option, b)) {
        (Ok(a), Ok(b)) => Ok([a + 0.0, b + 0.0]), // −0 + 0 = +0
        _ => Err(wrong()),
    }
}

impl Rule {
    /// What was asked for where that is not the default, option by option.
    #[must_use]
    pub fn texts(&self, scope: Scope) -> Vec<(&'static str, String)> {
        let both = |[a, b]: [f64; 2]| format!("{a:?},{b:?}");
        let mut texts = vec![("norm", self.norm.name().to_owned())];
        match self.norm {
            Norm::Percentile { low, high } => texts.push(("clip", both([low, high]))),
            Norm::Fixed { lo, hi } => texts.push(("range", both([lo, hi]))),
            Norm::ZScore { sigma: Some(sigma) } => texts.push(("sigma", format!("{sigma:?}"))),
            _ => {}
        }
        if scope != Scope::default() {
            texts.push(("scope", scope.name().to_owned()));
        }
        if self.constant != Constant::default() {
            texts.push(("constant", word(CONSTANTS, &self.constant).to_owned()));
        }
        if self.nonfinite != Nonfinite::default() {
            texts.push(("nonfinite", word(NONFINITES, &self.nonfinite).to_owned()));
        }
        texts.extend(self.gamma.map(|gamma| ("gamma", format!("{gamma:?}"))));
        texts.extend(self.out.map(|out| ("out-range", both(out))));
        texts
    }

    /// Whether the kernels of GPUs do it: a linear map or none and nothing besides, the range of which
    /// follows from the extent or is `known` before.
    #[must_use]
    pub fn is_linear(&self, known: bool) -> bool {
        let Rule { norm, constant, nonfinite, gamma, out } = *self;
        let norm = match norm {
            Norm::MinMax | Norm::Symmetric | Norm::Fixed { .. } | Norm::None => true,
            Norm::Percentile { .. } | Norm::ZScore { sigma: Some(_) } => known,
            Norm::ZScore { sigma: None } => false,
        };
        norm && (constant, gamma, out) == (Constant::Keep, None, None) && nonfinite.fill().is_none()
    }

    /// Whether the numbers make sense, and the options together. A range that 32-bit floats do not hold does,
    /// as some types are computed in f64; a run refuses it where others are.
    ///
    /// # Errors
    /// Which of them does not, in one line.
    pub fn check(&self) -> Result<(), String> {
        #[allow(clippy::cast_possible_truncation, reason = "to see whether they survive it")]
        let narrow = |x: f64| x as f32;
        match self.norm {
            Norm::Percentile { low, high } if !(0.0 <= low && low < high && high <= 100.0) => {
                return Err(format!(
                    "--clip {low:?},{high:?}: percentiles are from 0 to 100, the lower first"
                ));
            }
            Norm::Fixed { lo, hi } if !(lo < hi && hi.is_finite() && lo.is_finite()) => {
                return Err(format!("--range {lo:?},{hi:?}: the first must be the lesser"));
            }
            Norm::ZScore { sigma: Some(sigma) } if !(sigma > 0.0 && narrow(sigma) > 0.0) => {
                return Err(format!("--sigma {sigma:?}: it must be above 0"));
            }
            _ => {}
        }
        if let Some(gamma) = self.gamma
            && !(gamma > 0.0 && gamma.is_finite())
        {
            return Err(format!("--gamma {gamma:?}: it must be above 0"));
        }
        if let Some([a, b]) = self.out
            && !(narrow(b) - narrow(a)).is_finite()
        {
            return Err(format!("--out-range {a:?},{b:?}: 32-bit floats cannot hold its width"));
        }
        if let Some([a, b]) = self.out
            && narrow(a) == narrow(b)
        {
            return Err(format!("--out-range {a:?},{b:?}: all pixels would be the same"));
        }
        let norm = self.norm;
        let unit = [
            ("gamma", self.gamma.is_some()),
            ("out-range", self.out.is_some()),
            ("constant", self.constant != Constant::Keep),
            ("nonfinite zero", self.nonfinite == Nonfinite::Zero),
            ("nonfinite clamp", self.nonfinite == Nonfinite::Clamp),
        ];
        if matches!(norm, Norm::Fixed { .. }) && self.constant != Constant::Keep {
            return Err(
                "--constant: with --norm fixed the range is given, whatever the samples".into()
            );
        }
        let constant_of_score = |option: &str| option == "constant" && norm != Norm::None;
        match unit.into_iter().find(|(option, given)| *given && !constant_of_score(option)) {
            Some((option, _)) if !norm.is_unit() => Err(format!(
                "--{option} goes with pixels in 0..1, and --norm {norm} {}",
                if norm == Norm::None {
                    "changes none"
                } else {
                    "makes others (with --sigma K it does)"
                }
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &[(&'static str, &'static str)]) -> Result<(Rule, Scope), String> {
        let mut text = RuleText::default();
        for (name, value) in options {
            assert!(text.set(name, value), "{name}");
        }
        text.read()
    }

    #[test]
    fn what_is_typed_is_what_is_kept() {
        let all: [&[(&str, &str)]; 9] = [
            &[("norm", "minmax")],
            &[("norm", "percentile"), ("clip", "0.5,99.9"), ("scope", "tensor")],
            &[("norm", "symmetric"), ("constant", "half"), ("scope", "channel")],
            &[("norm", "zscore"), ("constant", "zero"), ("nonfinite", "fail")],
            &[("norm", "zscore"), ("sigma", "2.5"), ("nonfinite", "clamp"), ("gamma", "0.45")],
            &[("norm", "fixed"), ("range", "-1.0,1.0"), ("out-range", "0.0,255.0")],
            &[("norm", "none"), ("nonfinite", "fail")],
            &[("norm", "minmax"), ("out-range", "1.0,0.0"), ("nonfinite", "zero")],
            &[("norm", "minmax"), ("scope", "dump")],
        ];
        for options in all {
            let (rule, scope) = read(options).unwrap();
            let mut texts = rule.texts(scope);
            let mut want: Vec<_> = options.iter().map(|(a, b)| (*a, (*b).to_owned())).collect();
            texts.sort();
            want.sort();
            assert_eq!(texts, want);
        }
        assert_eq!(read(&[]).unwrap(), (Rule::default(), Scope::Image));
        let clip = read(&[("norm", "percentile")]).unwrap().0.norm;
        assert_eq!(clip, Norm::Percentile { low: 1.0, high: 99.0 });
        let fixed = read(&[("norm", "fixed"), ("range", "-1,1")]).unwrap().0.norm;
        assert_eq!(fixed, Norm::Fixed { lo: -1.0, hi: 1.0 });
    }

    #[test]
    fn wrong_options_say_what_would_be_right() {
        let all: [(&[(&str, &str)], &str); 26] = [
            (&[("norm", "max")], "there are minmax, percentile"),
            (&[("scope", "file")], "there are image, channel"),
            (&[("constant", "one")], "keep, zero, half"),
            (&[("nonfinite", "drop")], "keep, zero, clamp, fail"),
            (&[("clip", "1,99")], "--clip goes with --norm percentile, and not with minmax"),
            (&[("norm", "percentile"), ("clip", "99,1")], "the lower first"),
            (&[("norm", "percentile"), ("clip", "1")], "as 1,99"),
            (&[("norm", "percentile"), ("clip", "-1,50")], "from 0 to 100"),
            (&[("norm", "percentile"), ("clip", "a,b")], "as 1,99"),
            (&[("norm", "percentile"), ("clip", "nan,50")], "as 1,99"),
            (&[("norm", "fixed")], "needs --range LO,HI"),
            (&[("norm", "fixed"), ("range", "1,1")], "the lesser"),
            (&[("norm", "fixed"), ("range", "1,1.0000000000000000001")], "the lesser"),
            (&[("norm", "fixed"), ("range", "0,1e309")], "as -1,1"),
            (&[("range", "0,1")], "goes with --norm fixed"),
            (&[("sigma", "2")], "goes with --norm zscore"),
            (&[("norm", "zscore"), ("sigma", "0")], "above 0"),
            (&[("gamma", "-2")], "above 0"),
            (&[("norm", "zscore"), ("gamma", "2")], "with --sigma K"),
            (&[("norm", "none"), ("out-range", "0,255")], "changes none"),
            (&[("out-range", "-3e38,3e38")], "cannot hold its width"),
            (&[("out-range", "5,5")], "all pixels would be the same"),
            (&[("out-range", "1,1.00000001")], "all pixels would be the same"),
            (&[("norm", "none"), ("scope", "tensor")], "takes no range"),
            (&[("norm", "none"), ("constant", "zero")], "changes none"),
            (&[("norm", "fixed"), ("range", "0,1"), ("constant", "zero")], "the range is given"),
        ];
        for (options, part) in all {
            let error = read(options).unwrap_err();
            assert!(error.contains(part), "{options:?}: {error}");
        }
        assert!(!RuleText::default().set("normm", "minmax"));
        // Some types are computed in f64: the plan says where 32-bit floats cannot tell them apart.
        for range in ["1,1.00000001", "0,1e39", "1700000000,1700000020"] {
            assert!(read(&[("norm", "fixed"), ("range", range)]).is_ok(), "{range}");
        }
    }
}
