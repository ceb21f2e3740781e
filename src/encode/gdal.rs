//! Tag 42112, GDAL's metadata: an XML text that says how pixels become samples again (`scale` and `offset`,
//! as GDAL applies them: sample = pixel · scale + offset), and the least and greatest finite pixel where those
//! are known without another look at the pixels. Every image's text has the same length.
//!
//! Format: GDAL's GeoTIFF driver, "Metadata" and "Internal nodata value".

use std::fmt::Write as _;

use super::description::{Display, Numbers};
use crate::normalize::{Norm, Rule, Scope, Undo};

/// Bytes of the text with its NUL.
pub(super) const LEN: usize = 512;
/// What tag 42113 says has no data.
pub(super) const NODATA: [u8; 4] = *b"nan\0";

const END: &str = "</GDALMetadata>\n\0";

/// Appends the text of an image.
pub(super) fn write(
    rule: &Rule,
    scope: Scope,
    numbers: Numbers,
    display: Display,
    out: &mut Vec<u8>,
) {
    let (range, nan, inf) = numbers;
    let mut text = String::from("<GDALMetadata>\n");
    let mut item = |name: &str, role: &str, value: String| {
        // A String takes everything.
        let _ = writeln!(text, "  <Item name=\"{name}\" sample=\"0\"{role}>{value}</Item>");
    };
    let linear = Undo::of(rule, range, [nan, inf]).ok().and_then(|undo| undo.scale_and_offset());
    if let Some((scale, offset)) = linear {
        item("OFFSET", " role=\"offset\"", format!("{offset:?}"));
        item("SCALE", " role=\"scale\"", format!("{scale:?}"));
    }
    // What is filled in may lie beyond the others.
    let is_filled = rule.nonfinite.fill().is_some() && (nan, inf) != (0, 0);
    let ends = match (rule.norm, range) {
        (Norm::None, Some((lo, hi))) => Some([lo, hi].map(narrow)),
        (Norm::MinMax, Some((lo, hi))) if lo < hi && scope == Scope::Image => {
            Some([display.min, display.max])
        }
        _ => None,
    };
    if let Some([min, max]) = ends.filter(|ends| !is_filled && ends.iter().all(|x| x.is_finite())) {
        // As GDAL computes them: in f64.
        let [min, max] = [min, max].map(f64::from);
        item("STATISTICS_MINIMUM", "", format!("{min:?}"));
        item("STATISTICS_MAXIMUM", "", format!("{max:?}"));
    }
    assert!(text.len() + END.len() <= LEN, "the room kept for it suffices");
    out.extend_from_slice(text.as_bytes());
    out.resize(out.len() + LEN - text.len() - END.len(), b' ');
    out.extend_from_slice(END.as_bytes());
}

#[allow(clippy::cast_possible_truncation, reason = "rounding is what makes pixels of samples")]
fn narrow(x: f64) -> f32 {
    x as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalize::Rule;

    fn text(rule: &Rule, scope: Scope, range: Option<(f64, f64)>, counts: [u64; 2]) -> String {
        let mut text = Vec::new();
        let display = Display { min: 0.0, max: 1.0 };
        write(rule, scope, (range, counts[0], counts[1]), display, &mut text);
        assert_eq!(text.len(), LEN);
        assert_eq!(text.iter().filter(|&&byte| byte == 0).count(), 1);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn the_text_says_what_undoes_the_normalization() {
        let minmax = Rule::default();
        let whole = text(&minmax, Scope::Image, Some((-2.0, 6.0)), [1, 0]);
        let parts: Vec<&str> = whole.trim_end_matches('\0').lines().map(str::trim).collect();
        assert_eq!(
            parts,
            [
                "<GDALMetadata>",
                "<Item name=\"OFFSET\" sample=\"0\" role=\"offset\">-2.0</Item>",
                "<Item name=\"SCALE\" sample=\"0\" role=\"scale\">8.0</Item>",
                "<Item name=\"STATISTICS_MINIMUM\" sample=\"0\">0.0</Item>",
                "<Item name=\"STATISTICS_MAXIMUM\" sample=\"0\">1.0</Item>",
                "</GDALMetadata>",
            ]
        );
        // Of a wider scope, an image need not reach both ends.
        let wide = text(&minmax, Scope::Tensor, Some((-2.0, 6.0)), [0, 0]);
        assert!(wide.contains("SCALE") && !wide.contains("STATISTICS"));
        let constant = text(&minmax, Scope::Image, Some((3.0, 3.0)), [0, 0]);
        assert!(!constant.contains("Item"), "{constant}");
        assert!(!text(&minmax, Scope::Image, None, [4, 0]).contains("Item"));
        let out = Rule { out: Some([-1.0, 1.0]), ..minmax };
        let out = text(&out, Scope::Image, Some((-2.0, 6.0)), [0, 0]);
        assert!(out.contains(">4.0<") && out.contains(">2.0<"), "{out}");
        let gamma = Rule { gamma: Some(2.2), ..minmax };
        assert!(!text(&gamma, Scope::Image, Some((-2.0, 6.0)), [0, 0]).contains("SCALE"));
        let zero = Rule { nonfinite: crate::normalize::Nonfinite::Zero, ..minmax };
        assert!(text(&zero, Scope::Image, Some((-2.0, 6.0)), [0, 0]).contains("STATISTICS"));
        assert!(!text(&zero, Scope::Image, Some((-2.0, 6.0)), [1, 0]).contains("Item"));
        let beyond = text(&Norm::None.into(), Scope::Image, Some((-2.0, 1e300)), [0, 1]);
        assert!(!beyond.contains("Item"), "{beyond}");
        // Samples that differ, and pixels that do not.
        let close = text(&Norm::None.into(), Scope::Image, Some((5.0, 5.0 + 1e-12)), [0, 0]);
        let both = ["MINIMUM", "MAXIMUM"].map(|name| format!("{name}\" sample=\"0\">5.0<"));
        assert!(both.iter().all(|item| close.contains(item)), "{close}");
        let none = text(&Norm::None.into(), Scope::Image, Some((-2.0, 6.0)), [0, 0]);
        assert!(!none.contains("SCALE") && none.contains("STATISTICS_MAXIMUM"), "{none}");
        let large =
            text(&Norm::None.into(), Scope::Image, Some((-1_000_003_300_000.0, 0.1)), [0, 0]);
        for pixel in ["-1000003272704.0", "0.10000000149011612"] {
            assert!(large.contains(&format!(">{pixel}<")), "{large}");
        }
    }

    #[test]
    fn the_longest_numbers_fit() {
        let long = -1.234_567_890_123_456_7e-300;
        text(&Rule::default(), Scope::Image, Some((long, -long)), [u64::MAX, 7]);
        text(&Rule::default(), Scope::Image, Some((f64::MIN, f64::MAX)), [0, 0]);
        let f32s = [f32::MIN, -f32::MIN_POSITIVE].map(f64::from);
        text(&Norm::None.into(), Scope::Image, Some((f32s[0], f32s[1])), [0, 0]);
    }
}
