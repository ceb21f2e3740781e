//! Tag 270, ImageDescription: three lines that seven readers skip, ImageJ takes its display range
//! from, and a program gets everything from that undoes the normalization.
//!
//! ```text
//! ImageJ=1.54f
//! min=0.0
//! max=1.0
//! tensortiff={"v":1,"tensor":"layer.0","index":[3,1],"dtype":"F32","norm":"minmax","scope":"image","lo":-2.5,"hi":4.0,"nan":0,"inf":0}
//! ```
//! `lo` and `hi` are what maps to 0 and 1, and of images without a range the least and greatest
//! finite sample (`null` where there is none); of z-scores there are `mean` and `std` instead. `nan`
//! and `inf` are the numbers of samples that are not finite. Options that are not the default follow
//! by their names: `"gamma":"2.2"`, `"out-range":"0.0,255.0"`. The text is ASCII; others, control characters
//! among them, are escaped as JSON does, so that its only NUL is the one that ends it. A tensor's
//! name of more than 1000 bytes is cut, ends in `…`, and `"tensor_bytes"` after it says how long it
//! is. It holds no paths and no times: the same input makes the same bytes.
//!
//! A stack's first page has `images=`, `slices=` and `loop=false` before `min=`, which with `max=` is the
//! display range of all pages there.

use std::fmt::Write as _;

use crate::normalize::{Extent, Kept, Range, Rule, Scope};

/// Longest name that is written whole, in bytes; every image of a tensor carries it.
const NAME: usize = 1000;
/// Longest text of an f64: 17 digits, sign, point, and an exponent or zeros to 1e-5.
const F64: usize = 24;
/// Longest text of an f32: -1234568000000000.0; from 1e16 on it has an exponent.
const F32: usize = 19;

/// The lines of an image, but for the numbers that its pixels decide: the texts between them, so that
/// little is left to be done for each image.
#[derive(Debug, Clone)]
pub(super) struct Description {
    pub(super) rule: Rule,
    /// The display range of most images, and its lines.
    unit: (Display, String),
    /// Of a stack's first page: ImageJ's lines that say so.
    stack: String,
    /// Up to the index; from it to the first number, and to the second; the end.
    texts: [String; 4],
}

/// What a text says of an image's samples: the numbers of its range, those of NaN and of infinite pixels.
pub(super) type Numbers = (Option<(f64, f64)>, u64, u64);

/// The display range of a stack: of its normalized pages, and where none is, of all.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Shown {
    normalized: Option<Display>,
    kept: Option<Display>,
}

impl Shown {
    /// Adds a page's.
    pub fn add(&mut self, rule: &Rule, extent: &Extent, range: &Range) {
        let of = if range.keeps(rule) { &mut self.kept } else { &mut self.normalized };
        let page = Display::of(rule, extent, range);
        *of =
            Some(of.map_or(page, |of| Display {
                min: of.min.min(page.min),
                max: of.max.max(page.max),
            }));
    }

    fn display(&self) -> Option<Display> {
        self.normalized.or(self.kept)
    }
}

/// The display range of tags 340 and 341 and of ImageJ's lines.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Display {
    pub(super) min: f32,
    pub(super) max: f32,
}

impl Display {
    /// Of normalized pixels.
    #[allow(clippy::cast_possible_truncation, reason = "a display range")]
    fn unit(rule: &Rule) -> Display {
        match rule.out {
            None => Display { min: 0.0, max: 1.0 },
            Some([a, b]) => Display { min: a.min(b) as f32, max: a.max(b) as f32 },
        }
    }

    /// −0 is not shown as 0.
    fn bits(self) -> [u32; 2] {
        [self.min, self.max].map(f32::to_bits)
    }

    fn lines(self, stack: &str) -> String {
        format!("ImageJ=1.54f\n{stack}min={:?}\nmax={:?}\n", self.min, self.max)
    }

