//! Tag 270, ImageDescription: three lines that seven readers skip, ImageJ takes its display range
//! from, and a program gets everything from that undoes the normalization.
//!
//! ```text
//! ImageJ=1.54f
//! min=0.0
//! max=1.0
//! tensortiff={"v":1,"tensor":"layer.0","index":[3,1],"dtype":"F32","norm":"minmax","scope":"image","lo":-2.5,"hi":4.0,"nan":0,"inf":0}
//! ```
//! `lo` and `hi` are the least and greatest finite sample (`null` where there is none), `nan` and
//! `inf` the numbers of pixels that are not finite. The text is ASCII; others, control characters
//! among them, are escaped as JSON does, so that its only NUL is the one that ends it. A tensor's
//! name of more than 1000 bytes is cut, ends in `…`, and `"tensor_bytes"` after it says how long it
//! is. It holds no paths and no times: the same input makes the same bytes.

use std::fmt::Write as _;
use std::io::Write as _;

use crate::normalize::{Extent, Kept, Norm, Range};
use crate::tensor::Dtype;

/// Longest name that is written whole, in bytes; every image of a tensor carries it.
const NAME: usize = 1000;
/// Longest text of an f64 by `{:?}`: 17 digits, sign, point, and an exponent or zeros to 1e-5.
const F64: usize = 24;
/// Longest text of an f32: -1234568000000000.0; from 1e16 on it has an exponent.
const F32: usize = 19;

/// The lines of an image, but for the numbers that its pixels decide.
#[derive(Debug, Clone)]
pub(super) struct Description {
    /// As JSON, with what follows it where it was cut.
    tensor: String,
    dtype: Dtype,
    norm: Norm,
}

/// The display range of tags 340 and 341 and of ImageJ's lines.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Display {
    pub(super) min: f32,
    pub(super) max: f32,
}

impl Display {
    /// 0 and 1 for normalized pixels; for kept ones their finite range, which includes 0..1 where
    /// it would be empty: viewers divide by its width.
    #[allow(clippy::cast_possible_truncation, reason = "clamped to f32 first; a display range")]
    pub(super) fn of(extent: &Extent, range: &Range) -> Display {
        let unit = Display { min: 0.0, max: 1.0 };
        if !matches!(range, Range::Keep(_)) || !extent.has_finite() {
            return unit;
        }
        let pixel = |x: f64| x.clamp(f32::MIN.into(), f32::MAX.into()) as f32;
        let (min, max) = (pixel(extent.min), pixel(extent.max));
        if min < max {
            Display { min, max }
        } else {
            Display { min: min.min(unit.min), max: max.max(unit.max) }
        }
    }
}

impl Description {
    pub(super) fn new(tensor: &str, dtype: Dtype, norm: Norm) -> Description {
        Description { tensor: named(tensor), dtype, norm }
    }

    /// The length that no image's text exceeds, its one NUL included: that of an image without
    /// finite samples, with every number at its longest.
    pub(super) fn longest(&self, axes: &[u64], samples: u64) -> usize {
        let mut text = Vec::new();
        let last: Vec<u64> = axes.iter().map(|axis| axis.saturating_sub(1)).collect();
        let extent = Extent { nan: samples, pos_inf: samples, ..Extent::EMPTY };
        self.write(&last, &extent, &Range::Keep(Kept::NoFinite), &mut text);
        text.len() + 2 * (F64 - "null".len()) + 2 * (F32 - "0.0".len())
    }

    /// Appends an image's text with its NUL.
    pub(super) fn write(&self, index: &[u64], extent: &Extent, range: &Range, out: &mut Vec<u8>) {
        let display = Display::of(extent, range);
        let kept = matches!(range, Range::Keep(_));
        let inf = extent.pos_inf + extent.neg_inf + if kept { extent.overflow } else { 0 };
        let mut write = || {
            write!(
                out,
                "ImageJ=1.54f\nmin={:?}\nmax={:?}\ntensortiff={{\"v\":1,\"tensor\":{},\"index\":[",
                display.min, display.max, self.tensor,
            )?;
            for (i, at) in index.iter().enumerate() {
                write!(out, "{}{at}", if i > 0 { "," } else { "" })?;
            }
            let (dtype, norm) = (self.dtype, self.norm);
            write!(out, "],\"dtype\":\"{dtype}\",\"norm\":\"{norm}\",\"scope\":\"image\",")?;
            if extent.has_finite() {
                write!(out, "\"lo\":{:?},\"hi\":{:?},", extent.min, extent.max)?;
            } else {
                write!(out, "\"lo\":null,\"hi\":null,")?;
            }
            write!(out, "\"nan\":{},\"inf\":{inf}}}\n\0", extent.nan)
        };
        write().expect("writing to memory does not fail");
    }
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

    fn text(norm: Norm, extent: Extent) -> String {
        let mut out = Vec::new();
        let description = Description::new("a\"\u{e9}\u{1F600}\n", Dtype::F64, norm);
        description.write(&[3, 14], &extent, &Range::of(norm, &extent), &mut out);
        assert!(
            out.len() <= description.longest(&[20, 20], u64::MAX / 2),
            "{} is too long",
            out.len()
        );
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn long_names_are_cut_and_say_so() {
        let about = |name: &str| -> serde_json::Value {
            let mut out = Vec::new();
            let description = Description::new(name, Dtype::U8, Norm::None);
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
            let display = Display::of(&extent, &Range::of(norm, &extent));
            assert_eq!(display, Display { min, max }, "{samples:?} {norm}");
        }
    }
}
