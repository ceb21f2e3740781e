//! Raw files: samples without a header, of a type and shape that the user says.

use std::fmt;
use std::str::FromStr;

use super::header::Tensor;
use super::stored::Stored;
use super::{npy, torch};
use crate::error::nearest::near;
use crate::error::{Error, counted, counted_are, is_complex, shown, shown_shape};
use crate::tensor::{self, Dtype};

/// Most axes, as NumPy has it.
const MOST_AXES: usize = 64;
/// Behind a type's name: its bytes are the other way round.
const SWAPPED: &str = "BE";

/// What raw files hold, written `DTYPE:SHAPE[:OFFSET]`.
///
/// DTYPE is a name as safetensors, PyTorch or NumPy have it, in letters of either case (`F32`, `bf16`,
/// `float16`, `uint8`, `<i4`); `>f4` or `f32be` has the most significant byte first. NumPy's short names
/// count bytes and are of small letters: `f4` is F32, and `F4` the float of 4 bits; but `u8` and `i8` are
/// U8 and I8, as `u16` is U16, and NumPy's are `<u8` and `<i8`. C64 (`complex64`) is of two f32, of which
/// [`Reading::complex`](super::Reading::complex) says what is made. SHAPE is the axes, outermost first, with `x` or `,` between: one may be `?` or `-1`, and is then what the file's size makes
/// of it. OFFSET is how many bytes come before the samples. A file has to hold these samples and nothing
/// behind them. Those of F4 and F6 are packed as safetensors packs them ([`Dtype::bits`]), whatever the
/// shape; what is left of the last byte is not looked at, but a `?` counts as many as there is room for.
///
/// ```
/// use tensortiff::Raw;
/// let raw: Raw = "float32:-1,512,512:16".parse()?;
/// assert_eq!(raw.to_string(), "F32:?x512x512:16");
/// # Ok::<(), tensortiff::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    element: Element,
    swapped: bool,
    /// None is 0, and one at most `None`.
    shape: Vec<Option<u64>>,
    offset: u64,
}

/// What an element is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
    Real(Dtype),
    /// Two f32.
    Complex,
}

/// As safetensors calls two f32.
const C64: &str = "C64";

impl Element {
    /// As files have it.
    fn bits(self) -> u64 {
        match self {
            Element::Real(dtype) => dtype.bits(),
            Element::Complex => 64,
        }
    }

    /// As it is in memory, at most.
    fn size(self) -> u64 {
        match self {
            Element::Real(dtype) => dtype.size() as u64,
            Element::Complex => 8,
        }
    }

    /// What the formats' readers make of a type that is not converted as it is.
    fn of(dtype: Result<Dtype, String>) -> Result<Element, String> {
        match dtype {
            Ok(dtype) => Ok(Element::Real(dtype)),
            Err(name) if is_complex(&name) => Ok(Element::Complex),
            Err(name) => Err(format!("the dtype {} is not converted", shown(&name))),
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Real(dtype) => dtype.fmt(f),
            Element::Complex => f.write_str(C64),
        }
    }
}

impl Raw {
    /// What decides the bytes of a tensor whose type, shape and size are known.
    #[must_use]
    pub fn place(&self) -> (u64, bool) {
        (self.offset, self.swapped)
    }
}

impl FromStr for Raw {
    type Err = Error;

    fn from_str(text: &str) -> Result<Raw, Error> {
        parse(text).map_err(Error::Usage)
    }
}

fn parse(text: &str) -> Result<Raw, String> {
    let mut parts = text.split(':');
    let (name, shape, offset) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(name), Some(shape), offset, None) => (name, shape, offset),
        _ => {
            return Err(
                "it has to be DTYPE:SHAPE or DTYPE:SHAPE:OFFSET, as f32:10x512x512".to_owned()
            );
        }
    };
    let (element, swapped) = element(name)?;
    let axes: Vec<&str> = shape.split(['x', 'X', ',']).collect();
    if axes.len() > MOST_AXES {
        return Err(format!("a shape of {} axes, and {MOST_AXES} are the most", axes.len()));
    }
    let shape = axes.into_iter().map(axis).collect::<Result<Vec<_>, _>>()?;
    if shape.iter().filter(|axis| axis.is_none()).count() > 1 {
        return Err("one axis at most can be what the file's size makes of it".to_owned());
    }
    let known: Vec<u64> = shape.iter().flatten().copied().collect();
    tensor::product(&known, element.size())
        .ok_or_else(|| "a shape of more than 2^64 bytes".to_owned())?;
    let wrong = |text| format!("the offset {}, where a number of bytes is due", shown(text));
    let offset = offset.map_or(Ok(0), |text| number(text).ok_or_else(|| wrong(text)))?;
    Ok(Raw { element, swapped, shape, offset })
}

