//! What `torch.save` writes: a ZIP archive with a pickle, which says what tensors there are, and
//! their storages, each a member as it lies in memory. Dictionaries, lists and tuples may be nested;
//! a tensor's name is its keys, joined by dots.

use std::collections::HashMap;
use std::fs::File;
use std::rc::Rc;

use super::formats::{Problem, header_bytes};
use super::header::Tensor;
use super::pickle::{self, Heap, Host, Value};
use super::stored::Stored;
use super::zip::{self, Member};
use crate::error::{shown, shown_shape};
use crate::tensor::{self, Dtype};

/// Longest pickle that is read.
const LONGEST: u64 = 256 << 20;
/// Values that are looked at at most, and how deep: lists may hold themselves.
const MOST_VALUES: u64 = 10_000_000;
const DEEPEST: usize = 100;

/// How files begin that `torch.save` wrote before version 1.6.
const LEGACY: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";

/// The tensors of a file of `len` bytes; one that is not in a dictionary or list is called `name`.
pub(super) fn read(file: &File, len: u64, name: &str) -> Result<Vec<Tensor>, Problem> {
    let mut begin = vec![0; LEGACY.len()];
    let read = super::pread::fill(file, 0, &mut begin)?;
    if begin[..read] == *LEGACY {
        return Err("it is of torch.save's old format; in Python, x = torch.load(path, \
                    weights_only=True) and torch.save(x, path) make a new one of it"
            .to_owned()
            .into());
    }
    if !begin.starts_with(b"PK") {
        return Err("it does not begin as files of torch.save do".to_owned().into());
    }
    let members = zip::members(file, len)?;
    let pickles: Vec<&Member> =
        members.iter().filter(|member| member.name.ends_with("/data.pkl")).collect();
    let [pickle] = pickles[..] else {
        return Err(format!("it has {} members data.pkl, not one", pickles.len()).into());
    };
    if pickle.len > LONGEST {
        let len = pickle.len;
        return Err(format!("its pickle has {len} bytes, and {LONGEST} are the most").into());
    }
    let bytes = header_bytes(file, pickle.begin, pickle.len)?;
    let root = pickle.name.trim_end_matches("data.pkl");
    let by_name: HashMap<&str, &Member> = members
        .iter()
        .filter_map(|member| Some((member.name.strip_prefix(root)?, member)))
        .collect();
    let swapped = match by_name.get("byteorder") {
        None => false,
        Some(member) => match &header_bytes(file, member.begin, member.len.min(16))?[..] {
            b"little" => false,
            b"big" => true,
            _ => return Err("its byteorder is neither little nor big".to_owned().into()),
        },
    };
    let mut tensors =
        Torch { by_name, swapped, storages: Vec::new(), views: Vec::new() }.read(&bytes, name)?;
    tensors.sort_by_key(|tensor| tensor.begin);
    Ok(tensors)
}

/// Types by torch's names, with the size of those that are not converted.
fn dtype(name: &str) -> Option<(Result<Dtype, String>, u64)> {
    let dtype = match name {
        "DoubleStorage" | "float64" | "double" => Dtype::F64,
        "FloatStorage" | "float32" | "float" => Dtype::F32,
        "HalfStorage" | "float16" | "half" => Dtype::F16,
        "BFloat16Storage" | "bfloat16" => Dtype::Bf16,
        "LongStorage" | "int64" | "long" => Dtype::I64,
        "IntStorage" | "int32" | "int" => Dtype::I32,
        "ShortStorage" | "int16" | "short" => Dtype::I16,
        "CharStorage" | "int8" => Dtype::I8,
        "ByteStorage" | "uint8" => Dtype::U8,
        "BoolStorage" | "bool" => Dtype::Bool,
        "uint16" => Dtype::U16,
        "uint32" => Dtype::U32,
        "uint64" => Dtype::U64,
        "float8_e4m3fn" => Dtype::F8E4m3,
        "float8_e5m2" => Dtype::F8E5m2,
        "ComplexFloatStorage" | "complex64" => return Some((Err("complex64".to_owned()), 8)),
        "ComplexDoubleStorage" | "complex128" => return Some((Err("complex128".to_owned()), 16)),
        "float8_e4m3fnuz" | "float8_e5m2fnuz" | "float8_e8m0fnu" => {
            return Some((Err(name.to_owned()), 1));
        }
        _ => return None,
    };
    Some((Ok(dtype), dtype.size() as u64))
}

