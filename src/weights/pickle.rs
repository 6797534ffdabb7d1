//! Python's pickles, read as data. A pickle is a program for a small stack machine that may name
//! any function of Python and have it called. This machine calls nothing: a call is written down,
//! with the name of the function and its arguments, for the reader to make sense of, and a name
//! that the reader does not know ends the reading.
//!
//! Values are numbers of places in a few lists, so that neither a pickle that is nested a million
//! deep nor one that contains itself is followed or freed recursively. The opcodes are those that
//! Python's pickler writes in protocols 2 to 5 (`Lib/pickletools.py` describes them).

use std::collections::HashMap;
use std::io::Read;

/// The longest pickle that is read. That of a large BART with its optimizer has some 300 kB.
pub const MAX_BYTES: u64 = 8 << 20;
/// The most values that a pickle may make.
const MAX_VALUES: usize = 1_000_000;
/// The longest name of a module or a function.
const MAX_NAME: usize = 256;

/// What is wrong with the pickle.
type Outcome<T> = std::result::Result<T, String>;

/// Whether the reader knows the function or class of this module and name.
pub type Known = fn(&str, &str) -> bool;

/// A value; the number is its place in the list of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// Python's `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// A whole number of 64 bits.
    Int(i64),
    /// A number or a byte string that no tensor is described with.
    Other,
    /// A string.
    Text(usize),
    /// A tuple, a list or a set.
    Sequence(usize),
    /// A dict.
    Dict(usize),
    /// A function or class.
    Global(usize),
    /// A call that was written down.
    Call(usize),
    /// What stands for an object that is stored elsewhere.
    Persistent(usize),
}

/// A call that nobody made: the function, its arguments, and what was put into the result.
#[derive(Debug)]
struct Call {
    function: Value,
    arguments: Value,
    entries: Vec<(Value, Value)>,
}

/// A pickle that was read.
#[derive(Debug)]
pub struct Pickle {
    /// What was pickled.
    pub root: Value,
    texts: Vec<String>,
    sequences: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
    globals: Vec<(String, String)>,
    calls: Vec<Call>,
    persistents: Vec<Value>,
}

impl Pickle {
    /// A string.
    pub fn text(&self, value: Value) -> Option<&str> {
        if let Value::Text(at) = value { Some(&self.texts[at]) } else { None }
    }

    /// The items of a tuple, a list or a set.
    pub fn sequence(&self, value: Value) -> Option<&[Value]> {
        if let Value::Sequence(at) = value { Some(&self.sequences[at]) } else { None }
    }

    /// The entries of a dict, or of what a call made.
    pub fn entries(&self, value: Value) -> Option<&[(Value, Value)]> {
        match value {
            Value::Dict(at) => Some(&self.dicts[at]),
            Value::Call(at) => Some(&self.calls[at].entries),
            _ => None,
        }
    }

    /// Module and name of a function or class.
    pub fn global(&self, value: Value) -> Option<(&str, &str)> {
        let Value::Global(at) = value else { return None };
        let (module, name) = &self.globals[at];
        Some((module, name))
    }

    /// Module and name of the function that a call names, and the arguments.
    pub fn call(&self, value: Value) -> Option<((&str, &str), &[Value])> {
        let Value::Call(at) = value else { return None };
        let call = &self.calls[at];
        Some((self.global(call.function)?, self.sequence(call.arguments)?))
    }

    /// What stands for an object that is stored elsewhere.
    pub fn persistent(&self, value: Value) -> Option<Value> {
        if let Value::Persistent(at) = value { Some(self.persistents[at]) } else { None }
    }

    /// All that is stored elsewhere, in the order in which it was named first.
    pub fn persistents(&self) -> &[Value] {
        &self.persistents
    }
}