fn axis(text: &str) -> Result<Option<u64>, String> {
    match text {
        "?" | "-1" => Ok(None),
        _ => match number(text) {
            Some(0) => Err("an axis of 0, which leaves no samples".to_owned()),
            Some(axis) => Ok(Some(axis)),
            None => Err(format!(
                "the axis \"{}\", where a number is due, or ? for what the file's size makes of it",
                shown(text)
            )),
        },
    }
}

/// Digits alone: `parse` takes a sign as well.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// NumPy's short names that are taken as they stand: what they count is bytes. Not `i8` and `u8`, which are
/// far more often of 8 bits, as `i16` is of 16.
const SHORT: [&str; 10] = ["f2", "f4", "f8", "i1", "i2", "i4", "u1", "u2", "u4", "c8"];
/// Names by PyTorch and NumPy that slips are held against, beside safetensors'.
const NAMES: [&str; 14] = [
    "bfloat16",
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
    "complex64",
];

/// A type, and whether its bytes are the other way round.
fn element(text: &str) -> Result<(Element, bool), String> {
    if text.starts_with(['<', '>', '|', '=']) {
        // `=`: as this machine has it.
        let (dtype, _, swapped) = npy::dtype(&text.replacen('=', "<", 1), None)?;
        return Ok((Element::of(dtype)?, swapped));
    }
    if let Some(dtype) = named(text) {
        return Ok((Element::of(dtype)?, false));
    }
    let end = text.len().saturating_sub(SWAPPED.len());
    if let Some((name, order)) = text.split_at_checked(end)
        && order.eq_ignore_ascii_case(SWAPPED)
        && let Some(dtype) = named(name)
    {
        let element = Element::of(dtype)?;
        return Ok((element, element.size() > 1));
    }
    // Of small letters `f4` is another type than F4.
    let is_small = text.starts_with(|first: char| first.is_ascii_lowercase());
    let known = Dtype::ALL.into_iter().filter(|dtype| !is_small || *dtype != Dtype::F4);
    let help = match near(text, known.map(Dtype::name).chain(NAMES)) {
        Some(nearest) => format!("the nearest is {nearest}"),
        None => "f32, bf16, uint8 and '<i4' are some".to_owned(),
    };
    Err(format!("the dtype {} is unknown; {help}", shown(text)))
}

/// The type of a name without a byte order; `Err`: one that is not converted as it is.
fn named(name: &str) -> Option<Result<Dtype, String>> {
    if SHORT.contains(&name) {
        return npy::dtype(&format!("<{name}"), None).ok().map(|(dtype, ..)| dtype);
    }
    if name.eq_ignore_ascii_case(C64) {
        return Some(Err(C64.to_owned()));
    }
    match Dtype::from_name(&name.to_ascii_uppercase()) {
        Some(dtype) => Some(Ok(dtype)),
        None => torch::dtype(&name.to_ascii_lowercase()).map(|(dtype, _)| dtype),
    }
}

impl fmt::Display for Raw {
    /// The same text for the same meaning.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let axis = |axis: &Option<u64>| axis.map_or("?".to_owned(), |axis| axis.to_string());
        let shape: Vec<String> = self.shape.iter().map(axis).collect();
        let order = if self.swapped { SWAPPED } else { "" };
        write!(f, "{}{order}:{}", self.element, shape.join("x"))?;
        if self.offset > 0 { write!(f, ":{}", self.offset) } else { Ok(()) }
    }
}

