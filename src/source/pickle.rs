//! As much of Python's pickle format as `torch.save` writes, protocols 2 to 5: a stack machine whose
//! every opcode is known here, and which executes nothing. A global is a name; only those of an
//! allow-list mean something, and a call of one makes a value of ours. Anything else is refused by
//! name. Source: CPython's `Lib/pickletools.py`, PyTorch's `torch/_weights_only_unpickler.py`.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::rc::Rc;

use super::formats::Problem;
use crate::error::shown;

/// Tuples are nested no deeper than this: each holds the next.
const DEEPEST: u32 = 100;
/// Opcodes that are done at most.
const MOST_OPCODES: u64 = 20_000_000;
/// Bytes of memory that what a pickle makes may take: some, and so many times its own, up to a most.
const FREE: u64 = 64 << 20;
const TIMES: u64 = 16;
const MOST_BYTES: u64 = 1 << 30;
/// What a value takes beside its own bytes where it is put away by itself, and an entry of the memo.
const ALLOCATED: usize = 32;
const REMEMBERED: usize = 2 * size_of::<(u64, Value)>();

/// A value.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// Numbers that are no integers, `None`, bytes: nothing that is looked at.
    Other,
    Int(i64),
    Text(Rc<str>),
    Tuple(Rc<[Value]>, u32),
    /// By its place among all.
    List(usize),
    Dict(usize),
    /// `module.name`.
    Global(Rc<str>),
    /// What a persistent id stands for.
    Persistent(usize),
    /// What a call of a global made.
    Made(usize),
}

/// Bytes that may still be taken. What is let go is not given back.
pub(super) struct Budget(u64);

impl Budget {
    fn of(pickle: &[u8]) -> Budget {
        Budget((pickle.len() as u64).saturating_mul(TIMES).saturating_add(FREE).min(MOST_BYTES))
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<(), String> {
        let left = self.0.checked_sub(bytes as u64);
        self.0 = left.ok_or("it makes more values than a pickle of its length may")?;
        Ok(())
    }

    /// What a vector took more since it had room for so many.
    fn grown<T>(&mut self, vec: &Vec<T>, before: usize) -> Result<(), String> {
        self.take((vec.capacity() - before) * size_of::<T>())
    }
}

/// What the machine is told, and tells.
pub(super) trait Host {
    /// Whether a global may be named.
    fn knows(&self, global: &str) -> bool;

    /// A persistent id; the number that stands for it. What is kept of it is taken from the budget.
    fn persistent(&mut self, id: &Value, budget: &mut Budget) -> Result<usize, String>;

