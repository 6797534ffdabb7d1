//! Each reader with whole, wrong and damaged files.

use std::io::Cursor;
use std::path::Path;

use super::checkpoint::read_tensors;
use super::pickle::{self, Value};
use super::stored::StoredTensor;
use super::testing::*;
use super::torch::is_known;
use crate::error::Error;

fn read(bytes: &[u8]) -> Result<Vec<(String, StoredTensor)>, String> {
    let outcome = read_tensors(Path::new("the file"), &mut Cursor::new(bytes));
    outcome.map_err(|error| {
        assert!(matches!(error, Error::Format { .. }), "{error:?}");
        error.to_string()
    })
}

/// The first values of the tensors in `bytes`.
fn first_values(bytes: &[u8]) -> Vec<(String, f32)> {
    let tensors = read(bytes).unwrap();
    let first = |start: u64| {
        let at = start as usize;
        f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    };
    tensors.into_iter().map(|(name, tensor)| (name, first(tensor.start))).collect()
}

#[test]
fn tensors_are_found_in_every_format() {
    let both = [("m".to_string(), 1.0), ("v".to_string(), 3.0)];
    assert_eq!(first_values(&archive(state(), false)), both);
    assert_eq!(first_values(&archive(state(), true)), both);
    assert_eq!(first_values(&stream(state())), both);
    assert_eq!(first_values(&safetensors()), both[..1]);
    let comment = [&archive(state(), false)[..], b"a note"].concat();
    assert!(read(&comment).is_err(), "a comment whose length is not told");
}

#[test]
fn parameters_and_checkpoints_of_fairseq() {
    let parameter = [
        global("torch._utils", "_rebuild_parameter"),
        tuple(&[tensor(storage("0", 6), 0, &[6], &[1]), b"\x88".to_vec()]),
        b"R".to_vec(),
    ];
    let inner = pickle(&[("p", parameter.concat()), ("note", int(3)), ("none", b"N".to_vec())]);
    // A pickle inside a pickle has neither protocol nor end.
    let inner = inner[2..inner.len() - 1].to_vec();
    let settings = [
        global("argparse", "Namespace"),
        b")\x81".to_vec(),
        pickle(&[("lr", b"]G\0\0\0\0\0\0\0\0a".to_vec())])[2..].strip_suffix(b".").unwrap().into(),
        b"b".to_vec(),
    ];
    let state = pickle(&[("args", settings.concat()), ("model", inner)]);
    for bytes in [archive(state.clone(), false), stream(state)] {
        assert_eq!(first_values(&bytes), [("p".to_string(), 1.0)]);
    }
}

#[test]
fn what_no_weights_need_is_refused_by_name() {
    for (module, name) in [
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("torch", "load"),
        ("torch.FloatStorage", "x"),
        ("torch._utils", "_import_dotted_name"),
        ("omegaconfevil", "x"),
        ("torch", "ComplexFloatStorage"),
    ] {
        let call = [global(module, name), tuple(&[text("x")]), b"R".to_vec()].concat();
        let short = |text: &str| [b"\x8c", &[text.len() as u8][..], text.as_bytes()].concat();
        let newer = [short(module), short(name), b"\x93".to_vec()].concat();
        for call in [call, newer] {
            let state = pickle(&[("a", call)]);
            for bytes in [archive(state.clone(), false), stream(state)] {
                let error = read(&bytes).unwrap_err();
                assert!(error.contains(&format!("names `{module}.{name}`, which no")), "{error}");
            }
        }
    }
}

