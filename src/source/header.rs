//! A safetensors header, strictly: what the format's own crate lets through and its specification
//! does not (duplicate keys, blanks before the brace) is refused here, and sizes are checked with
//! checked arithmetic before that crate sees them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use safetensors::tensor::{Dtype as FormatDtype, Metadata, TensorInfo as FormatTensor};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, IntoDeserializer as _, MapAccess, Visitor};

use super::inflate::Packed;
use super::reading::Complex;
use super::stored::Stored;
use crate::error::{shown, shown_problem, shown_shape};
use crate::tensor::{self, Dtype};

/// Longest header that the format allows.
pub(super) const LONGEST: u64 = 100_000_000;

/// A header that was found good.
#[derive(Debug)]
pub(super) struct Header {
    /// In the order of their bytes.
    pub(super) tensors: Vec<Tensor>,
    /// The dump's own `__metadata__`.
    pub(super) metadata: BTreeMap<String, String>,
}

impl Header {
    /// Of a format that says nothing else.
    pub(super) fn of(tensors: Vec<Tensor>) -> Header {
        Header { tensors, metadata: BTreeMap::new() }
    }
}

/// One tensor of a header.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) name: String,
    /// The name of a type that safetensors knows and this version does not convert, otherwise.
    pub(super) dtype: Result<Dtype, String>,
    pub(super) shape: Vec<u64>,
    /// First byte, counted from the end of the header; of a packed one, from its member's begin.
    pub(super) begin: u64,
    pub(super) bytes: u64, // as they lie there
    /// How its bytes lie there.
    pub(super) stored: Stored,
    /// The member that it is in, where that is deflated.
    pub(super) packed: Option<Packed>,
}

impl Tensor {
    /// The same as numbers that are made of complex ones, if it is of such.
    pub(super) fn of_complex(self, complex: Option<Complex>) -> Tensor {
        // As safetensors, NumPy and PyTorch call two f32.
        const NAMES: [&str; 4] = ["C64", "<c8", ">c8", "complex64"];
        let is_complex = |name: &String| NAMES.contains(&name.as_str());
        match complex {
            Some(complex) if self.dtype.as_ref().is_err_and(is_complex) => {
                Tensor { dtype: Ok(Dtype::F32), stored: self.stored.complex(complex), ..self }
            }
            _ => self,
        }
    }
}

/// Parses `json`, the header of a file with `data` bytes behind it.
///
/// # Errors
/// Says what is wrong, without the file's name.
pub(super) fn parse(json: &[u8], data: u64) -> Result<Header, String> {
    match json.first() {
        Some(b'{') => {}
        Some(other) => {
            return Err(format!("the header begins with byte {other:#04x}, not with {{"));
        }
        None => return Err("the header is empty".to_owned()),
    }
    let text = std::str::from_utf8(json).map_err(|e| format!("the header is not UTF-8: {e}"))?;
    let raw: RawHeader =
        serde_json::from_str(text).map_err(|e| format!("the header: {}", shown_problem(&e)))?;
    let mut entries = raw.tensors;
    entries.sort_by(|(a, x), (b, y)| (x.data_offsets, a).cmp(&(y.data_offsets, b)));
    check_sizes(&entries, data)?;
    let tensors = entries.iter().map(|(name, raw)| tensor(name, raw)).collect();
    second_opinion(&entries)?;
    Ok(Header { tensors, metadata: raw.metadata.unwrap_or_default() })
}

/// The map as it stands in the file.
struct RawHeader {
    metadata: Option<BTreeMap<String, String>>,
    tensors: Vec<(String, RawTensor)>,
}

/// To be read through [`Entry`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawHeader, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from tensor names to dtype, shape and data_offsets")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader { metadata: None, tensors: Vec::new() };
                let mut seen = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        let twice = format!("the key {} stands twice", shown(&name));
                        return Err(de::Error::custom(twice));
                    }
                    if name == "__metadata__" {
                        let wrong = |e| de::Error::custom(format!("__metadata__: {e}"));
                        header.metadata = Some(map.next_value::<Strings>().map_err(wrong)?.0);
                    } else {
                        let wrong = |e| de::Error::custom(in_tensor(&name, &e));
                        let Entry(tensor) = map.next_value().map_err(wrong)?;
                        header.tensors.push((name, tensor));
                    }
                }
                Ok(header)
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