    /// A call; what it makes, as above.
    fn call(
        &mut self,
        global: &str,
        arguments: &[Value],
        budget: &mut Budget,
    ) -> Result<Value, String>;
}

/// Lists and dictionaries by their places.
#[derive(Debug, Default)]
pub(super) struct Heap {
    pub(super) lists: Vec<Vec<Value>>,
    pub(super) dicts: Vec<Vec<(Value, Value)>>,
    /// What dictionaries have beside their items.
    pub(super) attributes: Vec<Value>,
}

/// A global whose call makes an empty dictionary.
const ORDERED_DICT: &str = "collections.OrderedDict";

struct Machine<'p, 'h> {
    rest: &'p [u8],
    host: &'h mut dyn Host,
    heap: Heap,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
    budget: Budget,
    /// Bytes that the stack and its marks were counted with.
    stacked: usize,
    /// What a pickle that is sound wants, and is not done.
    unread: Option<String>,
}

/// The value of a pickle.
pub(super) fn load(pickle: &[u8], host: &mut dyn Host) -> Result<(Value, Heap), Problem> {
    let mut machine = Machine {
        rest: pickle,
        host,
        heap: Heap::default(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        budget: Budget::of(pickle),
        stacked: 0,
        unread: None,
    };
    for _ in 0..MOST_OPCODES {
        let at = pickle.len() - machine.rest.len();
        match machine.step().and_then(|done| machine.count_stack().map(|()| done)) {
            Ok(None) => {}
            Ok(Some(value)) => {
                machine.forget_first_values()?;
                return Ok((value, machine.heap));
            }
            Err(problem) => {
                return Err(match machine.unread {
                    Some(unread) => Problem::Unread(unread),
                    None => format!("its pickle at byte {at}: {problem}").into(),
                });
            }
        }
    }
    Err(format!("its pickle has more than {MOST_OPCODES} opcodes").into())
}

impl Machine<'_, '_> {
    /// Does an opcode; the value, if it was the last.
    fn step(&mut self) -> Result<Option<Value>, String> {
        let opcode = self.take(1)?[0];
        match opcode {
            b'.' => return self.pop().map(Some),
            0x80 => match self.number(1)? {
                2..=5 => {}
                other => return Err(format!("protocol {other}; 2 to 5 are known")),
            },
            // A frame's length is a hint.
            0x95 => drop(self.number(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'N' | b'G' => {
                let bytes = if opcode == b'G' { 8 } else { 0 };
                self.take(bytes)?;
                self.stack.push(Value::Other);
            }
            // True and False.
            0x88 | 0x89 => self.stack.push(Value::Other),
            b'K' => self.integer(1, false)?,
            b'M' => self.integer(2, false)?,
            b'J' => self.integer(4, true)?,
            0x8A => {
                let len = usize::try_from(self.number(1)?).unwrap_or_default();
                match len {
                    0..=8 => self.integer(len, true)?,
                    // Larger than any size; it may be a seed.
                    _ => {
                        self.take(len)?;
                        self.stack.push(Value::Other);
                    }
                }
            }
            // No size is so long.
            0x8B => {
                let len = usize::try_from(self.number(4)?).unwrap_or(usize::MAX);
                self.take(len)?;
                self.stack.push(Value::Other);
            }
            b'X' => self.text(4)?,
            0x8C | b'U' => self.text(1)?,
            0x8D => self.text(8)?,
            b'C' | b'B' | 0x8E => {
                let width = match opcode {
                    b'C' => 1,
                    b'B' => 4,
                    _ => 8,
                };
                let len = usize::try_from(self.number(width)?).unwrap_or(usize::MAX);
                self.take(len)?;
                self.stack.push(Value::Other);
            }
            b')' => self.tuple(Vec::new())?,
            0x85..=0x87 => {
                let count = usize::from(opcode - 0x84);
                let at = self.stack.len().checked_sub(count).ok_or_else(underflow)?;
                if self.marks.last().is_some_and(|mark| *mark > at) {
                    return Err(underflow());
                }
                let values = self.stack.split_off(at);
                self.tuple(values)?;
            }
            b't' => {
                let values = self.marked()?;
                self.tuple(values)?;
            }
            // A set is a list, here.
            b']' | 0x8F => self.list()?,
            0x91 => {
                let values = self.marked()?;
                self.list()?;
                self.extend(values)?;
            }
            b'}' => self.dict()?,
            b'a' => {
                let value = self.pop()?;
                self.extend(vec![value])?;
            }
            b'e' | 0x90 => {
                let values = self.marked()?;
                self.extend(values)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(vec![key, value])?;
            }
            b'u' => {
                let values = self.marked()?;
                self.set(values)?;
            }
            b'q' => self.remember(1)?,
            b'r' => self.remember(4)?,
            0x94 => {
                let number = self.memo.len() as u64;
                self.put_away(number)?;
            }
            b'h' => self.recall(1)?,
            b'j' => self.recall(4)?,
            b'c' => {
                let [module, name] = [self.line()?, self.line()?];
                self.global(&format!("{module}.{name}"))?;
            }
            0x93 => match [self.pop()?, self.pop()?] {
                [Value::Text(name), Value::Text(module)] => {
                    self.global(&format!("{module}.{name}"))?;
                }
                _ => return Err("a global whose name is no text".to_owned()),
            },
            b'Q' => {
                let id = self.pop()?;
                let number = self.host.persistent(&id, &mut self.budget)?;
                self.stack.push(Value::Persistent(number));
            }
            b'R' | 0x81 => {
                let arguments = self.pop()?;
                let callee = self.pop()?;
                let (Value::Global(global), Value::Tuple(arguments, _)) = (callee, arguments)
                else {
                    return Err("a call of what is no global".to_owned());
                };
                if *global == *ORDERED_DICT && arguments.is_empty() {
                    self.dict()?;
                } else {
                    let made = self.host.call(&global, &arguments, &mut self.budget)?;
                    self.stack.push(made);
                }
            }
            // The state of an ordered dictionary is what modules note beside their tensors.
            b'b' => {
                let state = self.pop()?;
                match self.stack.last() {
                    Some(Value::Dict(_)) => {
                        let before = self.heap.attributes.capacity();
                        self.heap.attributes.push(state);
                        self.budget.grown(&self.heap.attributes, before)?;
                    }
                    _ => return Err("a state for what is no dictionary".to_owned()),
                }
            }
            other => {
                return Err(format!("the opcode {other:#04x}, which torch.save does not write"));
            }
        }
        Ok(None)
    }

    fn take(&mut self, len: usize) -> Result<&[u8], String> {
        let (taken, rest) =
            self.rest.split_at_checked(len).ok_or_else(|| "it ends too early".to_owned())?;
        self.rest = rest;
        Ok(taken)
    }

    fn number(&mut self, len: usize) -> Result<u64, String> {
        Ok(self.take(len)?.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn integer(&mut self, len: usize, signed: bool) -> Result<(), String> {
        let number = self.number(len)?;
        let unused = 64 - 8 * len;
        let value = match (signed, unused) {
            (_, 64..) => 0,
            (true, _) => (number << unused).cast_signed() >> unused,
            (false, _) => number.cast_signed(),
        };
        self.stack.push(Value::Int(value));
        Ok(())
    }

    fn text(&mut self, width: usize) -> Result<(), String> {
        let len = usize::try_from(self.number(width)?).unwrap_or(usize::MAX);
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| "a text that is none")?;
        let text = Rc::from(text);
        self.budget.take(ALLOCATED + len)?;
        self.stack.push(Value::Text(text));
        Ok(())
    }

    fn line(&mut self) -> Result<String, String> {
        let end = self.rest.iter().position(|&byte| byte == b'\n');
        let line = self.take(end.ok_or("a line without an end")?)?;
        let line = std::str::from_utf8(line).map_err(|_| "a name that is no text")?.to_owned();
        self.take(1)?;
        Ok(line)
    }

    fn pop(&mut self) -> Result<Value, String> {
        // Nothing is taken from below a mark.
        if self.marks.last().is_some_and(|mark| *mark >= self.stack.len()) {
            return Err(underflow());
        }
        self.stack.pop().ok_or_else(underflow)
    }

    fn marked(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn tuple(&mut self, values: Vec<Value>) -> Result<(), String> {
        let depth = |value: &Value| if let Value::Tuple(_, depth) = value { *depth } else { 0 };
        let depth = 1 + values.iter().map(depth).max().unwrap_or(0);
        if depth > DEEPEST {
            return Err(format!("tuples more than {DEEPEST} deep"));
        }
        self.budget.take(ALLOCATED + values.len() * size_of::<Value>())?;
        self.stack.push(Value::Tuple(values.into(), depth));
        Ok(())
    }

    fn list(&mut self) -> Result<(), String> {
        self.stack.push(Value::List(self.heap.lists.len()));
        let before = self.heap.lists.capacity();
        self.heap.lists.push(Vec::new());
        self.budget.grown(&self.heap.lists, before)
    }

    fn dict(&mut self) -> Result<(), String> {
        self.stack.push(Value::Dict(self.heap.dicts.len()));
        let before = self.heap.dicts.capacity();
        self.heap.dicts.push(Vec::new());
        self.budget.grown(&self.heap.dicts, before)
    }

    fn extend(&mut self, values: Vec<Value>) -> Result<(), String> {
        let Some(Value::List(list)) = self.stack.last() else {
            return Err("items for what is no list".to_owned());
        };
        let list = &mut self.heap.lists[*list];
        let before = list.capacity();
        if before == 0 {
            // Many have one item, and vectors begin with room for four.
            list.reserve_exact(values.len());
        }
        list.extend(values);
        self.budget.grown(list, before)
    }

    /// What the stack and its marks take is counted once, when they grow.
    fn count_stack(&mut self) -> Result<(), String> {
        let bytes =
            self.stack.capacity() * size_of::<Value>() + self.marks.capacity() * size_of::<usize>();
        if bytes > self.stacked {
            self.budget.take(bytes - self.stacked)?;
            self.stacked = bytes;
        }
        Ok(())
    }

    fn set(&mut self, values: Vec<Value>) -> Result<(), String> {
        let Some(Value::Dict(dict)) = self.stack.last() else {
            return Err("items for what is no dictionary".to_owned());
        };
        if !values.len().is_multiple_of(2) {
            return Err("a key without a value".to_owned());
        }
        let mut values = values.into_iter();
        let dict = &mut self.heap.dicts[*dict];
        let before = dict.capacity();
        while let (Some(key), Some(value)) = (values.next(), values.next()) {
            dict.push((key, value));
        }
        self.budget.grown(dict, before)
    }

    /// Of keys that were set more than once the last value counts, as in Python.
    fn forget_first_values(&mut self) -> Result<(), String> {
        for dict in self.heap.dicts.iter_mut().filter(|dict| dict.len() > 1) {
            self.budget.take(2 * dict.len() * size_of::<usize>())?;
            let mut order: Vec<usize> = (0..dict.len()).collect();
            // Other keys than texts and integers are no part of a tensor's name.
            let key = |at: usize| match &dict[at].0 {
                Value::Text(text) => (Some(text), None),
                Value::Int(number) => (None, Some(*number)),
                _ => (None, None),
            };
            // A long text may be the key of millions of items: it is not read for each.
            let compare = |a: usize, b: usize| match (key(a), key(b)) {
                ((Some(one), _), (Some(other), _)) if Rc::ptr_eq(one, other) => Ordering::Equal,
                (one, other) => one.cmp(&other),
            };
            order.sort_unstable_by(|&a, &b| compare(a, b).then(a.cmp(&b)));
            let is_same = |pair: &&[usize]| {
                key(pair[0]) != (None, None) && compare(pair[0], pair[1]) == Ordering::Equal
            };
            let mut first: Vec<usize> =
                order.windows(2).filter(is_same).map(|pair| pair[0]).collect();
            if !first.is_empty() {
                first.sort_unstable();
                let mut at = 0;
                dict.retain(|_| {
                    at += 1;
                    first.binary_search(&(at - 1)).is_err()
                });
            }
        }
        Ok(())
    }

    fn remember(&mut self, width: usize) -> Result<(), String> {
        let number = self.number(width)?;
        self.put_away(number)
    }

    fn put_away(&mut self, number: u64) -> Result<(), String> {
        let value = self.stack.last().cloned().ok_or_else(underflow)?;
        if self.memo.insert(number, value).is_none() {
            self.budget.take(REMEMBERED)?;
        }
        Ok(())
    }

    fn recall(&mut self, width: usize) -> Result<(), String> {
        let number = self.number(width)?;
        let value = self.memo.get(&number).cloned();
        self.stack.push(value.ok_or_else(|| format!("memo {number}, which nothing was put into"))?);
        Ok(())
    }

    fn global(&mut self, name: &str) -> Result<(), String> {
        if name != ORDERED_DICT && !self.host.knows(name) {
            let problem = format!(
                "it wants Python to load {}, which is not done: save plain tensors, in dictionaries \
                 and lists",
                shown(name)
            );
            self.unread = Some(problem.clone());
            return Err(problem);
        }
        self.budget.take(ALLOCATED + name.len())?;
        self.stack.push(Value::Global(name.into()));
        Ok(())
    }
}

fn underflow() -> String {
    "the stack has too few values".to_owned()
}