#[test]
fn tensors_that_cannot_be() {
    let six = || storage("0", 6);
    let double = [
        tuple(&[text("storage"), global("torch", "DoubleStorage"), text("0"), text(""), int(6)]),
        b"Q".to_vec(),
    ];
    let part = [
        tuple(&[
            text("storage"),
            global("torch", "FloatStorage"),
            text("0"),
            text("cpu"),
            int(6),
            ints(&[1, 2]),
        ]),
        b"Q".to_vec(),
    ];
    for (tensor, named) in [
        (tensor(six(), 1, &[2, 3], &[3, 1]), "reads 7 values of a storage that has 6"),
        (tensor(six(), 0, &[i32::MAX; 3], &[0; 3]), "has sizes"),
        (tensor(six(), 0, &[2], &[i32::MAX]), "reads 2147483648 values"),
        (tensor(six(), -1, &[2], &[1]), "not described"),
        (tensor(six(), 0, &[-2], &[1]), "not described"),
        (tensor(six(), 0, &[2, 3], &[1]), "strides"),
        (tensor(six(), 0, &[1; 9], &[1; 9]), "not described"),
        (tensor(storage("7", 6), 0, &[6], &[1]), "lacks|has no use for storage 0"),
        (tensor(storage("0", 7), 0, &[6], &[1]), "0"),
        (tensor(storage("0", -7), 0, &[6], &[1]), "something else than storages"),
        (tensor(double.concat(), 0, &[6], &[1]), "0"),
        (tensor(part.concat(), 0, &[6], &[1]), "parts of others"),
        (tensor([int(3), b"Q".to_vec()].concat(), 0, &[6], &[1]), "something else than storages"),
        (tensor(int(3), 0, &[6], &[1]), "not described|has no use for storage 0"),
    ] {
        let state = pickle(&[("m", tensor)]);
        for bytes in [archive(state.clone(), false), stream(state)] {
            let error = read(&bytes).unwrap_err();
            assert!(named.split('|').any(|named| error.contains(named)), "{named}: {error}");
        }
    }
}

#[test]
fn archives_that_are_none() {
    let state = state();
    let renamed = |from: &str, to: &str| {
        let bytes = archive(state.clone(), false);
        let text: Vec<u8> = bytes.clone();
        let mut out = text.clone();
        for at in 0..text.len() - from.len() {
            if &text[at..at + from.len()] == from.as_bytes() {
                out[at..at + to.len()].copy_from_slice(to.as_bytes());
            }
        }
        out
    };
    let big_endian = [("x/data.pkl", state.clone()), ("x/byteorder", b"big".to_vec())];
    let program = [("x/data.pkl", state.clone()), ("x/constants.pkl", Vec::new())];
    let twice = [("x/data.pkl", state.clone()), ("x/data.pkl", state.clone())];
    for (bytes, named) in [
        (renamed("x/data.pkl", "x/data.pkx"), "not one that `torch.save` wrote"),
        (zip(&[("data.pkl", state.clone())], false), "lacks \"data/0\""),
        (zip(&[("a/b/data.pkl", state.clone())], false), "not one that `torch.save` wrote"),
        (renamed("x/data/0", "x/data/1"), "lacks \"x/data/0\""),
        (zip(&big_endian, false), "byte order \"big\""),
        (zip(&program, false), "TorchScript"),
        (zip(&twice, false), "twice"),
        (renamed("\x14\0\0\0\0\0", "\x14\0\0\0\x08\0"), "compressed"),
        (renamed("PK\x05\x06", "PK\x05\x07"), "no end record"),
        (renamed("PK\x01\x02", "PK\x01\x03"), "something else than files"),
        (renamed("PK\x03\x04\x14\0\0", "PK\x03\x04\x15\0\0"), ""),
        (b"PK".to_vec(), "truncated"),
        (zip(&[], false), "not one that"),
    ] {
        match read(&bytes) {
            Err(error) => assert!(error.contains(named), "{named}: {error}"),
            Ok(_) => assert!(named.is_empty(), "{named}"),
        }
    }
}

