//! What the user says of axes: which are the image's, which indices are taken, what is combined.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use crate::error::nearest::near;
use crate::error::{Error, shown};
use crate::tensor::Glob;

/// What becomes of the axes of tensors before they are images. By default the last two are an image's
/// rows and columns, and all others count images.
///
/// ```
/// use tensortiff::Layout;
/// let mut layout = Layout::default();
/// layout.add("layout", "NHWC")?;
/// layout.add("select", "N=0:16,C=3")?;
/// layout.add("flip", "y")?;
/// assert!(layout.add("reduce", "C=median").is_err());
/// # Ok::<(), tensortiff::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// Of tensors whose names match; the first that matches counts.
    pub(super) letters: Vec<Lettered>,
    pub(super) select: Vec<(char, Indices)>,
    pub(super) reduce: Option<(char, Reduction)>,
    pub(super) rows: Option<NonZeroU64>,
    pub(super) transpose: bool,
    pub(super) flip: Flip,
}

/// The letters of a tensor's axes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lettered {
    /// Of which tensors; `None`: of all.
    pattern: Option<(String, Glob)>,
    /// `None`: `auto`.
    pub(super) letters: Option<Vec<char>>,
}

/// Indices of an axis, as Python writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Indices {
    One(i64),
    Slice { start: Option<i64>, stop: Option<i64>, step: NonZeroU64 },
}

/// How samples along an axis are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reduction {
    Mean,
    Max,
    Min,
    AbsMean,
    L2,
    Std,
}

/// Which axes of an image run the other way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Flip {
    pub(super) x: bool,
    pub(super) y: bool,
}

impl Reduction {
    const ALL: [(&'static str, Reduction); 6] = [
        ("mean", Reduction::Mean),
        ("max", Reduction::Max),
        ("min", Reduction::Min),
        ("absmean", Reduction::AbsMean),
        ("l2", Reduction::L2),
        ("std", Reduction::Std),
    ];
}

impl Layout {
    /// The options by name, as [`add`](Layout::add) takes them.
    pub const NAMES: [&'static str; 6] =
        ["layout", "select", "reduce", "rows", "transpose", "flip"];

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Layout::default()
    }

    /// Adds an option as the command line has it, without its `--`: `layout`, `select`, `reduce`, `rows`,
    /// `transpose` (of which the text is empty) or `flip`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a text that is none, or another name.
    pub fn add(&mut self, option: &str, text: &str) -> Result<(), Error> {
        let wrong = |problem| Error::Usage(format!("--{option} {}: {problem}", shown(text)));
        match option {
            "layout" => self.letters.push(text.parse().map_err(wrong)?),
            "select" => {
                for part in text.split(',') {
                    let (letter, indices) = select(part).map_err(wrong)?;
                    if self.select.iter().any(|(other, _)| *other == letter) {
                        return Err(wrong(format!("the axis {letter} is selected from twice")));
                    }
                    self.select.push((letter, indices));
                }
            }
            "reduce" if self.reduce.is_some() => {
                return Err(wrong("one axis can be reduced, and one is already".to_owned()));
            }
            "reduce" => self.reduce = Some(reduce(text).map_err(wrong)?),
            "rows" => {
                let due = || wrong("a number of rows is due, 1 or more".to_owned());
                self.rows = Some(text.parse().map_err(|_| due())?);
            }
            "transpose" => self.transpose = true,
            "flip" => match text.to_ascii_lowercase().as_str() {
                "x" => self.flip.x = true,
                "y" => self.flip.y = true,
                "xy" | "yx" | "x,y" => self.flip = Flip { x: true, y: true },
                _ => {
                    return Err(wrong(
                        "there are x, from left to right, y, upside down, and xy".to_owned(),
                    ));
                }
            },
            _ => return Err(Error::Usage(format!("--{}: there is no such option", shown(option)))),
        }
        Ok(())
    }

