"""From what a user calls a preset to the directory it is in."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from .keras_weights import SHARD_PATTERN

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_PACKAGE, _HUB = "package://", "hf://"

# Everything a preset may consist of, and nothing else of a repository.
_HUB_FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "task.json",
    "preprocessor.json",
    "tokenizer.json",
    "metadata.json",
    "model.weights.h5",
    "model.weights.json",
    SHARD_PATTERN,
    "assets/tokenizer/*",
]


def built_in_presets() -> dict[str, dict]:
    """The presets with a name: `metadata` and `handle` (where it comes from) of each."""
    from bart_fast.models.bart_presets import backbone_presets

    return backbone_presets


def resolve(preset: str | os.PathLike) -> Path:
    """The directory of a preset; one on the Hugging Face hub is downloaded, or found in its cache.

    In this order: a directory that exists, a built-in name, `hf://user/repo`, `user/repo`.

    Raises:
        TypeError: `preset` is neither text nor a path.
        ValueError: it is none of these.
        NotADirectoryError: it is a file.
        ConnectionError: the hub cannot be reached and the cache does not have it.
        ImportError: `huggingface_hub` is needed and not installed.
    """
    if not isinstance(preset, (str, os.PathLike)):
        raise TypeError(
            f"`preset` must be a name or a directory. Received: {type(preset).__name__}."
        )
    name = os.fspath(preset)
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    if not name or "\0" in name:
        raise ValueError(_unknown(name))
    directory = Path(name).expanduser()
    if directory.is_dir():
        return directory
    if directory.exists():
        raise NotADirectoryError(f"`preset` is a file, not a preset directory: {name}.")
    if isinstance(preset, os.PathLike):
        raise FileNotFoundError(f"`preset`: there is no directory {name}.")
    name = built_in_presets()[name]["handle"] if name in built_in_presets() else name
    if name.startswith(_PACKAGE):
        return Path(__file__).parent / name.removeprefix(_PACKAGE)
    if _HUB_NAME.fullmatch(name.removeprefix(_HUB)):
        return _download(name.removeprefix(_HUB), preset)
    raise ValueError(_unknown(preset))


def _download(repository: str, preset: str) -> Path:
    """The hub's copy of a repository in the local cache, fetched where it is not there yet."""
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError as error:
        raise ImportError(
            f"`preset` {preset!r} is on the Hugging Face hub, which needs the package "
            "`huggingface_hub`.\nhint: pip install huggingface_hub"
        ) from error
    try:
        return Path(snapshot_download(repository, allow_patterns=_HUB_FILES))
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise ValueError(
            f"{_unknown(preset)}\nThe Hugging Face hub has no public repository {repository!r}; a "
            "private one needs `hf auth login`."
        ) from error
    except (OSError, errors.HfHubHTTPError) as error:
        raise ConnectionError(
            f"`preset` {preset!r}: {repository} could not be fetched from the Hugging Face hub: "
            f"{error}\nhint: connect once, or pass a local directory."
        ) from error


def _unknown(preset: str) -> str:
    names = list(built_in_presets())
    close = difflib.get_close_matches(preset, names, n=2)
    message = (
        "`preset` must be one of:\n"
        f"1) a built-in name: {', '.join(names)}\n"
        "2) a Hugging Face repository: 'hf://user/repository' or 'user/repository'\n"
        "3) a directory with a Keras preset or a Hugging Face model: './my_preset'\n"
        f"Received: {preset!r}"
    )
    if close:
        message += f"\nhint: did you mean {' or '.join(repr(name) for name in close)}?"
    return message