#[test]
fn other_formats() {
    let big = pickle(&[("little_endian", b"\x89".to_vec())]);
    let little = pickle(&[("little_endian", b"\x88".to_vec())]);
    let whole = stream(state());
    let at = whole.windows(little.len()).position(|part| part == little).unwrap();
    let mut other_order = whole.clone();
    other_order[at..at + big.len()].copy_from_slice(&big);
    let mut other_version = whole.clone();
    other_version[18] = 0;
    for (bytes, named) in [
        (other_order, "little-endian"),
        (other_version, "another version"),
        (whole[..whole.len() - 1].to_vec(), "storage 0 ends behind it"),
        (b"\x89HDF\r\n\x1a\n".to_vec(), "neither a safetensors file nor"),
        (Vec::new(), "truncated"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f{}".to_vec(), "header of 9223372036854775807 bytes"),
        (b"\0\0\0\0\0\0\0\0{}".to_vec(), "not a safetensors file"),
    ] {
        let error = read(&bytes).unwrap_err();
        assert!(error.contains(named), "{named}: {error}");
    }
}

#[test]
fn pickles_that_are_bombs_or_damaged() {
    let many = |opcodes: &[u8], times: usize| [b"\x80\x02", &opcodes.repeat(times)[..]].concat();
    let nested = [&many(b")", 1)[..], &b"\x85".repeat(900_000), b"."].concat();
    assert!(matches!(read_pickle(&nested), Ok(Value::Sequence(_))));
    // A list that contains itself.
    assert!(matches!(read_pickle(b"]q\0h\0a."), Ok(Value::Sequence(0))));
    for (bytes, named) in [
        (many(b"}", 2_000_000), "more than 1000000 values"),
        (many(b"(", 2_000_000), "more than 1000000 values"),
        (many(b"N\x94", 2_000_000), "more than 1000000 values"),
        (many(b"ctorch\nSize\n", 900_000), "more than 8388608 bytes"),
        (b"X\xff\xff\xff\xff".to_vec(), "string of 4294967295 bytes"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffa".to_vec(), "string of"),
        (b"X\x05\0\0\0abc".to_vec(), "truncated"),
        ([b"c", &b"a".repeat(300)[..]].concat(), "name in its pickle is over 256 long"),
        (b"".to_vec(), "truncated"),
        (b".".to_vec(), "takes what it did not put"),
        (b"N(.".to_vec(), "takes what it did not put"),
        (b"N(\x85.".to_vec(), "takes what it did not put"),
        (b"t.".to_vec(), "lacks a mark"),
        (b"h\x07.".to_vec(), "recalls 7"),
        (b"NNa.".to_vec(), "no list"),
        (b"NNNs.".to_vec(), "no dict"),
        (b"NN\x93.".to_vec(), "something else than a name"),
        (b"I1\n.".to_vec(), "opcode 0x49"),
        (b"ios\nsystem\n".to_vec(), "opcode 0x69"),
    ] {
        let error = read_pickle(&bytes).unwrap_err();
        assert!(error.contains(named), "{named}: {error}");
    }
}

fn read_pickle(mut bytes: &[u8]) -> Result<Value, String> {
    pickle::read(&mut bytes, is_known).map(|pickle| pickle.root)
}

#[test]
fn whole_numbers_of_every_width() {
    for (bytes, value) in [
        (&b"K\xff"[..], 255),
        (b"M\x01\x80", 0x8001),
        (b"J\xff\xff\xff\xff", -1),
        (b"\x8a\0", 0),
        (b"\x8a\x01\xfe", -2),
        (b"\x8a\x02\xff\0", 255),
        (b"\x8a\x08\0\0\0\0\0\0\0\x80", i64::MIN),
    ] {
        assert_eq!(read_pickle(&[bytes, b"."].concat()), Ok(Value::Int(value)), "{bytes:?}");
    }
    assert_eq!(read_pickle(b"\x8a\x09\0\0\0\0\0\0\0\0\x01."), Ok(Value::Other));
}

/// Flips bits and cuts files off.
#[test]
fn damaged_files_are_refused_or_stay_within_themselves() {
    let mut random = Random::default();
    let mut below = |limit: usize| random.below(limit);
    let whole = [archive(state(), false), archive(state(), true), stream(state()), safetensors()];
    for (kind, whole) in whole.iter().enumerate() {
        let mut refused = 0;
        for _ in 0..4000 {
            let mut bytes = whole.clone();
            for _ in 0..1 + below(3) {
                bytes[below(whole.len())] ^= 1 << below(8);
            }
            if below(4) == 0 {
                bytes.truncate(below(whole.len()));
            }
            match read(&bytes) {
                Ok(tensors) => {
                    for (name, tensor) in tensors {
                        assert!(tensor.end() <= bytes.len() as u64, "{kind} {name}: {tensor:?}");
                    }
                }
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 1000, "{kind}: only {refused}");
    }
}
