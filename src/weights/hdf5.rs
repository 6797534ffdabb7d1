//! HDF5 as h5py writes it for Keras: groups in the format of the library's first versions, datasets in
//! one piece. Such a file is read here, by several threads; [`read`] says nothing of any other (newer
//! groups, compression, links, damage), which is left to the HDF5 library. The records are those of
//! "HDF5 File Format Specification", version 3.0: II.A superblock 0, III.A B-tree 1, III.D local heap,
//! III.E global heap, IV.A object header 1.

use std::collections::HashSet;
use std::io::{Read, Seek, SeekFrom};

use safetensors::Dtype;

use super::stored::{StoredTensor, byte_width};

const SUPERBLOCK: [u8; 16] =
    [0x89, b'H', b'D', b'F', b'\r', b'\n', 0x1a, b'\n', 0, 0, 0, 0, 0, 8, 8, 0];
const SUPERBLOCK_SIZE: usize = 96;
/// Types of messages in an object header.
const DATASPACE: u16 = 0x01;
const DATATYPE: u16 = 0x03;
const EXTERNAL_FILES: u16 = 0x07;
const LAYOUT: u16 = 0x08;
const FILTERS: u16 = 0x0b;
const ATTRIBUTE: u16 = 0x0c;
const CONTINUATION: u16 = 0x10;
const SYMBOL_TABLE: u16 = 0x11;
/// The one flag of a message that changes nothing for a reader: its content stays as it is.
const CONSTANT: u8 = 0x01;
/// Types of numbers, as the first bytes of their messages, and what they are.
const TYPES: [(&[u8], Dtype); 4] = [
    (b"\x11\x20\x0f\0\x02\0\0\0\0\0\x10\0\x0a\x05\0\x0a\x0f\0\0\0", Dtype::F16),
    (b"\x11\x20\x1f\0\x04\0\0\0\0\0\x20\0\x17\x08\0\x17\x7f\0\0\0", Dtype::F32),
    (b"\x11\x20\x3f\0\x08\0\0\0\0\0\x40\0\x34\x0b\0\x34\xff\x03\0\0", Dtype::F64),
    (b"\x10\x08\0\0\x01\0\0\0\0\0\x08\0", Dtype::I8),
];
/// Keras stores bfloat16 as two opaque bytes, and says so in the attribute `dtype`.
const OPAQUE: u8 = 0x15;
const BFLOAT16: &[u8] = b"bfloat16";

/// Limits on what a file may make us do; a BART has some 1000 objects, and 2 MB of records.
const MOST_OBJECTS: usize = 1 << 16;
const MOST_MESSAGES: usize = 1 << 10;
const MOST_BYTES: u64 = 64 << 20;
const DEEPEST: usize = 32;

/// All datasets of a file by their paths, if it is as plain as Keras' files are.
pub fn read(file: &mut (impl Read + Seek)) -> Option<Vec<(String, StoredTensor)>> {
    let length = file.seek(SeekFrom::End(0)).ok()?;
    let (seen, found) = (HashSet::new(), Vec::new());
    let mut reader = Reader { file, length, bytes_left: MOST_BYTES, seen, found };
    let superblock = reader.at(0, SUPERBLOCK_SIZE as u64)?;
    let (base, end) = (number(&superblock, 24)?, number(&superblock, 40)?);
    if superblock[..16] != SUPERBLOCK || base != 0 || end != length {
        return None;
    }
    reader.object(number(&superblock, 64)?, String::new(), DEEPEST)?;
    Some(reader.found)
}

/// What Keras calls a type of [`read`].
pub fn type_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F16 => "float16",
        Dtype::BF16 => "bfloat16",
        Dtype::F32 => "float32",
        Dtype::F64 => "float64",
        _ => "int8",
    }
}

struct Reader<'a, F> {
    file: &'a mut F,
    length: u64,
    /// How much more of it is read at most.
    bytes_left: u64,
    /// The headers that were read: a second way to one of them would be a hard link.
    seen: HashSet<u64>,
    found: Vec<(String, StoredTensor)>,
}

/// A message of an object header.
struct Message {
    kind: u16,
    data: Vec<u8>,
}

