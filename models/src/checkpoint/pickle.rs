//! An interpreter of pickles that knows tensors and nothing else: the opcodes of protocol 2 that `torch.save` writes,
//! and four functions. Nothing is imported and nothing is called; any other name is an error that says it. Memory and
//! time are linear in the length of the pickle: values are small copies, and containers live in flat tables, so that
//! neither shared nor deeply nested values cost anything.
//!
//! Opcodes: CPython `Lib/pickletools.py`; what torch writes: `torch/_utils.py`, `torch/serialization.py` (2.5).

use std::collections::HashMap;
use std::ops::Range;

use safetensors::Dtype;

/// Pickles of real checkpoints take about 130 bytes per tensor.
const MAX_LENGTH: usize = 1 << 24;
/// Axes that a tensor may have.
const MAX_AXES: usize = 8;

/// A value on the stack. Text is a place in the pickle; containers are places in the machine's tables.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Integer(i64),
    Text(usize, usize),
    Tuple(usize),
    List(usize),
    Dictionary(usize),
    Storage(usize),
    Tensor(usize),
    Function(Function),
}

/// The names that a pickle may mention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Function {
    RebuildTensor,
    RebuildParameter,
    OrderedDictionary,
    StorageType(Dtype),
}

/// A reference to a block of elements outside the pickle.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Storage {
    pub dtype: Dtype,
    pub key: String,
    pub elements: usize,
}

/// A view of a storage. Offset and strides count elements.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct View {
    pub storage: usize,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

type Result<T> = std::result::Result<T, String>;

/// The state of one interpretation.
pub(super) struct Machine<'a> {
    pickle: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    /// Heights of the stack at the marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    tuples: Vec<Vec<Value>>,
    lists: Vec<Vec<Value>>,
    dictionaries: Vec<Vec<(Value, Value)>>,
    pub storages: Vec<Storage>,
    tensors: Vec<View>,
}

impl<'a> Machine<'a> {
    /// Interprets the pickle at the start of `bytes`; gives the machine, its result and the pickle's length.
    pub fn run(bytes: &'a [u8]) -> Result<(Self, Value, usize)> {
        let mut machine = Machine {
            pickle: &bytes[..bytes.len().min(MAX_LENGTH)],
            at: 0,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            tuples: Vec::new(),
            lists: Vec::new(),
            dictionaries: Vec::new(),
            storages: Vec::new(),
            tensors: Vec::new(),
        };
        while let Some(opcode) = machine.step()? {
            machine.obey(opcode)?;
        }
        let result = machine.pop()?;
        let length = machine.at;
        Ok((machine, result, length))
    }

    /// The tensors of a dictionary, by name, in order.
    pub fn named_tensors(&self, value: Value) -> Result<Vec<(&str, &View)>> {
        let Value::Dictionary(dictionary) = value else {
            return Err("it does not hold a dictionary of tensors".into());
        };
        let named = self.dictionaries[dictionary].iter().map(|&(key, value)| {
            let name = self.text(key).ok_or("a key of the dictionary is not a text")?;
            match value {
                Value::Tensor(tensor) => Ok((name, &self.tensors[tensor])),
                _ => Err(format!("`{name}` is not a tensor")),
            }
        });
        named.collect()
    }

    /// The texts of a list.
    pub fn texts(&self, value: Value) -> Option<Vec<&str>> {
        let Value::List(list) = value else { return None };
        self.lists[list].iter().map(|&item| self.text(item)).collect()
    }