    /// 0 and 1 for normalized pixels; for kept ones their finite range, which includes 0..1 where
    /// it would be empty: viewers divide by its width.
    #[allow(clippy::cast_possible_truncation, reason = "clamped to f32 first; a display range")]
    pub(super) fn of(rule: &Rule, extent: &Extent, range: &Range) -> Display {
        let unit = Display::unit(rule);
        let (min, max) = match range {
            Range::Score { mean, std, bounds: [min, max] } => {
                ((min - mean) / std, (max - mean) / std)
            }
            _ if range.keeps(rule) && extent.has_finite() => (extent.min, extent.max),
            _ => return unit,
        };
        let pixel = |x: f64| x.clamp(f32::MIN.into(), f32::MAX.into()) as f32;
        let (min, max) = (pixel(min), pixel(max));
        if min < max {
            Display { min, max }
        } else {
            Display { min: min.min(unit.min), max: max.max(unit.max) }
        }
    }
}

impl Description {
    pub(super) fn new(
        tensor: &str,
        dtype: impl std::fmt::Display,
        (rule, scope): (&Rule, Scope),
    ) -> Description {
        let besides =
            rule.texts(scope).into_iter().filter(|(name, _)| !["norm", "scope"].contains(name));
        let besides: String =
            besides.map(|(name, text)| format!(",\"{name}\":\"{text}\"")).collect();
        let [one, other] = if rule.norm.is_score() { ["mean", "std"] } else { ["lo", "hi"] };
        let (norm, scope) = (rule.norm, scope.name());
        let texts = [
            start(&named(tensor)),
            format!("],\"dtype\":\"{dtype}\",\"norm\":\"{norm}\",\"scope\":\"{scope}\",\"{one}\":"),
            format!(",\"{other}\":"),
            format!("{besides}}}\n\0"),
        ];
        let unit = Display::unit(rule);
        let stack = String::new();
        Description { rule: *rule, unit: (unit, unit.lines(&stack)), stack, texts }
    }

    /// Of a tensor whose name, of so many bytes, was cut before.
    pub(super) fn of_cut(mut self, tensor: &str, bytes: u64) -> Description {
        self.texts[0] = start(&format!("{},\"tensor_bytes\":{bytes}", json_ascii(tensor)));
        self
    }

    /// Of the first of so many pages: ImageJ takes the others to follow its pixels.
    pub(super) fn of_first(mut self, pages: u64) -> Description {
        self.stack = format!("images={pages}\nslices={pages}\nloop=false\n");
        self.unit.1 = self.unit.0.lines(&self.stack);
        self
    }

    /// The length that no image's text exceeds, its one NUL included: that of an image without
    /// finite samples, with every number at its longest.
    pub(super) fn longest(&self, axes: &[u64], samples: u64) -> usize {
        let mut text = Vec::new();
        let last: Vec<u64> = axes.iter().map(|axis| axis.saturating_sub(1)).collect();
        let extent = Extent { nan: samples, pos_inf: samples, ..Extent::EMPTY };
        self.write(&last, &extent, &Range::Keep(Kept::NoFinite), &mut text);
        // Its display range is that of all that has no finite sample.
        let display = Display::of(&self.rule, &extent, &Range::Keep(Kept::NoFinite));
        let shown = format!("{:?}{:?}", display.min, display.max).len();
        text.len() + 2 * (F64 - "null".len()) + 2 * F32 - shown
    }

    /// Appends an image's text with its NUL.
    pub(super) fn write(&self, index: &[u64], extent: &Extent, range: &Range, out: &mut Vec<u8>) {
        self.write_shown(index, extent, range, &Shown::default(), out);
    }

    /// The same of an image that is shown with others.
    pub(super) fn write_shown(
        &self,
        index: &[u64],
        extent: &Extent,
        range: &Range,
        shown: &Shown,
        out: &mut Vec<u8>,
    ) {
        let display = shown.display();
        let display = display.unwrap_or_else(|| Display::of(&self.rule, extent, range));
        self.write_numbers(index, display, Description::numbers(&self.rule, extent, range), out);
    }

    /// What texts say of an image's samples.
    pub(super) fn numbers(rule: &Rule, extent: &Extent, range: &Range) -> Numbers {
        let overflow = if range.keeps(rule) { extent.overflow } else { 0 };
        let inf = extent.pos_inf + extent.neg_inf + overflow;
        (range.numbers(rule, extent), extent.nan, inf)
    }

