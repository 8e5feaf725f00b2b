//! A reader for the pickle inside a PyTorch archive that knows tensors and nothing else.
//!
//! Opcodes are walked, never executed: the only names a pickle may refer to are those with which PyTorch
//! writes a dictionary of tensors, and each of them is understood here. Any other name or opcode is an
//! error. Containers live in flat arenas, so neither nesting nor sharing can exhaust stack or memory.

use std::collections::{BTreeMap, HashMap};

use super::safetensors::{MAX_RANK, MAX_TENSORS};
use super::stream::StoredDType;

/// Most arguments of a call; PyTorch writes up to seven.
const MAX_ARGUMENTS: usize = 8;
/// Longest name of an archive member; PyTorch counts them.
const MAX_MEMBER: usize = 64;

/// A tensor as the pickle describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PickledTensor {
    pub(super) dtype: StoredDType,
    /// Name of the archive member (below `data/`) with the bytes.
    pub(super) storage: String,
    /// Elements in that member.
    pub(super) storage_elements: u64,
    /// First element of this tensor in the member.
    pub(super) offset: u64,
    pub(super) shape: Vec<usize>,
}

/// Walks `pickle` and returns its tensors by name. The error text says what was refused.
pub(super) fn tensors(pickle: &[u8]) -> Result<BTreeMap<String, PickledTensor>, String> {
    let mut machine = Machine {
        input: pickle,
        ..Machine::default()
    };
    let root = machine.run()?;
    let Value::Dict(root) = root else {
        return Err("the pickle is not a dictionary of tensors".into());
    };
    machine.state_dict(root)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Option<StoredDType>),
}

/// Containers are indices into the machine's arenas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    Mark,
    /// None, a boolean, a float: allowed as an argument, of no interest.
    Other,
    Int(i64),
    Text(usize),
    Global(Global),
    Tuple(usize),
    List,
    Dict(usize),
    Storage(usize),
    Tensor(usize),
}

#[derive(Default)]
struct Machine<'a> {
    input: &'a [u8],
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
    texts: Vec<&'a str>,
    tuples: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
    storages: Vec<(StoredDType, usize, u64)>,
    tensors: Vec<PickledTensor>,
}

