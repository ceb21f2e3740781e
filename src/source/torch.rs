//! What `torch.save` writes: a ZIP archive with a pickle, which says what tensors there are, and
//! their storages, each a member as it lies in memory. Dictionaries, lists and tuples may be nested;
//! a tensor's name is its keys, joined by dots.

use std::collections::HashMap;
use std::fs::File;
use std::rc::Rc;
#[cfg(feature = "cli")]
use std::{fs, path::Path};

use super::formats::{Problem, header_bytes};
use super::header::Tensor;
use super::pickle::{self, Budget, Heap, Host, Value};
use super::stored::Stored;
use super::zip::{self, Member};
use crate::error::{counted, shown, shown_shape};
use crate::tensor::{self, Dtype};

/// Longest pickle that is read.
const LONGEST: u64 = 256 << 20;
/// Values that are looked at at most, and how deep: lists may hold themselves.
const MOST_VALUES: u64 = 10_000_000;
const DEEPEST: usize = 100;
/// Bytes that the list of the tensors takes: some, and so many times those of the pickle, up to a most.
/// Few bytes of a pickle may stand for many tensors.
const FREE_LISTED: u64 = 16 << 20;
const TIMES_LISTED: u64 = 4;
const MOST_LISTED: u64 = 256 << 20;
/// Axes at most, as NumPy has them.
const MOST_AXES: usize = 64;

/// What files that `torch.save` wrote before version 1.6 begin with, behind the pickle's protocol.
const LEGACY: &[u8] = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";

/// Whether a file that begins so was written by `torch.save`, or is a ZIP archive of something else, which is
/// refused as one.
fn begins_as_torchs(begin: &[u8]) -> bool {
    begin.starts_with(b"PK") || is_legacy(begin)
}

fn is_legacy(begin: &[u8]) -> bool {
    begin.windows(LEGACY.len()).any(|window| window == LEGACY)
}

/// Bytes by which a file is known.
const BEGIN: usize = 32;

/// Why a file is none of `torch.save` with tensors in it; `None` if it is, or cannot be looked at, so that that
/// is told.
#[cfg(feature = "cli")]
pub(crate) fn why_not(path: &Path) -> Option<String> {
    // Opening a pipe waits for a writer.
    let found = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let file = File::open(path).ok()?;
    let mut begin = [0; BEGIN];
    let len = super::pread::fill(&file, 0, &mut begin).ok()?;
    if is_legacy(&begin[..len]) {
        return None; // tensors that somebody wants, and that are to be told how to save anew
    }
    match read(&file, found.len(), "") {
        Ok(_) | Err(Problem::Io(_)) => None,
        Err(Problem::Format(problem) | Problem::Unread(problem)) => Some(problem),
    }
}

/// The tensors of a file of `len` bytes; one that is not in a dictionary or list is called `name`.
pub(super) fn read(file: &File, len: u64, name: &str) -> Result<Vec<Tensor>, Problem> {
    let mut begin = [0; BEGIN];
    let read = super::pread::fill(file, 0, &mut begin)?;
    if is_legacy(&begin[..read]) {
        let problem = "it is of torch.save's old format, of before version 1.6; python -c 'import torch; \
                       torch.save(torch.load(\"old.pt\", map_location=\"cpu\", weights_only=True), \
                       \"new.pt\")' makes a new one of it";
        return Err(Problem::Unread(problem.to_owned()));
    }
    if !begins_as_torchs(&begin[..read]) {
        return Err("it does not begin as files of torch.save do".to_owned().into());
    }
    let members = zip::members(file, len)?;
    if let Some(member) = members.iter().find(|member| member.packed.is_some()) {
        return Err(format!(
            "its member {} is compressed, which torch.save never does; unpack the archive and pack \
             it with `zip -0`, or save it again",
            shown(&member.name)
        )
        .into());
    }
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
        Torch { by_name, swapped, storages: Vec::new(), views: Vec::new(), aside: Vec::new() }
            .read(&bytes, name)?;
    tensors.sort_by_key(|tensor| tensor.begin);
    Ok(tensors)
}

