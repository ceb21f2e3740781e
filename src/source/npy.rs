//! `.npy` files: NumPy's format for one array. Magic, version, length of the header, the header (a
//! Python dictionary of three keys), the array's bytes. Source: NumPy's `numpy/lib/format.py`,
//! versions 1.0 to 3.0.

use super::formats::Problem;
use super::header::Tensor;
use super::reading::NpyV2;
use super::stored::Stored;
use crate::error::{counted, shown};
use crate::tensor::{self, Dtype};

/// What every file begins with.
const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Magic and version.
const PREFIX: usize = 8;
/// Longest header: NumPy itself reads no longer ones unasked.
const LONGEST: u64 = 1 << 20;
/// Axes at most, as NumPy has them.
const MOST_AXES: usize = 64;

/// How long the rest of the header's prefix is, for a version.
fn length_of_length(version: [u8; 2]) -> Result<usize, String> {
    match version {
        [1, 0] => Ok(2),
        [2 | 3, 0] => Ok(4),
        [major, minor] => {
            Err(format!("its version is {major}.{minor}; 1.0, 2.0 and 3.0 are known"))
        }
    }
}

/// The header's length from its bytes.
fn length(bytes: &[u8]) -> Result<u64, String> {
    let length = bytes.iter().rev().fold(0, |length, &byte| length << 8 | u64::from(byte));
    if length > LONGEST {
        return Err(format!("its header has {length} bytes, and {LONGEST} are the most"));
    }
    Ok(length)
}

/// Fills a buffer from a byte of the array's file on; answers how many bytes there were.
pub(super) type Fill<'f> = dyn FnMut(u64, &mut [u8]) -> Result<usize, Problem> + 'f;

/// The array of a file of `len` bytes, called `name`.
pub(super) fn read(
    fill: &mut Fill<'_>,
    len: u64,
    name: &str,
    v2: Option<NpyV2>,
) -> Result<Tensor, Problem> {
    let mut prefix = [0; PREFIX];
    let read = fill(0, &mut prefix)?;
    let Some(version) = prefix[..read].strip_prefix(MAGIC) else {
        return Err("it does not begin as .npy files do".to_owned().into());
    };
    let &[major, minor] = version else {
        return Err(format!("it has {len} bytes, which is not even a version").into());
    };
    let mut length = [0; 4];
    let length = &mut length[..length_of_length([major, minor])?];
    let begin = (PREFIX + length.len()) as u64;
    let read = fill(PREFIX as u64, length)?;
    let claimed = self::length(length)?;
    let data = begin + claimed;
    if read < length.len() || data > len {
        return Err(
            format!("it is truncated: its header ends at byte {data}, and it has {len}").into()
        );
    }
    let mut header = vec![0; usize::try_from(claimed).expect("at most a MiB")];
    if fill(begin, &mut header)? < header.len() {
        return Err("it shrank while it was read".to_owned().into());
    }
    let tensor = parse(&header, name, len - data, v2)?;
    Ok(Tensor { begin: data, ..tensor })
}

/// The array of a header, called `name`, with `data` bytes behind it.
fn parse(header: &[u8], name: &str, data: u64, v2: Option<NpyV2>) -> Result<Tensor, String> {
    let text = std::str::from_utf8(header).map_err(|_| "its header is not text".to_owned())?;
    let Fields { descr, fortran_order, shape } = Parser { rest: text }.header()?;
    let (dtype, size, swapped) = dtype(&descr, v2)?;
    let bytes = tensor::product(&shape, size)
        .ok_or_else(|| format!("its shape {} is of more than 2^64 bytes", shown_tuple(&shape)))?;
    if bytes != data {
        return Err(format!(
            "its shape {} of {} takes {}, and {data} are there",
            shown_tuple(&shape),
            shown(&descr),
            counted(bytes, "byte")
        ));
    }
    let stored = match fortran_order {
        true => Stored::fortran(&shape, swapped),
        false => Stored::plain(swapped),
    };
    Ok(Tensor { name: name.to_owned(), dtype, shape, begin: 0, bytes, stored, packed: None })
}

fn shown_tuple(shape: &[u64]) -> String {
    crate::error::shown_shape(shape)
}

