//! Sentencepiece's table of replaced characters, which a `tokenizer.json` holds as bytes in base64: a
//! double-array trie and the texts that its leaves point to. The `tokenizers` crate follows every
//! index in it unseen, so they are all checked first.

use tokenizers::normalizers::precompiled::Precompiled;

/// A transition may lead to any of so many neighbours.
const BLOCK: usize = 256;

/// The table, if all that it points to is within it.
///
/// # Errors
/// What is wrong with it.
pub fn parse(base64: &str) -> Result<Precompiled, String> {
    let bytes = decode_base64(base64).ok_or("is not base64")?;
    check(&bytes).ok_or("is damaged: it points outside itself")?;
    Precompiled::from(&bytes).map_err(|error| error.to_string())
}

fn check(bytes: &[u8]) -> Option<()> {
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    let (trie, texts) = rest.split_at_checked(u32::from_le_bytes(*size) as usize)?;
    let texts = std::str::from_utf8(texts).ok()?;
    let (units, []) = trie.as_chunks::<4>() else { return None };
    let units: Vec<usize> = units.iter().map(|unit| u32::from_le_bytes(*unit) as usize).collect();
    if units.is_empty() || !units.len().is_multiple_of(BLOCK) {
        return None;
    }
    for (place, unit) in units.iter().enumerate() {
        // A leaf: nothing follows it.
        if unit >> 31 == 1 {
            continue;
        }
        let next = *units.get(place ^ ((unit >> 10) << ((unit & (1 << 9)) >> 6)))?;
        let has_leaf = (unit >> 8) & 1 == 1;
        if has_leaf && !texts.is_char_boundary(next & ((1 << 31) - 1)) {
            return None;
        }
    }
    Some(())
}

/// Bytes in the standard alphabet, padded.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digit = |character: u8| match character {
        b'A'..=b'Z' => Some(character - b'A'),
        b'a'..=b'z' => Some(character - b'a' + 26),
        b'0'..=b'9' => Some(character - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let digits = text.strip_suffix("==").or(text.strip_suffix('=')).unwrap_or(text);
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for four in digits.as_bytes().chunks(4) {
        let mut bits = 0u32;
        for &character in four {
            bits = bits << 6 | u32::from(digit(character)?);
        }
        bits <<= 6 * (4 - four.len());
        bytes.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode_base64(bytes: &[u8]) -> String {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for three in bytes.chunks(3) {
            let mut bits = [0; 4];
            bits[1..=three.len()].copy_from_slice(three);
            let bits = u32::from_be_bytes(bits);
            for place in 0..4 {
                let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63] as char;
                text.push(if place > three.len() { '=' } else { digit });
            }
        }
        text
    }

    /// A table that replaces "a" by "xy": root, a transition on its byte, and a leaf.
    fn table() -> Vec<u8> {
        let mut units = vec![0u32; BLOCK];
        units[0] = 1 << 10; // From the root on, at 1 ^ byte.
        let place = 1 ^ usize::from(b'a');
        units[place] = u32::from(b'a') | 1 << 8 | 2 << 10; // At a leaf, two apart.
        units[place ^ 2] = 1 << 31 | 3; // The text that begins at 3.
        let trie: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        [&(trie.len() as u32).to_le_bytes()[..], &trie, "\0é\0xy\0".as_bytes()].concat()
    }

    #[test]
    fn base64_is_read() {
        for length in 0..9 {
            let bytes: Vec<u8> = (0..length).map(|i| i * 37 + 200).collect();
            assert_eq!(decode_base64(&encode_base64(&bytes)), Some(bytes));
        }
        for wrong in ["A", "AA=", "A-==", "é==="] {
            assert_eq!(decode_base64(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_table_is_read_and_one_that_points_outside_is_refused() {
        let mut bytes = table();
        let place = 4 + 4 * (1 ^ usize::from(b'a') ^ 2);
        bytes[place] = 4;
        let map = parse(&encode_base64(&bytes)).unwrap();
        assert_eq!(map.normalize_string("ab"), "xyb");
        bytes[place] = 2; // Within "é".
        assert!(parse(&encode_base64(&bytes)).unwrap_err().contains("outside"));
        bytes[place] = 200;
        assert!(parse(&encode_base64(&bytes)).is_err());
        let mut far = table();
        far[4 + 2] = 0xff; // The root's next place.
        assert!(parse(&encode_base64(&far)).is_err());
        for size in [0u32, 4, 1 << 20, u32::MAX] {
            let mut bytes = table();
            bytes[..4].copy_from_slice(&size.to_le_bytes());
            assert!(parse(&encode_base64(&bytes)).is_err(), "{size}");
        }
    }
}