    fn text(&self, value: Value) -> Option<&'a str> {
        let Value::Text(start, end) = value else { return None };
        std::str::from_utf8(&self.pickle[start..end]).ok()
    }

    /// The next opcode; `None` at the end.
    fn step(&mut self) -> Result<Option<u8>> {
        let opcode = self.take(1)?;
        let opcode = self.pickle[opcode.start];
        Ok((opcode != b'.').then_some(opcode))
    }

    fn obey(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            0x80 => match self.byte()? {
                2 => {}
                protocol => return Err(format!("its pickle has protocol {protocol}; torch.save writes 2")),
            },
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            b'J' | b'K' | b'M' | 0x8a => self.integer(opcode)?,
            b'X' => self.unicode()?,
            b'c' => self.global()?,
            b'q' | b'r' | b'h' | b'j' => self.remember(opcode)?,
            b')' => self.tuple(0)?,
            0x85..=0x87 => self.tuple(usize::from(opcode - 0x84))?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.tuples.push(items);
                self.stack.push(Value::Tuple(self.tuples.len() - 1));
            }
            b']' => {
                self.lists.push(Vec::new());
                self.stack.push(Value::List(self.lists.len() - 1));
            }
            b'}' => self.new_dictionary(),
            b'a' | b'e' | b's' | b'u' => self.fill(opcode)?,
            b'Q' => self.persistent()?,
            b'R' => self.call()?,
            // The state of a dictionary: `_metadata` of a module, of no consequence for its tensors.
            b'b' => {
                self.pop()?;
                let Value::Dictionary(_) = self.top()? else { return Err("it sets the state of something".into()) };
            }
            other => return Err(format!("its pickle has the opcode 0x{other:02x}, which no tensor needs")),
        }
        Ok(())
    }

    fn take(&mut self, length: usize) -> Result<Range<usize>> {
        let range = self.at..self.at.saturating_add(length);
        if range.end > self.pickle.len() {
            return Err("its pickle is cut short, or longer than that of any checkpoint".into());
        }
        self.at = range.end;
        Ok(range)
    }

    fn byte(&mut self) -> Result<u8> {
        let place = self.take(1)?;
        Ok(self.pickle[place.start])
    }

    fn u32(&mut self) -> Result<u32> {
        let place = self.take(4)?;
        // Proof: `take` gave four bytes.
        Ok(u32::from_le_bytes(self.pickle[place].try_into().unwrap_or_default()))
    }

    fn top(&self) -> Result<Value> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack[floor..].last().copied().ok_or_else(|| "its pickle takes more from the stack than is there".into())
    }

    fn pop(&mut self) -> Result<Value> {
        let value = self.top()?;
        self.stack.pop();
        Ok(value)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.marks.pop().ok_or("its pickle lacks a mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn integer(&mut self, opcode: u8) -> Result<()> {
        let (length, signed) = match opcode {
            b'J' => (4, true),
            b'K' => (1, false),
            b'M' => (2, false),
            _ => (usize::from(self.byte()?), true),
        };
        if length > 8 {
            return Err("its pickle has an integer beyond 64 bits".into());
        }
        let place = self.take(length)?;
        let bytes = &self.pickle[place];
        let negative = signed && bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = if negative { [0xff; 8] } else { [0; 8] };
        wide[..length].copy_from_slice(bytes);
        self.stack.push(Value::Integer(i64::from_le_bytes(wide)));
        Ok(())
    }

    fn unicode(&mut self) -> Result<()> {
        let length = self.u32()? as usize;
        let place = self.take(length)?;
        if std::str::from_utf8(&self.pickle[place.clone()]).is_err() {
            return Err("its pickle has a text that is not UTF-8".into());
        }
        self.stack.push(Value::Text(place.start, place.end));
        Ok(())
    }

    /// A name of two lines, module and member.
    fn global(&mut self) -> Result<()> {
        let mut line = || {
            let rest = &self.pickle[self.at..];
            let length =
                rest.iter().take(200).position(|&byte| byte == b'\n').ok_or("its pickle has a name too long")?;
            self.at += length + 1;
            Ok::<_, String>(String::from_utf8_lossy(&rest[..length]).into_owned())
        };
        let (module, member) = (line()?, line()?);
        let function = match (module.as_str(), member.as_str()) {
            ("torch._utils", "_rebuild_tensor_v2") => Function::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Function::RebuildParameter,
            ("collections", "OrderedDict") => Function::OrderedDictionary,
            ("torch", storage) => match storage_type(storage) {
                Some(dtype) => Function::StorageType(dtype),
                None => return Err(refused(&module, &member)),
            },
            _ => return Err(refused(&module, &member)),
        };
        self.stack.push(Value::Function(function));
        Ok(())
    }

    fn remember(&mut self, opcode: u8) -> Result<()> {
        let key = if matches!(opcode, b'q' | b'h') { u32::from(self.byte()?) } else { self.u32()? };
        if matches!(opcode, b'q' | b'r') {
            self.memo.insert(key, self.top()?);
        } else {
            let value =
                self.memo.get(&key).ok_or_else(|| format!("its pickle recalls {key}, which it never stored"))?;
            self.stack.push(*value);
        }
        Ok(())
    }

    fn tuple(&mut self, length: usize) -> Result<()> {
        let mut items = Vec::with_capacity(length);
        for _ in 0..length {
            items.push(self.pop()?);
        }
        items.reverse();
        self.tuples.push(items);
        self.stack.push(Value::Tuple(self.tuples.len() - 1));
        Ok(())
    }

    fn new_dictionary(&mut self) {
        self.dictionaries.push(Vec::new());
        self.stack.push(Value::Dictionary(self.dictionaries.len() - 1));
    }

    /// Adds one or more items to the list or dictionary below them.
    fn fill(&mut self, opcode: u8) -> Result<()> {
        let mut items = match opcode {
            b'a' => vec![self.pop()?],
            b's' => vec![self.pop()?, self.pop()?],
            _ => self.pop_to_mark()?,
        };
        if opcode == b's' {
            items.reverse();
        }
        match (self.top()?, opcode) {
            (Value::List(list), b'a' | b'e') => self.lists[list].extend(items),
            (Value::Dictionary(dictionary), b's' | b'u') if items.len() % 2 == 0 => {
                self.dictionaries[dictionary].extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            }
            _ => return Err("its pickle adds items to something that takes none".into()),
        }
        Ok(())
    }

    /// `("storage", type, key, device, elements)`, in old files followed by `None`.
    fn persistent(&mut self) -> Result<()> {
        const SHAPE: &str = "a storage is not described as torch.save does it";
        let Value::Tuple(tuple) = self.pop()? else { return Err(SHAPE.into()) };
        let (kind, key, dtype, elements) = match *self.tuples[tuple].as_slice() {
            [kind, Value::Function(Function::StorageType(dtype)), key, Value::Text(..), Value::Integer(elements)]
            | [
                kind,
                Value::Function(Function::StorageType(dtype)),
                key,
                Value::Text(..),
                Value::Integer(elements),
                Value::None,
            ] => (kind, key, dtype, elements),
            _ => return Err(SHAPE.into()),
        };
        let (Some("storage"), Some(key)) = (self.text(kind), self.text(key)) else { return Err(SHAPE.into()) };
        let elements = usize::try_from(elements).map_err(|_| SHAPE)?;
        self.storages.push(Storage { dtype, key: key.into(), elements });
        self.stack.push(Value::Storage(self.storages.len() - 1));
        Ok(())
    }

    fn call(&mut self) -> Result<()> {
        let (Value::Tuple(tuple), Value::Function(function)) = (self.pop()?, self.pop()?) else {
            return Err("its pickle calls something that is not a function".into());
        };
        let arguments = &self.tuples[tuple];
        match (function, arguments.as_slice()) {
            (Function::OrderedDictionary, []) => self.new_dictionary(),
            (Function::RebuildTensor, &[Value::Storage(storage), Value::Integer(offset), shape, strides, _, _, ..])
                if arguments.len() <= 7 =>
            {
                let offset = usize::try_from(offset).map_err(|_| "a tensor begins before its storage")?;
                let (shape, strides) = (self.extents(shape)?, self.extents(strides)?);
                if shape.len() != strides.len() {
                    return Err(format!("a tensor has {} axes but {} strides", shape.len(), strides.len()));
                }
                self.tensors.push(View { storage, offset, shape, strides });
                self.stack.push(Value::Tensor(self.tensors.len() - 1));
            }
            (Function::RebuildParameter, &[tensor @ Value::Tensor(_), _, _]) => self.stack.push(tensor),
            _ => return Err("its pickle calls a function with arguments that torch.save does not give it".into()),
        }
        Ok(())
    }

    /// A tuple of a few non-negative numbers.
    fn extents(&self, value: Value) -> Result<Vec<usize>> {
        let Value::Tuple(tuple) = value else { return Err("a tensor's extents are not a tuple".into()) };
        let items = &self.tuples[tuple];
        if items.len() > MAX_AXES {
            return Err(format!("a tensor has {} axes; at most {MAX_AXES} are read", items.len()));
        }
        let extent = |item: &Value| match *item {
            Value::Integer(extent) => usize::try_from(extent).ok(),
            _ => None,
        };
        let extents: Option<Vec<usize>> = items.iter().map(extent).collect();
        extents.ok_or_else(|| "a tensor's extents are not natural numbers".into())
    }
}