    /// The options of which it was made, so that the same can be made again.
    #[must_use]
    pub fn texts(&self) -> BTreeMap<String, Vec<String>> {
        let letters: Vec<String> = self.letters.iter().map(ToString::to_string).collect();
        let select = self.select.iter().map(|(letter, indices)| format!("{letter}={indices}"));
        let name = |reduction| Reduction::ALL.into_iter().find(|(_, other)| *other == reduction);
        let reduce = self.reduce.and_then(|(letter, reduction)| {
            name(reduction).map(|(name, _)| format!("{letter}={name}"))
        });
        let flips = [("x", self.flip.x), ("y", self.flip.y)];
        let flips = flips.into_iter().filter(|(_, is)| *is).map(|(name, _)| name.to_owned());
        let all = [
            ("layout", letters),
            ("select", select.collect()),
            ("reduce", reduce.into_iter().collect()),
            ("rows", self.rows.iter().map(ToString::to_string).collect()),
            ("transpose", self.transpose.then(String::new).into_iter().collect()),
            ("flip", flips.collect()),
        ];
        let given = all.into_iter().filter(|(_, texts): &(_, Vec<_>)| !texts.is_empty());
        given.map(|(name, texts)| (name.to_owned(), texts)).collect()
    }

    /// The first pattern of tensors that matches none of these names.
    pub(crate) fn unmatched<'a>(
        &self,
        names: impl Iterator<Item = &'a str> + Clone,
    ) -> Option<&str> {
        let patterns = self.letters.iter().filter_map(|lettered| lettered.pattern.as_ref());
        let fits = |glob: &Glob| names.clone().any(|name| glob.matches(name));
        patterns.into_iter().find(|(_, glob)| !fits(glob)).map(|(pattern, _)| pattern.as_str())
    }

    /// The axis along which samples are combined, and how that was typed.
    pub(crate) fn reduced(&self) -> Option<(char, String)> {
        let (letter, _) = self.reduce?;
        let mut texts = self.texts();
        Some((letter, format!("--reduce {}", texts.remove("reduce")?.concat())))
    }

    /// The letters of a tensor of this name; `None` where none were said.
    pub(super) fn letters_of(&self, name: &str) -> Option<&[char]> {
        let matches = |lettered: &&Lettered| {
            lettered.pattern.as_ref().is_none_or(|(_, glob)| glob.matches(name))
        };
        self.letters.iter().find(matches)?.letters.as_deref()
    }
}

impl FromStr for Lettered {
    type Err = String;

    fn from_str(text: &str) -> Result<Lettered, String> {
        let (pattern, letters) = match text.rsplit_once('=') {
            Some((pattern, letters)) => {
                let glob = Glob::new(pattern)?;
                (Some((pattern.to_owned(), glob)), letters)
            }
            None => (None, text),
        };
        Ok(Lettered { pattern, letters: letters_of(letters)? })
    }
}

impl fmt::Display for Lettered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((pattern, _)) = &self.pattern {
            write!(f, "{pattern}=")?;
        }
        match &self.letters {
            Some(letters) => letters.iter().try_for_each(|letter| write!(f, "{letter}")),
            None => f.write_str("auto"),
        }
    }
}

fn letters_of(text: &str) -> Result<Option<Vec<char>>, String> {
    if text.eq_ignore_ascii_case("auto") {
        return Ok(None);
    }
    let letters: Vec<char> = text.chars().map(|c| c.to_ascii_uppercase()).collect();
    let mut sorted = letters.clone();
    sorted.sort_unstable();
    if sorted == ['A', 'O', 'T', 'U'] {
        return Err("most likely auto is meant".to_owned());
    }
    if letters.is_empty() || letters.iter().any(|letter| !letter.is_ascii_uppercase()) {
        return Err("auto is due, or a letter for each axis, as NHWC".to_owned());
    }
    let twice = letters.iter().enumerate().find(|(at, letter)| letters[..*at].contains(letter));
    if let Some((_, letter)) = twice {
        return Err(format!("the letter {letter} is there twice"));
    }
    if letters.contains(&'H') && !letters.contains(&'W') {
        return Err("it has an H, the rows of images, and no W, their columns".to_owned());
    }
    Ok(Some(letters))
}

