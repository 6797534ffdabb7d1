//! Reads a vocabulary (`vocab.json`, `vocabulary.json`) and a merge list (`merges.txt`).

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::{fmt, fs};

use serde::Deserializer;
use serde::de::{MapAccess, Visitor};

use super::bpe::Pieces;
use crate::{Error, Result};

/// Reads a JSON object that maps each piece to its id.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::Format`] when it is no such object.
pub fn read_vocabulary(path: impl AsRef<Path>) -> Result<HashMap<String, u32>> {
    let path = path.as_ref();
    let bytes = fs::read(path).map_err(|source| Error::io(path, source))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::format(path, format!("not a JSON object of piece: id ({error})")))
}

/// The largest vocabulary or merge list that is read; a BART's have a megabyte.
const MAX_BYTES: u64 = 8 << 20;

/// The text of a file of a vocabulary.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Format`] when it is too large or not UTF-8.
pub(super) fn read_text(path: &Path) -> Result<String> {
    let io = |source| Error::io(path, source);
    let mut text = Vec::new();
    let file = fs::File::open(path).map_err(io)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Error::format(path, format!("has more than {MAX_BYTES} bytes")));
    }
    String::from_utf8(text).map_err(|_| Error::format(path, "not UTF-8"))
}

/// [`read_vocabulary`] in the order of the file.
///
/// # Errors
/// As for it, and [`Error::Format`] when the file is too large.
pub(super) fn read_pieces(path: &Path) -> Result<Pieces> {
    /// Takes the entries of an object as they come: no text of a piece is kept twice.
    struct Entries(Pieces);

    impl<'de> Visitor<'de> for Entries {
        type Value = Pieces;

        fn expecting(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
            text.write_str("an object of piece: id")
        }

        fn visit_map<A: MapAccess<'de>>(
            mut self,
            mut map: A,
        ) -> std::result::Result<Pieces, A::Error> {
            while let Some((piece, id)) = map.next_entry::<Cow<'de, str>, u32>()? {
                self.0.insert(&piece, id);
            }
            Ok(self.0)
        }
    }

    let text = read_text(path)?;
    let damaged = |error| Error::format(path, format!("not a JSON object of piece: id ({error})"));
    let mut reader = serde_json::Deserializer::from_str(&text);
    let entries = Entries(Pieces::with_capacity(text.len() / BYTES_PER_ENTRY));
    let pieces = reader.deserialize_map(entries).map_err(damaged)?;
    reader.end().map_err(damaged)?;
    Ok(pieces)
}

/// What an entry of a vocabulary takes in its file, at least as a rule.
const BYTES_PER_ENTRY: usize = 20;

/// Reads a merge list: one merge a line, two pieces with a space between, most important first.
/// A `#version` header and empty lines are skipped.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::Format`] when it is not UTF-8.
pub fn read_merges(path: impl AsRef<Path>) -> Result<Vec<String>> {
    let path = path.as_ref();
    let bytes = fs::read(path).map_err(|source| Error::io(path, source))?;
    let text = String::from_utf8(bytes).map_err(|_| Error::format(path, "not UTF-8"))?;
    let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
    Ok(lines.map(str::to_owned).collect())
}

/// The two pieces of a merge, or `None` for a `#version` header.
///
/// # Errors
/// [`Error::Argument`] for `merges` when the line is not two pieces with one space between.
pub fn parse_merge(line: &str) -> Result<Option<(&str, &str)>> {
    if line.starts_with("#version") {
        return Ok(None);
    }
    match line.split_once(' ') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => {
            Ok(Some((left, right)))
        }
        _ => Err(Error::argument(
            "merges",
            format!(
                "each merge must be two pieces with one space between, such as \"Ġ a\". Received: {line:?}"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_are_two_pieces() {
        assert_eq!(parse_merge("Ġ a").unwrap(), Some(("Ġ", "a")));
        // A no-break space is not the separator.
        assert_eq!(parse_merge("Ä\u{a0} a").unwrap(), Some(("Ä\u{a0}", "a")));
        assert_eq!(parse_merge("#version: 0.2").unwrap(), None);
        assert_eq!(parse_merge("# v").unwrap(), Some(("#", "v")));
        for line in ["", "a", "a b c", " a", "a ", " "] {
            let message = parse_merge(line).unwrap_err().to_string();
            assert!(
                message.contains("`merges`") && message.contains(&format!("{line:?}")),
                "{message}"
            );
        }
    }

    #[test]
    fn files_are_read_or_refused_with_their_name() {
        let folder = std::env::temp_dir().join(format!("bart_fast_text_{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("file");
        fs::write(&path, "{\"a\": 0, \"\\u0120b\": 7}").unwrap();
        let expected = HashMap::from([("a".to_owned(), 0), ("Ġb".to_owned(), 7)]);
        assert_eq!(read_vocabulary(&path).unwrap(), expected);
        for bad in ["", "[]", "{\"a\": -1}", "{\"a\": 1.5}", "{\"a\": 0"] {
            fs::write(&path, bad).unwrap();
            let error = read_vocabulary(&path).unwrap_err();
            assert!(matches!(error, Error::Format { .. }), "{bad}: {error}");
        }
        fs::write(&path, "#version: 0.2\r\nĠ a\r\n\nb c\n").unwrap();
        assert_eq!(read_merges(&path).unwrap(), ["#version: 0.2", "Ġ a", "b c"]);
        fs::write(&path, b"\xff").unwrap();
        assert!(matches!(read_merges(&path).unwrap_err(), Error::Format { .. }));
        fs::remove_dir_all(&folder).unwrap();
        assert!(matches!(read_merges(&path).unwrap_err(), Error::Io { .. }));
        assert!(matches!(read_vocabulary(&path).unwrap_err(), Error::Io { .. }));
    }
}
