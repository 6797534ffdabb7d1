//! Writes what `torch.save` and Hugging Face write, in the simplest way, for the readers' tests.

/// The values of every checkpoint here: a matrix `m` and a vector `v` that looks at its middle.
pub const VALUES: [f32; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];

/// A string in a pickle.
pub fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A whole number in a pickle.
pub fn int(number: i32) -> Vec<u8> {
    [b"J", &number.to_le_bytes()[..]].concat()
}

/// A function or class in a pickle.
pub fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

/// A tuple in a pickle.
pub fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(", &items.concat()[..], b"t"].concat()
}

/// A tuple of whole numbers in a pickle.
pub fn ints(numbers: &[i32]) -> Vec<u8> {
    tuple(&numbers.iter().map(|number| int(*number)).collect::<Vec<_>>())
}

/// The reference to a storage of float32 in a pickle.
pub fn storage(key: &str, count: i32) -> Vec<u8> {
    let class = global("torch", "FloatStorage");
    [tuple(&[text("storage"), class, text(key), text("cpu"), int(count)]), b"Q".to_vec()].concat()
}

/// A tensor in a pickle.
pub fn tensor(storage: Vec<u8>, offset: i32, sizes: &[i32], strides: &[i32]) -> Vec<u8> {
    let hooks = [global("collections", "OrderedDict"), b")R".to_vec()].concat();
    let arguments =
        tuple(&[storage, int(offset), ints(sizes), ints(strides), b"\x89".to_vec(), hooks]);
    [global("torch._utils", "_rebuild_tensor_v2"), arguments, b"R".to_vec()].concat()
}

/// A whole pickle of a dict.
pub fn pickle(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> =
        entries.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [b"\x80\x02}(", &items[..], b"u."].concat()
}

/// The pickle of `m` and `v`, whose storage is called "0".
pub fn state() -> Vec<u8> {
    let values = || storage("0", VALUES.len() as i32);
    pickle(&[("m", tensor(values(), 0, &[2, 3], &[3, 1])), ("v", tensor(values(), 2, &[3], &[1]))])
}

/// The values as they are stored.
pub fn bytes() -> Vec<u8> {
    VALUES.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// An archive of `files`, not compressed.
pub fn zip(files: &[(&str, Vec<u8>)], wide: bool) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let at = archive.len() as u32;
        let size = (content.len() as u32).to_le_bytes();
        let name_length = (name.len() as u16).to_le_bytes();
        // Version, flags, method, time, date, check sum, two sizes, two lengths.
        let fixed = |size: [u8; 4], extra: u16| {
            let zeros = [0; 12];
            [&[20, 0], &zeros[..], &size, &size, &name_length, &extra.to_le_bytes()].concat()
        };
        archive.extend([b"PK\x03\x04", &fixed(size, 0)[..], name.as_bytes(), content].concat());
        let too_narrow = [0xff; 4];
        let length = (content.len() as u64).to_le_bytes();
        let extra = [&[1, 0, 24, 0][..], &length, &length, &u64::from(at).to_le_bytes()].concat();
        let extra = if wide { extra } else { Vec::new() };
        let (size, at) = if wide { (too_narrow, too_narrow) } else { (size, at.to_le_bytes()) };
        let entry = fixed(size, extra.len() as u16);
        directory.extend([b"PK\x01\x02\x14\0", &entry[..], &[0; 10], &at].concat());
        directory.extend([name.as_bytes(), &extra].concat());
    }
    let (start, size) = (archive.len() as u64, directory.len() as u64);
    archive.extend(directory);
    let count = files.len() as u64;
    if wide {
        let end = archive.len() as u64;
        archive.extend([b"PK\x06\x06", &[0; 20][..]].concat());
        archive.extend([count, count, size, start].map(u64::to_le_bytes).concat());
        archive.extend([b"PK\x06\x07\0\0\0\0", &end.to_le_bytes()[..], &[1, 0, 0, 0]].concat());
    }
    let narrow = |value: u64| if wide { [0xff; 4] } else { (value as u32).to_le_bytes() };
    let counts = (count as u16).to_le_bytes();
    archive.extend([b"PK\x05\x06\0\0\0\0", &counts[..], &counts].concat());
    archive.extend([&narrow(size)[..], &narrow(start), &[0, 0]].concat());
    archive
}

/// What torch writes since 1.6 for this pickle.
pub fn archive(state: Vec<u8>, wide: bool) -> Vec<u8> {
    let files = [
        ("x/data.pkl", state),
        ("x/byteorder", b"little".to_vec()),
        ("x/data/0", bytes()),
        ("x/version", b"3\n".to_vec()),
    ];
    zip(&files, wide)
}

/// What torch wrote before 1.6 for this pickle.
pub fn stream(state: Vec<u8>) -> Vec<u8> {
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    let system = pickle(&[("little_endian", b"\x88".to_vec())]);
    let keys = [b"\x80\x02](", &text("0")[..], b"e."].concat();
    let count = (VALUES.len() as u64).to_le_bytes();
    [&magic[..], b"\x80\x02M\xe9\x03.", &system, &state, &keys, &count, &bytes()].concat()
}

/// What Hugging Face writes.
pub fn safetensors() -> Vec<u8> {
    let header = br#"{"m":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}"#;
    [&(header.len() as u64).to_le_bytes()[..], header, &bytes()].concat()
}

/// Numbers for damage: xorshift64 (Marsaglia 2003).
pub struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Random(0x9e37_79b9_7f4a_7c15)
    }
}

impl Random {
    /// One below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 as usize % limit
    }
}
