//! The pickles of PyTorch checkpoints, read without ever executing anything.
//!
//! A pickle is a program for a stack machine (Python's `pickletools` lists the instructions); PyTorch's checkpoints use
//! those that its own `weights_only` loader knows. Here calls and classes stay inert data. Values live in an arena and
//! refer to each other by index, so that a hostile pickle can neither multiply memory by copying what it memoised nor
//! overflow the stack by nesting, both of which `candle_core::pickle` allows.

use std::collections::BTreeMap;

/// The instruction that every pickle of protocol 2 and later starts with.
pub(super) const PROTO: u8 = 0x80;

/// Values of one pickle: a checkpoint of 400 tensors has 10,000.
const MOST_VALUES: usize = 1 << 20;

/// The place of a value in its pickle.
pub(super) type Id = usize;

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value<'a> {
    None,
    Int(i128),
    Text(&'a str),
    /// A class or function, by name only.
    Global {
        module: &'a str,
        name: &'a str,
    },
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A call that is not made.
    Call {
        function: Id,
        arguments: Id,
    },
    /// A reference to something outside of the pickle: PyTorch's storages.
    Persistent(Id),
    /// Truth values and floating-point numbers, which no checkpoint's structure depends on.
    Opaque,
}

/// A pickle's values.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
    /// Bytes that the pickle takes.
    pub length: usize,
}

impl<'a> Pickle<'a> {
    /// Reads the pickle at the start of `input`, which may go on after it.
    pub(super) fn parse(input: &'a [u8]) -> Result<Self, String> {
        let mut machine = Machine { input, ..Machine::default() };
        let root = machine.run().map_err(|problem| format!("damaged pickle, byte {}: {problem}", machine.at))?;
        Ok(Self { values: machine.values, root, length: machine.at })
    }

    pub(super) fn root(&self) -> &Value<'a> {
        self.get(self.root)
    }

    pub(super) fn get(&self, id: Id) -> &Value<'a> {
        self.values.get(id).unwrap_or(&Value::None)
    }

    pub(super) fn values(&self) -> &[Value<'a>] {
        &self.values
    }
}

