//! The directory of a zip archive, with the extensions for 64 bits: enough to find what
//! `torch.save` stores, which it never compresses. PKWARE's APPNOTE.TXT numbers the records.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};

/// Signatures, as they lie in the file.
const LOCAL_HEADER: u32 = 0x0403_4b50;
const DIRECTORY_ENTRY: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const END_64_LOCATOR: u32 = 0x0706_4b50;
/// Lengths of the records' fixed parts.
const LOCAL_HEADER_SIZE: usize = 30;
const DIRECTORY_ENTRY_SIZE: usize = 46;
const END_SIZE: usize = 22;
const END_64_SIZE: usize = 56;
const END_64_LOCATOR_SIZE: usize = 20;
/// The end record may be followed by a comment of this length.
const MAX_COMMENT: u64 = 0xffff;
/// The longest directory that is read. That of a large BART has 40 kB.
const MAX_DIRECTORY: u64 = 4 << 20;

/// What is wrong with the file.
type Outcome<T> = std::result::Result<T, String>;

/// One file of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    local_header: u64,
    /// Neither compressed nor encrypted.
    plain: bool,
    /// Its length in bytes.
    pub size: u64,
}

/// The files of an archive by their names.
pub fn entries(file: &mut (impl Read + Seek)) -> Outcome<HashMap<String, Entry>> {
    let (mut count, size, start) = directory_place(file)?;
    let directory = read_at(file, start, size as usize)?;
    let mut rest = directory.as_slice();
    let mut entries = HashMap::new();
    while count > 0 {
        count -= 1;
        let (name, entry, behind) = read_entry(rest)?;
        if entry.local_header >= start {
            return Err(format!("is damaged: {name:?} lies behind the archive's directory"));
        }
        if entries.insert(name.clone(), entry).is_some() {
            return Err(format!("is damaged: it has {name:?} twice"));
        }
        rest = behind;
    }
    Ok(entries)
}

/// Where the bytes of an entry begin. Compressed ones are refused.
pub fn data_start(file: &mut (impl Read + Seek), entry: &Entry) -> Outcome<u64> {
    if !entry.plain {
        return Err("is compressed, which `torch.save` does not do\n\
                    hint: load it with torch and save it again"
            .to_string());
    }
    let header = read_at(file, entry.local_header, LOCAL_HEADER_SIZE)?;
    if u32_at(&header, 0)? != LOCAL_HEADER {
        return Err("is damaged: a file of the archive has no header".to_string());
    }
    let (name, extra) = (u16_at(&header, 26)?, u16_at(&header, 28)?);
    let start = entry.local_header + LOCAL_HEADER_SIZE as u64 + u64::from(name) + u64::from(extra);
    let length = file.seek(SeekFrom::End(0)).map_err(|e| e.to_string())?;
    match start.checked_add(entry.size) {
        Some(end) if end <= length => Ok(start),
        _ => Err("is truncated: a file of the archive ends behind it".to_string()),
    }
}

/// Number of entries, length and start of the directory.
fn directory_place(file: &mut (impl Read + Seek)) -> Outcome<(u64, u64, u64)> {
    let length = file.seek(SeekFrom::End(0)).map_err(|e| e.to_string())?;
    let tail_start = length.saturating_sub(MAX_COMMENT + END_SIZE as u64);
    let tail = read_at(file, tail_start, (length - tail_start) as usize)?;
    let at = (0..(tail.len() + 1).saturating_sub(END_SIZE)).rev().find(|&at| {
        let comment = tail.len() - at - END_SIZE;
        u32_at(&tail, at) == Ok(END) && u16_at(&tail, at + 20) == Ok(comment as u16)
    });
    let at = at.ok_or("is truncated: the archive has no end record")?;
    let mut place = (
        u64::from(u16_at(&tail, at + 10)?),
        u64::from(u32_at(&tail, at + 12)?),
        u64::from(u32_at(&tail, at + 16)?),
    );
    let end = tail_start + at as u64;
    if let Some(start) = end.checked_sub(END_64_LOCATOR_SIZE as u64) {
        let locator = read_at(file, start, END_64_LOCATOR_SIZE)?;
        if u32_at(&locator, 0)? == END_64_LOCATOR {
            let record = read_at(file, u64_at(&locator, 8)?, END_64_SIZE)?;
            if u32_at(&record, 0)? != END_64 {
                return Err("is damaged: its 64-bit end record is missing".to_string());
            }
            place = (u64_at(&record, 32)?, u64_at(&record, 40)?, u64_at(&record, 48)?);
        }
    }
    let (count, size, start) = place;
    let fits = start.checked_add(size).is_some_and(|behind| behind <= end);
    if !fits || count > size / DIRECTORY_ENTRY_SIZE as u64 {
        return Err("is truncated or damaged: the archive's directory is not within it".to_string());
    }
    if size > MAX_DIRECTORY {
        return Err(format!("has a directory of {size} bytes; at most {MAX_DIRECTORY} are read"));
    }
    Ok(place)
}