fn in_tensor(name: &str, problem: &impl fmt::Display) -> String {
    // Both may be long, and each is to be seen.
    format!("tensor {}: {}", shown(name), shown(&problem.to_string()))
}

/// A tensor from a map alone: serde makes a struct of an array, too, by the order of its fields.
struct Entry(RawTensor);

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entry, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Entry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of dtype, shape and data_offsets")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Entry, A::Error> {
                RawTensor::deserialize(MapAccessDeserializer::new(map)).map(Entry)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// A map of strings without duplicate keys.
pub(super) struct Strings(pub(super) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Strings, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Strings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from strings to strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strings, A::Error> {
                let mut strings = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if strings.insert(key.clone(), value).is_some() {
                        let twice = format!("the key {} stands twice in a map", shown(&key));
                        return Err(de::Error::custom(twice));
                    }
                }
                Ok(Strings(strings))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// Whether the tensors, sorted by their bytes, fill the data without gap or overlap, each as long
/// as its dtype and shape demand.
fn check_sizes(entries: &[(String, RawTensor)], data: u64) -> Result<(), String> {
    let mut end = 0;
    for (name, tensor) in entries {
        let (begin, next) = tensor.data_offsets;
        let at = |problem: String| format!("tensor {}: {problem}", shown(name));
        if next < begin {
            return Err(at(format!("its bytes end at {next}, before they begin at {begin}")));
        }
        if begin != end {
            let how = if begin < end {
                "overlaps the one before, which ends"
            } else {
                "leaves a gap after the one before, which ends"
            };
            return Err(at(format!("it begins at byte {begin} and {how} at {end}")));
        }
        let bits = format_dtype(&tensor.dtype).map_err(at)?.bitsize() as u64;
        let shape = || shown_shape(&tensor.shape);
        let demanded = tensor::product(&tensor.shape, bits)
            .ok_or_else(|| at(format!("its shape {} is larger than 64 bits can say", shape())))?;
        if demanded % 8 != 0 {
            return Err(at(format!(
                "{} of shape {} takes {demanded} bits, which are no whole bytes",
                shown(&tensor.dtype),
                shape(),
            )));
        }
        if demanded / 8 != next - begin {
            return Err(at(format!(
                "{} of shape {} takes {} bytes, but its offsets span {}",
                shown(&tensor.dtype),
                shape(),
                demanded / 8,
                next - begin
            )));
        }
        end = next;
    }
    if end != data {
        let what =
            if end > data { "the file is truncated" } else { "bytes follow the last tensor" };
        return Err(format!("{what}: the tensors end at byte {end} of the data, which has {data}"));
    }
    Ok(())
}

fn format_dtype(name: &str) -> Result<FormatDtype, String> {
    let known: Result<FormatDtype, de::value::Error> =
        FormatDtype::deserialize(name.into_deserializer());
    known.map_err(|_| format!("the dtype {} is unknown", shown(name)))
}

fn tensor(name: &str, raw: &RawTensor) -> Tensor {
    let dtype = Dtype::from_name(&raw.dtype);
    Tensor {
        name: name.to_owned(),
        dtype: dtype.ok_or_else(|| raw.dtype.clone()),
        shape: raw.shape.clone(),
        begin: raw.data_offsets.0,
        bytes: raw.data_offsets.1 - raw.data_offsets.0, // found in order by check_sizes
        stored: dtype.map_or_else(Stored::default, Stored::packed),
        packed: None,
    }
}

/// What the format's own crate says of the same tensors.
fn second_opinion(entries: &[(String, RawTensor)]) -> Result<(), String> {
    let native =
        |x: u64| usize::try_from(x).map_err(|_| "it is too large for this machine".to_owned());
    let tensor = |(name, raw): &(String, RawTensor)| {
        let shape = raw.shape.iter().map(|&axis| native(axis)).collect::<Result<_, _>>()?;
        let data_offsets = (native(raw.data_offsets.0)?, native(raw.data_offsets.1)?);
        let info = FormatTensor { dtype: format_dtype(&raw.dtype)?, shape, data_offsets };
        Ok((name.clone(), info))
    };
    let tensors = entries.iter().map(tensor).collect::<Result<Vec<_>, String>>()?;
    Metadata::new(None::<HashMap<String, String>>, tensors).map(drop).map_err(|e| shown_problem(&e))
}