/// Reads one pickle, and nothing behind it.
///
/// # Errors
/// What is wrong: it is truncated, damaged or too large, or names something that is not `known`.
pub fn read(input: &mut impl Read, known: Known) -> Outcome<Pickle> {
    let pickle = Pickle {
        root: Value::None,
        texts: Vec::new(),
        sequences: Vec::new(),
        dicts: Vec::new(),
        globals: Vec::new(),
        calls: Vec::new(),
        persistents: Vec::new(),
    };
    let machine = Machine {
        input: input.take(MAX_BYTES),
        known,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        made: 0,
        pickle,
    };
    machine.run()
}

struct Machine<R> {
    input: std::io::Take<R>,
    known: Known,
    stack: Vec<Value>,
    /// Heights of the stack at which a mark was set.
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
    /// How many values were pushed, memorised or marked.
    made: usize,
    pickle: Pickle,
}

impl<R: Read> Machine<R> {
    fn run(mut self) -> Outcome<Pickle> {
        loop {
            let opcode = self.byte()?;
            if opcode == b'.' {
                self.pickle.root = self.pop()?;
                return Ok(self.pickle);
            }
            self.step(opcode)?;
        }
    }

    fn step(&mut self, opcode: u8) -> Outcome<()> {
        // One table of the opcodes.
        match opcode {
            0x80 => self.skip(1),                                                // PROTO
            0x95 => self.skip(8),                                                // FRAME
            b'N' => self.push(Value::None),                                      // NONE
            0x88 => self.push(Value::Bool(true)),                                // NEWTRUE
            0x89 => self.push(Value::Bool(false)),                               // NEWFALSE
            b'K' | b'M' | b'J' | 0x8a => self.int(opcode), // BININT1, 2, BININT, LONG1
            b'G' => self.other(8),                         // BINFLOAT
            b'X' | b'T' => self.text(4),                   // BINUNICODE, BINSTRING
            0x8c | b'U' => self.text(1),                   // SHORT_BINUNICODE, SHORT_BINSTRING
            0x8d => self.text(8),                          // BINUNICODE8
            b'C' => self.bytes(1),                         // SHORT_BINBYTES
            b'B' => self.bytes(4),                         // BINBYTES
            0x8e | 0x96 => self.bytes(8),                  // BINBYTES8, BYTEARRAY8
            b')' | b']' | 0x8f => self.sequence(Vec::new()), // EMPTY_TUPLE, _LIST, _SET
            0x85..=0x87 => self.tuple(opcode - 0x84),      // TUPLE1, 2, 3
            b't' | 0x91 => self.marked().and_then(|items| self.sequence(items)), // TUPLE, FROZENSET
            b'}' => self.dict(),                           // EMPTY_DICT
            b'(' => self.mark(),                           // MARK
            b'0' => self.drop_one(),                       // POP
            b'1' => self.marked().map(drop),               // POP_MARK
            b'a' => self.pop().and_then(|item| self.append(&[item])), // APPEND
            b'e' | 0x90 => self.marked().and_then(|items| self.append(&items)), // APPENDS, ADDITEMS
            b's' => self.set_one(),                        // SETITEM
            b'u' => self.marked().and_then(|items| self.set(&items)), // SETITEMS
            b'q' => self.number(1).and_then(|at| self.memorise(at)), // BINPUT
            b'r' => self.number(4).and_then(|at| self.memorise(at)), // LONG_BINPUT
            0x94 => self.memorise(self.memo.len() as u64), // MEMOIZE
            b'h' => self.number(1).and_then(|at| self.recall(at)), // BINGET
            b'j' => self.number(4).and_then(|at| self.recall(at)), // LONG_BINGET
            b'c' => self.global(),                         // GLOBAL
            0x93 => self.stack_global(),                   // STACK_GLOBAL
            b'R' | 0x81 => self.call(),                    // REDUCE, NEWOBJ
            0x92 => self.pop().and_then(|_keywords| self.call()), // NEWOBJ_EX
            b'b' => self.pop().map(drop),                  // BUILD: state that no tensor needs
            b'Q' => self.persistent(),                     // BINPERSID
            other => Err(format!(
                "is damaged, or no pickle that torch writes: opcode {other:#04x} is not read"
            )),
        }
    }