/// Types by torch's names, with the size of those that are not converted.
pub(super) fn dtype(name: &str) -> Option<(Result<Dtype, String>, u64)> {
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
        "float8_e4m3fnuz" => Dtype::F8E4m3Fnuz,
        "float8_e5m2fnuz" => Dtype::F8E5m2Fnuz,
        "float8_e8m0fnu" => Dtype::F8E8m0,
        "ComplexFloatStorage" | "complex64" => return Some((Err("complex64".to_owned()), 8)),
        "ComplexDoubleStorage" | "complex128" => return Some((Err("complex128".to_owned()), 16)),
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
    /// What is not looked at, and must hold no tensor, with what to say if it does.
    aside: Vec<(Aside, Value)>,
}

/// What is not looked at.
#[derive(Debug, Clone)]
enum Aside {
    /// What parameters and dictionaries have beside their tensors.
    Attribute,
    /// What this global is called with.
    Argument(Rc<str>),
    /// What a tensor has beside its samples.
    Hook,
}

impl Aside {
    /// What to say of a tensor in it.
    fn refusal(&self) -> String {
        match self {
            Aside::Attribute => {
                "a parameter or dictionary has a tensor as its attribute, which is not \
                                 read: save it as an item"
                    .to_owned()
            }
            Aside::Argument(global) => {
                format!(
                    "a tensor is an argument of {global}, which is not read: save it as an item"
                )
            }
            Aside::Hook => {
                "a tensor has a tensor as its hook, which is not read: save it as an item"
                    .to_owned()
            }
        }
    }
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
        ) || is_plain(global)
            || global.strip_prefix("torch.").is_some_and(|name| dtype(name).is_some())
    }

    /// `('storage', type, key, location, number of elements)`.
    fn persistent(&mut self, id: &Value, budget: &mut Budget) -> Result<usize, String> {
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
            let bytes = counted(member.len, "byte");
            format!("the storage {} has {bytes}, fewer than are said", shown(key))
        })?;
        budget.take(2 * size_of::<Storage>())?; // as vectors grow
        self.storages.push(Storage { begin: member.begin, bytes, dtype });
        Ok(self.storages.len() - 1)
    }

    fn call(
        &mut self,
        global: &str,
        arguments: &[Value],
        budget: &mut Budget,
    ) -> Result<Value, String> {
        let wrong = || format!("a call of {global} with other arguments than torch's");
        match global {
            "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor_v3" => {
                let [Value::Persistent(storage), Value::Int(offset), size, stride, rest @ ..] =
                    arguments
                else {
                    return Err(wrong());
                };
                let (asked, bits) = match (global.ends_with('3'), rest) {
                    (false, [_, _, bits @ ..]) => (None, bits),
                    (true, [_, _, Value::Global(name), bits @ ..]) => {
                        let asked = name.strip_prefix("torch.").and_then(dtype);
                        (Some(asked.ok_or_else(wrong)?), bits)
                    }
                    _ => return Err(wrong()),
                };
                // What is in the storage is not what the tensor has.
                let is_lazy = match bits {
                    [] | [Value::Other] => false,
                    [Value::Dict(_)] => true,
                    _ => return Err(wrong()),
                };
                let shape = sizes(size).ok_or_else(wrong)?;
                let strides = sizes(stride).ok_or_else(wrong)?;
                let offset = u64::try_from(*offset).map_err(|_| wrong())?;
                let lengths = (shape.len() + strides.len()) * size_of::<u64>();
                budget.take(2 * size_of::<View>() + lengths)?;
                self.put_aside(&Aside::Hook, rest, budget)?;
                self.view(*storage, offset, shape, strides, asked, is_lazy)
            }
            "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" => {
                match arguments {
                    [tensor @ Value::Made(_), rest @ ..] => {
                        self.put_aside(&Aside::Attribute, rest, budget)?;
                        Ok(tensor.clone())
                    }
                    _ => Err(wrong()),
                }
            }
            "torch.Size" => match arguments {
                [size @ Value::Tuple(..)] => Ok(size.clone()),
                _ => Err(wrong()),
            },
            _ if is_plain(global) || global == "torch.device" => match arguments {
                [items @ (Value::Dict(_) | Value::List(_))] => Ok(items.clone()),
                _ => {
                    self.put_aside(&Aside::Argument(global.into()), arguments, budget)?;
                    Ok(Value::Other)
                }
            },
            _ => Err(format!("a call of {global}, which is not called so")),
        }
    }
}