impl<F: Read + Seek> Reader<'_, F> {
    fn at(&mut self, start: u64, len: u64) -> Option<Vec<u8>> {
        if start.checked_add(len)? > self.length {
            return None;
        }
        self.bytes_left = self.bytes_left.checked_sub(len)?;
        let mut bytes = vec![0; len as usize];
        self.file.seek(SeekFrom::Start(start)).ok()?;
        self.file.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }

    /// Notes the datasets of an object: itself, or those of a group.
    fn object(&mut self, header: u64, path: String, depth: usize) -> Option<()> {
        if depth == 0 || self.seen.len() > MOST_OBJECTS || !self.seen.insert(header) {
            return None;
        }
        let messages = self.messages(header)?;
        let of = |kind| messages.iter().find(move |message| message.kind == kind);
        match of(SYMBOL_TABLE) {
            Some(table) if of(LAYOUT).is_none() => {
                let (tree, heap) = (number(&table.data, 0)?, number(&table.data, 8)?);
                let names = self.heap(heap)?;
                self.tree(tree, &names, &path, None, depth)
            }
            None if of(FILTERS).is_none() && of(EXTERNAL_FILES).is_none() => {
                let tensor = self.dataset(&messages)?;
                self.found.push((path, tensor));
                Some(())
            }
            _ => None,
        }
    }

    /// The messages of an object header.
    fn messages(&mut self, header: u64) -> Option<Vec<Message>> {
        let start = self.at(header, 16)?;
        if start[0] != 1 {
            return None;
        }
        let mut blocks = vec![(header.checked_add(16)?, u64::from(u32_at(&start, 8)?))];
        let mut messages = Vec::new();
        while let Some((start, len)) = blocks.pop() {
            let block = self.at(start, len)?;
            let mut rest = block.as_slice();
            while rest.len() >= 8 {
                let (head, behind) = rest.split_at(8);
                let (kind, len) = (u16_at(head, 0)?, usize::from(u16_at(head, 2)?));
                let data = behind.get(..len)?;
                if messages.len() == MOST_MESSAGES || head[4] & !CONSTANT != 0 {
                    return None;
                }
                if kind == CONTINUATION {
                    blocks.push((number(data, 0)?, number(data, 8)?));
                }
                messages.push(Message { kind, data: data.to_vec() });
                rest = &behind[len..];
            }
        }
        Some(messages)
    }

    /// The names of a group's members, as its tree refers to them.
    fn heap(&mut self, at: u64) -> Option<Vec<u8>> {
        let head = self.at(at, 32)?;
        if !head.starts_with(b"HEAP\0") {
            return None;
        }
        self.at(number(&head, 24)?, number(&head, 8)?)
    }

    /// The members of a group, of which a node of its tree holds some.
    fn tree(
        &mut self,
        at: u64,
        names: &[u8],
        path: &str,
        above: Option<u8>,
        depth: usize,
    ) -> Option<()> {
        let head = self.at(at, 24)?;
        let (level, children) = (head[5], u64::from(u16_at(&head, 6)?));
        if !head.starts_with(b"TREE\0")
            || above.is_some_and(|above| level.checked_add(1) != Some(above))
        {
            return None;
        }
        let entries = self.at(at.checked_add(24)?, 16 * children + 8)?;
        for child in 0..children as usize {
            let child = number(&entries, 16 * child + 8)?;
            if level > 0 {
                self.tree(child, names, path, Some(level), depth)?;
            } else {
                self.members(child, names, path, depth)?;
            }
        }
        Some(())
    }

    fn members(&mut self, at: u64, names: &[u8], path: &str, depth: usize) -> Option<()> {
        let head = self.at(at, 8)?;
        if !head.starts_with(b"SNOD\x01") {
            return None;
        }
        let count = usize::from(u16_at(&head, 6)?);
        let entries = self.at(at.checked_add(8)?, 40 * count as u64)?;
        for entry in entries.chunks_exact(40) {
            // 0 and 1 are objects; 2 is a soft link.
            if u32_at(entry, 16)? > 1 {
                return None;
            }
            let name = names.get(usize::try_from(number(entry, 0)?).ok()?..)?;
            let name = str::from_utf8(name.split(|byte| *byte == 0).next()?).ok()?;
            let inner = if path.is_empty() { name.to_string() } else { format!("{path}/{name}") };
            self.object(number(entry, 8)?, inner, depth - 1)?;
        }
        Some(())
    }

    /// A dataset whose values lie in one piece.
    fn dataset(&mut self, messages: &[Message]) -> Option<StoredTensor> {
        let of = |kind| messages.iter().find(move |message| message.kind == kind);
        let kind = &of(DATATYPE)?.data;
        let dtype = match TYPES.iter().find(|(start, _)| kind.starts_with(start)) {
            Some((_, dtype)) => *dtype,
            None if kind.first() == Some(&OPAQUE) && u32_at(kind, 4)? == 2 => {
                self.check_bfloat16(messages)?;
                Dtype::BF16
            }
            None => return None,
        };
        let shape = dimensions(&of(DATASPACE)?.data)?;
        let layout = &of(LAYOUT)?.data;
        // Version 3, in one piece.
        if !layout.starts_with(&[3, 1]) {
            return None;
        }
        let (start, bytes) = (number(layout, 2)?, number(layout, 10)?);
        let count = shape.iter().try_fold(1_u64, |product, n| product.checked_mul(*n as u64))?;
        let fits = count > 0 && count.checked_mul(byte_width(dtype) as u64)? == bytes;
        let end = start.checked_add(bytes)?;
        (fits && end <= self.length).then_some(StoredTensor { shape, dtype, start, strides: None })
    }

    /// Whether the attribute `dtype` says so: a text, which is kept in a heap of the file.
    fn check_bfloat16(&mut self, messages: &[Message]) -> Option<()> {
        let attributes = messages.iter().filter(|message| message.kind == ATTRIBUTE);
        for data in attributes.map(|message| message.data.as_slice()) {
            let sizes = [u16_at(data, 2)?, u16_at(data, 4)?, u16_at(data, 6)?].map(usize::from);
            // Version 1 fills its parts up to whole words, version 3 has one more field instead.
            let (start, [name, kind, space]) = match data[0] {
                1 => (8, sizes.map(|size| size.next_multiple_of(8))),
                3 => (9, sizes),
                _ => return None,
            };
            if data.get(start..start + sizes[0])?.strip_suffix(b"\0") != Some(b"dtype") {
                continue;
            }
            // A text of any length: its length, and where it is.
            let text = data.get(start + name + kind + space..)?;
            let (heap, index) = (number(text, 4)?, u32_at(text, 12)?);
            return (self.global(heap, index)? == BFLOAT16).then_some(());
        }
        None
    }

    /// An object of a global heap.
    fn global(&mut self, at: u64, index: u32) -> Option<Vec<u8>> {
        let head = self.at(at, 16)?;
        if !head.starts_with(b"GCOL\x01") {
            return None;
        }
        let heap = self.at(at, number(&head, 8)?)?;
        let mut rest = heap.get(16..)?;
        while rest.len() >= 16 {
            let (found, size) = (u16_at(rest, 0)?, usize::try_from(number(rest, 8)?).ok()?);
            if u32::from(found) == index {
                return rest.get(16..)?.get(..size).map(<[u8]>::to_vec);
            }
            rest = rest.get(16_usize.checked_add(size.checked_next_multiple_of(8)?)?..)?;
        }
        None
    }
}

