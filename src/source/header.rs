//! A safetensors header, strictly: what the format's own crate lets through and its specification
//! does not (duplicate keys, blanks before the brace) is refused here, and sizes are checked with
//! checked arithmetic before that crate sees them.

use std::collections::btree_map::{BTreeMap, Entry as Place};
use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::BuildHasher as _;

use safetensors::tensor::{Dtype as FormatDtype, Metadata, TensorInfo as FormatTensor};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, IntoDeserializer as _, MapAccess, SeqAccess, Visitor};

use super::inflate::Packed;
use super::reading::Complex;
use super::stored::Stored;
use crate::error::{counted, is_complex, shown, shown_problem, shown_shape};
use crate::tensor::{self, Dtype};

/// Longest header that the format allows.
pub(super) const LONGEST: u64 = 100_000_000;
/// Keys of `__metadata__` at most, each of which takes ten times the bytes that it has in the file.
const MOST_KEYS: usize = 100_000;
/// Axes that every tensor may have. Of all that have more, the rest together are at most so many:
/// each takes many times the two bytes that it may have in the file.
const AXES: usize = 8;
const MOST_AXES: usize = 1_000_000;
/// Tensors that the format's own crate is asked about at once: it wants copies.
const ASKED: usize = 1024;

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
    pub(super) packed: Option<Box<Packed>>,
}

impl Tensor {
    /// The same as numbers that are made of complex ones, if it is of such.
    pub(super) fn of_complex(self, complex: Option<Complex>) -> Tensor {
        match complex {
            Some(complex) if self.dtype.as_ref().is_err_and(|name| is_complex(name)) => {
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
    // No two are equal.
    entries.sort_unstable_by(|(a, x), (b, y)| (x.data_offsets, a).cmp(&(y.data_offsets, b)));
    check_sizes(&entries, data)?;
    entries.chunks(ASKED).try_for_each(second_opinion)?;
    let tensors = entries.into_iter().map(|(name, raw)| tensor(name, raw)).collect();
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
    dtype: Type,
    shape: Axes,
    data_offsets: (u64, u64),
}

/// A type by its name, which is kept where it says more.
enum Type {
    Ours(FormatDtype, Dtype),
    Theirs(FormatDtype, Box<str>),
    Unknown(Box<str>),
}

impl Type {
    fn name(&self) -> String {
        match self {
            Type::Ours(_, dtype) => dtype.name().to_owned(),
            Type::Theirs(_, name) | Type::Unknown(name) => name.to_string(),
        }
    }

    fn format(&self) -> Result<FormatDtype, String> {
        match self {
            Type::Ours(format, _) | Type::Theirs(format, _) => Ok(*format),
            Type::Unknown(name) => Err(format!("the dtype {} is unknown", shown(name))),
        }
    }
}

impl<'de> Deserialize<'de> for Type {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Type, D::Error> {
        struct Name;

        impl Visitor<'_> for Name {
            type Value = Type;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Type, E> {
                let format: Result<FormatDtype, de::value::Error> =
                    FormatDtype::deserialize(name.into_deserializer());
                Ok(match (format, Dtype::from_name(name)) {
                    (Ok(format), Some(dtype)) => Type::Ours(format, dtype),
                    (Ok(format), None) => Type::Theirs(format, name.into()),
                    (Err(_), _) => Type::Unknown(name.into()),
                })
            }
        }

        deserializer.deserialize_str(Name)
    }
}

/// Lengths of axes, in no more memory than they take.
struct Axes(Vec<u64>);

impl<'de> Deserialize<'de> for Axes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Axes, D::Error> {
        struct Lengths;

        impl<'de> Visitor<'de> for Lengths {
            type Value = Axes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sequence")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut lengths: A) -> Result<Axes, A::Error> {
                let (mut few, mut count) = ([0; AXES], 0);
                for axis in &mut few {
                    let Some(length) = lengths.next_element()? else {
                        return Ok(Axes(few[..count].to_vec()));
                    };
                    (*axis, count) = (length, count + 1);
                }
                let mut all = few.to_vec();
                while let Some(length) = lengths.next_element()? {
                    if all.len() == AXES + MOST_AXES {
                        return Err(de::Error::custom(too_many_axes()));
                    }
                    all.push(length);
                }
                all.shrink_to_fit();
                Ok(Axes(all))
            }
        }

        deserializer.deserialize_seq(Lengths)
    }
}

