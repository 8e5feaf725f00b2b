//! Pickles: walked opcode by opcode to say what loading them would bring in. Nothing is ever executed.
//!
//! Where the crate that loads checkpoints refuses a pickle at the first thing it does not know, this walk
//! goes on and describes. A stack of texts and unknowns is kept only to resolve the names that
//! `STACK_GLOBAL` takes from it; a name that cannot be resolved is reported as such, never left out.

use std::collections::{BTreeSet, HashMap};

/// Longest pickle that is walked.
pub const MAX_BYTES: u64 = 64 << 20;
/// Most opcodes of a pickle.
const MAX_OPCODES: usize = 4_000_000;
/// Most different imports that are kept.
const MAX_IMPORTS: usize = 1000;
/// Most pickles after one another; PyTorch before 1.6 wrote five.
const MAX_PICKLES: usize = 16;
/// Longest text that is kept as a possible name.
const MAX_NAME: usize = 512;

/// What a pickle contains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Walk {
    /// Names that loading would look up, as `module.name`.
    pub imports: BTreeSet<String>,
    /// Some names come from places that the walk does not follow.
    pub unresolved: bool,
    /// Calls of what was looked up.
    pub calls: usize,
    /// Pickles one after another.
    pub pickles: usize,
    /// Bytes behind the last one.
    pub trailing: usize,
    /// Why the walk ended early.
    pub malformed: Option<String>,
}

impl Walk {
    /// Imports beyond those of a dictionary of tensors.
    pub fn unusual(&self) -> impl Iterator<Item = &str> {
        self.imports
            .iter()
            .map(String::as_str)
            .filter(|name| !is_usual(name))
    }
}

/// Names that PyTorch writes for dictionaries of tensors.
fn is_usual(import: &str) -> bool {
    const EXACT: [&str; 4] = [
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch.Size",
    ];
    let storage = import
        .strip_prefix("torch.")
        .and_then(|name| name.strip_suffix("Storage"))
        .is_some_and(|kind| kind.bytes().all(|b| b.is_ascii_alphanumeric()));
    let dtype = import.strip_prefix("torch.").is_some_and(|name| {
        [
            "float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "int8", "bool",
        ]
        .contains(&name)
    });
    EXACT.contains(&import) || storage || dtype
}

#[derive(Debug, Clone)]
enum Item {
    Mark,
    Text(String),
    Other,
}

/// Walks the pickles at the beginning of `input`.
pub fn walk(input: &[u8]) -> Walk {
    let mut machine = Machine {
        rest: input,
        walk: Walk::default(),
        stack: Vec::new(),
        memo: HashMap::new(),
        opcodes: 0,
    };
    while machine.walk.pickles < MAX_PICKLES {
        machine.stack.clear();
        machine.memo.clear();
        if let Err(what) = machine.pickle() {
            // What follows a pickle need not be another one: PyTorch appends raw storages.
            if machine.walk.pickles == 0 {
                machine.walk.malformed = Some(what);
            }
            break;
        }
        machine.walk.pickles += 1;
        machine.walk.trailing = machine.rest.len();
        // From protocol 2 on a pickle begins with its protocol.
        if machine.rest.first() != Some(&0x80) {
            break;
        }
    }
    machine.walk
}

struct Machine<'a> {
    rest: &'a [u8],
    walk: Walk,
    stack: Vec<Item>,
    memo: HashMap<u64, Item>,
    opcodes: usize,
}