/// What Python has beside tensors: counts, sets, bytes and complex numbers.
fn is_plain(global: &str) -> bool {
    let builtin = global.strip_prefix("builtins.").or_else(|| global.strip_prefix("__builtin__."));
    matches!(builtin, Some("set" | "frozenset" | "bytearray" | "complex"))
        || matches!(global, "collections.Counter" | "_codecs.encode")
}

fn sizes(value: &Value) -> Option<Vec<u64>> {
    let Value::Tuple(axes, _) = value else { return None };
    let axis = |axis: &Value| match axis {
        Value::Int(axis) => u64::try_from(*axis).ok(),
        _ => None,
    };
    if axes.len() > MOST_AXES {
        return None;
    }
    axes.iter().map(axis).collect()
}

impl Torch<'_> {
    /// Keeps what can hold a tensor, to be looked through when all is there.
    fn put_aside(
        &mut self,
        what: &Aside,
        values: &[Value],
        budget: &mut Budget,
    ) -> Result<(), String> {
        let plain = |value: &&Value| {
            matches!(value, Value::Other | Value::Int(_) | Value::Text(_) | Value::Global(_))
        };
        for value in values.iter().filter(|value| !plain(value)) {
            budget.take(2 * size_of::<(Aside, Value)>())?; // as vectors grow
            self.aside.push((what.clone(), value.clone()));
        }
        Ok(())
    }

    fn view(
        &mut self,
        storage: usize,
        offset: u64,
        shape: Vec<u64>,
        strides: Vec<u64>,
        asked: Option<(Result<Dtype, String>, u64)>,
        is_lazy: bool,
    ) -> Result<Value, String> {
        let storage = &self.storages[storage];
        let (dtype, size) = asked
            .or_else(|| storage.dtype.clone())
            .ok_or_else(|| "a tensor of a storage without a type".to_owned())?;
        let dtype = match dtype {
            dtype if !is_lazy => dtype,
            Ok(dtype) => Err(format!("{dtype} with torch's neg bit (see resolve_neg)")),
            Err(dtype) => Err(format!("{dtype} with torch's conj or neg bit (see resolve_conj)")),
        };
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

    fn read(mut self, pickle: &[u8], name: &str) -> Result<Vec<Tensor>, Problem> {
        let (root, heap) = pickle::load(pickle, &mut self)?;
        self.listed(pickle, (&root, &heap), name).map_err(Problem::Unread)
    }

    /// The tensors in what was saved.
    fn listed(
        &self,
        pickle: &[u8],
        (root, heap): (&Value, &Heap),
        name: &str,
    ) -> Result<Vec<Tensor>, String> {
        let mut found = Found {
            heap,
            views: &self.views,
            tensors: Vec::new(),
            left: MOST_VALUES,
            room: (pickle.len() as u64)
                .saturating_mul(TIMES_LISTED)
                .saturating_add(FREE_LISTED)
                .min(MOST_LISTED),
        };
        let attributes = heap.attributes.iter().map(|value| (&Aside::Attribute, value));
        for (what, value) in self.aside.iter().map(|(what, value)| (what, value)).chain(attributes)
        {
            found.walk(value, &mut Vec::new(), "")?;
            if !found.tensors.is_empty() {
                return Err(what.refusal());
            }
        }
        found.walk(root, &mut Vec::new(), name)?;
        let tensor = |(name, view): (String, usize)| {
            let View { dtype, shape, begin, bytes, stored } = &self.views[view];
            Tensor {
                name,
                dtype: dtype.clone(),
                shape: shape.clone(),
                begin: *begin,
                bytes: *bytes,
                stored: stored.clone(),
                packed: None,
            }
        };
        Ok(found.tensors.into_iter().map(tensor).collect())
    }
}