impl<'a> Machine<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (head, rest) = self
            .input
            .split_at_checked(n)
            .ok_or("the pickle ends early")?;
        self.input = rest;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn word(&mut self) -> Result<u32, String> {
        let b = self.take(4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let end = self
            .input
            .iter()
            .position(|&b| b == b'\n')
            .ok_or("the pickle ends early")?;
        let line = self.take(end)?;
        self.take(1)?;
        std::str::from_utf8(line).map_err(|_| "a name in the pickle is not text".into())
    }

    fn text(&mut self, length: usize) -> Result<Value, String> {
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| "a string is not UTF-8")?;
        self.texts.push(text);
        Ok(Value::Text(self.texts.len() - 1))
    }

    fn pop(&mut self) -> Result<Value, String> {
        match self.stack.pop() {
            None | Some(Value::Mark) => Err("the pickle takes a value that is not there".into()),
            Some(value) => Ok(value),
        }
    }

    /// Takes everything above the last mark, and the mark.
    fn pop_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self
            .stack
            .iter()
            .rposition(|v| *v == Value::Mark)
            .ok_or("the pickle lacks a mark")?;
        let values = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(values)
    }

    fn tuple(&mut self, values: Vec<Value>) {
        self.tuples.push(values);
        self.stack.push(Value::Tuple(self.tuples.len() - 1));
    }

    fn dict(&mut self) {
        self.dicts.push(Vec::new());
        self.stack.push(Value::Dict(self.dicts.len() - 1));
    }

    fn set_items(&mut self, items: &[Value]) -> Result<(), String> {
        let Some(Value::Dict(dict)) = self.stack.last() else {
            return Err("the pickle sets an item of something that is not a dictionary".into());
        };
        if !items.len().is_multiple_of(2) {
            return Err("a dictionary of the pickle has a key without a value".into());
        }
        self.dicts[*dict].extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        Ok(())
    }

    fn run(&mut self) -> Result<Value, String> {
        loop {
            let opcode = self.byte()?;
            match opcode {
                0x80 => {
                    let version = self.byte()?;
                    if version > 5 {
                        return Err(format!("pickle protocol {version} is unknown"));
                    }
                }
                0x95 => drop(self.take(8)?), // frame: a length of no interest
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.stack.push(Value::Global(global(module, name)?));
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Value::Text(name), Value::Text(module)) = (name, module) else {
                        return Err("the pickle refers to a nameless object".into());
                    };
                    self.stack
                        .push(Value::Global(global(self.texts[module], self.texts[name])?));
                }
                b'(' => self.stack.push(Value::Mark),
                b')' => self.tuple(Vec::new()),
                b'}' => self.dict(),
                b']' => self.stack.push(Value::List),
                b'N' | 0x88 | 0x89 => self.stack.push(Value::Other),
                b'G' => {
                    self.take(8)?;
                    self.stack.push(Value::Other);
                }
                b'K' => {
                    let value = self.byte()?;
                    self.stack.push(Value::Int(value.into()));
                }
                b'M' => {
                    let b = self.take(2)?;
                    self.stack
                        .push(Value::Int(u16::from_le_bytes([b[0], b[1]]).into()));
                }
                b'J' => {
                    let value = self.word()?;
                    self.stack.push(Value::Int((value as i32).into()));
                }
                0x8a => {
                    let length = self.byte()? as usize;
                    if length > 8 {
                        return Err("an integer of the pickle has more than 64 bits".into());
                    }
                    let bytes = self.take(length)?;
                    // Little-endian two's complement, sign in the last byte.
                    let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) {
                        0xff
                    } else {
                        0
                    };
                    let mut full = [fill; 8];
                    full[..length].copy_from_slice(bytes);
                    self.stack.push(Value::Int(i64::from_le_bytes(full)));
                }
                b'X' => {
                    let length = self.word()? as usize;
                    let value = self.text(length)?;
                    self.stack.push(value);
                }
                0x8c => {
                    let length = self.byte()? as usize;
                    let value = self.text(length)?;
                    self.stack.push(value);
                }
                b'q' => {
                    let slot = self.byte()?;
                    self.memoize(slot.into())?;
                }
                b'r' => {
                    let slot = self.word()?;
                    self.memoize(slot)?;
                }
                0x94 => self.memoize(self.memo.len() as u32)?,
                b'h' => {
                    let slot = self.byte()?;
                    self.recall(slot.into())?;
                }
                b'j' => {
                    let slot = self.word()?;
                    self.recall(slot)?;
                }
                b't' => {
                    let values = self.pop_mark()?;
                    self.tuple(values);
                }
                0x85..=0x87 => {
                    let n = usize::from(opcode - 0x84);
                    let start = self
                        .stack
                        .len()
                        .checked_sub(n)
                        .ok_or("the pickle lacks a value")?;
                    let values = self.stack.split_off(start);
                    self.tuple(values);
                }
                b'Q' => {
                    let id = self.pop()?;
                    self.storage(id)?;
                }
                b'R' => {
                    let (arguments, callable) = (self.pop()?, self.pop()?);
                    self.reduce(callable, arguments)?;
                }
                b'b' => {
                    // Attributes of the dictionary (PyTorch's `_metadata`): of no interest.
                    self.pop()?;
                    if !matches!(self.stack.last(), Some(Value::Dict(_))) {
                        return Err(
                            "the pickle sets attributes of something that is not a dictionary"
                                .into(),
                        );
                    }
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set_items(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_mark()?;
                    self.set_items(&items)?;
                }
                b'.' => return self.pop(),
                other => {
                    return Err(format!(
                        "the pickle uses opcode 0x{other:02x}, which no dictionary of tensors needs"
                    ));
                }
            }
        }
    }

    fn memoize(&mut self, slot: u32) -> Result<(), String> {
        let value = *self
            .stack
            .last()
            .ok_or("the pickle remembers a value that is not there")?;
        self.memo.insert(slot, value);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<(), String> {
        let value = *self
            .memo
            .get(&slot)
            .ok_or("the pickle recalls a value it never stored")?;
        self.stack.push(value);
        Ok(())
    }

    /// `('storage', type, member, device, elements)`.
    fn storage(&mut self, id: Value) -> Result<(), String> {
        let wrong = || "a storage of the pickle is not in the form PyTorch writes".to_owned();
        let Value::Tuple(id) = id else {
            return Err(wrong());
        };
        let &[
            Value::Text(tag),
            Value::Global(Global::Storage(dtype)),
            Value::Text(member),
            _,
            Value::Int(elements),
        ] = self.tuples[id].as_slice()
        else {
            return Err(wrong());
        };
        if self.texts[tag] != "storage" || self.texts[member].len() > MAX_MEMBER {
            return Err(wrong());
        }
        let dtype = dtype.ok_or(
            "a tensor is stored in a type that weights cannot have \
                                 (f32, bf16, f16 and f64 are accepted)",
        )?;
        let elements = u64::try_from(elements).map_err(|_| wrong())?;
        self.storages.push((dtype, member, elements));
        self.stack.push(Value::Storage(self.storages.len() - 1));
        Ok(())
    }

    fn reduce(&mut self, callable: Value, arguments: Value) -> Result<(), String> {
        let (Value::Global(callable), Value::Tuple(arguments)) = (callable, arguments) else {
            return Err("the pickle calls something that is not a known name".into());
        };
        let arguments = &self.tuples[arguments];
        if arguments.len() > MAX_ARGUMENTS {
            return Err("the pickle calls a name with more arguments than PyTorch writes".into());
        }
        let arguments = arguments.clone();
        match (callable, arguments.as_slice()) {
            (Global::OrderedDict, []) => self.dict(),
            // (tensor, requires_grad, hooks)
            (Global::RebuildParameter, &[tensor @ Value::Tensor(_), ..]) => self.stack.push(tensor),
            // (storage, offset, size, stride, requires_grad, hooks[, metadata])
            (
                Global::RebuildTensor,
                &[
                    Value::Storage(storage),
                    Value::Int(offset),
                    Value::Tuple(size),
                    Value::Tuple(stride),
                    ..,
                ],
            ) => {
                let (dtype, member, storage_elements) = self.storages[storage];
                let offset =
                    u64::try_from(offset).map_err(|_| "a tensor begins before its storage")?;
                let shape = self.sizes(size)?;
                if !contiguous(&shape, &self.sizes(stride)?) {
                    return Err("a tensor is not contiguous; save it with `.contiguous()`".into());
                }
                if self.tensors.len() == MAX_TENSORS {
                    return Err(format!(
                        "the pickle describes more than {MAX_TENSORS} tensors"
                    ));
                }
                self.tensors.push(PickledTensor {
                    dtype,
                    storage: self.texts[member].to_owned(),
                    storage_elements,
                    offset,
                    shape,
                });
                self.stack.push(Value::Tensor(self.tensors.len() - 1));
            }
            _ => {
                return Err("the pickle calls a name with arguments PyTorch does not write".into());
            }
        }
        Ok(())
    }

    fn sizes(&self, tuple: usize) -> Result<Vec<usize>, String> {
        if self.tuples[tuple].len() > MAX_RANK {
            return Err(format!(
                "a tensor has {} axes, at most {MAX_RANK} are accepted",
                self.tuples[tuple].len()
            ));
        }
        self.tuples[tuple]
            .iter()
            .map(|value| match value {
                Value::Int(size) => {
                    usize::try_from(*size).map_err(|_| "a tensor size is negative".into())
                }
                _ => Err("a tensor size is not a number".to_owned()),
            })
            .collect()
    }

    /// The tensors of a dictionary, or of the one under its key `state_dict`.
    fn state_dict(&self, root: usize) -> Result<BTreeMap<String, PickledTensor>, String> {
        let mut items = &self.dicts[root];
        for (key, value) in items {
            if let (Value::Text(key), Value::Dict(inner)) = (key, value)
                && self.texts[*key] == "state_dict"
            {
                items = &self.dicts[*inner];
                break;
            }
        }
        let mut tensors = BTreeMap::new();
        for (key, value) in items {
            let Value::Text(key) = key else {
                return Err("a key of the dictionary is not a string".into());
            };
            let key = self.texts[*key];
            let Value::Tensor(tensor) = value else {
                return Err(format!(
                    "the value under {key:?} is not a tensor; a plain state dict is expected"
                ));
            };
            if tensors
                .insert(key.to_owned(), self.tensors[*tensor].clone())
                .is_some()
            {
                return Err(format!("the name {key:?} occurs twice"));
            }
        }
        Ok(tensors)
    }
}

fn global(module: &str, name: &str) -> Result<Global, String> {
    Ok(match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
        ("torch", "FloatStorage") => Global::Storage(Some(StoredDType::F32)),
        ("torch", "DoubleStorage") => Global::Storage(Some(StoredDType::F64)),
        ("torch", "HalfStorage") => Global::Storage(Some(StoredDType::F16)),
        ("torch", "BFloat16Storage") => Global::Storage(Some(StoredDType::BF16)),
        ("torch", storage) if storage.ends_with("Storage") => Global::Storage(None),
        _ => {
            return Err(format!(
                "the pickle refers to `{}.{}`; only tensors are read and code is never run: use a \
                 plain state dict or safetensors",
                module.escape_default(),
                name.escape_default()
            ));
        }
    })
}

/// Row-major strides; the stride of an axis of length 1 does not matter.
fn contiguous(shape: &[usize], stride: &[usize]) -> bool {
    if shape.len() != stride.len() {
        return false;
    }
    let mut expected = 1_usize;
    for (&size, &stride) in shape.iter().zip(stride).rev() {
        if size != 1 && stride != expected {
            return false;
        }
        expected = expected.saturating_mul(size);
    }
    true
}