#[derive(Default)]
struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at the open marks.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Id, String> {
        loop {
            match self.byte()? {
                b'.' => return self.pop(),
                PROTO => self.skip(1)?,
                0x95 => self.skip(8)?,
                b'(' => self.mark()?,
                b'0' => {
                    self.pop()?;
                }
                operation @ (b'q' | b'r' | 0x94 | b'h' | b'j') => self.memoise(operation)?,
                operation @ (b')' | b']' | b'}' | b't' | b'l' | b'd' | 0x85..=0x87) => self.container(operation)?,
                operation @ (b'a' | b'e' | b's' | b'u') => self.fill(operation)?,
                operation @ (b'R' | 0x81 | b'b' | b'Q') => self.call(operation)?,
                operation => {
                    let value = self.literal(operation)?;
                    self.push(value)?;
                }
            }
        }
    }

    fn literal(&mut self, operation: u8) -> Result<Value<'a>, String> {
        Ok(match operation {
            b'N' => Value::None,
            0x88 | 0x89 => Value::Opaque,
            b'G' => {
                self.skip(8)?;
                Value::Opaque
            }
            b'K' => Value::Int(i128::from(self.byte()?)),
            b'M' => Value::Int(i128::from(u16::from_le_bytes(self.array()?))),
            b'J' => Value::Int(i128::from(i32::from_le_bytes(self.array()?))),
            0x8a => {
                let length = self.byte()?;
                Value::Int(integer(self.take(usize::from(length))?)?)
            }
            b'U' | 0x8c => {
                let length = self.byte()?;
                self.text(usize::from(length))?
            }
            b'X' | b'T' => {
                let length = u32::from_le_bytes(self.array()?);
                self.text(length as usize)?
            }
            b'c' => Value::Global { module: self.line()?, name: self.line()? },
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.values[module], &self.values[name]) {
                    (Value::Text(module), Value::Text(name)) => Value::Global { module, name },
                    _ => return Err("a class is named by something else than text".to_owned()),
                }
            }
            unknown => return Err(format!("instruction {unknown:#04x} is not one of a checkpoint's")),
        })
    }

    fn memoise(&mut self, operation: u8) -> Result<(), String> {
        let key = match operation {
            b'q' | b'h' => u32::from(self.byte()?),
            b'r' | b'j' => u32::from_le_bytes(self.array()?),
            _ => u32::try_from(self.memo.len()).unwrap_or(u32::MAX),
        };
        if matches!(operation, b'h' | b'j') {
            let id = *self.memo.get(&key).ok_or_else(|| format!("value {key} was never memoised"))?;
            return self.push_id(id);
        }
        let top = self.top()?;
        self.memo.insert(key, top);
        self.limit(self.memo.len())
    }

    fn container(&mut self, operation: u8) -> Result<(), String> {
        let value = match operation {
            b')' => Value::Tuple(Vec::new()),
            b']' => Value::List(Vec::new()),
            b'}' => Value::Dict(Vec::new()),
            b't' => Value::Tuple(self.pop_to_mark()?),
            b'l' => Value::List(self.pop_to_mark()?),
            b'd' => Value::Dict(pairs(&self.pop_to_mark()?)?),
            counted => {
                let count = usize::from(counted - 0x84);
                let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
                items.reverse();
                Value::Tuple(items)
            }
        };
        self.push(value)
    }

    fn fill(&mut self, operation: u8) -> Result<(), String> {
        let items = match operation {
            b'e' | b'u' => self.pop_to_mark()?,
            b'a' => vec![self.pop()?],
            _ => {
                let (value, key) = (self.pop()?, self.pop()?);
                vec![key, value]
            }
        };
        let top = self.top()?;
        match (&mut self.values[top], operation) {
            (Value::List(list), b'a' | b'e') => list.extend(items),
            (Value::Dict(dict), b's' | b'u') => dict.extend(pairs(&items)?),
            _ => return Err("items are put into something that is no list or dict".to_owned()),
        }
        Ok(())
    }

    fn call(&mut self, operation: u8) -> Result<(), String> {
        let argument = self.pop()?;
        match operation {
            b'Q' => self.push(Value::Persistent(argument)),
            // The state of an object (an `OrderedDict`'s `_metadata`): no tensor is in there.
            b'b' => self.top().map(|_| ()),
            _ => {
                let function = self.pop()?;
                let value = match self.values[function] {
                    Value::Global { module: "collections", name: "OrderedDict" } => self.ordered_dict(argument)?,
                    _ => Value::Call { function, arguments: argument },
                };
                self.push(value)
            }
        }
    }

    /// `OrderedDict()`, or `OrderedDict([[key, value], ...])` as Python 2 wrote it.
    fn ordered_dict(&self, arguments: Id) -> Result<Value<'a>, String> {
        let Value::Tuple(arguments) = &self.values[arguments] else {
            return Err("an OrderedDict is made of no tuple".to_owned());
        };
        let Some(items) = arguments.first() else { return Ok(Value::Dict(Vec::new())) };
        let Value::List(items) = &self.values[*items] else {
            return Err("an OrderedDict is made of no list".to_owned());
        };
        let pair = |id: &Id| match &self.values[*id] {
            Value::List(pair) | Value::Tuple(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
            _ => Err("an OrderedDict is made of no pairs".to_owned()),
        };
        items.iter().map(pair).collect::<Result<_, _>>().map(Value::Dict)
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), String> {
        self.values.push(value);
        self.limit(self.values.len())?;
        self.push_id(self.values.len() - 1)
    }

    fn push_id(&mut self, id: Id) -> Result<(), String> {
        self.stack.push(id);
        self.limit(self.stack.len())
    }

    fn mark(&mut self) -> Result<(), String> {
        self.marks.push(self.stack.len());
        self.limit(self.marks.len())
    }

    fn top(&self) -> Result<Id, String> {
        self.stack.last().copied().ok_or_else(|| "the stack is empty".to_owned())
    }

    fn pop(&mut self) -> Result<Id, String> {
        if self.stack.len() <= self.marks.last().copied().unwrap_or(0) {
            return Err("the stack is empty".to_owned());
        }
        self.stack.pop().ok_or_else(|| "the stack is empty".to_owned())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, String> {
        let height = self.marks.pop().ok_or_else(|| "no mark is open".to_owned())?;
        Ok(self.stack.split_off(height.min(self.stack.len())))
    }

    fn limit(&self, count: usize) -> Result<(), String> {
        if count > MOST_VALUES { Err(format!("more than {MOST_VALUES} values")) } else { Ok(()) }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.input.len());
        let end = end.ok_or_else(|| "the file ends within the pickle".to_owned())?;
        let bytes = &self.input[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn skip(&mut self, length: usize) -> Result<(), String> {
        self.take(length).map(|_| ())
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| "the file ends within the pickle".to_owned())
    }

    fn text(&mut self, length: usize) -> Result<Value<'a>, String> {
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| "text is not UTF-8".to_owned())?;
        Ok(Value::Text(text))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = self.input.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|byte| *byte == b'\n').ok_or("the file ends within a name")?;
        let line = self.take(length)?;
        self.skip(1)?;
        std::str::from_utf8(line).map_err(|_| "a name is not UTF-8".to_owned())
    }
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, String> {
    match items.as_chunks::<2>() {
        (pairs, []) => Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect()),
        _ => Err("a key has no value".to_owned()),
    }
}