/// The first entry of `directory`, and what is behind it.
fn read_entry(directory: &[u8]) -> Outcome<(String, Entry, &[u8])> {
    if u32_at(directory, 0)? != DIRECTORY_ENTRY {
        return Err("is damaged: its directory holds something else than files".to_string());
    }
    let (fixed, rest) = split(directory, DIRECTORY_ENTRY_SIZE)?;
    let (flags, method) = (u16_at(fixed, 8)?, u16_at(fixed, 10)?);
    let (name, rest) = split(rest, usize::from(u16_at(fixed, 28)?))?;
    let (extra, rest) = split(rest, usize::from(u16_at(fixed, 30)?))?;
    let (_comment, rest) = split(rest, usize::from(u16_at(fixed, 32)?))?;
    let name = String::from_utf8_lossy(name).into_owned();
    let mut wide = wide_fields(extra);
    let mut widen = |narrow: u32| -> Outcome<u64> {
        if narrow < u32::MAX { Ok(u64::from(narrow)) } else { u64_at(wide.take(8), 0) }
    };
    // In this order: the wide field holds those of them that were too narrow.
    let size = widen(u32_at(fixed, 24)?)?;
    let stored_size = widen(u32_at(fixed, 20)?)?;
    let local_header = widen(u32_at(fixed, 42)?)?;
    let plain = method == 0 && flags & 1 == 0;
    if plain && size != stored_size {
        return Err(format!("is damaged: {name:?} has two sizes, {size} and {stored_size}"));
    }
    Ok((name, Entry { local_header, plain, size }, rest))
}

/// The numbers of 64 bits in the extra field of an entry.
fn wide_fields(mut extra: &[u8]) -> Fields<'_> {
    while let (Ok(kind), Ok(length)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let Ok((field, rest)) = split(&extra[4..], usize::from(length)) else { break };
        if kind == 1 {
            return Fields(field);
        }
        extra = rest;
    }
    Fields(&[])
}

/// Bytes that are taken from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The next bytes, or as many as are left.
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// `count` bytes from `start` on.
fn read_at(file: &mut (impl Read + Seek), start: u64, count: usize) -> Outcome<Vec<u8>> {
    file.seek(SeekFrom::Start(start)).map_err(|e| e.to_string())?;
    let mut bytes = vec![0; count];
    file.read_exact(&mut bytes).map_err(|_| "is truncated or damaged".to_string())?;
    Ok(bytes)
}

fn split(bytes: &[u8], at: usize) -> Outcome<(&[u8], &[u8])> {
    bytes.split_at_checked(at).ok_or_else(cut_off)
}

fn cut_off() -> String {
    "is truncated inside the archive's directory".to_string()
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Outcome<[u8; N]> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or_else(cut_off)
}

fn u16_at(bytes: &[u8], at: usize) -> Outcome<u16> {
    bytes_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Outcome<u32> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Outcome<u64> {
    bytes_at(bytes, at).map(u64::from_le_bytes)
}