/// Walks through what was saved.
struct Found<'h> {
    heap: &'h Heap,
    views: &'h [View],
    tensors: Vec<(String, usize)>,
    left: u64,
    /// Bytes that may still be listed.
    room: u64,
}

impl Found<'_> {
    /// `keys` are those of the dictionaries and lists around; one that is neither text nor a whole
    /// number is none, and may not be a tensor's.
    fn walk(
        &mut self,
        value: &Value,
        keys: &mut Vec<Option<Rc<str>>>,
        name: &str,
    ) -> Result<(), String> {
        self.left = self.left.checked_sub(1).ok_or("it holds too many values")?;
        if keys.len() > DEEPEST {
            return Err(format!("it is nested more than {DEEPEST} deep"));
        }
        let heap = self.heap;
        if let Value::Dict(dict) = value {
            let keys_of = heap.dicts[*dict].iter().map(|(key, _)| key);
            let plain = |key: &&Value| matches!(key, Value::Text(_) | Value::Int(_) | Value::Other);
            keys_of.filter(|key| !plain(key)).try_for_each(|key| self.walk_key(key, keys.len()))?;
        }
        let mut each = |key: Option<Rc<str>>, value: &Value| {
            keys.push(key);
            let outcome = self.walk(value, keys, name);
            keys.pop();
            outcome
        };
        let at = |at: usize| Some(at.to_string().into());
        match value {
            Value::Made(view) => {
                let name = self.name(keys, self.views[*view].shape.len(), name)?;
                self.tensors.push((name, *view));
                Ok(())
            }
            Value::Dict(dict) => heap.dicts[*dict].iter().try_for_each(|(key, value)| match key {
                Value::Text(key) => each(Some(Rc::clone(key)), value),
                Value::Int(key) => each(Some(key.to_string().into()), value),
                _ => each(None, value),
            }),
            Value::List(list) => {
                heap.lists[*list].iter().enumerate().try_for_each(|(k, value)| each(at(k), value))
            }
            Value::Tuple(values, _) => {
                values.iter().enumerate().try_for_each(|(k, value)| each(at(k), value))
            }
            Value::Persistent(_) => Err(format!(
                "{} is a storage, and no tensor: save a tensor of it",
                shown(&self.name(keys, 0, name)?)
            )),
            // Numbers and texts beside the tensors.
            _ => Ok(()),
        }
    }

    /// A key that may hold tensors, so many levels deep, and is to hold none.
    fn walk_key(&mut self, key: &Value, depth: usize) -> Result<(), String> {
        let before = self.tensors.len();
        // One level deeper: a dictionary may be its own key.
        self.walk(key, &mut vec![Some("".into()); depth + 1], "")?;
        if self.tensors.len() > before {
            let problem = "a tensor is the key of a dictionary, or in one, which is not read: save it as \
                           an item";
            return Err(problem.to_owned());
        }
        Ok(())
    }

    /// The name of what has these keys, and takes its room in the list.
    fn name(&mut self, keys: &[Option<Rc<str>>], axes: usize, of: &str) -> Result<String, String> {
        let parts: Option<Vec<&str>> = keys.iter().map(Option::as_deref).collect();
        let parts = parts.ok_or("a tensor's key is neither text nor a whole number")?;
        let text: usize = parts.iter().map(|part| part.len() + 1).sum();
        let bytes = size_of::<Tensor>() + axes * size_of::<u64>() + text;
        self.room = self.room.checked_sub(bytes as u64).ok_or("it lists too many tensors")?;
        Ok(if keys.is_empty() { of.to_owned() } else { parts.join(".") })
    }
}
