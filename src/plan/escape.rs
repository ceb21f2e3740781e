//! Tensor names as paths: nothing that a dump says can lead outside the output folder, or to a
//! name that some file system treats specially.
//!
//! `/` makes folders. Within a part, `%`, control characters, the characters that Windows forbids,
//! a space or dot at an end, and the first letter of a reserved device name become `%XX`, byte for
//! byte of their UTF-8; an empty part becomes `%-`. So different names stay different. Only parts
//! of more than [`LONGEST`] bytes are cut, with a hash of the whole in place of the rest.

use std::fmt::Write as _;

/// Longest part, in bytes: file systems take 255, and an index and an extension may follow.
const LONGEST: usize = 200;
/// What is kept of a longer one; `~` and 16 hexadecimal digits follow.
const KEPT: usize = LONGEST - 17;

/// `text` as a relative path.
pub(super) fn path(text: &str) -> String {
    text.split('/').map(part).collect::<Vec<_>>().join("/")
}

/// Whether a part means a device on Windows, whatever its extension.
pub(super) fn is_reserved(part: &str) -> bool {
    let stem =
        part.split('.').next().unwrap_or_default().trim_end_matches(' ').to_ascii_uppercase();
    match stem.as_str() {
        "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$" => true,
        _ => {
            let digits = stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT"));
            digits.is_some_and(|d| {
                matches!(d, "\u{b9}" | "\u{b2}" | "\u{b3}")
                    || (d.len() == 1 && matches!(d.as_bytes()[0], b'1'..=b'9'))
            })
        }
    }
}

fn part(text: &str) -> String {
    if text.is_empty() {
        return "%-".to_owned();
    }
    let reserved = is_reserved(text);
    let last = text.chars().count() - 1;
    let mut out = String::with_capacity(text.len());
    for (i, c) in text.chars().enumerate() {
        let end = i == 0 || i == last;
        let special = matches!(c, '%' | '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|')
            || c.is_control()
            || (end && matches!(c, ' ' | '.'))
            || (i == 0 && reserved);
        if special {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                write!(out, "%{byte:02X}").expect("writing to a String does not fail");
            }
        } else {
            out.push(c);
        }
    }
    if out.len() > LONGEST {
        let hash = fnv1a(out.as_bytes());
        out.truncate((0..=KEPT).rev().find(|&i| out.is_char_boundary(i)).unwrap_or(0));
        write!(out, "~{hash:016x}").expect("writing to a String does not fail");
    }
    out
}

/// FNV-1a, 64 bits: the same on every machine and in every version, unlike std's hasher.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_lead_elsewhere_are_defused() {
        let cases = [
            ("a.b", "a.b"),
            ("a/b", "a/b"),
            ("..", "%2E%2E"),
            ("../../etc/passwd", "%2E%2E/%2E%2E/etc/passwd"),
            ("/abs", "%-/abs"),
            ("a//b/", "a/%-/b/%-"),
            (".", "%2E"),
            (".hidden", "%2Ehidden"),
            ("x.", "x%2E"),
            ("C:\\x", "C%3A%5Cx"),
            ("nul", "%6Eul"),
            ("COM1.txt", "%43OM1.txt"),
            ("COM0", "COM0"),
            ("a\nb\0", "a%0Ab%00"),
            ("100%", "100%25"),
            ("", "%-"),
            ("été", "été"),
        ];
        for (name, expected) in cases {
            assert_eq!(path(name), expected, "{name:?}");
        }
    }

    #[test]
    fn long_parts_are_cut_and_stay_different() {
        let (a, b) = ("é".repeat(300), "é".repeat(299) + "e");
        assert!(path(&a).len() <= LONGEST && path(&b).len() <= LONGEST);
        assert_ne!(path(&a), path(&b));
    }

    /// The inverse, for names that were not cut.
    fn decode(path: &str) -> String {
        let part = |part: &str| {
            if part == "%-" {
                return String::new();
            }
            let mut out = Vec::new();
            let mut bytes = part.bytes();
            while let Some(byte) = bytes.next() {
                out.push(if byte == b'%' {
                    let digits: Vec<u8> = bytes.by_ref().take(2).collect();
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                } else {
                    byte
                });
            }
            String::from_utf8(out).unwrap()
        };
        path.split('/').map(part).collect::<Vec<_>>().join("/")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn escaping_can_be_undone_and_is_safe(
            name in "([a-zA-Z0-9._/%\\\\: *é\u{0}\n-]|CON|nul|\\.\\.){0,24}"
        ) {
            let escaped = path(&name);
            prop_assert_eq!(decode(&escaped), name);
            for part in escaped.split('/') {
                prop_assert!(!part.is_empty() && part != "." && part != ".." && !is_reserved(part));
                prop_assert!(!part.contains(['\\', ':', '\0', '\n']));
            }
        }
    }
}
