//! The stack machine of a state dict's pickle.
//!
//! After CPython's `Lib/pickletools.py` (opcodes) and `torch/serialization.py` (persistent ids). It
//! has the opcodes that `torch.save` writes for a state dict under pickle protocol 2 and no others.
//! Its memory is bounded by the pickle's length: a value is a number, a shared text, a shared tuple
//! of bounded depth, or the index of a dictionary.

use std::collections::HashMap;
use std::rc::Rc;

use super::super::header::{MAX_NAME_BYTES, MAX_RANK, MAX_TENSORS, StoredType};
use super::TorchProblem;
use crate::text::one_line;

/// Deepest nesting of tuples; a tensor's arguments have two levels.
const MAX_DEPTH: usize = 8;

/// One tensor as the pickle describes it.
#[derive(Clone, Debug)]
pub(super) struct PickledTensor {
    /// Key in the state dict.
    pub(super) name: String,
    pub(super) storage: Storage,
    /// First element in the storage.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// Elements between neighbours of each dimension; as many as `shape`.
    pub(super) strides: Vec<usize>,
}

/// A block of numbers. Where it lived in training (`cuda:0`) does not matter.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    /// Name of the archive's entry below `data/`.
    pub(super) key: String,
    pub(super) dtype: StoredType,
    pub(super) elements: usize,
}

/// What a pickle may name.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Global {
    OrderedDict,
    RebuildTensor,
    Storage(StoredType),
}

impl Global {
    fn find(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch", "FloatStorage") => Self::Storage(StoredType::F32),
            ("torch", "BFloat16Storage") => Self::Storage(StoredType::BF16),
            ("torch", "HalfStorage") => Self::Storage(StoredType::F16),
            ("torch", "DoubleStorage") => Self::Storage(StoredType::F64),
            ("torch", "LongStorage") => Self::Storage(StoredType::I64),
            ("torch", "IntStorage") => Self::Storage(StoredType::I32),
            ("torch", "ShortStorage") => Self::Storage(StoredType::I16),
            ("torch", "CharStorage") => Self::Storage(StoredType::I8),
            ("torch", "ByteStorage") => Self::Storage(StoredType::U8),
            ("torch", "BoolStorage") => Self::Storage(StoredType::BOOL),
            _ => return None,
        })
    }
}

#[derive(Clone)]
enum Value {
    Flag,
    Int(i64),
    Text(Rc<str>),
    Tuple(Rc<Tuple>),
    Global(Global),
    /// Index into [`Machine::dicts`].
    Dict(usize),
    Storage(Rc<Storage>),
    /// Without its name.
    Tensor(Rc<PickledTensor>),
}

struct Tuple {
    items: Vec<Value>,
    /// Tuples inside one another, this one included. Without a bound, dropping a deep one would
    /// overflow the stack.
    depth: usize,
}

/// Runs the pickle and returns the tensors of the dictionary that it builds, in its order.
pub(super) fn run(pickle: &[u8]) -> Result<Vec<PickledTensor>, TorchProblem> {
    let mut machine = Machine {
        pickle,
        at: 0,
        opcode_at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        dicts: Vec::new(),
    };
    while !machine.step()? {}
    machine.result()
}

struct Machine<'a> {
    pickle: &'a [u8],
    /// Next byte.
    at: usize,
    /// The opcode being executed, for errors.
    opcode_at: usize,
    stack: Vec<Value>,
    /// Heights of the stack at the marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    dicts: Vec<Vec<(Rc<str>, Value)>>,
}