    /// The same, of what the text says: the numbers of its range, of NaN and of infinite pixels.
    pub(super) fn write_numbers(
        &self,
        index: &[u64],
        display: Display,
        (numbers, nan, inf): Numbers,
        out: &mut Vec<u8>,
    ) {
        let Description { unit: (unit, lines), stack, texts, .. } = self;
        let [start, to_one, to_other, end] = texts;
        let mut out = Text(out);
        if display.bits() == unit.bits() {
            out.text(lines);
        } else {
            out.text(&display.lines(stack));
        }
        out.text(start);
        for (i, &at) in index.iter().enumerate() {
            if i > 0 {
                out.text(",");
            }
            out.count(at);
        }
        out.text(to_one);
        out.number(numbers.map(|(one, _)| one));
        out.text(to_other);
        out.number(numbers.map(|(_, other)| other));
        out.text(",\"nan\":");
        out.count(nan);
        out.text(",\"inf\":");
        out.count(inf);
        out.text(end);
    }
}

/// Text as bytes.
struct Text<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.text(text);
        Ok(())
    }
}

impl Text<'_> {
    fn text(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    fn count(&mut self, count: u64) {
        match u8::try_from(count) {
            // Most are; formatting takes 300 instructions.
            Ok(digit @ 0..10) => self.0.push(b'0' + digit),
            _ => write!(self, "{count}").expect("writing to memory does not fail"),
        }
    }

    /// As the manifest has it. JSON has no infinity.
    fn number(&mut self, number: Option<f64>) {
        serde_json::to_writer(&mut *self.0, &number).expect("memory takes every number");
    }
}

/// The line of a tensor's name as JSON, up to the index.
fn start(named: &str) -> String {
    format!("tensortiff={{\"v\":1,\"tensor\":{named},\"index\":[")
}

/// A tensor's name as JSON; cut, with its length as one more entry.
fn named(tensor: &str) -> String {
    if tensor.len() <= NAME {
        return json_ascii(tensor);
    }
    let cut = (0..=NAME).rev().find(|&at| tensor.is_char_boundary(at)).unwrap_or(0);
    let start = json_ascii(&format!("{}…", &tensor[..cut]));
    format!("{start},\"tensor_bytes\":{}", tensor.len())
}