/// The letter before a `=`, and what is behind it.
fn of_axis(text: &str) -> Option<(char, &str)> {
    let (letter, rest) = text.split_once('=')?;
    let mut letters = letter.trim().chars();
    match (letters.next(), letters.next()) {
        (Some(letter), None) if letter.is_ascii_alphabetic() => {
            Some((letter.to_ascii_uppercase(), rest.trim()))
        }
        _ => None,
    }
}

fn select(text: &str) -> Result<(char, Indices), String> {
    let due = || {
        "an axis and its indices are due, as C=3, N=0:16 or T=::4; several with commas".to_owned()
    };
    let (letter, indices) = of_axis(text).ok_or_else(due)?;
    let number = |text: &str| text.parse::<i64>().map_err(|_| due());
    let open = |text: &str| if text.is_empty() { Ok(None) } else { number(text).map(Some) };
    let parts: Vec<&str> = indices.split(':').map(str::trim).collect();
    let (start, stop, step) = match parts[..] {
        [one] => return Ok((letter, Indices::One(number(one)?))),
        [start, stop] => (start, stop, ""),
        [start, stop, step] => (start, stop, step),
        _ => return Err(due()),
    };
    let step = match open(step)?.unwrap_or(1) {
        step if step > 0 => NonZeroU64::new(step.unsigned_abs()).ok_or_else(due)?,
        _ => {
            let help = "steps are 1 or more; --flip turns images round";
            return Err(help.to_owned());
        }
    };
    Ok((letter, Indices::Slice { start: open(start)?, stop: open(stop)?, step }))
}

/// What other programs call reductions.
const OTHERWISE: [(&str, &str); 9] = [
    ("avg", "mean"),
    ("average", "mean"),
    ("median", "mean"),
    ("maximum", "max"),
    ("amax", "max"),
    ("minimum", "min"),
    ("amin", "min"),
    ("norm", "l2"),
    ("stdev", "std"),
];

fn reduce(text: &str) -> Result<(char, Reduction), String> {
    let names = || Reduction::ALL.map(|(name, _)| name);
    let Some((letter, name)) = of_axis(text) else {
        return Err(format!("an axis is due, and one of {}, as C=mean", names().join(", ")));
    };
    let known = Reduction::ALL.into_iter().find(|(known, _)| *known == name.to_ascii_lowercase());
    let (_, reduction) = known.ok_or_else(|| {
        let other = OTHERWISE.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        let nearest = other.map(|(_, known)| *known).or_else(|| near(name, names()));
        let nearest = nearest.map_or(String::new(), |known| format!("; the nearest is {known}"));
        format!("there is no {}; there are {}{nearest}", shown(name), names().join(", "))
    })?;
    Ok((letter, reduction))
}

impl fmt::Display for Indices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |number: &Option<i64>| number.map_or(String::new(), |n| n.to_string());
        match self {
            Indices::One(index) => write!(f, "{index}"),
            Indices::Slice { start, stop, step } => {
                write!(f, "{}:{}", text(start), text(stop))?;
                if step.get() > 1 { write!(f, ":{step}") } else { Ok(()) }
            }
        }
    }
}

impl Indices {
    /// First index, distance and number of those that an axis of `len` has, as NumPy takes them; `None`
    /// for one index that the axis has not.
    pub(super) fn of(&self, len: u64) -> Option<(u64, u64, u64)> {
        // Counted from the end, if below 0.
        let place = |index: i64| match index {
            0.. => index.unsigned_abs(),
            _ => len.saturating_sub(index.unsigned_abs()),
        };
        match *self {
            Indices::One(index) if index >= 0 => {
                (index.unsigned_abs() < len).then_some((index.unsigned_abs(), 1, 1))
            }
            Indices::One(index) => len.checked_sub(index.unsigned_abs()).map(|index| (index, 1, 1)),
            Indices::Slice { start, stop, step } => {
                let start = start.map_or(0, place).min(len);
                let stop = stop.map_or(len, place).min(len);
                let count = stop.saturating_sub(start).div_ceil(step.get());
                Some((start, step.get(), count))
            }
        }
    }
}
