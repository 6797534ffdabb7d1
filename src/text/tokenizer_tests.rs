//! Tests of [`super::Tokenizer`].

use super::*;

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn build(vocabulary: &[(&str, u32)], merges: &[&str], special: &[&str]) -> Result<Tokenizer> {
    let vocabulary = vocabulary.iter().map(|&(piece, id)| (piece.to_owned(), id));
    let options = TokenizerOptions { special_tokens: owned(special), add_prefix_space: false };
    Tokenizer::new(vocabulary, &owned(merges), &options)
}

/// Every byte has a piece, in the order of the bytes, from id 3; `<s>`, `<mask>`, `<unk>` before.
fn every_byte(merges: &[&str]) -> Tokenizer {
    let mut vocabulary =
        vec![("<s>".to_owned(), 0), ("<mask>".to_owned(), 1), ("<unk>".to_owned(), 2)];
    let characters = alphabet::characters().iter().zip(3..);
    vocabulary.extend(characters.map(|(character, id)| (character.to_string(), id)));
    let options = TokenizerOptions { special_tokens: owned(&["<s>"]), add_prefix_space: false };
    Tokenizer::new(vocabulary, &owned(merges), &options).unwrap()
}

/// "Ġ a" and "a b" have no piece of their own; the first is passed through on the way to "Ġab".
const GAPS: [(&str, u32); 4] = [("Ġab", 9), ("c", 4), ("b", 7), ("Ġ", 0)];
const GAP_MERGES: [&str; 4] = ["#version: 0.2", "Ġ a", "Ġa b", "c c"];

#[test]
fn pieces_outside_the_vocabulary_are_dropped() {
    let tokenizer = build(&GAPS, &GAP_MERGES, &[]).unwrap();
    let cases: [(&str, &[u32]); 7] = [
        (" ab", &[9]),
        (" abb", &[9, 7]),
        (" a", &[]),      // "Ġa" is ours
        ("abc", &[7, 4]), // "a" is ours
        ("cc", &[]),      // merged into ours, not two of "c"
        ("ccc", &[4]),
        ("", &[]),
    ];
    for (text, ids) in cases {
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}");
    }
    assert_eq!(tokenizer.vocabulary_size(), 4);
    assert_eq!(tokenizer.token_to_id("Ġa"), None);
    assert_eq!(tokenizer.id_to_token(10), None);
    assert_eq!(tokenizer.id_to_token(9), Some("Ġab"));
}

#[test]
fn pieces_outside_the_vocabulary_become_unknown() {
    let mut vocabulary = GAPS.to_vec();
    vocabulary.push(("<unk>", 3));
    let tokenizer = build(&vocabulary, &GAP_MERGES, &[]).unwrap();
    let cases: [(&str, &[u32]); 5] = [
        (" a", &[3]),
        ("abc", &[3, 7, 4]),
        ("ccc", &[3, 4]),
        ("é", &[3, 3]), // two bytes
        ("b<unk>b", &[7, 3, 7]),
    ];
    for (text, ids) in cases {
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}");
    }
}

#[test]
fn special_tokens_stay_whole() {
    let tokenizer = every_byte(&[]);
    let id = |byte: u8| u32::from(byte) + 3;
    let (a, space, line) = (id(b'a'), id(b' '), id(b'\n'));
    let cases: [(&str, &[u32]); 8] = [
        ("<s>", &[0]),
        ("a<s>a", &[a, 0, a]),
        ("a <s> a", &[a, space, 0, space, a]),
        ("a<mask>a", &[a, 1, a]),
        ("a <mask> a", &[a, 1, space, a]), // takes the space before it
        ("a \n<mask>\n", &[a, 1, line]),
        ("<s> <mask>", &[0, 1]),
        ("<unk><S>", &[2, id(b'<'), id(b'S'), id(b'>')]),
    ];
    for (text, ids) in cases {
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}");
    }
    assert_eq!(tokenizer.decode(&[0, a, 1, 2], &[]).unwrap(), "<s>a<mask><unk>");
    assert_eq!(tokenizer.decode(&[0, a, 1, 2], &[0, 2]).unwrap(), "a<mask>");
}

