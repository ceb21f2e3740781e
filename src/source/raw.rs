//! Raw files: samples without a header, of a type and shape that the user says.

use std::fmt;
use std::str::FromStr;

use super::header::Tensor;
use super::stored::Stored;
use super::{npy, torch};
use crate::error::nearest::edit_distance;
use crate::error::{Error, shown, shown_shape};
use crate::tensor::{self, Dtype};

/// Most axes, as NumPy has it.
const MOST_AXES: usize = 64;
/// Behind a type's name: its bytes are the other way round.
const SWAPPED: &str = "BE";

/// What raw files hold, written `DTYPE:SHAPE[:OFFSET]`.
///
/// DTYPE is a name as safetensors, PyTorch or NumPy have it, in letters of either case (`F32`, `bf16`,
/// `float16`, `uint8`, `<i4`); `>f4` or `f32be` has the most significant byte first. SHAPE is the axes,
/// outermost first, with `x` or `,` between: one may be `?` or `-1`, and is then what the file's size makes
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
    dtype: Dtype,
    swapped: bool,
    /// None is 0, and one at most `None`.
    shape: Vec<Option<u64>>,
    offset: u64,
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
    let (dtype, swapped) = dtype(name)?;
    let axes: Vec<&str> = shape.split(['x', 'X', ',']).collect();
    if axes.len() > MOST_AXES {
        return Err(format!("a shape of {} axes, and {MOST_AXES} are the most", axes.len()));
    }
    let shape = axes.into_iter().map(axis).collect::<Result<Vec<_>, _>>()?;
    if shape.iter().filter(|axis| axis.is_none()).count() > 1 {
        return Err("one axis at most can be what the file's size makes of it".to_owned());
    }
    let known: Vec<u64> = shape.iter().flatten().copied().collect();
    tensor::product(&known, dtype.size() as u64)
        .ok_or_else(|| "a shape of more than 2^64 bytes".to_owned())?;
    let wrong = |text| format!("the offset {}, where a number of bytes is due", shown(text));
    let offset = offset.map_or(Ok(0), |text| number(text).ok_or_else(|| wrong(text)))?;
    Ok(Raw { dtype, swapped, shape, offset })
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

/// A type, and whether its bytes are the other way round.
fn dtype(text: &str) -> Result<(Dtype, bool), String> {
    let unknown = |dtype: String| format!("the dtype {} is not converted", shown(&dtype));
    if text.starts_with(['<', '>', '|']) {
        let (dtype, _, swapped) = npy::dtype(text, None)?;
        return Ok((dtype.map_err(unknown)?, swapped));
    }
    let known = |name: &str| match Dtype::from_name(&name.to_ascii_uppercase()) {
        Some(dtype) => Some(Ok(dtype)),
        None => torch::dtype(&name.to_ascii_lowercase()).map(|(dtype, _)| dtype),
    };
    if let Some(dtype) = known(text) {
        return Ok((dtype.map_err(unknown)?, false));
    }
    let end = text.len().saturating_sub(SWAPPED.len());
    if let Some((name, order)) = text.split_at_checked(end)
        && order.eq_ignore_ascii_case(SWAPPED)
        && let Some(dtype) = known(name)
    {
        let dtype = dtype.map_err(unknown)?;
        return Ok((dtype, dtype.size() > 1));
    }
    let distance = |dtype: &&Dtype| edit_distance(dtype.name(), &text.to_ascii_uppercase());
    let nearest = Dtype::ALL.iter().min_by_key(distance).map_or("F32", |dtype| dtype.name());
    Err(format!("the dtype {} is unknown; the nearest is {nearest}", shown(text)))
}

impl fmt::Display for Raw {
    /// The same text for the same meaning.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let axis = |axis: &Option<u64>| axis.map_or("?".to_owned(), |axis| axis.to_string());
        let shape: Vec<String> = self.shape.iter().map(axis).collect();
        let order = if self.swapped { SWAPPED } else { "" };
        write!(f, "{}{order}:{}", self.dtype, shape.join("x"))?;
        if self.offset > 0 { write!(f, ":{}", self.offset) } else { Ok(()) }
    }
}

/// The tensor of a file of `len` bytes.
pub(super) fn tensor(raw: &Raw, name: &str, len: u64) -> Result<Tensor, String> {
    let Raw { dtype, swapped, offset, .. } = *raw;
    let left = len.checked_sub(offset).ok_or_else(|| {
        format!("it has {len} bytes, and its samples are said to begin at byte {offset}")
    })?;
    let known: Vec<u64> = raw.shape.iter().flatten().copied().collect();
    // `parse` has looked that there is one, and none of the axes is 0.
    let samples = tensor::product(&known, 1).unwrap_or(u64::MAX);
    let there = format!("{left} are there{}", behind(offset));
    let axis = fitting(samples, dtype, left);
    let is_open = known.len() < raw.shape.len();
    if is_open && axis.is_none() {
        let (bits, what) = match u128::from(samples) * u128::from(dtype.bits()) {
            bits if bits % 8 == 0 => (bits / 8, "bytes"),
            bits => (bits, "bits"),
        };
        return Err(format!(
            "{dtype} of shape {raw} takes a multiple of {bits} {what}, and {there}",
            raw = shown_axes(raw)
        ));
    }
    let bytes = packed(samples, dtype);
    if !is_open && bytes != u128::from(left) {
        let first = known.first().copied().unwrap_or(1);
        let help = match fitting(samples / first, dtype, left) {
            Some(fits) => format!("; {fits} in the place of {first} would fit, and so does ?"),
            None if u128::from(left) > bytes => {
                format!("; {} bytes are too many", u128::from(left) - bytes)
            }
            None => format!("; {} bytes are missing", bytes - u128::from(left)),
        };
        let shape = shown_shape(&known);
        return Err(format!("{dtype} of shape {shape} takes {bytes} bytes, and {there}{help}"));
    }
    let shape: Vec<u64> = raw.shape.iter().map(|known| known.or(axis).unwrap_or(1)).collect();
    if tensor::product(&shape, dtype.size() as u64).is_none() {
        return Err(format!("its shape {} is larger than 64 bits can say", shown_shape(&shape)));
    }
    Ok(Tensor {
        name: name.to_owned(),
        dtype: Ok(dtype),
        shape,
        begin: offset,
        bytes: left,
        stored: if swapped { Stored::plain(true) } else { Stored::packed(dtype) },
        packed: None,
    })
}

/// Bytes that so many samples take.
fn packed(samples: u64, dtype: Dtype) -> u128 {
    (u128::from(samples) * u128::from(dtype.bits())).div_ceil(8)
}

/// How many times so many samples are in a file of `len` bytes, where one can be sure of it: each has its
/// place, and no whole byte is left.
fn fitting(samples: u64, dtype: Dtype, len: u64) -> Option<u64> {
    let bits = u128::from(samples) * u128::from(dtype.bits());
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
            ("f4:?x3", "F4:?x3"),
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
            ("bloat16:2x2", "unknown; the nearest is"),
            ("F8_E4M2:2x2", "the nearest is F8_E4M3"),
            ("<f3:2", "none of numbers"),
            ("|V2:2", "bfloat16"),
            ("<c8:2", "<c8 is not converted"),
            ("complex64:2", "complex64 is not converted"),
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
            ("f32:2x3", 23, "takes 24 bytes, and 23 are there; 1 bytes are missing"),
            ("f32:2x3", 25, "takes 24 bytes, and 25 are there; 1 bytes are too many"),
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