/// The type that a description means, its size in bytes, and whether its bytes are the other way
/// round.
pub(super) fn dtype(
    descr: &str,
    v2: Option<NpyV2>,
) -> Result<(Result<Dtype, String>, u64, bool), String> {
    let wrong = || format!("its dtype is {}, which is none of numbers", shown(descr));
    let mut chars = descr.chars();
    let order = chars.next().ok_or_else(wrong)?;
    let kind = chars.next().ok_or_else(wrong)?;
    if kind == 'O' {
        let problem = "it holds Python objects, which are not read: save an array of numbers";
        return Err(problem.to_owned());
    }
    let size: u64 = chars.as_str().parse().map_err(|_| wrong())?;
    // As NumPy writes it: no sign, and no zeros before it, which may be a million.
    if size.to_string() != chars.as_str() {
        return Err(wrong());
    }
    // `=` is never written; `|` is of types of one byte, and of what has no order.
    let swapped = match order {
        '<' | '|' => false,
        '>' => size > 1,
        _ => return Err(wrong()),
    };
    let dtype = match (kind, size) {
        ('b', 1) => Dtype::Bool,
        ('u', 1) => Dtype::U8,
        ('i', 1) => Dtype::I8,
        ('u', 2) => Dtype::U16,
        ('i', 2) => Dtype::I16,
        ('f', 2) => Dtype::F16,
        ('u', 4) => Dtype::U32,
        ('i', 4) => Dtype::I32,
        ('f', 4) => Dtype::F32,
        ('u', 8) => Dtype::U64,
        ('i', 8) => Dtype::I64,
        ('f', 8) => Dtype::F64,
        // Known, and not converted.
        ('c', 8 | 16 | 32) | ('f', 12 | 16) => return Ok((Err(descr.to_owned()), size, swapped)),
        // `|V2` of NumPy alone, `<V2` of types that others add to it.
        ('V', 2) if v2 == Some(NpyV2::Bf16) => return Ok((Ok(Dtype::Bf16), size, swapped)),
        ('V', _) => {
            let help = if size == 2 { "--npy-v2 bf16 takes it for that, or " } else { "" };
            return Err(format!(
                "its dtype is {}, bytes of which NumPy does not say what they are (bfloat16 is \
                 written as |V2); {help}save it as float32, or as safetensors",
                shown(descr)
            ));
        }
        _ => return Err(wrong()),
    };
    if order == '|' && size > 1 {
        return Err(wrong());
    }
    Ok((Ok(dtype), size, swapped))
}

/// What the dictionary says.
struct Fields {
    descr: String,
    fortran_order: bool,
    shape: Vec<u64>,
}

/// Reads as much of Python as headers have: strings without escapes, True and False, tuples of
/// numbers. A structured dtype is a list, and refused.
struct Parser<'t> {
    rest: &'t str,
}