fn too_many_axes() -> String {
    format!("beyond {AXES} each, all tensors have more than {MOST_AXES} axes together")
}

impl RawHeader {
    fn has(&self, name: &str) -> bool {
        name == "__metadata__" && self.metadata.is_some()
            || self.tensors.iter().any(|(other, _)| other == name)
    }
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
                // Hashes are few bytes; where two are equal, names are looked at.
                let (mut seen, hash) = (HashSet::new(), RandomState::new());
                let mut axes_left = MOST_AXES;
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(hash.hash_one(&name)) && header.has(&name) {
                        let twice = format!("the key {} stands twice", shown(&name));
                        return Err(de::Error::custom(twice));
                    }
                    if name == "__metadata__" {
                        let wrong = |e| de::Error::custom(format!("__metadata__: {e}"));
                        header.metadata = Some(map.next_value::<Strings>().map_err(wrong)?.0);
                    } else {
                        let wrong = |e| de::Error::custom(in_tensor(&name, &e));
                        let Entry(tensor) = map.next_value().map_err(wrong)?;
                        let more = tensor.shape.0.len().saturating_sub(AXES);
                        let left = axes_left
                            .checked_sub(more)
                            .ok_or_else(|| de::Error::custom(in_tensor(&name, &too_many_axes())));
                        axes_left = left?;
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

/// A map of strings without duplicate keys, of which there are not too many.
struct Strings(BTreeMap<String, String>);

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
                    if strings.len() == MOST_KEYS {
                        let problem = format!("it has more than {MOST_KEYS} keys");
                        return Err(de::Error::custom(problem));
                    }
                    match strings.entry(key) {
                        Place::Vacant(place) => drop(place.insert(value)),
                        Place::Occupied(place) => {
                            let twice =
                                format!("the key {} stands twice in a map", shown(place.key()));
                            return Err(de::Error::custom(twice));
                        }
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
        let bits = tensor.dtype.format().map_err(at)?.bitsize() as u64;
        let shape = || shown_shape(&tensor.shape.0);
        let demanded = tensor::product(&tensor.shape.0, bits)
            .ok_or_else(|| at(format!("its shape {} is larger than 64 bits can say", shape())))?;
        if demanded % 8 != 0 {
            return Err(at(format!(
                "{} of shape {} takes {demanded} bits, which are no whole bytes",
                shown(&tensor.dtype.name()),
                shape(),
            )));
        }
        if demanded / 8 != next - begin {
            return Err(at(format!(
                "{} of shape {} takes {}, but its offsets span {}",
                shown(&tensor.dtype.name()),
                shape(),
                counted(demanded / 8, "byte"),
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

fn tensor(name: String, raw: RawTensor) -> Tensor {
    let RawTensor { dtype, shape, data_offsets: (begin, end) } = raw;
    let dtype = match dtype {
        Type::Ours(_, dtype) => Ok(dtype),
        Type::Theirs(_, name) | Type::Unknown(name) => Err(name.into()),
    };
    Tensor {
        name,
        stored: dtype.as_ref().map_or_else(|_| Stored::default(), |dtype| Stored::packed(*dtype)),
        dtype,
        shape: shape.0,
        begin,
        bytes: end - begin, // found in order by check_sizes
        packed: None,
    }
}

/// What the format's own crate says of some tensors that follow each other.
fn second_opinion(entries: &[(String, RawTensor)]) -> Result<(), String> {
    let native =
        |x: u64| usize::try_from(x).map_err(|_| "it is too large for this machine".to_owned());
    let first = entries.first().map_or(0, |(_, raw)| raw.data_offsets.0);
    let tensor = |(name, raw): &(String, RawTensor)| {
        let shape = raw.shape.0.iter().map(|&axis| native(axis)).collect::<Result<_, _>>()?;
        let (begin, end) = raw.data_offsets; // found in order by check_sizes
        native(end)?;
        let data_offsets = (native(begin - first)?, native(end - first)?);
        let info = FormatTensor { dtype: raw.dtype.format()?, shape, data_offsets };
        Ok((name.clone(), info))
    };
    let tensors = entries.iter().map(tensor).collect::<Result<Vec<_>, String>>()?;
    Metadata::new(None::<HashMap<String, String>>, tensors).map(drop).map_err(|e| shown_problem(&e))
}