/// A storage: its bytes in the file, and its type, which an untyped one has not.
struct Storage {
    begin: u64,
    bytes: u64,
    dtype: Option<(Result<Dtype, String>, u64)>,
}

/// A tensor's look at a storage.
struct View {
    dtype: Result<Dtype, String>,
    shape: Vec<u64>,
    begin: u64,
    bytes: u64,
    stored: Stored,
}

struct Torch<'m> {
    by_name: HashMap<&'m str, &'m Member>,
    swapped: bool,
    storages: Vec<Storage>,
    views: Vec<View>,
}

impl Host for Torch<'_> {
    fn knows(&self, global: &str) -> bool {
        matches!(
            global,
            "torch._utils._rebuild_tensor_v2"
                | "torch._utils._rebuild_tensor_v3"
                | "torch._utils._rebuild_parameter"
                | "torch._utils._rebuild_parameter_with_state"
                | "torch.storage.UntypedStorage"
                | "torch.Size"
                | "torch.device"
        ) || global.strip_prefix("torch.").is_some_and(|name| dtype(name).is_some())
    }

    /// `('storage', type, key, location, number of elements)`.
    fn persistent(&mut self, id: &Value) -> Result<usize, String> {
        let wrong = || "a persistent id that is no storage's".to_owned();
        let Value::Tuple(fields, _) = id else { return Err(wrong()) };
        let [Value::Text(what), Value::Global(of), Value::Text(key), _, Value::Int(count)] =
            &fields[..]
        else {
            return Err(wrong());
        };
        if **what != *"storage" {
            return Err(wrong());
        }
        let dtype = match of.strip_prefix("torch.") {
            Some("storage.UntypedStorage") => None,
            name => Some(name.and_then(dtype).ok_or_else(wrong)?),
        };
        let size = dtype.as_ref().map_or(1, |(_, size)| *size);
        let bytes = u64::try_from(*count).ok().and_then(|count| count.checked_mul(size));
        let member = self.by_name.get(&*format!("data/{key}"));
        let member =
            member.ok_or_else(|| format!("the storage {} is not in the archive", shown(key)))?;
        let bytes = bytes.filter(|bytes| *bytes <= member.len).ok_or_else(|| {
            format!("the storage {} has {} bytes, fewer than are said", shown(key), member.len)
        })?;
        self.storages.push(Storage { begin: member.begin, bytes, dtype });
        Ok(self.storages.len() - 1)
    }

    fn call(&mut self, global: &str, arguments: &[Value]) -> Result<Value, String> {
        let wrong = || format!("a call of {global} with other arguments than torch's");
        match global {
            "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor_v3" => {
                let [Value::Persistent(storage), Value::Int(offset), size, stride, rest @ ..] =
                    arguments
                else {
                    return Err(wrong());
                };
                let asked = match (global.ends_with('3'), rest) {
                    (false, _) => None,
                    (true, [_, _, Value::Global(name), ..]) => {
                        Some(name.strip_prefix("torch.").and_then(dtype).ok_or_else(wrong)?)
                    }
                    _ => return Err(wrong()),
                };
                let shape = sizes(size).ok_or_else(wrong)?;
                let strides = sizes(stride).ok_or_else(wrong)?;
                let offset = u64::try_from(*offset).map_err(|_| wrong())?;
                self.view(*storage, offset, shape, strides, asked)
            }
            "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" => {
                match arguments {
                    [tensor @ Value::Made(_), ..] => Ok(tensor.clone()),
                    _ => Err(wrong()),
                }
            }
            "torch.Size" => match arguments {
                [size @ Value::Tuple(..)] => Ok(size.clone()),
                _ => Err(wrong()),
            },
            "torch.device" => Ok(Value::Other),
            _ => Err(format!("a call of {global}, which is not called so")),
        }
    }
}

