//! The printable alphabet of byte-level BPE: one character for each byte.
//!
//! Printable Latin-1 bytes stand for themselves, the 68 others (controls, space, no-break space,
//! soft hyphen) for the characters from U+0100 on, in ascending order; a space is `Ġ`.
//! Source: Radford et al., GPT-2, `encoder.py`, `bytes_to_unicode`.

use std::sync::LazyLock;

/// First character that stands for an unprintable byte.
const FIRST_SUBSTITUTE: u32 = 0x100;

/// Byte to character.
static CHARACTERS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut substitute = FIRST_SUBSTITUTE;
    std::array::from_fn(|index| {
        let byte = index as u8;
        if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
            return char::from(byte);
        }
        substitute += 1;
        char::from_u32(substitute - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
    })
});

/// The 256 characters, in the order of the bytes they stand for.
pub(super) fn characters() -> &'static [char; 256] {
    &CHARACTERS
}

/// Code of a character of the alphabet to the byte, plus one; 0 is no character of it.
static BYTES: LazyLock<[u16; FIRST_SUBSTITUTE as usize + 68]> = LazyLock::new(|| {
    let mut bytes = [0; FIRST_SUBSTITUTE as usize + 68];
    for (byte, character) in (1..).zip(CHARACTERS.iter()) {
        bytes[*character as usize] = byte;
    }
    bytes
});

/// The byte that `character` stands for, if it is in the alphabet.
fn byte(character: char) -> Option<u8> {
    let byte = BYTES.get(character as usize)?.checked_sub(1)?;
    u8::try_from(byte).ok()
}

/// Adds the bytes that a piece of the vocabulary stands for. A piece with a character outside the
/// alphabet (never made by BPE, but a vocabulary may hold one) stands for its own UTF-8.
pub(super) fn extend_with_bytes(bytes: &mut Vec<u8>, piece: &str) {
    let start = bytes.len();
    for character in piece.chars() {
        let Some(byte) = byte(character) else {
            bytes.truncate(start);
            bytes.extend_from_slice(piece.as_bytes());
            return;
        };
        bytes.push(byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn bytes(piece: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        extend_with_bytes(&mut bytes, piece);
        bytes
    }

    #[test]
    fn every_byte_has_its_own_visible_character() {
        let distinct: HashSet<char> = characters().iter().copied().collect();
        assert_eq!(distinct.len(), 256);
        assert!(distinct.iter().all(|c| !c.is_whitespace() && !c.is_control()));
        for value in 0..=255u8 {
            assert_eq!(byte(characters()[usize::from(value)]), Some(value));
        }
    }

    #[test]
    fn known_spellings() {
        // byte, its character in GPT-2's table
        for (value, character) in [
            (b' ', 'Ġ'),
            (b'\n', 'Ċ'),
            (0, 'Ā'),
            (0x7F, 'ġ'),
            (0xA0, 'ł'),
            (0xAD, 'Ń'),
            (0xC3, 'Ã'),
        ] {
            assert_eq!(characters()[usize::from(value)], character, "byte {value:#x}");
        }
    }

    #[test]
    fn pieces_outside_the_alphabet_stand_for_themselves() {
        assert_eq!(bytes("Ġafter"), b" after");
        assert_eq!(bytes("Ã©"), "é".as_bytes());
        assert_eq!(bytes("Ä\u{a0}x"), "Ä\u{a0}x".as_bytes());
        assert_eq!(bytes("日本"), "日本".as_bytes());
        assert_eq!(bytes(""), b"");
    }
}