/// `text` as a JSON string in ASCII.
fn json_ascii(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    let mut ascii = String::with_capacity(quoted.len());
    for c in quoted.chars() {
        if c.is_ascii() && c != '\u{7f}' {
            ascii.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(ascii, "\\u{unit:04x}").expect("writing to a String does not fail");
            }
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalize::Norm;
    use crate::tensor::Dtype;

    fn text(norm: Norm, extent: Extent) -> String {
        let mut out = Vec::new();
        let rule = Rule::from(norm);
        let description =
            Description::new("a\"\u{e9}\u{1F600}\n", Dtype::F64, (&rule, Scope::Image));
        description.write(&[3, 14], &extent, &Range::of(&rule, &extent.into(), true), &mut out);
        assert!(
            out.len() <= description.longest(&[20, 20], u64::MAX / 2),
            "{} is too long",
            out.len()
        );
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_come_back_from_few_characters() {
        let told = |x: f64| {
            let mut out = Vec::new();
            Text(&mut out).number(Some(x));
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            [-0.0, 0.5, 2.332_710_266_113_281_2].map(told),
            ["-0.0", "0.5", "2.3327102661132812"]
        );
        let edges = [0.0, 1e-6, 1e-5, 1e-4, 1.0, 1e15, 1e16, 1e17, f64::MIN_POSITIVE, f64::MAX];
        let mut state = 1_u64;
        let random = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let bits = state ^ (state >> 31);
            #[allow(clippy::cast_possible_truncation, reason = "any bits will do")]
            let single = f32::from_bits(bits as u32);
            [f64::from_bits(bits), single.into(), single.fract().into()]
        });
        let near = edges.into_iter().flat_map(|x: f64| [x.next_down(), x, x.next_up()]);
        for x in near.chain(random.take(100_000).flatten()) {
            let text = told(-x.abs());
            if x.is_finite() {
                assert_eq!(text.parse(), Ok(-x.abs()), "{text}");
                assert!(
                    text.len() <= F64 && text.len() <= format!("{:?}", -x.abs()).len() + 3,
                    "{text}"
                );
            } else {
                assert_eq!(text, "null");
            }
        }
    }

    #[test]
    fn long_names_are_cut_and_say_so() {
        let about = |name: &str| -> serde_json::Value {
            let mut out = Vec::new();
            let description = Description::new(name, Dtype::U8, (&Norm::None.into(), Scope::Image));
            description.write(&[], &Extent::EMPTY, &Range::Keep(Kept::NoFinite), &mut out);
            assert!(out.len() <= description.longest(&[], 1) && out.len() < 8000);
            let text = String::from_utf8(out).unwrap();
            let text = text.strip_suffix('\0').unwrap();
            assert!(text.is_ascii() && !text.contains('\0'), "{text:?}");
            serde_json::from_str(text.split("tensortiff=").nth(1).unwrap()).unwrap()
        };
        for c in ["n", "é", "€", "😀", "\0"] {
            let whole = c.repeat(1000 / c.len());
            assert_eq!(about(&whole)["tensor"], whole);
            assert!(about(&whole).get("tensor_bytes").is_none());
            for long in [format!("{whole}xx"), whole.repeat(1000)] {
                let about = about(&long);
                assert_eq!(about["tensor_bytes"], long.len());
                let start = about["tensor"].as_str().unwrap().strip_suffix('…').unwrap();
                assert!(long.starts_with(start) && start.len() > 996, "{}", start.len());
            }
        }
    }

    fn of(samples: &[f64]) -> Extent {
        samples.iter().map(|&x| Extent::of(x)).fold(Extent::EMPTY, Extent::merge)
    }

    #[test]
    fn the_text_is_ascii_and_says_what_undoes_the_normalization() {
        let text = text(Norm::MinMax, of(&[-2.5, 4.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY]));
        assert_eq!(
            text,
            "ImageJ=1.54f\nmin=0.0\nmax=1.0\ntensortiff={\"v\":1,\"tensor\":\"a\\\"\\u00e9\\ud83d\\ude00\\n\",\
             \"index\":[3,14],\"dtype\":\"F64\",\"norm\":\"minmax\",\"scope\":\"image\",\"lo\":-2.5,\
             \"hi\":4.0,\"nan\":1,\"inf\":2}\n\0"
        );
    }

    /// Samples beyond f32 are infinite in pixels that were kept, and finite in normalized ones.
    #[test]
    fn inf_counts_the_pixels_that_are_infinite() {
        let beyond = [1e300, -1e300, 1.0, f64::INFINITY, f64::NAN];
        for (norm, inf) in [(Norm::None, 3), (Norm::MinMax, 1)] {
            let text = text(norm, of(&beyond));
            assert!(text.contains(&format!("\"nan\":1,\"inf\":{inf}}}")), "{norm}: {text}");
        }
    }

    #[test]
    fn the_longest_numbers_fit_the_room_that_is_kept() {
        let long = -2.225_073_858_507_201_4e-308;
        let mut extent = of(&[long, 1.234_567_890_123_456_7e-5]);
        (extent.nan, extent.pos_inf) = (u64::MAX / 2, u64::MAX / 2);
        for norm in [Norm::None, Norm::MinMax] {
            let _ = text(norm, extent);
        }
        for x in [f32::MIN, -1.175_494_4e-38, -1.234_567_9e-5, -0.000_123_456_79, -1.234_568e15] {
            assert!(format!("{x:?}").len() <= F32, "{x:?}");
            let _ = text(Norm::None, of(&[x.into(), f64::from(x).next_up()]));
        }
    }

    #[test]
    fn a_display_range_is_never_empty() {
        let cases: [(&[f64], Norm, (f32, f32)); 7] = [
            (&[1.0, 3.0], Norm::MinMax, (0.0, 1.0)),
            (&[1.0, 3.0], Norm::None, (1.0, 3.0)),
            (&[5.0], Norm::MinMax, (0.0, 5.0)),
            (&[-5.0], Norm::None, (-5.0, 1.0)),
            (&[0.5], Norm::MinMax, (0.0, 1.0)),
            (&[f64::NAN], Norm::MinMax, (0.0, 1.0)),
            (&[-1e300, 1e300], Norm::None, (f32::MIN, f32::MAX)),
        ];
        for (samples, norm, (min, max)) in cases {
            let extent = of(samples);
            let rule = Rule::from(norm);
            let display = Display::of(&rule, &extent, &Range::of(&rule, &extent.into(), true));
            assert_eq!(display, Display { min, max }, "{samples:?} {norm}");
        }
    }
}