/// The tensor of a file of `len` bytes.
pub(super) fn tensor(raw: &Raw, name: &str, len: u64) -> Result<Tensor, String> {
    let Raw { element, swapped, offset, .. } = *raw;
    let left = len.checked_sub(offset).ok_or_else(|| {
        let bytes = counted(len, "byte");
        format!("it has {bytes}, and its samples are said to begin at byte {offset}")
    })?;
    let known: Vec<u64> = raw.shape.iter().flatten().copied().collect();
    // `parse` has looked that there is one, and none of the axes is 0.
    let samples = tensor::product(&known, 1).unwrap_or(u64::MAX);
    let there = format!("{left} are there{}", behind(offset));
    let axis = fitting(samples, element, left);
    let is_open = known.len() < raw.shape.len();
    if is_open && axis.is_none() {
        let (bits, what) = match u128::from(samples) * u128::from(element.bits()) {
            8 => (1, "byte"),
            bits if bits % 8 == 0 => (bits / 8, "bytes"),
            bits => (bits, "bits"),
        };
        return Err(format!(
            "{element} of shape {raw} takes a multiple of {bits} {what}, and {there}",
            raw = shown_axes(raw)
        ));
    }
    let bytes = packed(samples, element);
    if !is_open && bytes != u128::from(left) {
        let first = known.first().copied().unwrap_or(1);
        let is_ambiguous = matches!(element, Element::Real(Dtype::U8 | Dtype::I8));
        let help = match fitting(samples / first, element, left) {
            // As NumPy calls them; `f4` and others are taken as it does.
            _ if is_ambiguous && 8 * bytes == u128::from(left) => {
                let name = element.to_string().to_ascii_lowercase();
                format!("; '<{name}', with 8 bytes a sample, would fit")
            }
            Some(fits) => format!("; {fits} in the place of {first} would fit, and so does ?"),
            None if u128::from(left) > bytes => {
                format!("; {} too many", bytes_are(u128::from(left) - bytes))
            }
            None => format!("; {} missing", bytes_are(bytes - u128::from(left))),
        };
        let shape = shown_shape(&known);
        let takes = match u64::try_from(bytes) {
            Ok(bytes) => counted(bytes, "byte"),
            Err(_) => format!("{bytes} bytes"),
        };
        return Err(format!("{element} of shape {shape} takes {takes}, and {there}{help}"));
    }
    let shape: Vec<u64> = raw.shape.iter().map(|known| known.or(axis).unwrap_or(1)).collect();
    if tensor::product(&shape, element.size()).is_none() {
        return Err(format!("its shape {} is larger than 64 bits can say", shown_shape(&shape)));
    }
    Ok(Tensor {
        name: name.to_owned(),
        dtype: match element {
            Element::Real(dtype) => Ok(dtype),
            Element::Complex => Err(C64.to_owned()),
        },
        shape,
        begin: offset,
        bytes: left,
        stored: match element {
            Element::Real(dtype) if !swapped => Stored::packed(dtype),
            _ => Stored::plain(swapped),
        },
        packed: None,
    })
}

/// `1 byte is`, `2 bytes are`.
fn bytes_are(bytes: u128) -> String {
    u64::try_from(bytes)
        .map_or_else(|_| format!("{bytes} bytes are"), |bytes| counted_are(bytes, "byte"))
}

/// Bytes that so many samples take.
fn packed(samples: u64, element: Element) -> u128 {
    (u128::from(samples) * u128::from(element.bits())).div_ceil(8)
}

/// How many times so many samples are in a file of `len` bytes, where one can be sure of it: each has its
/// place, and no whole byte is left.
fn fitting(samples: u64, element: Element, len: u64) -> Option<u64> {
    let bits = u128::from(samples) * u128::from(element.bits());
    let times = u64::try_from(u128::from(len) * 8 / bits).ok().filter(|times| *times > 0)?;
    let all = u128::from(times) * bits;
    (all.div_ceil(8) == u128::from(len)).then_some(times)
}

fn behind(offset: u64) -> String {
    if offset > 0 { format!(" from byte {offset} on") } else { String::new() }
}