/// The sizes that a dataspace message gives.
fn dimensions(data: &[u8]) -> Option<Vec<usize>> {
    let rank = usize::from(*data.get(1)?);
    let start = match data[0] {
        1 => 8,
        2 if data.get(3) == Some(&1) => 4,
        _ => return None,
    };
    (0..rank).map(|i| usize::try_from(number(data, start + 8 * i)?).ok()).collect()
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::weights::testing::Random;

    /// What `make_plain_hdf5.py` wrote.
    const FILE: &[u8] = include_bytes!("../../tests/golden/plain.h5");

    #[test]
    fn datasets_of_every_type_are_found() {
        let found = read(&mut Cursor::new(FILE)).unwrap();
        let types = [
            ("a/bfloat16", Dtype::BF16, 2),
            ("a/float16", Dtype::F16, 2),
            ("a/float32", Dtype::F32, 4),
            ("a/float64", Dtype::F64, 8),
            ("a/int8", Dtype::I8, 1),
        ];
        for (name, dtype, width) in types {
            let (_, tensor) = found.iter().find(|(found, _)| found == name).unwrap();
            assert_eq!((tensor.dtype, &*tensor.shape), (dtype, &[2, 3][..]), "{name}");
            // The values are 0 to 5, of which the first is 0 in every format and the second is not.
            let values = &FILE[tensor.start as usize..][..2 * width];
            assert!(values[..width].iter().all(|byte| *byte == 0), "{name}");
            assert!(values[width..].iter().any(|byte| *byte != 0), "{name}");
        }
        // More members than one node of a tree holds.
        let many = found.iter().filter(|(name, _)| name.starts_with("many/")).count();
        assert_eq!((many, found.len()), (40, 45));
    }

    #[test]
    fn damaged_files_are_passed_over_or_stay_within_themselves() {
        let mut random = Random::default();
        let mut passed_over = 0;
        for _ in 0..2000 {
            let mut bytes = FILE.to_vec();
            for _ in 0..1 + random.below(20) {
                bytes[random.below(FILE.len())] ^= 1 << random.below(8);
            }
            if random.below(4) == 0 {
                bytes.truncate(random.below(FILE.len()));
            }
            match read(&mut Cursor::new(&bytes)) {
                Some(found) => {
                    for (name, tensor) in found {
                        assert!(tensor.end() <= bytes.len() as u64, "{name}: {tensor:?}");
                    }
                }
                None => passed_over += 1,
            }
        }
        assert!(passed_over > 500, "only {passed_over}");
    }
}