fn refused(module: &str, member: &str) -> String {
    let (module, member) = (module.escape_default(), member.escape_default());
    format!("it refers to `{module}.{member}`, which is not part of a tensor and is never run")
}

fn storage_type(name: &str) -> Option<Dtype> {
    Some(match name {
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "DoubleStorage" => Dtype::F64,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal(pickle: &[u8]) -> String {
        Machine::run(pickle).err().expect("must be refused")
    }

    #[test]
    fn nothing_but_tensors_is_understood() {
        assert!(refusal(b"\x80\x02cos\nsystem\n(X\x02\0\0\0lstR.").contains("`os.system`"));
        assert!(refusal(b"\x80\x02cbuiltins\neval\n.").contains("`builtins.eval`"));
        assert!(refusal(b"\x80\x02ctorch\nload\n.").contains("`torch.load`"));
        assert!(refusal(b"\x80\x04.").contains("protocol 4"));
        assert!(refusal(b"\x80\x02\x81.").contains("opcode 0x81"));
        assert!(refusal(b"\x80\x02}q\x00").contains("cut short"));
        assert!(refusal(b"\x80\x02.").contains("more from the stack"));
        assert!(refusal(b"\x80\x02K\x01(\x85.").contains("more from the stack"), "a mark is a floor");
        assert!(refusal(b"\x80\x02h\x07.").contains("recalls 7"));
        assert!(refusal(b"\x80\x02X\xff\xff\xff\xffa.").contains("cut short"));
        assert!(refusal(b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.").contains("arguments"));
        assert!(refusal(b"\x80\x02K\x01}b.").contains("state"));
        assert!(refusal(b"\x80\x02}(K\x01u.").contains("takes none"));
    }

    #[test]
    fn integers_keep_their_signs() {
        for (pickle, value) in [
            (&b"J\xff\xff\xff\xff."[..], -1),
            (b"K\xff.", 255),
            (b"M\xff\xff.", 65535),
            (b"\x8a\x05\x00\x00\x00\x00\x01.", 1 << 32),
            (b"\x8a\x01\x80.", -128),
            (b"\x8a\x00.", 0),
        ] {
            assert_eq!(Machine::run(pickle).expect("a number").1, Value::Integer(value));
        }
    }

    #[test]
    fn deep_nesting_is_flat() {
        let mut pickle = b"\x80\x02)".to_vec();
        pickle.extend(std::iter::repeat_n(0x85, 1 << 20));
        pickle.push(b'.');
        assert!(Machine::run(&pickle).is_ok_and(|(machine, value, _)| machine.named_tensors(value).is_err()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_value_or_an_error(bytes in prop::collection::vec(
            prop_oneof![any::<u8>(), prop::sample::select(&b"}](K\x01q\x00h\x00tuseaRbQX\x85\x86\x87N)."[..])], 0..200)
        ) {
            if let Ok((machine, value, _)) = Machine::run(&bytes) {
                let _ = machine.named_tensors(value);
            }
        }
    }
}
