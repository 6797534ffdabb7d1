"""The small files of a preset, JSON and merge lists. Errors name the file."""

from __future__ import annotations

import json
from pathlib import Path

# The largest legitimate file here is a vocabulary of a few megabytes.
_TEXT_LIMIT = 64 * 1024 * 1024


def read_text(path: Path) -> str:
    """The text of a UTF-8 file of at most 64 MiB.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is larger than 64 MiB or is not UTF-8.
    """
    size = path.stat().st_size
    if size > _TEXT_LIMIT:
        raise ValueError(
            f"`{path}` has {size} bytes; a text file of a preset has at most {_TEXT_LIMIT}."
        )
    try:
        # The merges of byte-level BPE may hold any character, so line ends stay as they are.
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"`{path}` is not UTF-8 text: {error}.") from error


def read_json(path: Path) -> dict:
    """The JSON object in a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no JSON object.
    """
    return parse_json(read_text(path), path)


def parse_json(text: str, path: Path) -> dict:
    """The JSON object in `text`, which was read from `path`. ValueError where it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`{path}` is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"`{path}` must hold a JSON object; it holds a {type(value).__name__}.")
    return value


def read_vocabulary(path: Path) -> dict[str, int]:
    """A vocabulary file: a JSON object from token to id, ids unique and not negative."""
    vocabulary = read_json(path)
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
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
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


def write_json(path: Path, value: dict, *, indent: int | None = 4) -> None:
    """Write a JSON object, ASCII only, as Keras and Hugging Face do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=indent), encoding="utf-8")


def write_merges(path: Path, merges: list[str], *, header: str = "") -> None:
    """Write one merge rule a line, after `header`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = header + "".join(f"{merge}\n" for merge in merges)
    path.write_bytes(text.encode("utf-8"))