impl<'a> Machine<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let count = usize::try_from(count).map_err(|_| "a length beyond memory")?;
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or("it ends inside of an opcode")?;
        self.rest = rest;
        Ok(taken)
    }

    /// A little-endian number of `bytes` bytes.
    fn number(&mut self, bytes: u64) -> Result<u64, String> {
        let taken = self.take(bytes)?;
        Ok(taken
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn line(&mut self) -> Result<String, String> {
        let end = self
            .rest
            .iter()
            .position(|&b| b == b'\n')
            .ok_or("it ends inside of a line")?;
        let line = self.take(end as u64)?;
        self.take(1)?;
        Ok(String::from_utf8_lossy(line).into_owned())
    }

    fn text(&mut self, length: u64) -> Result<(), String> {
        let text = self.take(length)?;
        self.stack.push(if text.len() <= MAX_NAME {
            Item::Text(String::from_utf8_lossy(text).into_owned())
        } else {
            Item::Other
        });
        Ok(())
    }

    fn pop(&mut self) -> Result<Item, String> {
        self.stack
            .pop()
            .ok_or_else(|| "it takes a value that is not there".into())
    }

    fn pop_many(&mut self, count: usize) -> Result<(), String> {
        let left = self
            .stack
            .len()
            .checked_sub(count)
            .ok_or("it takes a value that is not there")?;
        self.stack.truncate(left);
        Ok(())
    }

    fn pop_mark(&mut self) -> Result<(), String> {
        let mark = self
            .stack
            .iter()
            .rposition(|item| matches!(item, Item::Mark));
        self.stack.truncate(mark.ok_or("it lacks a mark")?);
        Ok(())
    }

    fn other(&mut self) {
        self.stack.push(Item::Other);
    }

    fn import(&mut self, module: &str, name: &str) {
        if self.walk.imports.len() < MAX_IMPORTS {
            self.walk.imports.insert(format!("{module}.{name}"));
        } else {
            self.walk.unresolved = true;
        }
    }

    fn memoize(&mut self, slot: u64) -> Result<(), String> {
        let item = self
            .stack
            .last()
            .ok_or("it remembers a value that is not there")?;
        self.memo.insert(slot, item.clone());
        Ok(())
    }

    fn recall(&mut self, slot: u64) -> Result<(), String> {
        let item = self
            .memo
            .get(&slot)
            .ok_or("it recalls a value it never stored")?;
        self.stack.push(item.clone());
        Ok(())
    }

    /// Walks up to and including `STOP`.
    fn pickle(&mut self) -> Result<(), String> {
        loop {
            self.opcodes += 1;
            if self.opcodes > MAX_OPCODES {
                return Err(format!("it has more than {MAX_OPCODES} opcodes"));
            }
            let opcode = self.number(1)? as u8;
            match opcode {
                b'.' => return self.pop().map(drop),
                b'(' => self.stack.push(Item::Mark),
                b'0' => self.pop_many(1)?,
                b'1' => self.pop_mark()?,
                b'2' => {
                    let item = self.pop()?;
                    self.stack.extend([item.clone(), item]);
                }
                // Numbers, None, booleans, empty containers, byte strings, buffers.
                b'F' | b'I' | b'L' | b'P' => {
                    self.line()?;
                    self.other();
                }
                b'J' | b'M' | b'K' | b'G' => {
                    self.take(match opcode {
                        b'J' => 4,
                        b'M' => 2,
                        b'K' => 1,
                        _ => 8,
                    })?;
                    self.other();
                }
                b'N' | b'}' | b']' | b')' | 0x88 | 0x89 | 0x8f | 0x97 => self.other(),
                0x8a | b'C' => {
                    let length = self.number(1)?;
                    self.take(length)?;
                    self.other();
                }
                0x8b | b'B' => {
                    let length = self.number(4)?;
                    self.take(length)?;
                    self.other();
                }
                0x8e | 0x96 => {
                    let length = self.number(8)?;
                    self.take(length)?;
                    self.other();
                }
                // Texts.
                b'S' | b'V' => {
                    let line = self.line()?;
                    let text = line.trim_matches(['\'', '"']).to_owned();
                    self.stack.push(Item::Text(text));
                }
                b'U' | 0x8c => {
                    let length = self.number(1)?;
                    self.text(length)?;
                }
                b'T' | b'X' => {
                    let length = self.number(4)?;
                    self.text(length)?;
                }
                0x8d => {
                    let length = self.number(8)?;
                    self.text(length)?;
                }
                // What changes or collects values.
                b'a' | b'b' => self.pop_many(1)?,
                b's' => self.pop_many(2)?,
                b'e' | b'u' | 0x90 => self.pop_mark()?,
                b'd' | b'l' | b't' | 0x91 => {
                    self.pop_mark()?;
                    self.other();
                }
                0x85..=0x87 => {
                    self.pop_many(usize::from(opcode - 0x84))?;
                    self.other();
                }
                b'Q' => {
                    self.pop_many(1)?;
                    self.other();
                }
                // The memo.
                b'p' | b'g' => {
                    let line = self.line()?;
                    let slot = line.trim().parse().map_err(|_| "a slot is not a number")?;
                    if opcode == b'p' {
                        self.memoize(slot)?
                    } else {
                        self.recall(slot)?
                    }
                }
                b'q' | b'r' => {
                    let slot = self.number(if opcode == b'q' { 1 } else { 4 })?;
                    self.memoize(slot)?;
                }
                b'h' | b'j' => {
                    let slot = self.number(if opcode == b'h' { 1 } else { 4 })?;
                    self.recall(slot)?;
                }
                0x94 => self.memoize(self.memo.len() as u64)?,
                // What looks names up and calls them.
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.import(&module, &name);
                    self.other();
                }
                b'i' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.import(&module, &name);
                    self.walk.calls += 1;
                    self.pop_mark()?;
                    self.other();
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    if let (Item::Text(name), Item::Text(module)) = (name, module) {
                        self.import(&module, &name);
                    } else {
                        self.walk.unresolved = true;
                    }
                    self.other();
                }
                // Names by a number that only the loading process knows.
                0x82..=0x84 => {
                    self.take(1 << (opcode - 0x82))?;
                    self.walk.unresolved = true;
                    self.other();
                }
                b'R' | 0x81 => {
                    self.walk.calls += 1;
                    self.pop_many(2)?;
                    self.other();
                }
                0x92 => {
                    self.walk.calls += 1;
                    self.pop_many(3)?;
                    self.other();
                }
                b'o' => {
                    self.walk.calls += 1;
                    self.pop_mark()?;
                    self.other();
                }
                // Protocol, frame, read-only: nothing on the stack.
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                0x98 => {}
                other => return Err(format!("opcode 0x{other:02x} is unknown")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imports(walk: &Walk) -> Vec<&str> {
        walk.imports.iter().map(String::as_str).collect()
    }

    #[test]
    fn protocol_0_global_and_inst() {
        // What `pickle.dumps` writes for an object whose `__reduce__` returns `(os.system, ("id",))`.
        let walk = walk(b"cposix\nsystem\np0\n(Vid\np1\ntp2\nRp3\n.");
        assert_eq!(imports(&walk), ["posix.system"]);
        assert_eq!(
            (walk.calls, walk.pickles, walk.trailing, walk.unresolved),
            (1, 1, 0, false)
        );
        assert_eq!(walk.unusual().collect::<Vec<_>>(), ["posix.system"]);
        let inst = super::walk(b"(S'id'\nios\nsystem\n.");
        assert_eq!(imports(&inst), ["os.system"]);
        assert_eq!(inst.calls, 1);
    }

    #[test]
    fn stack_global_through_the_memo() {
        let mut bytes = b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00".to_vec();
        bytes.extend(b"\x8c\x06system\x94\x8c\x05posix\x940"); // the two names, remembered
        bytes.extend(b"0h\x01h\x00\x93\x8c\x02id\x85R."); // taken back in the right order
        let walk = walk(&bytes);
        assert_eq!(walk.malformed, None);
        assert_eq!(imports(&walk), ["posix.system"]);
    }

    #[test]
    fn names_that_cannot_be_followed_are_said() {
        // The module is the result of a call.
        let walk = walk(b"\x80\x04ca\nb\n)R\x8c\x01x\x93.");
        assert!(walk.unresolved);
        assert!(super::walk(b"\x80\x02\x82\x01.").unresolved);
    }

    #[test]
    fn tensors_are_usual() {
        let walk = walk(
            b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(X\x01\x00\x00\x00wctorch._utils\n\
              _rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nBFloat16Storage\nX\x01\x00\x00\x000\
              X\x03\x00\x00\x00cpuK\x04tQK\x00K\x04\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRu.",
        );
        assert_eq!(walk.malformed, None);
        assert_eq!(walk.unusual().count(), 0);
        assert_eq!(walk.imports.len(), 3);
        assert!(!is_usual("torch.hub.load"));
        assert!(!is_usual("torch.x.Storage"));
    }

    #[test]
    fn several_pickles_and_what_follows() {
        let walk = walk(b"\x80\x02N.\x80\x02cos\nsystem\n.\x01\x02\x03");
        assert_eq!(
            (walk.pickles, walk.trailing, imports(&walk)),
            (2, 3, vec!["os.system"])
        );
    }

    #[test]
    fn malformed_ones_end_with_a_reason() {
        for bytes in [
            &b""[..],
            b"\x80",
            b"N",
            b".",
            b"R.",
            b"t.",
            b"\x8cx.",
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
            b"\x01.",
            b"gx\n.",
            b"h\x07.",
            b"cos\nsystem",
        ] {
            let walk = walk(bytes);
            assert!(walk.malformed.is_some(), "{bytes:?}");
            assert_eq!(walk.pickles, 0);
        }
        let endless = vec![b'N'; MAX_OPCODES + 1];
        assert!(walk(&endless).malformed.is_some());
    }

    /// Nothing panics, whatever the bytes.
    #[test]
    fn any_bytes() {
        let mut state = 1_u64;
        for _ in 0..20_000 {
            let mut bytes = Vec::new();
            for _ in 0..40 {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                let opcodes = b"(.012FIJKLMNPQRSTUVXabcdefghijlopqrstu}])\x80\x81\x82\x85\x86\x88\x8a\x8c\x93\x94\x95";
                let pick = (state >> 33) as usize;
                bytes.push(if pick.is_multiple_of(5) {
                    (state >> 50) as u8
                } else {
                    opcodes[pick % opcodes.len()]
                });
            }
            let _ = walk(&bytes);
        }
    }
}