/// A signed little-endian integer of up to 16 bytes.
fn integer(bytes: &[u8]) -> Result<i128, String> {
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut all = [if negative { 0xff } else { 0 }; 16];
    let low = all.get_mut(..bytes.len()).ok_or_else(|| format!("an integer of {} bytes", bytes.len()))?;
    low.copy_from_slice(bytes);
    Ok(i128::from_le_bytes(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(bytes: &[u8]) -> String {
        Pickle::parse(bytes).unwrap_err()
    }

    #[test]
    fn structure_is_read_and_nothing_is_called() {
        let bytes = b"\x80\x02cos\nsystem\nq\x00X\x02\x00\x00\x00lsq\x01\x85R.tail";
        let pickle = Pickle::parse(bytes).unwrap();
        let Value::Call { function, arguments } = pickle.root() else { panic!("{:?}", pickle.root()) };
        assert_eq!(pickle.get(*function), &Value::Global { module: "os", name: "system" });
        let Value::Tuple(arguments) = pickle.get(*arguments) else { panic!() };
        assert_eq!(pickle.get(arguments[0]), &Value::Text("ls"));
        assert_eq!(pickle.length, bytes.len() - 4);
    }

    #[test]
    fn a_memoised_dict_is_the_same_dict() {
        // d = {}; d["k"] = 1 after memoising; the tuple (d, d) refers to the filled one.
        let pickle = Pickle::parse(b"\x80\x02}q\x00X\x01\x00\x00\x00kK\x01sh\x00\x86.").unwrap();
        let Value::Tuple(both) = pickle.root() else { panic!() };
        assert_eq!(both[0], both[1]);
        assert!(matches!(pickle.get(both[0]), Value::Dict(items) if items.len() == 1));
    }

    #[test]
    fn integers_have_their_signs() {
        fn root(bytes: &[u8]) -> Value<'_> {
            Pickle::parse(bytes).unwrap().root().clone()
        }
        assert_eq!(root(b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."), Value::Int(0x1950_a86a_20f9_469c_fc6c));
        assert_eq!(root(b"J\xff\xff\xff\xff."), Value::Int(-1));
        assert_eq!(root(b"\x8a\x01\xff."), Value::Int(-1));
        assert_eq!(root(b"\x8a\x00."), Value::Int(0));
    }

    #[test]
    fn damage_is_an_error() {
        assert!(problem(b"").contains("ends within"));
        assert!(problem(b".").contains("empty"));
        assert!(problem(b"\x80\x02X\xff\xff\xff\xffabc.").contains("ends within"));
        assert!(problem(b"h\x07.").contains("never memoised"));
        assert!(problem(b"t.").contains("no mark"));
        assert!(problem(b"(\x85.").contains("empty"));
        assert!(problem(b"K\x01K\x02a.").contains("no list"));
        assert!(problem(b"\x8a\x11aaaaaaaaaaaaaaaaa.").contains("17 bytes"));
        assert!(problem(b"i").contains("0x69"));
    }

    /// Doubling a memoised value, nesting deeply and pushing for ever stay within the limits.
    #[test]
    fn bombs_do_not_go_off() {
        let doubling: Vec<u8> = [b")q\x00".to_vec(), b"h\x00h\x00\x86q\x00".repeat(100_000), b".".to_vec()].concat();
        Pickle::parse(&doubling).unwrap();
        let nesting: Vec<u8> = [b")".to_vec(), b"\x85".repeat(1_000_000), b".".to_vec()].concat();
        Pickle::parse(&nesting).unwrap();
        assert!(problem(&b"N".repeat(2_000_000)).contains("more than"));
        assert!(problem(&b"(".repeat(2_000_000)).contains("more than"));
    }
}