    // The input.

    fn byte(&mut self) -> Outcome<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn array<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        let mut bytes = [0; N];
        let full = self.input.read_exact(&mut bytes);
        full.map_err(|_| self.ended())?;
        Ok(bytes)
    }

    fn ended(&self) -> String {
        if self.input.limit() == 0 {
            format!("has a pickle of more than {MAX_BYTES} bytes")
        } else {
            "is truncated inside its pickle".to_string()
        }
    }

    /// A number of `width` bytes without sign.
    fn number(&mut self, width: u64) -> Outcome<u64> {
        let mut bytes = [0; 8];
        for byte in &mut bytes[..width as usize] {
            *byte = self.byte()?;
        }
        Ok(u64::from_le_bytes(bytes))
    }

    /// The next bytes, of which there are as many as a number of `width` bytes says.
    fn counted(&mut self, width: u64) -> Outcome<Vec<u8>> {
        let count = self.number(width)?;
        if count > self.input.limit() {
            return Err(format!("is damaged: its pickle has a string of {count} bytes"));
        }
        let mut bytes = Vec::new();
        let read = (&mut self.input).take(count).read_to_end(&mut bytes);
        if read.ok() == Some(count as usize) { Ok(bytes) } else { Err(self.ended()) }
    }

    fn skip(&mut self, count: u64) -> Outcome<()> {
        self.number(count).map(drop)
    }

    /// A line, without its end.
    fn line(&mut self) -> Outcome<String> {
        let mut line = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
                byte => line.push(byte),
            }
            if line.len() > MAX_NAME {
                return Err(format!("is damaged: a name in its pickle is over {MAX_NAME} long"));
            }
        }
    }

    // The stack.

    fn count_one(&mut self) -> Outcome<()> {
        self.made += 1;
        if self.made > MAX_VALUES {
            return Err(format!("has a pickle of more than {MAX_VALUES} values"));
        }
        Ok(())
    }

    fn push(&mut self, value: Value) -> Outcome<()> {
        self.count_one()?;
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Outcome<Value> {
        if self.stack.len() <= self.marks.last().copied().unwrap_or(0) {
            return Err("is damaged: its pickle takes what it did not put".to_string());
        }
        self.stack.pop().ok_or_else(|| "is damaged: its pickle is empty".to_string())
    }

    fn top(&mut self) -> Outcome<Value> {
        let value = self.pop()?;
        self.stack.push(value);
        Ok(value)
    }

    fn mark(&mut self) -> Outcome<()> {
        self.count_one()?;
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// Everything above the last mark.
    fn marked(&mut self) -> Outcome<Vec<Value>> {
        let height = self.marks.pop().ok_or("is damaged: its pickle lacks a mark")?;
        Ok(self.stack.split_off(height))
    }

    fn drop_one(&mut self) -> Outcome<()> {
        if self.marks.last() == Some(&self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(drop)
    }

    fn memorise(&mut self, at: u64) -> Outcome<()> {
        self.count_one()?;
        let value = self.top()?;
        self.memo.insert(at, value);
        Ok(())
    }

    fn recall(&mut self, at: u64) -> Outcome<()> {
        match self.memo.get(&at) {
            Some(&value) => self.push(value),
            None => Err(format!("is damaged: its pickle recalls {at}, which it never kept")),
        }
    }

    // Values.

    fn int(&mut self, opcode: u8) -> Outcome<()> {
        let value = match opcode {
            b'K' => self.number(1)? as i64,
            b'M' => self.number(2)? as i64,
            b'J' => i64::from(self.number(4)? as u32 as i32),
            _ => {
                let bytes = self.counted(1)?;
                if bytes.len() > 8 {
                    return self.push(Value::Other);
                }
                let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
                let mut wide = [if negative { 0xff } else { 0 }; 8];
                wide[..bytes.len()].copy_from_slice(&bytes);
                i64::from_le_bytes(wide)
            }
        };
        self.push(Value::Int(value))
    }

    fn other(&mut self, bytes: u64) -> Outcome<()> {
        self.skip(bytes)?;
        self.push(Value::Other)
    }

    fn bytes(&mut self, width: u64) -> Outcome<()> {
        self.counted(width)?;
        self.push(Value::Other)
    }

    fn text(&mut self, width: u64) -> Outcome<()> {
        let bytes = self.counted(width)?;
        self.pickle.texts.push(String::from_utf8_lossy(&bytes).into_owned());
        self.push(Value::Text(self.pickle.texts.len() - 1))
    }

    fn sequence(&mut self, items: Vec<Value>) -> Outcome<()> {
        self.pickle.sequences.push(items);
        self.push(Value::Sequence(self.pickle.sequences.len() - 1))
    }

    fn tuple(&mut self, length: u8) -> Outcome<()> {
        let mut items = Vec::with_capacity(usize::from(length));
        for _ in 0..length {
            items.push(self.pop()?);
        }
        items.reverse();
        self.sequence(items)
    }

    fn dict(&mut self) -> Outcome<()> {
        self.pickle.dicts.push(Vec::new());
        self.push(Value::Dict(self.pickle.dicts.len() - 1))
    }

    fn append(&mut self, items: &[Value]) -> Outcome<()> {
        match self.top()? {
            Value::Sequence(at) => self.pickle.sequences[at].extend(items),
            Value::Call(_) => {} // An object that is a list too: nothing looks into it.
            _ => return Err("is damaged: its pickle appends to what is no list".to_string()),
        }
        Ok(())
    }

    fn set_one(&mut self) -> Outcome<()> {
        let value = self.pop()?;
        let key = self.pop()?;
        self.set(&[key, value])
    }

    fn set(&mut self, items: &[Value]) -> Outcome<()> {
        let entries = match self.top()? {
            Value::Dict(at) => &mut self.pickle.dicts[at],
            Value::Call(at) => &mut self.pickle.calls[at].entries,
            _ => return Err("is damaged: its pickle sets an item of what is no dict".to_string()),
        };
        entries.extend(items.as_chunks::<2>().0.iter().map(|[key, value]| (*key, *value)));
        Ok(())
    }

    // Names and calls.

    fn global(&mut self) -> Outcome<()> {
        let (module, name) = (self.line()?, self.line()?);
        self.named(module, name)
    }

    fn stack_global(&mut self) -> Outcome<()> {
        let (name, module) = (self.pop()?, self.pop()?);
        match (self.pickle.text(module), self.pickle.text(name)) {
            (Some(module), Some(name)) if module.len() + name.len() <= 2 * MAX_NAME => {
                let (module, name) = (module.to_string(), name.to_string());
                self.named(module, name)
            }
            _ => Err("is damaged: its pickle has something else than a name".to_string()),
        }
    }

    fn named(&mut self, module: String, name: String) -> Outcome<()> {
        if !(self.known)(&module, &name) {
            return Err(format!(
                "names `{module}.{name}`, which no weights need; it was not run\n\
                 hint: if you trust the file, load it with torch and save it as safetensors"
            ));
        }
        self.pickle.globals.push((module, name));
        self.push(Value::Global(self.pickle.globals.len() - 1))
    }

    fn call(&mut self) -> Outcome<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        self.pickle.calls.push(Call { function, arguments, entries: Vec::new() });
        self.push(Value::Call(self.pickle.calls.len() - 1))
    }

    fn persistent(&mut self) -> Outcome<()> {
        let key = self.pop()?;
        self.pickle.persistents.push(key);
        self.push(Value::Persistent(self.pickle.persistents.len() - 1))
    }
}