fn shown_axes(raw: &Raw) -> String {
    let axis = |axis: &Option<u64>| axis.map_or("?".to_owned(), |axis| axis.to_string());
    format!("[{}]", raw.shape.iter().map(axis).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        match text.parse::<Raw>() {
            Ok(raw) => raw.to_string(),
            Err(error) => {
                assert!(error.is_usage());
                error.to_string()
            }
        }
    }

    #[test]
    fn the_same_is_written_in_many_ways() {
        for (text, same) in [
            ("F32:10x512x512", "F32:10x512x512"),
            ("f32:10,512,512:0", "F32:10x512x512"),
            ("float32:10X512,512:16", "F32:10x512x512:16"),
            ("<f4:?x2", "F32:?x2"),
            (">f4:-1x2", "F32BE:?x2"),
            ("f32be:-1", "F32BE:?"),
            ("F32BE:007", "F32BE:7"),
            ("u8be:3", "U8:3"),
            (">u1:3", "U8:3"),
            ("|b1:3", "BOOL:3"),
            ("bfloat16:2x2", "BF16:2x2"),
            ("float8_e4m3fn:2x2", "F8_E4M3:2x2"),
            ("float8_e5m2fnuz:2x2", "F8_E5M2FNUZ:2x2"),
            ("F4:?x3", "F4:?x3"),
            ("F4be:3", "F4:3"),
            // NumPy's short names.
            ("f4:?x3", "F32:?x3"),
            ("f4be:?x3", "F32BE:?x3"),
            ("=f4:3", "F32:3"),
            ("|u1:3", "U8:3"),
            ("f2:3", "F16:3"),
            ("f8:3", "F64:3"),
            ("i1:3", "I8:3"),
            ("i2:3", "I16:3"),
            ("i4:3", "I32:3"),
            ("u1:3", "U8:3"),
            ("u2be:3", "U16BE:3"),
            ("u4:3", "U32:3"),
            ("u8:3", "U8:3"),
            ("<u8:3", "U64:3"),
            ("c8:3", "C64:3"),
            ("c64be:3", "C64BE:3"),
            ("complex64:3", "C64:3"),
            (">c8:3", "C64BE:3"),
            ("f6_e2m3be:2", "F6_E2M3:2"),
            ("i8:2", "I8:2"),
            ("<i8:2", "I64:2"),
            ("long:2", "I64:2"),
            ("f16:2x2:18446744073709551615", "F16:2x2:18446744073709551615"),
        ] {
            assert_eq!(told(text), same, "{text}");
            assert_eq!(told(same), same);
        }
    }

    #[test]
    fn what_is_none_is_told_with_what_would_be() {
        for (text, part) in [
            ("", "DTYPE:SHAPE"),
            ("f32", "DTYPE:SHAPE"),
            ("f32:1:2:3", "DTYPE:SHAPE"),
            (":2x2", "the dtype  is unknown"),
            ("f31:2x2", "the dtype f31 is unknown; the nearest is F32"),
            ("bloat16:2x2", "unknown; the nearest is bfloat16"),
            ("flota32:2x2", "unknown; the nearest is float32"),
            ("number:2", "f32, bf16, uint8 and '<i4' are some"),
            ("F8_E4M2:2x2", "the nearest is F8_E4M3"),
            ("<f3:2", "none of numbers"),
            ("|V2:2", "bfloat16"),
            ("<c16:2", "<c16 is not converted"),
            ("complex128:2", "complex128 is not converted"),
            ("F2:2", "the dtype F2 is unknown; the nearest is F4"),
            ("f5:2", "the dtype f5 is unknown; f32, bf16"),
            ("f32:", "the axis \"\""),
            ("f32:2x", "the axis \"\""),
            ("f32:2xx2", "the axis \"\""),
            ("f32:2x-2", "the axis \"-2\""),
            ("f32:+2", "the axis \"+2\""),
            ("f32:2 x2", "the axis \"2 \""),
            ("f32:0x2", "an axis of 0"),
            ("f32:?x?", "one axis at most"),
            ("f32:-1x2x?", "one axis at most"),
            ("f32:18446744073709551616", "where a number is due"),
            ("f32:4294967296x4294967296", "more than 2^64 bytes"),
            ("f32:2:", "the offset , where"),
            ("f32:2:-1", "the offset -1, where"),
            ("é:2", "the dtype é is unknown"),
        ] {
            let told = told(text);
            assert!(told.contains(part), "{text}: {told}");
        }
        let many = told(&format!("u8:{}", ["1"; 65].join("x")));
        assert!(many.contains("65 axes, and 64 are the most"), "{many}");
        assert_eq!(told(&format!("u8:{}", ["1"; 64].join("x"))).len(), 3 + 64 + 63);
    }

    #[test]
    fn sizes_are_held_against_the_file() {
        let of = |text: &str, len: u64| {
            let raw: Raw = text.parse().unwrap();
            let found = tensor(&raw, "t", len);
            found.map(|tensor| (tensor.shape, tensor.begin, tensor.bytes, tensor.stored))
        };
        let plain = Stored::plain(false);
        assert_eq!(of("f32:2x3", 24), Ok((vec![2, 3], 0, 24, plain.clone())));
        assert_eq!(of("f16be:2x3:5", 17), Ok((vec![2, 3], 5, 12, Stored::plain(true))));
        assert_eq!(of("u8:?x7:3", 73), Ok((vec![10, 7], 3, 70, plain.clone())));
        assert_eq!(of("f64:3x?", 48), Ok((vec![3, 2], 0, 48, plain.clone())));
        assert_eq!(of("f64:?", 8), Ok((vec![1], 0, 8, plain)));
        for (text, len, part) in [
            ("f32:2x3", 23, "takes 24 bytes, and 23 are there; 1 byte is missing"),
            ("f32:2x3", 25, "takes 24 bytes, and 25 are there; 1 byte is too many"),
            ("i8:2x3", 48, "48 are there; '<i8', with 8 bytes a sample, would fit"),
            ("u8:1", 2, "takes 1 byte, and 2 are there"),
            ("c64:2", 8, "C64 of shape [2] takes 16 bytes, and 8 are there"),
            ("f32:2x3", 60, "60 are there; 5 in the place of 2 would fit, and so does ?"),
            ("f32:2x3:9", 33 + 4, "28 are there from byte 9 on; 4 bytes are too many"),
            ("f32:2x3", 0, "0 are there; 24 bytes are missing"),
            ("f32:2x3:5", 4, "it has 4 bytes, and its samples are said to begin at byte 5"),
            ("f32:?x3", 25, "shape [?, 3] takes a multiple of 12 bytes, and 25 are there"),
            ("f32:?x3", 0, "takes a multiple of 12 bytes, and 0 are there"),
            ("f32:?x3:8", 8, "0 are there from byte 8 on"),
        ] {
            let told = of(text, len).unwrap_err();
            assert!(told.contains(part), "{text} of {len}: {told}");
        }
    }
}