impl Parser<'_> {
    fn header(mut self) -> Result<Fields, String> {
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        self.expect('{')?;
        while !self.take('}') {
            let key = self.string()?;
            self.expect(':')?;
            let is_new = match key.as_str() {
                "descr" if self.rest.trim_start().starts_with(['[', '(']) => {
                    return Err(
                        "it is a structured array, whose fields are not images; save them \
                                one by one"
                            .to_owned(),
                    );
                }
                "descr" => descr.replace(self.string()?).is_none(),
                "fortran_order" => fortran_order.replace(self.boolean()?).is_none(),
                "shape" => shape.replace(self.tuple()?).is_none(),
                other => return Err(format!("its header has a key {}", shown(other))),
            };
            if !is_new {
                return Err(format!("the key {key} stands twice in its header"));
            }
            if !self.take(',') {
                self.expect('}')?;
                break;
            }
        }
        if !self.rest.trim().is_empty() {
            return Err("its header goes on behind the dictionary".to_owned());
        }
        let missing = |key: &str| format!("its header has no {key}");
        Ok(Fields {
            descr: descr.ok_or_else(|| missing("descr"))?,
            fortran_order: fortran_order.ok_or_else(|| missing("fortran_order"))?,
            shape: shape.ok_or_else(|| missing("shape"))?,
        })
    }

    fn take(&mut self, wanted: char) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        if self.take(wanted) {
            return Ok(());
        }
        let found: String = self.rest.chars().take(20).collect();
        Err(format!("its header has {} where {wanted} is due", shown(&format!("{found:?}"))))
    }

    fn string(&mut self) -> Result<String, String> {
        let quote = if self.take('"') { '"' } else { self.expect('\'').map(|()| '\'')? };
        let (text, rest) = self.rest.split_once(quote).ok_or("a text in its header has no end")?;
        if text.contains('\\') {
            return Err(format!("its header has an escape in {}", shown(text)));
        }
        self.rest = rest;
        Ok(text.to_owned())
    }

    fn boolean(&mut self) -> Result<bool, String> {
        self.rest = self.rest.trim_start();
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err("fortran_order in its header is neither True nor False".to_owned())
    }

    fn tuple(&mut self) -> Result<Vec<u64>, String> {
        self.expect('(')?;
        let mut axes = Vec::new();
        while !self.take(')') {
            self.rest = self.rest.trim_start();
            let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
            let (digits, rest) = self.rest.split_at(end);
            let axis = digits.parse().map_err(|_| {
                format!("its shape has {} where a number is due", shown(&format!("{digits:?}")))
            })?;
            if axes.len() == MOST_AXES {
                return Err(format!("its shape has more than {MOST_AXES} axes"));
            }
            axes.push(axis);
            // Python 2 wrote long numbers so.
            self.rest = rest.strip_prefix('L').unwrap_or(rest);
            if !self.take(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(axes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(header: &str, data: u64) -> String {
        told_of(header, data, None)
    }

    fn told_of(header: &str, data: u64, v2: Option<NpyV2>) -> String {
        match parse(header.as_bytes(), "t", data, v2) {
            Ok(Tensor { dtype, shape, stored, .. }) => format!("{dtype:?} {shape:?} {stored:?}"),
            Err(problem) => problem,
        }
    }

    #[test]
    fn headers_as_numpy_writes_them() {
        let cases = [
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 24, "Ok(F32) [2, 3]"),
            ("{'descr': '>f8', 'fortran_order': False, 'shape': (2,), }   \n", 16, "swapped: true"),
            ("{'descr': '|b1', 'fortran_order': False, 'shape': (), }\n", 1, "Ok(Bool) []"),
            (
                "{'descr': '<i8', 'fortran_order': True, 'shape': (2L, 3L), }",
                48,
                "strides: Some([1, 2])",
            ),
            ("{'descr': '<f2', 'fortran_order': True, 'shape': (4,), }", 8, "strides: None"),
            ("{'shape': (1,), \"descr\": \"|u1\", 'fortran_order': False}", 1, "Ok(U8) [1]"),
            ("{'descr': '>u1', 'fortran_order': False, 'shape': (1,)}", 1, "swapped: false"),
            ("{'descr': '<c8', 'fortran_order': False, 'shape': (2,)}", 16, "Err(\"<c8\")"),
        ];
        for (header, data, part) in cases {
            let told = told(header, data);
            assert!(told.contains(part), "{header}: {told}");
        }
    }

    #[test]
    fn two_bytes_of_any_kind_are_bfloat16_where_that_was_said() {
        let of = |descr| format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (3,)}}");
        let told = |descr| told_of(&of(descr), 6, Some(NpyV2::Bf16));
        assert!(told("|V2").contains("Ok(Bf16) [3]") && told("|V2").contains("swapped: false"));
        assert!(told("<V2").contains("Ok(Bf16)"));
        assert!(told(">V2").contains("swapped: true"));
        assert!(told("<f2").contains("Ok(F16)"), "what NumPy says counts");
        for wrong in ["|V3", "|V", "=V2", "V2", "|V02x"] {
            assert!(told(wrong).starts_with("its dtype is"), "{wrong}");
        }
    }

    #[test]
    fn headers_that_lie_are_refused_with_the_reason() {
        let of = |descr: &str| {
            format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (2, 3), }}")
        };
        let cases = [
            (String::new(), "{ is due"),
            (of("'<f4'").replace("3)", "4)"), "takes 32 bytes, and 24 are there"),
            (of("'<f4'").replace("(2, 3)", "(18446744073709551615, 9)"), "2^64 bytes"),
            (of("'<f4'").replace("(2, 3)", "(18446744073709551616,)"), "a number is due"),
            (of("'<f4'").replace("(2, 3)", "(-2, 3)"), "a number is due"),
            (of("'<f4'").replace("(2, 3)", "[2, 3]"), "( is due"),
            (of("'<f4'").replace("False", "Maybe"), "neither True nor False"),
            (of("'<f4'").replace("'shape'", "'shape2'"), "a key shape2"),
            (of("'<f4'").replace("'fortran_order': False", "'descr': '<f4'"), "stands twice"),
            (of("'<f4'").replace("'fortran_order': False, ", ""), "no fortran_order"),
            (of("'<f4'") + "x", "goes on behind"),
            (of("'|O'"), "Python objects"),
            (of("'|O8'"), "Python objects"),
            (of("[('a', '<f4')]"), "structured array"),
            (of("'|V2'"), "--npy-v2 bf16 takes it for that, or save"),
            (of("'|V4'"), "written as |V2); save it"),
            (of("'V2'"), "none of numbers"),
            (of("'<U3'"), "none of numbers"),
            (of("'<M8[ns]'"), "none of numbers"),
            (of("'|f4'"), "none of numbers"),
            (of("'=f4'"), "none of numbers"),
            (of("''"), "none of numbers"),
            (of("'<c016'"), "none of numbers"),
            (of("'<f+4'"), "none of numbers"),
            (of("'<f4'").replace("(2, 3)", &format!("({}6)", "1,".repeat(64))), "64 axes"),
            (of("'<f4"), "is due"),
            ("{'descr': '<f4".to_owned(), "no end"),
            (of("'<\\x664'"), "escape"),
        ];
        for (header, part) in cases {
            let told = told(&header, 24);
            assert!(told.contains(part), "{header}: {told}");
        }
        assert!(length_of_length([4, 0]).unwrap_err().contains("4.0"));
        assert!(length(&[255, 255, 255, 255]).is_err());
        assert_eq!(length(&[1, 2]), Ok(0x0201));
    }
}
