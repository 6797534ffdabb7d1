"""The small files of a preset, JSON and merge lists. Errors name the file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

# A configuration has a few kilobytes, a vocabulary a few megabytes. Python takes up to sixty times
# the length of a hostile JSON file, so that more would be a way to ask for all memory.
_CONFIG_LIMIT = 2 * 1024 * 1024
_VOCABULARY_LIMIT = 8 * 1024 * 1024


def read_text(path: Path, limit: int | None = None) -> str:
    """The text of a UTF-8 file of at most `limit` bytes, or 2 MiB.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is larger or is not UTF-8.
    """
    limit = _CONFIG_LIMIT if limit is None else limit
    size = path.stat().st_size
    if size > limit:
        raise ValueError(f"`{path}` has {size} bytes; such a file of a preset has at most {limit}.")
    try:
        # The merges of byte-level BPE may hold any character, so line ends stay as they are.
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"`{path}` is not UTF-8 text: {error}.") from error


def read_json(path: Path, limit: int | None = None) -> dict:
    """The JSON object in a file of at most `limit` bytes, or 2 MiB.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no JSON object.
    """
    return parse_json(read_text(path, limit), path)


def parse_json(text: str, path: Path) -> dict:
    """The JSON object in `text`, which was read from `path`. ValueError where it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`{path}` is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"`{path}` must hold a JSON object; it holds a {type(value).__name__}.")
    return value


def shard_names(index: Path) -> list[str]:
    """The files that the index of a sharded checkpoint names, Keras' or Hugging Face's.

    Raises:
        ValueError: it is damaged, or names a file that is not beside it.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"`{index}` has no `weight_map` that names the shards.")
    names: set[str] = set()
    for value in weight_map.values():
        found = value if isinstance(value, list) else [value]
        if not all(isinstance(name, str) and _is_beside(name) for name in found):
            raise ValueError(f"`{index}` must name files beside it. Received: {value!r}.")
        names.update(found)
    return sorted(names)


def shards(index: Path) -> list[Path]:
    """The files themselves. FileNotFoundError where one is missing; else as `shard_names`."""
    names = shard_names(index)
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        shown = ", ".join(missing[:20]) + (f" and {len(missing) - 20} more" if missing[20:] else "")
        raise FileNotFoundError(f"`{index}` names shards that are missing: {shown}.")
    return [index.parent / name for name in names]


def _is_beside(name: str) -> bool:
    """Is this the bare name of a file, by the rules of any system?"""
    return bool(name) and name not in (".", "..") and not set(name) & set("/\\:\0")


def read_vocabulary(path: Path) -> dict[str, int]:
    """A vocabulary file: a JSON object from token to id, ids unique and not negative."""
    vocabulary = read_json(path, _VOCABULARY_LIMIT)
    wrong = [token for token, id in vocabulary.items() if type(id) is not int or id < 0]
    if wrong:
        raise ValueError(
            f"`{path}` must map each token to an id of 0 or more. "
            f"Received: {wrong[0]!r} -> {vocabulary[wrong[0]]!r}."
        )
    if len(set(vocabulary.values())) != len(vocabulary):
        raise ValueError(f"`{path}` gives the same id to two tokens; each needs its own.")
    return vocabulary


def read_merges(path: Path) -> list[str]:
    """A merge file: one rule a line, best first, each two pieces with one space between.

    The `#version` line that Hugging Face writes first is left out.
    """
    lines = [line.removesuffix("\r") for line in read_text(path, _VOCABULARY_LIMIT).split("\n")]
    if lines[0].startswith("#version"):
        lines = lines[1:]
    merges = [line for line in lines if line]
    for merge in merges:
        left, _, right = merge.partition(" ")
        if not left or not right or " " in right:
            raise ValueError(
                f"`{path}` must hold one merge rule a line, two pieces with one space between. "
                f"Received: {merge!r}."
            )
    return merges


def read_tokenizer_json(path: Path) -> tuple[dict[str, int], list[str], list[str], bool]:
    """Vocabulary, merges, added tokens and `add_prefix_space` of Hugging Face's `tokenizer.json`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or describes another tokenizer than byte-level BPE.
    """
    from bart_fast import _core

    try:
        return _core.read_tokenizer_json(str(path))
    except ValueError as error:
        hint = "hint: BART's own tokenizers are byte-level BPE; see docs/formats.md"
        raise ValueError(f"{error}\n{hint}") from error


def read_tokenizer_kind(path: Path) -> tuple[str, str]:
    """The kind of the model of a `tokenizer.json`, `"BPE"` or `"Unigram"`, and the file's text.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or too large.
    """
    from bart_fast import _core

    return _core.read_tokenizer_kind(str(path))


@contextlib.contextmanager
def naming(source: str | Path) -> Iterator[None]:
    """Around what reads a text: a ValueError gets the name of its file, or of the argument."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"`{source}`: {error}") from error


def write_json(path: Path, value: dict, *, indent: int | None = 4) -> None:
    """Write a JSON object, ASCII only, as Keras and Hugging Face do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=indent), encoding="utf-8")


def write_merges(path: Path, merges: list[str], *, header: str = "") -> None:
    """Write one merge rule a line, after `header`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = header + "".join(f"{merge}\n" for merge in merges)
    path.write_bytes(text.encode("utf-8"))