fn sizes(value: &Value) -> Option<Vec<u64>> {
    let Value::Tuple(axes, _) = value else { return None };
    let axis = |axis: &Value| match axis {
        Value::Int(axis) => u64::try_from(*axis).ok(),
        _ => None,
    };
    axes.iter().map(axis).collect()
}

impl Torch<'_> {
    fn view(
        &mut self,
        storage: usize,
        offset: u64,
        shape: Vec<u64>,
        strides: Vec<u64>,
        asked: Option<(Result<Dtype, String>, u64)>,
    ) -> Result<Value, String> {
        let storage = &self.storages[storage];
        let (dtype, size) = asked
            .or_else(|| storage.dtype.clone())
            .ok_or_else(|| "a tensor of a storage without a type".to_owned())?;
        let too_large = || format!("a tensor of shape {} leaves its storage", shown_shape(&shape));
        let bytes = tensor::product(&shape, size).ok_or_else(too_large)?;
        if shape.len() != strides.len() {
            return Err("a tensor with more strides than axes, or fewer".to_owned());
        }
        if bytes > 0 {
            let last = shape.iter().zip(&strides).try_fold(offset, |sum, (axis, stride)| {
                sum.checked_add((axis - 1).checked_mul(*stride)?)
            });
            let end = last.and_then(|last| last.checked_add(1)?.checked_mul(size));
            end.filter(|end| *end <= storage.bytes).ok_or_else(too_large)?;
        }
        let begin = if bytes > 0 { storage.begin + offset * size } else { storage.begin };
        let stored = Stored::strided(&shape, &strides, self.swapped && size > 1);
        self.views.push(View { dtype, shape, begin, bytes, stored });
        Ok(Value::Made(self.views.len() - 1))
    }

    fn read(mut self, pickle: &[u8], name: &str) -> Result<Vec<Tensor>, String> {
        let (root, heap) = pickle::load(pickle, &mut self)?;
        let mut found = Found { heap: &heap, tensors: Vec::new(), left: MOST_VALUES };
        found.walk(&root, &mut Vec::new(), name)?;
        let tensor = |(name, view): (String, usize)| {
            let View { dtype, shape, begin, bytes, stored } = &self.views[view];
            Tensor {
                name,
                dtype: dtype.clone(),
                shape: shape.clone(),
                begin: *begin,
                bytes: *bytes,
                stored: stored.clone(),
            }
        };
        Ok(found.tensors.into_iter().map(tensor).collect())
    }
}

/// Walks through what was saved.
struct Found<'h> {
    heap: &'h Heap,
    tensors: Vec<(String, usize)>,
    left: u64,
}

impl Found<'_> {
    fn walk(&mut self, value: &Value, keys: &mut Vec<Rc<str>>, name: &str) -> Result<(), String> {
        self.left = self.left.checked_sub(1).ok_or("it holds too many values")?;
        if keys.len() > DEEPEST {
            return Err(format!("it is nested more than {DEEPEST} deep"));
        }
        let heap = self.heap;
        let mut each = |key: Rc<str>, value: &Value| {
            keys.push(key);
            let outcome = self.walk(value, keys, name);
            keys.pop();
            outcome
        };
        match value {
            Value::Made(view) => {
                let joined = keys.join(".");
                let name = if keys.is_empty() { name.to_owned() } else { joined };
                self.tensors.push((name, *view));
                Ok(())
            }
            Value::Dict(dict) => heap.dicts[*dict].iter().try_for_each(|(key, value)| match key {
                Value::Text(key) => each(Rc::clone(key), value),
                Value::Int(key) => each(key.to_string().into(), value),
                _ => Err("a dictionary has a key that is neither text nor a number".to_owned()),
            }),
            Value::List(list) => heap.lists[*list]
                .iter()
                .enumerate()
                .try_for_each(|(at, value)| each(at.to_string().into(), value)),
            Value::Tuple(values, _) => values
                .iter()
                .enumerate()
                .try_for_each(|(at, value)| each(at.to_string().into(), value)),
            // Numbers and texts beside the tensors.
            _ => Ok(()),
        }
    }
}