impl Machine<'_> {
    fn refuse<T>(&self, detail: impl Into<String>) -> Result<T, TorchProblem> {
        Err(TorchProblem::Pickle { at: self.opcode_at, detail: one_line(&detail.into()) })
    }

    fn code<T>(&self, name: &str) -> Result<T, TorchProblem> {
        Err(TorchProblem::Code { at: self.opcode_at, name: one_line(name) })
    }

    /// The next `length` bytes.
    fn take(&mut self, length: usize) -> Result<&[u8], TorchProblem> {
        let end = self.at.checked_add(length).filter(|&end| end <= self.pickle.len());
        let Some(end) = end else {
            return self.refuse(format!("{length} bytes are needed, the pickle ends before"));
        };
        let start = std::mem::replace(&mut self.at, end);
        Ok(&self.pickle[start..end])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TorchProblem> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    /// Text up to the end of the line, without it.
    fn line(&mut self) -> Result<String, TorchProblem> {
        let rest = self.pickle.get(self.at..).unwrap_or_default();
        let length = rest.iter().take(MAX_NAME_BYTES).position(|&byte| byte == b'\n');
        let Some(length) = length else { return self.refuse("a name without an end") };
        let line = self.take(length + 1)?;
        Ok(String::from_utf8_lossy(&line[..length]).into_owned())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(value);
    }

    fn pop(&mut self) -> Result<Value, TorchProblem> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return self.refuse("too few values on the stack");
        }
        match self.stack.pop() {
            Some(value) => Ok(value),
            None => self.refuse("too few values on the stack"),
        }
    }

    /// The values above the last mark.
    fn above_mark(&mut self) -> Result<Vec<Value>, TorchProblem> {
        let Some(mark) = self.marks.pop() else { return self.refuse("a mark is missing") };
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn push_tuple(&mut self, items: Vec<Value>) -> Result<(), TorchProblem> {
        let inner = items.iter().map(|item| match item {
            Value::Tuple(tuple) => tuple.depth,
            _ => 0,
        });
        let depth = 1 + inner.max().unwrap_or(0);
        if depth > MAX_DEPTH {
            return self.refuse(format!("tuples nested deeper than {MAX_DEPTH}"));
        }
        self.push(Value::Tuple(Rc::new(Tuple { items, depth })));
        Ok(())
    }

    fn new_dict(&mut self) -> Value {
        self.dicts.push(Vec::new());
        Value::Dict(self.dicts.len() - 1)
    }

    fn memoize(&mut self, index: u32) -> Result<(), TorchProblem> {
        let Some(top) = self.stack.last().cloned() else {
            return self.refuse("nothing to remember");
        };
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<(), TorchProblem> {
        match self.memo.get(&index).cloned() {
            Some(value) => self.push(value),
            None => return self.refuse(format!("value {index} was not remembered")),
        }
        Ok(())
    }

    /// Executes one opcode; true after the last.
    fn step(&mut self) -> Result<bool, TorchProblem> {
        self.opcode_at = self.at;
        let [opcode] = self.array()?;
        match opcode {
            // PROTO
            0x80 => match self.array()? {
                [2] => {}
                [other] => return self.refuse(format!("pickle protocol {other}, only 2 is read")),
            },
            // GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                match Global::find(&module, &name) {
                    Some(global) => self.push(Value::Global(global)),
                    None => return self.code(&format!("{module}.{name}")),
                }
            }
            // BINPUT, LONG_BINPUT
            b'q' => {
                let [index] = self.array()?;
                self.memoize(u32::from(index))?;
            }
            b'r' => {
                let index = u32::from_le_bytes(self.array()?);
                self.memoize(index)?;
            }
            // BINGET, LONG_BINGET
            b'h' => {
                let [index] = self.array()?;
                self.recall(u32::from(index))?;
            }
            b'j' => {
                let index = u32::from_le_bytes(self.array()?);
                self.recall(index)?;
            }
            // MARK
            b'(' => self.marks.push(self.stack.len()),
            // EMPTY_TUPLE, TUPLE, TUPLE1, TUPLE2, TUPLE3
            b')' => self.push_tuple(Vec::new())?,
            b't' => {
                let items = self.above_mark()?;
                self.push_tuple(items)?;
            }
            0x85..=0x87 => {
                let mut items = Vec::new();
                for _ in 0..opcode - 0x84 {
                    items.push(self.pop()?);
                }
                items.reverse();
                self.push_tuple(items)?;
            }
            // EMPTY_DICT, SETITEM, SETITEMS
            b'}' => {
                let dict = self.new_dict();
                self.push(dict);
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(vec![key, value])?;
            }
            b'u' => {
                let items = self.above_mark()?;
                self.set_items(items)?;
            }
            // BINUNICODE
            b'X' => {
                let length = u32::from_le_bytes(self.array()?) as usize;
                if length > MAX_NAME_BYTES {
                    return self.refuse(format!("a text of {length} bytes"));
                }
                let text = self.take(length)?.to_vec();
                match String::from_utf8(text) {
                    Ok(text) => self.push(Value::Text(text.into())),
                    Err(_) => return self.refuse("a text that is not UTF-8"),
                }
            }
            // BININT1, BININT2, BININT, LONG1
            b'K' => {
                let [number] = self.array()?;
                self.push(Value::Int(i64::from(number)));
            }
            b'M' => {
                let number = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(i64::from(number)));
            }
            b'J' => {
                let number = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(i64::from(number)));
            }
            0x8a => {
                let number = self.long()?;
                self.push(Value::Int(number));
            }
            // NONE, NEWTRUE, NEWFALSE: only where their value does not matter
            b'N' | 0x88 | 0x89 => self.push(Value::Flag),
            // BINPERSID, REDUCE, BUILD
            b'Q' => self.storage()?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            // STOP
            b'.' => return Ok(true),
            _ => return self.unknown(opcode),
        }
        Ok(false)
    }

    fn unknown<T>(&self, opcode: u8) -> Result<T, TorchProblem> {
        let name = match opcode {
            b'i' => "INST",
            b'o' => "OBJ",
            0x81 => "NEWOBJ",
            0x82..=0x84 => "EXT",
            0x92 => "NEWOBJ_EX",
            0x93 => "STACK_GLOBAL",
            _ => return self.refuse(format!("opcode {opcode:#04x} is in no saved state dict")),
        };
        self.code(&format!("a class by opcode {name}"))
    }

    /// LONG1: a little-endian integer of as many bytes as its first says.
    fn long(&mut self) -> Result<i64, TorchProblem> {
        let [length] = self.array()?;
        if length > 8 {
            return self.refuse(format!("an integer of {length} bytes"));
        }
        let bytes = self.take(usize::from(length))?;
        let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
        let mut whole = if negative { [0xff; 8] } else { [0; 8] };
        whole[..bytes.len()].copy_from_slice(bytes);
        Ok(i64::from_le_bytes(whole))
    }

    /// Adds keys and values, alternating, to the dictionary on top of the stack.
    fn set_items(&mut self, items: Vec<Value>) -> Result<(), TorchProblem> {
        let Some(&Value::Dict(dict)) = self.stack.last() else {
            return self.refuse("items for something that is no dictionary");
        };
        if !items.len().is_multiple_of(2) {
            return self.refuse("a key without a value");
        }
        let mut items = items.into_iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            let Value::Text(key) = key else {
                return self.refuse("a key that is no text");
            };
            if let Some(dict) = self.dicts.get_mut(dict) {
                dict.push((key, value));
            }
        }
        Ok(())
    }

    /// BINPERSID: `("storage", type, key, location, elements)`.
    fn storage(&mut self) -> Result<(), TorchProblem> {
        let id = self.pop()?;
        let Value::Tuple(id) = &id else { return self.refuse("a storage without a tuple") };
        let [
            Value::Text(kind),
            Value::Global(Global::Storage(dtype)),
            Value::Text(key),
            Value::Text(_),
            Value::Int(elements),
        ] = id.items.as_slice()
        else {
            return self.refuse("a storage that is not (\"storage\", type, key, place, elements)");
        };
        let elements = usize::try_from(*elements).ok();
        let (Some(elements), "storage") = (elements, &**kind) else {
            return self.refuse("a storage of another kind, or of negative size");
        };
        let storage = Storage { key: key.to_string(), dtype: *dtype, elements };
        self.push(Value::Storage(Rc::new(storage)));
        Ok(())
    }

    /// REDUCE: a function of the two that are known, applied to its arguments.
    fn reduce(&mut self) -> Result<(), TorchProblem> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Value::Tuple(arguments) = &arguments else {
            return self.refuse("arguments that are no tuple");
        };
        let value = match (&function, arguments.items.as_slice()) {
            (Value::Global(Global::OrderedDict), []) => self.new_dict(),
            (
                Value::Global(Global::RebuildTensor),
                [
                    Value::Storage(storage),
                    Value::Int(offset),
                    Value::Tuple(shape),
                    Value::Tuple(strides),
                    Value::Flag,
                    Value::Dict(hooks),
                ],
            ) => {
                if self.dicts.get(*hooks).is_none_or(|hooks| !hooks.is_empty()) {
                    return self.code("backward hooks of a tensor");
                }
                let sizes = (self.sizes(shape)?, self.sizes(strides)?);
                let (shape, strides) = sizes;
                if shape.len() != strides.len() {
                    return self.refuse(format!("shape {shape:?} with strides {strides:?}"));
                }
                let Ok(offset) = usize::try_from(*offset) else {
                    return self.refuse(format!("a tensor from element {offset} on"));
                };
                let (name, storage) = (String::new(), Storage::clone(storage));
                Value::Tensor(Rc::new(PickledTensor { name, storage, offset, shape, strides }))
            }
            (Value::Global(_), _) => return self.refuse("a call with unexpected arguments"),
            _ => return self.refuse("a call of something that is no function"),
        };
        self.push(value);
        Ok(())
    }

    fn sizes(&self, tuple: &Tuple) -> Result<Vec<usize>, TorchProblem> {
        if tuple.items.len() > MAX_RANK {
            return self.refuse(format!(
                "a tensor of {} dimensions, at most {MAX_RANK} are read",
                tuple.items.len()
            ));
        }
        let sizes: Option<Vec<usize>> = tuple
            .items
            .iter()
            .map(|item| match item {
                Value::Int(size) => usize::try_from(*size).ok(),
                _ => None,
            })
            .collect();
        match sizes {
            Some(sizes) => Ok(sizes),
            None => self.refuse("a size that is no number, or negative"),
        }
    }

    /// BUILD: sets attributes. A state dict has one, the versions of its modules, which say nothing
    /// about the numbers.
    fn build(&mut self) -> Result<(), TorchProblem> {
        let state = self.pop()?;
        let attributes = match state {
            Value::Dict(dict) => self.dicts.get(dict),
            _ => None,
        };
        let harmless =
            attributes.is_some_and(|all| all.iter().all(|(key, _)| &**key == "_metadata"));
        match self.stack.last() {
            Some(Value::Dict(_)) if harmless => Ok(()),
            _ => self.refuse("attributes other than a state dict's _metadata"),
        }
    }

    /// The tensors of the one dictionary that is left.
    fn result(mut self) -> Result<Vec<PickledTensor>, TorchProblem> {
        if self.at != self.pickle.len() {
            return self.refuse("bytes follow the end of the pickle");
        }
        let value = self.pop()?;
        let (Value::Dict(dict), true) = (value, self.stack.is_empty() && self.marks.is_empty())
        else {
            return self.refuse("the file holds something else than one state dict");
        };
        let items = self.dicts.get(dict).map_or(&[][..], Vec::as_slice);
        if items.len() > MAX_TENSORS {
            return self.refuse(format!("more than {MAX_TENSORS} tensors"));
        }
        items
            .iter()
            .map(|(name, value)| match value {
                Value::Tensor(tensor) => {
                    Ok(PickledTensor { name: name.to_string(), ..PickledTensor::clone(tensor) })
                }
                _ => self.refuse(format!("{name:?} is no tensor")),
            })
            .collect()
    }
}