#[test]
fn a_prefix_space_joins_the_first_word() {
    let vocabulary = [("a", 0), ("Ġa", 1), ("Ġ", 2), ("<s>", 3)];
    let vocabulary = vocabulary.map(|(piece, id)| (piece.to_owned(), id));
    let options = TokenizerOptions { special_tokens: owned(&["<s>"]), add_prefix_space: true };
    let tokenizer = Tokenizer::new(vocabulary, &owned(&["Ġ a"]), &options).unwrap();
    for (text, ids) in [("a a", &[1, 1][..]), (" a", &[1]), ("<s>a", &[3, 1]), ("", &[])] {
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}");
    }
}

#[test]
fn every_text_comes_back() {
    let tokenizer = every_byte(&[]);
    for text in
        ["", "a b", "naïve – 日本語\u{1F600}", "\0\u{7f}\u{ad}\u{a0}\u{10ffff}", "  \r\n\t x "]
    {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(ids.len(), text.len(), "{text:?}");
        assert_eq!(tokenizer.decode(&ids, &[]).unwrap(), text);
    }
}

#[test]
fn broken_utf8_is_replaced() {
    let tokenizer = every_byte(&[]);
    let ids: Vec<u32> = "é".bytes().map(|byte| u32::from(byte) + 3).collect();
    assert_eq!(tokenizer.decode(&ids[..1], &[]).unwrap(), "\u{FFFD}");
    assert_eq!(tokenizer.decode(&[ids[1], ids[0], ids[1]], &[]).unwrap(), "\u{FFFD}é");
}

#[test]
fn a_batch_is_its_texts_alone() {
    let tokenizer = every_byte(&["h e", "l l", "he ll"]);
    let texts: Vec<String> =
        (0..50).map(|i| "hello hell <mask>".repeat(i * 10 + usize::from(i == 7) * 9000)).collect();
    let alone: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
    assert!(texts.iter().map(String::len).sum::<usize>() > 4 * BYTES_PER_THREAD);
    for threads in [0, 1, 2, 3, 4, 100] {
        assert!(tokenizer.encode_batch(&texts, threads).unwrap() == alone, "{threads} threads");
    }
    assert!(tokenizer.encode_batch::<&str>(&[], 4).unwrap().is_empty());
}

#[test]
fn a_word_without_end_takes_no_quadratic_time() {
    let tokenizer = every_byte(&["a a", "aa aa"]);
    let ids = tokenizer.encode(&"a".repeat(1_000_000)).unwrap();
    // "aa" and "aaaa" are ours, so whole quadruples become one unknown each.
    assert_eq!(ids, vec![2; 250_000]);
}

/// Vocabulary, merges, special tokens, and what the message must hold.
type Refusal = (
    &'static [(&'static str, u32)],
    &'static [&'static str],
    &'static [&'static str],
    &'static [&'static str],
);

#[test]
fn refusals_name_the_argument_and_the_value() {
    let cases: [Refusal; 4] = [
        (&[("a", 1), ("b", 1)], &[], &[], &["`vocabulary`", "\"a\" and \"b\"", "id 1"]),
        (&[("a", u32::MAX)], &[], &[], &["`vocabulary`", "\"a\"", "4294967295", "2147483647"]),
        (&[("a", 1)], &["a"], &[], &["`merges`", "\"a\"", "one space"]),
        (&[("a", 1)], &[], &["a", "<s>", "</s>"], &["`special_tokens`", "[\"<s>\", \"</s>\"]"]),
    ];
    for (vocabulary, merges, special, parts) in cases {
        let message = build(vocabulary, merges, special).err().expect("refused").to_string();
        for part in parts {
            assert!(message.contains(part), "{part} not in {message}");
        }
    }
    let tokenizer = build(&GAPS, &[], &[]).unwrap();
    for id in [1, 10, u32::MAX] {
        let message = tokenizer.decode(&[9, id], &[]).unwrap_err().to_string();
        assert_eq!(
            message,
            format!("`ids`: {id} is not in the vocabulary (4 pieces, largest id 9)")
        );
    }
}
